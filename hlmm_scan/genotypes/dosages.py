"""A block of imputed genotypes: dosages as whole steps of a unit, people who have none marked.

Whatever a container holds, dosages are kept as 16-bit codes: an 8-bit BGEN dosage is one of
0, 1/255, …, 510/255 and is held exactly, and so are PGEN's steps of 1/16384; what is finer is
rounded to steps of 1/32767, of which 0, 1 and 2 copies are whole multiples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        Whole steps of `unit`, at most ``round(2 / unit)``; :data:`MISSING_CODE` where missing.
    unit : float
        Copies of the effect allele per step.
    """

    codes: NDArray[np.uint16]
    unit: float

    def __len__(self) -> int:
        """Return the number of variants."""
        return len(self.codes)

    def take(self, rows: NDArray[np.integer] | slice) -> Dosages:
        """Return some of the variants."""
        return Dosages(self.codes[rows], self.unit)

    def copies(self, samples: NDArray[np.integer] | slice = slice(None)) -> NDArray[np.float64]:
        """Return copies of the effect allele, shape (m, chosen people), NaN where missing."""
        codes = self.codes[:, samples]
        # The quotient is rounded as 2·code/steps is, so that 0, 1 and 2 copies are exact.
        steps = round(2.0 / self.unit)
        return np.where(codes == MISSING_CODE, np.nan, codes * 2.0 / steps)


GenotypeBlock = NDArray[np.uint8] | Dosages
"""A block of variants as tasks read it: packed hard calls (`packing`), shape (m, ⌈n/4⌉), or
dosages."""
