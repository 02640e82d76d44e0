"""What was published beside what we find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Figure:
    """One published figure, or a table of them, beside ours.

    Attributes
    ----------
    source, what : str
        Whose, and what of.
    numbers : int
        How many it stands for.
    published, ours : str
        As they are shown; of many, one that matters.
    apart : float
        The largest difference.
    within : float
        The largest that is allowed.
    unit : str
        What both are in; empty for the figure's own unit.
    """

    source: str
    what: str
    numbers: int
    published: str
    ours: str
    apart: float
    within: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is near enough; never where a number is missing."""
        return bool(self.apart <= self.within)

    def row(self) -> tuple[str, ...]:
        """Return what stands in the table."""
        unit = f" {self.unit}" if self.unit else ""
        return (
            self.source,
            self.what,
            f"{self.numbers:,}",
            self.published,
            self.ours,
            f"{self.apart:.2g}{unit}",
            f"{self.within:g}{unit}",
            "yes" if self.holds else "**no**",
        )


COLUMNS = ("source", "figure", "numbers", "published", "ours", "apart", "allowed", "holds")


def figure_of(
    source: str,
    what: str,
    published: ArrayLike,
    ours: ArrayLike,
    within: float,
    *,
    shown: int = 0,
    form: str = ".6g",
    apart: Callable[[ArrayLike, ArrayLike], float] | None = None,
    unit: str = "",
) -> Figure:
    """Compare tables; by their largest difference, unless another measure is given.

    `shown` is the number, in order of the flattened table, of the one that is printed.
    """
    theirs, own = np.asarray(published, float), np.asarray(ours, float)
    if theirs.shape != own.shape:
        raise ValueError(f"{what}: {own.shape} beside {theirs.shape}")
    return Figure(
        source,
        what,
        theirs.size,
        format(theirs.flat[shown], form),
        format(own.flat[shown], form),
        (apart or largest_difference)(theirs, own),
        within,
        unit,
    )


def largest_difference(published: ArrayLike, ours: ArrayLike) -> float:
    """Return the largest absolute difference; NaN where any number is."""
    return float(np.abs(np.asarray(ours) - np.asarray(published)).max())


def digits_apart(published: ArrayLike, ours: ArrayLike, digits: int = 6) -> float:
    """Return the largest difference in units of the last of so many printed digits."""
    theirs, own = np.asarray(published, float), printed(ours, digits)
    place = 10.0 ** (np.floor(np.log10(np.abs(theirs))) - digits + 1)
    return float(np.round(np.abs(own - theirs) / place, 3).max())


def printed(values: ArrayLike, digits: int = 6) -> np.ndarray:
    """Return numbers as they are read back after printing them with so many digits."""
    return np.array([float(f"{v:.{digits}g}") for v in np.ravel(values)]).reshape(np.shape(values))
