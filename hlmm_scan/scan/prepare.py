"""From the inputs to the first task: the plan, how many workers it takes, the store."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import time
import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
from dask.utils import parse_bytes

from hlmm_scan import __version__, signals
from hlmm_scan.cohort.cohort import Cohort, CohortBuilder
from hlmm_scan.cohort.derived import with_environment
from hlmm_scan.cohort.offsets import Offsets
from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, linkage_group
from hlmm_scan.genotypes.joined import Genotypes, JoinedGenotypes
from hlmm_scan.genotypes.ploidy import Ploidy
from hlmm_scan.kernels.block import FitOptions
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.models.relationship import by_relationship
from hlmm_scan.null.chromosomes import check_sex
from hlmm_scan.null.cost import fits_seconds, sets_seconds
from hlmm_scan.results.in_use import being_changed
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.cluster_file import read_cluster_file
from hlmm_scan.scan.clusters import RunningScheduler
from hlmm_scan.scan.executors import available_cores
from hlmm_scan.scan.inputs import Inputs
from hlmm_scan.scan.memory import available_bytes
from hlmm_scan.scan.null_models import needs_principal_axes, write_null_models
from hlmm_scan.scan.plan import USUAL_TEXT, Plan, partition_size, phenotypes_together
from hlmm_scan.scan.preparation import Preparation, clear
from hlmm_scan.scan.worker import pin_threads
from hlmm_scan.schema import result_variables
from hlmm_scan.staging import staged_store

logger = logging.getLogger(__name__)

_COORDINATE_ROWS = 65_536
_REASONS_TOLD = 5
_VERSIONED = ("dask", "distributed", "numba", "numpy", "scipy", "xarray", "zarr")


class _CannotBeFitted(Exception):
    """Phenotypes without a null model, with the reasons."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = reasons


def make_plan(
    inputs: Inputs, left_out: Mapping[str, str] | None = None
) -> tuple[Plan, CohortBuilder]:
    """Assemble every phenotype's people and cut the scan into partitions; nothing is written.

    Parameters
    ----------
    inputs : Inputs
    left_out : mapping of str to str, optional
        Phenotypes that are known to be impossible, with the reasons.

    Returns
    -------
    Plan
        Of the phenotypes that can be analysed.
    CohortBuilder
        Builds the same people again: designs of all phenotypes at once may not fit into memory.

    Raises
    ------
    InputError
        If no phenotype can be analysed (or, in a strict scan, one cannot), or a task does not fit
        into memory.
    """
    asked = inputs.cohort
    if inputs.random_effects is not None:
        asked = asked.restricted(not_in_random_effects=inputs.random_effects.available)
    builder = CohortBuilder(
        inputs.genotypes.samples,
        inputs.phenotypes,
        inputs.mean_covariates,
        inputs.variance_covariates,
        strict=bool(inputs.config.strict),
        **asked.for_builder(),
    )
    known = dict(left_out or {})
    reasons: dict[str, str] = {}
    people, mean, variance = {}, 1, 1
    for name in inputs.phenotypes.columns:
        try:
            if name in known:
                raise InputError(known[name])
            cohort, _ = _cohort(inputs, builder, name, announce=not known)
        except InputError as error:
            reasons[name] = str(error)
            continue
        people[name] = len(cohort)
        if inputs.config.covariate_mode != "seed":
            mean = max(mean, len(cohort.mean_design.names))
            variance = max(variance, len(cohort.variance_design.names))
    if reasons and (inputs.config.strict or not people):
        raise InputError(_none_or_all(reasons, len(inputs.phenotypes.columns)))
    for name in set(reasons) - set(known):
        logger.warning("%s is left out: %s", name, reasons[name])
    fitted = inputs.offsets is not None and inputs.offsets.use == "covariate"
    genotypes = inputs.genotypes
    model = ModelSize(
        people=max(people.values()),
        mean=mean + fitted,
        variance=variance,
        random=0 if inputs.random_effects is None else len(inputs.random_effects.genotypes),
        screen=inputs.config.screens,
        dosages=genotypes.unit > 0,
        interaction=inputs.environment is not None,
    )
    on_x = None
    if inputs.sex_on_x and inputs.config.covariate_mode != "seed":
        on_x = dataclasses.replace(model, mean=model.mean + 1, variance=model.variance + 1)
        if all(kind.ploidy is Ploidy.X for kind in inputs.kinds):
            model = on_x
    sizes: dict[str, Any] = {
        "model": model,
        "n_genotyped": genotypes.n_samples,
        "chunk_variants": genotypes.chunk_variants,
    }
    together = phenotypes_together(
        chunk_variants=inputs.config.partition_variants or genotypes.chunk_variants,
        n_variants=genotypes.n_variants,
        n_phenotypes=len(people),
        model=model,  # sex, a covariate on X, does not part them elsewhere
    )
    plan = Plan.of(
        phenotypes=tuple(people),
        people=tuple(people.values()),
        n_variants=genotypes.n_variants,
        partition_variants=partition_size(
            n_variants=genotypes.n_variants,
            n_phenotypes=len(people),
            wanted=inputs.config.partition_variants,
            together=together,
            **sizes,
        ),
        together=together,
        genotypes=tuple(map(str, genotypes.paths)),
        parameters=inputs.parameters(),
        held_bytes=genotypes.held_bytes if isinstance(genotypes, JoinedGenotypes) else 0,
        on_x=on_x,
        left_out=reasons,
        **sizes,
    )
    return _with_null_models(inputs, plan), builder


