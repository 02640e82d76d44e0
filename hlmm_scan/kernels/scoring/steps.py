"""Quasi-Newton steps of many small problems abreast, for the fast joint HLM kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float

Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]

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
    inverse : ndarray of object, shape (m,)
        A matrix of shape (q, q) for each, as a rule the same one for all: K⁻¹ but for `scale`.
    scale : ndarray, shape (m,)
        K⁻¹ is scale·inverse.
    U : ndarray, shape (m, q, 2)
        K⁻¹C.
    S : ndarray, shape (m, 2, 2)
        Inverse of the Schur complement.
    bad : ndarray of bool, shape (m,)
        Whether S was not safely positive definite.
    """

    inverse: NDArray[np.object_]
    scale: Float
    U: Float
    S: Float
    bad: Mask

    @classmethod
    def of(
        cls, inverse: NDArray[np.object_], scale: Float, C: Float, D: Float, held: Mask
    ) -> Metric:
        """Factor.

        Parameters
        ----------
        inverse, scale
            As the attributes.
        C, D : ndarray, shapes (m, q, 2) and (m, 2, 2)
        held : ndarray of bool, shape (m, 2)
            Effects of the genotype that are not to move.
        """
        C = np.where(held[:, None, :], 0.0, C)
        D = np.where(held[:, :, None] | held[:, None, :], 0.0, D)
        for k in (0, 1):
            D[held[:, k], k, k] = 1.0
        U = _multiply(inverse, scale, C)
        schur = D - np.einsum("mqi,mqj->mij", C, U)
        diagonal, corner = np.einsum("mii->mi", schur), schur[:, 0, 1]
        bad = (diagonal < 0.2 * UNIQUE * np.einsum("mii->mi", D)).any(axis=1)
        bad |= ~(corner**2 <= 0.5 * diagonal[:, 0] * diagonal[:, 1])
        schur[bad] = np.eye(2)
        determinant = schur[:, 0, 0] * schur[:, 1, 1] - schur[:, 0, 1] ** 2
        S = np.empty_like(schur)
        S[:, 0, 0], S[:, 1, 1] = schur[:, 1, 1] / determinant, schur[:, 0, 0] / determinant
        S[:, 0, 1] = S[:, 1, 0] = -schur[:, 0, 1] / determinant
        return cls(inverse, scale, U, S, bad)

    def solve(self, gradient: Float) -> Float:
        """Return M⁻¹ times the gradients, (m, q + 2)."""
        q = self.U.shape[1]
        out = np.empty_like(gradient)
        right = gradient[:, q:] - np.einsum("mqi,mq->mi", self.U, gradient[:, :q])
        out[:, q:] = np.einsum("mij,mj->mi", self.S, right)
        out[:, :q] = _multiply(self.inverse, self.scale, gradient[:, :q, None])[:, :, 0]
        out[:, :q] -= np.einsum("mqi,mi->mq", self.U, out[:, q:])
        return out


def _multiply(inverse: NDArray[np.object_], scale: Float, right: Float) -> Float:
    """Return scale·inverse·right, (m, q, k), in one call for those that share their matrix."""
    out = np.empty_like(right)
    left = np.arange(len(inverse))
    while len(left):
        matrix = inverse[left[0]]
        same = np.array([inverse[i] is matrix for i in left])
        out[left[same]] = np.matmul(matrix, right[left[same]])
        left = left[~same]
    return out * scale[:, None, None]


@dataclass
class State:
    """Where m unfinished variants of a tile stand; every array has one row per variant.

    Attributes
    ----------
    index : ndarray of int
        Columns of the tile.
    held : ndarray of bool, shape (m, 2)
        Which effects of the genotype stay at 0.
    theta, gradient, value, centre : ndarray
        Last accepted point, f there, and the genotype's mean by the weights there.
    step, length : ndarray
        To the point to be tried, and how long that is in the metric: standard errors.
    rejected, sweeps : ndarray of int
        Points refused in a row, and points tried.
    S, Y, rho : ndarray, shapes (m, PAIRS, p) twice and (m, PAIRS)
        Remembered steps, newest last, changes of the gradient along them, and 1/sᵀy: 0 where there
        is no pair.
    inverse, scale, U, schur : ndarray
        The metric.
    at : ndarray, shape (m, p)
        θ at whose weights the metric was taken.
    """

    index: Rows
    held: Mask
    theta: Float
    gradient: Float
    value: Float
    centre: Float
    step: Float
    length: Float
    rejected: NDArray[np.int64]
    sweeps: NDArray[np.int64]
    S: Float
    Y: Float
    rho: Float
    inverse: NDArray[np.object_]
    scale: Float
    U: Float
    schur: Float
    at: Float

    @classmethod
    def begin(
        cls, index: Rows, held: Mask, theta: Float, gradient: Float, value: Float, metric: Metric
    ) -> State:
        """Return variants at `theta`, which is where the metric was taken, not yet aimed."""
        k, p = theta.shape
        return cls(
            index=index,
            held=held,
            theta=theta,
            gradient=gradient,
            value=value,
            centre=np.zeros(k),
            step=np.zeros((k, p)),
            length=np.full(k, np.inf),
            rejected=np.zeros(k, np.int64),
            sweeps=np.zeros(k, np.int64),
            S=np.zeros((k, PAIRS, p)),
            Y=np.zeros((k, PAIRS, p)),
            rho=np.zeros((k, PAIRS)),
            inverse=metric.inverse,
            scale=metric.scale,
            U=metric.U,
            schur=metric.S,
            at=theta.copy(),
        )

    def keep(self, rows: Any) -> State:
        """Return the chosen variants."""
        return State(**{name: mine[rows] for name, mine in vars(self).items()})

    def put(self, rows: Rows, other: State) -> None:
        """Overwrite the chosen variants."""
        for name, mine in vars(self).items():
            mine[rows] = getattr(other, name)

    @staticmethod
    def join(states: list[State]) -> State:
        """Put variants of several tiles behind one another, which is where their columns go."""
        together = {k: np.concatenate([getattr(s, k) for s in states]) for k in vars(states[0])}
        return replace(State(**together), index=np.arange(len(together["index"])))

    def remetric(self, rows: Rows, metric: Metric) -> None:
        """Give the chosen variants another metric, taken where they stand."""
        self.inverse[rows], self.scale[rows] = metric.inverse, metric.scale
        self.U[rows], self.schur[rows] = metric.U, metric.S
        self.at[rows] = self.theta[rows]
        # What was learnt belongs to other weights.
        self.rho[rows] = 0.0

    def learn(self, s: Float, y: Float, usable: Mask) -> None:
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
        metric = Metric(self.inverse, self.scale, self.U, self.schur, np.zeros(len(q), bool))
        out = metric.solve(q)
        for k in range(PAIRS):
            back = self.rho[:, k] * np.einsum("mp,mp->m", self.Y[:, k], out)
            out += (factors[:, k] - back)[:, None] * self.S[:, k]
        return -out
