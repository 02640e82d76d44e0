"""What stands in for a task on workers, which import it by name; and how processes are watched."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from threadpoolctl import threadpool_info

from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.scan.executors import Executor
from hlmm_scan.scan.task import PartitionTask, run_partition

FOLDER = "ENGINE_THREADS"
"""Environment variable: folder that `observed` leaves its observations in."""


def nothing(task: PartitionTask) -> PartitionRecord:
    """Do nothing, and say what a task that did something would."""
    now, partition = time.time(), task.partition
    checksum, statuses = f"{partition.index:024x}", {"ok": partition.n_tests}
    return PartitionRecord(partition.index, checksum, statuses, now, now, worker="nobody")


def observed(task: PartitionTask) -> PartitionRecord:
    """Run a task as ever, then leave what threads did in this process since its first task."""
    before = _at_first_task()
    record = run_partition(task)
    seen = {
        "pools": sorted({pool["num_threads"] for pool in threadpool_info()}),
        "thread_seconds": [
            seconds - before.get(thread, 0.0) for thread, seconds in thread_seconds().items()
        ],
    }
    (Path(os.environ[FOLDER]) / f"{os.getpid()}.json").write_text(json.dumps(seen))
    return record


def thread_seconds() -> dict[str, float]:
    """Return how long every thread of this process has computed, by its number."""
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        stat.parent.name: sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) / ticks
        for stat in Path("/proc/self/task").glob("*/stat")
    }


_at_first_task = lru_cache(maxsize=1)(thread_seconds)
"""Before it, libraries were loaded."""


class Timed:
    """An executor that notes when its first record came, and its last."""

    dashboard_link = ""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.begun = self.first = self.last = 0.0

    def run(self, tasks: Iterable[PartitionTask]) -> Iterator[PartitionRecord]:
        self.begun = time.perf_counter()
        for record in self.executor.run(tasks):
            self.last = time.perf_counter()
            self.first = self.first or self.last
            yield record


class Sampler:
    """Calls something again and again while its block runs, in a thread of its own."""

    def __init__(self, look: Callable[[], object], seconds: float = 0.2) -> None:
        self._look, self._seconds = look, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()


def resident() -> int:
    """Bytes of memory of this process."""
    return int(psutil.Process().memory_info().rss)
