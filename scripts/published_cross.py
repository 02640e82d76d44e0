"""LOD scores and genome-wide significance in an F2 cross, as R vqtl published them.

362 mice (Bailey and others 2008), reanalysed by Corty, Kumar, Tarantino & Valdar (2018): at each
locus sex and the genotype's additive and dominance scores in the mean and in the log-variance; LODs
against the model without the genotype in the mean, in the variance, and in both. Genome-wide p: the
genotype is permuted where it is tested, and only there, and the largest LOD of all autosomal loci
(markers and a grid of 5 cM) counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from published import Figure, figure_of
from scipy.stats import beta, genextreme, norm

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.crosses import (
    Loci,
    additive_dominance,
    genotype_probabilities,
    loci,
    x_calls,
)
from hlmm_scan.models import HLM

SOURCE = "R vqtl, F2 mice"
TRAITS = ("TOTREAR", "bc_TOTREAR", "TOTDIST")
TESTS = {"mean": "mQTL", "variance": "vQTL", "both": "mvQTL"}
WITHIN = 1e-5
STEP = 5.0
"""Centimorgans between the loci of the published scan that are no markers."""
COVERED = 0.95
THEIR_PERMUTATIONS = 1_000

_CODES = {"B": 0, "H": 1, "C": 2, "-": -1}
_SCREENED = 2  # steps of scoring at every locus
_KEPT = 40  # loci that more steps are made at
_POLISHED = 4  # loci that are fitted to the end
_MORE = 4


@dataclass(frozen=True)
class Mice:
    """The cross: a table as R/qtl's csv has it, and what was published of it."""

    table: pd.DataFrame
    published: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> Mice:
        table = pd.read_csv(folder / "bailey2008_f2.csv", dtype=str, keep_default_na=False)
        return cls(table, pd.read_csv(folder / "rvqtl_lods.csv"))

    @cached_property
    def males(self) -> Float:
        return self.table["SEX"].iloc[2:].to_numpy(float)

    @cached_property
    def chromosomes(self) -> dict[str, list[str]]:
        """Markers by chromosome, along it."""
        of_chromosome = self.table.iloc[0]
        named = of_chromosome[of_chromosome != ""]
        return {str(c): list(markers.index) for c, markers in named.groupby(named, sort=False)}

    def scores(self, chromosome: str, step: float = 0.0) -> tuple[Loci, Float]:
        """Return loci of a chromosome and their scores, shape (362, k, 2), on X (362, k, 1)."""
        names = self.chromosomes[chromosome]
        places = loci(self.table.loc[1, names].to_numpy(float), step)
        calls = self.table[names].iloc[2:].map(_CODES.__getitem__).to_numpy(int)
        if chromosome == "X":
            calls, kind = x_calls(calls, self.males == 1), "backcross"
        else:
            kind = "f2"
        return places, additive_dominance(genotype_probabilities(calls, places, kind))

    def trait(self, name: str) -> Float:
        """Return a trait, NaN for the two mice that its published analysis goes without.

        Those that hardly reared, and those that walked farthest.
        """
        values = self.table[name.removeprefix("bc_")].iloc[2:].to_numpy(float)
        if name == "TOTDIST":
            return np.where(values > 6_000, np.nan, values)
        kept = np.where(values < 10, np.nan, values)
        return kept**0.25 if name == "bc_TOTREAR" else kept


@dataclass(frozen=True)
class Tested:
    """A trait and the covariates of all mice that have it.

    LODs do not know the trait's unit.
    """

    y: Float
    covariates: Float
    there: np.ndarray

    @classmethod
    def of(cls, mice: Mice, trait: str) -> Tested:
        values = mice.trait(trait)
        there = np.isfinite(values)
        y = (values[there] - values[there].mean()) / values[there].std()
        return cls(y, np.column_stack([np.ones(there.sum()), mice.males[there]]), there)

    def log10_likelihood(self, mean: Float | None, variance: Float | None) -> float:
        """Return the largest, with the scores of a genotype beside the covariates or without."""
        fit = HLM(self.y, self._design(mean), self._design(variance)).fit()
        return fit.log_likelihood / np.log(10) if fit.success else np.nan

    def lods(self, g: Float) -> dict[str, float]:
        """Return the LODs of a locus by test."""
        whole = self.log10_likelihood(g, g)
        return {
            "mean": whole - self.log10_likelihood(None, g),
            "variance": whole - self.log10_likelihood(g, None),
            "both": whole - self._without,
        }

    @cached_property
    def _without(self) -> float:
        return self.log10_likelihood(None, None)

    def _design(self, g: Float | None) -> Float:
        return self.covariates if g is None else np.column_stack([self.covariates, g])


