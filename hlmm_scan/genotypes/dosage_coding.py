"""Compiled passes over the dosages of one variant: from what a file stores to codes, and counts.

Each does in one pass what a dozen operations of numpy do in as many; the numpy forms stand beside
them (:mod:`~hlmm_scan.genotypes.readers.bgen_probabilities`, :func:`count_codes_reference`), and
the tests hold one to the other.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

MISSING_CODE = 65_535
"""Code of a person whose dosage is missing (:mod:`~hlmm_scan.genotypes.blocks`)."""

_MISSING_BIT = 0x80  # of a ploidy in BGEN


@numba.njit(nogil=True, cache=True)
def code_probabilities(ploidy: Any, stored: Any, codes: Any) -> Any:  # pragma: no cover
    """Code unphased 8-bit probabilities of people with two chromosomes, in steps of 1/255.

    Parameters
    ----------
    ploidy : ndarray of uint8, shape (n,)
        With the bit of who is missing.
    stored : ndarray of uint8, shape (2n,)
        P of two first alleles and of one, in turn.
    codes : ndarray of uint16, shape (n,)
        Filled: copies of the second allele in steps.

    Returns
    -------
    tuple of int
        People missing, the largest sum of both probabilities, and over the others the sums of the
        first, of both, and of squared codes.
    """
    missing = largest = first = both = squares = np.int64(0)
    for i in range(len(ploidy)):
        p0, p1 = np.int64(stored[2 * i]), np.int64(stored[2 * i + 1])
        if ploidy[i] >= _MISSING_BIT:
            missing += 1
            codes[i] = MISSING_CODE
            continue
        code = 510 - 2 * p0 - p1
        codes[i] = np.uint16(code)
        largest = max(largest, p0 + p1)
        first += p0
        both += p0 + p1
        squares += code * code
    return missing, largest, first, both, squares


@numba.njit(nogil=True, cache=True)
def code_copies(copies: Any, steps_each: Any, codes: Any) -> Any:  # pragma: no cover
    """Code copies of an allele to the nearest step; below 0 is missing.

    Parameters
    ----------
    copies : ndarray of float32, shape (n,)
    steps_each : float32
        Steps to a copy.
    codes : ndarray of uint16, shape (n,)
        Filled.

    Returns
    -------
    float32
        The largest of the copies.
    """
    largest = np.float32(0.0)
    for i in range(len(copies)):
        value = copies[i]
        largest = max(largest, value)
        codes[i] = np.uint16(np.rint(value * steps_each)) if value >= 0 else MISSING_CODE
    return largest


@numba.njit(nogil=True, cache=True)
def _count(codes: Any, steps: int, counts: Any) -> None:  # pragma: no cover
    # The nearest whole copy; half-way, that of two alike, as best guesses are.
    low, high = steps // 4 + 1, (3 * steps + 3) // 4
    for j in range(len(codes)):
        row = codes[j]
        one = two = called = total = np.int64(0)
        for i in range(len(row)):
            code = row[i]
            there = code <= steps
            called += there
            one += there & (code >= low)
            two += there & (code >= high)
            total += np.int64(code) * there
        counts[j, 0], counts[j, 1], counts[j, 2] = called - one, one - two, two
        counts[j, 3], counts[j, 4] = len(row) - called, total


def count_codes(codes: NDArray[np.uint16], steps: int) -> NDArray[np.int64]:
    """Count people nearest to 0, 1 and 2 copies and without data, and add up codes.

    Parameters
    ----------
    codes : ndarray of uint16, shape (m, n)
    steps : int
        Code of two copies; what is beyond has no data.

    Returns
    -------
    ndarray of int64, shape (m, 5)
    """
    counts = np.empty((len(codes), 5), np.int64)
    _count(codes, steps, counts)
    return counts


def count_codes_reference(codes: NDArray[np.uint16], steps: int) -> NDArray[np.int64]:
    """Do what `count_codes` does, in plain numpy."""
    there = codes <= steps
    known = np.where(there, codes, 0).astype(np.int64)
    two = there & (4 * known >= 3 * steps)
    one = there & ~two & (4 * known > steps)
    columns = [there & ~one & ~two, one, two, ~there, known]
    return np.stack([column.sum(axis=1) for column in columns], axis=1)
