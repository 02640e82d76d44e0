"""Covariances of the estimates of variants at their maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.covariances import put_covariance
from hlmm_scan.kernels.estimates import Estimates
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.weighted.basis import STRIP, LeverageTerms, WeightedBasis
from hlmm_scan.kernels.weighted.exact import ExactDeterminant
from hlmm_scan.kernels.weighted.likelihood import FAST, Tile
from hlmm_scan.models.inference import covariance_from_information
from hlmm_scan.schema import Status

Real = NDArray[Any]
"""float64 or float32."""

_SETTLED = 5e-4  # relative change of an information that ends its refinement
_MAX_REFINEMENTS = 60


@dataclass(frozen=True)
class Finished:
    """Variants that are done; the last ones may be repeated to keep the width the same.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Of the tile.
    theta : ndarray, shape (m, c + v + 3)
    held : ndarray of bool, shape (m,)
        Whether h2 is 0.
    exact : list of ExactDeterminant or None
        At most m: those of the first ones.
    """

    rows: NDArray[np.intp]
    theta: Float
    held: NDArray[np.bool_]
    exact: list[ExactDeterminant | None]


class _Rows(NamedTuple):
    """Of the tile, and what is made of that; each of shape (m, n).

    Attributes
    ----------
    weight, g, called, leverage : ndarray
    spread : ndarray
        (1 + δ)/(1 + κRδ)².
    M : ndarray
        diag M.
    """

    weight: Real
    g: Real
    called: Real
    leverage: Real
    spread: Real
    M: Real


class _Leverages(NamedTuple):
    """R(κ), its slope and half its second derivative; each of shape (m, n)."""

    R: Real
    slope: Real
    curvature: Real


class _Scales(NamedTuple):
    """ω̄, 1/ω̄, κ, h2, each of shape (m,)."""

    mean: Real
    per_mean: Real
    kappa: Real
    h2: Real


class _Across(NamedTuple):
    """What pairs of people add to (M∘M)g and (M∘M)1.

    Attributes
    ----------
    g, one : ndarray, shape (m, n)
    third : ndarray, shape (m,)
        What a third person does to the latter.
    """

    g: Real
    one: Real
    third: Real


class _Operated(NamedTuple):
    """(M∘M)g, diag(D^½Σ⁻¹GGᵀΣ⁻¹D^½) and (M∘M)1; each of shape (m, n)."""

    g: Real
    h: Real
    level: Real


@njit(nogil=True, cache=True, fastmath=FAST)
def _spread(
    rows: _Rows, leverages: _Leverages, variance: Real, scales: _Scales, sums: Float
) -> None:  # pragma: no cover
    """Fill `spread` and `M` of everybody.

    `sums`, (8, m): of that spread times g and alone, the same times the row sums of pairs, those
    row sums, Σδ times what a third person does to pairs, Σ(ω·leverage)², and ΣD.
    """
    weight, g, called, leverage, spread, M = rows
    for j in range(weight.shape[0]):
        w, x, c, lev, s, m = weight[j], g[j], called[j], leverage[j], spread[j], M[j]
        r, q, z = leverages.R[j], leverages.slope[j], leverages.curvature[j]
        u, k, h = scales.per_mean[j], scales.kappa[j], scales.h2[j]
        one = u / u
        two = one + one
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = u - u
        for i in range(len(w)):
            relative = w[i] * u
            delta = relative - one
            own = one / (one + k * r[i] * delta)
            s_i = relative * own * own
            level = -q[i] - r[i] * r[i]
            of_random = w[i] * lev[i]
            s[i] = s_i
            m[i] = c[i] - h * of_random
            s0 += s_i * x[i]
            s1 += s_i
            s2 += level * s_i * x[i]
            s3 += level * s_i
            s4 += level
            s5 += delta * (z[i] + (two + one) * r[i] * q[i] + two * r[i] * r[i] * r[i])
            s6 += of_random * of_random
            s7 += c[i] * variance[i] / (w[i] + one - c[i])
        for at, total in enumerate((s0, s1, s2, s3, s4, s5, s6, s7)):
            sums[at, j] = total


@njit(nogil=True, cache=True, fastmath=FAST)
def _operate(
    rows: _Rows, across: _Across, scales: _Scales, out: _Operated, sums: Float
) -> None:  # pragma: no cover
    """Fill `out`, and `sums`, (3, m), with gᵀ(M∘M)g, gᵀh and the sum over pairs."""
    weight, g, called, leverage, spread, M = rows
    for j in range(weight.shape[0]):
        w, x, c, lev, m, s = weight[j], g[j], called[j], leverage[j], M[j], spread[j]
        og, o1, a, b, z = across.g[j], across.one[j], out.g[j], out.h[j], out.level[j]
        k, t, mean = scales.kappa[j], across.third[j], scales.mean[j]
        s0 = s1 = s2 = k - k
        for i in range(len(w)):
            square = m[i] * m[i]
            pairs = c[i] * (s[i] * o1[i] + t)
            u = c[i] * (square * x[i] + k * k * s[i] * og[i])
            v = w[i] * lev[i] * m[i] - k * mean * pairs
            a[i] = u
            b[i] = v
            z[i] = square + k * k * pairs
            s0 += x[i] * u
            s1 += x[i] * v
            s2 += pairs
        sums[0, j] = s0
        sums[1, j] = s1
        sums[2, j] = s2


def covariances(
    basis: WeightedBasis, tile: Tile, finished: Finished, out: Estimates, sandwich: bool
) -> None:
    """Fill in covariances by the expected information, studentised ones and residual variances.

    Parameters
    ----------
    basis : WeightedBasis
    tile : Tile
        As the last evaluation left it.
    finished : Finished
    out : Estimates
        As many rows as there are in `finished.exact`.
    sandwich : bool
        Whether to fill in that as well; left PENDING where h2 is 0, since another one is used then.

    Notes
    -----
    The information of log L, at the current weights for everything that the genotype has a part
    in: with M = D^½Σ⁻¹D^½, u_v = (M∘M)v and u_h = diag(D^½Σ⁻¹GGᵀΣ⁻¹D^½), it is ½vᵀu_w for two
    log-variance parameters and ½vᵀu_h with h2; gᵀΣ⁻¹g is the minimum of J of
    :mod:`~hlmm_scan.kernels.weighted.likelihood` for g in place of residuals. XᵀΣ⁻¹X is taken to
    first order in the change of weights, V with its u as at the null but for the diagonal of M∘M,
    or exactly where Σ was inverted.

    Off its diagonal, M∘M is κ²·(1 + δᵢ)aᵢ²·(S∘S)ᵢⱼ·aⱼ²(1 + δⱼ), a = 1/(1 + κRδ): what the weights
    of i and j do to (i, j). Where pairs are not stored, the sum over all of what a third person
    does is added, −2κΣδₖ·Σᵢⱼ SᵢₖSᵢⱼSⱼₖ, since the information of h2 is but a sum over pairs.

    Studentised (math.md §2; the derivation stands in :mod:`hlmm_scan.models.robust`): for the
    efficient combination u = Σe_ku_k, e the column of the inverse information that belongs to b_g,
    C_bb = e_g + ¼(m₄ − 3)‖u‖², and C_ab = ½m₃·(D^½Σ⁻¹x)ᵀu, x likewise for a_g. The sandwich sums
    the products of every person's part in the scores of the same combinations.
    """
    n, c, v, dtype = basis.n, basis.X.shape[1], basis.V.shape[1], basis.columns.dtype
    rows, m, count = finished.rows, len(finished.rows), len(finished.exact)
    h2 = finished.theta[:, c + v]
    g, called = tile.g[rows], tile.called[rows]
    weight, leverage = tile.weight[rows], tile.leverage[rows]
    for k, exact in enumerate(finished.exact):
        if exact is not None:
            leverage[k] = exact.leverage
    mean = weight.mean(axis=1, dtype=np.float64)
    kappa = h2 * mean
    series_at = LeverageTerms.of(basis.leverage, kappa)
    shrunk = basis.values[:, None] / (1 + kappa * basis.values[:, None])
    first, second, third = ((shrunk**k).sum(axis=0)[:, None] for k in (1, 2, 3))
    # Half the second derivative of R by κ, from a difference.
    away = 1e-4 * (kappa + 1 / basis.values[0])
    before = LeverageTerms.of(basis.leverage, kappa - away)
    bend = (series_at.slopes - before.slopes) / (2 * away)
    series = basis.series_rows
    R, slope, curvature = (
        products.multiply(of_kappa.T.astype(dtype), series) + level.astype(dtype)
        for of_kappa, level in (
            (series_at.terms, first / n), (series_at.slopes, -second / n), (bend, third / n)
        )
    )  # fmt: skip
    scale = (second[:, 0] - series_at.squares) / basis.pair_sum
    scales = _Scales(*(x.astype(dtype) for x in (mean, 1 / mean, kappa, h2)))
    spread, M, sums = np.empty_like(g), np.empty_like(g), np.zeros((8, m))
    variance = np.exp(basis.reference).astype(dtype)
    of_tile = _Rows(weight, g, called, leverage, spread, M)
    _spread(of_tile, _Leverages(R, slope, curvature), variance, scales, sums)
    across_g, across_1, by_third = spread * g, spread.copy(), np.zeros(m)
    if basis.pairs is None:
        level = -slope - R * R
        by_third = -2 * kappa * sums[5] / n
        excess = tile.excess[rows] * scale
        for vectors, total, with_level in ((across_g, *sums[[0, 2]]), (across_1, *sums[[1, 3]])):
            average = total / n
            constant = (with_level - average * sums[4]) / n - excess * average
            vectors *= excess[:, None].astype(dtype)
            vectors += average[:, None].astype(dtype) * level
            vectors += constant[:, None].astype(dtype)
    else:
        for vectors in (across_g, across_1):
            found = products.multiply(vectors.astype(np.float32), basis.pairs)
            vectors[:] = found * scale[:, None]
    inner, filled = np.zeros((3, m)), _Operated(*(np.empty_like(g) for _ in range(3)))
    across = _Across(across_g, across_1, by_third.astype(dtype))
    _operate(of_tile, across, scales, filled, inner)
    u_g, u_h, level_row = filled
    gg, gh, hh = inner[0], inner[1], sums[6] + mean**2 * inner[2]
    for k, exact in enumerate(finished.exact):
        if exact is not None and exact.operated is None:
            more = (exact.square_trace - hh[k]) / (mean[k] ** 2 * called[k].sum())
            u_h[k] -= kappa[k] * mean[k] * more * called[k]
            level_row[k] += kappa[k] ** 2 * more * called[k]
            hh[k] = exact.square_trace
        elif exact is not None and exact.operated is not None:
            u_g[k], level_row[k] = exact.operated[:, -1], exact.operated[:, 0]
            # h2·GGᵀ = Σ − D turns D^½Σ⁻¹(h2·GGᵀ)Σ⁻¹D^½ into M − M².
            u_h[k] = (M[k] - level_row[k]) / h2[k]
            hh[k] = ((called[k] - M[k]).sum() - h2[k] * u_h[k].sum()) / h2[k] ** 2
            gg[k], gh[k] = g[k] @ u_g[k], g[k] @ u_h[k]
    X, V, unit, *_ = basis.rows
    gV, hV, VV_level = (products.multiply(x, V.T) for x in (u_g, u_h, level_row))
    square = M * M
    moments = _Moments.of(basis, square, weight * M, weight)
    across_null = basis.null_across
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.nan_to_num((kappa / (basis.theta[-1] * basis.weight.mean())) ** 2 * scale)
    VV = moments.VV + ratio[:, None, None] * (V @ across_null.T)
    VV[:, 0], VV[:, :, 0] = VV_level, VV_level
    # (M∘M)V, where it is known.
    operated = {
        k: exact.operated[:, :v]
        for k, exact in enumerate(finished.exact)
        if exact is not None and exact.operated is not None
    }
    for k, exact_V in operated.items():
        VV[k] = V @ exact_V

    # What of the genotype the covariates explain would ask for XᵀΣ⁻¹X exactly: little is left.
    x = g * unit
    weighted = products.multiply(weight * M * x, X.T)
    gamma = np.linalg.solve(moments.XX, weighted[:, :, None].astype(np.float64))[:, :, 0]
    x -= products.multiply(gamma.astype(dtype), X) * called
    # How much less each refinement does than the one before: at most the norm of κΛ₀^-½ΔΛ₀^-½.
    decay = np.ones(m)
    if basis.pairs is None:
        deviations = np.square(tile.centred[rows]).sum(axis=1, dtype=np.float64)
        of_person = np.maximum(series_at.squares, 0) / n + np.abs(excess)
        decay = np.minimum(kappa**2 * of_person * deviations, 1.0)
    own, left = _mean_part(basis, x, weight, h2, decay)
    cross = products.multiply(weight * left, X.T)
    A = basis.information[:c, :c] + moments.change
    explained = np.linalg.solve(A, cross[:, :, None].astype(np.float64))[:, :, 0]
    efficient = own - np.einsum("mi,mi->m", cross, explained)

    coefficients, C_bb = np.zeros((m, v + 2)), np.full(m, np.nan)
    for k in range(count):
        information = np.empty((v + 2, v + 2))
        information[:v, :v] = VV[k]
        information[:v, v] = information[v, :v] = hV[k]
        information[:v, -1] = information[-1, :v] = gV[k]
        information[v, v], information[-1, -1] = hh[k], gg[k]
        information[v, -1] = information[-1, v] = gh[k]
        free = [*range(v), *([] if finished.held[k] else [v]), v + 1]
        C = covariance_from_information(0.5 * information[np.ix_(free, free)])
        coefficients[k, free], C_bb[k] = C[-1], C[-1, -1]
        if not finished.held[k]:
            out.random_variance_variance[k] = C[-2, -2]
    e = coefficients.astype(dtype)
    u = square * products.multiply(e[:, :v], V)
    u += products.multiply(ratio[:, None].astype(dtype) * e[:, :v], across_null)
    for k, exact_V in operated.items():
        u[k] = exact_V @ e[k, :v]
    u += u_g * e[:, -1:] + u_h * e[:, v : v + 1]
    u *= called
    scores = basis.null_fitted
    in_scores = products.multiply(explained.astype(dtype), scores)
    efficient_x = np.sqrt(weight) * (left - in_scores)
    efficient_x /= efficient[:, None].astype(dtype)
    third_moment, fourth_moment = basis.moments
    squared = np.einsum("mi,mi->m", u, u)[:count]
    bad = ~((efficient > 0) & np.isfinite(C_bb))[:count]
    out.status[bad] = Status.PENDING
    C_aa, C_bb = 1 / efficient[:count], C_bb[:count]
    robust = C_bb + 0.25 * (fourth_moment - 3) * squared
    both = 0.5 * third_moment * np.einsum("mi,mi->m", efficient_x, u)[:count]
    put_covariance(out, slice(None), "", C_aa, C_bb, 0.0)
    put_covariance(out, slice(None), "_robust", C_aa, robust, both)
    if sandwich:
        by_row = x - products.multiply(explained.astype(dtype), X) * called
        random = basis.fitted_random + tile.random[rows]
        score = weight * tile.left[rows]
        add = (by_row / efficient[:, None] * score)[:count]
        excess = score * tile.left[rows] + h2[:, None] * weight * leverage - called
        per_h2 = 1 / np.where(h2 > 0, h2, 1.0)[:, None]
        by_h2 = score * random * per_h2 - weight * leverage
        effects = products.multiply(e[:, :v], V) + e[:, -1:] * g
        var = 0.5 * (effects * excess + e[:, v : v + 1] * by_h2)[:count]
        squares = (np.einsum("mi,mi->m", *pair) for pair in ((add, add), (var, var), (add, var)))
        put_covariance(out, slice(None), "_sandwich", *squares)
        out.status[finished.held[:count]] = Status.PENDING
    out.residual_variance[:] = (sums[7] / called.sum(axis=1))[:count]


@dataclass(frozen=True)
class _Moments:
    """Weighted second moments of the designs, each of shape (m, ·, ·).

    Attributes
    ----------
    VV : ndarray
        Vᵀdiag(M²)V.
    XX : ndarray
        XᵀWX, W = diag(ω∘diag M), nearly XᵀΣ⁻¹X.
    change : ndarray
        First-order change of XᵀΣ⁻¹X with the weights, from those of the null.
    """

    VV: Float
    XX: Float
    change: Float

    @classmethod
    def of(cls, basis: WeightedBasis, square: Real, W: Real, weight: Real) -> _Moments:
        X, V = basis.rows[:2]
        scores = basis.null_fitted
        null = basis.weight.astype(V.dtype)
        made = []
        for design, rows in ((V, square), (X, W), (scores, weight - null)):
            k = len(design)
            upper = np.triu_indices(k)
            sums = np.zeros((len(upper[0]), len(rows)))
            for start in range(0, basis.n, STRIP):
                strip = design[:, start : start + STRIP]
                pairs = strip[upper[0]] * strip[upper[1]]
                products.add_product(pairs, rows[:, start : start + STRIP].T, sums)
            whole = np.empty((len(rows), k, k))
            whole[:, upper[0], upper[1]] = whole[:, upper[1], upper[0]] = sums.T
            made.append(whole)
        return cls(*made)


def _mean_part(
    basis: WeightedBasis, x: Real, weight: Real, h2: Float, decay: Float
) -> tuple[Float, Real]:
    """xᵀΣ⁻¹x and D∘Σ⁻¹x of rows in reference units, (m,) and (m, n), by refinement."""
    mean, values = weight.mean(axis=1, dtype=np.float64)[:, None], basis.values
    h = h2[:, None]
    phi = 1 / (1 + h * mean * values)
    coefficients = np.zeros((len(x), len(values)))
    left, value = x.copy(), (weight * x * x).sum(axis=1, dtype=np.float64)
    unsettled = np.ones(len(x), bool)
    for _ in range(_MAX_REFINEMENTS):
        product = basis.back(products.multiply(weight * left, basis.columns))
        shift = h * phi * (product + mean * values * coefficients) - coefficients
        step = products.combine(basis.forward(shift), basis.columns)
        along = (shift * (h * product - coefficients)).sum(axis=1)
        curvature = (shift**2).sum(axis=1)
        curvature += h2 * (weight * step * step).sum(axis=1, dtype=np.float64)
        length = np.where(curvature > 0, along / np.where(curvature > 0, curvature, 1.0), 0.0)
        # Each row on its own: its numbers may not depend on how long others take.
        length = np.where(unsettled, length, 0.0)
        coefficients += length[:, None] * shift
        left -= length[:, None].astype(left.dtype) * step
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = np.where(h2 > 0, length * along / h2, 0.0)
            value -= gain
            unsettled &= gain * decay > _SETTLED * value
        if not unsettled.any():
            break
    with np.errstate(invalid="ignore", divide="ignore"):
        penalty = np.where(h2 > 0, (coefficients**2).sum(axis=1) / h2, 0.0)
    return (weight * left * left).sum(axis=1, dtype=np.float64) + penalty, left
