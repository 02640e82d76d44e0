"""Small default p-values beside permutations of people: see scripts/permutations.

Ten traits without effects, 433 to 3,000 people, variants of minor allele count 20 to common without
covariates. The smallest p of each test of many variants are taken, and genotype classes are drawn
on the trait's residuals until 50 draws are as extreme as each, or --most were drawn. A draw is as
extreme where its default p is no larger: the tests' own order of genotypes of those class counts.

Required: 95% of p-values within a factor of two of the permutations', or inside their 95% interval.
Traits on a lattice tie often, and their p-values lie between those that count ties and those that
do not: for them it is required where ties count half. Shown is also how a hit would be flagged.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from class_sampling import TESTS, Residuals, Tiles
from null_traits import COUNTS, LATTICES, TRAITS, class_counts, draw_trait
from scipy.stats import beta
from tables import table, write
from threadpoolctl import threadpool_limits

from hlmm_scan.analysis.calibration import doubts_of_trait
from hlmm_scan.array_types import Float
from hlmm_scan.results.null_summary import shape_of

PEOPLE = (433, 1_000, 2_000, 3_000)
ENOUGH = 50
BATCH = 100_000
_PILOT = 50_000
SHARE, QUICK_SHARE = 0.95, 0.85
FACTOR = 2.0
_SAME = 1e-9
"""Difference of −log10 p that is rounding."""


@dataclass(frozen=True)
class Case:
    """One small p-value, and how many of so many permutations have one as small, and the same."""

    trait: str
    people: int
    minor: str
    test: str
    neg_log10_p: float
    exceeding: int
    tied: int
    drawn: int
    flag: str = ""

    @property
    def estimate(self) -> float:
        """The permutation p."""
        return self.exceeding / self.drawn

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% interval."""
        k, n = self.exceeding, self.drawn
        low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
        return float(low), float(beta.ppf(0.975, k + 1, n - k) if k < n else 1.0)

    @property
    def ratio(self) -> float:
        """The default p over the permutations'."""
        p = 10.0**-self.neg_log10_p
        return float(p / self.estimate) if self.exceeding else np.inf

    @property
    def agrees(self) -> bool:
        """Whether the default p is within the factor or the interval."""
        low, high = self.interval
        inside = low <= 10.0**-self.neg_log10_p <= high
        return inside or 1 / FACTOR <= self.ratio <= FACTOR

    @property
    def agrees_in_the_middle(self) -> bool:
        """The same where permutations that tie count half, as on a lattice they may (mid-p)."""
        p = 10.0**-self.neg_log10_p
        half = (self.exceeding - self.tied / 2) / self.drawn
        return self.agrees or half / FACTOR <= p <= half * FACTOR


def smallest(
    residuals: Residuals, variants: int, kept: int, rng: np.random.Generator
) -> list[tuple[int, float]]:
    """Return (test by index, −log10 p) of the `kept` smallest p of each test of null variants."""
    tiles, found = Tiles(residuals.draw(rng, _PILOT)), np.empty((len(TESTS), 0))
    for p in batches(residuals, tiles, variants, 10.0 * kept / variants, rng):
        found = np.concatenate([found, p], axis=1)
    return [
        (test, float(value))
        for test, p in enumerate(found)
        if np.isfinite(p).all()
        for value in np.sort(p)[-kept:]
    ]


def batches(
    residuals: Residuals, tiles: Tiles, draws: int, level: float, rng: np.random.Generator
) -> Iterator[Float]:
    """Yield −log10 p, shape (3, k), of those of each batch of draws that may be below a level."""
    drawn = 0
    while drawn < draws:
        scores = residuals.draw(rng, min(max(4_000, drawn), BATCH, draws - drawn))
        place = tiles.place(scores)
        rows = np.flatnonzero(~tiles.vouched(place, level))
        p = residuals.tests(scores[rows])
        tiles.learn(place[rows], p)
        drawn += len(scores)
        yield p


