"""HLM with covariates refitted at every variant, a block of variants at a time.

Newton's method on the profile likelihood of the log-variance coefficients, all variants of the
block abreast: each step is a handful of products between the people × covariates designs and
people × variants arrays (BLAS-3), with exact gradients (math.md §1 at h2 = 0, §4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.schema import Status

Float = NDArray[np.float64]

PEOPLE_PER_STRIP = 2048
"""Sums over people are accumulated strip by strip: a fixed order, and strips stay in cache."""

_MAX_ITERATIONS = 60
# Gradient of −2 log L per observation, designs standardised: so tight that where a fit stops does
# not depend on the rounding of one product, hence not on which variants stand in its block.
_TOLERANCE = 1e-13
_ACCEPTED = 1e-8  # the same, at which a fit stuck at machine precision still counts as converged
_CONVEX = 1e-4  # least eigenvalue against the expected information for a Newton step
_MAX_STEP = 3.0  # log-variance units, at any person
_HALVINGS = 40
_HALVINGS_AT_PRECISION = 3  # a converged fit that three halvings do not better is at rounding
_FLOOR = -25.0  # log of a person's variance over the total variance that no real trait reaches
COLLINEAR = 1e-8  # 1 − R² of the genotype on the covariates below which its effect is not unique


@dataclass(frozen=True)
class JointDesign:
    """The parts of the null model the block fit needs, with the products that repeat.

    Attributes
    ----------
    y : ndarray, shape (n,)
    X, V : ndarray, shapes (n, c) and (n, v)
        Standardised covariates, intercept first.
    alpha, beta : ndarray, shapes (c,) and (v,)
        The null fit, where every variant starts.
    """

    y: Float
    X: Float
    V: Float
    alpha: Float
    beta: Float

    def strips(self) -> Iterator[slice]:
        """Yield the slices of people over which sums are accumulated."""
        for start in range(0, len(self.y), PEOPLE_PER_STRIP):
            yield slice(start, start + PEOPLE_PER_STRIP)


@dataclass
class _Sums:
    """Value, gradient and Hessian of −2 log L − n log 2π for m variants, mean profiled out."""

    a: Float  # (m, c+1) mean coefficients at the maximum given b
    value: Float  # (m,)
    gradient: Float  # (m, v+1)
    aa: Float  # (m, c+1, c+1) XᵀD⁻¹X
    ab: Float  # (m, c+1, v+1) XᵀD⁻¹diag(r)V
    bb: Float  # (m, v+1, v+1) ½Vᵀdiag(r²/D)V
    lowest: Float  # (m,) smallest log-variance of a person
    ok: NDArray[np.bool_]  # whether the mean coefficients were unique and all is finite

    def take(self, rows: NDArray[np.bool_], other: _Sums) -> None:
        """Overwrite the chosen variants by those of `other` (same length)."""
        for name, mine in vars(self).items():
            mine[rows] = getattr(other, name)[rows]

    def keep(self, rows: NDArray[np.bool_]) -> _Sums:
        """Return only the chosen variants."""
        return _Sums(**{name: mine[rows] for name, mine in vars(self).items()})


def _pairs(left: Float, right: Float | None = None) -> Float:
    """Return all products of columns: upper triangle of left×left, or left×right; (n, k)."""
    if right is not None:
        return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)
    rows, columns = np.triu_indices(left.shape[1])
    return left[:, rows] * left[:, columns]


def _symmetric(upper: Float, edge: Float, corner: Float) -> Float:
    """Assemble (m, p+1, p+1) from covariate pairs (k, m), covariate×g (p, m) and g×g (m,)."""
    p, m = edge.shape
    matrix = np.empty((m, p + 1, p + 1))
    rows, columns = np.triu_indices(p)
    matrix[:, rows, columns] = upper.T
    matrix[:, columns, rows] = upper.T
    matrix[:, :p, p] = matrix[:, p, :p] = edge.T
    matrix[:, p, p] = corner
    return matrix


def _solve(matrix: Float, right: Float) -> tuple[Float, NDArray[np.bool_]]:
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
    ok: NDArray[np.bool_] = finite & (np.linalg.eigvalsh(safe)[:, 0] > 1e-12)
    safe = np.where(ok[:, None, None], safe, np.eye(matrix.shape[1]))
    rhs = np.where(ok[:, None, None], right, 0.0) * scale[:, :, None]
    return np.linalg.solve(safe, rhs) * scale[:, :, None], ok


def _evaluate(design: JointDesign, g: Float, called: Float, b: Float) -> _Sums:
    """Profile −2 log L at b for m variants.

    Parameters
    ----------
    design : JointDesign
    g : ndarray, shape (n, m)
        Centred genotypes, 0 where missing.
    called : ndarray, shape (n, m) or (n, 1)
        1 where the genotype is called, else 0: people without a call carry no weight.
    b : ndarray, shape (m, v+1)
    """
    c, v, m = design.X.shape[1], design.V.shape[1], g.shape[1]
    weights: list[Float] = []
    log_variances: list[Float] = []
    upper = np.zeros((c * (c + 1) // 2, m))
    edge, corner = np.zeros((c, m)), np.zeros(m)
    right = np.zeros((c + 1, m))
    lowest = np.full(m, np.inf)
    for s in design.strips():
        log_variance = design.V[s] @ b[:, :v].T + g[s] * b[:, v]
        with np.errstate(over="ignore"):
            w = np.exp(-log_variance) * called[s]
        wg = w * g[s]
        upper += _pairs(design.X[s]).T @ w
        edge += design.X[s].T @ wg
        corner += np.einsum("nm,nm->m", wg, g[s])
        right[:c] += design.X[s].T @ (w * design.y[s, None])
        right[c] += wg.T @ design.y[s]
        np.minimum(lowest, log_variance.min(axis=0), out=lowest)
        weights.append(w)
        log_variances.append(log_variance)
    aa = _symmetric(upper, edge, corner)
    solution, ok = _solve(aa, right.T[:, :, None])
    a = solution[:, :, 0]

    value, gradient = np.zeros(m), np.zeros((v + 1, m))
    bb_upper, bb_edge, bb_corner = np.zeros((v * (v + 1) // 2, m)), np.zeros((v, m)), np.zeros(m)
    ab = np.zeros((c * v, m))
    ab_xg, ab_gv, ab_gg = np.zeros((c, m)), np.zeros((v, m)), np.zeros(m)
    for s, w, log_variance in zip(design.strips(), weights, log_variances, strict=True):
        X, V, gs = design.X[s], design.V[s], g[s]
        r = design.y[s, None] - X @ a[:, :c].T - gs * a[:, c]
        wr = w * r
        k = wr * r
        wrg, kg, excess = wr * gs, k * gs, called[s] - k
        value += (log_variance * called[s]).sum(axis=0) + k.sum(axis=0)
        gradient[:v] += V.T @ excess
        gradient[v] += np.einsum("nm,nm->m", excess, gs)
        bb_upper += _pairs(V).T @ k
        bb_edge += V.T @ kg
        bb_corner += np.einsum("nm,nm->m", kg, gs)
        ab += _pairs(X, V).T @ wr
        ab_xg += X.T @ wrg
        ab_gv += V.T @ wrg
        ab_gg += np.einsum("nm,nm->m", wrg, gs)
    cross = np.empty((m, c + 1, v + 1))
    cross[:, :c, :v] = ab.T.reshape(m, c, v)
    cross[:, :c, v], cross[:, c, :v], cross[:, c, v] = ab_xg.T, ab_gv.T, ab_gg
    bb = 0.5 * _symmetric(bb_upper, bb_edge, bb_corner)
    ok &= np.isfinite(value) & np.isfinite(gradient).all(axis=0)
    return _Sums(a, value, gradient.T.copy(), aa, cross, bb, lowest, ok)


def _newton_step(sums: _Sums, expected_bb: Float) -> Float:
    """Return the Newton step in b, (m, v+1), or the scoring step where Newton would climb."""
    across, ok = _solve(sums.aa, sums.ab)
    # Hessian of the profile: bb − abᵀaa⁻¹ab, in units of half of −2 log L's.
    hessian = sums.bb - np.einsum("mcv,mcw->mvw", sums.ab, across)
    # Newton wherever the profile is convex: scoring would creep along a flat floor.
    scale = 1.0 / np.sqrt(np.einsum("mii->mi", expected_bb))
    scaled = hessian * scale[:, :, None] * scale[:, None, :]
    finite = ok & np.isfinite(scaled).all(axis=(1, 2))
    floor = np.linalg.eigvalsh(np.where(finite[:, None, None], scaled, 0.0))[:, 0]
    metric = np.where((finite & (floor > _CONVEX))[:, None, None], hessian, expected_bb)
    step, _ = _solve(metric, -0.5 * sums.gradient[:, :, None])
    return step[:, :, 0]


def _gram(design: JointDesign, columns: Float, g: Float, called: Float) -> Float:
    """Return [columns g]ᵀ[columns g] over called people, strip by strip; (m, p+1, p+1)."""
    p, m = columns.shape[1], g.shape[1]
    upper, edge, corner = np.zeros((p * (p + 1) // 2, m)), np.zeros((p, m)), np.zeros(m)
    for s in design.strips():
        upper += _pairs(columns[s]).T @ np.broadcast_to(called[s], g[s].shape)
        edge += columns[s].T @ g[s]
        corner += np.einsum("nm,nm->m", g[s], g[s])
    return _symmetric(upper, edge, corner)


def _unique(gram: Float) -> NDArray[np.bool_]:
    """Say for each variant whether [columns g], whose Gram matrix this is, has full rank."""
    p = gram.shape[1] - 1
    projected, ok = _solve(gram[:, :p, :p], gram[:, :p, p:])
    explained = np.einsum("mp,mp->m", gram[:, :p, p], projected[:, :, 0])
    total: Float = gram[:, p, p]
    unique: NDArray[np.bool_] = ok & (total > 0) & (total - explained > COLLINEAR * total)
    return unique


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
    v = design.V.shape[1]
    missing = np.isnan(genotypes)
    called = (~missing).astype(np.float64) if missing.any() else np.ones((len(design.y), 1))
    g = np.where(missing, 0.0, genotypes)
    people = np.broadcast_to(called, g.shape).sum(axis=0)
    centre = g.sum(axis=0) / np.maximum(people, 1)
    g = np.where(missing, 0.0, g - centre)

    estimates = Estimates.empty(m)
    enough = people >= design.X.shape[1] + v + 3
    variance_gram = _gram(design, design.V, g, called)
    unique = enough & _unique(_gram(design, design.X, g, called)) & _unique(variance_gram)
    estimates.status[~unique] = Status.NOT_UNIQUE
    rows = np.flatnonzero(unique)
    b = np.zeros((len(rows), v + 1))
    b[:, :v] = design.beta
    g, people = np.ascontiguousarray(g[:, rows]), people[rows]
    if called.shape[1] > 1:
        called = np.ascontiguousarray(called[:, rows])
    spread = np.sqrt(np.einsum("nm,nm->m", g, g) / people) if len(rows) else np.ones(0)
    reach = np.abs(g).max(axis=0) if len(rows) else np.ones(0)
    floor = np.log(design.y.var()) + _FLOOR

    current = _evaluate(design, g, called, b)
    expected = 0.5 * variance_gram[rows]
    for iteration in range(_MAX_ITERATIONS + 1):
        size = np.abs(current.gradient)
        size[:, v] /= spread
        size = size.max(axis=1) / people
        unbounded = current.lowest < floor
        step = _newton_step(current, expected)
        # A person's log-variance moves by at most Σ|step|·max|column|; covariates may reach far.
        jump = np.abs(step[:, :v]) @ np.abs(design.V).max(axis=0) + np.abs(step[:, v]) * reach
        step *= np.minimum(1.0, _MAX_STEP / np.maximum(jump, 1e-300))[:, None]
        done = (size <= _TOLERANCE) | unbounded | ~current.ok
        if iteration == _MAX_ITERATIONS:
            done[:] = True
        moving = ~done
        moving[moving] = _descend(
            design, g[:, moving], _columns(called, moving), b, step, current, size, moving
        )
        finished = ~moving
        if finished.any():
            status = np.where(size <= _ACCEPTED, Status.OK, Status.NOT_CONVERGED)
            status = np.where(unbounded, Status.UNBOUNDED, status).astype(np.int8)
            chosen = rows[finished]
            estimates.put(
                chosen,
                _report(
                    current.keep(finished),
                    b[finished],
                    people[finished],
                    expected[finished],
                    status[finished],
                    inference.observed,
                ),
            )
            rows, b, people, spread = rows[moving], b[moving], people[moving], spread[moving]
            reach, expected = reach[moving], expected[moving]
            g, called = np.ascontiguousarray(g[:, moving]), _columns(called, moving)
            current = current.keep(moving)
        if len(rows) == 0:
            break
    return estimates


def _columns(called: Float, rows: NDArray[np.bool_]) -> Float:
    """Return the chosen variants' call masks; one shared column stays one."""
    return called if called.shape[1] == 1 else np.ascontiguousarray(called[:, rows])


