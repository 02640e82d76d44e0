"""Published results beside ours: see scripts/reproduce.

Of each figure, or table of figures, the published number, ours, and the largest difference:

* LODs of an F2 cross by R package vqtl, at its markers, and genome-wide p of the largest by
  permuting the genotypes (`published_cross.py`);
* QUAIL's test set and the example of quantile rank scores (`published_tests.py`);
* the tutorial of dispersion effects, of which no published figure is in the data: that the planted
  variant is found and all others are not is what it is asked for (not with --quick).

Required: each within what is allowed. Of p by permutations, ours and theirs: that they differ by no
more than chance explains in 99%.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import numpy as np
from published import COLUMNS, Figure
from published_cross import TESTS, TRAITS, Mice, genome_wide, lods
from published_tests import quail, quantiles
from scipy.stats import kstest
from tables import table, write
from threadpoolctl import threadpool_limits
from tutorial import FOUND, LEAST_KS, outcomes

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TUTORIAL = "tutorial of 2018"
QUICK_TESTS = {"TOTREAR": ("variance",)}


def tutorial(seed: int = 1) -> Iterator[Figure]:
    """Yield what the tutorial at 100,000 people is asked for."""
    (found,) = outcomes(seed, 100_000, 1_000, 0.06, random_effects=False)
    planted, rest = found.planted_dispersion, np.array(found.rest)
    p = float(kstest(rest, "uniform").pvalue)
    yield Figure(
        *(TUTORIAL, "−log10 p of the planted dispersion effect", 1),
        *(f"above {FOUND:g} is asked", f"{planted:.1f}", max(FOUND - planted, 0.0), 0.0),
    )
    yield Figure(
        *(TUTORIAL, "the others are uniform: Kolmogorov–Smirnov p", len(rest)),
        *(f"above {LEAST_KS:g} is asked", f"{p:.2f}", max(LEAST_KS - p, 0.0), 0.0),
    )


def report(found: Sequence[Figure], command: str, seconds: float) -> str:
    """Return all figures as Markdown."""
    numbers = sum(figure.numbers for figure in found)
    holding = sum(figure.holds for figure in found)
    return (
        f"Made by `{command}` in {seconds:.0f} s of one core: {holding} of {len(found)} figures, "
        f"which stand for {numbers:,} numbers, are within what is allowed.\n\n"
        + table(COLUMNS, [figure.row() for figure in found])
    )


def stop(message: str) -> NoReturn:
    print(f"reproduce: {message}", file=sys.stderr)
    sys.exit(2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="100 permutations of one test, no score of QUAIL's"
    )
    parser.add_argument("--permutations", type=int, help="of each test; 1,000, or 100 if quick")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    given = parser.parse_args()
    for name in ("bailey/rvqtl_lods.csv", "quail/test.bed", "quantile/example.sumstat.tsv"):
        if not (given.data / name).exists():
            stop(f"{given.data}: no {name}; name the folder of the published data with --data")
    quick, permutations = given.quick, given.permutations or (100 if given.quick else 1_000)
    if permutations < 1:
        stop("permutations are 1 or more")
    threadpool_limits(1)
    mice = Mice.read(given.data / "bailey")
    found = [
        *quantiles(given.data / "quantile"),
        *quail(given.data / "quail", quick=quick),
        *lods(mice),
    ]
    counts = []
    tests = QUICK_TESTS if quick else dict.fromkeys(TRAITS, tuple(TESTS))
    for figure, count in genome_wide(mice, permutations, tests):
        found.append(figure)
        counts.append(count)
    if not quick:
        found += tutorial()
    command = " ".join(["scripts/reproduce", *sys.argv[1:]])
    text = report(found, command, time.process_time())
    data = {"figures": [asdict(figure) for figure in found], "permutations": counts}
    write(given.output, "reproduce", text, data)
    missed = [figure for figure in found if not figure.holds]
    for figure in missed:
        print(f"reproduce: {figure.source}: {figure.what} is off", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
