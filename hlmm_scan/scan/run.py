"""The three steps of a scan: prepare, run, finalise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.config import ScanConfig, absolute
from hlmm_scan.errors import IncompleteError, InputError
from hlmm_scan.null import host_cache
from hlmm_scan.results.store import ResultStore, read_mark
from hlmm_scan.scan.compiled import compile_kernels
from hlmm_scan.scan.executors import Executor, make_executor
from hlmm_scan.scan.plan import Plan, Shard, differing
from hlmm_scan.scan.prepare import (
    choose_workers,
    fit_options,
    make_plan,
    read_inputs,
    write_store,
)
from hlmm_scan.scan.progress import Progress
from hlmm_scan.scan.state import listed, scan_state, standing
from hlmm_scan.scan.task import PartitionTask
from hlmm_scan.schema import Status
from hlmm_scan.staging import sweep, write_error

logger = logging.getLogger(__name__)


def prepare(config: ScanConfig, *, overwrite: bool = False) -> ResultStore:
    """Make the result store, or find it made by the same configuration.

    Parameters
    ----------
    config : ScanConfig
    overwrite : bool, default False
        Replace an existing result store, once the new one is made.

    Returns
    -------
    ResultStore

    Raises
    ------
    InputError
        If an input is wrong, the output path holds something else, or a store that was made with
        other inputs or parameters (which are named).
    StoreHeldError
        If another run holds the store to be overwritten.
    """
    config = absolute(config)
    assert config.output is not None
    output = config.output
    if output.exists() and (read_mark(output) or {}).get("kind") != "results":
        raise InputError(f"{output}: holds something else; choose another --output")
    inputs = read_inputs(config)
    if output.exists() and not overwrite:
        sweep(output)  # a run killed as it put the store into place left an empty folder beside it
        store = ResultStore.open(output)
        changed = differing(store.plan["parameters"], inputs.parameters())
        if changed:
            raise InputError(
                f"{output}: made by another run ({'; '.join(changed)}); run with the same inputs "
                "and options, choose another --output, or start anew with --overwrite"
            )
        _follow_genotypes(store, inputs.genotypes.path)
        return store
    plan, builder = make_plan(inputs)
    logger.info(
        "plan:\n%s", plan.summary(choose_workers(config, plan.task_bytes, plan.shared_bytes))
    )
    if not output.exists():
        return write_store(inputs, plan, builder)
    # The old store stays, and stays held, until the new one is ready to take its place.
    with ResultStore.open(output).ledger.lock():
        return write_store(inputs, plan, builder, replace=True)


def _follow_genotypes(store: ResultStore, path: Path) -> None:
    """Note where the genotype dataset is now: tasks open it where the plan says."""
    plan = Plan.from_json(store.plan)
    if plan.genotypes == str(path) or scan_state(store).complete:
        return
    with store.ledger.lock():
        store.put_plan(replace(plan, genotypes=str(path)).to_json())
    logger.info("the genotype dataset, then at %s, is now at %s", plan.genotypes, path)


def dry_run(config: ScanConfig) -> str:
    """Return the plan of a scan in words; nothing is written.

    Raises
    ------
    InputError
        As :func:`prepare`.
    """
    plan, _ = make_plan(read_inputs(config))
    return plan.summary(choose_workers(config, plan.task_bytes, plan.shared_bytes))


def scan(
    config: ScanConfig, *, overwrite: bool = False, executor: Executor | None = None
) -> ResultStore:
    """Run a whole scan: prepare, run, finalise. Run again, it goes on where it stopped.

    Parameters
    ----------
    config : ScanConfig
    overwrite : bool, default False
    executor : Executor, optional
        Where tasks run; by default as `config.workers` says.

    Returns
    -------
    ResultStore
        Complete.

    Raises
    ------
    HlmmScanError
        Of the step that failed; see its exit code.
    """
    store = prepare(config, overwrite=overwrite)
    plan = Plan.from_json(store.plan)
    workers = choose_workers(config, plan.task_bytes, plan.shared_bytes)
    run(store, executor or make_executor(workers))
    return finalise(store)


def run(store: ResultStore, executor: Executor, shard: Shard | None = None) -> None:
    """Do every partition that the ledger does not have.

    Parameters
    ----------
    store : ResultStore
        Prepared.
    executor : Executor
    shard : Shard, optional
        Do its partitions only, and let other shards work on the store meanwhile.

    Raises
    ------
    StoreHeldError
        If another run holds the store.
    HlmmScanError
        If no partition can succeed any more. What is finished stays finished.
    """
    plan = Plan.from_json(store.plan)
    try:
        with store.ledger.lock(str(shard or "")):
            mine = (shard or Shard(0, 1)).partitions(plan.n_partitions)
            stands = standing(store, plan)
            todo = mine.start + np.flatnonzero(~stands.done[mine.start : mine.stop])
            tests_done = int(stands.tests[mine.start : mine.stop].sum())
            del stands
            if not len(todo):
                return
            if len(todo) < len(mine):
                logger.info("%d of %d partitions are done", len(mine) - len(todo), len(mine))
            compile_kernels(fit_options(plan), plan.model)
            tests = plan.tests_before(mine.stop) - plan.tests_before(mine.start)
            with (
                _interrupts_kept() as interrupts,
                store.ledger.writer() as journal,
                Progress(tests, "tests", tests_done) as progress,
                closing(executor.run(_tasks(store, plan, todo))) as records,
            ):
                for record in records:
                    journal.append(record)
                    progress.advance(sum(record.statuses.values()))
                    if interrupts:
                        raise interrupts[0]
    except OSError as error:
        raise write_error(store.path, error) from error
    finally:
        host_cache.sweep()  # the workers are gone


@contextmanager
def _interrupts_kept() -> Iterator[list[BaseException]]:
    """Collect interrupts that arrive within a finaliser, where Python only prints and drops them.

    Asynchronous code has many: without this, one Ctrl-C in twenty went unheard.
    """
    kept: list[BaseException] = []
    before = sys.unraisablehook

    def keep(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, Exception | GeneratorExit):
            before(unraisable)
        else:
            kept.append(unraisable.exc_value or unraisable.exc_type())

    sys.unraisablehook = keep
    try:
        yield kept
    finally:
        sys.unraisablehook = before


def finalise(store: ResultStore) -> ResultStore:
    """Verify coverage and counts, then write the completion mark.

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
    wanting = []
    if state.missing:
        wanting.append(
            f"{len(state.missing)} of {plan.n_partitions} partitions are missing "
            f"({listed(state.missing)})"
        )
    if state.failed:
        wanting.append(
            f"{len(state.failed)} of {plan.n_partitions} partitions failed "
            f"({listed(state.failed)}); the first with: {next(iter(state.failed.values()))}"
        )
    if wanting:
        aim = "finish it" if state.missing else "retry them"
        raise IncompleteError(
            f"{store.path}: {' and '.join(wanting)}; run the same scan again to {aim}"
        )
    if state.tests_done != plan.n_tests or Status.PENDING.label in state.statuses:
        raise IncompleteError(
            f"{store.path}: {state.tests_done} tests are written of {plan.n_tests} planned; "
            "the store is damaged, start anew with --overwrite"
        )
    try:
        store.complete(
            {
                "run_status": "complete",
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "status_counts": dict(state.statuses),
            }
        )
    except OSError as error:
        raise write_error(store.path, error) from error
    return store


def _tasks(store: ResultStore, plan: Plan, todo: NDArray[np.intp]) -> Iterator[PartitionTask]:
    options = fit_options(plan)
    run_id = str(store.attributes["run_id"])
    for index in todo:
        partition = plan.partition(int(index))
        yield PartitionTask(
            store=str(Path(store.path).absolute()),
            genotypes=plan.genotypes,
            run_id=run_id,
            genotype_fingerprint=plan.parameters["genotypes"],
            phenotype=plan.phenotypes[partition.phenotype],
            partition=partition,
            options=options,
        )
