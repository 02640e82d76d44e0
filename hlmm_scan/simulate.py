"""Cohorts with known effects: PLINK files, tables, and the truth beside them.

Two models are offered. ``"hlmm"`` is the model that the scan fits, with planted loci strong enough
to be found among a few thousand people. ``"gamma"`` is a phenotype whose variance follows its mean,
so that every additive effect brings a variance effect with it, and one variant has more than that:
the case for which dispersion effects were made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.packing import MISSING
from hlmm_scan.genotypes.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable
from hlmm_scan.staging import write_error

Model = Literal["hlmm", "gamma"]

TRAIT = "trait1"
"""Name of the simulated phenotype."""

_BASES = np.array(list("ACGT"), dtype=object)
_GENOTYPES_AT_ONCE = 1 << 20
_PLANTED_KINDS = ("additive", "variance", "both")
_N_PLANTED = 6


@dataclass(frozen=True)
class SimulatedCohort:
    """Files of a simulated cohort.

    Attributes
    ----------
    directory : Path
    beds : tuple of Path
        One .bed a chromosome, or a single one; .bim and .fam lie beside each.
    phenotypes : Path
        Columns FID, IID, ``trait1``; NA where it is missing.
    covariates : Path
        Columns FID, IID, age (years), sex (1 male, 2 female).
    random_effects : Path or None
        Ids of the variants that act as random effects, one a line; None in the gamma model.
    truth : Path
        Columns variant_id, contig, position, effect_allele, additive_effect (phenotype units per
        effect allele), log_variance_effect (per effect allele) and dispersion_effect (the part of
        the latter that the mean–variance relation does not explain). In the HLMM model: the
        planted loci, and the variance effect is on the residual variance. In the gamma model: all
        variants.
    """

    directory: Path
    beds: tuple[Path, ...]
    phenotypes: Path
    covariates: Path
    random_effects: Path | None
    truth: Path


@dataclass(frozen=True)
class _Variants:
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
class _People:
    """The people with their family ids, and their ages as an array of length n."""

    samples: SampleIds
    family_id: list[str]
    age: NDArray[np.int64]  # years


@dataclass
class _Sums:
    """What the variants add up to in each person, arrays of length n; and each variant's scale."""

    additive: NDArray[np.float64]
    log_variance: NDArray[np.float64]
    standardised: NDArray[np.float64]
    genotype_sd: NDArray[np.float64]  # of length m


