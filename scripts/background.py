"""The polygenic background beside the exact mixed model: see scripts/background.

The exact model is dense: y ~ N(μ, σ²(h²K + (1 − h²)I)), K the relationship of all variants on
other chromosomes, h² by restricted maximum likelihood for every trait and chromosome, then the Wald
test of each variant. Traits have heritabilities and numbers of causal variants of all kinds; the
last third of the chromosomes has none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import chi2
from tables import table, write

import hlmm_scan as hs

STRUCTURES = ("unrelated", "sib pairs", "three populations")
POWER_KEPT = 0.9
"""Least mean χ² at causal variants, over the exact model's, over all traits of a structure."""


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    people: int
    variants: int
    chromosomes: int
    heritabilities: tuple[float, ...]
    causal: tuple[int, ...]
    inflation_within: float
    """Largest distance of λ from the exact model's: five standard errors, about."""


FULL = Size(2000, 6000, 9, (0.1, 0.3, 0.5, 0.7), (10, 100, 1000, 4000), 0.06)
QUICK = Size(600, 1200, 3, (0.3, 0.7), (10, 800), 0.25)


@dataclass(frozen=True)
class Line:
    """What was found of one trait; χ² are means over causal variants, λ over chromosomes."""

    structure: str
    heritability: float
    causal: int
    cv_r2: float
    power_none: float
    power_ours: float
    power_exact: float
    lambda_none: float
    lambda_ours: float
    lambda_exact: float


