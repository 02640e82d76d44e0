"""Standardised design matrices, and the way back from their coefficients to the user's units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.errors import InputError

INTERCEPT = "intercept"

_CONSTANT = 2 * np.finfo(np.float64).eps
"""Range, relative to the largest value, within which values differ by rounding only."""

_COLLINEAR = 1e-9
"""Norm of what other columns leave of a column, relative to its own, at which it is theirs."""

_CLEARLY_INDEPENDENT = 1e-4
"""The same, above which the Gram matrix (whose rounding is 1e-8) can be believed."""


@dataclass(frozen=True, eq=False)
class Design:
    """Intercept and covariates with mean 0 and standard deviation 1. The arrays are read-only.

    Attributes
    ----------
    matrix : ndarray of float64, shape (n, c), C-ordered
        Column 0 is 1, column j is (x_j − centres[j]) / scales[j].
    names : tuple of str, length c
        "intercept", then the covariates.
    centres : ndarray of float64, shape (c,)
        Means in the user's units; 0 for the intercept.
    scales : ndarray of float64, shape (c,)
        Standard deviations (divisor n) in the user's units; 1 for the intercept.
    """

    matrix: Float
    names: tuple[str, ...]
    centres: Float
    scales: Float

    def to_user_map(self) -> Float:
        """Return the matrix M for which X_standardised·a = X_raw·(M a).

        Returns
        -------
        ndarray of float64, shape (c, c)
            Divides by the scales, and takes the centres out of the intercept.
        """
        linear = np.diag(1.0 / self.scales)
        linear[0, 1:] = -self.centres[1:] / self.scales[1:]
        return linear

    def mean_to_user(
        self, coefficients: Float, covariance: Float, y_centre: float, y_scale: float
    ) -> tuple[Float, Float]:
        """Take the estimates of a mean model back to raw covariates and phenotype.

        Parameters
        ----------
        coefficients : ndarray, shape (c,)
            Estimates for (y − y_centre) / y_scale on `matrix`, intercept first.
        covariance : ndarray, shape (c, c)
            Their covariance.
        y_centre, y_scale : float
            How the phenotype was standardised.

        Returns
        -------
        coefficients : ndarray of float64, shape (c,)
            Estimates for y on the intercept and the raw covariates.
        covariance : ndarray of float64, shape (c, c)
            Their covariance.
        """
        linear = y_scale * self.to_user_map()
        raw = linear @ self._checked(coefficients, covariance)
        raw[0] += y_centre
        return raw, linear @ covariance @ linear.T

    def variance_to_user(
        self, coefficients: Float, covariance: Float, y_scale: float
    ) -> tuple[Float, Float]:
        """Take the estimates of a log-variance model back to raw covariates and phenotype.

        The log variance of y is 2·log(y_scale) plus that of y / y_scale, so that the phenotype's
        scale moves the intercept only.

        Parameters
        ----------
        coefficients : ndarray, shape (c,)
            Estimates for the log variance of y / y_scale on `matrix`, intercept first.
        covariance : ndarray, shape (c, c)
            Their covariance.
        y_scale : float
            How the phenotype was standardised.

        Returns
        -------
        coefficients : ndarray of float64, shape (c,)
            Estimates for the log variance of y on the intercept and the raw covariates.
        covariance : ndarray of float64, shape (c, c)
            Their covariance.
        """
        linear = self.to_user_map()
        raw = linear @ self._checked(coefficients, covariance)
        raw[0] += 2.0 * np.log(y_scale)
        return raw, linear @ covariance @ linear.T

    def _checked(self, coefficients: Float, covariance: Float) -> Float:
        c = len(self.names)
        if np.shape(coefficients) != (c,) or np.shape(covariance) != (c, c):
            raise ValueError(
                f"expected {c} coefficients and their {c}×{c} covariance, found shapes "
                f"{np.shape(coefficients)} and {np.shape(covariance)}"
            )
        return np.asarray(coefficients, np.float64)


def centre_and_scale(values: Float) -> tuple[Float, Float]:
    """Return mean and standard deviation (divisor n) of every column.

    Exact under scaling by powers of two, and safe from 1e-300 to 1e300.

    Parameters
    ----------
    values : ndarray of float64, shape (n, p), n ≥ 1
        Finite values.

    Returns
    -------
    centres, scales : ndarray of float64, shape (p,)
        A scale of exactly 0 where the values are equal but for rounding.
    """
    peak = np.maximum(values.max(axis=0), -values.min(axis=0))
    # A power of two near the largest value: dividing by it rounds nothing, and squares neither
    # overflow nor vanish.
    unit = np.ldexp(1.0, np.frexp(np.where(peak > 0, peak, 1.0))[1] - 1)
    relative = values / unit
    constant = relative.max(axis=0) - relative.min(axis=0) <= _CONSTANT
    centres = relative.mean(axis=0)
    relative -= centres
    # Again, because n summands near a large mean leave n roundings of its size.
    correction = relative.mean(axis=0)
    relative -= correction
    scales = np.sqrt(np.mean(np.square(relative, out=relative), axis=0))
    scales[constant] = 0.0
    return (centres + correction) * unit, scales * unit


def build_design(
    values: Float,
    names: Sequence[str],
    what: Literal["mean", "variance"] = "mean",
    where: str = "the phenotype",
) -> Design:
    """Standardise covariates and put an intercept before them.

    Parameters
    ----------
    values : ndarray of float64, shape (n, p)
        Covariates in the user's units, without missing values; p may be 0.
    names : sequence of str, length p
        Their names.
    what : {"mean", "variance"}, default "mean"
        Which model they belong to, for error messages.
    where : str, default "the phenotype"
        Name of the phenotype for which these people are analysed, for error messages.

    Returns
    -------
    Design
        With c = p + 1 columns.

    Raises
    ------
    InputError
        If a covariate is constant, or a linear combination of others and the intercept (each is
        named), or there are fewer people than columns.
    """
    values = np.asarray(values, np.float64)
    n, p = values.shape
    if len(names) != p or not np.isfinite(values).all():
        raise ValueError(f"expected {len(names)} columns of finite values, found shape {(n, p)}")
    among = f"among the {n:,} people analysed for {where}"
    if n < p + 1:
        raise InputError(
            f"fewer people than parameters: {n:,} people are analysed for {where}, "
            f"with {p + 1:,} {what} parameters (intercept included)"
        )
    centres, scales = centre_and_scale(values)
    constant = [name for name, scale in zip(names, scales, strict=True) if scale == 0]
    if len(constant) == 1:
        raise InputError(f"{what} covariate '{constant[0]}' is constant {among}")
    if constant:
        raise InputError(f"{what} covariates {listed(constant)} are constant {among}")
    matrix = np.empty((n, p + 1))
    matrix[:, 0] = 1.0
    np.subtract(values, centres, out=matrix[:, 1:])
    matrix[:, 1:] /= scales
    combinations = _combinations(matrix)
    if combinations:
        told = "; ".join(
            f"'{names[column - 1]}' is a combination of {listed([names[k - 1] for k in others])}"
            for column, others in combinations[:3]
        )
        if len(combinations) > 3:
            told += f"; and {len(combinations) - 3:,} more"
        raise InputError(f"{what} covariates are collinear {among}: {told}")
    design = Design(
        matrix,
        (INTERCEPT, *names),
        np.concatenate([[0.0], centres]),
        np.concatenate([[1.0], scales]),
    )
    for array in (design.matrix, design.centres, design.scales):
        array.flags.writeable = False
    return design


def is_combination(matrix: Float) -> bool:
    """Whether the last column is a combination of the others.

    Parameters
    ----------
    matrix : ndarray of float64, shape (n, c)
        Intercept and standardised columns, of which the others are not collinear.
    """
    return bool(_combinations(matrix))


def _combinations(matrix: Float) -> list[tuple[int, list[int]]]:
    """Columns that are combinations of earlier ones, each with the ones it is made of.

    Parameters
    ----------
    matrix : ndarray of float64, shape (n, c)
        Intercept and standardised columns.
    """
    n, c = matrix.shape
    if c <= 2:
        return []
    gram = matrix.T @ matrix / n
    try:
        # The diagonal of the Cholesky factor is what earlier columns leave of each column.
        if np.linalg.cholesky(gram).diagonal().min() > _CLEARLY_INDEPENDENT:
            return []
    except np.linalg.LinAlgError:
        pass  # at least nearly collinear: look closely
    # Gram–Schmidt on the columns themselves, twice per column, which is as good as Householder.
    # It runs in the user's order, so that the later column is the one to leave out.
    basis = np.empty((n, c), order="F")
    triangle = np.zeros((c, c))
    kept: list[int] = []
    found = []
    for column in range(c):
        rest = matrix[:, column].copy()
        norm = np.linalg.norm(rest)
        k = len(kept)
        weights = np.zeros(k)
        for _ in range(2):
            step = basis[:, :k].T @ rest
            rest -= basis[:, :k] @ step
            weights += step
        left = np.linalg.norm(rest)
        if left <= _COLLINEAR * norm:
            share = np.abs(np.linalg.solve(triangle[:k, :k], weights))
            # The intercept (column 0) is part of every combination and no covariate.
            made_of = [kept[i] for i in range(1, k) if share[i] > 1e-6 * share.max()]
            found.append((column, made_of))
            continue
        basis[:, k] = rest / left
        triangle[:k, k] = weights
        triangle[k, k] = left
        kept.append(column)
    return found


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in quotation marks with commas, the last after "and"; long lists are cut."""
    quoted = [f"'{name}'" for name in names[:most]]
    if len(names) > most:
        quoted.append(f"{len(names) - most:,} more")
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
