"""The null models of a scan, fitted and stored: the default and those of some chromosomes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from hlmm_scan.cohort.cohort import Cohort
from hlmm_scan.cohort.offsets import Offsets
from hlmm_scan.null.chromosomes import wanted_null_models
from hlmm_scan.null.fit import CovariateFit, fit_null
from hlmm_scan.null.model import NullModel, RandomEffects
from hlmm_scan.null.serving import Kind, Serving
from hlmm_scan.null.store import (
    write_null_model,
    write_random_effects,
    write_serving,
)
from hlmm_scan.null.work import Work
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.inputs import Inputs

logger = logging.getLogger(__name__)


def write_null_models(
    inputs: Inputs,
    cohort: Cohort,
    offsets: Offsets | None,
    contigs: list[str],
    store: ResultStore,
    work: Work,
) -> None:
    """Fit and store all null models of a phenotype, the default and those of some chromosomes.

    Parameters
    ----------
    inputs : Inputs
    cohort : Cohort
        The people of the phenotype.
    offsets : Offsets or None
        The predictions of the phenotype.
    contigs : list of str
        Chromosomes that are left out of the random effects, each in turn, where the scan is LOCO.
    store : ResultStore
        Not yet sealed.
    work : Work
        Does it.

    Raises
    ------
    InputError
        If a null model cannot be fitted.
    """
    sex = inputs.genotypes.samples.sex if inputs.sex is None else inputs.sex.codes
    keys: dict[Kind, str] = {}
    default: NullModel | None = None
    effects: RandomEffects | None = None
    shared = ""
    for wanted in wanted_null_models(cohort, inputs.kinds, sex, inputs.sex_on_x, offsets):
        people = wanted.cohort
        if default is not None or (offsets is not None and wanted.kinds):
            contigs = sorted({kind.contig for kind in wanted.kinds})
        if default is not None:
            keys.update(dict.fromkeys(wanted.kinds, wanted.key))
        if default is None or not np.array_equal(people.samples, default.samples):
            shared, effects = _random_effects(inputs, people, contigs, store, work)
        null, covariates = _null_model(inputs, people, contigs, (shared, effects), wanted.key, work)
        attributes = {
            **_who_and_what(people, covariates),
            "random_effects": shared,
            "serves": [[kind.contig, kind.ploidy.name] for kind in wanted.kinds],
        }
        group = store.null_group(cohort.phenotype, wanted.key)
        write_null_model(group, null, attributes, default)
        default = default or null
    assert default is not None
    regions, codes = (inputs.regions, sex) if inputs.haploid else (None, None)
    serving = Serving(keys, regions, codes)
    write_serving(store.null_group(cohort.phenotype), serving, default.samples)


def needs_principal_axes(inputs: Inputs, variance: int) -> bool:
    """Say whether fits need eigenvectors of the random effects as they are.

    Where the log-variance has covariates they weight people by them, and turn the axes afterwards.
    """
    return variance == 1 or inputs.config.covariate_mode == "seed"


def _random_effects(
    inputs: Inputs, cohort: Cohort, contigs: list[str], store: ResultStore, work: Work
) -> tuple[str, RandomEffects | None]:
    """Store the random effects of a phenotype; return them after their name there.

    The null fits take those of memory: to have K of each set from its columns costs a fraction of
    what reading its factor back does.
    """
    if inputs.random_effects is None:
        return "", None
    effects = inputs.random_effects.for_people(cohort.samples, cohort.phenotype)
    # Of a single chromosome, nothing is left when it is left out: the null fit says so.
    left_out = contigs if inputs.loco and len(set(effects.contigs)) > 1 else ()
    parent = store.group("random_effects")
    name = write_random_effects(
        parent,
        effects,
        effects.set_names(left_out),
        principal=needs_principal_axes(inputs, cohort.variance_design.matrix.shape[1]),
        work=work,
    )
    return name, effects


def _null_model(
    inputs: Inputs,
    cohort: Cohort,
    contigs: list[str],
    named_effects: tuple[str, RandomEffects | None],
    where: str,
    work: Work,
) -> tuple[NullModel, CovariateFit]:
    name, effects = named_effects
    null, covariates = fit_null(
        cohort,
        effects,
        seed_mode=inputs.config.covariate_mode == "seed",
        left_out=contigs if inputs.loco else (),
        work=work,
        effects_name=name,
    )
    logger.info(
        "%s%s: null model fitted, log-likelihood %.2f%s",
        cohort.phenotype,
        f" on {where}" if where else "",
        null.fits[""].log_likelihood,
        "" if effects is None else f", random variance {null.fits[''].random_variance:.4g}",
    )
    return null, covariates


def _who_and_what(cohort: Cohort, covariates: CovariateFit) -> Mapping[str, Any]:
    return {
        "people": len(cohort),
        "people_in_genotypes": cohort.n_reference,
        "dropped": dict(cohort.dropped),
        "phenotyped_but_not_in_genotypes": cohort.not_in_genotypes,
        "covariate_fit": covariates.to_json(),
    }
