"""The plain robust covariances: against formulas, definitions and simulated scores."""

import numpy as np
import pytest

from hlmm_scan.models import HLM, HLMM
from hlmm_scan.models.robust import sandwich_covariance, studentised_covariance


def cohort(n, l_random=0, seed=3):
    rng = np.random.default_rng(seed)
    g = rng.binomial(2, 0.3, n).astype(float)
    x, v = rng.standard_normal((2, n))
    X, V = np.column_stack([np.ones(n), x, g]), np.column_stack([np.ones(n), v, g])
    beta = np.array([0.1, 0.2, 0.15])
    G = rng.standard_normal((n, l_random)) / np.sqrt(max(l_random, 1)) if l_random else None
    return X, V, beta, G


@pytest.mark.parametrize("h2", [0.0, 0.4])
def test_normal_moments_give_back_the_expected_information(h2):
    X, V, beta, G = cohort(150, 20)
    rng = np.random.default_rng(1)
    y = X @ [0.1, 0.2, 0.3] + np.exp(0.5 * V @ beta) * rng.standard_normal(150)
    y += np.sqrt(h2) * G @ rng.standard_normal(20)
    fit = (HLMM(y, X, V, G) if h2 else HLM(y, X, V)).fit()
    random_variance = float(fit.random_variance) if h2 else 0.0
    found = studentised_covariance(X, V, fit.beta, (0.0, 3.0), G, random_variance)
    assert np.allclose(found, fit.covariance, rtol=1e-8, atol=1e-12)


def test_without_random_effects_it_is_koenkers_formula():
    X, V, beta, _ = cohort(120)
    m3, m4 = 1.3, 7.0
    D = np.exp(V @ beta)
    A_a, A_b = X.T @ (X / D[:, None]), 0.5 * V.T @ V
    found = studentised_covariance(X, V, beta, (m3, m4))
    assert np.allclose(found[:3, :3], np.linalg.inv(A_a))
    assert np.allclose(found[3:, 3:], (m4 - 1) / 2 * np.linalg.inv(A_b))
    B_ab = 0.5 * m3 * X.T @ (V / np.sqrt(D)[:, None])
    assert np.allclose(found[:3, 3:], np.linalg.inv(A_a) @ B_ab @ np.linalg.inv(A_b))


@pytest.mark.parametrize("l_random", [0, 12, 90])
def test_studentised_is_the_covariance_of_simulated_scores(l_random):
    """Gamma noise, normal random effects; the scores at the truth, drawn 20,000 times."""
    n, h2, shape, draws = 60, 0.5, 2.0, 20_000
    X, V, beta, G = cohort(n, l_random)
    D = np.exp(V @ beta)
    K = np.zeros((n, n)) if G is None else G @ G.T
    precision = np.linalg.inv(np.diag(D) + h2 * K)
    rng = np.random.default_rng(11)
    t = (rng.gamma(shape, size=(draws, n)) - shape) / np.sqrt(shape)
    r = t * np.sqrt(D)
    if G is not None:
        r += np.sqrt(h2) * rng.standard_normal((draws, l_random)) @ G.T
    p = r @ precision
    scores = [p @ X, 0.5 * (p**2 * D) @ V]
    if G is not None:
        scores.append(0.5 * np.einsum("di,di->d", p @ K, p)[:, None])
    B = np.cov(np.column_stack(scores), rowvar=False)
    C = studentised_covariance(X, V, beta, (2 / np.sqrt(shape), 3 + 6 / shape), G, h2)
    A = np.linalg.inv(studentised_covariance(X, V, beta, (0.0, 3.0), G, h2))
    wanted = A @ C @ A
    scale = np.sqrt(np.diag(wanted))
    # Monte-Carlo error of a covariance of skewed scores: a few times 1/√draws.
    assert np.abs((B - wanted) / np.outer(scale, scale)).max() < 0.08


@pytest.mark.parametrize("l_random", [0, 5])
def test_sandwich_nears_the_model_where_the_model_is_right(l_random):
    n, h2 = 800, 0.3
    X, V, beta, G = cohort(n, l_random)
    rng = np.random.default_rng(5)
    alpha = np.array([0.2, -0.1, 0.3])
    y = X @ alpha + np.exp(0.5 * V @ beta) * rng.standard_normal(n)
    if G is not None:
        y += np.sqrt(h2) * G @ rng.standard_normal(l_random)
    fit = (HLM(y, X, V) if G is None else HLMM(y, X, V, G)).fit()
    random_variance = 0.0 if G is None else float(fit.random_variance)
    found = sandwich_covariance(y, X, V, fit.alpha, fit.beta, G, random_variance)
    ratio = np.diag(found)[:6] / np.diag(fit.covariance)[:6]
    assert np.abs(ratio - 1).max() < 0.3


def test_sandwich_is_the_sum_over_people_of_the_products_of_scores():
    n = 80
    X, V, beta, _ = cohort(n)
    rng = np.random.default_rng(7)
    alpha = np.array([0.2, -0.1, 0.3])
    y = X @ alpha + rng.standard_normal(n)
    r, D = y - X @ alpha, np.exp(V @ beta)
    A, B = np.zeros((6, 6)), np.zeros((6, 6))
    for i in range(n):
        s = np.concatenate([X[i] * r[i] / D[i], 0.5 * V[i] * (r[i] ** 2 / D[i] - 1)])
        B += np.outer(s, s)
        A[:3, :3] += np.outer(X[i], X[i]) / D[i]
        A[3:, 3:] += 0.5 * np.outer(V[i], V[i]) * r[i] ** 2 / D[i]
    wanted = np.linalg.inv(A) @ B @ np.linalg.inv(A)
    assert np.allclose(sandwich_covariance(y, X, V, alpha, beta), wanted, rtol=1e-9)
