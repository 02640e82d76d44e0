"""HLMM of every variant on the random effects that all variants share.

Hard calls, intercepts and the genotype in both designs. :func:`fit_grams` is exact, from Gram
matrices of the genotype classes; :func:`fit_quasi` is exact to second order, and hands over to
the former the variants for which that may not be enough. With other covariates,
:func:`hlmm_exact.fit_exact` serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.packing import unpack_samples
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.hlm_classes import fit_class_sums
from hlmm_scan.kernels.hlmm_gram import (
    ClassGrams,
    GramEvaluation,
    GramObjective,
    Totals,
    class_grams,
)
from hlmm_scan.kernels.hlmm_products import (
    PEOPLE_PER_STRIP,
    TERMS,
    WIDTH,
    QuasiBasis,
    quasi_sums,
    refine_sums,
)
from hlmm_scan.kernels.hlmm_quasi import QuasiFits, fit_quasi_sums
from hlmm_scan.models.fit import minimise_from
from hlmm_scan.models.inference import covariance_from_information
from hlmm_scan.models.newton import Minimum
from hlmm_scan.null.eigen import Eigenstructure
from hlmm_scan.null.model import NullFit, NullModel
from hlmm_scan.schema import Status

Float = NDArray[np.float64]

QUASI_EXACT_PEOPLE = 20_000
"""From so many people on second-order fits are held to 1e-3 of a standard error, and are worth
having: below, exact fits are cheap."""

_LEAST_RANDOM_VARIANCE = 0.01  # start off the boundary where the null fit lies on it
_FEWEST = 5  # people: one more than there are parameters besides h2
_PERFECT = 1e-13  # largest residual over largest phenotype that is but rounding
_VARIANTS_AT_ONCE = 8 * WIDTH  # whose class sums are held together
_FRACTIONS = (0.05, 0.2, 0.4, 0.6, 0.8)  # of the variance, tried for the random effects


def covered(null: NullModel) -> bool:
    """Whether the kernels of this module fit the model: intercepts only, random effects."""
    return null.random_effects is not None and null.intercept_only


def fit_grams(
    null: NullModel,
    packed: NDArray[np.uint8],
    contigs: NDArray[np.object_],
    eigen: Mapping[str, Eigenstructure],
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLMM exactly; what :func:`hlmm_exact.fit_exact` finds, free of n after one pass.

    Parameters
    ----------
    null : NullModel
        With random effects, and an intercept only in both designs (:func:`covered`).
    packed : ndarray of uint8, shape (m, bytes)
    contigs : ndarray of object (str), shape (m,)
    eigen : mapping of str to Eigenstructure
        By left-out chromosome, at least those of `null.fits` that `contigs` ask for.
    inference : Inference, optional
        Which standard errors and tests to give.

    Returns
    -------
    Estimates
        m rows. Every variant starts from the null fit without its chromosome, never from its
        neighbour, so a row is the same bit for bit whatever block it stands in.

    Notes
    -----
    Where the search from the null fit does not converge, the start is sought anew; where it ends
    at h2 = 0, larger h2 are tried before that is believed: as :meth:`hlmm_scan.models.HLMM.fit`
    does.
    """
    if not covered(null):
        raise ValueError("fit_grams covers random effects with intercept-only designs")
    estimates = Estimates.empty(len(packed))
    keys = np.array([null.random_effect_set(str(contig)) for contig in contigs], dtype=object)
    for key in dict.fromkeys(keys):
        structure = eigen[key]
        totals = Totals.of(structure, null.y)
        for row in np.flatnonzero(keys == key):
            genotype = unpack_samples(packed[row : row + 1], null.samples)[0]
            fit_one(
                structure, totals, null.y, genotype, null.fits[key], inference, estimates, int(row)
            )
    return estimates


def quasi_tolerance(n: int) -> float:
    """Return how far, in standard errors, a quasi-exact effect may be from the exact one."""
    return 1e-3 if n >= QUASI_EXACT_PEOPLE else 1e-2


def quasi_bases(
    null: NullModel, eigen: Mapping[str, Eigenstructure], keys: Iterable[str]
) -> dict[str, QuasiBasis]:
    """Prepare what :func:`fit_quasi` shares, for some left-out chromosomes.

    Bases on the same columns share their single-precision copy.
    """
    bases: dict[str, QuasiBasis] = {}
    copies: dict[int, NDArray[np.float32]] = {}
    for key in keys:
        columns = eigen[key].columns
        single = copies.setdefault(id(columns), columns.astype(np.float32))
        bases[key] = QuasiBasis.of(eigen[key], null.y, null.fits[key], single)
    return bases


