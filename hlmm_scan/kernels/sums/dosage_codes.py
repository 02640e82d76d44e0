"""Passes over the codes of dosages: counts and classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Int
from hlmm_scan.genotypes.blocks import MISSING_CODE, Dosages
from hlmm_scan.kernels.sums.code_lanes import CLASSES, CODES, STRIP, class_codes, describe_codes

CODES_AHEAD = 32
"""People whose codes are read before the next variant's, where variants are to lie side by side:
what is written to in the meantime stays in the first-level cache."""

TABLE_BYTES = 3 * 8 * (MISSING_CODE + 1)
"""Bound on the memory of :func:`copies_by_code`, in the making or beside a copy."""


def in_order(samples: Int) -> bool:
    """Whether people stand in the order of the dataset."""
    return bool((samples[1:] > samples[:-1]).all())


@njit(nogil=True, cache=True)
def read_codes(
    row: Any, samples: Any, ordered: bool, start: int, size: int, codes: Any
) -> None:  # pragma: no cover
    """Put the codes of so many people side by side; quickly where none of them is left out."""
    first = samples[start]
    if ordered and samples[start + size - 1] - first == size - 1:
        here = row[first : first + size]
        for i in range(size):
            codes[i] = here[i]
        return
    for i in range(size):
        codes[i] = row[np.uint64(samples[np.uint64(start + i)])]


@njit(nogil=True, cache=True)
def _gather(
    row: Any, samples: Any, ordered: bool, start: int, codes: Any
) -> int:  # pragma: no cover
    """Put the codes of a strip of people side by side, and none up to whole vectors of them."""
    size: Any = min(STRIP, len(samples) - start)
    read_codes(row, samples, ordered, start, size, codes)
    whole: int = -(-size // CODES) * CODES
    codes[size:whole] = MISSING_CODE
    return whole


@njit(nogil=True, cache=True)
def _count(
    codes: Any, samples: Any, ordered: bool, steps: int, counts: Any
) -> None:  # pragma: no cover
    # The nearest whole copy; half-way, one copy: so that swapped alleles mirror it.
    edges = np.array([0, (steps - steps // 2 + 1) // 2, (steps + steps // 2) // 2 + 1], np.uint16)
    strip, found = np.empty(STRIP, np.uint16), np.empty(7, np.int64)
    for j in range(len(codes)):
        called, total, squares, some, two = 0, 0, 0, 0, 0
        low, high = steps + 1, -1
        for start in range(0, len(samples), STRIP):
            size = _gather(codes[j], samples, ordered, start, strip)
            describe_codes(strip, size, edges, steps, found)
            called, some, two = called + found[0], some + found[1], two + found[2]
            total, squares = total + found[3], squares + found[4]
            if found[0] > 0:
                low, high = min(low, found[5]), max(high, found[6])
        counts[j, 0], counts[j, 1], counts[j, 2] = called, total, squares
        counts[j, 3], counts[j, 4], counts[j, 5] = called - some, some - two, two
        counts[j, 6], counts[j, 7] = low, high


@njit(nogil=True, cache=True)
def _classify(
    codes: Any,
    rows: Any,
    samples: Any,
    ordered: bool,
    steps: int,
    ranges: Any,
    people: Any,
    copies: Any,
) -> None:  # pragma: no cover
    strip, found = np.empty(STRIP, np.uint16), np.empty(2 * CLASSES, np.int64)
    edges = np.empty(CLASSES, np.uint16)
    total = np.empty(2 * CLASSES, np.int64)
    for k in range(len(rows)):
        low, high = ranges[k, 0], ranges[k, 1]
        if high < low:
            continue
        for c in range(CLASSES):
            # The first code of class c: ⌊(code − low)·classes/width⌋ = c.
            edges[c] = low + (c * (high - low + 1) + CLASSES - 1) // CLASSES
        total[:] = 0
        for start in range(0, len(samples), STRIP):
            size = _gather(codes[rows[k]], samples, ordered, start, strip)
            class_codes(strip, size, edges, steps, found)
            total += found
        for c in range(CLASSES):
            some, added = total[c], total[CLASSES + c]
            if c + 1 < CLASSES:
                some -= total[c + 1]
                added -= total[CLASSES + c + 1]
            people[k, c] = some
            if some > 0:
                copies[k, c] = added * (2.0 / steps / some)


@njit(nogil=True, cache=True)
def _classify_finely(
    codes: Any, rows: Any, samples: Any, steps: int, ranges: Any, people: Any, copies: Any
) -> None:  # pragma: no cover
    classes = people.shape[1]
    number, total = np.empty((2, classes), np.int64)
    table = np.empty(steps + 1, np.uint8)
    for k in range(len(rows)):
        low, high = ranges[k, 0], ranges[k, 1]
        if high < low:
            continue
        # A division for each code, where there are fewer of them than people.
        tabled = high - low < len(samples)
        if tabled:
            for step in range(low, high + 1):
                table[step] = (step - low) * classes // (high - low + 1)
        number[:] = 0
        total[:] = 0
        own = codes[rows[k]]
        for i in range(len(samples)):
            code: Any = np.int64(own[samples[i]])
            if code <= steps:
                c = np.int64(table[code]) if tabled else (code - low) * classes // (high - low + 1)
                number[c] += 1
                total[c] += code
        for c in range(classes):
            people[k, c] = number[c]
            if number[c] > 0:
                copies[k, c] = total[c] * (2.0 / steps / number[c])


@njit(nogil=True, cache=True)
def _third_and_fourth(
    codes: Any, rows: Any, samples: Any, steps: int, centre: Any, out: Any
) -> None:  # pragma: no cover
    for k in range(len(rows)):
        own, third, fourth = codes[rows[k]], 0.0, 0.0
        for i in range(len(samples)):
            code: Any = np.int64(own[samples[i]])
            if code <= steps:
                h = code * (2.0 / steps) - centre[k]
                cube = h * h * h
                third += cube
                fourth += cube * h
        out[k, 0], out[k, 1] = third, fourth


def third_and_fourth(
    dosages: Dosages, rows: NDArray[np.intp], samples: Int, centre: Float
) -> Float:
    """Return Σh³ and Σh⁴ of some variants, shape (k, 2), h copies less `centre`, shape (k,)."""
    out = np.empty((len(rows), 2))
    _third_and_fourth(dosages.codes, rows, samples, dosages.steps, centre, out)
    return out


def copies_by_code(steps: int) -> Float:
    """Return the copies that each code stands for, shape (steps + 1,): a division less for each."""
    return np.arange(steps + 1) * 2.0 / steps


def count_dosages(dosages: Dosages, samples: Int) -> Int:
    """Count and add up the dosages of chosen people.

    Parameters
    ----------
    dosages : Dosages
    samples : ndarray of int64, shape (n,)

    Returns
    -------
    ndarray of int64, shape (m, 8)
        People with a dosage, Σ codes and Σ codes² in them; people whose nearest whole number of
        copies is 0, 1 and 2 (exactly between two it is 1); the least and the largest code, the
        former above the latter where nobody has a dosage.
    """
    counts = np.empty((len(dosages), 8), np.int64)
    _count(dosages.codes, samples, in_order(samples), dosages.steps, counts)
    return counts


def dosage_classes(
    dosages: Dosages,
    rows: NDArray[np.intp],
    samples: Int,
    ranges: Int,
    classes: int = CLASSES,
) -> tuple[Float, Float]:
    """Put the dosages of some variants into classes of equal width over their range.

    Parameters
    ----------
    dosages : Dosages
    rows : ndarray of intp, shape (k,)
    samples : ndarray of int64, shape (n,)
    ranges : ndarray of int64, shape (k, 2)
        The least and the largest code of each variant in these people.
    classes : int, default 7
        At most 255; others than seven take twice as long.

    Returns
    -------
    people, copies : ndarray, shape (k, classes)
        People of each class and the mean of their copies, 0 for nobody's.
    """
    people, copies = np.zeros((2, len(rows), classes))
    if classes == CLASSES:
        ordered = in_order(samples)
        _classify(dosages.codes, rows, samples, ordered, dosages.steps, ranges, people, copies)
    else:
        _classify_finely(dosages.codes, rows, samples, dosages.steps, ranges, people, copies)
    return people, copies


# ----------------------------------------------------------------------------- plain references


def count_dosages_reference(dosages: Dosages, samples: Int) -> Int:
    """Do what `count_dosages` does, in plain numpy."""
    codes, steps = dosages.codes[:, samples].astype(np.int64), dosages.steps
    there = codes <= steps
    codes = np.where(there, codes, 0)
    two = there & (2 * codes > 1.5 * steps)
    one = there & ~two & (2 * codes >= 0.5 * steps)
    columns = [there, codes, codes**2, there & ~one & ~two, one, two]
    ends = [np.where(there, codes, steps + 1).min(axis=1, initial=steps + 1)]
    ends.append(np.where(there, codes, -1).max(axis=1, initial=-1))
    return np.stack([*(column.sum(axis=1) for column in columns), *ends], axis=1)


def dosage_classes_reference(
    dosages: Dosages,
    rows: NDArray[np.intp],
    samples: Int,
    ranges: Int,
    classes: int = CLASSES,
) -> tuple[Float, Float]:
    """Do what `dosage_classes` does, in plain numpy."""
    people, copies = np.zeros((2, len(rows), classes))
    for k, (row, (low, high)) in enumerate(zip(rows, ranges, strict=True)):
        codes = dosages.codes[row, samples].astype(np.int64)
        codes = codes[codes <= dosages.steps]
        own = (codes - low) * classes // (high - low + 1)
        people[k] = np.bincount(own, minlength=classes)
        total = np.bincount(own, weights=codes, minlength=classes)
        some = people[k] > 0
        copies[k, some] = total[some] * (2.0 / dosages.steps / people[k, some])
    return people, copies
