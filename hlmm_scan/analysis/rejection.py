"""How often a test rejects among some variants, beside what chance allows, and its λ."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom
from scipy.stats import t as student

from hlmm_scan.analysis.quantiles import PValues, expected_neg_log10_p
from hlmm_scan.array_types import Float
from hlmm_scan.models.inference import chi2_of
from hlmm_scan.results.tests import ReportedTest

LEVELS = (0.5, 1e-3, 1e-4)
"""Levels at which rejection is counted; at 0.5 it is another word for λ."""

BLOCKS = 20
"""Runs of neighbouring variants, as long as chromosomes, by which chance in the counts is judged:
neighbours in linkage reject together, and one true locus may be hundreds of them."""

_ALPHA = 5e-4
"""Binomial probability below which a count is more, or less, than chance allows."""

_SPREAD_ALPHA = {0.5: 1e-4, 1e-3: 0.01, 1e-4: 0.01}
"""Probability of Student's t below which a count must also lie, by what the runs vary by."""

_MATERIAL = {0.5: (0.98, 1.02), 1e-3: (0.7, 1.2), 1e-4: (0.6, 1.4)}
"""Rejection over its nominal rate that does not matter, however certain; at 0.5 that is λ within
some 0.05 of 1."""


@dataclass(frozen=True)
class Bin:
    """Which variants: all, or those of some minor allele counts or imputation info.

    Attributes
    ----------
    of : {"all", "count", "info"}
    low, high : float
        From the first (kept) to the second (not).
    """

    of: str = "all"
    low: float = 0.0
    high: float = np.inf

    @property
    def words(self) -> str:
        """The bin in words."""
        if self.of == "all":
            return "all"
        if self.low <= 0:
            return f"{self.of} below {self.high:,g}"
        end = "and more" if np.isinf(self.high) else f"to {self.high:,g}"
        return f"{self.of} {self.low:,g} {end}"

    def holds(self, values: Float) -> NDArray[np.bool_]:
        """Return which values lie in it."""
        return np.asarray((values >= self.low) & (values < self.high))


ALL = Bin()

COLUMNS = (
    "test",
    "variants",
    "tests",
    "worth",
    "λ",
    "(95%)",
    *(what for level in LEVELS if level < 0.5 for what in (f"p < {level:g}", "(95%)")),
    "beyond",
)
"""Heads of :attr:`CalibratedTest.cells`."""


@dataclass(frozen=True)
class Rejection:
    """How many tests have a p below a level.

    Attributes
    ----------
    level : float
    observed : int
    expected, lower, upper : float
        Without effects, and the binomial band that holds 95%, of as many independent tests as
        these are worth.
    beyond : {-1, 0, 1}
        1 where more reject than chance allows, −1 where fewer do: outside 99.9% of that binomial
        distribution, farther than counts in 20 runs of neighbouring variants vary, and by so much
        that it matters.
    """

    level: float
    observed: int
    expected: float
    lower: float
    upper: float
    beyond: int

    @property
    def ratio(self) -> float:
        """Rejection over its nominal rate."""
        return self.observed / self.expected if self.expected else np.nan


@dataclass(frozen=True, eq=False)
class CalibratedTest:
    """One test over some variants.

    Attributes
    ----------
    test : str
        As ``--test`` takes it.
    bin : Bin
    n : int
        Tests in it; those with a status of 5 or more, or without a p, are left out.
    alike : float
        How many of them are as good as one, for linkage: what p < 0.5 varies by in 20 runs of
        neighbouring variants, over what it would of independent tests.
    lambda_gc : float
        Median χ² over that of the null distribution.
    lambda_band : tuple of float
        What holds it with probability 95% where n / alike independent tests have no effect.
    rejections : tuple of Rejection
        At each of :data:`LEVELS`.
    rank : ndarray of int64, shape (k,)
        1 the smallest p: the 100 smallest, and 40 ranks for each tenfold.
    observed, expected, lower, upper : ndarray, shape (k,)
        −log10 p of that rank, what uniform p-values lead one to expect, and their 95% band.
    """

    test: str
    bin: Bin
    n: int
    alike: float
    lambda_gc: float
    lambda_band: tuple[float, float]
    rejections: tuple[Rejection, ...]
    rank: NDArray[np.int64]
    observed: Float
    expected: Float
    lower: Float
    upper: Float

    @property
    def independent(self) -> float:
        """How many independent tests they are as good as."""
        return self.n / self.alike

    @property
    def beyond(self) -> int:
        """1 where it rejects too often at any level, −1 where only too rarely, else 0."""
        found = [r.beyond for r in self.rejections]
        return 1 if 1 in found else min(found, default=0)

    @property
    def cells(self) -> tuple[str, ...]:
        """What tables say of it, under :data:`COLUMNS`."""
        counted = [r for r in self.rejections if r.level < 0.5]
        if not self.n:
            return (self.test, self.bin.words, "no tests", *[""] * (len(COLUMNS) - 3))
        return (
            self.test,
            self.bin.words,
            f"{self.n:,}",
            f"{self.independent:,.0f}",
            f"{self.lambda_gc:.3f}",
            "{:.2f}–{:.2f}".format(*self.lambda_band),
            *(
                cell
                for r in counted
                for cell in (f"{r.observed:,}", f"{r.lower:,.0f}–{r.upper:,.0f}")
            ),
            {1: "too many", -1: "too few"}.get(self.beyond, ""),
        )

    def at(self, level: float) -> Rejection:
        """Return the rejection at one of :data:`LEVELS`."""
        return next(r for r in self.rejections if r.level == level)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        numbers = ("rank", "observed", "expected", "lower", "upper")
        return {
            "test": self.test,
            "variants": {
                "of": self.bin.of,
                "low": self.bin.low,
                "high": None if np.isinf(self.bin.high) else self.bin.high,
            },
            "n": self.n,
            "independent": self.independent,
            "lambda_gc": _number(self.lambda_gc),
            "lambda_band": [_number(x) for x in self.lambda_band],
            "rejections": [asdict(r) for r in self.rejections],
            **{name: getattr(self, name).tolist() for name in numbers},
        }


