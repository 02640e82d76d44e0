"""Fits the HLMM of hard-called variants exactly, from Gram matrices of their genotype classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.packing import unpack_samples
from hlmm_scan.kernels.classes.fit import fit_class_sums
from hlmm_scan.kernels.covariances import EXACT_ERROR, likelihood_ratio, put_covariance
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.exact.class_grams import ClassGrams, Totals, class_grams
from hlmm_scan.kernels.exact.gram import GramEvaluation, GramObjective
from hlmm_scan.kernels.exact.robust import (
    ClassTraces,
    Leverages,
    between,
    person_scores,
    studentised,
    without_random_effects,
)
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.models.fit import LEAST_RANDOM_VARIANCE, minimise_random_variance
from hlmm_scan.models.inference import covariance_from_information
from hlmm_scan.models.newton import Minimum
from hlmm_scan.null.eigen import Eigenstructure
from hlmm_scan.null.model import NullFit
from hlmm_scan.schema import Status

_FEWEST = 5  # people: one more than there are parameters besides h2
_PERFECT = 1e-13  # largest residual over largest phenotype that is but rounding


@dataclass(frozen=True)
class GramBasis:
    """What exact fits of one phenotype on one set of random effects share.

    Attributes
    ----------
    eigen : Eigenstructure
    totals : Totals
    leverages : Leverages
    y : ndarray, shape (n,)
    null : NullFit
        Without the set's left-out chromosome.
    columns : ndarray of float64 or float32, shape (n, k)
        Those of `eigen` that Gram matrices are made of where there is no lattice.
    lattice : CallLattice or None
        Of `eigen.columns`: then Gram matrices are made of this.
    """

    eigen: Eigenstructure
    totals: Totals
    leverages: Leverages
    y: Float
    null: NullFit
    columns: NDArray[np.floating]
    lattice: CallLattice | None

    @classmethod
    def of(
        cls,
        eigen: Eigenstructure,
        y: Float,
        null: NullFit,
        leverages: Leverages | None = None,
        columns: NDArray[np.floating] | None = None,
        lattice: CallLattice | None = None,
    ) -> GramBasis:
        """Prepare one phenotype and set; leverages cost about what one fit does."""
        if leverages is None:
            kappa = null.random_variance * float(np.exp(-null.beta[0]))
            leverages = Leverages.of(eigen, kappa)
        columns = eigen.columns if columns is None else columns
        return cls(eigen, Totals.of(eigen, y), leverages, y, null, columns, lattice)


@dataclass(frozen=True)
class _Scale:
    """How standardised coordinates are left.

    Attributes
    ----------
    ols : ndarray, shape (2,)
        Mean of the phenotype, and its slope on the standardised genotype.
    spread : float
        Standard deviation of the genotype.
    phenotype : float
        Standard deviation of the phenotype's residuals.
    random : float
        h2 in the phenotype's units per standardised one.
    """

    ols: Float
    spread: float
    phenotype: float
    random: float


def fit_grams(
    basis: GramBasis,
    packed: NDArray[np.uint8],
    samples: NDArray[np.int64],
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLMM exactly; what :func:`~hlmm_scan.kernels.exact.fit.fit_exact` finds, free of n
    after one pass.

    Parameters
    ----------
    basis : GramBasis
        Of a null model with intercepts only, and a left-out chromosome.
    packed : ndarray of uint8, shape (m, bytes)
    samples : ndarray of int64, shape (n,)
        The people of the basis among those of the calls.
    inference : Inference, optional
        Which standard errors and tests to give.

    Returns
    -------
    Estimates
        m rows. Every variant starts from the null fit, never from its neighbour, so a row is the
        same bit for bit whatever block it stands in.

    Notes
    -----
    Where the search from the null fit does not converge, the start is sought anew; where it ends
    at h2 = 0, larger h2 are tried before that is believed: as :meth:`hlmm_scan.models.HLMM.fit`
    does.
    """
    estimates = Estimates.empty(len(packed))
    for row in range(len(packed)):
        genotype = unpack_samples(packed[row : row + 1], samples)[0]
        fit_one(basis, genotype, inference, estimates, row)
    return estimates


