"""Likelihood, gradient, information and covariance against n×n matrices."""

import numpy as np
import pytest
from dense_oracle import DenseModel
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.models.hlm import HLM
from hlmm_scan.models.hlmm import HLMM

TOLERANCE = 1e-8

shapes = st.fixed_dictionaries(
    {
        "n": st.integers(10, 60),
        "c": st.integers(1, 3),
        "v": st.integers(1, 3),
        "n_random": st.integers(1, 80),
        "h2": st.sampled_from([0.0, 1e-3, 0.3, 4.0]),
        "intercept": st.booleans(),
        "seed": st.integers(0, 2**31),
    }
)


def data(n, c, v, n_random, h2, intercept, seed):
    rng = np.random.default_rng(seed)
    X, V = rng.standard_normal((n, c)), rng.standard_normal((n, v))
    if intercept:
        X[:, 0] = 1.0
        V[:, -1] = 2.0
    G = rng.standard_normal((n, n_random)) / np.sqrt(n_random)
    a, b = rng.standard_normal(c), 0.5 * rng.standard_normal(v)
    y = X @ a + np.exp(V @ b / 2) * rng.standard_normal(n)
    y += np.sqrt(h2) * (G @ rng.standard_normal(n_random))
    return y, X, V, G, a, b


def assert_close(actual, expected):
    expected = np.asarray(expected)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * scale)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes)
def test_hlmm_agrees_with_dense_matrices(shape):
    y, X, V, G, a, b = data(**shape)
    h2, n, c = shape["h2"], shape["n"], shape["c"]
    model, dense = HLMM(y, X, V, G), DenseModel(y, X, V, G)
    alpha = dense.alpha(b, h2)
    assert_close(model.alpha_mle(b, h2), alpha)
    assert_close(model.likelihood(b, h2), dense.profile(b, h2))
    value, gradient = model.likelihood_and_gradient(b, h2)
    assert_close(value, -2 * dense.profile(b, h2) / n - np.log(2 * np.pi))
    assert model.likelihood(b, h2, negative=True) == value
    assert_close(gradient, dense.gradient(alpha, b, h2)[c:] / n)
    # Away from the maximum over a, too.
    assert_close(model.observed_information(a, b, h2), dense.hessian(a, b, h2) / 2)
    assert_close(model.expected_information(a, b, h2), dense.expected_information(b, h2))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(shapes)
def test_hlm_agrees_with_dense_matrices(shape):
    y, X, V, _, a, b = data(**shape)
    n, c = shape["n"], shape["c"]
    model, dense = HLM(y, X, V), DenseModel(y, X, V)
    alpha = dense.alpha(b)
    assert_close(model.alpha_ols(), np.linalg.lstsq(X, y)[0])
    assert_close(model.alpha_mle(b), alpha)
    assert_close(model.likelihood(b), dense.profile(b))
    value, gradient = model.likelihood_and_gradient(b)
    assert_close(value, -2 * dense.profile(b) / n - np.log(2 * np.pi))
    assert model.likelihood(b, negative=True) == value
    assert_close(gradient, dense.gradient(alpha, b)[c:] / n)
    assert_close(model.observed_information(a, b), dense.hessian(a, b) / 2)
    assert_close(model.expected_information(a, b), dense.expected_information(b))


def test_oracle_agrees_with_finite_differences():
    y, X, V, G, a, b = data(30, 2, 2, 7, 0.5, True, 3)
    dense = DenseModel(y, X, V, G)
    theta = np.concatenate((a, b, [0.5]))
    step = 1e-5

    def at(t):
        return t[:2], t[2:4], t[4]

    shifts = step * np.eye(5)
    gradient = [
        -(dense.log_likelihood(*at(theta + d)) - dense.log_likelihood(*at(theta - d))) / step
        for d in shifts
    ]
    np.testing.assert_allclose(dense.gradient(*at(theta)), gradient, rtol=1e-6, atol=1e-6)
    hessian = [
        (dense.gradient(*at(theta + d)) - dense.gradient(*at(theta - d))) / (2 * step)
        for d in shifts
    ]
    np.testing.assert_allclose(dense.hessian(*at(theta)), hessian, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("information", ["expected", "observed"])
@pytest.mark.parametrize("n_random", [1, 12, 400])
def test_fit_is_the_dense_maximum_with_the_dense_covariance(n_random, information):
    y, X, V, G, *_ = data(250, 2, 2, n_random, 1.0, True, 4)
    fit = HLMM(y, X, V, G).fit(information=information)
    dense = DenseModel(y, X, V, G)
    at = fit.alpha, fit.beta, fit.random_variance
    assert fit.success
    assert np.abs(dense.gradient(*at)).max() / 250 < 1e-10
    assert_close(fit.log_likelihood, dense.log_likelihood(*at))
    matrix = (
        dense.hessian(*at) / 2
        if information == "observed"
        else dense.expected_information(fit.beta, fit.random_variance)
    )
    covariance = np.linalg.inv(matrix)
    assert_close(fit.covariance, covariance)
    se = np.sqrt(np.diag(covariance))
    reported = (*fit.alpha_se, *fit.beta_se, fit.random_variance_se)
    np.testing.assert_allclose(reported, se, rtol=1e-8)


@pytest.mark.parametrize("information", ["expected", "observed"])
def test_hlm_fit_is_the_dense_maximum_with_the_dense_covariance(information):
    y, X, V, *_ = data(250, 3, 2, 1, 0.0, True, 5)
    fit = HLM(y, X, V).fit(information=information)
    dense = DenseModel(y, X, V)
    assert fit.success
    assert np.isnan([fit.random_variance, fit.random_variance_se]).all()
    assert np.abs(dense.gradient(fit.alpha, fit.beta)).max() / 250 < 1e-10
    matrix = (
        dense.hessian(fit.alpha, fit.beta) / 2
        if information == "observed"
        else dense.expected_information(fit.beta)
    )
    assert_close(fit.covariance, np.linalg.inv(matrix))
    assert_close(fit.log_likelihood, dense.log_likelihood(fit.alpha, fit.beta))