def _descend(
    design: JointDesign,
    g: Float,
    called: Float,
    b: Float,
    step: Float,
    current: _Sums,
    size: Float,
    moving: NDArray[np.bool_],
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
            waiting &= size[index] > _ACCEPTED
            if not waiting.any():
                break
        chosen = index[waiting]
        trial = b[chosen] + trial_step[waiting]
        sums = _evaluate(design, g[:, waiting], _columns(called, waiting), trial)
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


def _report(
    sums: _Sums,
    b: Float,
    people: Float,
    expected_bb: Float,
    status: NDArray[np.int8],
    observed: bool,
) -> Estimates:
    """Turn finished fits into estimates of the test genotype's effects and their covariance."""
    m, p = sums.a.shape
    v = b.shape[1] - 1
    out = Estimates.empty(m)
    out.status[:] = status
    out.add[:], out.var[:] = sums.a[:, p - 1], b[:, v]
    out.log_likelihood[:] = -0.5 * (sums.value + people * np.log(2.0 * np.pi))
    if observed:
        information = np.concatenate(
            [
                np.concatenate([sums.aa, sums.ab], axis=2),
                np.concatenate([sums.ab.transpose(0, 2, 1), sums.bb], axis=2),
            ],
            axis=1,
        )
    else:
        information = np.zeros((m, p + v + 1, p + v + 1))
        information[:, :p, :p] = sums.aa
        information[:, p:, p:] = expected_bb
    right = np.zeros((m, p + v + 1, 2))
    right[:, p - 1, 0] = right[:, p + v, 1] = 1.0
    covariance, ok = _solve(information, right)
    out.add_variance[:] = np.where(ok, covariance[:, p - 1, 0], np.nan)
    out.var_variance[:] = np.where(ok, covariance[:, p + v, 1], np.nan)
    out.add_var_covariance[:] = np.where(ok, covariance[:, p - 1, 1], np.nan)
    # Observed information that is not positive definite: stationary, but no maximum.
    failed = Status.NOT_CONVERGED if observed else Status.NOT_UNIQUE
    out.status[~ok & (out.status == Status.OK)] = failed
    nothing = (out.status == Status.UNBOUNDED) | (out.status == Status.NOT_UNIQUE)
    out.put(np.flatnonzero(nothing), Estimates.empty(int(nothing.sum())))
    out.status[nothing] = np.where(
        status[nothing] == Status.UNBOUNDED, Status.UNBOUNDED, Status.NOT_UNIQUE
    )
    return out
