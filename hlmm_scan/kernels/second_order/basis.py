"""What all variants of one phenotype share in second-order HLMM fits.

:mod:`~hlmm_scan.kernels.second_order.likelihood` says what it is good for, and what the symbols
are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hlmm_scan.array_types import Float, Float32
from hlmm_scan.kernels.exact.gram_fit import GramBasis
from hlmm_scan.kernels.exact.robust import Leverages
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.null.eigen import Eigenstructure
from hlmm_scan.null.model import NullFit

TERMS = 16
"""Terms of the Chebyshev series."""

REFINED_WIDTH = 32
"""Variants whose predictions of the random effects are multiplied out at once."""

_PROBE_SEED = 20261122


@dataclass(frozen=True)
class SecondOrderBasis:
    """What all variants of one phenotype and one set of random effects share.

    Attributes
    ----------
    eigen : Eigenstructure
    columns : ndarray of float32, shape (n, k)
        Those of `eigen`. Products with them are sums over a class of what differs between
        variants, and so small beside the float64 sums over everyone.
    residual : ndarray, shape (n,)
        e = y − a₀ − Fβ.
    probe : ndarray of float32, shape (n,)
        FΛ₀^-½ξ at the null κ, ξ of random signs.
    series : ndarray of float32, shape (n, TERMS)
        Chebyshev coefficients of R_i/R̄ − 1, R̄ the mean of R over people.
    squares : ndarray, shape (TERMS,)
        Those of Σ(R_i/R̄)².
    beta : ndarray, shape (r,)
        Null prediction β of the random effects.
    sums, products : ndarray, shape (r,)
        Fᵀ1 and Fᵀe.
    log_range : tuple of float
        Range of log(κ + 1/s₁²).
    start : tuple of float
        Null log-variance and h2.
    kappa : float
        At the null.
    intercept : float
        Null mean a₀.
    leverages : Leverages
        At the null.
    null : NullFit
    lattice : CallLattice or None
        Of `eigen.columns`: people are counted then, where they would be multiplied.
    """

    eigen: Eigenstructure
    columns: Float32
    residual: Float
    probe: Float32
    series: Float32
    squares: Float
    beta: Float
    sums: Float
    products: Float
    log_range: tuple[float, float]
    start: tuple[float, float]
    kappa: float
    intercept: float
    leverages: Leverages
    null: NullFit
    lattice: CallLattice | None = None

    @classmethod
    def of(
        cls,
        eigen: Eigenstructure,
        y: Float,
        fit: NullFit,
        columns: Float32 | None = None,
        lattice: CallLattice | None = None,
    ) -> SecondOrderBasis:
        """Prepare one phenotype and set; 2n·l·r operations for the leverages.

        Parameters
        ----------
        eigen : Eigenstructure
        y : ndarray, shape (n,)
        fit : NullFit
            With intercepts only.
        columns : ndarray of float32, shape (n, k), optional
            `eigen.columns` in single precision, where they are at hand.
        lattice : CallLattice, optional
            Of `eigen.columns`, where they have one.
        """
        values, variance = eigen.values, math.exp(float(fit.beta[0]))
        h2, intercept = fit.random_variance, float(fit.alpha[0])
        kappa = h2 / variance
        phi = 1 / (1 + kappa * values)
        r = y - intercept
        Z1 = eigen.columns.T @ np.column_stack((np.ones_like(y), r))
        both = eigen.rotate(Z1)
        beta = kappa * phi * both[:, 1]
        signs = np.random.default_rng(_PROBE_SEED).choice([-1.0, 1.0], len(values))
        fitted = eigen.combine(np.column_stack((beta, np.sqrt(phi) * signs)))
        # h2 has a standard error; far beyond it the series need not reach.
        error = math.sqrt(2 / float(((values * phi) ** 2).sum()))
        farthest = max(4 * kappa, kappa + 12 * error)
        shift = 1 / float(values[0])
        log_range = math.log(shift), math.log(farthest + shift)
        nodes = np.cos(np.pi * (np.arange(TERMS) + 0.5) / TERMS)
        at = np.exp(log_range[0] + 0.5 * (nodes + 1) * (log_range[1] - log_range[0])) - shift
        leverage = eigen.leverage(1 / (1 + np.outer(values, np.append(at, kappa))))
        own = leverage[:, -1]
        relative = leverage[:, :-1] / leverage[:, :-1].mean(axis=0)
        order = np.arange(TERMS)
        to_series = np.cos(np.outer(np.arccos(nodes), order)) * (2 / TERMS)
        to_series[:, 0] *= 0.5
        squares = (relative**2).sum(axis=0) @ to_series
        relative -= 1.0
        return cls(
            eigen=eigen,
            columns=eigen.columns.astype(np.float32) if columns is None else columns,
            residual=r - fitted[:, 0],
            probe=fitted[:, 1].astype(np.float32),
            series=(relative @ to_series).astype(np.float32),
            squares=squares,
            beta=beta,
            sums=both[:, 0].copy(),
            products=both[:, 1] - values * beta,
            log_range=log_range,
            start=(float(fit.beta[0]), h2),
            kappa=kappa,
            intercept=intercept,
            leverages=Leverages.from_leverages(own),
            null=fit,
            lattice=lattice,
        )

    def for_exact_fits(self, y: Float) -> GramBasis:
        """Return what exact fits share, with these leverages and columns in single precision."""
        shared = self.leverages, self.columns, self.lattice
        return GramBasis.of(self.eigen, y, self.null, *shared)

    def spread(self, shift: Float) -> Float32:
        """Return S, shape (k, REFINED_WIDTH), such that columns @ S is F·shiftᵀ, filled up by 0."""
        spread = np.zeros((self.columns.shape[1], REFINED_WIDTH), np.float32)
        padded = np.zeros((len(self.beta), REFINED_WIDTH))
        padded[:, : len(shift)] = shift.T
        spread[self.eigen.chosen] = self.eigen.rotation @ padded
        return spread
