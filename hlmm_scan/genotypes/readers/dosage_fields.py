"""From what a VCF says of one variant to copies of the effect allele, whoever stores it.

Four fields may say it, of which the first that has a number for a person counts: DS, the expected
copies; HDS, the same haplotype by haplotype; GP, probabilities of the genotypes; GT, the call.
None of them is taken for what it should be: a value that it cannot have is an error that names the
person.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.calls import WrongValueError, copies_of_alleles, haploid, information

CALLS = "GT"
DOSAGE_FIELDS = ("DS", "HDS", "GP")
"""By preference."""

PHRED = "GP (phred-scaled)"
"""How GP is called where it has been one: VCF 4.1 and 4.2 define it so, but few write it."""

_ROUNDING = 1e-3  # of numbers in a text file
_OFF_ONE = 0.05  # of three probabilities of two digits, or of what a program cut off
_OFF_HUNDRED = 1.0  # of percentages; phred-scaled numbers of everybody sum to one by accident only
_PHRED_OF_BEST = 5.0  # the most probable of three genotypes has 1/3 or more, 4.8
_LEAST_PHRED = 1.5  # of the least probable one, unless they are alike


class Copies(NamedTuple):
    """Copies of the effect allele at one variant.

    Attributes
    ----------
    copies : ndarray of float64, shape (n,)
        NaN where missing; a haploid person's one allele counts twice.
    info : float
        :func:`~hlmm_scan.genotypes.calls.information` of GP, where there is any, else NaN.
    field : str
        Which field they were taken from: the best one in which somebody has a number.
    """

    copies: Float
    info: float
    field: str


class Probabilities(NamedTuple):
    """What GP says of each person at one variant.

    Attributes
    ----------
    mean, square : ndarray of float64, shape (n,)
        Expected copies and squared copies, NaN where there is nothing; of haploid people, of one.
    one : ndarray of bool, shape (n,)
        Who is haploid.
    phred : bool
        Whether the numbers were phred-scaled.
    """

    mean: Float
    square: Float
    one: NDArray[np.bool_]
    phred: bool


def copies_of_variant(
    alleles: NDArray[np.integer] | None,
    n_samples: int,
    ds: Float | None = None,
    hds: Float | None = None,
    gp: Float | None = None,
) -> Copies:
    """Return the copies that the fields of one variant say.

    Parameters
    ----------
    alleles : ndarray of integers, shape (n, ploidy), or None
        See :func:`~hlmm_scan.genotypes.calls.copies_of_alleles`; None where there is no GT.
    n_samples : int
    ds : ndarray, shape (n,) or (n, 1), optional
    hds : ndarray, shape (n, 1 or 2), optional
    gp : ndarray, shape (n, 2 or 3), optional
        NaN where there is nothing.

    Raises
    ------
    WrongValueError
        If somebody has a value that the field cannot have, or not as many as it must have.
    ValueError
        If a field has too many numbers a person.
    """
    one = two = np.zeros(n_samples, np.bool_)
    copies = np.full(n_samples, np.nan)
    info, field = float("nan"), CALLS
    if alleles is not None:
        hard, one = copies_of_alleles(alleles), haploid(alleles)
        two = ~one & (alleles[:, 0] >= 0)
        copies = np.where(hard >= 0, hard, np.nan)
    if gp is not None:
        _refuse("GP", gp, two & (_counts(gp) == 2), "too few for a call of two chromosomes")
        said = probabilities(gp, one)
        info = information(said.mean, said.square, np.where(said.one, 1, 2))
        copies, found = _over(copies, np.where(said.one, 2 * said.mean, said.mean))
        field = (PHRED if said.phred else "GP") if found else field
    if hds is not None:
        _refuse("HDS", hds, two & (_counts(hds) == 1), "too few for a call of two chromosomes")
        copies, found = _over(copies, _of_haplotypes(hds))
        field = "HDS" if found else field
    if ds is not None:
        if ds.ndim == 2:
            why = "more than one number of a person; decimals need a point"
            _refuse("DS", ds, _counts(ds[:, 1:]) > 0, why)
            ds = ds[:, 0]
        most = np.where(one, 1.0, 2.0)
        _check("DS", ds, most, f"0 to {'1 or ' if one.any() else ''}2")
        copies, found = _over(copies, np.where(one, 2 * ds, ds))
        field = "DS" if found else field
    return Copies(copies, info, field)


def probabilities(gp: Float, haploid_by_call: NDArray[np.bool_]) -> Probabilities:
    """Read GP, probabilities or phred-scaled ones.

    Parameters
    ----------
    gp : ndarray, shape (n, 2 or 3)
        NaN where there is nothing: in the third column of haploid people.
    haploid_by_call : ndarray of bool, shape (n,)

    Notes
    -----
    Phred-scaled are all numbers of a variant, or none: where some do not sum to one, all must be
    such that the most probable genotype has nearly 0, and another more than a probability can be.
    """
    if gp.ndim != 2 or not 2 <= gp.shape[1] <= 3:
        raise ValueError(f"GP has {gp.shape[-1]} values a person, not 2 or 3")
    values = np.full((len(gp), 3), np.nan)
    values[:, : gp.shape[1]] = gp
    one = haploid_by_call | np.isnan(values[:, 2])
    values[one, 2] = np.nan
    known = ~np.isnan(values[:, :2]).any(axis=1)
    filled = np.where(np.isnan(values), 0.0, values)
    _refuse("GP", values, known & (filled < 0).any(axis=1), "a negative number is no probability")
    total = filled.sum(axis=1)
    known &= total > 0  # nothing but zeros is how IMPUTE says that it knows nothing
    off = known & ~(np.abs(total - 1.0) <= _OFF_ONE)
    phred = bool(off.any())
    if phred:
        # Of percentages the likeliest genotype has the largest number, of phred the smallest.
        whole = np.abs(total[known] - 100.0) <= _OFF_HUNDRED
        if whole.all() and np.ptp(filled[known], axis=0).any():
            _refuse("GP", values, off, "they sum to 100, as percentages do, not to 1")
        best, worst = np.nanmin(values[known], axis=1), np.nanmax(values[known], axis=1)
        if not ((best <= _PHRED_OF_BEST) & (worst >= _LEAST_PHRED)).all():
            why = "they are neither probabilities, which sum to 1, nor phred-scaled"
            _refuse("GP", values, off, why)
        filled = np.where(np.isnan(values), 0.0, 10.0 ** (-0.1 * values))
        total = filled.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        p1, p2 = filled[:, 1] / total, filled[:, 2] / total
    mean = np.where(known, p1 + 2 * p2, np.nan)
    return Probabilities(mean, np.where(known, p1 + 4 * p2, np.nan), one, phred)


def _of_haplotypes(hds: Float) -> Float:
    if hds.ndim != 2 or not 1 <= hds.shape[1] <= 2:
        raise ValueError(f"HDS has {hds.shape[-1]} values a person, not 1 or 2")
    for haplotype in hds.T:
        _check("HDS", haplotype, 1.0, "0 to 1")
    first = hds[:, 0]
    second = hds[:, 1] if hds.shape[1] == 2 else np.full(len(hds), np.nan)
    return first + np.where(np.isnan(second), first, second)  # one haplotype counts twice


def _over(copies: Float, given: Float) -> tuple[Float, bool]:
    """Return the numbers given, in their absence the others; and whether there are any."""
    there = ~np.isnan(given)
    return np.where(there, given, copies), bool(there.any())


def _check(field: str, values: Float, most: Float | float, words: str) -> None:
    with np.errstate(invalid="ignore"):
        wrong = (values < -_ROUNDING) | (values > most + _ROUNDING)
    if wrong.any():
        person = int(np.argmax(wrong))
        raise WrongValueError(person, f"{field} is {values[person]:g}, outside {words}")


def _counts(values: Float) -> NDArray[np.int64]:
    """Return how many numbers each person has, shape (n,)."""
    counts: NDArray[np.int64] = np.count_nonzero(~np.isnan(values), axis=1)
    return counts


def _refuse(field: str, values: Float, wrong: NDArray[np.bool_], why: str) -> None:
    """Name the first person whose numbers are wrong, if there is one."""
    if wrong.any():
        person = int(np.argmax(wrong))
        told = ",".join(f"{v:g}" for v in values[person] if not np.isnan(v))
        raise WrongValueError(person, f"{field} is {told}: {why}")
