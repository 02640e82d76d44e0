"""What the fast joint HLM kernel needs of a null model, computed once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.limits import CONVEX_NULL
from hlmm_scan.kernels.scoring.sweep import Columns


@dataclass(frozen=True)
class ScoringDesign:
    """A :class:`JointDesign` with everything that depends on the null model alone.

    Make it once per null model (:meth:`of`), not per block.

    Attributes
    ----------
    joint : JointDesign
    columns : Columns
        What passes over people multiply with.
    null : ndarray, shape (c + v + 2,)
        θ = (a₀, b₀, a_g, b_g) at the null.
    observed, expected : ndarray, shape (c + v, c + v)
        Information of (a₀, b₀) at the null.
    convex : bool
        Whether the observed one is safely positive definite, so that steps can be taken by it.
    inverse, expected_inverse : ndarray, shape (c + v, c + v)
        Of the observed information where it is convex, else of the expected one; and of the latter.
    weight : float
        Sum of the null weights.
    log_variance, excess : float
        Sums of V₀b₀ and of 1 − k₀.
    outliers : float
        Mean of k₀ over people by their share in Σ(1 − k₀)²: 5 for normal residuals.
    """

    joint: JointDesign
    columns: Columns
    null: Float
    observed: Float
    expected: Float
    convex: bool
    inverse: Float
    expected_inverse: Float
    weight: float
    log_variance: float
    excess: float
    outliers: float

    @classmethod
    def of(cls, design: JointDesign) -> ScoringDesign:
        """Precompute, in O(n·(c + v)²)."""
        X, V = design.X, design.V
        c = X.shape[1]
        log_variance = V @ design.beta
        w = np.exp(-log_variance)
        r = design.y - X @ design.alpha
        k = w * r * r
        expected = np.zeros((c + V.shape[1],) * 2)
        expected[:c, :c] = X.T @ (X * w[:, None])
        expected[c:, c:] = 0.5 * (V.T @ V)
        observed = expected.copy()
        observed[:c, c:] = X.T @ (V * (w * r)[:, None])
        observed[c:, :c] = observed[:c, c:].T
        observed[c:, c:] = 0.5 * (V.T @ (V * k[:, None]))
        scale = 1 / np.sqrt(np.diag(expected))
        least = [np.linalg.eigvalsh(m * scale * scale[:, None])[0] for m in (observed, expected)]
        convex = bool(least[0] > CONVEX_NULL * least[1])
        expected_inverse = np.zeros_like(expected)
        expected_inverse[:c, :c] = np.linalg.inv(expected[:c, :c])
        expected_inverse[c:, c:] = np.linalg.inv(expected[c:, c:])
        return cls(
            joint=design,
            columns=Columns.of(design, expected_inverse[:c, :c], expected_inverse[c:, c:]),
            null=np.concatenate([design.alpha, design.beta, np.zeros(2)]),
            observed=observed,
            expected=expected,
            convex=convex,
            inverse=np.linalg.inv(observed) if convex else expected_inverse,
            expected_inverse=expected_inverse,
            weight=float(w.sum()),
            log_variance=float(log_variance.sum()),
            excess=float((1 - k).sum()),
            outliers=float(k @ (1 - k) ** 2 / ((1 - k) @ (1 - k))),
        )

    def called(self, present: NDArray[np.bool_]) -> tuple[Float, Float]:
        """Return the observed and the expected information of the people called.

        Parameters
        ----------
        present : ndarray of bool, shape (n,)
        """
        c = self.joint.X.shape[1]
        absent = np.flatnonzero(~present)
        X, V = self.joint.X[absent], self.joint.V[absent]
        root = np.exp(-0.5 * (V @ self.joint.beta))
        e = root * (self.joint.y[absent] - X @ self.joint.alpha)
        X = X * root[:, None]
        observed, expected = self.observed.copy(), self.expected.copy()
        both = np.column_stack([X, V * e[:, None]])
        gram = both.T @ both
        gram[c:, c:] *= 0.5
        observed -= gram
        expected[:c, :c] -= gram[:c, :c]
        expected[c:, c:] -= 0.5 * (V.T @ V)
        return observed, expected
