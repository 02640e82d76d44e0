"""Work that is cut into tasks of one function, in this process or on a Dask cluster.

The simplest executor there is, for work whose tasks need no null models: conversions and polygenic
backgrounds. Scans have their own (:mod:`~hlmm_scan.scan.executors`), which sets workers apart.
"""

# distributed is typed in part only.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, Protocol, TypeVar

from hlmm_scan.errors import HlmmScanError, InfrastructureError, InputError
from hlmm_scan.scan.clusters import Cluster
from hlmm_scan.scan.executors import LEAST_IN_FLIGHT, TASKS_IN_FLIGHT_PER_WORKER
from hlmm_scan.scan.worker import pin_threads

Task = TypeVar("Task")
Record = TypeVar("Record")
Asked = TypeVar("Asked", contravariant=True)
Told = TypeVar("Told", covariant=True)


class Pool(Protocol[Asked, Told]):
    """Somewhere that tasks are done."""

    def run(self, tasks: Iterable[Asked]) -> Iterator[Told]:
        """Yield the record of every task, in any order; `tasks` is drawn from as room appears."""
        ...


class SerialPool(Generic[Task, Record]):
    """Tasks one after the other in this process.

    Parameters
    ----------
    do : callable
        Does a task.
    """

    def __init__(self, do: Callable[[Task], Record]) -> None:
        self.do = do

    def run(self, tasks: Iterable[Task]) -> Iterator[Record]:
        """Yield the record of every task, in order."""
        return (_pinned(self.do, task) for task in tasks)


class DaskPool(Generic[Task, Record]):
    """Tasks on a Dask cluster, a few per worker at a time.

    Workers must see all files under the same paths.

    Parameters
    ----------
    cluster : Cluster
    do : callable
        Does a task; a function of a module.
    deadly : str
        What to say of a task that ended its workers, after its name.
    """

    def __init__(self, cluster: Cluster, do: Callable[[Task], Record], deadly: str) -> None:
        self.cluster, self.do, self.deadly = cluster, do, deadly

    def run(self, tasks: Iterable[Task]) -> Iterator[Record]:
        """Yield records as tasks are done.

        Raises
        ------
        HlmmScanError
            If a task says so, or workers die of it.
        InfrastructureError
            If the scheduler is lost.
        """
        from distributed import KilledWorker, as_completed

        remaining = iter(tasks)
        with self.cluster.client() as client:
            workers = max(1, sum(client.ncores().values()))
            running = as_completed()
            asked: dict[str, Task] = {}

            def submit(n: int) -> None:
                for task in islice(remaining, n):
                    future = client.submit(_pinned, self.do, task, pure=False)
                    asked[future.key] = task
                    running.add(future)

            submit(max(LEAST_IN_FLIGHT, TASKS_IN_FLIGHT_PER_WORKER * workers))
            for future in running:
                task = asked.pop(future.key)
                try:
                    done = future.result()
                except KilledWorker:
                    raise InputError(f"{task}: {self.deadly}") from None
                except (HlmmScanError, OSError):
                    raise
                except Exception as error:
                    raise InfrastructureError(f"{task}: {type(error).__name__}: {error}") from error
                submit(1)
                yield done


def _pinned(do: Callable[[Task], Record], task: Task) -> Record:
    pin_threads()
    return do(task)
