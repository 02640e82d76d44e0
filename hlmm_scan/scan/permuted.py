"""Test statistics of chosen variants on permuted residuals, many permutations at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.kernels.class_sums import class_sums_of_phenotypes
from hlmm_scan.kernels.hlm_classes import fit_class_sums
from hlmm_scan.models.inference import joint_chi2
from hlmm_scan.null.eigen import Eigenstructure, weighted
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel
from hlmm_scan.schema import Status

Float = NDArray[np.float64]
Int = NDArray[np.int64]

_SCALING = 400
"""Permutations from which a quadratic form's scale is taken where there are random effects."""


class Statistic(Protocol):
    """χ² statistics of m variants as functions of how residuals are dealt to people."""

    @property
    def n(self) -> int:
        """Number of people."""

    def at(self, orders: list[Int], rows: Int) -> Float:
        """Return the statistics of some variants, shape (permutations, rows, 3): add, var, av.

        Parameters
        ----------
        orders : list of ndarray of int64, shape (n,)
            Person i is given the residual of person order[i].
        rows : ndarray of int64
            Which of the m variants.
        """


@dataclass(frozen=True, eq=False)
class RefitStatistic:
    """Studentised Wald tests of maximum-likelihood fits: no covariates, no random effects.

    Attributes
    ----------
    null : NullModel
        With intercepts alone.
    packed : ndarray of uint8, shape (m, bytes)
        Hard calls of all samples of the dataset.

    Notes
    -----
    The permuted phenotypes go through the class sums (math.md §3) together and are fitted as in
    the scan. Where a fit has no maximum the statistic is infinite, against the variant.
    """

    null: NullModel
    packed: NDArray[np.uint8]

    @property
    def n(self) -> int:
        """Number of people."""
        return self.null.n

    def at(self, orders: list[Int], rows: Int) -> Float:
        """Return the statistics, as :class:`Statistic` has it."""
        ys = [self.null.y[order] for order in orders]
        sums = class_sums_of_phenotypes(self.packed[rows], [self.null.samples] * len(ys), ys)
        moments = self.null.fits[ALL_RANDOM_EFFECTS].moments
        found = np.empty((len(ys), len(rows), 3))
        for k, of_one in enumerate(sums):
            e = fit_class_sums(of_one, moments)
            covariance = e.add_variance_robust, e.var_variance_robust, e.add_var_covariance_robust
            found[k, :, 0] = e.add**2 / covariance[0]
            found[k, :, 1] = e.var**2 / covariance[1]
            found[k, :, 2] = joint_chi2(e.add, e.var, *covariance)
            found[k, np.isin(e.status, (Status.UNBOUNDED, Status.NOT_CONVERGED))] = np.inf
            found[k, e.status == Status.NOT_UNIQUE] = np.nan
        return found


