"""What kernels work out once per null model, kept while its blocks come in.

Keyed by the identity of the null model, of which a worker holds one or two at a time. A block may
straddle two chromosomes, so two left-out sets are kept.
"""

from __future__ import annotations

from functools import lru_cache

from hlmm_scan.kernels.class_sums import ClassSumsPlan, plan_class_sums
from hlmm_scan.kernels.hlm_joint import JointDesign
from hlmm_scan.kernels.hlm_scoring_design import ScoringDesign
from hlmm_scan.kernels.hlmm_eigen import quasi_bases
from hlmm_scan.kernels.hlmm_products import QuasiBasis
from hlmm_scan.null.eigen import Eigenstructure, SharedEigenstructure
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel


@lru_cache(maxsize=2)
def class_sums_plan(null: NullModel, width: int, powers: int = 2) -> ClassSumsPlan:
    """Return what class sums need of a phenotype, for packed rows of `width` bytes."""
    return plan_class_sums(width, [null.samples], [null.y], powers)


@lru_cache(maxsize=2)
def scoring_design(null: NullModel) -> ScoringDesign:
    """Return what the joint kernel needs of a phenotype."""
    fit = null.fits[ALL_RANDOM_EFFECTS]
    return ScoringDesign.of(
        JointDesign(null.y, null.mean_design, null.variance_design, fit.alpha, fit.beta)
    )


@lru_cache(maxsize=1)
def _shared(null: NullModel) -> SharedEigenstructure:
    """Return the Gram matrix of all random effects, from which every left-out set follows."""
    assert null.random_effects is not None
    return SharedEigenstructure(null.random_effects.columns, null.random_effects.contigs)


@lru_cache(maxsize=2)
def eigenstructure(null: NullModel, left_out: str) -> Eigenstructure:
    """Return the eigenstructure of the random effects without one chromosome."""
    return _shared(null).without(left_out)


@lru_cache(maxsize=2)
def quasi_basis(null: NullModel, left_out: str) -> QuasiBasis:
    """Return what the second-order kernel needs of one left-out set."""
    return quasi_bases(null, {left_out: eigenstructure(null, left_out)}, [left_out])[left_out]
