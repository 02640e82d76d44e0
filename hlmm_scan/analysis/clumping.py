"""From many significant neighbours to one lead variant each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Linked = Callable[[int, Indices], NDArray[np.bool_]]


def clump(
    contig: NDArray[np.integer],
    position: NDArray[np.integer],
    strength: NDArray[np.float64],
    distance: int,
    linked: Linked | None = None,
) -> tuple[Indices, Indices]:
    """Choose lead variants, the strongest first; each takes the weaker ones around it.

    Parameters
    ----------
    contig, position : ndarray of int, shape (k,)
        Of the significant variants, in any order.
    strength : ndarray, shape (k,)
        −log10 p. Of equals the first in the order given leads.
    distance : int
        Base pairs to either side that a lead reaches, the last included; never into another
        chromosome.
    linked : callable, optional
        Told a lead and variants within its reach (indices into the arrays), says which of them it
        takes. By default all.

    Returns
    -------
    leads : ndarray of int64
        Indices, ascending.
    taken : ndarray of int64
        How many others each lead took.

    Notes
    -----
    A variant is taken once, by the strongest lead that reaches it; a taken one leads nothing, so
    two leads of a long stretch may be nearer to one another than the variants they took.
    """
    size = len(position)
    by_place = np.lexsort((position, contig))
    # One axis for all chromosomes, more than the reach apart.
    offset = np.asarray(contig, np.int64) * (2**32 + 2 * distance)
    place = (offset + np.asarray(position, np.int64))[by_place]
    rank = np.empty(size, np.int64)
    rank[by_place] = np.arange(size)
    free = np.ones(size, np.bool_)  # by place
    leads, taken = [], []
    for index in np.lexsort((np.arange(size), -strength)):
        here = rank[index]
        if not free[here]:
            continue
        free[here] = False
        low = np.searchsorted(place, place[here] - distance, side="left")
        high = np.searchsorted(place, place[here] + distance, side="right")
        around = low + np.flatnonzero(free[low:high])
        if linked is not None and len(around):
            around = around[linked(int(index), by_place[around])]
        free[around] = False
        leads.append(int(index))
        taken.append(len(around))
    order = np.argsort(leads)
    return np.array(leads, np.int64)[order], np.array(taken, np.int64)[order]
