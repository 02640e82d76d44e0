"""Checked inputs of the models, and the standardised coordinates in which they are fitted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag, qr, solve_triangular

from hlmm_scan.array_types import Float

_COLLINEAR = 1e-9
"""Part of a column's length outside the columns before it, below which it depends on them."""

_PERFECT = 1e-13
"""Residual standard deviation over largest phenotype below which residuals are rounding."""


def as_phenotype(y: ArrayLike) -> Float:
    """Return the phenotype as a 1-d float64 array.

    Raises
    ------
    ValueError
        If it is not 1-d, empty, or holds a value that is not finite.
    """
    values = np.asarray(y, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"the phenotype must be 1-d, not {values.ndim}-d")
    if values.size == 0:
        raise ValueError("the phenotype is empty")
    return _finite(values, "the phenotype")


def as_design(design: ArrayLike, n: int, name: str) -> Float:
    """Return a design as a row-major (n, columns) float64 array; a 1-d one is one column.

    Parameters
    ----------
    design : array_like, shape (n,) or (n, columns)
    n : int
        Rows it must have.
    name : str
        What errors call it.

    Raises
    ------
    ValueError
        If the shape is wrong or a value is not finite.
    """
    values = np.asarray(design, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, np.newaxis]
    if values.ndim != 2:
        raise ValueError(f"the {name} design must be 1-d or 2-d, not {values.ndim}-d")
    if len(values) != n:
        raise ValueError(f"the {name} design has {len(values)} rows, the phenotype {n}")
    if values.shape[1] == 0:
        raise ValueError(f"the {name} design has no columns")
    return np.ascontiguousarray(_finite(values, f"the {name} design"))


def as_parameters(values: ArrayLike, size: int, name: str) -> Float:
    """Return parameters as a 1-d float64 array of the given size; a scalar counts as one.

    Raises
    ------
    ValueError
        If the size is wrong or a value is not finite.
    """
    parameters = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if parameters.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), not {parameters.shape}")
    return _finite(parameters, name)


def as_random_variance(h2: float) -> float:
    """Return h2 as a float.

    Raises
    ------
    ValueError
        If it is negative or not finite.
    """
    value = float(h2)
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(f"the variance of the random effects must be 0 or more, not {value}")
    return value


def _finite(values: Float, name: str) -> Float:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has values that are not finite")
    return values


@dataclass(frozen=True)
class Basis:
    """An orthogonal basis of a design's column space, and the way back.

    Attributes
    ----------
    columns : ndarray, shape (n, k)
        Orthogonal, each of mean square 1. If the design has a constant column, the first is 1.
    triangle : ndarray, shape (k, k)
        Upper triangular R with ``design[:, order] = columns @ R``.
    order : ndarray of int, shape (k,)
        Order of the design's columns in the basis.
    full_rank : bool
        Whether the design's columns are linearly independent.

    Notes
    -----
    In these coordinates the expected information of an HLM is diagonal at equal variances and
    no column's unit or offset matters, so one tolerance serves all data.
    """

    columns: Float
    triangle: Float
    order: NDArray[np.intp]
    full_rank: bool

    @classmethod
    def of(cls, design: Float) -> Basis:
        """Build the basis of a design of shape (n, k), n ≥ k."""
        n = len(design)
        constant = (design == design[0]).all(axis=0) & (design[0] != 0)
        order = np.argsort(~constant, kind="stable")
        # Two steps, so that no square overflows.
        peak = np.abs(design).max(axis=0)[order]
        peak[peak == 0] = 1.0
        unit = design[:, order] / peak
        length = np.sqrt((unit**2).sum(axis=0))
        length[length == 0] = 1.0
        q, r = qr(unit / length, mode="economic", check_finite=False)
        sign = np.where(np.diag(r) < 0, -1.0, 1.0)
        columns = np.ascontiguousarray(q * (sign * np.sqrt(n)))
        if constant.any():
            columns[:, 0] = np.sign(design[0, order[0]])
        triangle = sign[:, np.newaxis] * r * (length * peak / np.sqrt(n))
        return cls(columns, triangle, order, bool((np.abs(np.diag(r)) > _COLLINEAR).all()))

    def from_design(self, coefficients: Float) -> Float:
        """Return the coefficients in the basis of coefficients of the design's columns."""
        return np.asarray(self.triangle @ coefficients[self.order])

    def to_design(self, coefficients: Float) -> Float:
        """Return the design's coefficients of coefficients in the basis.

        Parameters
        ----------
        coefficients : ndarray, shape (k,) or (k, m)
        """
        result = np.empty_like(coefficients)
        result[self.order] = solve_triangular(self.triangle, coefficients, check_finite=False)
        return result