def _with_null_models(inputs: Inputs, plan: Plan) -> Plan:
    """Add to a plan what its null models take, where there are random effects."""
    effects, model = inputs.random_effects, plan.model
    if effects is None:
        return plan
    contigs = {linkage_group(c, effects.autosomes) for c in inputs.genotypes.contigs}
    sets = 1 + (len(contigs & set(effects.contigs)) if inputs.loco else 0)
    # People of the same number are nearly always the same.
    groups = len(set(plan.people))
    principal = needs_principal_axes(inputs, model.variance)
    n, n_random = model.people, model.random
    fits = fits_seconds(n, model.mean, model.variance, n_random, sets)
    return dataclasses.replace(
        plan,
        null_steps=sets * (groups + len(plan.phenotypes)),
        null_seconds=groups * sets_seconds(n, n_random, sets, principal=principal)
        + len(plan.phenotypes) * fits,
    )


def _none_or_all(reasons: Mapping[str, str], n_asked: int) -> str:
    """Return why no phenotype is analysed, all of their faults in one line."""
    told = list(reasons.values())[:_REASONS_TOLD]
    if len(reasons) == 1 and n_asked == 1:
        return told[0]
    more = f"; and {len(reasons) - len(told):,} more" if len(reasons) > len(told) else ""
    return f"{len(reasons)} of {n_asked} phenotypes cannot be analysed: {'; '.join(told)}{more}"


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


def _purpose(plan: Plan) -> str:
    """Say of what a store is made: one that was left half made of the same is gone on with."""
    return json.dumps(["scan", plan.to_json(), _software()], sort_keys=True, default=str)


@signals.work_kept()  # null models that are done
def write_store(
    inputs: Inputs, plan: Plan, builder: CohortBuilder, *, replace: bool = False
) -> ResultStore:
    """Fit the null models and make the store, all of it or, whatever happens, nothing.

    A phenotype whose null model cannot be fitted is left out, and the store made again without it.

    Parameters
    ----------
    inputs : Inputs
    plan : Plan
    builder : CohortBuilder
    replace : bool, default False
        Whether a store that stands at the output is replaced, once the new one is whole.

    Raises
    ------
    InputError
        If no null model can be fitted (or, in a strict scan, one cannot), or the store cannot be
        written.
    """
    try:
        return _write_store(inputs, plan, builder, replace)
    except _CannotBeFitted as error:
        plan, builder = make_plan(inputs, {**plan.left_out, **error.reasons})
    return write_store(inputs, plan, builder, replace=replace)


def _write_store(inputs: Inputs, plan: Plan, builder: CohortBuilder, replace: bool) -> ResultStore:
    assert inputs.config.output is not None
    pin_threads()
    output, options = inputs.config.output, fit_options(plan)
    threads = preparation_threads(inputs.config, plan)
    with (
        staged_store(
            output, replace=replace, resume=_purpose(plan), held=being_changed
        ) as unfinished,
        Preparation(unfinished, threads, plan.null_steps) as work,
    ):
        clear(unfinished)
        store = ResultStore.create(
            unfinished,
            phenotypes=plan.phenotypes,
            n_variants=plan.n_variants,
            chunk_variants=plan.partition_variants,
            variables=result_variables(
                random_effects=inputs.random_effects is not None,
                sandwich=bool(inputs.config.sandwich),
                likelihood_ratio=bool(inputs.config.likelihood_ratio),
                trait_unit=inputs.cohort.transform.unit,
                haploid=inputs.haploid,
                info=options.info,
                hwe=options.hwe,
                interaction=inputs.environment is not None,
            ),
            attributes=_provenance(inputs, plan),
            plan=plan.to_json(),
        )
        if inputs.selection.rows is not None:
            store.put_genotype_rows(inputs.selection.rows)
        longest = _write_coordinates(store, inputs.genotypes)
        if longest > 0:
            plan = plan.with_text(longest)
            store.put_plan(plan.to_json())
            logger.info(
                "long alleles: memory per task is %s MiB", f"{plan.task_bytes / 2**20:,.0f}"
            )
        contigs = sorted(inputs.genotypes.contigs)
        unfit: dict[str, str] = {}
        for name in plan.phenotypes:
            cohort, offsets = _cohort(inputs, builder, name, announce=False)
            try:
                write_null_models(inputs, cohort, offsets, contigs, store, work)
            except InputError as error:
                logger.warning("%s is left out: %s", name, error)
                unfit[name] = str(error)
        if unfit:
            raise _CannotBeFitted(unfit)
        store.seal()
    return ResultStore.open(output)


