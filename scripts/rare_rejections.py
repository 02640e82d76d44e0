"""Null rejection of the default tests down to 5e-8, cell by cell: see scripts/rare_rejections.

Some traits of each shape, a variant of each allele count, hard calls and dosages without
covariates; people are permuted by multilevel splitting (splitting), which reaches 5e-8 in seconds
where draws would take hours. A rate is the mean over traits, each with permutations of its own;
its standard error comes from their spread, so it holds what traits of a shape differ by too.

Required of every cell but those that calibrate names, beyond two standard errors: at most 1.4 times
nominal at 1e-3 and 1e-4, twice below; from an allele count of 50 on at least 0.7 at 1e-3, 0.4
where a few people hold most of the variance.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from calibrate import level_names, number, unmet
from class_sampling import LEVELS, TESTS
from null_traits import COUNTS, TRAITS, TWO_VALUED, class_counts, draw_trait
from splitting import Variant, rejected
from tables import table, write
from threadpoolctl import threadpool_limits

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import BGEN_8_BIT

IMPUTED = ("normal", "gamma(2)", "t5", "log-normal")
"""Traits that dosages are looked at with."""


@dataclass(frozen=True)
class Cell:
    """Traits of a shape and a variant.

    Attributes
    ----------
    people : int
    trait, minor : str
    info : float
        Of dosages; 1 of hard calls.
    """

    people: int
    trait: str
    minor: str
    info: float = 1.0

    @property
    def kind(self) -> str:
        return "calls" if self.info == 1.0 else f"dosages, info {self.info:g}"

    def variant(self, rng: np.random.Generator) -> Variant:
        """Draw a trait and a genotype."""
        n = self.people
        y = draw_trait(self.trait, n, rng)
        ones, twos = class_counts(self.minor, n)
        if self.info == 1.0:
            return Variant(y, np.repeat([1.0, 2.0, 0.0], [ones, twos, n - ones - twos]))
        f, weight = (ones + 2 * twos) / (2 * n), 1.0 / self.info - 1.0
        copies = sum(rng.beta(f * weight, (1 - f) * weight, n) for _ in range(2))
        return Variant(y, np.round(copies / BGEN_8_BIT) * BGEN_8_BIT, BGEN_8_BIT)


@dataclass(frozen=True)
class Rates:
    """Rejection of one test in a cell over its nominal rate, by trait drawn and level.

    Attributes
    ----------
    cell : Cell
    test : str
    rates : tuple of tuple of float
    walkers : int
        Permutations that walked for each.
    """

    cell: Cell
    test: str
    rates: tuple[tuple[float, ...], ...]
    walkers: int = 2_000

    @property
    def mean(self) -> Float:
        return np.mean(self.rates, axis=0)

    @property
    def error(self) -> Float:
        """Standard error of the mean; traits may agree by chance, so at least that of walking.

        That is 8% of the mean of four traits with 2,000 permutations each.
        """
        spread = np.std(self.rates, axis=0, ddof=1) / np.sqrt(len(self.rates))
        least = 0.08 * np.sqrt(8_000 / (self.walkers * len(self.rates)))
        return np.asarray(np.maximum(spread, least * self.mean))

    def misses(self) -> Iterator[str]:
        """Say what is required and not met."""
        cell = self.cell
        name = f"{cell.kind}, n = {cell.people:,}, {cell.trait}, MAC {cell.minor}, {self.test}"
        rates, errors = self.mean.tolist(), (2 * self.error).tolist()
        within = [(r - e, r + e) for r, e in zip(rates, errors, strict=True)]
        yield from unmet(name, cell.trait, cell.minor, rates, within)


def cells(traits: list[str], minors: list[str], quick: bool) -> list[Cell]:
    """Return what is looked at."""
    if quick:
        return [Cell(1_000, "gamma(2)", "20"), Cell(1_000, "normal", "common", 0.3)]
    calls = [Cell(3_000, trait, minor) for minor in minors for trait in traits]
    imputed = [
        Cell(3_000, trait, minor, info)
        for info in (0.3, 0.9)
        for minor in minors
        for trait in traits
        if trait in IMPUTED
    ]
    few = [
        Cell(433, trait, minor)
        for minor in minors
        for trait in traits
        if trait in IMPUTED and minor in ("20", "50", "common")
    ]
    return calls + imputed + few


def measure(cell: Cell, tests: list[str], draws: int, walkers: int) -> list[Rates]:
    """Return the rates of each test of a cell."""
    rng = np.random.default_rng(zlib.crc32(repr(cell).encode()))
    if cell.trait in TWO_VALUED:
        tests = [test for test in tests if test == "add"]
    found: dict[str, list[tuple[float, ...]]] = {}
    # The joint test takes as long as ten of the others.
    each = {test: walkers // 4 if test == "av" else walkers for test in tests}
    for _ in range(draws):
        variant = cell.variant(rng)
        for test in tests:
            shares = rejected(variant, test, LEVELS, each[test], rng)
            over = tuple(share / level for share, level in zip(shares, LEVELS, strict=True))
            found.setdefault(test, []).append(over)
    return [Rates(cell, test, tuple(rates), each[test]) for test, rates in found.items()]


def markdown(found: list[Rates], command: str, minutes: float) -> str:
    rows = [
        [
            r.cell.kind, f"{r.cell.people:,}", r.cell.trait, r.cell.minor, r.test,
            *(f"{number(m)} ± {number(e)}" for m, e in zip(r.mean, r.error, strict=True)),
        ]
        for r in found
    ]  # fmt: skip
    misses = [f"MISS {miss}\n" for r in found for miss in r.misses()]
    return (
        f"Made by `{command}` in {minutes:.0f} minutes. Rejection of permuted people over its "
        f"nominal rate, mean of {len(found[0].rates)} traits ± its standard error.\n\n"
        + table(["genotypes", "people", "trait", "MAC", "test", *level_names()], rows)
        + "\n"
        + ("".join(misses) or "All as required.\n")
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two cells, few permutations")
    parser.add_argument("--trait", nargs="+", choices=TRAITS, default=list(TRAITS))
    parser.add_argument("--mac", nargs="+", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--test", nargs="+", choices=TESTS, default=list(TESTS))
    parser.add_argument("--draws", type=int, help="traits of each cell; default: 4")
    parser.add_argument("--walkers", type=int, help="permutations that walk; default: 2,000")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin no cell after these")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    threadpool_limits(1)
    start = time.monotonic()
    draws = options.draws or (2 if options.quick else 4)
    walkers = options.walkers or (400 if options.quick else 2_000)
    found: list[Rates] = []
    for cell in cells(options.trait, options.mac, options.quick):
        began = time.monotonic()
        if began - start > 60 * options.minutes:
            break
        own = measure(cell, options.test, draws, walkers)
        for r in own:
            rates = "; ".join(f"{m:.2f} ± {e:.2f}" for m, e in zip(r.mean, r.error, strict=True))
            print(f"{cell.kind}, {cell.people:,}, {cell.trait}, {cell.minor}, {r.test}: {rates}",
                  file=sys.stderr)  # fmt: skip
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        found += own
    command = shlex.join(["scripts/rare_rejections", *sys.argv[1:]])
    text = markdown(found, command, (time.monotonic() - start) / 60)
    write(options.output, "rare_rejections", text, [asdict(r) for r in found])
    misses = [miss for r in found for miss in r.misses()]
    for miss in misses:
        print(f"rare_rejections: {miss}", file=sys.stderr)
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())