def fit_quasi(
    null: NullModel,
    packed: NDArray[np.uint8],
    contigs: NDArray[np.object_],
    eigen: Mapping[str, Eigenstructure],
    inference: Inference = DEFAULT_INFERENCE,
    *,
    tolerance: float | None = None,
    bases: Mapping[str, QuasiBasis] | None = None,
) -> Estimates:
    """Fit the HLMM to second order, and exactly where that may not do.

    A variant whose bound is too large, as strong effects and missing calls make it, is fitted a
    again from its own prediction of the random effects before the exact kernel gets it.

    Parameters
    ----------
    null, packed, contigs, eigen, inference
        As for :func:`fit_grams`.
    tolerance : float, optional
        Largest acceptable bound on the distance of either effect from the exact one, in standard
        errors; :func:`quasi_tolerance` by default. Ten times that is accepted for h2.
    bases : mapping of str to QuasiBasis, optional
        As :func:`quasi_bases` makes them; made here where they are not given.

    Returns
    -------
    Estimates
        m rows; a row is the same bit for bit whatever block it stands in.
    """
    if not covered(null):
        raise ValueError("fit_quasi covers random effects with intercept-only designs")
    allowed = quasi_tolerance(null.n) if tolerance is None else tolerance
    estimates = Estimates.empty(len(packed))
    keys = np.array([null.random_effect_set(str(contig)) for contig in contigs], dtype=object)
    different = list(dict.fromkeys(keys))
    if bases is None:
        bases = quasi_bases(null, eigen, different)
    for key in different:
        basis, rows = bases[key], np.flatnonzero(keys == key)
        left = []
        for start in range(0, len(rows), _VARIANTS_AT_ONCE):
            part = rows[start : start + _VARIANTS_AT_ONCE]
            left.append(
                _fit_part(basis, packed[part], null.samples, inference, allowed, estimates, part)
            )
        remaining = np.concatenate(left)
        totals = Totals.of(eigen[key], null.y) if len(remaining) else None
        for row in remaining:
            assert totals is not None
            genotype = unpack_samples(packed[row : row + 1], null.samples)[0]
            fit_one(
                eigen[key], totals, null.y, genotype, null.fits[key], inference, estimates, int(row)
            )
    return estimates


def _fit_part(
    basis: QuasiBasis,
    packed: NDArray[np.uint8],
    samples: NDArray[np.int64],
    inference: Inference,
    allowed: float,
    out: Estimates,
    rows: NDArray[np.integer],
) -> NDArray[np.integer]:
    """Put the fits that are good enough into `rows` of `out`; return the other rows.

    Refinement goes on for as long as it halves the bound: it mends the quadratic form, not the
    determinant.
    """
    sums = quasi_sums(basis, packed, samples)
    before = np.full(len(rows), np.inf)
    left = []
    while True:
        fits = fit_quasi_sums(basis, sums, observed=inference.observed)
        bound = np.maximum(fits.bound[:, :2].max(axis=1), 0.1 * fits.bound[:, 2])
        good = bound <= allowed
        _put(fits, good, out, rows[good])
        worth = ~good & (bound < 0.5 * before)
        left.append(rows[~good & ~worth])
        again = np.flatnonzero(worth)
        if not len(again):
            return np.concatenate(left)
        packed, rows, before = packed[again], rows[again], bound[again]
        sums = refine_sums(basis, sums.take(again), fits.shift[again], packed, samples)


def _put(
    fits: QuasiFits, good: NDArray[np.bool_], out: Estimates, rows: NDArray[np.integer]
) -> None:
    covariance = fits.covariance
    columns = {
        "add": fits.add,
        "var": fits.var,
        "add_variance": covariance[:, 1, 1],
        "var_variance": covariance[:, 3, 3],
        "add_var_covariance": covariance[:, 1, 3],
        "log_likelihood": fits.log_likelihood,
        "random_variance": fits.random_variance,
        "random_variance_variance": covariance[:, 4, 4],
        "residual_variance": fits.residual_variance,
        "status": np.where(fits.at_bound, Status.RANDOM_VARIANCE_AT_ZERO, Status.OK),
    }
    for name, values in columns.items():
        getattr(out, name)[rows] = values[good]


