"""Tests and covariances shared by the models and the kernels.

Everything is vectorised over tests, yields NaN for NaN without a warning, and keeps −log10 p away
from p itself, so that no p-value underflows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_solve
from scipy.special import log_ndtr, ndtri_exp

from hlmm_scan.array_types import Float

_SINGULAR = 1e-12
"""Smallest eigenvalue of an information scaled to unit diagonal that still identifies."""


def neg_log10_p(chi2: ArrayLike, df: int) -> Float:
    """Return −log10 of the upper tail probability of a chi-squared statistic.

    Parameters
    ----------
    chi2 : array_like, any shape
        Statistics; negative or NaN ones give NaN, infinite ones infinity.
    df : int
        Degrees of freedom, 1 or 2.

    Returns
    -------
    ndarray of float64, shape of `chi2`

    Raises
    ------
    ValueError
        If `df` is neither 1 nor 2.

    Notes
    -----
    P(χ²₁ > x) = 2Φ(−√x) and P(χ²₂ > x) = exp(−x/2), both taken as logarithms in closed form
    (math.md §2): ``scipy.stats.chi2.logsf`` is −inf from about 1,480 on, since it takes the
    logarithm of a probability that has underflowed.
    """
    if df not in (1, 2):
        raise ValueError(f"degrees of freedom must be 1 or 2, not {df}")
    x = np.asarray(chi2, dtype=np.float64)
    x = np.where(x >= 0, x, np.nan)
    log_p = np.log(2.0) + log_ndtr(-np.sqrt(x)) if df == 1 else -0.5 * x
    # Adding 0 turns the −0 of a statistic of 0 into 0.
    return np.asarray(np.maximum(-log_p / np.log(10.0), 0.0) + 0.0)


def chi2_of(neg_log10_p: ArrayLike, df: int) -> Float:
    """Return the χ² statistic (1 or 2 df) of a −log10 p, however large."""
    log_p = -np.log(10.0) * np.asarray(neg_log10_p, np.float64)
    if df == 2:
        return np.asarray(-2.0 * log_p)
    return np.asarray(ndtri_exp(log_p - np.log(2.0)) ** 2)


def wald_neg_log10_p(estimate: ArrayLike, standard_error: ArrayLike) -> Float:
    """Return −log10 p of the two-sided 1-df Wald test that a parameter is zero.

    Parameters
    ----------
    estimate, standard_error : array_like
        Broadcast against each other; a standard error that is not positive gives NaN.
    """
    return neg_log10_p(_z(estimate, standard_error) ** 2, 1)


def joint_chi2(
    add: ArrayLike,
    var: ArrayLike,
    add_variance: ArrayLike,
    var_variance: ArrayLike,
    covariance: ArrayLike = 0.0,
) -> Float:
    """Return the 2-df Wald statistic of additive and variance effect together.

    Parameters
    ----------
    add, var : array_like
        Estimates of the effect on the mean and on the log-variance.
    add_variance, var_variance, covariance : array_like
        Elements of the covariance C of the two estimates. All five broadcast.

    Returns
    -------
    ndarray of float64
        W = θᵀC⁻¹θ; NaN where C is not positive definite.

    Notes
    -----
    math.md §2. With z = θ/√diag C and correlation ρ, W = z_a² + (z_v − ρ·z_a)²/(1 − ρ²), which
    needs no determinant of C, whose elements may differ by many powers of ten.
    """
    add_se, var_se = _root(add_variance), _root(var_variance)
    z_add, z_var = _z(add, add_se), _z(var, var_se)
    rho = np.asarray(covariance, dtype=np.float64) / (add_se * var_se)
    rest = np.where(np.abs(rho) < 1, 1 - rho**2, np.nan)
    return np.asarray(z_add**2 + (z_var - rho * z_add) ** 2 / rest)


def covariance_from_information(information: Float) -> Float:
    """Return the covariance of the estimates, the inverse of their information.

    Parameters
    ----------
    information : ndarray, shape (k, k)
        Information of log L, symmetric.

    Returns
    -------
    ndarray, shape (k, k)
        All NaN where the information is not positive definite to working accuracy (smallest
        eigenvalue below 1e-12 after scaling to unit diagonal): then some parameter, or some
        combination of them, is not identified.
    """
    unknown = np.full_like(information, np.nan)
    diagonal = np.diag(information)
    if not (np.isfinite(information).all() and (diagonal > 0).all()):
        return unknown
    scale = 1 / np.sqrt(diagonal)
    scaled = information * np.outer(scale, scale)
    if np.linalg.eigvalsh(scaled)[0] < _SINGULAR:
        return unknown
    inverse = cho_solve((np.linalg.cholesky(scaled), True), np.eye(len(scaled)))
    return np.asarray(0.5 * (inverse + inverse.T) * np.outer(scale, scale))


def _root(variance: ArrayLike) -> Float:
    """Square root; NaN where the variance is not positive."""
    v = np.asarray(variance, dtype=np.float64)
    return np.asarray(np.sqrt(np.where(v > 0, v, np.nan)))


def _z(estimate: ArrayLike, standard_error: ArrayLike) -> Float:
    se = np.asarray(standard_error, dtype=np.float64)
    return np.asarray(np.asarray(estimate, dtype=np.float64) / np.where(se > 0, se, np.nan))
