"""The HLMM's likelihood with weights of every person's own, for many variants abreast.

Everything that touches people × variants arrays is here: two products of the random effects'
columns with such arrays out and back, and compiled passes between them, O(n·k) for a variant in
place of O(n·k²). Symbols as in :mod:`~hlmm_scan.kernels.weighted.basis`; ω̄ is the mean of ω over
everyone, δᵢ = ωᵢ/ω̄ − 1, κ = h2·ω̄, E the residual in reference units and Δ = Hᵀdiag(δ)H.

**The quadratic form is exact in the end.** For any prediction β of the random effects,

    J(β) = Σωᵢ(Eᵢ − (Hβ)ᵢ)² + ‖β‖²/h2 ≥ rᵀΣ⁻¹r,

with equality where β = h2·u, u = Λ⁻¹Hᵀ(ω∘E). Every variant carries its own β. An evaluation moves
it by the step to h2·φ∘(Hᵀ(ω∘(E − Hβ)) + ω̄s²∘β), Newton's with Λ₀ in place of Λ, shortened or
lengthened to the minimum of J along it: what is left of the distance is a fraction of the order of
κΛ₀⁻¹Δ, time after time, while the other parameters converge. By the envelope theorem
∂J/∂ωᵢ = (E − Hβ)ᵢ², ∂J/∂h2 = −‖β‖²/h2².

**The determinant.** log det Λ = log det Λ₀ + log det(I + κS·diag(δ)). The diagonal of the second
matrix is taken out, A = I + κ·diag(R∘δ), and the rest expanded to second order:

    log det Λ ≈ Σⱼlog(1 + κsⱼ²) + Σᵢlog(1 + κRᵢδᵢ) − ½κ²·δ'ᵀ(S∘S − R²)δ',   δ' = δ/(1 + κRδ),

R² on the diagonal. So one person's weight alone is dealt with exactly, however far it moves
(δ = −1 for a missing call), and what is dropped takes three different people. R(κ) is a Chebyshev
series. Where every pair of people is stored, S∘S at the null κ is multiplied by the ratio that
keeps its sum right; else it is o·I for what deviates from the mean, o from Hutchinson's estimate of
gᵀ(S∘S)g less ΣR²g²: 0 but for noise unless people who are alike in H are so in the genotype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.weighted.basis import STRIP, LeverageTerms, WeightedBasis

Real = NDArray[Any]
"""float64 or float32."""

FAST = {"reassoc", "contract", "nsz"}
"""Sums in any order, fixed when compiled; infinities and NaN are as ever."""

_LOGARITHMS = 16
"""People whose factors of a determinant are multiplied before the logarithm is taken."""


def strips(n: int) -> Iterator[slice]:
    """Yield the slices of people of one strip each."""
    return (slice(start, min(start + STRIP, n)) for start in range(0, n, STRIP))


@njit(nogil=True, cache=True, fastmath=FAST)
def _log_weights(
    first: int,
    log_weight: Real,
    g: Real,
    called: Real,
    reference: Real,
    b_g: Real,
    total: Float,
) -> None:  # pragma: no cover
    """Finish log ω from −Vb, and add up the log-variances of those called."""
    for j in range(g.shape[0]):
        row, b = log_weight[j], b_g[j]
        x, c = g[j, first : first + len(row)], called[j, first : first + len(row)]
        lost = b - b
        for i in range(len(x)):
            change = row[i] - x[i] * b
            lost += c[i] * change
            row[i] = change + reference[i]
        total[j] -= lost


class People(NamedTuple):
    """The arrays (m, n) of a :class:`Tile`, as compiled passes take them."""

    g: Real
    called: Real
    weight: Real
    left: Real
    leverage: Real
    random: Real
    step: Real
    centred: Real


class _Null(NamedTuple):
    """Of a strip of people at the null: E, ω∘E and D_r^-½."""

    residual: Real
    start: Real
    unit: Real


class _Each(NamedTuple):
    """Of each variant, (m,): how far the step goes, 1/ω̄, κ and the scale of S∘S."""

    length: Real
    per_mean: Real
    kappa: Real
    scale: Real


@njit(nogil=True, cache=True, fastmath=FAST)
def _residuals(
    first: int,
    weight: Real,
    people: People,
    mean: tuple[Real, Real],
    null: _Null,
    change: Real,
    total: Float,
) -> None:  # pragma: no cover
    """E − Hβ into `left`, and by how much ω∘(E − Hβ) differs from that at the null.

    `mean` is Xα of the strip and a_g.
    """
    fitted, a_g = mean
    residual, start, unit = null
    for j in range(len(weight)):
        w, a, f, d = weight[j], a_g[j], fitted[j], change[j]
        last = first + len(w)
        x, c = people.g[j, first:last], people.called[j, first:last]
        h, e = people.random[j, first:last], people.left[j, first:last]
        sum_w = a - a
        for i in range(len(x)):
            w_i = w[i] * c[i]
            e_i = residual[i] - f[i] - h[i] - unit[i] * x[i] * a
            w[i] = w_i
            e[i] = e_i
            d[i] = w_i * e_i - start[i]
            sum_w += w_i
        total[j] += sum_w


@njit(nogil=True, cache=True, fastmath=FAST)
def _spread(
    first: int, people: People, R: Real, per_mean: Real, kappa: Real, square: Float
) -> None:  # pragma: no cover
    """δ' of a strip, and Σω(step)²; `per_mean` is 1/ω̄."""
    for j in range(len(R)):
        r, k, u = R[j], kappa[j], per_mean[j]
        last = first + len(r)
        w, p = people.weight[j, first:last], people.step[j, first:last]
        d = people.centred[j, first:last]
        one = u / u
        total = k - k
        for i in range(len(w)):
            delta = w[i] * u - one
            d[i] = delta / (one + k * r[i] * delta)
            total += w[i] * p[i] * p[i]
        square[j] += total


