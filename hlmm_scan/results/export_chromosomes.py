"""Chromosomes as numbers, as the GWAS catalog has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, MT, XY, X, Y, chromosome, number_of

_HUMAN = {X: 23, Y: 24, XY: 23, MT: 25}
"""The GWAS catalog's numbers. PLINK's own 25 and 26, pseudo-autosomal and mitochondrial, are
those of files that have no other names for them."""


def autosomes_of(attributes: Mapping[str, Any]) -> int:
    """Return how many autosomes the species of a result store has, by the store's attributes."""
    parameters = attributes.get("parameters")
    said = parameters.get("autosomes") if isinstance(parameters, Mapping) else None
    return int(said or HUMAN_AUTOSOMES)


def chromosome_numbers(
    contigs: NDArray[np.object_], autosomes: int = HUMAN_AUTOSOMES
) -> NDArray[np.int64]:
    """Return chromosomes as the GWAS catalog numbers them: X 23, Y 24, MT 25; else −1.

    Parameters
    ----------
    contigs : ndarray of object (str), shape (m,)
    autosomes : int, default 22
        Of the species; of others than humans only autosomes have a number.
    """
    known = {name: _number(str(name), autosomes) for name in set(contigs)}
    return np.array([known[name] for name in contigs], dtype=np.int64)


def _number(contig: str, autosomes: int) -> int:
    one = chromosome(contig, autosomes)
    number = number_of(one)
    if number is not None:
        return number if 1 <= number <= autosomes else -1
    return _HUMAN.get(one, -1) if autosomes == HUMAN_AUTOSOMES else -1
