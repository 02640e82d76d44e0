"""Relatedness on real data, beside GEMMA: see scripts/relatedness.

Heterogeneous-stock mice are closely related, and additive tests without a relationship are
inflated. Shown are, for each chromosome and all of them, λ of the additive test (median χ² over its
median under the null) of our HLM, of our HLMM with all variants on the other chromosomes as random
effects, and of ``gemma -lmm 1``, which is given that relationship matrix, these people and these
variants. Required: both within 10% of one another over all variants, and λ on chromosome 1 above 10
without a relationship. Where gemma is not installed, our part is shown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from commands import run, stop
from scipy.stats import chi2
from tables import table, write

from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.open import open_dataset
from hlmm_scan.genotypes.packing import unpack
from hlmm_scan.genotypes.readers.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.null.random_effects import load_random_effects
from hlmm_scan.schema import Status

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MOUSE = Path(os.environ.get("HLMM_SCAN_DATA", SHARED)) / "mouse"
TRAIT = "trait1"
MIN_MAF = 0.01
WITHIN = 0.1
INFLATED = 10.0
QUICK = {"1": 300, "19": 200}
"""Variants of each chromosome that --quick scans."""


@dataclass(frozen=True)
class Inflation:
    """λ of the additive tests of some variants; NaN where there is none."""

    chromosome: str
    variants: int
    without: float
    ours: float
    gemma: float

    @property
    def ratio(self) -> float:
        """Our λ over GEMMA's."""
        return self.ours / self.gemma


def scan(
    folder: Path, mouse: Path, genotypes: Path, relationship: Path | None
) -> tuple[Path, float]:
    """Scan the trait on two cores; return the store and the seconds of the whole command."""
    results = folder / ("related.zarr" if relationship else "unrelated.zarr")
    command = [sys.executable, "-m", "hlmm_scan", "scan", "--genotypes", str(genotypes)]
    command += ["--phenotypes", str(mouse / "pheno.tsv"), "--phenotype", TRAIT, "--workers", "2"]
    command += ["--min-maf", str(MIN_MAF), "-o", str(results)]
    if relationship:
        command += ["--random-effects", str(relationship)]
    return results, run(command)


def additive(results: Path) -> pd.DataFrame:
    """Return chromosome and −log10 p of the additive test of the variants that were fitted."""
    columns = ["contig", "status", "add_neg_log10_p"]
    with xr.open_zarr(results) as dataset:
        frame = dataset.isel(phenotype=0)[columns].to_dataframe().set_index("variant_id")
    return frame.loc[frame["status"] < Status.NOT_CONVERGED, columns]


def write_variants(
    prefix: Path, dataset: GenotypeDataset, rows: slice, people: np.ndarray, y: np.ndarray
) -> None:
    """Write some variants and people as PLINK files, with the phenotype in the .fam."""
    ids = dataset.samples
    assert ids.family_id is not None
    samples = SampleIds(ids.individual_id[people], ids.family_id[people], ids.sex[people])
    with PlinkWriter(prefix, samples) as writer:
        calls = unpack(dataset.read_packed(rows.start, rows.stop), len(ids))[:, people]
        writer.append(dataset.variants(rows.start, rows.stop), calls)
    fam = Path(f"{prefix}.fam")
    lines = [line.split() for line in fam.read_text().splitlines()]
    fam.write_text(
        "".join(
            f"{' '.join(c[:5])} {value!r}\n" for c, value in zip(lines, y.tolist(), strict=True)
        )
    )


def convert(folder: Path, mouse: Path, quick: bool) -> tuple[Path, Path]:
    """Return the dataset to scan, and the one of all variants that makes the relationship."""
    everything = folder / "mouse.zarr"
    hlmm_scan = [sys.executable, "-m", "hlmm_scan"]
    run([*hlmm_scan, "convert", str(mouse / "mouse_hs1940.bed"), "-o", str(everything)])
    if not quick:
        return everything, everything
    dataset = open_dataset(everything)
    people = np.arange(len(dataset.samples))
    contigs, beds = dataset.variant_contig(), []
    for contig, variants in QUICK.items():
        first = int(np.flatnonzero(contigs == dataset.contigs.index(contig))[0])
        prefix = folder / f"few{contig}"
        write_variants(
            prefix, dataset, slice(first, first + variants), people, np.zeros(len(people))
        )
        beds.append(f"{prefix}.bed")
    few = folder / "few.zarr"
    # Chunks of a few variants are tasks enough for two cores.
    run([*hlmm_scan, "convert", *beds, "-o", str(few), "--chunk-variants", "20"])
    return few, everything


