"""Blocks of variants: which take part, how they are cut, and their genotypes as codes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import GenotypeBlock, HardCalls
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, MT, X, Y, chromosome, linkage_group
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.genotypes.packing import unpack
from hlmm_scan.genotypes.ploidy import HaploidRegions, Ploidy, recode
from hlmm_scan.polygenic.whole import STEPS

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 65_536
_BYTES_AT_ONCE = 1 << 26
"""Of dosages in double precision while they become codes."""

_CODE_OF_COPIES = np.array([0, STEPS, 2 * STEPS, 0], np.uint8)  # index −1 (missing) is the last


@dataclass(frozen=True)
class Filters:
    """Which variants predict, counted in everybody in the genotypes.

    Attributes
    ----------
    min_maf, min_mac, max_missing : float
    min_info : float, optional
    """

    min_maf: float
    min_mac: float
    max_missing: float
    min_info: float | None = None

    def passing(self, genotypes: Genotypes, start: int, stop: int) -> NDArray[np.bool_]:
        """Return which variants of a range pass."""
        counts = genotypes.genotype_counts(start, stop)
        called = counts[:, :3].sum(axis=1)
        effect = counts[:, 1] + 2 * counts[:, 2]
        minor = np.minimum(effect, 2 * called - effect)
        kept = (minor > 0) & (minor >= self.min_mac) & (minor >= self.min_maf * 2 * called)
        kept &= counts[:, 3] <= self.max_missing * counts.sum(axis=1)
        if self.min_info is not None:
            info = genotypes.info(start, stop)
            if info is not None:
                kept &= ~(info < self.min_info)
        return np.asarray(kept)


@dataclass(frozen=True, eq=False)
class Block:
    """Neighbouring variants of one chromosome.

    Attributes
    ----------
    chromosome : str
        As :func:`~hlmm_scan.genotypes.chromosomes.linkage_group` names it.
    rows : ndarray of int64, shape (m,)
        Their places in the genotypes, ascending.
    """

    chromosome: str
    rows: NDArray[np.int64]


def chromosomes_of(contigs: Sequence[str], autosomes: int = HUMAN_AUTOSOMES) -> list[str]:
    """Return what predictions leave out, each once: the autosomes, and X last.

    X stands for all that is no autosome: its prediction is of all others, whether or not variants
    of X predict. It is left out together with XY; Y and MT do not predict.
    """
    groups = dict.fromkeys(linkage_group(contig, autosomes) for contig in contigs)
    return [one for one in groups if one not in (X, Y, MT)] + [X]


def cut_blocks(
    genotypes: Genotypes, filters: Filters, size: int, autosomes: int = HUMAN_AUTOSOMES
) -> list[Block]:
    """Choose the variants that predict, and cut each chromosome into blocks of about equal size.

    Parameters
    ----------
    genotypes : GenotypeDataset or JoinedGenotypes
    filters : Filters
    size : int
        Variants of a block, about.
    autosomes : int, default 22
        Of the species.

    Raises
    ------
    InputError
        If none are left.
    """
    passing = np.empty(genotypes.n_variants, np.bool_)
    for start in range(0, genotypes.n_variants, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, genotypes.n_variants)
        passing[start:stop] = filters.passing(genotypes, start, stop)
    index = genotypes.variant_contig()
    groups: dict[str, list[int]] = {}
    for number, contig in enumerate(genotypes.contigs):
        if chromosome(contig, autosomes) not in (Y, MT):
            groups.setdefault(linkage_group(contig, autosomes), []).append(number)
    blocks = []
    for group, numbers in groups.items():
        rows = np.flatnonzero(passing & np.isin(index, numbers)).astype(np.int64)
        if len(rows):
            pieces = np.array_split(rows, max(1, round(len(rows) / size)))
            blocks += [Block(group, piece) for piece in pieces]
    n_kept = sum(len(block.rows) for block in blocks)
    if not n_kept:
        raise InputError(
            f"no variant is left to predict with: of {genotypes.n_variants:,}, "
            f"{int(passing.sum()):,} pass the filters, none of them on an autosome or X"
        )
    of_each = Counter(block.chromosome for block in blocks)
    logger.info(
        "%s of %s variants predict, in %d blocks on %d chromosomes",
        f"{n_kept:,}",
        f"{genotypes.n_variants:,}",
        len(blocks),
        len(of_each),
    )
    if len(of_each) == 1:
        logger.warning(
            "all variants that predict lie on chromosome %s: nothing is left to predict it with, "
            "and its prediction is 0",
            next(iter(of_each)),
        )
    return blocks


def read_codes(
    genotypes: Genotypes,
    samples: NDArray[np.int64],
    regions: HaploidRegions | None,
    sex: NDArray[np.int8],
) -> NDArray[np.uint8]:
    """Read all variants of a view as codes: copies of the effect allele in 32nds.

    Parameters
    ----------
    genotypes : GenotypeDataset or JoinedGenotypes
    samples : ndarray of int64, shape (n,)
        People wanted, in their order.
    regions : HaploidRegions or None
        Where people are haploid, and have 0 or 2 copies; None where nobody is.
    sex : ndarray of int8, shape (n_samples,)

    Returns
    -------
    ndarray of uint8, shape (m, n)
        A missing call is the mean of all people of the genotypes who have one, whoever is wanted.
    """
    codes = np.empty((genotypes.n_variants, len(samples)), np.uint8)
    step = max(1, _BYTES_AT_ONCE // (8 * genotypes.n_samples))
    for start in range(0, genotypes.n_variants, step):
        stop = min(start + step, genotypes.n_variants)
        block = genotypes.read_block(start, stop)
        if regions is None:
            codes[start:stop] = codes_of(block)[:, samples]
            continue
        where = genotypes.loci(start, stop)
        ploidy = np.empty(stop - start, np.int8)
        for contig in np.unique(where.contig):
            here = where.contig == contig
            ploidy[here] = regions.classify(contig, where.position[here])
        for kind in np.unique(ploidy):
            rows = np.flatnonzero(ploidy == kind)
            some = block if len(rows) == len(block) else block.take(rows)
            if kind != Ploidy.DIPLOID:
                some, _ = recode(some, Ploidy(kind), sex, ())
            codes[start + rows] = codes_of(some)[:, samples]
    return codes


def codes_of(block: GenotypeBlock) -> NDArray[np.uint8]:
    """Return the copies of everybody in whole 32nds, the mean where missing, (m, n_samples)."""
    if isinstance(block, HardCalls):
        calls = unpack(block.packed, block.n_samples)
        codes, missing = _CODE_OF_COPIES[calls], calls < 0
    else:
        copies = block.copies()
        missing = np.isnan(copies)
        codes = np.rint(np.where(missing, 0.0, copies) * STEPS).astype(np.uint8)
    gone = np.count_nonzero(missing, axis=1)
    for row in np.flatnonzero(gone):
        called = codes.shape[1] - gone[row]
        mean = int(codes[row].sum(dtype=np.int64)) / called if called else 0.0
        codes[row, missing[row]] = round(mean)
    return codes
