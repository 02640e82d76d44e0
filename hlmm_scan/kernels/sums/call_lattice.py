"""Standardised columns of hard calls as the bits that they come from.

A column of calls takes the values origin + (0, 1, 2)·step, and 0 for calls that are missing and
were imputed by the mean. Its products with other such columns and with genotype classes are
therefore counts of people, which :mod:`~hlmm_scan.kernels.sums.bit_planes` makes exactly, and
several times faster than single precision multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.sums.bit_planes import BITS, Words, add_shared, planes_of, words_of

Counts = NDArray[np.int32]

_ON_LATTICE = 1e-3  # of a column's range; single precision alone is 1e-7 off
_IMPUTED = 1e-9  # of a column's range, which a mean of its values is off 0 by rounding
_PHENOTYPE_BITS = 32


@dataclass(frozen=True)
class CallLattice:
    """Where the values of k columns lie, and every person's.

    Attributes
    ----------
    origin, step : ndarray, shape (k,)
        columns = origin + step·codes with codes 0, 1 and 2. The origin is the commoner allele's
        end, where most codes are 0; a step may be negative.
    lacking : ndarray of intp
        The columns in which calls are missing; there columns = 0 = origin − origin.
    rows : ndarray of uint64, shape (n, ⌈(2k + |lacking|)/64⌉)
        Bits of each person: whether the code is 1 or 2, k of them; whether it is 2, k of them;
        and whether the call is missing, for `lacking`.
    """

    origin: Float
    step: Float
    lacking: NDArray[np.intp]
    rows: Words

    @classmethod
    def of(cls, columns: NDArray[np.floating]) -> CallLattice | None:
        """Find the lattice of columns of mean 0, shape (n, k); None where some have none."""
        columns = _read_only(columns)
        low, high = columns.min(axis=0).astype(np.float64), columns.max(axis=0).astype(np.float64)
        origin = np.where(-low <= high, low, high)
        span = high - low
        step, imputed = np.full(len(origin), np.inf), np.zeros(len(origin), np.bool_)
        _search(columns, origin, _ON_LATTICE * span, _IMPUTED * span, step, imputed)
        if not np.isfinite(step).all():
            return None
        step = np.where(origin == low, step, -step)
        lacking = np.flatnonzero(imputed)
        rows = np.zeros((len(columns), words_of(2 * len(origin) + len(lacking))), np.uint64)
        place = np.zeros(len(origin), np.intp)
        place[lacking] = 2 * len(origin) + np.arange(len(lacking))
        if not _write(columns, origin, step, _ON_LATTICE * span, _IMPUTED * span, place, rows):
            return None
        return cls(origin, step, lacking, rows)

    def planes(self, people: NDArray[np.intp] | slice) -> Words:
        """Return the bits of some people as planes, for :meth:`sums`."""
        if isinstance(people, slice):
            people = np.arange(people.start, people.stop)
        return planes_of(self.rows, people)

    def none_shared(self, c: int) -> Counts:
        """Return counts of nobody for c classes, to which `add_shared` adds :meth:`planes`'s."""
        return np.zeros((BITS * self.rows.shape[1], c), np.int32)

    def folded(self, shared: NDArray[Any]) -> NDArray[Any]:
        """Add up the counts of codes from 1 and from 2 on; those of missing calls follow.

        Parameters
        ----------
        shared : ndarray, shape (64·words, c)
            How many people have each of the lattice's planes and belong to each class.

        Returns
        -------
        ndarray, shape (k + |lacking|, c)
        """
        k = len(self.origin)
        absent = shared[2 * k : 2 * k + len(self.lacking)]
        return np.concatenate([shared[:k] + shared[k : 2 * k], absent])

    def sums(self, folded: NDArray[Any], classes: Float) -> Float:
        """Return the sums of the columns over classes of people.

        Parameters
        ----------
        folded : ndarray, shape (k + |lacking|, c)
            What :meth:`folded` returns.
        classes : ndarray, shape (c,)
            People of each class.

        Returns
        -------
        ndarray, shape (k, c)
        """
        k = len(self.origin)
        total = self.step[:, None] * folded[:k]
        total[self.lacking] -= self.origin[self.lacking, None] * folded[k:]
        return np.asarray(total + self.origin[:, None] * classes)

    def gathered(self, people: NDArray[np.intp], y: Float) -> tuple[Float, Float]:
        """Return the Gram matrix of some people's rows, and their sums weighted by 1 and y.

        Parameters
        ----------
        people : ndarray of intp, shape (m,)
        y : ndarray, shape (m,)
            Of these people.

        Returns
        -------
        gram : ndarray, shape (k, k)
        linear : ndarray, shape (k, 2)

        Notes
        -----
        With C the codes, M the missing calls, o the origin, s the step and x = sC − oM,
        Σ(o + x)(o + x)ᵀ = ooᵀm + o(Σx)ᵀ + (Σx)oᵀ + Σxxᵀ. y is cut into 2³² steps of its range,
        whose bits are planes like any other, so that sums weighted by it are exact as well.
        """
        k, lacking, m = len(self.origin), self.lacking, float(len(people))
        o, s = self.origin, self.step
        planes = self.planes(people)
        counts = np.zeros((len(planes), len(planes)), np.int32)
        add_shared(planes, planes, counts)
        gram = np.empty((k, k))
        _fold(counts, o, s, lacking, gram)
        used = 2 * k + len(lacking)
        ones = np.diag(counts)[:used].astype(np.float64)
        low, unit, whole = _in_steps(y)
        weighted = _times(planes, whole)[:used]
        folded = self.folded(np.column_stack((ones, weighted)))
        total = self.sums(folded, np.array([m, 0.0]))
        moved = total[:, 0] - o * m
        gram += np.outer(o, moved) + np.outer(moved, o) + m * np.outer(o, o)
        of_y = low * moved + unit * total[:, 1] + o * (low * m + unit * float(whole.sum()))
        return gram, np.column_stack((total[:, 0], of_y))


