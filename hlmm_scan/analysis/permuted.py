"""The reported tests of chosen variants on permuted residuals, many permutations at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from hlmm_scan.array_types import Float, Int
from hlmm_scan.kernels.limits import COLLINEAR_SCREENED
from hlmm_scan.kernels.prepared import random_screen_design, score_design
from hlmm_scan.kernels.scores.p_values import GenotypeShapes
from hlmm_scan.kernels.screen.plain import residual
from hlmm_scan.null.eigen import Eigenstructure, weighted
from hlmm_scan.null.model import NullModel

_LEVEL = 0.95
"""Of intervals of permutation p-values."""


@dataclass(frozen=True, eq=False)
class CheckedGenotypes:
    """Variants as tests take them.

    Attributes
    ----------
    copies : ndarray, shape (m, n)
        Copies of the effect allele of the people analysed, NaN where missing.
    shapes : list of GenotypeShapes
        Of one variant each.
    """

    copies: Float
    shapes: list[GenotypeShapes]


class Statistic(Protocol):
    """−log10 p of m variants as functions of how residuals are dealt to people."""

    @property
    def n(self) -> int:
        """Number of people."""

    def observed(self) -> Float:
        """Return −log10 p of the residuals as they are, shape (m, 3): add, var, av."""

    def at(self, orders: list[Int], rows: Int) -> Float:
        """Return −log10 p of some variants, shape (permutations, rows, 3).

        Parameters
        ----------
        orders : list of ndarray of int64, shape (n,)
            Person i is given the residual of person order[i].
        rows : ndarray of int64
            Which of the m variants.
        """


@dataclass(frozen=True, eq=False)
class _Projected:
    """Genotypes without what the null model's parameters take of them.

    Attributes
    ----------
    x, v : ndarray, shape (n, m)
        Of the mean, whitened and of length 1, NaN where nothing is left; of the variance.
    information, excess : ndarray, shape (m,)
        I_b, and uᵀu of the efficient derivative (:mod:`~hlmm_scan.kernels.screen.plain`).
    of_random : ndarray, shape (m,)
        What the variance of the random effects takes of the score.
    own : ndarray, shape (n,)
        h2 times the leverage, less 1.
    fourths : float
        ΣM⁴, M the covariance of the whitened residuals e₀.
    trace : float
        tr Σ⁻¹GGᵀ.
    """

    x: Float
    v: Float
    information: Float
    excess: Float
    of_random: Float
    own: Float
    fourths: float
    trace: float


class ScoreStatistic:
    """The tests that a scan reports, of permuted residuals; any covariates and random effects.

    Parameters
    ----------
    null : NullModel
    key : str
        Which of its fits: the random effects left out.
    genotypes : CheckedGenotypes

    Notes
    -----
    With W = D^-½G of the null model and P = I + h2·WWᵀ, residuals are whitened first,
    t = P^-½D^-½(y − Xa): these are exchangeable, and are permuted. With U an orthonormal basis of
    P^-½D^-½X, permuted t are made orthogonal to U and given mean square 1 again, as fitting the
    null model to them would. With x the part of P^-½D^-½g without U, of length 1, and e₀ = P^-½t,

        z_add = xᵀt,   e = e₀ − z_add·P^-½x,   s = ½(ṽᵀ(e² + h2·p − 1) − δ(‖Wᵀe‖² − tr)),

    p the leverages, ṽ the genotype less what the other coefficients of the variance take of it and
    δ what h2 does: the scores of :mod:`~hlmm_scan.kernels.screen.plain`. With the additive effect
    left in, e₀ stands for e (δ then has no part at the maximum of h2). Both have the variance
    I_b + ¼(m₄ − 3)uᵀu, m₄ of the permuted residuals. Of the scores the scan's own tests are made,
    but that permuted residuals have not lost the degrees of freedom that the variance's covariates
    take.
    P^-½ = I + F·diag(((1 + h2·s²)^-½ − 1)/s²)·Fᵀ in the principal axes F of WWᵀ.
    """

    def __init__(self, null: NullModel, key: str, genotypes: CheckedGenotypes) -> None:
        fit = null.fits[key]
        self.n, self._design, self._shapes = null.n, score_design(null, key), genotypes.shapes
        self._fourth, self._h2 = fit.fourth_moment, fit.random_variance
        deviation = np.exp(0.5 * (null.variance_design @ fit.beta))
        self._eigen: Eigenstructure | None = None
        if null.random_effects is not None and self._h2 > 0:
            own = null.random_effects.eigenstructure(key)
            self._eigen = weighted(own, np.ascontiguousarray(own.columns / deviation[:, None]))
        self._basis = np.linalg.qr(self._white(null.mean_design / deviation[:, None])[0])[0]
        if null.random_effects is None:
            self._g = _projected(null, deviation, genotypes.copies)
        else:
            self._g = self._projected_random(null, key, deviation, genotypes.copies)
        self._xw, self._xf = self._white(self._g.x)
        self._cross = np.einsum("ij,ij->j", self._xw**2, self._g.v), (self._xf**2).sum(axis=0)
        raw = (null.y - null.mean_design @ fit.alpha) / deviation
        self._t = self._white(raw[:, None])[0][:, 0]

    def observed(self) -> Float:
        """Return −log10 p, as :class:`Statistic` has it."""
        rows = np.arange(len(self._shapes))
        tests = self._tests(self._scores(self._t[:, None], rows, self._fourth), rows)
        return np.asarray(tests[0])

    def at(self, orders: list[Int], rows: Int) -> Float:
        """Return −log10 p, as :class:`Statistic` has it."""
        t = _without(self._basis, np.column_stack([self._t[order] for order in orders]))
        scores = self._scores(t / np.sqrt((t**2).mean(axis=0)), rows)
        scores[..., 1:] /= self._design.freedom[1]
        return self._tests(scores, rows)

    def _scores(self, t: Float, rows: Int, fourth: float | None = None) -> Float:
        """Return standardised scores of whitened residuals, (n, k), shape (k, rows, 3)."""
        g = self._g
        x, v, xw, xf = (a[:, rows] for a in (g.x, g.v, self._xw, self._xf))
        e, f = self._white(t)
        squares, z, of_random = e**2, t.T @ x, g.of_random[rows]
        moved = (f**2).sum(axis=0)[:, None] - g.trace
        plain = squares.T @ v + g.own @ v - of_random * moved
        # What taking the additive effect out of the residuals changes, of e and of Wᵀe.
        change = z**2 * self._cross[0][rows] - 2 * z * (e.T @ (xw * v))
        change -= of_random * (z**2 * self._cross[1][rows] - 2 * z * (f.T @ xf))
        if fourth is None:
            excess = ((squares**2).sum(axis=0) - 3 * (g.own**2).sum()) / g.fourths
            m4 = np.maximum(3 + excess, 1)[:, None]
        else:
            m4 = np.array([[fourth]])
        with np.errstate(invalid="ignore", divide="ignore"):
            root = np.sqrt(g.information[rows] + 0.25 * (m4 - 3) * g.excess[rows])
            return np.stack([z, 0.5 * plain / root, 0.5 * (plain + change) / root], axis=-1)

    def _tests(self, scores: Float, rows: Int) -> Float:
        found = np.full(scores.shape, np.nan)
        for k, row in enumerate(rows):
            # What cannot be tested has no score at all.
            tested = np.flatnonzero(np.isfinite(scores[:, k]).all(axis=1))
            shape = self._shapes[row].repeated(len(tested))
            tests = self._design.tests(scores[tested, k], shape)
            found[tested, k] = np.column_stack([tests.add, tests.var, tests.av])
        return found

    def _white(self, columns: Float) -> tuple[Float, Float]:
        """Return P^-½ times columns (n, k), and WᵀP^-½ times them in the axes F, (r, k)."""
        if self._eigen is None:
            return columns, np.zeros((0, columns.shape[1]))
        values = self._eigen.values[:, None]
        shrink = 1 / np.sqrt(1 + self._h2 * values)
        inner = self._eigen.rotate(self._eigen.columns.T @ columns)
        return columns + self._eigen.combine((shrink - 1) / values * inner), shrink * inner

    def _projected_random(
        self, null: NullModel, key: str, deviation: Float, copies: Float
    ) -> _Projected:
        """Project genotypes; a missing call is the mean of the others, as in the scan."""
        design, k = random_screen_design(null, key), null.variance_design.shape[1]
        called = ~np.isnan(copies)
        people = called.sum(axis=1)
        mean = np.where(called, copies, 0).sum(axis=1) / np.maximum(people, 1)
        h = np.where(called, copies - mean[:, None], 0).T
        white = self._white(h / deviation[:, None])[0]
        x = _without(self._basis, white)
        if design.squares is None:
            derivative, fourths = h * design.diagonal[:, None], float((design.own**4).sum())
        else:
            squares = design.squares.astype(np.float64)
            derivative, fourths = squares @ h, float((squares**2).sum())
        uh = design.u.T @ h
        delta = 0.5 * design.variance @ uh
        total = np.einsum("ij,ij->j", h, derivative)
        information = 0.5 * (total - (delta * uh).sum(axis=0))
        lengths = np.linalg.norm(x, axis=0)
        tested = people >= null.mean_design.shape[1] + k + 3
        tested &= lengths**2 > COLLINEAR_SCREENED * (white**2).sum(axis=0)
        tested &= 2 * information > COLLINEAR_SCREENED * total
        return _Projected(
            x=x / np.where(tested, lengths, np.nan),
            v=h - null.variance_design @ delta[:k],
            information=information,
            excess=((derivative - design.u @ delta) ** 2).sum(axis=0),
            of_random=delta[-1] if self._h2 > 0 else np.zeros(len(copies)),
            own=design.own,
            fourths=fourths,
            trace=design.trace,
        )


def _projected(null: NullModel, deviation: Float, copies: Float) -> _Projected:
    """Project genotypes without random effects; who has no call is left out, as in the scan."""
    X, V, w = null.mean_design, null.variance_design, deviation**-2
    x, v = np.zeros((2, null.n, len(copies)))
    for j, g in enumerate(copies):
        called = ~np.isnan(g)
        x[:, j] = np.nan
        if called.sum() < X.shape[1] + V.shape[1] + 3:
            continue
        h, w_called = g[called] - g[called].mean(), w[called]
        mine = residual(h, X[called], w_called) * np.sqrt(w_called)
        v[called, j] = residual(h, V[called], np.ones(len(h)))
        squares = np.array([mine @ mine, v[:, j] @ v[:, j]])
        if (squares > COLLINEAR_SCREENED * np.array([h @ (w_called * h), h @ h])).all():
            x[:, j] = 0.0
            x[called, j] = mine / np.sqrt(squares[0])
    square = (v**2).sum(axis=0)
    none, n = np.zeros(len(copies)), null.n
    return _Projected(x, v, 0.5 * square, square, none, np.full(n, -1.0), float(n), 0.0)


def _without(basis: Float, columns: Float) -> Float:
    """Columns less their projection on an orthonormal basis."""
    return np.asarray(columns - basis @ (basis.T @ columns))


def exceedances_wanted(half_width: float) -> int:
    """Return how many exceedances make an interval as narrow, for a small p.

    Parameters
    ----------
    half_width : float
        Of the interval, over p.
    """
    return max(2, math.ceil((norm.ppf(0.5 + _LEVEL / 2) / half_width) ** 2))


@dataclass
class Counts:
    """How often permuted statistics reached the observed ones; arrays of shape (m, 3).

    Attributes
    ----------
    exceedances, permutations : ndarray of int64
    beyond_1e3 : ndarray of int64
        Permuted residuals of which the test's own p is below 0.001.
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

    def interval(self, enough: int) -> tuple[Float, Float]:
        """Return the lower and upper ends of 95% intervals, NaN where there is no statistic.

        Notes
        -----
        Clopper & Pearson (1934); of the number of permutations where exceedances stopped the
        count, else of the exceedances among them all.
        """
        k, n, tail = self.exceedances, self.permutations, (1 - _LEVEL) / 2
        others = n - k
        with np.errstate(invalid="ignore"):
            low = np.where(k > 0, beta.ppf(tail, k, others + 1), 0.0)
            above = np.where(k >= enough, k, k + 1)
            high = np.where(others > 0, beta.ppf(1 - tail, above, others), 1.0)
        return np.where(self.testable, low, np.nan), np.where(self.testable, high, np.nan)


def count(
    statistic: Statistic,
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
    n = statistic.n
    observed = statistic.observed()
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
        counts.beyond_1e3[rows] += ((found > 3.0) & counted).sum(axis=0)
    return counts
