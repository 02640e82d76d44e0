"""HLM with an environment: the genotype and its product with E in the mean, the genotype in V.

y ~ N(X₀a₀ + g·a_g + g·E·a_gE, exp(V₀b₀ + g·b_g)), all parameters free at every variant (math.md §4,
``joint``), E centred, so that a_g is the effect at the average environment. Newton's method of
:mod:`~hlmm_scan.kernels.joint.newton`, with one more column of the mean; quadratic in the number of
covariates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.kernels.covariances import put_covariance
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.joint.covariances import Fitted, covariances
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.joint.newton import Block, Sums, maximise, pairs, solve, symmetric
from hlmm_scan.kernels.limits import COLLINEAR
from hlmm_scan.null.model import NullModel
from hlmm_scan.schema import Status

_AT_ONCE = 2_000_000  # people × variants whose arrays are in memory together
_LEAST, _MOST = 4, 128  # variants


def tile(n: int) -> int:
    """Return how many variants of n people are fitted abreast."""
    return int(np.clip(_AT_ONCE // n, _LEAST, _MOST))


def work_bytes(n: int, mean: int, variance: int) -> int:
    """Return the memory of a fit of n people: some twenty arrays of a tile's shape, pairs."""
    wide = 2 * mean + variance + (mean + variance) ** 2
    return 8 * n * 20 * tile(n) + 8 * 2048 * wide


@dataclass(frozen=True)
class InteractionDesign(JointDesign):
    """The parts of the null model the fit needs.

    Attributes
    ----------
    environment : ndarray, shape (n,)
        E, standardised. It is itself among the columns of X.
    """

    environment: Float | None = None

    @classmethod
    def of(cls, null: NullModel) -> InteractionDesign:
        """Take the parts of a null model without random effects, with an environment."""
        return cls(**vars(JointDesign.of(null)), environment=null.environment)

    @property
    def E(self) -> Float:
        """The environment as a column, shape (n, 1)."""
        assert self.environment is not None
        return self.environment[:, None]