def as_extreme(
    residuals: Residuals, observed: list[tuple[int, float]], most: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Count for each p, until enough, the permutations as small, the same, and of how many."""
    tiles = Tiles(residuals.draw(rng, _PILOT))
    found, tied, drawn = ([0] * len(observed) for _ in range(3))
    level, done = 10.0 ** -min(value for _, value in observed), 0
    for p in batches(residuals, tiles, most, level, rng):
        done += min(max(4_000, done), BATCH, most - done)
        for k, (test, value) in enumerate(observed):
            if found[k] < ENOUGH:
                found[k] += int((p[test] >= value - _SAME).sum())
                tied[k] += int((np.abs(p[test] - value) <= _SAME).sum())
                drawn[k] = done
        if min(found) >= ENOUGH:
            break
    return list(zip(found, tied, drawn, strict=True))


def flag_of(y: Float, minor: int, test: str) -> str:
    """Return how `hits` would flag a small p of a trait and a minor allele count."""
    shape = shape_of(y)
    return ", ".join(doubts_of_trait(shape.few_values, shape.outlier, minor, test))


def cases(variants: int, kept: int, most: int, quick: bool) -> Iterator[Case]:
    """Yield the smallest p-values of each trait, allele count and test, compared."""
    for index, trait in enumerate(TRAITS):
        for turn, minor in enumerate(COUNTS):
            if quick and turn != index % len(COUNTS):
                continue
            rng = np.random.default_rng([14, index, turn])
            n = PEOPLE[(index + turn) % len(PEOPLE)]
            if minor == "500" and n < 1_000:
                n = PEOPLE[-1]
            y, classes = draw_trait(trait, n, rng), class_counts(minor, n)
            residuals, alleles = Residuals(y, *classes), classes[0] + 2 * classes[1]
            observed = smallest(residuals, variants, kept, rng)
            counts = as_extreme(residuals, observed, most, rng)
            for (test, value), count in zip(observed, counts, strict=True):
                flag = flag_of(y, alleles, TESTS[test])
                yield Case(trait, n, minor, TESTS[test], value, *count, flag)


def markdown(found: list[Case], most: int, command: str, minutes: float) -> str:
    agreeing = sum(case.agrees for case in found)
    halved = sum(case.agrees_in_the_middle for case in found)
    left = [case for case in found if not case.agrees_in_the_middle]
    told = sum(case.flag != "" for case in left)
    ratios = [case.ratio for case in found if case.exceeding]
    low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    text = (
        f"Made by `{command}` in {minutes:.0f} minutes: at most {most:,} permutations each. "
        f"{agreeing} of {len(found)} default p-values are within a factor of {FACTOR:g} of the "
        f"permutations' or inside their 95% interval, {halved} where ties count half; of the "
        f"others {told} of {len(left)} would be flagged as hits. p over the "
        f"permutations': median {median:.2f}, 5% to 95% {low:.2f} to {high:.2f}.\n\n"
    )
    rows = []
    for trait in dict.fromkeys(case.trait for case in found):
        own = [case for case in found if case.trait == trait]
        ratio = [case.ratio for case in own if case.exceeding]
        rows.append(
            [
                trait,
                len(own),
                f"{min(10.0**-c.neg_log10_p for c in own):.1e}",
                sum(1 / FACTOR <= c.ratio <= FACTOR for c in own),
                sum(c.agrees for c in own),
                sum(c.agrees_in_the_middle for c in own),
                f"{min(ratio):.2f}–{max(ratio):.2f}",
            ]
        )
    header = ["trait", "p-values", "smallest", "within the factor", "or the interval"]
    header += ["or ties half", "ratios"]
    text += table(header, rows) + "\n"
    apart = [case for case in found if not case.agrees]
    if apart:
        text += "Those apart:\n\n"
        text += table(
            ["trait", "people", "MAC", "test", "p", "permutations' p", "interval", "ties", "drawn",
             "flag"],
            [
                [
                    c.trait, c.people, c.minor, c.test, f"{10.0**-c.neg_log10_p:.1e}",
                    f"{c.estimate:.1e}", "{:.1e}–{:.1e}".format(*c.interval),
                    f"{c.tied / max(c.exceeding, 1):.0%}", f"{c.drawn:,}", c.flag,
                ]
                for c in apart
            ],
        )  # fmt: skip
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one allele count of each trait")
    parser.add_argument("--most", type=float, help="permutations of a p-value; default: 1e8")
    parser.add_argument("--variants", type=int, help="of each cell; default: 20,000")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    threadpool_limits(1)
    start = time.monotonic()
    quick = options.quick
    most = int(options.most or (1e5 if quick else 1e8))
    variants = options.variants or (2_000 if quick else 20_000)
    found = list(cases(variants, 1 if quick else 2, most, quick))
    command = " ".join(["scripts/permutations", *sys.argv[1:]])
    text = markdown(found, most, command, (time.monotonic() - start) / 60)
    write(options.output, "permutations", text, [asdict(case) for case in found])
    agreeing = sum(
        case.agrees_in_the_middle if case.trait in LATTICES else case.agrees for case in found
    ) / len(found)
    required = QUICK_SHARE if quick else SHARE
    if agreeing < required:
        print(f"permutations: {agreeing:.0%} agree, required {required:.0%}", file=sys.stderr)
    return int(agreeing < required)


if __name__ == "__main__":
    sys.exit(main())
