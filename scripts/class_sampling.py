"""Permutations of people as draws of genotype classes on fixed residuals, millions a minute.

A variant's scores depend on a permutation only by who is in which genotype class, so carriers are
drawn, not people shuffled. Few draws can be small p-values: scores are put into tiles by their
quantiles, and draws in a tile of which several were tested, all far above the level in question,
are counted as not rejected without a test. That this is right is looked at on a sample of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtr

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.scores.p_values import score_tests
from hlmm_scan.kernels.scores.residual_bins import ResidualBins

TESTS = ("add", "var", "av")
LEVELS = (1e-3, 1e-4, 1e-5, 1e-6, 5e-8)

_PILOT = 50_000  # scores that the tiles' edges are quantiles of
_FIRST = 4_000  # draws of the first batch, all tested
_BATCH = 200_000
_PROBITS = np.arange(-4.125, 4.2, 0.25)  # of the edges
_SEEN = 3  # tests in a tile before it may vouch for others
_MARGIN = 0.6  # −log10 p by which these stayed above the level
_CHECKED = 100  # draws of each batch tested though their tile vouches for them


@njit(nogil=True, cache=True)
def draw_scores(rng, ones, twos, s, q, order, out):  # type: ignore[no-untyped-def]
    """Fill Σgs, Σgq and the variance's score of as many draws as `out` has rows.

    `order` is any order of the people, and another one afterwards.
    """
    n = s.size
    mean = (ones + 2 * twos) / n
    g0, g1, g2 = -mean, 1.0 - mean, 2.0 - mean
    rest = n - ones - twos
    G2 = rest * g0**2 + ones * g1**2 + twos * g2**2
    G3 = rest * g0**3 + ones * g1**3 + twos * g2**3
    all_s, all_q = s.sum(), q.sum()
    for row in range(len(out)):
        s1 = q1 = s2 = q2 = 0.0
        for j in range(ones + twos):
            other = j + int(rng.random() * (n - j))
            person = order[other]
            order[other] = order[j]
            order[j] = person
            if j < ones:
                s1 += s[person]
                q1 += q[person]
            else:
                s2 += s[person]
                q2 += q[person]
        s0, q0 = all_s - s1 - s2, all_q - q1 - q2
        S1 = g0 * s0 + g1 * s1 + g2 * s2
        S3 = g0 * g0 * s0 + g1 * g1 * s1 + g2 * g2 * s2
        alpha = S1 / G2
        out[row, 0] = S1
        out[row, 1] = g0 * q0 + g1 * q1 + g2 * q2
        out[row, 2] = out[row, 1] - 2.0 * alpha * S3 + alpha * alpha * G3


@dataclass
class Tally:
    """Rejections of each test at each level.

    Attributes
    ----------
    draws : ndarray, shape (levels,)
    rejected : ndarray, shape (tests, levels)
    tested : int
        Draws that were tested, of all.
    checked : int
        Draws tested though their tile vouched for them.
    smallest : float
        The largest −log10 p of these less that of the level they were to stay above: below 0.
    alike : ndarray, shape (tests,)
        How many draws are as good as one, where they come from linked variants.
    """

    draws: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LEVELS), np.int64))
    rejected: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(TESTS), len(LEVELS)), np.int64)
    )
    tested: int = 0
    checked: int = 0
    smallest: float = -np.inf
    alike: Float = field(default_factory=lambda: np.ones(len(TESTS)))

    def add(self, other: Tally) -> None:
        """Add the counts of another."""
        self.draws += other.draws
        self.rejected += other.rejected
        self.tested += other.tested
        self.checked += other.checked
        self.smallest = max(self.smallest, other.smallest)


class Residuals:
    """Residuals of a trait without covariates, and the tests of classes drawn on them."""

    def __init__(self, y: Float, ones: int, twos: int) -> None:
        self.s = (y - y.mean()) / y.std()
        self.q = self.s**2 - 1.0
        self.ones, self.twos = ones, twos
        self.order = np.arange(len(y))
        self.bins = ResidualBins.of(self.s, self.q)
        self.people = np.array([len(y) - ones - twos, ones, twos], float)

    def draw(self, rng: np.random.Generator, draws: int) -> Float:
        """Return scores, shape (draws, 3)."""
        scores = np.empty((draws, 3))
        draw_scores(rng, self.ones, self.twos, self.s, self.q, self.order, scores)
        return scores

    def tests(self, scores: Float) -> Float:
        """Return −log10 p of the three tests, shape (3, draws)."""
        m = len(scores)
        copies = np.broadcast_to(np.arange(3.0), (m, 3))
        found = score_tests(self.bins, np.broadcast_to(self.people, (m, 3)), copies, scores)
        return np.array([found.add, found.var, found.av])


class Tiles:
    """What was seen of p-values by place of the scores of the mean and of the variance."""

    def __init__(self, pilot: Float) -> None:
        self.edges = np.quantile(pilot[:, [0, 2]], ndtr(_PROBITS), axis=0)
        self.across = len(_PROBITS) + 1
        self.seen = np.zeros(self.across**2, np.int64)
        self.largest = np.full(self.across**2, -np.inf)

    def place(self, scores: Float) -> NDArray[np.int64]:
        mean, variance = (
            np.searchsorted(self.edges[:, k], scores[:, column]) for k, column in ((0, 0), (1, 2))
        )
        return np.asarray(mean * self.across + variance, np.int64)

    def vouched(self, place: NDArray[np.int64], level: float) -> NDArray[np.bool_]:
        """Whether nothing like these is significant at a level."""
        safe = (self.seen >= _SEEN) & (self.largest < -np.log10(level) - _MARGIN)
        return np.asarray(safe[place])

    def learn(self, place: NDArray[np.int64], p: Float) -> None:
        np.add.at(self.seen, place, 1)
        np.maximum.at(self.largest, place, np.fmax.reduce(p))


def rejections(residuals: Residuals, draws: int, every: int, rng: np.random.Generator) -> Tally:
    """Draw classes and count rejections: at all levels among `every` draws, then below 1e-3."""
    tiles, tally, done = Tiles(residuals.draw(rng, _PILOT)), Tally(), 0
    thresholds = -np.log10(LEVELS)[:, None]
    while done < draws:
        first = 0 if done < every else 1
        end = every if done < every else draws
        scores = residuals.draw(rng, min(max(_FIRST, done), _BATCH, end - done))
        place = tiles.place(scores)
        vouched = tiles.vouched(place, LEVELS[first])
        rows = np.flatnonzero(~vouched)
        if len(rows):
            p = residuals.tests(scores[rows])
            tiles.learn(place[rows], p)
            beyond = p[:, None] >= thresholds
            tally.rejected[:, first:] += beyond.sum(axis=2)[:, first:]
        some = np.flatnonzero(vouched)[:_CHECKED]
        if len(some):
            p = residuals.tests(scores[some])
            excess = float(np.nanmax(p) + np.log10(LEVELS[first]))
            tally.smallest = max(tally.smallest, excess)
        tally.checked += len(some)
        tally.tested += len(rows)
        tally.draws[first:] += len(scores)
        done += len(scores)
    return tally
