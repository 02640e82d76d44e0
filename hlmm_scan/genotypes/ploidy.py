"""Where people are haploid: males on X and Y, everybody in mitochondria; and their genotypes there.

A haploid person has no or one copy, which is coded as 0 or 2, as PLINK's .bed does: one allele of
a male weighs as much as both of a homozygous female (full dosage compensation). A heterozygous
call of a haploid person is an error of genotyping, and a call of a female on Y is another; both
are set missing.

Every function that touches packed calls has a plain numpy reference beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.genotypes.chromosomes import (
    AFTER_AUTOSOMES,
    HUMAN_AUTOSOMES,
    MT,
    X,
    Y,
    autosomes_seen,
    chromosome,
    number_of,
)
from hlmm_scan.genotypes.packing import MISSING, pack_reference
from hlmm_scan.genotypes.packing import unpack_reference as _unpacked
from hlmm_scan.genotypes.samples import MALE

BUILDS = ("GRCh37", "GRCh38")


class Ploidy(IntEnum):
    """How many copies of a chromosome people have."""

    DIPLOID = 0
    """Two: autosomes and the pseudo-autosomal regions."""

    X = 1
    """Two in females, one in males."""

    Y = 2
    """None in females, one in males."""

    MITOCHONDRIAL = 3
    """One in everybody."""


class _PseudoAutosomal(NamedTuple):
    """The first region ends at, and the second begins at (1-based base pairs)."""

    end: int
    begin: int


# Boundaries of the Genome Reference Consortium. What lies before the first region is telomere.
_PSEUDO_AUTOSOMAL = {
    ("GRCh37", Ploidy.X): _PseudoAutosomal(2_699_520, 154_931_044),
    ("GRCh37", Ploidy.Y): _PseudoAutosomal(2_649_520, 59_034_050),
    ("GRCh38", Ploidy.X): _PseudoAutosomal(2_781_479, 155_701_383),
    ("GRCh38", Ploidy.Y): _PseudoAutosomal(2_781_479, 56_887_903),
}
_ANY_BUILD = {
    kind: _PseudoAutosomal(
        max(_PSEUDO_AUTOSOMAL[build, kind].end for build in BUILDS),
        min(_PSEUDO_AUTOSOMAL[build, kind].begin for build in BUILDS),
    )
    for kind in (Ploidy.X, Ploidy.Y)
}

_OF_CHROMOSOME = {X: Ploidy.X, Y: Ploidy.Y, MT: Ploidy.MITOCHONDRIAL}


def genome_build(name: str) -> str:
    """Return a build by its name or alias (hg19, hg38, 37, 38 and the like).

    Raises
    ------
    InputError
        If it is another.
    """
    for build, alias in zip(BUILDS, ("hg19", "hg38"), strict=True):
        if name.lower() in (build.lower(), alias, build[-2:], f"b{build[-2:]}"):
            return build
    raise InputError(f"genome_build must be GRCh37 (hg19) or GRCh38 (hg38), not '{name}'")


@dataclass(frozen=True)
class HaploidRegions:
    """Which variants are not diploid in everybody.

    Attributes
    ----------
    autosomes : int, default 22
        Chromosomes numbered N + 1 to N + 4 are X, Y, XY and MT, as in PLINK.
    build : str, optional
        GRCh37 or GRCh38: where the pseudo-autosomal regions of X and Y are. Species with other
        numbers of autosomes have none but on chromosome XY.

    Raises
    ------
    InputError
        On a build for a species that is not human.
    """

    autosomes: int = HUMAN_AUTOSOMES
    build: str | None = None

    def __post_init__(self) -> None:
        if self.build is not None and self.autosomes != HUMAN_AUTOSOMES:
            raise InputError(
                f"genome_build {self.build} is human, autosomes {self.autosomes} is not; "
                "leave one of them out"
            )

    def of_contig(self, contig: str) -> Ploidy:
        """Return the ploidy of a chromosome outside its pseudo-autosomal regions."""
        return _OF_CHROMOSOME.get(chromosome(contig, self.autosomes), Ploidy.DIPLOID)

    def check(self, contigs: Iterable[str]) -> None:
        """See that numbers of chromosomes fit the number of autosomes.

        Raises
        ------
        InputError
            If there are higher ones, or one that is X beside another X: chromosome 23 of cattle is
            not X.
        """
        last = self.autosomes + len(AFTER_AUTOSOMES)
        names = list(contigs)
        for contig in names:
            if (number_of(chromosome(contig, self.autosomes)) or 0) > last:
                raise InputError(
                    f"there is a chromosome {contig}, but with {self.autosomes} autosomes the "
                    f"last number is {last} (MT): give the species' number with --autosomes, or "
                    "--no-haploid to take every chromosome as diploid"
                )
        seen = autosomes_seen(names)
        if seen is not None and seen > self.autosomes:
            raise InputError(
                f"chromosomes 1 to {seen} are numbered and X or Y has a letter, but with "
                f"{self.autosomes} autosomes {self.autosomes + 1} is X itself: say --autosomes "
                f"{seen}, or --no-haploid to take every chromosome as diploid"
            )

    def classify(self, contig: str, positions: NDArray[np.integer]) -> NDArray[np.int8]:
        """Return the ploidy of variants of one chromosome.

        Parameters
        ----------
        contig : str
        positions : ndarray of int, shape (m,)
            1-based.

        Returns
        -------
        ndarray of int8, shape (m,)
            Codes of :class:`Ploidy`. Without a build, a human X or Y has no pseudo-autosomal
            region; see :meth:`undecided`.
        """
        kind = self.of_contig(contig)
        ploidy = np.full(len(positions), kind, np.int8)
        if self.build is not None and kind in _ANY_BUILD:
            region = _PSEUDO_AUTOSOMAL[self.build, kind]
            ploidy[_inside(region, positions)] = Ploidy.DIPLOID
        return ploidy

    def undecided(self, contig: str, positions: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which variants are pseudo-autosomal in some build, if none is given."""
        kind = self.of_contig(contig)
        if self.build is not None or self.autosomes != HUMAN_AUTOSOMES or kind not in _ANY_BUILD:
            return np.zeros(len(positions), np.bool_)
        return _inside(_ANY_BUILD[kind], positions)


