"""HLM with covariates from sums within genotype classes: the fast kernel for hard calls.

Same model and answer as :func:`hlmm_scan.kernels.joint.fit.fit_joint`, to a bound. With w and r the
weights and residuals of the null model, two steps (math.md §4 ``newton``):

1. **The genotype's own directions exactly.** With the covariates held at the null the model in
   (a₀, b₀, a_g, b_g) is one of three classes with weights, whose maximum is that of
   :func:`hlmm_scan.kernels.classes.fit.maximise`.
2. **One Newton step in all parameters from there.** In a class the fitted change of the mean is one
   number α_c, and that of the log-variance another, β_c. So the gradient in every covariate is, at
   that point, a combination of class sums of wZ, wrZ and wr²Z, exactly; and so is the information
   between covariates and the intercepts and genotype. That among covariates is the null model's.

What is left is of the order of the step times what is not known of the information: a bound on it
decides who is fitted by :mod:`~hlmm_scan.kernels.scoring.fit` instead. Scores at the null come from
the same sums (:mod:`~hlmm_scan.kernels.screen.fit`). People are passed over once, and nothing
else depends on their number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.kernels.classes.covariances import factor_four
from hlmm_scan.kernels.classes.fit import maximise
from hlmm_scan.kernels.covariances import put_covariance
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.newton_step.design import NewtonDesign
from hlmm_scan.kernels.screen import fit as screen
from hlmm_scan.kernels.screen.class_columns import VARIANTS_AT_ONCE, ClassColumnSums
from hlmm_scan.kernels.screen.fit import Projections, screened
from hlmm_scan.schema import Status

Float = NDArray[np.float64]

_OK = int(Status.OK)

_ALLOWED = 1e-3
"""Standard errors from the maximum that a bound may allow effects to be."""

_MANY = 20_000
"""People from whom on it is half of that: 99% of fits are then within 1e-4."""

_REMAINDER = 1.5
"""What the order of the remainder is multiplied by for a bound: see the math page."""

_ADD, _VAR, _MEAN, _CROSS, _LOG_LIKELIHOOD, _STEP, _RESULTS = 0, 1, 2, 3, 4, 5, 6
"""What a step leaves of a variant: effects, I_a, x̃ᵀD^-½ṽ over its value at the null, the
log-likelihood, and the length of the step in all parameters, in standard errors."""


@njit(nogil=True, cache=True)
def _whitened(F: Any, rows: Any, out: Any) -> None:  # pragma: no cover
    """Put rows·F into `out`, F upper triangular: scalar products of `out` are those with FFᵀ."""
    out[:] = 0.0
    for i in range(len(F)):
        for r in range(len(rows)):
            value = rows[r, i]
            for k in range(i, len(F)):
                out[r, k] += value * F[i, k]


@njit(nogil=True, cache=True)
def _products(rows: Any, out: Any) -> None:  # pragma: no cover
    """Put the scalar products of rows into `out`."""
    for i in range(len(rows)):
        for j in range(i + 1):
            total = 0.0
            for k in range(rows.shape[1]):
                total += rows[i, k] * rows[j, k]
            out[i, j] = out[j, i] = total


@njit(nogil=True, cache=True)
def _solve_four(S: Any, x: Any) -> bool:  # pragma: no cover
    """Solve S·x = x in place; False where S, which is overwritten, is not positive definite."""
    scale = np.empty(4)
    if not factor_four(S, scale, S):
        return False
    for i in range(4):
        x[i] *= scale[i]
        for k in range(i):
            x[i] -= S[i, k] * x[k]
        x[i] /= S[i, i]
    for i in range(3, -1, -1):
        for k in range(i + 1, 4):
            x[i] -= S[k, i] * x[k]
        x[i] /= S[i, i]
    for i in range(4):
        x[i] *= scale[i]
    return True


@njit(nogil=True, cache=True)
def _class_fit(
    n_c: Any, weight_c: Any, first_c: Any, second_c: Any, x_c: Any, own: Any
) -> bool:  # pragma: no cover
    """Fill (a₀, b₀, a_g, b_g) of the weighted model without covariates; False where it has none.

    The classes have people, Σw, Σwr and Σwr²; the genotype is centred.
    """
    n = spread = total = 0.0
    mean_c, within_c, q_c = np.zeros(3), np.zeros(3), np.empty(3)
    for c in range(3):
        n += n_c[c]
        spread += n_c[c] * x_c[c] * x_c[c]
        total += second_c[c]
        if n_c[c] > 0.0:
            mean_c[c] = first_c[c] / weight_c[c]
            within_c[c] = max(second_c[c] - first_c[c] * mean_c[c], 0.0)
    status, bg, a0, ag, b0, _, curvature = maximise(
        n_c, weight_c, x_c, mean_c, within_c, spread / n, total / n, False, 0.0, q_c
    )
    own[0], own[1], own[2], own[3] = a0, b0, ag, bg
    return status == _OK and curvature > 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _step_all(
    one: Any,
    two: Any,
    called: Any,
    people: Any,
    sizes: tuple[int, int, int],
    v_place: Any,
    whiten: Any,
    whiten_mean: Any,
    everybody: float,
    weight: float,
    out: Any,
) -> None:  # pragma: no cover
    """Fill the results of variants, one after the other; NaN where a variant has none.

    `everybody` and `weight` are the people of the null model and the sum of their weights. `S` is
    the information of (a₀, a_g, b₀, b_g); rows of `T` are sums over people with none, one and two
    copies; rows of `B` are that between them and the covariates, and
    the gradient in the latter.
    """
    c, v, z = sizes
    p = c + v - 2
    B, white, products = np.zeros((5, p)), np.empty((5, p)), np.empty((5, 5))
    M, white_M, products_M = np.zeros((2, c - 1)), np.empty((2, c - 1)), np.empty((2, 2))
    n_c, x_c, a_c, d_c, own = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(4)
    T = np.empty((3, one.shape[1]))
    w, wr, wrr, root = T[:, 0], T[:, z], T[:, 2 * z], T[:, 2 * z + 2 * v - 1]
    S, step, delta = np.empty((4, 4)), np.empty(4), np.empty(v)
    first_V = 2 * z + v
    for j in range(len(one)):
        C = called[j]
        for k in range(T.shape[1]):
            T[0, k], T[1, k], T[2, k] = C[k] - one[j, k] - two[j, k], one[j, k], two[j, k]
        out[j] = np.nan
        n = copies = 0.0
        for g in range(3):
            n_c[g] = people[j, g]
            n += n_c[g]
            copies += g * n_c[g]
        for g in range(3):
            x_c[g] = g - copies / n
        if not _class_fit(n_c, w, wr, wrr, x_c, own):
            continue
        likelihood = C[len(C) - 1]
        S[:] = 0.0
        for g in range(3):
            log_variance = own[1] + own[3] * x_c[g]
            a_c[g] = own[0] + own[2] * x_c[g]
            d_c[g] = math.exp(-log_variance) if n_c[g] > 0.0 else 0.0
            k = d_c[g] * (wrr[g] - 2.0 * a_c[g] * wr[g] + a_c[g] * a_c[g] * w[g])
            likelihood += 0.5 * (wrr[g] - n_c[g] * log_variance - k)
            of_mean, of_both = d_c[g] * w[g], d_c[g] * (wr[g] - a_c[g] * w[g])
            power = 1.0
            for i in range(3):
                if i < 2:
                    S[i, 0] += of_mean * power
                    S[2 + i, 0] += of_both * power
                    S[2 + i, 2] += 0.5 * k * power
                if i > 0:
                    S[i - 1, 1] += of_mean * power
                    S[1 + i, 1] += of_both * power
                    S[1 + i, 3] += 0.5 * k * power
                power *= x_c[g]
        B[:] = 0.0
        for g in range(3):
            x, a, d = x_c[g], a_c[g], d_c[g]
            for i in range(c - 1):
                of_w, of_wr = T[g, i + 1], T[g, z + i + 1]
                first, second = d * of_w, d * (of_wr - a * of_w)
                B[0, i] += first
                B[1, i] += x * first
                B[2, i] += second
                B[3, i] += x * second
            for i in range(v - 1):
                k = v_place[i + 1]
                of_w, of_wr, of_k = T[g, k], T[g, z + k], T[g, 2 * z + i + 1]
                first = d * (of_wr - a * of_w)
                second = 0.5 * d * (of_k - 2.0 * a * of_wr + a * a * of_w)
                B[0, c - 1 + i] += first
                B[1, c - 1 + i] += x * first
                B[2, c - 1 + i] += second
                B[3, c - 1 + i] += x * second
        B[4] = B[2]
        for i in range(v - 1):
            B[4, c - 1 + i] -= 0.5 * C[first_V + i]
        _whitened(whiten, B, white)
        _products(white, products)
        share = n / everybody
        for i in range(4):
            for k in range(i + 1):
                S[i, k] -= products[i, k] / share
            step[i] = -products[i, 4] / share
        if not _solve_four(S, step):
            continue
        gain = products[4, 4] / share
        for i in range(4):
            gain -= products[i, 4] / share * step[i]
        b0, bg = own[1] + step[2], own[3] + step[3]
        # The covariates' steps, of which those in the variance change weights.
        for k in range(p):
            white[4, k] -= (
                white[0, k] * step[0] + white[1, k] * step[1]
                + white[2, k] * step[2] + white[3, k] * step[3]
            )  # fmt: skip
        for i in range(v - 1):
            delta[i] = 0.0
            for k in range(c - 1 + i, p):
                delta[i] += whiten[c - 1 + i, k] * white[4, k] / share
        out[j, _ADD], out[j, _VAR] = own[2] + step[1], bg
        out[j, _LOG_LIKELIHOOD] = likelihood + 0.5 * gain
        out[j, _STEP] = math.sqrt(max(gain, 0.0))
        # The weights at the estimates, of which I_a is made.
        M[:] = 0.0
        s0 = s1 = s2 = r1 = r2 = w0 = w1 = q1 = q2 = 0.0
        for g in range(3):
            x = x_c[g]
            d = math.exp(-b0 - bg * x) if n_c[g] > 0.0 else 0.0
            of_w = w[g]
            for i in range(v - 1):
                of_w -= delta[i] * T[g, v_place[i + 1]]
            s0 += d * of_w
            s1 += d * of_w * x
            s2 += d * of_w * x * x
            half = math.sqrt(d) * root[g]
            r1 += half * x
            r2 += half * x * x
            w0 += w[g]
            w1 += w[g] * x
            q1 += root[g] * x
            q2 += root[g] * x * x
            for i in range(c - 1):
                of_w = d * T[g, i + 1]
                M[0, i] += of_w
                M[1, i] += x * of_w
        _whitened(whiten_mean, M, white_M)
        _products(white_M, products_M)
        share = w0 / weight
        s0 -= products_M[0, 0] / share
        s1 -= products_M[0, 1] / share
        s2 -= products_M[1, 1] / share
        out[j, _MEAN] = s2 - s1 * s1 / s0
        out[j, _CROSS] = (r2 - s1 / s0 * r1) / (q2 - w1 / w0 * q1)


def fit_newton_step(
    design: NewtonDesign,
    packed: NDArray[np.uint8],
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLM with covariates by the class fit and one Newton step.

    Parameters
    ----------
    design : NewtonDesign
        Of the null model and of packed rows of this width; make it once per null model.
    packed : ndarray of uint8, shape (m, width)
    inference : Inference, optional
        What needs more than the sums, observed information, a sandwich or likelihood ratios, leaves
        variants PENDING.

    Returns
    -------
    Estimates
        m rows, each with scores at the null model where there are any; PENDING what is for
        :func:`~hlmm_scan.kernels.scoring.fit.fit_scoring`. A row is the same bit for bit whatever
        block it stands in.
    """
    estimates = Estimates.empty(len(packed))
    alone = not (inference.observed or inference.sandwich or inference.likelihood_ratio)
    for start in range(0, len(packed), VARIANTS_AT_ONCE):
        rows = np.arange(start, min(start + VARIANTS_AT_ONCE, len(packed)))
        some = packed[rows[0] : rows[-1] + 1]
        sums = design.screen.columns.sums(some)
        found, projections = screened(design.screen, some, sums)
        out = Estimates.empty(len(rows))
        out.put_scores(np.arange(len(rows)), found.scores)
        if alone and design.whiten is not None:
            _put_steps(out, design, sums, projections, found.status == Status.SCREENED)
        estimates.put(rows, out)
    return estimates


