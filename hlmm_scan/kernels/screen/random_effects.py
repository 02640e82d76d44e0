"""Score screen of the HLMM: one-step effects and tests on the shared random effects.

The formulas of :func:`hlmm_scan.kernels.screen.plain.fit_hlmm_screen_plain` with, for
Λ = I + h2·FᵀWF = LLᵀ and R = WFL⁻ᵀ,

    Σ₀⁻¹ = W − h2·RRᵀ,      W = D₀⁻¹,

so that a variant takes one product with R: Rᵀg for I_a, in single precision. The residuals
e = D₀Σ₀⁻¹(r₀ − a_g·x̃) of every person take another, R(Rᵀx̃). Where a_g is small or l ≪ n that one
hardly matters: with φ = h2‖Rᵀx̃‖²/x̃ᵀWx̃, replacing Σ₀⁻¹x̃ by (1 − φ)Wx̃ moves b_g by about
z_a√(2φ/n) standard errors, at random.

The expected information of b_g needs M∘M with M = D₀^½Σ₀⁻¹D₀^½. For few people it is written out.
For many its diagonal stands, 1 − 2h2·pᵢ + h2²pᵢ², and off the diagonal its mean, which l ≪ n random
effects hardly differ from (math.md §5).

A missing call counts as the mean genotype of the people called: tests stay valid, and such people
add no information.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock, joined
from hlmm_scan.kernels import limits
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.limits import COLLINEAR_SCREENED
from hlmm_scan.kernels.screen.plain import put_screened
from hlmm_scan.kernels.screen.random_effects_design import (
    PEOPLE_PER_STRIP,
    RandomScreenDesign,
    strips,
)
from hlmm_scan.kernels.sums import products
from hlmm_scan.schema import Status

_SECOND_PRODUCT = 2e-3  # z_a√(2φ/n) from which on it is taken
_TILE = 64  # variants in one product; fewer are filled up, since rounding depends on the shape


@njit(nogil=True, cache=True)
def _centre(g: Any, middle: Any) -> None:  # pragma: no cover
    """Subtract the mean of each row; people without a call get 0."""
    for j in range(g.shape[0]):
        for i in range(g.shape[1]):
            x = g[j, i] - middle[j]
            g[j, i] = x if x == x else 0.0


@njit(nogil=True, cache=True)
def _squares(h: Any, weights: Any, out: Any) -> None:  # pragma: no cover
    """Add Σh²·weight of each row to `out`."""
    for j in range(h.shape[0]):
        total = 0.0
        for i in range(h.shape[1]):
            total += h[j, i] * h[j, i] * weights[i]
        out[j] += total


class _OfGenotype(NamedTuple):
    """h, (M∘M)h and what random effects take of Σ⁻¹x̃, of m variants and a strip of people."""

    h: Any
    derivative: Any
    random: Any


class _Explained(NamedTuple):
    """What covariates explain of g in the mean, in the log-variance, and in (M∘M)h."""

    mean: Any
    variance: Any
    derivative: Any


class _Null(NamedTuple):
    """Of people at the null: √D, h2 times the leverage less 1, and Σ⁻¹r."""

    roots: Any
    own: Any
    scores: Any


@njit(nogil=True, cache=True)
def _people(
    of_genotype: _OfGenotype, explained: _Explained, null: _Null, shrunk: Any, a: Any, out: Any
) -> None:  # pragma: no cover
    """Add Σṽ(k/D − 1), (D^½Σ⁻¹x̃)ᵀu, uᵀu and Σṽ(k₀/D − 1) of each row to the columns of `out`.

    Σ⁻¹x̃ is shrunk·Wx̃ − `random`.
    """
    (h, derivative, random), (Xg, Vd, ud), (roots, own, scores) = of_genotype, explained, null
    for j in range(h.shape[0]):
        first, second, third, plain = 0.0, 0.0, 0.0, 0.0
        for i in range(h.shape[1]):
            # In units of the standard deviation: √D·Σ⁻¹x̃ and e/√D.
            t = shrunk[j] * (h[j, i] - Xg[j, i]) / roots[i] - random[j, i] * roots[i]
            at_null = scores[i] * roots[i]
            e = at_null - a[j] * t
            u = derivative[j, i] - ud[j, i]
            v = h[j, i] - Vd[j, i]
            first += v * (e * e + own[i])
            plain += v * (at_null * at_null + own[i])
            second += t * u
            third += u * u
        out[j, 0] += first
        out[j, 1] += second
        out[j, 2] += third
        out[j, 3] += plain


@dataclass(frozen=True, eq=False)
class _Variants:
    """A tile of variants after the first product, or a choice of several tiles.

    Attributes
    ----------
    genotypes : HardCalls or Dosages
    middle : ndarray, shape (m,)
        Mean genotype of the people called.
    gamma, delta : ndarray, shapes (m, c) and (m, q)
        Coefficients of the covariates, and of the nuisance parameters of the variance.
    projected : ndarray, shape (m, r)
        Rᵀx̃.
    a, I_a, I_b, phi : ndarray, shape (m,)
    unique : ndarray of bool, shape (m,)
    """

    genotypes: GenotypeBlock
    middle: Float
    gamma: Float
    delta: Float
    projected: Float
    a: Float
    I_a: Float
    I_b: Float
    phi: Float
    unique: NDArray[np.bool_]

    def take(self, rows: NDArray[np.intp]) -> _Variants:
        others = (getattr(self, f.name)[rows] for f in fields(self)[1:])
        return _Variants(self.genotypes.take(rows), *others)

    @staticmethod
    def join(parts: list[_Variants]) -> _Variants:
        names = [f.name for f in fields(_Variants)[1:]]
        others = (np.concatenate([getattr(p, k) for p in parts]) for k in names)
        return _Variants(joined([p.genotypes for p in parts]), *others)

    def centred(self, samples: NDArray[np.int64]) -> Float:
        """Return h = g − ḡ, 0 where missing."""
        h = self.genotypes.copies(samples)
        _centre(h, self.middle)
        return h


def fit_random_screen(
    design: RandomScreenDesign,
    genotypes: GenotypeBlock,
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Screen variants for additive and variance effects, one step from the HLMM's null fit.

    Parameters
    ----------
    design : RandomScreenDesign
        Of the null model and a left-out chromosome.
    genotypes : HardCalls or Dosages
    inference : Inference, optional
        As for :func:`hlmm_scan.kernels.screen.fit.fit_screen`.

    Returns
    -------
    Estimates
        m rows with status SCREENED, or NOT_UNIQUE. The variance of the random effects is that of
        the null fit. `log_likelihood` is the null model's plus half of both score statistics.
    """
    del inference
    out = Estimates.empty(len(genotypes))
    again: list[tuple[_Variants, NDArray[np.intp]]] = []
    n = len(design.samples)
    for start in range(0, len(genotypes), _TILE):
        part = np.arange(start, min(start + _TILE, len(genotypes)))
        variants = _first_product(design, genotypes.take(_filled(part)))
        _put(design, variants, out, part, exactly=design.squares is not None)
        with np.errstate(invalid="ignore"):
            z = variants.a**2 * variants.I_a
            more = variants.unique & (z * 2 * variants.phi > _SECOND_PRODUCT**2 * n)
        chosen = np.flatnonzero(more[: len(part)])
        if design.squares is None and len(chosen):
            again.append((variants.take(chosen), part[chosen]))
    if again:
        everything = _Variants.join([variants for variants, _ in again])
        places = np.concatenate([part for _, part in again])
        for start in range(0, len(places), _TILE):
            chosen = np.arange(start, min(start + _TILE, len(places)))
            _put(design, everything.take(_filled(chosen)), out, places[chosen], exactly=True)
    return out


