"""From the plan to the first task: the store, with its null models."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from hlmm_scan import signals
from hlmm_scan.cohort.cohort import CohortBuilder
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.results.in_use import being_changed
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.concurrency import preparation_threads
from hlmm_scan.scan.inputs import Inputs
from hlmm_scan.scan.null_models import write_null_models
from hlmm_scan.scan.options import fit_options
from hlmm_scan.scan.plan import USUAL_TEXT, Plan
from hlmm_scan.scan.planning import cohort_of, make_plan
from hlmm_scan.scan.preparation import Preparation, clear
from hlmm_scan.scan.provenance import provenance, software
from hlmm_scan.scan.worker import pin_threads
from hlmm_scan.schema import result_variables
from hlmm_scan.staging import staged_store

logger = logging.getLogger(__name__)

_COORDINATE_ROWS = 65_536


class _CannotBeFitted(Exception):
    """Phenotypes without a null model, with the reasons."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = reasons


def _purpose(plan: Plan) -> str:
    """Say of what a store is made: one that was left half made of the same is gone on with."""
    return json.dumps(["scan", plan.to_json(), software()], sort_keys=True, default=str)


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
            attributes=provenance(inputs, plan),
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
            cohort, offsets = cohort_of(inputs, builder, name, announce=False)
            try:
                write_null_models(inputs, cohort, offsets, contigs, store, work)
            except InputError as error:
                logger.warning("%s is left out: %s", name, error)
                unfit[name] = str(error)
        if unfit:
            raise _CannotBeFitted(unfit)
        store.seal()
    return ResultStore.open(output)


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
