"""Where tasks run: in this process, or on a Dask cluster.

An executor only decides where; what is run is always :func:`~hlmm_scan.scan.task.run_partition`.
"""

# distributed is typed in part only.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any, Protocol

from dask.utils import parse_bytes

from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import HlmmScanError, InfrastructureError, InputError
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.scan.cluster_file import read_cluster_file, worker_bytes
from hlmm_scan.scan.clusters import Cluster, EmbeddedCluster, RunningScheduler
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.task import PartitionTask, run_partition

logger = logging.getLogger(__name__)

TASKS_IN_FLIGHT_PER_WORKER = 3
"""Enough that no worker idles while the client refills; few enough that memory stays flat."""

LEAST_IN_FLIGHT = 6
"""While there are no workers, or one: an adaptive cluster starts workers for what it sees."""

MOST_SUSPECTS = 20
"""Tasks whose workers died again and again; where there are more, the tasks are not to blame."""

LEAST_HEADROOM = 1.5
"""Memory a worker may take over the plan's estimate, however little the user grants."""

SECONDS_BETWEEN_COUNTS = 1.0
SECONDS_BETWEEN_WARNINGS = 60.0


class Executor(Protocol):
    """Runs tasks, in any order, and yields each one's record when it is done.

    Attributes
    ----------
    dashboard_link : str
        Address of a page that shows the work, while it runs; empty where there is none.
    """

    dashboard_link: str

    def run(self, tasks: Iterable[PartitionTask]) -> Generator[PartitionRecord, None, None]:
        """Yield the record of every task; `tasks` is drawn from as room appears."""
        ...


class SerialExecutor:
    """One task after the other in this process; needs no cluster."""

    dashboard_link = ""

    def run(self, tasks: Iterable[PartitionTask]) -> Generator[PartitionRecord, None, None]:
        """Yield the record of every task, in order."""
        return (run_partition(task) for task in tasks)


class DaskExecutor:
    """Tasks on a Dask cluster, a bounded number of them at a time.

    Parameters
    ----------
    workers : int, default 1
        Of a cluster embedded in this process, where no other is given.
    cluster : Cluster, optional
    worker_bytes : int, default 0
        Memory of its own that a worker may take, in bytes; 0 for any.

    Attributes
    ----------
    dashboard_link : str
        Of Dask's dashboard, once connected and where there is one.
    """

    def __init__(
        self, workers: int = 1, cluster: Cluster | None = None, worker_bytes: int = 0
    ) -> None:
        self.cluster = cluster or EmbeddedCluster(workers)
        self.worker_bytes = worker_bytes
        self.dashboard_link = ""

    def run(self, tasks: Iterable[PartitionTask]) -> Generator[PartitionRecord, None, None]:
        """Yield records as tasks finish; at most a few tasks per worker are in flight.

        A task whose worker died again and again waits until all others are done and is then tried
        with nothing beside it, so that a death condemns no task but the one that died of it. If it
        ends its workers then too, its record is a failed one.

        Raises
        ------
        HlmmScanError
            If a task says that no other would fare better, or workers cannot serve.
        InfrastructureError
            If workers or the scheduler were lost for good.
        """
        remaining = iter(tasks)
        first = next(remaining, None)
        if first is None:
            return
        _silence_dask()
        try:
            with self.cluster.client() as client:
                self.dashboard_link = _dashboard_link(client)
                if self.dashboard_link:
                    logger.info("Dask's dashboard: %s", self.dashboard_link)
                with _WorkersSetUp(client, first, self.cluster, self.worker_bytes) as workers:
                    yield from _run(workers, chain([first], remaining))
        except (OSError, RuntimeError) as error:  # Dask's time-outs and lost connections
            raise InfrastructureError(
                f"{self.cluster.name} failed ({error}); run the same command again"
            ) from error


def _run(
    workers: _WorkersSetUp, tasks: Iterator[PartitionTask]
) -> Generator[PartitionRecord, None, None]:
    from distributed.scheduler import KilledWorker

    suspects = []
    for task, outcome in _outcomes(workers, tasks):
        if not isinstance(outcome, KilledWorker):
            yield outcome
            continue
        suspects.append(task)
        if len(suspects) > MOST_SUSPECTS:
            raise InfrastructureError(
                f"{len(suspects)} tasks took their workers down again and again (out of memory?); "
                "run the same command again with more memory for each worker"
            )
        logger.warning(
            "partition %d was on %d workers that died; it is tried alone after the others",
            task.partition.index,
            outcome.allowed_failures + 1,
        )
    for suspect in suspects:
        for task, outcome in _outcomes(workers, iter([suspect])):
            killed = isinstance(outcome, KilledWorker)
            yield _quarantined(task, outcome.allowed_failures + 1) if killed else outcome


def _quarantined(task: PartitionTask, deaths: int) -> PartitionRecord:
    now = time.time()
    return PartitionRecord(
        task.partition.index,
        started=now,
        finished=now,
        error=f"took its worker down {deaths} times, with no other task beside it (out of memory?)",
    )


