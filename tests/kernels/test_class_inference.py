"""Covariances and likelihood-ratio tests from class sums, against dense matrices and refits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cohorts_by_hand import null_model_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.genotypes.packing import pack
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.classes import fit as hlm_classes
from hlmm_scan.kernels.classes.fit import class_sums, fit_class_sums
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.kernels.sums import class_sums as fast
from hlmm_scan.kernels.sums import class_sums_pass
from hlmm_scan.models import HLM
from hlmm_scan.models.robust import sandwich_covariance, studentised_covariance
from hlmm_scan.schema import Status

EVERYTHING = Inference(sandwich=True, likelihood_ratio=True)
SUMS = {"fast": fast.class_sums, "plain": class_sums}


def covariance(found, suffix, row=0):
    names = ("add_variance", "var_variance", "add_var_covariance")
    return np.array([getattr(found, name + suffix)[row] for name in names])


def lrts(found, row=0):
    return np.array([found.add_lrt[row], found.var_lrt[row], found.av_lrt[row]])


def intercepts(y, g, add, var):
    """The two intercepts that maximise the likelihood at given effects of g."""
    weight = np.exp(-var * g)
    mean = np.sum(weight * (y - add * g)) / weight.sum()
    return mean, np.log(np.mean(weight * (y - mean - add * g) ** 2))


def assert_covariances(found, row, y, g, moments):
    """Hold a row's robust covariances against dense ones at its own estimates, to 1e-8.

    Powers of y lose digits with the fourth power of a class's distance from 0 over its spread.
    """
    g = g - g.mean()
    X = np.column_stack([np.ones(len(g)), g])
    mean, log_variance = intercepts(y, g, found.add[row], found.var[row])
    alpha, beta = [mean, found.add[row]], [log_variance, found.var[row]]
    distance = np.max(np.abs(X @ alpha) * np.exp(-0.5 * X @ beta))
    tolerance = 1e-8 + 1e-14 * distance**4
    for suffix, C in (
        ("_robust", studentised_covariance(X, X, np.array(beta), moments)),
        ("_sandwich", sandwich_covariance(y, X, X, np.array(alpha), np.array(beta))),
    ):
        unit = np.array([C[1, 1], C[3, 3], math.sqrt(C[1, 1] * C[3, 3])])
        wanted = np.array([C[1, 1], C[3, 3], C[1, 3]])
        assert np.all(np.abs(covariance(found, suffix, row) - wanted) <= tolerance * unit), suffix


def assert_likelihood_ratios(found, row, y, g):
    """Hold a row's statistics against the plain estimator without g in one design or both.

    One that is below zero shows the fit to be no maximum, and is not given.
    """
    one, X = np.ones((len(y), 1)), np.column_stack([np.ones(len(y)), g - g.mean()])
    full = HLM(y, X, X).fit()
    assert Status(found.status[row]) is full.status
    fits = [HLM(y, *designs).fit() for designs in ((one, X), (X, one), (one, one))]
    wanted = np.array([2 * (full.log_likelihood - fit.log_likelihood) for fit in fits])
    known = np.array([full.status is fit.status is Status.OK for fit in fits]) & ~(wanted < -1e-6)
    statistics = lrts(found, row)
    np.testing.assert_array_equal(np.isfinite(statistics), known)
    wanted = np.maximum(wanted, 0)
    np.testing.assert_allclose(statistics[known], wanted[known], rtol=1e-9, atol=1e-7)


# Any three classes -------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(
    sizes=st.tuples(*[st.integers(0, 60)] * 3),
    means=st.tuples(*[st.floats(-2, 2)] * 3),
    log_sd=st.tuples(*[st.floats(-1, 1)] * 3),
    moments=st.tuples(st.floats(-3, 3), st.floats(1.5, 40)),
    seed=st.integers(0, 1000),
)
@example((9, 3, 10), (0.0, 0.0, 1.0), (-1.0, 1.0, -1.0), (0.0, 3.0), 0)  # a flat floor
@example((0, 18, 1), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 2.0), 0)  # stationary, no maximum
@example((60, 5, 0), (0.0, 2.0, 0.0), (0.0, -1.0, 0.0), (0.5, 2.0), 1)  # few carriers
def test_any_three_classes_have_the_tests_of_the_people_in_them(
    sizes, means, log_sd, moments, seed
):
    # Classes need not follow the model: means and variances are not linear in the copies.
    rng = np.random.default_rng(seed)
    g = np.repeat([0, 1, 2, 0], [*sizes, max(20 - sum(sizes), 0)])
    y = rng.normal(np.array(means)[g], np.exp(np.array(log_sd)[g]))
    y = (y - y.mean()) / y.std()
    sums = class_sums(pack(g[None].astype(np.int8)), np.arange(len(y)), y, 4)
    found = fit_class_sums(sums, moments, EVERYTHING)
    if found.status[0] == Status.OK:
        assert_covariances(found, 0, y, g, moments)
    assert_likelihood_ratios(found, 0, y, g)


TRAITS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "gamma": lambda rng, n: rng.gamma(2.0, 1.0, n),
    "t": lambda rng, n: rng.standard_t(2.1, n),
    "few values": lambda rng, n: rng.poisson(0.7, n).astype(float),
}


@pytest.mark.parametrize("add_sums", SUMS.values(), ids=SUMS)
@pytest.mark.parametrize("effect", [0.0, 0.7])
@pytest.mark.parametrize("trait", TRAITS)
def test_common_and_rare_variants_with_missing_calls_agree_with_dense_matrices(
    trait, effect, add_sums
):
    rng = np.random.default_rng(1)
    n = 403
    calls = rng.binomial(2, [[0.4], [0.2], [0.05], [0.97]], (4, n)).astype(np.int8)
    calls[rng.random(calls.shape) < 0.03] = -1
    rare = np.zeros((1, n), np.int8)
    rare[0, rng.choice(n, 9, replace=False)] = [1] * 8 + [2]
    calls = np.concatenate([calls, rare])
    carried = np.maximum(calls[0], 0)
    y = effect * carried + np.exp(0.5 * effect * carried) * TRAITS[trait](rng, n)
    null = null_model_of(y)
    moments = null.fits[""].moments
    sums = add_sums(pack(calls), null.samples, null.y, 4)
    found = fit_class_sums(sums, moments, EVERYTHING)
    assert (found.status == Status.OK).all()
    for row, g in enumerate(calls):
        called = g >= 0
        assert_covariances(found, row, null.y[called], g[called], moments)
        assert_likelihood_ratios(found, row, null.y[called], g[called])


# Accuracy ----------------------------------------------------------------------------------


def long_double_sandwich(y, g, add, var):
    """The sandwich from people's own scores, in extended precision."""
    y, g = y.astype(np.longdouble), (g - g.mean()).astype(np.longdouble)
    mean, log_variance = intercepts(y, g, add, var)
    D = np.exp(log_variance + var * g)
    r = y - mean - add * g
    x = g - np.sum(g / D) / np.sum(1 / D)
    v = g - np.sum(g * r**2 / D) / np.sum(r**2 / D)
    scores = x * r / D / np.sum(x**2 / D), v * (r**2 / D - 1) / np.sum(v**2 * r**2 / D)
    C = np.cov(scores, ddof=0) * len(y)  # scores have mean 0 at the maximum
    return np.array([C[0, 0], C[1, 1], C[0, 1]], float)


