"""Where a scan stands between its steps, read from its plan and its ledger alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import DamagedError, HlmmScanError
from hlmm_scan.results.digests import checksum, combined
from hlmm_scan.results.records import Standing
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.plan import Plan
from hlmm_scan.schema import Status
from hlmm_scan.storage import transient

SLOWEST = 5
"""Partitions whose costs are told."""

_FILTERED = frozenset(s.label for s in Status if Status.MONOMORPHIC <= s < Status.TASK_FAILED)
_NAMED = 10  # partitions named in a message


@dataclass(frozen=True)
class PartitionCost:
    """What one finished partition took.

    Attributes
    ----------
    partition : int
    phenotype : str
        The first and the last of several.
    start, stop : int
        Variants.
    seconds : float
    peak_bytes : int
        Most memory of its own that the worker had; 0 where unknown.
    """

    partition: int
    phenotype: str
    start: int
    stop: int
    seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        memory = f", {self.peak_bytes / 2**20:,.0f} MiB" if self.peak_bytes else ""
        return (
            f"partition {self.partition} ({self.phenotype}, variants {self.start:,} to "
            f"{self.stop:,}): {self.seconds:,.1f} s{memory}"
        )


@dataclass(frozen=True)
class ScanState:
    """Where a scan stands, from its plan and its ledger.

    Attributes
    ----------
    path : str
    complete : bool
        Whether the completion mark is there.
    partitions, partitions_done : int
    failed : mapping of int to str
        Error by partition.
    missing : tuple of int
        Partitions neither done nor failed.
    mismatched : tuple of int
        Partitions done with another number of variants than planned: the store is damaged.
    tests, tests_done : int
        Variants × phenotypes, planned and written.
    tests_filtered : int
        Of those written, the ones that were not fitted: monomorphic, rare, too often missing.
    statuses : mapping of str to int
        Number of finished tests by status label.
    retries : int
        Transient errors that were tried again.
    workers : mapping of str to int
        Partitions by worker, as ``host:process``.
    seconds : float
        Time tasks took, summed over workers.
    peak_bytes : int
        Most memory of its own that any worker had; 0 where unknown.
    slowest : tuple of PartitionCost
        The slowest first.
    software : mapping of str to int
        Partitions by the versions of numerical libraries, where those are not the store's.
    rate : float
        Finished tests per second of the last hour of work (wall clock); 0 where unknown.
    seconds_left : float or None
        At that rate.
    """

    path: str
    complete: bool
    partitions: int
    partitions_done: int
    failed: Mapping[int, str]
    missing: tuple[int, ...]
    mismatched: tuple[int, ...]
    tests: int
    tests_done: int
    tests_filtered: int
    statuses: Mapping[str, int]
    retries: int
    workers: Mapping[str, int]
    seconds: float
    peak_bytes: int
    slowest: tuple[PartitionCost, ...]
    software: Mapping[str, int]
    rate: float
    seconds_left: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON types; of what is missing, the first and last of each run."""
        return {
            **vars(self),
            "failed": {str(k): v for k, v in self.failed.items()},
            "missing": _runs(self.missing),
            "mismatched": list(self.mismatched),
            "slowest": [asdict(cost) for cost in self.slowest],
        }


def standing(store: ResultStore, plan: Plan) -> Standing:
    """Return where every partition stands.

    Raises
    ------
    HlmmScanError
        If journals contradict each other or the plan.
    """
    try:
        return Standing(plan.n_partitions, store.ledger.records())
    except HlmmScanError as error:
        raise HlmmScanError(f"{store.path}: {error}") from None


def scan_state(store: ResultStore) -> ScanState:
    """Return where a scan stands; safe while it runs.

    Parameters
    ----------
    store : ResultStore
    """
    plan = Plan.from_json(store.plan)
    stands = standing(store, plan)
    missing = ~stands.done
    missing[list(stands.failed)] = False
    mismatched = stands.done & (stands.tests != plan.tests_by_partition())
    tests_done = int(stands.tests.sum())
    rate = _rate(stands)
    seconds = stands.finished - stands.started
    return ScanState(
        path=str(store.path),
        complete=store.attributes["run_status"] == "complete",
        partitions=plan.n_partitions,
        partitions_done=int(stands.done.sum()),
        failed={index: record.error for index, record in sorted(stands.failed.items())},
        missing=tuple(np.flatnonzero(missing).tolist()),
        mismatched=tuple(np.flatnonzero(mismatched).tolist()),
        tests=plan.n_tests,
        tests_done=tests_done,
        tests_filtered=sum(stands.statuses[label] for label in _FILTERED),
        statuses=dict(sorted(stands.statuses.items())),
        retries=stands.retries,
        workers=dict(sorted(stands.workers.items())),
        seconds=float(seconds.sum()),
        peak_bytes=int(stands.peak_bytes.max(initial=0)),
        slowest=_slowest(plan, stands, seconds),
        software=dict(sorted(Counter(stands.software.values()).items())),
        rate=rate,
        seconds_left=(plan.n_tests - tests_done) / rate if rate else None,
    )


def verify(store: ResultStore) -> list[int]:
    """Read every finished partition again and return those whose values are not as recorded.

    Raises
    ------
    InputError
        If an earlier version wrote the store.
    """
    store.require_current()
    plan = Plan.from_json(store.plan)
    stands = standing(store, plan)
    names = [v.name for v in store.variables]
    damaged = []
    for index in np.flatnonzero(stands.done).tolist():
        partition = plan.partition(index)
        checksums = []
        try:
            for phenotype in partition.phenotypes:
                values = store.read_partition(phenotype, partition.start, partition.stop)
                checksums.append(checksum(values, names))
        except (OSError, DamagedError) as error:
            if transient(error):
                raise
            # A chunk cut short cannot even be decoded.
            damaged.append(index)
            continue
        if combined(checksums).encode() != stands.checksum[index]:
            damaged.append(index)
    return damaged


def _slowest(
    plan: Plan, stands: Standing, seconds: NDArray[np.float64]
) -> tuple[PartitionCost, ...]:
    done = np.flatnonzero(stands.done)
    costs = []
    for index in done[np.argsort(-seconds[done], kind="stable")[:SLOWEST]].tolist():
        p = plan.partition(index)
        ends = dict.fromkeys(plan.phenotypes[k] for k in (p.phenotypes[0], p.phenotypes[-1]))
        name = " to ".join(ends)
        peak = int(stands.peak_bytes[index])
        costs.append(PartitionCost(index, name, p.start, p.stop, float(seconds[index]), peak))
    return tuple(costs)


def _runs(indices: Sequence[int]) -> list[list[int]]:
    """Return ascending numbers as [first, last] of every run of consecutive ones."""
    numbers = np.asarray(indices, dtype=np.int64)
    breaks = np.flatnonzero(np.diff(numbers) > 1) + 1
    return [[int(run[0]), int(run[-1])] for run in np.split(numbers, breaks) if len(run)]


def _rate(stands: Standing) -> float:
    """Return tests per second over the last hour in which something finished."""
    if not stands.done.any():
        return 0.0
    last = stands.finished.max()
    recent = stands.done & (stands.finished > last - 3600)
    span = float(last - stands.started[recent].min())
    return float(stands.tests[recent].sum()) / span if span > 0 else 0.0


def listed(indices: Iterable[int]) -> str:
    """Return the first few of some partitions, for a message."""
    names = [str(index) for index in indices]
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
