"""Conversion on a Dask cluster: :mod:`hlmm_scan.genotypes.conversion.parts` as its tasks."""

# distributed is typed in part only.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from hlmm_scan.errors import HlmmScanError, InfrastructureError, InputError
from hlmm_scan.genotypes.conversion.parts import Part, PartRecord, convert_part
from hlmm_scan.scan.clusters import Cluster, RunningScheduler
from hlmm_scan.scan.executors import LEAST_IN_FLIGHT, TASKS_IN_FLIGHT_PER_WORKER


class DaskPool:
    """Parts on a Dask cluster, a few per worker at a time.

    Workers must see the files and the folder of the dataset under the same paths.

    Parameters
    ----------
    cluster : Cluster
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def run(self, parts: Iterable[Part]) -> Iterator[PartRecord]:
        """Yield records as parts are done.

        Raises
        ------
        HlmmScanError
            If a part says so, or workers die of it.
        InfrastructureError
            If the scheduler is lost.
        """
        from distributed import KilledWorker, as_completed

        remaining = iter(parts)
        with self.cluster.client() as client:
            workers = max(1, sum(client.ncores().values()))
            running = as_completed()
            asked: dict[str, Part] = {}

            def submit(n: int) -> None:
                for part in islice(remaining, n):
                    future = client.submit(_convert, part, pure=False)
                    asked[future.key] = part
                    running.add(future)

            submit(max(LEAST_IN_FLIGHT, TASKS_IN_FLIGHT_PER_WORKER * workers))
            for future in running:
                part = asked.pop(future.key)
                try:
                    done = future.result()
                except KilledWorker:
                    raise InputError(
                        f"{part}: ended every worker that read them; the file is damaged, or "
                        "workers have too little memory"
                    ) from None
                except (HlmmScanError, OSError):
                    raise
                except Exception as error:
                    raise InfrastructureError(f"{part}: {type(error).__name__}: {error}") from error
                submit(1)
                yield done


def _convert(part: Part) -> PartRecord:
    from hlmm_scan.scan.worker import pin_threads

    pin_threads()
    return convert_part(part)


def pool_of(scheduler: str) -> DaskPool:
    """Return the pool of a running Dask scheduler.

    Raises
    ------
    InputError
        If that is no address.
    """
    return DaskPool(RunningScheduler(scheduler))
