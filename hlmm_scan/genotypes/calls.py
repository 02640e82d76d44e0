"""What readers say of variants: alleles, dosages and probabilities made into blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.blocks import MISSING_CODE, GenotypeBlock

HARD_CALLS = "hard calls"
"""What sources that know nothing else are read for."""

_OUTSIDE = 1e-3  # of rounding in a text file


class WrongValueError(ValueError):
    """A value that a genotype cannot have.

    Attributes
    ----------
    person : int
        Whose it is, by number from 0.
    variant : int
        Of a block of several, from 0.
    why : str
    """

    def __init__(self, person: int, why: str, variant: int = 0) -> None:
        super().__init__(f"person {person + 1}: {why}")
        self.person, self.why, self.variant = person, why, variant


@dataclass(frozen=True, eq=False)
class Calls:
    """What a source says of a range of variants.

    Attributes
    ----------
    block : HardCalls or Dosages
    info : ndarray of float64, shape (m,), or None
        Imputation information (:func:`information`); None where the source has no probabilities.
    fields : mapping of str to int
        Variants by what of the source they were taken from.
    """

    block: GenotypeBlock
    info: NDArray[np.float64] | None = None
    fields: Mapping[str, int] = field(default_factory=dict)


def copies_of_alleles(alleles: NDArray[np.integer]) -> NDArray[np.int8]:
    """Count the second allele in the calls of a VCF.

    Parameters
    ----------
    alleles : ndarray of integers, shape (m, n, ploidy)
        0 the reference, 1 the alternative allele, −1 not called, −2 no allele there (a haploid
        among diploids).

    Returns
    -------
    ndarray of int8, shape (m, n)
        Copies; −1 where an allele is not called. A haploid call counts twice.

    Raises
    ------
    ValueError
        On more than two chromosomes a person.
    WrongValueError
        On more than two alleles.
    """
    if alleles.shape[-1] > 2:
        raise ValueError(f"calls of {alleles.shape[-1]} chromosomes a person; at most 2 are read")
    if alleles.size and (alleles.max() > 1 or alleles.min() < -2):
        *variant, person, _ = np.argwhere((alleles > 1) | (alleles < -2))[0].tolist()
        why = "a call of a third allele where the record names two"
        raise WrongValueError(person, why, variant[0] if variant else 0)
    first = alleles[..., 0].astype(np.int8)
    if alleles.shape[-1] == 1:
        copies = np.add(first, first, dtype=np.int8)
        copies[first < 0] = -1
        return copies
    second = alleles[..., 1].astype(np.int8)
    copies = np.add(first, np.where(second == -2, first, second), dtype=np.int8)
    copies[(first < 0) | (second == -1)] = -1
    return copies


def haploid(alleles: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return which calls are of one chromosome, shape (m, n).

    One that is missing, a lone ".", does not say so: programs write it for diploid people too.
    """
    called = alleles[..., 0] >= 0
    return np.asarray(called if alleles.shape[-1] == 1 else called & (alleles[..., 1] == -2))


def encode_dosages(copies: NDArray[np.floating], unit: float) -> NDArray[np.uint16]:
    """Round copies of the effect allele to whole steps of a unit.

    Parameters
    ----------
    copies : ndarray of floats
        NaN where missing.
    unit : float
        Copies a step.

    Raises
    ------
    WrongValueError
        If one lies outside 0 to 2 by more than 0.001.
    """
    steps = round(2.0 / unit)
    with np.errstate(invalid="ignore"):
        scaled = np.rint(np.asarray(copies) * (0.5 * steps))
        missing = np.isnan(scaled)
        scaled[missing] = 0.0
        slack = max(1.0, _OUTSIDE / unit)
        if scaled.size and (scaled.min() < -slack or scaled.max() > steps + slack):
            wrong = (scaled < -slack) | (scaled > steps + slack)
            *variant, person = np.argwhere(wrong)[0].tolist()
            value = np.asarray(copies)[(*variant, person)]
            why = f"a dosage of {value:g}, outside 0 to 2"
            raise WrongValueError(person, why, variant[0] if variant else 0)
        codes = np.clip(scaled, 0, steps, out=scaled).astype(np.uint16)
    codes[missing] = MISSING_CODE
    return codes


def information(
    mean: NDArray[np.floating], square: NDArray[np.floating], ploidy: NDArray[np.integer] | int = 2
) -> float:
    """Return the imputation information of one variant, as IMPUTE and QCTOOL define it.

    One minus the mean variance of the genotypes given the data, over their variance in a
    population of that allele frequency: 1 where genotypes are certain, 0 where they are as the
    frequency alone would have them.

    Parameters
    ----------
    mean : ndarray, shape (n,)
        Expected copies of the effect allele; NaN where missing.
    square : ndarray, shape (n,)
        Expected squares of them.
    ploidy : ndarray of integers, shape (n,), or int
        Chromosomes of each person, copies being counted in these.

    Returns
    -------
    float
        At most 1; 1 where everybody has the same allele; NaN where nobody has data.

    References
    ----------
    Marchini & Howie, Nature Reviews Genetics 11 (2010), supplement S3.
    """
    known = ~np.isnan(mean)
    chromosomes = float(np.sum(np.broadcast_to(ploidy, mean.shape), where=known))
    if not chromosomes:
        return float("nan")
    expected = np.where(known, mean, 0.0).astype(np.float64)
    frequency = float(expected.sum()) / chromosomes
    expectation = chromosomes * frequency * (1.0 - frequency)
    if expectation <= 1e-9 * chromosomes:
        return 1.0
    uncertain = np.where(known, square, 0.0).astype(np.float64).sum() - (expected**2).sum()
    return float(min(1.0, 1.0 - uncertain / expectation))
