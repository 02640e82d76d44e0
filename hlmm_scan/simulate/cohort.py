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
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.readers.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable
from hlmm_scan.simulate.draws import (
    N_PLANTED,
    People,
    Sums,
    draw_calls,
    draw_people,
    draw_variants,
    gamma_phenotype,
    gamma_truth,
    hlmm_phenotype,
    hlmm_truth,
    plant_gamma,
    plant_hlmm,
)
from hlmm_scan.staging import write_error

Model = Literal["hlmm", "gamma"]

TRAIT = "trait1"
"""Name of the simulated phenotype."""


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
    variants = draw_variants(plan_rng, chromosomes, variants_per_chromosome)
    if model == "hlmm":
        variants = plant_hlmm(
            plan_rng,
            variants,
            n_random_effects=n_random_effects,
            random_variance=random_variance,
            additive_effect=additive_effect,
            log_variance_effect=log_variance_effect,
        )
    else:
        variants = plant_gamma(plan_rng, variants, gamma_log_mean_variance, gamma_dispersion_effect)
    people = draw_people(people_rng, n_samples)

    directory = Path(directory)
    prefixes = ["cohort"] if single_fileset else [f"chr{c + 1}" for c in range(chromosomes)]
    with_random = model == "hlmm" and n_random_effects > 0
    names = [prefix + extension for prefix in prefixes for extension in (".bed", ".bim", ".fam")]
    names += ["phenotypes.tsv", "covariates.tsv", "truth.tsv"]
    names += ["random_effects.txt"] if with_random else []
    with _staged_files(directory, names, overwrite=overwrite) as folder:
        sums = Sums(
            np.zeros(n_samples),
            np.zeros(n_samples),
            np.zeros(n_samples),
            np.zeros(len(variants.position)),
        )
        # A stream a chromosome: how they are cut into filesets changes no genotype.
        call_seeds = seeds[3].spawn(chromosomes)
        calls = (
            (c, draw_calls(np.random.default_rng(s), c, variants, sums, linkage, missing_calls))
            for c, s in enumerate(call_seeds, start=1)
        )
        _write_filesets(folder, prefixes, people.samples, calls)
        if model == "hlmm":
            y = hlmm_phenotype(phenotype_rng, people, sums)
            truth = hlmm_truth(variants)
        else:
            y = gamma_phenotype(
                phenotype_rng, sums, gamma_mean, gamma_shape, gamma_log_mean_variance
            )
            truth = gamma_truth(variants, sums, gamma_mean, gamma_shape, gamma_log_mean_variance)
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
    folder: Path, people: People, y: NDArray[np.float64], truth: Iterator[Sequence[object]]
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
        room = chromosomes * per_chromosome - N_PLANTED
        if per_chromosome < N_PLANTED or random > room:
            raise InputError(
                f"{chromosomes} × {per_chromosome} variants have no room for {N_PLANTED} planted "
                f"loci and {random} random effects ({N_PLANTED} variants a chromosome are needed)"
            )


def _check_fractions(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise InputError(f"{name} must be in [0, 1), not {value}")