def lods(mice: Mice) -> Iterator[Figure]:
    """Yield the LODs of each trait at all markers beside the published ones.

    One figure for each test on the autosomes; all tests on X are one.
    """
    scores = {}
    for chromosome, names in mice.chromosomes.items():
        _, of_markers = mice.scores(chromosome)
        scores |= {name: of_markers[:, k] for k, name in enumerate(names)}
    columns = [f"{name}.lod" for name in TESTS.values()]
    for trait in TRAITS:
        tested = Tested.of(mice, trait)
        published = mice.published.query("phenotype == @trait").set_index("loc.name")
        own = pd.DataFrame(
            [tested.lods(scores[name][tested.there]) for name in published.index], published.index
        )
        on_x = published["chr"] == "X"
        for test, column in zip(TESTS, columns, strict=True):
            theirs, ours = published.loc[~on_x, column], own.loc[~on_x, test]
            top = int(theirs.to_numpy().argmax())
            what = f"{trait}: LODs of {test} on autosomes; largest, at {theirs.index[top]}"
            yield figure_of(SOURCE, what, theirs, ours, WITHIN, shown=top, form=".4f")
        theirs, ours = published.loc[on_x, columns].to_numpy(), own[on_x].to_numpy()
        top = int(theirs.argmax())
        what = f"{trait}: LODs of all tests on X; largest"
        yield figure_of(SOURCE, what, theirs, ours, WITHIN, shown=top, form=".4f")


class Permuted:
    """The largest LODs of a trait in the autosomes, the genotype permuted where it is tested.

    Parameters
    ----------
    tested : Tested
    scores : ndarray, shape (362, k, 2)
        At all loci, of all mice: permutations are of all, as published.

    Notes
    -----
    Steps of scoring at all loci at once find where the largest LODs are; these few are fitted to
    the end by :class:`~hlmm_scan.models.HLM`, so that no LOD rests on the screen.
    """

    def __init__(self, tested: Tested, scores: Float) -> None:
        self.tested = tested
        self.scores = scores
        k = scores.shape[1]
        covariates = np.broadcast_to(tested.covariates.T, (k, *tested.covariates.T.shape))
        self._none = covariates
        self._with = self._designs(scores[tested.there])
        self._starts = {
            "mean": self._start(self._none, self._with),
            "variance": self._start(self._with, self._none),
            "both": self._start(self._none[:1], self._none[:1]),
        }

    def largest(self, test: str, order: np.ndarray) -> float:
        """Return the largest LOD where mice have the genotypes of others, in this order."""
        g = self.scores[order][self.tested.there]
        designs = self._designs(g)
        mean = self._with if test == "variance" else designs
        variance = self._with if test == "mean" else designs
        b, without = self._starts[test]
        b = np.concatenate([b, np.zeros((len(b), designs.shape[1] - b.shape[1]))], axis=1)
        b = np.broadcast_to(b, (len(designs), b.shape[1]))
        b, found = scoring(self.tested.y, mean, variance, b, _SCREENED)
        found = found - without
        kept = np.argsort(found)[-_KEPT:]
        _, polished = scoring(self.tested.y, mean[kept], variance[kept], b[kept], _MORE)
        polished = polished - (without[kept] if len(without) > 1 else without)
        best = kept[np.argsort(polished)[-_POLISHED:]]
        own = self.scores[self.tested.there]
        return max(self._lod(test, k, own[:, k], g[:, k]) for k in best)

    def _lod(self, test: str, k: int, own: Float, g: Float) -> float:
        mean, variance = (own if test == "variance" else g), (own if test == "mean" else g)
        _, without = self._starts[test]
        return self.tested.log10_likelihood(mean, variance) - float(without[k % len(without)])

    def _designs(self, g: Float) -> Float:
        """Return designs of all loci, shape (k, 4, n)."""
        return np.concatenate([self._none, g.transpose(1, 2, 0)], axis=1)

    def _start(self, mean: Float, variance: Float) -> tuple[Float, Float]:
        """Return log-variance effects and log10 likelihoods without what is tested."""
        fits = [HLM(self.tested.y, X.T, V.T).fit() for X, V in zip(mean, variance, strict=True)]
        assert all(fit.success for fit in fits)
        likelihoods = np.array([fit.log_likelihood for fit in fits]) / np.log(10)
        return np.stack([fit.beta for fit in fits]), likelihoods


