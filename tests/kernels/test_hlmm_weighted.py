"""The HLMM with weights of every person's own, held against the plain estimator."""

from __future__ import annotations

import numpy as np
import pytest
from by_chromosome import fit_exact, fit_weighted
from cohorts_by_hand import null_model_of, random_effects_of
from plain_reference import contigs_of

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels.estimates import Estimates, Inference
from hlmm_scan.kernels.weighted.basis import LeverageTerms, WeightedBasis
from hlmm_scan.kernels.weighted.exact import ExactDeterminant
from hlmm_scan.kernels.weighted.fit import fit_genotypes
from hlmm_scan.kernels.weighted.likelihood import Tile, evaluate
from hlmm_scan.models.hlmm_objective import HLMMObjective
from hlmm_scan.null.eigen import weighted
from hlmm_scan.null.model import NullModel, RandomEffects
from hlmm_scan.schema import Status

COLUMNS = [name for name in Estimates.__dataclass_fields__ if name != "status"]


def bases_of(null: NullModel) -> dict[str, WeightedBasis]:
    effects = null.random_effects
    return {key: WeightedBasis.of(null, key, effects.eigenstructure(key)) for key in null.fits}


def make_calls(rng, n) -> np.ndarray:
    """The variant with the effect, then rare, missing, and two-class ones."""
    rows = [rng.binomial(2, f, n) for f in (0.4, 0.08, 0.3, 0.2)]
    rows[2][rng.random(n) < 0.04] = -1
    return np.array([*rows, rng.integers(0, 2, n)], dtype=np.int8)


def make_null(n, contigs, covariates, share, var=0.1, seed=0) -> tuple[NullModel, np.ndarray]:
    """A cohort and calls; `share` of the variance is that of the random effects."""
    rng = np.random.default_rng(seed)
    effects = random_effects_of(n, contigs, seed=2)
    G = effects.design("")
    calls = make_calls(rng, n)
    x, z = rng.standard_normal((2, n, covariates))
    g = calls[0] - 0.8
    noise = np.exp(0.5 * (var * g + 0.3 * z.sum(axis=1))) * rng.standard_normal(n)
    y = 0.1 * g + x.sum(axis=1) + np.sqrt(1 - share) * noise
    y += np.sqrt(share) * G @ rng.standard_normal(G.shape[1])
    left_out = ["1"] if {"1", "2"} == set(contigs) else []
    return null_model_of(y, x, z, effects=effects, left_out=left_out), calls


FEW, MANY, MORE = ["1"] * 10 + ["2"] * 20, ["1"] * 40 + ["2"] * 80, ["1"] * 90 + ["2"] * 180
KINDS = {
    "few": (301, FEW, 2, 0.3, 0.1),
    "few_strong": (301, FEW, 0, 0.3, 1.0),
    "more_than_people": (203, MORE, 1, 0.5, -0.3),
    "more_than_people_strong": (203, MORE, 0, 0.6, -1.0),
    "half_as_many_as_people": (203, MANY, 1, 0.8, 0.5),
    "one": (203, ["2"], 1, 0.3, 0.3),
}


@pytest.fixture(scope="module", params=KINDS)
def fitted(request):
    """A null model, calls on both chromosomes and what the plain estimator finds."""
    null, calls = make_null(*KINDS[request.param])
    contigs = np.array(["1", "2", "1", "2", "1"], dtype=object)
    inference = Inference(sandwich=True, likelihood_ratio=True)
    return null, calls, contigs, fit_exact(null, HardCalls.of(calls), contigs, inference)


def deviations(found: Estimates, exact: Estimates) -> np.ndarray:
    """Distances of a_g, b_g and h2 in standard errors, (3, m)."""
    return np.abs(
        [
            (found.add - exact.add) / np.sqrt(exact.add_variance),
            (found.var - exact.var) / np.sqrt(exact.var_variance),
            (found.random_variance - exact.random_variance)
            / np.sqrt(exact.random_variance_variance),
        ]
    )


