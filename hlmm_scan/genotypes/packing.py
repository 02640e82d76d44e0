"""Two-bit packed hard calls: packing, unpacking and counting, four people to a byte.

The codes are PLINK's: person ``i`` sits in byte ``i // 4``, in bit ``2·(i mod 4)`` and the one
above, and reads 00 for two copies of A1, 01 for a missing call, 10 for one copy, 11 for none. Bits
beyond the last person hold 01, so that nothing which forgets to cut them off takes them for people.

Every function has two faces: a numba kernel and a plain numpy reference (``*_reference``) that the
tests hold it against.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

MISSING = -1
"""Copies of A1 that stand for a missing call in unpacked arrays."""

MISSING_BYTE = 0x55
"""Four missing calls."""

_COUNTED_AT_ONCE = 64  # rows that are filled up to whole words before they are counted

_COPIES_OF_CODE = np.array([2, MISSING, 1, 0], dtype=np.int8)
_CODE_OF_COPIES = np.array([3, 2, 0, 1], dtype=np.uint8)  # index -1 (missing) is the last one
_DOSAGE_OF_CODE = np.array([2.0, np.nan, 1.0, 0.0])
_COUNT_COLUMN_OF_CODE = np.array([2, 3, 1, 0], dtype=np.int64)


def packed_width(n_samples: int) -> int:
    """Return the bytes one variant takes: four people to a byte, rounded up."""
    return (n_samples + 3) // 4


def _checked(packed: NDArray[np.uint8], n_samples: int) -> NDArray[np.uint8]:
    """Return ``packed`` as the kernels want it, or raise ValueError on another shape or dtype."""
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != packed_width(n_samples):
        raise ValueError(
            f"packed calls of {n_samples} people are uint8 (variants, {packed_width(n_samples)}), "
            f"not {packed.dtype} {packed.shape}"
        )
    return np.ascontiguousarray(packed)


def _checked_samples(samples: ArrayLike, n_bits: int) -> NDArray[np.int64]:
    """Return ``samples`` as int64, or raise IndexError where one lies outside the packed row."""
    chosen = np.ascontiguousarray(samples, dtype=np.int64)
    if chosen.ndim != 1:
        raise ValueError(f"samples must be one-dimensional, not {chosen.ndim}-dimensional")
    # The kernels do not check bounds: an index out of range would read foreign memory.
    if chosen.size and (chosen.min() < 0 or chosen.max() >= n_bits):
        raise IndexError(f"samples must lie in 0..{n_bits - 1}")
    return chosen


# ------------------------------------------------------------------------------------- kernels


@numba.njit(nogil=True, cache=True)
def _pack(copies: Any, code_of_copies: Any, packed: Any) -> None:
    n_variants, n_samples = copies.shape
    for v in range(n_variants):
        for b in range(packed.shape[1]):
            byte = 0
            for k in range(4):
                i = 4 * b + k
                code = code_of_copies[copies[v, i]] if i < n_samples else 1
                byte |= code << (2 * k)
            packed[v, b] = byte


@numba.njit(nogil=True, cache=True)
def _whole(codes: Any, steps: int, whole: Any) -> None:
    for v in range(len(codes)):
        whole[v] = True
        for i in range(codes.shape[1]):
            code = np.int64(codes[v, i])
            if code != 0 and code < steps and 2 * code != steps:
                whole[v] = False
                break


@numba.njit(nogil=True, cache=True)
def _unpack(packed: Any, copies_of_code: Any, copies: Any) -> None:
    n_variants, n_samples = copies.shape
    whole = n_samples // 4
    for v in range(n_variants):
        for b in range(whole):
            byte = packed[v, b]
            copies[v, 4 * b] = copies_of_code[byte & 3]
            copies[v, 4 * b + 1] = copies_of_code[(byte >> 2) & 3]
            copies[v, 4 * b + 2] = copies_of_code[(byte >> 4) & 3]
            copies[v, 4 * b + 3] = copies_of_code[(byte >> 6) & 3]
        for i in range(4 * whole, n_samples):
            copies[v, i] = copies_of_code[(packed[v, whole] >> (2 * (i & 3))) & 3]


@numba.njit(nogil=True, cache=True)
def _unpack_samples(packed: Any, samples: Any, dosage_of_code: Any, dosages: Any) -> None:
    for v in range(packed.shape[0]):
        for j in range(samples.shape[0]):
            i = samples[j]
            dosages[v, j] = dosage_of_code[(packed[v, i >> 2] >> (2 * (i & 3))) & 3]


@numba.njit(nogil=True, cache=True)
def _ones(word: Any) -> Any:
    """Count the bits of a word that are set, in the way that LLVM knows an instruction for."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(nogil=True, cache=True)
