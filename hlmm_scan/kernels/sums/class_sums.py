"""Sums within genotype classes, at the speed of memory.

Hard calls enter the likelihood of a variant only through n, Σy and Σy² of each genotype class
(math.md §3), and its sandwich covariance through Σy³ and Σy⁴ as well. Four people stand in one byte
of the packed calls, so a table by byte holds every sum that the four can contribute, and one row of
it is added per variant; nothing is unpacked.

Sums are kept in 64-bit integers: each power of y is rounded once per person, to a quantum just
large enough that the sum over everybody fits (2⁻⁴⁵ standard deviations at n = 100,000; no worse
than what float64 loses in adding up). Integer addition is exact in any order. So a variant's
numbers cannot depend on the variants and phenotypes beside it, on the powers asked for, on the
blocking or on the machine, and the class that is not added up follows from the totals without
cancellation, however rare it is.

The quantum of y⁴ is n·kurtosis·2⁻⁶² at most, in units of a standardised y. Sandwich covariances
have 11 digits on log-normal traits and 7 on Cauchy ones, whose kurtosis is near n. A mean μ
standard deviations off 0 costs a factor of μ⁴.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Int
from hlmm_scan.kernels.sums.class_sums_pass import (
    PEOPLE,
    TILE,
    packed_rows,
    scratch_bytes,
    sum_block,
)
from hlmm_scan.kernels.sums.lanes import BYTES

Words = NDArray[np.uint64]

_BLOCK = 1024  # variants in work at a time: their tile and accumulators stay in the L2 cache
_BLOCK_MANY = 2048  # the same for several phenotypes, which build more tables per block
_HEADROOM = 62  # bits that the sum of magnitudes over everybody may take
_MAX_EXPONENT = 1000  # 2⁻¹⁰⁰⁰ is still a normal number
_ONE = np.uint64(1)


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
        y, y², … of each phenotype in quanta, zero for people not analysed; zeros up to a multiple
        of four columns.
    totals : ndarray of int64, shape (P, 1 + powers)
        n, Σy, Σy², … over everybody, in quanta but for n.
    quanta : ndarray, shape (P, powers)
        Quanta of y, y², …, powers of two.
    """

    width: int
    masks: Words
    anyone: Words
    weights: Int
    totals: Int
    quanta: Float

    def sums(self, packed: NDArray[np.uint8]) -> Float:
        """Sum 1 and the powers of y within the genotype classes of each variant.

        Parameters
        ----------
        packed : ndarray of uint8, shape (m, width)
            PLINK codes: 0 two effect alleles, 1 missing, 2 one, 3 none. Anything behind the last
            person is ignored.

        Returns
        -------
        ndarray, shape (P, m, 3, 1 + powers)
            Phenotype × variant × copies of the effect allele × (n, Σy, Σy²[, Σy³, Σy⁴]).

        Raises
        ------
        ValueError
            If `packed` is not of that shape or not uint8.
        """
        rows = packed_rows(packed, self.width)
        m, (n_phenotypes, powers) = len(rows), self.quanta.shape
        n_pairs = n_phenotypes * powers // 2
        counts = np.empty((m, n_phenotypes, 2), np.int64)
        sums = np.empty((m, n_pairs, 2, 2), np.int64)
        missing_counts = np.zeros((m, n_phenotypes), np.int64)
        missing_sums = np.zeros((m, self.weights.shape[1]), np.int64)
        if m and n_phenotypes:
            sum_block(
                rows, self.masks, self.anyone, self.weights, _block(m, n_pairs),
                counts, sums, missing_counts, missing_sums,
            )  # fmt: skip
        by_class = np.empty((m, n_phenotypes, 3, 1 + powers), np.int64)
        by_class[:, :, 1:, 0] = counts
        for pair in range(powers // 2):  # within a phenotype
            columns = slice(1 + 2 * pair, 3 + 2 * pair)
            by_class[:, :, 1:, columns] = sums[:, pair :: powers // 2]
        by_class[:, :, 0, 0] = -missing_counts
        given = missing_sums[:, : 2 * n_pairs].reshape(m, n_phenotypes, powers)
        by_class[:, :, 0, 1:] = -given
        by_class[:, :, 0] += self.totals
        by_class[:, :, 0] -= by_class[:, :, 1]
        by_class[:, :, 0] -= by_class[:, :, 2]
        units = np.column_stack([np.ones(n_phenotypes), self.quanta])
        return np.ascontiguousarray((by_class * units[:, None, :]).transpose(1, 0, 2, 3))


def plan_class_sums(
    width: int, samples: Sequence[Int], ys: Sequence[Float], powers: int = 2
) -> ClassSumsPlan:
    """Prepare sums over any number of variants.

    Parameters
    ----------
    width : int
        Bytes per variant.
    samples : sequence of ndarray of int64, shape (n_p,)
        People analysed for each phenotype, in any order, none of them twice.
    ys : sequence of ndarray, shape (n_p,)
        Their phenotypes; best of mean near 0.
    powers : int, default 2
        Highest power of y to sum, 2 or 4; the sandwich covariance needs 4.

    Returns
    -------
    ClassSumsPlan

    Raises
    ------
    IndexError
        If a person lies outside the packed row.
    ValueError
        If shapes differ, a person stands twice, a phenotype or the sum of one of its powers is not
        finite, or `powers` is neither 2 nor 4.
    """
    if powers not in (2, 4):
        raise ValueError(f"powers must be 2 or 4, not {powers}")
    if len(samples) != len(ys):
        raise ValueError(f"{len(samples)} sets of people for {len(ys)} phenotypes")
    n_phenotypes = len(ys)
    words = _padded_words(width)
    present = np.zeros((words * PEOPLE, n_phenotypes), np.bool_)
    weights = np.zeros((words * PEOPLE, _columns(n_phenotypes, powers)), np.int64)
    totals = np.empty((n_phenotypes, 1 + powers), np.int64)
    quanta = np.empty((n_phenotypes, powers))
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
        values = np.ones_like(y)
        for power in range(powers):
            with np.errstate(over="ignore"):  # refused on the next line
                values = values * y
            whole, quanta[p, power] = quantised(values, p)
            weights[people, powers * p + power] = whole
            totals[p, 1 + power] = whole.sum()
    places = _ONE << np.arange(0, 2 * PEOPLE, 2, dtype=np.uint64)
    by_word = present.reshape(words, PEOPLE, n_phenotypes)
    masks = np.zeros((words, n_phenotypes), np.uint64)
    for i in range(PEOPLE):
        masks |= by_word[:, i] * places[i]
    anyone = np.bitwise_or.reduce(masks, axis=1)
    return ClassSumsPlan(width, masks, anyone, weights, totals, quanta)


def quantised(values: Float, p: int = 0) -> tuple[Int, float]:
    """Round values to a quantum just large enough that any sum of them fits into 64 bits.

    Parameters
    ----------
    values : ndarray, shape (n,)
    p : int, default 0
        The phenotype, for the error.

    Returns
    -------
    ndarray of int64, shape (n,)
        Whole quanta.
    float
        The quantum, a power of two.

    Raises
    ------
    ValueError
        If their sum is not finite.
    """
    exponent = _exponent(float(np.abs(values).sum()), p)
    return np.rint(np.ldexp(values, exponent)).astype(np.int64), math.ldexp(1.0, -exponent)


def _exponent(magnitude: float, p: int) -> int:
    """Return the power of two that takes a sum of magnitudes to the bits it may have."""
    if not math.isfinite(magnitude):
        raise ValueError(f"phenotype {p} or the sum of one of its powers is not finite")
    if magnitude == 0.0:
        return 0
    return min(_HEADROOM - math.frexp(magnitude)[1], _MAX_EXPONENT)


def _padded_words(width: int) -> int:
    """Words per variant, up to whole tiles."""
    return -(-width // (BYTES * TILE)) * TILE


def _columns(n_phenotypes: int, powers: int) -> int:
    """Columns of weights, up to a multiple of four."""
    return -(-n_phenotypes * powers // 4) * 4


def _block(m: int, n_pairs: int) -> int:
    return max(1, min(m, _BLOCK if n_pairs <= 2 else _BLOCK_MANY))


def class_sums(packed: NDArray[np.uint8], samples: Int, y: Float, powers: int = 2) -> Float:
    """Sum 1 and the powers of y within the genotype classes of each variant.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, width)
        PLINK codes: 0 two effect alleles, 1 missing, 2 one, 3 none.
    samples : ndarray of int64, shape (n,)
        People analysed, in any order, none of them twice.
    y : ndarray, shape (n,)
    powers : int, default 2
        Highest power of y to sum, 2 or 4.

    Returns
    -------
    ndarray, shape (m, 3, 1 + powers)
        Variant × copies of the effect allele × (n, Σy, Σy²[, Σy³, Σy⁴]).

    Notes
    -----
    math.md §3. Where several blocks of variants follow, make a :func:`plan_class_sums` once.
    """
    sums: Float = plan_class_sums(packed.shape[1], [samples], [y], powers).sums(packed)[0]
    return sums


def class_sums_of_phenotypes(
    packed: NDArray[np.uint8], samples: Sequence[Int], ys: Sequence[Float], powers: int = 2
) -> Float:
    """Sum 1 and the powers of y within genotype classes, for several phenotypes.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, width)
        PLINK codes: 0 two effect alleles, 1 missing, 2 one, 3 none.
    samples : sequence of ndarray of int64, shape (n_p,)
        People analysed for each phenotype, in any order, none of them twice.
    ys : sequence of ndarray, shape (n_p,)
    powers : int, default 2
        Highest power of y to sum, 2 or 4.

    Returns
    -------
    ndarray, shape (P, m, 3, 1 + powers)
        Phenotype × variant × copies of the effect allele × (n, Σy, Σy²[, Σy³, Σy⁴]), bit for bit
        what :func:`class_sums` returns for the phenotype alone.
    """
    return plan_class_sums(packed.shape[1], samples, ys, powers).sums(packed)


def work_bytes(m: int, n_total: int, n_phenotypes: int, powers: int = 2) -> int:
    """Bound the memory of a plan and one call of its sums, result included, packed calls not.

    Parameters
    ----------
    m : int
        Variants per call.
    n_total : int
        People in the packed calls.
    n_phenotypes : int
    powers : int, default 2
        Highest power of y to sum, 2 or 4.

    Returns
    -------
    int
        Bytes.
    """
    words = _padded_words(-(-n_total // 4))
    columns, n_pairs = _columns(n_phenotypes, powers), n_phenotypes * powers // 2
    plan = words * (PEOPLE * (8 * columns + n_phenotypes) + 8 * (2 * n_phenotypes + 1))
    while_planning = n_total * 5 * 8
    scratch = scratch_bytes(_block(m, n_pairs), n_phenotypes, n_pairs)
    entries = 3 * (1 + powers)  # of one variant and phenotype
    integers = 8 * m * (n_phenotypes * (3 + 2 * powers + entries) + columns)
    result = 8 * m * n_phenotypes * entries * 2
    return plan + while_planning + scratch + integers + result + 4096
