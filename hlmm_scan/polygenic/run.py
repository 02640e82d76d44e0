"""Making a background: inputs, plan, tasks, and the store in its place once it is whole."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hlmm_scan.cohort.backgrounds import KIND, StoredBackground, mark_of
from hlmm_scan.cohort.cohort import Cohort, CohortBuilder
from hlmm_scan.cohort.offsets import residual_deviation
from hlmm_scan.cohort.study import AtHand
from hlmm_scan.config import ScanConfig, absolute
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes import in_use as genotypes_in_use
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES
from hlmm_scan.genotypes.joined import parts_of
from hlmm_scan.polygenic import store as stores
from hlmm_scan.polygenic.blocks import Filters, chromosomes_of, cut_blocks
from hlmm_scan.polygenic.folds import folds_of
from hlmm_scan.polygenic.people import People, check_folds
from hlmm_scan.polygenic.plan import DEFAULT_BLOCK_SIZE, DEFAULT_FOLDS, SHARES, Part, Plan
from hlmm_scan.polygenic.scores import variance_scores
from hlmm_scan.polygenic.task import INPUTS, PREDICTORS, Level, Record, Task, run_task
from hlmm_scan.scan.clusters import Cluster
from hlmm_scan.scan.inputs import Inputs, read_inputs
from hlmm_scan.scan.planning import cohort_of, none_or_all
from hlmm_scan.scan.pools import DaskPool, Pool, SerialPool
from hlmm_scan.scan.progress import Progress
from hlmm_scan.scan.provenance import input_paths, software
from hlmm_scan.scan.worker import let_go
from hlmm_scan.staging import refuse_link, staged_folder, stands
from hlmm_scan.storage import zarr_store
from hlmm_scan.storage.arrays import CheckedArray
from hlmm_scan.storage.journal import Journal

logger = logging.getLogger(__name__)

WORKING = "working"
"""Folder beside the unfinished store: what tasks read, level 0's predictors, the journal."""

JOURNAL = "done.jsonl"

Rows = NDArray[np.int64]

_DEADLY = "ended every worker that tried it; workers have too little memory?"
_MOST_FOLDS = 100


@dataclass(frozen=True)
class Stacking:
    """How a background is made.

    Attributes
    ----------
    block_size : int, default 1000
        Variants of a block, about.
    folds : int, default 5
        Of people, for cross-validation.
    variance : bool, default False
        Predict the log-variance as well.
    """

    block_size: int = DEFAULT_BLOCK_SIZE
    folds: int = DEFAULT_FOLDS
    variance: bool = False

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise InputError(f"block_size must be at least 1, not {self.block_size}")
        if not 2 <= self.folds <= _MOST_FOLDS:
            raise InputError(f"folds must be between 2 and {_MOST_FOLDS}, not {self.folds}")


def make_background(
    config: ScanConfig,
    stacking: Stacking,
    *,
    overwrite: bool = False,
    tables: AtHand | None = None,
    cluster: Cluster | None = None,
) -> StoredBackground:
    """Predict traits from the other chromosomes, and write the predictions.

    What was killed or interrupted goes on where it stopped when the same is asked for again, with
    the same result to the last bit.

    Parameters
    ----------
    config : ScanConfig
        Genotypes, tables, people, filters, and the output.
    stacking : Stacking
    overwrite : bool, default False
        Replace a background that stands at the output.
    tables : mapping of Path to DataFrame, Dataset or DataArray, optional
        Tables in memory, by the paths that stand for them in the configuration.
    cluster : Cluster, optional
        Where tasks are done; without one, in this process.

    Raises
    ------
    InputError
        If an input is wrong, or something else stands at the output.
    StoreHeldError
        If the genotypes are being replaced.
    InfrastructureError
        If workers were lost.
    """
    config = absolute(config)
    output = config.output
    if not isinstance(output, Path):
        raise InputError(f"{output}: a background is written to a folder, not to an object store")
    if stands(output):
        refuse_link(output)
        if (mark_of(output) or {}).get("kind") != KIND:
            raise InputError(f"{output}: holds something else; choose another --output")
    with genotypes_in_use.being_read(config.genotypes):
        inputs = read_inputs(config, tables)
        parameters = {**_parameters(inputs), "block_size": stacking.block_size}
        parameters |= {"folds": stacking.folds, "variance": stacking.variance}
        parameters["shares"] = list(SHARES)
        if stands(output) and not overwrite:
            return _same(output, parameters)
        pool: Pool[Task, Record] = SerialPool(run_task)
        if cluster is not None:
            pool = DaskPool(cluster, run_task, _DEADLY)
        try:
            _make(inputs, stacking, parameters, output, pool, replace=stands(output))
        finally:
            let_go()
    return StoredBackground(output)


