"""Speed, side by side in one run: see scripts/benchmark. With --quick the figures mean nothing.

Kernels are timed in this process on one core, from packed genotypes in memory to result columns,
minor allele frequency uniform on 0.05–0.5; the plain estimator is `hlmm_scan.models`, one variant
at a time. Commands are timed whole, and quoted at their marginal rate.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from benchmark_commands import (
    FULL,
    QUICK,
    Figure,
    beside_gemma,
    beside_plink2,
    beside_sgkit,
    seconds,
    start_up,
)
from simulated import draw_genotypes, null_model, random_effects, standardised_columns
from tables import table, write
from threadpoolctl import threadpool_limits

from hlmm_scan.genotypes.blocks import BGEN_8_BIT, PGEN, Dosages, GenotypeBlock, HardCalls
from hlmm_scan.genotypes.packing import pack
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.classes.fit import fit_class_sums
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.kernels.exact.gram_fit import fit_grams
from hlmm_scan.kernels.paths import CLASS_GRAMS
from hlmm_scan.kernels.sums.class_sums import plan_class_sums
from hlmm_scan.models import HLM, HLMM
from hlmm_scan.null.model import NullModel

REPEATS = 5
MODEL_BASED = FitOptions()
SANDWICH = FitOptions(inference=Inference(sandwich=True))
LIKELIHOOD_RATIO = FitOptions(inference=Inference(likelihood_ratio=True))
SCREEN = FitOptions(screen=True)


@dataclass(frozen=True)
class Work:
    """One kernel to time.

    Attributes
    ----------
    name : str
    m, plain_m : int
        Variants for the kernel, and for the plain estimator beside it (0: not timed).
    mean, variance, random : int
        Covariates of the mean and of the variance, random effects.
    options : FitOptions
    missing : float
        Fraction of calls that are missing.
    unit : float
        Step of dosages in place of hard calls; 0 for the latter.
    exact : bool
        Fit by class Gram matrices, which a scan takes for whatever second order cannot answer for.
    """

    name: str
    m: int
    plain_m: int = 0
    mean: int = 0
    variance: int = 0
    random: int = 0
    options: FitOptions = MODEL_BASED
    missing: float = 0.0
    unit: float = 0.0
    exact: bool = False


@lru_cache(maxsize=1)
def simulated_null(n: int, mean: int, variance: int, random: int) -> NullModel:
    """Return the null model of some kernel; kept for the next one of the same kind."""
    rng = np.random.default_rng(1)
    X, V = rng.standard_normal((n, mean)), rng.standard_normal((n, variance))
    y = np.exp(0.05 * V.sum(axis=1)) * rng.standard_normal(n) + 0.1 * X.sum(axis=1)
    effects = None
    if random:
        columns = standardised_columns(draw_genotypes(n, random, rng))
        y += columns @ rng.standard_normal(random) * np.sqrt(0.3 / random)
        effects = random_effects(columns)
    return null_model(y, X, V, effects)


def dosages_of(calls: np.ndarray, unit: float, rng: np.random.Generator) -> Dosages:
    """Make calls uncertain: a beta-distributed share of each person is the mean of all."""
    codes = np.empty(calls.shape, np.uint16)
    for row, call in zip(codes, calls, strict=True):
        certain = rng.beta(4, 1, len(call))
        row[:] = np.rint((certain * call + (1 - certain) * call.mean()) / unit)
    return Dosages(codes, unit)


def plain_rate(null: NullModel, genotypes: GenotypeBlock) -> float:
    """Variants per second of the plain estimator: every one once."""
    G = None if null.random_effects is None else null.random_effects.design("")
    start = time.perf_counter()
    for g in genotypes.copies(null.samples):
        keep = ~np.isnan(g)
        centred = g[keep] - g[keep].mean()
        X = np.column_stack([null.mean_design[keep], centred])
        V = np.column_stack([null.variance_design[keep], centred])
        model = HLM(null.y[keep], X, V) if G is None else HLMM(null.y[keep], X, V, G[keep])
        model.fit()
    return len(genotypes) / (time.perf_counter() - start)


def kernel_rate(work: Work, n: int, repeats: int) -> tuple[float, NullModel, GenotypeBlock]:
    """Variants per second of fit_block."""
    null = simulated_null(n, work.mean, work.variance, work.random)
    rng = np.random.default_rng(2)
    calls = draw_genotypes(n, work.m, rng)
    if work.missing:
        calls = np.where(rng.random(calls.shape, np.float32) < work.missing, -1, calls)
    hard = HardCalls.of(calls.astype(np.int8))
    block: GenotypeBlock = dosages_of(calls, work.unit, rng) if work.unit else hard
    contigs = np.full(work.m, "1", dtype=object)

    def fit() -> object:
        if work.exact:
            basis = CLASS_GRAMS.made(null, null.random_effect_set("1"))
            return fit_grams(basis, hard.packed, null.samples)
        return fit_block(null, block, contigs, work.options)

    taken = seconds(fit, repeats)
    return work.m / taken, null, block


def kernel(work: Work, n: int, repeats: int) -> Figure:
    """Time one kernel, and the plain estimator beside it."""
    rate, null, block = kernel_rate(work, n, repeats)
    if not work.plain_m:
        return Figure(work.name, n, rate)
    few = block.take(slice(work.plain_m))
    return Figure(work.name, n, rate, "plain estimator", plain_rate(null, few))


def phenotypes_at_once(n: int, m: int, traits: int, repeats: int) -> Figure:
    """Time class sums and fits of several phenotypes, each with its own missing people."""
    rng = np.random.default_rng(3)
    people = [np.flatnonzero(rng.random(n) < 0.95) for _ in range(traits)]
    ys = [rng.standard_normal(len(samples)) for samples in people]
    packed = pack(draw_genotypes(n, m, rng))
    plan = plan_class_sums(packed.shape[1], people, ys)

    def work() -> None:
        for sums in plan.sums(packed):
            fit_class_sums(sums)

    name = f"HLM, {traits} phenotypes at once (variants × traits)"
    return Figure(name, n, m * traits / seconds(work, repeats))


def kernels(n: int, scale: float) -> Iterator[Work]:
    """Kernels of the table at n people; `scale` shrinks how many variants each gets."""

    def some(m: int) -> int:
        return max(8, int(m * scale))

    yield Work("HLM, no covariates", some(20_000), some(20))
    yield Work("the same with sandwich", some(20_000), options=SANDWICH)
    yield Work("the same with likelihood ratios", some(20_000), options=LIKELIHOOD_RATIO)
    yield Work("HLM joint, 20 mean covariates", some(1_000), some(8), mean=20)
    yield Work("HLM joint, 20+20 covariates", some(500), some(6), mean=20, variance=20)
    yield Work("the same with sandwich", some(500), mean=20, variance=20, options=SANDWICH)
    yield Work("score screen, 20 mean covariates", some(4_000), mean=20, options=SCREEN)
    yield Work("score screen, 20+20", some(2_000), mean=20, variance=20, options=SCREEN)


def dosage_kernels(scale: float) -> Iterator[Work]:
    """Kernels on dosages."""

    def some(m: int) -> int:
        return max(8, int(m * scale))

    bgen, both = BGEN_8_BIT, {"mean": 20, "variance": 20}
    yield Work("HLM, 8-bit dosages", some(1_000), some(10), unit=bgen)
    yield Work("HLM, dosages of PGEN", some(500), some(10), unit=PGEN)
    yield Work("HLM joint, 20+20, 8-bit dosages", some(256), some(4), unit=bgen, **both)
    yield Work("score screen, 20+20, 8-bit dosages", some(512), unit=bgen, options=SCREEN, **both)


def mixed_kernels(quick: bool) -> Iterator[Work]:
    """Kernels with random effects, l = 500 but for --quick."""
    if quick:
        yield Work("HLMM, 20 random effects", 8, 2, random=20)
        return
    yield Work("HLMM, 500 random effects", 64, 1, random=500)
    yield Work("the same, exact", 8, random=500, exact=True)
    yield Work("the same, 2% of calls missing", 64, random=500, missing=0.02)
    yield Work("HLMM screen, 500 random effects", 256, random=500, options=SCREEN)
    yield Work("HLMM, 500 random effects, 5+5 covariates", 32, mean=5, variance=5, random=500)


def scaling(quick: bool) -> dict[str, dict[str, float]]:
    """Microseconds a variant on one core, against one size at a time."""

    def cost(n: int, work: Work) -> float:
        return 1e6 / kernel_rate(work, n, 1 if quick else 3)[0]

    small, base = (500, 1_000) if quick else (10_000, 50_000)
    m = 40 if quick else 2_000
    return {
        "people (HLM, no covariates)": {
            f"{n:,}": cost(n, Work("", m)) for n in (small, base, 2 * base)
        },
        f"covariates in both designs (HLM joint, n = {base:,})": {
            str(k): cost(base, Work("", m // 8, mean=k, variance=k)) for k in (1, 5, 20, 40)
        },
        f"phenotypes at once (HLM, n = {base:,}; per variant and phenotype)": {
            str(k): 1e6 / phenotypes_at_once(base, m, k, 1).rate for k in (1, 2, 5, 10)
        },
        f"random effects (HLMM, n = {base:,})": {
            str(k): cost(base, Work("", 8 if quick else 64, random=k))
            for k in ((5, 10) if quick else (50, 100, 200, 400))
        },
    }


@dataclass
class Report:
    """What was measured so far."""

    figures: list[Figure] = field(default_factory=list)
    scaling: dict[str, dict[str, float]] = field(default_factory=dict)
    start_up: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The whole report."""
        head = (
            f"{platform.machine()}, {os.cpu_count()} cores; kernels on one core, one BLAS thread; "
            "medians of several runs, each line's two programs side by side.\n"
        )
        rows = [
            (
                f.work, f"{f.n:,}", f"{f.rate:,.4g}", f.beside,
                f"{f.beside_rate:,.3g}" if f.beside_rate else "", f.ratio,
            )
            for f in self.figures
        ]  # fmt: skip
        parts = [
            head,
            table(("work", "people", "variants/s", "beside", "its variants/s", "ratio"), rows),
            *(
                table((title, "µs a variant"), [(k, f"{cost:,.1f}") for k, cost in costs.items()])
                for title, costs in self.scaling.items()
            ),
            *self.notes,
        ]
        if self.start_up:
            rows = [(name, f"{s:.2f}") for name, s in self.start_up.items()]
            parts.append(table(("start-up", "seconds"), rows))
        return "\n".join(parts)