def _inside(region: _PseudoAutosomal, positions: NDArray[np.integer]) -> NDArray[np.bool_]:
    return np.asarray((positions <= region.end) | (positions >= region.begin))


def haploid_people(ploidy: Ploidy, sex: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return who has one copy, or none at all, of a chromosome, shape (n_samples,).

    On Y these are all: those who are not male have no calls.
    """
    if ploidy is Ploidy.X:
        return np.asarray(sex == MALE)
    return np.full(len(sex), ploidy is not Ploidy.DIPLOID)


def recode(
    genotypes: GenotypeBlock, ploidy: Ploidy, sex: NDArray[np.int8], counted: ArrayLike
) -> tuple[GenotypeBlock, NDArray[np.int32]]:
    """Set missing what a haploid person cannot have.

    Parameters
    ----------
    genotypes : HardCalls or Dosages
        Variants of one ploidy. Haploid people are coded as 0 and 2 copies. A dosage between is
        one that is uncertain, and stays; but where all of a variant's are whole they are calls.
    ploidy : Ploidy
    sex : ndarray of int8, shape (n_samples,)
        PLINK's codes.
    counted : array_like of int
        People among whom heterozygous calls are counted.

    Returns
    -------
    genotypes : the same type
        A new block; heterozygous calls of haploid people and all calls on Y of people who are not
        male are missing.
    heterozygous : ndarray of int32, shape (m,)
        Heterozygous calls that were set missing, of the people counted; on Y, of its males.
    """
    haploid, absent = _who(ploidy, sex)
    among = np.zeros(len(sex), np.bool_)
    among[np.asarray(counted, np.int64)] = True
    return genotypes.without_errors(haploid, absent, among)


def recode_reference(
    packed: NDArray[np.uint8], ploidy: Ploidy, sex: NDArray[np.int8], counted: ArrayLike
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Do what `recode` does with packed calls, in plain numpy."""
    copies = _unpacked(packed, len(sex))
    haploid, absent = _who(ploidy, sex)
    het = (copies == 1) & haploid
    copies[het] = MISSING
    copies[:, absent] = MISSING
    chosen = np.unique(np.asarray(counted, np.int64))
    return pack_reference(copies), het[:, chosen].sum(axis=1, dtype=np.int32)


def _who(ploidy: Ploidy, sex: NDArray[np.int8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return who has one copy, and who has none."""
    if ploidy is Ploidy.Y:
        return np.asarray(sex == MALE), np.asarray(sex != MALE)
    return haploid_people(ploidy, sex), np.zeros(len(sex), np.bool_)
