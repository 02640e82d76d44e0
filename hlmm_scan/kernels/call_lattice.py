"""Standardised columns of hard calls as the whole numbers they come from.

A column of calls that nobody lacks takes the values (0, 1, 2)·step + origin. Sums of products of
whole numbers over a strip of people are whole numbers below 2²⁴, which single precision holds
exactly in whatever order they are added: a Gram matrix at twice the speed of double precision,
without its rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.linalg.blas import ssyrk

Float = NDArray[np.float64]

STRIP = 2048
"""People gathered at a time: 4·2048 bounds a product, 2·2¹¹·2048 a sum weighted by a limb of y."""

_LIMB_BITS = 11
_LIMBS = 3
_ON_LATTICE = 1e-3  # of a step; single precision alone is 1e-6 off


@njit(nogil=True, cache=True)
def _whole(rows: Any, origin: Any, slope: Any, codes: Any) -> None:  # pragma: no cover
    """Put the codes of rows into an array of float32."""
    for i in range(len(rows)):
        for j in range(len(origin)):
            codes[i, j] = np.rint((rows[i, j] - origin[j]) * slope[j])


@dataclass(frozen=True)
class CallLattice:
    """Where the columns' values lie.

    Attributes
    ----------
    origin, step : ndarray, shape (k,)
        columns = origin + step·codes with codes 0, 1 and 2. The origin is the commoner allele's
        end, where most codes are 0; a step may be negative.
    """

    origin: Float
    step: Float

    @classmethod
    def of(cls, columns: NDArray[np.floating]) -> CallLattice | None:
        """Find the lattice of columns of mean 0, shape (n, k); None where some have none.

        Columns in which missing calls were imputed have a fourth value and no lattice.
        """
        low, high = columns.min(axis=0), columns.max(axis=0)
        origin = np.where(-low <= high, low, high).astype(np.float64)
        # The value next to the origin is the nearest that is not it.
        step = np.full(columns.shape[1], np.inf)
        for strip in _strips(len(columns)):
            away = np.abs(columns[strip] - origin)
            away[away <= _ON_LATTICE * (high - low)] = np.inf
            np.minimum(step, away.min(axis=0), out=step)
        if not np.isfinite(step).all():
            return None
        lattice = cls(origin, np.where(origin == low, step, -step))
        for strip in _strips(len(columns)):
            codes = (columns[strip] - lattice.origin) / lattice.step
            whole = np.rint(codes)
            if whole.max() > 2 or np.abs(codes - whole).max() > _ON_LATTICE:
                return None
        return lattice

    def gathered(
        self, columns: NDArray[np.floating], people: NDArray[np.intp], y: Float
    ) -> tuple[Float, Float]:
        """Return the Gram matrix of some people's rows, and their sums weighted by 1 and y.

        Parameters
        ----------
        columns : ndarray of float32 or float64, shape (n, k)
        people : ndarray of intp, shape (m,)
        y : ndarray, shape (m,)
            Of these people.

        Returns
        -------
        gram : ndarray, shape (k, k)
        linear : ndarray, shape (k, 2)

        Notes
        -----
        With C the codes, o the origin and s the step, Σ(o + sC)(o + sC)ᵀ = ooᵀm + o(sΣC)ᵀ +
        (sΣC)oᵀ + (s sᵀ)∘ΣCCᵀ. y is cut into three limbs of 11 bits, 2⁻³² of its largest value,
        so that sums weighted by it are exact as well.
        """
        k = columns.shape[1]
        unit, limbs = _limbs(y)
        weights = np.column_stack((np.ones(len(y), np.float32), limbs))
        lower, sums = np.zeros((k, k), order="F"), np.zeros((k, 1 + _LIMBS))
        size = min(STRIP, len(people))
        buffer, codes = np.empty((size, k), columns.dtype), np.empty((size, k), np.float32)
        slope = 1 / self.step
        for strip in _strips(len(people)):
            chosen = people[strip]
            rows, whole = buffer[: len(chosen)], codes[: len(chosen)]
            np.take(columns, chosen, axis=0, out=rows, mode="clip")
            _whole(rows, self.origin, slope, whole)
            lower += ssyrk(1.0, whole.T, lower=1)
            sums += whole.T @ weights[strip]
        products = lower + lower.T
        products.flat[:: k + 1] *= 0.5
        o, s = self.origin[:, None], self.step[:, None]
        total = s * sums[:, :1]
        gram = products * (s * s.T) + o * total.T + total * o.T + o * o.T * len(people)
        weighted = s * (sums[:, 1:] @ unit)[:, None] + o * (limbs.astype(np.float64) @ unit).sum()
        return gram, np.column_stack((total + o * len(people), weighted))


def _strips(n: int) -> Iterator[slice]:
    return (slice(start, start + STRIP) for start in range(0, n, STRIP))


def _limbs(y: Float) -> tuple[Float, NDArray[np.float32]]:
    """Return units (3,) and whole numbers (m, 3) up to 2¹¹, with y = limbs·units to 2⁻³²."""
    peak = float(np.abs(y).max(initial=0.0)) or 1.0
    first = 2.0 ** (np.frexp(peak)[1] - _LIMB_BITS)
    units = first * 2.0 ** (-_LIMB_BITS * np.arange(_LIMBS))
    limbs = np.empty((len(y), _LIMBS), np.float32)
    rest = y
    for k, unit in enumerate(units):
        whole = np.trunc(rest / unit) if k < _LIMBS - 1 else np.rint(rest / unit)
        limbs[:, k] = whole
        rest = rest - whole * unit
    return units, limbs
