"""The fast kernel for the HLM with covariates refitted at every variant.

Same model, arguments and answer as :func:`hlmm_scan.kernels.hlm_joint.fit_joint`, which stays the
plain reference and takes over whatever this kernel does not bring to convergence.

Write f = −log L for θ = (a₀, b₀, a_g, b_g). Newton's method needs XᵀWX of every variant, which is
quadratic in the number of covariates; the gradient is linear in it. So the gradient is computed
exactly at every step, and the Hessian is approximated by

* covariates × covariates: the observed information H₀ of the null model, one matrix for all;
* covariates × genotype, genotype × genotype: expected information at the null weights W₀
  (X₀ᵀW₀g, ½V₀ᵀg, gᵀW₀g, ½gᵀg), two matrix products per tile;
* what is left is learnt from the gradients themselves by limited-memory BFGS on top of that.

The error of a step is then of the order of 1/√n times the step, plus what is quadratic in it: with
gradients that are exact, that only says how fast the maximum is approached, not where it is.
Genotypes with a strong variance effect get XᵀWX at their current weights (math.md §4).

**A variant's numbers do not depend on its block.** All decisions (metric, halved steps, stop) are
taken per variant, none is near a threshold by construction, and nothing amplifies: in float64,
sums that differ in their last bits move an estimate by 1e-12 of a standard error. Besides, matrix
products run over whole micro-tiles of BLAS, whose columns as a rule do not know of each other.
That is why float32 for the early sweeps is an option only (:meth:`ScoringDesign.of`): its rounding
moves the points at which gradients are taken, and contraction by the last steps leaves 1e-8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.hlm_joint import JointDesign, fit_joint
from hlmm_scan.kernels.hlm_scoring_design import ScoringDesign
from hlmm_scan.kernels.hlm_scoring_steps import PAIRS, UNIQUE, Metric, Rows, State
from hlmm_scan.kernels.hlm_scoring_sweep import STRIP, TILE, Sweep, Tile, strips
from hlmm_scan.schema import Status

Float = NDArray[np.float64]

_MAX_SWEEPS = 30
# Distances in standard errors: √(∇fᵀM⁻¹∇f), the length of the next step in the metric M.
_ERROR = 3e-5  # that the last step should leave, all coefficients together
_NOISE = 8.0  # κ² = 8(c + v)/n: what a step leaves of the distance once steps are short (measured)
_OPTIMISM = 0.05  # fraction of κ that a good step leaves
_LEARN = 1e-3  # steps shorter than this are rounding to a float32 gradient
_SLACK_32, _SLACK_64 = 1e-5, 1e-10  # rounding of f per person
_MAX_JUMP = 1.5  # log-variance units that a step may move an average or an outer person
_STRONG = 0.3  # change of log-weights from which XᵀWX is computed anew
_REJECTED = 8  # halvings in a row that send a variant to the exact kernel
_CORRELATED = 0.05  # R² of the genotype on covariates above which M is the expected information
_SE = 1e-3  # estimated relative error of an information above which it is computed exactly


def fit_scoring(
    design: JointDesign | ScoringDesign,
    genotypes: Float,
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLM with all covariates free, for a block of variants.

    Parameters
    ----------
    design : JointDesign or ScoringDesign
        A :class:`JointDesign` is prepared anew on every call; scans pass the prepared one.
    genotypes : ndarray, shape (n, m)
        Copies of the effect allele (or dosages), NaN where missing: those people are left out for
        that variant.
    inference : Inference, optional
        Which standard errors and tests to give. The observed information is exact, and quadratic
        in the number of covariates.

    Returns
    -------
    Estimates
        m rows, statuses as from :func:`~hlmm_scan.kernels.hlm_joint.fit_joint`.
    """
    prepared = design if isinstance(design, ScoringDesign) else ScoringDesign.of(design)
    m = genotypes.shape[1]
    estimates = Estimates.empty(m)
    late: list[tuple[_Fits, State]] = []
    for start in range(0, m, TILE):
        rows = np.arange(start, min(start + TILE, m))
        fits = _Fits.of(prepared, Tile.of(genotypes[:, rows[0] : rows[-1] + 1]), rows)
        late += _finish(fits, fits.begin(), estimates, inference, leave=TILE // 4)
        waiting = sum(len(state.index) for _, state in late)
        if late and (waiting >= TILE or start + TILE >= m):
            _finish(*_Fits.join(late), estimates, inference, leave=0)
            late = []
    rest = np.flatnonzero(estimates.status == Status.PENDING)
    if len(rest):
        estimates.put(rest, fit_joint(prepared.joint, genotypes[:, rest], inference))
    return estimates


def work_bytes(n: int, c: int, v: int) -> int:
    """Return the memory of :func:`fit_scoring`, whatever the number of variants.

    Parameters
    ----------
    n, c, v : int
        People, columns of the mean and of the variance design.

    Notes
    -----
    The prepared design (the designs once more, those of the start, those of people without a
    call, and the temporary arrays of making them); a tile of genotypes in float64 at worst, and a
    second one of late variants; the strips and the systems of a tile. Without the genotypes handed
    in, and without :func:`fit_joint`, which gets what is left over (a few variants as a rule).
    """
    q = c + v
    prepared = 8 * n * (3 * q + v + 12) + 8 * n * q
    tile = 2 * 8 * n * TILE
    strip = 4 * 8 * min(n, STRIP) * TILE
    systems = 8 * TILE * (3 * q * q + (2 * PAIRS + 10) * (q + 2))
    return prepared + tile + strip + systems


def _finish(
    fits: _Fits, state: State, estimates: Estimates, inference: Inference, *, leave: int
) -> list[tuple[_Fits, State]]:
    """Step until done; what stays PENDING in `estimates` is for the exact kernel.

    Parameters
    ----------
    leave : int
        Groups of at most so many variants are not stepped but returned: a sweep over a few costs
        nearly as much as one over many, so the late ones of several tiles go together.
    """
    left = []
    for _ in range(_MAX_SWEEPS):
        unfinished = np.zeros(len(state.index), bool)
        precise_next = state.precise | (state.length <= fits.near)
        for precise in (False, True):
            rows = np.flatnonzero(precise_next == precise)
            if not len(rows):
                continue
            part = state.keep(rows)
            if len(rows) <= leave and np.isfinite(part.length).all():
                left.append(fits.keep(part))
                continue
            done, sweep = fits.advance(part, precise)
            if done.any():
                chosen = np.flatnonzero(done)
                finished = fits.rows[part.index[chosen]]
                estimates.put(finished, fits.report(part, sweep, chosen, inference))
            state.put(rows, part)
            unfinished[rows] = ~done & (part.rejected < _REJECTED)
        state = state.keep(np.flatnonzero(unfinished))
        if not len(state.index):
            break
    return left


@dataclass
class _Fits:
    """What stays the same while the m variants of a tile are fitted, and the steps.

    Attributes
    ----------
    design : ScoringDesign
    tile : Tile
    rows : ndarray of int, shape (m,)
        Places of the variants in the block.
    C : ndarray, shape (m, c + v, 2)
        Expected information of covariates × genotype at the null: X₀ᵀW₀g and ½V₀ᵀg.
    D : ndarray, shape (m, 2)
        The same of genotype × genotype: gᵀW₀g, ½gᵀg.
    gradient, value : ndarray, shapes (m, c + v + 2) and (m,)
        Of f at the null.
    V_sum : ndarray, shape (m, v)
        Column sums of V₀ over the people called.
    lost : ndarray, shape (m,)
        Upper bound of the fraction of information on any combination of covariates that the
        people without a call held: the sum of their leverages.
    centre_w, var_w : ndarray, shape (m,)
        Null-weighted mean of g, from its plain mean, and null-weighted variance.
    """

    design: ScoringDesign
    tile: Tile
    rows: Rows
    C: Float
    D: Float
    gradient: Float
    value: Float
    V_sum: Float
    lost: Float
    centre_w: Float
    var_w: Float

    def __post_init__(self) -> None:
        self.c, self.v = self.design.joint.X.shape[1], self.design.joint.V.shape[1]
        # Lengths of a step: from `done` on it is the last if its gradient was float64, and from
        # `near` on the next gradient is float64, as it may find that.
        kappa = np.sqrt(_NOISE * (self.c + self.v) / len(self.design.joint.y))
        self.done = _ERROR / kappa
        self.near = self.done / (_OPTIMISM * kappa)
        self.double = self.design.early is self.design.double

    @property
    def people(self) -> Float:
        """People called for each variant."""
        return self.tile.people[: len(self.rows)]

    @property
    def reach(self) -> Float:
        """Largest deviation of each genotype from its mean."""
        return self.tile.reach[: len(self.rows)]

    @classmethod
    def of(cls, design: ScoringDesign, tile: Tile, rows: Rows) -> _Fits:
        """Multiply the genotypes with the null model."""
        c, v = design.joint.X.shape[1], design.joint.V.shape[1]
        m, people = len(rows), tile.people[: len(rows)]
        some_missing = bool((people < len(design.joint.y)).any())
        linear, square, absent = design.start.at(tile, m, missing=some_missing)
        C = np.zeros((m, c + v, 2))
        C[:, :c, 0], C[:, c:, 1] = linear[:, :c], 0.5 * linear[:, c : c + v]
        # Everybody's gradient in the covariates is zero at the null: less those without a call.
        gradient = np.concatenate([absent[:, : c + v], linear[:, c + v :]], axis=1)
        gradient[:, c:-2] *= -1
        gradient[:, -2] *= -1
        gradient[:, -1] *= 0.5
        V_sum = design.V_sum - absent[:, c + v : c + 2 * v]
        excess = design.excess - absent[:, c + 2 * v]
        centre_w = linear[:, 0] / design.weight
        return cls(
            design=design,
            tile=tile,
            rows=rows,
            C=C,
            D=square * [1.0, 0.5],
            gradient=gradient,
            value=0.5 * (V_sum @ design.joint.beta + people - excess),
            V_sum=V_sum,
            lost=absent[:, -2:].max(axis=1),
            centre_w=centre_w,
            var_w=square[:, 0] / design.weight - centre_w**2,
        )

    def keep(self, state: State) -> tuple[_Fits, State]:
        """Return the variants of `state` with genotypes of their own."""
        chosen = {k: x[state.index] for k, x in vars(self).items() if k in _PER_VARIANT}
        fits = replace(self, tile=self.tile.take(state.index), **chosen)
        return fits, replace(state, index=np.arange(len(state.index)))

    @staticmethod
    def join(parts: list[tuple[_Fits, State]]) -> tuple[_Fits, State]:
        """Put the variants of several tiles into one."""
        fits, states = zip(*parts, strict=True)
        chosen = {k: np.concatenate([getattr(x, k) for x in fits]) for k in _PER_VARIANT}
        together = {k: np.concatenate([getattr(x, k) for x in states]) for k in vars(states[0])}
        tile = Tile.join([(x.tile, len(x.rows)) for x in fits])
        state = replace(State(**together), index=np.arange(len(together["index"])))
        return replace(fits[0], tile=tile, **chosen), state

    def begin(self) -> State:
        """Return the variants this kernel can do, each with its first step from the null."""
        c, v = self.c, self.v
        q = c + v
        C, D = self.C, self.D
        with np.errstate(invalid="ignore", divide="ignore"):
            inverse = self.design.inverse / (self.people / len(self.design.joint.y))[:, None, None]
            explained = np.column_stack(
                [
                    np.einsum("mi,ij,mj->m", C[:, :c, 0], self.design.mean, C[:, :c, 0]),
                    np.einsum("mi,ij,mj->m", C[:, c:, 1], self.design.variance, C[:, c:, 1]),
                ]
            )
            fit = (D > 0).all(axis=1) & (explained < (1 - UNIQUE) * D).all(axis=1)
        fit &= (self.people >= q + 3) & (self.people >= 0.5 * len(self.design.joint.y))
        index = np.flatnonzero(fit)
        k = len(index)
        # Observed and expected blocks do not match to the last per cent: where the genotype is
        # nearly a combination of covariates, what is left of it is of that size. Expected blocks,
        # over the people called, are consistent.
        for i in np.flatnonzero(fit & (explained > _CORRELATED * D).any(axis=1)):
            inverse[i] = 0.0
            if self.people[i] < len(self.design.joint.y):
                mean, variance, _ = self._without_absent(i)
                inverse[i, :c, :c], inverse[i, c:, c:] = (
                    np.linalg.inv(mean),
                    np.linalg.inv(variance),
                )
            else:
                inverse[i, :c, :c], inverse[i, c:, c:] = self.design.mean, self.design.variance
        metric = Metric.of(inverse[index], C[index], D[index], np.zeros(k))
        state = State(
            index=index,
            theta=np.tile(self.design.null, (k, 1)),
            gradient=self.gradient[index],
            value=self.value[index],
            step=np.zeros((k, q + 2)),
            length=np.zeros(k),
            rejected=np.zeros(k, np.int64),
            precise=np.zeros(k, bool),
            S=np.zeros((k, PAIRS, q + 2)),
            Y=np.zeros((k, PAIRS, q + 2)),
            rho=np.zeros((k, PAIRS)),
            inverse=metric.inverse,
            U=metric.U,
            schur=metric.S,
            at=metric.at,
        )
        self._aim(state)
        # The first sweep is at any rate not the last: float32.
        state.length[:] = np.inf
        return state

    def _jump(self, index: Rows, step: Float) -> Float:
        """Return how far steps move log-variances: average over people, outermost genotype."""
        b0 = step[:, self.c : -2]
        average = np.sqrt(np.maximum(np.einsum("mi,ij,mj->m", b0, self.design.V_gram, b0), 0))
        return np.asarray(average + np.abs(step[:, -1]) * self.reach[index])

    def _aim(self, state: State) -> None:
        """Set step and length from the gradient."""
        state.step = state.direction()
        state.length = np.sqrt(np.maximum(-np.einsum("mp,mp->m", state.step, state.gradient), 0.0))
        jump = self._jump(state.index, state.step)
        short = np.minimum(1.0, _MAX_JUMP / np.maximum(jump, 1e-300))
        state.step *= short[:, None]

    def advance(self, state: State, precise: bool) -> tuple[NDArray[np.bool_], Sweep]:
        """Try the steps of `state` and aim anew.

        Returns
        -------
        ndarray of bool, shape (m,)
            Which variants are done; their θ is the final one.
        Sweep
            The sums at the points tried.
        """
        design, index = self.design, state.index
        trial = state.theta + state.step
        cross = None
        if precise:
            cross = design.early, self._weighted_centre(index, trial[:, -1])
        columns = design.double if precise else design.early
        sweep = Sweep.at(columns, self.tile, index, trial, cross=cross)
        b0 = trial[:, self.c : -2]
        people = self.people[index]
        with np.errstate(invalid="ignore"):
            log_variances = np.einsum("mi,mi->m", self.V_sum[index], b0)
            value = 0.5 * (log_variances + people - sweep.excess)
            exact = (precise & state.precise) | self.double
            slack = np.where(exact, _SLACK_64, _SLACK_32) * people
            good = np.isfinite(sweep.gradient).all(axis=1) & (value <= state.value + slack)
        state.rejected = np.where(good, 0, state.rejected + 1)
        state.step[~good] *= 0.5
        rows = np.flatnonzero(good)
        done = np.zeros(len(index), bool)
        if not len(rows):
            return done, sweep
        moved = state.keep(rows)
        moved.learn(
            moved.step,
            sweep.gradient[rows] - moved.gradient,
            exact[rows] | (moved.length > _LEARN),
        )
        moved.theta, moved.gradient, moved.value = trial[rows], sweep.gradient[rows], value[rows]
        moved.precise[:] = precise
        self._reweigh(moved)
        self._aim(moved)
        finite = np.isfinite(moved.step).all(axis=1)
        moved.rejected[~finite] = _REJECTED
        done[rows] = finite & precise & (moved.length <= self.done)
        state.put(rows, moved)
        return done, sweep

    def _weighted_centre(self, index: Rows, b_g: Float) -> Float:
        """Return about the weighted mean of g at b_g; any value is correct, a near one better."""
        return np.asarray(self.centre_w[index] - b_g * self.var_w[index])

    def _reweigh(self, state: State) -> None:
        """Compute XᵀWX of variants whose weights have moved far, and rebuild their metric."""
        far = np.abs(state.theta[:, -1] - state.at) * self.reach[state.index] > _STRONG
        c, q = self.c, self.c + self.v
        rows = np.flatnonzero(far)
        if not len(rows):
            return
        C, D = self.C[state.index[rows]], self.D[state.index[rows]].copy()
        inverse = np.zeros((len(rows), q, q))
        for i, row in enumerate(rows):
            full = self._information(state.index[row], state.theta[row], observed=False)
            inverse[i, :c, :c] = np.linalg.inv(full[:c, :c])
            inverse[i, c:, c:] = np.linalg.inv(full[c + 1 : -1, c + 1 : -1])
            C[i, :c, 0], D[i, 0] = full[:c, c], full[c, c]
        chosen = state.keep(rows)
        chosen.metric = Metric.of(inverse, C, D, state.theta[rows, -1])
        # What was learnt belongs to other weights.
        chosen.rho[:] = 0.0
        state.put(rows, chosen)

    def _information(self, variant: np.intp, theta: Float, *, observed: bool) -> Float:
        """Return the information of one variant at θ exactly, order [X₀ g], [V₀ g].

        Notes
        -----
        JᵀJ − ½·[0, 0; 0, Vᵀdiag(e²)V] with e = W^½r and J = [W^½X, V∘e] is the observed one,
        diag(XᵀWX, ½VᵀV) the expected.
        """
        joint, c, v = self.design.joint, self.c, self.v
        total = np.zeros((c + v + 2,) * 2)
        for s in strips(len(joint.y)):
            g = self.tile.g[s, variant].astype(np.float64) - self.tile.centre[variant]
            called = ~np.isnan(g)
            g = np.where(called, g, 0.0)
            X, V = np.column_stack([joint.X[s], g]), np.column_stack([joint.V[s], g])
            root = called * np.exp(-0.5 * (V @ theta[[*range(c, c + v), -1]]))
            e = root * (joint.y[s] - X @ theta[[*range(c), -2]])
            X *= root[:, None]
            if observed:
                V *= e[:, None]
                total[: c + 1, c + 1 :] += X.T @ V
            else:
                V *= called[:, None]
            total[: c + 1, : c + 1] += X.T @ X
            total[c + 1 :, c + 1 :] += 0.5 * (V.T @ V)
        total[c + 1 :, : c + 1] = total[: c + 1, c + 1 :].T
        return total

    def _without_absent(self, variant: np.intp) -> tuple[Float, Float, float]:
        """Return X₀ᵀW₀X₀, ½V₀ᵀV₀ and Σw₀ over the people called for one variant."""
        design = self.design
        absent = np.flatnonzero(np.isnan(self.tile.g[:, variant]))
        X, V = design.joint.X[absent], design.joint.V[absent]
        w = np.exp(-(V @ design.joint.beta))
        n = len(design.joint.y)
        return (
            design.mean_information - X.T @ (X * w[:, None]),
            0.5 * (n * design.V_gram - V.T @ V),
            design.weight - float(w.sum()),
        )

    def report(self, state: State, sweep: Sweep, rows: Rows, inference: Inference) -> Estimates:
        """Take the last step of finished variants and put covariances on them.

        Parameters
        ----------
        state : State
            After :meth:`advance`.
        sweep : Sweep
            At `state.theta`, float64, with the cross products.
        rows : ndarray of int
            Of `state`.

        Notes
        -----
        The efficient information of a_g is I = gᵀWg − hᵀA⁻¹h, h = X₀ᵀWg, for any centre of g.
        Everything is exact but A = X₀ᵀWX₀, taken as σ·X₀ᵀW₀X₀ with σ = Σw/Σw₀. Where weights
        moved by factors within e^±ρ of σ, e^−ρ A₀ ≤ A/σ ≤ e^ρ A₀, and the people without a call
        add a factor 1/(1 − their leverage): the error of I is at most hᵀ(σA₀)⁻¹h times that less
        one; where these are too many, they are taken out of A₀ exactly. ρ is estimated by the
        reach of b_g·g plus three standard deviations of the
        covariates' part. Where the estimate exceeds `_SE` of I, A is computed exactly. With g at
        its weighted mean, h is small unless g is correlated with covariates.
        """
        out = Estimates.empty(len(rows))
        index = state.index[rows]
        theta, step = state.theta[rows], state.step[rows]
        final = theta + step
        c = self.c
        out.status[:] = Status.OK
        out.add[:], out.var[:] = final[:, -2], final[:, -1]
        # The last step raises log L by half the square of its length.
        value = state.value[rows] - 0.5 * state.length[rows] ** 2
        out.log_likelihood[:] = -value - 0.5 * self.people[index] * np.log(2 * np.pi)

        at = self._weighted_centre(index, theta[:, -1])
        w, wg, wgg = sweep.moments[:, rows]
        own = wgg - 2 * at * wg + at**2 * w
        h = sweep.Xwg[rows]
        explained = np.einsum("mi,ij,mj->m", h, self.design.mean, h) * (self.design.weight / w)
        C = self.C[index, c:, 1]
        called = self.people[index] / len(self.design.joint.y)
        own_b, explained_b = (
            self.D[index, 1],
            np.einsum("mi,ij,mj->m", C, self.design.variance, C) / called,
        )
        change = theta - self.design.null
        change[:, -1] = 0.0
        rho = 3 * self._jump(index, change) + np.abs(theta[:, -1]) * self.reach[index]
        kept = np.maximum(1 - self.lost[index], 1e-3)

        def error() -> Float:
            # Approximate blocks may explain more than there is: then nothing is bounded.
            left, left_b = own - explained, own_b - explained_b
            bound: Float = np.maximum(
                explained * (np.exp(rho) / kept - 1) / left,
                explained_b * (1 / kept - 1) / left_b,
            )
            bound[(left <= 0) | (left_b <= 0)] = np.inf
            return bound

        for i in np.flatnonzero((called < 1) & ~(error() <= _SE)):
            mean, variance, weight = self._without_absent(index[i])
            explained[i] = h[i] @ np.linalg.solve(mean, h[i]) * weight / w[i]
            explained_b[i] = C[i] @ np.linalg.solve(variance, C[i])
            kept[i] = 1.0
        out.add_variance[:] = 1 / (own - explained)
        out.var_variance[:] = 1 / (own_b - explained_b)
        out.add_var_covariance[:] = 0.0
        for i in np.flatnonzero(~(error() <= _SE) | inference.observed):
            full = self._information(index[i], final[i], observed=inference.observed)
            covariance = np.linalg.inv(full)
            out.add_variance[i], out.var_variance[i] = covariance[c, c], covariance[-1, -1]
            out.add_var_covariance[i] = covariance[c, -1]
            if covariance[c, c] <= 0 or covariance[-1, -1] <= 0:
                out.status[i] = Status.PENDING
        return out


_PER_VARIANT = ("rows", "C", "D", "gradient", "value", "V_sum", "lost", "centre_w", "var_w")
