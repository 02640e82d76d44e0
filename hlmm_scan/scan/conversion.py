"""Conversion on a Dask cluster: :mod:`hlmm_scan.genotypes.conversion.parts` as its tasks."""

from __future__ import annotations

from hlmm_scan.genotypes.conversion.parts import Part, PartRecord, convert_part
from hlmm_scan.scan import pools
from hlmm_scan.scan.clusters import Cluster, RunningScheduler


class DaskPool(pools.DaskPool[Part, PartRecord]):
    """Parts on a Dask cluster, a few per worker at a time.

    Workers must see the files and the folder of the dataset under the same paths.

    Parameters
    ----------
    cluster : Cluster
    """

    def __init__(self, cluster: Cluster) -> None:
        deadly = (
            "ended every worker that read them; the file is damaged, or workers have too little "
            "memory"
        )
        super().__init__(cluster, convert_part, deadly)


def pool_of(scheduler: str) -> DaskPool:
    """Return the pool of a running Dask scheduler.

    Raises
    ------
    InputError
        If that is no address.
    """
    return DaskPool(RunningScheduler(scheduler))
