"""The steps of a scan: prepare and run, and all of them one after the other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hlmm_scan import signals, storage
from hlmm_scan.cohort.study import AtHand
from hlmm_scan.config import ScanConfig, absolute
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes import in_use as genotypes_in_use
from hlmm_scan.results.in_use import being_changed, run_at
from hlmm_scan.results.ledger import ledger_at
from hlmm_scan.results.mark import read_mark
from hlmm_scan.results.records import Standing
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import completion
from hlmm_scan.scan.clusters import Cluster
from hlmm_scan.scan.compiled import compile_kernels
from hlmm_scan.scan.concurrency import choose_workers, preparation_threads
from hlmm_scan.scan.executors import Executor, available_cores, make_executor
from hlmm_scan.scan.faults import storage_error
from hlmm_scan.scan.inputs import Inputs, read_inputs
from hlmm_scan.scan.options import fit_options
from hlmm_scan.scan.plan import Plan, Shard, differing
from hlmm_scan.scan.planning import make_plan
from hlmm_scan.scan.prediction import forecast
from hlmm_scan.scan.prepare import write_store
from hlmm_scan.scan.progress import ScanProgress
from hlmm_scan.scan.state import scan_state, standing
from hlmm_scan.scan.task import PartitionTask
from hlmm_scan.scan.worker import let_go
from hlmm_scan.staging import AppearedError, refuse_link, stands, sweep
from hlmm_scan.storage import ObjectPath, Place

logger = logging.getLogger(__name__)


def prepare(
    config: ScanConfig,
    *,
    overwrite: bool = False,
    tables: AtHand | None = None,
    cluster: Cluster | None = None,
) -> ResultStore:
    """Make the result store, or find it made by the same configuration.

    Parameters
    ----------
    config : ScanConfig
    overwrite : bool, default False
        Replace an existing result store, once the new one is made and nobody uses the old one.
    tables : mapping of Path to DataFrame, Dataset or DataArray, optional
        Tables in memory, by the paths that stand for them in the configuration.
    cluster : Cluster, optional
        Where tasks will run, whatever the configuration says.

    Returns
    -------
    ResultStore

    Raises
    ------
    InputError
        If an input is wrong, the output path holds something else, or a store that was made with
        other inputs or parameters (which are named).
    StoreHeldError
        If another run holds the store to be overwritten, or somebody reads it, or the genotypes
        are being replaced.
    """
    config = absolute(config)
    read = [p for p in (*config.genotypes, config.random_effects) if p is not None]
    with genotypes_in_use.being_read(read):
        return _prepared(config, overwrite, tables, cluster)


def _prepared(
    config: ScanConfig, overwrite: bool, tables: AtHand | None, cluster: Cluster | None
) -> ResultStore:
    assert config.output is not None
    output = config.output
    if overwrite:
        refuse_link(output)
    if stands(output) and (read_mark(output) or {}).get("kind") != "results":
        raise InputError(f"{output}: holds something else; choose another --output")
    inputs = read_inputs(config, tables)
    if stands(output) and not overwrite:
        return _same(output, inputs, bool(config.strict))
    plan, builder = make_plan(inputs)
    workers = _workers(config, plan, cluster)
    cores = None if cluster else _cores(config)
    told = forecast(plan, workers, cores, threads=preparation_threads(config, plan))
    logger.info("plan:\n%s", "\n".join([*inputs.selection.lines, told]))
    if not (overwrite and stands(output)):  # what appears from here on is another run's
        try:
            return write_store(inputs, plan, builder)
        except AppearedError:
            if (read_mark(output) or {}).get("kind") != "results":
                raise
            return _same(output, inputs, bool(config.strict))  # another run was quicker
    if isinstance(output, ObjectPath):  # held by whoever makes the new one
        return write_store(inputs, plan, builder, replace=True)
    # The old store stays, and stays held, until the new one is ready to take its place.
    with ledger_at(output, run_at(output)).lock():  # it may be too damaged to be opened
        with being_changed(output):  # rather told now than when all null models are fitted
            pass
        return write_store(inputs, plan, builder, replace=True)


def _same(output: Place, inputs: Inputs, strict: bool) -> ResultStore:
    """Open a store that stands there, having looked that it was made by the same configuration."""
    sweep(output)  # a run killed as it put the store into place left an empty folder beside it
    store = ResultStore.open(output)
    store.require_current()
    changed = differing(store.plan["parameters"], inputs.parameters())
    if changed:
        raise InputError(
            f"{output}: made by another run ({'; '.join(changed)}); run with the same inputs "
            "and options, choose another --output, or start anew with --overwrite"
        )
    left_out = store.attributes.get("phenotypes_left_out")
    if strict and left_out:
        raise InputError(
            f"{output}: made without phenotypes that cannot be analysed "
            f"({', '.join(left_out)}); leave --strict out, or start anew with --overwrite"
        )
    _follow_genotypes(store, inputs.genotypes.paths)
    return store


def _follow_genotypes(store: ResultStore, paths: Sequence[Place]) -> None:
    """Note where the genotype datasets are now: tasks open them where the plan says."""
    plan = Plan.from_json(store.plan)
    now = tuple(map(str, paths))
    if plan.genotypes == now or scan_state(store).complete:
        return
    with store.ledger.lock():
        store.put_plan(replace(plan, genotypes=now).to_json())
    logger.info(
        "the genotypes, then at %s, are now at %s", ", ".join(plan.genotypes), ", ".join(now)
    )


def dry_run(config: ScanConfig) -> str:
    """Return the plan of a scan and the time it would take, in words; nothing is written.

    Of a scan that was begun already it is the time of what is left, by the times of what is done.

    Parameters
    ----------
    config : ScanConfig
        More workers than this machine has cores are taken for workers of other machines.

    Raises
    ------
    InputError
        As :func:`prepare`.
    """
    config = absolute(config)
    assert config.output is not None
    inputs = read_inputs(config)
    plan, _ = make_plan(inputs)
    begun = None
    if stands(config.output) and (read_mark(config.output) or {}).get("kind") == "results":
        store = ResultStore.open(config.output)
        if not differing(store.plan["parameters"], inputs.parameters()):
            plan = Plan.from_json(store.plan)
            begun = standing(store, plan)
    threads = preparation_threads(config, plan)
    if config.workers and config.workers > available_cores():
        told = forecast(plan, config.workers, stands=begun, threads=threads)
    else:
        workers = choose_workers(config, plan.task_bytes, plan.shared_bytes)
        told = forecast(plan, workers, _cores(config), begun, threads)
    return "\n".join([*inputs.selection.lines, told])


def _cores(config: ScanConfig) -> int | None:
    """Return how many cores the workers share, where they are those of this machine."""
    return None if config.scheduler or config.cluster else available_cores()


def scan(
    config: ScanConfig,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    executor: Executor | None = None,
    tables: AtHand | None = None,
    cluster: Cluster | None = None,
) -> ResultStore:
    """Run a whole scan: prepare, run, finalise. Run again, it goes on where it stopped.

    Parameters
    ----------
    config : ScanConfig
    overwrite : bool, default False
    retry_failed : bool, default False
        Do the partitions again that an earlier run recorded as failed.
    executor : Executor, optional
        Where tasks run; by default as `config.workers` says.
    tables, cluster
        As for :func:`prepare`.

    Returns
    -------
    ResultStore
        Complete.

    Raises
    ------
    HlmmScanError
        Of the step that failed; see its exit code.
    """
    store = prepare(config, overwrite=overwrite, tables=tables, cluster=cluster)
    plan = Plan.from_json(store.plan)
    workers = _workers(config, plan, cluster)
    executor = executor or make_executor(config, plan, workers, cluster)
    run(store, executor, retry_failed=retry_failed)
    return completion.finalise(store)


def _workers(config: ScanConfig, plan: Plan, cluster: Cluster | None) -> int:
    """Return how many tasks may run at once; 0 where a running scheduler knows."""
    if cluster is not None:
        return cluster.most_workers
    return choose_workers(config, plan.task_bytes, plan.shared_bytes)


@signals.work_kept()
def run(
    store: ResultStore,
    executor: Executor,
    shard: Shard | None = None,
    *,
    retry_failed: bool = False,
) -> None:
    """Do every partition that the ledger does not have.

    Parameters
    ----------
    store : ResultStore
        Prepared.
    executor : Executor
    shard : Shard, optional
        Do its partitions only, and let other shards work on the store meanwhile.
    retry_failed : bool, default False
        Do those again that the ledger has as failed. Otherwise they stand: what failed for good
        fails again, and costs as much each time, until something is changed.

    Raises
    ------
    StoreHeldError
        If another run holds the store, or the genotypes are being replaced.
    HlmmScanError
        If no partition can succeed any more. What is finished stays finished.
    """
    store.require_current()
    plan = Plan.from_json(store.plan)
    read = map(storage.place, plan.genotypes)
    try:
        with genotypes_in_use.being_read(read), store.ledger.lock(str(shard or "")):
            mine = (shard or Shard(0, 1)).partitions(plan.n_partitions)
            stands = standing(store, plan)
            todo = _left(stands, mine, retry_failed)
            tests_done = int(stands.tests[mine.start : mine.stop].sum())
            del stands
            if not len(todo):
                return
            for model in plan.models:
                compile_kernels(fit_options(plan), model)
            tests = plan.tests_before(mine.stop) - plan.tests_before(mine.start)
            with (
                _interrupts_kept() as interrupts,
                store.ledger.writer() as journal,
                ScanProgress(tests, tests_done) as progress,
                closing(executor.run(_tasks(store, plan, todo))) as records,
            ):
                for record in records:
                    journal.append(record)
                    progress.finished(record)
                    if interrupts:
                        raise interrupts[0]
    except OSError as error:
        raise storage_error(store.path, error) from error
    finally:
        let_go()


def _left(stands: Standing, mine: range, retry_failed: bool) -> NDArray[np.intp]:
    """Return which of some partitions are to be done, and log what is not."""
    done = stands.done[mine.start : mine.stop]
    wanted = ~done
    failed = [index - mine.start for index in stands.failed if index in mine]
    if not retry_failed:
        wanted[failed] = False
    if done.any() and wanted.any():
        logger.info("%d of %d partitions are done", int(done.sum()), len(mine))
    if failed:
        what = "tried again" if retry_failed else "left, as --retry-failed is not given"
        logger.info("%d of %d partitions failed before and are %s", len(failed), len(mine), what)
    return mine.start + np.flatnonzero(wanted)


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


def _tasks(store: ResultStore, plan: Plan, todo: NDArray[np.intp]) -> Iterator[PartitionTask]:
    options = fit_options(plan)
    run_id = str(store.attributes["run_id"])
    for index in plan.in_working_order(todo):
        partition = plan.partition(int(index))
        yield PartitionTask(
            store=str(storage.absolute(store.path)),
            genotypes=plan.genotypes,
            run_id=run_id,
            genotype_fingerprint=plan.parameters["genotypes"],
            phenotypes=tuple(plan.phenotypes[k] for k in partition.phenotypes),
            partition=partition,
            options=options,
        )
