"""Blocks of calls in their two forms, packed hard calls and dosages, and the ways between them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.dosages import MISSING_CODE, Dosages, GenotypeBlock
from hlmm_scan.genotypes.packing import count_genotypes, pack, unpack, unpack_samples

DIGEST_BITS = 256

HARD_CALLS = "hard calls"
"""What sources that know nothing else are read for."""

_OUTSIDE = 1e-3  # of rounding in a text file
_LOOKED_AT_FIRST = 512
_HARD, _DOSAGE = b"\0", b"\1"


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
    block : ndarray of uint8, shape (m, ⌈n/4⌉), or Dosages
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


@lru_cache(maxsize=8)
def _nearest(unit: float) -> NDArray[np.int8]:
    """Return the nearest number of copies for every code; −1 for the missing one."""
    steps = round(2.0 / unit)
    table = np.rint(np.minimum(np.arange(1 << 16), steps) * 2.0 / steps).astype(np.int8)
    table[MISSING_CODE] = -1
    return table


@lru_cache(maxsize=8)
def _whole(unit: float) -> NDArray[np.bool_]:
    """Return for every code whether it is a whole number of copies, or missing."""
    steps = round(2.0 / unit)
    whole: NDArray[np.bool_] = 2 * np.arange(1 << 16) % steps == 0
    whole[MISSING_CODE] = True
    return whole


def whole_rows(dosages: Dosages) -> NDArray[np.bool_]:
    """Return which variants have whole copies in everybody who has data, shape (m,)."""
    table = _whole(dosages.unit)
    rows = np.asarray(table[dosages.codes[:, :_LOOKED_AT_FIRST]].all(axis=1))
    for row in np.flatnonzero(rows):
        rows[row] = table[dosages.codes[row]].all()
    return rows


def best_guess(dosages: Dosages) -> NDArray[np.uint8]:
    """Return the nearest hard calls, packed, shape (m, ⌈n/4⌉); the calls where they are whole."""
    return pack(_nearest(dosages.unit)[dosages.codes])


def as_dosages(block: GenotypeBlock, n_samples: int, unit: float) -> Dosages:
    """Return a block as dosages of a unit: exact for hard calls, else rounded to its steps."""
    steps = round(2.0 / unit)
    if isinstance(block, Dosages):
        if block.unit == unit:
            return block
        codes = np.rint(block.codes * (steps / round(2.0 / block.unit))).astype(np.uint16)
        codes[block.codes == MISSING_CODE] = MISSING_CODE
        return Dosages(codes, unit)
    table = np.array([0, steps // 2, steps, MISSING_CODE], dtype=np.uint16)
    return Dosages(table[unpack(block, n_samples)], unit)  # −1 is the last one


def join_blocks(blocks: Sequence[GenotypeBlock], n_samples: int, unit: float) -> GenotypeBlock:
    """Put blocks of the same people end to end; dosages where one of them has some.

    Parameters
    ----------
    blocks : sequence of blocks
        At least one.
    n_samples : int
    unit : float
        Of the dosages returned, if they are.
    """
    if len(blocks) == 1:
        return blocks[0]
    packed = [block for block in blocks if not isinstance(block, Dosages)]
    if len(packed) == len(blocks):
        return np.concatenate(packed)
    parts = [as_dosages(block, n_samples, unit).codes for block in blocks]
    return Dosages(np.concatenate(parts), unit)


def decode_samples(block: GenotypeBlock, samples: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return copies of the effect allele of chosen people, shape (m, k), NaN where missing."""
    return block.copies(samples) if isinstance(block, Dosages) else unpack_samples(block, samples)


def count_calls(
    block: GenotypeBlock, n_samples: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count people by genotype, and the frequency of the effect allele.

    Returns
    -------
    counts : ndarray of int64, shape (m, 4)
        People nearest to 0, 1 and 2 copies, and people without data.
    frequency : ndarray of float64, shape (m,)
        From the dosages themselves; NaN where nobody has data.
    """
    packed = best_guess(block) if isinstance(block, Dosages) else block
    counts = count_genotypes(packed, n_samples)
    called = counts[:, :3].sum(axis=1)
    if isinstance(block, Dosages):
        total = block.codes.sum(axis=1, dtype=np.int64) - MISSING_CODE * counts[:, 3]
        copies = total * 2.0 / round(2.0 / block.unit)
    else:
        copies = (counts[:, 1] + 2 * counts[:, 2]).astype(np.float64)
    frequency = np.full(len(counts), np.nan)
    np.divide(copies, 2 * called, out=frequency, where=called > 0)
    return counts, frequency


def digest_calls(block: GenotypeBlock, start: int) -> int:
    """Return a checksum of a block's content that can be added to those of other blocks.

    Each variant's calls are hashed together with its number, and the hashes added modulo 2 to the
    `DIGEST_BITS`; so the sum over all does not depend on how variants are cut into blocks. A
    variant of whole copies has the same hash packed or as dosages, whatever the unit.

    Parameters
    ----------
    block : ndarray of uint8, shape (m, ⌈n/4⌉), or Dosages
    start : int
        Number of its first variant.
    """
    total = 0
    if isinstance(block, Dosages):
        whole = whole_rows(block)
        packed = best_guess(block.take(np.flatnonzero(whole)))
        rows = iter(packed)
        head = _DOSAGE + str(round(2.0 / block.unit)).encode() + b" "
        codes = block.codes.astype("<u2", copy=False)
        for v, hard in enumerate(whole.tolist()):
            total += (
                _digest(start + v, _HARD, next(rows))
                if hard
                else _digest(start + v, head, codes[v])
            )
    else:
        for v, row in enumerate(block):
            total += _digest(start + v, _HARD, row)
    return total % (1 << DIGEST_BITS)


def _digest(number: int, head: bytes, row: NDArray[np.generic]) -> int:
    hashed = hashlib.blake2b(b"%d " % number + head, digest_size=DIGEST_BITS // 8)
    hashed.update(np.ascontiguousarray(row).data)
    return int.from_bytes(hashed.digest(), "little")