def scoring(y: Float, mean: Float, variance: Float, b: Float, steps: int) -> tuple[Float, Float]:
    """Make steps of Fisher scoring in many models at once, means at their maximum given variances.

    Parameters
    ----------
    y : ndarray, shape (n,)
    mean, variance : ndarray, shape (k, c, n), (k, v, n)
        Designs, transposed.
    b : ndarray, shape (k, v)
        Where to start.
    steps : int

    Returns
    -------
    tuple of ndarray, shape (k, v), (k,)
        Effects on the log-variance, and log10 likelihoods there.
    """
    information = 0.5 * variance @ variance.transpose(0, 2, 1)
    for step in range(steps + 1):
        log_variance = (b[:, np.newaxis] @ variance)[:, 0]
        weights = np.exp(-log_variance)
        weighted = mean * weights[:, np.newaxis]
        normal = weighted @ mean.transpose(0, 2, 1)
        a = np.linalg.solve(normal, (weighted @ y)[..., np.newaxis])
        squares = weights * (y - (a.transpose(0, 2, 1) @ mean)[:, 0]) ** 2
        if step < steps:
            score = 0.5 * variance @ (squares - 1)[..., np.newaxis]
            b = b + np.linalg.solve(information, score)[..., 0]
    total = (log_variance + squares).sum(axis=1) + len(y) * np.log(2 * np.pi)
    return b, -0.5 * total / np.log(10)


def genome_wide(
    mice: Mice,
    permutations: int,
    tests: dict[str, tuple[str, ...]],
    progress: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Iterator[tuple[Figure, dict[str, object]]]:
    """Yield the genome-wide p of the strongest locus of traits and tests, and how it came about.

    Published is the tail of an extreme-value distribution fitted to 1,000 permutations of theirs,
    so both shares vary: it is found again where the two differ by no more than a 99% interval of
    such differences; `apart` is 0 there, and how far beyond it they are elsewhere. Shown is the 95%
    interval of ours.
    """
    autosomes = [c for c in mice.chromosomes if c != "X"]
    scores = np.concatenate([mice.scores(c, STEP)[1] for c in autosomes], axis=1)
    rng = np.random.default_rng(2018)
    orders = [rng.permutation(len(mice.males)) for _ in range(permutations)]
    for trait, asked in tests.items():
        permuted = Permuted(Tested.of(mice, trait), scores)
        published = mice.published.query("phenotype == @trait and chr != 'X'")
        for test in asked:
            name = TESTS[test]
            top = published.loc[published[f"{name}.lod"].idxmax()]
            largest = np.array([permuted.largest(test, order) for order in orders])
            exceeding = int((largest >= top[f"{name}.lod"]).sum())
            low, high = interval(exceeding, permutations)
            theirs, share = float(top[f"{name}.empir.p"]), exceeding / permutations
            shape, place, scale = genextreme.fit(largest)
            smoothed = float(genextreme.sf(top[f"{name}.lod"], shape, place, scale))
            yield (
                Figure(
                    SOURCE,
                    f"{trait}: genome-wide p of {test} at {top['loc.name']}",
                    1,
                    f"{theirs:.4f}",
                    f"{exceeding}/{permutations:,} ({low:.4f}–{high:.4f})",
                    max(abs(share - theirs) - margin(share, permutations, theirs), 0.0),
                    0.0,
                ),
                {
                    **{"trait": trait, "test": test, "marker": str(top["loc.name"])},
                    **{"lod": float(top[f"{name}.lod"]), "published_p": theirs},
                    **{"exceeding": exceeding, "permutations": permutations},
                    **{"low": low, "high": high, "p_of_extreme_values": smoothed},
                },
            )
            progress(f"{trait}, {test}: {exceeding} of {permutations:,} permutations")


def margin(share: float, permutations: int, theirs: float) -> float:
    """Return how far apart shares of our permutations and of theirs may be by chance, in 99%."""
    both = (share * permutations + theirs * THEIR_PERMUTATIONS) / (
        permutations + THEIR_PERMUTATIONS
    )
    variance = both * (1 - both) * (1 / permutations + 1 / THEIR_PERMUTATIONS)
    return float(norm.ppf(0.995) * np.sqrt(variance))


def interval(exceeding: int, permutations: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Clopper and Pearson)."""
    tail, rest = (1 - COVERED) / 2, permutations - exceeding
    low = beta.ppf(tail, exceeding, rest + 1) if exceeding else 0.0
    return float(low), float(beta.ppf(1 - tail, exceeding + 1, rest) if rest else 1.0)
