"""Where variants lie on an axis that has the chromosomes side by side, in natural order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from hlmm_scan.genotypes.chromosomes import (
    AFTER_AUTOSOMES,
    MT,
    NUMBERS_STAY,
    XY,
    X,
    Y,
    chromosome,
    number_of,
)

GAP = 0.006
"""Space between two chromosomes, of the whole axis; less where there are over 30 of them."""


def contig_order(name: str) -> tuple[Any, ...]:
    """Return the sorting key of a chromosome: 1, 2, … 22, X, XY, Y, MT, then all other names.

    However it is written; digits within other names sort as numbers.
    """
    bare = chromosome(name, NUMBERS_STAY)
    number = number_of(bare)
    if number is not None:
        return 0, number, name
    if bare in AFTER_AUTOSOMES:
        return 1, (X, XY, Y, MT).index(bare), name
    parts = re.split("([0-9]{1,9})", bare.casefold())
    return 2, tuple(int(part) if k % 2 else part for k, part in enumerate(parts)), name


@dataclass(frozen=True, eq=False)
class Genome:
    """The variants of a scan along one axis.

    Attributes
    ----------
    contigs : tuple of str
        In natural order.
    starts, stops : ndarray of float64, shape (n_contigs,)
        Where each begins and ends on the axis; the first begins at 0.
    contig : ndarray of int32, shape (n_variants,)
        Of each variant, as an index into `contigs`.
    position : ndarray of int32, shape (n_variants,)
        In base pairs; 0 and less are unknown.
    """

    contigs: tuple[str, ...]
    starts: NDArray[np.float64]
    stops: NDArray[np.float64]
    contig: NDArray[np.int32]
    position: NDArray[np.int32]
    _shift: NDArray[np.float64]

    @classmethod
    def of(
        cls, contig: NDArray[np.int32], position: NDArray[np.int32], names: Sequence[str]
    ) -> Genome:
        """Lay chromosomes out side by side.

        Parameters
        ----------
        contig : ndarray of int32, shape (n_variants,)
            Index into `names`.
        position : ndarray of int32, shape (n_variants,)
        names : sequence of str
            In any order.
        """
        order = sorted(range(len(names)), key=lambda k: contig_order(names[k]))
        rank = np.empty(len(names), dtype=np.int32)
        rank[order] = np.arange(len(names), dtype=np.int32)
        contig = rank[contig] if len(contig) else contig
        known = position > 0
        first = np.full(len(names), np.iinfo(np.int32).max, dtype=np.int64)
        last = np.zeros(len(names), dtype=np.int64)
        np.minimum.at(first, contig[known], position[known])
        np.maximum.at(last, contig[known], position[known])
        first = np.minimum(first, last)
        spans = np.maximum(last - first, 1).astype(np.float64)
        gap = GAP * float(spans.sum()) * min(1.0, 30 / max(1, len(names)))
        starts = np.concatenate([[0.0], np.cumsum(spans + gap)[:-1]]) if len(names) else spans
        return cls(
            tuple(names[k] for k in order), starts, starts + spans, contig, position, starts - first
        )

    @classmethod
    def read(cls, results: xr.Dataset, rows_per_read: int) -> Genome:
        """Read the coordinates of a result store, some rows at a time (8 bytes a variant stay)."""
        n_variants = results.sizes["variant"]
        contig = np.empty(n_variants, dtype=np.int32)
        position = np.empty(n_variants, dtype=np.int32)
        names: dict[str, int] = {}
        columns = results[["contig", "position"]].reset_coords()
        for start in range(0, n_variants, rows_per_read):
            part = columns.isel(variant=slice(start, start + rows_per_read)).load()
            codes, found = pd.factorize(np.asarray(part["contig"].values, dtype=object))
            known = [names.setdefault(str(name), len(names)) for name in found]
            contig[start : start + rows_per_read] = np.asarray(known, dtype=np.int32)[codes]
            position[start : start + rows_per_read] = part["position"].values
        return cls.of(contig, position, list(names))

    @property
    def width(self) -> float:
        """Length of the axis; at least 1."""
        return float(self.stops[-1]) if len(self.stops) else 1.0

    def x(self, variants: slice | NDArray[np.intp]) -> NDArray[np.float64]:
        """Return where variants lie on the axis; at the chromosome's start without a position.

        Parameters
        ----------
        variants : slice or ndarray of int
            Indices.
        """
        contig, position = self.contig[variants], self.position[variants]
        x = self._shift[contig] + position
        return np.asarray(np.where(position > 0, x, self.starts[contig]))
