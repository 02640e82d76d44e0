"""The HLMM's likelihood and derivatives by n×n matrices, for many random effects.

Where there are half as many random effects as people or more, products with the design G cost more
than the inverse of a matrix over people. `hlmm_objective` has the other way, and the formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dtrmm, dtrsm
from scipy.linalg.lapack import dtrtri

from hlmm_scan.models.hlm import weighted_basis
from hlmm_scan.models.hlmm_objective import RandomEffectEvaluation, step_size
from hlmm_scan.models.lowrank import root_variance

FloatArray = NDArray[np.float64]

_STRIP = 256
"""Rows that are worked on at a time; triangles of this size are inverted by LAPACK."""

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

    y: FloatArray
    X: FloatArray
    V: FloatArray
    K: FloatArray
    offset: float = 0.0
    unit: float = 1.0

    def at(self, theta: FloatArray, alpha: FloatArray | None = None) -> RelationshipEvaluation:
        """Evaluate at (b, h2) = `theta`, shape (v + 1,), with a at its maximum or at `alpha`.

        Raises
        ------
        numpy.linalg.LinAlgError
            If a log-variance lies outside ±600, or the columns of X are collinear.
        """
        return RelationshipEvaluation(self, theta, alpha)

    def step_size(self, theta: FloatArray, step: FloatArray) -> float:
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
    by h2²; where h2 is too little even so, A is made. C, C⁻¹ and M cost n³/3 operations each; M is
    made in strips and never stored. numpy and BLAS let other threads of Python run meanwhile, most
    of scipy's LAPACK does not: so fits can be done side by side in threads.
    """

    def __init__(
        self, log_variance: FloatArray, K: FloatArray, h2: float, unit: float = 1.0
    ) -> None:
        self.h2 = h2
        self.root = root_variance(log_variance)
        self._K = K
        self._scale = 1 / (self.root * unit)
        self._variances = np.diag(K) * self._scale**2
        self.log_det = float(log_variance.sum())
        self._chol: FloatArray | None = None
        if h2 > 0:
            B = self._W(h2)
            B.flat[:: len(B) + 1] += 1.0
            self._chol = chol = np.asarray(np.linalg.cholesky(B))
            self.log_det += float(2 * np.log(np.diag(chol)).sum())

    def _W(self, factor: float = 1.0) -> FloatArray:
        """A multiple of W."""
        W = self._K * (factor * self._scale)
        W *= self._scale[:, np.newaxis]
        return W

    def whiten(self, M: FloatArray) -> FloatArray:
        """Return D^-½M for M of shape (n,) or (n, k)."""
        return M / (self.root if M.ndim == 1 else self.root[:, np.newaxis])

    def random(self, e: FloatArray) -> FloatArray:
        """Return We, shape (n,)."""
        return np.asarray(self._scale * (self._K @ (self._scale * e)))

    def solve(self, M_white: FloatArray) -> FloatArray:
        """Return B⁻¹M for M of shape (n, k)."""
        return self._half(self._half(M_white), transposed=True)

    def quadratic(self, M_white: FloatArray) -> FloatArray:
        """Return MᵀΣ⁻¹M, shape (k, k), of a whitened M of shape (n, k)."""
        half = self._half(M_white)
        return np.asarray(half.T @ half)

    def _half(self, M: FloatArray, *, transposed: bool = False) -> FloatArray:
        """Return C⁻¹M or C⁻ᵀM."""
        if self._chol is None:
            return M
        return np.asarray(dtrsm(1.0, self._chol.T, M, lower=0, trans_a=not transposed))

    @cached_property
    def _chol_inverse(self) -> FloatArray:
        """C⁻¹, with zeros above the diagonal."""
        if self._chol is None:
            return np.eye(len(self.root))
        inverse = np.zeros_like(self._chol)
        _invert_lower(self._chol, inverse)
        return inverse

    @cached_property
    def diagonal(self) -> FloatArray:
        """Diagonal of M, shape (n,): 1 − h2·p."""
        return np.asarray(np.einsum("ij,ij->j", self._chol_inverse, self._chol_inverse))

    @cached_property
    def leverage(self) -> FloatArray:
        """p, shape (n,): the diagonal of A."""
        return np.diag(self._A) if self._little else (1 - self.diagonal) / self.h2

    @cached_property
    def _little(self) -> bool:
        return bool(self.h2 * float(self._variances.mean()) < _LITTLE)

    @cached_property
    def _A(self) -> FloatArray:
        """A = MW, shape (n, n): where it is not to be had from M."""
        return self.solve(self._W())

    def strips(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield M in strips of rows, each up to the end of its block on the diagonal.

        Yields
        ------
        slice
            Of some rows.
        ndarray, shape (rows, stop)
            M of these rows and of the columns before the slice's stop.
        """
        n, inverse = len(self.root), self._chol_inverse
        for start in range(0, n, _STRIP):
            rows = slice(start, min(start + _STRIP, n))
            yield rows, inverse[start:, rows].T @ inverse[start:, : rows.stop]

    def pair_sums(self, weights: FloatArray, *powers: int) -> list[FloatArray]:
        """Return for each power the sums over j ≠ i of Mᵢⱼ^power·weightsⱼ, shapes (n, k)."""
        sums = [np.zeros_like(weights) for _ in powers]
        for rows, M in self.strips():
            M[np.arange(len(M)), np.arange(rows.start, rows.stop)] = 0.0
            raised, reached = M, 1
            for power, total in zip(powers, sums, strict=True):
                for _ in range(power - reached):
                    raised = raised * M
                reached = power
                total[rows] += raised @ weights[: rows.stop]
                total[: rows.start] += raised[:, : rows.start].T @ weights[rows]
        return sums

    def traces(self, V: FloatArray) -> FloatArray:
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

    def _predict(self, alpha: FloatArray | None) -> float:
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
    def _traces(self) -> FloatArray:
        return self.covariance.traces(self.objective.V)


def _invert_lower(C: FloatArray, inverse: FloatArray) -> None:
    """Put the inverse of a lower triangular matrix into an array of zeros, half by half."""
    n = len(C)
    if n <= _STRIP:
        found, info = dtrtri(C, lower=1)
        if info != 0:
            raise np.linalg.LinAlgError("Σ is singular")
        inverse[...] = np.tril(found)
        return
    half = n // 2
    _invert_lower(C[:half, :half], inverse[:half, :half])
    _invert_lower(C[half:, half:], inverse[half:, half:])
    # [A 0; B C]⁻¹ has −C⁻¹BA⁻¹ below the diagonal. BLAS takes row-major arrays as transposed.
    below = dtrmm(-1.0, inverse[:half, :half].T, C[half:, :half].T, lower=0)
    inverse[half:, :half] = dtrmm(1.0, inverse[half:, half:].T, below, side=1, lower=0).T
