"""Calibration of the default tests under the null: see scripts/calibrate.

Shown is how often traits that no variant affects are rejected, over the nominal rate, with the
binomial 95% interval. Without covariates, genotype classes are drawn on the residuals of a few
traits (class_sampling); with --paths, traits also go through null models with covariates, random
effects, dosages and a relationship, and through the fit of a block (calibrate_models).

Required of every cell whose name is not in KNOWN, beyond chance: at most 1.4 times nominal at 1e-3
and 1e-4, twice below; from an allele count of 50 on not below 0.7 at 1e-3, 0.4 where a few people
hold most of the variance. Some thousand figures are judged, so chance is a 99.9% interval. Traits
on a lattice have p-values that jump: their low rates are shown, not judged. Levels that few draws
reach are for rare_rejections to look at.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from calibrate_models import Population, populations, rates
from class_sampling import LEVELS, TESTS, Residuals, Tally, rejections
from null_traits import COUNTS, LATTICES, OUTLYING, TRAITS, class_counts, draw_trait
from scipy.stats import beta
from tables import table, write
from threadpoolctl import threadpool_limits

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MOUSE = Path(os.environ.get("HLMM_SCAN_DATA", SHARED)) / "mouse" / "mouse_hs1940.bed"

SAMPLED = "none; class counts"
PEOPLE = 3_000
MOST = (1.4, 1.4, 2.0, 2.0, 2.0)
"""Rejection over nominal that is allowed at each level."""
LEAST, LEAST_OUTLYING = 0.7, 0.4
"""The same at the first level, from MAC 50 on."""

JUDGED = 0.001
"""Chance that is allowed for on both sides of a figure."""

KNOWN: dict[tuple[str, str, str, str], str] = {
    (
        SAMPLED,
        "counts",
        "20",
        "var",
    ): "a value of a lattice's score of probability 4e-5 has p = 8e-6",
}
"""Model, trait, allele count and test of cells that do not hold, and why."""


def unmet(
    name: str,
    trait: str,
    minor: str,
    rates: Sequence[float],
    intervals: Sequence[tuple[float, float]],
) -> Iterator[str]:
    """Say what is required of a test in a cell and not met, with rates and intervals by level."""
    for level, (low, _), rate, most in zip(LEVELS, intervals, rates, MOST, strict=True):
        if low > most:
            yield f"{name}: p < {level:g} {rate:.2f} × as often, allowed {most} ×"
    least = LEAST_OUTLYING if trait in OUTLYING else LEAST
    rare = minor.startswith("20")
    if not rare and trait not in LATTICES and intervals[0][1] < least:
        yield f"{name}: p < {LEVELS[0]:g} {rates[0]:.2f} × as often, at least {least} ×"


def level_names() -> list[str]:
    """Return the levels as headers of a table."""
    return [f"{level:.0e}".replace("e-0", "e-") for level in LEVELS]


@dataclass(frozen=True)
class Line:
    """One test in one cell.

    Attributes
    ----------
    model, trait, minor, test : str
    draws, rejected : tuple of int
        At each level.
    alike : float
        How many draws are as good as one.
    """

    model: str
    trait: str
    minor: str
    test: str
    draws: tuple[int, ...]
    rejected: tuple[int, ...]
    alike: float = 1.0

    @property
    def rates(self) -> list[float]:
        """Rejection over nominal."""
        return [
            r / (d * level) if d else np.nan
            for r, d, level in zip(self.rejected, self.draws, LEVELS, strict=True)
        ]

    def intervals(self, outside: float = 0.05) -> list[tuple[float, float]]:
        """Intervals that hold them but for `outside` (Clopper and Pearson)."""
        found = []
        for rejected, draws, level in zip(self.rejected, self.draws, LEVELS, strict=True):
            r, d = rejected / self.alike, draws / self.alike
            low = beta.ppf(outside / 2, r, d - r + 1) / level if r else 0.0
            high = beta.ppf(1 - outside / 2, r + 1, d - r) / level if r < d else 1 / level
            found.append((float(low), float(high)))
        return found

    @property
    def unknown(self) -> bool:
        """Whether there is no such test of this trait."""
        return self.test == "var" and self.trait.startswith("0/1")

    def misses(self) -> Iterator[str]:
        """Say what is required of this test and not met."""
        if self.unknown:
            return
        name = f"{self.model}, {self.trait}, MAC {self.minor}, {self.test}"
        yield from unmet(name, self.trait, self.minor, self.rates, self.intervals(JUDGED))

    @property
    def reason(self) -> str | None:
        """Why it does not hold, where that is known."""
        return KNOWN.get((self.model, self.trait, self.minor, self.test))

    def cells(self) -> list[str]:
        """Rate and interval at each level."""
        return [
            # Of what is not to be expected once its absence says nothing.
            f"{number(rate)} ({number(low)}–{number(high)})" if rate or d * level >= 1 else ""
            for rate, (low, high), d, level in zip(
                self.rates, self.intervals(), self.draws, LEVELS, strict=True
            )
        ]


def number(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:,.0f}"


def lines(model: str, trait: str, minor: str, tally: Tally) -> list[Line]:
    draws = tuple(tally.draws.tolist())
    return [
        Line(model, trait, minor, test, draws, tuple(rejected.tolist()), float(alike))
        for test, rejected, alike in zip(TESTS, tally.rejected, tally.alike, strict=True)
    ]


def generator(*names: object) -> np.random.Generator:
    """Return a generator of its own for each cell, whatever else is run."""
    return np.random.default_rng(zlib.crc32(" ".join(map(str, names)).encode()))


def sampled_cell(trait: str, minor: str, draws: int, traits: int) -> Tally:
    """Draw classes on a few traits of one shape."""
    rng, tally = generator(trait, minor), Tally()
    ones, twos = class_counts(minor, PEOPLE)
    # Drawing more carriers takes longer.
    own = max(int(draws * min(1.0, 100 / (ones + twos))), draws // 10) // traits
    for _ in range(traits):
        residuals = Residuals(draw_trait(trait, PEOPLE, rng), ones, twos)
        tally.add(rejections(residuals, own, max(own // 10, min(own, 100_000)), rng))
    return tally


def say(lines: list[Line], seconds: float) -> None:
    """Tell of a cell that is done."""
    for line in lines:
        cells = "; ".join(line.cells())
        print(f"{line.model}, {line.trait}, {line.minor}, {line.test}: {cells}", file=sys.stderr)
    print(f"  {seconds:.0f} s", file=sys.stderr, flush=True)


def markdown(found: list[Line], checked: Tally, command: str, minutes: float) -> str:
    text = (
        f"Made by `{command}` in {minutes:.0f} minutes. Rejection of null traits over its nominal "
        "rate and the binomial 95% interval, at levels 1e-3 to 5e-8.\n\n"
    )
    if any(line.model == SAMPLED for line in found):
        text += summary(found)
    header = ["model", "trait", "MAC", "test", "draws", *level_names()]
    text += table(
        header,
        [
            [c.model, c.trait, c.minor, c.test, f"{c.draws[-1]:,}", *c.cells()]
            for c in found
            if not c.unknown
        ],
    )
    text += (
        "\n0/1 traits have no variance test: their variance is a function of their mean, and their "
        "joint test is the mean's. Where draws are sampled, the rate at 1e-3 is that of a tenth of "
        "them. Intervals of related mice are of as many independent variants as their rejections "
        "at 1e-2 vary like from trait to trait.\n"
    )
    if checked.checked:
        text += (
            f"\n{checked.tested:,} of {checked.draws[-1]:,} sampled draws were tested, the others "
            f"vouched for by their tiles; of {checked.checked:,} of these −log10 p was worked out "
            f"all the same, and was below the level's by {-checked.smallest:.2f} or more.\n"
        )
    return text + verdict(found)


def summary(found: list[Line]) -> str:
    """Return the table for users: the range over the tests, by trait and allele count."""
    sampled = [line for line in found if line.model == SAMPLED and not line.unknown]
    minors = [m for m in COUNTS if any(line.minor == m for line in sampled)]
    header = ["trait", *(f"MAC {m}, 1e-{k}" for m in minors for k in (3, 4, 5))]
    rows = []
    for trait in dict.fromkeys(line.trait for line in sampled):
        row = [trait]
        for minor in minors:
            own = [line.rates for line in sampled if (line.trait, line.minor) == (trait, minor)]
            for level in range(3):
                rates = [rate[level] for rate in own]
                row.append(f"{min(rates):.2f}–{max(rates):.2f}" if rates else "")
        rows.append(row)
    return "Lowest and highest rate of the three tests:\n\n" + table(header, rows) + "\n"


def verdict(found: list[Line]) -> str:
    """Say what is not as required, and what of it was known."""
    text = "\n"
    for line in found:
        for miss in line.misses():
            text += f"KNOWN {miss}: {line.reason}\n" if line.reason else f"MISS {miss}\n"
    return text if text.strip() else "\nAll as required.\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few cells, few draws")
    parser.add_argument(
        "--draws", type=float, help="of each sampled cell; default: 1e7; 1e5 with --quick"
    )
    parser.add_argument("--traits", type=int, default=2, help="of each sampled cell")
    parser.add_argument("--tests", type=float, help="of each other cell; default: 1e5")
    parser.add_argument("--paths", action="store_true", help="also through fits of blocks")
    parser.add_argument("--only", choices=("sampled", "models"), help="a part of it")
    parser.add_argument("--trait", nargs="+", choices=TRAITS, default=list(TRAITS))
    parser.add_argument("--mac", nargs="+", choices=COUNTS, default=list(COUNTS), help="sampled")
    parser.add_argument("--model", default="", help="of the others, those whose name has this")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin no cell after these")
    parser.add_argument("--mouse", type=Path, default=MOUSE, metavar="BED", help="related mice")
    parser.add_argument("--workers", type=int, default=1, help="threads")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    threadpool_limits(1)
    start = time.monotonic()
    quick = options.quick
    draws = int(options.draws or (1e5 if quick else 1e7))
    tests = int(options.tests or (6e3 if quick else 1e5))
    traits = 1 if quick else options.traits

    def late() -> bool:
        return time.monotonic() - start > 60 * options.minutes

    def sampled(cell: tuple[str, str]) -> tuple[list[Line], Tally]:
        began = time.monotonic()
        if late():
            return [], Tally()
        tally = sampled_cell(*cell, draws, traits)
        some = lines(SAMPLED, *cell, tally)
        say(some, time.monotonic() - began)
        return some, tally

    def modelled(cell: tuple[str, Callable[[np.random.Generator], Population], str]) -> list[Line]:
        began = time.monotonic()
        name, population, trait = cell
        if late() or trait not in options.trait or options.model not in name:
            return []
        rng = generator(name, trait)
        tallies = rates(population(rng), trait, tests, rng)
        some = [
            line
            for minor, tally in tallies.items()
            if tally.draws[0]
            for line in lines(name, trait, minor, tally)
        ]
        say(some, time.monotonic() - began)
        return some

    cells = [(trait, minor) for minor in options.mac for trait in options.trait]
    if quick:
        cells = [("normal", "50"), ("gamma(2)", "20"), ("0/1, 10%", "common")]
    found: list[Line] = []
    checked = Tally()
    with ThreadPoolExecutor(options.workers) as pool:
        if options.only != "models":
            for some, tally in pool.map(sampled, cells):
                found += some
                checked.add(tally)
        if options.paths or options.only == "models":
            for some in pool.map(modelled, populations(options.mouse, quick)):
                found += some
    misses = [m for line in found if line.reason is None for m in line.misses()]
    command = shlex.join(["scripts/calibrate", *sys.argv[1:]])
    text = markdown(found, checked, command, (time.monotonic() - start) / 60)
    write(options.output, "calibration", text, [asdict(line) for line in found])
    for miss in misses:
        print(f"calibrate: {miss}", file=sys.stderr)
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())
