"""The distribution of −log10 p of millions of tests, in bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from hlmm_scan.array_types import Float
from hlmm_scan.models.inference import chi2_of

_PER_UNIT = 4096  # bins of one unit of −log10 p
_LINEAR = 8  # units up to which bins are equally wide
_PER_DOUBLING = 256  # bins beyond, as −log10 p doubles
_DOUBLINGS = 20
_BINS = _LINEAR * _PER_UNIT + _DOUBLINGS * _PER_DOUBLING

_LARGEST_RANKS = 100  # all of them are among the points of a quantile plot
_RANKS_PER_DECADE = 40


class PValues:
    """−log10 p of any number of tests: the largest as they are, all others in fine bins.

    Parameters
    ----------
    exact : int, default 10,000
        How many of the largest values are kept. While there are no more, everything is exact.

    Notes
    -----
    Bins are 1/4096 wide up to 8, and 1/256 of a doubling beyond. Quantiles are interpolated within
    a bin; λ_GC is then right to about 1e-5, and never worse than 1e-3. 300 kB each.
    """

    def __init__(self, exact: int = 10_000) -> None:
        self._exact = exact
        self._counts = np.zeros(_BINS, np.int64)
        self._largest: Float = np.empty(0)
        self._cut = -np.inf
        self.n = 0

    def add(self, values: Float) -> None:
        """Add values; NaN and negative ones are left out."""
        kept = values[values >= 0]
        if not len(kept):
            return
        self.n += len(kept)
        self._counts += np.bincount(_bin_of(kept), minlength=_BINS)
        self._largest = np.append(self._largest, kept[kept > self._cut])
        if len(self._largest) > 2 * self._exact:
            self._trim()

    def _trim(self) -> None:
        if len(self._largest) > self._exact:
            split = len(self._largest) - self._exact
            self._largest = np.partition(self._largest, split)[split:]
            self._cut = float(self._largest.min())

    def at_rank(self, rank: ArrayLike) -> Float:
        """Return the values of given ranks, 1 the largest; NaN where there are not so many.

        Parameters
        ----------
        rank : array_like of float
            Between two whole ranks the value is between theirs.
        """
        ranks = np.asarray(rank, np.float64)
        below = np.floor(ranks)
        share = ranks - below
        first = self._at_whole(below.astype(np.int64))
        second = self._at_whole(np.ceil(ranks).astype(np.int64))
        return np.where(share > 0, (1 - share) * first + share * second, first)

    def _at_whole(self, ranks: NDArray[np.int64]) -> Float:
        self._trim()
        largest = np.sort(self._largest)[::-1]
        found = np.full(ranks.shape, np.nan)
        exact = (ranks >= 1) & (ranks <= len(largest))
        found[exact] = largest[ranks[exact] - 1]
        rest = (ranks > len(largest)) & (ranks <= self.n)
        if rest.any():
            # From the smallest up: the place among all, in the middle of its share of the bin.
            place = self.n - ranks[rest]
            upto = np.cumsum(self._counts)
            bins = np.searchsorted(upto, place, side="right")
            within = place - (upto[bins] - self._counts[bins]) + 0.5
            low, high = _edge(bins), _edge(bins + 1)
            found[rest] = low + (high - low) * within / self._counts[bins]
        return found

    def lambda_gc(self, df: int) -> float:
        """Return the median χ² over that of the null distribution; NaN where there is no value.

        Parameters
        ----------
        df : int
            Degrees of freedom of the test, 1 or 2.
        """
        if not self.n:
            return float("nan")
        median = float(self.at_rank((self.n + 1) / 2))
        return float(chi2_of(median, df) / chi2_of(np.log10(2.0), df))

    def ranks_to_show(self) -> NDArray[np.int64]:
        """Return ranks for a quantile plot: the 100 largest, then 40 for each tenfold."""
        if self.n <= _LARGEST_RANKS:
            return np.arange(1, self.n + 1)
        decades = np.log10(self.n / _LARGEST_RANKS)
        spread = np.geomspace(_LARGEST_RANKS, self.n, 1 + int(np.ceil(_RANKS_PER_DECADE * decades)))
        every = np.append(np.arange(1, _LARGEST_RANKS), np.rint(spread))
        return np.unique(np.minimum(every, self.n)).astype(np.int64)


def expected_neg_log10_p(ranks: NDArray[np.int64], n: int) -> tuple[Float, Float, Float]:
    """Return what the largest of n independent uniform p-values are expected to be.

    Parameters
    ----------
    ranks : ndarray of int64
        1 the smallest p.
    n : int

    Returns
    -------
    expected, lower, upper : ndarray
        −log10 of (rank − ½)/n, and of the 97.5 and the 2.5 per cent points of the Beta
        distribution that the rank-th smallest of n has. Neighbouring tests are not independent, so
        real quantiles stray farther together.
    """
    expected = -np.log10((ranks - 0.5) / n)
    lower, upper = (-np.log10(beta.ppf(q, ranks, n - ranks + 1)) for q in (0.975, 0.025))
    return expected, np.asarray(lower), np.asarray(upper)


def _bin_of(values: Float) -> NDArray[np.int64]:
    beyond = _LINEAR * _PER_UNIT + np.log2(np.maximum(values, _LINEAR) / _LINEAR) * _PER_DOUBLING
    place = np.where(values < _LINEAR, values * _PER_UNIT, beyond)
    return np.minimum(place, _BINS - 1).astype(np.int64)


def _edge(bins: NDArray[np.int64]) -> Float:
    doublings = np.maximum(bins - _LINEAR * _PER_UNIT, 0) / _PER_DOUBLING
    return np.where(bins < _LINEAR * _PER_UNIT, bins / _PER_UNIT, _LINEAR * 2.0**doublings)