def work_bytes(m: int, n: int, l_random: int) -> int:
    """Estimate the memory of fitting m variants in n people with l random effects.

    Returns
    -------
    int
        Bytes, beside what tasks share (the random effects in double precision, mapped):
        their single-precision copy, series and vectors over people, one strip of products, class
        sums of the variants at once, and the l×l arrays of one exact fit, where l is at most n.
    """
    rank = min(n, l_random)
    shared = 4 * n * (rank + TERMS + 12) + 8 * n * TERMS * 3 + 8 * 4 * rank**2
    strip = 8 * 7 * WIDTH * (PEOPLE_PER_STRIP + 4 * rank)
    sums = 8 * min(m, _VARIANTS_AT_ONCE) * (8 * rank + 4 * TERMS)
    exact = 8 * (18 * rank**2 + 2048 * rank + 10 * n)
    return shared + strip + sums + exact + m * (n // 4 + 100)


def fit_one(
    eigen: Eigenstructure,
    totals: Totals,
    y: Float,
    genotype: Float,
    null_fit: NullFit,
    inference: Inference,
    out: Estimates,
    row: int,
) -> None:
    """Fit one variant exactly and put its estimates into row `row` of `out`."""
    called = np.unique(genotype[~np.isnan(genotype)], return_counts=True)
    if called[1].sum() < _FEWEST or len(called[0]) < 2:
        out.status[row] = Status.NOT_UNIQUE
        return
    raw, people = class_grams(eigen, totals, y, genotype)
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
    objective = GramObjective(
        raw.standardised(v, ols, scale, unit),
        np.column_stack((np.ones_like(v), v)),
        people,
        y,
        eigen,
        scale,
        unit,
    )
    random_unit = (scale / unit) ** 2
    minimum = _minimise(objective, _start(null_fit, scale, random_unit))
    _report(minimum, objective, ols, spread, random_unit, inference, out, row)


def _start(null_fit: NullFit, scale: float, random_unit: float) -> Float:
    h2 = max(null_fit.random_variance, _LEAST_RANDOM_VARIANCE)
    return np.array([null_fit.beta[0] - 2 * np.log(scale), 0.0, h2 / random_unit])


def _minimise(objective: GramObjective, start: Float) -> Minimum[GramEvaluation] | None:
    """Search from the null fit, then from elsewhere where that is not enough."""
    minimum = minimise_from(objective, [start], bounded=True)
    if minimum is None or not minimum.converged:
        best = _best_fraction(objective, _without_random_effects(objective.data))
        minimum = minimise_from(objective, [best], bounded=True)
    if minimum is not None and minimum.converged and minimum.at_bound:
        best = _best_fraction(objective, minimum.theta[:-1])
        if best[-1] > 0:
            inside = minimise_from(objective, [best], bounded=True)
            if inside is not None and inside.evaluation.value < minimum.evaluation.value:
                minimum = inside
    return minimum


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


def _best_fraction(objective: GramObjective, b: Float) -> Float:
    """Share the variance with the random effects in the best proportion of a grid, h2 = 0 too."""
    best, least = np.append(b, 0.0), np.inf
    for fraction in (0.0, *_FRACTIONS):
        theta = np.array([b[0] + np.log1p(-fraction), b[1], fraction])
        try:
            value = objective.at(theta).value
        except np.linalg.LinAlgError:
            continue
        if value < least:
            best, least = theta, value
    return best


def _report(
    minimum: Minimum[GramEvaluation] | None,
    objective: GramObjective,
    ols: Float,
    spread: float,
    random_unit: float,
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
    free = 5 - minimum.at_bound
    kind = information if inference.observed else evaluation.expected
    covariance = np.full((5, 5), np.nan)
    covariance[:free, :free] = covariance_from_information(kind[:free, :free])
    if np.isnan(covariance[0, 0]) and minimum.converged:
        status = Status.NOT_CONVERGED
    if status is Status.OK and minimum.at_bound:
        status = Status.RANDOM_VARIANCE_AT_ZERO

    scale, n, theta = objective.scale, objective.n, minimum.theta
    out.status[row] = status
    out.add[row] = (ols[1] + scale * (evaluation.alpha[1] - along[1])) / spread
    out.var[row] = theta[1] / spread
    out.add_variance[row] = covariance[1, 1] * (scale / spread) ** 2
    out.var_variance[row] = covariance[3, 3] / spread**2
    out.add_var_covariance[row] = covariance[1, 3] * scale / spread**2
    out.log_likelihood[row] = -0.5 * n * (evaluation.value + np.log(2 * np.pi)) - n * np.log(scale)
    out.random_variance[row] = random_unit * theta[2]
    out.random_variance_variance[row] = covariance[4, 4] * random_unit**2
    log_variance = objective.design @ theta[:2]
    out.residual_variance[row] = scale**2 * (objective.data.counts @ np.exp(log_variance)) / n
