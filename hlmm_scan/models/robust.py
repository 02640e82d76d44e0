"""Covariances that hold where residuals are not normal, written out plainly.

The reference that every kernel's ``*_robust`` and ``*_sandwich`` columns are held against. Dense,
O(n³) with random effects: for checking, not for scanning.

With A the expected information and B the covariance of the scores, both estimate C = A⁻¹BA⁻¹
(math.md §2) and differ in B: *studentised* pools moments over people, *sandwich* takes every
person's own score.
"""

from __future__ import annotations

import numpy as np

from hlmm_scan.array_types import Float


def studentised_covariance(
    X: Float,
    V: Float,
    beta: Float,
    moments: tuple[float, float],
    G: Float | None = None,
    random_variance: float = 0.0,
) -> Float:
    """Return the covariance of the estimates from the pooled moments of the residuals.

    Parameters
    ----------
    X, V : ndarray, shapes (n, c) and (n, v)
        Designs, the test genotype included.
    beta : ndarray, shape (v,)
        Log-variance coefficients; D = diag(exp(Vβ)).
    moments : tuple of float
        Third and fourth moment m₃, m₄ of the noise in units of its standard deviation √D.
    G : ndarray, shape (n, l), optional
        Random-effect design; without it, the HLM.
    random_variance : float, default 0
        h2. At 0 it lies on its boundary and is left out of the information.

    Returns
    -------
    ndarray, shape (c + v, c + v), or one more for h2 where it is above 0

    Notes
    -----
    With M = D^½Σ⁻¹D^½ the score of a log-variance parameter v is ½tᵀM·diag(v)·M·t up to a
    constant, t the noise over √D: a quadratic form, whose covariance with another beyond the
    normal one is ¼(m₄ − 3) times the inner product of the diagonals u = diag(M·diag(v)·M), and
    whose covariance with the linear score of a mean parameter x is ½m₃·(D^½Σ⁻¹x)ᵀu. Likewise for
    h2 with u = diag(D^½Σ⁻¹GGᵀΣ⁻¹D^½). The random effects themselves are taken as normal. Without
    random effects M = I: B_bb = ¼(m₄ − 1)VᵀV and B_ab = ½m₃XᵀD^-½V (math.md §2; Koenker 1981).
    """
    third, fourth = moments
    parts = _Parts.of(X, V, beta, G, random_variance)
    information = parts.information()
    c = X.shape[1]
    B = information.copy()
    B[c:, c:] += 0.25 * (fourth - 3) * parts.diagonals.T @ parts.diagonals
    B[:c, c:] = 0.5 * third * (parts.root[:, None] * parts.precision_X).T @ parts.diagonals
    B[c:, :c] = B[:c, c:].T
    return _between(information, B)


def sandwich_covariance(
    y: Float,
    X: Float,
    V: Float,
    alpha: Float,
    beta: Float,
    G: Float | None = None,
    random_variance: float = 0.0,
) -> Float:
    """Return the covariance of the estimates from every person's own score.

    Parameters
    ----------
    y : ndarray, shape (n,)
    X, V, beta, G, random_variance
        As for :func:`studentised_covariance`.
    alpha : ndarray, shape (c,)
        Mean coefficients.

    Returns
    -------
    ndarray, shape (c + v, c + v), or one more for h2 where it is above 0

    Notes
    -----
    HLM (math.md §2): sᵢ = (xᵢrᵢ/Dᵢ, ½vᵢ(rᵢ²/Dᵢ − 1)), and A_bb = ½Vᵀdiag(r²/D)V, which also
    holds where the variance model is wrong. HLMM: sᵢ = (xᵢ(Σ⁻¹r)ᵢ, ½vᵢ(kᵢ/Dᵢ − 1),
    ½((Σ⁻¹r)ᵢ(GGᵀΣ⁻¹r)ᵢ − (Σ⁻¹GGᵀ)ᵢᵢ)) with k of math.md §1, and A the expected information: people
    count as independent given the random effects, which l ≪ n makes them.
    """
    parts = _Parts.of(X, V, beta, G, random_variance)
    information = parts.information()
    c, v = X.shape[1], V.shape[1]
    residual = y - X @ alpha
    score = parts.precision @ residual
    if G is None or random_variance == 0:
        excess = residual**2 * np.exp(-(V @ beta)) - 1
        information[c:, c:] = 0.5 * V.T @ (V * (excess + 1)[:, None])
    else:
        D = parts.root**2
        # k/D − 1 = e²/D − D·(Σ⁻¹)ᵢᵢ, e = DΣ⁻¹r.
        excess = D * (score**2 - np.diag(parts.precision))
    scores = np.column_stack([X * score[:, None], 0.5 * V * excess[:, None]])
    if len(information) > c + v:
        assert G is not None
        K = G @ G.T
        own = score * (K @ score) - np.einsum("ij,ij->i", parts.precision, K)
        scores = np.column_stack([scores, 0.5 * own])
    return _between(information, scores.T @ scores)


class _Parts:
    """Σ⁻¹ and what both covariances take from it."""

    def __init__(self, X: Float, V: Float, D: Float, K: Float | None, h2: float) -> None:
        self.X, self.V = X, V
        self.root: Float = np.sqrt(D)
        random = K is not None and h2 > 0
        sigma = np.diag(D) + (h2 * K if K is not None and random else 0.0)
        self.precision: Float = np.asarray(np.linalg.solve(sigma, np.eye(len(D))), np.float64)
        self.precision_X: Float = self.precision @ X
        M = self.precision * self.root * self.root[:, None]
        derivatives = [M * v @ M for v in V.T]
        if K is not None and random:
            scaled = self.precision * self.root
            derivatives.append(scaled.T @ K @ scaled)
        self.derivatives = derivatives
        self.diagonals = np.column_stack([np.diag(d) for d in derivatives])
        self.M = M

    @classmethod
    def of(cls, X: Float, V: Float, beta: Float, G: Float | None, random_variance: float) -> _Parts:
        K = None if G is None else G @ G.T
        return cls(X, V, np.exp(V @ beta), K, random_variance)

    def information(self) -> Float:
        """Expected information of (a, b, h2): XᵀΣ⁻¹X, and ½tr(Σ⁻¹Σ_pΣ⁻¹Σ_q)."""
        c, q = self.X.shape[1], len(self.derivatives)
        result = np.zeros((c + q, c + q))
        result[:c, :c] = self.X.T @ self.precision_X
        # Σ⁻¹Σ_pΣ⁻¹ = D^-½(derivative)D^-½, and Σ = D^½M⁻¹D^½.
        inverse = np.linalg.solve(self.M, np.eye(len(self.M)))
        for p in range(q):
            left = self.derivatives[p] @ inverse
            for k in range(q):
                right = self.derivatives[k] @ inverse
                result[c + p, c + k] = 0.5 * np.einsum("ij,ji->", left, right)
        return result


def _between(A: Float, B: Float) -> Float:
    """A⁻¹BA⁻¹."""
    half = np.linalg.solve(A, B)
    return np.asarray(np.linalg.solve(A, half.T))
