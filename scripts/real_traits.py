"""The tests on real traits: see scripts/real_traits. With --quick a few traits, wide limits.

Traits of heterogeneous-stock mice (sex and density of the cage on both sides of the model) and of
BXD lines, with the real genotypes beside them. Where people are permuted, a trait and its
covariates going to somebody else, no variant has an effect whatever the trait's shape: p is below
a level as often as it says, and λ is 1 but for the few independent variants that a median is of.
Required there, of every test: p < 0.5 as often as that ± 5%, and rejection up to 1.4 times nominal,
both within two standard errors, which are those of the spread between permutations (variants in
linkage are no draws of their own). As people are, λ holds their traits' loci and all that relatives
share: it is shown, with and without a relationship, and not judged.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from commands import stop
from numpy.typing import NDArray
from scipy.stats import chi2
from simulated import null_model, standardised_columns
from tables import table, write
from threadpoolctl import threadpool_limits

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.genotypes.packing import unpack
from hlmm_scan.genotypes.readers.plink import PlinkFileset
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.null.model import RandomEffects

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = Path(os.environ.get("HLMM_SCAN_DATA", SHARED))

TESTS = {"add": 1, "var": 1, "av": 2}
"""Degrees of freedom."""

LEVELS = (0.5, 1e-3, 1e-4)
LEAST_PEOPLE = 60
OPTIONS = FitOptions(screen=True)

RELATED = ("Biochem.HDL", "Biochem.Glucose", "Obesity.EndNormalBW")
"""Traits of the mice that are scanned with their relationship."""

RELATED_CONTIGS = ("1", "17")
"""Chromosomes of the variants tested then."""


@dataclass(frozen=True)
class Panel:
    """People with genotypes and many traits.

    Attributes
    ----------
    name : str
    copies : ndarray of int8, shape (m, n)
        −1 where missing.
    contigs : ndarray of str, shape (m,)
    traits : DataFrame, n rows
    covariates : ndarray, shape (n, c)
    """

    name: str
    copies: NDArray[np.int8]
    contigs: NDArray[np.object_]
    traits: pd.DataFrame
    covariates: NDArray[np.float64]

    def people_of(self, trait: str) -> NDArray[np.intp]:
        """Return who has the trait and all covariates."""
        there = np.isfinite(self.traits[trait].to_numpy(float))
        return np.flatnonzero(there & np.isfinite(self.covariates).all(axis=1))


def mice(folder: Path, every: int) -> Panel:
    """Read the heterogeneous-stock mice and every k-th of their variants."""
    files = PlinkFileset.open(folder / "hs1814.bed")
    copies = unpack(files.read_packed(0, files.n_variants), files.n_samples)[::every]
    contigs = np.concatenate([t.contig for t in files.read_variants()])[::every]
    table_of = pd.read_csv(folder / "phenotypes.tsv", sep="\t").set_index("IID")
    people = table_of.loc[files.samples.individual_id]
    names = [name for name in people if name.startswith("Biochem.") and "Date" not in name]
    traits = people[[*names, "Obesity.EndNormalBW"]].drop(columns="Biochem.EndNormalBW")
    covariates = np.column_stack(
        [people["GENDER"].eq("M").to_numpy(float), people["CageDensity"].to_numpy(float)]
    )
    return Panel("mice", copies, contigs, traits, covariates)


def bxd_lines(path: Path, every: int, take: int) -> Panel:
    """Read the BXD lines, every k-th of their markers and every k-th of their traits."""
    with zipfile.ZipFile(path) as archive:

        def read(name: str) -> pd.DataFrame:
            text = archive.read(name).decode()
            return pd.read_csv(io.StringIO(text), comment="#", index_col=0, dtype=str)

        genotypes, map_, traits = (read(f"bxd_{part}.csv") for part in ("geno", "gmap", "pheno"))
    genotypes = genotypes.iloc[::every]
    # Inbred: two copies of one allele or of the other.
    codes = {"B": 0, "D": 2}
    copies = genotypes.apply(lambda column: column.map(codes)).fillna(-1).to_numpy(np.int8)
    traits = traits.apply(pd.to_numeric, errors="coerce").reindex(genotypes.columns)
    enough = traits.columns[traits.notna().sum() >= LEAST_PEOPLE]
    # Some lines are hardly genotyped.
    called = (copies >= 0).mean(axis=0) > 0.9
    copies, traits = copies[:, called], traits[called]
    contigs = map_.loc[genotypes.index, "chr"].to_numpy(object)
    return Panel("BXD", copies, contigs, traits[enough[::take]], np.empty((len(traits), 0)))


def scan(
    panel: Panel,
    trait: str,
    order: NDArray[np.intp] | None = None,
    relationship: tuple[str, ...] = (),
) -> dict[str, NDArray[np.float64]] | None:
    """Test every variant; None where the trait has no null model.

    Parameters
    ----------
    panel : Panel
    trait : str
    order : ndarray of int, optional
        Whose genotypes the people with the trait are given; their own by default.
    relationship : tuple of str
        Chromosomes that alone are tested, with the variants of all others as random effects.
    """
    people = panel.people_of(trait)
    covariates = panel.covariates[people]
    # Covariates that do not vary among them say nothing.
    covariates = covariates[:, np.ptp(covariates, axis=0) > 0]
    mine = panel.copies[:, people if order is None else order[: len(people)]]
    effects, rows = None, np.arange(len(mine))
    if relationship:
        varying = np.flatnonzero(np.ptp(mine, axis=1) > 0)
        names = tuple(str(contig) for contig in panel.contigs[varying])
        columns = standardised_columns(np.maximum(mine[varying], 0))
        effects = RandomEffects(columns, names, tuple(map(str, varying)))
        rows = np.flatnonzero(np.isin(panel.contigs, relationship))
    y = panel.traits[trait].to_numpy(float)[people]
    try:
        null = null_model(y, covariates, covariates, effects, left_out=relationship)
    except InputError:
        return None
    columns_of = fit_block(null, HardCalls.of(mine[rows]), panel.contigs[rows], OPTIONS)
    found = {test: columns_of[f"{test}_neg_log10_p"] for test in TESTS}
    return {test: p[np.isfinite(p)] for test, p in found.items()}


def behaviour(neg_log10_p: NDArray[np.float64], df: int) -> list[float]:
    """Return λ and rejection over each level."""
    median = chi2.isf(10.0 ** -np.median(neg_log10_p), df) / chi2.isf(0.5, df)
    return [float(median), *((neg_log10_p > -np.log10(k)).mean() / k for k in LEVELS)]


def of_traits(panel: Panel, draws: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Yield how each test behaves on each trait: as people are, and permuted so many times."""
    for trait in panel.traits:
        for draw in range(draws + 1):
            order = rng.permutation(len(panel.traits)) if draw else None
            found = scan(panel, trait, order)
            if found is None:
                break
            for test, p in found.items():
                # A trait of two values has no test of its variance.
                if len(p):
                    figures = behaviour(p, TESTS[test])
                    yield {
                        "panel": panel.name, "trait": trait, "test": test, "permuted": draw > 0,
                        "people": len(panel.people_of(trait)), "tests": len(p),
                        "λ": figures[0], **dict(zip(LEVELS, figures[1:], strict=True)),
                    }  # fmt: skip