class ScoreStatistic:
    """Studentised tests one step from the null model, with any covariates and random effects.

    Parameters
    ----------
    null : NullModel
    key : str
        Which of its fits: the random effects left out.
    copies : ndarray, shape (m, n)
        Copies of the effect allele of the people analysed, complete.

    Notes
    -----
    With W = D^-½G of the null model and P = I + h2·WWᵀ, residuals are whitened first,
    t = P^-½D^-½(y − Xa): these are exchangeable, and are permuted. After that everything is done
    that a fit would do to first order. With U an orthonormal basis of P^-½D^-½X, permuted t are
    made orthogonal to U and given mean square 1 again; x is P^-½D^-½g without U and

        z_add = xᵀt/‖x‖,   a = xᵀt/‖x‖²,   e = P^-½(t − a·x),   s = ṽᵀe²,

    ṽ the genotype without V and without the leverages p = diag(WWᵀP⁻¹) that h2 would move. With
    m₃, m₄ of t, the variance of s is (m₄ − 1)‖ṽ‖² and its covariance with xᵀt is m₃xᵀṽ (math.md §2)
    without random effects; with them both are taken from 400 permutations that are not counted.
    P^-½ = I + F·diag(((1 + h2·s²)^-½ − 1)/s²)·Fᵀ in the principal axes F of WWᵀ.
    """

    def __init__(self, null: NullModel, key: str, copies: Float) -> None:
        fit = null.fits[key]
        self.n = null.n
        deviation = np.exp(0.5 * (null.variance_design @ fit.beta))
        self._eigen: Eigenstructure | None = None
        leverage = np.empty((null.n, 0))
        if null.random_effects is not None and fit.random_variance > 0:
            own = null.random_effects.eigenstructure(key)
            self._eigen = weighted(own, np.ascontiguousarray(own.columns / deviation[:, None]))
            values, h2 = self._eigen.values, fit.random_variance
            self._root = (1 / np.sqrt(1 + h2 * values) - 1) / values
            leverage = self._eigen.leverage(1 / (1 + h2 * values)[:, None])
        residual = (null.y - null.mean_design @ fit.alpha) / deviation
        self._basis = _orthonormal(self._white(null.mean_design / deviation[:, None]))
        genotypes = copies.T - copies.mean(axis=1)
        white = self._white(genotypes / deviation[:, None])
        x = _without(self._basis, white)
        v = _without(_orthonormal(np.hstack([null.variance_design, leverage])), genotypes)
        # What rounding left of a genotype that the covariates explain is no genotype.
        none = _vanishes(x, white) | _vanishes(v, genotypes)
        x[:, none] = v[:, none] = np.nan
        self._x = x / np.linalg.norm(x, axis=0)
        self._v = v / np.linalg.norm(v, axis=0)
        self._xw = self._white(self._x)
        self._t = self._unit(self._white(residual[:, None]))[:, 0]
        third, fourth = (float((self._t**k).mean()) for k in (3, 4))
        self._scale = np.full(len(copies), np.sqrt(fourth - 1))
        self._rho = third * np.einsum("ij,ij->j", self._x, self._v) / self._scale
        if self._eigen is not None:
            self._take_scale()

    def at(self, orders: list[Int], rows: Int) -> Float:
        """Return the statistics, as :class:`Statistic` has it."""
        z_add, s = self._parts(orders, rows)
        z_var, rho = s / self._scale[rows], self._rho[rows]
        joint = z_add**2 + (z_var - rho * z_add) ** 2 / (1 - rho**2)
        return np.stack([z_add**2, z_var**2, joint], axis=-1)

    def _parts(self, orders: list[Int], rows: Int) -> tuple[Float, Float]:
        """z_add and s, both (permutations, rows)."""
        t = self._unit(np.column_stack([self._t[order] for order in orders]))
        x, v, xw = self._x[:, rows], self._v[:, rows], self._xw[:, rows]
        e = self._white(t)
        z = t.T @ x
        # x has length 1, so that a is z_add as well.
        s = (e**2).T @ v - 2 * z * (e.T @ (xw * v)) + z**2 * np.einsum("ij,ij->j", xw**2, v)
        return z, s

    def _take_scale(self) -> None:
        rng = np.random.default_rng(0)
        rows, parts = np.arange(len(self._scale)), []
        for _ in range(0, _SCALING, 50):
            parts.append(self._parts([rng.permutation(self.n) for _ in range(50)], rows))
        z = np.concatenate([part[0] for part in parts])
        s = np.concatenate([part[1] for part in parts])
        self._scale = np.sqrt((s**2).mean(axis=0))
        self._rho = (z * s).mean(axis=0) / np.sqrt((z**2).mean(axis=0)) / self._scale

    def _white(self, columns: Float) -> Float:
        """P^-½ times columns, shape (n, k)."""
        if self._eigen is None:
            return columns
        inner = self._root[:, None] * self._eigen.rotate(self._eigen.columns.T @ columns)
        return columns + self._eigen.combine(inner)

    def _unit(self, columns: Float) -> Float:
        """Columns without the mean design, of mean square 1."""
        rest = _without(self._basis, columns)
        return np.asarray(rest / np.sqrt((rest**2).mean(axis=0)))


