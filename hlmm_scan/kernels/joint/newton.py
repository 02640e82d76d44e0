"""Newton's method on the profile likelihood of the joint HLM, a block of variants abreast.

Each step is a handful of products between the people × covariates designs and people × variants
arrays (BLAS-3), with exact gradients and Hessians (math.md §1 at h2 = 0, §4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.limits import ACCEPTED, CONVEX, FLOOR, MAX_STEP, SINGULAR
from hlmm_scan.schema import Status

_MAX_ITERATIONS = 60
# Gradient of −2 log L per observation, designs standardised: so tight that where a fit stops does
# not depend on the rounding of one product, hence not on which variants stand in its block.
_TOLERANCE = 1e-13
_HALVINGS = 40
_HALVINGS_AT_PRECISION = 3  # a converged fit that three halvings do not better is at rounding


@dataclass(frozen=True)
class Block:
    """Genotypes of m variants, and which of their effects are free.

    Attributes
    ----------
    mean, variance : ndarray, shape (n, m)
        Centred genotypes, 0 where missing, as they enter the two designs. A column of zeros holds
        its effect at 0.
    called : ndarray, shape (n, m) or (n, 1)
        1 where the genotype is called, else 0: people without a call carry no weight.
    expected : ndarray, shape (m, v+1, v+1)
        Expected information of b.
    """

    mean: Float
    variance: Float
    called: Float
    expected: Float

    @property
    def people(self) -> Float:
        """People called for each variant."""
        return np.asarray(np.broadcast_to(self.called, self.mean.shape).sum(axis=0))

    def keep(self, rows: NDArray[np.bool_]) -> Block:
        """Return only the chosen variants."""
        called = self.called if self.called.shape[1] == 1 else _chosen(self.called, rows)
        return Block(
            _chosen(self.mean, rows), _chosen(self.variance, rows), called, self.expected[rows]
        )

    def held(self, mean: bool, variance: bool) -> Block:
        """Return the same variants with effects held at 0."""
        expected = self.expected.copy()
        if variance:
            expected[:, -1] = expected[:, :, -1] = 0.0
            expected[:, -1, -1] = 1.0
        nothing = np.zeros_like(self.mean)
        return replace(
            self,
            mean=nothing if mean else self.mean,
            variance=nothing if variance else self.variance,
            expected=expected,
        )


def _chosen(columns: Float, rows: NDArray[np.bool_]) -> Float:
    return np.ascontiguousarray(columns[:, rows])


@dataclass
class Sums:
    """Value, gradient and Hessian of −2 log L − n log 2π for m variants, mean profiled out."""

    a: Float  # (m, c+1) mean coefficients at the maximum given b
    value: Float  # (m,)
    gradient: Float  # (m, v+1)
    aa: Float  # (m, c+1, c+1) XᵀD⁻¹X
    ab: Float  # (m, c+1, v+1) XᵀD⁻¹diag(r)V
    bb: Float  # (m, v+1, v+1) ½Vᵀdiag(r²/D)V
    lowest: Float  # (m,) smallest log-variance of a person
    ok: NDArray[np.bool_]  # whether the mean coefficients were unique and all is finite

    def keep(self, rows: NDArray[np.bool_]) -> Sums:
        """Return only the chosen variants."""
        return Sums(**{name: mine[rows] for name, mine in vars(self).items()})


def pairs(left: Float, right: Float | None = None) -> Float:
    """Return all products of columns: upper triangle of left×left, or left×right; (n, k)."""
    if right is not None:
        return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)
    rows, columns = np.triu_indices(left.shape[1])
    return left[:, rows] * left[:, columns]


def symmetric(upper: Float, edge: Float, corner: Float) -> Float:
    """Assemble (m, p+1, p+1) from covariate pairs (k, m), covariate×g (p, m) and g×g (m,)."""
    p, m = edge.shape
    matrix = np.empty((m, p + 1, p + 1))
    rows, columns = np.triu_indices(p)
    matrix[:, rows, columns] = upper.T
    matrix[:, columns, rows] = upper.T
    matrix[:, :p, p] = matrix[:, p, :p] = edge.T
    matrix[:, p, p] = corner
    return matrix


def solve(matrix: Float, right: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Solve m symmetric positive systems; say which could be solved.

    Parameters
    ----------
    matrix : ndarray, shape (m, p, p)
    right : ndarray, shape (m, p, k)

    Notes
    -----
    Scaled to a unit diagonal first. A system counts as singular where its smallest eigenvalue is
    below 1e-12 of that diagonal.
    """
    diagonal = np.einsum("mii->mi", matrix)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = matrix * scale[:, :, None] * scale[:, None, :]
    finite = np.isfinite(scaled.sum(axis=(1, 2)) + right.sum(axis=(1, 2)))
    safe = np.where(finite[:, None, None], scaled, np.eye(matrix.shape[1]))
    ok: NDArray[np.bool_] = finite & (np.linalg.eigvalsh(safe)[:, 0] > SINGULAR)
    safe = np.where(ok[:, None, None], safe, np.eye(matrix.shape[1]))
    rhs = np.where(ok[:, None, None], right, 0.0) * scale[:, :, None]
    return np.linalg.solve(safe, rhs) * scale[:, :, None], ok


