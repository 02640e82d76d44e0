"""Cohorts, random effects and null models made from arrays, without files."""

from __future__ import annotations

import numpy as np

from hlmm_scan.cohort.cohort import REASONS, Cohort
from hlmm_scan.cohort.design import build_design
from hlmm_scan.null.fit import fit_null
from hlmm_scan.null.model import NullModel, RandomEffects


def cohort_of(y, mean=None, variance=None, samples=None) -> Cohort:
    """A cohort with covariates x0, x1, … of the mean and z0, z1, … of the variance."""
    n = len(y)
    mean = np.zeros((n, 0)) if mean is None else np.asarray(mean, float).reshape(n, -1)
    variance = np.zeros((n, 0)) if variance is None else np.asarray(variance, float).reshape(n, -1)
    return Cohort(
        phenotype="trait",
        samples=np.arange(n) if samples is None else samples,
        y=y,
        mean_design=build_design(mean, [f"x{k}" for k in range(mean.shape[1])], "mean"),
        variance_design=build_design(
            variance, [f"z{k}" for k in range(variance.shape[1])], "variance"
        ),
        dropped=tuple((reason, 0) for reason in REASONS),
        n_reference=n,
        not_in_genotypes=0,
    )


def random_effects_of(n: int, contigs, seed: int) -> RandomEffects:
    """Standardised random genotypes, one column for each of `contigs`."""
    columns = np.random.default_rng(seed).binomial(2, 0.4, (n, len(contigs))).astype(float)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    return RandomEffects(columns, tuple(contigs), tuple(f"r{k}" for k in range(len(contigs))))


def null_model_of(
    y, mean=None, variance=None, samples=None, effects=None, *, seed_mode=False, left_out=()
) -> NullModel:
    """Null model of the cohort that `cohort_of` makes."""
    cohort = cohort_of(y, mean, variance, samples)
    return fit_null(cohort, effects, seed_mode=seed_mode, left_out=left_out)[0]
