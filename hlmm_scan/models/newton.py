"""Damped Newton minimisation with an optional lower bound of 0 on the last parameter.

It knows nothing of the models: an objective gives values, gradients and Hessians, and says how
far a step is in its own terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from scipy.linalg import cho_solve

from hlmm_scan.array_types import Float

GRADIENT_TOLERANCE = 1e-9
"""Largest scaled element of the projected gradient before the last Newton step."""

VANISHED = 1e-11
"""Variance over OLS residual variance, below which it is taken to run to 0."""

_VANISHED_AT_STALL = 1e-7
_STEP_TOLERANCE = 1e-4
_MAX_STEP = 3.0
_HALVINGS = 30
_SUFFICIENT = 1e-4
_ROUNDING = 1e-13
_SMALLEST_PIVOT = 1e-8


class Evaluation(Protocol):
    """What an objective knows at one point; the later attributes may be computed on demand."""

    @property
    def value(self) -> float:
        """Value, per observation."""

    @property
    def gradient(self) -> Float:
        """Gradient of the value, shape (k,)."""

    @property
    def hessian(self) -> Float:
        """Hessian of the value, shape (k, k); need not be positive definite."""

    @property
    def scoring_hessian(self) -> Float:
        """A positive semi-definite stand-in, the expected information, shape (k, k)."""

    @property
    def vanishing(self) -> float:
        """Smallest residual variance of an observation without residual; infinite without one.

        Where it goes to 0 the value is on its way to −∞, or a parameter to ±∞.
        """


E = TypeVar("E", bound=Evaluation)
E_co = TypeVar("E_co", bound=Evaluation, covariant=True)


class Objective(Protocol[E_co]):
    """A function to be minimised."""

    def at(self, theta: Float) -> E_co:
        """Evaluate; may raise LinAlgError where the function does not exist numerically."""

    def step_size(self, theta: Float, step: Float) -> float:
        """Size of a step in natural terms: 1 changes a log-variance by about one unit."""


@dataclass(frozen=True)
class Minimum(Generic[E]):
    """Where a minimisation stopped, and why.

    Attributes
    ----------
    theta : ndarray, shape (k,)
    evaluation : Evaluation
        At `theta` − `last_step`.
    last_step : ndarray, shape (k,)
        Newton step made on convergence without evaluating again; 0 without convergence.
    converged : bool
        Whether the projected gradient is within tolerance and no long step is left to make.
    at_bound : bool
        Whether the last parameter is 0 and the function increases from there.
    degenerate : bool
        Whether the function runs to −∞, or a parameter to ±∞.
    reason : str
        One sentence.
    iterations : int
    gradient_norm : float
        Largest element of the projected gradient per observation, each divided by the second
        derivative where that is above 1; before the last step.
    """

    theta: Float
    evaluation: E
    last_step: Float
    converged: bool
    at_bound: bool
    degenerate: bool
    reason: str
    iterations: int
    gradient_norm: float


def minimise(
    objective: Objective[E],
    start: Float,
    *,
    bounded: bool = False,
    tolerance: float = GRADIENT_TOLERANCE,
    max_iterations: int = 100,
) -> Minimum[E]:
    """Minimise by damped Newton steps.

    Parameters
    ----------
    objective : Objective
        Per observation and in standardised units, so that the tolerances mean the same always.
    start : ndarray, shape (k,)
    bounded : bool, default False
        Whether the last parameter is ≥ 0.
    tolerance : float, default 1e-9
        On the largest element of the projected gradient, each divided by the second derivative
        where that is above 1: in a function so steep, rounding alone makes a large gradient.
    max_iterations : int, default 100

    Returns
    -------
    Minimum

    Raises
    ------
    numpy.linalg.LinAlgError
        If the objective cannot be evaluated at the start. Nothing is raised later on.

    Notes
    -----
    A step comes from the Hessian where that is positive definite, else from the scoring
    Hessian. A step across the bound is replaced by the minimum of the quadratic model on the
    bound, which is a descent direction too; a parameter on the bound is held there while the
    function increases inwards, and freed when it does not.

    The gradient alone does not show convergence: where a parameter runs to −∞ and the function
    levels off as its exponential, gradient and Hessian vanish together and every step is about
    one unit long. So the next step must be short as well. That step is then made, since it is
    known already and squares the distance left: the result does not depend on the path, and the
    value and Hessian before it are those after it to the same accuracy as the gradient is 0.
    """
    theta = np.array(start, dtype=np.float64)
    evaluation = objective.at(theta)
    held, norm, iteration = False, np.inf, 0

    def stopped(
        reason: str, *, last_step: Float | None = None, degenerate: bool = False
    ) -> Minimum[E]:
        step = np.zeros_like(theta) if last_step is None else last_step
        return Minimum(
            theta=theta + step,
            evaluation=evaluation,
            last_step=step,
            converged=last_step is not None,
            at_bound=held,
            degenerate=degenerate,
            reason=reason,
            iterations=iteration,
            gradient_norm=norm,
        )

    while True:
        held = _held(theta, evaluation, bounded)
        norm = _norm(evaluation, held, np.diag(evaluation.hessian))
        if not (np.isfinite(evaluation.value) and np.isfinite(norm)):
            return stopped("the likelihood is not finite at the start")
        if evaluation.vanishing < VANISHED:
            return stopped("a residual variance runs to 0", degenerate=True)
        step = _direction(theta, evaluation, held, bounded)
        # Rounding may hide the last part of a variance's way to 0, where gradients are none.
        vanished = evaluation.vanishing < _VANISHED_AT_STALL
        if norm <= tolerance and objective.step_size(theta, step) <= _STEP_TOLERANCE:
            if vanished:
                return stopped("a residual variance runs to 0", degenerate=True)
            return stopped("converged", last_step=step)
        if iteration == max_iterations:
            return stopped(f"no convergence in {max_iterations} iterations")
        found = _search(objective, theta, evaluation, step, held, bounded)
        if found is None:
            step = _scoring_direction(theta, evaluation, held, bounded)
            found = _search(objective, theta, evaluation, step, held, bounded)
        if found is None:
            if vanished:
                return stopped("a residual variance runs to 0", degenerate=True)
            return stopped("no step decreases the function further")
        theta, evaluation = found
        iteration += 1


def _held(theta: Float, evaluation: Evaluation, bounded: bool) -> bool:
    return bounded and bool(theta[-1] <= 0 and evaluation.gradient[-1] >= 0)


def _norm(evaluation: Evaluation, held: bool, curvature: Float | float = 1.0) -> float:
    gradient = np.abs(evaluation.gradient / np.maximum(curvature, 1.0))
    return float(gradient[: len(gradient) - held].max(initial=0.0))


def _direction(theta: Float, evaluation: Evaluation, held: bool, bounded: bool) -> Float:
    step = _solve(evaluation.hessian, evaluation.gradient, theta, held, bounded)
    if step is None:
        step = _scoring_direction(theta, evaluation, held, bounded)
    return step


def _scoring_direction(theta: Float, evaluation: Evaluation, held: bool, bounded: bool) -> Float:
    hessian, gradient = evaluation.scoring_hessian, evaluation.gradient
    identity = np.diag(hessian).max() * np.eye(len(hessian))
    # Only parameters that are not identified need the ridge; it keeps them where they are.
    for ridge in (0.0, 1e-6, 1e-2):
        step = _solve(hessian + ridge * identity, gradient, theta, held, bounded)
        if step is not None:
            return step
    step = -gradient
    if bounded:
        step[-1] = 0.0 if held else max(step[-1], -theta[-1])
    return step


def _solve(
    hessian: Float, gradient: Float, theta: Float, held: bool, bounded: bool
) -> Float | None:
    """Minimum of the quadratic model within the bound; None where it is not convex."""
    step = np.zeros_like(gradient)
    free = len(gradient) - held
    inner = _newton(hessian[:free, :free], gradient[:free])
    if inner is None:
        return None
    step[:free] = inner
    if bounded and not held and theta[-1] + step[-1] < 0:
        step[-1] = -theta[-1]
        on_bound = _newton(hessian[:-1, :-1], gradient[:-1] + hessian[:-1, -1] * step[-1])
        if on_bound is None:
            return None
        step[:-1] = on_bound
    return step


def _newton(hessian: Float, gradient: Float) -> Float | None:
    """Solve H·x = −g by Cholesky in scaled coordinates; None where H is not safely positive."""
    diagonal = np.diag(hessian)
    if not (np.isfinite(hessian).all() and (diagonal > 0).all()):
        return None
    scale = 1 / np.sqrt(diagonal)
    try:
        factor = np.linalg.cholesky(hessian * np.outer(scale, scale))
    except np.linalg.LinAlgError:
        return None
    if (np.diag(factor) ** 2 < _SMALLEST_PIVOT).any():
        return None
    return np.asarray(-scale * cho_solve((factor, True), scale * gradient))


def _search(
    objective: Objective[E],
    theta: Float,
    evaluation: E,
    step: Float,
    held: bool,
    bounded: bool,
) -> tuple[Float, E] | None:
    """Halve the step until the value falls enough; None where it never does."""
    size = objective.step_size(theta, step)
    factor = min(1.0, _MAX_STEP / size) if size > 0 else 1.0
    slope = float(evaluation.gradient @ step)
    rounding = _ROUNDING * (1 + abs(evaluation.value))
    for _ in range(_HALVINGS):
        candidate = theta + factor * step
        if bounded:
            candidate[-1] = max(candidate[-1], 0.0)
        reached = _evaluate(objective, candidate)
        if reached is not None:
            if reached.value <= evaluation.value + _SUFFICIENT * factor * slope:
                return candidate, reached
            if -factor * slope <= 10 * rounding:
                # The promised decrease drowns in rounding; the gradient still tells.
                better = _norm(reached, _held(candidate, reached, bounded)) < _norm(
                    evaluation, held
                )
                level = reached.value <= evaluation.value + 10 * rounding
                return (candidate, reached) if better and level else None
        factor *= 0.5
    return None


def _evaluate(objective: Objective[E], theta: Float) -> E | None:
    try:
        evaluation = objective.at(theta)
    except np.linalg.LinAlgError:
        return None
    finite = np.isfinite(evaluation.value) and np.isfinite(evaluation.gradient).all()
    return evaluation if finite else None
