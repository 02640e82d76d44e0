"""The HLMM written out with n×n matrices: slow, literal, and independent of the package."""

from __future__ import annotations

import numpy as np


class DenseModel:
    """y ~ N(Xa, diag(exp(Vb)) + h2·GGᵀ) and all derivatives of −2·log L; G may be None (HLM)."""

    def __init__(self, y, X, V, G=None):
        self.y = np.asarray(y)
        self.n = len(self.y)
        self.X = np.asarray(X).reshape(self.n, -1)
        self.V = np.asarray(V).reshape(self.n, -1)
        self.GG = None
        if G is not None:
            G = np.asarray(G).reshape(self.n, -1)
            self.GG = G @ G.T

    def sigma(self, b, h2=0.0):
        D = np.diag(np.exp(self.V @ b))
        return D if self.GG is None else D + h2 * self.GG

    def log_likelihood(self, a, b, h2=0.0):
        S = self.sigma(b, h2)
        r = self.y - self.X @ a
        sign, log_det = np.linalg.slogdet(S)
        assert sign == 1
        return -0.5 * (self.n * np.log(2 * np.pi) + log_det + r @ np.linalg.solve(S, r))

    def alpha(self, b, h2=0.0):
        S = self.sigma(b, h2)
        return np.linalg.solve(
            self.X.T @ np.linalg.solve(S, self.X), self.X.T @ np.linalg.solve(S, self.y)
        )

    def profile(self, b, h2=0.0):
        return self.log_likelihood(self.alpha(b, h2), b, h2)

    def _derivatives(self, b, h2):
        """Σ, its first derivatives and its second derivatives with respect to (b, h2)."""
        D = np.exp(self.V @ b)
        first = [np.diag(D * v) for v in self.V.T]
        if self.GG is not None:
            first.append(self.GG)
        zero = np.zeros((self.n, self.n))
        v = self.V.shape[1]
        second = [
            [
                np.diag(D * self.V[:, i] * self.V[:, j]) if i < v and j < v else zero
                for j in range(len(first))
            ]
            for i in range(len(first))
        ]
        return self.sigma(b, h2), first, second

    def gradient(self, a, b, h2=0.0):
        """Gradient of −2·log L, order a, b, h2."""
        S, first, _ = self._derivatives(b, h2)
        inverse = np.linalg.inv(S)
        q = inverse @ (self.y - self.X @ a)
        by_variance = [np.trace(inverse @ d) - q @ d @ q for d in first]
        return np.concatenate((-2 * self.X.T @ q, by_variance))

    def hessian(self, a, b, h2=0.0):
        """Hessian of −2·log L, order a, b, h2."""
        S, first, second = self._derivatives(b, h2)
        inverse = np.linalg.inv(S)
        q = inverse @ (self.y - self.X @ a)
        c, k = self.X.shape[1], len(first)
        H = np.zeros((c + k, c + k))
        H[:c, :c] = 2 * self.X.T @ inverse @ self.X
        for i in range(k):
            H[:c, c + i] = H[c + i, :c] = 2 * self.X.T @ inverse @ first[i] @ q
            for j in range(k):
                H[c + i, c + j] = (
                    -np.trace(inverse @ first[i] @ inverse @ first[j])
                    + np.trace(inverse @ second[i][j])
                    + 2 * q @ first[i] @ inverse @ first[j] @ q
                    - q @ second[i][j] @ q
                )
        return H

    def expected_information(self, b, h2=0.0):
        """Expected information of log L, order a, b, h2."""
        S, first, _ = self._derivatives(b, h2)
        inverse = np.linalg.inv(S)
        c, k = self.X.shape[1], len(first)
        information = np.zeros((c + k, c + k))
        information[:c, :c] = self.X.T @ inverse @ self.X
        for i in range(k):
            for j in range(k):
                information[c + i, c + j] = 0.5 * np.trace(inverse @ first[i] @ inverse @ first[j])
        return information