def simulate_cohort(
    directory: Path | str,
    *,
    n_samples: int = 2000,
    chromosomes: int | None = None,
    variants_per_chromosome: int = 1000,
    seed: int = 1,
    model: Model = "hlmm",
    single_fileset: bool = False,
    linkage: float = 0.0,
    missing_calls: float = 0.01,
    missing_phenotypes: float = 0.005,
    n_random_effects: int = 300,
    random_variance: float = 0.3,
    additive_effect: float = 0.4,
    log_variance_effect: float = 0.5,
    gamma_mean: float = 10.0,
    gamma_shape: float = 2.0,
    gamma_log_mean_variance: float = 0.1,
    gamma_dispersion_effect: float = 0.5,
    overwrite: bool = False,
) -> SimulatedCohort:
    """Simulate a cohort and write it as PLINK filesets and tables.

    The same arguments give the same files, byte for byte.

    Parameters
    ----------
    directory : Path or str
        Made where it is absent; its parent must exist.
    n_samples : int, default 2000
        People, at least 2.
    chromosomes : int, optional
        Chromosomes, named 1, 2, …; default 3, and 1 in the gamma model.
    variants_per_chromosome : int, default 1000
    seed : int, default 1
        Not negative.
    model : {"hlmm", "gamma"}, default "hlmm"
        See Notes.
    single_fileset : bool, default False
        Write one ``cohort.bed`` in place of ``chr1.bed``, ``chr2.bed``, ….
    linkage : float, default 0
        Correlation between neighbours of the latent normals that haplotypes are cut from; 0 makes
        variants independent. In [0, 1).
    missing_calls : float, default 0.01
        Fraction of calls blanked, at random. In [0, 1).
    missing_phenotypes : float, default 0.005
        Fraction of people without a phenotype, rounded to people. In [0, 1).
    n_random_effects : int, default 300
        Variants that act as random effects, spread over the chromosomes; at most those that are
        not planted loci. HLMM only.
    random_variance : float, default 0.3
        Variance of their sum over people, in units of the noise variance, which is 1.
    additive_effect : float, default 0.4
        Size of a planted effect on the mean per effect allele, in noise standard deviations,
        which are the phenotype's units. HLMM only.
    log_variance_effect : float, default 0.5
        Size of a planted effect on the log of the noise variance per effect allele. HLMM only.
    gamma_mean : float, default 10
        The phenotype's mean, in its own units.
    gamma_shape : float, default 2
        Shape of the Gamma distribution around each person's mean, which gives it the variance
        mean²/shape, at the average genotype of the first variant.
    gamma_log_mean_variance : float, default 0.1
        Variance over people of the log of that mean, all variants together.
    gamma_dispersion_effect : float, default 0.5
        Effect of the first variant on −log shape per effect allele.
    overwrite : bool, default False
        Replace files of these names that are in the directory.

    Returns
    -------
    SimulatedCohort

    Raises
    ------
    InputError
        If an argument is out of range, files of these names are there already, or they cannot be
        written.

    Notes
    -----
    Minor allele frequencies are uniform on (0.05, 0.5), on (0.3, 0.45) at planted loci; a quarter
    of the other variants has the major allele as effect allele. Missing calls are blanked after
    the phenotype was drawn from the whole genotypes.

    HLMM, with g copies of the effect allele and z genotypes standardised over the people::

        y = 0.02·(age − 55) + 0.3·[female] + Σ_planted a·g + Σ_random u·z + ε
        u ~ N(0, random_variance / n_random_effects),  ε ~ N(0, exp(Σ_planted b·(g − ḡ)))

    Six loci are planted, two additive, two on the variance and two on both, with either sign.
    With the defaults their expected −log10 p is above 10 (single draws: 7 to 25).

    Gamma, with z as above and g₁ of the first variant::

        y ~ Gamma(mean μ, shape·exp(−γ·(g₁ − ḡ₁)))
        log μ = log(gamma_mean) − s/2 + Σ c·z,  c ~ N(0, s / m),  s = gamma_log_mean_variance

    An effect β on log μ per allele is then an additive effect of about gamma_mean·β and a
    log-variance effect of 2β, so the mean–variance relation has the slope 2/gamma_mean. γ moves
    only the variance around each person's mean, a share 1/(1 + shape·(1 − exp(−s))) of the whole;
    ``dispersion_effect`` in the truth is γ times that share, its effect on the whole to first
    order.
    """
    if chromosomes is None:
        chromosomes = 1 if model == "gamma" else 3
    _check_arguments(model, n_samples, chromosomes, variants_per_chromosome, n_random_effects, seed)
    _check_fractions(
        linkage=linkage, missing_calls=missing_calls, missing_phenotypes=missing_phenotypes
    )
    if min(random_variance, gamma_log_mean_variance) < 0 or min(gamma_mean, gamma_shape) <= 0:
        raise InputError("variances must not be negative; the Gamma's mean and shape are positive")
    # One stream for each purpose: what one of them draws does not move the others.
    seeds = np.random.SeedSequence(seed).spawn(4)
    plan_rng, people_rng, phenotype_rng = (np.random.default_rng(s) for s in seeds[:3])
    variants = _draw_variants(plan_rng, chromosomes, variants_per_chromosome)
    if model == "hlmm":
        variants = _plant_hlmm(
            plan_rng,
            variants,
            n_random_effects=n_random_effects,
            random_variance=random_variance,
            additive_effect=additive_effect,
            log_variance_effect=log_variance_effect,
        )
    else:
        variants = _plant_gamma(
            plan_rng, variants, gamma_log_mean_variance, gamma_dispersion_effect
        )
    people = _draw_people(people_rng, n_samples)

    directory = Path(directory)
    prefixes = ["cohort"] if single_fileset else [f"chr{c + 1}" for c in range(chromosomes)]
    with_random = model == "hlmm" and n_random_effects > 0
    names = [prefix + extension for prefix in prefixes for extension in (".bed", ".bim", ".fam")]
    names += ["phenotypes.tsv", "covariates.tsv", "truth.tsv"]
    names += ["random_effects.txt"] if with_random else []
    with _staged_files(directory, names, overwrite=overwrite) as folder:
        sums = _Sums(
            np.zeros(n_samples),
            np.zeros(n_samples),
            np.zeros(n_samples),
            np.zeros(len(variants.position)),
        )
        # A stream a chromosome: how they are cut into filesets changes no genotype.
        call_seeds = seeds[3].spawn(chromosomes)
        calls = (
            (c + 1, _calls(np.random.default_rng(s), c + 1, variants, sums, linkage, missing_calls))
            for c, s in enumerate(call_seeds)
        )
        _write_filesets(folder, prefixes, people.samples, calls)
        if model == "hlmm":
            y = _hlmm_phenotype(phenotype_rng, people, sums)
            truth = _hlmm_truth(variants)
        else:
            y = _gamma_phenotype(
                phenotype_rng, sums, gamma_mean, gamma_shape, gamma_log_mean_variance
            )
            truth = _gamma_truth(variants, sums, gamma_mean, gamma_shape, gamma_log_mean_variance)
        absent = phenotype_rng.permutation(n_samples)[: round(missing_phenotypes * n_samples)]
        y[absent] = np.nan
        _write_tables(folder, people, y, truth)
        if with_random:
            ids = variants.variant_id[variants.is_random]
            _write_lines(folder / "random_effects.txt", ids)
    return SimulatedCohort(
        directory=directory,
        beds=tuple(directory / f"{prefix}.bed" for prefix in prefixes),
        phenotypes=directory / "phenotypes.tsv",
        covariates=directory / "covariates.tsv",
        random_effects=directory / "random_effects.txt" if with_random else None,
        truth=directory / "truth.tsv",
    )


