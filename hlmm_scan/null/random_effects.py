"""Which variants are random effects, and their genotypes for the people of one phenotype."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.cohort.align import match
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import GenotypeBlock, joined
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, linkage_group
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.genotypes.open import holds_genotypes, open_dataset
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variant_names import VariantName, read_variant_names
from hlmm_scan.null.model import RandomEffects
from hlmm_scan.staging import stands
from hlmm_scan.storage import ObjectPath, Place
from hlmm_scan.textfiles import read_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RandomEffectSource:
    """Genotypes of the random-effect variants, and where the scan's people stand in them.

    Attributes
    ----------
    genotypes : HardCalls or Dosages
        Variants in the order of their dataset; packed hard calls or dosages.
    variant_ids : tuple of str, length l
    contigs : tuple of str, length l
        :func:`~hlmm_scan.genotypes.chromosomes.linkage_group` of each.
    rows : ndarray of int64, shape (n_scan,)
        Sample of the genotypes for each sample of the scan; −1 where there is none.
    positions : ndarray of int64, shape (l,), or None
        Variants in the scan's own dataset; None where they come from another dataset.
    fingerprint : str
        Of the list or dataset, compared on resume.
    autosomes : int, default 22
        Of the species.
    """

    genotypes: GenotypeBlock
    variant_ids: tuple[str, ...]
    contigs: tuple[str, ...]
    rows: NDArray[np.int64]
    positions: NDArray[np.int64] | None
    fingerprint: str
    autosomes: int = HUMAN_AUTOSOMES

    @property
    def available(self) -> NDArray[np.bool_]:
        """Whether each sample of the scan has random-effect genotypes, (n_scan,)."""
        mask: NDArray[np.bool_] = self.rows >= 0
        return mask

    def spans_chromosomes(self) -> bool:
        """Whether leaving a chromosome out leaves something in."""
        return len(set(self.contigs)) > 1

    def for_people(self, samples: NDArray[np.int64], phenotype: str) -> RandomEffects:
        """Impute, standardise and drop constant columns over the people of one phenotype.

        Parameters
        ----------
        samples : ndarray of int64, shape (n,)
            Samples of the scan, all of them available.
        phenotype : str
            For messages.

        Returns
        -------
        RandomEffects
            Missing calls or dosages replaced by their column's mean, then each column of mean 0 and
            variance 1 over these people.

        Raises
        ------
        InputError
            If every column is constant among them.
        """
        columns = self.genotypes.copies(self.rows[samples])
        missing = np.isnan(columns)
        called = np.maximum((~missing).sum(axis=1, keepdims=True), 1)
        columns[missing] = 0.0
        columns -= columns.sum(axis=1, keepdims=True) / called
        columns[missing] = 0.0
        deviation = np.sqrt((columns**2).mean(axis=1))
        varies = deviation > 1e-9
        if not varies.all():
            constant = [v for v, ok in zip(self.variant_ids, varies, strict=True) if not ok]
            logger.warning(
                "%s: %d of %d random-effect variants do not vary among its people and are "
                "dropped (first: %s)",
                phenotype,
                len(constant),
                len(varies),
                constant[0],
            )
        if not varies.any():
            raise InputError(
                f"{phenotype}: no random-effect variant varies among the {len(samples)} people "
                "analysed; scan without --random-effects"
            )
        kept = np.flatnonzero(varies)
        return RandomEffects(
            columns=np.ascontiguousarray((columns[kept] / deviation[kept, None]).T),
            contigs=tuple(self.contigs[k] for k in kept),
            variant_ids=tuple(self.variant_ids[k] for k in kept),
            autosomes=self.autosomes,
        )


def load_random_effects(
    path: Place,
    genotypes: Genotypes | None,
    samples: SampleIds,
    autosomes: int = HUMAN_AUTOSOMES,
) -> RandomEffectSource:
    """Read the random-effect variants a user named.

    Parameters
    ----------
    path : Path or ObjectPath
        A list of variants of `genotypes`, one a line, or another genotype dataset, all of
        whose variants are taken. A list is a file of this machine.
    genotypes : GenotypeDataset, JoinedGenotypes or None
        Needed for a list.
    samples : SampleIds
        The people who may be analysed: of the scan's dataset, or of a phenotype table.
    autosomes : int, default 22
        Of the species.

    Raises
    ------
    InputError
        If the file is missing, empty, names an unknown or ambiguous variant or one twice, or the
        dataset shares no people with the scan.
    """
    if not stands(path):
        raise InputError(f"{path}: no such file of random-effect variants or genotype dataset")
    if isinstance(path, ObjectPath) or path.is_dir():
        if not holds_genotypes(path):
            raise InputError(
                f"{path}: neither a genotype dataset made by hlmm-scan convert nor a VCF-Zarr store"
            )
        dataset: Genotypes = open_dataset(path)
        positions = np.arange(dataset.n_variants, dtype=np.int64)
        rows, fingerprint, own = match(samples, dataset.samples), dataset.fingerprint, None
    else:
        if genotypes is None:
            raise InputError(f"{path}: a list of variant ids needs --genotypes to find them in")
        dataset = genotypes
        names = _read_names(path)
        positions = dataset.find_variants(names)
        first = dict(zip(positions[::-1].tolist(), range(len(names) - 1, -1, -1), strict=True))
        for k, position in enumerate(positions.tolist()):
            if first[position] != k:
                raise InputError(
                    f"{path}, line {names[k].line}: variant {names[k]} stands already on line "
                    f"{names[first[position]].line}; name each random effect once"
                )
        positions = np.sort(positions)
        own_people = samples is dataset.samples
        rows = np.arange(len(samples)) if own_people else match(samples, dataset.samples)
        fingerprint, own = hashlib.sha256(read_bytes(path)).hexdigest(), positions
    block, ids, named = _gather(dataset, positions)
    contigs = tuple(linkage_group(name, autosomes) for name in named)
    return RandomEffectSource(block, ids, contigs, rows, own, fingerprint, autosomes)


def _read_names(path: Path) -> list[VariantName]:
    names = read_variant_names(path)
    if not names:
        raise InputError(f"{path}: no variant ids in it")
    return names


def _gather(
    dataset: Genotypes, positions: NDArray[np.int64]
) -> tuple[GenotypeBlock, tuple[str, ...], tuple[str, ...]]:
    """Read chosen variants chunk by chunk: their block of l variants, ids and chromosomes."""
    chunk = dataset.chunk_variants
    blocks: list[GenotypeBlock] = []
    ids: list[str] = []
    contigs: list[str] = []
    for index in np.unique(positions // chunk):
        start = int(index) * chunk
        stop = min(start + chunk, dataset.n_variants)
        chosen = positions[positions // chunk == index] - start
        blocks.append(dataset.read_block(start, stop).take(chosen))
        table = dataset.variants(start, stop)
        ids.extend(str(v) for v in table.variant_id[chosen])
        contigs.extend(str(c) for c in table.contig[chosen])
    return joined(blocks), tuple(ids), tuple(contigs)
