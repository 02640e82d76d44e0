"""People, genotypes and fitted null models drawn in memory, for the scripts that measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.cohort.cohort import REASONS, Cohort
from hlmm_scan.cohort.design import build_design
from hlmm_scan.null.fit import fit_null
from hlmm_scan.null.model import NullModel, RandomEffects

CONTIG = "1"
"""Chromosome of simulated test variants; random effects lie on another."""


def draw_genotypes(
    n: int,
    m: int,
    rng: np.random.Generator,
    maf: tuple[float, float] = (0.05, 0.5),
    family: int = 1,
) -> NDArray[np.int8]:
    """Draw copies of the effect allele, (m, n), allele frequencies uniform between two bounds.

    In families of several people each allele is, with probability ½, that of the family: relatives
    share half their alleles.
    """
    copies = np.empty((m, n), np.int8)
    kin = np.arange(n) // family
    for j, frequency in enumerate(rng.uniform(*maf, m)):
        alleles = rng.random((2, n), dtype=np.float32) < frequency
        if family > 1:
            shared = rng.random((2, kin[-1] + 1)) < frequency
            alleles = np.where(rng.random((2, n)) < 0.5, shared[:, kin], alleles)
        copies[j] = alleles.sum(axis=0)
    return copies


def standardised_columns(copies: NDArray[np.int8]) -> Float:
    """Return genotypes (m, n) that vary as columns (n, m) of mean 0 and variance 1."""
    columns = copies.T.astype(float)
    return np.asarray((columns - columns.mean(axis=0)) / columns.std(axis=0))


def random_effects(columns: Float) -> RandomEffects:
    """Make random effects of standardised columns, on no test variant's chromosome."""
    l_random = columns.shape[1]
    return RandomEffects(columns, ("other",) * l_random, tuple(map(str, range(l_random))))


def null_model(
    y: Float,
    mean: Float | None = None,
    variance: Float | None = None,
    effects: RandomEffects | None = None,
    left_out: Sequence[str] = (),
) -> NullModel:
    """Fit the null model of a phenotype (n,) with covariates (n, c) and (n, v), as a scan does.

    Chromosomes `left_out` are left out of the random effects in turn.

    Raises
    ------
    hlmm_scan.errors.InputError
        If it has no maximum.
    """
    n = len(y)
    designs = [
        build_design(
            np.zeros((n, 0)) if columns is None else columns,
            [] if columns is None else [f"{part}{k}" for k in range(columns.shape[1])],
            part,
        )
        for part, columns in (("mean", mean), ("variance", variance))
    ]
    nobody = tuple((reason, 0) for reason in REASONS)
    cohort = Cohort("y", np.arange(n), y, designs[0], designs[1], nobody, n, 0)
    return fit_null(cohort, effects, seed_mode=False, left_out=left_out)[0]
