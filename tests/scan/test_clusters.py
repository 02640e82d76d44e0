"""Scans on schedulers and workers that are processes of their own, while they come, go and die."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path

import cluster_helpers
import distributed
import psutil
import pytest
from cluster_helpers import (
    Processes,
    command,
    dask_processes,
    free_port,
    scan_arguments,
    tasks_of,
    wait_until,
)
from scan_helpers import assert_identical

from hlmm_scan.errors import InfrastructureError, InputError
from hlmm_scan.null import host_cache
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import completion, executors, run
from hlmm_scan.scan.clusters import RunningScheduler
from hlmm_scan.scan.executors import DaskExecutor
from hlmm_scan.scan.state import scan_state


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A scheduler with two workers, which the tests must leave as they were."""
    with dask_processes(tmp_path_factory.mktemp("running") / "dask") as processes:
        processes.scheduler()
        for _ in range(2):
            processes.worker()
        yield processes


@pytest.fixture
def own(tmp_path):
    """Dask processes that a test may kill."""
    with dask_processes(tmp_path / "dask") as processes:
        yield processes


def on(processes: Processes) -> DaskExecutor:
    return DaskExecutor(cluster=RunningScheduler(processes.address))


def done(path: Path) -> int:
    return scan_state(ResultStore.open(path)).partitions_done if path.exists() else 0


def test_a_running_cluster_gives_the_serial_result_and_forgets_the_scan(
    bench, running, tmp_path, monkeypatch
):
    """Random effects, which the workers of a host share while the scan lasts."""
    config = bench.config(tmp_path / "r", "hlmm", workers=None, scheduler=running.address)
    run.scan(config)
    assert_identical(tmp_path / "r", bench.reference("hlmm"))
    folder = host_cache._folder(make=False)
    assert not list(folder.glob("*.npy"))
    with distributed.Client(running.address) as client:
        left = client.run(lambda dask_worker: [n for n in dask_worker.plugins if "hlmm" in n])
        assert list(left.values()) == [[], []]
        kept = client.run(_kept_arrays)
        assert list(kept.values()) == [0, 0]


def _kept_arrays() -> int:
    from hlmm_scan.null import host_cache

    return len(host_cache._arrays)


def test_nobody_at_the_address_is_one_line_and_exit_code_4(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("hlmm_scan.scan.clusters.SECONDS_TO_CONNECT", 0.5)
    address = f"127.0.0.1:{free_port()}"
    config = bench.config(tmp_path / "r", workers=None, scheduler=address)
    with pytest.raises(InfrastructureError, match=f"no scheduler answers at tcp://{address}") as e:
        run.scan(config)
    assert e.value.exit_code == 4
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "what listens there says nothing"),
        (b"", "what listens there hangs up"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "what listens there is something else"),
    ],
)
def test_something_else_at_the_address_is_told(monkeypatch, said, words):
    """As a web server, which waits to be asked: Dask's client would wait for its greeting."""
    monkeypatch.setattr("hlmm_scan.scan.clusters.SECONDS_TO_CONNECT", 1.0)
    held = []

    def answer() -> None:
        connection, _ = server.accept()
        held.append(connection)
        if said is not None:
            connection.sendall(said)
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InfrastructureError, match=f"no scheduler answers at {address}") as e:
            RunningScheduler(address).client().__enter__()
        thread.join()
    assert words in str(e.value)
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    ("moved", "words"),
    [("genotypes", "genotypes.zarr"), ("store", "r.zarr"), ("version", "install the same version")],
)
def test_workers_that_lack_something_are_named_before_the_first_task(
    bench, running, tmp_path, monkeypatch, moved, words
):
    store = run.prepare(bench.config(tmp_path / "r.zarr"))
    (task,) = tasks_of(store, 1)
    if moved == "version":
        from hlmm_scan.scan import worker_setup

        monkeypatch.setattr(worker_setup, "__version__", "9.9")
    else:
        gone = {"genotypes": ("/gone/genotypes.zarr",), "store": "/gone/r.zarr"}[moved]
        task = replace(task, **{moved: gone})
    with pytest.raises(InputError, match=words) as caught:
        list(on(running).run([task]))
    assert "the worker on " in str(caught.value)
    with distributed.Client(running.address) as client:
        statuses = client.run(lambda dask_worker: dask_worker.status.name)
        assert list(statuses.values()) == ["running", "running"]