def _parameters(inputs: Inputs) -> dict[str, Any]:
    """Return what the numbers depend on of what is known of a scan, as JSON types."""
    asked = inputs.parameters()
    about_tests = {
        *("model", "covariate_mode", "random_effects", "loco", "se", "screen", "refine_below"),
        *("sandwich", "likelihood_ratio", "hwe", "sex_on_x", "offset", "offset_as"),
        *("offset_units", "interaction", "interaction_variance"),
    }
    return {name: value for name, value in asked.items() if name not in about_tests}


def _same(output: Path, parameters: Mapping[str, Any]) -> StoredBackground:
    """Open a background that stands there, if it was made of the same."""
    found = StoredBackground(output)
    stored = found.attributes["parameters"]
    wanted = json.loads(json.dumps(parameters))
    differing = [name for name in wanted if stored.get(name) != wanted[name]]
    if differing:
        raise InputError(
            f"{output}: a background made otherwise stands there (by {', '.join(differing)}); "
            "--overwrite replaces it"
        )
    logger.info("%s: complete already", output)
    return found


def _make(
    inputs: Inputs,
    stacking: Stacking,
    parameters: Mapping[str, Any],
    output: Path,
    pool: Pool[Task, Record],
    *,
    replace: bool,
) -> None:
    started = _now()
    samples = inputs.genotypes.samples
    folds = folds_of(samples.individual_id, stacking.folds)
    cohorts, left_out = _cohorts(inputs, folds)
    config = inputs.config
    autosomes = config.autosomes or HUMAN_AUTOSOMES
    filters = Filters(config.min_maf, config.min_mac, config.max_missing, config.min_info)
    blocks = cut_blocks(inputs.genotypes, filters, stacking.block_size, autosomes)
    every = [contig for part in parts_of(inputs.genotypes) for contig in part.contigs]
    chromosomes = chromosomes_of(every, autosomes)
    rows = np.concatenate([block.rows for block in blocks])
    stops = np.cumsum([len(block.rows) for block in blocks]).tolist()
    plan = Plan(
        run_id=uuid.uuid4().hex,
        genotypes=tuple(map(str, inputs.genotypes.paths)),
        fingerprint=inputs.genotypes.fingerprint,
        n_samples=len(samples.individual_id),
        phenotypes=tuple(cohort.phenotype for cohort in cohorts),
        residual_sd=tuple(residual_deviation(cohort) for cohort in cohorts),
        chromosomes=tuple(chromosomes),
        blocks=tuple(
            (chromosomes.index(block.chromosome), start, stop)
            for block, start, stop in zip(blocks, [0, *stops[:-1]], stops, strict=True)
        ),
        regions=None
        if inputs.regions is None
        else (inputs.regions.autosomes, inputs.regions.build),
        variance=stacking.variance,
    )
    if inputs.selection.rows is not None:
        rows = np.asarray(inputs.selection.rows)[rows]
    sex = samples.sex if inputs.sex is None else inputs.sex.codes
    purpose = json.dumps(dict(parameters), sort_keys=True)
    with staged_folder(output, replace=replace, resume=purpose) as store:
        work = _Working(store, store.parent / WORKING, plan, pool)
        stores.create(store, plan, samples)
        for part in plan.parts:
            responses = cohorts if part == "mean" else _scores(store, cohorts)
            work.prepare(part, People.of(responses, folds), rows, sex)
            work.do(part, "block", len(plan.blocks))
            work.do(part, "trait", len(plan.phenotypes))
        stores.finish(
            store,
            {part: [r for r in done if r.level == "trait"] for part, done in work.done.items()},
            hashlib.sha256(purpose.encode()).hexdigest(),
            {
                "parameters": dict(parameters),
                "phenotypes_left_out": left_out,
                "effect_scale": inputs.cohort.transform.scale,
                "autosomes": autosomes,
                "variants": len(rows),
                "blocks": len(blocks),
                "inputs": input_paths(inputs, plan.genotypes),
                "software": software(),
                "started": started,
                "finished": _now(),
            },
        )