def gemma_tests(
    folder: Path, dataset: GenotypeDataset, relationship: Path, mouse: Path
) -> pd.Series:
    """Return −log10 p of GEMMA's Wald tests by variant, chromosome after chromosome."""
    phenotypes = pd.read_csv(mouse / "pheno.tsv", sep="\t", dtype={"FID": str, "IID": str})
    trait = phenotypes.set_index(["FID", "IID"])[TRAIT].dropna()
    ids = dataset.samples
    keys = pd.MultiIndex.from_arrays([ids.family_id, ids.individual_id])
    values = trait.reindex(keys).to_numpy()
    people = np.flatnonzero(np.isfinite(values))
    effects = load_random_effects(relationship, None, ids).for_people(people, TRAIT)
    contigs = dataset.variant_contig()
    tests = []
    for index, contig in enumerate(dataset.contigs):
        rows = np.flatnonzero(contigs == index)
        prefix = folder / f"chromosome{contig}"
        block = slice(int(rows[0]), int(rows[-1]) + 1)
        write_variants(prefix, dataset, block, people, values[people])
        G = effects.design(effects.key(contig))
        np.savetxt(f"{prefix}.relationship.txt", G @ G.T, "%.10g", "\t")
        command = ["gemma", "-bfile", str(prefix), "-k", f"{prefix}.relationship.txt"]
        command += ["-lmm", "1", "-maf", "0", "-miss", "1"]
        run([*command, "-outdir", str(folder), "-o", prefix.name])
        found = pd.read_csv(f"{prefix}.assoc.txt", sep="\t").set_index("rs")["p_wald"]
        tests.append(-np.log10(found))
    return pd.concat(tests)


def inflation(neg_log10_p: pd.Series) -> float:
    """Return λ, median χ² over its median under the null."""
    return float(chi2.isf(10.0 ** -neg_log10_p.median(), 1) / chi2.isf(0.5, 1))


def inflations(tests: pd.DataFrame) -> list[Inflation]:
    """Return λ of every chromosome and of all, from columns contig, without, ours and gemma."""

    def line(name: str, some: pd.DataFrame) -> Inflation:
        return Inflation(
            name, len(some), *(inflation(some[c]) for c in ("without", "ours", "gemma"))
        )

    groups = tests.groupby("contig", sort=False)
    return [*(line(str(name), some) for name, some in groups), line("all", tests)]


def required(lines: list[Inflation]) -> list[str]:
    """Say what is required and not met."""
    misses = []
    total = lines[-1]
    if abs(total.ratio - 1) > WITHIN:
        misses.append(f"λ {total.ours:.3f}, GEMMA's {total.gemma:.3f}: over {WITHIN:.0%} apart")
    misses += [
        f"λ on chromosome 1 without a relationship is {line.without:.1f}, expected about 15"
        for line in lines
        if line.chromosome == "1" and line.without < INFLATED
    ]
    return misses


def markdown(lines: list[Inflation], tests: pd.DataFrame, seconds: float, misses: list[str]) -> str:
    def number(value: float) -> str:
        return "" if np.isnan(value) else f"{value:.3f}"

    text = (
        f"{TRAIT}, {len(tests):,} variants; our scan with the relationship took {seconds:.0f} "
        "seconds on two cores, the whole command. λ of the additive test:\n\n"
    )
    text += table(
        ["chromosome", "variants", "ours, no relationship", "ours", "GEMMA", "ours / GEMMA"],
        [
            [x.chromosome, x.variants, *map(number, (x.without, x.ours, x.gemma, x.ratio))]
            for x in lines
        ],
    )
    if tests["gemma"].isna().all():
        return text + "\ngemma is not installed (Debian: apt install gemma): not compared.\n"
    correlation = tests[["ours", "gemma"]].corr().iloc[0, 1]
    text += f"\nCorrelation of −log10 p: {correlation:.4f}.\n\n"
    return text + ("".join(f"MISS {miss}\n" for miss in misses) or "All as required.\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few variants of two chromosomes")
    parser.add_argument("--mouse", type=Path, default=MOUSE, metavar="FOLDER", help="the data")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    if not (options.mouse / "mouse_hs1940.bed").exists():
        stop(f"{options.mouse}: no mouse_hs1940.bed; name its folder with --mouse")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        genotypes, relationship = convert(folder, options.mouse, options.quick)
        unrelated, _ = scan(folder, options.mouse, genotypes, None)
        related, seconds = scan(folder, options.mouse, genotypes, relationship)
        tests = additive(related).rename(columns={"add_neg_log10_p": "ours"})
        tests["without"] = additive(unrelated)["add_neg_log10_p"]
        tests["gemma"] = np.nan
        if shutil.which("gemma"):
            dataset = open_dataset(genotypes)
            tests["gemma"] = gemma_tests(folder, dataset, relationship, options.mouse)
    lines = inflations(tests)
    misses = required(lines)
    text = markdown(lines, tests, seconds, misses)
    there = [{k: v for k, v in asdict(line).items() if v == v} for line in lines]  # no NaN
    write(options.output, "relatedness", text, {"seconds": seconds, "inflation": there})
    for miss in misses:
        print(f"relatedness: {miss}", file=sys.stderr)
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())
