"""The HLMM's likelihood and derivatives by n×n matrices, for many random effects.

Where there are half as many random effects as people or more, products with the design G cost more
than the inverse of a matrix over people. `hlmm_objective` has the other way, and the formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dsymm, dtrsm

from hlmm_scan.array_types import Float
from hlmm_scan.models.hlm import weighted_basis
from hlmm_scan.models.hlmm_objective import RandomEffectEvaluation, step_size
from hlmm_scan.models.lapack import cholesky_in_place, inverse_in_place
from hlmm_scan.models.lowrank import root_variance

_STRIP = 256
"""Rows that are worked on at a time, so that they stay in cache."""

_LITTLE = 1e-6
"""h2·tr(D⁻¹K)/n below which (I − M)/h2 would lose too many digits."""


def by_relationship(n: int, n_random: int) -> bool:
    """Say whether n×n matrices are the cheaper way to a fit of l random effects."""
    return 2 * n_random > n


@dataclass(frozen=True)
class RelationshipObjective:
    """As :class:`~hlmm_scan.models.hlmm_objective.HLMMObjective`, of K = GGᵀ in place of G.

    Attributes
    ----------
    y : ndarray, shape (n,)
    X : ndarray, shape (n, c)
    V : ndarray, shape (n, v)
    K : ndarray, shape (n, n)
    offset : float
        Added to every log-variance.
    unit : float
        K is divided by its square, so h2 is multiplied by it.
    """

    y: Float
    X: Float
    V: Float
    K: Float
    offset: float = 0.0
    unit: float = 1.0

    def at(self, theta: Float, alpha: Float | None = None) -> RelationshipEvaluation:
        """Evaluate at (b, h2) = `theta`, shape (v + 1,), with a at its maximum or at `alpha`.

        Raises
        ------
        numpy.linalg.LinAlgError
            If a log-variance lies outside ±600, or the columns of X are collinear.
        """
        return RelationshipEvaluation(self, theta, alpha)

    def step_size(self, theta: Float, step: Float) -> float:
        """Largest change of a log-variance, or of h2 relative to h2 or 0.3."""
        return step_size(self.V, theta, step)


class RelationshipCovariance:
    """Σ = D + h2·K at one D and h2, in coordinates whitened by D^-½.

    Parameters
    ----------
    log_variance : ndarray, shape (n,)
        log diag D.
    K : ndarray, shape (n, n)
    h2 : float
        Variance of the random effects, ≥ 0.
    unit : float, default 1
        K is divided by its square; spares a scaled copy.

    Attributes
    ----------
    root : ndarray, shape (n,)
        D^½.
    log_det : float
        log det Σ.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a variance leaves the range of float64, or Σ is not positive definite numerically.

    Notes
    -----
    With W = D^-½KD^-½, B = I + h2·W = CCᵀ (Cholesky) and M = B⁻¹ = D^½Σ⁻¹D^½, all that the
    derivatives take of the random effects is M: A = QQᵀ of `LowRankCovariance` is (I − M)/h2, so

        p = (1 − Mᵢᵢ)/h2      T = Vᵀ(M∘M)V      ‖S‖² = ‖A‖²      τ = Vᵀdiag(AM).

    The sums over pairs of people leave out i = j, so that no digits cancel before they are divided
    by h2²; where h2 is too little even so, A is made. C costs n³/3 operations and M twice that. B,
    C and M take one another's place in memory: fresh pages cost nearly as much as C does.
    """

    def __init__(self, log_variance: Float, K: Float, h2: float, unit: float = 1.0) -> None:
        self.h2 = h2
        self.root = root_variance(log_variance)
        self._K = K
        self._scale = 1 / (self.root * unit)
        self._variances = np.diag(K) * self._scale**2
        self._lower = self._lower_of_B()
        cholesky_in_place(self._lower)
        self._inverted = False
        self.log_det = float(log_variance.sum() + 2 * np.log(np.diag(self._lower)).sum())

    def _lower_of_B(self) -> Float:
        """B, of which only the lower triangle is valid."""
        B, scale = np.empty_like(self._K), self._scale
        for rows in self._strips():
            strip = B[rows, : rows.stop]
            np.multiply(self._K[rows, : rows.stop], self.h2 * scale[: rows.stop], out=strip)
            strip *= scale[rows, np.newaxis]
        B.flat[:: len(B) + 1] += 1.0
        return B

    def _strips(self) -> Iterator[slice]:
        n = len(self.root)
        for start in range(0, n, _STRIP):
            yield slice(start, min(start + _STRIP, n))

    @property
    def inverse(self) -> Float:
        """M, shape (n, n), of which only the lower triangle is valid."""
        if not self._inverted:
            inverse_in_place(self._lower)
            self._inverted = True
        return self._lower

    def whiten(self, M: Float) -> Float:
        """Return D^-½M for M of shape (n,) or (n, k)."""
        return M / (self.root if M.ndim == 1 else self.root[:, np.newaxis])

    def random(self, e: Float) -> Float:
        """Return We, shape (n,)."""
        return np.asarray(self._scale * (self._K @ (self._scale * e)))

    def solve(self, M_white: Float) -> Float:
        """Return B⁻¹M for M of shape (n, k): by C, until M has taken its place."""
        # BLAS takes row-major arrays as transposed.
        if self._inverted:
            return np.asarray(dsymm(1.0, self._lower.T, M_white, lower=0))
        half = dtrsm(1.0, self._lower.T, M_white, lower=0, trans_a=1)
        return np.asarray(dtrsm(1.0, self._lower.T, half, lower=0, overwrite_b=1))

    def quadratic(self, M_white: Float) -> Float:
        """Return MᵀΣ⁻¹M, shape (k, k), of a whitened M of shape (n, k)."""
        product = M_white.T @ self.solve(M_white)
        return np.asarray(0.5 * (product + product.T))

    @cached_property
    def diagonal(self) -> Float:
        """Diagonal of M, shape (n,): 1 − h2·p."""
        return np.array(np.diag(self.inverse))

    @cached_property
    def leverage(self) -> Float:
        """p, shape (n,): the diagonal of A."""
        return np.diag(self._A) if self._little else (1 - self.diagonal) / self.h2

    @cached_property
    def _little(self) -> bool:
        return bool(self.h2 * float(self._variances.mean()) < _LITTLE)

    @cached_property
    def _A(self) -> Float:
        """A = MW, shape (n, n): where it is not to be had from M."""
        W = self._K * self._scale
        W *= self._scale[:, np.newaxis]
        return W if self.h2 == 0 else self.solve(W)

    def pair_sums(self, weights: Float, *powers: int) -> list[Float]:
        """Return for each power the sums over j ≠ i of Mᵢⱼ^power·weightsⱼ, shapes (n, k)."""
        sums = [np.zeros_like(weights) for _ in powers]
        for rows in self._strips():
            M = self.inverse[rows, : rows.stop].copy()
            M[:, rows.start :] = np.tril(M[:, rows.start :], -1)
            raised, reached = M, 1
            for power, total in zip(powers, sums, strict=True):
                for _ in range(power - reached):
                    raised = raised * M
                reached = power
                total[rows] += raised @ weights[: rows.stop]
                total[: rows.stop] += raised.T @ weights[rows]
        return sums

    def traces(self, V: Float) -> Float:
        """Return T, τ and ‖S‖² as one symmetric matrix, shape (v + 1, v + 1)."""
        h2, p = self.h2, self.leverage
        traces = np.empty((V.shape[1] + 1,) * 2)
        if self._little:
            squares = self._A**2
            rows = squares.sum(axis=1)
            traces[:-1, :-1] = (V.T * (1 - 2 * h2 * p)) @ V + h2**2 * (V.T @ squares @ V)
            edge, traces[-1, -1] = p - h2 * rows, rows.sum()
        else:
            d = self.diagonal
            (pairs,) = self.pair_sums(np.column_stack((V, np.ones(len(V)))), 2)
            traces[:-1, :-1] = (V.T * d**2) @ V + V.T @ pairs[:, :-1]
            edge = p * d - pairs[:, -1] / h2
            traces[-1, -1] = (pairs[:, -1].sum() + ((1 - d) ** 2).sum()) / h2**2
        traces[:-1, -1] = traces[-1, :-1] = edge @ V
        return traces


class RelationshipEvaluation(RandomEffectEvaluation):
    """A :class:`~hlmm_scan.models.hlmm_objective.RandomEffectEvaluation` by n×n matrices."""

    objective: RelationshipObjective
    covariance: RelationshipCovariance

    def _make_covariance(self) -> RelationshipCovariance:
        problem = self.objective
        return RelationshipCovariance(self.log_variance, problem.K, self.h2, problem.unit)

    def _predict(self, alpha: Float | None) -> float:
        cov, X, y = self.covariance, self.X_white, self.covariance.whiten(self.objective.y)
        if alpha is None:
            U, R = weighted_basis(X)
            coefficients = U.T @ y
            residual = y - U @ coefficients
            solved = cov.solve(np.column_stack((U, residual)))
            MU, e = solved[:, :-1], solved[:, -1]
            delta = np.linalg.solve(U.T @ MU, U.T @ e)
            self.alpha = np.asarray(solve_triangular(R, coefficients + delta, check_finite=False))
            self.residual_white = e - MU @ delta
        else:
            self.alpha = alpha
            self.residual_white = cov.solve((y - X @ alpha)[:, np.newaxis])[:, 0]
        self.random_white = cov.random(self.residual_white)
        return float(self.residual_white @ self.random_white)

    @cached_property
    def _traces(self) -> Float:
        return self.covariance.traces(self.objective.V)
