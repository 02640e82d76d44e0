"""Speed, side by side in one run: see scripts/benchmark. With --quick the figures mean nothing.

Kernels are timed in this process on one core, from packed genotypes in memory to result columns;
the plain estimator is `hlmm_scan.models`, one variant at a time. Commands are timed whole, and
quoted at their marginal rate: the time for more variants less the time for fewer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from hlmm_scan.genotypes.packing import pack, unpack_samples
from hlmm_scan.genotypes.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.models import HLM, HLMM
from hlmm_scan.null.model import NullFit, NullModel, RandomEffects
from hlmm_scan.schema import Status

REPEATS = 5


@dataclass(frozen=True)
class Figure:
    """One line of the table; rates in variants per second."""

    work: str
    n: int
    rate: float
    beside: str = ""
    beside_rate: float = 0.0

    @property
    def ratio(self) -> str:
        return f"{self.rate / self.beside_rate:,.1f}×" if self.beside_rate else ""


def null_model(
    n: int, mean: int, variance: int, random: int, rng: np.random.Generator
) -> NullModel:
    """A null model as prepare makes it: simulated covariates, a fitted start."""
    X = np.column_stack([np.ones(n), rng.standard_normal((n, mean))])
    V = np.column_stack([np.ones(n), rng.standard_normal((n, variance))])
    y = np.exp(0.05 * V[:, 1:].sum(axis=1)) * rng.standard_normal(n) + 0.1 * X[:, 1:].sum(axis=1)
    effects = None
    if random:
        columns = rng.binomial(2, 0.3, (n, random)).astype(float)
        columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
        effects = RandomEffects(columns, ("other",) * random, tuple(map(str, range(random))))
        y += columns @ rng.standard_normal(random) * np.sqrt(0.3 / random)
    y = (y - y.mean()) / y.std()
    fit = HLM(y, X, V).fit() if effects is None else HLMM(y, X, V, effects.design("")).fit()
    h2 = float(np.nan_to_num(fit.random_variance))
    null = NullFit(fit.alpha, fit.beta, h2, fit.log_likelihood, Status.OK)
    return NullModel("y", np.arange(n), y, X, V, 1.0, {"": null}, effects)


def genotypes(n: int, m: int, rng: np.random.Generator) -> np.ndarray:
    """Copies of the effect allele, (m, n) int8, minor allele frequency uniform on 0.05–0.5."""
    frequency = rng.uniform(0.05, 0.5, m)
    copies = np.empty((m, n), np.int8)
    for j in range(m):
        copies[j] = (rng.random((2, n), dtype=np.float32) < frequency[j]).sum(axis=0)
    return copies


def seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median time of a call, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def kernel(
    work: str, n: int, m: int, plain_m: int, *, mean: int = 0, variance: int = 0, random: int = 0
) -> Figure:
    """Time fit_block on m variants beside the plain estimator on plain_m of them."""
    rng = np.random.default_rng(1)
    null = null_model(n, mean, variance, random, rng)
    packed = pack(genotypes(n, m, rng))
    contigs = np.full(m, "1", dtype=object)
    options = FitOptions()
    fast = m / seconds(lambda: fit_block(null, packed, contigs, options))

    def plain() -> None:
        G = None if null.random_effects is None else null.random_effects.design("")
        for row in range(plain_m):
            g = unpack_samples(packed[row : row + 1], null.samples)[0]
            X = np.column_stack([null.mean_design, g - g.mean()])
            V = np.column_stack([null.variance_design, g - g.mean()])
            model = HLM(null.y, X, V) if G is None else HLMM(null.y, X, V, G)
            model.fit()

    return Figure(work, n, fast, "plain estimator", plain_m / seconds(plain, repeats=3))


def write_cohort(folder: Path, n: int, m: int, covariates: int) -> None:
    """PLINK files, phenotypes and covariates that both programs read."""
    rng = np.random.default_rng(2)
    ids = np.array([f"p{i}" for i in range(n)], dtype=object)
    samples = SampleIds(ids, ids, np.ones(n, np.int8))
    with PlinkWriter(folder / "cohort", samples) as writer:
        for start in range(0, m, 500):
            size = min(500, m - start)
            rows = np.arange(start, start + size)
            names = np.array([f"rs{i}" for i in rows], dtype=object)
            letters = [np.full(size, letter, dtype=object) for letter in "1AG"]
            table = VariantTable(letters[0], rows.astype(np.int32) + 1, names, *letters[1:])
            writer.append(table, genotypes(n, size, rng))
    columns = {"phenotypes": 1, "covariates": covariates}
    for name, width in columns.items():
        values = rng.standard_normal((n, width))
        header = "\t".join(["FID", "IID", *(f"{name[0]}{k}" for k in range(width))])
        body = "\n".join(
            "\t".join([i, i, *(f"{x:.6f}" for x in row)])
            for i, row in zip(ids, values, strict=True)
        )
        (folder / f"{name}.tsv").write_text(f"{header}\n{body}\n")


def run(command: list[str]) -> float:
    """Seconds of a whole command."""
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"benchmark: {' '.join(command)} failed:\n{result.stderr}")
    return time.perf_counter() - start


def commands(n: int, few: int, many: int, covariates: int, repeats: int) -> list[Figure]:
    """Marginal rate of the whole scan beside plink2's, with and without covariates."""
    plink2 = shutil.which("plink2")
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_cohort(folder, n, many, covariates)
        us = [sys.executable, "-m", "hlmm_scan"]
        (folder / "few.txt").write_text("\n".join(f"rs{i}" for i in range(few)))
        if plink2:
            subset = [plink2, "--bfile", f"{folder}/cohort", "--extract", f"{folder}/few.txt"]
            run([*subset, "--make-bed", "--out", f"{folder}/fewer"])
        else:  # the first variants of a .bed are a .bed
            width = -(-n // 4)
            with (folder / "cohort.bed").open("rb") as bed:
                (folder / "fewer.bed").write_bytes(bed.read(3 + few * width))
            lines = (folder / "cohort.bim").read_text().splitlines(keepends=True)
            (folder / "fewer.bim").write_text("".join(lines[:few]))
            shutil.copy(folder / "cohort.fam", folder / "fewer.fam")
        for name in ("cohort", "fewer"):
            run([*us, "convert", f"{folder}/{name}.bed", "-o", f"{folder}/{name}.zarr"])
        for with_covariates in (False, True):
            ours: dict[str, list[float]] = {"cohort": [], "fewer": []}
            theirs: dict[str, list[float]] = {"cohort": [], "fewer": []}
            table = f"{folder}/covariates.tsv"
            for _ in range(repeats):
                for name in ("cohort", "fewer"):
                    scan = [*us, "scan", "--genotypes", f"{folder}/{name}.zarr"]
                    scan += ["--phenotypes", f"{folder}/phenotypes.tsv", "--workers", "2"]
                    scan += ["-o", f"{folder}/results.zarr", "--overwrite"]
                    if with_covariates:
                        scan += ["--mean-covariates", table, "--variance-covariates", table]
                    ours[name].append(run(scan))
                    if plink2:
                        glm = [plink2, "--bfile", f"{folder}/{name}", "--threads", "2"]
                        glm += ["--pheno", f"{folder}/phenotypes.tsv", "--out", f"{folder}/glm"]
                        glm += [
                            "--glm",
                            "hide-covar",
                            *([] if with_covariates else ["allow-no-covars"]),
                        ]
                        if with_covariates:
                            glm += ["--covar", table]
                        theirs[name].append(run(glm))
            rates = [
                (many - few)
                / max(statistics.median(t["cohort"]) - statistics.median(t["fewer"]), 1e-9)
                for t in (ours, theirs)
                if t["cohort"]
            ]
            work = (
                f"scan, HLM, {covariates if with_covariates else 0} covariates, marginal, 2 cores"
            )
            beside = (
                ("plink2 --glm (mean only)", rates[1]) if plink2 else ("plink2 not installed", 0)
            )
            figures.append(Figure(work, n, rates[0], *beside))
    return figures


def start_up(repeats: int) -> dict[str, float]:
    """Seconds that a command takes before it works: help, and the scan of almost nothing."""
    us = [sys.executable, "-m", "hlmm_scan"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_cohort(folder, 200, 64, 1)
        run([*us, "convert", f"{folder}/cohort.bed", "-o", f"{folder}/g.zarr"])
        scan = [*us, "scan", "--genotypes", f"{folder}/g.zarr", "--overwrite"]
        scan += ["--phenotypes", f"{folder}/phenotypes.tsv", "-o", f"{folder}/r.zarr"]
        return {
            "--help": seconds(lambda: run([*us, "--help"]), repeats),
            "scan, 1 worker": seconds(lambda: run([*scan, "--workers", "1"]), repeats),
            "scan, 2 workers": seconds(lambda: run([*scan, "--workers", "2"]), repeats),
        }


def markdown(figures: list[Figure], startup: dict[str, float]) -> str:
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores; kernels on one core, one BLAS thread; "
        f"medians of {REPEATS} runs.",
        "",
        "| work | people | variants/s | beside | its variants/s | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for f in figures:
        beside = f"{f.beside_rate:,.4g}" if f.beside_rate else ""
        lines.append(f"| {f.work} | {f.n:,} | {f.rate:,.4g} | {f.beside} | {beside} | {f.ratio} |")
    lines += ["", "| start-up | seconds |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in startup.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    threadpool_limits(1)
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(everywhere)})
    figures = []
    for n in (2_000,) if options.quick else (10_000, 100_000):
        many = 200 if options.quick else 2_000_000 // (n // 100)
        figures.append(kernel("HLM, no covariates, kernel", n, 20 * many, 20))
        figures.append(kernel("HLM joint, 5+5 covariates, kernel", n, many, 8, mean=5, variance=5))
        figures.append(
            kernel("HLM joint, 20+20 covariates, kernel", n, many // 4, 4, mean=20, variance=20)
        )
        for random in (20,) if options.quick else (100,) if n > 50_000 else (100, 300):
            figures.append(kernel(f"HLMM, {random} random effects, kernel", n, 4, 2, random=random))
    os.sched_setaffinity(0, everywhere)
    sizes = (1_000, 100, 400, 3, 1) if options.quick else (100_000, 2_000, 22_000, 20, 3)
    figures += commands(*sizes)
    startup = start_up(1 if options.quick else 3)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "benchmark.json").write_text(
        json.dumps({"figures": [asdict(f) for f in figures], "start_up": startup}, indent=2)
    )
    text = markdown(figures, startup)
    (options.output / "benchmark.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
