"""Where tasks run: what a cluster's failures become, and what reaches its workers."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import cluster_helpers
import distributed
import pytest
from cluster_helpers import VICTIM, tasks_of

from hlmm_scan.errors import InfrastructureError, InputError
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import executors, run
from hlmm_scan.scan.cluster_file import worker_bytes
from hlmm_scan.scan.clusters import EmbeddedCluster, RunningScheduler
from hlmm_scan.scan.executors import DaskExecutor, SerialExecutor, available_cores, make_executor
from hlmm_scan.scan.plan import Plan


@pytest.fixture
def store(bench, tmp_path) -> ResultStore:
    """Prepared, with 18 partitions."""
    return run.prepare(bench.config(tmp_path / "prepared.zarr"))


@pytest.fixture
def run_with(store, monkeypatch):
    """Run the first tasks of the store with another task function, on two workers."""

    def run_them(function, count: int = 8, worker_bytes: int = 0) -> list[PartitionRecord]:
        monkeypatch.setattr(executors, "run_partition", function)
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
        executor = DaskExecutor(workers=2, worker_bytes=worker_bytes)
        return list(executor.run(tasks_of(store, count)))

    return run_them


def test_the_executor_is_the_one_asked_for(bench, store, tmp_path):
    plan = Plan.from_json(store.plan)
    config = bench.config(tmp_path / "r", workers=None)
    assert isinstance(make_executor(config, plan, 1), SerialExecutor)
    embedded = make_executor(config, plan, 3)
    assert isinstance(embedded, DaskExecutor)
    assert isinstance(embedded.cluster, EmbeddedCluster)
    assert embedded.cluster.most_workers == 3
    assert embedded.worker_bytes == worker_bytes(plan) >= plan.task_bytes + (256 << 20)
    assert embedded.dashboard_link == ""
    limited = make_executor(replace(config, memory_limit="9GB"), plan, 3)
    assert limited.worker_bytes == 3 * 10**9 - plan.shared_bytes // 3
    elsewhere = make_executor(replace(config, scheduler="somewhere:8786"), plan, 0)
    assert isinstance(elsewhere.cluster, RunningScheduler)
    assert elsewhere.cluster.address == "tcp://somewhere:8786"
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_no_tasks_need_no_cluster(monkeypatch):
    monkeypatch.setattr(distributed, "LocalCluster", None)
    assert list(DaskExecutor(workers=2).run([])) == []


def test_workers_are_other_processes_of_one_thread_and_deaf_to_ctrl_c(run_with, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")  # as a user's shell may
    records = run_with(cluster_helpers.report_process, count=18)
    assert sorted(r.partition for r in records) == list(range(18))
    for record in records:
        process, seen = record.error.split(maxsplit=1)
        assert int(process) != os.getpid()
        assert seen == "{1} True"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_error_that_concerns_every_task_stops_the_run_as_it_is(run_with):
    with pytest.raises(InputError, match="the genotype dataset changed"):
        run_with(cluster_helpers.fail_for_all)


def test_a_bug_in_a_worker_is_reported_and_not_waited_for(run_with):
    with pytest.raises(InfrastructureError, match="surprise"):
        run_with(cluster_helpers.bug)


def test_tasks_that_always_end_their_worker_are_quarantined_and_no_others(run_with, caplog):
    """One ends it by itself, the other takes too much memory."""
    with caplog.at_level(logging.WARNING, "hlmm_scan"):
        records = run_with(cluster_helpers.victims_die_or_grow, count=12, worker_bytes=700 << 20)
    assert sorted(r.partition for r in records) == list(range(12))
    failed = [r for r in records if r.failed]
    assert sorted(r.partition for r in failed) == [VICTIM, VICTIM + 1]
    assert all("took its worker down 2 times, with no other task" in r.error for r in failed)
    assert f"partition {VICTIM} was on 2 workers that died" in caplog.text
    assert "MiB of memory of its own, and its limit is 700 MiB" in caplog.text


def test_where_every_task_ends_its_worker_the_run_ends(run_with, monkeypatch):
    monkeypatch.setattr(executors, "MOST_SUSPECTS", 1)
    with pytest.raises(InfrastructureError, match="again and again") as caught:
        run_with(cluster_helpers.die)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("error", [TimeoutError("too slow"), RuntimeError("nanny failed")])
def test_a_cluster_that_does_not_start_is_lost_infrastructure(store, monkeypatch, error):
    def start(**_: object) -> None:
        raise error

    monkeypatch.setattr(distributed, "LocalCluster", start)
    with pytest.raises(InfrastructureError, match=str(error)) as caught:
        list(DaskExecutor(workers=2).run(tasks_of(store)))
    assert caught.value.exit_code == 4


def test_a_lost_cluster_is_told_apart_from_a_full_disk(store, monkeypatch):
    def start(**_: object) -> None:
        raise TimeoutError("too slow")

    monkeypatch.setattr(distributed, "LocalCluster", start)
    with pytest.raises(InfrastructureError, match="embedded cluster failed"):
        run.run(store, DaskExecutor(workers=2))
    assert not list(ResultStore.open(store.path).ledger.directory.glob("*.journal"))


@pytest.mark.parametrize("address", ["somewhere", "http://x:1", "tcp://:8786", "tcp://x:port", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="is not an address as tcp://host:8786"):
        RunningScheduler(address)
