"""Calibration under the null: see scripts/calibrate. With --quick little is drawn, much allowed.

Each draw is 5,000 new people: 2,000 unlinked variants of minor allele frequency 0.05–0.5, as many
rarer ones, and one phenotype of each distribution that none of them affects. For every test and
draw there are λ (median χ² over its median under the null) and the rates of p below 0.05, 1e-3 and
1e-4; tables give their means over draws, and standard errors from the spread between draws, which
is that of phenotypes as well as of variants.

Required: λ of every test 1 ± 0.03 on normal traits; on the others, λ of the studentised tests of
the variance effect and of both effects 1 ± 0.1, where the model's are not; rejection by the
studentised tests within a factor of 1.5 of nominal. A figure misses what is required where it is
out by more than two of its standard errors. Rarer variants are shown, not judged, and so is
log-normal noise of σ = 1: kurtosis above 100 and a skewness of 6, of which 5,000 people do not make
additive tests normal in their tails. Its logarithm or ranks are what one would scan.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import chi2
from simulated import CONTIG, draw_genotypes, null_model
from tables import table, write
from threadpoolctl import threadpool_limits

from hlmm_scan.genotypes.packing import pack
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.null.model import NullModel
from hlmm_scan.results import tests
from hlmm_scan.schema import Status


def log_normal(rng: np.random.Generator, n: int, sigma: float) -> np.ndarray:
    """Draw exp(σz) of mean 0 and variance 1."""
    square = np.exp(sigma**2)
    return np.asarray(
        (rng.lognormal(sigma=sigma, size=n) - np.sqrt(square)) / np.sqrt(square**2 - square)
    )


TRAITS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "gamma(2)": lambda rng, n: (rng.gamma(2, size=n) - 2) / np.sqrt(2),
    "t5": lambda rng, n: rng.standard_t(5, n) / np.sqrt(5 / 3),
    "log-normal, σ ½": lambda rng, n: log_normal(rng, n, 0.5),
    "log-normal, σ 1": lambda rng, n: log_normal(rng, n, 1.0),
}
"""Noise of mean 0 and variance 1."""

SHOWN = "log-normal, σ 1"
"""The trait that is not judged."""

COVARIANCES = {
    "model": "wald",
    "studentised": "wald_robust",
    "sandwich": "wald_sandwich",
    "likelihood ratio": "lrt",
}
"""Forms of the tests that the tables compare."""

TESTS = {"add": 1, "var": 1, "av": 2}
"""Degrees of freedom."""

NAMED = {test.name: test for test in tests.TESTS}

LEVELS = (0.05, 1e-3, 1e-4)
COMMON = (0.05, 0.5)
BINS = ((0.005, 0.01), (0.01, 0.02), (0.02, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.5))

PATHS = {"HLM": (0, False), "HLM joint": (3, False), "score screen": (3, True)}
"""Covariates of either design, and whether one step is taken from the null model."""

EVERYTHING = Inference(sandwich=True, likelihood_ratio=True)


Key = tuple[str, str, tuple[float, float], str, str]
"""Path, trait, bounds of the minor allele frequency, covariance and test."""


@dataclass(frozen=True)
class Size:
    """How much is drawn, and what is allowed of it."""

    people: int = 5_000
    variants: int = 2_000
    normal_lambda: float = 0.03
    robust_lambda: float = 0.1
    rejection: tuple[float, ...] = (1.5, 1.5, 1.5)


QUICK = Size(1_000, 300, 0.15, 0.3, (2.0, 10.0, 100.0))


@dataclass(frozen=True)
class Calibration:
    """How one test behaves on one kind of trait: means over draws with their standard errors.

    Attributes
    ----------
    path, trait, covariance, test : str
    maf : tuple of float
        Bounds of the minor allele frequency.
    draws : int
    inflation, inflation_error : float
        λ.
    rejection, rejection_error : tuple of float
        Rate of p below each of the levels, over the level.
    """

    path: str
    trait: str
    maf: tuple[float, float]
    covariance: str
    test: str
    draws: int
    inflation: float
    inflation_error: float
    rejection: tuple[float, ...]
    rejection_error: tuple[float, ...]

    def misses(self, size: Size) -> Iterator[str]:
        """Say what is required of this test and not met."""
        if self.trait == SHOWN:
            return
        name = f"{self.path}, {self.trait}, {self.covariance} {self.test}"
        out, noise = abs(self.inflation - 1), 2 * self.inflation_error
        studentised = self.covariance == "studentised"
        allowed = size.normal_lambda if self.trait == "normal" else size.robust_lambda
        if (self.trait == "normal" or (studentised and self.test != "add")) and (
            out - allowed > noise
        ):
            yield f"{name}: λ {self.inflation:.3f}, required 1 ± {allowed}"
        unmended = self.trait != "normal" and self.covariance == "model" and self.test != "add"
        if unmended and out < 0.1:
            yield f"{name}: λ {self.inflation:.3f}, so that nothing needed mending"
        if studentised:
            for level, rate, error, factor in zip(
                LEVELS, self.rejection, self.rejection_error, size.rejection, strict=True
            ):
                if rate - factor > 2 * error or 1 / factor - rate > 2 * error:
                    yield f"{name}: p < {level:g} {rate:.2f} × as often, allowed {factor} ×"

    def cells(self) -> list[str]:
        """Cells of a table row."""
        rates = [
            f"{r:.2f} ± {e:.2f}" for r, e in zip(self.rejection, self.rejection_error, strict=True)
        ]
        return [f"{self.inflation:.3f} ± {self.inflation_error:.3f}", *rates]


def behaviour(neg_log10_p: np.ndarray, df: int) -> list[float]:
    """Return λ, rejection over each level and the number of p-values of one draw."""
    # The median of p has no tail to lose precision in.
    median = chi2.isf(10.0 ** -np.median(neg_log10_p), df) / chi2.isf(0.5, df)
    rates = [(neg_log10_p > -np.log10(level)).mean() / level for level in LEVELS]
    return [median, *rates, len(neg_log10_p)]


def draw_null(rng: np.random.Generator, trait: str, n: int, covariates: int) -> NullModel:
    """Return the null model of a trait, normal noise replaced by the trait's distribution."""
    noise = TRAITS[trait](rng, n)
    if not covariates:
        return null_model(noise)
    mean, variance = rng.standard_normal((2, n, covariates))
    y = mean @ np.full(covariates, 0.3) + np.exp(0.5 * variance @ np.full(covariates, 0.2)) * noise
    return null_model(y, mean, variance)


