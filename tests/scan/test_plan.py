"""The plan: every test exactly once, whole genotype chunks, plain data."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_scan.errors import InputError
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.cost import task_bytes, task_seconds
from hlmm_scan.scan.plan import (
    BLOCKS_IN_A_ROW,
    LEAST_PARTITIONS,
    MAX_TASK_BYTES,
    MOST_TIMES_TARGET,
    MOST_TOGETHER,
    TARGET_SECONDS,
    VARIANT_BYTES,
    Plan,
    differing,
    partition_size,
    phenotypes_together,
)

SIZES = {"model": ModelSize(1000, 1, 1, 0), "n_genotyped": 1200}


def plan_of(n_variants: int, partition_variants: int, n_phenotypes: int, **sizes: Any) -> Plan:
    return Plan.of(
        phenotypes=tuple(f"p{k}" for k in range(n_phenotypes)),
        people=(1000,) * n_phenotypes,
        n_variants=n_variants,
        partition_variants=partition_variants,
        genotypes=("/somewhere/genotypes.zarr",),
        parameters={"min_maf": 0.01, "loco": False, "phenotype": ["p0"], "random_effects": None},
        **{**SIZES, "chunk_variants": 100, **sizes},
    )


@given(st.integers(1, 300), st.integers(1, 400), st.integers(1, 9), st.integers(1, 9))
def test_partitions_cover_every_variant_of_every_phenotype_once(
    n_variants, size, n_phenotypes, together
):
    plan = plan_of(n_variants, size, n_phenotypes, together=together)
    covered: Counter[tuple[int, int]] = Counter()
    for index, partition in enumerate(plan.partitions()):
        assert partition.index == index
        assert partition.start % size == 0
        assert partition.stop in (partition.start + size, n_variants)
        tests = itertools.product(partition.phenotypes, range(partition.start, partition.stop))
        before = covered.total()
        covered.update(tests)
        assert plan.tests_before(index) == before
        assert partition.n_tests == plan.tests_by_partition()[index] == covered.total() - before
    assert plan.tests_before(plan.n_partitions) == plan.n_tests
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


@given(st.integers(1, 400), st.integers(1, 4), st.data())
def test_the_working_order_changes_the_phenotype_seldom_and_leaves_nothing_out(
    n_blocks, n_phenotypes, data
):
    plan = plan_of(n_blocks * 10, 10, n_phenotypes)
    indices = st.integers(0, plan.n_partitions - 1)
    wanted = np.array(sorted(data.draw(st.sets(indices, max_size=40))), dtype=np.intp)
    assert sorted(plan.in_working_order(wanted).tolist()) == wanted.tolist()
    everything = plan.in_working_order(np.arange(plan.n_partitions))
    partitions = [plan.partition(index) for index in everything.tolist()]
    changes = sum(a.phenotypes != b.phenotypes for a, b in itertools.pairwise(partitions))
    assert changes <= -(-n_blocks // BLOCKS_IN_A_ROW) * n_phenotypes - 1
    for phenotype in range(n_phenotypes):
        starts = [p.start for p in partitions if phenotype in p.phenotypes]
        assert starts == sorted(starts)


def test_phenotypes_of_one_block_of_genotypes_are_neighbours():
    plan = plan_of(10, 4, 3)
    assert [plan.partition(i).phenotypes[0] for i in range(6)] == [0, 1, 2, 0, 1, 2]
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
    model = ModelSize(n_people, n_mean, 1, n_random)
    size = partition_size(
        chunk_variants=chunk,
        n_variants=n_variants,
        n_phenotypes=n_phenotypes,
        model=model,
        n_genotyped=n_people,
    )
    assert size % chunk == 0
    assert chunk <= size < n_variants + chunk
    fixed = task_bytes(model, chunk)
    results = max(chunk * VARIANT_BYTES, MAX_TASK_BYTES // 8)
    assert fixed + size * VARIANT_BYTES <= max(MAX_TASK_BYTES, fixed + results)


@given(
    chunk=st.integers(1, 5000),
    n_variants=st.integers(1, 10**7),
    n_phenotypes=st.integers(1, 100),
    n_people=st.integers(1000, 500_000),
)
def test_phenotypes_share_genotypes_in_even_groups_that_leave_enough_partitions(
    chunk, n_variants, n_phenotypes, n_people
):
    model = ModelSize(n_people, 1, 1, 0)
    sizes = {"chunk_variants": chunk, "n_variants": n_variants, "n_phenotypes": n_phenotypes}
    together = phenotypes_together(model=model, **sizes)
    assert 1 <= together <= min(MOST_TOGETHER, n_phenotypes)
    groups = -(-n_phenotypes // together)
    assert together == 1 or -(-n_variants // chunk) * groups >= LEAST_PARTITIONS
    assert groups * together - n_phenotypes < groups
    size = partition_size(model=model, n_genotyped=n_people, together=together, **sizes)
    assert size % chunk == 0
    assert (
        size == chunk or task_seconds(model, size, together) <= MOST_TIMES_TARGET * TARGET_SECONDS
    )
    fixed = task_bytes(model, chunk, n_people, together)
    results = max(chunk * VARIANT_BYTES * together, MAX_TASK_BYTES // 8)
    assert fixed + size * VARIANT_BYTES * together <= max(MAX_TASK_BYTES, fixed + results)


def test_only_where_reading_prevails_do_phenotypes_share_genotypes():
    sizes = {"chunk_variants": 100, "n_variants": 10**6, "n_phenotypes": 20}
    assert phenotypes_together(model=ModelSize(10_000, 1, 1, 0), **sizes) == 7  # 3 groups
    for model in (
        ModelSize(10_000, 2, 1, 0),
        ModelSize(10_000, 1, 1, 50),
        ModelSize(10_000, 1, 1, 0, dosages=True),
    ):
        assert phenotypes_together(model=model, **sizes) == 1


def test_a_small_scan_is_still_cut_for_many_workers():
    size = partition_size(chunk_variants=64, n_variants=64 * 64, n_phenotypes=1, **SIZES)
    assert 64 * 64 / size == LEAST_PARTITIONS


def test_tasks_of_very_many_people_take_their_seconds_too():
    model = ModelSize(500_000, 21, 21, 0, screen=True)
    assert task_bytes(model, 67, 500_000) > MAX_TASK_BYTES // 2
    size = partition_size(
        chunk_variants=67, n_variants=10**7, n_phenotypes=20, model=model, n_genotyped=500_000
    )
    assert 0.8 * TARGET_SECONDS < task_seconds(model, size) <= TARGET_SECONDS


def test_a_wanted_size_is_taken_where_it_is_whole_chunks():
    sizes = {"chunk_variants": 8, "n_variants": 100, "n_phenotypes": 1, **SIZES}
    assert partition_size(wanted=24, **sizes) == 24
    assert partition_size(wanted=800, **sizes) == 800
    for wanted in (1, 7, 20):
        with pytest.raises(InputError, match=f"partition_variants {wanted} is not a multiple"):
            partition_size(wanted=wanted, **sizes)


def test_a_partition_of_many_chunks_holds_the_codes_of_one():
    one, ten = plan_of(10_000, 100, 1), plan_of(10_000, 1000, 1)
    assert ten.task_bytes - one.task_bytes == 900 * VARIANT_BYTES
    assert plan_of(10_000, 1000, 1, chunk_variants=1000).task_bytes > ten.task_bytes + 300 * 900
    many_genotyped = plan_of(10_000, 100, 1, n_genotyped=1_000_000)
    assert many_genotyped.task_bytes - one.task_bytes > 100 * 1_000_000 // 4
    assert many_genotyped.shared_bytes == one.shared_bytes == 0


def test_random_effects_are_counted_once_and_not_in_every_task():
    lines = plan_of(1000, 100, 1, model=ModelSize(20_000, 1, 1, 500)).summary(2).splitlines()
    figures = {line[:19].strip(): line[19:] for line in lines}
    shared = (12 * 20_000 * 500 + 16 * 500**2) / 2**20
    assert figures["shared memory"] == f"{shared:,.0f} MiB"
    full_rank = plan_of(1000, 100, 1, model=ModelSize(2000, 1, 1, 100_000))
    assert full_rank.shared_bytes == 2 * 12 * 2000**2


def test_the_summary_says_what_will_be_done():
    summary = plan_of(2500, 1000, 2).summary(workers=4)
    assert "5,000 (2,500 variants × 2 phenotypes)" in summary
    assert "6 of 1,000 variants" in summary
    assert "p0 1,000, p1 1,000" in summary
    lines = dict(line.split(None, 1) for line in summary.splitlines())
    assert lines["workers"] == "4"


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