def summary(rows: pd.DataFrame) -> list[list[object]]:
    """Return a line for each panel and test: λ over traits, rejection with its error."""
    lines = []
    for (panel, test), mine in rows.groupby(["panel", "test"], sort=False):
        by_trait = mine.groupby("trait")["λ"].mean()
        low, middle, high = by_trait.quantile([0.05, 0.5, 0.95])
        cells = []
        for name in ("λ", *LEVELS):
            cells.append(f"{mine[name].mean():.3f} ± {mine[name].sem():.3f}")
        spread = f"{low:.2f}, {middle:.2f}, {high:.2f}"
        lines.append([panel, test, len(by_trait), f"{mine['tests'].sum():,}", spread, *cells])
    return lines


def misses(permuted: pd.DataFrame, off: float, factor: float) -> list[str]:
    """Say what is required of permuted people and not met."""
    found = []
    for (panel, test), mine in permuted.groupby(["panel", "test"], sort=False):
        for level in LEVELS:
            rate, error = mine[level].mean(), 2 * mine[level].sem()
            half = level == LEVELS[0]
            if rate - (1 + off if half else factor) > error or (half and 1 - off - rate > error):
                found.append(f"{panel}, {test}: p < {level:g} {rate:.2f} times as often")
    return found


def markdown(rows: pd.DataFrame, related: list[list[object]], missed: list[str], how: str) -> str:
    header = [
        "panel", "test", "traits", "tests", "λ of traits: 5%, median, 95%", "mean λ",
        *(f"p < {level:g}" for level in LEVELS),
    ]  # fmt: skip
    text = f"{how}\n\nPermuted people; rejection over its nominal rate, ± one standard error:\n\n"
    text += table(header, summary(rows[rows["permuted"]]))
    text += "\nPeople as they are, without a relationship:\n\n"
    text += table(header, summary(rows[~rows["permuted"]]))
    if related:
        text += (
            f"\nλ of the mice on chromosomes {', '.join(RELATED_CONTIGS)}, the variants of all "
            "other chromosomes as random effects. Relatives share variance as well as means, "
            "and the model knows of the means:\n\n"
        )
        header = ["trait", "people", "tests", "relationship", *TESTS]
        text += table(header, related)
    return text + "\n" + ("".join(f"MISS {miss}\n" for miss in missed) or "All as required.\n")


