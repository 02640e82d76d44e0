"""What a fit of one data set yields, in the user's units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeVar

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.models.design import Standardised
from hlmm_scan.models.inference import covariance_from_information
from hlmm_scan.models.newton import (
    GRADIENT_TOLERANCE,
    Evaluation,
    Minimum,
    Objective,
    minimise,
)
from hlmm_scan.schema import Status

Information = Literal["expected", "observed"]

LEAST_RANDOM_VARIANCE = 0.01
"""Standardised h2 that a search starts from where an earlier fit's is smaller: off the boundary."""

_FRACTIONS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8)
"""Fractions of the variance given to the random effects where a start is looked for."""


@dataclass(frozen=True)
class Fit:
    """Maximum-likelihood estimates of one HLM or HLMM, and their covariance.

    Attributes
    ----------
    alpha, alpha_se : ndarray, shape (c,)
        Effects on the mean and standard errors, phenotype units per unit of X.
    beta, beta_se : ndarray, shape (v,)
        Effects on the log-variance and standard errors, per unit of V.
    random_variance, random_variance_se : float
        Variance h2 of the random effects and standard error, phenotype units squared; both NaN
        for an HLM. At its boundary h2 is 0 and its standard error NaN.
    covariance : ndarray, shape (c + v, c + v) or (c + v + 1, c + v + 1)
        Covariance of the estimates, order a, b, h2. Where h2 is at its boundary it is left out
        of the information, and its row and column are NaN.
    log_likelihood : float
        Maximum of the log-likelihood, with its constant −n/2·log 2π.
    success : bool
        Whether `status` is OK or RANDOM_VARIANCE_AT_ZERO.
    status : hlmm_scan.schema.Status
        OK; RANDOM_VARIANCE_AT_ZERO; NOT_CONVERGED, where the estimates are those at which the
        search stopped; NOT_UNIQUE or UNBOUNDED, where everything numeric is NaN.
    reason : str
        One sentence on why it ended.
    iterations : int
        Newton steps.
    gradient_norm : float
        Largest element of the projected gradient of −2L/n in standardised units, each divided
        by the second derivative where that is above 1; before the last Newton step.
    """

    alpha: Float
    alpha_se: Float
    beta: Float
    beta_se: Float
    random_variance: float
    random_variance_se: float
    covariance: Float
    log_likelihood: float
    success: bool
    status: Status
    reason: str
    iterations: int
    gradient_norm: float


class ModelEvaluation(Evaluation, Protocol):
    """An objective's evaluation that also knows mean effects and information."""

    alpha: Float

    @property
    def observed(self) -> Float:
        """Observed information of log L, order a, b, h2."""

    @property
    def expected(self) -> Float:
        """Expected information of log L, order a, b, h2."""


E = TypeVar("E", bound=ModelEvaluation)


def check_information(information: Information) -> None:
    """Refuse any other kind of information with a ValueError."""
    if information not in ("expected", "observed"):
        raise ValueError(f"information must be 'expected' or 'observed', not {information!r}")


def unidentified(standard: Standardised, *, n_random: int) -> Fit | None:
    """Return the fit of data that show before any search that there is no maximum, else None.

    Parameters
    ----------
    standard : Standardised
    n_random : int
        1 for a model with random effects, else 0.
    """
    for basis, name in ((standard.mean, "mean"), (standard.variance, "variance")):
        if not basis.full_rank:
            reason = f"the columns of the {name} design are collinear"
            return _without_estimates(standard, n_random, Status.NOT_UNIQUE, reason)
    if standard.scale == 0:
        reason = "the mean design fits the phenotype perfectly"
        return _without_estimates(standard, n_random, Status.UNBOUNDED, reason)
    return None


def minimise_from(
    objective: Objective[E],
    starts: Sequence[Float],
    *,
    bounded: bool = False,
    tolerance: float = GRADIENT_TOLERANCE,
) -> Minimum[E] | None:
    """Minimise from the first start, or from the next ones where that does not converge.

    Returns
    -------
    Minimum or None
        The first that converged, else the last; None where no start can be evaluated.
    """
    minimum = None
    for start in starts:
        try:
            minimum = minimise(objective, start, bounded=bounded, tolerance=tolerance)
        except np.linalg.LinAlgError:
            continue
        if minimum.converged:
            break
    return minimum


