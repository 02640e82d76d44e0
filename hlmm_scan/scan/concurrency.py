"""How many tasks, and how many null fits, may run at once."""

from __future__ import annotations

import logging

from dask.utils import parse_bytes

from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.models.relationship import by_relationship
from hlmm_scan.scan.cluster_file import read_cluster_file
from hlmm_scan.scan.clusters import RunningScheduler
from hlmm_scan.scan.executors import available_cores
from hlmm_scan.scan.memory import available_bytes
from hlmm_scan.scan.plan import Plan

logger = logging.getLogger(__name__)


def choose_workers(config: ScanConfig, task_bytes: int, shared_bytes: int = 0) -> int:
    """Return how many tasks may run at once, on this machine if no other is named.

    Parameters
    ----------
    config : ScanConfig
    task_bytes : int
        Memory of one task.
    shared_bytes : int, default 0
        Memory that all tasks share.

    Returns
    -------
    int
        0 where a running scheduler knows.

    Raises
    ------
    InputError
        If the memory limit cannot be read or not even one task fits into it, or the description of
        a cluster is wrong.
    """
    if config.scheduler is not None:
        return RunningScheduler(config.scheduler).most_workers
    if config.cluster is not None:
        return read_cluster_file(config.cluster).most_workers
    wanted = config.workers or available_cores()
    limit = _memory_limit(config)
    fitting = int((limit - shared_bytes) // task_bytes)
    if fitting < 1:
        raise InputError(
            f"one task needs {(task_bytes + shared_bytes) / 2**20:,.0f} MiB, more than the "
            f"{limit / 2**20:,.0f} MiB there are; make the genotype dataset with smaller "
            "--chunk-variants, or use fewer random effects"
        )
    if fitting < wanted:
        logger.warning("%d instead of %d workers: memory holds no more tasks", fitting, wanted)
    return min(wanted, fitting)


def _memory_limit(config: ScanConfig) -> int:
    """Return how much memory this machine's processes may take."""
    if config.memory_limit is None:
        return int(available_bytes())
    try:
        return int(parse_bytes(config.memory_limit))
    except ValueError:
        raise InputError(
            f"memory_limit must be a size as 16GiB or 500MB, not '{config.memory_limit}'"
        ) from None


def preparation_threads(config: ScanConfig, plan: Plan) -> int:
    """Return how many null fits are done at a time: as cores, workers and memory allow."""
    model = plan.model
    if not model.random:
        return 1
    here = config.scheduler is None and config.cluster is None and config.workers
    wanted = min(available_cores(), here or available_cores())
    return max(1, min(wanted, int(_memory_limit(config) // _fit_bytes(model))))


def _fit_bytes(model: ModelSize) -> int:
    """Memory of one null fit, or of making one set of random effects ready."""
    n, rank = model.people, min(model.people, model.random)
    return 8 * 6 * n * (n if by_relationship(n, rank) else rank)
