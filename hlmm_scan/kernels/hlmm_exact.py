"""HLMM of every variant by the plain estimator: one variant after the other, nothing approximated.

The reference that the kernels on the shared eigenstructure are held against.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.packing import unpack_samples
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.models.hlmm import HLMM
from hlmm_scan.null.model import NullModel
from hlmm_scan.schema import Status

Float = NDArray[np.float64]

_COLLINEAR = 1e-8  # 1 − R² of the genotype on the covariates below which its effect is not unique
_LEAST_RANDOM_VARIANCE = 0.01  # start off the boundary where the null fit lies on it


def fit_exact(
    null: NullModel,
    packed: NDArray[np.uint8],
    contigs: NDArray[np.object_],
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLMM with the test genotype in both designs.

    Parameters
    ----------
    null : NullModel
        With random effects.
    packed : ndarray of uint8, shape (m, bytes)
    contigs : ndarray of object (str), shape (m,)
    inference : Inference, optional
        Which standard errors and tests to give.

    Returns
    -------
    Estimates
        m rows. Every variant starts from the null fit without its chromosome, never from its
        neighbour, so a row does not depend on the block it stands in.
    """
    assert null.random_effects is not None
    estimates = Estimates.empty(len(packed))
    keys = np.array([null.random_effect_set(str(contig)) for contig in contigs], dtype=object)
    for key in dict.fromkeys(keys):
        G = null.random_effects.design(key)
        fit = null.fits[key]
        start = np.append(fit.beta, 0.0), max(fit.random_variance, _LEAST_RANDOM_VARIANCE)
        for row in np.flatnonzero(keys == key):
            genotype = unpack_samples(packed[row : row + 1], null.samples)[0]
            _fit_one(null, G, genotype, start, inference, estimates, int(row))
    return estimates


def _fit_one(
    null: NullModel,
    G: Float,
    genotype: Float,
    start: tuple[Float, float],
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
    model = HLMM(y, np.column_stack([X, g]), np.column_stack([V, g]), G)
    fit = model.fit(start=start, information="observed" if inference.observed else "expected")
    out.status[row] = fit.status
    p, q = X.shape[1], X.shape[1] + 1 + V.shape[1]
    out.add[row], out.var[row] = fit.alpha[-1], fit.beta[-1]
    out.add_variance[row] = fit.covariance[p, p]
    out.var_variance[row] = fit.covariance[q, q]
    out.add_var_covariance[row] = fit.covariance[p, q]
    out.log_likelihood[row] = fit.log_likelihood
    out.random_variance[row] = fit.random_variance
    out.random_variance_variance[row] = fit.covariance[q + 1, q + 1]
    log_variance = V @ fit.beta[:-1] + g * fit.beta[-1]
    out.residual_variance[row] = np.exp(log_variance).mean()


def _explained(design: Float, g: Float) -> bool:
    """Say whether the genotype is, to rounding, a combination of the columns of a design."""
    residual = g - design @ np.linalg.lstsq(design, g, rcond=None)[0]
    return bool((residual**2).sum() <= _COLLINEAR * (g**2).sum())