def one_draw(seed: int, size: Size, paths: list[str]) -> Iterator[tuple[Key, list[float]]]:
    """Scan one draw of people; yield how each test behaves in each bin."""
    rng = np.random.default_rng([3, seed])
    rarer = (BINS[0][0], COMMON[0])
    calls = np.concatenate(
        [draw_genotypes(size.people, size.variants, rng, maf) for maf in (COMMON, rarer)]
    )
    packed, contigs = pack(calls), np.full(len(calls), CONTIG, dtype=object)
    for path in paths:
        covariates, screen = PATHS[path]
        options = FitOptions(0.0, 1.0, 1.0, EVERYTHING, screen)
        for trait in TRAITS:
            null = draw_null(rng, trait, size.people, covariates)
            columns = fit_block(null, packed, contigs, options)
            frequency = columns["effect_allele_frequency"]
            maf = np.minimum(frequency, 1 - frequency)
            fitted = columns["status"] < Status.NOT_CONVERGED
            for bounds in (COMMON, *BINS):
                # What was drawn as common stays so, whatever its frequency came out as.
                inside = (maf >= bounds[0]) & (maf < bounds[1])
                rows = fitted & (
                    (np.arange(len(calls)) < size.variants) if bounds == COMMON else inside
                )
                for covariance, form in COVARIANCES.items():
                    for test, df in TESTS.items():
                        p = NAMED[f"{test}_{form}"].neg_log10_p(columns)[rows]
                        if len(p) and np.isfinite(p).all():
                            yield (path, trait, bounds, covariance, test), behaviour(p, df)


def summarise(key: Key, rows: list[list[float]]) -> Calibration:
    """Average over draws."""
    *values, counts = np.array(rows).T
    means = [float(v.mean()) for v in values]
    errors = [float(v.std(ddof=1) / np.sqrt(len(v))) for v in values]
    # Where nothing or little was rejected the draws seem to agree: no less than the binomial error.
    binomial = [np.sqrt((1 - level) / (level * counts.sum())) for level in LEVELS]
    rejection_error = tuple(map(float, np.maximum(errors[1:], binomial)))
    return Calibration(*key, len(rows), means[0], errors[0], tuple(means[1:]), rejection_error)


def markdown(lines: list[Calibration], size: Size, misses: list[str], minutes: float) -> str:
    levels = [f"p < {level:g}" for level in LEVELS]
    draws = max(line.draws for line in lines)
    text = (
        f"{draws} draws of {size.people:,} people and {size.variants:,} variants of minor allele "
        f"frequency {COMMON[0]}–{COMMON[1]}, {minutes:.1f} minutes. λ, and rejection over its "
        "nominal rate; ± one standard error.\n\n"
    )
    common = [line for line in lines if line.maf == COMMON]
    header = ["model", "trait", "covariance", "test", "λ", *levels]
    text += table(header, [[c.path, c.trait, c.covariance, c.test, *c.cells()] for c in common])
    there = {c.covariance for c in common}
    for path in dict.fromkeys(c.path for c in common):
        there = {c.covariance for c in common if c.path == path}
        gone = [name for name in COVARIANCES if name not in there]
        if gone:
            text += f"\nNot available for {path}: {', '.join(gone)}.\n"
    text += f"\n{SHOWN} is shown, not judged; and by minor allele frequency, neither:\n\n"
    header = ["model", "trait", "frequency", "covariance", "test", "λ", *levels]
    text += table(
        header,
        [
            [c.path, c.trait, f"{c.maf[0]}–{c.maf[1]}", c.covariance, c.test, *c.cells()]
            for c in lines
            if c.maf != COMMON and c.test != "add"
        ],
    )
    text += "\n" + ("".join(f"MISS {miss}\n" for miss in misses) or "All as required.\n")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few small draws, wide limits")
    parser.add_argument("--draws", type=int, help="default: 200; 6 with --quick")
    parser.add_argument(
        "--paths", action="store_true", help="also the joint model with covariates and the screen"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    threadpool_limits(1)
    start = time.monotonic()
    size = QUICK if options.quick else Size()
    paths = list(PATHS) if options.paths else ["HLM"]
    found: dict[Key, list[list[float]]] = defaultdict(list)
    for seed in range(options.draws or (6 if options.quick else 200)):
        for key, values in one_draw(seed, size, paths):
            found[key].append(values)
    lines = [summarise(key, rows) for key, rows in found.items()]
    misses = [miss for line in lines if line.maf == COMMON for miss in line.misses(size)]
    text = markdown(lines, size, misses, (time.monotonic() - start) / 60)
    write(options.output, "calibration", text, [asdict(line) for line in lines])
    for miss in misses:
        print(f"calibrate: {miss}", file=sys.stderr)
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())