def minimise_random_variance(
    objective: Objective[E],
    start: Float | None,
    without: Callable[[], Float],
    level: Float,
    tolerance: float = GRADIENT_TOLERANCE,
) -> Minimum[E] | None:
    """Minimise over (b, h2), h2 ≥ 0, in standardised units.

    Parameters
    ----------
    objective : Objective
    start : ndarray, shape (v + 1,), optional
        Tried first.
    without : callable
        Makes b of the model without random effects, shape (v,), from which a start is sought
        where `start` is missing or does not do.
    level : ndarray, shape (v,)
        Change of b that moves all log-variances by one unit, or nearly so.
    tolerance : float, default 1e-9
        As for :func:`~hlmm_scan.models.newton.minimise`.

    Notes
    -----
    Where the search ends at h2 = 0, larger h2 are tried before that is believed, since the
    likelihood may have a second maximum within.
    """
    search = partial(minimise_from, objective, bounded=True, tolerance=tolerance)
    minimum = None if start is None else search([start])
    if minimum is None or not minimum.converged:
        best = _best_fraction(objective, without(), level)
        minimum = search([best])
    if minimum is not None and minimum.converged and minimum.at_bound:
        best = _best_fraction(objective, minimum.theta[:-1], level)
        if best[-1] > 0:
            inside = search([best])
            if inside is not None and inside.evaluation.value < minimum.evaluation.value:
                minimum = inside
    return minimum


def _best_fraction(objective: Objective[E], b: Float, level: Float) -> Float:
    """Share the variance with the random effects in the best proportion of a grid, 0 included.

    The variance without random effects is 1 in standardised units.
    """
    best, least = np.append(b, 0.0), np.inf
    for fraction in _FRACTIONS:
        theta = np.append(b + level * np.log1p(-fraction), fraction)
        try:
            value = objective.at(theta).value
        except np.linalg.LinAlgError:
            continue
        if value < least:
            best, least = theta, value
    return best


def report(
    standard: Standardised,
    minimum: Minimum[E] | None,
    information: Information,
    *,
    random_unit: float | None = None,
) -> Fit:
    """Turn a minimum in standardised units into a fit in the user's.

    Parameters
    ----------
    standard : Standardised
    minimum : Minimum or None
    information : {"expected", "observed"}
    random_unit : float, optional
        User's h2 per standardised one; None for a model without random effects.
    """
    n_random = 0 if random_unit is None else 1
    if minimum is None:
        reason = "the likelihood cannot be evaluated at any start"
        return _without_estimates(standard, n_random, Status.NOT_CONVERGED, reason)
    if minimum.degenerate:
        return _without_estimates(
            standard, n_random, Status.UNBOUNDED, minimum.reason, minimum.iterations
        )
    evaluation, c, v = minimum.evaluation, standard.X.shape[1], standard.V.shape[1]
    free = c + v + (n_random and not minimum.at_bound)
    # Identified or not is asked of all parameters, also of an h2 that is left out afterwards.
    if np.isnan(covariance_from_information(evaluation.expected)).any():
        reason = "the information is singular: the parameters are not identified"
        return _without_estimates(standard, n_random, Status.NOT_UNIQUE, reason, minimum.iterations)
    # The mean effects follow the last step along the ridge of the likelihood.
    observed = evaluation.observed
    along = np.linalg.solve(observed[:c, :c], observed[:c, c:] @ minimum.last_step)
    status = Status.OK if minimum.converged else Status.NOT_CONVERGED
    reason = minimum.reason
    kind = observed if information == "observed" else evaluation.expected
    standardised = covariance_from_information(kind[:free, :free])
    if np.isnan(standardised).any() and minimum.converged:
        status = Status.NOT_CONVERGED
        reason = "the observed information is not positive definite where the search ended"
    if status is Status.OK and minimum.at_bound:
        status = Status.RANDOM_VARIANCE_AT_ZERO

    jacobian = standard.jacobian(random_unit)[:free, :free]
    covariance = np.full((c + v + n_random,) * 2, np.nan)
    # Phenotypes near the ends of float64 may have an h2 beyond them.
    with np.errstate(over="ignore", invalid="ignore"):
        covariance[:free, :free] = jacobian @ standardised @ jacobian.T
    se = np.sqrt(np.diag(covariance))
    return Fit(
        alpha=standard.mean.to_design(standard.ols + standard.scale * (evaluation.alpha - along)),
        alpha_se=se[:c],
        beta=standard.variance.to_design(minimum.theta[:v]),
        beta_se=se[c : c + v],
        random_variance=np.nan if random_unit is None else random_unit * float(minimum.theta[v]),
        random_variance_se=float(se[-1]) if n_random else np.nan,
        covariance=covariance,
        log_likelihood=standard.log_likelihood(evaluation.value),
        success=status in (Status.OK, Status.RANDOM_VARIANCE_AT_ZERO),
        status=status,
        reason=reason,
        iterations=minimum.iterations,
        gradient_norm=minimum.gradient_norm,
    )


def _without_estimates(
    standard: Standardised, n_random: int, status: Status, reason: str, iterations: int = 0
) -> Fit:
    c, v = standard.X.shape[1], standard.V.shape[1]
    return Fit(
        alpha=np.full(c, np.nan),
        alpha_se=np.full(c, np.nan),
        beta=np.full(v, np.nan),
        beta_se=np.full(v, np.nan),
        random_variance=np.nan,
        random_variance_se=np.nan,
        covariance=np.full((c + v + n_random,) * 2, np.nan),
        log_likelihood=np.nan,
        success=False,
        status=status,
        reason=reason,
        iterations=iterations,
        gradient_norm=np.nan,
    )
