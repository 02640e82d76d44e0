"""Fits of many random effects by n×n matrices, against products with their design."""

from __future__ import annotations

import numpy as np
import pytest

from hlmm_scan.models import HLMM
from hlmm_scan.models.hlmm_objective import HLMMObjective
from hlmm_scan.models.lowrank import thin
from hlmm_scan.models.relationship import RelationshipCovariance, RelationshipObjective
from hlmm_scan.schema import Status

QUANTITIES = ("gradient", "hessian", "expected", "observed", "alpha", "residual_white")


def data(n: int, n_random: int, v: int, seed: int = 1):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, n_random)) / np.sqrt(n_random)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    V = np.column_stack([np.ones(n), rng.standard_normal((n, v - 1))])
    noise = np.exp(0.5 * V @ np.linspace(0, 0.4, v)) * rng.standard_normal(n)
    return G @ rng.standard_normal(n_random) + noise, X, V, G


@pytest.mark.parametrize("shape", [(40, 60, 3), (600, 400, 2), (300, 700, 1)])
@pytest.mark.parametrize("h2", [0.0, 1e-9, 0.9e-6, 1.1e-6, 1e-4, 0.3, 20.0, 1e4])
def test_both_ways_give_the_same_value_and_derivatives(shape, h2):
    y, X, V, G = data(*shape)
    theta = np.append(np.linspace(-0.2, 0.3, shape[2]), h2)
    one = HLMMObjective(y, X, V, thin(G), 0.1, 1.3).at(theta)
    two = RelationshipObjective(y, X, V, G @ G.T, 0.1, 1.3).at(theta)
    assert two.value == pytest.approx(one.value, rel=1e-11)
    for name in (*QUANTITIES, "random_white"):
        expected, found = getattr(one, name), getattr(two, name)
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=1e-9 * np.abs(expected).max(), err_msg=name
        )
    given = one.alpha + 0.1
    one, two = (o.objective.at(theta, given) for o in (one, two))
    np.testing.assert_allclose(two.residual_white, one.residual_white, atol=1e-9)


def test_sums_over_pairs_are_those_of_the_matrix_written_out():
    _, _, V, G = data(600, 700, 3)
    covariance = RelationshipCovariance(V @ [0.1, 0.4, -0.2], G @ G.T, 0.7)
    root = np.exp(0.5 * V @ [0.1, 0.4, -0.2])
    M = np.linalg.inv(np.eye(600) + 0.7 * (G @ G.T) / np.outer(root, root))
    np.testing.assert_allclose(covariance.diagonal, np.diag(M), rtol=1e-12)
    np.fill_diagonal(M, 0)
    for power, sums in zip((2, 3, 5), covariance.pair_sums(V, 2, 3, 5), strict=True):
        np.testing.assert_allclose(sums, M**power @ V, atol=1e-12)


def test_a_fit_is_the_same_maximum_from_either_side_of_the_choice():
    # The same covariance by few columns of some people and, doubled, by more columns than people.
    y, X, V, _ = data(200, 10, 2)
    rng = np.random.default_rng(2)
    few = rng.standard_normal((200, 90)) / np.sqrt(90)
    many = np.hstack([few, few]) / np.sqrt(2)
    y = y + few @ rng.standard_normal(90)
    one, two = HLMM(y, X, V, few).fit(), HLMM(y, X, V, many).fit()
    assert one.status is two.status is Status.OK
    assert np.abs(one.alpha - two.alpha).max() < 1e-8 * one.alpha_se.min()
    assert np.abs(one.beta - two.beta).max() < 1e-8 * one.beta_se.min()
    assert abs(one.random_variance - two.random_variance) < 1e-8 * one.random_variance_se
    assert two.log_likelihood == pytest.approx(one.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(two.covariance, one.covariance, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_the_looser_tolerance_from_a_near_start_finds_the_same_maximum(seed):
    y, X, V, G = data(250, 300, 3, seed)
    model = HLMM(y, X, V, G)
    exact = model.fit()
    rest = HLMM(y, X, V, np.ascontiguousarray(G[:, 30:]))
    loose, at = rest.fit_and_evaluate(
        (exact.beta, max(exact.random_variance, 0.01)), tolerance=1e-6
    )
    tight = rest.fit()
    assert at is not None
    assert loose.iterations <= tight.iterations + 2
    assert np.abs(loose.beta - tight.beta).max() < 1e-6 * tight.beta_se.min()
    assert loose.random_variance == pytest.approx(tight.random_variance, abs=1e-7)
    assert loose.log_likelihood == pytest.approx(tight.log_likelihood, abs=1e-7)
