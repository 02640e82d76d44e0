"""Genotypes and heritable traits made in a test, on disk as a user has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import hlmm_scan as hs


class Study:
    """People on three autosomes and X; one variant in four causal on chromosomes 1, 2 and X.

    Attributes
    ----------
    copies : ndarray of int8, shape (m, n)
        −1 where missing.
    traits, covariates : pandas.DataFrame
    """

    def __init__(self, folder: Path, n: int = 400, per_chromosome: int = 60, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.n, self.folder = n, folder
        self.contigs = np.repeat(["1", "2", "3", "X"], per_chromosome)
        m = len(self.contigs)
        self.sex = np.where(rng.random(n) < 0.5, 1, 2)
        frequency = rng.uniform(0.1, 0.5, (m, 1))
        copies = rng.binomial(2, frequency, (m, n)).astype(np.int8)
        on_x = self.contigs == "X"
        males = self.sex == 1
        copies[np.ix_(on_x, males)] = 2 * rng.binomial(
            1, frequency[on_x], (on_x.sum(), males.sum())
        )
        self.complete = copies.copy()
        copies[rng.random(copies.shape) < 0.01] = -1
        self.copies = copies
        self.people = pd.Index([f"p{i}" for i in range(n)], name="IID")
        self.covariates = pd.DataFrame(
            {"age": rng.normal(50, 10, n), "bmi": rng.normal(size=n)}, self.people
        )
        causal = (self.contigs != "3") & (np.arange(m) % 4 == 0)
        traits = {}
        for name in ("a", "b", "c", "d"):
            effects = np.where(causal, rng.normal(size=m), 0.0)
            genetic = effects @ (self.complete - self.complete.mean(axis=1, keepdims=True))
            noise = rng.normal(size=n) * genetic.std() * 0.7
            traits[name] = 10 * (genetic + noise) + self.covariates["age"].to_numpy()
        traits["b"][rng.random(n) < 0.15] = np.nan
        traits["c"][rng.random(n) < 0.6] = np.nan
        self.traits = pd.DataFrame(traits, self.people)
        self.variants = pd.DataFrame(
            {
                "contig": self.contigs,
                "position": np.arange(m) * 1000 + 5_000_000,
                "variant_id": [f"v{j}" for j in range(m)],
                "effect_allele": "C",
                "other_allele": "A",
            }
        )
        self.sex_table = folder / "sex.tsv"
        pd.DataFrame({"IID": self.people, "sex": self.sex}).to_csv(
            self.sex_table, sep="\t", index=False
        )
        self.genotypes = hs.convert(
            self.copies,
            folder / "genotypes.zarr",
            samples=self.people,
            variants=self.variants,
            chunk_variants=32,
        )

    def background(self, output: Path, traits: list[str] | None = None, **options):
        """Make a background of some traits, blocks of 20 variants."""
        chosen = self.traits if traits is None else self.traits[traits]
        options = {"block_size": 20, "mean_covariates": self.covariates, **options}
        return hs.polygenic(self.genotypes, chosen, output, sex_table=self.sex_table, **options)
