"""Sums over people of g and g² times many columns, at the speed of the first-level cache.

The screen takes of the data nothing but sums Σᵢ gᵢqᵢ and Σᵢ gᵢ²qᵢ, for some sixty columns q that
all variants share. As for class sums, a table by byte holds what four people can contribute; its
rows are sixteen 32-bit integers, so that one 512-bit addition does 64 multiplications.

A column is rounded once, to a quantum such that no run of :data:`RUN` people can overflow 32 bits;
after each run the sums move on to 64 bits. The quantum is about 10⁻⁶ of the column's mean size.
Rounding carries its remainder on to the next person, so that over many people errors cancel: a
constant genotype has none. Integers add up exactly in any order, so that no block, neighbour or
machine changes a bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.kernels.sums.class_sums_pass import (
    HALF,
    LOW_BITS,
    LOW_HALF,
    ONE,
    PEOPLE,
    SKEW,
    TILE,
    aligned_zeros,
    copy_tile,
    count_copies,
    fetch_ahead,
    packed_rows,
)
from hlmm_scan.kernels.sums.lanes import (
    BYTES,
    STRIDE_16,
    add_multiples,
    add_widened,
    fetch,
    fill_multiples,
    lowest,
    ones,
)

Float = NDArray[np.float64]
Int = NDArray[np.int64]

LANES = 16
"""Columns of a table row."""

RUN = PEOPLE * TILE
"""People whose sums have to fit into 32 bits."""

BLOCK = 1024
"""Variants in work at a time: their tile and sums stay in the second-level cache."""

_HEADROOM = 30  # bits that a run may take before rounding, which adds less than one more
_MAX_EXPONENT = 1000


@njit(nogil=True, cache=True)
def _take_out_missing(
    tile: Any,
    size: int,
    words: int,
    masks: Any,
    start: int,
    weights: Any,
    counts: Any,
    sums: Any,
) -> None:  # pragma: no cover
    """Add up the people without a call, one by one, and recode their calls as no copies."""
    columns = LANES * weights.shape[1]
    flat_weights = weights.reshape(weights.size)
    flat_sums = sums.reshape(sums.size)
    for k in range(words):
        absent = np.uint64(0)
        for v in range(size):
            absent |= tile[k, v] & ~(tile[k, v] >> ONE)
        if absent & LOW_BITS == 0:
            continue
        for v in range(size):
            absent = tile[k, v] & ~(tile[k, v] >> ONE) & LOW_BITS
            if absent == 0:
                continue
            tile[k, v] |= absent << ONE
            absent &= masks[start + k, 0]
            counts[v] += np.int64(ones(absent))
            while absent != 0:
                person = k * PEOPLE + (lowest(absent) >> 1)
                at = start * PEOPLE * columns + LANES * person
                absent &= absent - ONE
                for c in range(0, columns, LANES):
                    add_widened(flat_weights, at + RUN * c, flat_sums, v * columns + c)


@njit(nogil=True, cache=True)
def _to_base_three(tile: Any, size: int, words: int) -> None:  # pragma: no cover
    """Turn each byte of four codes 0, 2 and 3 into a number from 0 to 80.

    Tables without unused rows are spread over all sets of the first-level cache, and eight of
    them fit.
    """
    for k in range(words):
        for v in range(size):
            word = tile[k, v]
            word -= (word >> ONE) & LOW_BITS  # digits 0, 1 and 2
            word -= (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
            upper = (word >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
            tile[k, v] = word - ((upper << np.uint64(3)) - upper)


@njit(nogil=True, cache=True)
def _flush(part: Any, size: int, sums: Any, at: int, columns: int) -> None:  # pragma: no cover
    """Add a run's sums of sixteen columns to those so far, and begin anew."""
    for v in range(size):
        add_widened(part, LANES * v, sums, at + columns * v)
    part[: LANES * size] = 0