def fit_options(plan: Plan) -> FitOptions:
    """Return the options of the per-variant fits, as the plan holds them."""
    return options_of(plan.parameters, dosages=plan.model.dosages)


def options_of(p: Mapping[str, Any], *, dosages: bool) -> FitOptions:
    """Return the options of the per-variant fits.

    Parameters
    ----------
    p : mapping of str to Any
        As :meth:`~hlmm_scan.scan.inputs.Inputs.parameters` gives them.
    dosages : bool
        Whether there are dosages among the genotypes.
    """
    return FitOptions(
        min_maf=p["min_maf"],
        min_mac=p["min_mac"],
        max_missing=p["max_missing"],
        inference=Inference(
            observed=p["se"] == "observed",
            sandwich=p["sandwich"],
            likelihood_ratio=p["likelihood_ratio"],
            interaction=p.get("interaction") is not None,
        ),
        screen=p["screen"],
        refine_below=p["refine_below"] or 0.0,
        # What a store of before does not know of was not asked for.
        # Information may be negative; where none was asked for it filters nobody.
        min_info=-np.inf if p.get("min_info") is None else p["min_info"],
        min_hwe_p=p.get("hwe") or 0.0,
        info=dosages or p.get("min_info") is not None,
        hwe=p.get("hwe") is not None,
    )


def _cohort(
    inputs: Inputs, builder: CohortBuilder, name: str, *, announce: bool = True
) -> tuple[Cohort, Offsets | None]:
    """Assemble the people of a phenotype, and see that all is known of them that is needed."""
    offsets = None if inputs.offsets is None else inputs.offsets.read(name)
    also = {} if offsets is None else {"not_predicted": offsets.available}
    exposure = inputs.exposure
    if exposure is not None:
        also["environment_missing"] = np.isfinite(exposure)
    cohort = builder.build(name, announce=announce, restrictions=also)
    if exposure is not None:
        cohort = with_environment(
            cohort,
            str(inputs.config.interaction),
            exposure[cohort.samples],
            in_variance=bool(inputs.config.interaction_variance),
        )
    if inputs.sex is not None:
        ids = inputs.genotypes.samples.individual_id
        check_sex(cohort, inputs.kinds, inputs.sex, ids)
    if offsets is not None:
        for kind in inputs.kinds:
            offsets.row(kind.contig)
    return cohort, offsets


def _write_coordinates(store: ResultStore, genotypes: Genotypes) -> int:
    """Write the variant table; return the characters that one block has beyond the usual."""
    longest = 0
    for start in range(0, genotypes.n_variants, _COORDINATE_ROWS):
        table = genotypes.variants(start, min(start + _COORDINATE_ROWS, genotypes.n_variants))
        store.write_variants(
            start,
            {
                "variant_id": table.variant_id,
                "contig": table.contig,
                "position": table.position,
                "effect_allele": table.effect_allele,
                "other_allele": table.other_allele,
            },
        )
        texts = (table.variant_id, table.effect_allele, table.other_allele)
        written = sum(len("".join(column.tolist())) for column in texts)
        longest = max(longest, written - USUAL_TEXT * len(table.position))
    return longest


def _software() -> dict[str, str]:
    return {
        "hlmm_scan": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _VERSIONED},
    }


def _paths(given: Any) -> str | list[str]:
    """Return one path, or several, as text."""
    if not isinstance(given, tuple):
        return str(given)
    return str(given[0]) if len(given) == 1 else [str(one) for one in given]


def _provenance(inputs: Inputs, plan: Plan) -> dict[str, Any]:
    """Return the attributes of the store: what was run, on what, with which software."""
    seed_mode = inputs.config.covariate_mode == "seed"
    return {
        "run_id": uuid.uuid4().hex,
        "run_status": "incomplete",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "parameters": dict(plan.parameters),
        "phenotypes_left_out": dict(plan.left_out),
        "autosomes": inputs.config.autosomes or HUMAN_AUTOSOMES,
        "inputs": {
            "genotypes": plan.genotypes[0] if len(plan.genotypes) == 1 else list(plan.genotypes),
            **{
                name: _paths(getattr(inputs.config, name))
                for name in (
                    "phenotypes",
                    "mean_covariates",
                    "variance_covariates",
                    "random_effects",
                    "keep",
                    "remove",
                    "condition_list",
                    "extract",
                    "exclude",
                    "sex_table",
                    "offset",
                )
                if getattr(inputs.config, name) not in (None, ())
            },
        },
        "software": _software(),
        "effects_per": "copy of effect_allele",
        "effect_scale": (
            "null residual over its per-person null standard deviation (covariate mode seed): not "
            "comparable with effects of other modes"
            if seed_mode
            else inputs.cohort.transform.scale
        ),
        "log_likelihood_of": (
            "the null residual over its per-person null standard deviation"
            if seed_mode
            else f"the phenotype as analysed: {inputs.cohort.transform.scale}"
        ),
    }
