"""Passes over the codes of dosages: which variants are hard calls after all, and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.genotypes.dosages import Dosages
from hlmm_scan.genotypes.packing import MISSING_BYTE, packed_width

Int = NDArray[np.int64]


@njit(nogil=True, cache=True)
def _whole(codes: Any, steps: int, whole: Any) -> None:  # pragma: no cover
    for j in range(len(codes)):
        whole[j] = True
        for i in range(codes.shape[1]):
            code = np.int64(codes[j, i])
            if code != 0 and code < steps and 2 * code != steps:
                whole[j] = False
                break


@njit(nogil=True, cache=True)
def _pack(codes: Any, rows: Any, steps: int, packed: Any) -> None:  # pragma: no cover
    for k in range(len(rows)):
        j = rows[k]
        for i in range(codes.shape[1]):
            code = np.int64(codes[j, i])
            if code <= steps:  # there is 01, missing, already
                bits = 3 if code == 0 else (0 if code == steps else 2)
                shift = 2 * (i & 3)
                byte = packed[k, i >> 2] & ~np.uint8(3 << shift)
                packed[k, i >> 2] = byte | np.uint8(bits << shift)


@njit(nogil=True, cache=True)
def _count(codes: Any, samples: Any, steps: int, counts: Any) -> None:  # pragma: no cover
    for j in range(len(codes)):
        called, total, squares, two, one = 0, 0, 0, 0, 0
        for i in range(len(samples)):
            code: Any = np.int64(codes[j, samples[i]])
            there: Any = code <= steps
            called += there
            code = code if there else 0
            total += code
            squares += code * code
            # The nearest whole copy; half-way, one copy: so that swapped alleles mirror it.
            high: Any = 2 * code > steps + steps // 2
            two += high
            one += not high and 2 * code >= steps - steps // 2
        counts[j, 0], counts[j, 1], counts[j, 2] = called, total, squares
        counts[j, 3], counts[j, 4], counts[j, 5] = called - one - two, one, two


def whole_copies(dosages: Dosages) -> NDArray[np.bool_]:
    """Return which variants hold whole copies only, shape (m,), whoever is analysed.

    Codes beyond two copies count as missing, here and everywhere.
    """
    whole = np.empty(len(dosages), np.bool_)
    _whole(dosages.codes, dosages.steps, whole)
    return whole


def packed_calls(dosages: Dosages, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return variants of whole copies as packed hard calls, shape (len(rows), ⌈n/4⌉)."""
    width = packed_width(dosages.codes.shape[1])
    packed = np.full((len(rows), width), MISSING_BYTE, np.uint8)
    _pack(dosages.codes, rows, dosages.steps, packed)
    return packed


def count_dosages(dosages: Dosages, samples: Int) -> Int:
    """Count and add up the dosages of chosen people.

    Parameters
    ----------
    dosages : Dosages
    samples : ndarray of int64, shape (n,)

    Returns
    -------
    ndarray of int64, shape (m, 6)
        People with a dosage, Σ codes and Σ codes² in them, and people whose nearest whole number
        of copies is 0, 1 and 2; exactly between two it is 1.
    """
    counts = np.empty((len(dosages), 6), np.int64)
    _count(dosages.codes, samples, dosages.steps, counts)
    return counts


# ----------------------------------------------------------------------------- plain references


def whole_copies_reference(dosages: Dosages) -> NDArray[np.bool_]:
    """Do what `whole_copies` does, in plain numpy."""
    codes, steps = dosages.codes.astype(np.int64), dosages.steps
    return np.asarray(((codes == 0) | (2 * codes == steps) | (codes >= steps)).all(axis=1))


def count_dosages_reference(dosages: Dosages, samples: Int) -> Int:
    """Do what `count_dosages` does, in plain numpy."""
    codes, steps = dosages.codes[:, samples].astype(np.int64), dosages.steps
    there = codes <= steps
    codes = np.where(there, codes, 0)
    two = there & (2 * codes > 1.5 * steps)
    one = there & ~two & (2 * codes >= 0.5 * steps)
    columns = [there, codes, codes**2, there & ~one & ~two, one, two]
    return np.stack([column.sum(axis=1) for column in columns], axis=1)
