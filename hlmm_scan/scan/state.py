"""Where a scan stands between its steps, read from its plan and its ledger alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hlmm_scan.errors import HlmmScanError
from hlmm_scan.results.records import Standing
from hlmm_scan.results.store import ResultStore, checksum
from hlmm_scan.scan.plan import Plan

_NAMED = 10  # partitions named in a message


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
    tests, tests_done : int
        Variants × phenotypes.
    statuses : mapping of str to int
        Number of finished tests by status label.
    seconds : float
        Time tasks took, summed over workers.
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
    tests: int
    tests_done: int
    statuses: Mapping[str, int]
    seconds: float
    rate: float
    seconds_left: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        return {**asdict(self), "failed": {str(k): v for k, v in self.failed.items()}}


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
    tests_done = int(stands.tests.sum())
    rate = _rate(stands)
    return ScanState(
        path=str(store.path),
        complete=store.attributes["run_status"] == "complete",
        partitions=plan.n_partitions,
        partitions_done=int(stands.done.sum()),
        failed={index: record.error for index, record in sorted(stands.failed.items())},
        missing=tuple(np.flatnonzero(missing).tolist()),
        tests=plan.n_tests,
        tests_done=tests_done,
        statuses=dict(sorted(stands.statuses.items())),
        seconds=float((stands.finished - stands.started).sum()),
        rate=rate,
        seconds_left=(plan.n_tests - tests_done) / rate if rate else None,
    )


def verify(store: ResultStore) -> list[int]:
    """Read every finished partition again and return those whose values are not as recorded."""
    plan = Plan.from_json(store.plan)
    stands = standing(store, plan)
    names = [v.name for v in store.variables]
    damaged = []
    for index in np.flatnonzero(stands.done).tolist():
        partition = plan.partition(index)
        try:
            values = store.read_partition(partition.phenotype, partition.start, partition.stop)
        except (OSError, ValueError, RuntimeError):  # a chunk cut short cannot even be decoded
            damaged.append(index)
            continue
        if checksum(values, names).encode() != stands.checksum[index]:
            damaged.append(index)
    return damaged


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