def fit_one(
    basis: GramBasis,
    genotype: Float,
    inference: Inference,
    out: Estimates,
    row: int,
    start: Float | None = None,
) -> None:
    """Fit one variant exactly and put its estimates into row `row` of `out`.

    Parameters
    ----------
    basis : GramBasis
    genotype : ndarray, shape (n,)
        NaN where there is no call.
    inference : Inference
    out : Estimates
    row : int
    start : ndarray, shape (3,), optional
        Log-variance at the mean genotype, effect per copy on it, and h2; of the null fit by
        default.
    """
    called = np.unique(genotype[~np.isnan(genotype)], return_counts=True)
    if called[1].sum() < _FEWEST or len(called[0]) < 2:
        out.status[row] = Status.NOT_UNIQUE
        return
    eigen, y, null = basis.eigen, basis.y, basis.null
    raw, people = class_grams(eigen, basis.totals, y, genotype, basis.columns, basis.lattice)
    n = raw.counts.sum()
    centre = raw.counts @ raw.copies / n
    spread = float(np.sqrt(raw.counts @ (raw.copies - centre) ** 2 / n))
    v = (raw.copies - centre) / spread
    ols = np.array([raw.counts @ raw.means, (raw.counts * v) @ raw.means]) / n
    left = raw.means - ols[0] - ols[1] * v
    peak = max(
        float(np.abs(y[p] - mean + rest).max())
        for p, mean, rest in zip(people, raw.means, left, strict=True)
    )
    if peak <= _PERFECT * max(float(np.abs(y[p]).max()) for p in people):
        out.status[row] = Status.UNBOUNDED
        return
    scale = float(np.sqrt((raw.within.sum() + raw.counts @ left**2) / n))
    # A fixed trace of GGᵀ makes h2 a variance in the phenotype's standardised units.
    unit = float(np.sqrt(max(np.trace(raw.grams.sum(axis=0)), 0.0) / n)) or 1.0
    design = np.column_stack((np.ones_like(v), v))
    objective = GramObjective(
        raw.standardised(v, ols, scale, unit), design, design, people, y, eigen, scale, unit
    )
    scales = _Scale(ols, spread, scale, (scale / unit) ** 2)
    if start is None:
        start = np.array([null.beta[0], 0.0, null.random_variance])
    theta = np.array(
        [
            start[0] - 2 * np.log(scale),
            start[1] * spread,
            max(start[2], LEAST_RANDOM_VARIANCE) / scales.random,
        ]
    )
    minimum = _minimise(objective, theta)
    _report(minimum, objective, scales, basis, inference, out, row)
    if inference.likelihood_ratio and minimum is not None and _succeeded(out.status[row]):
        likelihood = out.log_likelihood[row] if n == len(y) else None
        ratios = _likelihood_ratios(objective, minimum, scales, null, likelihood)
        out.add_lrt[row], out.var_lrt[row], out.av_lrt[row] = ratios


def _succeeded(status: int) -> bool:
    return status in (Status.OK, Status.RANDOM_VARIANCE_AT_ZERO)


def _minimise(objective: GramObjective, start: Float) -> Minimum[GramEvaluation] | None:
    """Search from a start, then from elsewhere where that is not enough."""
    q = objective.variance.shape[1]

    def without() -> Float:
        return _without_random_effects(objective.data)[:q]

    return minimise_random_variance(objective, start, without, np.eye(q)[0])


def _without_random_effects(data: ClassGrams) -> Float:
    """(b0, b1) of the HLM, or of equal variances where it has none."""
    sums = np.zeros((1, 3, 3))
    for c, copies in enumerate(data.copies.astype(int)):
        count, mean = data.counts[c], data.means[c]
        sums[0, copies] = count, count * mean, data.within[c] + count * mean**2
    fit = fit_class_sums(sums)
    if fit.status[0] != Status.OK:
        return np.zeros(2)
    n = data.counts.sum()
    centre = data.counts @ data.copies / n
    spread = np.sqrt(data.counts @ (data.copies - centre) ** 2 / n)
    b = float(fit.var[0])
    # Its log-likelihood is −n/2·(log 2π + 1 + log of the common variance), phenotype mean 0.
    return np.array([-2 * fit.log_likelihood[0] / n - np.log(2 * np.pi) - 1, b * spread])


