"""Traits that no variant affects, of the shapes the tests are to hold for, and allele counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import norm, rankdata

from hlmm_scan.array_types import Float

Draw = Callable[[np.random.Generator, int], Float]


def _share(share: float) -> Draw:
    """Return a draw of 0/1 traits with so many ones."""
    return lambda rng, n: (rng.random(n) < share).astype(float)


TRAITS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "gamma(2)": lambda rng, n: rng.gamma(2, size=n),
    "t5": lambda rng, n: rng.standard_t(5, n),
    "log-normal": lambda rng, n: rng.lognormal(size=n),
    "counts": lambda rng, n: rng.poisson(0.5, n).astype(float),
    "0/1, 50%": _share(0.5),
    "0/1, 10%": _share(0.1),
    "0/1, 2%": _share(0.02),
    "zero-inflated": lambda rng, n: np.where(rng.random(n) < 0.7, 0.0, rng.lognormal(size=n)),
    "ranks, ties": lambda rng, n: norm.ppf((rankdata(rng.poisson(1.0, n)) - 0.5) / n),
}
"""Log-normal noise is exp(z), skewness 6; counts are Poisson(½); zero-inflated: 70% zeros, the rest
log-normal; ranks are rank-normalised Poisson(1) counts, a quarter of which tie at each value."""

TWO_VALUED = frozenset(name for name in TRAITS if name.startswith("0/1"))
LATTICES = TWO_VALUED | {"counts", "ranks, ties"}
"""Scores of these take few values, so p-values jump: rejection below nominal is no loss of power
that another p-value of the same score could regain."""

OUTLYING = frozenset({"log-normal", "zero-inflated"})
"""A few people hold most of the variance: their p-values may be conservative."""

COUNTS = {"20": 20, "50": 50, "100": 100, "500": 500, "common": None}
"""Minor allele counts; common is a frequency of 0.3."""


def draw_trait(trait: str, n: int, rng: np.random.Generator) -> Float:
    """Return a trait of mean 0 and variance 1."""
    y = TRAITS[trait](rng, n)
    return np.asarray((y - y.mean()) / y.std())


def class_counts(minor: str, n: int) -> tuple[int, int]:
    """Return people with one and two minor alleles at a minor allele count, Hardy–Weinberg."""
    frequency = 0.3 if COUNTS[minor] is None else COUNTS[minor] / (2 * n)
    two = round(n * frequency**2)
    return round(2 * n * frequency) - 2 * two, two
