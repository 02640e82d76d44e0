"""The HLMM with covariates, or with as many random effects as people, at every variant.

All parameters are fitted at every variant, by quasi-Newton steps from the null fit on the
likelihood of :mod:`~hlmm_scan.kernels.weighted.likelihood`, whose gradients are exact and whose
only error is in log det Λ. Where an estimate of that error exceeds what is allowed, the exact
derivatives of log det Λ at the maximum found replace the approximate ones: their difference is
added to the gradient as a constant, and the maximum looked for again. Since the approximation is a
good one, one or two such corrections make the fit exact (:mod:`~hlmm_scan.kernels.weighted.exact`).
The plain reference is :func:`~hlmm_scan.kernels.exact.fit.fit_exact`, which also gets what does not
converge here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.dosages import GenotypeBlock, copies, take
from hlmm_scan.kernels.covariances import EXACT, SECOND_ORDER, likelihood_ratios
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.exact.fit import fit_exact
from hlmm_scan.kernels.second_order.basis import TERMS
from hlmm_scan.kernels.second_order.fit import QUASI_EXACT_PEOPLE, quasi_tolerance
from hlmm_scan.kernels.weighted.basis import WeightedBasis, stores_pairs
from hlmm_scan.kernels.weighted.search import (
    GROUP,
    WIDTH,
    Demands,
    Genotypes,
    Rows,
    Search,
)
from hlmm_scan.null.model import NullModel
from hlmm_scan.schema import Status

Float = NDArray[np.float64]

REFITTED_NEG_LOG10_P = 4.0
"""Below :data:`QUASI_EXACT_PEOPLE`, variants with a test beyond this are made exact, or fitted
plainly where that is cheap."""

_LIKELIHOOD_RATIO_TOLERANCE = 1e-3  # standard errors to which the restricted fits are brought


def fit_weighted(
    null: NullModel,
    genotypes: GenotypeBlock,
    contigs: NDArray[np.object_],
    bases: Mapping[str, WeightedBasis],
    inference: Inference = DEFAULT_INFERENCE,
    *,
    tolerance: float | None = None,
    exact_beyond: float | None = None,
) -> Estimates:
    """Fit the HLMM of a block of variants.

    Parameters
    ----------
    null : NullModel
        With random effects.
    genotypes : ndarray of uint8, shape (m, bytes), or Dosages
    contigs : ndarray of object (str), shape (m,)
    bases : mapping of str to WeightedBasis
        By left-out chromosome, those that `contigs` ask for.
    inference : Inference, optional
    tolerance, exact_beyond : float, optional
        As for :func:`fit_genotypes`.

    Returns
    -------
    Estimates
        m rows; what does not converge here is as :func:`~hlmm_scan.kernels.exact.fit.fit_exact`
        finds it.
    """
    estimates = Estimates.empty(len(genotypes))
    keys = np.array([null.random_effect_set(str(contig)) for contig in contigs], dtype=object)
    for key in dict.fromkeys(keys):
        rows = np.flatnonzero(keys == key)

        def read(chosen: Rows, rows: Rows = rows) -> Float:
            return copies(take(genotypes, rows[chosen]), null.samples)

        found = fit_genotypes(
            bases[key], read, len(rows), inference, tolerance=tolerance, exact_beyond=exact_beyond
        )
        estimates.put(rows, found)
    left = np.flatnonzero(estimates.status == Status.PENDING)
    if len(left):
        estimates.put(left, fit_exact(null, take(genotypes, left), contigs[left], inference))
    return estimates


def fit_genotypes(
    basis: WeightedBasis,
    genotypes: Genotypes,
    m: int,
    inference: Inference = DEFAULT_INFERENCE,
    *,
    tolerance: float | None = None,
    exact_beyond: float | None = None,
) -> Estimates:
    """Fit the HLMM of m variants with any genotypes, dosages as well.

    Parameters
    ----------
    basis : WeightedBasis
    genotypes : callable
        Gives, for indices below m, genotypes of shape (len(indices), n), NaN where missing.
    m : int
    inference : Inference, optional
        The sandwich is left to the plain kernel where h2 is 0.
    tolerance : float, optional
        Largest estimated distance of either effect from the exact one, in standard errors, that
        is left as it is; 1e-3 from :data:`QUASI_EXACT_PEOPLE` people on, 1e-2 below by default.
    exact_beyond : float, optional
        −log10 p of any of the three tests beyond which a fit is made exact whatever the estimate:
        4 for fewer people than that, else infinite by default.

    Returns
    -------
    Estimates
        m rows; PENDING where the fit did not converge: to be fitted plainly.
    """
    few = basis.n < QUASI_EXACT_PEOPLE
    demands = Demands(
        tolerance=quasi_tolerance(basis.n) if tolerance is None else tolerance,
        exact_beyond=(
            (REFITTED_NEG_LOG10_P if few else np.inf) if exact_beyond is None else exact_beyond
        ),
        observed=inference.observed,
        sandwich=inference.sandwich,
    )
    search = Search(basis, genotypes, demands)
    estimates = search.run(m)
    if inference.likelihood_ratio:
        _likelihood_ratios(basis, genotypes, estimates, search.corrected)
    return estimates


def _likelihood_ratios(
    basis: WeightedBasis,
    genotypes: Genotypes,
    estimates: Estimates,
    corrected: NDArray[np.bool_],
) -> None:
    """Refit without either effect and without both, exactly where the full fit is exact.

    So that what is common to approximate determinants cancels.
    """
    rows = np.flatnonzero(estimates.status != Status.PENDING)

    def chosen(which: Rows) -> Float:
        return genotypes(rows[which])

    full = estimates.log_likelihood[rows]
    for name, held in (
        ("add_lrt", (True, False)),
        ("var_lrt", (False, True)),
        ("av_lrt", (True, True)),
    ):
        demands = Demands(_LIKELIHOOD_RATIO_TOLERANCE, np.inf, held=held, exactly=corrected[rows])
        restricted = Search(basis, chosen, demands).run(len(rows)).log_likelihood
        error = np.where(corrected[rows], EXACT, SECOND_ORDER)
        getattr(estimates, name)[rows] = likelihood_ratios(full, restricted, error)


def work_bytes(n: int, n_mean: int, n_variance: int, n_random: int) -> int:
    """Return the memory of :func:`fit_weighted`, whatever the number of variants.

    Parameters
    ----------
    n, n_mean, n_variance, n_random : int
        People, columns of both designs, random effects.

    Notes
    -----
    Beside the random effects in double precision that tasks share: one left-out set's own columns
    (in reference units, with covariates), those in the precision of the kernel, pairs, series and
    scores; a tile; what a group of finished variants takes; and one exact determinant.
    """
    r, c, v = min(n, n_random), n_mean, n_variance
    size = 4 if n >= QUASI_EXACT_PEOPLE else 8
    columns = n * r * (8 * (v > 1) + size) + 8 * n * (TERMS * 3 + 6 * (c + v))
    # S∘S, and HHᵀ for exact determinants; the latter's factor and inverse.
    dense = n * n * (4 + 4 + 3 * 8) if stores_pairs(n, r) else 8 * (n * r + 4 * r * r)
    tile = WIDTH * (n * (9 * size + size) + 6 * 8 * r)
    group = GROUP * n * size * 24
    return columns + dense + tile + group


def work_seconds(m: int, n: int, n_mean: int, n_variance: int, n_random: int) -> float:
    """Estimate (within a factor of three) the time of fitting m variants on one core.

    Parameters
    ----------
    m, n, n_mean, n_variance, n_random : int
        Variants, and as for :func:`work_bytes`.
    """
    r, q = min(n, n_random), n_mean + n_variance
    rate = 60e9 if n >= QUASI_EXACT_PEOPLE else 30e9
    pairs = 2 * n * n if stores_pairs(n, r) else 0
    # Six evaluations or their like, and the exact determinant of every tenth variant.
    evaluation = (4 * n * r + pairs + 6 * n * q) / rate + 25e-9 * n
    exact = min(n**3, 2 * n * r**2) / 30e9 if n < QUASI_EXACT_PEOPLE else 0.0
    return m * (6 * evaluation + 0.15 * exact)
