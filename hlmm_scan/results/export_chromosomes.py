"""Chromosomes in exports: one name each, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.chromosomes import (
    HUMAN_AUTOSOMES,
    MT,
    XY,
    X,
    Y,
    chromosome,
    number_of,
)

_AFTER_AUTOSOMES = {X: 1, Y: 2, XY: 1, MT: 3}
"""How far after the last autosome: of humans X is 23, Y 24 and MT 25, as in the GWAS catalog."""

_MOST_IN_CATALOG = 25


def autosomes_said(attributes: Mapping[str, Any]) -> int | None:
    """Return how many autosomes a result store says its species has; None of an older store."""
    parameters = attributes.get("parameters")
    asked = parameters.get("autosomes") if isinstance(parameters, Mapping) else None
    said = attributes.get("autosomes") or asked
    return None if said is None else int(said)


def autosomes_of(attributes: Mapping[str, Any]) -> int:
    """Return how many autosomes the species of a result store has, by the store's attributes."""
    return autosomes_said(attributes) or HUMAN_AUTOSOMES


def exported_chromosomes(contigs: Iterable[str], autosomes: int | None) -> dict[str, str]:
    """Return the numbers of a store's chromosomes, for formats that have numbers.

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
    autosomes = _autosomes(contigs, autosomes)
    return {contig: _exported(contig, autosomes) for contig in contigs}


def named_chromosomes(contigs: Iterable[str], autosomes: int | None) -> dict[str, str]:
    """Return the names of a store's chromosomes: of several ways to write one, the first.

    Parameters
    ----------
    contigs, autosomes
        As for :func:`exported_chromosomes`.
    """
    contigs = list(contigs)
    autosomes = _autosomes(contigs, autosomes)
    first: dict[str, str] = {}
    return {c: first.setdefault(chromosome(c, autosomes), c) for c in contigs}


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


def ranks_of(numbers: Mapping[str, str], names: Mapping[str, str]) -> dict[str, int]:
    """Return the rank of each chromosome: by number, then those without as they first appear.

    Parameters
    ----------
    numbers : mapping of str to str
        As :func:`exported_chromosomes` gives them.
    names : mapping of str to str
        What is written. Each of these is one piece, also where two have one number.
    """
    place = {name: k for k, name in enumerate(dict.fromkeys(names.values()))}

    def key(contig: str) -> tuple[float, int]:
        number = numbers[contig]
        return int(number) if _is_number(number) else np.inf, place[names[contig]]

    keys = {contig: key(contig) for contig in names}
    rank = {one: k for k, one in enumerate(sorted(set(keys.values())))}
    return {contig: rank[one] for contig, one in keys.items()}


def _autosomes(contigs: list[str], autosomes: int | None) -> int:
    if autosomes is not None:
        return autosomes
    numbers = [int(name) for name in map(_bare, contigs) if _is_number(name)]
    human = max(numbers, default=0) <= HUMAN_AUTOSOMES + 4
    return HUMAN_AUTOSOMES if human else max(numbers)


def _bare(contig: str) -> str:
    return contig[3:] if contig[:3].lower() == "chr" else contig


def _is_number(name: str) -> bool:
    return (number_of(name) or 0) > 0


def _exported(contig: str, autosomes: int) -> str:
    one = chromosome(contig, autosomes)
    if one in _AFTER_AUTOSOMES:
        return str(autosomes + _AFTER_AUTOSOMES[one])
    return one if _is_number(one) else contig
