"""From the inputs to the plan: every phenotype's people, and what their null models take."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from hlmm_scan.cohort.cohort import Cohort, CohortBuilder
from hlmm_scan.cohort.derived import with_environment
from hlmm_scan.cohort.offsets import Offsets
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import linkage_group
from hlmm_scan.genotypes.joined import JoinedGenotypes
from hlmm_scan.genotypes.ploidy import Ploidy
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.null.chromosomes import check_sex
from hlmm_scan.null.cost import fits_seconds, sets_seconds
from hlmm_scan.scan.inputs import Inputs
from hlmm_scan.scan.null_models import needs_principal_axes
from hlmm_scan.scan.plan import Plan, partition_size, phenotypes_together

logger = logging.getLogger(__name__)

_REASONS_TOLD = 5


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
            cohort, _ = cohort_of(inputs, builder, name, announce=not known)
        except InputError as error:
            reasons[name] = str(error)
            continue
        people[name] = len(cohort)
        if inputs.config.covariate_mode != "seed":
            mean = max(mean, len(cohort.mean_design.names))
            variance = max(variance, len(cohort.variance_design.names))
    if reasons and (inputs.config.strict or not people):
        raise InputError(none_or_all(reasons, len(inputs.phenotypes.columns)))
    for name in set(reasons) - set(known):
        logger.warning("%s is left out: %s", name, reasons[name])
    fitted = inputs.offsets is not None and inputs.offsets.use == "covariate"
    genotypes = inputs.genotypes
    model = ModelSize(
        people=max(people.values()),
        mean=mean + fitted,
        variance=variance + (inputs.offsets is not None and inputs.offsets.of_variance),
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


def none_or_all(reasons: Mapping[str, str], n_asked: int) -> str:
    """Return why no phenotype is analysed, all of their faults in one line."""
    told = list(reasons.values())[:_REASONS_TOLD]
    if len(reasons) == 1 and n_asked == 1:
        return told[0]
    more = f"; and {len(reasons) - len(told):,} more" if len(reasons) > len(told) else ""
    return f"{len(reasons)} of {n_asked} phenotypes cannot be analysed: {'; '.join(told)}{more}"


def cohort_of(
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
