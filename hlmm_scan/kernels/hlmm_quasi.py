"""Fits the HLMM of many hard-called variants to second order, from products with class indicators.

:mod:`hlmm_quasi_likelihood` has the function that is maximised, :mod:`hlmm_products` the products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.kernels.hlmm_products import QuasiBasis, QuasiSums, plain
from hlmm_scan.kernels.hlmm_quasi_likelihood import evaluate
from hlmm_scan.models.inference import covariance_from_information

Float = NDArray[np.float64]

_MAX_ITERATIONS = 80
_TOLERANCE = 1e-8  # largest element of the gradient, in standard errors
_SINGLE_PRECISION = 1e-5  # standard errors that float32 products may cost
_SHARED = 0.1  # of an error of the variance effect that may come out in the additive effect
_MAX_STEP = 2.0  # log-variance units between genotype classes


@njit(nogil=True, cache=True)
def _step(
    theta: Float, gradient: Float, information: Float, held: bool, step: Float
) -> bool:  # pragma: no cover
    """Scoring step of (b0, b1, h2) within h2 ≥ 0; False where the information is singular."""
    size = 2 if held else 3
    step[:] = 0.0
    # Scaled, since h2 is in other units.
    scale = np.empty(3)
    for k in range(3):
        if k < size and not information[2 + k, 2 + k] > 0.0:
            return False
        scale[k] = 1.0 / math.sqrt(information[2 + k, 2 + k]) if k < size else 0.0
    A = np.empty((size, size))
    g = np.empty(size)
    for a in range(size):
        g[a] = -0.5 * gradient[2 + a] * scale[a]
        for b in range(size):
            A[a, b] = information[2 + a, 2 + b] * scale[a] * scale[b]
    if abs(np.linalg.det(A)) < 1e-10:
        return False
    solution = np.linalg.solve(A, g)
    for a in range(size):
        step[a] = solution[a] * scale[a]
    if not held and theta[2] + step[2] < 0.0:
        step[2] = -theta[2]
        A2 = A[:2, :2].copy()
        right = g[:2] - A[:2, 2] * (step[2] / scale[2])
        solution = np.linalg.solve(A2, right)
        step[0], step[1] = solution[0] * scale[0], solution[1] * scale[1]
    return True


@njit(nogil=True, cache=True)
def _norm(gradient: Float, information: Float, held: bool) -> float:  # pragma: no cover
    """Largest element of the gradient of (b, h2), in standard errors from the maximum."""
    norm = 0.0
    for k in range(2, 4 if held else 5):
        norm = max(norm, 0.5 * abs(gradient[k]) / math.sqrt(max(information[k, k], 1e-300)))
    return norm


@njit(nogil=True, cache=True)
def _fit_all(
    counts: Float,
    residuals: Float,
    squares: Float,
    sums: Float,
    products: Float,
    series: Float,
    ratio: Float,
    values: Float,
    beta: Float,
    mean_squares: Float,
    low: float,
    high: float,
    start: Float,
    n: float,
    observed: bool,
    out: Float,
    information_out: Float,
    bound_out: Float,
    shift_out: Float,
) -> None:  # pragma: no cover
    """Maximise for every variant; see `fit_quasi_sums` for what is filled."""
    v = np.zeros(3)
    classes = np.empty(4)
    alpha, gradient = np.zeros(2), np.zeros(5)
    information, bound = np.zeros((5, 5)), np.zeros(5)
    trial_alpha, trial_gradient = np.zeros(2), np.zeros(5)
    trial_information, trial_bound = np.zeros((5, 5)), np.zeros(5)
    shift = np.zeros(len(values))
    trial = (trial_gradient, trial_information, trial_bound, shift)
    step, other, low_gradient = np.zeros(3), np.zeros(3), np.zeros(5)
    for j in range(counts.shape[0]):
        bound_out[j] = np.inf
        called = counts[j].sum()
        centre = (counts[j, 1] + 2.0 * counts[j, 2]) / max(called, 1.0)
        spread = 0.0
        for c in range(3):
            spread += counts[j, c] * (c - centre) ** 2
            classes[c] = counts[j, c]
        classes[3] = n - called
        if called < 5.0 or spread <= 0.0:
            continue
        sd = math.sqrt(spread / called)
        for c in range(3):
            v[c] = (c - centre) / sd
        data = (
            v, classes, residuals[j], squares[j], sums[j], products[j], series[j], ratio[j],
            values, beta[j], mean_squares, low, high,
        )  # fmt: skip
        theta = np.array([start[0], 0.0, start[1]])
        value = evaluate(theta, alpha, True, *data, gradient, information, bound, shift_out[j])
        converged, held = False, False
        iterations = 0
        for _ in range(_MAX_ITERATIONS):
            if not np.isfinite(value):
                break
            held = theta[2] <= 0.0 and gradient[4] >= 0.0
            norm = _norm(gradient, information, held)
            if norm < _TOLERANCE:
                converged = True
                break
            if not _step(theta, gradient, information, held, step):
                break
            iterations += 1
            size = abs(step[0]) + abs(step[1]) * (2.0 / sd)
            factor = min(1.0, _MAX_STEP / size) if size > 0.0 else 1.0
            slope = 0.0
            for k in range(3):
                slope += gradient[2 + k] * step[k]
            moved = False
            for _ in range(30):
                for k in range(3):
                    other[k] = theta[k] + factor * step[k]
                other[2] = max(other[2], 0.0)
                new = evaluate(
                    other,
                    trial_alpha,
                    True,
                    *data,
                    *trial,
                )
                if np.isfinite(new):
                    if new <= value + 1e-4 * factor * slope:
                        moved = True
                    elif new <= value + 1e-12 * (abs(value) + n):
                        # The decrease drowns in rounding; the gradient still tells.
                        there = other[2] <= 0.0 and trial_gradient[4] >= 0.0
                        moved = _norm(trial_gradient, trial_information, there) < norm
                    if moved:
                        break
                factor *= 0.5
            if not moved:
                break
            theta[:] = other
            value = new
            alpha[:] = trial_alpha
            gradient[:] = trial_gradient
            information[:] = trial_information
            bound[:] = trial_bound
            shift_out[j] = shift
        if not converged:
            continue
        out[j, 0], out[j, 1] = alpha[1] / sd, theta[1] / sd
        out[j, 2], out[j, 3] = value, theta[2]
        total = 0.0
        for c in range(3):
            total += counts[j, c] * math.exp(theta[0] + theta[1] * v[c])
        out[j, 4] = total / called
        out[j, 5] = 1.0 if held else 0.0
        out[j, 6] = sd
        out[j, 7] = iterations
        information_out[j] = information
        bound_out[j] = bound
        if held:
            # A second maximum within, which the exact kernel looks for, is left to it.
            for fraction in (0.05, 0.2, 0.4, 0.6, 0.8):
                other[0] = theta[0] + math.log(1.0 - fraction)
                other[1] = theta[1]
                other[2] = fraction * out[j, 4]
                new = evaluate(
                    other,
                    trial_alpha,
                    True,
                    *data,
                    *trial,
                )
                if new < value:
                    bound_out[j] = np.inf
        if observed:
            free = 4 if held else 5
            for k in range(free):
                h = 1e-3 / math.sqrt(information[k, k])
                for sign in (-1.0, 1.0):
                    other[:] = theta
                    trial_alpha[:] = alpha
                    if k < 2:
                        trial_alpha[k] += sign * h
                    else:
                        other[k - 2] += sign * h
                    target = low_gradient if sign < 0.0 else trial_gradient
                    evaluate(
                        other,
                        trial_alpha,
                        False,
                        *data,
                        target,
                        *trial[1:],
                    )
                for i in range(free):
                    information_out[j, i, k] = (trial_gradient[i] - low_gradient[i]) / (4.0 * h)
            for i in range(free):
                for k in range(i):
                    both = 0.5 * (information_out[j, i, k] + information_out[j, k, i])
                    information_out[j, i, k] = information_out[j, k, i] = both


@dataclass(frozen=True)
class QuasiFits:
    """Fits of m variants to second order; NaN where there is none.

    Attributes
    ----------
    add, var, log_likelihood, random_variance, residual_variance : ndarray, shape (m,)
        As in :class:`~hlmm_scan.kernels.estimates.Estimates`.
    at_bound : ndarray of bool, shape (m,)
        Whether h2 is 0.
    covariance : ndarray, shape (m, 5, 5)
        Of mean, additive effect, log-variance, its effect and h2.
    bound : ndarray, shape (m, 3)
        Estimated largest distance of the additive effect, the variance effect and h2 from the
        exact ones, in standard errors; infinite where there is no fit.
    shift : ndarray, shape (m, r)
        What :func:`refine_sums` moves β by.
    """

    add: Float
    var: Float
    log_likelihood: Float
    random_variance: Float
    residual_variance: Float
    at_bound: NDArray[np.bool_]
    covariance: Float
    bound: Float
    shift: Float


def fit_quasi_sums(basis: QuasiBasis, sums: QuasiSums, *, observed: bool = False) -> QuasiFits:
    """Fit the HLMM to second order to class sums.

    Parameters
    ----------
    basis : QuasiBasis
    sums : QuasiSums
    observed : bool, default False
        Covariance from the observed information instead of the expected one.

    Returns
    -------
    QuasiFits

    Notes
    -----
    Scoring from the null fit, mean effects profiled out, with exact gradients of the function of
    :mod:`hlmm_quasi_likelihood`. The observed information is had from differences of those.
    """
    m, n = len(sums.counts), len(basis.residual)
    out = np.full((m, 8), np.nan)
    information = np.full((m, 5, 5), np.nan)
    gradient_bound = np.full((m, 5), np.inf)
    shift = np.zeros((m, len(basis.beta)))
    low, high = basis.log_range
    _fit_all(
        plain(sums.counts),
        plain(sums.residuals),
        plain(sums.squares),
        plain(sums.sums),
        plain(sums.products),
        plain(sums.series),
        plain(sums.ratio),
        plain(basis.eigen.values),
        plain(sums.beta),
        plain(basis.squares),
        low,
        high,
        np.array(basis.start),
        float(n),
        observed,
        out,
        information,
        gradient_bound,
        shift,
    )
    at_bound = out[:, 5] == 1.0
    covariance = np.full((m, 5, 5), np.nan)
    bound = np.full((m, 3), np.inf)
    for held in (False, True):
        free = 4 if held else 5
        for j in np.flatnonzero((at_bound == held) & np.isfinite(information[:, 0, 0])):
            C = covariance_from_information(information[j, :free, :free])
            errors = 0.5 * (np.abs(C) @ gradient_bound[j, :free]) / np.sqrt(np.diag(C))
            errors[1] = max(errors[1], _SHARED * errors[3])
            bound[j, : free - 2] = np.append(errors[[1, 3]], errors[4:]) + _SINGLE_PRECISION
            # Effects per copy, not per standard deviation of the genotype.
            unit = np.array([1.0, 1 / out[j, 6], 1.0, 1 / out[j, 6], 1.0])[:free]
            covariance[j, :free, :free] = C * np.outer(unit, unit)
            if held:
                bound[j, 2] = 0.0
    bound[np.isnan(bound)] = np.inf
    called = sums.counts.sum(axis=1)
    return QuasiFits(
        add=out[:, 0],
        var=out[:, 1],
        log_likelihood=-0.5 * (out[:, 2] + called * np.log(2 * np.pi)),
        random_variance=out[:, 3],
        residual_variance=out[:, 4],
        at_bound=at_bound,
        covariance=covariance,
        bound=bound,
        shift=shift,
    )
