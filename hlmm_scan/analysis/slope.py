"""The slope of variance effects on additive effects across variants.

Where a trait's variance follows its mean, every additive effect brings a variance effect with it:
var_j ≈ slope·add_j + dispersion_j (math.md §6). Two estimators of that slope, from estimates that
both carry noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.errors import InputError

BLOCKS = 200
"""Blocks of the jackknife: long against linkage, many enough for their variance."""

LEAST_VARIANTS = 20
"""Fewer are not asked for a slope."""

OUTLIER_CHI2 = 29.7168
"""Upper 5e-8 quantile of χ²₁: variants whose own dispersion is significant in a whole genome say
nothing of the relation that all share."""

LEAST_SIGNAL = 2.0
"""Standard errors by which the squares of additive effects must exceed what noise alone gives."""

_MAD_OF_NORMAL = 0.6744897501960817
_ROUNDS = 20
_CONVERGED = 1e-6  # standard errors of the slope
_HUBER_K = 1.345
_HUBER_ROUNDS = 200
_HUBER_CONVERGED = 1e-12


class NoSlopeError(InputError):
    """The data do not say what the slope is."""


@dataclass(frozen=True)
class Slope:
    """A fitted slope.

    Attributes
    ----------
    slope, slope_se : float
        Log-variance effect per unit of additive effect.
    noise_inflation : float
        Factor by which the slope is larger than that without correction for noise in add.
    n_variants : int
        Variants it was fitted to.
    n_outliers : int
        Of them, those set aside for dispersion effects of their own.
    leading_block : tuple of int or None
        First and last row of the block that makes up more than half of the slope's jackknife
        variance, where there is one.
    slope_without : float or None
        Slope without that block.
    """

    slope: float
    slope_se: float
    noise_inflation: float
    n_variants: int
    n_outliers: int = 0
    leading_block: tuple[int, int] | None = None
    slope_without: float | None = None


@dataclass(frozen=True)
class Effects:
    """Estimates of consecutive variants that a slope may be fitted to.

    Attributes
    ----------
    row : ndarray of int, shape (m,)
        Where the variants stand among all.
    add, var : ndarray, shape (m,)
        Effects on the mean (phenotype units) and on the log-variance, per allele.
    add_se, var_se, covariance : ndarray, shape (m,)
        Their standard errors and the covariance of their errors.
    """

    row: NDArray[np.int64]
    add: Float
    var: Float
    add_se: Float
    var_se: Float
    covariance: Float


Read = Callable[[], Iterable[Effects]]
"""Goes through all variants once, a bounded number at a time, always in the same order."""


def dispersion(effects: Effects, slope: float, slope_se: float = 0.0) -> tuple[Float, Float]:
    """Return dispersion effects and their standard errors.

    Parameters
    ----------
    effects : Effects
    slope, slope_se : float

    Returns
    -------
    tuple of ndarray, shape (m,)

    Notes
    -----
    d = var − slope·add, se² = var_se² + slope²·add_se² − 2·slope·cov + add²·slope_se². Both var and
    add change sign with the allele that is counted, and so does d; se does not change.
    """
    variance = (
        effects.var_se**2
        + slope**2 * effects.add_se**2
        - 2 * slope * effects.covariance
        + (effects.add * slope_se) ** 2
    )
    return effects.var - slope * effects.add, np.sqrt(variance)


def invariant_slope(read: Read) -> Slope:
    """Fit the slope in a way that no coding of alleles and no scale of the phenotype can move.

    Parameters
    ----------
    read : callable
        With the studentised standard errors and covariance.

    Returns
    -------
    Slope

    Raises
    ------
    NoSlopeError
        If there are fewer than 20 variants, or the additive effects do not exceed their noise.

    Notes
    -----
    With add = a + e, var = slope·a + dispersion + f and C the covariance of (e, f),
    E[add·var] = slope·a² + C_ef and E[add²] = a² + C_ee, so with weights w = 1/var_se² ::

        slope = Σ w·(add·var − cov) / Σ w·(add² − add_se²)

    Each term is the same whichever allele is counted, as both effects change sign together; the
    published estimator takes the variance of add over variants instead of its mean square, which
    depends on the coding. w is, but for a constant, the number of alleles that tell, 2p(1 − p)n.

    Variants whose own dispersion has p < 5e-8 are set aside and the slope is fitted again, until
    nothing changes: they would tilt it, and chance alone puts one variant in twenty million there.
    A slope's standard error is that of the jackknife over up to 200 blocks of consecutive variants
    of equal number (consecutive in the store, so along the genome), which linkage within a block
    does not deceive.

    Reads all variants once to count them and once for every round, some 3 in all, and keeps sums.
    """
    n_variants = sum(len(effects.row) for effects in read())
    _require_variants(n_variants)
    blocks = _Blocks(n_variants)
    slope = _ratio(blocks.sums(read, None))
    for _ in range(_ROUNDS):
        sums = blocks.sums(read, slope)
        before, slope = slope, _ratio(sums)
        without, slope_se = _jackknife(sums)
        if abs(slope - before) <= _CONVERGED * slope_se:
            break
    squares = (without - without.mean()) ** 2
    leading = int(squares.argmax())
    leads = bool(squares[leading] > squares.sum() / 2)
    return Slope(
        slope=slope,
        slope_se=slope_se,
        noise_inflation=float(sums.square.sum() / sums.signal.sum()),
        n_variants=n_variants,
        n_outliers=sums.n_outliers,
        leading_block=(int(sums.first[leading]), int(sums.last[leading])) if leads else None,
        slope_without=float(without[leading]) if leads else None,
    )


@dataclass(frozen=True)
class _Sums:
    """Sums of each block, arrays of length B, and of all blocks the variants set aside."""

    product: Float  # w·(add·var − cov)
    signal: Float  # w·(add² − add_se²)
    square: Float  # w·add²
    first: NDArray[np.int64]  # row
    last: NDArray[np.int64]
    n_outliers: int


@dataclass(frozen=True)
class _Blocks:
    n_variants: int

    def sums(self, read: Read, slope: float | None) -> _Sums:
        count = min(BLOCKS, self.n_variants)
        product, signal, square = np.zeros((3, count))
        first, last = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
        passed = n_outliers = 0
        for effects in read():
            block = (passed + np.arange(len(effects.row))) * count // self.n_variants
            passed += len(effects.row)
            np.minimum.at(first, block, effects.row)
            np.maximum.at(last, block, effects.row)
            weight = 1 / effects.var_se**2
            if slope is not None:
                d, se = dispersion(effects, slope)
                outlier = d**2 > OUTLIER_CHI2 * se**2
                weight[outlier] = 0
                n_outliers += int(outlier.sum())
            terms = (
                weight * (effects.add * effects.var - effects.covariance),
                weight * (effects.add**2 - effects.add_se**2),
                weight * effects.add**2,
            )
            for total, term in zip((product, signal, square), terms, strict=True):
                total += np.bincount(block, term, minlength=count)
        return _Sums(product, signal, square, first, last, n_outliers)


def _ratio(sums: _Sums) -> float:
    """Return the slope; refuse where its denominator is not clear of zero.

    How far the denominator is noise is told by the median deviation of its blocks: their standard
    deviation would also count a strong locus, of which a trait may have one only, as noise.
    """
    signal = sums.signal
    total, square = float(signal.sum()), float(sums.square.sum())
    deviation = np.median(np.abs(signal - np.median(signal))) / _MAD_OF_NORMAL
    if not total > LEAST_SIGNAL * np.sqrt(len(signal)) * deviation:
        raise NoSlopeError(
            f"the additive effects do not exceed their noise (their mean square is "
            f"{square / (square - total):.3g} times that of noise alone), so the slope of var on "
            "add cannot be estimated; it needs more people, or a trait with more additive effects"
        )
    return float(sums.product.sum()) / total


def _jackknife(sums: _Sums) -> tuple[Float, float]:
    """Return the slopes without each block, (B,), and the standard error of the slope."""
    product, signal = sums.product, sums.signal
    without = (product.sum() - product) / (signal.sum() - signal)
    count = len(without)
    error = np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2))
    return without, float(error)


def published_slope(read: Read) -> Slope:
    """Fit the slope as published with the HLMM: Huber's regression, corrected for noise.

    Parameters
    ----------
    read : callable
        With the model's standard errors.

    Returns
    -------
    Slope
        Its standard error is that of the regression, times the inflation.

    Raises
    ------
    NoSlopeError
        If there are fewer than 20 variants, or the variance of the additive effects is not larger
        than their mean squared standard error.

    Notes
    -----
    math.md §6. r is Huber's slope of var on add through the origin (:func:`huber_slope`). Noise in
    add draws r towards zero; with m = mean(add_se²) and S the sample variance of add over variants,
    slope = r·(1 + m/(S − m)).

    S depends on which alleles are counted, and covariance of the errors is taken for zero: see
    :func:`invariant_slope`. All variants are in memory at once, some 50 bytes for each.
    """
    add, var, noise = _columns(read)
    _require_variants(len(add))
    spread = float(np.var(add, ddof=1))
    if not spread > noise:
        raise NoSlopeError(
            f"the noise of the additive effects (mean squared standard error {noise:.3g}) exceeds "
            f"their signal (variance over variants {spread:.3g}), so the slope of var on add "
            "cannot be estimated; it needs more people, or a trait with more additive effects"
        )
    slope, slope_se = huber_slope(add, var)
    inflation = 1 + noise / (spread - noise)
    return Slope(
        slope=slope * inflation,
        slope_se=slope_se * inflation,
        noise_inflation=inflation,
        n_variants=len(add),
    )


def huber_slope(x: Float, y: Float) -> tuple[float, float]:
    """Return Huber's M-estimate of the slope of y on x through the origin, and its standard error.

    Parameters
    ----------
    x, y : ndarray, shape (m,)

    Returns
    -------
    tuple of float

    Notes
    -----
    k = 1.345; least squares first, then reweighted with min(1, k·scale/|residual|), the scale being
    the median absolute residual over 0.6745, until the slope stands still: the fixed point of
    MASS::rlm in R and RLM in statsmodels, without their ten copies of the data. The standard error
    is the H1 form of Huber (1973), as both report it: with ψ of residual/scale,
    K²·scale²·(Σψ²/(m − 1))/mean(ψ')²/Σx², K = 1 + var(ψ')/(m·mean(ψ')²).
    """
    slope = float(x @ y) / float(x @ x)
    residual = y - slope * x
    for _ in range(_HUBER_ROUNDS):
        scale = float(np.median(np.abs(residual))) / _MAD_OF_NORMAL
        if scale == 0:
            break  # half of the points lie on the line
        bound = _HUBER_K * scale
        weighted = bound / np.maximum(np.abs(residual), bound) * x
        before, slope = slope, float(weighted @ y) / float(weighted @ x)
        del weighted
        residual = y - slope * x
        if abs(slope - before) <= _HUBER_CONVERGED * abs(slope):
            break
    scale = float(np.median(np.abs(residual))) / _MAD_OF_NORMAL
    if scale == 0:
        return slope, 0.0
    inside = float(np.mean(np.abs(residual) <= _HUBER_K * scale))  # mean(ψ'), as ψ' is 0 or 1
    spread = float(np.sum(_clipped(residual, scale) ** 2)) / (len(x) - 1)
    correction = 1 + (1 - inside) / (len(x) * inside)
    error = correction * scale * np.sqrt(spread / float(x @ x)) / inside
    return slope, float(error)


def _clipped(residual: Float, scale: float) -> Float:
    """Return Huber's ψ of residual/scale."""
    return np.clip(residual / scale, -_HUBER_K, _HUBER_K)


def _require_variants(n_variants: int) -> None:
    if n_variants < LEAST_VARIANTS:
        raise NoSlopeError(
            f"{n_variants} variants with estimates are too few for a slope of var on add; "
            f"{LEAST_VARIANTS} are needed"
        )


def _columns(read: Read) -> tuple[Float, Float, float]:
    """Return add and var of all variants, and the mean squared standard error of add."""
    adds, vars_, squares = [], [], 0.0
    for effects in read():
        adds.append(effects.add)
        vars_.append(effects.var)
        squares += float(np.sum(effects.add_se**2))
    add = np.concatenate([np.zeros(0), *adds])
    return add, np.concatenate([np.zeros(0), *vars_]), squares / max(1, len(add))
