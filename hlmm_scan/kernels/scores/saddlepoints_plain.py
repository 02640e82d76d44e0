"""Saddlepoints of scores written out plainly, over people: what the compiled ones are held to.

Symbols are those of :mod:`hlmm_scan.kernels.scores.saddlepoints`. Each tilt is found by scipy's
root finder, and every covariance is a sum over people of products of their statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import root

from hlmm_scan.array_types import Float


class Allocations:
    """The classes of a genotype, dealt to n people at random.

    Parameters
    ----------
    s, q : ndarray, shape (n,)
        Residuals of the mean and of the variance; s of mean 0 and mean square 1, q of mean 0.
    people, copies : ndarray, shape (c,)
        Of each class, none empty; together n people.
    """

    def __init__(self, s: Float, q: Float, people: Float, copies: Float) -> None:
        self.n, self.people = len(s), people
        g = copies - people @ copies / self.n
        self.G2, self.G3 = people @ g**2, people @ g**3
        # Statistics of person i in class c, shape (c, n): class membership, g·s, g·q and g²·s.
        of_class = [np.outer(np.arange(len(g)) == c, np.ones(self.n)) for c in range(1, len(g))]
        self.counts = np.array(of_class, np.float64)
        self.sums = np.array([np.outer(g, s), np.outer(g, q), np.outer(g**2, s)])

    def tilted(self, x: Float, statistics: Float) -> tuple[Float, Float, float]:
        """Return the means and the covariance of statistics at multipliers x, and K."""
        eta = np.tensordot(x, statistics, 1) + np.log(self.people / self.n)[:, None]
        top = eta.max(axis=0)
        weights = np.exp(eta - top)
        total = weights.sum(axis=0)
        P = weights / total
        each = (statistics * P).sum(axis=1)
        products = np.einsum("acn,bcn,cn->ab", statistics, statistics, P)
        return each.sum(axis=1), products - each @ each.T, float((np.log(total) + top).sum())

    def mean(self, U: float) -> tuple[float, float, float]:
        """Return z* of Σgs = U, its rate and log det K″."""
        statistics = np.concatenate([self.counts, self.sums[:1]])
        target = np.append(self.people[1:], U)
        x, C, rate = self._linear(statistics, target, np.append(np.zeros(len(target) - 1), 0.0))
        v = x[-1] * np.exp(0.5 * (_log_det(C) - _log_det(self._null_counts())))
        return corrected(np.sign(x[-1]) * np.sqrt(2 * rate), v), rate, _log_det(C)

    def given_mean(self, U: float, U_2: float) -> float:
        """Return z* of Σgq = U_2 given Σgs = U."""
        _, rate, log_det = self.mean(U)
        statistics = np.concatenate([self.counts, self.sums[:2]])
        target = np.concatenate([self.people[1:], [U, U_2]])
        x, C, both = self._linear(statistics, target, np.zeros(len(target)))
        v = x[-1] * np.exp(0.5 * (_log_det(C) - log_det))
        return corrected(np.sign(x[-1]) * np.sqrt(max(2 * (both - rate), 0.0)), v)

    def variance(self, U_b: float) -> float:
        """Return z* of the variance's score with the additive effect taken out."""
        statistics = np.concatenate([self.counts, self.sums])
        k, G2, G3 = len(self.counts), self.G2, self.G3

        def parts(x: Float) -> tuple[Float, Float, Float, float]:
            """Unknown are ν, λ₂, α and S₃; the other multipliers follow."""
            L, alpha, S3 = x[k:]
            c1 = 2 * (alpha * G3 - S3) / G2
            tilt = np.concatenate([x[:k], [L * c1, L, -2 * alpha * L]])
            return tilt, *self.tilted(tilt, statistics)

        def equations(x: Float) -> Float:
            _, m, _, _ = parts(x)
            S1, S2, S3 = m[k:]
            alpha = S1 / G2
            score = S2 - 2 * alpha * S3 + alpha**2 * G3
            relations = [score - U_b, alpha - x[-2], S3 - x[-1]]
            return np.concatenate([m[:k] - self.people[1:], relations])

        spread = (self.sums[1] ** 2 * (self.people / self.n)[:, None]).sum()
        x = _root(equations, np.concatenate([np.zeros(k), [U_b / spread, 0.0, 0.0]]))
        tilt, m, C, K = parts(x)
        L, alpha, S3 = x[k:]
        counts, cross = C[:k, :k], C[:k, k:]
        given = C[k:, k:] - cross.T @ np.linalg.solve(counts, cross)
        H = np.zeros((3, 3))
        H[0, 0], H[0, 2] = 2 * G3 / G2**2, -2 / G2
        H[2, 0] = H[0, 2]
        gradient = np.array([2 * (alpha * G3 - S3) / G2, 1.0, -2 * alpha])
        left = np.eye(3) - L * given @ H
        form = gradient @ np.linalg.solve(left, given @ gradient) * np.linalg.det(left)
        v = L * np.sqrt(form * np.exp(_log_det(counts) - _log_det(self._null_counts())))
        rate = max(float(tilt @ m - K), 0.0)
        return corrected(float(np.sign(L) * np.sqrt(2 * rate)), v)

    def _linear(self, statistics: Float, target: Float, start: Float) -> tuple[Float, Float, float]:
        """Solve for the multipliers that give `target`; return them, K″ and the rate."""
        x = _root(lambda x: self.tilted(x, statistics)[0] - target, start)
        _, C, K = self.tilted(x, statistics)
        return x, C, max(float(x @ target - K), 0.0)

    def _null_counts(self) -> Float:
        p = self.people[1:] / self.n
        return np.asarray(self.n * (np.diag(p) - np.outer(p, p)))


def corrected(r: float, v: float) -> float:
    """Return z* = r + log(v/r)/r; r where |r| < 0.3, v/r ≤ 0, at a lattice's edge, or 1 from z*."""
    if abs(r) < 0.3 or not v / r > 0 or abs(np.log(v / r)) >= min(3.0, abs(r)):
        return float(r)
    return float(r + np.log(v / r) / r)


def _log_det(matrix: Float) -> float:
    return float(np.linalg.slogdet(matrix)[1])


def _root(equations: Callable[[Float], Float], start: Float) -> Float:
    found = root(equations, start, method="hybr", tol=1e-11)
    if np.abs(equations(found.x)).max() > 1e-5:
        raise ArithmeticError("no tilt gives these sums")
    return np.asarray(found.x)