def test_a_killed_worker_costs_its_tasks_only(bench, own, tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "run_partition", cluster_helpers.slowly)
    own.scheduler()
    with_nanny, without = own.worker(), own.worker("--no-nanny")
    store = run.prepare(bench.config(tmp_path / "r"))

    def kill() -> None:
        wait_until(lambda: done(store.path) >= 4)
        (worker,) = psutil.Process(with_nanny.pid).children()[-1:]
        worker.kill()  # its nanny starts another
        wait_until(lambda: done(store.path) >= 8)
        without.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    run.run(store, on(own))
    killer.join()
    completion.finalise(store)
    assert_identical(tmp_path / "r", bench.reference("hlm"))


def test_a_lost_scheduler_is_one_line_and_the_scan_goes_on_elsewhere(bench, own, tmp_path):
    scheduler = own.scheduler()
    own.worker()
    path = tmp_path / "r"
    config = bench.config(path, workers=None)
    store = run.prepare(config)
    process = command(*scan_arguments(config), "--scheduler", own.address)
    wait_until(lambda: done(path) >= 1 or process.poll() is not None)
    scheduler.kill()
    _, err = process.communicate(timeout=300)
    if process.returncode == 0:
        pytest.fail("the scan was over before the scheduler was killed")
    assert process.returncode == 4, err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("hlmm-scan: lost touch with the cluster at tcp://127.0.0.1:")
    assert 1 <= done(path) < scan_state(store).partitions
    bench.scan(path)
    assert_identical(path, bench.reference("hlm"))


def test_workers_may_come_late_and_the_tasks_in_flight_are_few(
    bench, own, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(executors, "SECONDS_BETWEEN_COUNTS", 0.1)
    own.scheduler()
    store = run.prepare(bench.config(tmp_path / "r"))
    drawn, finished, most = 0, 0, 0

    def tasks():
        nonlocal drawn, most
        for task in tasks_of(store):
            drawn += 1
            most = max(most, drawn - finished)
            yield task

    starter = threading.Timer(2.0, own.worker)
    starter.start()
    with caplog.at_level(logging.WARNING, "hlmm_scan"):
        for _ in on(own).run(tasks()):
            finished += 1
    starter.join()
    assert drawn == finished == 18
    assert most <= executors.LEAST_IN_FLIGHT + 1
    assert "has no workers now; waiting for one" in caplog.text
    assert caplog.text.count("no workers") == 1


def test_a_late_worker_that_cannot_serve_gets_no_tasks(bench, own, tmp_path, monkeypatch, caplog):
    """It sees an empty folder where the store is."""
    monkeypatch.setattr(executors, "run_partition", cluster_helpers.slowly)
    monkeypatch.setattr(executors, "SECONDS_BETWEEN_COUNTS", 0.1)
    if os.geteuid() != 0:
        pytest.skip("needs root, for a mount of its own")
    own.scheduler()
    own.worker()
    store = run.prepare(bench.config(tmp_path / "r"))
    hide = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {store.path}; exec "$@"', "sh")
    blind = None
    records = []
    for record in on(own).run(tasks_of(store)):
        records.append(record)
        if blind is None:
            blind = own.start(
                *("worker", own.address, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1"),
                "--no-dashboard",
                before=hide,
            )
    assert len(records) == 18
    assert not any(record.failed for record in records)


def test_a_stopped_scan_leaves_somebody_elses_workers_as_they_were(bench, running, tmp_path):
    path = tmp_path / "r"
    config = bench.config(path, workers=None)
    run.prepare(config)
    process = command(*scan_arguments(config), "--scheduler", running.address)
    wait_until(lambda: done(path) >= 1 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode in (0, 130), err  # 0 where it was over before
    assert "Traceback" not in err
    with distributed.Client(running.address) as client:
        wait_until(lambda: not any(client.processing().values()))
        assert len(client.nthreads()) == 2
