"""What kernels work out once per null model, kept while its blocks come in.

Keyed by the identity of the null model, of which a worker holds one or two at a time. A block may
straddle two chromosomes, so two left-out sets are kept.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.kernels.classes.dosages import DosageSumsPlan
from hlmm_scan.kernels.exact.gram_fit import GramBasis
from hlmm_scan.kernels.joint.fit import JointDesign
from hlmm_scan.kernels.joint.interaction import InteractionDesign
from hlmm_scan.kernels.scores.design import ScoreDesign
from hlmm_scan.kernels.scores.random_effects import ClassScoreDesign, residuals_and_leverages
from hlmm_scan.kernels.scoring.design import ScoringDesign
from hlmm_scan.kernels.screen.dosages import DosageScreenDesign
from hlmm_scan.kernels.screen.fit import ScreenDesign
from hlmm_scan.kernels.screen.random_effects_design import WRITTEN_OUT_PEOPLE, RandomScreenDesign
from hlmm_scan.kernels.second_order.basis import QuasiBasis
from hlmm_scan.kernels.second_order.fit import quasi_bases
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.kernels.sums.class_sums import ClassSumsPlan, plan_class_sums
from hlmm_scan.kernels.weighted.basis import WeightedBasis
from hlmm_scan.null.eigen import Eigenstructure
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel, RandomEffects

Float = NDArray[np.float64]


@lru_cache(maxsize=2)
def class_sums_plan(nulls: tuple[NullModel, ...], width: int, powers: int = 2) -> ClassSumsPlan:
    """Return what class sums need of some phenotypes, for packed rows of `width` bytes."""
    return plan_class_sums(width, [n.samples for n in nulls], [n.y for n in nulls], powers)


@lru_cache(maxsize=2)
def dosage_sums_plan(null: NullModel, powers: int = 2) -> DosageSumsPlan:
    """Return what class sums of dosages need of a phenotype."""
    return DosageSumsPlan.of(null.samples, null.y, powers)


@lru_cache(maxsize=2)
def scoring_design(null: NullModel) -> ScoringDesign:
    """Return what the joint kernel needs of a phenotype."""
    fit = null.fits[ALL_RANDOM_EFFECTS]
    return ScoringDesign.of(
        JointDesign(
            null.y, null.mean_design, null.variance_design, fit.alpha, fit.beta, fit.moments
        )
    )


@lru_cache(maxsize=2)
def interaction_design(null: NullModel) -> InteractionDesign:
    """Return what the kernel with an interaction needs of a phenotype."""
    fit = null.fits[ALL_RANDOM_EFFECTS]
    return InteractionDesign(
        null.y,
        null.mean_design,
        null.variance_design,
        fit.alpha,
        fit.beta,
        fit.moments,
        null.environment,
    )


@lru_cache(maxsize=2)
def screen_design(null: NullModel, width: int) -> ScreenDesign:
    """Return what the score screen needs of a phenotype, for packed rows of `width` bytes."""
    return ScreenDesign.of(null, width)


@lru_cache(maxsize=2)
def dosage_screen_design(null: NullModel) -> DosageScreenDesign:
    """Return what the score screen of dosages needs of a phenotype."""
    return DosageScreenDesign.of(null)


@lru_cache(maxsize=2)
def _eigenstructure(effects: RandomEffects, left_out: str) -> Eigenstructure:
    return effects.eigenstructure(left_out)


def eigenstructure(null: NullModel, left_out: str) -> Eigenstructure:
    """Return the eigenstructure of the random effects without one chromosome.

    Phenotypes of the same people share it.
    """
    assert null.random_effects is not None
    return _eigenstructure(null.random_effects, left_out)


@lru_cache(maxsize=1)
def _lattice(effects: RandomEffects) -> CallLattice | None:
    """Return the lattice of the columns that the random effects' sets share, if they have one."""
    if effects.columns is None or effects.columns.shape[1] > effects.columns.shape[0]:
        return None
    return CallLattice.of(effects.columns)


def call_lattice(null: NullModel) -> CallLattice | None:
    """Return the lattice of the hard calls that the random effects are, if they are.

    All left-out sets share it.
    """
    assert null.random_effects is not None
    return _lattice(null.random_effects)


@lru_cache(maxsize=2)
def quasi_basis(null: NullModel, left_out: str) -> QuasiBasis:
    """Return what the second-order kernel needs of one left-out set."""
    eigen = {left_out: eigenstructure(null, left_out)}
    return quasi_bases(null, eigen, [left_out], call_lattice(null))[left_out]


@lru_cache(maxsize=2)
def gram_basis(null: NullModel, left_out: str, second_order: bool = False) -> GramBasis:
    """Return what exact fits of one left-out set share.

    After second-order ones they take their leverages and their columns in single precision.
    """
    eigen, fit, lattice = eigenstructure(null, left_out), null.fits[left_out], call_lattice(null)
    if not second_order:
        return GramBasis.of(eigen, null.y, fit, lattice=lattice)
    quasi = quasi_basis(null, left_out)
    return GramBasis.of(eigen, null.y, fit, quasi.leverages, quasi.columns, lattice)


@lru_cache(maxsize=2)
def weighted_basis(null: NullModel, left_out: str) -> WeightedBasis:
    """Return what the kernel with weights by person needs of one left-out set."""
    return WeightedBasis.of(null, left_out, eigenstructure(null, left_out))


@lru_cache(maxsize=2)
def random_screen_design(null: NullModel, left_out: str) -> RandomScreenDesign:
    """Return what the score screen with random effects needs of one left-out set."""
    return RandomScreenDesign.of(null, eigenstructure(null, left_out), left_out)


@lru_cache(maxsize=2)
def class_score_design(null: NullModel, left_out: str, width: int) -> ClassScoreDesign:
    """Return what scores by class need of one left-out set, for packed rows of `width` bytes."""
    eigen, fit = eigenstructure(null, left_out), null.fits[left_out]
    return ClassScoreDesign.of(null, fit, eigen, width, call_lattice(null))


@lru_cache(maxsize=4)
def score_design(null: NullModel, left_out: str) -> ScoreDesign:
    """Return what the tests of scores need of one left-out set."""
    return ScoreDesign.of(null, *_null_residuals(null, left_out))


def _null_residuals(null: NullModel, left_out: str) -> tuple[Float, Float]:
    """Return Σ₀⁻¹r₀ and k₀/D₀ − 1 of every person."""
    fit = null.fits[left_out]
    if null.random_effects is None:
        w = np.exp(-null.variance_design @ fit.beta)
        r = null.y - null.mean_design @ fit.alpha
        return w * r, w * r * r - 1
    if null.intercept_only and null.n > WRITTEN_OUT_PEOPLE:
        s, q, _, _ = residuals_and_leverages(null, fit, eigenstructure(null, left_out))
        return s, q
    design = random_screen_design(null, left_out)
    s = design.thin[:, -1]
    return s, s * s / design.w + design.own