@njit(nogil=True, cache=True, fastmath=FAST)
def _determinant(
    first: int, people: People, R: Real, slope: Real, off: Real, each: _Each, sums: Float
) -> None:  # pragma: no cover
    """Take the step of the random effects, and add up what the value and κ-derivative need.

    `sums`, (7, m): Σω(E − Hβ)², Σlog(1 + κRδ), δ'·off, half its κ-derivative at fixed δ, that of
    the second, Σ(1 + δ)·leverage, Σδ'².
    """
    for j in range(len(R)):
        r, q = R[j], slope[j]
        last = first + len(r)
        w, e = people.weight[j, first:last], people.left[j, first:last]
        h, p = people.random[j, first:last], people.step[j, first:last]
        lev, d, o = (
            people.leverage[j, first:last],
            people.centred[j, first:last],
            off[j, first:last],
        )
        t, u, k, c = each.length[j], each.per_mean[j], each.kappa[j], each.scale[j]
        one = u / u
        s0 = s2 = s3 = s4 = s5 = s6 = u - u
        for i in range(len(w)):
            p_i = t * p[i]
            e_i = e[i] - p_i
            e[i] = e_i
            h[i] += p_i
            s0 += w[i] * e_i * e_i
            relative = w[i] * u
            r_kappa = r[i] + k * q[i]
            own = one - k * r[i] * d[i]
            s2 += d[i] * o[i]
            s3 -= o[i] * d[i] * d[i] * r_kappa
            s4 += d[i] * r_kappa
            lev_i = own * (r[i] - k * c * own * o[i])
            s5 += relative * lev_i
            s6 += d[i] * d[i]
            lev[i] = lev_i
        log_det = 0.0
        for some in range(0, len(w), _LOGARITHMS):
            product = 1.0
            for i in range(some, min(some + _LOGARITHMS, len(w))):
                product *= 1.0 - k * r[i] * d[i]
            log_det -= math.log(product)
        sums[0, j] += s0
        sums[1, j] += log_det
        sums[2, j] += s2
        sums[3, j] += s3
        sums[4, j] += s4
        sums[5, j] += s5
        sums[6, j] += s6


@njit(nogil=True, cache=True, fastmath=FAST)
def _scores(
    first: int,
    people: People,
    unit: Real,
    h2: Real,
    score: Real,
    mean_score: Real,
    sums: Float,
) -> None:  # pragma: no cover
    """ω(E − Hβ) and 1 − ω((E − Hβ)² + h2·leverage) of those called.

    `sums`, (3, m): of the first times D_r^-½g, of the second times g, and Σωg.
    """
    for j in range(len(score)):
        s, a, h = score[j], mean_score[j], h2[j]
        last = first + len(s)
        w, e = people.weight[j, first:last], people.left[j, first:last]
        lev = people.leverage[j, first:last]
        x, c = people.g[j, first:last], people.called[j, first:last]
        s0 = s1 = s2 = h - h
        for i in range(len(x)):
            a_i = w[i] * e[i]
            s_i = c[i] - a_i * e[i] - h * w[i] * lev[i]
            a[i] = a_i
            s[i] = s_i
            s0 += unit[i] * x[i] * a_i
            s1 += x[i] * s_i
            s2 += x[i] * w[i]
        sums[0, j] += s0
        sums[1, j] += s1
        sums[2, j] += s2


