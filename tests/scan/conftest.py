"""A small simulated cohort with three phenotypes, its datasets, and scans of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hlmm_scan.config import ScanConfig
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.simulate import SimulatedCohort, simulate_cohort

TRAITS = ("trait1", "a/b", "count")


@dataclass
class Bench:
    """Files of one cohort and the options of the kinds of scans there are."""

    folder: Path
    cohort: SimulatedCohort
    phenotypes: Path
    datasets: dict[int, Path] = field(default_factory=dict)
    references: dict[str, Path] = field(default_factory=dict)

    def genotypes(self, chunk: int = 12) -> Path:
        """The genotype dataset in chunks of that many variants."""
        if chunk not in self.datasets:
            path = self.folder / f"genotypes-{chunk}.zarr"
            convert(self.cohort.beds, path, chunk_variants=chunk)
            self.datasets[chunk] = path
        return self.datasets[chunk]

    def options(self, kind: str) -> dict[str, Any]:
        """Options of a kind of scan."""
        covariates = {
            "mean_covariates": self.cohort.covariates,
            "variance_covariates": self.cohort.covariates,
        }
        random_effects = {
            "random_effects": self.cohort.random_effects,
            "phenotype": TRAITS[:2],  # the HLMM takes its time
        }
        return {
            "hlm": {},
            "joint": covariates,
            "hlmm": random_effects,
            "seed": {**covariates, **random_effects, "covariate_mode": "seed"},
        }[kind]

    def config(self, output: Path, kind: str = "hlm", **changed: Any) -> ScanConfig:
        """A configuration of that kind of scan, in this process."""
        options = {
            "genotypes": self.genotypes(changed.pop("chunk", 12)),
            "phenotypes": self.phenotypes,
            "output": output,
            "workers": 1,
            **self.options(kind),
        }
        return ScanConfig(**{**options, **changed})

    def scan(self, output: Path, kind: str = "hlm", executor: Any = None, **changed: Any) -> Path:
        """Run a whole scan and return its store."""
        config = self.config(output, kind, **changed)
        return run.scan(config, executor=executor or SerialExecutor()).path

    def reference(self, kind: str) -> Path:
        """An undisturbed scan of that kind, made once."""
        if kind not in self.references:
            self.references[kind] = self.scan(self.folder / f"reference-{kind}.zarr", kind)
        return self.references[kind]


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Bench:
    """150 people, 3 chromosomes of 24 variants, 18 random effects, 3 phenotypes."""
    folder = tmp_path_factory.mktemp("bench")
    cohort = simulate_cohort(
        folder / "cohort",
        n_samples=150,
        variants_per_chromosome=24,
        n_random_effects=18,
        missing_calls=0.03,
        seed=5,
    )
    table = pd.read_csv(cohort.phenotypes, sep="\t")
    rng = np.random.default_rng(3)
    table["a/b"] = 1e3 * (table["trait1"] + rng.standard_normal(len(table)))
    table["count"] = rng.gamma(2.0, size=len(table))
    table.loc[rng.random(len(table)) < 0.1, "a/b"] = np.nan
    table.loc[rng.random(len(table)) < 0.2, "count"] = np.nan
    phenotypes = folder / "phenotypes.tsv"
    table.to_csv(phenotypes, sep="\t", index=False, na_rep="NA")
    return Bench(folder, cohort, phenotypes)
