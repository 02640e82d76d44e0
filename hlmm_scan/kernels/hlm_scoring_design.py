"""What the fast joint HLM kernel needs of a null model, computed once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.kernels.hlm_joint import JointDesign
from hlmm_scan.kernels.hlm_scoring_sweep import STRIP, Columns, Real, Tile, centred, strips

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """What is multiplied with genotypes to get gradient and information at the null fit.

    Attributes
    ----------
    linear : ndarray, shape (n, c + v + 2)
        W₀X₀, V₀, w₀r₀ and 1 − k₀, with k₀ = w₀r₀².
    square : ndarray, shape (n, 2)
        w₀ and 1, for g².
    absent : ndarray, shape (n, c + 2v + 3)
        For people without a call: w₀r₀X₀, ½(1 − k₀)V₀, V₀, 1 − k₀ and the leverages in the two
        designs.
    c, v : int
    """

    linear: Real
    square: Real
    absent: Real
    c: int
    v: int

    @classmethod
    def of(
        cls,
        X: Float,
        V: Float,
        w: Float,
        r: Float,
        k: Float,
        mean: Float,
        variance: Float,
        dtype: type[np.floating],
    ) -> Start:
        """Lay out the columns; `mean` and `variance` invert X₀ᵀW₀X₀ and ½V₀ᵀV₀."""
        excess = 1 - k
        leverages = (
            w * np.einsum("ni,ni->n", X @ mean, X),
            0.5 * np.einsum("ni,ni->n", V @ variance, V),
        )
        absent = (X * (w * r)[:, None], 0.5 * V * excess[:, None], V, excess, *leverages)
        linear = (X * w[:, None], V, w * r, excess)
        return cls(
            np.column_stack(linear).astype(dtype),
            np.column_stack([w, np.ones_like(w)]).astype(dtype),
            np.column_stack(absent).astype(dtype),
            X.shape[1],
            V.shape[1],
        )

    def at(self, tile: Tile, m: int, *, missing: bool) -> tuple[Float, Float, Float]:
        """Multiply with the first m genotypes of a tile.

        Returns
        -------
        ndarray, shapes (m, c + v + 2), (m, 2) and (m, c + 2v + 3)
            Of `linear`, of `square` and of `absent`; the last is 0 unless `missing`.
        """
        wide = tile.g.shape[1]
        rows = min(len(tile.g), STRIP)
        g = np.empty((rows, wide), self.linear.dtype)
        absent = np.empty((rows, wide), self.linear.dtype)
        linear = np.zeros((self.linear.shape[1], wide))
        square = np.zeros((2, wide))
        left_out = np.zeros((self.absent.shape[1], wide))
        for s in strips(len(tile.g)):
            size = len(tile.g[s])
            gs, away = g[:size], absent[:size]
            centred(tile.g[s], tile.centre, gs, away)
            linear += self.linear[s].T @ gs
            if missing:
                left_out += self.absent[s].T @ away
            np.multiply(gs, gs, out=gs)
            square += self.square[s].T @ gs
        return linear[:, :m].T, square[:, :m].T, left_out[:, :m].T


@dataclass(frozen=True)
class ScoringDesign:
    """A :class:`JointDesign` with everything that depends on the null model alone.

    Make it once per null model (:meth:`of`), not per block.

    Attributes
    ----------
    joint : JointDesign
    double, early : Columns
        The designs as the last sweeps and as those before them take them.
    start : Start
        Columns whose products with the genotypes are the gradient and information at the null.
    inverse : ndarray, shape (c + v, c + v)
        Of H₀, the observed information of (a₀, b₀); of the expected one where the observed is not
        positive definite.
    mean, variance : ndarray, shapes (c, c) and (v, v)
        Inverses of X₀ᵀW₀X₀ and ½V₀ᵀV₀.
    mean_information : ndarray, shape (c, c)
        X₀ᵀW₀X₀.
    null : ndarray, shape (c + v + 2,)
        θ at the null.
    weight : float
        Sum of the null weights.
    excess : float
        Σ(1 − k₀).
    V_sum : ndarray, shape (v,)
    V_gram : ndarray, shape (v, v)
        V₀ᵀV₀/n.
    """

    joint: JointDesign
    double: Columns
    early: Columns
    start: Start
    inverse: Float
    mean: Float
    variance: Float
    mean_information: Float
    null: Float
    weight: float
    excess: float
    V_sum: Float
    V_gram: Float

    @classmethod
    def of(cls, design: JointDesign, *, single: bool = False) -> ScoringDesign:
        """Precompute, in O(n·(c + v)²).

        Parameters
        ----------
        design : JointDesign
        single : bool, default False
            Run all but the last sweeps in float32. The estimates are as accurate, the last
            gradients being float64, but on processors whose BLAS does not treat all columns of a
            matrix alike they depend on the block by up to 1e-5 of a standard error.
        """
        y, X, V = design.y, design.X, design.V
        c = X.shape[1]
        w = np.exp(-(V @ design.beta))
        r = y - X @ design.alpha
        k = w * r * r
        observed = np.zeros((c + V.shape[1],) * 2)
        mean_information = X.T @ (X * w[:, None])
        observed[:c, :c] = mean_information
        observed[:c, c:] = X.T @ (V * (w * r)[:, None])
        observed[c:, :c] = observed[:c, c:].T
        observed[c:, c:] = 0.5 * (V.T @ (V * k[:, None]))
        V_gram = V.T @ V
        mean = np.asarray(np.linalg.inv(mean_information), np.float64)
        variance = np.asarray(np.linalg.inv(0.5 * V_gram), np.float64)
        expected = np.zeros_like(observed)
        expected[:c, :c], expected[c:, c:] = mean_information, 0.5 * V_gram
        scale = 1 / np.sqrt(np.diag(expected))
        convex = np.linalg.eigvalsh(observed * scale * scale[:, None])
        relative = np.linalg.eigvalsh(expected * scale * scale[:, None])
        usable = convex[0] > 0.2 * relative[0]
        double = Columns(np.column_stack([y, X]), np.ascontiguousarray(V))
        dtype: type[np.floating] = np.float32 if single else np.float64
        early = Columns(double.yX.astype(dtype), double.V.astype(dtype)) if single else double
        return cls(
            joint=design,
            double=double,
            early=early,
            start=Start.of(X, V, w, r, k, mean, variance, dtype),
            inverse=np.linalg.inv(observed if usable else expected),
            mean=mean,
            variance=variance,
            mean_information=mean_information,
            null=np.concatenate([design.alpha, design.beta, np.zeros(2)]),
            weight=float(w.sum()),
            excess=float((1 - k).sum()),
            V_sum=V.sum(axis=0),
            V_gram=V_gram / len(y),
        )
