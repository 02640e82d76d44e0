"""Every fast kernel against the plain estimator, one variant at a time, on the same cases."""

from __future__ import annotations

import numpy as np
import pytest
from cohorts_by_hand import null_model_of, random_effects_of
from plain_reference import (
    assert_same,
    degenerate,
    fit_plainly,
    run_classes,
    run_exact,
    run_joint,
)

from hlmm_scan.schema import Status

SAMPLES = 2043  # not a multiple of four; every twentieth is not analysed
FREQUENCIES = {"common": 0.4, "uncommon": 0.05, "missing": 0.3, "much_missing": 0.2}


def make_calls(rng, n=SAMPLES) -> np.ndarray:
    """Variants of every kind that can be fitted; the first is the one with an effect."""
    rows = [rng.binomial(2, f, n) for f in FREQUENCIES.values()]
    rows[2][rng.random(n) < 0.03] = -1
    rows[3][rng.random(n) < 0.4] = -1
    rare = np.zeros(n, int)
    rare[rng.choice(n, 14, replace=False)] = 1
    rare[rng.choice(n, 1)] = 2
    binary = rng.integers(0, 2, n)
    return np.array([*rows, rare, binary, binary + 1, 2 * binary], dtype=np.int8)


def make_phenotype(rng, calls, add, var, mean=None, variance=None) -> np.ndarray:
    g = calls[0] - calls[0].mean()
    y = add * g + np.exp(0.5 * var * g) * rng.standard_normal(len(g))
    if mean is not None:
        y = y + mean @ np.linspace(0.5, -0.5, mean.shape[1])
    if variance is not None:
        y = y * np.exp(0.5 * variance @ np.linspace(0.4, -0.2, variance.shape[1]))
    return y


def make_covariates(rng, n) -> np.ndarray:
    """Age, sex, one skewed and one discrete covariate."""
    return np.column_stack(
        [rng.normal(50, 8, n), rng.integers(0, 2, n), rng.gamma(0.5, 1, n), rng.poisson(2, n)]
    )


DESIGNS = {
    "intercepts": ([], []),
    "one_mean": ([0], []),
    "one_variance": ([], [1]),
    "the_same": ([0, 1], [0, 1]),
    "different": ([0, 2], [1, 3]),
    "several": ([0, 1, 2, 3], [0, 1, 3]),
}
KERNELS = [("classes", "intercepts"), *(("joint", design) for design in DESIGNS)]
EFFECTS = [(0.0, 0.0), (0.3, -0.3), (0.5, 1.5), (-1.0, -1.5)]
RUN = {"classes": run_classes, "joint": run_joint, "exact": run_exact}


def make_case(design, add, var, seed=0):
    rng = np.random.default_rng(seed)
    calls = make_calls(rng)
    covariates = make_covariates(rng, SAMPLES)
    mean, variance = (covariates[:, columns] for columns in DESIGNS[design])
    y = make_phenotype(rng, calls, add, var, mean / (1 + mean.std(axis=0)), variance / 10)
    samples = np.setdiff1d(np.arange(SAMPLES), np.arange(0, SAMPLES, 20))
    return null_model_of(y[samples], mean[samples], variance[samples], samples), calls


@pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])
@pytest.mark.parametrize(("add", "var"), EFFECTS)
@pytest.mark.parametrize(("kernel", "design"), KERNELS)
def test_a_block_agrees_with_one_variant_at_a_time(kernel, design, add, var, observed):
    null, calls = make_case(design, add, var)
    found = RUN[kernel](null, calls, observed)
    assert (found.status == Status.OK).all()
    assert (found.add_var_covariance != 0).any() == observed
    for row in range(len(calls)):
        assert_same(row, found, fit_plainly(null, calls[row], observed=observed))


@pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])
@pytest.mark.parametrize("design", ["intercepts", "different"])
@pytest.mark.parametrize(("add", "var"), [(0.1, -0.2), (0.5, 1.5)])
def test_the_mixed_model_agrees_with_the_plain_estimator_from_its_own_start(
    design, add, var, observed
):
    rng = np.random.default_rng(3)
    n = 501
    calls = make_calls(rng, n)
    columns = DESIGNS[design]
    covariates = make_covariates(rng, n)
    mean, variance = covariates[:, columns[0]], covariates[:, columns[1]]
    effects = random_effects_of(n, ["1"] * 10 + ["2"] * 20, seed=1)
    y = make_phenotype(rng, calls, add, var, mean / (1 + mean.std(axis=0)))
    y += 0.7 * effects.design("") @ rng.standard_normal(30)
    null = null_model_of(y, mean, variance, None, effects, left_out=["1", "2"])
    found = run_exact(null, calls, observed)
    assert (found.status == Status.OK).all()
    for row in range(len(calls)):
        assert_same(row, found, fit_plainly(null, calls[row], observed=observed))


@pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])
def test_a_random_variance_of_zero_leaves_finite_tests_of_the_rest(observed):
    rng = np.random.default_rng(5)
    n = 401
    calls = make_calls(rng, n)[:6]
    effects = random_effects_of(n, ["2"] * 12, seed=2)
    G = effects.design("")
    noise = rng.standard_normal(n)
    # Residuals that are less alike than independent ones along the random effects.
    y = make_phenotype(rng, calls, 0.1, 0.2) * 0.2 + noise - G @ np.linalg.lstsq(G, noise)[0]
    null = null_model_of(y, effects=effects)
    assert null.fits[""].status is Status.RANDOM_VARIANCE_AT_ZERO
    found = run_exact(null, calls, observed)
    assert (found.status == Status.RANDOM_VARIANCE_AT_ZERO).all()
    assert (found.random_variance == 0).all()
    assert np.isnan(found.random_variance_variance).all()
    assert (found.add_variance > 0).all()
    assert (found.var_variance > 0).all()
    for row in range(len(calls)):
        assert_same(row, found, fit_plainly(null, calls[row], observed=observed))


