"""Regions of the genome that analyses leave out, and the variants in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlmm_scan.errors import InputError, nearest
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, chromosome
from hlmm_scan.genotypes.selection import Region
from hlmm_scan.shown import one_line

NAMED_REGIONS = {
    "mhc-grch37": Region("6", 28_477_797, 33_448_354),
    "mhc-grch38": Region("6", 28_510_120, 33_480_577),
}
"""The major histocompatibility complex by genome build, as the Genome Reference Consortium bounds
it."""


def parse_region(text: str) -> Region:
    """Return the region of a name, or of ``chromosome:from-to``, or of a whole chromosome.

    Parameters
    ----------
    text : str
        One of :data:`NAMED_REGIONS`, or what
        :meth:`~hlmm_scan.genotypes.selection.Region.parse` reads.

    Raises
    ------
    InputError
        If it is neither.
    """
    named = NAMED_REGIONS.get(text.lower())
    if named is not None:
        return named
    if "-" in text and ":" not in text:  # a name has a hyphen, a chromosome has none
        raise InputError(
            f"region '{one_line(text, 80)}' is neither chromosome:from-to nor one of "
            f"{', '.join(NAMED_REGIONS)}{nearest(text.lower(), NAMED_REGIONS)}"
        )
    return Region.parse(text)


def in_regions(
    contig: ArrayLike,
    position: ArrayLike,
    regions: Sequence[Region],
    autosomes: int = HUMAN_AUTOSOMES,
) -> NDArray[np.bool_]:
    """Return which variants lie in any of some regions.

    Parameters
    ----------
    contig : array_like of str, shape (m,)
        As the source names chromosomes; ``chr6``, ``06`` and ``6`` are one.
    position : array_like of int, shape (m,)
        1-based.
    regions : sequence of Region
    autosomes : int, default 22
        Of the species.

    Returns
    -------
    ndarray of bool, shape (m,)
    """
    names, at = np.asarray(contig, dtype=object), np.asarray(position)
    inside = np.zeros(len(at), dtype=bool)
    for region in regions:
        wanted = chromosome(region.contig, autosomes)
        for name in dict.fromkeys(names.tolist()):
            if chromosome(str(name), autosomes) == wanted:
                inside |= (names == name) & (at >= region.start) & (at <= region.stop)
    return inside