@dataclass(frozen=True)
class Standardised:
    """One data set in the coordinates in which it is fitted: the same model, well scaled.

    Parameters
    ----------
    y : ndarray, shape (n,)
        Phenotype.
    X, V : ndarray, shape (n, c) and (n, v)
        Mean and log-variance design.

    Notes
    -----
    With OLS residuals of standard deviation s, the phenotype becomes (y − X·a_ols)/s. The
    residual variance in those units is exp(Vb)/s² = exp(−2·log s + Vb): the offset −2·log s
    makes it the same model whether or not V spans the constant. The random effects' variance
    is divided by s², and the log-likelihood falls by n·log s on the way back.
    """

    y: Float
    X: Float
    V: Float

    @cached_property
    def mean(self) -> Basis:
        """Basis of the mean design."""
        return Basis.of(self.X)

    @cached_property
    def variance(self) -> Basis:
        """Basis of the log-variance design."""
        return Basis.of(self.V)

    @cached_property
    def ols(self) -> Float:
        """OLS coefficients of the phenotype in the mean basis, shape (c,)."""
        return np.asarray(self.mean.columns.T @ self.y / len(self.y))

    @cached_property
    def _residual(self) -> Float:
        basis, n = self.mean.columns, len(self.y)
        residual = self.y - basis @ self.ols
        # What rounding left of the mean matters where the phenotype has a large offset.
        return np.asarray(residual - basis @ (basis.T @ residual / n))

    @cached_property
    def scale(self) -> float:
        """Root mean square s of the OLS residuals; 0 where they are but rounding."""
        peak = float(np.abs(self._residual).max())
        if peak <= _PERFECT * float(np.abs(self.y).max()):
            return 0.0
        return peak * float(np.sqrt(np.mean((self._residual / peak) ** 2)))

    @property
    def phenotype(self) -> Float:
        """OLS residuals over their root mean square, shape (n,)."""
        return self._residual / self.scale

    @property
    def offset(self) -> float:
        """What is added to the log-variance, −2·log s."""
        return -2.0 * float(np.log(self.scale))

    def homoskedastic(self) -> Float:
        """Coefficients in the variance basis that bring all variances nearest the OLS one."""
        return np.asarray(-self.offset * self.variance.columns.mean(axis=0))

    def jacobian(self, random_unit: float | None = None) -> Float:
        """Return the derivatives of the user's parameters by the standardised ones.

        Parameters
        ----------
        random_unit : float, optional
            User's h2 per standardised one; None for a model without random effects.

        Returns
        -------
        ndarray, shape (c + v, c + v), or one more each with random effects
            Order a, b, h2.
        """
        blocks = [
            self.scale * self.mean.to_design(np.eye(self.X.shape[1])),
            self.variance.to_design(np.eye(self.V.shape[1])),
        ]
        if random_unit is not None:
            blocks.append(np.array([[random_unit]]))
        return np.asarray(block_diag(*blocks))

    def log_likelihood(self, value: float) -> float:
        """Return log L in the user's units from (−2·log L)/n − log 2π in standardised ones."""
        n = len(self.y)
        return float(-0.5 * n * (value + np.log(2 * np.pi)) - n * np.log(self.scale))