def _mean_gram(design: InteractionDesign, g: Float, weights: Float) -> Float:
    """Return [X₀ g·E g]ᵀdiag(w)[X₀ g·E g] for each variant, (m, c + 2, c + 2).

    `weights` is (n, m) or (n, 1).
    """
    c, m = design.X.shape[1], g.shape[1]
    upper, edges, corner = np.zeros((c * (c + 1) // 2, m)), np.zeros((2 * c, m)), np.zeros((3, m))
    for s in design.strips():
        X, E = design.X[s], design.E[s]
        w = np.broadcast_to(weights[s], g[s].shape)
        wg = w * g[s]
        upper += pairs(X).T @ w
        edges += np.column_stack([X * E, X]).T @ wg
        corner += np.column_stack([E * E, E, np.ones_like(E)]).T @ (wg * g[s])
    inner = symmetric(upper, edges[:c], corner[0])
    gram = np.empty((m, c + 2, c + 2))
    gram[:, :-1, :-1] = inner
    gram[:, :c, -1] = gram[:, -1, :c] = edges[c:].T
    gram[:, c, -1] = gram[:, -1, c] = corner[1]
    gram[:, -1, -1] = corner[2]
    return gram


def evaluate(design: JointDesign, block: Block, b: Float) -> Sums:
    """Profile −2 log L at b, (m, v + 1), for the m variants of a block."""
    assert isinstance(design, InteractionDesign)
    c, v, m = design.X.shape[1], design.V.shape[1], block.mean.shape[1]
    g, called = block.mean, block.called
    log_variance = np.empty_like(g)
    for s in design.strips():
        log_variance[s] = design.V[s] @ b[:, :v].T + block.variance[s] * b[:, v]
    with np.errstate(over="ignore"):
        w = np.exp(-log_variance) * called
    aa = _mean_gram(design, g, w)
    right = np.zeros((c + 2, m))
    for s in design.strips():
        wy = w[s] * design.y[s, None]
        gwy = g[s] * wy
        right[:c] += design.X[s].T @ wy
        right[c] += (design.E[s].T @ gwy)[0]
        right[c + 1] += gwy.sum(axis=0)
    solution, ok = solve(aa, right.T[:, :, None])
    a = solution[:, :, 0]

    value, gradient = np.zeros(m), np.zeros((v + 1, m))
    bb_upper, bb_edge, bb_corner = np.zeros((v * (v + 1) // 2, m)), np.zeros((v, m)), np.zeros(m)
    ab, ab_xg = np.zeros((c * v, m)), np.zeros((c, m))
    ab_gv, ab_gg = np.zeros((2 * v, m)), np.zeros((2, m))
    for s in design.strips():
        X, V, E, gs, gv = design.X[s], design.V[s], design.E[s], g[s], block.variance[s]
        r = design.y[s, None] - X @ a[:, :c].T - gs * (E * a[:, c] + a[:, c + 1])
        wr = w[s] * r
        k = wr * r
        wrg, kg, excess = wr * gs, k * gv, called[s] - k
        value += (log_variance[s] * called[s]).sum(axis=0) + k.sum(axis=0)
        gradient[:v] += V.T @ excess
        gradient[v] += np.einsum("nm,nm->m", excess, gv)
        bb_upper += pairs(V).T @ k
        bb_edge += V.T @ kg
        bb_corner += np.einsum("nm,nm->m", kg, gv)
        ab += pairs(X, V).T @ wr
        ab_xg += X.T @ (wr * gv)
        ab_gv += np.column_stack([V * E, V]).T @ wrg
        ab_gg += np.column_stack([E, np.ones_like(E)]).T @ (wrg * gv)
    cross = np.empty((m, c + 2, v + 1))
    cross[:, :c, :v] = ab.T.reshape(m, c, v)
    cross[:, :c, v] = ab_xg.T
    cross[:, c:, :v] = ab_gv.T.reshape(m, 2, v)
    cross[:, c:, v] = ab_gg.T
    bb = 0.5 * symmetric(bb_upper, bb_edge, bb_corner)
    ok &= np.isfinite(value) & np.isfinite(gradient).all(axis=0)
    lowest = log_variance.min(axis=0)
    return Sums(a, value, gradient.T.copy(), aa, cross, bb, lowest, ok)


def fit_interaction(
    design: InteractionDesign,
    genotypes: GenotypeBlock,
    samples: NDArray[np.int64],
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLM with an interaction, for a block of variants.

    Parameters
    ----------
    design : InteractionDesign
    genotypes : HardCalls or Dosages
        People without a call are left out for that variant.
    samples : ndarray of int64, shape (n,)
        The people of the design among those of the genotypes.
    inference : Inference, optional
        Which standard errors to give; likelihood-ratio tests are not there.

    Returns
    -------
    Estimates
        m rows, `interaction` per allele and standard deviation of E. NOT_UNIQUE where the genotype
        or its product with E is a combination of the covariates and of one another.
    """
    m, step = len(genotypes), tile(len(samples))
    estimates = Estimates.empty(m)
    for start in range(0, m, step):
        rows = np.arange(start, min(start + step, m))
        g = np.ascontiguousarray(genotypes.take(rows).copies(samples).T)
        estimates.put(rows, _fit_tile(design, g, inference))
    return estimates


def _fit_tile(design: InteractionDesign, genotypes: Float, inference: Inference) -> Estimates:
    m = genotypes.shape[1]
    c, v = design.X.shape[1], design.V.shape[1]
    missing = np.isnan(genotypes)
    called = (~missing).astype(np.float64) if missing.any() else np.ones((len(design.y), 1))
    people = np.broadcast_to(called, genotypes.shape).sum(axis=0)
    g = np.where(missing, 0.0, genotypes)
    g = np.where(missing, 0.0, g - g.sum(axis=0) / np.maximum(people, 1))
    variance_gram = _variance_gram(design, g, called)
    mean_gram = _mean_gram(design, g, called)
    other_last = mean_gram.copy()
    other_last[:, [-1, -2]] = other_last[:, [-2, -1]]
    other_last[:, :, [-1, -2]] = other_last[:, :, [-2, -1]]
    unique = people >= c + v + 4
    for gram in (variance_gram, mean_gram, other_last):
        unique &= _unique(gram)
    estimates = Estimates.empty(m)
    estimates.status[~unique] = Status.NOT_UNIQUE
    rows = np.flatnonzero(unique)
    block = Block(g, g, called, 0.5 * variance_gram).keep(unique)
    b, sums, status = maximise(design, block, evaluate)
    estimates.status[rows] = status
    for k, row in enumerate(rows):
        if status[k] == Status.UNBOUNDED:
            continue
        estimates.interaction[row], estimates.add[row] = sums.a[k, c:]
        estimates.var[row] = b[k, v]
        estimates.log_likelihood[row] = -0.5 * (sums.value[k] + people[row] * np.log(2.0 * np.pi))
        values = np.where(missing[:, row], np.nan, g[:, row])
        # The product is a covariate like the others as far as covariances go.
        X = np.column_stack([design.X, np.nan_to_num(values)[:, None] * design.E])
        fitted = Fitted(design.y, X, design.V, values, sums.a[k], b[k])
        found, positive = covariances(fitted, design.moments, inference)
        for suffix, C in found.items():
            put_covariance(estimates, row, suffix, C[c + 1, c + 1], C[-1, -1], C[c + 1, -1])
            getattr(estimates, f"interaction_variance{suffix}")[row] = C[c, c]
        if not positive and estimates.status[row] == Status.OK:
            estimates.status[row] = Status.NOT_CONVERGED
    return estimates


def _variance_gram(design: InteractionDesign, g: Float, called: Float) -> Float:
    v, m = design.V.shape[1], g.shape[1]
    upper, edge, corner = np.zeros((v * (v + 1) // 2, m)), np.zeros((v, m)), np.zeros(m)
    for s in design.strips():
        upper += pairs(design.V[s]).T @ np.broadcast_to(called[s], g[s].shape)
        edge += design.V[s].T @ g[s]
        corner += np.einsum("nm,nm->m", g[s], g[s])
    return symmetric(upper, edge, corner)


def _unique(gram: Float) -> NDArray[np.bool_]:
    """Say for each variant whether the last column is independent of the others."""
    p = gram.shape[1] - 1
    projected, ok = solve(gram[:, :p, :p], gram[:, :p, p:])
    total: Float = gram[:, p, p]
    left = total - np.einsum("mp,mp->m", gram[:, :p, p], projected[:, :, 0])
    return np.asarray(ok & (total > 0) & (left > COLLINEAR * total))
