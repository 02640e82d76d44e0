"""Chromosomes as numbers, as the GWAS catalog has them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHROMOSOMES = {"X": 23, "Y": 24, "M": 25, "MT": 25, "XY": 23, "PAR1": 23, "PAR2": 23}
"""The GWAS catalog's numbers. PLINK's own 25 and 26, pseudo-autosomal and mitochondrial, are
those of files that have no other names for them."""

_PLINK_CODES = {25: 23, 26: 25}


def chromosome_numbers(contigs: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return chromosomes as the GWAS catalog numbers them: X 23, Y 24, MT 25; else −1.

    Parameters
    ----------
    contigs : ndarray of object (str), shape (m,)
    """
    known = {name: _number(str(name)) for name in set(contigs)}
    return np.array([known[name] for name in contigs], dtype=np.int64)


def _number(contig: str) -> int:
    name = contig[3:] if contig[:3].lower() == "chr" else contig
    if name.isascii() and name.isdigit():
        number = int(name)
        return _PLINK_CODES.get(number, number if 1 <= number <= 24 else -1)
    return _CHROMOSOMES.get(name.upper(), -1)
