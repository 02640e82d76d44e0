"""A few hundred weighted bins of the null residuals, which saddlepoints sum over instead of people.

A person enters the tests by two residuals: s, of the mean (r/D for the HLM, Σ⁻¹r for the HLMM), and
q, of the variance (r²/D − 1; k/D − 1). People whose residuals are alike are one bin of their
means. Bins are 0.05 standard deviations wide, further out one fiftieth of the distance from the
centre, and hold one person where people are few: −log10 p changes by less than 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float

_WIDTH = 0.05
_RELATIVE_WIDTH = 0.02
_COARSER = 4.0
"""How much wider bins are in q, and √ of it in s, where q is not a function of s."""
_EXACT = 200
"""Up to so many different residuals are bins of their own."""
_LINEAR = 1e-6
"""Share of q's variance not explained by s below which the trait has two values."""


@dataclass(frozen=True, eq=False)
class ResidualBins:
    """Residuals of a null model in bins, sorted by s.

    Attributes
    ----------
    people, s, q : ndarray, shape (b,)
        People in each bin, and the means of their residuals. Over people, s has mean 0 and mean
        square 1, and q has mean 0.
    """

    people: Float
    s: Float
    q: Float

    @classmethod
    def of(cls, s: Float, q: Float) -> ResidualBins:
        """Bin the residuals of n people.

        Parameters
        ----------
        s, q : ndarray, shape (n,)
            In any units.
        """
        s = (s - s.mean()) / s.std()
        q = q - q.mean()
        function = np.ptp(q - (s * s - 1)) < 1e-6 * max(1.0, float(np.abs(q).max()))
        values, place = np.unique(np.round(s, 9), return_inverse=True)
        if not (function and len(values) <= _EXACT):
            place = _cells(s) if function else _cells(s, q)
            _, place = np.unique(place, return_inverse=True)
        place = place.reshape(-1)
        people = np.bincount(place).astype(np.float64)
        mean_s, mean_q = (np.bincount(place, x) / people for x in (s, q))
        order = np.lexsort((mean_q, mean_s))
        people, mean_s, mean_q = people[order], mean_s[order], mean_q[order]
        # What is lost within bins is put back: the variances stay those of the people.
        n = len(s)
        mean_s = (mean_s - people @ mean_s / n) / np.sqrt(people @ mean_s**2 / n)
        mean_q = mean_q - people @ mean_q / n
        left = people @ mean_q**2
        return cls(people, mean_s, mean_q * np.sqrt(q @ q / left) if left > 0 else mean_q)

    @cached_property
    def table(self) -> Float:
        """Rows people, s, q and people × (s, q, s², sq, q²), shape (8, b)."""
        f, s, q = self.people, self.s, self.q
        return np.ascontiguousarray([f, s, q, f * s, f * q, f * s * s, f * s * q, f * q * q])

    @cached_property
    def moments(self) -> Float:
        """What the normal forms take, shape (9,).

        Skewness and excess kurtosis of s; standard deviation of q, its correlation with s, third
        cumulant of the variance's score with the additive effect taken out and excess kurtosis of
        q; third cumulants of the part q⊥ of q that is uncorrelated with s: E q⊥s², E q⊥²s, E q⊥³.
        The last four are NaN where there is no such part, as in traits of two values.
        """
        f, s, q = self.people / self.people.sum(), self.s, self.q
        variance, both = f @ q**2, f @ (s * q)
        third = f @ s**3
        kurtosis = f @ s**4 - 3
        unknown = variance - both**2 < _LINEAR * variance
        if not variance > 0 or unknown:
            return np.array([third, kurtosis, np.sqrt(variance), *[np.nan] * 6])
        apart = (q - both * s) / np.sqrt(variance - both**2)
        return np.array(
            [
                third,
                kurtosis,
                np.sqrt(variance),
                both / np.sqrt(variance),
                (f @ q**3 - 6 * both**2) / variance**1.5,
                f @ q**4 / variance**2 - 3,
                f @ (apart * s**2),
                f @ (apart**2 * s),
                f @ apart**3,
            ]
        )


def _steps(x: Float, scale: float) -> NDArray[np.int64]:
    """Number the bins of one coordinate: steps of a constant width, then of a relative one."""
    width = _WIDTH * scale
    turn = width / _RELATIVE_WIDTH
    far = turn / width + np.log(np.maximum(np.abs(x), turn) / turn) / _RELATIVE_WIDTH
    steps = np.floor(np.where(np.abs(x) < turn, np.abs(x) / width, far))
    return np.asarray(np.where(x < 0, -1 - steps, steps), np.int64)


def _cells(s: Float, q: Float | None = None) -> NDArray[np.int64]:
    if q is None:
        return _steps(s, 1.0)
    across = _steps(np.sqrt(np.maximum(q - q.min(), 0.0)), _COARSER)
    return np.asarray(_steps(s, np.sqrt(_COARSER)) * (across.max() + 1) + across, np.int64)