@pytest.mark.parametrize(
    ("trait", "offset", "tolerance"),
    [
        ("normal", 0, 1e-12),
        ("few values", 0, 1e-12),
        ("t", 0, 1e-11),  # kurtosis of hundreds
        ("log-normal", 0, 1e-11),  # of thousands
        ("cauchy", 0, 1e-7),  # near n, the largest there is; all but a few people are alike
        ("normal", 10, 1e-9),  # a mean that is not 0 costs its fourth power
        ("few values", 10, 1e-9),
        ("normal", 100, 1e-5),
    ],
)
def test_binomial_expansion_leaves_more_digits_than_a_test_needs(trait, offset, tolerance):
    rng = np.random.default_rng(3)
    n = 20_000
    draw = {
        **TRAITS,
        "log-normal": lambda rng, n: np.exp(2.0 * rng.standard_normal(n)),
        "cauchy": lambda rng, n: rng.standard_cauchy(n),
    }[trait]
    y = draw(rng, n)
    y = (y - y.mean()) / y.std() + offset
    calls = rng.binomial(2, [[0.4], [0.1], [0.01], [0.999]], (4, n)).astype(np.int8)
    found = fit_class_sums(fast.class_sums(pack(calls), np.arange(n), y, 4), inference=EVERYTHING)
    assert (found.status == Status.OK).all()
    for row, g in enumerate(calls):
        wanted = long_double_sandwich(y, g, found.add[row], found.var[row])
        unit = np.array([wanted[0], wanted[1], math.sqrt(wanted[0] * wanted[1])])
        assert np.all(np.abs(covariance(found, "_sandwich", row) - wanted) <= tolerance * unit)


# What there is no test of --------------------------------------------------------------------


def test_a_fit_without_a_maximum_has_no_tests():
    rng = np.random.default_rng(2)
    y = rng.standard_normal(40)
    carriers = np.zeros(40, int)
    carriers[:3] = 1
    y[:3] = 1.5  # tied: the variance of carriers runs to zero
    sums = class_sums(pack(np.array([carriers, carriers * 0], np.int8)), np.arange(40), y, 4)
    found = fit_class_sums(sums, inference=EVERYTHING)
    assert [Status(s) for s in found.status] == [Status.UNBOUNDED, Status.NOT_UNIQUE]
    for row in range(2):
        for suffix in ("", "_robust", "_sandwich"):
            assert np.isnan(covariance(found, suffix, row)).all()
        assert np.isnan(lrts(found, row)).all()


