"""One HLM or HLMM from tables, without a test variant: what ``hlmm-scan fit`` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pandas as pd

from hlmm_scan.cohort.cohort import CohortBuilder
from hlmm_scan.cohort.join import join
from hlmm_scan.cohort.options import read_options
from hlmm_scan.cohort.study import StudyColumns, read_study
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.open import open_dataset
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.models.fit import Information
from hlmm_scan.null.fit import CovariateFit, fit_covariates
from hlmm_scan.null.random_effects import load_random_effects
from hlmm_scan.outputs import staged_text
from hlmm_scan.separators import separator_by_name
from hlmm_scan.storage import Place

COLUMNS = ("part", "name", "estimate", "standard_error", "neg_log10_p")


def fit_tables(
    phenotypes: Path,
    *,
    phenotype: str | None = None,
    mean_covariates: Path | Sequence[Path] = (),
    variance_covariates: Path | Sequence[Path] = (),
    mean_covariate: Sequence[str] = (),
    variance_covariate: Sequence[str] = (),
    random_effects: Place | None = None,
    genotypes: Place | None = None,
    information: Information = "expected",
    missing_values: Sequence[str] = ("NA",),
    categorical: Sequence[str] = (),
    **options: Any,
) -> CovariateFit:
    """Fit one phenotype on its covariates.

    Parameters
    ----------
    phenotypes : Path
        Phenotype table; its people are analysed.
    phenotype : str, optional
        Column; default the first.
    mean_covariates, variance_covariates : Path or sequence of Path, optional
        Tables of covariates.
    mean_covariate, variance_covariate : sequence of str, default ()
        Columns of theirs; see :class:`~hlmm_scan.cohort.study.StudyColumns`.
    random_effects : Path or ObjectPath, optional
        A genotype dataset, or a list of variant ids of `genotypes`; without it, the HLM.
    genotypes : Path or ObjectPath, optional
        Genotype dataset that a list refers to.
    information : {"expected", "observed"}, default "expected"
    missing_values : sequence of str, default ("NA",)
    categorical : sequence of str, default ()
        Covariates whose cells are levels although they are numbers.
    **options
        About people, transforms and covariates: options of
        :func:`~hlmm_scan.cohort.options.read_options`.

    Returns
    -------
    CovariateFit

    Raises
    ------
    InputError
        As for a scan.
    """
    mean_covariates, variance_covariates = (
        (paths,) if isinstance(paths, Path) else tuple(paths)
        for paths in (mean_covariates, variance_covariates)
    )
    asked = StudyColumns(
        phenotypes,
        phenotype=() if phenotype is None else (phenotype,),
        mean_covariates=mean_covariates,
        variance_covariates=variance_covariates,
        mean_covariate=tuple(mean_covariate),
        variance_covariate=tuple(variance_covariate),
    )
    study = read_study(asked, missing_values=missing_values, categorical=categorical)
    name, *others = study.phenotypes.columns
    if phenotype is not None and others:
        raise InputError(f"'{phenotype}' is {len(others) + 1:,} phenotypes; name one")
    table = study.phenotypes.select([name])
    samples = SampleIds(table.individual_id, table.family_id)
    mean, variance = (join(samples, of) for of in (study.mean, study.variance))
    source = None
    if random_effects is not None:
        dataset = open_dataset(genotypes) if genotypes else None
        source = load_random_effects(random_effects, dataset, samples)
    wishes = read_options(samples, (mean, variance), categorical=categorical, **options)
    if source is not None:
        wishes = wishes.restricted(not_in_random_effects=source.available)
    builder = CohortBuilder(samples, table, mean, variance, **wishes.for_builder())
    cohort = builder.build(name)
    effects = None if source is None else source.for_people(cohort.samples, name)
    return fit_covariates(cohort, effects, information)


def write_effects(fit: CovariateFit, output: Path) -> None:
    """Write a fit as a table, one parameter a row, all at once.

    Separated by commas where the name ends in .csv, else by tabs.

    Parameters
    ----------
    fit : CovariateFit
    output : Path

    Raises
    ------
    InputError
        If the file cannot be written, or its name stands for something else.
    """
    separator = separator_by_name(output)
    frame = pd.DataFrame([astuple(effect) for effect in fit.effects], columns=list(COLUMNS))
    with staged_text(output) as file:
        frame.to_csv(file, sep=separator, index=False, na_rep="NA", lineterminator="\n")
