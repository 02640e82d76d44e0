"""The class fit and its Newton step written out plainly, one variant after the other.

What the fast kernel (:mod:`~hlmm_scan.kernels.newton_step.fit`) is held to: the same two steps,
from sums over people with the whole designs.
"""

from __future__ import annotations

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.covariances import put_covariance
from hlmm_scan.kernels.estimates import Estimates
from hlmm_scan.models import HLM
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel
from hlmm_scan.schema import Status


def fit_newton_step_plain(null: NullModel, genotypes: Float) -> Estimates:
    """Fit the HLM by the class fit and one Newton step, whatever is left to the maximum.

    Parameters
    ----------
    null : NullModel
        Without random effects.
    genotypes : ndarray of hard calls, shape (n, m)
        NaN where missing: those people are left out, but of the covariates' information, which is
        the null model's times the share of people called.

    Returns
    -------
    Estimates
        Effects, their model covariance by the expected information at the estimates, and the
        log-likelihood; PENDING where the class fit finds no maximum.
    """
    fit = null.fits[ALL_RANDOM_EFFECTS]
    log_variance = null.variance_design @ fit.beta
    w0, r0 = np.exp(-log_variance), null.y - null.mean_design @ fit.alpha
    p = null.mean_design.shape[1] + 1
    whole = _information(null.mean_design, null.variance_design, w0, r0)
    out = Estimates.empty(genotypes.shape[1])
    for j, genotype in enumerate(genotypes.T):
        on = ~np.isnan(genotype)
        g = genotype[on] - genotype[on].mean()
        w, r = w0[on], r0[on]
        X, V = (np.column_stack([Z[on], g]) for Z in (null.mean_design, null.variance_design))
        # The class fit: a model without covariates of √w·r, whose designs have √w in the mean.
        own = np.column_stack([np.ones(len(g)), g])
        root = np.sqrt(w)
        found = HLM(root * r, root[:, None] * own, own).fit()
        if not found.success:
            continue
        w = w * np.exp(-own @ found.beta)
        r = r - own @ found.alpha
        k = w * r * r
        # One Newton step.
        gradient = np.concatenate([X.T @ (w * r), 0.5 * V.T @ (k - 1)])
        information = _information(X, V, w, r)
        covariates = np.ones(len(information), bool)
        covariates[[0, p - 1, p, -1]] = False
        of_null = np.ones(len(whole), bool)
        of_null[[0, p - 1]] = False
        block = on.mean() * whole[np.ix_(of_null, of_null)]
        information[np.ix_(covariates, covariates)] = block
        step = np.linalg.solve(information, gradient)
        out.add[j], out.var[j] = found.alpha[1] + step[p - 1], found.beta[1] + step[-1]
        density = -0.5 * (np.log(2 * np.pi) + log_variance[on] + own @ found.beta + k)
        out.log_likelihood[j] = density.sum() + 0.5 * step @ gradient
        # Covariances: weights move with the class exactly, with the covariates in first order, and
        # what covariates take is by the null model's information among them.
        moved = w * np.exp(-own @ step[[p, -1]])
        first = moved * (1 - V[:, 1:-1] @ step[p + 1 : -1])
        share = w0[on].sum() / w0.sum()
        mean = share * _left(
            (null.mean_design[:, 1:] * w0[:, None]).T @ null.mean_design[:, 1:],
            X[:, 1:-1].T @ (own * moved[:, None]) / share,
            own.T @ (own * first[:, None]) / share,
        )
        variance = on.mean() * _left(
            0.5 * null.variance_design.T @ null.variance_design,
            0.5 * V[:, :-1].T @ g[:, None] / on.mean(),
            np.array([[0.5 * g @ g]]) / on.mean(),
        )
        out.status[j] = Status.OK
        put_covariance(out, j, "", np.linalg.inv(mean)[-1, -1], 1 / variance[0, 0], 0.0)
    return out


def _left(block: Float, edge: Float, corner: Float) -> Float:
    """Return what of the corner of an information is left beside the parameters of the block."""
    return np.asarray(corner - edge.T @ np.linalg.solve(block, edge))


def _information(X: Float, V: Float, w: Float, r: Float) -> Float:
    """Return the observed information of (a, b)."""
    both = X.T @ (V * (w * r)[:, None])
    variance = 0.5 * V.T @ (V * (w * r * r)[:, None])
    return np.block([[X.T @ (X * w[:, None]), both], [both.T, variance]])
