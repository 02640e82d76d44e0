"""HLMM of every variant to second order, on the random effects that all variants share.

Hard calls, intercepts and the genotype in both designs. Variants for which second order may not be
enough are handed over to the exact fits of :mod:`~hlmm_scan.kernels.exact.gram_fit`. With
covariates, :mod:`~hlmm_scan.kernels.weighted.fit` serves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.packing import unpack_samples
from hlmm_scan.kernels.covariances import put_covariance, put_ratios
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.exact.gram_fit import GramBasis, fit_one
from hlmm_scan.kernels.limits import second_order_distance
from hlmm_scan.kernels.second_order.basis import TERMS, SecondOrderBasis
from hlmm_scan.kernels.second_order.maximum import (
    SecondOrderFits,
    fit_second_order_sums,
    likelihood_ratios,
)
from hlmm_scan.kernels.second_order.products import SecondOrderSums, refine_sums, second_order_sums
from hlmm_scan.kernels.second_order.robust import sandwich_covariances, studentised_covariances
from hlmm_scan.kernels.sums.bit_planes import words_of
from hlmm_scan.kernels.sums.call_counts import PEOPLE_PER_STRIP, WIDTH, CallCounts
from hlmm_scan.null.model import NullModel
from hlmm_scan.schema import Status

_VARIANTS_AT_ONCE = 8 * WIDTH  # whose class sums are held together


def fit_second_order(
    null: NullModel,
    basis: SecondOrderBasis,
    packed: NDArray[np.uint8],
    inference: Inference = DEFAULT_INFERENCE,
    *,
    tolerance: float | None = None,
    exact: Callable[[], GramBasis] | None = None,
    counted: CallCounts | None = None,
) -> Estimates:
    """Fit the HLMM to second order, and exactly where that may not do.

    A variant whose bound is too large, as strong effects and missing calls make it, is fitted
    again from its own prediction of the random effects. Where that does not do, the exact kernel
    goes on from the second-order fit. Where random effects are dosages, its Gram matrices are in
    single precision, which moves estimates by less than 1e-4 of a standard error.

    Parameters
    ----------
    null : NullModel
        With random effects, and an intercept only in both designs.
    basis : SecondOrderBasis
        Of the null model and a left-out chromosome.
    packed : ndarray of uint8, shape (m, bytes)
    inference : Inference, optional
        Which standard errors and tests to give.
    tolerance : float, optional
        Largest acceptable bound on the distance of either effect from the exact one, in standard
        errors; :func:`~hlmm_scan.kernels.limits.second_order_distance` by default. Ten times that
        is accepted for h2.
    exact : callable, optional
        Returns what exact fits share, :meth:`SecondOrderBasis.for_exact_fits` by default; called
        where there are any.
    counted : CallCounts, optional
        Of the basis' lattice: filled with what is counted of these variants.

    Returns
    -------
    Estimates
        m rows; a row is the same bit for bit whatever block it stands in.
    """
    allowed = second_order_distance(null.n) if tolerance is None else tolerance
    estimates = Estimates.empty(len(packed))
    starts: dict[int, Float | None] = {}
    for first in range(0, len(packed), _VARIANTS_AT_ONCE):
        rows = np.arange(first, min(first + _VARIANTS_AT_ONCE, len(packed)))
        own = None if counted is None else counted.take(rows)
        sums = second_order_sums(basis, packed[rows], null.samples, own)
        starts |= _fit_part(basis, sums, packed[rows], null, inference, allowed, estimates, rows)
    if starts:
        grams = exact() if exact else basis.for_exact_fits(null.y)
        for row, start in starts.items():
            genotype = unpack_samples(packed[row : row + 1], null.samples)[0]
            fit_one(grams, genotype, inference, estimates, row, start)
    return estimates


def _fit_part(
    basis: SecondOrderBasis,
    sums: SecondOrderSums,
    packed: NDArray[np.uint8],
    null: NullModel,
    inference: Inference,
    allowed: float,
    out: Estimates,
    rows: NDArray[np.integer],
) -> dict[int, Float | None]:
    """Put the fits that are good enough into `rows` of `out`; return starts for the other rows.

    Refinement goes on for as long as it halves the bound: it mends the quadratic form, not the
    determinant.
    """
    before = np.full(len(rows), np.inf)
    starts: dict[int, Float | None] = {}
    while True:
        fits = fit_second_order_sums(basis, sums, observed=inference.observed)
        bound = np.maximum(fits.bound[:, :2].max(axis=1), 0.1 * fits.bound[:, 2])
        good = bound <= allowed
        _put(basis, sums, fits, np.flatnonzero(good), packed, null, inference, out, rows)
        worth = ~good & (bound < 0.5 * before)
        starts |= {int(rows[j]): fits.start(j) for j in np.flatnonzero(~good & ~worth).tolist()}
        again = np.flatnonzero(worth)
        if not len(again):
            return starts
        packed, rows, before = packed[again], rows[again], bound[again]
        sums = refine_sums(basis, sums.take(again), fits.shift[again], packed, null.samples)


def _put(
    basis: SecondOrderBasis,
    sums: SecondOrderSums,
    fits: SecondOrderFits,
    good: NDArray[np.integer],
    packed: NDArray[np.uint8],
    null: NullModel,
    inference: Inference,
    out: Estimates,
    rows: NDArray[np.integer],
) -> None:
    """Put the `good` ones of some fits into their `rows` of `out`, with their other tests."""
    sums, fits, packed, rows = sums.take(good), fits.take(good), packed[good], rows[good]
    columns = {
        "add": fits.add,
        "var": fits.var,
        "log_likelihood": fits.log_likelihood,
        "random_variance": fits.random_variance,
        "random_variance_variance": fits.covariance[:, 4, 4],
        "residual_variance": fits.residual_variance,
        "status": np.where(fits.at_bound, Status.RANDOM_VARIANCE_AT_ZERO, Status.OK),
    }
    covariances = {"": fits.covariance, "_robust": studentised_covariances(basis, sums, fits)}
    if inference.sandwich:
        covariances["_sandwich"] = sandwich_covariances(
            basis, sums, fits, packed, null.samples, null.y
        )
    for suffix, covariance in covariances.items():
        # Effects per copy, not per standard deviation of the genotype.
        scaled = covariance / fits.spread[:, None, None] ** 2
        put_covariance(out, rows, suffix, scaled[:, 1, 1], scaled[:, 3, 3], scaled[:, 1, 3])
    if inference.likelihood_ratio:
        put_ratios(out, rows, likelihood_ratios(basis, sums, fits))
    for name, values in columns.items():
        getattr(out, name)[rows] = values


def work_bytes(m: int, n: int, l_random: int) -> int:
    """Estimate the memory of fitting m variants in n people with l random effects.

    Returns
    -------
    int
        Bytes, beside what tasks share (the random effects, mapped): the random effects as bits,
        series and vectors over people, one strip of products, class sums of the variants at once,
        and of one exact fit the bits of some people and the l×l arrays, where l is at most n.
    """
    rank = min(n, l_random)
    bits = 8 * n * words_of(3 * rank)
    shared = bits + 4 * n * (TERMS + 12) + 8 * n * TERMS * 3 + 8 * 4 * rank**2
    strip = 4 * WIDTH * (2 * PEOPLE_PER_STRIP + 64 * rank)
    sums = 8 * min(m, _VARIANTS_AT_ONCE) * (8 * rank + 4 * TERMS)
    exact = bits + 8 * (22 * rank**2 + 2048 * rank + 12 * n)
    # Exact fits come after the class sums of their block were let go of.
    return shared + max(strip + sums, exact) + m * (n // 4 + 100)
