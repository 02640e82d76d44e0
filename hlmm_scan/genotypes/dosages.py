"""A block of imputed genotypes: dosages as whole steps of a unit, people who have none marked.

Whatever a container holds, dosages are kept as 16-bit codes: an 8-bit BGEN dosage is one of
0, 1/255, …, 510/255 and is held exactly, and so are PGEN's steps of 1/16384; what is finer is
rounded to steps of 1/32767, of which 0, 1 and 2 copies are whole multiples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.packing import unpack_samples

MISSING_CODE = 65_535
"""Code of a person whose dosage is missing."""

BGEN_8_BIT = 1.0 / 255.0
PGEN = 1.0 / 16_384.0
FINEST = 1.0 / 32_767.0
"""Copies of the effect allele per step of a code."""


@dataclass(frozen=True, eq=False)
class Dosages:
    """Dosages of a block of variants for all people of a dataset.

    Attributes
    ----------
    codes : ndarray of uint16, shape (m, n_samples)
        Whole steps of `unit`, at most ``round(2 / unit)``; :data:`MISSING_CODE` (or anything beyond
        two copies) where missing.
    unit : float
        Copies of the effect allele per step.
    """

    codes: NDArray[np.uint16]
    unit: float

    def __len__(self) -> int:
        """Return the number of variants."""
        return len(self.codes)

    @property
    def steps(self) -> int:
        """Code of two copies."""
        return round(2.0 / self.unit)

    def take(self, rows: NDArray[np.integer] | slice) -> Dosages:
        """Return some of the variants."""
        return Dosages(self.codes[rows], self.unit)

    def copies(self, samples: NDArray[np.integer] | slice = slice(None)) -> NDArray[np.float64]:
        """Return copies of the effect allele, shape (m, chosen people), NaN where missing."""
        codes = self.codes[:, samples]
        # The quotient is rounded as 2·code/steps is, so that 0, 1 and 2 copies are exact.
        return np.where(codes > self.steps, np.nan, codes * 2.0 / self.steps)


GenotypeBlock = NDArray[np.uint8] | Dosages
"""A block of variants as tasks read it: packed hard calls (`packing`), shape (m, ⌈n/4⌉), or
dosages."""


def take(genotypes: GenotypeBlock, rows: NDArray[np.integer] | slice) -> GenotypeBlock:
    """Return some variants of a block, of whichever kind it is."""
    return genotypes.take(rows) if isinstance(genotypes, Dosages) else genotypes[rows]


def joined(parts: Sequence[GenotypeBlock]) -> GenotypeBlock:
    """Put blocks of the same people and kind one after the other."""
    dosages = [part for part in parts if isinstance(part, Dosages)]
    if dosages:
        return Dosages(np.concatenate([part.codes for part in dosages]), dosages[0].unit)
    return np.concatenate([part for part in parts if not isinstance(part, Dosages)])


def copies(genotypes: GenotypeBlock, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return copies of the effect allele of chosen people, of whichever kind a block is.

    Parameters
    ----------
    genotypes : ndarray of uint8, shape (m, bytes), or Dosages
    samples : ndarray of int64, shape (k,)

    Returns
    -------
    ndarray, shape (m, k)
        NaN where missing.
    """
    if isinstance(genotypes, Dosages):
        return genotypes.copies(samples)
    return unpack_samples(genotypes, samples)
