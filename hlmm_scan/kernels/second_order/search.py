"""Scoring of the second-order HLMM likelihood, one variant after the other."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.limits import MAX_STEP_SECOND_ORDER
from hlmm_scan.kernels.second_order.likelihood import ClassSums, Derivatives, Shared, evaluate

_MAX_ITERATIONS = 80
_TOLERANCE = 1e-8  # largest element of the gradient, in standard errors


class Maxima(NamedTuple):
    """What `fit_all` fills for m variants: see `Derivatives`, and `fit_second_order_sums`.

    Attributes
    ----------
    columns : ndarray, shape (m, 10)
        Effects of mean and variance per copy, value of the function, h2, residual variance,
        whether h2 is 0, standard deviation of the genotype, iterations, b0 and α₀.
    expected, observed : ndarray, shape (m, 5, 5)
        Informations.
    bound, shift, traces : ndarray, shapes (m, 5), (m, r) and (m, 3, 4)
    """

    columns: Float
    expected: Float
    observed: Float
    bound: Float
    shift: Float
    traces: Float


@njit(nogil=True, cache=True)
def _step(
    theta: Float, gradient: Float, information: Float, free: NDArray[np.intp], step: Float
) -> bool:  # pragma: no cover
    """Scoring step of the `free` ones of (b0, b1, h2) within h2 ≥ 0; False where it is singular."""
    size = len(free)
    step[:] = 0.0
    # Scaled, since h2 is in other units.
    scale = np.empty(size)
    for a in range(size):
        own = information[2 + free[a], 2 + free[a]]
        if not own > 0.0:
            return False
        scale[a] = 1.0 / math.sqrt(own)
    A = np.empty((size, size))
    g = np.empty(size)
    for a in range(size):
        g[a] = -0.5 * gradient[2 + free[a]] * scale[a]
        for b in range(size):
            A[a, b] = information[2 + free[a], 2 + free[b]] * scale[a] * scale[b]
    if abs(np.linalg.det(A)) < 1e-10:
        return False
    solution = np.linalg.solve(A, g)
    for a in range(size):
        step[free[a]] = solution[a] * scale[a]
    if theta[2] + step[2] < 0.0:
        step[2] = -theta[2]
        last = size - 1  # h2 is the last one that is free
        right = g[:last] - A[:last, last] * (step[2] / scale[last])
        solution = np.linalg.solve(A[:last, :last].copy(), right)
        for a in range(last):
            step[free[a]] = solution[a] * scale[a]
    return True


@njit(nogil=True, cache=True)
def _norm(gradient: Float, information: Float, free: NDArray[np.intp]) -> float:  # pragma: no cover
    """Largest element of the gradient of (b, h2), in standard errors from the maximum."""
    norm = 0.0
    for k in free:
        own = max(information[2 + k, 2 + k], 1e-300)
        norm = max(norm, 0.5 * abs(gradient[2 + k]) / math.sqrt(own))
    return norm


@njit(nogil=True, cache=True)
def _free(held: bool, variance_effect: bool) -> NDArray[np.intp]:  # pragma: no cover
    """Which of (b0, b1, h2) are to be moved."""
    free = np.empty(3, np.intp)
    size = 1
    free[0] = 0
    if variance_effect:
        free[size] = 1
        size += 1
    if not held:
        free[size] = 2
        size += 1
    return free[:size]


@njit(nogil=True, cache=True)
def fit_all(
    sums: ClassSums,
    shared: Shared,
    start: Float,
    mean_effect: bool,
    variance_effect: bool,
    observed: bool,
    maxima: Maxima,
) -> None:  # pragma: no cover
    """Maximise for every variant from its `start`, (b0, b1, h2)."""
    v = np.zeros(3)
    r, out = len(shared.values), maxima.columns
    alpha, gradient = np.zeros(2), np.zeros(5)
    information, bound = np.zeros((5, 5)), np.zeros(5)
    trial_alpha = np.zeros(2)
    trial = Derivatives(np.zeros(5), np.zeros((5, 5)), np.zeros(5), np.zeros(r), np.zeros((3, 4)))
    low = Derivatives(np.zeros(5), trial.information, trial.bound, trial.shift, trial.traces)
    profiled = 2 if mean_effect else 1
    step, other = np.zeros(3), np.zeros(3)
    for j in range(len(start)):
        counts = sums.counts[j]
        called = counts[:3].sum()
        centre = (counts[1] + 2.0 * counts[2]) / max(called, 1.0)
        spread = 0.0
        for c in range(3):
            spread += counts[c] * (c - centre) ** 2
        if called < 5.0 or spread <= 0.0:
            continue
        sd = math.sqrt(spread / called)
        for c in range(3):
            v[c] = (c - centre) / sd
        known = ClassSums(
            counts, sums.residuals[j], sums.squares[j], sums.sums[j], sums.products[j],
            sums.series[j], sums.ratio[j], sums.beta[j], sums.refined,
        )  # fmt: skip
        here = Derivatives(gradient, information, bound, maxima.shift[j], maxima.traces[j])
        theta = start[j].copy()
        theta[1] *= sd
        value = evaluate(theta, alpha, profiled, v, known, shared, here)
        converged, held = False, False
        iterations = 0
        for _ in range(_MAX_ITERATIONS):
            if not np.isfinite(value):
                break
            held = theta[2] <= 0.0 and gradient[4] >= 0.0
            free = _free(held, variance_effect)
            norm = _norm(gradient, information, free)
            if norm < _TOLERANCE:
                converged = True
                break
            if not _step(theta, gradient, information, free, step):
                break
            iterations += 1
            size = abs(step[0]) + abs(step[1]) * (2.0 / sd)
            factor = min(1.0, MAX_STEP_SECOND_ORDER / size) if size > 0.0 else 1.0
            slope = 0.0
            for k in range(3):
                slope += gradient[2 + k] * step[k]
            moved = False
            for _ in range(30):
                for k in range(3):
                    other[k] = theta[k] + factor * step[k]
                other[2] = max(other[2], 0.0)
                new = evaluate(other, trial_alpha, profiled, v, known, shared, trial)
                if np.isfinite(new):
                    if new <= value + 1e-4 * factor * slope:
                        moved = True
                    elif new <= value + 1e-12 * (abs(value) + counts.sum()):
                        # The decrease drowns in rounding; the gradient still tells.
                        there = _free(other[2] <= 0.0 and trial.gradient[4] >= 0.0, variance_effect)
                        moved = _norm(trial.gradient, trial.information, there) < norm
                    if moved:
                        break
                factor *= 0.5
            if not moved:
                break
            theta[:] = other
            value = new
            alpha[:] = trial_alpha
            gradient[:] = trial.gradient
            information[:] = trial.information
            bound[:] = trial.bound
            here.shift[:] = trial.shift
            here.traces[:] = trial.traces
        if not converged:
            continue
        out[j, 0], out[j, 1] = alpha[1] / sd, theta[1] / sd
        out[j, 2], out[j, 3] = value, theta[2]
        total = 0.0
        for c in range(3):
            total += counts[c] * math.exp(theta[0] + theta[1] * v[c])
        out[j, 4] = total / called
        out[j, 5] = 1.0 if held else 0.0
        out[j, 6] = sd
        out[j, 7] = iterations
        out[j, 8], out[j, 9] = theta[0], alpha[0]
        maxima.expected[j] = information
        maxima.bound[j] = bound
        if held:
            # A second maximum within, which the exact kernel looks for, is left to it.
            for fraction in (0.05, 0.2, 0.4, 0.6, 0.8):
                other[0] = theta[0] + math.log(1.0 - fraction)
                other[1] = theta[1]
                other[2] = fraction * out[j, 4]
                new = evaluate(other, trial_alpha, profiled, v, known, shared, trial)
                if new < value:
                    maxima.bound[j] = np.inf
        if observed:
            size = 4 if held else 5
            for k in range(size):
                h = 1e-3 / math.sqrt(information[k, k])
                for sign in (-1.0, 1.0):
                    other[:] = theta
                    trial_alpha[:] = alpha
                    if k < 2:
                        trial_alpha[k] += sign * h
                    else:
                        other[k - 2] += sign * h
                    target = low if sign < 0.0 else trial
                    evaluate(other, trial_alpha, 0, v, known, shared, target)
                for i in range(size):
                    difference = trial.gradient[i] - low.gradient[i]
                    maxima.observed[j, i, k] = difference / (4.0 * h)
            for i in range(size):
                for k in range(i):
                    both = 0.5 * (maxima.observed[j, i, k] + maxima.observed[j, k, i])
                    maxima.observed[j, i, k] = maxima.observed[j, k, i] = both
