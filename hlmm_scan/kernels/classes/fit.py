"""HLM without covariates, on sums within genotype classes.

A hard call takes three values, a dosage as many as its container has steps. With intercept-only
designs the likelihood of a variant depends on the data only through, per value, a *class*, the
number of people, Σy and Σy² (math.md §3), so one pass over the genotypes leaves a fit that is free
of n. So are its likelihood-ratio tests and its covariances, of which the sandwich also takes Σy³
and Σy⁴.

Everything is scalar arithmetic, one variant after the other: a variant's numbers are the same bit
for bit whatever block it stands in.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.classes.covariances import (
    expected_covariances,
    higher_moments,
    observed_covariance,
    sandwich_covariance,
)
from hlmm_scan.kernels.covariances import COVARIANCE, EXACT_ERROR, RESTRICTIONS, likelihood_ratio
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.limits import ACCEPTED, CONVEX, FLOOR, MAX_STEP
from hlmm_scan.schema import Status

_OK = int(Status.OK)
_NOT_CONVERGED = int(Status.NOT_CONVERGED)
_NOT_UNIQUE = int(Status.NOT_UNIQUE)
_UNBOUNDED = int(Status.UNBOUNDED)

_MAX_ITERATIONS = 100
_TOLERANCE = 1e-12  # gradient of -2 log L per observation and per standard deviation of g

_ABREAST = 64  # variants
_STEPS_ABREAST = 4  # which leave rounding where effects are small
_NEAR = 0.3  # variance effect per allele up to which they are not safeguarded
_TERMS = 14  # of the exponential series of it

COLUMNS = (
    *("add", "var"),
    *(name + suffix for suffix in ("", "_robust", "_sandwich") for name in COVARIANCE),
    *RESTRICTIONS,
    "log_likelihood",
)
"""What a fit of one variant leaves, in this order."""
_MODEL = slice(2, 5)
_ROBUST = slice(5, 8)
_SANDWICH = slice(8, 11)
_ADD_LRT, _VAR_LRT, _AV_LRT, _LOG_LIKELIHOOD = 11, 12, 13, 14


class Asked(NamedTuple):
    """Which errors and tests a fit is to have, and the moments of the null residuals for them.

    Attributes
    ----------
    third_moment, fourth_moment : float
    observed, sandwich, likelihood_ratio : bool
        As of :class:`~hlmm_scan.kernels.estimates.Inference`.
    """

    third_moment: float
    fourth_moment: float
    observed: bool
    sandwich: bool
    likelihood_ratio: bool

    @classmethod
    def of(cls, moments: tuple[float, float], inference: Inference) -> Asked:
        """Take what a fit of classes can give."""
        third, fourth = moments
        asked = inference.observed, inference.sandwich, inference.likelihood_ratio
        return cls(float(third), float(fourth), *asked)


@njit(nogil=True, cache=True)
def class_sums(
    packed: NDArray[np.uint8], samples: NDArray[np.int64], y: Float, powers: int = 2
) -> Float:  # pragma: no cover
    """Sum 1 and the powers of y within the genotype classes of each variant.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, bytes)
        PLINK codes: 0 two effect alleles, 1 missing, 2 one, 3 none.
    samples : ndarray of int64, shape (n,)
    y : ndarray, shape (n,)
    powers : int, default 2
        Highest power of y to sum.

    Returns
    -------
    ndarray, shape (m, 3, 1 + powers)
        Variant × copies of the effect allele × (n, Σy, Σy², …), people added in the order of
        `samples`.
    """
    m = packed.shape[0]
    by_code = np.zeros((4, 1 + powers))
    sums = np.empty((m, 3, 1 + powers))
    for j in range(m):
        by_code[:] = 0.0
        for i in range(samples.shape[0]):
            s = samples[i]
            code = (packed[j, s >> 2] >> (2 * (s & 3))) & 3
            value = 1.0
            for k in range(1 + powers):
                by_code[code, k] += value
                value *= y[i]
        sums[j, 0] = by_code[3]
        sums[j, 1] = by_code[2]
        sums[j, 2] = by_code[0]
    return sums


@njit(nogil=True, cache=True, error_model="numpy")
def _profile(
    n_c: Float,
    weight_c: Float,
    x_c: Float,
    mean_c: Float,
    within_c: Float,
    bg: float,
    level: bool,
    q_c: Float,
) -> tuple[float, float, float, float, float, float]:  # pragma: no cover
    """Maximise over the mean and the variance intercept at a fixed variance effect.

    People of a class have known weights, of sum `weight_c`: their number where all are alike.
    `mean_c` and `within_c` are weighted as well. Fills `q_c` with e^{-bg·x}·Σr² of each class, x =
    copies − mean copies. Returns the intercept
    and slope of the mean, log of the common variance, −2·log L/n − log 2π − 1, and its first and
    second derivatives in bg. Where `level`, the mean has no slope.

    With w_c = weight_c·e^{−bg·x_c} the mean is a weighted regression on three class means, free
    of the variance intercept, whose maximum is e^{b0} = Σ q_c/n. So F(bg) = log Σ q_c + bg·Σ n_c
    x_c/n up to a constant, F' = Σ n_c x_c/n − E_q[x] by the envelope theorem, and F'' = Var_q[x]
    less the gain from letting the mean move: 2·hᵀA⁻¹h/Σq with A = Σ w (1,x)(1,x)ᵀ, h = Σ w·r̄·x·
    (1,x), of which a level mean has the first element only.
    """
    n = s0 = s1 = s2 = t0 = t1 = mean_x = 0.0
    for c in range(len(n_c)):
        if n_c[c] > 0.0:
            x = x_c[c]
            q_c[c] = math.exp(-bg * x) if bg != 0.0 else 1.0  # kept for the second loop
            w = weight_c[c] * q_c[c]
            n += n_c[c]
            mean_x += n_c[c] * x
            s0 += w
            s1 += w * x
            s2 += w * x * x
            t0 += w * mean_c[c]
            t1 += w * x * mean_c[c]
    mean_x /= n
    determinant = s0 * s2 - s1 * s1
    slope = 0.0 if level else (s0 * t1 - s1 * t0) / determinant
    intercept = (t0 - slope * s1) / s0
    total = first = second = h0 = h1 = 0.0
    for c in range(len(n_c)):
        if n_c[c] > 0.0:
            x = x_c[c]
            weight = q_c[c]
            residual = mean_c[c] - intercept - slope * x
            q = weight * (within_c[c] + weight_c[c] * residual * residual)
            q_c[c] = q
            total += q
            first += q * x
            second += q * x * x
            h0 += weight_c[c] * weight * residual * x
            h1 += weight_c[c] * weight * residual * x * x
        else:
            q_c[c] = 0.0
    if total <= 0.0:
        return intercept, slope, -math.inf, -math.inf, 0.0, 0.0
    if level:
        gain = h0 * h0 / s0
    else:
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
def maximise(
    n_c: Float,
    weight_c: Float,
    x_c: Float,
    mean_c: Float,
    within_c: Float,
    spread: float,
    variance: float,
    level: bool,
    start: float,
    q_c: Float,
) -> tuple[int, float, float, float, float, float, float]:  # pragma: no cover
    """Find the variance effect from `start` on, by safeguarded Newton steps.

    Returns the status, bg, and of :func:`_profile` there all but the gradient; leaves `q_c` there.
    """
    lowest, highest = math.inf, -math.inf
    for c in range(len(n_c)):
        if n_c[c] > 0.0:
            lowest, highest = min(lowest, x_c[c]), max(highest, x_c[c])
    limit = MAX_STEP / (highest - lowest)
    scale = math.sqrt(spread)
    bg = start
    a0, ag, log_variance, value, gradient, curvature = _profile(
        n_c, weight_c, x_c, mean_c, within_c, bg, level, q_c
    )
    status = _NOT_CONVERGED
    for _ in range(_MAX_ITERATIONS):
        bottom = log_variance + min(bg * lowest, bg * highest)
        if bottom < math.log(variance) + FLOOR:
            return _UNBOUNDED, bg, a0, ag, log_variance, value, curvature
        if abs(gradient) <= _TOLERANCE * scale:
            status = _OK
            break
        # Where the profile is not convex the expected curvature, Var(g), gives a descent step. Only
        # there: on a flat floor it would creep.
        step = -gradient / (curvature if curvature > CONVEX * spread else spread)
        step = min(max(step, -limit), limit)
        moved = False
        for _ in range(60):
            trial = bg + step
            b0, bs, log_v, new_value, new_gradient, new_curvature = _profile(
                n_c, weight_c, x_c, mean_c, within_c, trial, level, q_c
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
            if abs(gradient) <= ACCEPTED * scale:
                status = _OK
            _profile(
                n_c, weight_c, x_c, mean_c, within_c, bg, level, q_c
            )  # not of the trial refused
            break
        bg = trial
        a0, ag, log_variance, value, gradient, curvature = (
            b0, bs, log_v, new_value, new_gradient, new_curvature,
        )  # fmt: skip
    return status, bg, a0, ag, log_variance, value, curvature


@njit(nogil=True, cache=True)
def fit_one(
    sums: Float,
    copies_c: Float,
    asked: Asked,
    start: float,
    q_c: Float,
    class_c: Float,
    out: Float,
) -> int:  # pragma: no cover
    """Fit one variant from the sums of C classes; fill `out`, return the status.

    The variance effect is searched for from `start` on, 0 where nothing better is known.

    Shapes: `sums` (C, 1 + powers), `copies_c` and `q_c` (C,), `class_c` (6, C), `out` as
    :data:`COLUMNS`. The latter three are filled.
    """
    n_c, mean_c, within_c, x_c = class_c[0], class_c[1], class_c[2], class_c[5]
    n = total_y = total_y2 = copies = 0.0
    for c in range(len(n_c)):
        n_c[c] = sums[c, 0]
        mean_c[c] = sums[c, 1] / sums[c, 0] if sums[c, 0] > 0.0 else 0.0
        within_c[c] = max(sums[c, 2] - sums[c, 1] * mean_c[c], 0.0)
        n += sums[c, 0]
        total_y += sums[c, 1]
        total_y2 += sums[c, 2]
        copies += copies_c[c] * sums[c, 0]
    if n < 5.0:
        return _NOT_UNIQUE
    centre = copies / n
    spread = 0.0
    for c in range(len(n_c)):
        x_c[c] = copies_c[c] - centre
        spread += n_c[c] * x_c[c] ** 2
    spread /= n
    variance = total_y2 / n - (total_y / n) ** 2
    if spread < 1e-12 or variance <= 0.0:
        return _NOT_UNIQUE
    status, bg, a0, ag, log_variance, value, _ = maximise(
        n_c, n_c, x_c, mean_c, within_c, spread, variance, False, start, q_c
    )
    if status == _UNBOUNDED:
        return status
    out[0] = ag
    out[1] = bg
    out[_LOG_LIKELIHOOD] = -0.5 * n * (math.log(2.0 * math.pi) + 1.0 + value)
    expected_covariances(
        n_c, x_c, log_variance, bg, asked.third_moment, asked.fourth_moment,
        out[_MODEL], out[_ROBUST],
    )  # fmt: skip
    # Off the maximum the observed information may be singular; a stationary point at which it is
    # not positive definite is none.
    if asked.observed and not (
        status == _OK
        and observed_covariance(n_c, x_c, mean_c, a0, ag, log_variance, bg, q_c, out[_MODEL])
    ):
        out[_MODEL] = np.nan
        status = _NOT_CONVERGED
    if asked.sandwich:
        higher_moments(sums, class_c)
        sandwich_covariance(class_c, a0, ag, log_variance, bg, out[_SANDWICH])
    if asked.likelihood_ratio and status == _OK:
        _likelihood_ratios(n_c, x_c, mean_c, within_c, spread, variance, value, q_c, out)
    return status


@njit(nogil=True, cache=True)
def _likelihood_ratios(
    n_c: Float,
    x_c: Float,
    mean_c: Float,
    within_c: Float,
    spread: float,
    variance: float,
    value: float,
    q_c: Float,
    out: Float,
) -> None:  # pragma: no cover
    """Fill the statistics from the likelihoods without either effect and without both.

    Without the variance effect, and without both, the maximum is the profile at bg = 0. Without the
    additive effect it is searched for, and the statistic is NaN where none is found.
    """
    n = n_c.sum()
    without_var = _profile(n_c, n_c, x_c, mean_c, within_c, 0.0, False, q_c)[3]
    without_both = _profile(n_c, n_c, x_c, mean_c, within_c, 0.0, True, q_c)[3]
    out[_VAR_LRT] = likelihood_ratio(0.5 * n * (without_var - value), EXACT_ERROR)
    out[_AV_LRT] = likelihood_ratio(0.5 * n * (without_both - value), EXACT_ERROR)
    status, _, _, _, _, without_add, curvature = maximise(
        n_c, n_c, x_c, mean_c, within_c, spread, variance, True, 0.0, q_c
    )
    if status == _OK and curvature > 0.0:
        out[_ADD_LRT] = likelihood_ratio(0.5 * n * (without_add - value), EXACT_ERROR)


@njit(nogil=True, cache=True, error_model="numpy")
def _starts(sums: Float, start: Float) -> None:  # pragma: no cover
    """Fill the variance effects that Newton steps from 0 lead to; 0 where they lead far.

    One of :func:`_profile`'s evaluations waits for its own sums most of the time, so variants are
    taken abreast as far as no step needs to be safeguarded. Every operation is rounded on its own,
    so that vectors and scalars do the same, and whatever was missed here is put right by the
    search. The weights e^{−bg·x} are v, v² of the copies 1 and 2; what they have in common is left
    out, as it changes no derivative.
    """
    m = sums.shape[0]
    n0, n1, n2 = np.empty(_ABREAST), np.empty(_ABREAST), np.empty(_ABREAST)
    m0, m1, m2 = np.empty(_ABREAST), np.empty(_ABREAST), np.empty(_ABREAST)
    rest0, rest1, rest2 = np.empty(_ABREAST), np.empty(_ABREAST), np.empty(_ABREAST)
    b, curvature = np.empty(_ABREAST), np.empty(_ABREAST)
    for first in range(0, m, _ABREAST):
        size = min(_ABREAST, m - first)
        for j in range(size):
            own = sums[first + j]
            n0[j], n1[j], n2[j] = own[0, 0], own[1, 0], own[2, 0]
            m0[j], m1[j], m2[j] = own[0, 1], own[1, 1], own[2, 1]
            rest0[j], rest1[j], rest2[j] = own[0, 2], own[1, 2], own[2, 2]
            b[j] = 0.0
        for j in range(size):
            m0[j] /= max(n0[j], 1.0)
            m1[j] /= max(n1[j], 1.0)
            m2[j] /= max(n2[j], 1.0)
            rest0[j] -= n0[j] * m0[j] * m0[j]
            rest1[j] -= n1[j] * m1[j] * m1[j]
            rest2[j] -= n2[j] * m2[j] * m2[j]
        for _ in range(_STEPS_ABREAST):
            for j in range(size):
                t, v = -b[j], 1.0
                for k in range(_TERMS, 0, -1):
                    v = 1.0 + v * t * (1.0 / k)
                w1, w2 = n1[j] * v, n2[j] * v * v
                s0, s1, s2 = n0[j] + w1 + w2, w1 + 2.0 * w2, w1 + 4.0 * w2
                t0 = n0[j] * m0[j] + w1 * m1[j] + w2 * m2[j]
                t1 = w1 * m1[j] + 2.0 * w2 * m2[j]
                determinant = s0 * s2 - s1 * s1
                slope = (s0 * t1 - s1 * t0) / determinant
                level = (t0 - slope * s1) / s0
                r0, r1, r2 = m0[j] - level, m1[j] - level - slope, m2[j] - level - 2.0 * slope
                q0 = rest0[j] + n0[j] * r0 * r0
                q1 = v * (rest1[j] + n1[j] * r1 * r1)
                q2 = v * v * (rest2[j] + n2[j] * r2 * r2)
                total = q0 + q1 + q2
                e1, e2 = (q1 + 2.0 * q2) / total, (q1 + 4.0 * q2) / total
                h0, h1 = w1 * r1 + 2.0 * w2 * r2, w1 * r1 + 4.0 * w2 * r2
                gain = (s2 * h0 * h0 - 2.0 * s1 * h0 * h1 + s0 * h1 * h1) / determinant
                curvature[j] = e2 - e1 * e1 - 2.0 * gain / total
                mean = (n1[j] + 2.0 * n2[j]) / (n0[j] + n1[j] + n2[j])
                b[j] -= (mean - e1) / curvature[j]
        for j in range(size):
            near = abs(b[j]) <= _NEAR and curvature[j] > 0.0
            start[first + j] = b[j] if near else 0.0


@njit(nogil=True, cache=True)
def _fit_all(
    sums: Float, asked: Asked, out: Float, status: NDArray[np.int8]
) -> None:  # pragma: no cover
    q_c = np.empty(3)
    class_c = np.empty((6, 3))
    copies_c = np.arange(3.0)
    start = np.empty(sums.shape[0])
    _starts(sums, start)
    for j in range(sums.shape[0]):
        status[j] = fit_one(sums[j], copies_c, asked, start[j], q_c, class_c, out[j])


def fit_class_sums(
    sums: Float,
    moments: tuple[float, float] = (0.0, 3.0),
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLM with intercept-only designs to class sums.

    Parameters
    ----------
    sums : ndarray, shape (m, 3, 1 + powers)
        As :func:`class_sums` returns them; `y` of mean near 0 and variance near 1. Up to the fourth
        power for the sandwich covariance, else up to the second.
    moments : tuple of float, default those of the normal distribution
        Third and fourth moment of the null residuals, for the studentised covariance.
    inference : Inference, optional
        Which standard errors and tests to give.

    Returns
    -------
    Estimates
        Status UNBOUNDED where a class's variance runs to zero, NOT_UNIQUE where all genotypes are
        equal or fewer than five people are left; all NaN in both. Likelihood-ratio statistics are
        NaN unless the status is OK; that of the additive effect also where the fit without it finds
        no maximum, and each where the fit without the effect is the better one, which it can be
        where there are several maxima.

    Raises
    ------
    ValueError
        If the sums lack the powers that the inference takes.

    Notes
    -----
    math.md §3: e^{b0} and the mean have closed forms given b_g, which leaves a one-dimensional
    root, found by safeguarded Newton steps.
    """
    needed = 1 + powers_needed(inference)
    if sums.ndim != 3 or sums.shape[1] != 3 or sums.shape[2] < needed:
        raise ValueError(f"class sums must be (variants, 3, {needed}), not {sums.shape}")
    # One signature for all, so that nothing compiles twice.
    rows = np.require(sums, np.float64, ["C", "W"])
    estimates = Estimates.empty(len(sums))
    out = np.full((len(sums), len(COLUMNS)), np.nan)
    _fit_all(rows, Asked.of(moments, inference), out, estimates.status)
    for k, name in enumerate(COLUMNS):
        getattr(estimates, name)[:] = out[:, k]
    return estimates


def powers_needed(inference: Inference) -> int:
    """Return the highest power of y that class sums must have for :func:`fit_class_sums`."""
    return 4 if inference.sandwich else 2
