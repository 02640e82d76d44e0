"""The last step of a scan: finalise, and what is to be told at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from hlmm_scan.errors import HlmmScanError, IncompleteError
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.faults import storage_error
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.state import ScanState, listed, scan_state, standing
from hlmm_scan.scan.wholeness import look_at_partitions, revocations
from hlmm_scan.schema import Status

logger = logging.getLogger(__name__)


def finalise(store: ResultStore) -> ResultStore:
    """Verify coverage and counts, then write the completion mark.

    Rows of partitions that failed for good get the status ``task_failed``, until they are done.

    Parameters
    ----------
    store : ResultStore

    Returns
    -------
    ResultStore
        The same store, complete.

    Raises
    ------
    IncompleteError
        If partitions are missing or failed (which are named), or counts do not reconcile.
    InputError
        If the mark cannot be written.
    """
    plan = Plan.from_json(store.plan)
    state = scan_state(store)
    if state.complete:
        return store
    store.require_current()
    if state.failed:
        _mark_failed(store, plan)
    if state.missing or state.failed:
        raise IncompleteError(f"{store.path}: {_wanting(state)}")
    if state.tests_done != plan.n_tests or Status.PENDING.label in state.statuses:
        raise IncompleteError(
            f"{store.path}: {state.tests_done} tests are written of {plan.n_tests} planned; "
            "the store is damaged, start anew with --overwrite"
        )
    try:
        chunks = look_at_partitions(store, plan)
        if chunks.damaged:
            _revoke(store, plan, chunks.damaged)
        attributes: dict[str, Any] = {
            "run_status": "complete",
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "status_counts": dict(state.statuses),
        }
        if state.software:
            attributes["software_of_partitions"] = dict(state.software)
        store.complete(attributes, chunks.checksums)
    except OSError as error:
        raise storage_error(store.path, error) from error
    return store


def _revoke(store: ResultStore, plan: Plan, damaged: Mapping[int, str]) -> NoReturn:
    """Take back that partitions are done, so that they can be done again.

    Raises
    ------
    IncompleteError
        Always.
    """
    with store.ledger.lock(), store.ledger.writer() as journal:
        for record in revocations(store, damaged):
            journal.append(record)
    raise IncompleteError(
        f"{store.path}: {len(damaged)} of {plan.n_partitions} partitions do not hold what was "
        f"written ({listed(damaged)}); the first: {next(iter(damaged.values()))}; run the same "
        "scan with --retry-failed to do these again"
    )


def _wanting(state: ScanState) -> str:
    """Return what a scan wants for completion, and what to do about it."""
    wanting = []
    if state.missing:
        wanting.append(
            f"{len(state.missing)} of {state.partitions} partitions are missing "
            f"({listed(state.missing)})"
        )
    if state.failed:
        wanting.append(
            f"{len(state.failed)} of {state.partitions} partitions failed "
            f"({listed(state.failed)}); the first with: {next(iter(state.failed.values()))}"
        )
    remedy = "run the same scan again to finish it" if state.missing else ""
    if state.failed:
        retry = "with --retry-failed to do these again"
        remedy = f"{remedy}, {retry}" if remedy else f"run the same scan {retry}"
    return f"{' and '.join(wanting)}; {remedy}"


def _mark_failed(store: ResultStore, plan: Plan) -> None:
    """Say in the rows of failed partitions that they failed, where this run can be alone.

    Only where they are still pending: a task that succeeded meanwhile on another machine, whose
    journal a network file system does not show yet, must find its rows as it wrote them. Whoever
    does such a partition again writes over the mark before the partition counts as done.
    """
    try:
        with store.ledger.lock():
            status = store.array("status")
            for index in standing(store, plan).failed:
                partition = plan.partition(index)
                for phenotype in partition.phenotypes:
                    rows = (phenotype, slice(partition.start, partition.stop))
                    if (np.asarray(status[rows]) == Status.PENDING).all():
                        status[rows] = np.int8(Status.TASK_FAILED)
    except (HlmmScanError, OSError) as error:  # what failed is to be told, and not this
        logger.debug("rows of failed partitions stay pending: %s", error)


def warnings_at_the_end(store: ResultStore) -> list[str]:
    """Return what whoever starts a scan should know when it is done, a line for each matter.

    Parameters
    ----------
    store : ResultStore
        Prepared or complete.
    """
    told = []
    left_out = store.attributes.get("phenotypes_left_out")
    if left_out:
        what = "phenotype was" if len(left_out) == 1 else "phenotypes were"
        first = "; ".join(list(left_out.values())[:3])
        more = f"; and {len(left_out) - 3:,} more" if len(left_out) > 3 else ""
        names = ", ".join(list(left_out)[:8]) + (", …" if len(left_out) > 8 else "")
        told.append(f"{len(left_out):,} {what} left out, {names}: {first}{more}")
    counts = store.attributes.get("status_counts")
    analysed = [s.label for s in Status if Status.PENDING < s < Status.MONOMORPHIC]
    if counts and not any(counts.get(label) for label in analysed):
        told.append(
            "no variant was analysed: "
            + ", ".join(f"{n:,} {label}" for label, n in counts.items() if n)
        )
    return told