class _Working:
    """The parts of a background while they are made: their folders, journals and records.

    Parameters
    ----------
    store : Path
        The unfinished background.
    folder : Path
        Of all parts; one of each in it.
    plan : Plan
    pool : Pool
    """

    def __init__(self, store: Path, folder: Path, plan: Plan, pool: Pool[Task, Record]) -> None:
        self.store, self.folder, self.plan, self.pool = store, folder, plan, pool
        self.journals = {part: Journal(folder / part / JOURNAL) for part in plan.parts}
        self.done = {
            part: [Record(**noted) for noted in journal.records()]
            for part, journal in self.journals.items()
        }
        stores.remove_unvouched(store, anything_done=any(self.done.values()))

    def prepare(self, part: Part, people: People, rows: Rows, sex: NDArray[np.int8]) -> None:
        """Write what tasks of a part read."""
        working, done = self.folder / part, self.done[part]
        (working / INPUTS).mkdir(parents=True, exist_ok=True)
        stores.remove_unvouched(working / PREDICTORS, anything_done=bool(done))
        people.write(working / INPUTS)
        self.plan.write(working / INPUTS, rows, sex)
        stores.create_predictors(working, self.plan, len(people.samples))
        self.journals[part].begin(record.to_json() for record in done)

    def do(self, part: Part, level: Level, count: int) -> None:
        """Do what is not done of a level, and note it."""
        before = {record.index for record in self.done[part] if record.level == level}
        unit = f"{level}s" if part == "mean" else f"{level}s of the variance"
        if before:
            logger.info("%d of %d %s are done", len(before), count, unit)
        if len(before) == count:
            return
        where = str(self.folder / part), str(self.store), self.plan.run_id
        tasks = (Task(level, k, part, *where) for k in range(count) if k not in before)
        with Progress(count, unit, len(before)) as progress:
            for record in self.pool.run(tasks):
                self.journals[part].note(record.to_json())
                self.done[part].append(record)
                progress.advance(1)


def _scores(store: Path, cohorts: Sequence[Cohort]) -> list[Cohort]:
    """Return the variance scores of every trait less its prediction."""
    group = zarr.open_group(zarr_store(store, read_only=True), mode="r", use_consolidated=False)
    predictions = group["whole_genome_prediction"]
    assert isinstance(predictions, zarr.Array)
    found = []
    for number, cohort in enumerate(cohorts):
        row = CheckedArray(predictions)[number].astype(np.float64)
        found.append(variance_scores(cohort, row[cohort.samples]))
    return found


def _cohorts(inputs: Inputs, folds: Any) -> tuple[list[Cohort], dict[str, str]]:
    """Assemble the people of every phenotype; tell which cannot be analysed, and why."""
    builder = CohortBuilder(
        inputs.genotypes.samples,
        inputs.phenotypes,
        inputs.mean_covariates,
        inputs.variance_covariates,
        strict=bool(inputs.config.strict),
        **inputs.cohort.for_builder(),
    )
    cohorts, reasons = [], {}
    for name in inputs.phenotypes.columns:
        try:
            cohort, _ = cohort_of(inputs, builder, name)
            check_folds(cohort, folds)
        except InputError as error:
            reasons[name] = str(error)
            continue
        cohorts.append(cohort)
    if reasons and (inputs.config.strict or not cohorts):
        raise InputError(none_or_all(reasons, len(inputs.phenotypes.columns)))
    for name, reason in reasons.items():
        logger.warning("%s is left out: %s", name, reason)
    return cohorts, reasons


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
