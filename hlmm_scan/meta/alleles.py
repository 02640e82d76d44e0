"""Alleles of variants as numbers: which two they are, which is counted, on which strand.

Two cohorts have the same variant where they name the same two alleles at one place, in either
order. Single bases may also stand on the other strand; A/T and C/G read the same on both, so that
their names alone do not tell which allele is counted.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_BASES = "ACGT"
_COMPLEMENT = (3, 2, 1, 0)
_LONGER = np.int64(1 << 61)
"""Bit of the codes of pairs that are not two single bases."""


class Pairs(NamedTuple):
    """The two alleles of m variants.

    Attributes
    ----------
    code : ndarray of int64, shape (m,)
        The same for the same two alleles, whichever is counted and on whichever strand.
    sign : ndarray of float64, shape (m,)
        1 or −1: −1 where effects are those of the other allele of what `code` stands for.
    reverse : ndarray of bool, shape (m,)
        Whether the names are those of the strand that `code` does not stand for.
    palindromic : ndarray of bool, shape (m,)
        Whether the other strand has the same two names.
    """

    code: NDArray[np.int64]
    sign: NDArray[np.float64]
    reverse: NDArray[np.bool_]
    palindromic: NDArray[np.bool_]


def _reading(effect: int, other: int, *, strands: bool) -> tuple[int, int, bool, bool]:
    """Return code, sign, strand and palindromicity of two bases: the smallest of their names."""
    names = [(effect, other, 1, False), (other, effect, -1, False)]
    palindromic = effect == _COMPLEMENT[other]
    if strands and not palindromic:
        names += [(_COMPLEMENT[e], _COMPLEMENT[o], sign, True) for e, o, sign, _ in names]
    first, second, sign, reverse = min(names)
    return 4 * first + second, sign, reverse, palindromic


_TABLES = {
    strands: [_reading(e, o, strands=strands) for e, o in product(range(4), repeat=2)]
    for strands in (False, True)
}


def pairs(effect: NDArray[np.object_], other: NDArray[np.object_], *, same_strand: bool) -> Pairs:
    """Return what two columns of alleles stand for.

    Parameters
    ----------
    effect, other : ndarray of object (str), shape (m,)
        The allele counted and the other one, in upper or lower case.
    same_strand : bool
        Whether all names are of one strand, so that A/G and T/C are two variants.
    """
    first, second = _codes(effect), _codes(other)
    bases = (first < 4) & (second < 4)
    table = _TABLES[not same_strand]
    at = np.where(bases, 4 * first + second, 0)
    code, sign, reverse, palindromic = (np.array(column)[at] for column in zip(*table, strict=True))
    swapped = first > second
    low, high = np.where(swapped, second, first), np.where(swapped, first, second)
    with np.errstate(over="ignore"):
        mixed = (low * np.int64(0x1000003) ^ high) & (_LONGER - 1) | _LONGER
    return Pairs(
        np.where(bases, code, mixed).astype(np.int64),
        np.where(bases, sign, np.where(swapped, -1, 1)).astype(np.float64),
        bases & reverse,
        bases & palindromic,
    )


def _codes(alleles: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return 0 to 3 for single bases, for others 60 bits of a digest."""
    at, different = pd.factorize(alleles)
    return np.array([_code(str(allele)) for allele in different], np.int64)[at]


@lru_cache(maxsize=1 << 16)
def _code(allele: str) -> int:
    upper = allele.upper()
    if len(upper) == 1 and upper in _BASES:
        return _BASES.index(upper)
    return 4 + (int.from_bytes(blake2b(upper.encode(), digest_size=8).digest(), "big") >> 4)
