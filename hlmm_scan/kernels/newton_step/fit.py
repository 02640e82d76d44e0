"""HLM with covariates from sums within genotype classes: the fast kernel.

Same model and answer as :func:`hlmm_scan.kernels.joint.fit.fit_joint`, to a bound. With w and r the
weights and residuals of the null model, two steps (math.md §4 ``newton``):

1. **The genotype's own directions exactly.** With the covariates held at the null the model in
   (a₀, b₀, a_g, b_g) is one of three classes with weights, whose maximum is that of
   :func:`hlmm_scan.kernels.classes.fit.maximise`.
2. **One Newton step in all parameters from there.** In a class the fitted change of the mean is one
   number α_c, and that of the log-variance another, β_c. So the gradient in every covariate is, at
   that point, a combination of class sums of wZ, wrZ and wr²Z, exactly; and so is the information
   between covariates and the intercepts and genotype. That among covariates is the null model's.

Dosages have soft classes (:mod:`~hlmm_scan.kernels.sums.dosage_powers`), seven for the first step,
whose sums may be negative; so it is Newton's method on the profile, and what does not go smoothly
is left.

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

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.kernels.classes.covariances import factor_four
from hlmm_scan.kernels.classes.fit import maximise
from hlmm_scan.kernels.covariances import put_covariance
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.limits import EXACT_DISTANCE
from hlmm_scan.kernels.newton_step.design import NewtonDesign
from hlmm_scan.kernels.screen import fit as screen
from hlmm_scan.kernels.screen.class_columns import (
    VARIANTS_AT_ONCE,
    ClassColumnSums,
    DosageColumns,
    Layout,
)
from hlmm_scan.kernels.screen.fit import Projections, screened
from hlmm_scan.schema import Status

_OK = int(Status.OK)

_ALLOWED = 1e-3
"""Standard errors from the maximum that a bound may allow effects to be."""

_MANY = 20_000
"""People from whom on it is half of that: 99% of fits are then within 1e-4."""

_REMAINDER, _REMAINDER_APART = 1.5, 4.5
"""What the order of the remainder is multiplied by for a bound, the latter where second powers of
dosages are those that follow from w, wr and wr²: see the math page."""

_MOST_STEPS = 20
_SOFT_TOLERANCE = 1e-11  # gradient per person and standard deviation of g
_SOFT_EFFECT = 3.0  # beyond which polynomials tell nothing

_ADD, _VAR, _MEAN, _CROSS, _LOG_LIKELIHOOD, _STEP, _BEYOND, _RESULTS = range(8)
"""What a step leaves of a variant: effects, I_a, x̃ᵀD^-½ṽ over its value at the null, the
log-likelihood, the length of the step in all parameters, in standard errors, and of dosages
Σg(2 − g), which bounds how far they may be from the nodes of polynomials."""


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
def _class_fit(own_c: Any, n_c: Any, x_c: Any, found: Any) -> bool:  # pragma: no cover
    """Fill (a₀, b₀, a_g, b_g) of the weighted model without covariates; False where it has none.

    The three classes have people, and Σw, Σwr and Σwr² in `own_c`; the genotype is centred.
    """
    n = spread = total = 0.0
    mean_c, within_c, q_c = np.zeros(3), np.zeros(3), np.empty(3)
    weight_c = np.empty(3)
    for c in range(3):
        weight_c[c] = own_c[c, 0]
        n += n_c[c]
        spread += n_c[c] * x_c[c] * x_c[c]
        total += own_c[c, 2]
        if n_c[c] > 0.0:
            mean_c[c] = own_c[c, 1] / own_c[c, 0]
            within_c[c] = max(own_c[c, 2] - own_c[c, 1] * mean_c[c], 0.0)
    status, bg, a0, ag, b0, _, curvature = maximise(
        n_c, weight_c, x_c, mean_c, within_c, spread / n, total / n, False, 0.0, q_c
    )
    found[0], found[1], found[2], found[3] = a0, b0, ag, bg
    return status == _OK and curvature > 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _soft_fit(
    own_c: Any, x_c: Any, n: float, spread: float, found: Any
) -> bool:  # pragma: no cover
    """Do what :func:`_class_fit` does, from soft classes; `spread` is the genotype's variance.

    The profile is that of :func:`hlmm_scan.kernels.classes.fit._profile`.
    """
    b = 0.0
    for _ in range(_MOST_STEPS):
        s0 = s1 = s2 = t0 = t1 = 0.0
        for c in range(len(x_c)):
            x = x_c[c]
            d = math.exp(-b * x)
            of_w, of_wr = d * own_c[c, 0], d * own_c[c, 1]
            s0 += of_w
            s1 += of_w * x
            s2 += of_w * x * x
            t0 += of_wr
            t1 += of_wr * x
        determinant = s0 * s2 - s1 * s1
        slope = (s0 * t1 - s1 * t0) / determinant
        level = (t0 - slope * s1) / s0
        total = first = second = h0 = h1 = 0.0
        for c in range(len(x_c)):
            x = x_c[c]
            d, a = math.exp(-b * x), level + slope * x
            left = own_c[c, 1] - a * own_c[c, 0]
            k = d * (own_c[c, 2] - a * (own_c[c, 1] + left))
            total += k
            first += k * x
            second += k * x * x
            h0 += d * left * x
            h1 += d * left * x * x
        gradient = first / total
        gain = (s2 * h0 * h0 - 2.0 * s1 * h0 * h1 + s0 * h1 * h1) / determinant
        curvature = second / total - gradient * gradient - 2.0 * gain / total
        if not (determinant > 0.0 and total > 0.0 and curvature > 0.0):
            return False
        if abs(gradient) <= _SOFT_TOLERANCE * math.sqrt(spread):
            found[0], found[1], found[2], found[3] = level, math.log(total / n), slope, b
            return True
        b += gradient / curvature
        if not abs(b) <= _SOFT_EFFECT:
            return False
    return False


@njit(nogil=True, cache=True, error_model="numpy")
def _step_all(
    sums: ClassColumnSums, layout: Layout, whiten: Any, whiten_mean: Any, weight: float, out: Any
) -> None:  # pragma: no cover
    """Fill the results of variants, one after the other; NaN where a variant has none.

    `weight` is the sum of the weights of the null model. `S` is the information of
    (a₀, a_g, b₀, b_g), from the classes of the genotype's own sums; rows of `T` are sums over
    people with none, one and two copies; rows of `B` are that between them and the covariates, and
    the gradient in the latter.
    """
    people, one, two, called, of_nodes, _ = sums
    everybody, c, v, z, v_place, nodes = layout
    p, classes = c + v - 2, len(nodes)
    soft = classes > 3
    B, white, products = np.zeros((5, p)), np.empty((5, p)), np.empty((5, 5))
    M, white_M, products_M = np.zeros((2, c - 1)), np.empty((2, c - 1)), np.empty((2, 2))
    x_own, found = np.empty(classes), np.empty(4)
    x_c, a_c, d_c = np.empty(3), np.empty(3), np.empty(3)
    T = np.empty((3, one.shape[1]))
    S, step, delta = np.empty((4, 4)), np.empty(4), np.empty(v)
    first_V = 2 * z + v
    for j in range(len(one)):
        C, own, n_c = called[j], of_nodes[j], people[j]
        for k in range(T.shape[1]):
            T[0, k], T[1, k], T[2, k] = C[k] - one[j, k] - two[j, k], one[j, k], two[j, k]
        out[j] = np.nan
        n = n_c[0] + n_c[1] + n_c[2]
        centre = (n_c[1] + 2.0 * n_c[2]) / n
        spread = (n_c[1] + 4.0 * n_c[2]) / n - centre * centre
        for g in range(3):
            x_c[g] = g - centre
        for g in range(classes):
            x_own[g] = nodes[g] - centre
        if soft:
            fits = spread > 0.0 and _soft_fit(own, x_own, n, spread, found)
        else:
            fits = _class_fit(own, n_c, x_c, found)
        if not fits:
            continue
        likelihood = C[len(C) - 1] - 0.5 * n * found[1]
        S[:] = 0.0
        for g in range(classes):
            x = x_own[g]
            a = found[0] + found[2] * x
            d = math.exp(-found[1] - found[3] * x) if soft or own[g, 0] > 0.0 else 0.0
            of_w, of_wr, of_k = own[g, 0], own[g, 1], own[g, 2]
            k = d * (of_k - 2.0 * a * of_wr + a * a * of_w)
            likelihood += 0.5 * (of_k - k)
            of_mean, of_both = d * of_w, d * (of_wr - a * of_w)
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
                power *= x
        for g in range(3):
            a_c[g] = found[0] + found[2] * x_c[g]
            d_c[g] = math.exp(-found[1] - found[3] * x_c[g]) if soft or n_c[g] > 0.0 else 0.0
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
        b0, bg = found[1] + step[2], found[3] + step[3]
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
        out[j, _ADD], out[j, _VAR] = found[2] + step[1], bg
        out[j, _LOG_LIKELIHOOD] = likelihood + 0.5 * gain
        out[j, _STEP] = math.sqrt(max(gain, 0.0))
        out[j, _BEYOND] = n * (2.0 * centre - spread - centre * centre) if soft else 0.0
        # The weights at the estimates, of which I_a is made.
        M[:] = 0.0
        s0 = s1 = s2 = r1 = r2 = w0 = w1 = q1 = q2 = 0.0
        for g in range(classes):
            x = x_own[g]
            d = math.exp(-b0 - bg * x) if soft or own[g, 0] > 0.0 else 0.0
            of_w, root = own[g, 0], own[g, 3]
            s0 += d * of_w
            s1 += d * of_w * x
            s2 += d * of_w * x * x
            half = math.sqrt(d) * root
            r1 += half * x
            r2 += half * x * x
            w0 += of_w
            w1 += of_w * x
            q1 += root * x
            q2 += root * x * x
        for g in range(3):
            x = x_c[g]
            d = math.exp(-b0 - bg * x) if soft or n_c[g] > 0.0 else 0.0
            of_w = 0.0
            for i in range(v - 1):
                of_w += delta[i] * T[g, v_place[i + 1]]
            s0 -= d * of_w
            s1 -= d * of_w * x
            s2 -= d * of_w * x * x
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
    genotypes: GenotypeBlock,
    counts: GenotypeCounts,
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLM with covariates by the class fit and one Newton step.

    Parameters
    ----------
    design : NewtonDesign
        Of the null model and of such genotypes; make it once per null model.
    genotypes : HardCalls or Dosages
        Of everybody in the dataset; m variants.
    counts : GenotypeCounts
        Of them in the people analysed.
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
    estimates = Estimates.empty(len(genotypes))
    alone = not (inference.observed or inference.sandwich or inference.likelihood_ratio)
    for start in range(0, len(genotypes), VARIANTS_AT_ONCE):
        rows = np.arange(start, min(start + VARIANTS_AT_ONCE, len(genotypes)))
        some = genotypes.take(slice(rows[0], rows[-1] + 1))
        sums = design.screen.columns.sums(some, counts.take(rows))
        found, projections = screened(design.screen, some, sums)
        out = Estimates.empty(len(rows))
        out.put_scores(np.arange(len(rows)), found.scores, found.higher)
        if alone and design.whiten is not None:
            columns, left = design.screen.columns, np.flatnonzero(found.status == Status.SCREENED)
            apart = isinstance(columns, DosageColumns) and not columns.exact
            remainder = _REMAINDER_APART if apart else _REMAINDER
            _put_steps(out, design, sums, projections, left, remainder)
            if isinstance(columns, DosageColumns) and apart:
                left = left[out.status[left] == Status.PENDING]
                sums.put(left, columns.squared(some.take(left), sums.take(left)))
                _put_steps(out, design, sums, projections, left, _REMAINDER)
            # Too few people, whatever the genotype: there is nothing to fit.
            too_few = sums.people.sum(axis=1) < columns.of.c + columns.of.v + 3
            out.status[too_few] = Status.NOT_UNIQUE
        estimates.put(rows, out)
    return estimates


def work_bytes(m: int, n_total: int, n: int, n_mean: int, n_variance: int, *, dosages: bool) -> int:
    """Bound the memory of a design and of fitting with it, genotypes not.

    Parameters
    ----------
    m, n_total, n, n_mean, n_variance : int
        Variants per call, people in the packed calls and those analysed, columns of the designs.
    dosages : bool
    """
    return screen.work_bytes(m, n_total, n, n_mean, n_variance, dosages=dosages) + 8 * 30 * m


def _put_steps(
    out: Estimates,
    design: NewtonDesign,
    sums: ClassColumnSums,
    projections: Projections,
    rows: NDArray[np.intp],
    remainder: float,
) -> None:
    """Put the estimates of those of some variants that the bound lets pass."""
    of, here = design.screen.columns.of, sums.take(rows)
    results = np.empty((len(rows), _RESULTS))
    layout = of.layout(design.screen.columns.nodes)
    _step_all(
        here, layout, design.whiten, design.whiten_mean, design.screen.products.total, results
    )
    third, fourth = design.screen.moments
    projected = projections.take(rows)
    with np.errstate(all="ignore"):
        n, I_a, I_b = here.people.sum(axis=1), results[:, _MEAN], projected.variance
        distance = _distance(results, projected, n, of.c + of.v - 2, remainder)
        allowed = _ALLOWED / 2 if of.n >= _MANY else _ALLOWED
        if of.c + of.v == 2:  # what is left is cheap, and exact
            allowed = EXACT_DISTANCE
        passed = np.flatnonzero((I_a > 0) & (distance <= allowed))
        var = 0.5 * (fourth - 1) / I_b
        both = 0.5 * third * results[:, _CROSS] * projected.cross / (I_a * I_b)
    rows, found = rows[passed], results[passed]
    out.add[rows], out.var[rows] = found[:, _ADD], found[:, _VAR]
    out.log_likelihood[rows] = found[:, _LOG_LIKELIHOOD]
    put_covariance(out, rows, "", 1 / I_a[passed], 1 / I_b[passed], 0.0)
    put_covariance(out, rows, "_robust", 1 / I_a[passed], var[passed], both[passed])
    out.status[rows] = Status.OK


def _distance(
    results: Float, projections: Projections, n: Float, p: int, remainder: float
) -> Float:
    """Bound how far effects are from the maximum, in standard errors, with p covariates.

    Notes
    -----
    The step of length s leaves the change of the information on its way from the null model: of the
    order of (z + s)/√n in units of itself, z the length of the genotype's own effects. It reaches
    those as far as covariates explain the genotype, R² and what p covariates do by chance. The
    factor is that of random cohorts (math.md §4). Of dosages, the polynomials through seven nodes
    are off by at most |f⁽⁷⁾|/7!·|Π(g − x_c)|, of which the product is at most ½g(2 − g).
    """
    a, b, step = results[:, _ADD], results[:, _VAR], results[:, _STEP]
    z = np.sqrt(a**2 * results[:, _MEAN] + b**2 * projections.variance)
    explained = np.sqrt(np.maximum(1 - projections.rest, 0.0) + p / n)
    rest = remainder * (z + step) * step * explained / np.sqrt(n)
    seventh = (7 + 2 * np.abs(b)) * b**6 / math.factorial(7)
    beyond = 0.25 * seventh * results[:, _BEYOND] / np.sqrt(projections.variance)
    return np.asarray(rest + beyond)
