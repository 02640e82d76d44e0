"""Regions of the genome, as users name them, and the variants in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlmm_scan.errors import InputError, nearest
from hlmm_scan.null.model import contig_key


@dataclass(frozen=True)
class Region:
    """Part of a chromosome, or all of it.

    Attributes
    ----------
    contig : str
        As :func:`~hlmm_scan.null.model.contig_key` gives it.
    first, last : int
        1-based positions, both included.
    """

    contig: str
    first: int
    last: int

    def __str__(self) -> str:
        if self.last == _END:
            return self.contig
        return f"{self.contig}:{self.first}-{self.last}"


_END = np.iinfo(np.int32).max

NAMED_REGIONS = {
    "mhc-grch37": Region("6", 28_477_797, 33_448_354),
    "mhc-grch38": Region("6", 28_510_120, 33_480_577),
}
"""The major histocompatibility complex by genome build, as the Genome Reference Consortium bounds
it."""

_FORM = re.compile(r"(?P<contig>[^:\s]+)(?::(?P<first>[\d,]+)-(?P<last>[\d,]+))?")


def parse_region(text: str) -> Region:
    """Return the region of a name, or of ``chromosome:from-to``, or of a whole chromosome.

    Parameters
    ----------
    text : str
        One of :data:`NAMED_REGIONS`, ``6:28477797-33448354`` (also ``chr6:28,477,797-33,448,354``)
        or ``6``; 1-based, both ends included.

    Raises
    ------
    InputError
        If it is neither.
    """
    named = NAMED_REGIONS.get(text.lower())
    if named is not None:
        return named
    match = _FORM.fullmatch(text)
    # A name has a hyphen and no colon, as no chromosome has.
    if match is None or (match["first"] is None and "-" in text):
        raise InputError(
            f"region '{text}' is neither chromosome:from-to nor one of "
            f"{', '.join(NAMED_REGIONS)}{nearest(text.lower(), NAMED_REGIONS)}"
        )
    contig = contig_key(match["contig"])
    if match["first"] is None:
        return Region(contig, 1, _END)
    first, last = (int(match[end].replace(",", "") or 0) for end in ("first", "last"))
    if not 1 <= first <= last:
        raise InputError(f"region '{text}' must begin at 1 or later and not end before it begins")
    return Region(contig, first, min(last, _END))


def in_regions(
    contig: ArrayLike, position: ArrayLike, regions: Sequence[Region]
) -> NDArray[np.bool_]:
    """Return which variants lie in any of some regions.

    Parameters
    ----------
    contig : array_like of str, shape (m,)
        As the source names chromosomes.
    position : array_like of int, shape (m,)
        1-based.
    regions : sequence of Region

    Returns
    -------
    ndarray of bool, shape (m,)
    """
    names, at = np.asarray(contig, dtype=object), np.asarray(position)
    inside = np.zeros(len(at), dtype=bool)
    for region in regions:
        spelled = [
            name for name in dict.fromkeys(names.tolist()) if contig_key(str(name)) == region.contig
        ]
        for name in spelled:
            inside |= (names == name) & (at >= region.first) & (at <= region.last)
    return inside
