"""Traits without effects through null models and the whole of a block's fit.

Genotypes are drawn once for a model, traits again and again, each with its own covariates' and
random effects' effects. Variants are screened (one step from the null model): p-values are those
of maximum likelihood, which takes longer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from class_sampling import LEVELS, TESTS, Tally
from null_traits import draw_trait
from simulated import CONTIG, draw_genotypes, null_model, random_effects, standardised_columns

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import BGEN_8_BIT, Dosages, GenotypeBlock, HardCalls
from hlmm_scan.genotypes.packing import unpack
from hlmm_scan.genotypes.readers.plink import PlinkFileset
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.null.model import NullModel

TESTED = ("1", "2", "3", "4", "5")
"""Chromosomes of mice."""

BINS = {"20–50": (20, 50), "50–200": (50, 200), "from 200": (200, np.inf)}
"""Minor allele counts."""

OPTIONS = FitOptions(screen=True, min_maf=0.0, min_mac=20)


@dataclass(frozen=True)
class Population:
    """Genotypes, and how a trait without effects of theirs is made.

    Attributes
    ----------
    genotypes : HardCalls or Dosages
    minor : ndarray, shape (m,)
        Minor allele counts.
    null : callable
        Null model of a new trait of noise (n,).
    n : int
    linked : bool
        Whether neighbouring variants are in linkage.
    """

    genotypes: GenotypeBlock
    minor: Float
    null: Callable[[Float, np.random.Generator], NullModel]
    n: int
    linked: bool = False


def frequencies(n: int, m: int, rng: np.random.Generator) -> Float:
    """Draw minor allele frequencies, a third of them in each bin of allele counts."""
    edges = np.array([20, 50, 200, n]) / (2 * n)
    edges = np.minimum(edges, 0.5)
    place = np.arange(m) % 3
    return np.asarray(rng.uniform(edges[place], np.maximum(edges[place + 1], edges[place])))


def minor_counts(copies: Float) -> Float:
    total = copies.sum(axis=1)
    return np.asarray(np.minimum(total, 2 * copies.shape[1] - total), float)


def calls(n: int, m: int, rng: np.random.Generator) -> tuple[HardCalls, Float]:
    """Return hard calls of unrelated people and minor allele counts."""
    copies = rng.binomial(2, frequencies(n, m, rng)[:, None], (m, n)).astype(np.int8)
    return HardCalls.of(copies), minor_counts(copies)


def imputed(n: int, m: int, info: float, rng: np.random.Generator) -> Population:
    """Draw dosages of an expected info score: probabilities of each allele are beta."""
    f = frequencies(n, m, rng)[:, None]
    weight = 1.0 / info - 1.0
    copies = sum(rng.beta(f * weight, (1 - f) * weight, (m, n)) for _ in range(2))
    codes = np.round(copies / BGEN_8_BIT).astype(np.uint16)
    dosages = Dosages(codes, BGEN_8_BIT)
    return Population(dosages, minor_counts(copies), lambda noise, rng: null_model(noise), n)


def covariates(n: int, mean: int, variance: int, m: int, rng: np.random.Generator) -> Population:
    """Covariates with effects on both; those of the variance are among those of the mean."""
    X = rng.standard_normal((n, max(mean, variance)))

    def null(noise: Float, rng: np.random.Generator) -> NullModel:
        log_variance = X[:, :variance] @ rng.normal(0, 0.1, variance)
        y = X[:, :mean] @ rng.normal(0, 0.2, mean) + np.exp(log_variance) * noise
        return null_model(y, X[:, :mean], X[:, :variance])

    return Population(*calls(n, m, rng), null, n)


def sib_pairs(n: int, effects: int, m: int, rng: np.random.Generator) -> Population:
    """Families of two, and random effects of common variants that make half the variance."""
    columns = standardised_columns(draw_genotypes(n, effects, rng, family=2))
    bounds = np.unique(np.array([20, 50, 200, n / 2]) / (2 * n))
    copies = np.concatenate([draw_genotypes(n, m // 3, rng, pair, 2) for pair in pairwise(bounds)])

    def null(noise: Float, rng: np.random.Generator) -> NullModel:
        y = columns @ rng.normal(0, 1 / np.sqrt(effects), effects) + noise
        return null_model(y, effects=random_effects(columns))

    return Population(HardCalls.of(copies), minor_counts(copies.astype(float)), null, n)


def mice(bed: Path, m: int) -> Population:
    """Related mice: variants of five chromosomes, the relationship made of the others.

    Half of a trait's variance is polygenic. Neighbouring variants are in linkage.
    """
    files = PlinkFileset.open(bed)
    contigs = np.concatenate([variants.contig for variants in files.read_variants()])
    copies = unpack(files.read_packed(0, files.n_variants), files.n_samples).astype(float)
    missing = copies < 0
    copies[missing] = 0
    frequency = copies.sum(axis=1) / (~missing).sum(axis=1) / 2
    copies += np.where(missing, 2 * frequency[:, None], 0)
    varies = np.minimum(frequency, 1 - frequency) > 0.01
    tested = np.isin(contigs, TESTED) & varies
    columns = copies[varies & ~tested].T
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    values, vectors = np.linalg.eigh(columns @ columns.T / columns.shape[1])
    kept = values > 1e-8
    F = vectors[:, kept] * np.sqrt(values[kept])
    effects = random_effects(F * np.sqrt(F.shape[1]))
    rows = np.flatnonzero(tested)[:: max(1, int(tested.sum()) // m)]

    def null(noise: Float, rng: np.random.Generator) -> NullModel:
        return null_model(F @ rng.standard_normal(F.shape[1]) + noise, effects=effects)

    calls = np.where(missing[rows], -1, copies[rows]).astype(np.int8)
    minor = minor_counts(copies[rows])
    return Population(HardCalls.of(calls), minor, null, files.n_samples, linked=True)


def populations(
    mouse: Path, quick: bool
) -> Iterator[tuple[str, Callable[[np.random.Generator], Population], str]]:
    """Yield name, population of a generator, and trait of every cell."""
    m = 600 if quick else 4_000
    traits = ("normal",) if quick else ("normal", "gamma(2)", "t5", "log-normal")
    few = traits[:2]
    for trait in traits:
        yield "21 + 3 covariates, n = 433", lambda rng: covariates(433, 21, 3, m, rng), trait
    people = 1_000 if quick else 10_000
    for trait in few:
        name = f"20 + 20 covariates, n = {people:,}"
        yield name, lambda rng: covariates(people, 20, 20, m, rng), trait
    imputed_people = 1_000 if quick else 3_000
    for info in (0.3, 0.9):
        for trait in traits:
            name = f"dosages of info {info}, n = {imputed_people:,}"
            yield name, lambda rng, info=info: imputed(imputed_people, m, info, rng), trait
    pairs = 1_000 if quick else 2_000
    effects = 30 if quick else 300
    for trait in few:
        name = f"{effects} random effects, sib pairs, n = {pairs:,}"
        yield name, lambda rng: sib_pairs(pairs, effects, m, rng), trait
    if not mouse.exists():
        print(f"calibrate: {mouse}: not there; without related mice", file=sys.stderr)
    elif not quick:
        for trait in few:
            yield "relationship, 1,940 mice", lambda rng: mice(mouse, 500), trait


def rates(
    population: Population, trait: str, tests: int, rng: np.random.Generator
) -> dict[str, Tally]:
    """Count rejections in each bin over as many traits as make so many tests.

    Where variants are linked, they are as many as their rejections at 1e-2 vary like from trait to
    trait: as many times more as those of independent ones is how many are alike.
    """
    tallies = {name: Tally() for name in BINS}
    contigs = np.full(len(population.genotypes), CONTIG, dtype=object)
    thresholds = -np.log10(LEVELS)[:, None]
    by_trait: dict[str, list[Float]] = {name: [] for name in BINS}
    for _ in range(max(1, tests // len(population.genotypes))):
        null = population.null(draw_trait(trait, population.n, rng), rng)
        columns = fit_block(null, population.genotypes, contigs, OPTIONS)
        p = np.array([columns[f"{test}_neg_log10_p"] for test in TESTS])
        tested = np.isfinite(p[0])
        for name, (low, high) in BINS.items():
            rows = tested & (population.minor >= low) & (population.minor < high)
            tally = tallies[name]
            tally.rejected += (p[:, None, rows] >= thresholds).sum(axis=2)
            tally.draws += int(rows.sum())
            tally.tested += int(rows.sum())
            by_trait[name].append((p[:, rows] > 2).sum(axis=1))
    for name, counts in by_trait.items():
        if population.linked and len(counts) > 1 and tallies[name].tested:
            spread, mean = np.var(counts, axis=0, ddof=1), np.mean(counts, axis=0)
            tallies[name].alike = np.maximum(spread / np.maximum(mean, 1e-9), 1.0)
    return tallies
