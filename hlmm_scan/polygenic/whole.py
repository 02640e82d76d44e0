"""Numbers rounded to a grid on which sums are exact, so that no order of summing changes a bit.

A product of whole numbers below 2^a and 2^b is below 2^(a+b), and a double holds every whole number
up to 2^53: a sum of s such products is exact in any order, in blocks of any size, with any library
and beside anything else, as long as a + b + log2(s) <= 53. So genotypes are whole 32nds of a copy,
and whatever they are multiplied by is rounded to as many bits as that leaves; see DESIGN.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float

Exponents = NDArray[np.int64]

DOUBLE_BITS = 53
SINGLE_BITS = 24

STEPS = 32
"""Steps of a genotype's code in one copy of the effect allele."""

CODE_BITS = 7
"""Codes of two copies are 64, just below 2^7."""

PREDICTOR_BITS = 15
"""Predictors of level 0 are int16."""

AT_ONCE = 4096
"""People whose products of codes are summed in single precision: 64 * 64 * 4096 = 2^24."""


def bits_left(other: int, count: int) -> int:
    """Return how many bits a factor may have beside one of `other` bits, in a sum of `count`."""
    return DOUBLE_BITS - other - max(count - 1, 1).bit_length()


def whole(values: Float, bits: int) -> tuple[Float, Exponents]:
    """Scale each column by a power of two and round it to whole numbers.

    Parameters
    ----------
    values : ndarray of float64, shape (n, ...)
        Finite. Columns are along the first axis.
    bits : int

    Returns
    -------
    whole : ndarray of float64, shape (n, ...)
        Whole numbers of at most 2^bits.
    exponent : ndarray of int64, shape (...)
        ``np.ldexp(whole, exponent)`` are the values; 0 of columns of zeros.
    """
    largest = np.abs(values).max(axis=0, initial=0.0)
    exponent = np.where(largest > 0, np.frexp(largest)[1].astype(np.int64) - bits, 0)
    return np.rint(np.ldexp(values, -exponent)), exponent


def gram(codes: NDArray[np.uint8]) -> Float:
    """Return sums of products of genotype codes over people, exactly.

    Parameters
    ----------
    codes : ndarray of uint8, shape (m, n)
        At most 2 * STEPS.

    Returns
    -------
    ndarray of float64, shape (m, m)
    """
    total = np.zeros((len(codes), len(codes)))
    for start in range(0, codes.shape[1], AT_ONCE):
        some = codes[:, start : start + AT_ONCE].astype(np.float32)
        total += some @ some.T
    return total


def gram_of_predictors(predictors: NDArray[np.int16]) -> Float:
    """Return sums of products of predictors over people, exactly, shape (J, J)."""
    total = np.zeros((len(predictors), len(predictors)))
    for start in range(0, predictors.shape[1], AT_ONCE):
        some = predictors[:, start : start + AT_ONCE].astype(np.float64)
        total += some @ some.T
    return total


def product(factors: NDArray[np.uint8] | NDArray[np.int16], columns: Float) -> Float:
    """Return factors times columns, exactly.

    Parameters
    ----------
    factors : ndarray of uint8 or int16, shape (m, n)
        Codes or predictors.
    columns : ndarray of float64, shape (n, q)
        Whole numbers of :func:`bits_left`.

    Returns
    -------
    ndarray of float64, shape (m, q)
    """
    total = np.zeros((len(factors), columns.shape[1]))
    for start in range(0, factors.shape[1], AT_ONCE):
        some = slice(start, start + AT_ONCE)
        total += factors[:, some].astype(np.float64) @ columns[some]
    return total


def combination(factors: NDArray[np.uint8] | NDArray[np.int16], weights: Float) -> Float:
    """Return weighted sums of factors for each person, exactly.

    Parameters
    ----------
    factors : ndarray of uint8 or int16, shape (m, n)
    weights : ndarray of float64, shape (m, q)
        Whole numbers of :func:`bits_left`.

    Returns
    -------
    ndarray of float64, shape (n, q)
    """
    found = np.empty((factors.shape[1], weights.shape[1]))
    for start in range(0, factors.shape[1], AT_ONCE):
        some = slice(start, start + AT_ONCE)
        np.matmul(factors[:, some].T.astype(np.float64), weights, out=found[some])
    return found
