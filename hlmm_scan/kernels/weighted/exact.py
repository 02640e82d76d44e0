"""log det Λ of one variant and its derivatives, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dpotrf, dpotri, dtrtri

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.weighted.basis import WeightedBasis

_DENSE = 2  # people per random effect up to which Σ rather than Λ is factored


@dataclass(frozen=True)
class ExactDeterminant:
    """At one point of one variant.

    Attributes
    ----------
    log_det : float
        log det Λ.
    leverage : ndarray, shape (n,)
        diag(HΛ⁻¹Hᵀ); of no use where there is no call.
    operated : ndarray, shape (n, v + 1), or None
        (M∘M) times V and g, where Σ was inverted.
    square_trace : float
        ‖Λ⁻¹HᵀD⁻¹H‖² in reference units, tr (Σ⁻¹GGᵀ)²; NaN where `operated` is there.
    """

    log_det: float
    leverage: Float
    operated: Float | None
    square_trace: float = float("nan")

    @classmethod
    def of(
        cls, basis: WeightedBasis, weight: Float, h2: float, g: Float
    ) -> ExactDeterminant | None:
        """Factor; None where that fails numerically.

        Notes
        -----
        n³ operations by Σ = D + h2·HHᵀ, where there are as many random effects as people or
        nearly so: h2·ω∘diag(HΛ⁻¹Hᵀ) = 1 − diag(M), M = D^½Σ⁻¹D^½. Else 2n·r² by Λ.
        """
        if basis.n <= _DENSE * len(basis.values) and basis.kernel is not None:
            return cls._dense(basis, weight, h2, g)
        eigen = basis.eigen
        rows = eigen.columns * np.sqrt(weight)[:, None]
        gram = (rows.T @ rows)[np.ix_(eigen.chosen, eigen.chosen)]
        gram = eigen.rotation.T @ gram @ eigen.rotation
        gram *= h2
        gram.flat[:: len(gram) + 1] += 1.0
        factor, info = dpotrf(gram.T, lower=1, clean=1, overwrite_a=1)
        if info != 0:
            return None
        log_det = 2 * float(np.log(np.diag(factor)).sum())
        inverse, info = dtrtri(factor, lower=1, overwrite_c=1)
        if info != 0:
            return None
        # Rows of HC⁻ᵀ in strips, from columns·(rotation·C⁻ᵀ).
        turned = np.zeros((eigen.columns.shape[1], len(inverse)))
        turned[eigen.chosen] = dtrmm(1.0, inverse, eigen.rotation, side=1, lower=1, trans_a=1)
        leverage = np.empty(basis.n)
        for start in range(0, basis.n, 1024):
            strip = slice(start, start + 1024)
            Q = eigen.columns[strip] @ turned
            leverage[strip] = np.einsum("ij,ij->i", Q, Q)
        # Λ⁻¹HᵀD⁻¹H = (I − Λ⁻¹)/h2, Λ⁻¹ = C⁻ᵀC⁻¹.
        rest = inverse.T @ -inverse
        rest.flat[:: len(rest) + 1] += 1.0
        return cls(log_det, leverage, None, float((rest**2).sum()) / h2**2)

    @classmethod
    def _dense(
        cls, basis: WeightedBasis, weight: Float, h2: float, g: Float
    ) -> ExactDeterminant | None:
        called = np.flatnonzero(weight > 0)
        root = np.sqrt(weight[called])
        kernel = basis.kernel
        assert kernel is not None
        # M⁻¹ = I + h2·ω^½HHᵀω^½, whose determinant is that of Λ.
        inverse = kernel if len(called) == len(weight) else kernel[np.ix_(called, called)]
        inverse = inverse * (h2 * root[:, None]) * root
        inverse.flat[:: len(inverse) + 1] += 1.0
        factor, info = dpotrf(inverse.T, lower=1, clean=1, overwrite_a=1)
        if info != 0:
            return None
        log_det = 2 * float(np.log(np.diag(factor)).sum())
        M, info = dpotri(factor, lower=1, overwrite_c=1)
        if info != 0:
            return None
        diagonal = np.diag(M).copy()
        leverage = np.zeros(len(weight))
        leverage[called] = (1 - diagonal) / (h2 * root**2)
        M *= M
        both = np.column_stack([basis.V, g])[called]
        operated = np.zeros((len(weight), both.shape[1]))
        # The lower triangle alone is filled.
        operated[called] = M @ both + M.T @ both - (diagonal**2)[:, None] * both
        return cls(log_det, leverage, operated)
