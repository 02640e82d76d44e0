"""One slice of a prepared scan, done by a process that knows of no other and of no scheduler.

A batch system starts as many as it likes, in any order and as often as it has to. What a shard has
to know beyond the store, its index and their count, it takes from the environment that Kubernetes
and SLURM give to the members of an indexed Job and of an array.
"""

from __future__ import annotations

from collections.abc import Mapping

from hlmm_scan.errors import IncompleteError, InputError
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.scan.plan import Plan, Shard
from hlmm_scan.scan.state import listed, standing

COUNT_VARIABLE = "HLMM_SCAN_SHARD_COUNT"
"""Number of shards, for batch systems that do not tell it themselves, as Kubernetes."""

KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"
SLURM_INDEX = "SLURM_ARRAY_TASK_ID"


def this_shard(index: int | None, count: int | None, environment: Mapping[str, str]) -> Shard:
    """Return which shard this process is.

    Parameters
    ----------
    index, count : int or None
        What the user said. Where that is nothing, the index is that of an indexed Kubernetes Job
        or the place in a SLURM array, which may begin at any number; the count is
        ``HLMM_SCAN_SHARD_COUNT``, or, if the index is SLURM's, the size of the array.
    environment : mapping of str to str

    Raises
    ------
    InputError
        If index or count is missing, is no number, disagrees with another or is out of range.
    """
    told = count if count is not None else _number(environment, COUNT_VARIABLE)
    if index is None:
        index, size = _of_batch_system(environment)
        if told is None:
            told = size
        elif size is not None and size != told:
            raise InputError(
                f"the SLURM array has {size} tasks, but there are to be {told} shards; make them "
                "agree, or give --index as well as --count"
            )
    if told is None:
        raise InputError(f"the number of shards is not known; give --count or set {COUNT_VARIABLE}")
    if told < 1:
        raise InputError(f"there cannot be {told} shards; give a --count of 1 or more")
    if not 0 <= index < told:
        raise InputError(f"there is no shard {index} of {told}: they are 0 to {told - 1}")
    return Shard(index, told)


def run_shard(store: ResultStore, shard: Shard, *, retry_failed: bool = False) -> int:
    """Do every partition of a shard that no journal has, one after the other in this process.

    Parameters
    ----------
    store : ResultStore
        Prepared. Other shards may work on it, this one included.
    shard : Shard
    retry_failed : bool, default False
        Do its partitions again that are recorded as failed.

    Returns
    -------
    int
        Partitions of the shard, all done.

    Raises
    ------
    StoreHeldError
        If a run that is no shard holds the store.
    IncompleteError
        If partitions of this shard failed; all the others are done.
    HlmmScanError
        If no partition can succeed any more.
    """
    run.run(store, SerialExecutor(), shard, retry_failed=retry_failed)
    plan = Plan.from_json(store.plan)
    mine = shard.partitions(plan.n_partitions)
    stands = standing(store, plan)
    failed = {
        index: record.error for index, record in sorted(stands.failed.items()) if index in mine
    }
    if failed:
        raise IncompleteError(
            f"{store.path}: {shard}: {len(failed)} of {len(mine)} partitions failed "
            f"({listed(failed)}); the first with: {next(iter(failed.values()))}; run the same "
            "shard with --retry-failed to do these again"
        )
    return len(mine)


def _of_batch_system(environment: Mapping[str, str]) -> tuple[int, int | None]:
    """Return the index and, of a SLURM array, the count."""
    kubernetes = _number(environment, KUBERNETES_INDEX)
    slurm = _number(environment, SLURM_INDEX)
    if kubernetes is not None and slurm is not None:
        raise InputError(f"both {KUBERNETES_INDEX} and {SLURM_INDEX} are set; give --index")
    if kubernetes is not None:
        return kubernetes, None
    if slurm is None:
        raise InputError(
            "which shard this is is not known; give --index and --count, or run it in an indexed "
            "Kubernetes Job or a SLURM array"
        )
    first, last, step, size = (
        _number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "MAX", "STEP", "COUNT")
    )
    if first is None or size is None:
        raise InputError(f"{SLURM_INDEX} is set but not the rest of the array's; give --index")
    step = step or 1
    if last is not None and last - first != step * (size - 1):
        raise InputError(
            "the SLURM array leaves indices out, so its tasks are not all shards; give --index "
            "and --count, or run the whole array again: what is done is not done twice"
        )
    return (slurm - first) // step, size


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "").strip()
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        raise InputError(f"{name} is {value!r}, not a whole number") from None
