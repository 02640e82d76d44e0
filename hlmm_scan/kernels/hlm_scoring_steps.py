"""Quasi-Newton steps of many small problems abreast, for the fast joint HLM kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Rows = NDArray[np.intp]

PAIRS = 4
"""Steps that limited-memory BFGS remembers."""

UNIQUE = 1e-3
"""1 − R² of the genotype on the covariates below which the exact kernel decides."""


@dataclass
class Metric:
    """The approximate Hessian M of m variants, factored by its genotype part.

    M = [K C; Cᵀ D] with K the covariates' block: M⁻¹ by the Schur complement S = D − CᵀK⁻¹C.

    Attributes
    ----------
    inverse : ndarray, shape (m, q, q)
        K⁻¹.
    U : ndarray, shape (m, q, 2)
        K⁻¹C.
    S : ndarray, shape (m, 2, 2)
        Inverse of the Schur complement.
    at : ndarray, shape (m,)
        b_g at whose weights M was taken.
    """

    inverse: Float
    U: Float
    S: Float
    at: Float

    @classmethod
    def of(cls, inverse: Float, C: Float, D: Float, at: Float) -> Metric:
        """Factor; D of shape (m, 2) is diagonal."""
        U = inverse @ C
        schur = -np.einsum("mqi,mqj->mij", C, U)
        schur[:, 0, 0] += D[:, 0]
        schur[:, 1, 1] += D[:, 1]
        # Noise in H₀ could make it indefinite for a nearly collinear genotype.
        floor = 0.2 * UNIQUE * D
        bad = (
            (schur[:, 0, 0] < floor[:, 0])
            | (schur[:, 1, 1] < floor[:, 1])
            | (schur[:, 0, 1] ** 2 > 0.5 * schur[:, 0, 0] * schur[:, 1, 1])
        )
        schur[bad] = 0.0
        schur[bad, 0, 0], schur[bad, 1, 1] = D[bad].T
        U[bad] = 0.0
        determinant = schur[:, 0, 0] * schur[:, 1, 1] - schur[:, 0, 1] ** 2
        S = np.empty_like(schur)
        S[:, 0, 0], S[:, 1, 1] = schur[:, 1, 1] / determinant, schur[:, 0, 0] / determinant
        S[:, 0, 1] = S[:, 1, 0] = -schur[:, 0, 1] / determinant
        return cls(inverse, U, S, at)

    def solve(self, gradient: Float) -> Float:
        """Return M⁻¹ times the gradients, (m, q + 2)."""
        q = self.U.shape[1]
        out = np.empty_like(gradient)
        right = gradient[:, q:] - np.einsum("mqi,mq->mi", self.U, gradient[:, :q])
        out[:, q:] = np.einsum("mij,mj->mi", self.S, right)
        out[:, :q] = np.matmul(self.inverse, gradient[:, :q, None])[:, :, 0]
        out[:, :q] -= np.einsum("mqi,mi->mq", self.U, out[:, q:])
        return out


@dataclass
class State:
    """Where the m unfinished variants of a tile stand; every array has one row per variant."""

    index: Rows  # columns of the tile
    theta: Float  # last accepted point
    gradient: Float
    value: Float
    step: Float  # to the point to be tried
    length: Float  # of the step in the metric, in standard errors
    rejected: NDArray[np.int64]
    precise: NDArray[np.bool_]  # whether `gradient` is float64
    S: Float  # (m, pairs, p) remembered steps, newest last
    Y: Float  # changes of the gradient along them
    rho: Float  # 1/sᵀy, 0 where there is no pair
    inverse: Float
    U: Float
    schur: Float
    at: Float

    def keep(self, rows: Rows) -> State:
        """Return the chosen variants."""
        return State(**{name: mine[rows] for name, mine in vars(self).items()})

    def put(self, rows: Rows, other: State) -> None:
        """Overwrite the chosen variants."""
        for name, mine in vars(self).items():
            mine[rows] = getattr(other, name)

    @property
    def metric(self) -> Metric:
        """The metrics of these variants."""
        return Metric(self.inverse, self.U, self.schur, self.at)

    @metric.setter
    def metric(self, metric: Metric) -> None:
        self.inverse, self.U, self.schur, self.at = (
            metric.inverse,
            metric.U,
            metric.S,
            metric.at,
        )

    def learn(self, s: Float, y: Float, usable: NDArray[np.bool_]) -> None:
        """Remember a pair where it is usable and positive."""
        product = np.einsum("mp,mp->m", s, y)
        rows = np.flatnonzero(usable & (product > 0))
        for array, new in ((self.S, s), (self.Y, y)):
            array[rows, :-1] = array[rows, 1:]
            array[rows, -1] = new[rows]
        self.rho[rows, :-1] = self.rho[rows, 1:]
        self.rho[rows, -1] = 1.0 / product[rows]

    def direction(self) -> Float:
        """Return the quasi-Newton step: the two loops of limited-memory BFGS around M⁻¹."""
        q = self.gradient.copy()
        factors = np.empty_like(self.rho)
        for k in range(PAIRS - 1, -1, -1):
            factors[:, k] = self.rho[:, k] * np.einsum("mp,mp->m", self.S[:, k], q)
            q -= factors[:, k, None] * self.Y[:, k]
        out = self.metric.solve(q)
        for k in range(PAIRS):
            back = self.rho[:, k] * np.einsum("mp,mp->m", self.Y[:, k], out)
            out += (factors[:, k] - back)[:, None] * self.S[:, k]
        return -out
