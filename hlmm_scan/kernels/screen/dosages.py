"""Score screen of the HLM on dosages, a tile of variants abreast (:mod:`.plain`).

A dosage has no few values whose sums would decide, so people are gone over twice: once for what
covariates explain of the genotype and for a_g, once for the residuals that b_g is made of. No term
is left out; where people have no dosage the covariates' Gram matrices are those of the others.
Products are in single precision (:mod:`~hlmm_scan.kernels.sums.products`): a score is off by some
1e-7 of its standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.genotypes.blocks import Dosages
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.limits import COLLINEAR_SCREENED
from hlmm_scan.kernels.screen.plain import put_screened
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.sums.dosage_codes import CODES_AHEAD, TABLE_BYTES, copies_by_code
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel
from hlmm_scan.schema import Status

Float = NDArray[np.float64]
Single = NDArray[np.float32]
Int = NDArray[np.int64]

_TILE = 64  # variants abreast
_STRIP = 512  # people whose rows of the tile stay in cache


@dataclass(frozen=True, eq=False)
class DosageScreenDesign:
    """What the screen needs of a null model without random effects, worked out once.

    Attributes
    ----------
    samples : ndarray of int64, shape (n,)
    X, V : ndarray, shapes (n, c) and (n, v)
    w, r : ndarray, shape (n,)
        1/D₀ and the null residuals.
    density : ndarray, shape (n,)
        Log-likelihood of each person under the null model.
    linear : ndarray of float32, shape (n, c + v)
        wX and V.
    explaining : tuple of ndarray of float32
        X and V.
    mean, variance : ndarray, shapes (c, c) and (v, v)
        XᵀwX and VᵀV.
    moments : tuple of float
        m₃ and m₄ of the null residuals.
    """

    samples: Int
    X: Float
    V: Float
    w: Float
    r: Float
    density: Float
    linear: Single
    explaining: tuple[Single, Single]
    mean: Float
    variance: Float
    moments: tuple[float, float]

    @classmethod
    def of(cls, null: NullModel) -> DosageScreenDesign:
        """Prepare the screen of one phenotype."""
        fit = null.fits[ALL_RANDOM_EFFECTS]
        X, V = null.mean_design, null.variance_design
        log_variance = V @ fit.beta
        w = np.exp(-log_variance)
        r = null.y - X @ fit.alpha
        wX = X * w[:, None]
        return cls(
            samples=null.samples,
            X=X,
            V=V,
            w=w,
            r=r,
            density=-0.5 * (np.log(2 * np.pi) + log_variance + w * r * r),
            linear=np.column_stack([wX, V]).astype(np.float32),
            explaining=(X.astype(np.float32), V.astype(np.float32)),
            mean=X.T @ wX,
            variance=V.T @ V,
            moments=fit.moments,
        )


@njit(nogil=True, cache=True)
def _centred(
    codes: Any, samples: Any, copies: Any, centre: Any, h: Any
) -> None:  # pragma: no cover
    """Fill h, (people, variants), with copies less their mean, 0 without any."""
    n, beyond = len(samples), np.uint64(len(copies))
    for start in range(0, n, CODES_AHEAD):
        stop = min(start + CODES_AHEAD, n)
        for j in range(len(codes)):
            row, mean = codes[j], centre[j]
            for i in range(start, stop):
                code: Any = np.uint64(row[np.uint64(samples[i])])
                h[i, j] = copies[code] - mean if code < beyond else 0.0


@njit(nogil=True, cache=True)
def _find(codes: Any, samples: Any, beyond: int, there: Any) -> None:  # pragma: no cover
    """Fill `there`, (people, variants), with 1 for those who have a dosage, else 0."""
    for j in range(len(codes)):
        row = codes[j]
        for i in range(len(samples)):
            there[i, j] = 1.0 if row[samples[i]] < beyond else 0.0


@njit(nogil=True, cache=True)
def _first_pass(h: Any, w: Any, r: Any, sums: Any) -> None:  # pragma: no cover
    """Add Σwh², Σh² and Σwr·h of each variant; the score itself is not for single precision."""
    for i in range(len(h)):
        weight, residual = w[i], w[i] * r[i]
        for j in range(h.shape[1]):
            x = np.float64(h[i, j])
            sums[0, j] += weight * x * x
            sums[1, j] += x * x
            sums[2, j] += residual * x


@njit(nogil=True, cache=True)
def _second_pass(
    h: Any, there: Any, Xg: Any, Vd: Any, w: Any, r: Any, a: Any, sums: Any
) -> None:  # pragma: no cover
    """Add Σṽ(w(r − a_g·x̃)² − 1), Σ√w·x̃ṽ and Σṽ(wr² − 1) of each variant."""
    for i in range(len(h)):
        root = np.sqrt(w[i])
        for j in range(h.shape[1]):
            x, v = h[i, j] - Xg[i, j], h[i, j] - Vd[i, j]
            if len(there):
                x, v = x * there[i, j], v * there[i, j]
            e = r[i] - a[j] * x
            sums[0, j] += v * (w[i] * e * e - 1.0)
            sums[1, j] += root * x * v
            sums[2, j] += v * (w[i] * r[i] * r[i] - 1.0)


def fit_screen_dosages(
    design: DosageScreenDesign,
    dosages: Dosages,
    counts: GenotypeCounts,
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Screen variants for additive and variance effects, one step from the null fit.

    Parameters
    ----------
    design : DosageScreenDesign
    dosages : Dosages
        Of everybody in the dataset; m variants.
    counts : GenotypeCounts
        Of them in the people analysed.
    inference : Inference, optional
        As for :func:`hlmm_scan.kernels.screen.fit.fit_screen`.

    Returns
    -------
    Estimates
        m rows with status SCREENED, or NOT_UNIQUE. A row is the same bit for bit whatever block it
        stands in.
    """
    del inference
    out = Estimates.empty(len(dosages))
    for start in range(0, len(dosages), _TILE):
        rows = np.arange(start, min(start + _TILE, len(dosages)))
        tile = dosages.take(slice(start, start + _TILE))
        _screen(design, tile, counts.take(rows), out, rows)
    return out