def _filled(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Repeat rows until a tile is full."""
    return np.resize(rows, _TILE)


def _first_product(design: RandomScreenDesign, genotypes: GenotypeBlock) -> _Variants:
    """Work out everything of a tile that takes one pass over people, a_g among it."""
    n, c, h2 = len(design.samples), design.X.shape[1], design.fit.random_variance
    counts = GenotypeCounts.of(genotypes, design.samples)
    people, middle = counts.called, counts.mean_copies
    empty = np.zeros((_TILE, 0))
    none = np.zeros(_TILE)
    variants = _Variants(
        genotypes, middle, empty, empty, empty, none, none, none, none, none.astype(bool)
    )
    on_R, thin = np.zeros((_TILE, design.R.shape[1])), np.zeros((_TILE, design.thin.shape[1]))
    spread, total = np.zeros(_TILE), np.zeros(_TILE)
    for s in strips(n):
        h = variants.centred(design.samples[s])
        products.add_product(h.astype(np.float32), design.R[s], on_R)
        thin += h @ design.thin[s]
        _squares(h, design.w[s], spread)
        _squares(h, design.diagonal[s], total)
    if design.squares is not None:  # all people are in one strip
        total = np.einsum("mn,mn->m", h, products.multiply(h.astype(np.float32), design.squares))
    Xh, uh = thin[:, :c], thin[:, c:-1]
    with np.errstate(all="ignore"):
        gamma, delta = Xh @ design.mean, 0.5 * uh @ design.variance
        whole = spread - h2 * (on_R**2).sum(axis=1)
        I_a = whole - (gamma * Xh).sum(axis=1)
        I_b = 0.5 * (total - (delta * uh).sum(axis=1))
        rest = np.minimum(I_a / whole, 2 * I_b / total)
        projected = on_R - gamma @ design.RX.T
        random = h2 * (projected**2).sum(axis=1)
        return replace(
            variants,
            gamma=gamma,
            delta=delta,
            projected=projected,
            a=(thin[:, -1] - gamma @ design.X_scores) / I_a,
            I_a=I_a,
            I_b=I_b,
            phi=random / (I_a + random),
            unique=(people >= c + design.V.shape[1] + 3) & (rest > COLLINEAR_SCREENED),
        )


def _put(
    design: RandomScreenDesign,
    variants: _Variants,
    out: Estimates,
    rows: NDArray[np.intp],
    *,
    exactly: bool,
) -> None:
    """Put the estimates of the first of a tile's variants into `rows` of `out`.

    `exactly` asks for the second product.
    """
    h2, a, I_a, I_b = design.fit.random_variance, variants.a, variants.I_a, variants.I_b
    v = design.V.shape[1]
    sums = np.zeros((_TILE, 4))
    with np.errstate(all="ignore"):
        coefficients = (h2 * variants.projected).astype(np.float32)
        for s in strips(len(design.samples)):
            h = variants.centred(design.samples[s])
            derivative = h * design.diagonal[s]
            if design.squares is not None:
                single = h.astype(np.float32)
                derivative = products.multiply(single, design.squares).astype(np.float64)
            random = np.zeros(h.shape, np.float32)
            if exactly:
                random = products.combine(coefficients, design.R[s])
            explained = _Explained(
                variants.gamma @ design.X[s].T,
                variants.delta[:, :v] @ design.V[s].T,
                variants.delta @ design.u[s].T,
            )
            null = _Null(1 / np.sqrt(design.w[s]), design.own[s], design.thin[s, -1])
            shrunk = np.ones(_TILE) if exactly else 1 - variants.phi
            _people(_OfGenotype(h, derivative, random), explained, null, shrunk, a, sums)
        score = sums[:, 0]
        if h2 > 0:
            left = design.Rr - a[:, None] * variants.projected
            moved = solve_triangular(design.root.T, left.T, check_finite=False)
            score = score - variants.delta[:, -1] * ((moved**2).sum(axis=0) - design.trace)
        b, plain = 0.5 * score / I_b, 0.5 * sums[:, 3] / I_b
    out.status[rows] = Status.NOT_UNIQUE
    kept = np.flatnonzero(variants.unique[: len(rows)])
    put_screened(
        out, rows[kept], (a[kept], b[kept]), plain[kept], (I_a[kept], I_b[kept]),
        design.fit.moments, sums[kept, 1], sums[kept, 2],
        np.full(len(kept), design.fit.log_likelihood),
    )  # fmt: skip
    out.random_variance[rows[kept]] = h2
    if h2 > 0:
        out.random_variance_variance[rows[kept]] = design.variance[-1, -1]
    out.residual_variance[rows[kept]] = (1 / design.w).mean()


def work_bytes(n: int, n_mean: int, n_variance: int, n_random: int) -> int:
    """Estimate the memory of a design and of screening with it, beside the shared random effects.

    Parameters
    ----------
    n, n_mean, n_variance, n_random : int
        People, columns of the designs, random effects.
    """
    rank, strip = min(n, n_random), min(n, PEOPLE_PER_STRIP)
    kept = 4 * n * rank + 8 * n * (2 * (n_mean + n_variance) + 8) + 8 * 6 * rank**2
    written_out = 24 * n**2 if n <= limits.WRITTEN_OUT_PEOPLE else 0
    at_once = 8 * strip * (2 * rank + 8 * _TILE)
    return kept + written_out + at_once
