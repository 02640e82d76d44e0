"""The process that embedded workers are forked from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import forkserver

import psutil
import pytest
from cluster_helpers import wait_until

from hlmm_scan.scan import fork_server
from hlmm_scan.scan.clusters import EmbeddedCluster

pytestmark = pytest.mark.skipif(
    fork_server.METHOD != "forkserver", reason="workers are not forked on this system"
)


def server() -> psutil.Process:
    return psutil.Process(forkserver._forkserver._forkserver_pid)  # no public name


def about_me() -> dict[str, object]:
    return {
        "parent": os.getppid(),
        "environment": dict(os.environ),
        "deaf": signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "imported": "hlmm_scan.scan.worker_setup" in sys.modules,
    }


def test_all_workers_come_from_one_server_with_the_environment_of_now(monkeypatch):
    monkeypatch.setenv("HLMM_SCAN_FOR_TESTS", "before")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    fork_server.start()
    assert dict(os.environ) == before
    first = server()
    monkeypatch.setenv("HLMM_SCAN_FOR_TESTS", "now")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with EmbeddedCluster(2).client() as client:
        told = client.run(about_me)
    assert len(told) == 2
    for worker in told.values():
        assert worker["parent"] == first.pid == server().pid
        assert worker["environment"]["HLMM_SCAN_FOR_TESTS"] == "now"
        assert worker["environment"]["MKL_NUM_THREADS"] == "1"
        assert worker["environment"]["OMP_NUM_THREADS"] == "3"  # whoever exports it means it
        assert worker["deaf"]
        assert worker["imported"]
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_the_server_has_one_thread_and_imports_all_that_workers_need():
    """A fork copies no other thread, nor lets go of what that had locked."""
    fork_server.start()
    with EmbeddedCluster(1).client() as client:
        (worker,) = client.run(about_me).values()
        assert worker["imported"]
        assert server().num_threads() == 1


def test_the_server_is_deaf_to_what_reaches_the_whole_group():
    fork_server.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        server().send_signal(number)
    with EmbeddedCluster(1).client() as client:
        assert len(client.run(about_me)) == 1
        assert server().is_running()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_server_that_was_killed_is_started_again():
    fork_server.start()
    gone = server()
    gone.kill()
    wait_until(lambda: gone.status() == psutil.STATUS_ZOMBIE)
    with EmbeddedCluster(1).client() as client:
        assert len(client.run(about_me)) == 1
    assert server().pid != gone.pid


SOON_OVER = """
from hlmm_scan.scan import fork_server
fork_server.start()
from multiprocessing import forkserver
print(forkserver._forkserver._forkserver_pid)
"""


def test_it_ends_with_whoever_started_it():
    done = subprocess.run(
        [sys.executable, "-c", SOON_OVER], stdout=subprocess.PIPE, text=True, check=True
    )
    wait_until(lambda: not psutil.pid_exists(int(done.stdout)))


def test_to_start_it_imports_nothing_heavy():
    script = (
        "import sys; from hlmm_scan.scan import fork_server; fork_server.start(); "
        "print(sorted({'numpy', 'dask', 'distributed', 'numba', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
