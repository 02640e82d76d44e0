"""What several ways to fit work out once per null model, kept while its blocks come in.

Keyed by the identity of the null model, of which a worker holds one or two at a time. A block may
straddle two chromosomes, so two left-out sets are kept. What one way alone needs stands in its row
of :mod:`~hlmm_scan.kernels.paths`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.kernels import limits
from hlmm_scan.kernels.scores.design import ScoreDesign
from hlmm_scan.kernels.scores.random_effects import residuals_and_leverages
from hlmm_scan.kernels.screen.random_effects_design import RandomScreenDesign
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.kernels.sums.class_sums import ClassSumsPlan, plan_class_sums
from hlmm_scan.null.eigen import Eigenstructure
from hlmm_scan.null.model import NullModel, RandomEffects


@lru_cache(maxsize=2)
def class_sums_plan(nulls: tuple[NullModel, ...], width: int, powers: int = 2) -> ClassSumsPlan:
    """Return what class sums need of some phenotypes, for packed rows of `width` bytes."""
    return plan_class_sums(width, [n.samples for n in nulls], [n.y for n in nulls], powers)


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
def random_screen_design(null: NullModel, left_out: str) -> RandomScreenDesign:
    """Return what the score screen with random effects needs of one left-out set."""
    return RandomScreenDesign.of(null, eigenstructure(null, left_out), left_out)


@lru_cache(maxsize=4)
def score_design(null: NullModel, left_out: str) -> ScoreDesign:
    """Return what the tests of scores need of one left-out set."""
    return ScoreDesign.of(null, *_null_residuals(null, left_out))


def _null_residuals(null: NullModel, left_out: str) -> tuple[Float, Float, float]:
    """Return Σ₀⁻¹r₀ and k₀/D₀ − 1 of every person, and what the sum of the squares of the former is
    expected to be: the trace of Σ₀⁻¹ less that of its projection on the mean's covariates.
    """
    fit, X = null.fits[left_out], null.mean_design
    if null.random_effects is None:
        w = np.exp(-null.variance_design @ fit.beta)
        r = null.y - X @ fit.alpha
        SX = X * w[:, None]
        return w * r, w * r * r - 1, _projected_trace(w, X, SX)
    if null.intercept_only and null.n > limits.WRITTEN_OUT_PEOPLE:
        s, q, _, _ = residuals_and_leverages(null, fit, eigenstructure(null, left_out))
        return s, q, np.nan  # variances are alike: it is not looked at
    design = random_screen_design(null, left_out)
    s = design.thin[:, -1]
    SX = design.thin[:, : X.shape[1]]
    expected = _projected_trace(-design.own * design.w, X, SX)
    return s, s * s / design.w + design.own, expected


def _projected_trace(diagonal: Float, X: Float, SX: Float) -> float:
    """Return the trace of Σ₀⁻¹ − Σ₀⁻¹X(XᵀΣ₀⁻¹X)⁻¹XᵀΣ₀⁻¹."""
    return float(diagonal.sum() - np.trace(np.linalg.solve(X.T @ SX, SX.T @ SX)))
