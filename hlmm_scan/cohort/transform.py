"""Transforms of a phenotype: logarithm, outliers, rank-inverse-normal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from hlmm_scan.array_types import Float
from hlmm_scan.cohort.design import centre_and_scale
from hlmm_scan.errors import InputError
from hlmm_scan.schema import TRAIT_UNIT

RankOf = Literal["residuals", "phenotype"]

_ROUNDING = 1e-12
"""Standard deviations between neighbours up to which they differ by rounding only."""


@dataclass(frozen=True)
class Transform:
    """What is done to a phenotype once its people are selected, in this order.

    Attributes
    ----------
    log : bool, default False
        Take the natural logarithm.
    outlier_sd : float, optional
        Leave people out who are further than this many standard deviations (divisor n) from the
        mean, both over the people selected. Once: what is left is not looked at again.
    rank_normal : {"residuals", "phenotype"}, optional
        Replace the residuals on the mean covariates, or the phenotype as it is, by the normal
        quantiles of their ranks. Covariates stay in the model either way.
    """

    log: bool = False
    outlier_sd: float | None = None
    rank_normal: RankOf | None = None

    @property
    def unit(self) -> str:
        """Unit of the phenotype as analysed."""
        if self.rank_normal is not None:
            return "rank-normal units"
        return f"log {TRAIT_UNIT}" if self.log else TRAIT_UNIT

    @property
    def scale(self) -> str:
        """The same in a sentence's words."""
        unit = "units of the phenotype table"
        if self.rank_normal is None:
            return f"natural logarithm of {unit}" if self.log else unit
        ranked = "the phenotype's residuals on the mean covariates"
        if self.rank_normal == "phenotype":
            ranked = "the phenotype"
        logged = ", after the logarithm" if self.log else ""
        return f"standard normal quantiles of the ranks of {ranked}{logged}"


def logarithm(y: Float, phenotype: str) -> Float:
    """Return the natural logarithm.

    Raises
    ------
    InputError
        If a value is not positive.
    """
    bad = y <= 0
    if bad.any():
        raise InputError(
            f"phenotype '{phenotype}' has no logarithm: {int(bad.sum()):,} of the {len(y):,} "
            f"people selected have a value that is not positive ({y[np.argmax(bad)]:g}); set "
            "these to missing, or shift the phenotype"
        )
    return np.log(y)


def within(y: Float, deviations: float) -> NDArray[np.bool_]:
    """Return who is no further than that many standard deviations from the mean.

    Parameters
    ----------
    y : ndarray of float64, shape (n,)
    deviations : float

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    (centre,), (scale,) = centre_and_scale(y[:, None])
    if scale == 0:
        return np.ones(len(y), np.bool_)
    near: NDArray[np.bool_] = np.abs((y - centre) / scale) <= deviations
    return near


def normal_quantiles_of_ranks(y: Float) -> Float:
    """Return Φ⁻¹((r − 3/8) / (n + 1/4)), r the ranks from 1 to n (Blom).

    Parameters
    ----------
    y : ndarray of float64, shape (n,), n ≥ 1
        Values that differ by rounding only are ties, and get the mean of their ranks.

    Returns
    -------
    ndarray of float64, shape (n,)
        The same for any increasing linear function of `y`.

    References
    ----------
    .. [1] G. Blom, Statistical Estimates and Transformed Beta-Variables, 1958.
    """
    n = len(y)
    scale = centre_and_scale(y[:, None])[1][0] or 1.0
    order = np.argsort(y, kind="stable")
    new = np.diff(y[order]) / scale > _ROUNDING
    group = np.concatenate([[0], np.cumsum(new)])
    sizes = np.bincount(group)
    last = np.cumsum(sizes)
    ranks = np.empty(n)
    ranks[order] = (last - 0.5 * (sizes - 1))[group]
    quantiles: Float = ndtri((ranks - 0.375) / (n + 0.25))
    return quantiles


def residuals(y: Float, X: Float) -> Float:
    """Return what least squares leave of the standardised phenotype.

    Parameters
    ----------
    y : ndarray of float64, shape (n,)
        Not constant.
    X : ndarray of float64, shape (n, c)
        A standardised design with an intercept.

    Returns
    -------
    ndarray of float64, shape (n,)
        Residuals of (y − mean)/SD.
    """
    centres, scales = centre_and_scale(y[:, None])
    rest: Float = (y - centres[0]) / scales[0]
    gram = X.T @ X
    for _ in range(2):  # the second step takes out the rounding of the first
        rest = rest - X @ np.linalg.lstsq(gram, X.T @ rest, rcond=None)[0]
    return rest
