"""Algebra of a covariance that is diagonal plus low rank, Σ = D + h2·GGᵀ.

Nothing of size n×n is formed; see math.md §1 for the symbols.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.linalg import cholesky, qr, solve_triangular
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dtrtri

from hlmm_scan.array_types import Float

_MAX_LOG_VARIANCE = 600.0
"""Beyond it, variances or their reciprocals leave the range of float64."""


def root_variance(log_variance: Float) -> Float:
    """Return the residual standard deviations exp(½·log-variance), shape (n,).

    Raises
    ------
    numpy.linalg.LinAlgError
        If a variance leaves the range of float64 (|log-variance| > 600).
    """
    if not np.abs(log_variance).max() <= _MAX_LOG_VARIANCE:
        raise np.linalg.LinAlgError("a residual log-variance lies outside ±600")
    return np.asarray(np.exp(0.5 * log_variance))


def thin(G: Float) -> Float:
    """Return a factor of GGᵀ with at most n columns.

    Parameters
    ----------
    G : ndarray, shape (n, l)

    Returns
    -------
    ndarray, shape (n, min(n, l))
        `G` itself for l ≤ n, else Rᵀ of the QR decomposition of Gᵀ.
    """
    n, n_random = G.shape
    if n_random <= n:
        return G
    (R,) = qr(G.T, mode="r", check_finite=False)
    return np.ascontiguousarray(R[:n].T)


class LowRankCovariance:
    """Σ = D + h2·GGᵀ at one D and h2, in coordinates whitened by D^-½.

    Parameters
    ----------
    log_variance : ndarray, shape (n,)
        log diag D.
    G : ndarray, shape (n, l), row-major
        Random-effect design.
    h2 : float
        Variance of the random effects, ≥ 0.
    unit : float, default 1
        G is divided by it; spares a scaled copy.

    Attributes
    ----------
    root : ndarray, shape (n,)
        D^½.
    G_white : ndarray, shape (n, l)
        D^-½G.
    log_det : float
        log det Σ.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a variance leaves the range of float64, or Λ is not positive definite numerically.

    Notes
    -----
    With K = GᵀD⁻¹G, Λ = I + h2·K = CCᵀ (Cholesky) and Q = D^-½GC⁻ᵀ,

        Σ⁻¹ = D^-½(I − h2·QQᵀ)D^-½,    log det Σ = log det D + 2·log det C,

    which hold at h2 = 0, where C = I. S = QᵀQ = C⁻¹KC⁻ᵀ is similar to GᵀΣ⁻¹G = Λ⁻¹K, so it has
    the same traces; and C⁻¹C⁻ᵀ = I − h2·S, so the row norms of D^½Σ⁻¹G = QC⁻¹ need no second
    triangular product: Σᵢwᵢ‖(QC⁻¹)ᵢ‖² = tr(M·C⁻¹C⁻ᵀ) = tr M − h2·⟨M, S⟩ with M = Qᵀdiag(w)Q.

    K, Q, S and M cost n·l², n·l², 2l³ and n·l² operations; all but K are made on demand.
    """

    def __init__(self, log_variance: Float, G: Float, h2: float, unit: float = 1.0) -> None:
        self.h2 = h2
        self.root = root_variance(log_variance)
        self.G_white = G * (1 / (self.root * unit))[:, np.newaxis]
        # numpy sees that both factors are one array and makes half of the product (syrk).
        self.gram = self.G_white.T @ self.G_white
        core = h2 * self.gram
        core.flat[:: len(core) + 1] += 1.0
        self._chol = cholesky(core.T, lower=True, overwrite_a=True, check_finite=False)
        self.log_det = float(log_variance.sum() + 2 * np.log(np.diag(self._chol)).sum())

    def whiten(self, M: Float) -> Float:
        """Return D^-½M for M of shape (n,) or (n, k)."""
        return M / (self.root if M.ndim == 1 else self.root[:, np.newaxis])

    def project(self, M_white: Float) -> Float:
        """Return QᵀD^-½M, shape (l,) or (l, k), of a whitened M."""
        return np.asarray(
            solve_triangular(self._chol, self.G_white.T @ M_white, lower=True, check_finite=False)
        )

    def back(self, t: Float) -> Float:
        """Return C⁻ᵀt, shape (l,); with t = QᵀD^-½r it is u = GᵀΣ⁻¹r."""
        return np.asarray(
            solve_triangular(self._chol, t, lower=True, trans="T", check_finite=False)
        )

    def quadratic(self, M_white: Float) -> Float:
        """Return MᵀΣ⁻¹M, shape (k, k), of a whitened M of shape (n, k)."""
        projected = self.project(M_white)
        return np.asarray(M_white.T @ M_white - self.h2 * (projected.T @ projected))

    @cached_property
    def _chol_inverse(self) -> Float:
        # Multiplying by the inverse takes a third of the time of the triangular solve. It is as
        # accurate here: C is no worse conditioned than the square root of 1 + h2·‖K‖.
        inverse, info = dtrtri(self._chol, lower=1)
        if info != 0:
            raise np.linalg.LinAlgError("Λ is singular")
        return np.asarray(inverse)

    @cached_property
    def Q(self) -> Float:
        """D^-½GC⁻ᵀ, shape (n, l)."""
        return np.asarray(dtrmm(1.0, self._chol_inverse, self.G_white.T, lower=1).T)

    @cached_property
    def leverage(self) -> Float:
        """Row sums of Q², shape (n,): diag(GΛ⁻¹Gᵀ)/D."""
        return np.asarray(np.einsum("ij,ij->i", self.Q, self.Q))

    @cached_property
    def S(self) -> Float:
        """QᵀQ, shape (l, l)."""
        half = dtrmm(1.0, self._chol_inverse, self.gram.T, lower=1)
        return np.asarray(dtrmm(1.0, self._chol_inverse, half, side=1, lower=1, trans_a=1))

    def weighted(self, weights: Float) -> Float:
        """Return Qᵀdiag(w)Q, shape (l, l), for weights of any sign, shape (n,)."""
        least = float(weights.min())
        # Weights made non-negative leave a product of a matrix with itself, at half the cost.
        rows = self.Q * np.sqrt(weights - least)[:, np.newaxis]
        return np.asarray(rows.T @ rows + least * self.S)