def _read_only(columns: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a view like that of mapped files: numba compiles anew for any other kind."""
    view = np.asarray(columns).view()
    view.flags.writeable = False
    return view


@njit(nogil=True, cache=True)
def _fold(
    counts: Counts, origin: Float, step: Float, lacking: NDArray[np.intp], gram: Float
) -> None:  # pragma: no cover
    """Put Σxxᵀ together from the counts of every two planes, of which the lower half is there."""
    k = len(step)
    for i in range(k):
        for j in range(i + 1):
            both = counts[i, j] + counts[k + i, j] + counts[k + j, i] + counts[k + i, k + j]
            gram[i, j] = gram[j, i] = step[i] * step[j] * both
    for a in range(len(lacking)):
        i, row = lacking[a], counts[2 * k + a]
        for j in range(k):
            mixed = origin[i] * step[j] * (row[j] + row[k + j])
            gram[i, j] -= mixed
            gram[j, i] -= mixed
        for b in range(a + 1):
            j = lacking[b]
            neither = origin[i] * origin[j] * row[2 * k + b]
            gram[i, j] += neither
            if i != j:
                gram[j, i] += neither


def _in_steps(y: Float) -> tuple[float, float, Words]:
    """Return low, unit and whole numbers below 2³² such that y = low + unit·those."""
    low, high = float(y.min(initial=np.inf)), float(y.max(initial=-np.inf))
    unit = (high - low) / (2.0**_PHENOTYPE_BITS - 1) or 1.0
    return low, unit, np.rint((y - low) / unit).astype(np.uint64)


def _times(planes: Words, whole: Words) -> Float:
    """Return planes @ whole, where the numbers are one for each person of the planes."""
    bits = planes_of(whole[:, None], np.arange(len(whole)))[:_PHENOTYPE_BITS]
    counts = np.zeros((len(planes), len(bits)), np.int32)
    add_shared(planes, bits, counts)
    return np.asarray(counts @ 2.0 ** np.arange(_PHENOTYPE_BITS))


@njit(nogil=True, cache=True)
def _search(
    columns: NDArray[np.floating],
    origin: Float,
    near: Float,
    imputed_within: Float,
    step: Float,
    imputed: NDArray[np.bool_],
) -> None:  # pragma: no cover
    """Find how far from the origin the nearest other value is, and which columns have zeros."""
    for i in range(len(columns)):
        for j in range(len(origin)):
            value = np.float64(columns[i, j])
            if abs(value) <= imputed_within[j]:
                imputed[j] = True
                continue
            away = abs(value - origin[j])
            if away > near[j] and away < step[j]:
                step[j] = away


@njit(nogil=True, cache=True)
def _write(
    columns: NDArray[np.floating],
    origin: Float,
    step: Float,
    near: Float,
    imputed_within: Float,
    place: NDArray[np.intp],
    rows: Words,
) -> bool:  # pragma: no cover
    """Set the bits of every person; False where a value is not on the lattice."""
    k, one = len(origin), np.uint64(1)
    for i in range(len(columns)):
        row = rows[i]
        for j in range(k):
            value = np.float64(columns[i, j])
            if abs(value) <= imputed_within[j]:
                row[place[j] >> 6] |= one << np.uint64(place[j] & 63)
                continue
            code = np.rint((value - origin[j]) / step[j])
            if code > 2.0 or abs(value - origin[j] - code * step[j]) > near[j]:
                return False
            if code >= 1.0:
                row[j >> 6] |= one << np.uint64(j & 63)
            if code == 2.0:
                row[(k + j) >> 6] |= one << np.uint64((k + j) & 63)
    return True
