"""Fewer points that look the same: dull ones are thinned, interesting ones are all kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float

KEEP = 4.0
"""−log10 p from which on every test is kept as it is."""

_COLUMNS = 1600
_LEVELS = 100


class Thinner:
    """Points along a genome, taken in some at a time.

    Below `keep` the first point in each cell of a grid finer than the picture stays; from `keep`
    on all do. What stays does not depend on how many are taken in at a time.

    Parameters
    ----------
    width : float
        Of the x axis, which begins at 0.
    keep : float, default 4
        Height from which on all points stay.
    top : float, optional
        Height of the grid; default `keep`.
    levels : int, default 100
        Cells of the grid from 0 to its top.
    """

    def __init__(
        self, width: float, keep: float = KEEP, top: float | None = None, levels: int = _LEVELS
    ) -> None:
        self._width, self._keep, self._levels = width, keep, levels
        self._per_unit = levels / (keep if top is None else top)
        self._taken = np.zeros(_COLUMNS * levels, dtype=bool)
        self._parts: list[tuple[Float, Float, NDArray[np.int64]]] = []

    def add(self, x: Float, y: Float, rows: NDArray[np.int64]) -> None:
        """Take in points; NaN in `y` are left out.

        Parameters
        ----------
        x, y : ndarray, shape (m,)
        rows : ndarray of int64, shape (m,)
            Indices of their variants.
        """
        stays = y >= self._keep
        dull = np.flatnonzero(y < self._keep)
        column = np.minimum((x[dull] / self._width * _COLUMNS).astype(np.int64), _COLUMNS - 1)
        level = np.minimum((y[dull] * self._per_unit).astype(np.int64), self._levels - 1)
        cell = column * self._levels + level
        # Of several assignments to one element the last holds: backwards, that is the first point.
        first = np.full(len(self._taken), -1, dtype=np.int64)
        first[cell[::-1]] = dull[::-1]
        new = (first >= 0) & ~self._taken
        self._taken |= new
        stays[first[new]] = True
        self._parts.append((x[stays], y[stays], rows[stays]))

    def points(self) -> tuple[Float, Float, NDArray[np.int64]]:
        """Return x, y and row of what stays, in the order it came."""
        none = np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)
        x, y, rows = zip(none, *self._parts, strict=True)
        return np.concatenate(x), np.concatenate(y), np.concatenate(rows)
