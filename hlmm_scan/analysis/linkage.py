"""Genotypes of chosen variants, and the linkage between them."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.genotypes.ploidy import Ploidy, recode

_CACHE_BYTES = 256 << 20
_WORKING_BYTES = 64 << 20


class ChosenGenotypes:
    """Reads variants of a dataset for some people, a bounded number of chunks in memory.

    Parameters
    ----------
    dataset : GenotypeDataset or JoinedGenotypes
    samples : ndarray of int64, shape (n,)
        Rows of its sample axis.
    sex : ndarray of int8, shape (n_samples,), optional
        Of all people of the dataset, where some of its variants are haploid in some.
    ploidy : Ploidy, default diploid
        Of the variants that are read: calls that haploid people cannot have are missing.
    """

    def __init__(
        self,
        dataset: Genotypes,
        samples: NDArray[np.int64],
        sex: NDArray[np.int8] | None = None,
        ploidy: Ploidy = Ploidy.DIPLOID,
    ) -> None:
        self._dataset = dataset
        self._samples = samples
        self._sex = sex
        self._ploidy = ploidy
        self._chunks: OrderedDict[int, GenotypeBlock] = OrderedDict()

    def copies(self, row: int) -> Float:
        """Return copies of the effect allele of one variant, shape (n,), NaN where missing."""
        return np.asarray(self._copies(np.array([row]))[0])

    def r2(self, row: int, others: NDArray[np.int64]) -> Float:
        """Return the squared correlation of a variant with others, shape (k,).

        Missing genotypes count as their variant's mean; a constant variant has 0 with all.
        """
        lead = _standardised(self._copies(np.array([row])))[0]
        step = max(1, _WORKING_BYTES // (8 * max(1, len(self._samples))))
        found = np.empty(len(others))
        for start in range(0, len(others), step):
            part = others[start : start + step]
            found[start : start + step] = (_standardised(self._copies(part)) @ lead) ** 2
        return found

    def _copies(self, rows: NDArray[np.int64]) -> Float:
        size = self._dataset.chunk_variants
        result = np.empty((len(rows), len(self._samples)))
        for number in np.unique(rows // size):
            mine = np.flatnonzero(rows // size == number)
            chosen = rows[mine] - int(number) * size
            block = self._chunk(int(number)).take(chosen)
            if self._sex is not None and self._ploidy is not Ploidy.DIPLOID:
                block, _ = recode(block, self._ploidy, self._sex, self._samples)
            result[mine] = block.copies(self._samples)
        return result

    def _chunk(self, number: int) -> GenotypeBlock:
        if number not in self._chunks:
            start = number * self._dataset.chunk_variants
            stop = min(start + self._dataset.chunk_variants, self._dataset.n_variants)
            self._chunks[number] = self._dataset.read_block(start, stop)
            while len(self._chunks) > 1 and _size(self._chunks) > _CACHE_BYTES:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(number)
        return self._chunks[number]


def imputed(copies: Float) -> Float:
    """Return copies with the mean in place of missing ones; 0 where all are missing."""
    called = ~np.isnan(copies)
    mean = copies[called].mean() if called.any() else 0.0
    return np.asarray(np.where(called, copies, mean))


def _standardised(copies: Float) -> Float:
    """Rows of mean 0 and length 1; missing ones, and constant rows, are 0."""
    missing = np.isnan(copies)
    count = np.maximum((~missing).sum(axis=1, keepdims=True), 1)
    copies[missing] = 0.0
    copies -= copies.sum(axis=1, keepdims=True) / count
    copies[missing] = 0.0
    length = np.sqrt(np.einsum("ij,ij->i", copies, copies))[:, None]
    return np.asarray(np.divide(copies, length, out=np.zeros_like(copies), where=length > 1e-9))


def _size(chunks: OrderedDict[int, GenotypeBlock]) -> int:
    return sum(block.nbytes for block in chunks.values())
