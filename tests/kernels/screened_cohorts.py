"""Cohorts for the score screens, and the distances in which their estimates are compared."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cohorts_by_hand import null_model_of, random_effects_of

from hlmm_scan.genotypes.blocks import BGEN_8_BIT, MISSING_CODE, Dosages, HardCalls
from hlmm_scan.kernels.estimates import Estimates
from hlmm_scan.null.model import NullModel


def correlated_calls(rng, covariate, m, correlation, frequency=0.3) -> np.ndarray:
    """Draw copies whose chance is logistic in a covariate, (m, n)."""
    middle = np.log(frequency / (1 - frequency))
    chance = 1 / (1 + np.exp(-(middle + 2 * correlation * covariate)))
    return rng.binomial(2, chance, (m, len(covariate))).astype(np.int8)


def screened_cohort(
    n=1501, c=3, v=0, m=30, *, correlation=0.55, missing=0.0, own=False, effect=0.1, l_random=0,
    share=0.7, seed=1,
) -> tuple[NullModel, np.ndarray]:  # fmt: skip
    """Return a null model and calls that go with the first covariate, R² up to correlation².

    With `own`, covariates of the variance are other ones than those of the mean.
    """
    rng = np.random.default_rng(seed)
    covariates = rng.standard_normal((n, max(c, v) + 1))
    calls = correlated_calls(rng, covariates[:, 0], m, correlation)
    noise = np.exp(0.15 * covariates[:, 0] * (v > 0)) * rng.standard_normal(n)
    y = 0.3 * covariates[:, 0] + effect * (calls[0] - 1) + noise
    effects = None
    if l_random:
        contigs = ["1"] * (l_random // 3) + ["2"] * (l_random - l_random // 3)
        effects = random_effects_of(n, contigs, seed=3)
        y = y + share * effects.design("") @ rng.standard_normal(l_random)
    calls[rng.random(calls.shape) < missing] = -1
    variance = rng.standard_normal((n, v)) if own else covariates[:, :v]
    left_out = ["1", "2"] if l_random else []
    return null_model_of(y, covariates[:, :c], variance, effects=effects, left_out=left_out), calls


def uncertain(calls, unit=BGEN_8_BIT, seed=0, certainty=4.0) -> Dosages:
    """Return dosages of calls, of every third person less than sure; missing ones stay missing."""
    rng = np.random.default_rng(seed)
    known = np.where(calls < 0, 0, calls)
    share = np.where(rng.random(calls.shape) < 1 / 3, rng.beta(certainty, 1, calls.shape), 1.0)
    copies = share * known + (1 - share) * known.mean(axis=1, keepdims=True)
    codes = np.rint(copies / unit).astype(np.int64)
    return Dosages(np.where(calls < 0, MISSING_CODE, codes).astype(np.uint16), unit)


BLOCKS = {"calls": HardCalls.of, "dosages": uncertain}
"""What calls are handed to kernels as."""


def without_estimate(good, covariate) -> np.ndarray:
    """Overwrite variants 1 to 6 of some calls by such as have no estimate, each in its own way."""
    calls = good.copy()
    calls[1] = 0  # monomorphic
    calls[2] = 1  # heterozygous
    calls[3] = -1  # nobody called
    calls[4] = covariate
    calls[5] = -1
    calls[5, :5] = [0, 1, 2, 1, 0]  # fewer people than coefficients
    calls[6] = 2 - covariate
    return calls


def blocks_of_other_sizes(m) -> Iterator[np.ndarray]:
    """Yield rows of m variants shuffled into blocks of 1, of 7 and of 100."""
    rng = np.random.default_rng(4)
    for width in (1, 7, 100):
        order = rng.permutation(m)[: 20 * width]
        for start in range(0, len(order), width):
            yield order[start : start + width]


def gaps(found: Estimates, wanted: Estimates) -> dict[str, float]:
    """Largest differences: effects in standard errors, covariances relative to them."""
    a, b = np.sqrt(wanted.add_variance), np.sqrt(wanted.var_variance)
    differences = {
        "add": (found.add - wanted.add) / a,
        "var": (found.var - wanted.var) / b,
        "add_se": np.sqrt(found.add_variance) / a - 1,
        "var_se": np.sqrt(found.var_variance) / b - 1,
        "var_robust": found.var_variance_robust / wanted.var_variance_robust - 1,
        "robust": (found.add_var_covariance_robust - wanted.add_var_covariance_robust) / (a * b),
        "log_likelihood": found.log_likelihood - wanted.log_likelihood,
    }
    return {name: float(np.abs(values).max()) for name, values in differences.items()}


def z_scores(estimates: Estimates) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of both effects."""
    return (
        estimates.add / np.sqrt(estimates.add_variance),
        estimates.var / np.sqrt(estimates.var_variance),
    )


def dense_model():
    """The class of tests/models/dense_oracle.py, a folder that other tests do not import from."""
    path = Path(__file__).parent.parent / "models" / "dense_oracle.py"
    spec = importlib.util.spec_from_file_location("dense_oracle_of_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DenseModel
