"""Power of the default tests beside Wald and likelihood-ratio tests: see scripts/planted_power.

Traits with ten planted variants each are scanned together with variants without effects of the same
frequency; thresholds are the null variants' own quantiles, so that every form of a test has the
same true type-1 error. Effects are such that the best test finds about half of them. A planted
variant that a form cannot fit is not found by it.

Required: in the median cell the default finds no more than 1% of the planted variants fewer than
any other form does; cells where it finds more than 3% fewer than the best form are named.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from null_traits import draw_trait
from simulated import CONTIG, null_model
from tables import table, write
from threadpoolctl import threadpool_limits

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import HardCalls, joined
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.results import tests

FORMS = {
    "default": "",
    "Wald": "_wald",
    "Wald, robust": "_wald_robust",
    "likelihood ratio": "_lrt",
}
QUESTIONS = {"additive": "add", "variance": "var", "both": "av"}
PLANTED = 10
LEVEL = 1e-3
STRENGTH = {"additive": (3.4, 0.0), "variance": (0.0, 3.4), "both": (2.6, 2.6)}
"""Effects on mean and log-variance, in standard errors."""
MEDIAN, WORST = 0.01, 0.03

OPTIONS = FitOptions(0.0, 1.0, 1.0, Inference(likelihood_ratio=True))
NAMED = {test.name: test for test in tests.TESTS}


@dataclass(frozen=True)
class Cell:
    """Power of each form of a test on one kind of effect."""

    people: int
    frequency: float
    trait: str
    effect: str
    planted: int
    null: int
    power: dict[str, float]

    @property
    def lost(self) -> float:
        """What the best other form finds more than the default."""
        return max(p for form, p in self.power.items() if form != "default") - self.power["default"]


def draw_calls(n: int, m: int, frequency: float, rng: np.random.Generator) -> Float:
    return rng.binomial(2, frequency, (m, n)).astype(np.int8)


def plant(calls: Float, noise: Float, strength: tuple[float, float], frequency: float) -> Float:
    """Return a trait on which every one of the variants has effects of the same size.

    Every other one lowers the variance: where all that raise the mean raise it, the trait itself is
    skewed, and a likelihood-ratio test that takes it for normal finds more because of that.
    """
    information = calls.shape[1] * 2 * frequency * (1 - frequency)
    add = strength[0] / np.sqrt(information)
    var = strength[1] * np.sqrt(((noise**4).mean() - 1) / information)
    centred = calls - 2 * frequency
    signs = np.where(np.arange(len(calls)) % 2, -1.0, 1.0)
    log_variance = var * (signs @ centred)
    return np.asarray(add * centred.sum(axis=0) + np.exp(0.5 * log_variance) * noise)


def measure(
    n: int, frequency: float, trait: str, effect: str, traits: int, null_variants: int
) -> Cell:
    """Scan several traits; compare the forms of the test of this effect."""
    name = f"{n} {frequency} {trait} {effect}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    null_calls = HardCalls.of(draw_calls(n, null_variants, frequency, rng))
    contigs = np.full(null_variants + PLANTED, CONTIG, dtype=object)
    found: dict[str, list[Float]] = {form: [] for form in FORMS}
    for _ in range(traits):
        calls = draw_calls(n, PLANTED, frequency, rng)
        y = plant(calls, draw_trait(trait, n, rng), STRENGTH[effect], frequency)
        block = joined([HardCalls.of(calls), null_calls])
        columns = fit_block(null_model(y), block, contigs, OPTIONS)
        for form, suffix in FORMS.items():
            p = NAMED[QUESTIONS[effect] + suffix].neg_log10_p(columns)
            found[form].append(np.nan_to_num(p, nan=0.0))
    power = {}
    for form, rows in found.items():
        p = np.array(rows)
        # Strictly beyond it there are no more null p-values than the level allows.
        threshold = np.quantile(p[:, PLANTED:], 1 - LEVEL, method="higher")
        power[form] = float((p[:, :PLANTED] > threshold).mean())
    return Cell(n, frequency, trait, effect, PLANTED * traits, null_variants * traits, power)


def markdown(cells: list[Cell], command: str, minutes: float) -> str:
    text = (
        f"Made by `{command}` in {minutes:.0f} minutes. Share of planted variants found at a true "
        f"type-1 error of {LEVEL:g}, the threshold of each form set by the null variants.\n\n"
    )
    header = ["people", "frequency", "trait", "effect", "planted", "null", *FORMS, "lost"]
    text += table(
        header,
        [
            [
                f"{c.people:,}", c.frequency, c.trait, c.effect, f"{c.planted:,}", f"{c.null:,}",
                *(f"{c.power[form]:.3f}" for form in FORMS), f"{c.lost:+.3f}",
            ]
            for c in cells
        ],
    )  # fmt: skip
    for form in list(FORMS)[1:]:
        differences = [c.power[form] - c.power["default"] for c in cells]
        text += f"\n{form} finds {np.median(differences):+.3f} more in the median cell"
        text += f" ({min(differences):+.3f} to {max(differences):+.3f})."
    worse = [c for c in cells if c.lost > WORST]
    text += (
        f"\n\nMore than {WORST:.0%} lost to the best form: {len(worse)} of {len(cells)} cells.\n"
    )
    return text


def misses(cells: list[Cell]) -> list[str]:
    """Say what is required and not met."""
    found = []
    for form in list(FORMS)[1:]:
        median = float(np.median([c.power[form] - c.power["default"] for c in cells]))
        if median > MEDIAN:
            found.append(f"{form} finds {median:.1%} more in the median cell")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small cells")
    parser.add_argument("--traits", type=int, help="of each cell; default: 100")
    parser.add_argument("--null", type=int, help="null variants of a trait; default: 2,000")
    parser.add_argument(
        "--people", type=int, nargs="+", default=[3_000, 20_000], help="default: 3000 20000"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    threadpool_limits(1)
    start = time.monotonic()
    quick = options.quick
    traits = options.traits or (5 if quick else 100)
    null_variants = options.null or (500 if quick else 2_000)
    plan = (
        [(1_000, 0.3, "normal", "additive"), (1_000, 0.3, "normal", "variance")]
        if quick
        else [
            (n, frequency, trait, effect)
            for trait, n, frequency, effect in product(
                ("normal", "gamma(2)"), options.people, (0.01, 0.05, 0.5), STRENGTH
            )
            if trait == "normal" or n == min(options.people)
        ]
    )
    cells = []
    for cell in plan:
        cells.append(measure(*cell, traits, null_variants))
        print(cells[-1], file=sys.stderr, flush=True)
    command = " ".join(["scripts/planted_power", *sys.argv[1:]])
    text = markdown(cells, command, (time.monotonic() - start) / 60)
    write(options.output, "planted_power", text, [asdict(cell) for cell in cells])
    found = [] if quick else misses(cells)
    for miss in found:
        print(f"planted_power: {miss}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
