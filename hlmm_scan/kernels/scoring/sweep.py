"""The passes over people of the fast joint HLM kernel, a tile of variants at a time.

A pass goes over strips of people small enough for the second-level cache, and does a few matrix
products and one loop of vectors (:mod:`~hlmm_scan.kernels.scoring.lanes`) on each. Products are in
single precision within a strip and added up in float64: next to the sampling error of a sum over n
people, √n, the error of a gradient is some 1e-6. Coefficients enter as deviations from the null
fit, whose residuals and log-variances are columns of the designs, so their rounding is that of a
small number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Float32
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.scoring.lanes import (
    PROJECTED_SUMS,
    SUMS,
    weigh,
    weigh_projected,
)
from hlmm_scan.kernels.scoring.tile import TILE, Tile, centred
from hlmm_scan.kernels.sums import products

STRIP = 512
"""People per strip: with 64 variants, the strip's arrays fill about half of a 1 MiB cache."""


def strips(n: int) -> Iterator[slice]:
    """Yield the slices of people of one strip each."""
    return (slice(start, start + STRIP) for start in range(0, n, STRIP))


@dataclass(frozen=True)
class Columns:
    """What stays the same from pass to pass, in single precision.

    Attributes
    ----------
    mean : ndarray, shape (n, 1 + c)
        Null residuals y − X₀a₀ and X₀.
    variance : ndarray, shape (n, 1 + v)
        Null log-variances V₀b₀ and V₀.
    start : ndarray, shape (n, c + 2v + u)
        W₀X₀, V₀, K₀V₀ and w₀r₀·U, k₀ = w₀r₀² and U the distinct columns of X₀ and V₀.
    powers : ndarray, shape (n, 4)
        w₀, 1, k₀ and w₀r₀, for squares and cubes of genotypes.
    absent : ndarray, shape (n, c + v + 4)
        For people without a call: w₀r₀X₀, ½(1 − k₀)V₀, V₀b₀, 1 − k₀, and their leverages in
        the two designs.
    of_X, of_V : ndarray of int, shapes (c,) and (v,)
        Where the columns of X₀ and V₀ stand in U.
    """

    mean: Float32
    variance: Float32
    start: Float32
    powers: Float32
    absent: Float32
    of_X: NDArray[np.intp]
    of_V: NDArray[np.intp]

    @classmethod
    def of(cls, design: JointDesign, mean: Float, variance: Float) -> Columns:
        """Lay out the columns; `mean` and `variance` invert X₀ᵀW₀X₀ and ½V₀ᵀV₀."""
        X, V = design.X, design.V
        log_variance = V @ design.beta
        w = np.exp(-log_variance)
        r = design.y - X @ design.alpha
        k = w * r * r
        together, places = np.unique(np.column_stack([X, V]), axis=1, return_inverse=True)
        places = places.reshape(-1)
        leverages = (
            w * np.einsum("ni,ni->n", X @ mean, X),
            0.5 * np.einsum("ni,ni->n", V @ variance, V),
        )
        absent = (X * (w * r)[:, None], 0.5 * V * (1 - k)[:, None], log_variance, 1 - k)

        def lay(*columns: Float) -> Float32:
            return np.column_stack(columns).astype(np.float32)

        return cls(
            mean=lay(r, X),
            variance=lay(log_variance, V),
            start=lay(X * w[:, None], V, V * k[:, None], together * (w * r)[:, None]),
            powers=lay(w, np.ones_like(w), k, w * r),
            absent=lay(*absent, *leverages),
            of_X=places[: X.shape[1]],
            of_V=places[X.shape[1] :],
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """n, c and v."""
        return len(self.mean), self.mean.shape[1] - 1, self.variance.shape[1] - 1


@dataclass(frozen=True)
class Start:
    """Products of the genotypes of a tile with the null model, one row per variant.

    Attributes
    ----------
    linear, absent : ndarray
        With the columns `start` and `absent` of :class:`Columns`, of x and of 1 for those without
        a call; `absent` is 0 where everybody is called.
    squares, cubes : ndarray, shape (64, 4)
        With the columns `powers`, of x² and x³.
    """

    linear: Float
    squares: Float
    cubes: Float
    absent: Float

    @classmethod
    def at(cls, columns: Columns, tile: Tile) -> Start:
        """Go over the people."""
        n, _, _ = columns.shape
        rows = min(n, STRIP)
        missing = bool((tile.people < n).any())
        x, squares, cubes = np.empty((3, rows, TILE), np.float32)
        absent = np.empty((rows if missing else 0, TILE), np.float32)
        centre = tile.centre.astype(np.float32)
        factors = (columns.start, columns.powers, columns.powers, columns.absent)
        sums = [np.zeros((a.shape[1], TILE)) for a in factors]
        for s in strips(n):
            size = len(tile.g[s])
            parts = [x[:size], squares[:size], cubes[:size], absent[:size]]
            centred(tile.g[s], centre, *parts)
            for total, factor, part in zip(sums, factors, parts, strict=True):
                if len(part):
                    products.add_product(factor[s].T, part, total)
        return cls(*(total.T.copy() for total in sums))


@dataclass(frozen=True)
class Sweep:
    """Sums over the people called for each variant of a tile, at given coefficients.

    Attributes
    ----------
    gradient : ndarray, shape (m, c + v + 2)
        Of f = −log L: covariates of the mean, of the log-variance, then a_g and b_g.
    value : ndarray, shape (m,)
        f − ½·people·log 2π.
    moments : ndarray, shape (5, m)
        Σw, Σwx, Σwx², Σ√w·x and Σ√w·x², x the genotype's deviation from its mean.
    """

    gradient: Float
    value: Float
    moments: Float

    @classmethod
    def at(cls, columns: Columns, tile: Tile, change: Float) -> Sweep:
        """Go over the people.

        Parameters
        ----------
        columns : Columns
        tile : Tile
        change : ndarray, shape (m, c + v + 2)
            Coefficients of the first m variants less those of the null, in the order of
            `gradient`.
        """
        n, c, v = columns.shape
        m = len(change)
        mean, variance, parameters = _coefficients(columns, tile, change)
        rows = min(n, STRIP)
        e, r = np.empty((2, rows, TILE), np.float32)
        sums = np.zeros((SUMS, TILE))
        Xwr, Vk = np.zeros((c, TILE)), np.zeros((v, TILE))
        for s in strips(n):
            X, V, g = columns.mean[s], columns.variance[s], tile.g[s]
            es, rs = e[: len(g)], r[: len(g)]
            products.multiply(V, variance, es)
            products.multiply(X, mean, rs)
            weigh(es.ravel(), rs.ravel(), g.ravel(), parameters, sums.reshape(-1))
            products.add_product(X[:, 1:].T, rs, Xwr)
            products.add_product(V[:, 1:].T, es, Vk)
        gradient = np.concatenate([-Xwr, 0.5 * Vk, -sums[:1], 0.5 * sums[1:2]])[:, :m].T.copy()
        value = 0.5 * (tile.people - sums[2] - sums[3])
        return cls(gradient, value[:m], sums[4:, :m])

    def of(self, variants: NDArray[np.intp]) -> Sweep:
        """Return the sums of the chosen variants."""
        return Sweep(self.gradient[variants], self.value[variants], self.moments[:, variants])


@dataclass(frozen=True)
class Projected:
    """Sums of efficient scores: of the genotype less its projections on the covariates.

    Attributes
    ----------
    mean, variance, cross : ndarray, shape (m,)
        Σwx̃², Σṽ² and Σ√w·x̃ṽ.
    weighted : ndarray, shape (m,)
        Σkṽ², k = r²w.
    scores : ndarray, shape (3, m)
        Σs², Σt² and Σst of the scores s = wrx̃ and t = ½ṽ(k − 1).
    """

    mean: Float
    variance: Float
    cross: Float
    weighted: Float
    scores: Float

    @classmethod
    def at(cls, columns: Columns, tile: Tile, change: Float, p: Float, q: Float) -> Projected:
        """Go over the people.

        Parameters
        ----------
        columns, tile, change
            As for :meth:`Sweep.at`.
        p, q : ndarray, shapes (m, c) and (m, v)
            Coefficients of the projections: x̃ = x − X₀p and ṽ = x − V₀q.
        """
        n, c, v = columns.shape
        m = len(change)
        mean, variance, parameters = _coefficients(columns, tile, change)
        on_X, on_V = np.zeros((c, TILE), np.float32), np.zeros((v, TILE), np.float32)
        on_X[:, :m], on_V[:, :m] = p.T, q.T
        rows = min(n, STRIP)
        work = np.empty((4, rows, TILE), np.float32)
        sums = np.zeros((PROJECTED_SUMS, TILE))
        for s in strips(n):
            X, V, g = columns.mean[s], columns.variance[s], tile.g[s]
            e, r, px, qv = work[:, : len(g)]
            products.multiply(V, variance, e)
            products.multiply(X, mean, r)
            products.multiply(X[:, 1:], on_X, px)
            products.multiply(V[:, 1:], on_V, qv)
            flat = (e.ravel(), r.ravel(), g.ravel(), px.ravel(), qv.ravel())
            weigh_projected(*flat, parameters, sums.reshape(-1))
        found = sums[:, :m]
        return cls(found[0], found[1], found[2], found[3], found[4:])

    def of(self, variants: NDArray[np.intp]) -> Projected:
        """Return the sums of the chosen variants."""
        return Projected(*(getattr(self, f.name)[..., variants] for f in fields(self)))


def _coefficients(columns: Columns, tile: Tile, change: Float) -> tuple[Float32, Float32, Float32]:
    """Return what the designs are multiplied with, and centre, a_g and b_g of a tile."""
    _, c, v = columns.shape
    m = len(change)
    mean, variance = np.zeros((1 + c, TILE), np.float32), np.zeros((1 + v, TILE), np.float32)
    mean[0], variance[0] = 1.0, -1.0
    mean[1:, :m], variance[1:, :m] = -change[:, :c].T, -change[:, c : c + v].T
    parameters = np.zeros((3, TILE), np.float32)
    parameters[0] = tile.centre
    parameters[1:, :m] = change[:, c + v :].T
    return mean, variance, parameters.ravel()
