"""Whole commands beside other programs: marginal rates, so that neither's start-up counts.

The marginal rate is the number of further variants over the further time they take.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from commands import run
from simulated import draw_genotypes

from hlmm_scan.genotypes.readers.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable

TRAITS = 8
"""Phenotypes of the scan of several."""

SGKIT = "sgkit==0.10.0"
"""Installed into an environment of its own: it pins old versions of zarr and dask."""


@dataclass(frozen=True)
class Figure:
    """One line of the table; rates in variants (times traits, where said) per second."""

    work: str
    n: int
    rate: float
    beside: str = ""
    beside_rate: float = 0.0

    @property
    def ratio(self) -> str:
        """Our rate over the other one."""
        return f"{self.rate / self.beside_rate:,.3g}×" if self.beside_rate else ""


@dataclass(frozen=True)
class Size:
    """How much the commands are given.

    Attributes
    ----------
    n, few, many, covariates : int
        People; variants of the smaller and of the larger scan; covariates.
    related, related_few, related_many : int
        The same for the scan with a full-rank relationship.
    repeats : int
        Turns that count; 0 for the first one alone.
    """

    n: int
    few: int
    many: int
    covariates: int
    related: int
    related_few: int
    related_many: int
    repeats: int


FULL = Size(100_000, 2_000, 22_000, 20, 1_500, 100, 1_100, 3)
QUICK = Size(1_000, 100, 400, 3, 120, 20, 60, 0)

US = [sys.executable, "-m", "hlmm_scan"]


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def marginal(
    commands: dict[str, Callable[[str], list[str]]], few: int, many: int, repeats: int
) -> dict[str, float]:
    """Marginal rate of each command, all of them taking turns; 0 where noise hides it."""
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(repeats + 1):
        for name, command in commands.items():
            for data in ("cohort", "fewer"):
                taken = run(command(data))
                if turn or not repeats:  # the first one fills the page cache
                    times.setdefault((name, data), []).append(taken)
    rates = {}
    for name in commands:
        more = statistics.median(times[name, "cohort"]) - statistics.median(times[name, "fewer"])
        rates[name] = (many - few) / more if more > 0 else 0.0
    return rates


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
            writer.append(table, draw_genotypes(n, size, rng))
    columns = {"phenotypes": 1, "traits": TRAITS, "covariates": covariates}
    for name, width in columns.items():
        values = rng.standard_normal((n, width))
        header = "\t".join(["FID", "IID", *(f"{name[0]}{k}" for k in range(width))])
        body = "\n".join(
            "\t".join([i, i, *(f"{x:.6f}" for x in row)])
            for i, row in zip(ids, values, strict=True)
        )
        (folder / f"{name}.tsv").write_text(f"{header}\n{body}\n")


def cohort(folder: Path, n: int, few: int, many: int, covariates: int) -> None:
    """Write PLINK files of `many` variants and of the first `few`, and our datasets of both."""
    write_cohort(folder, n, many, covariates)
    width = -(-n // 4)  # the first variants of a .bed are a .bed
    with (folder / "cohort.bed").open("rb") as bed:
        (folder / "fewer.bed").write_bytes(bed.read(3 + few * width))
    lines = (folder / "cohort.bim").read_text().splitlines(keepends=True)
    (folder / "fewer.bim").write_text("".join(lines[:few]))
    shutil.copy(folder / "cohort.fam", folder / "fewer.fam")
    for name in ("cohort", "fewer"):
        run([*US, "convert", f"{folder}/{name}.bed", "-o", f"{folder}/{name}.zarr"])


def beside_plink2(size: Size) -> list[Figure]:
    """Our scan beside plink2 --glm, two cores each, with and without covariates."""
    plink2 = shutil.which("plink2")
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cohort(folder, size.n, size.few, size.many, size.covariates)
        table = f"{folder}/covariates.tsv"
        kinds: dict[str, tuple[list[str], list[str]]] = {
            "no covariates": ([], ["allow-no-covars"]),
            f"{TRAITS} phenotypes (variants × traits)": ([], ["allow-no-covars"]),
            f"{size.covariates} mean covariates": (["--mean-covariates", table], []),
            f"{size.covariates} mean and {size.covariates} variance covariates": (
                ["--mean-covariates", table, "--variance-covariates", table],
                [],
            ),
            f"screen, {size.covariates} mean covariates": (
                ["--mean-covariates", table, "--method", "score"],
                [],
            ),
        }
        for kind, (our_flags, their_flags) in kinds.items():
            covariates = [] if their_flags else ["--covar", table]
            traits = TRAITS if "phenotypes" in kind else 1
            phenotypes = f"{folder}/{'phenotypes' if traits == 1 else 'traits'}.tsv"

            def ours(
                data: str, flags: list[str] = our_flags, phenotypes: str = phenotypes
            ) -> list[str]:
                return [
                    *US, "scan", "--genotypes", f"{folder}/{data}.zarr", "--phenotypes",
                    phenotypes, "--workers", "2", "-o", f"{folder}/results.zarr", "--overwrite",
                    *flags,
                ]  # fmt: skip

            def theirs(
                data: str,
                flags: list[str] = their_flags,
                more: list[str] = covariates,
                phenotypes: str = phenotypes,
            ) -> list[str]:
                return [
                    plink2 or "", "--bfile", f"{folder}/{data}", "--threads", "2", "--pheno",
                    phenotypes, "--out", f"{folder}/glm", "--glm", "hide-covar", *flags, *more,
                ]  # fmt: skip

            commands = {"ours": ours, **({"theirs": theirs} if plink2 else {})}
            rates = marginal(commands, size.few, size.many, size.repeats)
            rates = {name: traits * rate for name, rate in rates.items()}
            other = ("plink2 --glm (mean only)", rates["theirs"]) if plink2 else ("", 0.0)
            figures.append(Figure(f"scan, HLM, {kind}, 2 cores", size.n, rates["ours"], *other))
    return figures


def beside_gemma(size: Size) -> list[Figure]:
    """Our HLMM with a full-rank relationship beside GEMMA's mixed model of the mean."""
    gemma = shutil.which("gemma")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cohort(folder, size.related, size.related_few, size.related_many, 1)
        # GEMMA takes the phenotype from the .fam.
        values = [
            line.split()[-1] for line in (folder / "phenotypes.tsv").read_text().splitlines()[1:]
        ]
        for name in ("cohort", "fewer"):
            people = (folder / f"{name}.fam").read_text().splitlines()
            rows = [
                " ".join([*person.split()[:5], value])
                for person, value in zip(people, values, strict=True)
            ]
            (folder / f"{name}.fam").write_text("\n".join(rows) + "\n")
        commands: dict[str, Callable[[str], list[str]]] = {}
        for method in ("mle", "score"):
            commands[method] = lambda data, method=method: [
                *US, "scan", "--genotypes", f"{folder}/{data}.zarr", "--phenotypes",
                f"{folder}/phenotypes.tsv", "--random-effects", f"{folder}/cohort.zarr",
                "--no-loco", "--method", method, "--workers", "1", "-o",
                f"{folder}/results.zarr", "--overwrite",
            ]  # fmt: skip
        if gemma:
            where = ["-outdir", str(folder), "-o", "related"]
            run([gemma, "-bfile", f"{folder}/cohort", "-gk", "2", *where])
            commands["theirs"] = lambda data: [
                gemma, "-bfile", f"{folder}/{data}", "-k", f"{folder}/related.sXX.txt", "-lmm",
                "1", "-maf", "0.01", "-outdir", str(folder), "-o", "lmm",
            ]  # fmt: skip
        rates = marginal(commands, size.related_few, size.related_many, size.repeats)
    other = ("gemma -lmm 1 (mean only)", rates["theirs"]) if gemma else ("", 0.0)
    return [
        Figure(
            "scan, HLMM, full rank, maximum likelihood, 1 core", size.related, rates["mle"], *other
        ),
        Figure("scan, HLMM, full rank, screen, 1 core", size.related, rates["score"], *other),
    ]


