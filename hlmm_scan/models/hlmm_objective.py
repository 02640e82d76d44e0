"""The HLMM's likelihood and derivatives, for `HLMM.fit` and for anything that minimises itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.linalg import solve_triangular

from hlmm_scan.array_types import Float
from hlmm_scan.models.hlm import profile_hessian, vanishing_variance, weighted_basis
from hlmm_scan.models.lowrank import LowRankCovariance

_SMALL_RANDOM_VARIANCE = 0.3
"""Standardised h2 below which the size of a step is no longer relative to h2."""


@dataclass(frozen=True)
class HLMMObjective:
    """(−2·log L)/n − log 2π of an HLMM as a function of (b, h2), mean effects profiled out.

    Inputs are used as they are: nothing is checked, scaled or copied.

    Attributes
    ----------
    y : ndarray, shape (n,)
    X : ndarray, shape (n, c)
    V : ndarray, shape (n, v)
    G : ndarray, shape (n, l), row-major
    offset : float
        Added to every log-variance.
    unit : float
        G is divided by it, so h2 is multiplied by its square.
    """

    y: Float
    X: Float
    V: Float
    G: Float
    offset: float = 0.0
    unit: float = 1.0

    @cached_property
    def constant(self) -> list[float | None]:
        """Value of each constant column of V, None for the others."""
        return [float(c[0]) if (c == c[0]).all() else None for c in self.V.T]

    def at(self, theta: Float, alpha: Float | None = None) -> HLMMEvaluation:
        """Evaluate at (b, h2) = `theta`, shape (v + 1,), with a at its maximum or at `alpha`.

        Raises
        ------
        numpy.linalg.LinAlgError
            If a log-variance lies outside ±600, or the columns of X are collinear.
        """
        return HLMMEvaluation(self, theta, alpha)

    def step_size(self, theta: Float, step: Float) -> float:
        """Largest change of a log-variance, or of h2 relative to h2 or 0.3."""
        return step_size(self.V, theta, step)


def step_size(V: Float, theta: Float, step: Float) -> float:
    """Largest change of a log-variance, or of h2 relative to h2 or 0.3."""
    log_variance = float(np.abs(V @ step[:-1]).max())
    return max(log_variance, float(abs(step[-1]) / max(theta[-1], _SMALL_RANDOM_VARIANCE)))


class Problem(Protocol):
    """The data of an objective with random effects, whatever these are given as."""

    @property
    def y(self) -> Float:
        """Phenotype, shape (n,)."""

    @property
    def X(self) -> Float:
        """Mean design, shape (n, c)."""

    @property
    def V(self) -> Float:
        """Log-variance design, shape (n, v)."""

    @property
    def offset(self) -> float:
        """Added to every log-variance."""


class Covariance(Protocol):
    """Σ = D + h2·GGᵀ at one D and h2, in coordinates whitened by D^-½."""

    root: Float
    log_det: float

    def whiten(self, M: Float) -> Float:
        """Return D^-½M."""

    def quadratic(self, M_white: Float) -> Float:
        """Return MᵀΣ⁻¹M of a whitened M."""

    @property
    def leverage(self) -> Float:
        """p, shape (n,)."""


class RandomEffectEvaluation(ABC):
    """Value and derivatives of an HLMM's objective at one point, computed as they are asked for.

    Notes
    -----
    In the whitened coordinates of `LowRankCovariance`, with r = D^-½(y − Xa), t = Qᵀr,
    u = C⁻ᵀt = GᵀΣ⁻¹(y − Xa), e = r − h2·D^-½Gu, p the row sums of Q²:

        f      = log det Σ + eᵀe + h2·uᵀu          (a sum of positives equal to rᵀΣ⁻¹r)
        ∂f/∂b  = Vᵀ(1 − h2·p − e²)
        ∂f/∂h2 = Σp − uᵀu

    Every second derivative has a part 2JᵀΣ⁻¹J, where the columns of J are X for a and
    (∂Σ/∂θ)Σ⁻¹(y − Xa) for θ = b, h2, whitened V∘e and D^-½Gu. The rest, in the (b, h2) block, is

        bb: −T + Vᵀdiag(1 − h2·p − e²)V       bh: −τ       hh: −‖S‖²
        T_ab = Σᵢ V_ia V_ib (1 − 2h2·pᵢ) + h2²·⟨M_a, M_b⟩,   M_a = Qᵀdiag(V_a)Q
        τ_a  = tr M_a − h2·⟨M_a, S⟩ = Σᵢ V_ia·D_i·‖(Σ⁻¹G)ᵢ‖²

    and half of XᵀΣ⁻¹X (twice), T, τ, ‖S‖² makes the expected information of log L
    (math.md §1; derived there for the unwhitened quantities).
    """

    alpha: Float
    residual_white: Float
    random_white: Float

    def __init__(self, objective: Problem, theta: Float, alpha: Float | None) -> None:
        self.objective = objective
        self.h2 = float(theta[-1])
        self.log_variance = objective.offset + objective.V @ theta[:-1]
        self.covariance = self._make_covariance()
        self.X_white = self.covariance.whiten(objective.X)
        self.random_square = self._predict(alpha)
        quadratic = self.residual_white @ self.residual_white + self.h2 * self.random_square
        self.value = float(self.covariance.log_det + quadratic) / len(objective.y)

    @abstractmethod
    def _make_covariance(self) -> Covariance:
        """Factorise Σ."""

    @abstractmethod
    def _predict(self, alpha: Float | None) -> float:
        """Work out a, e and D^-½Gu, and return uᵀu."""

    @property
    @abstractmethod
    def _traces(self) -> Float:
        """T, τ and ‖S‖² as one symmetric matrix, shape (v + 1, v + 1)."""

    @cached_property
    def _variance_score(self) -> Float:
        """1 − k/D, shape (n,): the gradient with respect to each log-variance."""
        return np.asarray(1 - self.h2 * self.covariance.leverage - self.residual_white**2)

    @cached_property
    def gradient(self) -> Float:
        """Gradient of `value` with respect to (b, h2), shape (v + 1,)."""
        by_b = self._variance_score @ self.objective.V
        by_h2 = self.covariance.leverage.sum() - self.random_square
        return np.append(by_b, by_h2) / len(self.log_variance)

    @cached_property
    def observed(self) -> Float:
        """Observed information of log L, order a, b, h2; shape (c + v + 1, c + v + 1)."""
        V, c = self.objective.V, self.X_white.shape[1]
        J = np.column_stack(
            (self.X_white, V * self.residual_white[:, np.newaxis], self.random_white)
        )
        information = self.covariance.quadratic(J)
        information[c:, c:] -= 0.5 * self._traces
        information[c:-1, c:-1] += 0.5 * (V.T * self._variance_score) @ V
        return information

    @cached_property
    def expected(self) -> Float:
        """Expected information of log L, order a, b, h2; shape (c + v + 1, c + v + 1)."""
        c, size = self.X_white.shape[1], len(self._traces)
        information = np.zeros((c + size, c + size))
        information[:c, :c] = self.covariance.quadratic(self.X_white)
        information[c:, c:] = 0.5 * self._traces
        return information

    @property
    def hessian(self) -> Float:
        """Hessian of `value` with respect to (b, h2), shape (v + 1, v + 1)."""
        return profile_hessian(self.observed, self.X_white.shape[1], len(self.X_white))

    @property
    def scoring_hessian(self) -> Float:
        """Expected information of (b, h2) in the scale of `hessian`."""
        return self._traces / len(self.X_white)

    @property
    def vanishing(self) -> float:
        """Smallest residual variance of a person without residual."""
        return vanishing_variance(self.log_variance, self.residual_white * self.covariance.root)


class HLMMEvaluation(RandomEffectEvaluation):
    """A :class:`RandomEffectEvaluation` by products with the design of the random effects."""

    objective: HLMMObjective
    covariance: LowRankCovariance

    def _make_covariance(self) -> LowRankCovariance:
        problem = self.objective
        return LowRankCovariance(self.log_variance, problem.G, self.h2, problem.unit)

    def _predict(self, alpha: Float | None) -> float:
        cov, problem = self.covariance, self.objective
        if alpha is None:
            self.alpha, residual, projected = self._profile_mean(cov.whiten(problem.y))
        else:
            self.alpha = alpha
            residual = cov.whiten(problem.y - problem.X @ alpha)
            projected = cov.project(residual)
        u = cov.back(projected)
        self.random_white = cov.G_white @ u
        self.residual_white = residual - self.h2 * self.random_white
        return float(u @ u)

    def _profile_mean(self, y_white: Float) -> tuple[Float, Float, Float]:
        """Return the generalised least-squares mean effects, whitened residuals r, and Qᵀr.

        With D^-½X = UR, the weighted least-squares fit U·Uᵀy is corrected by Uδ, where δ solves
        (I − h2·PᵀP)δ = −h2·PᵀQᵀr₀, P = QᵀU and r₀ are that fit's residuals.
        """
        cov = self.covariance
        U, R = weighted_basis(self.X_white)
        coefficients = U.T @ y_white
        residual = y_white - U @ coefficients
        P = cov.project(np.column_stack((U, residual)))
        P, t = P[:, :-1], P[:, -1]
        delta = np.linalg.solve(np.eye(len(R)) - self.h2 * (P.T @ P), -self.h2 * (P.T @ t))
        alpha = solve_triangular(R, coefficients + delta, check_finite=False)
        return np.asarray(alpha), residual - U @ delta, t - P @ delta

    @cached_property
    def _traces(self) -> Float:
        cov, V, h2 = self.covariance, self.objective.V, self.h2
        p = cov.leverage
        # M_a is a multiple of S for a constant column: only the other products are made.
        products = [cov.S]
        combination = np.zeros((V.shape[1] + 1, V.shape[1] + 1))
        combination[-1, 0] = 1.0
        for a, constant in enumerate(self.objective.constant):
            if constant is not None:
                combination[a, 0] = constant
            else:
                combination[a, len(products)] = 1.0
                products.append(cov.weighted(V[:, a]))
        combination = combination[:, : len(products)]
        # The products are symmetric, so the order of their elements in memory does not matter.
        flat = [product.ravel(order="K") for product in products]
        inner = combination @ np.array([[f @ g for f in flat] for g in flat]) @ combination.T
        traces = np.empty(inner.shape)
        traces[:-1, :-1] = (V.T * (1 - 2 * h2 * p)) @ V + h2**2 * inner[:-1, :-1]
        traces[:-1, -1] = traces[-1, :-1] = p @ V - h2 * inner[:-1, -1]
        traces[-1, -1] = inner[-1, -1]
        return traces