def test_without_the_additive_effect_a_stationary_point_that_is_no_maximum_gives_no_statistic():
    # Two classes that mirror each other, far apart: at equal variances the likelihood without an
    # additive effect has its minimum between two maxima.
    noise = np.tile([-1.0, -0.5, 0.5, 1.0], 10) * 0.1
    g = np.repeat([0, 1], 40)
    y = np.concatenate([noise - 1, noise + 1])
    found = fit_class_sums(
        class_sums(pack(g[None].astype(np.int8)), np.arange(80), y, 4), inference=EVERYTHING
    )
    assert found.status[0] == Status.OK
    add, var, av = lrts(found)
    assert np.isnan(add)
    assert var == 0
    assert av == pytest.approx(80 * np.log(y.var() / noise.var()))


def test_an_observed_covariance_that_does_not_exist_leaves_no_likelihood_ratio():
    noise = np.tile([-1.0, -0.5, 0.5, 1.0], 10) * 0.3
    y = np.concatenate([noise - 1, noise + 1, noise + 1, noise - 1])
    calls = np.repeat(np.array([[0, 1, 1, 2]], np.int8), 40, axis=1)
    sums = class_sums(pack(calls), np.arange(160), y, 4)
    found = fit_class_sums(sums, inference=Inference(True, True, True))
    assert found.status[0] == Status.NOT_CONVERGED
    assert np.isnan([*covariance(found, ""), *lrts(found)]).all()
    assert np.isfinite([*covariance(found, "_robust"), *covariance(found, "_sandwich")]).all()


def test_sums_without_the_powers_that_are_needed_are_refused():
    with pytest.raises(ValueError, match=r"must be \(variants, 3, 5\), not \(1, 3, 3\)"):
        fit_class_sums(np.ones((1, 3, 3)), inference=EVERYTHING)


# Blocks ------------------------------------------------------------------------------------


def block_case(scale=1.0):
    rng = np.random.default_rng(5)
    n, m = 307, 90
    calls = rng.binomial(2, rng.uniform(0.02, 0.6, (m, 1)), (m, n)).astype(np.int8)
    calls[::3][rng.random((m // 3, n)) < 0.03] = -1
    carried = np.maximum(calls[1], 0)
    y = 0.4 * carried + np.exp(0.2 * carried) * rng.gamma(2.0, 1.0, n)
    return null_model_of(scale * (y + 3)), HardCalls.of(calls), np.full(m, "1", dtype=object)


def test_neither_neighbours_nor_further_tests_change_a_bit_of_a_row():
    null, packed, contigs = block_case()
    m = len(packed)
    whole = fit_block(null, packed, contigs, FitOptions(0, 0, 1, EVERYTHING))
    assert (whole["status"] == Status.OK).all()
    assert all(np.isfinite(values).all() for values in whole.values())
    order = np.random.default_rng(0).permutation(m)
    for size in (1, 7, 64):
        for first in range(0, m, size):
            rows = order[first : first + size]
            part = fit_block(
                null, packed.take(rows), contigs[rows], FitOptions(0, 0, 1, EVERYTHING)
            )
            for name, values in part.items():
                np.testing.assert_array_equal(values, whole[name][rows], err_msg=name)
    for inference in (Inference(), Inference(sandwich=True), Inference(likelihood_ratio=True)):
        fewer = fit_block(null, packed, contigs, FitOptions(0, 0, 1, inference))
        assert set(fewer) < set(whole)
        for name, values in fewer.items():
            np.testing.assert_array_equal(values, whole[name], err_msg=name)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_of_the_phenotype_changes_no_test(scale):
    options = FitOptions(0, 0, 1, EVERYTHING)
    one, other = (fit_block(*block_case(unit), options) for unit in (1.0, scale))
    powers = {name: 1 for name in one if name.startswith(("add_se", "add_var_cov"))} | {"add": 1}
    for name, values in one.items():
        if name != "log_likelihood":
            expected = values * scale ** powers.get(name, 0)
            limit = 1e-9 * np.abs(expected).max()
            np.testing.assert_allclose(other[name], expected, rtol=1e-8, atol=limit, err_msg=name)


def test_a_block_takes_the_moments_of_its_null_model():
    null, packed, contigs = block_case()
    third, fourth = null.fits[""].moments
    assert third > 0.5
    assert fourth > 4
    found = fit_block(null, packed, contigs, FitOptions(0, 0, 1))
    np.testing.assert_allclose(found["add_se_robust"], found["add_se"], rtol=1e-14)
    ratio = (found["var_se_robust"] / found["var_se"]) ** 2
    np.testing.assert_allclose(ratio, (fourth - 1) / 2, rtol=1e-12)
    assert (found["add_var_cov_robust"] > 0).all()


def test_after_the_first_variant_nothing_compiles():
    fit_class_sums(fast.class_sums(np.zeros((1, 1), np.uint8), np.arange(4), np.zeros(4)))
    kernels = class_sums_pass.sum_block, hlm_classes._fit_all
    null, packed, contigs = block_case()
    packed.packed.flags.writeable = False
    for flags in range(8):
        inference = Inference(bool(flags & 1), bool(flags & 2), bool(flags & 4))
        fit_block(null, packed, contigs, FitOptions(0, 0, 1, inference))
    assert [len(kernel.signatures) for kernel in kernels] == [1, 1]
