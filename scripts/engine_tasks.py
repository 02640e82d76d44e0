"""What a task costs beside its arithmetic: dispatch, journal, writing; and plans of a million."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from engine_work import Sampler, Timed, nothing, resident

from hlmm_scan.config import ScanConfig
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.results.records import PartitionRecord, encode
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import executors, run
from hlmm_scan.scan.executors import DaskExecutor
from hlmm_scan.scan.inputs import read_inputs
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.planning import make_plan
from hlmm_scan.scan.state import scan_state
from hlmm_scan.scan.task import PartitionTask
from hlmm_scan.schema import Status, result_variables
from hlmm_scan.simulate import simulate_cohort

VARIANTS = 10_000
"""Each a partition of its own."""

WRITTEN = 200
JOURNALLED = 2_000
DRAWN = 20_000


def cohort(folder: Path, variants: int, phenotypes: int) -> ScanConfig:
    """Return a scan of few people, of which every variant and phenotype is a partition."""
    simulated = simulate_cohort(
        folder / "cohort", n_samples=100, chromosomes=1, variants_per_chromosome=variants
    )
    genotypes = folder / "genotypes.zarr"
    convert(simulated.beds, genotypes, chunk_variants=1)
    people = pd.read_csv(simulated.phenotypes, sep="\t", dtype=str)[["FID", "IID"]]
    values = np.random.default_rng(1).standard_normal((len(people), phenotypes))
    traits = pd.DataFrame(values, columns=[f"trait{k}" for k in range(phenotypes)])
    table = folder / "phenotypes.tsv"
    pd.concat([people, traits], axis=1).to_csv(table, sep="\t", index=False)
    return ScanConfig(
        genotypes=genotypes,
        phenotypes=table,
        output=folder / "r.zarr",
        workers=2,
        partition_variants=1,
    )


def first_of(config: ScanConfig, phenotypes: int, output: str) -> ScanConfig:
    """Return the same scan of the first few phenotypes."""
    assert config.output is not None
    names = tuple(f"trait{k}" for k in range(phenotypes))
    return replace(config, phenotype=names, output=config.output.with_name(output))


def no_operations(config: ScanConfig) -> dict[str, float]:
    """Run a scan of tasks that do nothing on two workers; return milliseconds and megabytes."""
    store = run.prepare(config)
    n = Plan.from_json(store.plan).n_partitions
    executor = Timed(DaskExecutor(workers=2))
    before, peak = resident(), [0]

    def look() -> None:
        peak[0] = max(peak[0], resident())

    busy = time.process_time()
    with mock.patch.object(executors, "run_partition", nothing), Sampler(look):
        run.run(store, executor)
    busy = time.process_time() - busy
    assert scan_state(store).partitions_done == n
    journal = journal_seconds(store)
    return {
        "partitions": n,
        "dispatch_ms": 1e3 * ((executor.last - executor.first) / (n - 1) - journal),
        "journal_ms": 1e3 * journal,
        "client_cpu_ms": 1e3 * busy / n,
        "write_ms": 1e3 * write_seconds(store),
        "start_s": executor.first - executor.begun,
        "growth_mb": (peak[0] - before) / 1e6,
    }


def journal_seconds(store: ResultStore) -> float:
    """Return the time of a line of a journal beside those of the store."""
    with store.ledger.writer() as journal:
        start = time.perf_counter()
        for index in range(JOURNALLED):
            # As the run wrote it, so that the ledger stays as it is.
            journal.append(PartitionRecord(index, f"{index:024x}", {"ok": 1}, 1.0, 2.0))
        return (time.perf_counter() - start) / JOURNALLED


def write_seconds(store: ResultStore) -> float:
    """Return the time of writing the smallest partition there is."""
    values = {
        v.name: np.full(1, Status.OK if v.name == "status" else 1, v.dtype)
        for v in result_variables(random_effects=False)
    }
    start = time.perf_counter()
    for variant in range(WRITTEN):
        store.write_partition(0, variant, variant + 1, values)
    return (time.perf_counter() - start) / WRITTEN


class Drawing:
    """Draws tasks as an executor does and runs none."""

    dashboard_link = ""

    def __init__(self) -> None:
        self.first = 0.0
        self.drawn_seconds = 0.0
        self.growth = 0

    def run(self, tasks: Iterable[PartitionTask]) -> Iterator[PartitionRecord]:
        drawing = iter(tasks)
        next(drawing)
        self.first, before = time.perf_counter(), resident()
        drawn = sum(1 for _ in islice(drawing, DRAWN))
        self.drawn_seconds = (time.perf_counter() - self.first) / drawn
        self.growth = resident() - before
        yield from ()


def many(config: ScanConfig) -> dict[str, float]:
    """Plan very many partitions, begin them, read the ledger of all; return seconds, megabytes."""
    start = time.perf_counter()
    plan, _ = make_plan(read_inputs(config))
    planned = time.perf_counter() - start
    store = run.prepare(config)
    prepared = time.perf_counter() - start - planned
    executor, before, start = Drawing(), resident(), time.perf_counter()
    run.run(store, executor)
    first = executor.first - start
    with (store.ledger.directory / "all.journal").open("wb") as journal:
        for index in range(plan.n_partitions):
            record = PartitionRecord(
                index, f"{index:024x}", {"ok": 1}, 1.0, 2.0, worker=f"host:{index % 64}"
            )
            journal.write(encode(record))
    start, between = time.perf_counter(), resident()
    state = scan_state(store)
    assert state.partitions_done == plan.n_partitions
    return {
        "partitions": plan.n_partitions,
        "planned_s": planned,
        "prepared_s": prepared,
        "first_task_s": first,
        "task_us": 1e6 * executor.drawn_seconds,
        "task_growth_mb": executor.growth / 1e6,
        "begin_growth_mb": (between - before) / 1e6,
        "state_s": time.perf_counter() - start,
        "state_growth_mb": (resident() - between) / 1e6,
    }
