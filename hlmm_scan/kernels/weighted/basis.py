"""What the HLMM with weights of every person's own needs of a null model, computed once.

Where the log-variance has covariates, residual variances differ between people before any variant
is looked at, and three genotype classes no longer say all. Everything is measured in units of a
reference residual variance D_r, that of the null fit with all random effects in, up to a factor:
H = D_r^-½F, the principal axes of D_r^-½G, serves all left-out chromosomes alike. With an
intercept alone D_r = 1 and the eigenstructure is the one of G itself.

Symbols as in :mod:`~hlmm_scan.kernels.second_order.likelihood`, with ωᵢ = D_rᵢ/Dᵢ (0 where there is
no call): Λ₀ = diag(1 + κs²), φ = 1/(1 + κs²), S = HΛ₀⁻¹Hᵀ, R = diag S.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels import limits
from hlmm_scan.kernels.second_order.basis import TERMS, SecondOrderBasis
from hlmm_scan.null.eigen import Eigenstructure, weighted
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullFit, NullModel
from hlmm_scan.schema import Status

Real = NDArray[Any]
"""float64 or float32."""

STRIP = 512
"""People per strip, so that strips of all arrays stay in cache."""

PAIRS_PEOPLE = 20_000
"""Most people of whom every pair is stored."""

_PAIRS_SHARE = 8  # people per random effect up to which pairs are worth storing
_SETTLED = 1e-13  # relative change of the predicted random effects at the null
_PROBES = 4  # where there are few people; one where their noise is small
_PROBE_SEED = 20261123


def stores_pairs(n: int, r: int) -> bool:
    """Say whether every pair of n people is stored, for r random effects or axes of them."""
    return n <= min(PAIRS_PEOPLE, _PAIRS_SHARE * r)


def reference_log_variance(null: NullModel) -> Float:
    """Return log D_r, shape (n,): 0 for all where the log-variance has no covariates."""
    log_variance = null.variance_design @ null.fits[ALL_RANDOM_EFFECTS].beta
    return np.asarray(log_variance - log_variance.mean())


@lru_cache(maxsize=1)
def _weighted_columns(null: NullModel) -> Float:
    """Columns of the random effects in reference units: the same for all left-out chromosomes."""
    assert null.random_effects is not None
    assert null.random_effects.columns is not None
    return np.asarray(null.random_effects.columns * _unit(null)[:, None])


def _unit(null: NullModel) -> Float:
    return np.asarray(np.exp(-0.5 * reference_log_variance(null)))


@dataclass(frozen=True, eq=False)
class WeightedBasis:
    """One null model and one set of random effects.

    Attributes
    ----------
    leverage : SecondOrderBasis
        Of phenotype and random effects in reference units: Chebyshev series of R, the range of κ.
    columns : ndarray, shape (n, k)
        Those of the eigenstructure; float32 from `limits.SINGLE_PRECISION_PEOPLE` people on. What
        is multiplied with them in single precision is but the change against the null.
    whole : bool
        Whether `columns` is H itself.
    X, V : ndarray, shapes (n, c) and (n, v)
        Designs, the first in reference units.
    reference, unit : ndarray, shape (n,)
        log D_r and D_r^-½.
    theta : ndarray, shape (c + v + 1,)
        Null α, b and h2.
    weight, residual, random : ndarray, shapes (n,), (n,) and (r,)
        Null ω, E = D_r^-½(y − Xα) − Hβ, and β, the prediction of the random effects.
    product : ndarray, shape (r,)
        Hᵀ(ω∘E).
    score : ndarray, shape (n,)
        Null gradient of −2·log L with respect to each log-variance.
    null_leverage : ndarray, shape (n,)
        diag(HΛ⁻¹Hᵀ) at the null, Λ with the null weights.
    pairs : ndarray of float32, shape (n, n), or None
        S∘S at the null κ with zeros on the diagonal, where there are many random effects. It
        makes second-order terms only, in which single precision does not show.
    probes : ndarray, shape (n, probes)
        HΛ₀^-½ξ, ξ of random signs: where `pairs` is not stored.
    pair_sum : float
        Sum over all pairs of S∘S at the null κ.
    information : ndarray, shape (c + v + 1, c + v + 1)
        Expected, of α, b and h2.
    mean_scores : ndarray, shape (n, c)
        Σ⁻¹X in reference units.
    variance_scores : ndarray, shape (n, v + 1)
        (M∘M)V and diag(D^½Σ⁻¹GGᵀΣ⁻¹D^½), M = D^½Σ⁻¹D^½.
    moments : tuple of float
    """

    leverage: SecondOrderBasis
    columns: Real
    whole: bool
    X: Float
    V: Float
    reference: Float
    unit: Float
    theta: Float
    weight: Float
    residual: Float
    random: Float
    product: Float
    score: Float
    null_leverage: Float
    pairs: Real | None
    probes: Real
    pair_sum: float
    information: Float
    mean_scores: Float
    variance_scores: Float
    moments: tuple[float, float]

    @property
    def n(self) -> int:
        """Number of people."""
        return len(self.residual)

    @cached_property
    def rows(self) -> tuple[Real, ...]:
        """X and V transposed, D_r^-½, log D_r, E and ω∘E at the null, as precise as `columns`."""
        given = (self.X.T, self.V.T, self.unit, self.reference, self.residual)
        start = self.weight * self.residual
        return tuple(np.ascontiguousarray(x, self.columns.dtype) for x in (*given, start))

    @cached_property
    def series_rows(self) -> Real:
        """Chebyshev coefficients of R less its mean, (TERMS, n), as precise as `columns`."""
        return np.ascontiguousarray(self.leverage.series.T, self.columns.dtype)

    @property
    def eigen(self) -> Eigenstructure:
        """The random effects in reference units."""
        return self.leverage.eigen

    @property
    def values(self) -> Float:
        """s²."""
        return self.leverage.eigen.values

    @classmethod
    def of(cls, null: NullModel, key: str, eigen: Eigenstructure) -> WeightedBasis:
        """Prepare one left-out chromosome.

        Parameters
        ----------
        null : NullModel
            With random effects.
        key : str
            Left-out chromosome, a key of `null.fits`.
        eigen : Eigenstructure
            Of the random effects without it, in their own units.

        Notes
        -----
        2n·k·r operations for the leverages, n²·r for the pairs where they are stored, and n·k² for
        the eigenstructure in reference units where the log-variance has covariates.
        """
        fit, n = null.fits[key], null.n
        reference = reference_log_variance(null)
        if null.variance_design.shape[1] > 1:
            assert null.random_effects is not None
            shared = eigen.columns is null.random_effects.columns
            own = _weighted_columns(null) if shared else eigen.columns * _unit(null)[:, None]
            eigen = weighted(eigen, own)
        elif not eigen.principal:
            eigen = weighted(eigen, eigen.columns)
        unit = np.exp(-0.5 * reference)
        X, V = null.mean_design * unit[:, None], null.variance_design
        y = unit * null.y - X @ fit.alpha
        h2 = fit.random_variance
        dtype = np.float32 if n >= limits.SINGLE_PRECISION_PEOPLE else np.float64
        columns = np.ascontiguousarray(eigen.columns, dtype=dtype)
        log_weight = reference - V @ fit.beta
        weight = np.exp(log_weight)
        level = NullFit(np.zeros(1), -np.log([weight.mean()]), h2, 0.0, Status.OK)
        leverage = SecondOrderBasis.of(eigen, y, level, np.asarray(columns))
        values = eigen.values
        mean = float(weight.mean())
        kappa = h2 * mean
        phi = 1 / (1 + kappa * values)
        random, residual, product = _predict(eigen, y, weight, h2)

        R, slope = _leverages(leverage, kappa)
        delta = weight / mean - 1
        shrunk = 1 / (1 + kappa * R * delta)
        root = np.sqrt(phi)
        pairs, probes = None, np.zeros((n, 0), dtype)
        if stores_pairs(n, len(values)):
            H = eigen.combine(np.diag(root)).astype(np.float32)
            pairs = H @ H.T
            pairs *= pairs
            pairs.flat[:: n + 1] = 0.0
        else:
            shape = len(values), _PROBES if n < limits.SINGLE_PRECISION_PEOPLE else 1
            signs = np.random.default_rng(_PROBE_SEED).choice([-1.0, 1.0], shape)
            probes = eigen.combine(root[:, None] * signs).astype(dtype)
        pair_sum = float(((values * phi) ** 2).sum() - (R**2).sum())
        basis = cls(
            leverage=leverage,
            columns=columns,
            whole=len(eigen.chosen) == len(values) == eigen.columns.shape[1]
            and bool((eigen.rotation == np.eye(len(values))).all()),
            X=X,
            V=V,
            reference=reference,
            unit=unit,
            theta=np.concatenate([fit.alpha, fit.beta, [h2]]),
            weight=weight,
            residual=residual,
            random=random,
            product=product,
            score=np.zeros(n),
            null_leverage=np.zeros(n),
            pairs=pairs,
            probes=probes,
            pair_sum=pair_sum,
            information=np.zeros((0, 0)),
            mean_scores=np.zeros((n, 0)),
            variance_scores=np.zeros((n, 0)),
            moments=fit.moments,
        )
        centred = delta * shrunk
        level_pairs = -slope - R**2
        if pairs is None:
            lev = R * shrunk - kappa * shrunk**2 * (level_pairs @ centred) / n
        else:
            lev = R * shrunk - kappa * shrunk**2 * (pairs @ centred.astype(np.float32))
        M = 1 - kappa * (1 + delta) * lev
        spread = (1 + delta) * shrunk**2
        both = np.column_stack([V, np.ones(n)])
        across = spread[:, None] * basis.across(both * spread[:, None], level_pairs, 0.0)
        operated = both * (M**2)[:, None] + kappa**2 * across
        by_h2 = weight * lev * M - kappa * mean * across[:, -1]
        scores = np.column_stack([operated[:, :-1], by_h2])
        XR = eigen.rotate(eigen.columns.T @ (X * weight[:, None]))
        mean_scores = weight[:, None] * (X - h2 * eigen.combine(phi[:, None] * XR))
        c, v = X.shape[1], V.shape[1]
        information = np.zeros((c + v + 1,) * 2)
        information[:c, :c] = 0.5 * (X.T @ mean_scores + mean_scores.T @ X)
        T = np.empty((v + 1, v + 1))
        T[:v, :v] = V.T @ scores[:, :v]
        T[:v, v] = T[v, :v] = V.T @ by_h2
        T[v, v] = (weight * lev) @ (weight * lev) + mean**2 * across[:, -1].sum()
        information[c:, c:] = 0.25 * (T + T.T)
        parts = {f.name: getattr(basis, f.name) for f in fields(basis)} | {
            "score": 1 - weight * residual**2 - h2 * weight * lev,
            "null_leverage": lev,
            "information": information,
            "mean_scores": mean_scores,
            "variance_scores": scores,
        }
        return cls(**parts)

    @cached_property
    def kernel(self) -> Float | None:
        """HHᵀ, shape (n, n), where pairs are stored."""
        if self.pairs is None:
            return None
        eigen = self.eigen
        H = eigen.columns if self.whole else eigen.columns[:, eigen.chosen] * eigen.scale
        return np.asarray(H @ H.T)

    def forward(self, coefficients: Float) -> Real:
        """Return the coefficients of `columns`, (m, k), for those of H, (m, r)."""
        if self.whole:
            return np.ascontiguousarray(coefficients, dtype=self.columns.dtype)
        spread = np.zeros((len(coefficients), self.columns.shape[1]), self.columns.dtype)
        spread[:, self.eigen.chosen] = coefficients @ self.eigen.rotation.T
        return spread

    def back(self, sums: Real) -> Float:
        """Turn M·columns, (m, k), into M·H, (m, r)."""
        if self.whole:
            return np.asarray(sums, np.float64)
        return np.asarray(sums[:, self.eigen.chosen] @ self.eigen.rotation, np.float64)

    @cached_property
    def fitted_random(self) -> Real:
        """Hβ at the null, as precise as `columns`."""
        return np.asarray(self.eigen.combine(self.random[:, None])[:, 0], self.columns.dtype)

    @cached_property
    def null_fitted(self) -> Real:
        """DΣ⁻¹X at the null in reference units, (c, n), as precise as `columns`."""
        fitted = self.mean_scores / self.weight[:, None]
        return np.ascontiguousarray(fitted.T, self.columns.dtype)

    @cached_property
    def null_across(self) -> Real:
        """(M∘M)V off the diagonal of M∘M at the null, (v, n), as precise as `columns`."""
        v = self.V.shape[1]
        across = self.variance_scores[:, :v] - (self.null_M**2)[:, None] * self.V
        return np.ascontiguousarray(across.T, self.columns.dtype)

    @cached_property
    def null_M(self) -> Float:
        """diag(D^½Σ⁻¹D^½) at the null, shape (n,)."""
        return np.asarray(1 - self.theta[-1] * self.weight * self.null_leverage)

    @cached_property
    def start(self) -> tuple[Real, Real, Real]:
        """What is multiplied with genotypes and with their squares at the null.

        (n, c + v + 3): columns of the information of α and b with a_g and b_g, then of the gradient
        of those; (n, 4): 1, information of a_g and b_g without random effects and off-diagonal
        terms, R²; (n,): (1 + δ)/(1 + κRδ)².
        """
        dtype = self.columns.dtype
        in_mean = self.unit * self.weight
        mean = float(self.weight.mean())
        kappa = float(self.theta[-1]) * mean
        delta = self.weight / mean - 1
        R = _leverages(self.leverage, kappa)[0]
        scores = np.column_stack(
            [
                self.mean_scores * self.unit[:, None],
                0.5 * self.variance_scores,
                -in_mean * self.residual,
                0.5 * self.score,
            ]
        )
        squares = np.column_stack(
            [np.ones(self.n), in_mean * self.unit, 0.5 * self.null_M**2, R**2]
        )
        spread = (1 + delta) / (1 + kappa * R * delta) ** 2
        return scores.astype(dtype), squares.astype(dtype), spread.astype(dtype)

    def across(self, vectors: Float, level: Float, excess: Float | float) -> Float:
        """Multiply vectors with the off-diagonal part of S∘S at the null κ.

        Parameters
        ----------
        vectors : ndarray, shape (n, m)
        level : ndarray, shape (n,) or (n, m)
            Row sums of that matrix.
        excess : ndarray, shape (m,), or float
            Where pairs are not stored, what the deviations of a vector from its mean are
            multiplied with; row sums and means are exact then (the docstring of
            :mod:`~hlmm_scan.kernels.weighted.likelihood`).
        """
        if self.pairs is not None:
            return np.asarray(self.pairs @ vectors.astype(np.float32), np.float64)
        rows = level if level.ndim == 2 else level[:, None]
        mean = vectors.mean(axis=0)
        deviation = vectors - mean
        constant = np.einsum("nm,nm->m", np.broadcast_to(rows, vectors.shape), deviation) / self.n
        return np.asarray(mean * rows + constant + excess * deviation)


def _predict(eigen: Eigenstructure, y: Float, weight: Float, h2: float) -> tuple[Float, ...]:
    """β, E and Hᵀ(ω∘E) at the null, exactly: preconditioned steps as in the fits themselves."""
    mean = float(weight.mean())
    phi = 1 / (1 + h2 * mean * eigen.values)
    random, residual = np.zeros(len(phi)), y.copy()
    for _ in range(200):
        product = eigen.rotate(eigen.columns.T @ (weight * residual)[:, None])[:, 0]
        shift = h2 * phi * (product + mean * eigen.values * random) - random
        random = random + shift
        residual = y - eigen.combine(random[:, None])[:, 0]
        if np.abs(shift).max() <= _SETTLED * max(float(np.abs(random).max()), 1e-300):
            break
    product = eigen.rotate(eigen.columns.T @ (weight * residual)[:, None])[:, 0]
    return random, residual, product


@dataclass(frozen=True)
class LeverageTerms:
    """What makes R of everybody from their series at m values of κ; NaN beyond its range.

    Attributes
    ----------
    terms, slopes : ndarray, shape (TERMS, m)
        R − R̄ and its derivative by κ are the series times these: R̄·T_k(κ), and its derivative.
    squares, squares_slope : ndarray, shape (m,)
        ΣR², and its derivative.
    """

    terms: Float
    slopes: Float
    squares: Float
    squares_slope: Float

    @classmethod
    def of(cls, basis: SecondOrderBasis, kappa: Float) -> LeverageTerms:
        """Evaluate the series."""
        T, dT = _chebyshev(basis, kappa)
        n = len(basis.residual)
        shrunk = basis.eigen.values[:, None] / (1 + np.outer(basis.eigen.values, kappa))
        level, slope = shrunk.sum(axis=0) / n, -(shrunk**2).sum(axis=0) / n
        relative = basis.squares @ T
        return cls(
            terms=level * T,
            slopes=slope * T + level * dT,
            squares=level**2 * relative,
            squares_slope=level * (2 * slope * relative + level * (basis.squares @ dT)),
        )


def _chebyshev(basis: SecondOrderBasis, kappa: Float) -> tuple[Float, Float]:
    """T_k at κ and dT_k/dκ, each of shape (TERMS, m); NaN beyond the range of the series."""
    low, high = basis.log_range
    origin = 1 / float(basis.eigen.values[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        x = 2 * (np.log(kappa + origin) - low) / (high - low) - 1
        x = np.where((x <= 1 + 1e-12) & (kappa >= 0), np.clip(x, -1.0, 1.0), np.nan)
        slope = 2 / ((high - low) * (kappa + origin))
    T, dT = np.ones((TERMS, len(x))), np.zeros((TERMS, len(x)))
    T[1], dT[1] = x, 1.0
    for k in range(2, TERMS):
        T[k] = 2 * x * T[k - 1] - T[k - 2]
        dT[k] = 2 * T[k - 1] + 2 * x * dT[k - 1] - dT[k - 2]
    return T, dT * slope


def _leverages(basis: SecondOrderBasis, kappa: float) -> tuple[Float, Float]:
    """R and dR/dκ of everybody at one κ."""
    series_at = LeverageTerms.of(basis, np.array([kappa]))
    phi = 1 / (1 + kappa * basis.eigen.values)
    shrunk = basis.eigen.values * phi
    n = len(basis.residual)
    series = basis.series.astype(np.float64)
    return (
        series @ series_at.terms[:, 0] + shrunk.sum() / n,
        series @ series_at.slopes[:, 0] - (shrunk**2).sum() / n,
    )
