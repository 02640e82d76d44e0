"""Robust covariances and likelihood ratios of the HLMM kernels, held against dense references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from by_chromosome import fit_exact, fit_grams, fit_second_order
from cohorts_by_hand import null_model_of, random_effects_of
from plain_reference import contigs_of

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.kernels.exact.fit import studentised
from hlmm_scan.models import HLMM
from hlmm_scan.models.robust import sandwich_covariance, studentised_covariance
from hlmm_scan.null.eigen import SharedEigenstructure
from hlmm_scan.null.model import RandomEffects

EVERYTHING = Inference(sandwich=True, likelihood_ratio=True)
# Largest deviation of a covariance relative to its variances: grams and second order take the
# spread of leverages within a class from the null model, and second order all else, in small n.
COVARIANCE = {"plain": 1e-9, "grams": 3e-3, "second order": 1e-2}
RATIO = {"plain": 1e-7, "grams": 1e-6, "second order": 0.03}


def families_of(n, l_random, rng) -> RandomEffects:
    """Genotypes of sibships of four: leverages vary and relatives are alike."""
    parents = rng.binomial(1, 0.4, (n // 2, 2, l_random))
    columns = np.array(
        [
            sum(parents[2 * (i // 4) + k, rng.integers(0, 2, l_random), np.arange(l_random)]
                for k in (0, 1))
            for i in range(n)
        ],
        dtype=float,
    )  # fmt: skip
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    return RandomEffects(columns, ("2",) * l_random, tuple(map(str, range(l_random))))


def make_case(kind):
    """A null model with a skewed trait, and calls: the effect, one with missing, one with two."""
    rng = np.random.default_rng(7)
    n = 300 if kind in ("full_rank", "families") else 601
    effects = {
        "few": lambda: random_effects_of(n, ["1"] * 10 + ["2"] * 20, seed=2),
        "none": lambda: random_effects_of(n, ["2"] * 12, seed=2),
        "full_rank": lambda: random_effects_of(n, ["2"] * (n + 50), seed=2),
        "families": lambda: families_of(n, 350, rng),
    }[kind]()
    calls = rng.binomial(2, 0.4, (3, n)).astype(np.int8)
    calls[1, rng.random(n) < 0.03] = -1
    calls[2] = rng.integers(0, 2, n)
    g, G = np.maximum(calls[0], 0) - 0.8, effects.design("")
    noise = np.exp(0.15 * g) * (rng.gamma(2, 1, n) - 2) / np.sqrt(2)
    y = 0.2 * g + noise
    if kind == "none":
        y -= G @ np.linalg.lstsq(G, y)[0]
    else:
        y += G @ rng.standard_normal(G.shape[1])
    left_out = sorted(set(effects.contigs)) if kind == "few" else []
    return null_model_of(y, effects=effects, left_out=left_out), calls


def run(kernel, null, calls, inference=EVERYTHING):
    contigs, packed = contigs_of(len(calls)), HardCalls.of(calls)
    if kernel == "plain":
        return fit_exact(null, packed, contigs, inference)
    shared = SharedEigenstructure(null.random_effects.columns, null.random_effects.contigs)
    eigen = {key: shared.without(key) for key in null.fits}
    if kernel == "grams":
        return fit_grams(null, packed, contigs, eigen, inference)
    return fit_second_order(null, packed, contigs, eigen, inference)


@pytest.fixture(scope="module", params=["few", "none", "full_rank", "families"])
def case(request):
    """Null model, calls, and per variant the dense covariances and restricted likelihoods."""
    null, calls = make_case(request.param)
    key = null.random_effect_set("1")
    wanted = []
    for row in calls:
        called = row >= 0
        y, g = null.y[called], row[called] - row[called].mean()
        one, X = np.ones((len(y), 1)), np.column_stack((np.ones_like(g), g))
        G = null.random_effects.design(key)[called]
        fit = HLMM(y, X, X, G).fit()
        assert fit.success
        moments, h2 = null.fits[key].moments, fit.random_variance
        covariances = {
            "robust": studentised_covariance(X, X, fit.beta, moments, G, h2),
            "sandwich": sandwich_covariance(y, X, X, fit.alpha, fit.beta, G, h2),
        }
        ratios = [
            2 * (fit.log_likelihood - HLMM(y, mean, variance, G).fit().log_likelihood)
            for mean, variance in ((one, X), (X, one), (one, one))
        ]
        wanted.append((covariances, ratios))
    return null, calls, wanted


@pytest.mark.parametrize("kernel", ["plain", "grams", "second order"])
def test_robust_covariances_are_those_of_the_dense_reference(case, kernel):
    null, calls, wanted = case
    found = run(kernel, null, calls)
    for row, (covariances, _) in enumerate(wanted):
        for name, C in covariances.items():
            add, var = np.sqrt(C[1, 1]), np.sqrt(C[3, 3])
            tolerance = COVARIANCE[kernel]
            got = {
                kind: getattr(found, f"{kind}_{name}")[row]
                for kind in ("add_variance", "var_variance", "add_var_covariance")
            }
            assert got["add_variance"] == pytest.approx(C[1, 1], rel=tolerance)
            assert got["var_variance"] == pytest.approx(C[3, 3], rel=tolerance)
            assert abs(got["add_var_covariance"] - C[1, 3]) < tolerance * add * var


@pytest.mark.parametrize("kernel", ["plain", "grams", "second order"])
def test_likelihood_ratios_are_those_of_restricted_fits(case, kernel):
    null, calls, wanted = case
    found = run(kernel, null, calls)
    for row, (_, ratios) in enumerate(wanted):
        got = [found.add_lrt[row], found.var_lrt[row], found.av_lrt[row]]
        np.testing.assert_allclose(got, ratios, rtol=0.1 * RATIO[kernel], atol=RATIO[kernel])


@pytest.mark.parametrize("kernel", ["plain", "grams", "second order"])
def test_what_was_not_asked_for_is_not_given(kernel):
    null, calls = make_case("few")
    plain, full = run(kernel, null, calls, Inference()), run(kernel, null, calls)
    for name in ("add_variance_sandwich", "add_var_covariance_sandwich", "add_lrt", "av_lrt"):
        assert np.isnan(getattr(plain, name)).all()
        assert np.isfinite(getattr(full, name)).all()
    np.testing.assert_array_equal(plain.var, full.var)
    np.testing.assert_array_equal(plain.var_variance_robust, full.var_variance_robust)


def test_normal_moments_leave_the_model_covariance():
    null, calls = make_case("few")
    fits = {k: replace(f, third_moment=0.0, fourth_moment=3.0) for k, f in null.fits.items()}
    for kernel in ("plain", "grams", "second order"):
        found = run(kernel, replace(null, fits=fits), calls, Inference())
        for name in ("add_variance", "var_variance", "add_var_covariance"):
            robust = getattr(found, f"{name}_robust")
            np.testing.assert_allclose(robust, getattr(found, name), rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("l_random", [10, 120], ids=["few", "full_rank"])
def test_studentised_covariance_is_that_of_the_scores_of_skewed_noise(l_random):
    """Empirical covariance of A⁻¹·score over draws of Gamma noise, at the true parameters."""
    n, draws, h2 = 120, 6000, 0.5
    rng = np.random.default_rng(3)
    g = rng.binomial(2, 0.3, n) - 0.6
    X = np.column_stack((np.ones(n), g))
    G = random_effects_of(n, ["1"] * l_random, seed=1).design("")
    b, shape = np.array([0.2, 0.4]), 1.0
    at = HLMM(np.zeros(n), X, X, G).at(np.zeros(2), b, h2)
    moments = 2 / np.sqrt(shape), 3 + 6 / shape
    wanted = studentised(at, moments, held=False)

    noise = (rng.gamma(shape, 1, (n, draws)) - shape) / np.sqrt(shape)
    D = np.exp(X @ b)
    r = np.sqrt(D)[:, None] * noise + np.sqrt(h2) * G @ rng.standard_normal((l_random, draws))
    precision = np.linalg.inv(np.diag(D) + h2 * G @ G.T)
    whitened = precision @ r
    squares = D[:, None] * whitened**2
    by_h2 = ((G.T @ whitened) ** 2).sum(axis=0)
    scores = np.vstack((X.T @ whitened, 0.5 * X.T @ squares, 0.5 * by_h2))
    estimates = np.linalg.solve(at.expected, scores - scores.mean(axis=1, keepdims=True))
    products = estimates[:, None] * estimates[None]
    error = products.std(axis=2) / np.sqrt(draws)
    assert (np.abs(products.mean(axis=2) - wanted) < 4.5 * error).all()
    # The model's covariance is not that of these scores.
    model = np.linalg.inv(at.expected)
    assert wanted[3, 3] - model[3, 3] > 20 * error[3, 3]
    assert wanted[1, 3] > 5 * error[1, 3]
