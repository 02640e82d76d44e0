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

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.kernels import limits
from hlmm_scan.kernels.covariances import (
    EXACT_ERROR,
    RESTRICTIONS,
    SECOND_ORDER_ERROR,
    likelihood_ratios,
)
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.second_order.basis import TERMS
from hlmm_scan.kernels.weighted.basis import WeightedBasis, stores_pairs
from hlmm_scan.kernels.weighted.search import (
    GROUP,
    WIDTH,
    Demands,
    Genotypes,
    Rows,
    Search,
)
from hlmm_scan.schema import Status

_LIKELIHOOD_RATIO_TOLERANCE = 1e-3  # standard errors to which the restricted fits are brought


def fit_weighted(
    basis: WeightedBasis,
    genotypes: GenotypeBlock,
    samples: NDArray[np.int64],
    inference: Inference = DEFAULT_INFERENCE,
    *,
    tolerance: float | None = None,
    exact_beyond: float | None = None,
) -> Estimates:
    """Fit the HLMM of a block of variants.

    Parameters
    ----------
    basis : WeightedBasis
        Of the null model and a left-out chromosome.
    genotypes : HardCalls or Dosages
    samples : ndarray of int64, shape (n,)
        The people of the basis among those of the genotypes.
    inference, tolerance, exact_beyond
        As for :func:`fit_genotypes`.

    Returns
    -------
    Estimates
        As from :func:`fit_genotypes`.
    """

    def read(rows: Rows) -> Float:
        return genotypes.take(rows).copies(samples)

    m = len(genotypes)
    return fit_genotypes(basis, read, m, inference, tolerance=tolerance, exact_beyond=exact_beyond)


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
        is left as it is; :func:`~hlmm_scan.kernels.limits.second_order_distance` by default.
    exact_beyond : float, optional
        −log10 p of any of the three tests beyond which a fit is made exact whatever the estimate:
        by default :data:`~hlmm_scan.kernels.limits.INTERESTING_NEG_LOG10_P` for fewer people than
        :data:`~hlmm_scan.kernels.limits.SECOND_ORDER_ALONE_PEOPLE`, else infinite.

    Returns
    -------
    Estimates
        m rows; PENDING where the fit did not converge: to be fitted plainly.
    """
    few = basis.n < limits.SECOND_ORDER_ALONE_PEOPLE
    demands = Demands(
        tolerance=limits.second_order_distance(basis.n) if tolerance is None else tolerance,
        exact_beyond=(
            (limits.INTERESTING_NEG_LOG10_P if few else np.inf)
            if exact_beyond is None
            else exact_beyond
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
    for name, held in RESTRICTIONS.items():
        demands = Demands(_LIKELIHOOD_RATIO_TOLERANCE, np.inf, held=held, exactly=corrected[rows])
        restricted = Search(basis, chosen, demands).run(len(rows)).log_likelihood
        error = np.where(corrected[rows], EXACT_ERROR, SECOND_ORDER_ERROR)
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
    size = 4 if n >= limits.SINGLE_PRECISION_PEOPLE else 8
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
    rate = 60e9 if n >= limits.SINGLE_PRECISION_PEOPLE else 30e9
    pairs = 2 * n * n if stores_pairs(n, r) else 0
    # Six evaluations or their like, and the exact determinant of every tenth variant.
    evaluation = (4 * n * r + pairs + 6 * n * q) / rate + 25e-9 * n
    exact = min(n**3, 2 * n * r**2) / 30e9 if n < limits.SECOND_ORDER_ALONE_PEOPLE else 0.0
    return m * (6 * evaluation + 0.15 * exact)
