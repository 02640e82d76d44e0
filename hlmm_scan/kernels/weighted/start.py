"""Where variants begin: gradient and expected information of each at the null fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.scoring.steps import UNIQUE
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.weighted.basis import WeightedBasis

Real = NDArray[Any]
"""float64 or float32."""


@njit(nogil=True, cache=True)
def _centre(
    genotypes: Float, g: Real, called: Real, people: Float, reach: Float
) -> None:  # pragma: no cover
    """Genotypes less their mean into `g`, and who is called."""
    for j in range(genotypes.shape[0]):
        row = genotypes[j]
        count = total = 0.0
        for i in range(len(row)):
            if row[i] == row[i]:
                count += 1.0
                total += row[i]
        people[j] = count
        centre = total / max(count, 1.0)
        for i in range(len(row)):
            if row[i] == row[i]:
                g[j, i] = row[i] - centre
                reach[j] = max(reach[j], abs(row[i] - centre))
            else:
                called[j, i] = 0.0


@dataclass(frozen=True)
class Start:
    """The first look at some variants; unused rows are zero.

    Attributes
    ----------
    g, called : ndarray, shape (m, n)
        Genotypes less their mean and 1, both 0 where missing.
    usable : ndarray of bool, shape (m,)
        Whether the genotype is far enough from being a combination of covariates, and called in
        half of the people at least.
    people, reach : ndarray, shape (m,)
        People called, and the largest deviation from the mean.
    excess : ndarray, shape (m,)
        o of :mod:`~hlmm_scan.kernels.weighted.likelihood`.
    gradient : ndarray, shape (m, c + v + 3)
        Of −log L; that of covariates but nearly, where calls are missing.
    information : ndarray, shape (m, c + v + 3, c + v + 3)
    """

    g: Real
    called: Real
    usable: NDArray[np.bool_]
    people: Float
    reach: Float
    excess: Float
    gradient: Float
    information: Float

    @classmethod
    def of(cls, basis: WeightedBasis, genotypes: Float, width: int) -> Start:
        """Multiply genotypes with the null model, in products of one shape whatever their number.

        Parameters
        ----------
        basis : WeightedBasis
        genotypes : ndarray, shape (at most `width`, n)
            NaN where missing.
        width : int
        """
        n, c, v = basis.n, basis.X.shape[1], basis.V.shape[1]
        h, p, dtype = c + v, c + v + 3, basis.columns.dtype
        g, called = np.zeros((width, n), dtype), np.ones((width, n), dtype)
        people, reach = np.full(width, float(n)), np.zeros(width)
        _centre(np.ascontiguousarray(genotypes), g, called, people, reach)

        kappa = float(basis.theta[-1] * basis.weight.mean())
        phi = 1 / (1 + kappa * basis.values)
        scores, squares, spread = basis.start
        linear, of_squares = np.zeros((width, scores.shape[1])), np.zeros((width, 4))
        products.add_product(g, scores, linear)
        products.add_product(np.square(g), squares, of_squares)
        total, D_a, D_b, own = of_squares.T
        in_mean = (basis.unit * basis.weight).astype(dtype)
        back = basis.back(products.multiply(g * in_mean, basis.columns))
        D_a = D_a - basis.theta[-1] * (back**2 @ phi)
        excess = np.zeros(width)
        if basis.pairs is None:
            found = [
                basis.back(products.multiply(g * probe, basis.columns)) for probe in basis.probes.T
            ]
            estimate = np.mean([x**2 @ phi for x in found], axis=0)
            with np.errstate(invalid="ignore", divide="ignore"):
                excess = np.where(total > 0, (estimate - own) / total, 0.0)
            D_b = D_b + 0.5 * kappa**2 * excess * total
        else:
            weighted = (g * spread).astype(np.float32)
            D_b = D_b + 0.5 * kappa**2 * (weighted * products.multiply(weighted, basis.pairs)).sum(
                axis=1
            )

        gradient = np.zeros((width, p))
        gradient[:, -2:] = linear[:, -2:]
        for j in np.flatnonzero(people < n):
            absent = np.flatnonzero(called[j] == 0)
            by_mean = (basis.weight * basis.residual)[absent]
            gradient[j, :c] = by_mean @ basis.X[absent]
            gradient[j, c:h] = -0.5 * (basis.score[absent] @ basis.V[absent])
        information = np.zeros((width, p, p))
        information[:, : h + 1, : h + 1] = basis.information * (people / n)[:, None, None]
        information[:, :c, -2] = linear[:, :c]
        information[:, c : h + 1, -1] = linear[:, c : h + 1]
        information[:, -2:, : h + 1] = information[:, : h + 1, -2:].transpose(0, 2, 1)
        information[:, -2, -2], information[:, -1, -1] = D_a, D_b
        C = information[:, : h + 1, -2:]
        inverse = np.linalg.inv(basis.information)
        with np.errstate(invalid="ignore", divide="ignore"):
            explained = np.einsum("mik,ij,mjk->mk", C, inverse, C) * (n / people)[:, None]
            D = np.column_stack([D_a, D_b])
            usable = (D > 0).all(axis=1) & (explained < (1 - UNIQUE) * D).all(axis=1)
        usable &= (people >= p + 1) & (people >= 0.5 * n)
        information[~usable], gradient[~usable] = np.eye(p), 0.0
        return cls(g, called, usable, people, reach, excess, gradient, information)
