"""Where tasks run: in this process, or on a Dask cluster of this machine.

An executor only decides where; what is run is always :func:`~hlmm_scan.scan.task.run_partition`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

from hlmm_scan.errors import HlmmScanError, InfrastructureError
from hlmm_scan.results.ledger import PartitionRecord
from hlmm_scan.scan.task import PartitionTask, run_partition

logger = logging.getLogger(__name__)

TASKS_IN_FLIGHT_PER_WORKER = 3
"""Enough that no worker idles while the client refills; few enough that memory stays flat."""


class Executor(Protocol):
    """Runs tasks, in any order, and yields each one's record when it is done."""

    def run(self, tasks: Iterable[PartitionTask]) -> Iterator[PartitionRecord]:
        """Yield the record of every task; `tasks` is drawn from as room appears."""
        ...


class SerialExecutor:
    """One task after the other in this process; needs no cluster."""

    def run(self, tasks: Iterable[PartitionTask]) -> Iterator[PartitionRecord]:
        """Yield the record of every task, in order."""
        return (run_partition(task) for task in tasks)


class DaskExecutor:
    """A Dask cluster embedded in this process: one worker process a core, loopback only.

    Parameters
    ----------
    workers : int
        Worker processes, one thread each.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, tasks: Iterable[PartitionTask]) -> Iterator[PartitionRecord]:
        """Yield records as tasks finish; at most a few tasks per worker are in flight.

        Raises
        ------
        HlmmScanError
            If a task says that no other would fare better.
        InfrastructureError
            If workers or the scheduler were lost for good.
        """
        # Imported here: a serial scan, and every other command, starts without Dask.
        import dask
        from distributed import Client, LocalCluster, as_completed
        from distributed.scheduler import KilledWorker

        settings = {
            # The nanny gives these to its worker before Python starts; what a user's shell
            # exports would otherwise win.
            "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREAD_VARIABLES, "1"),
            "distributed.nanny.environ": dict.fromkeys(_THREAD_VARIABLES, "1"),
            "distributed.scheduler.allowed-failures": 10,
            "distributed.comm.timeouts.connect": "60s",
        }
        remaining = iter(tasks)
        with (
            dask.config.set(settings),
            _quiet_distributed(),
            LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                # Any free port: the default one is taken as soon as two scans run at once.
                dashboard_address="127.0.0.1:0",
                # Dask counts mapped pages as memory and would pause or kill healthy workers.
                memory_limit=0,
            ) as cluster,
            Client(cluster) as client,
        ):
            window = list(islice(remaining, TASKS_IN_FLIGHT_PER_WORKER * self.workers))
            futures = client.map(run_partition, window, pure=False)
            finished = as_completed(futures, with_results=True, raise_errors=False)
            for batch in finished.batches():
                for future, result in batch:
                    if future.status == "finished":
                        yield result
                        continue
                    error = future.exception() if future.status == "error" else None
                    if isinstance(error, HlmmScanError):
                        raise error
                    if isinstance(error, KilledWorker):
                        raise InfrastructureError(
                            "a task took its worker down again and again (out of memory?); "
                            "run the same command again with fewer --workers"
                        )
                    raise InfrastructureError(
                        f"lost touch with the cluster ({error or future.status}); run the same "
                        "command again"
                    )
                refill = list(islice(remaining, len(batch)))
                if refill:
                    finished.update(client.map(run_partition, refill, pure=False))


_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class _quiet_distributed:
    """Keep Dask's own chatter on start and stop out of the user's log."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("distributed")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_executor(workers: int) -> Executor:
    """Return the executor for that many workers: one worker needs no cluster."""
    return SerialExecutor() if workers == 1 else DaskExecutor(workers)
