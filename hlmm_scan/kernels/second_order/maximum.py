"""Fits the HLMM of many hard-called variants to second order, from products with class indicators.

:mod:`~hlmm_scan.kernels.second_order.likelihood` has the function that is maximised,
:mod:`~hlmm_scan.kernels.second_order.products` the products.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels import covariances
from hlmm_scan.kernels.second_order.basis import SecondOrderBasis
from hlmm_scan.kernels.second_order.likelihood import ClassSums, Shared
from hlmm_scan.kernels.second_order.products import SecondOrderSums
from hlmm_scan.kernels.second_order.search import Maxima, fit_all
from hlmm_scan.kernels.sums.call_counts import plain
from hlmm_scan.models.fit import LEAST_RANDOM_VARIANCE
from hlmm_scan.models.inference import covariance_from_information

_SINGLE_PRECISION = 1e-5  # standard errors that float32 products may cost
_SHARED = 0.1  # of an error of the variance effect that may come out in the other estimates


@dataclass(frozen=True)
class SecondOrderFits:
    """Fits of m variants to second order; NaN where there is none.

    Attributes
    ----------
    add, var, log_likelihood, random_variance, residual_variance : ndarray, shape (m,)
        As in :class:`~hlmm_scan.kernels.estimates.Estimates`.
    at_bound : ndarray of bool, shape (m,)
        Whether h2 is 0.
    mean, log_variance : ndarray, shape (m,)
        At the mean genotype; the first less the null mean.
    spread : ndarray, shape (m,)
        Standard deviation of the genotype.
    information : ndarray, shape (m, 5, 5)
        Expected information of mean, additive effect, log-variance, its effect and h2, effects
        per standard deviation of the genotype.
    covariance : ndarray, shape (m, 5, 5)
        Of the same, from the observed information where that was asked for.
    traces : ndarray, shape (m, 3, 4)
        σ_c and N_cd (:class:`~hlmm_scan.kernels.exact.robust.ClassTraces`).
    bound : ndarray, shape (m, 3)
        Estimated largest distance of the additive effect, the variance effect and h2 from the
        exact ones, in standard errors; infinite where there is no fit.
    shift : ndarray, shape (m, r)
        What :func:`refine_sums` moves β by.
    """

    add: Float
    var: Float
    log_likelihood: Float
    random_variance: Float
    residual_variance: Float
    at_bound: NDArray[np.bool_]
    mean: Float
    log_variance: Float
    spread: Float
    information: Float
    covariance: Float
    traces: Float
    bound: Float
    shift: Float

    def take(self, rows: NDArray[np.integer]) -> SecondOrderFits:
        """Return the fits of some of the variants."""
        return SecondOrderFits(*(getattr(self, f.name)[rows] for f in fields(self)))

    def start(self, j: int) -> Float | None:
        """Return log-variance, its effect per copy, and h2 of a variant; None if it is far off."""
        if not np.isfinite(self.bound[j]).all():
            return None
        return np.array([self.log_variance[j], self.var[j], self.random_variance[j]])


def fit_second_order_sums(
    basis: SecondOrderBasis, sums: SecondOrderSums, *, observed: bool = False
) -> SecondOrderFits:
    """Fit the HLMM to second order to class sums.

    Parameters
    ----------
    basis : SecondOrderBasis
    sums : SecondOrderSums
    observed : bool, default False
        Covariance from the observed information instead of the expected one.

    Returns
    -------
    SecondOrderFits

    Notes
    -----
    Scoring from the null fit, mean effects profiled out, with exact gradients of the function of
    :mod:`~hlmm_scan.kernels.second_order.likelihood`. The observed information is had from
    differences of those.
    """
    m = len(sums.counts)
    start = np.zeros((m, 3))
    start[:, [0, 2]] = basis.start
    found = _maximise(basis, sums, start, observed=observed)
    out, gradient_bound = found.columns, found.bound
    kind = found.observed if observed else found.expected
    at_bound = out[:, 5] == 1.0
    covariance = np.full((m, 5, 5), np.nan)
    bound = np.full((m, 3), np.inf)
    for held in (False, True):
        free = 4 if held else 5
        for j in np.flatnonzero((at_bound == held) & np.isfinite(kind[:, 0, 0])):
            C = covariance_from_information(kind[j, :free, :free])
            covariance[j, :free, :free] = C
            if not np.isfinite(gradient_bound[j]).all():
                continue
            errors = 0.5 * (np.abs(C) @ gradient_bound[j, :free]) / np.sqrt(np.diag(C))
            errors = np.maximum(errors, _SHARED * errors[3])
            bound[j, : free - 2] = np.append(errors[[1, 3]], errors[4:]) + _SINGLE_PRECISION
            if held:
                bound[j, 2] = 0.0
    bound[np.isnan(bound)] = np.inf
    return SecondOrderFits(
        add=out[:, 0],
        var=out[:, 1],
        log_likelihood=_log_likelihood(sums, out),
        random_variance=out[:, 3],
        residual_variance=out[:, 4],
        at_bound=at_bound,
        mean=out[:, 9],
        log_variance=out[:, 8],
        spread=out[:, 6],
        information=found.expected,
        covariance=covariance,
        traces=found.traces,
        bound=bound,
        shift=found.shift,
    )


def likelihood_ratios(
    basis: SecondOrderBasis, sums: SecondOrderSums, fits: SecondOrderFits
) -> Float:
    """Return 2·(log L − restricted log L) without the additive effect, variance effect, and both.

    Parameters
    ----------
    basis : SecondOrderBasis
    sums : SecondOrderSums
    fits : SecondOrderFits
        To these sums.

    Returns
    -------
    ndarray, shape (m, 3)
        NaN where a restricted fit does not converge. Where everyone has a call, the null fit is
        the one without both effects; it is exact.
    """
    m = len(sums.counts)
    start = np.column_stack((fits.log_variance, fits.var, fits.random_variance))
    start[:, 2] = np.maximum(start[:, 2], LEAST_RANDOM_VARIANCE)
    equal = start * [1.0, 0.0, 1.0]
    restricted = np.full((m, 3), np.nan)
    rows = np.flatnonzero(np.isfinite(start).all(axis=1))
    incomplete = sums.counts[rows].sum(axis=1) < len(basis.residual)
    for k, (chosen, mean_effect, variance_effect) in enumerate(
        [(rows, False, True), (rows, True, False), (rows[incomplete], False, False)]
    ):
        part = sums.take(chosen)
        out = _maximise(
            basis,
            part,
            (start if variance_effect else equal)[chosen],
            mean_effect=mean_effect,
            variance_effect=variance_effect,
        ).columns
        restricted[chosen, k] = _log_likelihood(part, out)
    restricted[rows[~incomplete], 2] = basis.null.log_likelihood
    return covariances.likelihood_ratios(
        fits.log_likelihood[:, None], restricted, covariances.SECOND_ORDER_ERROR
    )


def _log_likelihood(sums: SecondOrderSums, out: Float) -> Float:
    called = sums.counts.sum(axis=1)
    return np.asarray(-0.5 * (out[:, 2] + called * np.log(2 * np.pi)))


def _maximise(
    basis: SecondOrderBasis,
    sums: SecondOrderSums,
    start: Float,
    *,
    mean_effect: bool = True,
    variance_effect: bool = True,
    observed: bool = False,
) -> Maxima:
    """Run `fit_all` with room for what it fills."""
    m, r = len(sums.counts), len(basis.beta)
    maxima = Maxima(
        columns=np.full((m, 10), np.nan),
        expected=np.full((m, 5, 5), np.nan),
        observed=np.full((m, 5, 5), np.nan),
        bound=np.full((m, 5), np.inf),
        shift=np.zeros((m, r)),
        traces=np.zeros((m, 3, 4)),
    )
    known = ClassSums(
        np.column_stack((sums.counts, len(basis.residual) - sums.counts.sum(axis=1))),
        plain(sums.residuals),
        plain(sums.squares),
        plain(sums.sums),
        plain(sums.products),
        plain(sums.series),
        plain(sums.ratio),
        plain(sums.beta),
        sums.refined,
    )
    shared = Shared(plain(basis.eigen.values), plain(basis.squares), *basis.log_range)
    fit_all(known, shared, plain(start), mean_effect, variance_effect, observed, maxima)
    return maxima