def work_bytes(m: int, n_total: int, n: int, n_mean: int, n_variance: int) -> int:
    """Bound the memory of a design and of fitting with it, packed calls not.

    Parameters
    ----------
    m, n_total, n, n_mean, n_variance : int
        Variants per call, people in the packed calls and those analysed, columns of the designs.
    """
    return screen.work_bytes(m, n_total, n, n_mean, n_variance) + 8 * 30 * m


def _put_steps(
    out: Estimates,
    design: NewtonDesign,
    sums: ClassColumnSums,
    projections: Projections,
    usable: NDArray[np.bool_],
) -> None:
    """Put the estimates of variants that the bound lets pass; say which can have none."""
    of = design.screen.columns
    m = len(usable)
    results = np.empty((m, _RESULTS))
    _step_all(
        sums.one, sums.two, sums.called, sums.people, (of.c, of.v, of.z), of.v_place,
        design.whiten, design.whiten_mean, float(of.n), design.screen.total, results,
    )  # fmt: skip
    third, fourth = design.screen.moments
    with np.errstate(all="ignore"):
        n, I_a, I_b = sums.people.sum(axis=1), results[:, _MEAN], projections.variance
        distance = _distance(results, projections, n, of.c + of.v - 2)
        allowed = _ALLOWED / 2 if of.n >= _MANY else _ALLOWED
        chosen = usable & (I_a > 0) & (distance <= allowed)
        var = 0.5 * (fourth - 1) / I_b
        both = 0.5 * third * results[:, _CROSS] * projections.cross / (I_a * I_b)
    rows = np.flatnonzero(chosen)
    out.add[rows], out.var[rows] = results[rows, _ADD], results[rows, _VAR]
    out.log_likelihood[rows] = results[rows, _LOG_LIKELIHOOD]
    put_covariance(out, rows, "", 1 / I_a[rows], 1 / I_b[rows], 0.0)
    put_covariance(out, rows, "_robust", 1 / I_a[rows], var[rows], both[rows])
    out.status[rows] = Status.OK
    # Too few people, whatever the genotype: there is nothing to fit.
    out.status[n < of.c + of.v + 3] = Status.NOT_UNIQUE


def _distance(results: Float, projections: Projections, n: NDArray[np.int64], p: int) -> Float:
    """Bound how far effects are from the maximum, in standard errors, with p covariates.

    Notes
    -----
    The step of length s leaves the change of the information on its way from the null model: of the
    order of (z + s)/√n in units of itself, z the length of the genotype's own effects. It reaches
    those as far as covariates explain the genotype, R² and what p covariates do by chance. The
    factor is that of random cohorts (math.md §4).
    """
    a, b, step = results[:, _ADD], results[:, _VAR], results[:, _STEP]
    z = np.sqrt(a**2 * results[:, _MEAN] + b**2 * projections.variance)
    explained = np.sqrt(np.maximum(1 - projections.rest, 0.0) + p / n)
    return np.asarray(_REMAINDER * (z + step) * step * explained / np.sqrt(n))