def _outcomes(
    workers: _WorkersSetUp, tasks: Iterator[PartitionTask]
) -> Iterator[tuple[PartitionTask, Any]]:
    """Yield every task with its record, or with the error that says that its workers died."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    client = workers.client
    running: dict[str, tuple[PartitionTask, Any]] = {}  # with its future, by the future's key
    withdrawn: set[str] = set()
    finished = as_completed([], loop=client.loop, with_results=True, raise_errors=False)
    while True:
        window = list(islice(tasks, max(0, workers.room() - len(running))))
        if window:
            futures = client.map(run_partition, window, pure=False)
            for task, future in zip(window, futures, strict=True):
                running[future.key] = task, future
            finished.update(futures)
        stuck = [running[key][1] for key in workers.stuck() if key in running]
        if stuck:
            withdrawn.update(future.key for future in stuck)
            client.cancel(stuck)
        if not running:
            return
        for future, result in _wait(finished):
            task, _ = running.pop(future.key)
            if future.status == "finished":
                yield task, result
                continue
            if future.key in withdrawn:
                tasks = chain([task], tasks)
                continue
            error = result[1] if future.status == "error" else None
            if isinstance(error, HlmmScanError):
                raise error
            if isinstance(error, KilledWorker):
                yield task, error
                continue
            raise InfrastructureError(
                f"lost touch with {workers.name} ({error or future.status}); what is done is kept, "
                "run the same command again"
            )


def _wait(finished: Any) -> list[Any]:
    """Return what has finished, after a second at most: meanwhile workers may have come."""
    with finished.thread_condition:
        if not finished.has_ready():
            finished.thread_condition.wait(SECONDS_BETWEEN_COUNTS)
    batch: list[Any] = finished.next_batch(block=False)
    return batch


class _WorkersSetUp:
    """The workers of a cluster, made fit for a scan within this context, and how many they are."""

    def __init__(
        self, client: Any, task: PartitionTask, cluster: Cluster, worker_bytes: int
    ) -> None:
        from hlmm_scan.scan.worker_setup import WorkerSetup

        self.client, self.name, self._most = client, cluster.name, cluster.most_workers
        self._setup = WorkerSetup(task, worker_bytes)
        self._refused: dict[str, str] = {}
        self._heard: list[str] = []
        self._threads = 0
        self._counted = self._warned = -1e9

    def __enter__(self) -> _WorkersSetUp:
        self.client.subscribe_topic(self._setup.topic, self._hear)
        try:
            self.client.register_plugin(self._setup)
        except BaseException as error:
            self.__exit__()
            # What a worker cannot even load arrives as a bare Exception with the words of its own.
            loading = type(error) is Exception or isinstance(error, ImportError | AttributeError)
            if not loading:
                raise
            raise InputError(
                f"the workers of {self.name} cannot load hlmm-scan ({error}); install the version "
                "there that runs here"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        # Where the scheduler is gone there is nobody to tell, nor anything to drop.
        with suppress(Exception):
            if self.client.status == "running":
                self.client.unregister_worker_plugin(self._setup.name)

    def room(self) -> int:
        """Return how many tasks may be in flight now.

        Raises
        ------
        InputError
            If there are workers, but all of them were refused.
        """
        now = time.monotonic()
        if now - self._counted >= SECONDS_BETWEEN_COUNTS and self.client.status == "running":
            self._counted = now
            with suppress(TimeoutError):  # a busy scheduler: as many as before
                self._count(self.client.sync(self.client.scheduler.ncores, callback_timeout="5s"))
        return max(LEAST_IN_FLIGHT, TASKS_IN_FLIGHT_PER_WORKER * max(self._threads, self._most))

    def stuck(self) -> list[str]:
        """Return, once, the keys of tasks at workers that were refused: they got them as they came.

        A refused worker is paused before it is heard of, so that it gets no more.
        """
        keys: list[str] = []
        while self._heard:
            with suppress(KeyError):  # it is gone, and its tasks are elsewhere
                keys += chain.from_iterable(self.client.processing([self._heard.pop()]).values())
        return keys

    def _count(self, threads: dict[str, int]) -> None:
        self._threads = sum(count for at, count in threads.items() if at not in self._refused)
        if self._threads:
            return
        if threads:
            raise InputError(next(self._refused[at] for at in threads))
        now = time.monotonic()
        if now - self._warned >= SECONDS_BETWEEN_WARNINGS:
            self._warned = now
            logger.warning("%s has no workers now; waiting for one", self.name)

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        _, told = event
        if told["refused"]:
            self._refused[told["worker"]] = told["line"]
            self._heard.append(told["worker"])
        logger.warning("%s", told["line"])


def _silence_dask() -> None:
    """What fails is told by the futures; the rest is chatter, some of it after the end."""
    import distributed  # noqa: F401 (sets levels of its own)

    for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _dashboard_link(client: Any) -> str:
    """Return where Dask shows the work; that takes bokeh, on the scheduler's side."""
    if importlib.util.find_spec("bokeh") is None:
        return ""
    with suppress(KeyError):  # a scheduler without a dashboard
        return str(client.dashboard_link or "")
    return ""


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_executor(
    config: ScanConfig, plan: Plan, workers: int, cluster: Cluster | None = None
) -> Executor:
    """Return the executor that a configuration asks for.

    Parameters
    ----------
    config : ScanConfig
    plan : Plan
        Its estimate of a task's memory becomes the limit of a worker.
    workers : int
        Processes of this machine, where the configuration names no cluster; one needs no cluster.
    cluster : Cluster, optional
        Where tasks run whatever the configuration says.

    Raises
    ------
    InputError
        If the configuration names a cluster that cannot be.
    """
    limit = worker_bytes(plan)
    if cluster is not None:
        return DaskExecutor(cluster=cluster, worker_bytes=limit)
    if config.memory_limit is not None:
        given = (parse_bytes(config.memory_limit) - plan.shared_bytes) // workers
        limit = max(given, int(LEAST_HEADROOM * plan.task_bytes))
    if config.scheduler is not None:
        return DaskExecutor(cluster=RunningScheduler(config.scheduler), worker_bytes=limit)
    if config.cluster is not None:
        cluster = read_cluster_file(config.cluster).for_plan(plan)
        return DaskExecutor(cluster=cluster, worker_bytes=limit)
    if workers == 1:
        return SerialExecutor()
    embedded = EmbeddedCluster(workers, dashboard=bool(config.dashboard))
    return DaskExecutor(cluster=embedded, worker_bytes=limit)
