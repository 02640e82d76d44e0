"""Score screens written out plainly, one variant after the other: what the fast ones are held to.

One Fisher scoring step from the null fit, the additive effect first (math.md §4 ``null``, §5):

    a_g = x̃ᵀΣ₀⁻¹r₀ / I_a,      I_a = x̃ᵀΣ₀⁻¹x̃,
    b_g = ½ṽᵀ(k/D₀ − 1) / I_b,  k of math.md §1 at the residuals r₀ − a_g·x̃,

where x̃ is the genotype projected on the covariates of the mean with weights Σ₀⁻¹, and the score of
b_g is projected on those of the other log-variance coefficients. An additive effect that stayed in
the residuals would leak into b_g by a_g²Σṽx̃²/D.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.covariances import put_covariance
from hlmm_scan.kernels.estimates import Estimates
from hlmm_scan.kernels.limits import COLLINEAR_SCREENED
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel
from hlmm_scan.schema import Status


def put_screened(
    out: Estimates,
    rows: NDArray[np.integer],
    effects: tuple[Float, Float],
    plain: Float,
    informations: tuple[Float, Float],
    moments: tuple[float, float],
    cross: Float,
    excess: Float,
    log_likelihood: Float,
) -> None:
    """Put one-step estimates of several variants, with their covariances, into `rows` of `out`.

    Parameters
    ----------
    out : Estimates
    rows : ndarray of int, shape (m,)
    effects, informations : tuple of ndarray, shape (m,)
        a_g and b_g, I_a and I_b.
    plain : ndarray, shape (m,)
        b_g where the additive effect stays in the residuals.
    moments : tuple of float
        m₃ and m₄ of the null residuals.
    cross, excess : ndarray, shape (m,)
        (D^½Σ⁻¹x̃)ᵀu and uᵀu, u the diagonal of the efficient derivative: x̃ᵀD^-½ṽ and ṽᵀṽ in the
        HLM.
    log_likelihood : ndarray, shape (m,)
        Of the null model in the people with a call. The score statistics halved, added to it, are
        the second-order approximation of the maximum.
    """
    (a, b), (I_a, I_b), (third, fourth) = effects, informations, moments
    out.add[rows], out.var[rows] = a, b
    variance = (I_b + 0.25 * (fourth - 3) * excess) / I_b**2
    put_covariance(out, rows, "", 1 / I_a, 1 / I_b, 0.0)
    put_covariance(out, rows, "_robust", 1 / I_a, variance, 0.5 * third * cross / (I_a * I_b))
    out.log_likelihood[rows] = log_likelihood + 0.5 * (a**2 * I_a + b**2 * I_b)
    # Of two equally frequent values r² does not vary: then there is no such score.
    some = variance > 1e-12 / I_b
    root = np.sqrt(np.where(some, variance, 1.0))
    scores = [a * np.sqrt(I_a), np.where(some, plain / root, 0), np.where(some, b / root, 0)]
    out.put_scores(rows, np.column_stack(scores))
    out.status[rows] = Status.SCREENED


def fit_screen_plain(null: NullModel, genotypes: Float) -> Estimates:
    """Screen the HLM.

    Parameters
    ----------
    null : NullModel
    genotypes : ndarray, shape (n, m)
        NaN where missing: those people are left out, the null fit staying that of everybody.
    """
    fit = null.fits[ALL_RANDOM_EFFECTS]
    log_variance = null.variance_design @ fit.beta
    w = np.exp(-log_variance)
    r = null.y - null.mean_design @ fit.alpha
    out = Estimates.empty(genotypes.shape[1])
    for j, g in enumerate(genotypes.T):
        c = ~np.isnan(g)
        X, V = null.mean_design[c], null.variance_design[c]
        out.status[j] = Status.NOT_UNIQUE
        if c.sum() < X.shape[1] + V.shape[1] + 3:
            continue
        h = g[c] - g[c].mean()
        x = residual(h, X, w[c])
        v = residual(h, V, np.ones(len(h)))
        total = np.array([h @ (w[c] * h), h @ h])
        I_a, I_b = x @ (w[c] * x), 0.5 * v @ v
        if not (np.array([I_a, 2 * I_b]) > COLLINEAR_SCREENED * total).all():
            continue
        a = x @ (w[c] * r[c]) / I_a
        b = 0.5 * v @ (w[c] * (r[c] - a * x) ** 2 - 1) / I_b
        plain = 0.5 * v @ (w[c] * r[c] ** 2 - 1) / I_b
        null_part = -0.5 * (np.log(2 * np.pi) + log_variance + w * r * r)[c].sum()
        put_screened(
            out, np.array([j]), (a, b), plain, (I_a, I_b), fit.moments,
            x @ (np.sqrt(w[c]) * v), v @ v, null_part,
        )  # fmt: skip
    return out


def residual(h: Float, design: Float, weights: Float) -> Float:
    """Return what is left of h, (n,), after its weighted regression on a design, (n, c)."""
    root = np.sqrt(weights)
    solution = np.linalg.lstsq(design * root[:, None], h * root, rcond=None)[0]
    return np.asarray(h - design @ solution)


def fit_hlmm_screen_plain(null: NullModel, genotypes: Float, left_out: str) -> Estimates:
    """Screen the HLMM with dense n×n matrices.

    Parameters
    ----------
    null : NullModel
        With random effects.
    genotypes : ndarray, shape (n, m)
        NaN where missing, which counts as the mean.
    left_out : str
        Key into `null.fits`.
    """
    assert null.random_effects is not None
    fit, G = null.fits[left_out], null.random_effects.design(left_out)
    X, V, h2 = null.mean_design, null.variance_design, fit.random_variance
    D, K = np.exp(V @ fit.beta), G @ G.T
    S = np.linalg.inv(np.diag(D) + h2 * K)
    squares = S**2 * np.outer(D, D)  # M∘M, M = D^½Σ⁻¹D^½
    SK = S @ K
    # Nuisance: the other log-variance coefficients and, off its boundary, h2.
    u = np.column_stack([squares @ V, D * np.einsum("ij,ji->i", SK, S)])[:, : V.shape[1] + (h2 > 0)]
    A = np.zeros((u.shape[1],) * 2)
    A[: V.shape[1]] = 0.5 * V.T @ u
    A[:, : V.shape[1]] = A[: V.shape[1]].T
    if h2 > 0:
        A[-1, -1] = 0.5 * np.einsum("ij,ji->", SK, SK)
    r = null.y - X @ fit.alpha
    out = Estimates.empty(genotypes.shape[1])
    for j, g in enumerate(genotypes.T):
        out.status[j] = Status.NOT_UNIQUE
        c = ~np.isnan(g)
        if c.sum() < X.shape[1] + V.shape[1] + 3:
            continue
        h = np.where(c, g - g[c].mean(), 0.0)
        x = h - X @ np.linalg.solve(X.T @ S @ X, X.T @ S @ h)
        coefficients = np.linalg.solve(A, 0.5 * u.T @ h)
        total = np.array([h @ S @ h, 0.5 * h @ squares @ h])
        I_a, I_b = x @ S @ x, total[1] - 0.5 * coefficients @ u.T @ h
        if not (np.array([I_a, I_b]) > COLLINEAR_SCREENED * total).all():
            continue
        a = x @ S @ r / I_a
        weighted = S @ (r - a * x)
        excess = D * (weighted**2 - np.diag(S))  # k/D − 1
        scores = np.append(V.T @ excess, weighted @ K @ weighted - np.trace(SK))[: u.shape[1]]
        b = 0.5 * (h @ excess - coefficients @ scores) / I_b
        at_null = S @ r
        plain = 0.5 * (h - V @ coefficients[: V.shape[1]]) @ (D * (at_null**2 - np.diag(S))) / I_b
        own = squares @ h - u @ coefficients
        put_screened(
            out, np.array([j]), (a, b), plain, (I_a, I_b), fit.moments,
            (np.sqrt(D) * (S @ x)) @ own, own @ own, np.array(fit.log_likelihood),
        )  # fmt: skip
        out.random_variance[j] = h2
        if h2 > 0:
            out.random_variance_variance[j] = np.linalg.inv(A)[-1, -1]
        out.residual_variance[j] = D.mean()
    return out