def _orthonormal(columns: Float) -> Float:
    return np.asarray(np.linalg.qr(columns)[0])


def _without(basis: Float, columns: Float) -> Float:
    """Columns less their projection on an orthonormal basis."""
    return np.asarray(columns - basis @ (basis.T @ columns))


def _vanishes(rest: Float, columns: Float) -> NDArray[np.bool_]:
    return np.asarray(np.linalg.norm(rest, axis=0) <= 1e-6 * np.linalg.norm(columns, axis=0))


@dataclass
class Counts:
    """How often permuted statistics reached the observed ones; arrays of shape (m, 3).

    Attributes
    ----------
    exceedances, permutations : ndarray of int64
    beyond_1e3 : ndarray of int64
        Permuted statistics with an asymptotic p below 0.001.
    testable : ndarray of bool
        Whether there is an observed statistic.
    """

    exceedances: Int
    permutations: Int
    beyond_1e3: Int
    testable: NDArray[np.bool_]

    def p(self, enough: int) -> Float:
        """Return the empirical p-values, NaN where there is no statistic.

        Notes
        -----
        Besag & Clifford (1991): exceedances/permutations where the wanted number of exceedances
        stopped the count, else (exceedances + 1)/(permutations + 1). Both are valid p-values.
        """
        stopped = self.exceedances >= enough
        with np.errstate(invalid="ignore", divide="ignore"):
            p = np.where(
                stopped,
                self.exceedances / self.permutations,
                (self.exceedances + 1) / (self.permutations + 1),
            )
        return np.where(self.testable, p, np.nan)


_BEYOND_1E3 = np.array([10.827566170662733, 10.827566170662733, 13.815510557964274])
"""χ² of p = 0.001 with 1, 1 and 2 degrees of freedom."""


def count(
    statistic: Statistic,
    n_variants: int,
    *,
    most: int,
    enough: int,
    seed: tuple[int, ...],
    at_once: int,
) -> Counts:
    """Compare statistics of permuted residuals with the observed ones.

    Parameters
    ----------
    statistic : Statistic
    n_variants : int
        m.
    most : int
        Permutations at most.
    enough : int
        Exceedances after which a test of a variant is no longer counted.
    seed : tuple of int
        With the number of a permutation it decides that permutation, so that counts depend
        neither on `at_once` nor on what else is checked.
    at_once : int
        Permutations in memory.

    Returns
    -------
    Counts
    """
    everyone, n = np.arange(n_variants), statistic.n
    observed = statistic.at([np.arange(n)], everyone)[0]
    # A permutation that changes nothing reaches it, whatever the rounding.
    bar = observed * (1 - 1e-9)
    shape = observed.shape
    counts = Counts(
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.isfinite(observed),
    )
    for start in range(0, most, at_once):
        open_tests = counts.testable & (counts.exceedances < enough)
        rows = np.flatnonzero(open_tests.any(axis=1))
        if not len(rows):
            break
        numbers = range(start, min(start + at_once, most))
        orders = [np.random.default_rng([*seed, k]).permutation(n) for k in numbers]
        found = statistic.at(orders, rows)
        reached = np.cumsum(found >= bar[rows], axis=0) + counts.exceedances[rows]
        # Up to and with the permutation that makes it enough.
        counted = np.vstack([counts.exceedances[rows][None], reached[:-1]]) < enough
        counted &= open_tests[rows]
        counts.exceedances[rows] += ((found >= bar[rows]) & counted).sum(axis=0)
        counts.permutations[rows] += counted.sum(axis=0)
        counts.beyond_1e3[rows] += ((found > _BEYOND_1E3) & counted).sum(axis=0)
    return counts
