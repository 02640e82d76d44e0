"""Fits of the variants of a tile in the fast joint HLM kernel: start, step, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.joint.covariances import Fitted
from hlmm_scan.kernels.limits import MAX_STEP_OF_METRIC
from hlmm_scan.kernels.scoring.design import ScoringDesign
from hlmm_scan.kernels.scoring.steps import UNIQUE, Mask, Metric, Rows, State
from hlmm_scan.kernels.scoring.sweep import Start, Sweep
from hlmm_scan.kernels.scoring.tile import Tile

# Distances in standard errors: √(∇fᵀM⁻¹∇f), the length of the next step in the metric M.
ERROR = 2e-5  # that the last step should leave, all coefficients together
_NOISE = 4.0  # κ² = 4(c + v)·(fraction missing)/n: what M errs by in the people not called
_CHANGE = 3.0  # what M errs by per root mean square change of log-variances and scaled residuals
_LEARN = 1e-3  # steps shorter than this are rounding to a float32 gradient
_SLACK = 1e-5  # rounding of f per person
_STRONG = 0.3  # change of log-weights from which the Hessian is computed anew
REJECTED = 8  # halvings in a row that send a variant to the exact kernel
_CORRELATED = 0.05  # R² of the genotype on covariates from which missing people are taken out


@dataclass
class Fits:
    """What stays the same while the m variants of a tile are fitted, and the steps.

    Attributes
    ----------
    design : ScoringDesign
    tile : Tile
    rows : ndarray of int, shape (m,)
        Places of the variants in the block.
    C, D : ndarray, shapes (m, c + v, 2) and (m, 2, 2)
        Observed information of covariates × genotype and genotype × genotype at the null.
    expected_C, expected_D : ndarray, shapes (m, c + v) and (m, 2)
        The expected one: X₀ᵀW₀g and ½V₀ᵀg; gᵀW₀g and ½gᵀg.
    gradient, value : ndarray, shapes (m, c + v + 2) and (m,)
        Of f at the null.
    powers : ndarray, shape (m, 2, 3)
        Sums of w₀, k₀ and w₀r₀ times x² and x³.
    lost : ndarray, shape (m,)
        Upper bound of the fraction of information on any combination of covariates that the
        people without a call held: the sum of their leverages.
    """

    design: ScoringDesign
    tile: Tile
    rows: Rows
    C: Float
    D: Float
    expected_C: Float
    expected_D: Float
    gradient: Float
    value: Float
    powers: Float
    lost: Float

    def __post_init__(self) -> None:
        self.n, self.c, self.v = self.design.columns.shape

    @property
    def people(self) -> Float:
        """People called for each variant."""
        return self.tile.people[: len(self.rows)]

    @property
    def called(self) -> Float:
        """Fraction of people called for each variant."""
        return self.people / self.n

    @classmethod
    def of(cls, design: ScoringDesign, tile: Tile, rows: Rows) -> Fits:
        """Multiply the genotypes with the null model."""
        m = len(rows)
        _, c, v = design.columns.shape
        start = Start.at(design.columns, tile)
        linear, squares, absent = start.linear[:m], start.squares[:m], start.absent[:m]
        powers = np.stack([start.squares[:m], start.cubes[:m]], axis=1)
        WX, V, KV, WR = np.split(linear, np.cumsum([c, v, v]), axis=1)
        C = np.zeros((m, c + v, 2))
        C[:, :c, 0], C[:, c:, 0] = WX, WR[:, design.columns.of_V]
        C[:, :c, 1], C[:, c:, 1] = WR[:, design.columns.of_X], 0.5 * KV
        D = np.empty((m, 2, 2))
        D[:, 0, 0], D[:, 1, 1], D[:, 0, 1] = squares[:, 0], 0.5 * squares[:, 2], squares[:, 3]
        D[:, 1, 0] = D[:, 0, 1]
        # Everybody's gradient in the covariates is zero at the null: less those without a call.
        # The first column of both designs is 1.
        gradient = np.column_stack(
            [absent[:, :c], -absent[:, c : c + v], -C[:, 0, 1], 0.5 * (V[:, 0] - KV[:, 0])]
        )
        log_variance = design.log_variance - absent[:, c + v]
        excess = design.excess - absent[:, c + v + 1]
        return cls(
            design=design,
            tile=tile,
            rows=rows,
            C=C,
            D=D,
            expected_C=np.column_stack([WX, 0.5 * V]),
            expected_D=squares[:, :2] * [1.0, 0.5],
            gradient=gradient,
            value=0.5 * (log_variance + tile.people[:m] - excess),
            powers=powers[:, :, [0, 2, 3]],
            lost=absent[:, -2:].max(axis=1),
        )

    def keep(self, state: State) -> tuple[Fits, State]:
        """Return the variants of `state` with genotypes of their own."""
        chosen: dict[str, Any] = {
            k: x[state.index] for k, x in vars(self).items() if k in _PER_VARIANT
        }
        fits = replace(self, tile=self.tile.take(state.index), **chosen)
        return fits, replace(state, index=np.arange(len(state.index)))

    @staticmethod
    def join(parts: list[tuple[Fits, State]]) -> tuple[Fits, State]:
        """Put variants that were kept from several tiles into one."""
        fits = [part for part, _ in parts]
        chosen: dict[str, Any] = {
            k: np.concatenate([getattr(x, k) for x in fits]) for k in _PER_VARIANT
        }
        tile = Tile.join([x.tile for x in fits])
        return replace(fits[0], tile=tile, **chosen), State.join([state for _, state in parts])

    # Start ------------------------------------------------------------------------------------

    def begin(self, held: tuple[bool, bool]) -> State:
        """Return the variants this kernel can do, each with its first step from the null.

        Parameters
        ----------
        held : tuple of bool
            Which effects of the genotype stay at 0.
        """
        c, q = self.c, self.c + self.v
        explained = self.explained()
        with np.errstate(invalid="ignore"):
            fit = (self.expected_D > 0).all(axis=1)
            fit &= (explained < (1 - UNIQUE) * self.expected_D).all(axis=1)
            correlated: Mask = np.asarray((explained > _CORRELATED * self.expected_D).any(axis=1))
        index = np.flatnonzero(fit & (self.people >= max(q + 3, 0.5 * self.n)))
        k = len(index)
        inverse = np.full(k, None)
        inverse[:] = [self.design.inverse] * k
        scale = 1 / self.called[index]
        C, D = self.C[index].copy(), self.D[index].copy()
        # Where little of the genotype is left, blocks must be of the same people.
        exact = {}
        for i in np.flatnonzero((scale > 1) & correlated[index]):
            exact[i] = self.design.called(self.tile.g[:, index[i]] >= 0)
            inverse[i], scale[i] = np.linalg.pinv(exact[i][0], hermitian=True), 1.0
        holds = np.tile(np.array(held), (k, 1))
        metric = Metric.of(inverse, scale, C, D, holds)
        doubtful = metric.bad | (not self.design.convex)
        for i in np.flatnonzero(doubtful):
            inverse[i] = self.design.expected_inverse
            if i in exact:
                inverse[i] = np.zeros((q, q))
                inverse[i][:c, :c] = np.linalg.pinv(exact[i][1][:c, :c], hermitian=True)
                inverse[i][c:, c:] = np.linalg.pinv(exact[i][1][c:, c:], hermitian=True)
            C[i] = 0.0
            C[i, :c, 0], C[i, c:, 1] = np.split(self.expected_C[index[i]], [c])
            D[i] = np.diag(self.expected_D[index[i]])
        if doubtful.any():
            metric = Metric.of(inverse, scale, C, D, holds)
        gradient = self.gradient[index]
        gradient[:, q:][holds] = 0.0
        theta = np.tile(self.design.null, (k, 1))
        state = State.begin(index, holds, theta, gradient, self.value[index], metric)
        self._aim(state)
        self._bend(state)
        return state

    def _bend(self, state: State) -> None:
        """Turn first steps into steps of second order in the genotype's own effects.

        Notes
        -----
        With α = a_g·x and β = b_g·x, what the gradient of f, for a residual and for a log-variance,
        has of second order is −w₀(½r₀β² + αβ) and −½(w₀α² + 2w₀r₀αβ + ½k₀β²): taken into account
        for both intercepts and both effects. What covariates add to it is mere chance.
        """
        c, index = self.c, state.index
        gradient = state.gradient.copy()
        a, b = state.step[:, -2, None], state.step[:, -1, None]
        w, k, wr = np.moveaxis(self.powers[index], 2, 0)
        mean = -(0.5 * b**2 * wr + a * b * w)
        variance = -0.5 * (a**2 * w + 2 * a * b * wr + 0.5 * b**2 * k)
        state.gradient[:, [0, -2]] += mean
        state.gradient[:, [c, -1]] += variance
        state.gradient[:, -2:][state.held] = 0.0
        bent = state.direction()
        state.gradient = gradient
        small = self.jump(index, state.step) <= _STRONG
        state.step[small] = bent[small]

    def explained(self) -> Float:
        """Information on the genotype's effects that covariates take away at the null, (m, 2)."""
        inverse, c = self.design.expected_inverse, self.c
        parts = []
        for s in (slice(0, c), slice(c, None)):
            C = self.expected_C[:, s]
            parts.append(np.einsum("mi,ij,mj->m", C, inverse[s, s], C))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.column_stack(parts) / self.called[:, None]

    # Steps ------------------------------------------------------------------------------------

    def jump(self, index: Rows, step: Float) -> Float:
        """Return how far steps move log-variances: average over people, outermost genotype."""
        average = np.sqrt(self._squares(step[:, self.c : -2], slice(self.c, None), 2.0))
        return np.asarray(average + np.abs(step[:, -1]) * self.tile.reach[index])

    def _change(self, index: Rows, moved: Float) -> Float:
        """Return the root mean square change of log-variances and scaled residuals."""
        c = self.c
        total = self._squares(moved[:, :c], slice(0, c), 1.0)
        total += self._squares(moved[:, c:-2], slice(c, None), 2.0)
        own = self.expected_D[index] * [1.0, 2.0] / self.people[index, None]
        total += (moved[:, -2:] ** 2 * own).sum(axis=1)
        return np.asarray(np.sqrt(total))

    def _squares(self, moved: Float, s: slice, factor: float) -> Float:
        """Mean square over people of what covariates' coefficients moved by."""
        gram = self.design.expected[s, s] * (factor / self.n)
        return np.asarray(np.maximum(np.einsum("mi,ij,mj->m", moved, gram, moved), 0.0))

    def _aim(self, state: State) -> None:
        """Set step and length from the gradient."""
        state.step = state.direction()
        state.length = np.sqrt(np.maximum(-np.einsum("mp,mp->m", state.step, state.gradient), 0.0))
        jump = self.jump(state.index, state.step)
        short = np.minimum(1.0, MAX_STEP_OF_METRIC / np.maximum(jump, 1e-300))
        state.step *= short[:, None]

    def advance(self, state: State) -> tuple[Mask, Sweep]:
        """Try the steps of `state` and aim anew.

        Parameters
        ----------
        state : State
            Whose variants are the first of the tile, in its order, or all of them somewhere in it.

        Returns
        -------
        ndarray of bool, shape (m,)
            Which variants are done: with the step they aim at they are at the maximum.
        Sweep
            The sums at the points tried, one column per variant of `state`.
        """
        index = state.index
        trial = state.theta + state.step
        change = np.zeros((len(self.rows), trial.shape[1]))
        change[index] = trial - self.design.null
        sweep = Sweep.at(self.design.columns, self.tile, change).of(index)
        sweep.gradient[:, -2:][state.held] = 0.0
        state.sweeps += 1
        with np.errstate(invalid="ignore"):
            slack = _SLACK * self.people[index]
            good = np.isfinite(sweep.gradient).all(axis=1) & (sweep.value <= state.value + slack)
        state.rejected = np.where(good, 0, state.rejected + 1)
        state.step[~good] *= 0.5
        rows = np.flatnonzero(good)
        done = np.zeros(len(index), bool)
        if not len(rows):
            return done, sweep
        moved = state.keep(rows)
        there = sweep.of(rows)
        moved.learn(moved.step, there.gradient - moved.gradient, moved.length > _LEARN)
        moved.theta, moved.gradient, moved.value = trial[rows], there.gradient, there.value
        moved.centre = there.moments[1] / there.moments[0]
        self._reweigh(moved)
        self._aim(moved)
        finite = np.isfinite(moved.step).all(axis=1)
        moved.rejected[~finite] = REJECTED
        noise = np.sqrt(_NOISE * (self.c + self.v) * (1 - self.called[moved.index]) / self.n)
        index = moved.index
        change = self._change(index, moved.theta - moved.at) + self._change(index, moved.step)
        contraction = noise + _CHANGE * change
        done[rows] = finite & (contraction * moved.length <= ERROR)
        state.put(rows, moved)
        return done, sweep

    def fitted(self, variant: np.intp, theta: Float) -> Fitted:
        """Return one variant of the tile at θ, for what is computed exactly."""
        joint, c = self.design.joint, self.c
        raw = self.tile.g[:, variant].astype(np.float64)
        g = np.where(raw >= 0, raw - self.tile.centre[variant], np.nan)
        a, b = theta[[*range(c), -2]], theta[[*range(c, c + self.v), -1]]
        return Fitted(joint.y, joint.X, joint.V, g, a, b)

    def _reweigh(self, state: State) -> None:
        """Compute the information of variants whose weights have moved far, for their metric."""
        moved = np.abs(state.theta[:, -1] - state.at[:, -1])
        c, q = self.c, self.c + self.v
        rows = np.flatnonzero(moved * self.tile.reach[state.index] > _STRONG)
        if not len(rows):
            return
        order = [*range(c), *range(c + 1, q + 1), c, q + 1]
        inverse = np.full(len(rows), None)
        C, D = np.zeros((len(rows), q, 2)), np.zeros((len(rows), 2, 2))
        for i, row in enumerate(rows):
            fitted = self.fitted(state.index[row], state.theta[row])
            full = fitted.information(observed=True)
            if np.linalg.eigvalsh(full / np.sqrt(np.outer(*[np.diag(full)] * 2)))[0] < 1e-4:
                full = fitted.information(observed=False)
            full = full[np.ix_(order, order)]
            inverse[i], C[i], D[i] = np.linalg.inv(full[:q, :q]), full[:q, q:], full[q:, q:]
        state.remetric(rows, Metric.of(inverse, np.ones(len(rows)), C, D, state.held[rows]))


_PER_VARIANT = (
    *("rows", "C", "D", "expected_C", "expected_D"),
    *("gradient", "value", "powers", "lost"),
)
