"""Dask schedulers and workers as processes of their own, and tasks that misbehave on them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.task import PartitionTask, run_partition

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

VICTIM = 5
"""The partition that the misbehaving tasks below misbehave on."""


def tasks_of(store: ResultStore, count: int | None = None) -> Iterator[PartitionTask]:
    """The first tasks of a prepared store."""
    plan = Plan.from_json(store.plan)
    return run._tasks(store, plan, range(plan.n_partitions)[:count])


# Stand-ins for run_partition: importable, as a worker's must be -----------------------------


def report_process(task: PartitionTask) -> PartitionRecord:
    pools = {pool["num_threads"] for pool in threadpool_info()}
    deaf = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return PartitionRecord(task.partition.index, error=f"{os.getpid()} {pools} {deaf}")


def fail_for_all(task: PartitionTask) -> PartitionRecord:
    raise InputError("the genotype dataset changed")


def bug(task: PartitionTask) -> PartitionRecord:
    raise KeyError("surprise")


def die(task: PartitionTask) -> PartitionRecord:
    os._exit(9)


def victims_die_or_grow(task: PartitionTask) -> PartitionRecord:
    if task.partition.index == VICTIM:
        os._exit(9)
    if task.partition.index == VICTIM + 1:
        hoard = []
        for _ in range(200):
            hoard.append(np.ones(1 << 21))  # 16 MiB
            time.sleep(0.01)
    return run_partition(task)


def slowly(task: PartitionTask) -> PartitionRecord:
    time.sleep(0.15)
    return run_partition(task)


# Processes ----------------------------------------------------------------------------------


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as listening:
        return int(listening.getsockname()[1])


class Processes:
    """Dask processes on loopback, ended with their context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.scheduler_process: subprocess.Popen[bytes] | None = None
        self.started: list[subprocess.Popen[bytes]] = []

    def start(
        self, *arguments: str, before: tuple[str, ...] = (), python: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command of Dask by this Python with our sources, or by another as it is."""
        sources = {} if python else {"PYTHONPATH": f"{ROOT}:{HERE}"}
        with (self.folder / f"dask-{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [*before, python or sys.executable, "-m", "dask", *arguments],
                cwd=self.folder,
                env={**os.environ, **sources},
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # a nanny and its worker end together
            )
        self.started.append(process)
        return process

    def scheduler(self) -> subprocess.Popen[bytes]:
        host, _, port = self.address.removeprefix("tcp://").rpartition(":")
        self.scheduler_process = self.start(
            *("scheduler", "--host", host, "--port", port),
            *("--no-dashboard", "--dashboard-address", f"{host}:0"),
            *("--idle-timeout", "300s"),  # where the tests themselves are killed
        )
        wait_until(lambda: answers(host, int(port)))
        return self.scheduler_process

    def worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self.start(
            *("worker", self.address, "--nthreads", "1", "--memory-limit", "0"),
            *("--host", "127.0.0.1", "--no-dashboard", "--death-timeout", "30", *arguments),
        )

    def end(self) -> None:
        for process in reversed(self.started):
            kill_group(process)
        for process in self.started:
            process.wait(10)

    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("dask-*.log")))


@contextmanager
def dask_processes(folder: Path) -> Iterator[Processes]:
    folder.mkdir()
    processes = Processes(folder)
    try:
        yield processes
    finally:
        processes.end()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# The command line ---------------------------------------------------------------------------


def scan_arguments(config: ScanConfig) -> list[str]:
    return [
        *("scan", "--genotypes", str(config.genotypes[0]), "--phenotypes", str(config.phenotypes)),
        *("-o", str(config.output)),
    ]


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hlmm_scan", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
