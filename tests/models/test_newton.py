"""The minimiser on functions small enough to know everything about."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from hlmm_scan.models.newton import minimise


@dataclass
class Point:
    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    scoring_hessian: np.ndarray
    vanishing: float = np.inf


@dataclass
class Function:
    """A function of k variables, given by a callable from θ to a Point."""

    at_theta: object
    calls: list = field(default_factory=list)

    def at(self, theta):
        self.calls.append(theta)
        return self.at_theta(theta)

    def step_size(self, theta, step):
        return float(np.abs(step).max())


def quadratic(centre):
    H = np.array([[2.0, 0.8], [0.8, 1.0]])

    def at(theta):
        d = theta - centre
        return Point(float(0.5 * d @ H @ d), H @ d, H, np.eye(2))

    return Function(at)


def exponential(theta):
    return Point(float(np.exp(theta[0])), np.exp(theta), np.exp(theta)[:, None], np.eye(1))


def test_a_quadratic_takes_one_step():
    found = minimise(quadratic(np.array([0.5, -1.0])), np.zeros(2))
    assert found.converged
    assert found.iterations == 1
    np.testing.assert_allclose(found.theta, [0.5, -1.0], rtol=1e-12)


def test_the_bound_is_kept_and_the_rest_minimised_on_it():
    centre = np.array([0.5, -1.0])
    for start in ([0.0, 0.0], [3.0, 4.0], [-2.0, 0.1]):
        found = minimise(quadratic(centre), np.array(start), bounded=True)
        assert found.converged
        assert found.at_bound
        assert found.theta[1] == 0
        # At θ₂ = 0: 2(θ₁ − ½) + 0.8·1 = 0.
        assert found.theta[0] == pytest.approx(0.1, abs=1e-12)
    inside = minimise(quadratic(np.array([0.5, 1.0])), np.zeros(2), bounded=True)
    assert not inside.at_bound
    np.testing.assert_allclose(inside.theta, [0.5, 1.0], rtol=1e-12)


def test_a_double_well_is_left_uphill_of_its_saddle():
    def at(theta):
        x = theta[0]
        return Point(
            float(x**4 / 4 - x**2 / 2),
            np.array([x**3 - x]),
            np.array([[3 * x**2 - 1]]),
            np.eye(1),
        )

    found = minimise(Function(at), np.array([0.01]))
    assert found.converged
    assert found.theta[0] == pytest.approx(1.0, abs=1e-12)


def test_long_steps_are_cut_to_three():
    function = quadratic(np.array([100.0, 0.0]))
    assert minimise(function, np.zeros(2)).converged
    moves = np.abs(np.diff(np.array(function.calls), axis=0)).max(axis=1)
    assert moves.max() <= 3 + 1e-12


def test_a_function_that_levels_off_is_no_convergence():
    found = minimise(Function(exponential), np.zeros(1))
    assert not found.converged
    assert found.gradient_norm < 1e-9
    assert "no " in found.reason


def test_what_vanishes_is_degenerate():
    def at(theta):
        point = exponential(theta)
        point.vanishing = float(np.exp(theta[0]))
        return point

    found = minimise(Function(at), np.zeros(1))
    assert found.degenerate
    assert not found.converged


def test_a_function_not_finite_at_its_start():
    def at(theta):
        return Point(np.nan, np.zeros(1), np.eye(1), np.eye(1))

    assert "not finite" in minimise(Function(at), np.zeros(1)).reason


def test_points_that_cannot_be_evaluated_are_stepped_back_from():
    def at(theta):
        if theta[0] <= 0:
            raise np.linalg.LinAlgError
        x = theta[0]
        return Point(x - np.log(x), np.array([1 - 1 / x]), np.array([[x**-2]]), np.eye(1))

    found = minimise(Function(at), np.array([2.9]))
    assert found.converged
    assert found.theta[0] == pytest.approx(1.0, abs=1e-10)


def test_hessians_without_use_leave_the_gradient():
    def at(theta):
        useless = np.full((2, 2), np.nan)
        return Point(float(0.5 * theta @ theta), theta.copy(), useless, useless)

    # Scaled gradients are NaN where the Hessian is: nothing to go by, and a reason.
    assert not minimise(Function(at), np.ones(2), bounded=True).converged

    def singular(theta):
        return Point(float(0.5 * theta @ theta), theta.copy(), -np.eye(2), np.zeros((2, 2)))

    found = minimise(Function(singular), np.array([1.0, 2.0]), bounded=True)
    np.testing.assert_allclose(found.theta, 0.0, atol=1e-8)


def test_iterations_are_limited():
    found = minimise(quadratic(np.array([1e3, 0.0])), np.zeros(2), max_iterations=3)
    assert not found.converged
    assert found.iterations == 3
    assert "3 iterations" in found.reason