@dataclass
class Tile:
    """What belongs to the variants that are fitted abreast; one row for each, some unused.

    Attributes
    ----------
    g, called : ndarray, shape (m, n)
        Genotypes less their mean and 1, both 0 where missing.
    weight, left, leverage : ndarray, shape (m, n)
        At the point last evaluated: ω, E − Hβ, and what stands for diag(HΛ⁻¹Hᵀ).
    random : ndarray, shape (m, n)
        H(β − null β).
    step, centred : ndarray, shape (m, n)
        Room to work in.
    beta : ndarray, shape (r, m)
        β less that of the null.
    excess : ndarray, shape (m,)
        o; not used where pairs are stored.
    """

    g: Real
    called: Real
    weight: Real
    left: Real
    leverage: Real
    random: Real
    step: Real
    centred: Real
    beta: Float
    excess: Float

    @property
    def people(self) -> People:
        """The arrays of variants and people."""
        return People(*(getattr(self, name) for name in People._fields))

    @classmethod
    def empty(cls, basis: WeightedBasis, width: int) -> Tile:
        """Return a tile in which every genotype is 0."""
        shape, dtype = (width, basis.n), basis.columns.dtype
        g, called, weight, left, leverage, random, step, centred = (
            np.zeros(shape, dtype) for _ in range(8)
        )
        beta, excess = np.zeros((len(basis.values), width)), np.zeros(width)
        tile = cls(g, called, weight, left, leverage, random, step, centred, beta, excess)
        tile.called[:] = 1.0
        return tile


@dataclass
class Evaluation:
    """The likelihood of each variant of a tile at one point.

    Attributes
    ----------
    value : ndarray, shape (m,)
        −log L less n/2·log 2π; infinite or NaN out of range.
    gradient : ndarray, shape (m, c + v + 3)
        Of it: α, b, h2, a_g, b_g.
    distance : ndarray, shape (m,)
        How far β was from its value, in standard errors: √(what the step took off J).
    own, pairs, spread : ndarray, shape (m,)
        κ²ΣR²δ'², δ'ᵀ(S∘S − R²)δ'·κ² and Σδ'².
    scale : ndarray, shape (m,)
        What S∘S of pairs has been multiplied with since the null.
    mean_weight : ndarray, shape (m,)
    determinant, by_kappa, psi : ndarray, shape (m,)
        log det Λ, G and ψ/n of :func:`evaluate`.
    """

    value: Float
    gradient: Float
    distance: Float
    own: Float
    pairs: Float
    spread: Float
    scale: Float
    mean_weight: Float
    determinant: Float
    by_kappa: Float
    psi: Float