def _count_words(words: Any, masks: Any, counts: Any) -> None:
    """Count the people of a mask, the lower bit of each, by the bits of their codes."""
    people = np.uint64(0)
    for k in range(len(masks)):
        people += _ones(masks[k])
    for v in range(words.shape[0]):
        lower = upper = both = np.uint64(0)
        for k in range(len(masks)):
            low = words[v, k] & masks[k]
            high = (words[v, k] >> np.uint64(1)) & masks[k]
            lower += _ones(low)
            upper += _ones(high)
            both += _ones(low & high)
        counts[v, 0] = both
        counts[v, 1] = upper - both
        counts[v, 2] = people - upper - lower + both
        counts[v, 3] = lower - both


@numba.njit(nogil=True, cache=True)
def _count_samples(packed: Any, samples: Any, column_of_code: Any, counts: Any) -> None:
    for v in range(packed.shape[0]):
        for j in range(samples.shape[0]):
            i = samples[j]
            counts[v, column_of_code[(packed[v, i >> 2] >> (2 * (i & 3))) & 3]] += 1


# --------------------------------------------------------------------------------- public faces


def pack(copies: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack copies of A1 into two bits each.

    Parameters
    ----------
    copies : ndarray of int8, shape (m, n)
        Copies of A1 per variant and person: 0, 1, 2, or -1 for a missing call.

    Returns
    -------
    ndarray of uint8, shape (m, ⌈n/4⌉)
        Padding bits hold the missing code.

    Raises
    ------
    ValueError
        If a value is none of -1, 0, 1, 2 or the array is not two-dimensional.
    """
    calls = _checked_copies(copies)
    packed = np.empty((calls.shape[0], packed_width(calls.shape[1])), np.uint8)
    _pack(calls, _CODE_OF_COPIES, packed)
    return packed


def pack_coded(codes: NDArray[np.uint16], copies: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack dosages into two bits each.

    Parameters
    ----------
    codes : ndarray of uint16, shape (m, n)
        Whole steps of a unit, as :class:`~hlmm_scan.genotypes.blocks.Dosages` has them.
    copies : ndarray of int8, shape (65536,)
        Copies of A1 for every code: 0, 1, 2, or -1 for a missing call.

    Returns
    -------
    ndarray of uint8, shape (m, ⌈n/4⌉)
    """
    packed = np.empty((codes.shape[0], packed_width(codes.shape[1])), np.uint8)
    _pack(codes, _CODE_OF_COPIES[copies], packed)
    return packed


def whole_rows(codes: NDArray[np.uint16], steps: int) -> NDArray[np.bool_]:
    """Return which variants can be packed without loss: those of whole copies.

    Parameters
    ----------
    codes : ndarray of uint16, shape (m, n)
    steps : int
        Code of two copies; codes beyond it are missing.

    Returns
    -------
    ndarray of bool, shape (m,)
    """
    whole = np.empty(len(codes), np.bool_)
    _whole(codes, steps, whole)
    return whole


def lower_bits(people: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the packed row in which the lower bit of each of some people is set."""
    bits = np.zeros((4 * packed_width(len(people)), 2), np.bool_)
    bits[: len(people), 0] = people
    return np.packbits(bits, bitorder="little")


def _checked_copies(copies: NDArray[np.int8]) -> NDArray[np.int8]:
    if copies.ndim != 2:
        raise ValueError(f"copies must be (variants, people), not {copies.ndim}-dimensional")
    if copies.size and (copies.min() < MISSING or copies.max() > 2):
        raise ValueError("copies of A1 must be 0, 1, 2, or -1 for a missing call")
    return np.ascontiguousarray(copies, dtype=np.int8)


def unpack(packed: NDArray[np.uint8], n_samples: int) -> NDArray[np.int8]:
    """Unpack every call.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, ⌈n/4⌉)
    n_samples : int
        People, n.

    Returns
    -------
    ndarray of int8, shape (m, n)
        Copies of A1; -1 where the call is missing.

    Raises
    ------
    ValueError
        If ``packed`` is not of that shape or not uint8.
    """
    rows = _checked(packed, n_samples)
    copies = np.empty((rows.shape[0], n_samples), np.int8)
    _unpack(rows, _COPIES_OF_CODE, copies)
    return copies


def unpack_samples(packed: NDArray[np.uint8], samples: ArrayLike) -> NDArray[np.float64]:
    """Decode the calls of chosen people as numbers to calculate with.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, width)
    samples : array_like of int, shape (k,)
        People to decode, in the order wanted; one may stand more than once.

    Returns
    -------
    ndarray of float64, shape (m, k)
        Copies of A1; NaN where the call is missing.

    Raises
    ------
    IndexError
        If a person lies outside the packed row.
    """
    rows = _checked(packed, 4 * packed.shape[1])
    chosen = _checked_samples(samples, 4 * rows.shape[1])
    dosages = np.empty((rows.shape[0], chosen.size))
    _unpack_samples(rows, chosen, _DOSAGE_OF_CODE, dosages)
    return dosages


def count_genotypes(
    packed: NDArray[np.uint8], n_samples: int, samples: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Count people by genotype.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, ⌈n/4⌉)
    n_samples : int
        People, n. Padding is never counted.
    samples : array_like of int, shape (k,), optional
        Count these people only; one that stands twice counts twice. Default everyone.

    Returns
    -------
    ndarray of int64, shape (m, 4)
        People with 0, 1 and 2 copies of A1, and people without a call.

    Raises
    ------
    ValueError
        If ``packed`` is not of that shape or not uint8.
    IndexError
        If a person is not among the n.
    """
    rows = _checked(packed, n_samples)
    counts = np.zeros((rows.shape[0], 4), np.int64)
    keep = np.zeros(4 * rows.shape[1], np.bool_)
    if samples is None:
        keep[:n_samples] = True
    else:
        chosen = _checked_samples(samples, n_samples)
        keep[chosen] = True
        if np.count_nonzero(keep) < chosen.size:  # somebody stands twice
            _count_samples(rows, chosen, _COUNT_COLUMN_OF_CODE, counts)
            return counts
    bits = np.zeros(-(-rows.shape[1] // 8) * 8, np.uint8)
    bits[: rows.shape[1]] = np.packbits(np.repeat(keep, 2), bitorder="little") & MISSING_BYTE
    masks = bits.view("<u8").astype(np.uint64)
    for start in range(0, len(rows), _COUNTED_AT_ONCE):
        part = rows[start : start + _COUNTED_AT_ONCE]
        words = np.zeros((len(part), len(bits)), np.uint8)
        words[:, : rows.shape[1]] = part
        _count_words(words.view("<u8"), masks, counts[start : start + len(part)])
    return counts


def set_padding(packed: NDArray[np.uint8], n_samples: int) -> None:
    """Set the bits beyond the last person to missing, in place.

    PLINK says they are zero, which would read as people with two copies.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, ⌈n/4⌉)
    n_samples : int
    """
    used = 2 * (n_samples % 4)
    if used:
        keep = (1 << used) - 1
        last = packed[:, -1]
        packed[:, -1] = (last & np.uint8(keep)) | np.uint8(MISSING_BYTE & ~keep)


# ----------------------------------------------------------------------------- plain references


def pack_reference(copies: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Do what `pack` does, in plain numpy."""
    calls = _checked_copies(copies)
    m, n = calls.shape
    codes = np.full((m, 4 * packed_width(n)), 1, np.uint8)
    codes[:, :n] = _CODE_OF_COPIES[calls]
    quads = codes.reshape(m, packed_width(n), 4)
    return np.asarray((quads << np.arange(0, 8, 2, dtype=np.uint8)).sum(axis=2), dtype=np.uint8)


def _codes_reference(packed: NDArray[np.uint8], n_samples: int) -> NDArray[np.uint8]:
    codes = (packed[:, :, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & np.uint8(3)
    return codes.reshape(packed.shape[0], 4 * packed.shape[1])[:, :n_samples]


def unpack_reference(packed: NDArray[np.uint8], n_samples: int) -> NDArray[np.int8]:
    """Do what `unpack` does, in plain numpy."""
    return _COPIES_OF_CODE[_codes_reference(_checked(packed, n_samples), n_samples)]


def unpack_samples_reference(packed: NDArray[np.uint8], samples: ArrayLike) -> NDArray[np.float64]:
    """Do what `unpack_samples` does, in plain numpy."""
    chosen = _checked_samples(samples, 4 * packed.shape[1])
    return _DOSAGE_OF_CODE[_codes_reference(packed, 4 * packed.shape[1])[:, chosen]]


def count_genotypes_reference(
    packed: NDArray[np.uint8], n_samples: int, samples: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Do what `count_genotypes` does, in plain numpy."""
    copies = unpack_reference(packed, n_samples)
    if samples is not None:
        copies = copies[:, _checked_samples(samples, n_samples)]
    columns = [(copies == value).sum(axis=1) for value in (0, 1, 2, MISSING)]
    return np.stack(columns, axis=1).astype(np.int64)


def pack_coded_reference(codes: NDArray[np.uint16], copies: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Do what `pack_coded` does, in plain numpy."""
    return pack_reference(copies[codes])


def whole_rows_reference(codes: NDArray[np.uint16], steps: int) -> NDArray[np.bool_]:
    """Do what `whole_rows` does, in plain numpy."""
    wide = codes.astype(np.int64)
    return np.asarray(((wide == 0) | (2 * wide == steps) | (wide >= steps)).all(axis=1))
