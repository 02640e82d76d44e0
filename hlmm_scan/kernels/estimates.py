"""What a kernel returns for a block of variants, before tests and units are put on."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.schema import Status

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Estimates:
    """Estimates of m variants in standardised units; NaN where there is none.

    Attributes
    ----------
    add, var : ndarray, shape (m,)
        Additive effect on the mean and log-linear effect on the variance, per effect allele.
    add_variance, var_variance, add_var_covariance : ndarray, shape (m,)
        Sampling covariance of the two.
    log_likelihood : ndarray, shape (m,)
    random_variance, random_variance_variance : ndarray, shape (m,)
        Variance of the random effects and its sampling variance (HLMM).
    residual_variance : ndarray, shape (m,)
        Mean over people of the fitted residual variance exp(Vb) (HLMM).
    status : ndarray of int8, shape (m,)
        :class:`~hlmm_scan.schema.Status`.
    """

    add: Float
    var: Float
    add_variance: Float
    var_variance: Float
    add_var_covariance: Float
    log_likelihood: Float
    random_variance: Float
    random_variance_variance: Float
    residual_variance: Float
    status: NDArray[np.int8]

    @classmethod
    def empty(cls, m: int) -> Estimates:
        """Return m rows without estimates, each with status PENDING."""
        columns = {f.name: np.full(m, np.nan) for f in fields(cls) if f.name != "status"}
        return cls(**columns, status=np.full(m, Status.PENDING, np.int8))

    def put(self, rows: NDArray[np.integer], other: Estimates) -> None:
        """Copy `other` (one row for each of `rows`) into these rows."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)