def evaluate(
    basis: WeightedBasis, tile: Tile, theta: Float, moving: NDArray[np.bool_] | None = None
) -> Evaluation:
    """Evaluate every variant of a tile, and move its prediction of the random effects.

    Parameters
    ----------
    basis : WeightedBasis
    tile : Tile
        All but `g`, `called` and `excess` is overwritten.
    theta : ndarray, shape (m, c + v + 3)
    moving : ndarray of bool, shape (m,), optional
        Variants whose prediction is to be moved; all by default. The others keep theirs, so that
        what becomes of a variant does not depend on how long it waits for its neighbours.

    Notes
    -----
    4n·k operations per variant, and 2n² where pairs are stored. With ψ = G − Σ(1 + δ)ℓ, G the
    derivative of log det Λ by κ at fixed δ and ℓ its derivative by δ over κ (both of the
    approximate function; ψ = 0 for the exact one),

        ∂/∂ωᵢ = (E − Hβ)ᵢ² + h2(ℓᵢ + ψ/n),    ∂/∂h2 = ω̄G − ‖β‖²/h2²          (of −2·log L).
    """
    n, c, v = basis.n, basis.X.shape[1], basis.V.shape[1]
    m, dtype = len(theta), basis.columns.dtype
    values, columns = basis.values, basis.columns
    alpha = np.ascontiguousarray(theta[:, :c] - basis.theta[:c], dtype)
    minus_b = np.ascontiguousarray(-theta[:, c : c + v], dtype)
    h2 = np.ascontiguousarray(theta[:, c + v])
    a_g, b_g = (np.ascontiguousarray(theta[:, c + v + k], dtype) for k in (1, 2))
    X, V, unit, reference, residual, start = basis.rows
    people, log_variance, weight_sum = tile.people, np.zeros(m), np.zeros(m)
    sums = np.zeros((m, columns.shape[1]))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for s in strips(n):
            work = products.multiply(minus_b, V[:, s])
            _log_weights(s.start, work, tile.g, tile.called, reference[s], b_g, log_variance)
            np.exp(work, out=work)
            change = np.empty_like(work)
            of_mean = products.multiply(alpha, X[:, s]), a_g
            null = _Null(residual[s], start[s], unit[s])
            _residuals(s.start, work, people, of_mean, null, change, weight_sum)
            tile.weight[:, s] = work
            products.add_product(change, columns[s], sums)
        mean = weight_sum / n
        kappa = h2 * mean
        series_at = LeverageTerms.of(basis.leverage, kappa)
        phi = 1 / (1 + kappa * values[:, None])
        shrunk = values[:, None] * phi
        trace, pair_trace = shrunk.sum(axis=0), (shrunk**2).sum(axis=0)
        product = basis.product[:, None] + basis.back(sums).T
        beta = basis.random[:, None] + tile.beta
        aim = h2 * phi * (product + mean * values[:, None] * beta)
        shift = aim - beta
        shift[:, ~np.isfinite(shift).all(axis=0)] = 0.0
        spread = basis.forward(shift.T)
        square = np.zeros(m)
        series, single = basis.series_rows, (dtype.type(1) / mean).astype(dtype)
        kappa_ = kappa.astype(dtype)
        terms, slopes = series_at.terms.T.astype(dtype), series_at.slopes.T.astype(dtype)
        level, level_slope = (trace / n).astype(dtype), (-pair_trace / n).astype(dtype)
        for s in strips(n):
            tile.step[:, s] = products.combine(spread, columns[s])
            R = products.multiply(terms, series[:, s]) + level[:, None]
            _spread(s.start, people, R, single, kappa_, square)
        # Of J: half its slope along the step, and half its curvature, both times h2.
        along = (shift * (h2 * product - beta)).sum(axis=0)
        curvature = (shift**2).sum(axis=0) + h2 * square
        length = np.where((h2 > 0) & (curvature > 0), along / curvature, 1.0)
        if moving is not None:
            length = np.where(moving, length, 0.0)
        distance = np.sqrt(np.where(h2 > 0, np.maximum(length * along, 0) / h2, 0.0))
        if basis.pairs is None:
            off = tile.centred * tile.excess[:, None].astype(dtype)
        else:
            centred = tile.centred.astype(np.float32)
            off = products.multiply(centred, basis.pairs).astype(dtype)
        cubes = (shrunk**3).sum(axis=0)
        scale = (pair_trace - series_at.squares) / basis.pair_sum
        scale_slope = (-2 * cubes - series_at.squares_slope) / basis.pair_sum
        each = _Each(length.astype(dtype), single, kappa_, scale.astype(dtype))
        h2_ = h2.astype(dtype)
        parts, outer = np.zeros((7, m)), np.zeros((3, m))
        by_alpha, by_b, weighted = np.zeros((m, c)), np.zeros((m, v)), np.zeros((m, v))
        for s in strips(n):
            R = products.multiply(terms, series[:, s]) + level[:, None]
            slope = products.multiply(slopes, series[:, s]) + level_slope[:, None]
            _determinant(s.start, people, R, slope, off, each, parts)
            score, mean_score = np.empty_like(R), np.empty_like(R)
            _scores(s.start, people, unit[s], h2_, score, mean_score, outer)
            products.add_product(mean_score, X[:, s].T, by_alpha)
            products.add_product(score, V[:, s].T, by_b)
            products.add_product(tile.weight[:, s], V[:, s].T, weighted)
        tile.beta += length * shift
        u = np.where(h2 > 0, (beta + length * shift) / h2, product + mean * values[:, None] * beta)
        u_square = (u**2).sum(axis=0)
        by_kappa = (
            trace + parts[4] - kappa * scale * parts[2]
            - 0.5 * kappa**2 * scale_slope * parts[2] - kappa**2 * scale * parts[3]
        )  # fmt: skip
        psi = (by_kappa - parts[5]) / n
        determinant = parts[1] - np.log(phi).sum(axis=0) - 0.5 * kappa**2 * scale * parts[2]
        value = 0.5 * (log_variance + determinant + parts[0] + h2 * u_square)
        value[~np.isfinite(series_at.terms).all(axis=0)] = np.inf
        gradient = np.empty((m, c + v + 3))
        gradient[:, :c] = -by_alpha
        gradient[:, c : c + v] = 0.5 * (by_b - (h2 * psi)[:, None] * weighted)
        gradient[:, c + v] = 0.5 * (mean * by_kappa - u_square)
        gradient[:, c + v + 1] = -outer[0]
        gradient[:, c + v + 2] = 0.5 * (outer[1] - h2 * psi * outer[2])
        return Evaluation(
            value=value,
            gradient=gradient,
            distance=distance,
            own=kappa**2 * series_at.squares / n * parts[6],
            pairs=kappa**2 * scale * parts[2],
            spread=parts[6],
            scale=scale,
            mean_weight=mean,
            determinant=determinant,
            by_kappa=by_kappa,
            psi=psi,
        )