def with_relationship(panel: Panel, traits: tuple[str, ...]) -> Iterator[list[object]]:
    """Yield λ of each test without and with a relationship."""
    chosen = np.isin(panel.contigs, RELATED_CONTIGS)
    alone = Panel(
        panel.name, panel.copies[chosen], panel.contigs[chosen], panel.traits, panel.covariates
    )
    for trait in traits:
        for name, found in (
            ("no", scan(alone, trait)),
            ("yes", scan(panel, trait, relationship=RELATED_CONTIGS)),
        ):
            if found is not None:
                inflation = [f"{behaviour(found[t], df)[0]:.3f}" for t, df in TESTS.items()]
                n, tests = len(panel.people_of(trait)), len(found["add"])
                yield [trait, f"{n:,}", f"{tests:,}", name, *inflation]


def tell(what: str, start: float) -> None:
    print(f"{time.monotonic() - start:6.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few traits and variants")
    parser.add_argument("--draws", type=int, help="permutations of a trait; 10, or 2 if quick")
    parser.add_argument("--every", type=int, help="which BXD traits: every 20th, or 600th if quick")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    for name in ("hsmice/hs1814.bed", "bxd/bxd.zip"):
        if not (options.data / name).exists():
            stop(f"{options.data}: no {name}; name the folder of both with --data")
    threadpool_limits(1)
    start = time.monotonic()
    quick = options.quick
    draws = options.draws or (2 if quick else 10)
    rng = np.random.default_rng(11)
    of_mice = mice(options.data / "hsmice", 20 if quick else 1)
    lines = bxd_lines(
        options.data / "bxd" / "bxd.zip",
        20 if quick else 4,
        options.every or (600 if quick else 20),
    )
    related_traits = RELATED[:1] if quick else RELATED
    if quick:
        few = of_mice.traits[list(RELATED)]
        of_mice = Panel("mice", of_mice.copies, of_mice.contigs, few, of_mice.covariates)
    found: list[dict[str, object]] = []
    for panel in (of_mice, lines):
        found += of_traits(panel, draws, rng)
        tell(f"{panel.traits.shape[1]} traits of {panel.name}", start)
    rows = pd.DataFrame(found)
    related = list(with_relationship(of_mice, related_traits))
    tell("relationships", start)
    missed = misses(rows[rows["permuted"]], *((0.5, 20.0) if quick else (0.05, 1.4)))
    how = (
        f"{draws} permutations of each trait, {(time.monotonic() - start) / 60:.1f} minutes. "
        f"Every variant of {len(of_mice.copies):,} (mice) and {len(lines.copies):,} (BXD) with 20 "
        f"minor alleles or more among those who have the trait, {LEAST_PEOPLE} people or more."
    )
    text = markdown(rows, related, missed, how)
    rows.columns = [str(name) for name in rows]
    write(options.output, "real_traits", text, {"traits": rows.to_dict("records")})
    for miss in missed:
        print(f"real_traits: {miss}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
