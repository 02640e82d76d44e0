"""The variants of a genotype chunk, each fitted on the null model that serves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.genotypes.ploidy import Ploidy, haploid_people, recode
from hlmm_scan.genotypes.variants import Loci
from hlmm_scan.kernels.block import FitOptions, class_sums_together, fit_block
from hlmm_scan.null.model import NullModel
from hlmm_scan.null.serving import Served, Serving
from hlmm_scan.scan.faults import Retrying

HETEROZYGOUS = "haploid_heterozygous"


@dataclass(frozen=True, eq=False)
class TraitModels:
    """The null models of one phenotype, read as they are asked for.

    Attributes
    ----------
    serving : Serving
    model : callable
        Reads a null model by its key.
    """

    serving: Serving
    model: Callable[[str], NullModel]


def fit_chunk(
    traits: Sequence[TraitModels],
    genotypes: GenotypeBlock,
    loci: Loci,
    options: FitOptions,
    retrying: Retrying,
    info: NDArray[np.float64] | None = None,
) -> list[dict[str, NDArray[Any]]]:
    """Fit the variants of one chunk, for one phenotype after the other.

    Parameters
    ----------
    traits : sequence of TraitModels
    genotypes : HardCalls or Dosages
        Of all people of the genotype dataset.
    loci : Loci
        Of the m variants.
    options : FitOptions
    retrying : Retrying
    info : ndarray, shape (m,), optional
        Info scores that came with the genotypes.

    Returns
    -------
    list of dict of str to ndarray, shape (m,)
        For each phenotype as :func:`~hlmm_scan.kernels.block.fit_block`, and heterozygous calls
        of haploid people that were set missing.

    Notes
    -----
    Variants of one null model and ploidy are fitted together, so that the results of a chunk
    depend on nothing but the chunk; nor on the phenotypes beside.
    """
    sums = _sums_together(traits, genotypes, loci, options, retrying)
    return [
        _fit_trait(trait, genotypes, loci, options, retrying, info, of_trait)
        for trait, of_trait in zip(traits, sums, strict=True)
    ]


def _sums_together(
    traits: Sequence[TraitModels],
    genotypes: GenotypeBlock,
    loci: Loci,
    options: FitOptions,
    retrying: Retrying,
) -> Sequence[NDArray[np.float64] | None]:
    """Return class sums for each phenotype, if one pass over the calls gives those of all."""
    none = [None] * len(traits)
    if len(traits) == 1:
        return none
    nulls = []
    for trait in traits:
        served = list(trait.serving.groups(loci.contig, loci.position))
        if len(served) > 1 or served[0].ploidy is not Ploidy.DIPLOID:
            return none
        nulls.append(retrying(partial(trait.model, served[0].key)))
    together = class_sums_together(nulls, genotypes, options)
    return none if together is None else list(together)


def _fit_trait(
    trait: TraitModels,
    genotypes: GenotypeBlock,
    loci: Loci,
    options: FitOptions,
    retrying: Retrying,
    info: NDArray[np.float64] | None,
    sums: NDArray[np.float64] | None,
) -> dict[str, NDArray[Any]]:
    """Fit the variants of one chunk for one phenotype."""
    m, serving = len(loci), trait.serving
    merged: dict[str, NDArray[Any]] = {}
    for served in serving.groups(loci.contig, loci.position):
        null = retrying(partial(trait.model, served.key))
        columns = _fit(null, serving, served, genotypes, loci.contig, options, info, sums)
        if len(served.rows) == m:
            return columns
        for name, values in columns.items():
            if name not in merged:
                merged[name] = np.empty(m, values.dtype)
            merged[name][served.rows] = values
    return merged


def _fit(
    null: NullModel,
    serving: Serving,
    served: Served,
    genotypes: GenotypeBlock,
    contigs: NDArray[np.object_],
    options: FitOptions,
    info: NDArray[np.float64] | None,
    sums: NDArray[np.float64] | None,
) -> dict[str, NDArray[Any]]:
    rows = served.rows
    block = genotypes
    if len(rows) < len(contigs):
        contigs, info = contigs[rows], None if info is None else info[rows]
        block = genotypes.take(rows)
    haploid, heterozygous = None, np.zeros(len(rows), np.int32)
    if served.ploidy is not Ploidy.DIPLOID:
        assert serving.sex is not None
        block, heterozygous = recode(block, served.ploidy, serving.sex, null.samples)
        haploid = haploid_people(served.ploidy, serving.sex)
    columns = fit_block(null, block, contigs, options, info, haploid, sums)
    return {**columns, HETEROZYGOUS: heterozygous}