# ------------------------------------------------------------------------------- what is drawn


def _draw_variants(rng: np.random.Generator, chromosomes: int, per_chromosome: int) -> _Variants:
    m = chromosomes * per_chromosome
    contig = np.repeat(np.arange(1, chromosomes + 1), per_chromosome)
    steps = rng.integers(500, 1500, size=(chromosomes, per_chromosome))
    frequency = rng.uniform(0.05, 0.5, size=m)
    flipped = rng.random(m) < 0.25
    first = rng.integers(0, 4, size=m)
    second = (first + rng.integers(1, 4, size=m)) % 4
    within = np.tile(np.arange(1, per_chromosome + 1), chromosomes)
    ids = [f"rs{c}_{i}" for c, i in zip(contig, within, strict=True)]
    return _Variants(
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


def _plant_hlmm(
    rng: np.random.Generator,
    variants: _Variants,
    *,
    n_random_effects: int,
    random_variance: float,
    additive_effect: float,
    log_variance_effect: float,
) -> _Variants:
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
    rng: np.random.Generator, variants: _Variants, chromosomes: int
) -> NDArray[np.int64]:
    """Choose the planted loci: round the chromosomes, kinds not tied to them, far from one another.

    With linkage, neighbours of a locus carry some of its effect.
    """
    rows: list[int] = []
    for k in range(_N_PLANTED):
        lap = k // len(_PLANTED_KINDS)
        chromosome = (k + lap) % chromosomes + 1
        here = np.flatnonzero(variants.contig == chromosome)
        turn = sum(variants.contig[r] == chromosome for r in rows)
        per_chromosome = -(-_N_PLANTED // chromosomes)
        section = np.array_split(here, per_chromosome)[turn]
        # The middle half of its own section of the chromosome.
        quarter = len(section) // 4
        rows.append(int(section[quarter + rng.integers(max(1, len(section) - 2 * quarter))]))
    return np.array(rows, dtype=np.int64)


def _plant_gamma(
    rng: np.random.Generator,
    variants: _Variants,
    log_mean_variance: float,
    dispersion_effect: float,
) -> _Variants:
    m = len(variants.position)
    effects = rng.standard_normal(m) * np.sqrt(log_mean_variance / m)
    log_variance = np.zeros(m)
    log_variance[0] = dispersion_effect
    frequency = variants.frequency.copy()
    frequency[0] = rng.uniform(0.3, 0.45)
    return replace(variants, frequency=frequency, log_variance=log_variance, standardised=effects)


def _draw_people(rng: np.random.Generator, n_samples: int) -> _People:
    width = len(str(n_samples))
    numbers = range(1, n_samples + 1)
    family_id = [f"F{i:0{width}d}" for i in numbers]
    return _People(
        samples=SampleIds(
            individual_id=np.array([f"I{i:0{width}d}" for i in numbers], dtype=object),
            family_id=np.array(family_id, dtype=object),
            sex=rng.integers(1, 3, size=n_samples, dtype=np.int8),
        ),
        family_id=family_id,
        age=rng.integers(40, 71, size=n_samples),
    )


def _calls(
    rng: np.random.Generator,
    chromosome: int,
    variants: _Variants,
    sums: _Sums,
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


def _add_effects(sums: _Sums, variants: _Variants, row: int, copies: NDArray[np.int8]) -> None:
    centred = copies - copies.mean()
    sd = float(np.sqrt(np.mean(centred**2)))
    sums.genotype_sd[row] = sd
    if variants.additive[row] != 0:
        sums.additive += variants.additive[row] * copies
    if variants.log_variance[row] != 0:
        sums.log_variance += variants.log_variance[row] * centred
    if variants.standardised[row] != 0 and sd > 0:
        sums.standardised += variants.standardised[row] / sd * centred


def _hlmm_phenotype(rng: np.random.Generator, people: _People, sums: _Sums) -> NDArray[np.float64]:
    covariates = 0.02 * (people.age - 55) + 0.3 * (people.samples.sex == 2)
    noise = np.exp(0.5 * sums.log_variance) * rng.standard_normal(len(sums.additive))
    return np.asarray(covariates + sums.additive + sums.standardised + noise)


def _gamma_phenotype(
    rng: np.random.Generator, sums: _Sums, mean: float, shape: float, log_mean_variance: float
) -> NDArray[np.float64]:
    means = mean * np.exp(sums.standardised - log_mean_variance / 2)
    shapes = shape * np.exp(-sums.log_variance)
    return np.asarray(rng.gamma(shapes, means / shapes))


# ----------------------------------------------------------------------------- what is written

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


def _hlmm_truth(variants: _Variants) -> Iterator[Sequence[object]]:
    rows = np.flatnonzero((variants.additive != 0) | (variants.log_variance != 0))
    # No relation of variance to mean here: the whole variance effect is dispersion.
    log_variance = variants.log_variance[rows]
    return _truth(variants, (rows, variants.additive[rows], log_variance, log_variance))


def _gamma_truth(
    variants: _Variants, sums: _Sums, mean: float, shape: float, log_mean_variance: float
) -> Iterator[Sequence[object]]:
    sd = np.where(sums.genotype_sd > 0, sums.genotype_sd, np.inf)
    per_allele = variants.standardised / sd
    share = 1 / (1 + shape * -np.expm1(-log_mean_variance))
    dispersion = share * variants.log_variance
    rows = np.arange(len(sd))
    return _truth(variants, (rows, mean * per_allele, 2 * per_allele + dispersion, dispersion))


def _truth(variants: _Variants, effects: _Effects) -> Iterator[Sequence[object]]:
    yield _TRUTH_HEADER
    for row, *values in zip(*effects, strict=True):
        yield (
            variants.variant_id[row],
            variants.contig[row],
            variants.position[row],
            variants.effect_allele[row],
            *(f"{value:.10g}" for value in values),
        )


def _write_filesets(
    folder: Path,
    prefixes: Sequence[str],
    samples: SampleIds,
    calls: Iterable[tuple[int, Iterator[tuple[VariantTable, NDArray[np.int8]]]]],
) -> None:
    """Write one fileset a chromosome, or all chromosomes into the only one there is."""
    with ExitStack() as stack:
        writers: dict[str, PlinkWriter] = {}
        for chromosome, blocks in calls:
            prefix = prefixes[min(chromosome, len(prefixes)) - 1]
            if prefix not in writers:
                writers[prefix] = stack.enter_context(PlinkWriter(folder / prefix, samples))
            for table, copies in blocks:
                writers[prefix].append(table, copies)


def _write_tables(
    folder: Path, people: _People, y: NDArray[np.float64], truth: Iterator[Sequence[object]]
) -> None:
    samples = people.samples
    ids = list(zip(people.family_id, samples.individual_id, strict=True))
    values = ["NA" if np.isnan(value) else f"{value:.10g}" for value in y]
    phenotypes = ((*person, value) for person, value in zip(ids, values, strict=True))
    _write_table(folder / "phenotypes.tsv", chain([("FID", "IID", TRAIT)], phenotypes))
    covariates = (
        (*person, age, sex) for person, age, sex in zip(ids, people.age, samples.sex, strict=True)
    )
    _write_table(folder / "covariates.tsv", chain([("FID", "IID", "age", "sex")], covariates))
    _write_table(folder / "truth.tsv", truth)


def _write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    _write_lines(path, ("\t".join(map(str, row)) for row in rows))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


@contextmanager
def _staged_files(directory: Path, names: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Give a folder to write files in; they move to ``directory`` when all are written."""
    if not overwrite:
        there = [name for name in names if (directory / name).exists()]
        if there:
            raise InputError(
                f"{directory}: {there[0]} is there already"
                + (f", and {len(there) - 1} more of the files to write" if there[1:] else "")
            )
    try:
        directory.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".simulate-", dir=directory) as temporary:
            folder = Path(temporary)
            yield folder
            for name in names:
                (folder / name).replace(directory / name)
    except OSError as error:
        raise write_error(directory, error) from error


# ------------------------------------------------------------------------------ what is checked


def _check_arguments(
    model: str, n_samples: int, chromosomes: int, per_chromosome: int, random: int, seed: int
) -> None:
    if model not in ("hlmm", "gamma"):
        raise InputError(f"unknown model '{model}': hlmm or gamma")
    if n_samples < 2 or chromosomes < 1 or per_chromosome < 1:
        raise InputError("a cohort needs two people, a chromosome and a variant on it at least")
    if seed < 0 or random < 0:
        raise InputError("seed and number of random effects must not be negative")
    if model == "hlmm":
        room = chromosomes * per_chromosome - _N_PLANTED
        if per_chromosome < _N_PLANTED or random > room:
            raise InputError(
                f"{chromosomes} × {per_chromosome} variants have no room for {_N_PLANTED} planted "
                f"loci and {random} random effects ({_N_PLANTED} variants a chromosome are needed)"
            )


def _check_fractions(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise InputError(f"{name} must be in [0, 1), not {value}")
