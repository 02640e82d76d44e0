"""HLMM of every variant on the random effects that all variants share.

Hard calls, intercepts and the genotype in both designs. :func:`fit_grams` is exact, from Gram
matrices of the genotype classes; :func:`fit_quasi` is exact to second order, and hands over to
the former the variants for which that may not be enough. With covariates,
:mod:`~hlmm_scan.kernels.weighted.fit` serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.packing import unpack_samples
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.exact.gram_fit import GramBasis, fit_one
from hlmm_scan.kernels.second_order.basis import TERMS, QuasiBasis
from hlmm_scan.kernels.second_order.maximum import QuasiFits, fit_quasi_sums, likelihood_ratios
from hlmm_scan.kernels.second_order.products import QuasiSums, quasi_sums, refine_sums
from hlmm_scan.kernels.second_order.robust import sandwich_covariances, studentised_covariances
from hlmm_scan.kernels.sums.bit_planes import words_of
from hlmm_scan.kernels.sums.call_counts import PEOPLE_PER_STRIP, WIDTH, CallCounts
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.null.eigen import Eigenstructure
from hlmm_scan.null.model import NullModel
from hlmm_scan.schema import Status

Float = NDArray[np.float64]

QUASI_EXACT_PEOPLE = 20_000
"""From so many people on second-order fits are held to 1e-3 of a standard error, and are worth
having: below, exact fits are cheap."""

_VARIANTS_AT_ONCE = 8 * WIDTH  # whose class sums are held together


def covered(null: NullModel) -> bool:
    """Whether the kernels of this module fit the model: intercepts only, random effects."""
    return null.random_effects is not None and null.intercept_only


def fit_grams(
    null: NullModel,
    packed: NDArray[np.uint8],
    contigs: NDArray[np.object_],
    eigen: Mapping[str, Eigenstructure],
    inference: Inference = DEFAULT_INFERENCE,
    *,
    bases: Mapping[str, GramBasis] | None = None,
) -> Estimates:
    """Fit the HLMM exactly; what :func:`~hlmm_scan.kernels.exact.fit.fit_exact` finds, free of n
    after one pass.

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
    bases : mapping of str to GramBasis, optional
        What the variants share; made here where it is not given.

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
        basis = bases[key] if bases else GramBasis.of(eigen[key], null.y, null.fits[key])
        for row in np.flatnonzero(keys == key):
            genotype = unpack_samples(packed[row : row + 1], null.samples)[0]
            fit_one(basis, genotype, inference, estimates, int(row))
    return estimates


def quasi_tolerance(n: int) -> float:
    """Return how far, in standard errors, a quasi-exact effect may be from the exact one."""
    return 1e-3 if n >= QUASI_EXACT_PEOPLE else 1e-2


def quasi_bases(
    null: NullModel,
    eigen: Mapping[str, Eigenstructure],
    keys: Iterable[str],
    lattice: CallLattice | None = None,
) -> dict[str, QuasiBasis]:
    """Prepare what :func:`fit_quasi` shares, for some left-out chromosomes.

    Bases on the same columns share their single-precision copy, and their lattice if they have one.
    """
    bases: dict[str, QuasiBasis] = {}
    copies: dict[int, NDArray[np.float32]] = {}
    for key in keys:
        columns = eigen[key].columns
        if id(columns) not in copies:
            copies[id(columns)] = eigen[key].single_columns()
        single = copies[id(columns)]
        bases[key] = QuasiBasis.of(eigen[key], null.y, null.fits[key], single, lattice)
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
    exact_basis: Callable[[str], GramBasis] | None = None,
    counted: CallCounts | None = None,
) -> Estimates:
    """Fit the HLMM to second order, and exactly where that may not do.

    A variant whose bound is too large, as strong effects and missing calls make it, is fitted
    again from its own prediction of the random effects. Where that does not do, the exact kernel
    goes on from the second-order fit. Where random effects are dosages, its Gram matrices are in
    single precision, which moves estimates by less than 1e-4 of a standard error.

    Parameters
    ----------
    null, packed, contigs, eigen, inference
        As for :func:`fit_grams`.
    tolerance : float, optional
        Largest acceptable bound on the distance of either effect from the exact one, in standard
        errors; :func:`quasi_tolerance` by default. Ten times that is accepted for h2.
    bases : mapping of str to QuasiBasis, optional
        As :func:`quasi_bases` makes them; made here where they are not given.
    exact_basis : callable, optional
        Returns what exact fits share, of which there may be none.
    counted : CallCounts, optional
        Of the bases' lattice: filled with what is counted of these variants.

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
        starts: dict[int, Float | None] = {}
        for first in range(0, len(rows), _VARIANTS_AT_ONCE):
            part = rows[first : first + _VARIANTS_AT_ONCE]
            own = None if counted is None else counted.take(part)
            sums = quasi_sums(basis, packed[part], null.samples, own)
            starts |= _fit_part(
                basis, sums, packed[part], null, inference, allowed, estimates, part
            )
        if not starts:
            continue
        if exact_basis is None:
            shared = basis.leverages, basis.columns, basis.lattice
            grams = GramBasis.of(eigen[key], null.y, null.fits[key], *shared)
        else:
            grams = exact_basis(key)
        for row, start in starts.items():
            genotype = unpack_samples(packed[row : row + 1], null.samples)[0]
            fit_one(grams, genotype, inference, estimates, row, start)
    return estimates


def _fit_part(
    basis: QuasiBasis,
    sums: QuasiSums,
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
        fits = fit_quasi_sums(basis, sums, observed=inference.observed)
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
    basis: QuasiBasis,
    sums: QuasiSums,
    fits: QuasiFits,
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
        columns[f"add_variance{suffix}"] = scaled[:, 1, 1]
        columns[f"var_variance{suffix}"] = scaled[:, 3, 3]
        columns[f"add_var_covariance{suffix}"] = scaled[:, 1, 3]
    if inference.likelihood_ratio:
        ratios = likelihood_ratios(basis, sums, fits)
        columns |= {"add_lrt": ratios[:, 0], "var_lrt": ratios[:, 1], "av_lrt": ratios[:, 2]}
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
