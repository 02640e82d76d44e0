"""Sums of many columns within the genotype classes, at the speed of the first-level cache.

Whatever a fit with covariates takes of the data is a sum over the people of a class of columns q
that all variants share: Σ q over those with one copy, over those with two, over those with a call.
Of the two homozygous classes the rarer one is summed, and the other follows from the totals.

A class of a variant is a row of bits, one a person. Where it has few people in a run of
:data:`RUN`, they are added up one by one: rare variants cost what they have carriers. Elsewhere six
bits at a time name a row of a table, which holds the sums of any of six people; a row is sixteen
32-bit integers, one a column, so that one 512-bit addition stands for 96 multiplications.

A column is rounded once, to a quantum such that no run can overflow 32 bits; after each run sums
move on to 64 bits. The quantum is about 10⁻⁶ of the column's mean size. Rounding carries its
remainder on to the next person, so that over many people errors cancel: a constant genotype has
none. Integers add up exactly in any order, so that no block, neighbour or machine changes a bit,
nor does the way in which a class was added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Int
from hlmm_scan.kernels.sums.class_sums_pass import (
    LOW_BITS,
    ONE,
    PEOPLE,
    SKEW,
    aligned_zeros,
    packed_rows,
)
from hlmm_scan.kernels.sums.lanes import (
    BYTES,
    TABLE_ROWS,
    TABLES,
    add_four_groups,
    add_group,
    add_subsets,
    add_widened,
    fetch,
    fill_subsets,
    lowest,
    ones,
    word_at,
)

LANES = 16
"""Columns of a table row."""

WORDS = 16
"""Words of bits in a run."""

BITS = 2 * PEOPLE
"""People in a word of bits."""

RUN = WORDS * BITS
"""People whose sums have to fit into 32 bits."""

BLOCK = 1024
"""Variants in work at a time: their bits and sums stay in the second-level cache."""

_FEW = 64
"""People of a class in a run up to which they are added up one by one."""

_HEADROOM = 30  # bits that a run may take before rounding, which adds less than one more
_MAX_EXPONENT = 1000
_AHEAD = 4  # variants whose calls are fetched before they are wanted


@njit(nogil=True, cache=True)
def _codes_at(flat: Any, end: int, at: int) -> Any:  # pragma: no cover
    """Read a word of codes of a row that ends before `end`; what is behind it is 0."""
    if at + BYTES <= end:
        return word_at(flat, at)
    word = np.uint64(0)
    for b in range(end - at):
        word |= np.uint64(flat[at + b]) << np.uint64(8 * b)
    return word


@njit(nogil=True, cache=True)
def _read(
    flat: Any, row: int, width: int, start: int, masks: Any, flipped: bool, bits: Any
) -> None:  # pragma: no cover
    """Put a run of a variant into bits: one copy, the homozygotes that are summed, no call.

    `start` counts words of bits. Codes of two words, of every second bit each, make one of bits.
    """
    end = row + width
    for k in range(WORDS):
        at = row + 2 * BYTES * (start + k)
        even, odd = _codes_at(flat, end, at), _codes_at(flat, end, at + BYTES)
        low = (even & LOW_BITS) | ((odd & LOW_BITS) << ONE)
        high = ((even >> ONE) & LOW_BITS) | (odd & (LOW_BITS << ONE))
        mask = masks[start + k]
        bits[0, k] = high & ~low & mask
        bits[1, k] = (high & low & mask) if flipped else (~(high | low) & mask)
        bits[2, k] = low & ~high & mask


@njit(nogil=True, cache=True)
def _people(words: Any) -> Any:  # pragma: no cover
    """Count the bits that are set."""
    total = np.int64(0)
    for word in words:
        total += np.int64(ones(word))
    return total


@njit(nogil=True, cache=True)
def _one_by_one(
    bits: Any, weights: Any, at: int, groups: int, places: Any, sums: Any, at_sums: int
) -> None:  # pragma: no cover
    """Add up the people of a run whose bits are set, in all columns."""
    found = 0
    for k in range(WORDS):
        word = bits[k]
        while word != 0:
            places[found] = BITS * k + lowest(word)
            found += 1
            word &= word - ONE
    group, stride = 0, RUN * LANES
    while group + 4 <= groups:
        add_four_groups(weights, at + group * stride, stride, places, found, sums, at_sums)
        at_sums += 4 * LANES
        group += 4
    while group < groups:
        add_group(weights, at + group * stride, stride, places, found, sums, at_sums)
        at_sums += LANES
        group += 1


@njit(nogil=True, cache=True)
def _sum_block(
    packed: Any, masks: Any, weights: Any, block: int, few: int, counts: Any, sums: Any
) -> None:  # pragma: no cover
    """Fill counts and sums of one copy, of the homozygotes chosen, and of no call.

    Shapes: `masks` (words of bits,), `weights` (runs, groups, people, 16), `counts` (m, 4), whose
    last says whether those without a copy were chosen, and `sums` (m, 3, columns).
    """
    m, width = packed.shape
    flat = packed.reshape(m * width)
    runs, groups = weights.shape[0], weights.shape[1]
    columns = LANES * groups
    flat_weights, flat_sums = weights.reshape(weights.size), sums.reshape(sums.size)
    bits, places = np.empty((3, WORDS), np.uint64), np.empty(RUN, np.int64)
    # Classes that take the tables, and where their sums go.
    tile, chosen = np.empty((WORDS, 2 * block + SKEW), np.uint64), np.empty(2 * block, np.int64)
    tables = aligned_zeros(TABLE_ROWS * LANES // 2).view(np.int32)
    part = aligned_zeros(2 * block * LANES // 2).view(np.int32)
    for first in range(0, m, block):
        size = min(block, m - first)
        for run in range(runs):
            start, n_chosen = WORDS * run, 0
            at_run = RUN * columns * run
            for v in range(first, first + size):
                ahead = min(v + _AHEAD, m - 1) * width + 2 * BYTES * start
                for line in range(2 * BYTES * WORDS // 64 + 1):
                    fetch(flat, min(ahead + 64 * line, m * width - 1))
                _read(flat, v * width, width, start, masks, counts[v, 3] == 1, bits)
                # Which homozygotes are rarer is guessed: it makes no difference to the sums.
                if run == 0 and 2 * _people(bits[1]) + _people(bits[0]) > _people(masks[:WORDS]):
                    counts[v, 3] = 1
                    _read(flat, v * width, width, start, masks, True, bits)
                for c in range(3):
                    people = _people(bits[c])
                    if people == 0:
                        continue
                    counts[v, c] += people
                    at_sums = (3 * v + c) * columns
                    if people <= few or c == 2:
                        _one_by_one(
                            bits[c], flat_weights, at_run, groups, places, flat_sums, at_sums
                        )
                    else:
                        for k in range(WORDS):
                            tile[k, n_chosen] = bits[c, k]
                        chosen[n_chosen] = at_sums
                        n_chosen += 1
            if n_chosen == 0:
                continue
            for group in range(groups):
                at_group = at_run + RUN * LANES * group
                for k in range(WORDS):
                    if masks[start + k] == 0:
                        continue
                    at = at_group + BITS * LANES * k
                    for table in range(TABLES):
                        fill_subsets(flat_weights, at, tables, table)
                    for i in range(n_chosen):
                        add_subsets(tables, tile[k, i], part, LANES * i)
                for i in range(n_chosen):
                    add_widened(part, LANES * i, flat_sums, chosen[i] + LANES * group)
                part[: LANES * n_chosen] = 0


@dataclass(frozen=True, slots=True, eq=False)
class ColumnSums:
    """Sums of m variants.

    Attributes
    ----------
    counts : ndarray of int64, shape (m, 3)
        People with one copy, with two copies and without a call.
    one, two : ndarray, shape (m, k)
        Sums of the columns over people with one copy and with two.
    called : ndarray, shape (m, k)
        The same over people with a call.
    """

    counts: Int
    one: Float
    two: Float
    called: Float


@dataclass(frozen=True, slots=True, eq=False)
class ColumnSumsPlan:
    """All that the sums need to know of people and columns; the same for every variant.

    Attributes
    ----------
    width : int
        Bytes per variant.
    masks : ndarray of uint64, shape (words,)
        The bits of people analysed.
    weights : ndarray of int32, shape (runs, groups of sixteen columns, people, 16)
        Columns in quanta, zero for people not analysed. People stand in the order of their bits.
    totals : ndarray of int64, shape (k,)
        Sums of the columns over everybody, in quanta.
    quanta : ndarray, shape (k,)
        Powers of two.
    """

    width: int
    masks: NDArray[np.uint64]
    weights: NDArray[np.int32]
    totals: Int
    quanta: Float

    @classmethod
    def of(cls, width: int, samples: Int, columns: Float) -> ColumnSumsPlan:
        """Prepare sums over any number of variants.

        Parameters
        ----------
        width : int
            Bytes per variant.
        samples : ndarray of int64, shape (n,)
            People analysed, none of them twice.
        columns : ndarray, shape (n, k)

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
            raise ValueError("columns to be summed must be finite")
        k = columns.shape[1]
        groups = -(-k // LANES)
        runs = max(-(-4 * width // RUN), 1)
        weights = np.zeros((runs * RUN, groups * LANES), np.int32)
        quanta = np.ones(k)
        for c in range(k):
            values = np.zeros(runs * RUN)
            values[samples] = columns[:, c]
            largest = float(np.abs(values).reshape(-1, RUN).sum(axis=1).max())
            if largest > 0:
                exponent = min(_HEADROOM - math.frexp(largest)[1], _MAX_EXPONENT)
                # The remainder of rounding goes to the next person, so that remainders cancel.
                running = np.rint(np.cumsum(np.ldexp(values[samples], exponent)))
                weights[samples, c] = np.diff(running, prepend=0.0)
                quanta[c] = math.ldexp(1.0, -exponent)
        totals = weights[:, :k].sum(axis=0, dtype=np.int64)
        present = np.zeros(runs * RUN, np.uint64)
        present[samples] = 1
        # The first half of a word's people have its even bits, the other half its odd ones.
        masks = present.reshape(-1, 2, PEOPLE).transpose(0, 2, 1).reshape(-1, BITS)
        by_run = weights.reshape(runs, WORDS, 2, PEOPLE, groups, LANES).transpose(0, 4, 1, 3, 2, 5)
        return cls(
            width,
            (masks << np.arange(BITS, dtype=np.uint64)).sum(axis=1, dtype=np.uint64),
            np.ascontiguousarray(by_run).reshape(runs, groups, RUN, LANES),
            totals,
            quanta,
        )

    def sums(self, packed: NDArray[np.uint8]) -> ColumnSums:
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
        m, k = len(rows), len(self.totals)
        counts = np.zeros((m, 4), np.int64)
        sums = np.zeros((m, 3, LANES * self.weights.shape[1]), np.int64)
        if m and k:
            _sum_block(rows, self.masks, self.weights, min(m, BLOCK), _FEW, counts, sums)
        sums = sums[:, :, :k]
        called = self.totals - sums[:, 2]
        analysed = int(np.bitwise_count(self.masks).sum())
        flipped = counts[:, 3] == 1
        one, two = sums[:, 0], sums[:, 1]
        two[flipped] = (called - one - two)[flipped]
        counts[flipped, 1] = (analysed - counts[:, :3].sum(axis=1))[flipped]
        return ColumnSums(
            counts[:, :3].copy(), one * self.quanta, two * self.quanta, called * self.quanta
        )


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
    lanes = -(-columns // LANES) * LANES
    plan = people * (2 * 4 * lanes + 5 * 8)  # columns by person, then as the pass takes them
    block = min(m, BLOCK)
    scratch = 8 * WORDS * (2 * block + SKEW) + 2 * block * (4 * LANES + 8)
    return plan + scratch + 4 * TABLE_ROWS * LANES + 2**17 + 8 * m * (7 * lanes + 8)
