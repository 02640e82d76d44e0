"""The pass over packed calls that adds up classes: tables by byte, one row added per variant.

What is added is any integers that go with the people, in pairs of columns: y and y² of a phenotype,
or y³ and y⁴. Columns of the same pair stand side by side in a table row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.kernels.sums.lanes import (
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

PEOPLE = 32
"""People in a word of codes."""

TILE = 16
"""Words of each variant in work at a time; a multiple of four."""

SKEW = 24  # words between rows of a tile: a power of two puts all of them into one cache set
LOW_BITS = np.uint64(0x5555555555555555)
LOW_HALF = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
ONE = np.uint64(1)


def packed_rows(packed: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return packed calls (m, `width`) as the passes take them: C order, read-only.

    One signature for all, so that nothing compiles twice.

    Raises
    ------
    ValueError
        If they are not of that shape or not uint8.
    """
    if packed.ndim != 2 or packed.dtype != np.uint8 or packed.shape[1] != width:
        raise ValueError(
            f"packed must be uint8 (variants, {width}), not {packed.dtype} {packed.shape}"
        )
    rows = np.ascontiguousarray(packed).view()
    rows.flags.writeable = False
    return rows


@njit(nogil=True, cache=True)
def aligned_zeros(size: int) -> Any:  # pragma: no cover
    """Return zeros from a 64-byte boundary on: no table row straddles two cache lines."""
    memory = np.zeros(size + 8, np.int64)
    start = (-(memory.ctypes.data // 8)) % 8
    return memory[start : start + size]


@njit(nogil=True, cache=True)
def copy_tile(
    flat: Any, width: int, first: int, size: int, start: int, words: int, tile: Any
) -> None:  # pragma: no cover
    """Copy the words start.. of `size` variants from `first` on into tile[word, variant]."""
    whole = width // BYTES
    for v in range(size):
        at = (first + v) * width + BYTES * start
        for k in range(min(words, whole - start)):
            tile[k, v] = word_at(flat, at + BYTES * k)
        if start + words > whole:  # the last word is cut short: fill it up with missing calls
            word = LOW_BITS
            for b in range(width - BYTES * whole):
                byte = np.uint64(flat[at + BYTES * (whole - start) + b])
                word ^= (byte ^ np.uint64(0x55)) << np.uint64(8 * b)
            tile[words - 1, v] = word


@njit(nogil=True, cache=True)
def fetch_ahead(
    flat: Any, width: int, first: int, size: int, start: int, k: int, low: int
) -> None:  # pragma: no cover
    """Fetch the next tile of one variant; all (k, low) of a tile together name all variants.

    The rows lie far apart, so that no hardware fetches ahead; with one row of sums per word and
    variant, waiting for memory would take a fifth of the time. With several it takes little, and
    asking early only costs.
    """
    ahead = (k * size + low) // TILE
    at = (first + ahead) * width + BYTES * (start + TILE)
    for line in range(BYTES * TILE // 64):
        fetch(flat, at + 64 * line + 63)


@njit(nogil=True, cache=True)
def count_copies(
    tile: Any, size: int, masks: Any, start: int, p: int, counts: Any
) -> None:  # pragma: no cover
    """Add people with one copy to the lower half of `counts`, with two to its upper half."""
    for k in range(0, TILE, 4):  # beyond the last word the mask is zero
        m0 = masks[start + k, p]
        m1 = masks[start + k + 1, p]
        m2 = masks[start + k + 2, p]
        m3 = masks[start + k + 3, p]
        for v in range(size):
            w0 = tile[k, v]
            w1 = tile[k + 1, v]
            w2 = tile[k + 2, v]
            w3 = tile[k + 3, v]
            h0 = w0 >> ONE
            h1 = w1 >> ONE
            h2 = w2 >> ONE
            h3 = w3 >> ONE
            one = ones(h0 & ~w0 & m0) + ones(h1 & ~w1 & m1)
            one += ones(h2 & ~w2 & m2) + ones(h3 & ~w3 & m3)
            two = ones(~(h0 | w0) & m0) + ones(~(h1 | w1) & m1)
            two += ones(~(h2 | w2) & m2) + ones(~(h3 | w3) & m3)
            counts[v] += one + (two << HALF)


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
            absent |= tile[k, v] & ~(tile[k, v] >> ONE)
        if absent & LOW_BITS == 0:
            continue
        n_found = 0
        for v in range(size):
            absent = tile[k, v] & ~(tile[k, v] >> ONE) & LOW_BITS
            found[n_found] = v
            n_found += absent != 0
        for i in range(n_found):
            v = found[i]
            absent = tile[k, v] & ~(tile[k, v] >> ONE) & LOW_BITS
            tile[k, v] |= absent << ONE
            absent &= anyone[start + k]
            for p in range(n_phenotypes):
                counts[v, p] += np.int64(ones(absent & masks[start + k, p]))
            while absent != 0:
                person = (start + k) * PEOPLE + (lowest(absent) >> 1)
                absent &= absent - ONE
                for c in range(0, columns, 4):
                    add_four(flat_weights, person * columns + c, flat_sums, v * columns + c)


@njit(nogil=True, cache=True)
def sum_block(
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

    Pairs of columns go two by two, as their table rows then fill one 512-bit register; a pair that
    is left over goes alone, on rows of half the size.

    Shapes: `packed` (m, width) bytes; `masks` (words, P), `anyone` (words,), `counts` (m, P, 2) and
    `missing_counts` (m, P) for P phenotypes; `weights` (people, columns), `sums` (m, pairs, 2, 2),
    by class and column, and `missing_sums` (m, columns) for any number of pairs. Weights have zeros
    behind the last pair, up to a multiple of four columns. The last two are added to.
    """
    m, width = packed.shape
    flat = packed.reshape(m * width)
    n_phenotypes, n_pairs, columns = masks.shape[1], sums.shape[1], weights.shape[1]
    flat_weights = weights.reshape(weights.size)
    n_words = (width + BYTES - 1) // BYTES
    tile = np.empty((TILE, block + SKEW), np.uint64)
    tile[:] = LOW_BITS
    tables = aligned_zeros(BYTES * max(4 * STRIDE_4, 8 * STRIDE_8))
    found = np.empty(block + 1, np.int64)
    ones = np.empty((n_phenotypes, block), np.uint64)
    n_units = (n_pairs + 1) // 2
    totals = aligned_zeros(n_units * block * 8)
    for first in range(0, m, block):
        size = min(block, m - first)
        last = first + size
        totals[:] = 0
        ones[:] = 0
        for start in range(0, n_words, TILE):
            words = min(TILE, n_words - start)
            copy_tile(flat, width, first, size, start, words, tile)
            for p in range(n_phenotypes):
                count_copies(tile, size, masks, start, p, ones[p])
            _take_out_missing(
                tile, size, words, masks, anyone, start, weights, found,
                missing_counts[first:last], missing_sums[first:last],
            )  # fmt: skip
            for unit in range(n_units):
                at_unit = 8 * block * unit
                for k in range(words):
                    if anyone[start + k] == 0:
                        continue
                    at = (start + k) * PEOPLE * columns + 4 * unit
                    if 2 * unit + 1 < n_pairs:
                        for b in range(BYTES):
                            fill_table_8(flat_weights, at + 4 * b * columns, columns, tables, b)
                        for low in range(0, size, TILE):
                            if n_units == 1:
                                fetch_ahead(flat, width, first, size, start, k, low)
                            for v in range(low, min(low + TILE, size)):
                                add_rows_8(tables, tile[k, v], totals, at_unit + 8 * v)
                    else:
                        for b in range(BYTES):
                            fill_table_4(flat_weights, at + 4 * b * columns, columns, tables, b)
                        for low in range(0, size, TILE):
                            fetch_ahead(flat, width, first, size, start, k, low)
                            for v in range(low, min(low + TILE, size)):
                                add_rows_4(tables, tile[k, v], totals, at_unit + 4 * v)
        for p in range(n_phenotypes):
            for v in range(size):
                counts[first + v, p, 0] = np.int64(ones[p, v] & LOW_HALF)
                counts[first + v, p, 1] = np.int64(ones[p, v] >> HALF)
        for pair in range(n_pairs):
            unit = pair // 2
            half = 4 if 2 * unit + 1 < n_pairs else 2
            for v in range(size):
                at = 8 * block * unit + 2 * half * v + 2 * (pair % 2)
                for c in range(2):
                    for column in range(2):
                        sums[first + v, pair, c, column] = totals[at + c * half + column]


def scratch_bytes(block: int, n_phenotypes: int, n_pairs: int) -> int:
    """Return the bytes of the working arrays of :func:`sum_block`."""
    units = (n_pairs + 1) // 2
    tables = BYTES * max(4 * STRIDE_4, 8 * STRIDE_8)
    return 8 * (TILE * (block + SKEW) + block * (8 * units + n_phenotypes + 1) + tables)
