"""HLMM of every variant by the plain estimator: one variant after the other, nothing approximated.

The reference that the kernels on the shared eigenstructure are held against.
"""

from __future__ import annotations

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.kernels.covariances import EXACT_ERROR, likelihood_ratio, put_covariance
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.exact.robust import between, person_scores
from hlmm_scan.kernels.limits import COLLINEAR
from hlmm_scan.models.fit import LEAST_RANDOM_VARIANCE, Fit
from hlmm_scan.models.hlmm import HLMM
from hlmm_scan.models.hlmm_objective import HLMMEvaluation, HLMMObjective
from hlmm_scan.null.model import NullFit, NullModel
from hlmm_scan.schema import Status


def fit_exact(
    null: NullModel,
    left_out: str,
    genotypes: GenotypeBlock,
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLMM with the test genotype in both designs.

    Parameters
    ----------
    null : NullModel
        With random effects.
    left_out : str
        Key into `null.fits`.
    genotypes : HardCalls or Dosages
    inference : Inference, optional
        Which standard errors and tests to give.

    Returns
    -------
    Estimates
        m rows. Every variant starts from the null fit, never from its neighbour, so a row does not
        depend on the block it stands in.
    """
    assert null.random_effects is not None
    estimates = Estimates.empty(len(genotypes))
    G, fit = null.random_effects.design(left_out), null.fits[left_out]
    for row in range(len(genotypes)):
        genotype = genotypes.take(slice(row, row + 1)).copies(null.samples)[0]
        _fit_one(null, fit, G, genotype, inference, estimates, row)
    return estimates


def _fit_one(
    null: NullModel,
    null_fit: NullFit,
    G: Float,
    genotype: Float,
    inference: Inference,
    out: Estimates,
    row: int,
) -> None:
    """Fit one variant and put its estimates into row `row` of `out`."""
    y, X, V = null.y, null.mean_design, null.variance_design
    called = ~np.isnan(genotype)
    if not called.all():
        y, X, V, G, genotype = y[called], X[called], V[called], G[called], genotype[called]
    enough = len(y) >= X.shape[1] + V.shape[1] + 3
    g = genotype - genotype.mean() if enough else genotype
    if not enough or _explained(X, g) or _explained(V, g):
        out.status[row] = Status.NOT_UNIQUE
        return
    X1, V1 = np.column_stack([X, g]), np.column_stack([V, g])
    start = np.append(null_fit.beta, 0.0), max(null_fit.random_variance, LEAST_RANDOM_VARIANCE)
    fit = HLMM(y, X1, V1, G).fit(
        start=start, information="observed" if inference.observed else "expected"
    )
    out.status[row] = fit.status
    out.add[row], out.var[row] = fit.alpha[-1], fit.beta[-1]
    out.log_likelihood[row] = fit.log_likelihood
    out.random_variance[row] = fit.random_variance
    out.random_variance_variance[row] = fit.covariance[-1, -1]
    out.residual_variance[row] = np.exp(V1 @ fit.beta).mean()
    covariances = {"": fit.covariance}
    if fit.success:
        theta = np.append(fit.beta, fit.random_variance)
        evaluation = HLMMObjective(y, X1, V1, G).at(theta, fit.alpha)
        held = fit.status == Status.RANDOM_VARIANCE_AT_ZERO
        covariances["_robust"] = studentised(evaluation, null_fit.moments, held)
        if inference.sandwich:
            covariances["_sandwich"] = sandwich(evaluation, held)
        if inference.likelihood_ratio:
            everyone = bool(called.all())
            ratios = _likelihood_ratios(y, X1, V1, G, fit, null_fit if everyone else None)
            out.add_lrt[row], out.var_lrt[row], out.av_lrt[row] = ratios
    p, q = X.shape[1], X1.shape[1] + V.shape[1]
    for suffix, C in covariances.items():
        put_covariance(out, row, suffix, C[p, p], C[q, q], C[p, q])


def _likelihood_ratios(
    y: Float, X: Float, V: Float, G: Float, fit: Fit, null_fit: NullFit | None
) -> list[float]:
    """2·(log L − restricted log L) without the additive effect, the variance effect, and both.

    `null_fit` is the fit without both where everyone has a call.
    """
    h2 = max(fit.random_variance, LEAST_RANDOM_VARIANCE)
    designs = [(X[:, :-1], V), (X, V[:, :-1])]
    if null_fit is None:
        designs.append((X[:, :-1], V[:, :-1]))
    restricted = []
    for mean, variance in designs:
        found = HLMM(y, mean, variance, G).fit(start=(fit.beta[: variance.shape[1]], h2))
        restricted.append(found.log_likelihood if found.success else np.nan)
    if null_fit is not None:
        restricted.append(null_fit.log_likelihood)
    return [likelihood_ratio(fit.log_likelihood - r, EXACT_ERROR) for r in restricted]


def studentised(evaluation: HLMMEvaluation, moments: tuple[float, float], held: bool) -> Float:
    """Return what `models.robust.studentised_covariance` does, free of n×n matrices.

    Parameters
    ----------
    evaluation : HLMMEvaluation
        At the maximum.
    moments : tuple of float
        m₃ and m₄ of the noise over its standard deviation.
    held : bool
        Whether h2 is on its boundary, and left out.

    Returns
    -------
    ndarray, shape (c + v + 1, c + v + 1)
        NaN for h2 where that is held.

    Notes
    -----
    With M = I − h2·QQᵀ, diag(M·diag(v)·M) = v(1 − 2h2·p) + h2²·rowsums(Q(Qᵀdiag(v)Q)∘Q), and for
    h2 the diagonal is p − h2·rowsums(QS∘Q): 2n·l² operations for each column.
    """
    third, fourth = moments
    cov, V, h2 = evaluation.covariance, evaluation.objective.V, evaluation.h2
    Q, p = cov.Q, cov.leverage

    def rows(core: Float) -> Float:
        return np.asarray(np.einsum("ij,ij->i", Q @ core, Q))

    diagonals = [v * (1 - 2 * h2 * p) + h2**2 * rows(cov.weighted(v)) for v in V.T]
    u = np.column_stack([*diagonals, p - h2 * rows(cov.S)])
    white = evaluation.X_white - h2 * (Q @ cov.project(evaluation.X_white))
    B, c = evaluation.expected.copy(), white.shape[1]
    B[c:, c:] += 0.25 * (fourth - 3) * u.T @ u
    B[:c, c:] = 0.5 * third * white.T @ u
    B[c:, :c] = B[:c, c:].T
    return between(evaluation.expected, B, len(B) - held)


def sandwich(evaluation: HLMMEvaluation, held: bool) -> Float:
    """Return what `models.robust.sandwich_covariance` does, free of n×n matrices; as above."""
    V, information = evaluation.objective.V, evaluation.expected.copy()
    scores = person_scores(
        evaluation.X_white,
        V,
        evaluation.h2,
        evaluation.residual_white,
        evaluation.random_white,
        evaluation.covariance.leverage,
    )
    if held:
        c = evaluation.X_white.shape[1]
        squares = evaluation.residual_white[:, None] ** 2
        information[c:-1, c:-1] = 0.5 * V.T @ (V * squares)
    return between(information, scores.T @ scores, len(information) - held)


def _explained(design: Float, g: Float) -> bool:
    """Say whether the genotype is, to rounding, a combination of the columns of a design."""
    residual = g - design @ np.linalg.lstsq(design, g, rcond=None)[0]
    return bool((residual**2).sum() <= COLLINEAR * (g**2).sum())
