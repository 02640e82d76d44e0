"""Power sums of dosages: what a fit takes of genotypes that have no few values.

A smooth function of the genotype is its polynomial through some nodes, to an error that is nothing
at the nodes. So Σ q·f(g) is a sum over the nodes, Σ_c f(x_c)·S_c with S_c = Σ q·L_c(g), L_c the
Lagrange polynomials: soft class sums, which power sums of g make up, and of which the class sums of
hard calls are a case (math.md §4 ``joint``, dosages). With the nodes 0, 1, 2 whole copies are
exact, and powers up to the second are for any dosage; columns that effects hang on take
:data:`NODES`.

Powers are those of a variant's copies less their mean, or less the whole number of copies next to
it: a rare allele has small ones in nearly everybody, so that sums in single precision
(:mod:`~hlmm_scan.kernels.sums.products`) are as good for it, and none cancel. A variant's sums are
the same bit for bit whatever block it stands in.
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
from hlmm_scan.genotypes.blocks import MISSING_CODE, Dosages
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.sums.dosage_codes import in_order, read_codes
from hlmm_scan.kernels.sums.power_lanes import LANES, PLAIN, POWERS, add_four, add_three, vectors

Places = NDArray[np.intp]

TILE = 128
"""Variants abreast: the columns, which are many, are read once for all of them."""

_STRIP = 512  # people whose copies stay in cache

NODES = np.arange(POWERS + 1) / 3
"""Copies at which functions are taken for own columns: whole ones are among them."""

_OWN_STRIP = 2048  # people: a strip's sums are put away once, its columns are near


@dataclass(frozen=True, slots=True, eq=False)
class PowerSums:
    """Sums over the people of m variants.

    Attributes
    ----------
    called, first : ndarray, shape (m, k)
        Σq and Σq·h of the columns, h copies less their mean.
    own : ndarray, shape (m, POWERS + 1, o)
        Σq·uᵖ of the own columns, u copies less `middle`.
    plain : ndarray, shape (m, 2)
        Σu³ and Σu⁴.
    middle : ndarray, shape (m,)
        The whole number of copies next to the mean.
    """

    called: Float
    first: Float
    own: Float
    plain: Float
    middle: Float

    def own_about(self, centre: Float) -> tuple[Float, Float]:
        """Return Σq·h and Σq·h² of the own columns, h copies less `centre`; (m, o) each."""
        shift = (self.middle - centre)[:, None]
        called, first, second = self.own[:, 0], self.own[:, 1], self.own[:, 2]
        return first + shift * called, second + 2 * shift * first + shift**2 * called


@dataclass(frozen=True, slots=True, eq=False)
class PowerSumsPlan:
    """All that the sums need to know of people and columns; the same for every variant.

    Attributes
    ----------
    samples : ndarray of int64, shape (n,)
    columns : ndarray of float32, shape (n, k or a few more)
        Filled up with zeros to whole vectors of a product.
    own : ndarray, shape (o, n)
        Columns that are summed with all powers, in double precision.
    strips : ndarray
        The same, a strip of people after the other, each filled up with zeros to whole vectors.
    single_strips : ndarray of float32
    totals, own_totals : ndarray, shapes (k,) and (o,)
        Sums over everybody.
    """

    samples: Int
    columns: Float32
    own: Float
    strips: Float
    single_strips: Float32
    totals: Float
    own_totals: Float

    @classmethod
    def of(cls, samples: Int, columns: Float, own: Float) -> PowerSumsPlan:
        """Prepare sums over any number of variants.

        Parameters
        ----------
        samples : ndarray of int64, shape (n,)
            People analysed.
        columns : ndarray, shape (n, k)
            Of which first powers are summed; there may be none.
        own : ndarray, shape (n, 3) or (n, 4)
            Summed with all powers.
        """
        n, k = columns.shape
        single = np.zeros((n, -(-k // products.LANES) * products.LANES), np.float32)
        single[:, :k] = columns
        of_own = np.ascontiguousarray(own.T)
        padded = np.pad(of_own, ((0, 0), (0, -n % LANES)))
        starts = range(0, n, _OWN_STRIP)
        strips = np.concatenate([padded[:, s : s + _OWN_STRIP].ravel() for s in starts])
        totals = columns.sum(axis=0), own.sum(axis=0)
        return cls(samples, single, of_own, strips, strips.astype(np.float32), *totals)

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
        m, k, middle = len(dosages), len(self.totals), np.rint(centre)
        first, everybody = np.zeros((m, self.columns.shape[1])), np.tile(self.totals, (m, 1))
        if k:
            for rows, people, h in self._strips(dosages, centre):
                size = people.stop - people.start
                products.add_product(h[:, :size], self.columns[people], first[rows])
        own, plain = self._own_sums(dosages, middle)
        for j in np.flatnonzero(called < len(self.samples)).tolist():
            absent = np.flatnonzero(dosages.codes[j, self.samples] > dosages.steps)
            everybody[j] -= self.columns[absent, :k].sum(axis=0, dtype=np.float64)
            own[j, 0] -= self.own[:, absent].sum(axis=1)
        return PowerSums(everybody, first[:, :k], own, plain, middle)

    def _own_sums(self, dosages: Dosages, middle: Float) -> tuple[Float, Float]:
        """Return the power sums of own columns, those of power 0 over everybody, and plain ones."""
        m, steps, k = len(dosages), dosages.steps, len(self.own)
        lanes = np.zeros((m, vectors(k), LANES))
        codes_of_middle = (middle * (steps // 2)).astype(np.int64)
        people = self.samples, in_order(self.samples)
        columns = k, self.strips, self.single_strips
        _add_own((dosages.codes, steps), people, codes_of_middle, *columns, lanes)
        sums = lanes.sum(axis=2)
        units = (2.0 / steps) ** np.arange(POWERS + 1)  # sums are of steps
        own = np.empty((m, POWERS + 1, k))
        own[:, 0] = self.own_totals
        own[:, 1:] = sums[:, :-PLAIN].reshape(m, k, POWERS).swapaxes(1, 2)
        return own * units[:, None], sums[:, -PLAIN:] * units[3:5]

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
def _add_own(
    dosages: tuple[Any, int],
    people: tuple[Any, bool],
    middle: Any,
    columns: int,
    strips: Any,
    single: Any,
    lanes: Any,
) -> None:  # pragma: no cover
    """Add up the own columns, three or four, those of a strip of people for a tile of variants.

    `dosages` are the codes and that of two copies; `people` those analysed, and whether in order.
    """
    (codes, steps), (samples, ordered) = dosages, people
    flat, read = lanes.reshape(-1), np.empty(_OWN_STRIP, np.uint16)
    n, row = len(samples), lanes.shape[1] * lanes.shape[2]
    for first in range(0, len(codes), TILE):
        for start in range(0, n, _OWN_STRIP):
            size: Any = min(_OWN_STRIP, n - start)
            whole: int = -(-size // LANES) * LANES
            read[size:whole] = MISSING_CODE
            for j in range(first, min(first + TILE, len(codes))):
                read_codes(codes[j], samples, ordered, start, size, read)
                at, to = columns * start, j * row
                if columns == 3:
                    add_three(read, whole, middle[j], steps, strips, single, at, flat, to)
                else:
                    add_four(read, whole, middle[j], steps, strips, single, at, flat, to)


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


def node_sums(powers: Float, middle: Float) -> Float:
    """Return sums within the soft classes of :data:`NODES`.

    Parameters
    ----------
    powers : ndarray, shape (m, POWERS + 1, o)
        Σq·uᵖ, u copies less `middle`.
    middle : ndarray, shape (m,)

    Returns
    -------
    ndarray, shape (m, nodes, o)
    """
    # Element by element: what is vectorised otherwise may round by a variant's place.
    shift = (middle - 1)[:, None]
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
    return 4 * n * padded + 8 * n * 8 + 8 * TILE * _STRIP
