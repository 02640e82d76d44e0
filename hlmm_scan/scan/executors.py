"""Where tasks run: in this process, or on a Dask cluster of this machine.

An executor only decides where; what is run is always :func:`~hlmm_scan.scan.task.run_partition`.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing import resource_tracker
from typing import Protocol

from hlmm_scan.errors import HlmmScanError, InfrastructureError
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.scan.task import PartitionTask, run_partition

TASKS_IN_FLIGHT_PER_WORKER = 3
"""Enough that no worker idles while the client refills; few enough that memory stays flat."""


class Executor(Protocol):
    """Runs tasks, in any order, and yields each one's record when it is done."""

    def run(self, tasks: Iterable[PartitionTask]) -> Generator[PartitionRecord, None, None]:
        """Yield the record of every task; `tasks` is drawn from as room appears."""
        ...


class SerialExecutor:
    """One task after the other in this process; needs no cluster."""

    def run(self, tasks: Iterable[PartitionTask]) -> Generator[PartitionRecord, None, None]:
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

    def run(self, tasks: Iterable[PartitionTask]) -> Generator[PartitionRecord, None, None]:
        """Yield records as tasks finish; at most a few tasks per worker are in flight.

        Raises
        ------
        HlmmScanError
            If a task says that no other would fare better.
        InfrastructureError
            If workers or the scheduler were lost for good.
        """
        try:
            yield from self._run(tasks)
        except (OSError, RuntimeError) as error:  # Dask's time-outs and lost connections
            raise InfrastructureError(
                f"the embedded cluster failed ({error}); run the same command again"
            ) from error

    def _run(self, tasks: Iterable[PartitionTask]) -> Generator[PartitionRecord, None, None]:
        # Imported here: a serial scan, and every other command, starts without Dask.
        import dask
        from distributed import Client, LocalCluster, as_completed
        from distributed.scheduler import KilledWorker

        # What fails is told by the futures; the rest is chatter, some of it after the end.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        settings = {
            # The nanny gives these to its worker before Python starts, except where the user's
            # shell exports its own; pin_threads has the last word.
            "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREAD_VARIABLES, "1"),
            "distributed.scheduler.allowed-failures": 10,
            "distributed.comm.timeouts.connect": "60s",
        }
        remaining = iter(tasks)
        with dask.config.set(settings), ExitStack() as stack:
            with _interrupts_held_back():
                cluster = LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    # Any free port: the default one is taken as soon as two scans run at once.
                    dashboard_address="127.0.0.1:0",
                    # Dask counts mapped pages as memory and would pause or kill healthy workers.
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,  # in the workers
                )
                client = stack.enter_context(Client(stack.enter_context(cluster)))
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


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C, which reaches the whole process group, from threads and processes made here.

    It is for the main thread to act on; one that arrives meanwhile is delivered at the end.
    """
    # Started with the first process, the tracker would let signals through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_executor(workers: int) -> Executor:
    """Return the executor for that many workers: one worker needs no cluster."""
    return SerialExecutor() if workers == 1 else DaskExecutor(workers)
