"""HLM with covariates refitted at every variant, a block of variants at a time: the plain kernel.

Quadratic in the number of covariates, exact, and what the fast kernel
(:mod:`~hlmm_scan.kernels.scoring.fit`) is held against and falls back on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.kernels.covariances import RESTRICTIONS, likelihood_ratios
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.joint.covariances import Fitted, put_covariances
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.joint.newton import Block, maximise, pairs, solve, symmetric
from hlmm_scan.kernels.limits import COLLINEAR
from hlmm_scan.schema import Status

TILE = 16
"""Variants that are fitted abreast, where there are many."""


def _gram(design: JointDesign, columns: Float, g: Float, called: Float) -> Float:
    """Return [columns g]ᵀ[columns g] over called people, strip by strip; (m, p+1, p+1)."""
    p, m = columns.shape[1], g.shape[1]
    upper, edge, corner = np.zeros((p * (p + 1) // 2, m)), np.zeros((p, m)), np.zeros(m)
    for s in design.strips():
        upper += pairs(columns[s]).T @ np.broadcast_to(called[s], g[s].shape)
        edge += columns[s].T @ g[s]
        corner += np.einsum("nm,nm->m", g[s], g[s])
    return symmetric(upper, edge, corner)


def _unique(gram: Float) -> NDArray[np.bool_]:
    """Say for each variant whether [columns g], whose Gram matrix this is, has full rank."""
    p = gram.shape[1] - 1
    projected, ok = solve(gram[:, :p, :p], gram[:, :p, p:])
    explained = np.einsum("mp,mp->m", gram[:, :p, p], projected[:, :, 0])
    total: Float = gram[:, p, p]
    unique: NDArray[np.bool_] = ok & (total > 0) & (total - explained > COLLINEAR * total)
    return unique


def fit_tiles(
    design: JointDesign,
    genotypes: GenotypeBlock,
    samples: NDArray[np.int64],
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit any number of variants by :func:`fit_joint`, some at a time.

    Parameters
    ----------
    design : JointDesign
    genotypes : HardCalls or Dosages
    samples : ndarray of int64, shape (n,)
        The people of the design among those of the genotypes.
    inference : Inference, optional
    """
    estimates = Estimates.empty(len(genotypes))
    for start in range(0, len(genotypes), TILE):
        rows = np.arange(start, min(start + TILE, len(genotypes)))
        g = genotypes.take(rows).copies(samples).T
        estimates.put(rows, fit_joint(design, g, inference))
    return estimates


def fit_joint(
    design: JointDesign, genotypes: Float, inference: Inference = DEFAULT_INFERENCE
) -> Estimates:
    """Fit the HLM with all covariates free, for a block of variants.

    Parameters
    ----------
    design : JointDesign
    genotypes : ndarray, shape (n, m)
        Copies of the effect allele (or dosages), NaN where missing: those people are left out for
        that variant.
    inference : Inference, optional
        Which standard errors and tests to give.

    Returns
    -------
    Estimates
        m rows. NOT_UNIQUE where the genotype is a combination of the covariates, UNBOUNDED where
        somebody's variance runs to zero, NOT_CONVERGED where no step helps any more.
    """
    m = genotypes.shape[1]
    c, v = design.X.shape[1], design.V.shape[1]
    missing = np.isnan(genotypes)
    called = (~missing).astype(np.float64) if missing.any() else np.ones((len(design.y), 1))
    g = np.where(missing, 0.0, genotypes)
    people = np.broadcast_to(called, g.shape).sum(axis=0)
    centre = g.sum(axis=0) / np.maximum(people, 1)
    g = np.where(missing, 0.0, g - centre)

    estimates = Estimates.empty(m)
    enough = people >= c + v + 3
    variance_gram = _gram(design, design.V, g, called)
    unique = enough & _unique(_gram(design, design.X, g, called)) & _unique(variance_gram)
    estimates.status[~unique] = Status.NOT_UNIQUE
    rows = np.flatnonzero(unique)
    block = Block(g, g, called, 0.5 * variance_gram).keep(unique)
    b, sums, status = maximise(design, block)
    estimates.status[rows] = status
    for k, row in enumerate(rows):
        if status[k] == Status.UNBOUNDED:
            continue
        estimates.add[row], estimates.var[row] = sums.a[k, c], b[k, v]
        estimates.log_likelihood[row] = -0.5 * (sums.value[k] + people[row] * np.log(2.0 * np.pi))
        values = np.where(missing[:, row], np.nan, g[:, row])
        fitted = Fitted(design.y, design.X, design.V, values, sums.a[k], b[k])
        if not put_covariances(estimates, int(row), fitted, design.moments, inference):
            _refuse(estimates, row, inference)
    if inference.likelihood_ratio:
        for name, held in RESTRICTIONS.items():
            _, restricted, found = maximise(design, block.held(*held))
            known = (status == Status.OK) & (found == Status.OK)
            ratios = likelihood_ratios(-0.5 * sums.value, -0.5 * restricted.value)
            getattr(estimates, name)[rows[known]] = ratios[known]
    return estimates


def _refuse(estimates: Estimates, row: np.intp, inference: Inference) -> None:
    """Set the status of a fit whose information is not positive definite."""
    if inference.observed:
        # Stationary, but no maximum.
        if estimates.status[row] == Status.OK:
            estimates.status[row] = Status.NOT_CONVERGED
        return
    estimates.put(np.array([row]), Estimates.empty(1))
    estimates.status[row] = Status.NOT_UNIQUE
