"""The parts of the null model that the plain kernel of HLM with covariates needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hlmm_scan.array_types import Float
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel

PEOPLE_PER_STRIP = 2048
"""Sums over people are accumulated strip by strip: a fixed order, and strips stay in cache."""


@dataclass(frozen=True)
class JointDesign:
    """The parts of the null model the block fit needs, with the products that repeat.

    Attributes
    ----------
    y : ndarray, shape (n,)
    X, V : ndarray, shapes (n, c) and (n, v)
        Standardised covariates, intercept first.
    alpha, beta : ndarray, shapes (c,) and (v,)
        The null fit, where every variant starts.
    moments : tuple of float, default those of the normal distribution
        Third and fourth moment of the null residuals, for the studentised covariance.
    """

    y: Float
    X: Float
    V: Float
    alpha: Float
    beta: Float
    moments: tuple[float, float] = (0.0, 3.0)

    @classmethod
    def of(cls, null: NullModel) -> JointDesign:
        """Take the parts of a null model without random effects."""
        fit = null.fits[ALL_RANDOM_EFFECTS]
        X, V = null.mean_design, null.variance_design
        return cls(null.y, X, V, fit.alpha, fit.beta, fit.moments)

    def strips(self) -> Iterator[slice]:
        """Yield the slices of people over which sums are accumulated."""
        for start in range(0, len(self.y), PEOPLE_PER_STRIP):
            yield slice(start, start + PEOPLE_PER_STRIP)