def _screen(
    design: DosageScreenDesign,
    dosages: Dosages,
    counts: GenotypeCounts,
    out: Estimates,
    rows: NDArray[np.intp],
) -> None:
    """Screen at most a tile of variants into `rows` of `out`."""
    (n, c), v, m = design.X.shape, design.V.shape[1], len(rows)
    centre, a = np.zeros(_TILE), np.zeros(_TILE)
    centre[:m] = counts.mean_copies
    copies, missing = copies_by_code(dosages.steps), bool((counts.called < n).any())
    h, size = np.zeros((n, _TILE), np.float32), min(n, _STRIP)
    _centred(dosages.codes, design.samples, copies, centre, h)
    strips = [slice(start, min(start + _STRIP, n)) for start in range(0, n, _STRIP)]
    linear, first, second = np.zeros((c + v, _TILE)), *np.zeros((2, 3, _TILE))
    for s in strips:
        products.add_product(design.linear[s].T, h[s], linear)
        _first_pass(h[s], design.w[s], design.r[s], first)
    wXh, Vh = linear[:c], linear[c:]
    with np.errstate(all="ignore"):
        # Whoever lacks a dosage on their own.
        gamma = np.linalg.inv(design.mean) @ wXh
        delta = np.linalg.inv(design.variance) @ Vh
        density = np.full(m, design.density.sum())
        score = first[2].copy()
        for j in np.flatnonzero(counts.called < n).tolist():
            absent = np.flatnonzero(dosages.codes[j, design.samples] > dosages.steps)
            density[j] -= design.density[absent].sum()
            gamma[:, j], delta[:, j] = _solved(design, absent, wXh[:, j], Vh[:, j])
            # Their covariates are not quite orthogonal to the null residuals of the others.
            score[j] += gamma[:, j] @ (design.X[absent].T @ (design.w * design.r)[absent])
        I_a = first[0] - (gamma * wXh).sum(axis=0)
        I_b = 0.5 * (first[1] - (delta * Vh).sum(axis=0))
        rest = np.minimum(I_a / first[0], 2 * I_b / first[1])[:m]
        a[:] = np.where(I_a > 0, score / I_a, 0.0)
        of_mean, of_variance = (
            np.ascontiguousarray(coefficients, np.float32) for coefficients in (gamma, delta)
        )
        explained = np.empty((2, size, _TILE), np.float32)
        there = np.zeros((size if missing else 0, _TILE), np.float32)
        for s in strips:
            Xg, Vd = explained[:, : len(design.w[s])]
            X, V = (columns[s] for columns in design.explaining)
            products.multiply(X, of_mean, Xg)
            products.multiply(V, of_variance, Vd)
            present = there[: len(Xg)]
            if missing:
                _find(dosages.codes, design.samples[s], len(copies), present)
            _second_pass(h[s], present, Xg, Vd, design.w[s], design.r[s], a, second)
        b, plain = 0.5 * second[0] / I_b, 0.5 * second[2] / I_b
    unique = (counts.called >= c + v + 3) & (rest > COLLINEAR_SCREENED)
    out.status[rows] = Status.NOT_UNIQUE
    k = np.flatnonzero(unique)
    put_screened(
        out, rows[k], (a[k], b[k]), plain[k], (I_a[k], I_b[k]), design.moments, second[1, k],
        2 * I_b[k], density[k],
    )  # fmt: skip


def _solved(
    design: DosageScreenDesign, absent: NDArray[np.intp], wXh: Float, Vh: Float
) -> tuple[Float, Float]:
    """Regress a genotype on both designs in the people who are not absent."""
    X, V = design.X[absent], design.V[absent]
    mean = design.mean - X.T @ (X * design.w[absent, None])
    variance = design.variance - V.T @ V
    try:
        gamma, delta = np.linalg.solve(mean, wXh), np.linalg.solve(variance, Vh)
    except np.linalg.LinAlgError:  # nobody left, or a covariate constant among them
        return np.full(len(wXh), np.nan), np.full(len(Vh), np.nan)
    return np.asarray(gamma, np.float64), np.asarray(delta, np.float64)


def work_bytes(n: int, c: int, v: int) -> int:
    """Return the memory of a design and of screening with it, whatever the variants.

    Parameters
    ----------
    n, c, v : int
        People, columns of the designs.
    """
    kept = 8 * n * (c + v + 4) + 8 * n * (c + v)
    made = 8 * n * (2 * c + v)
    return kept + made + _TILE * (4 * (n + 3 * _STRIP) + 32 * (c + v)) + 2 * n * _TILE + TABLE_BYTES