@njit(nogil=True, cache=True)
def _sum_block(
    packed: Any,
    masks: Any,
    weights: Any,
    shifts: Any,
    block: int,
    counts: Any,
    sums: Any,
    missing_sums: Any,
) -> None:  # pragma: no cover
    """Fill counts of one copy, two copies and no call, sums, and sums over people without one."""
    m, width = packed.shape
    flat = packed.reshape(m * width)
    columns, used = LANES * weights.shape[1], len(shifts)
    flat_weights = weights.reshape(weights.size)
    flat_sums = sums.reshape(sums.size)
    n_words = (width + BYTES - 1) // BYTES
    tile = np.empty((TILE, block + SKEW), np.uint64)
    tile[:] = 0  # words past the last, which have no people, must name rows of the tables
    tables = aligned_zeros(2 * BYTES * STRIDE_16 * LANES // 2).view(np.int32)
    part = aligned_zeros(block * LANES // 2).view(np.int32)
    both = np.empty(block, np.uint64)
    for first in range(0, m, block):
        size = min(block, m - first)
        last = first + size
        both[:] = 0
        for start in range(0, n_words, TILE):
            words = min(TILE, n_words - start)
            copy_tile(flat, width, first, size, start, words, tile)
            count_copies(tile, size, masks, start, 0, both)
            _take_out_missing(
                tile, size, words, masks, start, weights, counts[first:last, 2],
                missing_sums[first:last],
            )  # fmt: skip
            _to_base_three(tile, size, words)
            for group in range(0, used, LANES):
                for k in range(0, words, 2):
                    if masks[start + k, 0] | masks[start + k + 1, 0] == 0:
                        continue
                    at = start * PEOPLE * columns + RUN * group + PEOPLE * LANES * k
                    for b in range(2 * BYTES):
                        fill_multiples(
                            flat_weights, at + LANES * 4 * b, LANES, shifts, group, tables, b
                        )
                    for low in range(0, size, TILE):
                        # Weights follow each other in the order in which they are wanted.
                        fetch(flat_weights, at + LANES * (2 * PEOPLE + low // TILE))
                        if group == 0:
                            fetch_ahead(flat, width, first, size, start, k, low)
                            fetch_ahead(flat, width, first, size, start, k + 1, low)
                        for v in range(low, min(low + TILE, size)):
                            add_multiples(tables, tile[k, v], tile[k + 1, v], part, LANES * v)
                _flush(part, size, flat_sums, first * used + group, used)
        for v in range(size):
            counts[first + v, 0] = np.int64(both[v] & LOW_HALF)
            counts[first + v, 1] = np.int64(both[v] >> HALF)


@dataclass(frozen=True, slots=True, eq=False)
class ScreenSums:
    """Sums of m variants.

    Attributes
    ----------
    counts : ndarray of int64, shape (m, 3)
        People with one copy, with two copies and without a call.
    multiples : ndarray, shape (m, k)
        Σ g·q or Σ g²·q of each column with a power, over people with a call.
    called : ndarray, shape (m, k + j)
        Σ q of each column over people with a call.
    """

    counts: Int
    multiples: Float
    called: Float


@dataclass(frozen=True, slots=True, eq=False)
class ScreenSumsPlan:
    """All that the sums need to know of people and columns; the same for every variant.

    Attributes
    ----------
    width : int
        Bytes per variant.
    masks : ndarray of uint64, shape (words, 1)
        The lower bit of each person analysed, 32 people to a word.
    weights : ndarray of int32, shape (runs, groups of sixteen columns, people, 16)
        Columns in quanta, zero for people not analysed.
    shifts : ndarray of int32, shape (a multiple of 16,)
        Logarithm of 2 or 4: what two copies count for in each column that has a power.
    place : ndarray of intp, shape (k + j,)
        Lanes of the columns as they were given.
    n_powers : int
        k, the columns that have a power.
    totals : ndarray of int64, shape (k + j,)
        Sums of the columns over everybody, in quanta.
    quanta : ndarray, shape (k + j,)
        Powers of two.
    """

    width: int
    masks: NDArray[np.uint64]
    weights: NDArray[np.int32]
    shifts: NDArray[np.int32]
    place: NDArray[np.intp]
    n_powers: int
    totals: Int
    quanta: Float

    @classmethod
    def of(
        cls, width: int, samples: Int, columns: Float, powers: NDArray[np.integer]
    ) -> ScreenSumsPlan:
        """Prepare sums over any number of variants.

        Parameters
        ----------
        width : int
            Bytes per variant.
        samples : ndarray of int64, shape (n,)
            People analysed, none of them twice.
        columns : ndarray, shape (n, k + j)
            First those to be multiplied with g or g², then those wanted only for people without
            a call.
        powers : ndarray of int, shape (k,)
            1 for Σ g·q, 2 for Σ g²·q.

        Raises
        ------
        IndexError
            If a person lies outside the packed row.
        ValueError
            If a column is not finite.
        """
        if samples.size and not (samples.min() >= 0 and samples.max() < 4 * width):
            raise IndexError(f"people lie outside the {4 * width} packed")
        if not np.isfinite(columns).all():
            raise ValueError("columns of the screen must be finite")
        k, total = len(powers), columns.shape[1]
        lanes = -(-k // LANES) * LANES
        more = -(-(total - k) // LANES) * LANES
        words = -(-width // (BYTES * TILE)) * TILE
        place = np.append(np.arange(k), lanes + np.arange(total - k))
        shifts = np.zeros(lanes, np.int32)
        shifts[:k] = powers
        weights = np.zeros((words * PEOPLE, lanes + more), np.int32)
        quanta = np.ones(total)
        for c in range(total):
            values = np.zeros(words * PEOPLE)
            values[samples] = columns[:, c]
            largest = float(np.abs(values).reshape(-1, RUN).sum(axis=1).max())
            if largest > 0:
                room = _HEADROOM - (int(powers[c]) if c < k else 0)
                exponent = min(room - math.frexp(largest)[1], _MAX_EXPONENT)
                # The remainder of rounding goes to the next person, so that remainders cancel.
                running = np.rint(np.cumsum(np.ldexp(values[samples], exponent)))
                weights[samples, place[c]] = np.diff(running, prepend=0.0)
                quanta[c] = math.ldexp(1.0, -exponent)
        present = np.zeros(words * PEOPLE, np.uint64)
        present[samples] = 1
        masks = (present.reshape(words, PEOPLE) << np.arange(0, 64, 2, dtype=np.uint64)).sum(
            axis=1, dtype=np.uint64
        )
        totals = weights[:, place].sum(axis=0, dtype=np.int64)
        by_row = weights.reshape(words // TILE, RUN, -1, LANES).transpose(0, 2, 1, 3)
        weights = np.ascontiguousarray(by_row)
        return cls(width, masks[:, None], weights, shifts, place, k, totals, quanta)

    def sums(self, packed: NDArray[np.uint8]) -> ScreenSums:
        """Pass over the calls of some variants.

        Parameters
        ----------
        packed : ndarray of uint8, shape (m, width)
            PLINK codes. Anything behind the last person is ignored.

        Raises
        ------
        ValueError
            If `packed` is not of that shape or not uint8.
        """
        rows = packed_rows(packed, self.width)
        m = len(rows)
        counts = np.zeros((m, 3), np.int64)
        sums = np.zeros((m, len(self.shifts)), np.int64)
        missing = np.zeros((m, LANES * self.weights.shape[1]), np.int64)
        if m:
            block = min(m, BLOCK)
            _sum_block(rows, self.masks, self.weights, self.shifts, block, counts, sums, missing)
        k = self.n_powers
        called = (self.totals - missing[:, self.place]) * self.quanta
        return ScreenSums(counts, sums[:, :k] * self.quanta[:k], called)


def work_bytes(m: int, n_total: int, columns: int) -> int:
    """Bound the memory of a plan and one call of its sums, result included, packed calls not.

    Parameters
    ----------
    m : int
        Variants per call.
    n_total : int
        People in the packed calls.
    columns : int

    Returns
    -------
    int
        Bytes.
    """
    people = -(-n_total // RUN) * RUN
    lanes = -(-columns // LANES) * LANES + LANES
    plan = people * (2 * 4 * lanes + 5 * 8)  # columns by person, then as the pass takes them
    scratch = 8 * (TILE + 1 + LANES // 2) * (min(m, BLOCK) + SKEW) + 2**17
    return plan + scratch + 8 * m * (6 * lanes + 6)
