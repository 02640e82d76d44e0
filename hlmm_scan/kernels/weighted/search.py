"""The way of many variants from the null fit to their maximum, by quasi-Newton steps.

Variants ride on a tile of fixed width: those that are done make room for the next in the queue. So
every product has the same shape always, and a variant's numbers do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Bool, Float
from hlmm_scan.kernels.covariances import put_covariance
from hlmm_scan.kernels.estimates import Estimates
from hlmm_scan.kernels.limits import EXACT_DISTANCE, MAX_STEP_OF_METRIC
from hlmm_scan.kernels.weighted.basis import WeightedBasis
from hlmm_scan.kernels.weighted.exact import ExactDeterminant
from hlmm_scan.kernels.weighted.likelihood import Evaluation, Tile, evaluate
from hlmm_scan.kernels.weighted.report import Finished, covariances
from hlmm_scan.kernels.weighted.start import Start
from hlmm_scan.models.inference import covariance_from_information, neg_log10_p
from hlmm_scan.schema import Status

Rows = NDArray[np.intp]
Genotypes = Callable[[Rows], Float]
"""Gives the genotypes of some variants, shape (m, n), NaN where missing."""

WIDTH = 64
"""Variants fitted abreast."""

GROUP = 32
"""Variants that are begun, and reported, at once."""


_MAX_EVALUATIONS = 60
_MAX_CORRECTIONS = 8
_LEFT = 0.2  # of the tolerance that the last step may be long: it leaves a fraction of itself
_FURTHER = 5  # times as far, the prediction of all random effects together may be away
_MOVED = 1e-3  # log-variance units that b_g may be from where the determinant was last exact
_CONTRACTION = 0.1  # of the way made that the next correction may still be long, where not known
_CURVATURE = 0.1  # of what the metric expects that a step must show to be learnt from
_CANCELLED = 2e-3  # of the second order's diagonal, taken for what cancels off it
_DIFFERENCE = 0.1  # standard errors between the gradients that make the observed information


@dataclass(frozen=True)
class Demands:
    """What a search is to bring home.

    Attributes
    ----------
    tolerance : float
        Largest estimated distance of the variance effect from the exact one, in standard errors,
        that is left as it is.
    exact_beyond : float
        −log10 p of any test beyond which a fit is made exact.
    observed, sandwich : bool
        As in :class:`~hlmm_scan.kernels.estimates.Inference`.
    held : tuple of bool, optional
        Whether additive and variance effect are held at 0. No covariances then.
    exactly : ndarray of bool, shape (m,), optional
        Which variants are made exact, whatever the other demands, where effects are held.
    """

    tolerance: float
    exact_beyond: float
    observed: bool = False
    sandwich: bool = False
    held: tuple[bool, bool] | None = None
    exactly: Bool | None = None


@dataclass
class _Places:
    """Where the variant in each row of a tile stands."""

    index: Rows  # variant, −1 where there is none
    running: Bool
    failed: Bool
    held: Bool  # h2 at 0
    theta: Float
    gradient: Float  # of the approximate function
    value: Float
    step: Float
    length: Float  # of the step, in standard errors
    hessian: Float
    tilt: Float  # exact less approximate gradient of the determinant
    at: Float  # where the tilt was taken
    offset: Float  # exact less approximate value there
    moved: Float  # way between the last two corrections, in standard errors
    target: Float  # standard errors that the next correction may still move
    error: Float  # standard error of b_g, where it is wanted
    corrections: Rows
    evaluations: Rows
    people: Float
    reach: Float

    @classmethod
    def empty(cls, m: int, p: int) -> _Places:
        def numbers(*shape: int) -> Float:
            return np.zeros((m, *shape))

        return cls(
            index=np.full(m, -1, np.intp),
            running=np.zeros(m, bool),
            failed=np.zeros(m, bool),
            held=np.zeros(m, bool),
            theta=numbers(p),
            gradient=numbers(p),
            value=numbers(),
            step=numbers(p),
            length=numbers(),
            hessian=np.tile(np.eye(p), (m, 1, 1)),
            tilt=numbers(p),
            at=numbers(p),
            offset=numbers(),
            moved=numbers(),
            target=numbers(),
            error=numbers(),
            corrections=np.zeros(m, np.intp),
            evaluations=np.zeros(m, np.intp),
            people=numbers(),
            reach=numbers(),
        )


class Search:
    """The search of all variants of one left-out chromosome.

    Parameters
    ----------
    basis : WeightedBasis
    genotypes : callable
    demands : Demands

    Attributes
    ----------
    corrected : ndarray of bool, shape (m,)
        Variants whose determinant has been made exact.
    """

    def __init__(self, basis: WeightedBasis, genotypes: Genotypes, demands: Demands) -> None:
        self.basis, self.genotypes, self.demands = basis, genotypes, demands
        self.fixed = demands.held or (False, False)
        self.left = _LEFT * float(np.clip(demands.tolerance, 1e-3, 1e-2))
        self.c, self.h = basis.X.shape[1], basis.X.shape[1] + basis.V.shape[1]
        self.p = self.h + 3
        self.V_gram = basis.V.T @ basis.V / basis.n
        single = basis.columns.dtype == np.float32
        self.rounding = (1e-8 if single else 1e-11) * basis.n
        self.least_learnt = 1e-3 if single else 1e-6
        self.tile = Tile.empty(basis, WIDTH)
        self.places = _Places.empty(WIDTH, self.p)
        self.places.theta[:, : self.h + 1] = basis.theta
        self.determinants: dict[int, ExactDeterminant] = {}
        self.corrected = np.zeros(0, bool)

    def run(self, m: int) -> Estimates:
        """Fit variants 0 … m − 1; PENDING where a search did not end."""
        estimates, places, at = Estimates.empty(m), self.places, 0
        self.corrected = np.zeros(m, bool)
        while True:
            idle = np.flatnonzero(~places.running)
            if len(idle) >= GROUP or not places.running.any():
                ready = idle[places.index[idle] >= 0]
                for start in range(0, len(ready), GROUP):
                    self._report(ready[start : start + GROUP], estimates)
                while at < m and len(idle) >= GROUP:
                    rows = np.arange(at, min(at + GROUP, m))
                    self._begin(idle[:GROUP], rows)
                    idle, at = idle[GROUP:], at + len(rows)
                if at >= m and not places.running.any() and (places.index < 0).all():
                    return estimates
            if places.running.any():
                self._advance()

    def _begin(self, at: Rows, variants: Rows) -> None:
        """Put the next variants of the queue into rows of the tile."""
        places, tile, basis = self.places, self.tile, self.basis
        start = Start.of(basis, self.genotypes(variants), GROUP)
        tile.g[at], tile.called[at] = start.g, start.called
        tile.random[at] = 0.0
        tile.beta[:, at] = 0.0
        tile.excess[at] = start.excess
        places.index[at] = -1
        places.index[at[: len(variants)]] = variants
        places.theta[at] = np.append(basis.theta, [0.0, 0.0])
        places.failed[at] = ~start.usable
        places.running[at] = start.usable & (places.index[at] >= 0)
        places.gradient[at], places.value[at] = start.gradient, np.inf
        places.hessian[at] = start.information
        places.people[at], places.reach[at] = start.people, start.reach
        for name in ("tilt", "offset", "corrections", "evaluations", "held"):
            getattr(places, name)[at] = 0
        places.moved[at] = np.inf
        self._aim(at)
        # A first step, from a gradient that is but nearly that at the null, is not the last.
        places.length[at] = np.inf

    def _aim(self, at: Rows) -> None:
        """Set the next step from the gradient."""
        places, h = self.places, self.h
        theta, B = places.theta[at], places.hessian[at]
        gradient = places.gradient[at] + places.tilt[at]
        held = (theta[:, h] <= 0) & (gradient[:, h] >= 0)
        fixed = np.zeros((len(at), self.p), bool)
        fixed[:, h] = held
        fixed[:, h + 1 :] = self.fixed
        step, length = _newton(B, gradient, fixed, np.zeros(len(at)), h)
        crossing = ~held & (theta[:, h] + step[:, h] < 0)
        if crossing.any():
            fixed[crossing, h] = True
            onto_bound = np.where(crossing, -theta[:, h], 0.0)
            step[crossing] = _newton(B, gradient, fixed, onto_bound, h)[0][crossing]
        b = step[:, self.c : h]
        jump = np.sqrt(np.maximum(np.einsum("mi,ij,mj->m", b, self.V_gram, b), 0))
        jump += np.abs(step[:, -1]) * places.reach[at]
        step *= np.minimum(1.0, MAX_STEP_OF_METRIC / np.maximum(jump, 1e-300))[:, None]
        places.step[at], places.length[at], places.held[at] = step, length, held

    def _advance(self) -> None:
        """Try every step, and decide what to do next."""
        places = self.places
        trial = places.theta + np.where(places.running[:, None], places.step, 0.0)
        trial[:, self.h] = np.maximum(trial[:, self.h], 0.0)
        found = evaluate(self.basis, self.tile, trial, places.running)
        running = np.flatnonzero(places.running)
        places.evaluations[running] += 1
        value = found.value + np.einsum("mp,mp->m", places.tilt, trial - places.at)
        with np.errstate(invalid="ignore"):
            good = np.isfinite(found.gradient).all(axis=1)
            good &= value <= places.value + self.rounding
        places.step[running[~good[running]]] *= 0.5
        moved = running[good[running]]
        self._learn(moved, found)
        places.theta[moved], places.value[moved] = trial[moved], value[moved]
        places.gradient[moved] = found.gradient[moved]
        self._aim(moved)
        finite = np.isfinite(places.step[moved]).all(axis=1)
        self._fail(moved[~finite])
        corrected = places.corrections[moved] > 0
        allowed = np.where(
            corrected, np.minimum(_LEFT * places.target[moved], self.left), self.left
        )
        close = (places.length[moved] <= allowed) & (found.distance[moved] <= _FURTHER * allowed)
        for at in moved[close & finite]:
            self._arrived(int(at), found)
        self._fail(running[places.evaluations[running] >= _MAX_EVALUATIONS])

    def _fail(self, at: Rows) -> None:
        late = at[self.places.running[at]]
        self.places.failed[late] = True
        self.places.running[late] = False

    def _learn(self, at: Rows, found: Evaluation) -> None:
        """Mend the Hessian so that it explains how the gradient changed (BFGS)."""
        places = self.places
        at = at[np.isfinite(places.value[at]) & (places.length[at] > self.least_learnt)]
        s, B = places.step[at], places.hessian[at]
        y = found.gradient[at] - places.gradient[at]
        Bs = np.einsum("mij,mj->mi", B, s)
        expected, seen = np.einsum("mi,mi->m", s, Bs), np.einsum("mi,mi->m", s, y)
        usable = (seen > _CURVATURE * expected) & (expected > 0)
        at, y, Bs, expected, seen = (x[usable] for x in (at, y, Bs, expected, seen))
        places.hessian[at] += y[:, :, None] * y[:, None, :] / seen[:, None, None]
        places.hessian[at] -= Bs[:, :, None] * Bs[:, None, :] / expected[:, None, None]

    def _arrived(self, at: int, found: Evaluation) -> None:
        """Correct the determinant of a variant at its maximum, or be done with it."""
        places, h = self.places, self.h
        if places.corrections[at]:
            way = places.theta[at] - places.at[at]
            moved = float(np.sqrt(max(way @ places.hessian[at] @ way, 0.0)))
            before, places.moved[at] = float(places.moved[at]), moved
            rate = min(moved / before, 1.0) if np.isfinite(before) else _CONTRACTION
            enough = moved * rate <= places.target[at]
            # Standard errors are of that point, and where b_g has a large one they change with it.
            enough = enough and moved * places.error[at] <= _MOVED
        else:
            enough = self._suffices(at, found)
        if enough or places.theta[at, h] <= 0:
            places.running[at] = False
            return
        exact = None
        if places.corrections[at] < _MAX_CORRECTIONS:
            weight = self.tile.weight[at].astype(np.float64)
            g, h2 = self.tile.g[at].astype(np.float64), float(places.theta[at, h])
            exact = ExactDeterminant.of(self.basis, weight, h2, g)
        if exact is None:
            self._fail(np.array([at]))
            return
        self.determinants[at] = exact
        change = weight * (exact.leverage - self.tile.leverage[at] - found.psi[at])
        by_h2 = float(weight @ exact.leverage)
        tilt = np.zeros(self.p)
        tilt[self.c : h] = -0.5 * h2 * (change @ self.basis.V)
        tilt[-1] = -0.5 * h2 * (change @ g)
        tilt[h] = 0.5 * (by_h2 - found.mean_weight[at] * found.by_kappa[at])
        places.tilt[at], places.at[at] = tilt, places.theta[at]
        places.offset[at] = 0.5 * (exact.log_det - found.determinant[at])
        places.value[at] = found.value[at]
        places.corrections[at] += 1
        places.evaluations[at] = 0
        self._aim(np.array([at]))

    def _suffices(self, at: int, found: Evaluation) -> bool:
        """Say whether the approximate determinant will do, and set how exact it is to be if not."""
        places, h, demands = self.places, self.h, self.demands
        if demands.held is not None:
            places.target[at] = demands.tolerance
            return demands.exactly is None or not demands.exactly[places.index[at]]
        free = [*range(h), *([] if places.held[at] else [h]), h + 1, h + 2]
        C = np.linalg.inv(places.hessian[at][np.ix_(free, free)])
        variances = np.diag(C)[-2:]
        if not (variances > 0).all():
            self._fail(np.array([at]))
            return True
        chi2 = places.theta[at, h + 1 :] ** 2 / variances
        places.error[at] = np.sqrt(variances[1])
        bound = 0.5 * determinant_error(self.basis, self.tile, found, at) * places.error[at]
        interesting = max(*neg_log10_p(chi2, 1), neg_log10_p(chi2.sum(), 2)) > demands.exact_beyond
        exactly = interesting or demands.tolerance < EXACT_DISTANCE
        places.target[at] = EXACT_DISTANCE if exactly else 0.1 * demands.tolerance
        return bool(bound <= demands.tolerance) and not interesting

    def _report(self, at: Rows, estimates: Estimates) -> None:
        """Put finished variants into their rows, and empty their places."""
        places, h = self.places, self.h
        good = at[~places.failed[at]]
        if len(good):
            found = Estimates.empty(len(good))
            final = places.theta[good] + places.step[good]
            final[:, h] = np.maximum(final[:, h], 0.0)
            found.random_variance[:], found.add[:], found.var[:] = final[:, h:].T
            # The last step raises log L by half the square of its length.
            value = places.value[good] + places.offset[good] - 0.5 * places.length[good] ** 2
            found.log_likelihood[:] = -value - 0.5 * places.people[good] * np.log(2 * np.pi)
            found.status[:] = np.where(places.held[good], Status.RANDOM_VARIANCE_AT_ZERO, Status.OK)
            if self.demands.held is None:
                finished = Finished(
                    rows=np.resize(good, GROUP),
                    theta=np.resize(places.theta[good], (GROUP, self.p)),
                    held=np.resize(places.held[good], GROUP),
                    exact=[self.determinants.pop(int(k), None) for k in good],
                )
                covariances(self.basis, self.tile, finished, found, self.demands.sandwich)
                if self.demands.observed:
                    self._observe(good, found)
            estimates.put(places.index[good], found)
            self.corrected[places.index[good]] = places.corrections[good] > 0
        places.index[at] = -1

    def _observe(self, good: Rows, found: Estimates) -> None:
        """Replace the model covariance by that of the observed information, from differences.

        The tile's other variants are put back where they were.
        """
        places, h, p = self.places, self.h, self.p
        start = places.theta.copy()
        moving = np.isin(np.arange(len(start)), good)
        before = self.tile.beta.copy(), self.tile.random.copy()
        gradients = []
        error = 1 / np.sqrt(np.maximum(np.einsum("mii->mi", places.hessian), 1e-300))
        for k in range(p):
            ends = []
            for sign in (1.0, -1.0):
                trial = start.copy()
                away = sign * _DIFFERENCE * error[good, k]
                if k == h:
                    away = np.maximum(away, -start[good, h])
                trial[good, k] += away
                for _ in range(_MAX_EVALUATIONS):
                    result = evaluate(self.basis, self.tile, trial, moving)
                    if (result.distance[good] <= 1e-3 * _DIFFERENCE).all():
                        break
                ends.append((trial[good, k], result.gradient[good]))
            (high, above), (low, below) = ends
            gradients.append((above - below) / (high - low)[:, None])
        self.tile.beta, self.tile.random = before
        information = np.stack(gradients, axis=1)
        information = 0.5 * (information + information.transpose(0, 2, 1))
        for k, at in enumerate(good):
            free = [*range(h), *([] if places.held[at] else [h]), h + 1, h + 2]
            C = covariance_from_information(information[k][np.ix_(free, free)])
            if np.isnan(C).any():
                found.status[k] = Status.PENDING
            put_covariance(found, k, "", C[-2, -2], C[-1, -1], C[-2, -1])
            if not places.held[at]:
                found.random_variance_variance[k] = C[-3, -3]


def determinant_error(basis: WeightedBasis, tile: Tile, found: Evaluation, at: int) -> float:
    """Estimate how far the approximate ∂(log det Λ)/∂b_g is from the exact one.

    Parameters
    ----------
    basis : WeightedBasis
    tile : Tile
    found : Evaluation
    at : int
        Row of the tile.

    Notes
    -----
    With q = |κ²δ'ᵀ(S∘S − R²)δ'|, what people who are alike in H and in δ make of the second order,
    and a little of κ²ΣR²δ'² since that sum may cancel, the third order is taken to be at most
    ½q^1.5, as exact fits of mice and of families show; so is what a change of κ does to the shape
    of S∘S, in proportion. ∂δ/∂b_g is as large against δ as a
    genotype's deviation against that of δ. Where pairs are not stored, Hutchinson's estimate of
    gᵀ(S∘S)g has a relative error of 2/√r for one probe, three times which is allowed for.
    """
    own = float(found.own[at])
    q = abs(float(found.pairs[at])) + _CANCELLED * own
    error = 0.5 * q**1.5 + 0.3 * abs(float(found.scale[at]) - 1) * q
    if basis.pairs is None:
        probes = len(basis.values) * basis.probes.shape[1]
        error += 6 / np.sqrt(probes) * (own + q)
    spread = np.sqrt(max(float(found.spread[at]) / basis.n, 1e-300))
    return float(error * tile.g[at].std(dtype=np.float64) / spread)


def _newton(B: Float, gradient: Float, fixed: Bool, h2_step: Float, h: int) -> tuple[Float, Float]:
    """Solve for steps in which fixed coordinates do not move, but for that of h2; and lengths."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1 / np.sqrt(np.einsum("mii->mi", B))
        scaled = B * scale[:, :, None] * scale[:, None, :]
        right = -(gradient + B[:, :, h] * h2_step[:, None]) * scale
    free, identity = ~fixed, np.eye(gradient.shape[1])
    scaled = np.where(free[:, :, None] & free[:, None, :], scaled, identity)
    right = np.where(free, right, 0.0)
    bad = ~(np.isfinite(scaled).all(axis=(1, 2)) & np.isfinite(right).all(axis=1))
    scaled[bad] = identity
    solution = np.linalg.solve(scaled, right[:, :, None])[:, :, 0]
    with np.errstate(invalid="ignore"):
        length = np.sqrt(np.maximum(np.einsum("mp,mp->m", solution, right), 0.0))
    step = solution * scale
    step[:, h] = np.where(fixed[:, h], h2_step, step[:, h])
    return step, length
