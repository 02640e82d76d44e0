"""Chromosomes as every export has them: by their numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, MT, XY, X, Y, chromosome

_AFTER_AUTOSOMES = {X: 1, Y: 2, XY: 1, MT: 3}
"""How far after the last autosome: of humans X is 23, Y 24 and MT 25, as in the GWAS catalog."""

_MOST_IN_CATALOG = 25


def exported_chromosomes(contigs: Iterable[str], autosomes: int | None) -> dict[str, str]:
    """Return what exports call the chromosomes of a store.

    Parameters
    ----------
    contigs : iterable of str
        All of the store.
    autosomes : int or None
        Of the species; None where the store does not say, as stores of before.

    Returns
    -------
    dict of str to str
        ``chr7`` and ``07`` are 7; X, Y and MT are the numbers after the last autosome. Other names
        stay what they are.
    """
    contigs = list(contigs)
    if autosomes is None:
        numbers = [int(name) for name in map(_bare, contigs) if _is_number(name)]
        human = max(numbers, default=0) <= HUMAN_AUTOSOMES + 4
        autosomes = HUMAN_AUTOSOMES if human else max(numbers)
    return {contig: _exported(contig, autosomes) for contig in contigs}


def catalog_numbers(contigs: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return exported chromosomes as numbers: 1 to 25, else −1.

    Parameters
    ----------
    contigs : ndarray of object (str), shape (m,)
        As :func:`exported_chromosomes` names them.
    """
    known = {
        name: int(name) if _is_number(name) and int(name) <= _MOST_IN_CATALOG else -1
        for name in set(contigs)
    }
    return np.array([known[name] for name in contigs], dtype=np.int64)


def order_of(names: Iterable[str]) -> dict[str, int]:
    """Return the rank of exported chromosomes: numbers first, others as they first appear."""
    seen = list(dict.fromkeys(names))
    numbered = sorted((name for name in seen if _is_number(name)), key=int)
    others = [name for name in seen if not _is_number(name)]
    return {name: rank for rank, name in enumerate([*numbered, *others])}


def _bare(contig: str) -> str:
    return contig[3:] if contig[:3].lower() == "chr" else contig


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) > 0


def _exported(contig: str, autosomes: int) -> str:
    one = chromosome(contig, autosomes)
    if one in _AFTER_AUTOSOMES:
        return str(autosomes + _AFTER_AUTOSOMES[one])
    return one if _is_number(one) else contig
