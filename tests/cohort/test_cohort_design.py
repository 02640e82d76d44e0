"""Standardised designs: their columns, the way back to the user's units, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.cohort.design import build_design, centre_and_scale
from hlmm_scan.errors import InputError

SCALES = [1e-300, 1e-6, 1.0, 1e6, 1e300]


def covariates(n=200, p=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) + rng.normal(size=p) * 5


def refused(*args):
    with pytest.raises(InputError) as error:
        build_design(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_columns_have_mean_0_and_sd_1():
    design = build_design(covariates(), ["a", "b", "c"])
    assert design.names == ("intercept", "a", "b", "c")
    assert design.matrix.shape == (200, 4)
    assert design.matrix.flags.c_contiguous
    np.testing.assert_array_equal(design.matrix[:, 0], 1)
    np.testing.assert_allclose(design.matrix[:, 1:].mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(design.matrix[:, 1:].std(axis=0), 1, rtol=1e-13)
    np.testing.assert_allclose(design.centres, [0, *covariates().mean(axis=0)], rtol=1e-13)
    np.testing.assert_allclose(design.scales, [1, *covariates().std(axis=0)], rtol=1e-13)
    with pytest.raises(ValueError, match="read-only"):
        design.matrix[0, 0] = 2


def test_no_covariates():
    design = build_design(np.zeros((4, 0)), [])
    np.testing.assert_array_equal(design.matrix, np.ones((4, 1)))
    assert design.names == ("intercept",)


@pytest.mark.parametrize("scale", SCALES)
def test_scales_of_all_sizes(scale):
    x = covariates() * scale
    design = build_design(x, ["a", "b", "c"])
    np.testing.assert_allclose(
        design.matrix, build_design(covariates(), ["a", "b", "c"]).matrix, rtol=1e-9, atol=1e-12
    )


def test_a_small_spread_around_a_large_mean():
    spread = np.tile([-1.0, 1.0], 50)
    centres, scales = centre_and_scale((1e6 + 1e-6 * spread)[:, None])
    np.testing.assert_allclose(centres, 1e6, rtol=1e-15)
    np.testing.assert_allclose(scales, 1e-6, rtol=1e-3)  # the input itself has but four digits
    assert centre_and_scale(np.full((7, 1), 0.1))[1] == 0
    assert centre_and_scale(np.array([[0.1 + 0.2], [0.3]]))[1] == 0  # apart by rounding only
    assert centre_and_scale(np.zeros((5, 1)))[1] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.sampled_from([1e-6, 1.0, 1e6]),
    st.sampled_from([0.0, 1.0, -1e4]),
    st.sampled_from([1e-6, 1.0, 1e6]),
    st.sampled_from([0.0, 1e4]),
)
def test_the_way_back_is_least_squares_on_raw_covariates(seed, p, x_scale, x_mean, y_scale, y_mean):
    rng = np.random.default_rng(seed)
    n = 60
    x = (rng.normal(size=(n, p)) + x_mean) * x_scale
    y = (x @ rng.normal(size=p) / x_scale + rng.normal(size=n) + y_mean) * y_scale
    design = build_design(x, [f"x{j}" for j in range(p)])
    (centre,), (scale,) = centre_and_scale(y[:, None])

    def least_squares(matrix, response):
        q, r = np.linalg.qr(matrix)
        inverse = np.linalg.inv(r)
        estimate = inverse @ (q.T @ response)
        left = response - matrix @ estimate
        return estimate, left @ left / (n - p - 1) * inverse @ inverse.T

    estimate, covariance = least_squares(design.matrix, (y - centre) / scale)
    estimate, covariance = design.mean_to_user(estimate, covariance, centre, scale)
    expected, expected_covariance = least_squares(np.column_stack([np.ones(n), x]), y)
    errors = np.sqrt(np.diag(expected_covariance))
    np.testing.assert_allclose((estimate - expected) / errors, 0, atol=1e-5)
    np.testing.assert_allclose(
        covariance / np.outer(errors, errors),
        expected_covariance / np.outer(errors, errors),
        atol=1e-5,
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_variance_side_keeps_its_linear_predictor(seed, p, scale):
    rng = np.random.default_rng(seed)
    n, y_scale = 40, 3e-4
    v = (rng.normal(size=(n, p)) + 2) * scale
    design = build_design(v, [f"v{j}" for j in range(p)], "variance")
    b = rng.normal(size=p + 1)
    root = rng.normal(size=(p + 1, p + 1))
    raw, covariance = design.variance_to_user(b, root @ root.T, y_scale)
    raw_design = np.column_stack([np.ones(n), v])
    np.testing.assert_allclose(
        raw_design @ raw, 2 * np.log(y_scale) + design.matrix @ b, atol=1e-10
    )
    np.testing.assert_allclose(
        np.sum((raw_design @ covariance) * raw_design, axis=1),
        np.sum((design.matrix @ root) ** 2, axis=1),
        rtol=1e-9,
    )


def test_wrong_shapes():
    design = build_design(covariates(), ["a", "b", "c"])
    with pytest.raises(ValueError, match="4 coefficients"):
        design.mean_to_user(np.zeros(3), np.zeros((4, 4)), 0.0, 1.0)
    with pytest.raises(ValueError, match="4×4"):
        design.variance_to_user(np.zeros(4), np.zeros((3, 3)), 1.0)
    with pytest.raises(ValueError, match="columns of finite values"):
        build_design(covariates(), ["a", "b"])
    with pytest.raises(ValueError, match="finite"):
        build_design(np.array([[1.0], [np.nan]]), ["a"])


def test_constant_covariates():
    x = covariates(1410)
    x[:, 1] = 0.1
    assert refused(x, ["a", "x", "c"], "mean", "trait1") == (
        "mean covariate 'x' is constant among the 1,410 people analysed for trait1"
    )
    x[:, 2] = 7
    assert refused(x, ["a", "x", "c"], "variance", "trait1") == (
        "variance covariates 'x' and 'c' are constant among the 1,410 people analysed for trait1"
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_collinear_covariates(scale):
    x = covariates(300, 4)
    x[:, 2] = 3 * x[:, 0] - x[:, 1] / 7 + 11
    x *= [1, scale, 1, 1]
    assert refused(x, list("abcd"), "mean", "t") == (
        "mean covariates are collinear among the 300 people analysed for t: "
        "'c' is a combination of 'a' and 'b'"
    )


def test_collinear_copies_and_categories():
    x = covariates(300, 1)
    assert refused(np.hstack([x, -2 * x + 1]), ["a", "b"], "variance", "t").endswith(
        "'b' is a combination of 'a'"
    )
    levels = np.eye(10)[np.arange(300) % 10]
    line = refused(levels, [f"l{j}" for j in range(10)])
    assert line.endswith("'l9' is a combination of 'l0', 'l1', 'l2', 'l3', 'l4', 'l5' and 3 more")
    line = refused(np.repeat(covariates(300, 5), 2, axis=1), [f"x{j}" for j in range(10)])
    assert line.endswith(
        "'x1' is a combination of 'x0'; 'x3' is a combination of 'x2'; "
        "'x5' is a combination of 'x4'; and 2 more"
    )


@pytest.mark.parametrize("left", [1e-7, 1e-5, 1e-2])
def test_nearly_collinear_covariates_are_kept(left):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(100, 2))
    design = build_design(np.column_stack([x, x[:, 0] + left * x[:, 1]])[:, [0, 2]], ["a", "b"])
    assert design.matrix.shape == (100, 3)


def test_fewer_people_than_columns():
    assert refused(covariates(3), ["a", "b", "c"], "mean", "trait1") == (
        "fewer people than parameters: 3 people are analysed for trait1, "
        "with 4 mean parameters (intercept included)"
    )
