"""Numbers that many people share and that lie apart: codes for missing, as PLINK's −9."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.cohort.words import MISSING_CODES, shown

_FEWEST = 3
_SHARE = 1e-3
_FAR = 5.0
"""Standard deviations from the median, by the quartiles."""
_GAP = 2.0
"""The same from the nearest value that is not far."""
_CONSPICUOUS = 10
_MOST_CODES = 6
_SCORES = 10
"""Below it, numbers may be a score that goes below zero."""


def suspected_codes(values: Float) -> list[tuple[float, int]]:
    """Return values that may stand for missing, each with how many people have it.

    A value that many share is suspected where it lies far from the others; a usual code also where
    it is shared by ten times as many as any other, or is the only kind below zero.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        NaN where missing.
    """
    there = values[~np.isnan(values)]
    unique, counts = np.unique(there, return_counts=True)
    shared = counts >= max(_FEWEST, _SHARE * len(there))
    if len(unique) < _FEWEST or not shared.any():
        return []
    usual = np.isin(unique, list(MISSING_CODES))
    found = shared & _far(there, unique, counts)
    others = np.where(usual, 0, counts)
    found |= shared & usual & (counts >= _CONSPICUOUS * others.max())
    if unique[-1] >= _SCORES and (unique[~usual] >= 0).all():
        found |= shared & usual & (unique < 0)
    return [(float(unique[k]), int(counts[k])) for k in np.flatnonzero(found)]


def _far(there: Float, unique: Float, counts: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which values lie far from the others, and are no part of a tail."""
    # Halves and quarters: no difference of values near the largest numbers overflows.
    low, median, high = np.percentile(there / 4, [25, 50, 75])
    scale = (high - low) / 1.349
    away = unique / 4 - median
    if scale == 0:
        scale = float(np.sqrt(np.average((away / np.abs(away).max()) ** 2, weights=counts)))
        scale *= float(np.abs(away).max())
    near = np.abs(away) <= _FAR * scale
    found = np.zeros(len(unique), np.bool_)
    for side in (away < away[near].min(), away > away[near].max()):
        edge = away[near].min() if side[0] else away[near].max()
        apart = side & (np.abs(away - edge) >= _GAP * scale)
        if apart.sum() > _MOST_CODES:
            apart &= counts >= _CONSPICUOUS * np.median(counts[side])
        found |= apart
    return found


def tell_codes(values: Float, name: str, path: Path) -> str | None:
    """Return a line on the values of a column that may stand for missing, or None."""
    found = suspected_codes(values)
    if not found:
        return None
    texts = [f"{value:.17g}" for value, _ in found]
    each = ", ".join(f"{text} in {n:,}" for text, (_, n) in zip(texts, found, strict=True))
    return (
        f"{path}: '{shown(name)}' is {each} people, apart from the others; if that means missing, "
        f"--missing-value={','.join(texts)} says so"
    )