@pytest.mark.parametrize(("tolerance", "distance"), [(0.0, 1e-5), (1e-2, 1e-2)])
def test_fits_are_as_near_to_the_plain_ones_as_promised(fitted, tolerance, distance):
    null, calls, contigs, exact = fitted
    inference = Inference(sandwich=True, likelihood_ratio=True)
    found = fit_weighted(
        null, HardCalls.of(calls), contigs, bases_of(null), inference, tolerance=tolerance
    )
    assert (found.status == exact.status).all()
    assert (exact.status == Status.OK).all()
    away = deviations(found, exact)
    assert (away[:2] <= distance).all()
    assert (away[2] <= 10 * distance).all()
    close = {"rtol": 2e-3 if tolerance == 0 else 1e-2}
    for name in ("add_variance", "var_variance", "add_variance_robust", "add_variance_sandwich"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), **close)
    for name in ("var_variance_robust", "var_variance_sandwich", "residual_variance"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=1e-2)
    np.testing.assert_allclose(
        found.random_variance_variance,
        exact.random_variance_variance,
        rtol=1e-2 if tolerance == 0 else 5e-2,
    )
    scale = np.sqrt(exact.add_variance * exact.var_variance)
    for name in ("add_var_covariance_robust", "add_var_covariance_sandwich"):
        np.testing.assert_allclose(
            getattr(found, name) / scale, getattr(exact, name) / scale, atol=1e-2
        )
    np.testing.assert_allclose(
        found.log_likelihood, exact.log_likelihood, atol=1e-7 if tolerance == 0 else 0.1
    )
    for name in ("add_lrt", "var_lrt", "av_lrt"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("size", [1, 4, 15])
def test_fits_of_families_keep_to_the_tolerance(size):
    rng = np.random.default_rng(size)
    n, m = 240, 16
    parents = rng.binomial(1, rng.uniform(0.1, 0.5, 300)[:, None, None], (300, n // size, 4))
    parents = np.repeat(parents, size, axis=1)
    first, second = rng.integers(0, 2, (300, n)), rng.integers(2, 4, (300, n))
    copies = np.take_along_axis(parents, np.stack([first, second], axis=2), 2).sum(axis=2)
    calls = copies[:m].astype(np.int8)
    columns = (copies - copies.mean(axis=1, keepdims=True)) / copies.std(axis=1, keepdims=True)
    effects = RandomEffects(columns.T.copy(), ("1",) * 300, ("r",) * 300)
    z = rng.standard_normal((n, 1))
    g = calls[0] - calls[0].mean()
    y = 0.7 * effects.design("") @ rng.standard_normal(300)
    y += np.exp(0.3 * z[:, 0] + 0.4 * g) * rng.standard_normal(n)
    null = null_model_of(y, z, z, effects=effects)
    calls[m // 2 :][rng.random((m - m // 2, n)) < 0.04] = -1
    packed, contigs, bases = HardCalls.of(calls), contigs_of(m), bases_of(null)
    found = fit_weighted(null, packed, contigs, bases, exact_beyond=np.inf)
    exact = fit_weighted(null, packed, contigs, bases, tolerance=0.0)
    assert (found.status == Status.OK).all()
    away = deviations(found, exact)
    assert (away[:2] <= 1e-2).all()
    assert (away[2] <= 0.1).all()


@pytest.mark.parametrize("kind", ["few", "more_than_people"])
def test_the_observed_information(kind):
    null, calls = make_null(*KINDS[kind])
    packed, contigs, inference = (
        HardCalls.of(calls),
        contigs_of(len(calls)),
        Inference(observed=True),
    )
    exact = fit_exact(null, packed, contigs, inference)
    found = fit_weighted(null, packed, contigs, bases_of(null), inference, tolerance=0.0)
    assert (deviations(found, exact)[:2] <= 1e-5).all()
    np.testing.assert_allclose(found.add_variance, exact.add_variance, rtol=5e-3)
    np.testing.assert_allclose(found.var_variance, exact.var_variance, rtol=5e-3)
    scale = np.sqrt(exact.add_variance * exact.var_variance)
    np.testing.assert_allclose(
        found.add_var_covariance / scale, exact.add_var_covariance / scale, atol=5e-3
    )
    np.testing.assert_allclose(
        found.random_variance_variance, exact.random_variance_variance, rtol=3e-2
    )


@pytest.mark.parametrize("contigs", [FEW, MORE], ids=["few", "more_than_people"])
def test_a_random_variance_of_zero(contigs):
    rng = np.random.default_rng(5)
    n = 203
    effects = random_effects_of(n, contigs, seed=2)
    G = effects.design("")
    # Residuals that are less alike than independent ones along the strongest random effects.
    axes = np.linalg.svd(G, full_matrices=False)[0][:, :60]
    noise = rng.standard_normal(n)
    z = rng.standard_normal((n, 1))
    y = noise - axes @ (axes.T @ noise)
    null = null_model_of(y, z, z, effects=effects)
    calls = make_calls(rng, n)
    exact = fit_exact(null, HardCalls.of(calls), contigs_of(len(calls)))
    found = fit_weighted(null, HardCalls.of(calls), contigs_of(len(calls)), bases_of(null))
    assert (found.status == Status.RANDOM_VARIANCE_AT_ZERO).all()
    assert (exact.status == Status.RANDOM_VARIANCE_AT_ZERO).all()
    assert (deviations(found, exact)[:2] <= 2e-3).all()
    np.testing.assert_allclose(found.add_variance, exact.add_variance, rtol=1e-3)
    np.testing.assert_allclose(found.var_variance, exact.var_variance, rtol=1e-3)
    assert np.isnan(found.random_variance_variance).all()


@pytest.mark.parametrize("contigs", [FEW, MORE], ids=["few", "more_than_people"])
def test_a_variant_has_the_same_numbers_in_any_block(contigs):
    null, calls = make_null(203, contigs, 1, 0.4)
    many = np.concatenate([np.roll(calls, k, axis=1) for k in range(30)])
    bases, packed = bases_of(null), HardCalls.of(many)
    inference = Inference(likelihood_ratio=True)
    whole = fit_weighted(null, packed, contigs_of(len(many)), bases, inference)
    for rows in (np.arange(149, -1, -1), np.arange(60, 71), np.array([7])):
        part = fit_weighted(null, packed.take(rows), contigs_of(len(rows)), bases, inference)
        for name in [*COLUMNS, "status"]:
            there = getattr(whole, name)[rows]
            np.testing.assert_allclose(getattr(part, name), there, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["monomorphic", "no_calls", "one_carrier", "covariate"])
def test_what_cannot_be_estimated_is_as_the_plain_estimator_says(kind):
    n = 203
    null, calls = make_null(n, FEW, 1, 0.3)
    g = np.zeros(n, np.int8)
    if kind == "no_calls":
        g[:] = -1
    elif kind == "one_carrier":
        g[17] = 1
    elif kind == "covariate":
        g[:] = calls[0]
        null = null_model_of(null.y, g[:, None], g[:, None], effects=null.random_effects)
    packed = HardCalls.of(np.array([g, calls[3]]))
    exact = fit_exact(null, packed, contigs_of(2))
    found = fit_weighted(null, packed, contigs_of(2), bases_of(null))
    assert (found.status == exact.status).all()
    assert found.status[1] == Status.OK
    assert (deviations(found, exact)[:2, 1] <= 1e-2).all()


@pytest.mark.parametrize("contigs", [FEW, MORE], ids=["few", "more_than_people"])
def test_single_precision_is_safe(monkeypatch, contigs):
    null, calls = make_null(403, contigs, 1, 0.4)
    double = bases_of(null)
    monkeypatch.setattr("hlmm_scan.kernels.limits.SINGLE_PRECISION_PEOPLE", 100)
    single = bases_of(null)
    assert single[""].columns.dtype == np.float32
    inference = Inference(sandwich=True, observed=True)
    results = [
        fit_weighted(
            null, HardCalls.of(calls), contigs_of(len(calls)), bases, inference, tolerance=0.0
        )
        for bases in (double, single)
    ]
    assert (results[0].status == results[1].status).all()
    assert (deviations(*reversed(results)) <= 1e-5).all()
    for name in COLUMNS:
        one, other = (getattr(found, name) for found in results)
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4)


def test_dosages_are_fitted_as_calls_are():
    null, calls = make_null(203, MORE, 1, 0.4)
    basis = bases_of(null)[""]
    dosages = np.where(calls < 0, np.nan, calls.astype(float))
    found = fit_genotypes(basis, lambda rows: dosages[rows], len(calls))
    called = fit_weighted(null, HardCalls.of(calls), contigs_of(len(calls), "9"), {"": basis})
    np.testing.assert_array_equal(found.var, called.var)
    halves = fit_genotypes(basis, lambda rows: 0.5 * dosages[rows], len(calls))
    np.testing.assert_allclose(halves.var, 2 * called.var, rtol=1e-4)


def exact_at(null, key, genotype, theta):
    """−log L less its constant, and gradient of (b, h2, b_g), by the models."""
    c, v = null.mean_design.shape[1], null.variance_design.shape[1]
    called = genotype >= 0
    g = genotype[called] - genotype[called].mean()
    X = np.column_stack([null.mean_design[called], g])
    V = np.column_stack([null.variance_design[called], g])
    objective = HLMMObjective(null.y[called], X, V, null.random_effects.design(key)[called])
    alpha = np.append(theta[:c], theta[-2])
    at = objective.at(np.concatenate([theta[c : c + v], theta[[-1, -3]]]), alpha)
    gradient = 0.5 * at.gradient * called.sum()
    return 0.5 * at.value * called.sum(), np.append(gradient[:v], gradient[[-1, -2]])


@pytest.mark.parametrize("contigs", [FEW, MANY, MORE], ids=["few", "many", "more"])
@pytest.mark.parametrize("b_g", [0.0, 0.3])
def test_the_likelihood_and_its_gradient(contigs, b_g):
    null, calls = make_null(203, contigs, 1, 0.4)
    basis = bases_of(null)["1"]
    c, v = 2, 2
    tile = Tile.empty(basis, 2)
    for j, row in enumerate(calls[[0, 2]]):
        g = np.where(row < 0, np.nan, row)
        tile.called[j] = row >= 0
        tile.g[j] = np.where(row < 0, 0.0, g - np.nanmean(g))
    theta = np.tile(np.append(basis.theta, [0.1, b_g]), (2, 1))
    theta[:, c + 1] += 0.1
    theta[:, c + v] *= 1.2

    def settled(at):
        for _ in range(40):
            found = evaluate(basis, tile, at)
        return found

    # Pairs are kept in single precision, which differences of values over shorter ways would show.
    found = settled(theta)
    for j, row in enumerate(calls[[0, 2]]):
        value, gradient = exact_at(null, "1", row, theta[j])
        kept = [*range(c, c + v + 1), c + v + 2]
        # What second order leaves, against a curvature of √n or more in every direction.
        assert abs(found.value[j] - value) < 0.02
        assert (np.abs(found.gradient[j, kept] - gradient) < 0.1).all()
    for k in range(theta.shape[1]):
        away = np.zeros(theta.shape[1])
        away[k] = 5e-4
        slope = (settled(theta + away).value - settled(theta - away).value) / 1e-3
        np.testing.assert_allclose(found.gradient[:, k], slope, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("contigs", [FEW, MORE], ids=["few", "more_than_people"])
def test_exact_determinants_are_those_of_the_dense_matrix(contigs):
    null, calls = make_null(203, contigs, 1, 0.4)
    basis = bases_of(null)["1"]
    rng = np.random.default_rng(3)
    weight = basis.weight * np.exp(0.3 * rng.standard_normal(203))
    weight[:7] = 0.0
    H = basis.eigen.combine(np.eye(len(basis.values)))
    core = np.eye(H.shape[1]) + 0.4 * H.T @ (H * weight[:, None])
    g = np.where(weight > 0, calls[0] - 0.8, 0.0)
    found = ExactDeterminant.of(basis, weight, 0.4, g)
    assert found.log_det == pytest.approx(np.linalg.slogdet(core)[1], rel=1e-12)
    leverage = np.einsum("ij,ij->i", H, np.linalg.solve(core, H.T).T)
    np.testing.assert_allclose(found.leverage[7:], leverage[7:], rtol=1e-9)
    if found.operated is not None:
        root = np.sqrt(weight)
        M = np.eye(203) - 0.4 * root[:, None] * (H @ np.linalg.solve(core, H.T)) * root
        both = np.column_stack([basis.V, g]) * (weight > 0)[:, None]
        np.testing.assert_allclose(found.operated[7:], (M**2 @ both)[7:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("contigs", [["2"] * 7, FEW, MORE], ids=["seven", "few", "more"])
@pytest.mark.parametrize("share", [0.2, 0.95])
def test_the_series_of_leverages_follow_them_however_small_they_become(contigs, share):
    null, _ = make_null(203, contigs, 0, share)
    basis = bases_of(null)[""].leverage
    kappa = basis.kappa * np.array([0.0, 1e-3, 0.1, 1.0, 3.9])
    found = LeverageTerms.of(basis, kappa)
    shrunk = basis.eigen.values[:, None] / (1 + np.outer(basis.eigen.values, kappa))
    leverage = basis.eigen.leverage(shrunk / basis.eigen.values[:, None])
    np.testing.assert_allclose(
        basis.series @ found.terms + leverage.mean(axis=0), leverage, rtol=3e-5
    )
    np.testing.assert_allclose(found.squares, (leverage**2).sum(axis=0), rtol=1e-6)
    away = 1e-5 * (kappa + 1 / basis.eigen.values[0])
    ends = [LeverageTerms.of(basis, kappa + step) for step in (away, 2 * away)]
    for name in ("terms", "squares"):
        at, near, far = (getattr(x, name) for x in (found, *ends))
        slope = (4 * near - 3 * at - far) / (2 * away)
        slopes = found.slopes if name == "terms" else found.squares_slope
        np.testing.assert_allclose(slopes, slope, rtol=1e-4, atol=1e-4 * np.abs(slope).max())


def test_fits_made_exact_have_exact_standard_errors_where_random_effects_explain_most():
    null, calls = make_null(203, MORE, 2, 0.9)
    packed, contigs = HardCalls.of(calls), contigs_of(len(calls))
    exact = fit_exact(null, packed, contigs)
    found = fit_weighted(null, packed, contigs, bases_of(null), tolerance=0.0)
    np.testing.assert_array_equal(found.status, exact.status)
    for name in ("var_variance", "var_variance_robust"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=5e-6)
    # h2's changes most with where a search stops: 3e-6 to 8e-6 by what the library rounds.
    name = "random_variance_variance"
    np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=5e-5)
    for name in ("add_variance", "add_variance_robust"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=2e-4)


@pytest.mark.parametrize("contigs", [FEW, MORE], ids=["few", "more_than_people"])
def test_weighted_axes_span_the_weighted_relationship(contigs):
    effects = random_effects_of(101, contigs, seed=2)
    unit = np.exp(0.3 * np.random.default_rng(0).standard_normal(101))
    eigen = effects.eigenstructure("1")
    found = weighted(eigen, eigen.columns * unit[:, None])
    H, G = found.combine(np.eye(len(found.values))), unit[:, None] * effects.design("1")
    np.testing.assert_allclose(H @ H.T, G @ G.T, atol=1e-12)
    np.testing.assert_allclose(H.T @ H, np.diag(found.values), atol=1e-11)
