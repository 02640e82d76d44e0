"""One variant fitted again, alone, with whatever else is put beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.exact.fit import studentised
from hlmm_scan.models.fit import LEAST_RANDOM_VARIANCE, Fit
from hlmm_scan.models.hlm import HLM
from hlmm_scan.models.hlmm import HLMM
from hlmm_scan.models.inference import wald_neg_log10_p
from hlmm_scan.null.model import NullModel
from hlmm_scan.null.moments import noise_moments, pooled_moments

_MOST_OPERATIONS = 1e10
"""n·l² up to which random effects are fitted at every variant."""

_MOST_COVARIATE_OPERATIONS = 1e8
"""n·(c + v)² up to which covariates are fitted at every variant."""


@dataclass(frozen=True, eq=False)
class FittedVariant:
    """The model of one variant with all it was fitted to, in standardised units.

    Attributes
    ----------
    y : ndarray, shape (n,)
    X, V : ndarray, shapes (n, c) and (n, v)
        Designs of the null model, then what was put beside the variant, with the variant before
        that in X and last in V; columns put in have mean 0 and standard deviation 1.
    G : ndarray, shape (n, l), or None
        Random effects; None for the HLM.
    fit : Fit
    column : int
        The variant's in X.
    """

    y: Float
    X: Float
    V: Float
    G: Float | None
    fit: Fit
    column: int


@dataclass(frozen=True)
class Refit:
    """The test variant's variance effect and, where there is one, the last mean column's effect.

    Attributes
    ----------
    var, var_se, var_neg_log10_p : float
        Log-linear effect on the variance, studentised standard error and test; NaN where there is
        no fit.
    effect, effect_se, effect_neg_log10_p : float
        Of the last column put into the mean, in the phenotype's units; NaN where there is none.
    """

    var: float = np.nan
    var_se: float = np.nan
    var_neg_log10_p: float = np.nan
    effect: float = np.nan
    effect_se: float = np.nan
    effect_neg_log10_p: float = np.nan

    @property
    def var_chi2(self) -> float:
        """Squared variance effect over its squared standard error."""
        return (self.var / self.var_se) ** 2


class Refits:
    """Fits single variants by maximum likelihood on a stored null model's people and designs.

    Parameters
    ----------
    null : NullModel

    Notes
    -----
    Where random effects would take more than 10¹⁰ operations a step, their best prediction under
    the null model (without the variant's chromosome, under LOCO) is taken off the phenotype, and
    the rest is fitted by the HLM. Where covariates would take more than 10⁸, they stay at the null
    fit, and what is put in is projected on them (math.md §4, ``null``): with D = diag(exp(V₀b₀)),
    D^-½(y − X₀a₀) on D^-½g without D^-½X₀, its variance on g without V₀. Good for comparing two
    fits with one another.
    """

    def __init__(self, null: NullModel) -> None:
        self.null = null
        self._offset = cache(self._without_random_effects)
        self._fixed = cache(self._with_fixed_covariates)

    def residuals(self, contig: str) -> Float:
        """Return what the null model's mean leaves of the phenotype, in its units, shape (n,)."""
        null = self.null
        alpha = null.fits[null.random_effect_set(contig)].alpha
        return np.asarray((null.y - null.mean_design @ alpha) * null.y_scale)

    def fit(
        self,
        contig: str,
        genotype: Float,
        mean: tuple[Float, ...] = (),
        variance: tuple[Float, ...] = (),
    ) -> Refit:
        """Fit a variant in both designs, with further columns.

        Parameters
        ----------
        contig : str
            Chromosome of the variant.
        genotype : ndarray, shape (n,)
            Copies of its effect allele; people where it is NaN are left out.
        mean, variance : tuple of ndarray, shape (n,)
            Further columns of the two designs, complete.
        """
        fitted = self.fitted(contig, genotype, mean, variance)
        if fitted is None or not fitted.fit.success:
            return Refit()
        fit, X, V = fitted.fit, fitted.X, fitted.V
        if fitted.G is not None:
            model = HLMM(fitted.y, X, V, fitted.G)
            at = model.at(fit.alpha, fit.beta, fit.random_variance)
            C = studentised(at, noise_moments(at), held=fit.random_variance == 0)
            last = X.shape[1] + V.shape[1] - 1
            var_se, effect_se = np.sqrt(C[last, last]), np.sqrt(C[X.shape[1] - 1, X.shape[1] - 1])
        else:
            t = (fitted.y - X @ fit.alpha) * np.exp(-0.5 * (V @ fit.beta))
            # B_bb = ¼(m₄ − 1)VᵀV beside A_bb = ½VᵀV (math.md §2): one factor for all of b.
            inflation = np.sqrt((pooled_moments(t)[1] - 1) / 2)
            var_se, effect_se = fit.beta_se[-1] * inflation, fit.alpha_se[-1]
        rows = ~np.isnan(genotype)
        unit = float(np.std(genotype[rows]))
        found = {
            "var": fit.beta[-1] / unit,
            "var_se": var_se / unit,
            "var_neg_log10_p": float(wald_neg_log10_p(fit.beta[-1], var_se)),
        }
        if mean:
            scale = self.null.y_scale / float(np.std(mean[-1][rows]))
            found["effect"] = fit.alpha[-1] * scale
            found["effect_se"] = effect_se * scale
            found["effect_neg_log10_p"] = float(wald_neg_log10_p(fit.alpha[-1], effect_se))
        return Refit(**{name: float(value) for name, value in found.items()})

    def fitted(
        self,
        contig: str,
        genotype: Float,
        mean: tuple[Float, ...] = (),
        variance: tuple[Float, ...] = (),
    ) -> FittedVariant | None:
        """Fit as :meth:`fit` does, and return the model itself; None where people are too few."""
        null = self.null
        c, v = null.mean_design.shape[1], null.variance_design.shape[1]
        called = ~np.isnan(genotype)
        if np.count_nonzero(called) < c + v + len(mean) + len(variance) + 4:
            return None
        rows = slice(None) if called.all() else np.flatnonzero(called)
        key = null.random_effect_set(contig)
        exact = null.random_effects is not None and not self._too_dear(key)
        if not exact and self._too_many_covariates():
            return self._projected(key, rows, _complete(genotype), mean, variance)
        g = _scaled(genotype[rows])
        X = np.column_stack([null.mean_design[rows], g, *(_scaled(m[rows]) for m in mean)])
        V = np.column_stack([null.variance_design[rows], *(_scaled(m[rows]) for m in variance), g])
        beta = np.append(null.fits[key].beta, np.zeros(V.shape[1] - v))
        if not exact:
            y = self._offset(key)[rows]
            return FittedVariant(y, X, V, None, HLM(y, X, V).fit(start=beta), c)
        assert null.random_effects is not None
        G, y = null.random_effects.design(key)[rows], null.y[rows]
        h2 = max(null.fits[key].random_variance, LEAST_RANDOM_VARIANCE)
        return FittedVariant(y, X, V, G, HLMM(y, X, V, G).fit(start=(beta, h2)), c)

    def _projected(
        self,
        key: str,
        rows: slice | NDArray[np.int64],
        genotype: Float,
        mean: tuple[Float, ...],
        variance: tuple[Float, ...],
    ) -> FittedVariant:
        """Fit with the covariates as they are in the null model."""
        y, deviation, of_mean, of_variance = self._fixed(key)
        X = np.column_stack([_scaled(m, rows) / deviation for m in (genotype, *mean)])
        V = np.column_stack([_scaled(m, rows) for m in (*variance, genotype)])
        X -= of_mean @ (of_mean.T @ X)
        V -= of_variance @ (of_variance.T @ V)
        y, X, V = y[rows], X[rows], np.column_stack([np.ones(len(y)), V])[rows]
        return FittedVariant(y, X, V, None, HLM(y, X, V).fit(), 0)

    def _with_fixed_covariates(self, key: str) -> tuple[Float, Float, Float, Float]:
        """Return D^-½(y − X₀a₀), D^½, and orthonormal bases of D^-½X₀ and V₀."""
        null, fit = self.null, self.null.fits[key]
        deviation = np.exp(0.5 * (null.variance_design @ fit.beta))
        white = null.mean_design / deviation[:, None]
        basis = np.linalg.qr(white)[0]
        y = self._offset(key) / deviation
        return y - basis @ (basis.T @ y), deviation, basis, np.linalg.qr(null.variance_design)[0]

    def _too_many_covariates(self) -> bool:
        parameters = self.null.mean_design.shape[1] + self.null.variance_design.shape[1]
        return bool(parameters > 2 and self.null.n * parameters**2 > _MOST_COVARIATE_OPERATIONS)

    def _too_dear(self, key: str) -> bool:
        assert self.null.random_effects is not None
        n_random = self.null.random_effects.eigenstructure(key).n_random
        return bool(self.null.n * float(min(n_random, self.null.n)) ** 2 > _MOST_OPERATIONS)

    def _without_random_effects(self, key: str) -> Float:
        """Return the phenotype less the prediction h2·Gu of its random effects (math.md §1)."""
        null = self.null
        if null.random_effects is None:
            return null.y
        fit = null.fits[key]
        G = null.random_effects.design(key)
        model = HLMM(null.y, null.mean_design, null.variance_design, G)
        at = model.at(fit.alpha, fit.beta, fit.random_variance)
        return np.asarray(null.y - fit.random_variance * at.random_white * at.covariance.root)


def _complete(copies: Float) -> Float:
    """Missing ones replaced by the mean."""
    missing = np.isnan(copies)
    return np.where(missing, copies[~missing].mean(), copies) if missing.any() else copies


def _scaled(column: Float, rows: slice | NDArray[np.int64] = slice(None)) -> Float:
    """Return a column with mean 0 and standard deviation 1 in some rows; a constant one is 0."""
    chosen = column[rows]
    centre, deviation = float(chosen.mean()), float(chosen.std())
    return np.asarray((column - centre) / deviation if deviation > 1e-9 else np.zeros_like(column))
