"""One variant fitted again, alone, with whatever else is put beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.kernels.hlmm_exact import studentised
from hlmm_scan.models.fit import LEAST_RANDOM_VARIANCE, Fit
from hlmm_scan.models.hlm import HLM
from hlmm_scan.models.hlmm import HLMM
from hlmm_scan.models.inference import wald_neg_log10_p
from hlmm_scan.null.model import NullModel
from hlmm_scan.null.moments import noise_moments, pooled_moments

Float = NDArray[np.float64]

_MOST_OPERATIONS = 1e10
"""n·l² up to which random effects are fitted at every variant."""


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
    """

    y: Float
    X: Float
    V: Float
    G: Float | None
    fit: Fit


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
    the rest is fitted by the HLM: for comparing two fits with one another, not for publishing.
    """

    def __init__(self, null: NullModel) -> None:
        self.null = null
        self._offset = cache(self._without_random_effects)

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
        if not fitted.fit.success:
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
    ) -> FittedVariant:
        """Fit as :meth:`fit` does, and return the model itself."""
        null = self.null
        called = ~np.isnan(genotype)
        rows = slice(None) if called.all() else np.flatnonzero(called)
        key = null.random_effect_set(contig)
        g = _scaled(genotype[rows])
        X = np.column_stack([null.mean_design[rows], g, *(_scaled(c[rows]) for c in mean)])
        V = np.column_stack([null.variance_design[rows], *(_scaled(c[rows]) for c in variance), g])
        beta = np.append(null.fits[key].beta, np.zeros(V.shape[1] - null.variance_design.shape[1]))
        if null.random_effects is None or self._too_dear(key):
            y = self._offset(key)[rows]
            return FittedVariant(y, X, V, None, HLM(y, X, V).fit(start=beta))
        G, y = null.random_effects.design(key)[rows], null.y[rows]
        h2 = max(null.fits[key].random_variance, LEAST_RANDOM_VARIANCE)
        return FittedVariant(y, X, V, G, HLMM(y, X, V, G).fit(start=(beta, h2)))

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


def _scaled(column: Float) -> Float:
    """Return a column with mean 0 and standard deviation 1; a constant one is 0."""
    centred = column - column.mean()
    deviation = float(np.sqrt((centred**2).mean()))
    return np.asarray(centred / deviation) if deviation > 1e-9 else np.zeros_like(centred)