@dataclass(eq=False)
class Seen:
    """One test over some variants, as rows come in."""

    values: PValues = field(default_factory=PValues)
    tests: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BLOCKS, np.int64))
    below: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(LEVELS), BLOCKS), np.int64)
    )

    def add(self, p: Float, block: NDArray[np.int64]) -> None:
        """Add −log10 p of rows, which lie in given runs of neighbours; NaN is left out."""
        there = p >= 0
        p, block = p[there], block[there]
        self.values.add(p)
        self.tests += np.bincount(block, minlength=BLOCKS)
        for k, level in enumerate(LEVELS):
            self.below[k] += np.bincount(block[p > -np.log10(level)], minlength=BLOCKS)


def summary(test: ReportedTest, which: Bin, seen: Seen) -> CalibratedTest:
    """Return what was seen of a test among some variants, with the bands of chance."""
    values = seen.values
    alike = _alike(seen.tests, seen.below[0])
    ranks = values.ranks_to_show()
    expected, lower, upper = expected_neg_log10_p(ranks, values.n)
    return CalibratedTest(
        test=test.name,
        bin=which,
        n=values.n,
        lambda_gc=values.lambda_gc(test.df),
        alike=alike,
        lambda_band=_lambda_band(values.n / alike, test.df),
        rejections=tuple(
            _rejection(level, seen.tests, below, alike)
            for level, below in zip(LEVELS, seen.below, strict=True)
        ),
        rank=ranks,
        observed=values.at_rank(ranks),
        expected=expected,
        lower=lower,
        upper=upper,
    )


def _lambda_band(n: float, df: int) -> tuple[float, float]:
    """Return what holds λ of n independent tests without effects with probability 95%."""
    if not n:
        return np.nan, np.nan
    p = beta.ppf([0.975, 0.025], (n + 1) / 2, (n + 1) / 2)
    low, high = chi2_of(-np.log10(p), df) / chi2_of(np.log10(2.0), df)
    return float(low), float(high)


def _spread(tests: NDArray[np.int64], below: NDArray[np.int64]) -> float:
    """Return the standard error of a count, from what it is in each block."""
    blocks = int((tests > 0).sum())
    if blocks < 2:
        return np.inf
    rest = below - tests * (below.sum() / tests.sum())
    return float(np.sqrt((rest**2).sum() * blocks / (blocks - 1)))


def _alike(tests: NDArray[np.int64], halves: NDArray[np.int64]) -> float:
    """Return how many tests are as good as one, by how p < 0.5 varies from block to block."""
    n = int(tests.sum())
    spread = _spread(tests, halves) if n else np.inf
    return float(np.clip(spread**2 / (0.25 * n), 1.0, n)) if np.isfinite(spread) else 1.0


def _rejection(
    level: float, tests: NDArray[np.int64], below: NDArray[np.int64], alike: float
) -> Rejection:
    """Count rejections at a level; tests and rejections are those of each block."""
    n, observed = int(tests.sum()), int(below.sum())
    expected = n * level
    lower, upper = (
        alike * float(binom.ppf(q, round(n / alike), level)) if n else 0.0 for q in (0.025, 0.975)
    )
    spread, blocks = _spread(tests, below) if n else np.inf, int((tests > 0).sum())
    least = float(student.isf(_SPREAD_ALPHA[level], max(blocks - 1, 1))) * spread
    low, high = _MATERIAL[level]
    # Those that are alike make one event, be they tests in linkage or one locus.
    alike = max(alike, spread**2 / observed if observed and np.isfinite(spread) else 1.0)
    events, chances = observed / alike, round(n / alike)
    beyond = 0
    if observed - expected > least and observed > high * expected:
        beyond = int(binom.sf(np.ceil(events) - 1, chances, level) < _ALPHA)
    elif expected - observed > least and observed < low * expected:
        beyond = -int(binom.cdf(np.floor(events), chances, level) < _ALPHA)
    return Rejection(level, observed, expected, lower, upper, beyond)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
