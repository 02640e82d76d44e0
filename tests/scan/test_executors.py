"""Where tasks run: what a cluster's failures become, and what reaches its workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed
import pytest
from threadpoolctl import threadpool_info

from hlmm_scan.errors import InfrastructureError, InputError
from hlmm_scan.kernels.block import FitOptions
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import executors, run
from hlmm_scan.scan.executors import DaskExecutor, SerialExecutor, available_cores, make_executor
from hlmm_scan.scan.plan import Partition
from hlmm_scan.scan.task import PartitionTask, pin_threads


def tasks(count: int) -> Iterator[PartitionTask]:
    for index in range(count):
        yield PartitionTask(
            store="", genotypes="", run_id="", genotype_fingerprint="", phenotype="",
            partition=Partition(index, 0, index, index + 1), options=FitOptions(),
        )  # fmt: skip


# Stand-ins for run_partition: importable, as a worker's must be.


def report_process(task: PartitionTask) -> PartitionRecord:
    pin_threads()
    pools = {pool["num_threads"] for pool in threadpool_info()}
    deaf = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return PartitionRecord(task.partition.index, error=f"{os.getpid()} {pools} {deaf}")


def fail_for_all(task: PartitionTask) -> PartitionRecord:
    raise InputError("the genotype dataset changed")


def die(task: PartitionTask) -> PartitionRecord:
    os._exit(9)


def bug(task: PartitionTask) -> PartitionRecord:
    raise KeyError("surprise")


def run_with(monkeypatch, function, count: int = 8) -> list[PartitionRecord]:
    monkeypatch.setattr(executors, "run_partition", function)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return list(DaskExecutor(workers=2).run(tasks(count)))


def test_one_worker_needs_no_cluster():
    assert isinstance(make_executor(1), SerialExecutor)
    assert make_executor(3).workers == 3
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_workers_are_other_processes_of_one_thread_and_deaf_to_ctrl_c(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")  # as a user's shell may
    records = run_with(monkeypatch, report_process, count=20)
    assert sorted(r.partition for r in records) == list(range(20))
    for record in records:
        process, seen = record.error.split(maxsplit=1)
        assert int(process) != os.getpid()
        assert seen == "{1} True"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_error_that_concerns_every_task_stops_the_run_as_it_is(monkeypatch):
    with pytest.raises(InputError, match="the genotype dataset changed"):
        run_with(monkeypatch, fail_for_all)


def test_a_bug_in_a_worker_is_reported_and_not_waited_for(monkeypatch):
    with pytest.raises(InfrastructureError, match="surprise"):
        run_with(monkeypatch, bug)


def test_a_task_that_takes_its_worker_down_again_and_again_ends_the_run(monkeypatch):
    real = dask.config.set

    def less_patient(settings=None, **others):
        key = "distributed.scheduler.allowed-failures"
        return real({**settings, key: 1} if settings and key in settings else settings, **others)

    monkeypatch.setattr(dask.config, "set", less_patient)
    with pytest.raises(InfrastructureError, match="again and again") as caught:
        run_with(monkeypatch, die, count=1)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("error", [TimeoutError("too slow"), RuntimeError("nanny failed")])
def test_a_cluster_that_does_not_start_is_lost_infrastructure(monkeypatch, error):
    def start(**_: object) -> None:
        raise error

    monkeypatch.setattr(distributed, "LocalCluster", start)
    with pytest.raises(InfrastructureError, match=str(error)) as caught:
        list(DaskExecutor(workers=2).run(tasks(1)))
    assert caught.value.exit_code == 4


def test_a_lost_cluster_is_told_apart_from_a_full_disk(bench, tmp_path, monkeypatch):
    store = run.prepare(bench.config(tmp_path / "r"))

    def start(**_: object) -> None:
        raise TimeoutError("too slow")

    monkeypatch.setattr(distributed, "LocalCluster", start)
    with pytest.raises(InfrastructureError, match="embedded cluster failed"):
        run.run(store, DaskExecutor(workers=2))
    assert not list(ResultStore.open(store.path).ledger.directory.glob("*.journal"))
