"""What the class fit and its Newton step need of a null model, worked out once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.limits import SINGULAR
from hlmm_scan.kernels.screen.fit import ScreenDesign
from hlmm_scan.null.model import NullModel


@dataclass(frozen=True, eq=False)
class NewtonDesign:
    """The score screen's design, whose sums serve both, and the information of the covariates.

    Attributes
    ----------
    screen : ScreenDesign
    whiten : ndarray, shape (p, p), or None
        Upper triangular F with N⁻¹ = FFᵀ, N the observed information at the null of the p
        coefficients of covariates, those of the mean first, intercepts left out. None where it is
        not safely positive definite: then no step is taken.
    whiten_mean : ndarray, shape (c − 1, c − 1)
        The same of XᵀwX.
    """

    screen: ScreenDesign
    whiten: Float | None
    whiten_mean: Float

    @classmethod
    def of(cls, null: NullModel, width: int | None) -> NewtonDesign:
        """Prepare the fits of one phenotype, in O(n·(c + v)²).

        Parameters
        ----------
        null : NullModel
            Without random effects.
        width : int or None
            Bytes of a packed variant; None for dosages.
        """
        screen = ScreenDesign.of(null, width)
        of = screen.columns.of
        X, V, w, r = of.X[:, 1:], of.V[:, 1:], of.w, of.r
        mean = X.T @ (X * w[:, None])
        both = X.T @ (V * (w * r)[:, None])
        variance = 0.5 * (V.T @ (V * (w * r * r)[:, None]))
        whiten_mean = whitening(mean)
        assert whiten_mean is not None  # a null model's designs have full rank
        return cls(screen, whitening(np.block([[mean, both], [both.T, variance]])), whiten_mean)


def whitening(information: Float) -> Float | None:
    """Return F, upper triangular with FFᵀ the inverse of an information.

    None where the latter is not safely positive definite.
    """
    diagonal = np.diag(information)
    if not (diagonal > 0).all():
        return None
    scale = 1 / np.sqrt(diagonal)
    scaled = information * scale * scale[:, None]
    if len(scaled) and np.linalg.eigvalsh(scaled)[0] <= SINGULAR:
        return None
    root = np.linalg.cholesky(scaled)
    return np.ascontiguousarray(np.linalg.inv(root).T * scale[:, None])
