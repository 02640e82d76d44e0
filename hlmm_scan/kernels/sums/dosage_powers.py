"""Power sums of dosages: what a fit takes of genotypes that have no few values.

A smooth function of the genotype is its polynomial through some nodes, to an error that is nothing
at the nodes. So Σ q·f(g) is a sum over the nodes, Σ_c f(x_c)·S_c with S_c = Σ q·L_c(g), L_c the
Lagrange polynomials: soft class sums, which power sums of g make up, and of which the class sums of
hard calls are a case (math.md §4 ``joint``, dosages). With the nodes 0, 1, 2 whole copies are
exact, and powers up to the second are for any dosage; columns that effects hang on take
:data:`NODES`.

Powers are those of a variant's copies less their mean: a rare allele has small ones in nearly
everybody, so that sums in single precision (:mod:`~hlmm_scan.kernels.sums.products`) are as good
for it. A variant's sums are the same bit for bit whatever block it stands in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Float32, Int
from hlmm_scan.genotypes.blocks import Dosages
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.sums.dosage_codes import in_order, read_codes

Places = NDArray[np.intp]

TILE = 128
"""Variants abreast: the columns, which are many, are read once for all of them."""

_STRIP = 512  # people whose copies stay in cache

NODES = np.arange(7) / 3
"""Copies at which functions are taken for own columns: whole ones are among them."""

POWERS = len(NODES) - 1
"""Of own columns."""

_OWN = 4
"""Own columns: of three all powers are summed, of the last the first two, in double precision."""

_LOW, _HIGH = 2 * _OWN, 3 * (POWERS - 2)

_ANY_ORDER = {"reassoc", "nsz", "contract"}
"""What vectors may do to sums over the people of a strip: the same for each variant."""


@dataclass(frozen=True, slots=True, eq=False)
class PowerSums:
    """Sums over the people of m variants, h their copies less `centre`.

    Attributes
    ----------
    centre : ndarray, shape (m,)
        Mean copies.
    called, first : ndarray, shape (m, k)
        Σq and Σq·h of the columns.
    own : ndarray, shape (m, POWERS + 1, 4)
        Σq·hᵖ of the own columns; of the last one, 0 from p = 3 on.
    """

    centre: Float
    called: Float
    first: Float
    own: Float


@dataclass(frozen=True, slots=True, eq=False)
class PowerSumsPlan:
    """All that the sums need to know of people and columns; the same for every variant.

    Attributes
    ----------
    samples : ndarray of int64, shape (n,)
    columns : ndarray of float32, shape (n, k or a few more)
        Filled up with zeros to whole vectors of a product.
    own : ndarray, shape (4, n)
        Columns that are summed with all powers.
    totals, own_totals : ndarray, shapes (k,) and (4,)
        Sums over everybody.
    """

    samples: Int
    columns: Float32
    own: Float
    totals: Float
    own_totals: Float

    @classmethod
    def of(cls, samples: Int, columns: Float, own: Places) -> PowerSumsPlan:
        """Prepare sums over any number of variants.

        Parameters
        ----------
        samples : ndarray of int64, shape (n,)
            People analysed.
        columns : ndarray, shape (n, k)
        own : ndarray of intp, shape (4,)
            Which are summed with all powers.
        """
        totals = columns.sum(axis=0)
        n, k = columns.shape
        single = np.zeros((n, -(-k // products.LANES) * products.LANES), np.float32)
        single[:, :k] = columns
        return cls(samples, single, np.ascontiguousarray(columns[:, own].T), totals, totals[own])

    def sums(self, dosages: Dosages, centre: Float, called: Int) -> PowerSums:
        """Pass over the dosages of some variants.

        Parameters
        ----------
        dosages : Dosages
            Of everybody in the dataset; m variants.
        centre : ndarray, shape (m,)
            Mean copies of those analysed.
        called : ndarray of int64, shape (m,)
            People analysed who have a dosage.
        """
        m, k = len(dosages), len(self.totals)
        low, high = np.zeros((m, _LOW)), np.zeros((m, _HIGH))
        first, everybody = np.zeros((m, self.columns.shape[1])), np.tile(self.totals, (m, 1))
        for rows, people, h in self._strips(dosages, centre):
            size = people.stop - people.start
            _add_powers(h, size, self.own, people.start, low[rows], high[rows])
            products.add_product(h[:, :size], self.columns[people], first[rows])
        own = np.zeros((m, POWERS + 1, _OWN))
        own[:, 0] = self.own_totals
        own[:, 1:3] = low.reshape(m, 2, _OWN)
        own[:, 3:, :3] = high.reshape(m, POWERS - 2, 3)
        for j in np.flatnonzero(called < len(self.samples)).tolist():
            absent = np.flatnonzero(dosages.codes[j, self.samples] > dosages.steps)
            everybody[j] -= self.columns[absent, :k].sum(axis=0, dtype=np.float64)
            own[j, 0] -= self.own[:, absent].sum(axis=1)
        return PowerSums(centre, everybody, first[:, :k], own)

    def squares(self, dosages: Dosages, centre: Float) -> Float:
        """Return Σq·h² of the columns, shape (m, k): another pass."""
        total = np.zeros((len(dosages), self.columns.shape[1]))
        for rows, people, h in self._strips(dosages, centre):
            square = h[:, : people.stop - people.start] ** 2
            products.add_product(square, self.columns[people], total[rows])
        return total[:, : len(self.totals)]

    def _strips(self, dosages: Dosages, centre: Float) -> Iterator[tuple[slice, slice, Float32]]:
        """Yield copies less their mean of a tile of variants, a strip of people at a time.

        The array has a whole strip always: whether its rows are contiguous decides how they are
        added up.
        """
        m, n, steps = len(dosages), len(self.samples), dosages.steps
        ordered = in_order(self.samples)
        for row in range(0, m, TILE):
            rows = slice(row, min(row + TILE, m))
            h, codes = np.empty((rows.stop - row, _STRIP), np.float32), dosages.codes[rows]
            for start in range(0, n, _STRIP):
                people = slice(start, min(start + _STRIP, n))
                size, middle = people.stop - start, centre[rows]
                _centred(codes, self.samples, ordered, start, size, steps, middle, h)
                yield rows, people, h


@njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _low_powers(
    h: Any, one: Any, two: Any, three: Any, four: Any, sums: Any
) -> None:  # pragma: no cover
    """Add Σq·h of the four columns and Σq·h²."""
    p1 = p2 = p3 = p4 = q1 = q2 = q3 = q4 = 0.0
    for i in range(len(h)):
        x = np.float64(h[i])
        square = x * x
        p1 += one[i] * x
        p2 += two[i] * x
        p3 += three[i] * x
        p4 += four[i] * x
        q1 += one[i] * square
        q2 += two[i] * square
        q3 += three[i] * square
        q4 += four[i] * square
    for k, value in enumerate((p1, p2, p3, p4, q1, q2, q3, q4)):
        sums[k] += value


@njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
def _high_powers(h: Any, one: Any, two: Any, three: Any, sums: Any) -> None:  # pragma: no cover
    """Add Σq·hᵖ of three columns, p from 3 to 6."""
    p1 = p2 = p3 = q1 = q2 = q3 = r1 = r2 = r3 = s1 = s2 = s3 = 0.0
    for i in range(len(h)):
        x = np.float64(h[i])
        square = x * x
        cube = square * x
        a, b, c = one[i] * cube, two[i] * cube, three[i] * cube
        p1 += a
        p2 += b
        p3 += c
        r1 += a * square
        r2 += b * square
        r3 += c * square
        a, b, c = a * x, b * x, c * x
        q1 += a
        q2 += b
        q3 += c
        s1 += a * square
        s2 += b * square
        s3 += c * square
    for k, value in enumerate((p1, p2, p3, q1, q2, q3, r1, r2, r3, s1, s2, s3)):
        sums[k] += value


@njit(nogil=True, cache=True)
def _decode(codes: Any, steps: int, unit: float, mean: float, h: Any) -> None:  # pragma: no cover
    for i in range(len(codes)):
        code = codes[i]
        h[i] = np.float32(code * unit - mean) if code <= steps else np.float32(0.0)


@njit(nogil=True, cache=True)
def _centred(
    codes: Any,
    samples: Any,
    ordered: bool,
    start: int,
    size: int,
    steps: int,
    centre: Any,
    h: Any,
) -> None:  # pragma: no cover
    """Fill h, (variants, people), with copies less their mean, 0 without any."""
    unit, read = 2.0 / steps, np.empty(size, np.uint16)
    for j in range(len(codes)):
        mean, here = centre[j], h[j]
        read_codes(codes[j], samples, ordered, start, size, read)
        _decode(read, steps, unit, mean, here)


@njit(nogil=True, cache=True)
def _add_powers(
    h: Any, size: int, own: Any, start: int, low: Any, high: Any
) -> None:  # pragma: no cover
    """Add up the own columns of a strip of people."""
    stop = start + size
    one, two, three, four = (
        own[0][start:stop],
        own[1][start:stop],
        own[2][start:stop],
        own[3][start:stop],
    )
    for j in range(len(h)):
        here = h[j][:size]
        _low_powers(here, one, two, three, four, low[j])
        _high_powers(here, one, two, three, high[j])


def soft_sums(called: Float, first: Float, second: Float, centre: Float) -> tuple[Float, Float]:
    """Return the sums within the soft classes of one copy and of two, by the nodes 0, 1 and 2.

    Parameters
    ----------
    called, first, second : ndarray, shape (m, k)
        Σq, Σq·h and Σq·h².
    centre : ndarray, shape (m,)
    """
    shift = (centre - 1)[:, None]
    u = first + shift * called
    square = second + 2 * shift * first + shift**2 * called
    return called - square, 0.5 * (square + u)


def node_sums(powers: Float, centre: Float) -> Float:
    """Return sums within the soft classes of :data:`NODES`.

    Parameters
    ----------
    powers : ndarray, shape (m, POWERS + 1, 4)
        Σq·hᵖ.
    centre : ndarray, shape (m,)

    Returns
    -------
    ndarray, shape (m, nodes, 4)
    """
    # Element by element: what is vectorised otherwise may round by a variant's place.
    shift = (centre - 1)[:, None]
    of_g = []  # powers of g − 1, by the binomial theorem
    for p in range(POWERS + 1):
        total, factor = powers[:, p].copy(), np.ones_like(shift)
        for q in range(p - 1, -1, -1):
            factor = factor * shift
            total += math.comb(p, q) * factor * powers[:, q]
        of_g.append(total)
    out = np.zeros_like(powers)
    for c, coefficients in enumerate(_LAGRANGE.tolist()):
        for coefficient, power in zip(coefficients, of_g, strict=True):
            out[:, c] += coefficient * power
    return out


_LAGRANGE = np.linalg.inv(np.vander(NODES - 1, increasing=True).T)
"""Coefficients of the Lagrange polynomials in powers of g − 1, shape (nodes, powers + 1)."""


def work_bytes(n: int, columns: int) -> int:
    """Bound the memory of a plan and of its sums, but not of what is summed and of results.

    Parameters
    ----------
    n, columns : int
        People and columns.
    """
    padded = -(-columns // products.LANES) * products.LANES
    return 4 * n * padded + 8 * n * _OWN + 8 * TILE * _STRIP
