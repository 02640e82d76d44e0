"""Permutations of people that a test calls significant, however rare: by multilevel splitting.

One permutation in 2·10⁷ has p = 5e-8, and one cannot wait for it. Of some permutations, those with
the smallest p are kept and copied; each copy walks on by exchanging people, steps that would leave
the set being refused; the smallest of these are kept, and so on. The product of the shares kept is
the probability of the last set (Kahn and Harris 1951; Botev and Kroese 2012). Permutations are
ordered by the very p that is looked at, so that what comes out is how often the test rejects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import Dosages, GenotypeBlock, HardCalls
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.scores.design import ScoreDesign, classes_for, genotype_shapes
from hlmm_scan.kernels.scores.residual_bins import ResidualBins
from hlmm_scan.kernels.sums.code_lanes import CLASSES

KEPT = 0.25
"""Share of permutations kept at a level, unless a level that is asked for comes first."""

_GRID = 0.08  # spacing of scores, in their standard deviation
_REACH = 1_000  # points of it to both sides
_FEW = 30  # values of a trait that is on a lattice
_MOVES = 24  # proposals of each permutation at a level
_ACCEPTED = 0.3  # share of them that is aimed at


@njit(nogil=True, cache=True)
def sums(who, x, s, out):  # type: ignore[no-untyped-def]
    """Fill Σxs, Σx(s² − 1) and Σx²s of each permutation."""
    for row in range(len(who)):
        one = two = three = 0.0
        for k in range(len(x)):
            r = s[who[row, k]]
            one += x[k] * r
            two += x[k] * (r * r - 1.0)
            three += x[k] * x[k] * r
        out[row, 0], out[row, 1], out[row, 2] = one, two, three


@njit(nogil=True, cache=True)
def exchange(rng, who, x, s, own, many, places, out):  # type: ignore[no-untyped-def]
    """Exchange `many` pairs of people in each row, one of them among the first `own` places.

    Sums are kept up in `out`; `places` has the pairs, to take them back.
    """
    n = len(x)
    for row in range(len(who)):
        for k in range(many):
            i, j = int(rng.random() * own), int(rng.random() * n)
            places[row, k, 0], places[row, k, 1] = i, j
            one, two = who[row, i], who[row, j]
            who[row, i], who[row, j] = two, one
            a, b, d = s[one], s[two], x[j] - x[i]
            out[row, 0] += (a - b) * d
            out[row, 1] += (a * a - b * b) * d
            out[row, 2] += (a - b) * (x[j] * x[j] - x[i] * x[i])


@njit(nogil=True, cache=True)
def take_back(who, refused, many, places):  # type: ignore[no-untyped-def]
    """Undo the exchanges of the rows that are refused."""
    for row in range(len(who)):
        if refused[row]:
            for k in range(many - 1, -1, -1):
                i, j = places[row, k, 0], places[row, k, 1]
                one = who[row, i]
                who[row, i], who[row, j] = who[row, j], one


class Variant:
    """A genotype, a trait without covariates, and the default tests of its permutations.

    Parameters
    ----------
    y : ndarray, shape (n,)
        The trait.
    copies : ndarray, shape (n,)
        Copies of the effect allele.
    step : float, optional
        Of dosages; hard calls are whole.
    """

    def __init__(self, y: Float, copies: Float, step: float | None = None) -> None:
        n = len(y)
        self.s = (y - y.mean()) / y.std()
        q = self.s**2 - 1.0
        design = ScoreDesign(
            ResidualBins.of(self.s, q), (1.0, 1.0), len(np.unique(y)) == 2, classes_for(self.s, q)
        )
        # The common genotype last: exchanges within it would change nothing.
        common = copies == np.median(copies)
        order = np.argsort(common, kind="stable")
        self.x = copies[order] - copies.mean()
        self.own = int(n - common.sum())
        self.G2, self.G3 = float(self.x @ self.x), float((self.x**3).sum())
        block: GenotypeBlock = HardCalls.of(copies.astype(np.int8)[None])
        if step is not None:
            block = Dosages(np.round(copies / step).astype(np.uint16)[None], step)
        samples = np.arange(n)
        counts = GenotypeCounts.of(block, samples)
        one = np.zeros(1, np.intp)
        self.shape = genotype_shapes(block, one, counts, samples, design.classes).at_hand()
        self.design = design

    def scores(self, sums: Float) -> Float:
        """Return standardised scores, shape (m, 3), of sums of that shape."""
        alpha = sums[:, 0] / self.G2
        given = sums[:, 1] - 2.0 * alpha * sums[:, 2] + alpha**2 * self.G3
        scores = np.stack([sums[:, 0], sums[:, 1], given], axis=1) / np.sqrt(self.G2)
        scores[:, 1:] /= float(self.design.bins.moments[2])
        return np.asarray(scores)

    def tests(self, scores: Float, test: str) -> Float:
        """Return −log10 p, shape (m,), of scores of shape (m, 3)."""
        found = self.design.tests(scores, self.shape.repeated(len(scores)))
        return np.asarray(getattr(found, test))


class Lookup:
    """−log10 p of one test of a variant, worked out once wherever permutations come.

    Scores are put on a grid, between whose points −log10 p is linear: it is off by 1e-3 at most but
    where the test itself jumps. Scores are tested themselves on a lattice, which those of traits of
    few values are on; where one person has a tenth of the variance, without whom scores lie within
    a step; and for the joint test: those of a skew trait's few carriers lie along a curve, beside
    which no point of a grid can be had.
    """

    def __init__(self, variant: Variant, test: str) -> None:
        self.variant, self.test = variant, test
        self.column = {"add": 0, "var": 2, "av": -1}[test]
        outlying = variant.design.classes > CLASSES
        self.itself = test == "av" or outlying or len(np.unique(variant.s)) <= _FEW
        self.known = np.full(2 * _REACH + 2, np.nan)

    def __call__(self, sums: Float) -> Float:
        """Return −log10 p, shape (m,), of sums of shape (m, 3)."""
        scores = self.variant.scores(sums)
        if self.itself:
            if self.test == "av":
                scores[:, 2] = 0.0  # no saddlepoint of a test that nobody asks for
            # On a lattice many permutations have the same scores.
            own, back = np.unique(np.round(scores, 9), axis=0, return_inverse=True)
            return self.variant.tests(own, self.test)[back.reshape(-1)]
        place = np.clip(scores[:, self.column] / _GRID, 1 - _REACH, _REACH - 1) + _REACH
        low = np.floor(place).astype(np.intp)
        points = np.unique([low, low + 1])
        points = points[np.isnan(self.known[points])]
        asked = np.zeros((len(points), 3))
        asked[:, self.column] = (points - _REACH) * _GRID
        self.known[points] = self.variant.tests(asked, self.test)
        part = place - low
        return np.asarray((1.0 - part) * self.known[low] + part * self.known[low + 1])


@dataclass
class Walk:
    """Permutations of a variant on their way to small p.

    Attributes
    ----------
    lookup : Lookup
        Of the variant and the test.
    rng : numpy.random.Generator
    who : ndarray of int32, shape (m, n)
        The person in each place.
    sums : ndarray, shape (m, 3)
    p : ndarray, shape (m,)
        −log10 p of the test.
    many : int
        Exchanges in a proposal.
    """

    lookup: Lookup
    rng: np.random.Generator
    who: NDArray[np.int32]
    sums: Float
    p: Float
    many: int

    @classmethod
    def begin(cls, variant: Variant, test: str, m: int, rng: np.random.Generator) -> Walk:
        """Draw m permutations."""
        who = rng.permuted(np.tile(np.arange(len(variant.x), dtype=np.int32), (m, 1)), axis=1)
        found, lookup = np.empty((m, 3)), Lookup(variant, test)
        sums(who, variant.x, variant.s, found)
        return cls(lookup, rng, who, found, lookup(found), max(1, variant.own // 4))

    def keep(self, level: float) -> float:
        """Copy those whose −log10 p is at least `level` over the others; return their share."""
        kept = np.flatnonzero(self.p >= level)
        if not len(kept):
            return 0.0
        share = len(kept) / len(self.p)
        # As many copies of each as can be.
        many, rest = divmod(len(self.p), len(kept))
        extra = self.rng.choice(kept, rest, replace=False)
        chosen = np.concatenate([np.repeat(kept, many), extra])
        self.who, self.sums, self.p = self.who[chosen], self.sums[chosen], self.p[chosen]
        return share

    def stir(self, level: float) -> None:
        """Walk on within the set of those whose −log10 p is at least `level`."""
        v = self.lookup.variant
        sums(self.who, v.x, v.s, self.sums)  # what rounding left
        for _ in range(_MOVES):
            places = np.empty((len(self.p), self.many, 2), np.int32)
            proposed = self.sums.copy()
            exchange(self.rng, self.who, v.x, v.s, v.own, self.many, places, proposed)
            p = self.lookup(proposed)
            accepted = p >= level
            take_back(self.who, ~accepted, self.many, places)
            self.sums[accepted], self.p[accepted] = proposed[accepted], p[accepted]
            if accepted.mean() < _ACCEPTED / 2:
                self.many = max(1, self.many // 2)
            elif accepted.mean() > 2 * _ACCEPTED:
                self.many = min(2 * self.many, max(1, v.own // 2))


def rejected(
    variant: Variant, test: str, levels: tuple[float, ...], m: int, rng: np.random.Generator
) -> list[float]:
    """Return how often permutations have p of at most each level, which fall.

    Parameters
    ----------
    variant : Variant
    test : str
        add, var or av.
    levels : tuple of float
    m : int
        Permutations that walk.
    rng : numpy.random.Generator
    """
    walk, share, at = Walk.begin(variant, test, m, rng), 1.0, -1.0
    found: list[float] = []
    for level in levels:
        wanted = -np.log10(level)
        while at < wanted:
            beyond = walk.p[walk.p > at]
            if not len(beyond):
                return found + [0.0] * (len(levels) - len(found))
            # Where p jumps, at least to the next value.
            aim = max(float(np.quantile(walk.p, 1.0 - KEPT)), float(beyond.min()))
            at = min(aim, wanted)
            share *= walk.keep(at)
            if not share:
                return found + [0.0] * (len(levels) - len(found))
            walk.stir(at)
        found.append(share)
    return found
