"""The model of a cluster: what must hold whatever the times are, and cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.results.records import PartitionRecord, Standing
from hlmm_scan.scan import run
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.prediction import (
    FEW_RECORDED,
    Cluster,
    Workload,
    forecast,
    predict,
)

IDEAL = {"start_seconds": 0.0, "dispatch_seconds": 0.0, "journal_seconds": 0.0}


def random_case(seed: int) -> tuple[Workload, Cluster]:
    rng = np.random.default_rng(seed)
    load = Workload(
        tasks=int(rng.integers(1, 400)),
        task_seconds=float(rng.uniform(0.01, 5)),
        spread=float(rng.choice([0.0, 0.2, 2.0])),
        read_bytes=float(rng.choice([0.0, 1e6, 1e9])),
        shared_bytes=float(rng.choice([0.0, 1e9])),
        prepare_seconds=float(rng.choice([0.0, 30.0])),
    )
    cluster = Cluster(
        workers=int(rng.integers(1, 60)),
        workers_per_host=int(rng.integers(1, 20)),
        dispatch_seconds=float(rng.choice([0.0, 2e-3, 0.1])),
    )
    return load, cluster


def plan_of(n_phenotypes: int = 2) -> Plan:
    return Plan.of(
        phenotypes=tuple(f"p{k}" for k in range(n_phenotypes)),
        people=(4000,) * n_phenotypes,
        n_variants=10_000,
        partition_variants=100,
        genotypes=(),
        parameters={},
        chunk_variants=100,
        model=ModelSize(4000, 1, 1, 0),
        n_genotyped=4000,
    )


@pytest.mark.parametrize("seed", range(60))
def test_seconds_of_workers_add_up_and_no_work_is_lost(seed):
    load, cluster = random_case(seed)
    found = predict(load, cluster)
    assert sum(found.parts.values()) == pytest.approx(found.seconds)
    assert min(found.parts.values()) >= 0
    work = load.tasks * load.task_seconds
    assert load.durations().sum() == pytest.approx(work)
    assert found.parts["compute"] * cluster.workers == pytest.approx(work)
    assert found.core_hours * 3600 >= work
    assert 0 < found.efficiency <= 1


@pytest.mark.parametrize("seed", range(60))
def test_never_faster_than_what_any_resource_needs_nor_slower_than_all_in_turn(seed):
    load, cluster = random_case(seed)
    found = predict(load, cluster)
    start = load.prepare_seconds + cluster.start_seconds
    compute = load.durations()
    reading = load.tasks * load.read_bytes / cluster.storage_bytes_per_second
    shared = cluster.hosts * load.shared_bytes / cluster.storage_bytes_per_second
    client = load.tasks * (cluster.dispatch_seconds + cluster.journal_seconds)
    for least in (compute.sum() / cluster.workers, compute.max(), reading, client):
        assert found.seconds >= start + least - 1e-6
    in_turn = compute.sum() / cluster.workers + compute.max() + reading + shared + client
    assert found.seconds <= start + in_turn + 1e-6


@pytest.mark.parametrize("seed", range(60))
def test_more_workers_are_never_slower_beyond_their_start(seed):
    load, few = random_case(seed)
    many = replace(few, workers=few.workers + 1 + seed % 7)
    hosts = (many.hosts - few.hosts) * load.shared_bytes / few.storage_bytes_per_second
    assert predict(load, many).seconds <= predict(load, few).seconds + hosts + 1e-6


def test_cases_worked_out_by_hand():
    load = Workload(tasks=10, task_seconds=3.0, spread=0.0, read_bytes=0.0, shared_bytes=0.0)
    assert predict(load, Cluster(1, **IDEAL)).seconds == pytest.approx(30)
    four = predict(load, Cluster(4, **IDEAL))
    assert four.seconds == pytest.approx(9)  # three rounds, the last of two tasks
    assert four.parts["last tasks"] == pytest.approx((2 * 3) / 4)
    assert predict(load, Cluster(4, cores=2, **IDEAL)).seconds == pytest.approx(18)
    assert predict(replace(load, tasks=0), Cluster(4, **IDEAL)).seconds == 0


@pytest.mark.parametrize(
    ("load", "cluster", "bottleneck"),
    [
        ({}, {}, "compute"),
        ({"read_bytes": 1e9}, {"workers": 100}, "storage"),
        ({"task_seconds": 0.01}, {"workers": 100, "dispatch_seconds": 0.01}, "scheduler"),
        ({"tasks": 20}, {"workers": 20, "start_seconds": 60.0}, "start-up"),
        ({"tasks": 1}, {"workers": 10, "start_seconds": 1.0}, "last tasks"),
    ],
)
def test_the_bottleneck_is_where_the_time_goes(load, cluster, bottleneck):
    usual = Workload(tasks=2000, task_seconds=2.0, spread=0.2, read_bytes=1e6, shared_bytes=0.0)
    assert predict(replace(usual, **load), Cluster(**{"workers": 4, **cluster})).bottleneck == (
        bottleneck
    )


def test_recorded_times_take_the_place_of_the_plans_once_they_are_a_few():
    plan = plan_of()
    records = [
        PartitionRecord(k, "c" * 24, {"ok": 100}, 10.0, 10.0 + 4 + 2 * (k % 2))
        for k in range(2 * FEW_RECORDED)
    ]
    few = Workload.of(plan, Standing(plan.n_partitions, records[: FEW_RECORDED - 1]))
    assert few.task_seconds == Workload.of(plan).task_seconds
    assert few.tasks == plan.n_partitions - FEW_RECORDED + 1
    many = Workload.of(plan, Standing(plan.n_partitions, records))
    assert (many.tasks, many.task_seconds) == (plan.n_partitions - len(records), 5.0)
    assert many.spread == pytest.approx(1 / 5)


def test_the_forecast_is_of_the_plan_and_in_units_that_suit():
    plan = replace(plan_of(), task_seconds=360.0)
    for workers, words in (
        (0, "20.0 h on 1 worker (rough), mostly compute"),
        (10, "2.0 h on 10 workers (rough), mostly compute"),
        (100, "17 min on 100 workers (rough), mostly compute"),
    ):
        lines = forecast(plan, workers).splitlines()
        figures = {line[:19].strip(): line[19:] for line in lines}
        assert lines[: len(plan.summary(workers).splitlines())] == (
            plan.summary(workers).splitlines()
        )
        hours, *rest = figures["estimated time"].split(" ", 1)
        wanted, *others = words.split(" ", 1)
        assert rest == others
        assert float(hours) == pytest.approx(float(wanted), rel=0.15)  # the last tasks
        assert float(figures["core hours"].replace(",", "")) >= 20.0


def test_a_dry_run_on_many_workers_is_of_other_machines_and_of_what_is_left(bench, tmp_path):
    config = bench.config(tmp_path / "r", workers=200)
    words = run.dry_run(config)
    assert "on 200 workers" in words
    assert not (tmp_path / "r").exists()
    bench.scan(tmp_path / "r")
    assert "core hours         0.2" in run.dry_run(config)  # 200 workers start, and that is it