DEGENERATE = [
    ("intercepts", "one_carrier", Status.UNBOUNDED),
    ("intercepts", "tied_carriers", Status.UNBOUNDED),
    ("intercepts", "tied_non_carriers", Status.UNBOUNDED),
    ("intercepts", "tied_homozygotes", Status.OK),
    ("intercepts", "monomorphic", Status.NOT_UNIQUE),
    ("one_mean", "one_carrier", Status.UNBOUNDED),
    ("one_variance", "tied_carriers", Status.UNBOUNDED),
    ("one_variance", "tied_non_carriers", Status.UNBOUNDED),
    ("one_variance", "collinear_with_sex", Status.NOT_UNIQUE),
    ("sex_in_mean", "collinear_with_sex", Status.NOT_UNIQUE),
    ("sex_in_mean", "collinear_where_called", Status.NOT_UNIQUE),
    ("the_same", "collinear_with_sex", Status.NOT_UNIQUE),
    ("several", "one_carrier", Status.UNBOUNDED),
    ("several", "monomorphic", Status.NOT_UNIQUE),
]


@pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])
@pytest.mark.parametrize(
    ("kernel", "design", "kind", "status"),
    [
        (kernel, *case)
        for case in DEGENERATE
        for kernel in RUN
        if kernel != "classes" or case[0] == "intercepts"
    ],
)
def test_what_cannot_be_estimated_has_the_status_of_the_plain_estimator(
    kernel, design, kind, status, observed
):
    rng = np.random.default_rng(11)
    n = 299
    covariates = make_covariates(rng, n)
    effects = random_effects_of(n, ["2"] * 5, seed=4)
    y = rng.standard_normal(n) + effects.design("") @ [1.0, -0.5, 0.7, -1.2, 0.3]
    g, y = degenerate(kind, y, rng, sex=covariates[:, 1])
    columns = {**DESIGNS, "sex_in_mean": ([1], [])}[design]
    effects = effects if kernel == "exact" else None
    null = null_model_of(y, covariates[:, columns[0]], covariates[:, columns[1]], effects=effects)
    # An ordinary variant beside it is not to be harmed.
    calls = np.array([g, rng.binomial(2, 0.4, n)], np.int8)
    found = RUN[kernel](null, calls, observed)
    assert_same(0, found, fit_plainly(null, calls[0], observed=observed))
    # Random effects differ between tied people, whose residuals then are not tied.
    told_apart = kernel == "exact" and kind.startswith("tied")
    assert Status(found.status[0]) is (Status.OK if told_apart else status)
    assert_same(1, found, fit_plainly(null, calls[1], observed=observed))


@pytest.mark.parametrize("kernel", RUN)
def test_variants_nobody_or_hardly_anybody_has_a_call_for_are_not_unique(kernel):
    rng = np.random.default_rng(2)
    n = 101
    effects = random_effects_of(n, ["2"] * 5, seed=4) if kernel == "exact" else None
    null = null_model_of(rng.standard_normal(n), effects=effects)
    calls = np.full((3, n), -1, np.int8)
    calls[1, :4] = [0, 1, 2, 1]
    found = RUN[kernel](null, calls)
    assert (found.status == Status.NOT_UNIQUE).all()
    assert np.isnan(found.add).all()
    assert np.isnan(found.log_likelihood).all()


@pytest.mark.parametrize("kernel", RUN)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_the_phenotype_changes_no_test(kernel, scale):
    rng = np.random.default_rng(8)
    n = 301
    calls = make_calls(rng, n)[[0, 1, 2, 5]]
    y = 3 + make_phenotype(rng, calls, 0.4, 0.5)
    effects = random_effects_of(n, ["2"] * 10, seed=4) if kernel == "exact" else None
    one, other = (
        RUN[kernel](null_model_of(unit * y, effects=effects), calls) for unit in (1.0, scale)
    )
    z_add, z_var = (
        [e.add / np.sqrt(e.add_variance) for e in (one, other)],
        [e.var / np.sqrt(e.var_variance) for e in (one, other)],
    )
    np.testing.assert_allclose(*z_add, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(*z_var, rtol=1e-9, atol=1e-9)
    assert (one.status == other.status).all()


def test_a_stationary_point_that_is_no_maximum_counts_as_not_converged():
    # Heterozygotes shifted, all else symmetric: b_g = 0 is stationary in the profile.
    noise = np.tile([-1.0, -0.5, 0.5, 1.0], 10) * 0.3
    null = null_model_of(np.concatenate([noise - 1, noise + 1, noise + 1, noise - 1]))
    calls = np.repeat(np.array([[0, 1, 1, 2]], np.int8), 40, axis=1)
    for kernel in ("classes", "joint"):
        for observed in (False, True):
            plain = fit_plainly(null, calls[0], observed=observed)
            assert plain.status is (Status.NOT_CONVERGED if observed else Status.OK)
            assert_same(0, RUN[kernel](null, calls, observed), plain)