SECTIONS = ("kernels", "dosages", "mixed", "sgkit", "scaling", "plink2", "gemma", "start-up")


def measure(section: str, report: Report, quick: bool, folder: Path) -> None:
    """Run one section and add what it found."""
    repeats = 1 if quick else REPEATS
    sizes = (1_000,) if quick else (10_000, 100_000)
    if section == "kernels":
        for n in sizes:
            report.figures += [kernel(w, n, repeats) for w in kernels(n, 0.005 if quick else 1.0)]
            report.figures.append(phenotypes_at_once(n, 80 if quick else 4_000, 10, repeats))
    elif section == "dosages":
        for n in sizes:
            report.figures += [kernel(w, n, repeats) for w in dosage_kernels(0.05 if quick else 1)]
    elif section == "mixed":
        for n in sizes:
            report.figures += [kernel(w, n, 1 if quick else 3) for w in mixed_kernels(quick)]
    elif section == "sgkit" and not quick:
        for n, m in ((10_000, 1_000), (100_000, 500)):
            rate, what = beside_sgkit(n, m, 3, folder / "sgkit")
            if rate:
                ours, _, _ = kernel_rate(Work("", 5_000), n, repeats)
                report.figures.append(Figure("HLM, no covariates", n, ours, what, rate))
            else:
                report.notes.append(what)
    elif section == "scaling":
        report.scaling = scaling(quick)
    elif section == "plink2":
        report.figures += beside_plink2(QUICK if quick else FULL)
    elif section == "gemma":
        report.figures += beside_gemma(QUICK if quick else FULL)
    elif section == "start-up":
        report.start_up = start_up(1 if quick else 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", help="these sections only")
    options = parser.parse_args()
    threadpool_limits(1)
    everywhere = os.sched_getaffinity(0)
    report = Report()
    for section in SECTIONS:
        if options.only is None or section in options.only:
            commands = section in ("plink2", "gemma", "start-up")
            os.sched_setaffinity(0, everywhere if commands else {max(everywhere)})
            started = time.monotonic()
            measure(section, report, options.quick, options.output)
            print(f"{section}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            # After every section: nothing measured is lost with one that fails.
            write(options.output, "benchmark", report.markdown(), asdict(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
