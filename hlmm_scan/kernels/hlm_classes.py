"""HLM without covariates, on sums within genotype classes.

A hard call takes three values. With intercept-only designs the likelihood of a variant depends on
the data only through, per class c ∈ {0, 1, 2}, the number of people, Σy and Σy² (math.md §3), so
one pass over the packed genotypes leaves a fit that is free of n.

Everything is scalar arithmetic, one variant after the other: a variant's numbers are the same bit
for bit whatever block it stands in.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.schema import Status

Float = NDArray[np.float64]

_OK = int(Status.OK)
_NOT_CONVERGED = int(Status.NOT_CONVERGED)
_NOT_UNIQUE = int(Status.NOT_UNIQUE)
_UNBOUNDED = int(Status.UNBOUNDED)

_MAX_ITERATIONS = 100
_TOLERANCE = 1e-12  # gradient of -2 log L per observation and per standard deviation of g
_ACCEPTED = 1e-8  # the same, at which a fit stuck at machine precision still counts as converged
_CONVEX = 1e-4  # curvature over the expected one, above which Newton steps are taken
_MAX_STEP = 3.0  # log-variance units between the outer genotype classes
_FLOOR = -25.0  # log of a class's variance over the total variance that no real trait reaches
_SINGULAR = 1e-12  # eigenvalue of an information of unit diagonal below which it has no inverse


@njit(nogil=True, cache=True)
def class_sums(
    packed: NDArray[np.uint8], samples: NDArray[np.int64], y: Float
) -> Float:  # pragma: no cover
    """Sum 1, y and y² within the genotype classes of each variant.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, bytes)
        PLINK codes: 0 two effect alleles, 1 missing, 2 one, 3 none.
    samples : ndarray of int64, shape (n,)
    y : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (m, 3, 3)
        Variant × copies of the effect allele × (n, Σy, Σy²), people added in the order of
        `samples`.
    """
    m = packed.shape[0]
    by_code = np.zeros((4, 3))
    sums = np.empty((m, 3, 3))
    for j in range(m):
        by_code[:] = 0.0
        for i in range(samples.shape[0]):
            s = samples[i]
            code = (packed[j, s >> 2] >> (2 * (s & 3))) & 3
            by_code[code, 0] += 1.0
            by_code[code, 1] += y[i]
            by_code[code, 2] += y[i] * y[i]
        sums[j, 0] = by_code[3]
        sums[j, 1] = by_code[2]
        sums[j, 2] = by_code[0]
    return sums


@njit(nogil=True, cache=True)
def _profile(
    n_c: Float, mean_c: Float, within_c: Float, centre: float, bg: float, q_c: Float
) -> tuple[float, float, float, float, float, float]:  # pragma: no cover
    """Maximise over the mean and the variance intercept at a fixed variance effect.

    Fills `q_c` with e^{-bg·x}·Σr² of each class, x = copies − centre. Returns the intercept and
    slope of the mean, log of the common variance, −2·log L/n − log 2π − 1, and its first and second
    derivatives in bg.

    With w_c = n_c·e^{−bg·x_c} the mean is a weighted regression on three class means, free of the
    variance intercept, whose maximum is e^{b0} = Σ q_c/n. So F(bg) = log Σ q_c + bg·Σ n_c x_c/n up
    to a constant, F' = Σ n_c x_c/n − E_q[x] by the envelope theorem, and F'' = Var_q[x] less the
    gain from letting the mean move: 2·hᵀA⁻¹h/Σq with A = Σ w (1,x)(1,x)ᵀ, h = Σ w·r̄·x·(1,x).
    """
    n = s0 = s1 = s2 = t0 = t1 = mean_x = 0.0
    for c in range(3):
        if n_c[c] > 0.0:
            x = c - centre
            w = n_c[c] * math.exp(-bg * x)
            n += n_c[c]
            mean_x += n_c[c] * x
            s0 += w
            s1 += w * x
            s2 += w * x * x
            t0 += w * mean_c[c]
            t1 += w * x * mean_c[c]
    mean_x /= n
    determinant = s0 * s2 - s1 * s1
    slope = (s0 * t1 - s1 * t0) / determinant
    intercept = (t0 - slope * s1) / s0
    total = first = second = h0 = h1 = 0.0
    for c in range(3):
        q_c[c] = 0.0
        if n_c[c] > 0.0:
            x = c - centre
            weight = math.exp(-bg * x)
            residual = mean_c[c] - intercept - slope * x
            q = weight * (within_c[c] + n_c[c] * residual * residual)
            q_c[c] = q
            total += q
            first += q * x
            second += q * x * x
            h0 += n_c[c] * weight * residual * x
            h1 += n_c[c] * weight * residual * x * x
    if total <= 0.0:
        return intercept, slope, -math.inf, -math.inf, 0.0, 0.0
    gain = (s2 * h0 * h0 - 2.0 * s1 * h0 * h1 + s0 * h1 * h1) / determinant
    e1 = first / total
    return (
        intercept,
        slope,
        math.log(total / n),
        math.log(total / n) + bg * mean_x,
        mean_x - e1,
        second / total - e1 * e1 - 2.0 * gain / total,
    )


@njit(nogil=True, cache=True)
def _fit_one(
    sums: Float, observed: bool, q_c: Float, class_c: Float, out: Float
) -> int:  # pragma: no cover
    """Fit one variant from its class sums; fill `out`, return the status."""
    n_c, mean_c, within_c = class_c[0], class_c[1], class_c[2]
    n = total_y = total_y2 = copies = 0.0
    for c in range(3):
        n_c[c] = sums[c, 0]
        mean_c[c] = sums[c, 1] / sums[c, 0] if sums[c, 0] > 0.0 else 0.0
        within_c[c] = max(sums[c, 2] - sums[c, 1] * mean_c[c], 0.0)
        n += sums[c, 0]
        total_y += sums[c, 1]
        total_y2 += sums[c, 2]
        copies += c * sums[c, 0]
    if n < 5.0:
        return _NOT_UNIQUE
    centre = copies / n
    spread = 0.0
    for c in range(3):
        spread += n_c[c] * (c - centre) ** 2
    spread /= n
    variance = total_y2 / n - (total_y / n) ** 2
    if spread < 1e-12 or variance <= 0.0:
        return _NOT_UNIQUE
    lowest = 0 if n_c[0] > 0.0 else 1
    highest = 2 if n_c[2] > 0.0 else 1
    limit = _MAX_STEP / (highest - lowest)
    scale = math.sqrt(spread)

    bg = 0.0
    a0, ag, log_variance, value, gradient, curvature = _profile(
        n_c, mean_c, within_c, centre, bg, q_c
    )
    status = _NOT_CONVERGED
    for _ in range(_MAX_ITERATIONS):
        bottom = log_variance + min(bg * (lowest - centre), bg * (highest - centre))
        if bottom < math.log(variance) + _FLOOR:
            return _UNBOUNDED
        if abs(gradient) <= _TOLERANCE * scale:
            status = _OK
            break
        # Where the profile is not convex the expected curvature, Var(g), gives a descent step. Only
        # there: on a flat floor it would creep.
        step = -gradient / (curvature if curvature > _CONVEX * spread else spread)
        step = min(max(step, -limit), limit)
        moved = False
        for _ in range(60):
            trial = bg + step
            b0, bs, log_v, new_value, new_gradient, new_curvature = _profile(
                n_c, mean_c, within_c, centre, trial, q_c
            )
            # At machine precision the value no longer tells: then the gradient must shrink.
            if new_value < value - 1e-14 * abs(value) or (
                new_value <= value + 1e-13 * (1.0 + abs(value))
                and abs(new_gradient) < abs(gradient)
            ):
                moved = True
                break
            step *= 0.5
        if not moved:
            if abs(gradient) <= _ACCEPTED * scale:
                status = _OK
            break
        bg = trial
        a0, ag, log_variance, value, gradient, curvature = (
            b0, bs, log_v, new_value, new_gradient, new_curvature,
        )  # fmt: skip
    # The last trial may have been refused: leave q_c at the accepted point.
    a0, ag, log_variance, value, gradient, curvature = _profile(
        n_c, mean_c, within_c, centre, bg, q_c
    )
    out[0] = ag
    out[1] = bg
    out[5] = -0.5 * n * (math.log(2.0 * math.pi) + 1.0 + value)
    if observed and status != _OK:
        return status  # off the maximum the observed information may be singular
    if observed:
        if not _observed_covariance(n_c, mean_c, centre, a0, ag, log_variance, bg, q_c, out):
            status = _NOT_CONVERGED  # stationary, but no maximum
    else:
        s0 = s1 = s2 = 0.0
        for c in range(3):
            if n_c[c] > 0.0:
                x = c - centre
                w = n_c[c] * math.exp(-log_variance - bg * x)
                s0 += w
                s1 += w * x
                s2 += w * x * x
        out[2] = s0 / (s0 * s2 - s1 * s1)
        out[3] = 2.0 / (n * spread)
        out[4] = 0.0
    return status


@njit(nogil=True, cache=True)
def _observed_covariance(
    n_c: Float,
    mean_c: Float,
    centre: float,
    a0: float,
    ag: float,
    log_variance: float,
    bg: float,
    q_c: Float,
    out: Float,
) -> bool:  # pragma: no cover
    """Invert the observed information of (a0, ag, b0, bg) (math.md §1 at h2 = 0).

    Returns False, and leaves `out` as it is, where it is not positive definite.
    """
    information = np.zeros((4, 4))
    common = math.exp(-log_variance)
    for c in range(3):
        if n_c[c] > 0.0:
            x = c - centre
            w = n_c[c] * math.exp(-log_variance - bg * x)
            wr = w * (mean_c[c] - a0 - ag * x)
            k = 0.5 * common * q_c[c]
            power = 1.0
            for i in range(2):
                term = power
                for j in range(2):
                    information[i, j] += w * term
                    information[i, 2 + j] += wr * term
                    information[2 + i, j] += wr * term
                    information[2 + i, 2 + j] += k * term
                    term *= x
                power *= x
    # The scales of mean and variance parameters differ by the phenotype's: equilibrate first.
    d = np.empty(4)
    for i in range(4):
        d[i] = 1.0 / math.sqrt(information[i, i])
    for i in range(4):
        for j in range(4):
            information[i, j] *= d[i] * d[j]
    if np.linalg.eigvalsh(information)[0] < _SINGULAR:
        return False
    right = np.zeros((4, 2))
    right[1, 0] = 1.0
    right[3, 1] = 1.0
    covariance = np.linalg.solve(information, right)
    out[2] = covariance[1, 0] * d[1] * d[1]
    out[3] = covariance[3, 1] * d[3] * d[3]
    out[4] = covariance[3, 0] * d[1] * d[3]
    return True


@njit(nogil=True, cache=True)
def _fit_all(
    sums: Float, observed: bool, out: Float, status: NDArray[np.int8]
) -> None:  # pragma: no cover
    q_c = np.empty(3)
    class_c = np.empty((3, 3))
    for j in range(sums.shape[0]):
        status[j] = _fit_one(sums[j], observed, q_c, class_c, out[j])
        if status[j] == _NOT_UNIQUE or status[j] == _UNBOUNDED:
            out[j] = np.nan


def fit_class_sums(
    sums: Float,
    moments: tuple[float, float] = (0.0, 3.0),
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLM with intercept-only designs to class sums.

    Parameters
    ----------
    sums : ndarray, shape (m, 3, 3)
        As :func:`class_sums` returns them; `y` of mean near 0 and variance near 1.
    moments : tuple of float, default those of the normal distribution
        Third and fourth moment of the null residuals.
    inference : Inference, optional
        Which standard errors and tests to give.

    Returns
    -------
    Estimates
        Status UNBOUNDED where a class's variance runs to zero, NOT_UNIQUE where all genotypes are
        equal or fewer than five people are left.

    Notes
    -----
    math.md §3: e^{b0} and the mean have closed forms given b_g, which leaves a one-dimensional
    root, found by safeguarded Newton steps.
    """
    m = len(sums)
    estimates = Estimates.empty(m)
    out = np.full((m, 6), np.nan)
    _fit_all(np.ascontiguousarray(sums, np.float64), inference.observed, out, estimates.status)
    columns = (
        estimates.add,
        estimates.var,
        estimates.add_variance,
        estimates.var_variance,
        estimates.add_var_covariance,
        estimates.log_likelihood,
    )
    for k, column in enumerate(columns):
        column[:] = out[:, k]
    return estimates
