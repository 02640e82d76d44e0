"""What a simulation draws: variants, people, calls, and the phenotypes of the two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from hlmm_scan.genotypes.packing import MISSING
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable

_BASES = np.array(list("ACGT"), dtype=object)
_GENOTYPES_AT_ONCE = 1 << 20
_PLANTED_KINDS = ("additive", "variance", "both")
N_PLANTED = 6


@dataclass(frozen=True)
class Variants:
    """Everything about the variants but the calls; arrays of length m, in file order."""

    contig: NDArray[np.int64]
    position: NDArray[np.int64]
    variant_id: NDArray[np.object_]
    effect_allele: NDArray[np.object_]
    other_allele: NDArray[np.object_]
    frequency: NDArray[np.float64]
    additive: NDArray[np.float64]
    log_variance: NDArray[np.float64]
    standardised: NDArray[np.float64]  # effect of the standardised genotype
    is_random: NDArray[np.bool_]  # named in random_effects.txt


@dataclass(frozen=True)
class People:
    """The people with their family ids, and their ages as an array of length n."""

    samples: SampleIds
    family_id: list[str]
    age: NDArray[np.int64]  # years


@dataclass
class Sums:
    """What the variants add up to in each person, arrays of length n; and each variant's scale."""

    additive: NDArray[np.float64]
    log_variance: NDArray[np.float64]
    standardised: NDArray[np.float64]
    genotype_sd: NDArray[np.float64]  # of length m


def draw_variants(rng: np.random.Generator, chromosomes: int, per_chromosome: int) -> Variants:
    m = chromosomes * per_chromosome
    contig = np.repeat(np.arange(1, chromosomes + 1), per_chromosome)
    steps = rng.integers(500, 1500, size=(chromosomes, per_chromosome))
    frequency = rng.uniform(0.05, 0.5, size=m)
    flipped = rng.random(m) < 0.25
    first = rng.integers(0, 4, size=m)
    second = (first + rng.integers(1, 4, size=m)) % 4
    within = np.tile(np.arange(1, per_chromosome + 1), chromosomes)
    ids = [f"rs{c}_{i}" for c, i in zip(contig, within, strict=True)]
    return Variants(
        contig=contig,
        position=steps.cumsum(axis=1).ravel(),
        variant_id=np.array(ids, dtype=object),
        effect_allele=_BASES[first],
        other_allele=_BASES[second],
        frequency=np.where(flipped, 1 - frequency, frequency),
        additive=np.zeros(m),
        log_variance=np.zeros(m),
        standardised=np.zeros(m),
        is_random=np.zeros(m, dtype=bool),
    )


def plant_hlmm(
    rng: np.random.Generator,
    variants: Variants,
    *,
    n_random_effects: int,
    random_variance: float,
    additive_effect: float,
    log_variance_effect: float,
) -> Variants:
    chromosomes = int(variants.contig[-1])
    loci = _planted_rows(rng, variants, chromosomes)
    frequency = variants.frequency.copy()
    additive, log_variance = variants.additive.copy(), variants.log_variance.copy()
    frequency[loci] = rng.uniform(0.3, 0.45, size=len(loci))
    for k, row in enumerate(loci):
        kind = _PLANTED_KINDS[k % len(_PLANTED_KINDS)]
        sign = 1.0 if k < len(_PLANTED_KINDS) else -1.0
        if kind != "variance":
            additive[row] = sign * additive_effect
        if kind != "additive":
            log_variance[row] = sign * log_variance_effect
    # Evenly along the genome, so that every chromosome has its share of random effects.
    free = np.setdiff1d(np.arange(len(frequency)), loci)
    chosen = free[np.linspace(0, len(free) - 1, n_random_effects).round().astype(np.int64)]
    standardised, is_random = variants.standardised.copy(), variants.is_random.copy()
    effects = rng.standard_normal(n_random_effects)
    standardised[chosen] = effects * np.sqrt(random_variance / max(1, n_random_effects))
    is_random[chosen] = True
    return replace(
        variants,
        frequency=frequency,
        additive=additive,
        log_variance=log_variance,
        standardised=standardised,
        is_random=is_random,
    )


