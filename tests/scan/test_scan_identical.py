"""A result depends on its inputs alone: not on workers, order, interruptions or chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scan_helpers import ShuffledExecutor, assert_identical, contents

from hlmm_scan.results.store import ResultStore, group_name
from hlmm_scan.scan import plan, run
from hlmm_scan.scan.executors import DaskExecutor
from hlmm_scan.scan.state import scan_state, verify

KINDS = ("hlm", "joint", "hlmm", "seed")
N_VARIANTS = 72


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_stopped_half_way_and_resumed_changes_no_bit(bench, tmp_path, kind):
    config = bench.config(tmp_path / "r", kind)
    half = scan_state(ResultStore.open(bench.reference(kind))).partitions // 2
    first, second = ShuffledExecutor(seed=1, stop_after=half), ShuffledExecutor(seed=2)
    with pytest.raises(KeyboardInterrupt):
        run.scan(config, executor=first)
    state = scan_state(ResultStore.open(tmp_path / "r"))
    assert (state.partitions_done, state.complete) == (half, False)
    run.scan(config, executor=second)
    assert first.ran != sorted(first.ran)
    assert sorted(first.ran + second.ran) == list(range(state.partitions))
    assert_identical(tmp_path / "r", bench.reference(kind))


@pytest.mark.parametrize("kind", ["joint", "hlmm"])
def test_two_dask_workers_change_no_bit(bench, tmp_path, kind):
    store = bench.scan(tmp_path / "r", kind, DaskExecutor(workers=2))
    assert_identical(store, bench.reference(kind))
    assert verify(ResultStore.open(store)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_phenotype_alone_is_as_beside_others(bench, tmp_path, kind):
    together = ResultStore.open(bench.reference(kind))
    for position, name in enumerate(together.phenotypes):
        # The partitions differ as well, as they do when the plan chooses them.
        alone = ResultStore.open(
            bench.scan(tmp_path / f"r{position}", kind, phenotype=(name,), partition_variants=24)
        )
        assert alone.array("status").chunks != together.array("status").chunks
        beside = together.read_partition(position, 0, N_VARIANTS)
        for variable, values in alone.read_partition(0, 0, N_VARIANTS).items():
            assert values.tobytes() == beside[variable].tobytes(), (name, variable)
        prefix = f"null/{group_name(name)}"
        here, there = (
            {key: value for key, value in contents(store.path).items() if key.startswith(prefix)}
            for store in (alone, together)
        )
        assert len(here) > 5
        assert here == there


@pytest.mark.parametrize("executor", [None, DaskExecutor(workers=2)], ids=["serial", "Dask"])
@pytest.mark.parametrize("more", [{}, {"sandwich": True, "likelihood_ratio": True}])
def test_phenotypes_that_share_genotypes_are_as_each_alone(
    bench, tmp_path, monkeypatch, more, executor
):
    apart = ResultStore.open(bench.scan(tmp_path / "apart", "hlm", **more))
    monkeypatch.setattr(plan, "LEAST_PARTITIONS", 3)
    store = ResultStore.open(bench.scan(tmp_path / "r", "hlm", executor, **more))
    assert (apart.plan["together"], store.plan["together"]) == (1, 3)
    for position in range(len(store.phenotypes)):
        alone = apart.read_partition(position, 0, N_VARIANTS)
        for variable, values in store.read_partition(position, 0, N_VARIANTS).items():
            assert values.tobytes() == alone[variable].tobytes(), (position, variable)
    state = scan_state(store)
    assert state.tests_done == state.tests == 3 * N_VARIANTS
    assert state.slowest[0].phenotype == f"{store.phenotypes[0]} to {store.phenotypes[-1]}"
    assert verify(store) == []
    chunk = store.path / "var" / "c" / "2" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert verify(ResultStore.open(store.path)) == [0]


def scan_in_chunks(bench, path: Path, kind: str, chunk: int) -> dict[str, np.ndarray]:
    size = min(chunk, N_VARIANTS)
    store = ResultStore.open(
        bench.scan(path, kind, chunk=chunk, partition_variants=size, phenotype=("trait1",))
    )
    assert store.array("status").chunks == (1, size)
    return store.read_partition(0, 0, N_VARIANTS)


CHUNKS = (1, 7, 64, 1000)


def test_chunk_sizes_change_no_bit_where_class_sums_decide(bench, tmp_path):
    first, *others = (scan_in_chunks(bench, tmp_path / f"r{c}", "hlm", c) for c in CHUNKS)
    assert np.isfinite(first["add"]).sum() > 50
    for other in others:
        for name, values in first.items():
            assert values.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("kind", ["joint", "hlmm"])
def test_chunk_sizes_change_nothing_beyond_rounding_where_blas_decides(bench, tmp_path, kind):
    first, *others = (scan_in_chunks(bench, tmp_path / f"r{c}", kind, c) for c in CHUNKS)
    assert np.isfinite(first["add"]).sum() > 50
    for other in others:
        for name in ("n", "status", "effect_allele_frequency"):
            assert first[name].tobytes() == other[name].tobytes()
        for name in ("add", "var"):
            difference = np.abs(first[name] - other[name]) / first[f"{name}_se"]
            assert np.nanmax(difference) < 1e-10
            np.testing.assert_allclose(first[f"{name}_se"], other[f"{name}_se"], rtol=1e-10)