def evaluate(design: JointDesign, block: Block, b: Float) -> Sums:
    """Profile −2 log L at b, (m, v+1), for the m variants of a block."""
    c, v, m = design.X.shape[1], design.V.shape[1], block.mean.shape[1]
    called = block.called
    held = ~block.mean.any(axis=0)
    weights: list[Float] = []
    log_variances: list[Float] = []
    upper = np.zeros((c * (c + 1) // 2, m))
    edge, corner = np.zeros((c, m)), np.zeros(m)
    right = np.zeros((c + 1, m))
    lowest = np.full(m, np.inf)
    for s in design.strips():
        g = block.mean[s]
        log_variance = design.V[s] @ b[:, :v].T + block.variance[s] * b[:, v]
        with np.errstate(over="ignore"):
            w = np.exp(-log_variance) * called[s]
        wg = w * g
        upper += pairs(design.X[s]).T @ w
        edge += design.X[s].T @ wg
        corner += np.einsum("nm,nm->m", wg, g)
        right[:c] += design.X[s].T @ (w * design.y[s, None])
        right[c] += wg.T @ design.y[s]
        np.minimum(lowest, log_variance.min(axis=0), out=lowest)
        weights.append(w)
        log_variances.append(log_variance)
    # An effect held at 0 has no column: with an information of its own it stays where it is.
    aa = symmetric(upper, edge, np.where(held, 1.0, corner))
    solution, ok = solve(aa, right.T[:, :, None])
    a = solution[:, :, 0]

    value, gradient = np.zeros(m), np.zeros((v + 1, m))
    bb_upper, bb_edge, bb_corner = np.zeros((v * (v + 1) // 2, m)), np.zeros((v, m)), np.zeros(m)
    ab = np.zeros((c * v, m))
    ab_xg, ab_gv, ab_gg = np.zeros((c, m)), np.zeros((v, m)), np.zeros(m)
    for s, w, log_variance in zip(design.strips(), weights, log_variances, strict=True):
        X, V = design.X[s], design.V[s]
        g, gv = block.mean[s], block.variance[s]
        r = design.y[s, None] - X @ a[:, :c].T - g * a[:, c]
        wr = w * r
        k = wr * r
        wrg, kg, excess = wr * g, k * gv, called[s] - k
        value += (log_variance * called[s]).sum(axis=0) + k.sum(axis=0)
        gradient[:v] += V.T @ excess
        gradient[v] += np.einsum("nm,nm->m", excess, gv)
        bb_upper += pairs(V).T @ k
        bb_edge += V.T @ kg
        bb_corner += np.einsum("nm,nm->m", kg, gv)
        ab += pairs(X, V).T @ wr
        ab_xg += X.T @ (wr * gv)
        ab_gv += V.T @ wrg
        ab_gg += np.einsum("nm,nm->m", wrg, gv)
    cross = np.empty((m, c + 1, v + 1))
    cross[:, :c, :v] = ab.T.reshape(m, c, v)
    cross[:, :c, v], cross[:, c, :v], cross[:, c, v] = ab_xg.T, ab_gv.T, ab_gg
    bb = 0.5 * symmetric(bb_upper, bb_edge, np.where(block.variance.any(axis=0), bb_corner, 2.0))
    ok &= np.isfinite(value) & np.isfinite(gradient).all(axis=0)
    return Sums(a, value, gradient.T.copy(), aa, cross, bb, lowest, ok)


def _newton_step(sums: Sums, expected_bb: Float) -> Float:
    """Return the Newton step in b, (m, v+1), or the scoring step where Newton would climb."""
    across, ok = solve(sums.aa, sums.ab)
    # Hessian of the profile: bb − abᵀaa⁻¹ab, in units of half of −2 log L's.
    hessian = sums.bb - np.einsum("mcv,mcw->mvw", sums.ab, across)
    # Newton wherever the profile is convex: scoring would creep along a flat floor.
    scale = 1.0 / np.sqrt(np.einsum("mii->mi", expected_bb))
    scaled = hessian * scale[:, :, None] * scale[:, None, :]
    finite = ok & np.isfinite(scaled).all(axis=(1, 2))
    floor = np.linalg.eigvalsh(np.where(finite[:, None, None], scaled, 0.0))[:, 0]
    metric = np.where((finite & (floor > CONVEX))[:, None, None], hessian, expected_bb)
    step, _ = solve(metric, -0.5 * sums.gradient[:, :, None])
    return step[:, :, 0]


Evaluate = Callable[[JointDesign, Block, Float], Sums]
"""Profiles −2 log L at b, (m, v+1), for the m variants of a block."""


def maximise(
    design: JointDesign, block: Block, evaluate: Evaluate = evaluate
) -> tuple[Float, Sums, NDArray[np.int8]]:
    """Maximise the likelihood of every variant of a block, from the null fit on.

    Parameters
    ----------
    design : JointDesign
    block : Block
    evaluate : callable, optional
        The likelihood: by default with the genotype as the one more column of the mean.

    Returns
    -------
    ndarray, shape (m, v+1)
        b.
    Sums
        There.
    ndarray of int8, shape (m,)
        OK, UNBOUNDED where somebody's variance runs to zero, NOT_CONVERGED where no step helps any
        more.
    """
    m, v = block.mean.shape[1], design.V.shape[1]
    b = np.zeros((m, v + 1))
    b[:, :v] = design.beta
    if not m:
        return b, evaluate(design, block, b), np.zeros(0, np.int8)
    final, status = b.copy(), np.zeros(m, np.int8)
    rows = np.arange(m)
    floor = np.log(design.y.var()) + FLOOR
    widest = np.abs(design.V).max(axis=0)
    current = evaluate(design, block, b)
    at_end = current.keep(np.ones(m, bool))
    for iteration in range(_MAX_ITERATIONS + 1):
        people = block.people
        spread = np.sqrt(np.einsum("nm,nm->m", block.variance, block.variance) / people)
        size = np.abs(current.gradient)
        size[:, v] /= np.where(spread > 0, spread, 1.0)
        size = size.max(axis=1) / people
        unbounded = current.lowest < floor
        step = _newton_step(current, block.expected)
        # A person's log-variance moves by at most Σ|step|·max|column|; covariates may reach far.
        reach = np.abs(block.variance).max(axis=0)
        jump = np.abs(step[:, :v]) @ widest + np.abs(step[:, v]) * reach
        step *= np.minimum(1.0, MAX_STEP / np.maximum(jump, 1e-300))[:, None]
        done = (size <= _TOLERANCE) | unbounded | ~current.ok
        if iteration == _MAX_ITERATIONS:
            done[:] = True
        moving = ~done
        moving[moving] = _descend(
            design, block.keep(moving), b, step, current, size, moving, evaluate
        )
        finished = ~moving
        chosen = rows[finished]
        found = np.where(size <= ACCEPTED, Status.OK, Status.NOT_CONVERGED)
        status[chosen] = np.where(unbounded, Status.UNBOUNDED, found)[finished]
        final[chosen] = b[finished]
        for name, values in vars(at_end).items():
            values[chosen] = getattr(current, name)[finished]
        if finished.all():
            break
        if finished.any():
            rows, b, block, current = (
                rows[moving],
                b[moving],
                block.keep(moving),
                current.keep(moving),
            )
    return final, at_end, status


def _descend(
    design: JointDesign,
    block: Block,
    b: Float,
    step: Float,
    current: Sums,
    size: Float,
    moving: NDArray[np.bool_],
    evaluate: Evaluate,
) -> NDArray[np.bool_]:
    """Move the chosen variants along their steps, halved until −2 log L falls.

    Updates `b` and `current` in place and returns, for each moving variant, whether it moved.
    """
    index = np.flatnonzero(moving)
    trial_step = step[index].copy()
    waiting = np.ones(len(index), bool)
    moved = np.zeros(len(index), bool)
    for halving in range(_HALVINGS):
        if halving == _HALVINGS_AT_PRECISION:
            waiting &= size[index] > ACCEPTED
            if not waiting.any():
                break
        chosen = index[waiting]
        trial = b[chosen] + trial_step[waiting]
        sums = evaluate(design, block.keep(waiting), trial)
        old_value, old_gradient = current.value[chosen], current.gradient[chosen]
        rounding = 1e-13 * (1.0 + np.abs(old_value))
        lower = sums.value < old_value - rounding
        # At machine precision the value no longer tells: then the gradient must shrink.
        flatter = (np.abs(sums.value - old_value) <= rounding) & (
            np.abs(sums.gradient).max(axis=1) < np.abs(old_gradient).max(axis=1)
        )
        good = sums.ok & (lower | flatter)
        accepted = chosen[good]
        b[accepted] = trial[good]
        for name, mine in vars(current).items():
            mine[accepted] = getattr(sums, name)[good]
        still = np.flatnonzero(waiting)
        moved[still[good]] = True
        waiting[still[good]] = False
        trial_step[waiting] *= 0.5
        if not waiting.any():
            break
    return moved
