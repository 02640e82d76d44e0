"""Variants that are to be fitted, and how they part by left-out chromosome."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import Dosages, GenotypeBlock, packed_calls
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.sums.call_counts import CallCounts
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullFit, NullModel


@dataclass(frozen=True, eq=False)
class Variants:
    """Variants of one kind, hard calls or dosages, that are to be fitted.

    Attributes
    ----------
    null : NullModel
    size : ModelSize
        Of the null model.
    genotypes : HardCalls or Dosages
        Of everybody in the dataset.
    counts : GenotypeCounts
        Of them in the people analysed.
    contigs : ndarray of object (str), shape (m,)
    inference : Inference
    sums : ndarray, shape (m, 3, 1 + powers), or None
        Class sums of this phenotype, where its path takes them.
    counted : CallCounts, optional
        Filled by the fit, for scores to go on from.
    left_out : str
        Key into `null.fits`: which random effects do without the variants' chromosome.
    """

    null: NullModel
    size: ModelSize
    genotypes: GenotypeBlock
    counts: GenotypeCounts
    contigs: NDArray[np.object_]
    inference: Inference
    sums: Float | None = None
    counted: CallCounts | None = None
    left_out: str = ALL_RANDOM_EFFECTS

    def __len__(self) -> int:
        """Return the number of variants."""
        return len(self.genotypes)

    def take(self, rows: NDArray[np.intp]) -> Variants:
        """Return some of the variants; itself where they are all there are."""
        if len(rows) == len(self):
            return self
        return replace(
            self,
            genotypes=self.genotypes.take(rows),
            counts=self.counts.take(rows),
            contigs=self.contigs[rows],
            sums=None if self.sums is None else self.sums[rows],
            counted=None if self.counted is None else self.counted.take(rows),
        )

    def groups(self) -> list[tuple[NDArray[np.intp], Variants]]:
        """Part them by left-out chromosome; with their rows."""
        return [
            (rows, replace(self.take(rows), left_out=key))
            for key, rows in by_left_out(self.null, self.contigs)
        ]

    @property
    def fit(self) -> NullFit:
        """The null fit without their chromosome."""
        return self.null.fits[self.left_out]

    @property
    def samples(self) -> NDArray[np.int64]:
        """People analysed, among those of the genotypes."""
        return self.null.samples

    @property
    def packed(self) -> NDArray[np.uint8]:
        """Hard calls."""
        return packed_calls(self.genotypes, "variants fitted by class")

    @property
    def dosages(self) -> Dosages:
        """Dosages."""
        assert isinstance(self.genotypes, Dosages)
        return self.genotypes


def by_left_out(
    null: NullModel, contigs: NDArray[np.object_]
) -> list[tuple[str, NDArray[np.intp]]]:
    """Return the sets of random effects that test variants on these chromosomes, and of which."""
    sets: dict[str, list[str]] = {}
    for contig in dict.fromkeys(contigs.tolist()):
        sets.setdefault(null.random_effect_set(str(contig)), []).append(contig)
    if len(sets) == 1:
        return [(key, np.arange(len(contigs))) for key in sets]
    return [(key, np.flatnonzero(np.isin(contigs, names))) for key, names in sets.items()]
