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
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.genotypes.dataset import GenotypeDataset
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
    only = None if phenotype is None else [phenotype]
    table = read_table(phenotypes, missing_values=missing_values, only=only, faults_by_column=True)
    name = phenotype or table.columns[0]
    table = table.select([name])
    samples = SampleIds(table.individual_id, table.family_id)
    given = [
        (paths,) if isinstance(paths, Path) else tuple(dict.fromkeys(paths))
        for paths in (mean_covariates, variance_covariates)
    ]
    tables = {
        path: read_table(path, missing_values=missing_values, categorical=categorical)
        for path in dict.fromkeys(path for paths in given for path in paths)
    }
    mean, variance = (join(samples, [tables[path] for path in paths]) for paths in given)
    source = None
    if random_effects is not None:
        dataset = GenotypeDataset.open(genotypes) if genotypes else None
        source = load_random_effects(random_effects, dataset, samples)
    asked = read_options(samples, (mean, variance), categorical=categorical, **options)
    if source is not None:
        asked = asked.restricted(not_in_random_effects=source.available)
    builder = CohortBuilder(samples, table, mean, variance, **asked.for_builder())
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
