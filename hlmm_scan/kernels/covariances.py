"""From the variances that kernels hand over to the errors and tests that are reported.

What is done to every path's numbers alike stands here and nowhere else: the degrees of freedom that
covariates take, the units, and the rule of likelihood-ratio tests.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.estimates import Estimates

EXACT_ERROR = 1e-5
"""Error of a likelihood-ratio statistic from exact likelihoods: rounding, even of a million people,
and fits that end 0.001 of a standard error from their maximum."""

SECOND_ORDER_ERROR = 2e-3
"""The same from second-order likelihoods."""

COVARIANCE = ("add_variance", "var_variance", "add_var_covariance")
"""Of estimates, by their names without the kind of covariance."""

RESTRICTIONS = {"add_lrt": (True, False), "var_lrt": (False, True), "av_lrt": (True, True)}
"""Likelihood-ratio statistics of estimates, by their names: whether the additive and the variance
effect are held at 0 for them."""

_FEW = 50  # people per column of the designs below which errors take degrees of freedom


@njit(nogil=True, cache=True)
def likelihood_ratio(gain: float, error: float) -> float:  # pragma: no cover
    """Return the statistic of a gain of log-likelihood; NaN where it is a loss beyond `error`.

    A restricted fit that is better than the full one shows that the full one is no maximum: the
    statistic is unknown then, not 0.
    """
    statistic = 2.0 * gain
    return math.nan if statistic < -error else max(statistic, 0.0)


def likelihood_ratios(full: Float, restricted: Float, error: Float | float = EXACT_ERROR) -> Float:
    """Return likelihood-ratio statistics of log-likelihoods of any one shape.

    Parameters
    ----------
    full, restricted : ndarray
    error : float or ndarray
        Of a statistic: see :func:`likelihood_ratio`.

    Returns
    -------
    ndarray
        NaN where a restricted fit is better than the full one by more than that, and where either
        is NaN.
    """
    statistic = 2.0 * (full - restricted)
    with np.errstate(invalid="ignore"):
        return np.where(statistic < -error, np.nan, np.maximum(statistic, 0.0))


def degrees_of_freedom(n: int, c: int, v: int) -> tuple[float, float]:
    """Return what standard errors of both effects are multiplied by for the covariates.

    Parameters
    ----------
    n, c, v : int
        People, columns of the null model's mean and variance designs.

    Notes
    -----
    Maximum likelihood takes no account of the c and v coefficients of the two designs. With
    h = (n − 2)/(n − 1 − c), k = (n − 2)/(n − 1 − v) and f = (n − 4)/(n − 2(c + 1)) the factors are
    h·k and f·k^1.5: fitted residuals have variances short by 1/h, and the curvature of the profile
    likelihood in b_g is short by twice the share c/n that the mean takes, since its coefficients
    follow the weights; k makes good the same of the variance's. At n = 433 with 21 + 3 covariates
    they are 1.06 and 1.12 (λ of the Wald tests without: 1.09 and 1.3). They are exactly 1 without
    covariates and from 50 people a column on, where errors would be 2 and 4% larger at most.
    """
    if c == v == 1 or n > _FEW * (c + v) or n <= 2 * (c + 1) or n <= v + 1:
        return 1.0, 1.0
    h, k = (n - 2) / (n - 1 - c), (n - 2) / (n - 1 - v)
    return h * k, (n - 4) / (n - 2 * (c + 1)) * k**1.5


def put_covariance(
    estimates: Estimates, rows: object, suffix: str, add: object, var: object, both: object
) -> None:
    """Put variances and covariance of the effects into the columns of one kind.

    Parameters
    ----------
    estimates : Estimates
    rows : int or index array
    suffix : str
        "", "_robust" or "_sandwich".
    add, var, both : float or ndarray
        Variances of the two effects, and their covariance.
    """
    for name, values in zip(COVARIANCE, (add, var, both), strict=True):
        getattr(estimates, name + suffix)[rows] = values


def put_ratios(estimates: Estimates, rows: object, ratios: Float) -> None:
    """Put likelihood-ratio statistics, shape (m, 3), into rows, in the order of RESTRICTIONS."""
    for name, values in zip(RESTRICTIONS, ratios.T, strict=True):
        getattr(estimates, name)[rows] = values


def reported_errors(
    estimates: Estimates, suffix: str, scale: float, freedom: tuple[float, float]
) -> dict[str, Float]:
    """Return standard errors and covariance of one kind in reported units, by their stored names.

    Parameters
    ----------
    estimates : Estimates
    suffix : str
        "", "_robust" or "_sandwich".
    scale : float
        Phenotype units in a unit of the estimates.
    freedom : tuple of float
        See :func:`degrees_of_freedom`.
    """
    add, var, both = (getattr(estimates, name + suffix) for name in COVARIANCE)
    errors = {
        "add_se": np.sqrt(add) * (scale * freedom[0]),
        "var_se": np.sqrt(var) * freedom[1],
        "add_var_cov": both * (scale * freedom[0] * freedom[1]),
    }
    return {name + suffix: values for name, values in errors.items()}
