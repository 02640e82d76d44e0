"""The plan: every test exactly once, whole genotype chunks, plain data."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_scan.errors import InputError
from hlmm_scan.kernels.block import work_bytes
from hlmm_scan.scan.plan import (
    LEAST_PARTITIONS,
    MAX_TASK_BYTES,
    Plan,
    differing,
    partition_size,
)

SIZES = {"n_people": 1000, "n_mean": 1, "n_variance": 1, "n_random": 0}


def plan_of(n_variants: int, partition_variants: int, n_phenotypes: int, **sizes: int) -> Plan:
    return Plan.of(
        phenotypes=tuple(f"p{k}" for k in range(n_phenotypes)),
        people=(1000,) * n_phenotypes,
        n_variants=n_variants,
        partition_variants=partition_variants,
        genotypes="/somewhere/genotypes.zarr",
        parameters={"min_maf": 0.01, "loco": False, "phenotype": ["p0"], "random_effects": None},
        **{**SIZES, **sizes},
    )


@given(st.integers(1, 300), st.integers(1, 400), st.integers(1, 5))
def test_partitions_cover_every_variant_of_every_phenotype_once(n_variants, size, n_phenotypes):
    plan = plan_of(n_variants, size, n_phenotypes)
    covered: Counter[tuple[int, int]] = Counter()
    for index, partition in enumerate(plan.partitions()):
        assert partition.index == index
        assert partition.start % size == 0
        assert partition.stop in (partition.start + size, n_variants)
        covered.update((partition.phenotype, v) for v in range(partition.start, partition.stop))
    assert covered == Counter({(p, v): 1 for p in range(n_phenotypes) for v in range(n_variants)})
    assert len(list(plan.partitions())) == plan.n_partitions
    assert covered.total() == plan.n_tests


@given(st.integers(1, 300), st.integers(1, 400), st.integers(1, 5))
def test_a_plan_is_json_and_comes_back(n_variants, size, n_phenotypes):
    plan = plan_of(n_variants, size, n_phenotypes)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_there_is_no_partition_beyond_the_last():
    plan = plan_of(10, 4, 2)
    assert plan.n_partitions == 6
    for index in (-1, 6):
        with pytest.raises(IndexError):
            plan.partition(index)


def test_phenotypes_of_one_block_of_genotypes_are_neighbours():
    plan = plan_of(10, 4, 3)
    assert [plan.partition(i).phenotype for i in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [plan.partition(i).start for i in range(6)] == [0, 0, 0, 4, 4, 4]


@given(
    chunk=st.integers(1, 5000),
    n_variants=st.integers(1, 10**7),
    n_phenotypes=st.integers(1, 30),
    n_people=st.integers(10, 500_000),
    n_mean=st.integers(1, 40),
    n_random=st.sampled_from([0, 0, 300]),
)
def test_a_partition_is_whole_genotype_chunks_and_fits(
    chunk, n_variants, n_phenotypes, n_people, n_mean, n_random
):
    sizes = {"n_people": n_people, "n_mean": n_mean, "n_variance": 1, "n_random": n_random}
    size = partition_size(
        chunk_variants=chunk, n_variants=n_variants, n_phenotypes=n_phenotypes, **sizes
    )
    assert size % chunk == 0
    assert chunk <= size < n_variants + chunk
    least = work_bytes(chunk, n_people, n_mean, 1, n_random)
    assert work_bytes(size, n_people, n_mean, 1, n_random) <= max(MAX_TASK_BYTES, least)


def test_a_small_scan_is_still_cut_for_many_workers():
    size = partition_size(chunk_variants=64, n_variants=64 * 64, n_phenotypes=1, **SIZES)
    assert 64 * 64 / size == LEAST_PARTITIONS


def test_a_wanted_size_is_taken_where_it_is_whole_chunks():
    sizes = {"chunk_variants": 8, "n_variants": 100, "n_phenotypes": 1, **SIZES}
    assert partition_size(wanted=24, **sizes) == 24
    assert partition_size(wanted=800, **sizes) == 800
    for wanted in (1, 7, 20):
        with pytest.raises(InputError, match=f"partition_variants {wanted} is not a multiple"):
            partition_size(wanted=wanted, **sizes)


def test_the_summary_says_what_will_be_done():
    summary = plan_of(2500, 1000, 2).summary(workers=4)
    assert "5,000 (2,500 variants × 2 phenotypes)" in summary
    assert "6 of 1,000 variants" in summary
    assert "p0 1,000, p1 1,000" in summary
    lines = dict(line.split(None, 1) for line in summary.splitlines())
    assert lines["workers"] == "4"


def test_the_estimate_of_time_is_for_all_workers_and_in_a_unit_that_suits():
    plan = replace(plan_of(10_000, 100, 1), task_seconds=360.0)
    for workers, estimate in ((1, "10.0 h"), (10, "60 min"), (1000, "36 s"), (10**6, "1 s")):
        assert plan.summary(workers).endswith(f"estimated time     {estimate} (rough)")


def test_differing_parameters_are_named_with_both_values():
    stored = {"same": 1, "min_maf": 0.01, "gone": [1], "genotypes": "sha256:" + 60 * "a"}
    wanted = {"same": 1, "min_maf": 0.05, "genotypes": "sha256:" + 60 * "b", "new": "x"}
    assert differing(stored, wanted) == [
        "genotypes: stored sha256:aaaaa…, now sha256:bbbbb…",
        "gone: stored [1], now nothing",
        "min_maf: stored 0.01, now 0.05",
        "new: stored nothing, now x",
    ]
    assert differing(stored, dict(stored)) == []