def _report(
    minimum: Minimum[GramEvaluation] | None,
    objective: GramObjective,
    scales: _Scale,
    basis: GramBasis,
    inference: Inference,
    out: Estimates,
    row: int,
) -> None:
    """Put a minimum in standardised units into a row, as `models.fit.report` does for a fit."""
    if minimum is None:
        out.status[row] = Status.NOT_CONVERGED
        return
    if minimum.degenerate:
        out.status[row] = Status.UNBOUNDED
        return
    evaluation = minimum.evaluation
    # Identified or not is asked of all parameters, also of an h2 that is left out afterwards.
    if np.isnan(covariance_from_information(evaluation.expected)).any():
        out.status[row] = Status.NOT_UNIQUE
        return
    # The mean effects follow the last step along the ridge of the likelihood.
    information = evaluation.observed
    along = np.linalg.solve(information[:2, :2], information[:2, 2:] @ minimum.last_step)
    status = Status.OK if minimum.converged else Status.NOT_CONVERGED
    kind = information if inference.observed else evaluation.expected
    covariance = between(kind, kind, 5 - minimum.at_bound)
    if np.isnan(covariance[0, 0]) and minimum.converged:
        status = Status.NOT_CONVERGED
    if status is Status.OK and minimum.at_bound:
        status = Status.RANDOM_VARIANCE_AT_ZERO

    scale, spread, n, theta = scales.phenotype, scales.spread, objective.n, minimum.theta
    out.status[row] = status
    out.add[row] = (scales.ols[1] + scale * (evaluation.alpha[1] - along[1])) / spread
    out.var[row] = theta[1] / spread
    out.log_likelihood[row] = -0.5 * n * (evaluation.value + np.log(2 * np.pi)) - n * np.log(scale)
    out.random_variance[row] = scales.random * theta[2]
    out.random_variance_variance[row] = covariance[4, 4] * scales.random**2
    log_variance = objective.variance @ theta[:2]
    out.residual_variance[row] = scale**2 * (objective.data.counts @ np.exp(log_variance)) / n
    robust = studentised(
        evaluation.expected,
        class_traces(evaluation),
        basis.leverages.moments,
        basis.null.moments,
        minimum.at_bound,
    )
    covariances = {"": covariance, "_robust": robust}
    if inference.sandwich:
        covariances["_sandwich"] = _sandwich(evaluation, basis.leverages, minimum.at_bound)
    for suffix, C in covariances.items():
        add, var = C[1, 1] * (scale / spread) ** 2, C[3, 3] / spread**2
        put_covariance(out, row, suffix, add, var, C[1, 3] * scale / spread**2)


def class_traces(evaluation: GramEvaluation) -> ClassTraces:
    """Return what the studentised covariance takes of an exact fit."""
    objective = evaluation.objective
    return ClassTraces(
        objective.mean,
        objective.variance,
        objective.data.counts,
        evaluation.weights,
        evaluation.h2,
        evaluation.leverages,
        evaluation.squared_traces,
        evaluation.mean_sums,
    )


def _sandwich(evaluation: GramEvaluation, leverages: Leverages, held: bool) -> Float:
    """A⁻¹BA⁻¹ with B from every person's own score; O(n·l)."""
    objective = evaluation.objective
    information = evaluation.expected
    B = np.zeros_like(information)
    for c, people in enumerate(objective.people):
        random = objective.random_part(c, evaluation.u)
        relative = leverages.relative[people]
        root = float(np.sqrt(evaluation.weights[c]))
        scores = person_scores(
            root * objective.mean[c],
            objective.variance[c],
            evaluation.h2,
            root * evaluation.residuals(c),
            root * random,
            relative * (evaluation.leverages[c] / relative.sum()),
        )
        B += scores.T @ scores
    if held:
        information = without_random_effects(
            information, objective.variance, evaluation.weights * evaluation.squares
        )
    return between(information, B, len(B) - held)


def _likelihood_ratios(
    objective: GramObjective,
    minimum: Minimum[GramEvaluation],
    scales: _Scale,
    null: NullFit,
    log_likelihood: float | None,
) -> tuple[float, float, float]:
    """2·(log L − restricted log L) without the additive effect, the variance effect, and both.

    `log_likelihood` is that of the fit where everyone has a call: the null fit then is the one
    without both.
    """
    theta, n = minimum.theta, objective.n
    equal = np.array([theta[0], max(theta[2], LEAST_RANDOM_VARIANCE)])

    def ratio(restricted: GramObjective, start: Float) -> float:
        found = _minimise(restricted, start)
        if found is None or not found.converged:
            return np.nan
        gain = 0.5 * n * (found.evaluation.value - minimum.evaluation.value)
        return likelihood_ratio(gain, EXACT_ERROR)

    # Without the additive effect, its least-squares estimate is no longer to be left out of y.
    slope = scales.ols[1] / scales.phenotype * objective.mean[:, 1]
    whole = replace(objective.data, means=objective.data.means + slope)
    without_add = replace(objective, data=whole, mean=objective.mean[:, :1])
    without_var = replace(objective, variance=objective.variance[:, :1])
    add = ratio(without_add, np.append(theta[:2], equal[1]))
    var = ratio(without_var, equal)
    if log_likelihood is not None:
        return add, var, likelihood_ratio(log_likelihood - null.log_likelihood, EXACT_ERROR)
    return add, var, ratio(replace(without_add, variance=without_var.variance), equal)
