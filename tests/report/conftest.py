"""A small real scan whose names are as nasty as names can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_results import NASTY_TRAIT, NASTY_VARIANT

from hlmm_scan.config import ScanConfig
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.simulate import simulate_cohort


@pytest.fixture(scope="session")
def scanned(tmp_path_factory) -> ResultStore:
    """500 people, 3 chromosomes of 30 variants, 20 random effects, two traits, nasty names."""
    folder = tmp_path_factory.mktemp("scanned")
    cohort = simulate_cohort(
        folder / "cohort",
        n_samples=500,
        variants_per_chromosome=30,
        n_random_effects=20,
        seed=4,
    )
    for bed in cohort.beds:
        bim = bed.with_suffix(".bim")
        lines = [line.split("\t") for line in bim.read_text().splitlines()]
        for k, cells in enumerate(lines):
            cells[1] = cells[1] if k % 2 else f"{NASTY_VARIANT}{cells[1]}"
        bim.write_text("".join("\t".join(cells) + "\n" for cells in lines))
    random = pd.read_csv(cohort.random_effects, header=None)[0].astype(str)
    known = {
        line.split("\t")[1].removeprefix(NASTY_VARIANT): line.split("\t")[1]
        for bed in cohort.beds
        for line in bed.with_suffix(".bim").read_text().splitlines()
    }
    (folder / "random.txt").write_text("".join(f"{known[name]}\n" for name in random))
    table = pd.read_csv(cohort.phenotypes, sep="\t")
    table[NASTY_TRAIT] = np.exp(table["trait1"])
    table.loc[:40, NASTY_TRAIT] = np.nan
    table.to_csv(folder / "phenotypes.tsv", sep="\t", index=False, na_rep="NA")
    convert(cohort.beds, folder / "genotypes.zarr", chunk_variants=15)
    config = ScanConfig(
        genotypes=folder / "genotypes.zarr",
        phenotypes=folder / "phenotypes.tsv",
        mean_covariates=cohort.covariates,
        random_effects=folder / "random.txt",
        output=folder / "nasty.zarr",
        workers=1,
    )
    return run.scan(config, executor=SerialExecutor())


@pytest.fixture
def report_path(tmp_path) -> Path:
    """Where a report goes."""
    return tmp_path / "report.html"