def _planted_rows(
    rng: np.random.Generator, variants: Variants, chromosomes: int
) -> NDArray[np.int64]:
    """Choose the planted loci: round the chromosomes, kinds not tied to them, far from one another.

    With linkage, neighbours of a locus carry some of its effect.
    """
    rows: list[int] = []
    chosen = [(k + k // len(_PLANTED_KINDS)) % chromosomes + 1 for k in range(N_PLANTED)]
    sections = max(chosen.count(chromosome) for chromosome in chosen)
    for k, chromosome in enumerate(chosen):
        here = np.flatnonzero(variants.contig == chromosome)
        section = np.array_split(here, sections)[chosen[:k].count(chromosome)]
        # The middle half of its own section of the chromosome.
        quarter = len(section) // 4
        rows.append(int(section[quarter + rng.integers(max(1, len(section) - 2 * quarter))]))
    return np.array(rows, dtype=np.int64)


def plant_gamma(
    rng: np.random.Generator,
    variants: Variants,
    log_mean_variance: float,
    dispersion_effect: float,
) -> Variants:
    m = len(variants.position)
    effects = rng.standard_normal(m) * np.sqrt(log_mean_variance / m)
    log_variance = np.zeros(m)
    log_variance[0] = dispersion_effect
    frequency = variants.frequency.copy()
    frequency[0] = rng.uniform(0.3, 0.45)
    return replace(variants, frequency=frequency, log_variance=log_variance, standardised=effects)


def draw_people(rng: np.random.Generator, n_samples: int) -> People:
    width = len(str(n_samples))
    numbers = range(1, n_samples + 1)
    family_id = [f"F{i:0{width}d}" for i in numbers]
    return People(
        samples=SampleIds(
            individual_id=np.array([f"I{i:0{width}d}" for i in numbers], dtype=object),
            family_id=np.array(family_id, dtype=object),
            sex=rng.integers(1, 3, size=n_samples, dtype=np.int8),
        ),
        family_id=family_id,
        age=rng.integers(40, 71, size=n_samples),
    )


def draw_calls(
    rng: np.random.Generator,
    chromosome: int,
    variants: Variants,
    sums: Sums,
    linkage: float,
    missing_calls: float,
) -> Iterator[tuple[VariantTable, NDArray[np.int8]]]:
    """Yield blocks of one chromosome, calls as (b, n), adding their effects up in ``sums``."""
    genotype_rng, missing_rng = rng.spawn(2)
    n = len(sums.additive)
    rows = np.flatnonzero(variants.contig == chromosome)
    step = max(1, _GENOTYPES_AT_ONCE // n)
    latent = genotype_rng.standard_normal((2, n))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        copies = np.empty((len(block), n), np.int8)
        for i, row in enumerate(block):
            # Each haplotype is a chain of normals along the chromosome, cut at the frequency.
            fresh = genotype_rng.standard_normal((2, n))
            latent = linkage * latent + np.sqrt(1 - linkage**2) * fresh
            copies[i] = (latent < ndtri(variants.frequency[row])).sum(axis=0)
            _add_effects(sums, variants, row, copies[i])
        blank = missing_rng.random(copies.shape, dtype=np.float32) < missing_calls
        copies[blank] = MISSING
        table = VariantTable(
            contig=variants.contig[block].astype(str).astype(object),
            position=variants.position[block].astype(np.int32),
            variant_id=variants.variant_id[block],
            other_allele=variants.other_allele[block],
            effect_allele=variants.effect_allele[block],
        )
        yield table, copies


def _add_effects(sums: Sums, variants: Variants, row: int, copies: NDArray[np.int8]) -> None:
    centred = copies - copies.mean()
    sd = float(np.sqrt(np.mean(centred**2)))
    sums.genotype_sd[row] = sd
    if variants.additive[row] != 0:
        sums.additive += variants.additive[row] * copies
    if variants.log_variance[row] != 0:
        sums.log_variance += variants.log_variance[row] * centred
    if variants.standardised[row] != 0 and sd > 0:
        sums.standardised += variants.standardised[row] / sd * centred


def hlmm_phenotype(rng: np.random.Generator, people: People, sums: Sums) -> NDArray[np.float64]:
    covariates = 0.02 * (people.age - 55) + 0.3 * (people.samples.sex == 2)
    noise = np.exp(0.5 * sums.log_variance) * rng.standard_normal(len(sums.additive))
    return np.asarray(covariates + sums.additive + sums.standardised + noise)


def gamma_phenotype(
    rng: np.random.Generator, sums: Sums, mean: float, shape: float, log_mean_variance: float
) -> NDArray[np.float64]:
    means = mean * np.exp(sums.standardised - log_mean_variance / 2)
    shapes = shape * np.exp(-sums.log_variance)
    return np.asarray(rng.gamma(shapes, means / shapes))


_TRUTH_HEADER = (
    "variant_id",
    "contig",
    "position",
    "effect_allele",
    "additive_effect",
    "log_variance_effect",
    "dispersion_effect",
)

_Effects = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def hlmm_truth(variants: Variants) -> Iterator[Sequence[object]]:
    rows = np.flatnonzero((variants.additive != 0) | (variants.log_variance != 0))
    # No relation of variance to mean here: the whole variance effect is dispersion.
    log_variance = variants.log_variance[rows]
    return _truth(variants, (rows, variants.additive[rows], log_variance, log_variance))


def gamma_truth(
    variants: Variants, sums: Sums, mean: float, shape: float, log_mean_variance: float
) -> Iterator[Sequence[object]]:
    sd = np.where(sums.genotype_sd > 0, sums.genotype_sd, np.inf)
    per_allele = variants.standardised / sd
    share = 1 / (1 + shape * -np.expm1(-log_mean_variance))
    dispersion = share * variants.log_variance
    rows = np.arange(len(sd))
    return _truth(variants, (rows, mean * per_allele, 2 * per_allele + dispersion, dispersion))


def _truth(variants: Variants, effects: _Effects) -> Iterator[Sequence[object]]:
    yield _TRUTH_HEADER
    for row, *values in zip(*effects, strict=True):
        yield (
            variants.variant_id[row],
            variants.contig[row],
            variants.position[row],
            variants.effect_allele[row],
            *(f"{value:.10g}" for value in values),
        )
