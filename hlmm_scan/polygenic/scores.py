"""The scores of a trait's log-variance, which are predicted as the trait itself is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.cohort.cohort import Cohort
from hlmm_scan.cohort.design import centre_and_scale
from hlmm_scan.errors import InputError
from hlmm_scan.models.hlm import HLM

LEAST_SPREAD = 1e-6


def variance_scores(cohort: Cohort, prediction: NDArray[np.float64]) -> Cohort:
    """Return a trait's variance scores as a phenotype, with its covariates of the variance.

    Parameters
    ----------
    cohort : Cohort
    prediction : ndarray of float64, shape (n,)
        Of the trait, from the whole genome: what relatives share in the mean is no variance.

    Returns
    -------
    Cohort
        Of the same people; y is r²/D − 1, r residuals and D variances of the HLM of the trait less
        its prediction. Its expectation is the log-variance that covariates leave, where small.

    Raises
    ------
    InputError
        If the HLM has no maximum, or all squared residuals are as it expects.
    """
    rest = cohort.y - prediction
    (centre,), (scale,) = centre_and_scale(rest[:, None])
    y = (rest - centre) / (scale or 1.0)
    x, v = cohort.mean_design.matrix, cohort.variance_design.matrix
    fit = HLM(y, x, v).fit()
    if not fit.success:
        raise InputError(
            f"{cohort.phenotype}: its log-variance cannot be predicted, as its null model has no "
            f"maximum ({fit.reason or fit.status.label}); leave it out, or --variance"
        )
    scores = (y - x @ fit.alpha) ** 2 * np.exp(-(v @ fit.beta)) - 1
    if not scores.std() > LEAST_SPREAD:
        raise InputError(
            f"{cohort.phenotype}: all its squared residuals are alike, so that nothing of its "
            "log-variance can be predicted; leave it out, or --variance"
        )
    return replace(cohort, y=scores, mean_design=cohort.variance_design)
