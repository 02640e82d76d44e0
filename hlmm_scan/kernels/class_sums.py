"""Sums within genotype classes, at the speed of memory.

Hard calls enter the likelihood of a variant only through n, Σy and Σy² of each genotype class
(math.md §3). Four people stand in one byte of the packed calls, so a table by byte holds every sum
that the four can contribute, and one row of it is added per variant; nothing is unpacked.

Sums are kept in 64-bit integers: y and y² are rounded once per person, to a quantum just large
enough that the sum over everybody fits (2⁻⁴⁵ standard deviations at n = 100,000; no worse than what
float64 loses in adding up). Integer addition is exact in any order. So a variant's numbers cannot
depend on the variants and phenotypes beside it, on the blocking or on the machine, and the class
that is not added up follows from the totals without cancellation, however rare it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.kernels.lanes import (
    BYTES,
    STRIDE_4,
    STRIDE_8,
    add_four,
    add_rows_4,
    add_rows_8,
    fetch,
    fill_table_4,
    fill_table_8,
    lowest,
    ones,
    word_at,
)

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Words = NDArray[np.uint64]

_PEOPLE = 32  # people in a word of codes
_TILE = 16  # words of each variant in work at a time; a multiple of four
_BLOCK = 1024  # variants in work at a time: their tile and accumulators stay in the L2 cache
_BLOCK_MANY = 2048  # the same for several phenotypes, which build more tables per block
_SKEW = 24  # words between rows of a tile: a power of two puts all of them into one cache set
_HEADROOM = 62  # bits that the sum of magnitudes over everybody may take
_MAX_EXPONENT = 1000  # 2⁻¹⁰⁰⁰ is still a normal number
_LOW_BITS = np.uint64(0x5555555555555555)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ONE = np.uint64(1)


@njit(nogil=True, cache=True)
def _aligned_zeros(size: int) -> Any:  # pragma: no cover
    """Return zeros from a 64-byte boundary on: no table row straddles two cache lines."""
    memory = np.zeros(size + 8, np.int64)
    start = (-(memory.ctypes.data // 8)) % 8
    return memory[start : start + size]


@njit(nogil=True, cache=True)
def _copy_tile(
    flat: Any, width: int, first: int, size: int, start: int, words: int, tile: Any
) -> None:  # pragma: no cover
    """Copy the words start.. of `size` variants from `first` on into tile[word, variant]."""
    whole = width // BYTES
    for v in range(size):
        at = (first + v) * width + BYTES * start
        for k in range(min(words, whole - start)):
            tile[k, v] = word_at(flat, at + BYTES * k)
        if start + words > whole:  # the last word is cut short: fill it up with missing calls
            word = _LOW_BITS
            for b in range(width - BYTES * whole):
                byte = np.uint64(flat[at + BYTES * (whole - start) + b])
                word ^= (byte ^ np.uint64(0x55)) << np.uint64(8 * b)
            tile[words - 1, v] = word


@njit(nogil=True, cache=True)
def _fetch_ahead(
    flat: Any, width: int, first: int, size: int, start: int, k: int, low: int
) -> None:  # pragma: no cover
    """Fetch the next tile of one variant; all (k, low) of a tile together name all variants.

    The rows lie far apart, so that no hardware fetches ahead; with one phenotype, waiting for
    memory would take a fifth of the time. With many it takes little, and asking early only costs.
    """
    ahead = (k * size + low) // _TILE
    at = (first + ahead) * width + BYTES * (start + _TILE)
    for line in range(BYTES * _TILE // 64):
        fetch(flat, at + 64 * line + 63)


@njit(nogil=True, cache=True)
def _count(
    tile: Any, size: int, masks: Any, start: int, p: int, counts: Any
) -> None:  # pragma: no cover
    """Add people with one copy to the lower half of `counts`, with two to its upper half."""
    for k in range(0, _TILE, 4):  # beyond the last word the mask is zero
        m0 = masks[start + k, p]
        m1 = masks[start + k + 1, p]
        m2 = masks[start + k + 2, p]
        m3 = masks[start + k + 3, p]
        for v in range(size):
            w0 = tile[k, v]
            w1 = tile[k + 1, v]
            w2 = tile[k + 2, v]
            w3 = tile[k + 3, v]
            h0 = w0 >> _ONE
            h1 = w1 >> _ONE
            h2 = w2 >> _ONE
            h3 = w3 >> _ONE
            one = ones(h0 & ~w0 & m0) + ones(h1 & ~w1 & m1)
            one += ones(h2 & ~w2 & m2) + ones(h3 & ~w3 & m3)
            two = ones(~(h0 | w0) & m0) + ones(~(h1 | w1) & m1)
            two += ones(~(h2 | w2) & m2) + ones(~(h3 | w3) & m3)
            counts[v] += one + (two << _HALF)


@njit(nogil=True, cache=True)
def _take_out_missing(
    tile: Any,
    size: int,
    words: int,
    masks: Any,
    anyone: Any,
    start: int,
    weights: Any,
    found: Any,
    counts: Any,
    sums: Any,
) -> None:  # pragma: no cover
    """Add up the people without a call, one by one, and recode their calls as no copies.

    The words that hold any are listed first, without a branch per word: a branch that goes either
    way costs more than the sums.
    """
    n_phenotypes, columns = masks.shape[1], weights.shape[1]
    flat_weights = weights.reshape(weights.size)
    flat_sums = sums.reshape(sums.size)
    for k in range(words):
        absent = np.uint64(0)
        for v in range(size):
            absent |= tile[k, v] & ~(tile[k, v] >> _ONE)
        if absent & _LOW_BITS == 0:
            continue
        n_found = 0
        for v in range(size):
            absent = tile[k, v] & ~(tile[k, v] >> _ONE) & _LOW_BITS
            found[n_found] = v
            n_found += absent != 0
        for i in range(n_found):
            v = found[i]
            absent = tile[k, v] & ~(tile[k, v] >> _ONE) & _LOW_BITS
            tile[k, v] |= absent << _ONE
            absent &= anyone[start + k]
            for p in range(n_phenotypes):
                counts[v, p] += np.int64(ones(absent & masks[start + k, p]))
            while absent != 0:
                person = (start + k) * _PEOPLE + (lowest(absent) >> 1)
                absent &= absent - _ONE
                for c in range(0, columns, 4):
                    add_four(flat_weights, person * columns + c, flat_sums, v * columns + c)


@njit(nogil=True, cache=True)
def _sum_block(
    packed: Any,
    masks: Any,
    anyone: Any,
    weights: Any,
    block: int,
    counts: Any,
    sums: Any,
    missing_counts: Any,
    missing_sums: Any,
) -> None:  # pragma: no cover
    """Fill the sums over people with one copy, with two copies and without a call.

    Phenotypes go in pairs, whose table rows fill one 512-bit register; one that is left over goes
    alone, on rows of half the size.
    """
    m, width = packed.shape
    flat = packed.reshape(m * width)
    n_phenotypes, columns = masks.shape[1], weights.shape[1]
    flat_weights = weights.reshape(weights.size)
    n_words = (width + BYTES - 1) // BYTES
    tile = np.empty((_TILE, block + _SKEW), np.uint64)
    tile[:] = _LOW_BITS
    tables = _aligned_zeros(BYTES * max(4 * STRIDE_4, 8 * STRIDE_8))
    found = np.empty(block + 1, np.int64)
    ones = np.empty((n_phenotypes, block), np.uint64)
    n_units = (n_phenotypes + 1) // 2
    totals = _aligned_zeros(n_units * block * 8)
    for first in range(0, m, block):
        size = min(block, m - first)
        last = first + size
        totals[:] = 0
        ones[:] = 0
        for start in range(0, n_words, _TILE):
            words = min(_TILE, n_words - start)
            _copy_tile(flat, width, first, size, start, words, tile)
            for p in range(n_phenotypes):
                _count(tile, size, masks, start, p, ones[p])
            _take_out_missing(
                tile, size, words, masks, anyone, start, weights, found,
                missing_counts[first:last], missing_sums[first:last],
            )  # fmt: skip
            for unit in range(n_units):
                at_unit = 8 * block * unit
                for k in range(words):
                    if anyone[start + k] == 0:
                        continue
                    at = (start + k) * _PEOPLE * columns + 4 * unit
                    if 2 * unit + 1 < n_phenotypes:
                        for b in range(BYTES):
                            fill_table_8(flat_weights, at + 4 * b * columns, columns, tables, b)
                        for v in range(size):
                            add_rows_8(tables, tile[k, v], totals, at_unit + 8 * v)
                    else:
                        for b in range(BYTES):
                            fill_table_4(flat_weights, at + 4 * b * columns, columns, tables, b)
                        for low in range(0, size, _TILE):
                            _fetch_ahead(flat, width, first, size, start, k, low)
                            for v in range(low, min(low + _TILE, size)):
                                add_rows_4(tables, tile[k, v], totals, at_unit + 4 * v)
        for p in range(n_phenotypes):
            unit = p // 2
            half = 4 if 2 * unit + 1 < n_phenotypes else 2
            for v in range(size):
                counts[first + v, p, 0] = np.int64(ones[p, v] & _LOW_HALF)
                counts[first + v, p, 1] = np.int64(ones[p, v] >> _HALF)
                at = 8 * block * unit + 2 * half * v + 2 * (p % 2)
                for c in range(2):
                    for power in range(2):
                        sums[first + v, p, c, power] = totals[at + c * half + power]


@dataclass(frozen=True, slots=True, eq=False)
class ClassSumsPlan:
    """All that the sums need to know of people and phenotypes; the same for every variant.

    Attributes
    ----------
    width : int
        Bytes per variant.
    masks : ndarray of uint64, shape (words, P)
        The lower bit of each person analysed, 32 people to a word.
    anyone : ndarray of uint64, shape (words,)
        People analysed for any phenotype.
    weights : ndarray of int64, shape (32·words, columns)
        y and y² of each phenotype in quanta, zero for people not analysed.
    totals : ndarray of int64, shape (P, 3)
        n, Σy and Σy² over everybody, the latter in quanta.
    quanta : ndarray, shape (P, 2)
        Quanta of y and y², powers of two.
    """

    width: int
    masks: Words
    anyone: Words
    weights: Int
    totals: Int
    quanta: Float

    def sums(self, packed: NDArray[np.uint8]) -> Float:
        """Sum 1, y and y² within the genotype classes of each variant.

        Parameters
        ----------
        packed : ndarray of uint8, shape (m, width)
            PLINK codes: 0 two effect alleles, 1 missing, 2 one, 3 none. Anything behind the last
            person is ignored.

        Returns
        -------
        ndarray, shape (P, m, 3, 3)
            Phenotype × variant × copies of the effect allele × (n, Σy, Σy²).

        Raises
        ------
        ValueError
            If `packed` is not of that shape or not uint8.
        """
        if packed.ndim != 2 or packed.dtype != np.uint8 or packed.shape[1] != self.width:
            raise ValueError(
                f"packed must be uint8 (variants, {self.width}), not {packed.dtype} {packed.shape}"
            )
        # One signature for all, so that nothing compiles twice: C order, read-only.
        rows = np.ascontiguousarray(packed).view()
        rows.flags.writeable = False
        m, n_phenotypes = len(rows), len(self.totals)
        counts = np.empty((m, n_phenotypes, 2), np.int64)
        sums = np.empty((m, n_phenotypes, 2, 2), np.int64)
        missing_counts = np.zeros((m, n_phenotypes), np.int64)
        missing_sums = np.zeros((m, self.weights.shape[1]), np.int64)
        if m and n_phenotypes:
            _sum_block(
                rows, self.masks, self.anyone, self.weights, _block(m, n_phenotypes),
                counts, sums, missing_counts, missing_sums,
            )  # fmt: skip
        by_class = np.empty((m, n_phenotypes, 3, 3), np.int64)
        by_class[:, :, 1:, 0] = counts
        by_class[:, :, 1:, 1:] = sums
        by_class[:, :, 0, 0] = -missing_counts
        by_class[:, :, 0, 1:] = -missing_sums[:, : 2 * n_phenotypes].reshape(m, n_phenotypes, 2)
        by_class[:, :, 0] += self.totals
        by_class[:, :, 0] -= by_class[:, :, 1]
        by_class[:, :, 0] -= by_class[:, :, 2]
        units = np.column_stack([np.ones(n_phenotypes), self.quanta])
        return np.ascontiguousarray((by_class * units[:, None, :]).transpose(1, 0, 2, 3))


def plan_class_sums(width: int, samples: Sequence[Int], ys: Sequence[Float]) -> ClassSumsPlan:
    """Prepare sums over any number of variants.

    Parameters
    ----------
    width : int
        Bytes per variant.
    samples : sequence of ndarray of int64, shape (n_p,)
        People analysed for each phenotype, in any order, none of them twice.
    ys : sequence of ndarray, shape (n_p,)
        Their phenotypes; best of mean near 0.

    Returns
    -------
    ClassSumsPlan

    Raises
    ------
    IndexError
        If a person lies outside the packed row.
    ValueError
        If shapes differ, a person stands twice, or a phenotype or the sum of its squares is not
        finite.
    """
    if len(samples) != len(ys):
        raise ValueError(f"{len(samples)} sets of people for {len(ys)} phenotypes")
    n_phenotypes = len(ys)
    words = _padded_words(width)
    present = np.zeros((words * _PEOPLE, n_phenotypes), np.bool_)
    weights = np.zeros((words * _PEOPLE, 4 * ((n_phenotypes + 1) // 2)), np.int64)
    totals = np.empty((n_phenotypes, 3), np.int64)
    quanta = np.empty((n_phenotypes, 2))
    for p, (people, given) in enumerate(zip(samples, ys, strict=True)):
        y = np.asarray(given, np.float64)
        if people.shape != y.shape or y.ndim != 1:
            raise ValueError(f"{people.shape} people for {y.shape} values of phenotype {p}")
        if people.size and not (people.min() >= 0 and people.max() < 4 * width):
            raise IndexError(f"people of phenotype {p} lie outside the {4 * width} packed")
        present[people, p] = True
        totals[p, 0] = people.size
        if np.count_nonzero(present[:, p]) != people.size:
            raise ValueError(f"a person stands twice among those of phenotype {p}")
        for power in range(2):
            values = y if power == 0 else y * y
            exponent = _exponent(float(np.abs(values).sum()), p)
            whole = np.rint(np.ldexp(values, exponent)).astype(np.int64)
            weights[people, 2 * p + power] = whole
            totals[p, 1 + power] = whole.sum()
            quanta[p, power] = math.ldexp(1.0, -exponent)
    places = _ONE << np.arange(0, 2 * _PEOPLE, 2, dtype=np.uint64)
    by_word = present.reshape(words, _PEOPLE, n_phenotypes)
    masks = np.zeros((words, n_phenotypes), np.uint64)
    for i in range(_PEOPLE):
        masks |= by_word[:, i] * places[i]
    anyone = np.bitwise_or.reduce(masks, axis=1)
    return ClassSumsPlan(width, masks, anyone, weights, totals, quanta)


def _exponent(magnitude: float, p: int) -> int:
    """Return the power of two that takes a sum of magnitudes to the bits it may have."""
    if not math.isfinite(magnitude):
        raise ValueError(f"phenotype {p} or the sum of its squares is not finite")
    if magnitude == 0.0:
        return 0
    return min(_HEADROOM - math.frexp(magnitude)[1], _MAX_EXPONENT)


def _padded_words(width: int) -> int:
    """Words per variant, up to whole tiles."""
    return -(-width // (BYTES * _TILE)) * _TILE


def _block(m: int, n_phenotypes: int) -> int:
    return max(1, min(m, _BLOCK if n_phenotypes == 1 else _BLOCK_MANY))


def class_sums(packed: NDArray[np.uint8], samples: Int, y: Float) -> Float:
    """Sum 1, y and y² within the genotype classes of each variant.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, width)
        PLINK codes: 0 two effect alleles, 1 missing, 2 one, 3 none.
    samples : ndarray of int64, shape (n,)
        People analysed, in any order, none of them twice.
    y : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (m, 3, 3)
        Variant × copies of the effect allele × (n, Σy, Σy²).

    Notes
    -----
    math.md §3. Where several blocks of variants follow, make a :func:`plan_class_sums` once.
    """
    sums: Float = plan_class_sums(packed.shape[1], [samples], [y]).sums(packed)[0]
    return sums


def class_sums_of_phenotypes(
    packed: NDArray[np.uint8], samples: Sequence[Int], ys: Sequence[Float]
) -> Float:
    """Sum 1, y and y² within the genotype classes of each variant, for several phenotypes.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, width)
        PLINK codes: 0 two effect alleles, 1 missing, 2 one, 3 none.
    samples : sequence of ndarray of int64, shape (n_p,)
        People analysed for each phenotype, in any order, none of them twice.
    ys : sequence of ndarray, shape (n_p,)

    Returns
    -------
    ndarray, shape (P, m, 3, 3)
        Phenotype × variant × copies of the effect allele × (n, Σy, Σy²), bit for bit what
        :func:`class_sums` returns for the phenotype alone.
    """
    return plan_class_sums(packed.shape[1], samples, ys).sums(packed)


def work_bytes(m: int, n_total: int, n_phenotypes: int) -> int:
    """Bound the memory of a plan and one call of its sums, result included, packed calls not.

    Parameters
    ----------
    m : int
        Variants per call.
    n_total : int
        People in the packed calls.
    n_phenotypes : int

    Returns
    -------
    int
        Bytes.
    """
    words = _padded_words(-(-n_total // 4))
    units = (n_phenotypes + 1) // 2
    block = _block(m, n_phenotypes)
    plan = words * (_PEOPLE * (32 * units + n_phenotypes) + 8 * (2 * n_phenotypes + 1))
    while_planning = n_total * 5 * 8
    tables = 8 * BYTES * max(4 * STRIDE_4, 8 * STRIDE_8)
    scratch = 8 * (_TILE * (block + _SKEW) + block * (8 * units + n_phenotypes + 1)) + tables
    integers = 8 * m * (n_phenotypes * (2 + 4 + 1 + 9) + 4 * units)
    result = 8 * m * n_phenotypes * 9 * 2
    return plan + while_planning + scratch + integers + result + 4096


def warm_up() -> None:
    """Compile the kernel or load it from numba's cache; no later call compiles anything."""
    packed = np.zeros((1, 1), np.uint8)
    people, y = np.arange(4), np.zeros(4)
    class_sums_of_phenotypes(packed, [people] * 3, [y] * 3)