def genotypes(structure: str, size: Size, rng: np.random.Generator) -> np.ndarray:
    """Draw copies, shape (variants, people)."""
    m, n = size.variants, size.people
    ancestral = rng.uniform(0.1, 0.5, m)
    if structure == "three populations":
        spread = 0.02  # F_ST
        share = (1 - spread) / spread
        frequency = rng.beta(ancestral * share, (1 - ancestral) * share, (3, m)).clip(0.02, 0.98)
        return rng.binomial(2, frequency[rng.integers(0, 3, n)].T).astype(np.int8)
    if structure == "sib pairs":
        parents = rng.random((m, n // 2, 2, 2)) < ancestral[:, None, None, None]
        picked = rng.integers(0, 2, (m, n // 2, 2, 2))  # of either sib, from either parent
        alleles = np.take_along_axis(parents.swapaxes(2, 3), picked, axis=2)
        return alleles.sum(axis=3, dtype=np.int8).reshape(m, n)
    return rng.binomial(2, ancestral[:, None], (m, n)).astype(np.int8)


def standardised(copies: np.ndarray) -> np.ndarray:
    centred = copies - copies.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


def restricted(h: float, values: np.ndarray, ones: np.ndarray, y: np.ndarray) -> float:
    """Return −2 log restricted likelihood, the variance at its best, in eigenvectors' axes."""
    d = h * values + (1 - h)
    weight = (ones**2 / d).sum()
    rest = ((y - (ones * y / d).sum() / weight * ones) ** 2 / d).sum()
    return float((len(y) - 1) * np.log(rest) + np.log(d).sum() + np.log(weight))


def exact(g: np.ndarray, contig: np.ndarray, traits: np.ndarray) -> np.ndarray:
    """Return χ² of every variant and trait, shape (traits, variants), chromosomes left out."""
    n = g.shape[1]
    found = np.empty((len(traits), len(g)))
    for chromosome in np.unique(contig):
        here = contig == chromosome
        others = g[~here]
        values, vectors = np.linalg.eigh(others.T @ others / len(others))
        tested, ones = g[here] @ vectors, vectors.sum(axis=0)
        for k, y in enumerate(traits):
            rotated = y @ vectors
            known = values, ones, rotated
            h = minimize_scalar(restricted, bounds=(0.0, 0.999), args=known, method="bounded").x
            w = 1 / (h * values + 1 - h)
            centre = (w * ones**2).sum()
            x = tested - np.outer(tested @ (w * ones) / centre, ones)
            rest = rotated - (w * ones * rotated).sum() / centre * ones
            cross, square = x @ (w * rest), (x**2) @ w
            left = (w * rest**2).sum() - cross**2 / square
            found[k, here] = cross**2 / square / (left / (n - 2))
    return found


def scanned(
    folder: Path, name: str, dataset: object, traits: pd.DataFrame, offset: object
) -> np.ndarray:
    """Return χ² of every variant and trait by a scan."""
    found = hs.scan(dataset, traits, folder / name, offset=offset, min_maf=0, min_mac=1)
    with found.dataset as results:
        return np.asarray((results["add"] / results["add_se"]) ** 2)


def measured(structure: str, size: Size, folder: Path) -> Iterator[Line]:
    """Yield what was found of each trait of one structure."""
    rng = np.random.default_rng(STRUCTURES.index(structure) + 1)
    copies = genotypes(structure, size, rng)
    m, n = copies.shape
    contig = np.array([str(1 + k * size.chromosomes // m) for k in range(m)])
    g = standardised(copies)
    may_cause = np.flatnonzero(contig.astype(int) <= size.chromosomes * 2 // 3)
    asked = [(h, c) for h in size.heritabilities for c in size.causal]
    causal = [rng.choice(may_cause, min(c, len(may_cause)), replace=False) for _, c in asked]
    traits = np.empty((len(asked), n))
    for k, (h, _) in enumerate(asked):
        genetic = rng.normal(size=len(causal[k])) @ g[causal[k]]
        traits[k] = np.sqrt(h) * genetic / genetic.std() + np.sqrt(1 - h) * rng.normal(size=n)
    people = pd.Index([f"p{i}" for i in range(n)], name="IID")
    frame = pd.DataFrame({f"t{k}": y for k, y in enumerate(traits)}, people)
    variants = pd.DataFrame({"contig": contig, "position": np.arange(m) + 1})
    variants = variants.assign(
        variant_id=[f"v{j}" for j in range(m)], effect_allele="C", other_allele="A"
    )
    dataset = hs.convert(copies, folder / "g.zarr", samples=people, variants=variants)
    background = hs.polygenic(dataset, frame, folder / "b.zarr", min_maf=0, block_size=m // 12)
    chi2s = {
        "none": scanned(folder, "none", dataset, frame, None),
        "ours": scanned(folder, "ours", dataset, frame, background),
        "exact": exact(g, contig, traits),
    }
    empty = ~np.isin(np.arange(m), may_cause)
    r2 = background.to_frame()["cv_r2"].to_numpy()
    for k, (h, c) in enumerate(asked):
        power = {f"power_{name}": float(np.nanmean(x[k, causal[k]])) for name, x in chi2s.items()}
        inflated = {
            f"lambda_{name}": float(np.nanmedian(x[k, empty]) / chi2.median(1))
            for name, x in chi2s.items()
        }
        yield Line(structure, h, c, float(r2[k]), **power, **inflated)


def summary(lines: list[Line], structure: str) -> dict[str, float]:
    """Return means over the traits of a structure."""
    some = pd.DataFrame([asdict(line) for line in lines if line.structure == structure])
    means = some.drop(columns=["structure"]).mean()
    return {
        "power_ours_over_exact": float((some["power_ours"] / some["power_exact"]).mean()),
        "power_none_over_exact": float((some["power_none"] / some["power_exact"]).mean()),
        **{name: float(means[name]) for name in ("lambda_none", "lambda_ours", "lambda_exact")},
    }


def required(found: dict[str, dict[str, float]], size: Size) -> list[str]:
    """Say what is required and not met."""
    misses = []
    for structure, means in found.items():
        kept, apart = means["power_ours_over_exact"], means["lambda_ours"] - means["lambda_exact"]
        if kept < POWER_KEPT:
            misses.append(f"{structure}: χ² at causal variants {kept:.3f} of the exact model's")
        if abs(apart) > size.inflation_within:
            misses.append(f"{structure}: λ {means['lambda_ours']:.3f}, {apart:+.3f} off the exact")
    return misses


def markdown(lines: list[Line], found: dict[str, dict[str, float]], size: Size) -> str:
    text = (
        f"{size.people:,} people, {size.variants:,} variants on {size.chromosomes} chromosomes, "
        f"the last third without causal variants; {len(lines) // len(found)} traits a structure. "
        "Means over traits of χ² at causal variants over the exact model's, and of λ on "
        "chromosomes without any:\n\n"
    )
    names = list(next(iter(found.values())))
    text += table(
        ["people", *(name.replace("_", " ") for name in names)],
        [[s, *(f"{means[name]:.3f}" for name in names)] for s, means in found.items()],
    )
    fields = [
        name for name in asdict(lines[0]) if name not in ("structure", "heritability", "causal")
    ]
    text += "\n" + table(
        ["people", "h²", "causal", *(name.replace("_", " ") for name in fields)],
        [
            [x.structure, x.heritability, x.causal, *(f"{getattr(x, f):.3f}" for f in fields)]
            for x in lines
        ],
    )
    misses = required(found, size)
    return text + "\n" + ("".join(f"MISS {miss}\n" for miss in misses) or "All as required.\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few people, variants and traits")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    lines: list[Line] = []
    for structure in STRUCTURES:
        with tempfile.TemporaryDirectory() as scratch:
            lines += measured(structure, size, Path(scratch))
    found = {structure: summary(lines, structure) for structure in STRUCTURES}
    text = markdown(lines, found, size)
    write(
        options.output, "background", text, {"means": found, "traits": [asdict(x) for x in lines]}
    )
    misses = required(found, size)
    for miss in misses:
        print(f"background: {miss}", file=sys.stderr)
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())