def beside_sgkit(n: int, m: int, repeats: int, environment: Path) -> tuple[float, str]:
    """Variants per second of sgkit's linear regression, in an environment of its own.

    Returns
    -------
    float
        0 where it could not be installed.
    str
        What was run, or why it was not.
    """
    python = environment / "bin" / "python"
    if not python.exists():
        for command in (
            [sys.executable, "-m", "venv", str(environment)],
            [str(python), "-m", "pip", "install", "--quiet", SGKIT],
        ):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                shutil.rmtree(environment, ignore_errors=True)
                last = (result.stderr.strip().splitlines() or ["no message"])[-1]
                return 0.0, f"sgkit could not be installed: {last}"
    with tempfile.TemporaryDirectory() as scratch:
        rng = np.random.default_rng(4)
        np.save(f"{scratch}/dosage.npy", draw_genotypes(n, m, rng))
        np.save(f"{scratch}/trait.npy", rng.standard_normal(n))
        script = str(Path(__file__).with_name("benchmark_sgkit.py"))
        command = [str(python), script, scratch, str(repeats)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            return 0.0, f"sgkit failed: {last}"
    return m / float(result.stdout.split()[-1]), "sgkit gwas_linear_regression (mean only)"


def start_up(repeats: int) -> dict[str, float]:
    """Seconds that a command takes before it works: help, and the scan of almost nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_cohort(folder, 200, 64, 1)
        run([*US, "convert", f"{folder}/cohort.bed", "-o", f"{folder}/g.zarr"])
        scan = [*US, "scan", "--genotypes", f"{folder}/g.zarr", "--overwrite"]
        scan += ["--phenotypes", f"{folder}/phenotypes.tsv", "-o", f"{folder}/r.zarr"]
        return {
            "--help": seconds(lambda: run([*US, "--help"]), repeats),
            "scan, 1 worker": seconds(lambda: run([*scan, "--workers", "1"]), repeats),
            "scan, 2 workers": seconds(lambda: run([*scan, "--workers", "2"]), repeats),
        }
