"""Zeros and ones of people as bits of machine words, and how many people have two of them.

64 people are one word, and a processor counts the bits of several words at once. Such counts are
whole numbers: exact, in whatever order people come.

Two layouts: `rows` hold a person each, shape (n, c), so that any people can be picked out; `planes`
hold a property each, shape (64·c, words), so that two of them can be compared. The last word of a
plane is filled up with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Words = NDArray[np.uint64]

BITS = 64

_WORDS_AT_ONCE = 128
"""Of a plane: a thousand planes' stay in the cache of the second level."""

_STAGES = ((32, 0x00000000FFFFFFFF), (16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF),
           (4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333), (1, 0x5555555555555555))  # fmt: skip


def _count_bits(_: Any, word: Any) -> Any:  # pragma: no cover
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), codegen


_bits_set: Any = intrinsic(_count_bits)


def words_of(n: int) -> int:
    """Return how many words n people's bits take."""
    return -(-n // BITS)


def planes_of(rows: Words, people: NDArray[np.intp]) -> Words:
    """Turn rows of some people into planes.

    Parameters
    ----------
    rows : ndarray of uint64, shape (n, c)
    people : ndarray of intp, shape (m,)

    Returns
    -------
    ndarray of uint64, shape (64·c, ⌈m/64⌉)
        Bit i of word w of plane 64·k + b is bit b of word k of the row of person 64·w + i.
    """
    planes = np.empty((BITS * rows.shape[1], words_of(len(people))), np.uint64)
    _transpose(rows, people, _SHIFTS, _MASKS, planes)
    return planes


def planes_of_reference(rows: Words, people: NDArray[np.intp]) -> Words:
    """Do what `planes_of` does, in plain numpy."""
    bits = np.unpackbits(rows[people].view(np.uint8), axis=1, bitorder="little")
    padded = np.zeros((BITS * words_of(len(people)), bits.shape[1]), np.uint8)
    padded[: len(people)] = bits
    packed = np.packbits(np.ascontiguousarray(padded.T), axis=1, bitorder="little")
    return packed.view(np.uint64)


def add_shared(one: Words, other: Words, counts: NDArray[np.int32]) -> None:
    """Add, for every two planes, the number of people who have both.

    Parameters
    ----------
    one, other : ndarray of uint64, shapes (p, w) and (q, w)
        p and q multiples of 4. Where both are the same array, only the lower triangle is wanted,
        and what is above it is left undefined.
    counts : ndarray of int32, shape (p, q)
    """
    _add_shared(one, other, one is other, counts)


def add_shared_reference(one: Words, other: Words, counts: NDArray[np.int32]) -> None:
    """Do what `add_shared` does, in plain numpy; both triangles."""
    for row, plane in zip(counts, one, strict=True):
        row += np.bitwise_count(plane & other).sum(axis=1, dtype=np.int32)


_SHIFTS = np.array([shift for shift, _ in _STAGES], np.uint64)
_MASKS = np.array([mask for _, mask in _STAGES], np.uint64)


@njit(nogil=True, cache=True)
def _transpose(
    rows: Words, people: NDArray[np.intp], shifts: Words, masks: Words, planes: Words
) -> None:  # pragma: no cover
    """Transpose 64 × 64 bits at a time, by swapping halves of halves (Warren 2013, ch. 7-3)."""
    c = rows.shape[1]
    square = np.empty((BITS, c), np.uint64)
    for word in range(planes.shape[1]):
        first = BITS * word
        for i in range(BITS):
            if first + i < len(people):
                square[i] = rows[people[first + i]]
            else:
                square[i] = np.uint64(0)
        for stage in range(len(shifts)):
            shift, mask = shifts[stage], masks[stage]
            apart = np.intp(shift)
            for i in range(BITS):
                if i & apart:
                    continue
                upper, lower = square[i], square[i + apart]
                for k in range(c):
                    swapped = ((upper[k] >> shift) ^ lower[k]) & mask
                    lower[k] ^= swapped
                    upper[k] ^= swapped << shift
        for k in range(c):
            for bit in range(BITS):
                planes[BITS * k + bit, word] = square[bit, k]


@njit(nogil=True, cache=True)
def _add_shared(
    one: Words, other: Words, lower: bool, counts: NDArray[np.int32]
) -> None:  # pragma: no cover
    """Four planes by four at a time: every word that is loaded is compared with four."""
    for start in range(0, one.shape[1], _WORDS_AT_ONCE):
        stop = min(start + _WORDS_AT_ONCE, one.shape[1])
        for i in range(0, len(one), 4):
            last = i + 4 if lower else len(other)
            for j in range(0, last, 4):
                _add_tile(one, other, i, j, start, stop, counts)


@njit(nogil=True, cache=True, inline="always")
def _add_tile(
    one: Words, other: Words, i: int, j: int, start: int, stop: int, counts: NDArray[np.int32]
) -> None:  # pragma: no cover
    # Slices of whole rows, and all sixteen counts by name: else they leave the vector registers.
    a0, a1, a2, a3 = (
        one[i, start:stop], one[i + 1, start:stop], one[i + 2, start:stop], one[i + 3, start:stop]
    )  # fmt: skip
    b0, b1, b2, b3 = (
        other[j, start:stop],
        other[j + 1, start:stop],
        other[j + 2, start:stop],
        other[j + 3, start:stop],
    )
    n00 = n01 = n02 = n03 = n10 = n11 = n12 = n13 = np.uint64(0)
    n20 = n21 = n22 = n23 = n30 = n31 = n32 = n33 = np.uint64(0)
    for k in range(len(a0)):
        x, y, z, w = b0[k], b1[k], b2[k], b3[k]
        n00 += _bits_set(a0[k] & x)
        n01 += _bits_set(a0[k] & y)
        n02 += _bits_set(a0[k] & z)
        n03 += _bits_set(a0[k] & w)
        n10 += _bits_set(a1[k] & x)
        n11 += _bits_set(a1[k] & y)
        n12 += _bits_set(a1[k] & z)
        n13 += _bits_set(a1[k] & w)
        n20 += _bits_set(a2[k] & x)
        n21 += _bits_set(a2[k] & y)
        n22 += _bits_set(a2[k] & z)
        n23 += _bits_set(a2[k] & w)
        n30 += _bits_set(a3[k] & x)
        n31 += _bits_set(a3[k] & y)
        n32 += _bits_set(a3[k] & z)
        n33 += _bits_set(a3[k] & w)
    counts[i, j] += np.int32(n00)
    counts[i, j + 1] += np.int32(n01)
    counts[i, j + 2] += np.int32(n02)
    counts[i, j + 3] += np.int32(n03)
    counts[i + 1, j] += np.int32(n10)
    counts[i + 1, j + 1] += np.int32(n11)
    counts[i + 1, j + 2] += np.int32(n12)
    counts[i + 1, j + 3] += np.int32(n13)
    counts[i + 2, j] += np.int32(n20)
    counts[i + 2, j + 1] += np.int32(n21)
    counts[i + 2, j + 2] += np.int32(n22)
    counts[i + 2, j + 3] += np.int32(n23)
    counts[i + 3, j] += np.int32(n30)
    counts[i + 3, j + 1] += np.int32(n31)
    counts[i + 3, j + 2] += np.int32(n32)
    counts[i + 3, j + 3] += np.int32(n33)
