"""Whether a change of the code moved any number that it was not meant to move.

Small cohorts (calls, dosages, X, missing calls, skewed and two-valued traits, covariates, random
effects, interaction, offsets) and the shared mice are scanned by the command with the code of
another commit and with the code as it stands, in processes of their own, from the same files. Every
array of the two stores is compared: those of the results and those of the null models. With no
commit named the code is compared with itself, which shows that the same command gives the same
bits. The files are written here, by no code of the package.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from commands import stop
from tables import table, write

ROOT = Path(__file__).resolve().parent.parent
MICE = ROOT.parent / "shared" / "data" / "mouse"

BOUND = 1e-12
"""Relative difference up to which a number counts as unmoved."""


@dataclass(frozen=True)
class Study:
    """A scan to run twice.

    Attributes
    ----------
    name : str
    genotypes : str
        A folder's file: what `convert` reads.
    options : tuple of str
        Of the scan, beside genotypes and output; ``{}`` stands for the folder of the files.
    """

    name: str
    genotypes: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """What two stores have in common.

    Attributes
    ----------
    study : str
    arrays : int
        That both have.
    equal : int
        Of them, equal bit for bit.
    worst : str
        The array that differs most.
    difference : float
        The largest relative difference in it; infinite where one has a number and one has none.
    missing, new : tuple of str
        Arrays that the store of the other commit has alone, and this one's.
    """

    study: str
    arrays: int
    equal: int
    worst: str
    difference: float
    missing: tuple[str, ...]
    new: tuple[str, ...]


# --------------------------------------------------------------------------------------- cohorts


def write_cohort(folder: Path, name: str, n: int, m: int, seed: int) -> None:
    """Write NAME.vcf (calls), NAME-dosages.vcf, NAME.tsv, covariates and predictions of n people.

    A third of the variants each on chromosomes 1, 2 and X, males with one copy there; allele
    frequencies from 0.02 to 0.5.
    """
    rng = np.random.default_rng(seed)
    people = [f"p{i}" for i in range(n)]
    male = rng.random(n) < 0.5
    contigs = np.repeat(["1", "2", "X"], -(-m // 3))[:m]
    frequency = rng.uniform(0.02, 0.5, m)
    alleles = rng.random((m, n, 2)) < frequency[:, None, None]
    absent = rng.random((m, n)) < 0.02
    header = ["##fileformat=VCFv4.2", *(f"##contig=<ID={c}>" for c in ("1", "2", "X"))]
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *people]
    kinds = {
        "GT": '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
        "DS": '##FORMAT=<ID=DS,Number=1,Type=Float,Description="Dosage">',
    }
    for kind, line in kinds.items():
        file = folder / (f"{name}.vcf" if kind == "GT" else f"{name}-dosages.vcf")
        with file.open("w") as out:
            print(*header, line, "\t".join(columns), sep="\n", file=out)
            for j in range(m):
                one = male & (contigs[j] == "X")
                if kind == "GT":
                    a, b = alleles[j].astype(int).T
                    cells = np.where(one, a.astype(str), np.char.add(a.astype(str), "/"))
                    cells = np.where(one, cells, np.char.add(cells, b.astype(str)))
                    cells = np.where(absent[j], np.where(one, ".", "./."), cells)
                else:
                    copies = np.where(one, alleles[j, :, 0], alleles[j].sum(axis=1)).astype(float)
                    certain = rng.beta(5, 1, n)
                    copies = certain * copies + (1 - certain) * copies.mean()
                    cells = np.where(absent[j], ".", np.char.mod("%.3f", copies))
                fixed = [contigs[j], str(1000 * (j + 1)), f"v{j}", "A", "C", ".", ".", ".", kind]
                print("\t".join([*fixed, *cells]), file=out)
    mean, variance = rng.standard_normal((2, n, 3))
    noise = rng.standard_normal(n) * np.exp(0.2 * variance[:, 0])
    copies = alleles.sum(axis=2)
    normal = noise + 0.3 * mean[:, 0] + 0.2 * copies[0] + 0.02 * copies[: m // 3].sum(axis=0)
    traits = {
        "normal": normal,
        "skewed": np.exp(normal / 2),
        "cases": (normal > 0.8).astype(float),
    }
    with (folder / f"{name}.tsv").open("w") as out:
        print("IID", *traits, sep="\t", file=out)
        for i, person in enumerate(people):
            cells = [
                repr(float(trait[i])) if rng.random() > 0.05 else "NA" for trait in traits.values()
            ]
            print(person, *cells, sep="\t", file=out)
    for part, values in (("mean", mean), ("variance", variance)):
        with (folder / f"{name}-{part}.tsv").open("w") as out:
            print("IID", *(f"{part}{k}" for k in range(3)), sep="\t", file=out)
            for person, row in zip(people, values.tolist(), strict=True):
                print(person, *row, sep="\t", file=out)
    with (folder / f"{name}-sex.tsv").open("w") as out:
        print("IID", "sex", sep="\t", file=out)
        for person, is_male in zip(people, male, strict=True):
            print(person, 1 if is_male else 2, sep="\t", file=out)
    with (folder / f"{name}-predictions.tsv").open("w") as out:
        print("IID", *traits, sep="\t", file=out)
        for i, person in enumerate(people):
            print(person, *[0.1 * float(mean[i, 1])] * len(traits), sep="\t", file=out)
    (folder / f"{name}-random.txt").write_text("".join(f"v{j}\n" for j in range(0, 2 * m // 3, 2)))


def studies(name: str) -> Iterator[Study]:
    """All ways to fit, on one cohort."""
    traits = ("--phenotypes", f"{{}}/{name}.tsv")
    sex = ("--sex-table", f"{{}}/{name}-sex.tsv", "--genome-build", "GRCh38")
    common = (*traits, *sex, "--min-mac", "5")
    covariates = (
        *("--mean-covariates", f"{{}}/{name}-mean.tsv"),
        *("--variance-covariates", f"{{}}/{name}-variance.tsv"),
    )
    random = ("--random-effects", f"{{}}/{name}-random.txt")
    every = ("--sandwich", "--likelihood-ratio")
    calls, dosages = f"{name}.vcf", f"{name}-dosages.vcf"
    yield Study(f"{name}: calls", calls, (*common, *every))
    yield Study(f"{name}: calls, covariates", calls, (*common, *covariates, *every))
    yield Study(f"{name}: calls, scores", calls, (*common, *covariates, "--method", "score"))
    yield Study(
        f"{name}: calls, null covariates", calls, (*common, *covariates, "--covariate-mode", "null")
    )
    yield Study(
        f"{name}: calls, interaction", calls, (*common, *covariates, "--interaction", "mean0")
    )
    yield Study(
        f"{name}: calls, predictions", calls, (*common, "--offset", f"{{}}/{name}-predictions.tsv")
    )
    yield Study(f"{name}: calls, conditioned", calls, (*common, "--condition", "v0"))
    yield Study(f"{name}: dosages", dosages, (*common, *every))
    yield Study(f"{name}: dosages, covariates", dosages, (*common, *covariates))
    yield Study(f"{name}: random effects", calls, (*common, *random, *every))
    yield Study(f"{name}: random effects, covariates", calls, (*common, *covariates, *random))
    yield Study(f"{name}: random effects, dosages", dosages, (*common, *random))
    yield Study(
        f"{name}: random effects, seed", calls, (*common, *random, "--covariate-mode", "seed")
    )


def mice(folder: Path) -> Iterator[Study]:
    """The shared mice: without random effects, with 300, and with all on other chromosomes."""
    for end in ("bed", "bim", "fam"):
        (folder / f"mice.{end}").symlink_to(MICE / f"mouse_hs1940.{end}")
    common = ("--phenotypes", str(MICE / "pheno.tsv"), "--autosomes", "19")
    yield Study("mice", "mice.bed", (*common, "--sandwich"))
    chosen = ("--phenotype", "trait1", "--extract", f"{folder}/mice-some.txt")
    lines = (MICE / "mouse_hs1940.bim").read_text().splitlines()
    (folder / "mice-some.txt").write_text("".join(f"{x.split()[1]}\n" for x in lines[::40]))
    listed = ("--random-effects", str(MICE / "random300_not17.txt"))
    yield Study("mice: 300 random effects", "mice.bed", (*common, *chosen, *listed))
    full = ("--random-effects", "GENOTYPES")
    yield Study("mice: full relationship", "mice.bed", (*common, *chosen, *full))


# ------------------------------------------------------------------------------------- comparing


@contextmanager
def checkout(commit: str | None, folder: Path) -> Iterator[Path]:
    """Give a tree of a commit's code; of none, of the code as it stands."""
    if commit is None:
        yield ROOT
        return
    tree = folder / "before"
    made = subprocess.run(
        ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), commit],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        stop(made.stderr.strip().splitlines()[-1])
    try:
        yield tree
    finally:
        remove = ["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)]
        subprocess.run(remove, capture_output=True, check=False)


def command(tree: Path, *arguments: object) -> None:
    """Run hlmm-scan with the code of a tree."""
    done = subprocess.run(
        [sys.executable, "-m", "hlmm_scan", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        stop(f"{tree}: hlmm-scan {' '.join(map(str, arguments))}: {last}")


def scan(study: Study, tree: Path, files: Path, genotypes: Path, output: Path) -> None:
    options = [
        str(genotypes) if option == "GENOTYPES" else option.format(files)
        for option in study.options
    ]
    command(tree, "scan", "--genotypes", genotypes, *options, "--workers", 1, "-o", output)


def arrays(store: Path) -> dict[str, Any]:
    """Return all arrays of results and null models by their names."""
    found: dict[str, Any] = {}

    def collect(group: Any, path: str) -> None:
        for name, array in group.arrays():
            found[f"{path}{name}"] = array[...]
        for name, child in group.groups():
            if path or name == "null":
                collect(child, f"{path}{name}/")

    collect(zarr.open_group(str(store), mode="r"), "")
    return found


def difference(before: Any, after: Any) -> float:
    """Return the largest relative difference; infinite between arrays of two kinds."""
    if before.shape != after.shape or before.dtype.kind != after.dtype.kind:
        return np.inf
    if before.dtype.kind != "f":
        return 0.0 if np.array_equal(before, after) else np.inf
    if np.array_equal(before, after, equal_nan=True):
        return 0.0
    with np.errstate(all="ignore"):
        apart = np.abs(before - after) / np.maximum(np.abs(before), np.abs(after))
    apart = np.where((before == after) | (np.isnan(before) & np.isnan(after)), 0.0, apart)
    return float(np.where(np.isnan(apart), np.inf, apart).max())


def compare(name: str, before: Path, after: Path) -> Compared:
    old, new = arrays(before), arrays(after)
    both = [key for key in old if key in new]
    apart = {key: difference(old[key], new[key]) for key in both}
    worst = max(apart, key=lambda key: apart[key])
    return Compared(
        name,
        len(both),
        sum(value == 0.0 for value in apart.values()),
        worst if apart[worst] else "",
        apart[worst],
        tuple(key for key in old if key not in new),
        tuple(key for key in new if key not in old),
    )


def run(plan: Sequence[Study], before: str | None, folder: Path) -> Iterator[Compared]:
    """Scan every study with both codes, from genotypes that the earlier one has converted."""
    with checkout(before, folder) as tree:
        for k, study in enumerate(plan):
            genotypes = folder / f"{study.genotypes}.zarr"
            if not genotypes.exists():
                source = folder / study.genotypes
                command(tree, "convert", source, "-o", genotypes)
            stores = [folder / f"{k}-{which}.zarr" for which in ("before", "after")]
            for store, code in zip(stores, (tree, ROOT), strict=True):
                scan(study, code, folder, genotypes, store)
            found = compare(study.name, *stores)
            print(found, file=sys.stderr, flush=True)
            yield found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few people and variants, no mice")
    parser.add_argument("--before", help="a commit; default: the code as it stands, twice")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sizes = {"few": (150, 24)} if options.quick else {"few": (403, 240), "many": (6_001, 120)}
        for seed, (name, (n, m)) in enumerate(sizes.items()):
            write_cohort(folder, name, n, m, seed)
        plan = [study for name in sizes for study in studies(name)]
        if options.quick:
            plan = [s for s in plan if "covariates" in s.name or "random" in s.name][:4]
        elif MICE.exists():
            plan += mice(folder)
        found = list(run(plan, options.before, folder))
    rows = [
        [
            c.study,
            c.arrays,
            c.equal,
            f"{c.difference:.1e}" if c.worst else "0",
            c.worst,
            *(", ".join(names) for names in (c.missing, c.new)),
        ]
        for c in found
    ]
    header = ["study", "arrays", "bit for bit", "largest relative difference", "in", "gone", "new"]
    moved = [c.study for c in found if c.difference > BOUND or c.missing]
    text = f"# Numbers of `{options.before or 'the same code'}` and of this code\n\n"
    text += table(header, rows)
    text += "\n" + (f"**Moved**: {'; '.join(moved)}\n" if moved else "Nothing moved.\n")
    write(options.output, "unmoved", text, [asdict(c) for c in found])
    return int(bool(moved))


if __name__ == "__main__":
    sys.exit(main())
