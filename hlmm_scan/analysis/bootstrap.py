"""Standard errors of one variant's effects from data sets drawn anew."""

from __future__ import annotations

import numpy as np

from hlmm_scan.analysis.refits import FittedVariant
from hlmm_scan.array_types import Float
from hlmm_scan.models.hlm import HLM
from hlmm_scan.models.hlmm import HLMM

NOISE = ("residual", "normal")


def bootstrap(fitted: FittedVariant, times: int, noise: str, rng: np.random.Generator) -> Float:
    """Fit phenotypes drawn from a variant's own model.

    Parameters
    ----------
    fitted : FittedVariant
        Without other columns beside the variant.
    times : int
    noise : {"residual", "normal"}
        Residuals over their standard deviations drawn with replacement, or normal ones. Random
        effects are normal in both.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (times, 2)
        Effect on mean and log-variance in standardised units, NaN where a fit found no maximum.
    """
    fit, X, V, G = fitted.fit, fitted.X, fitted.V, fitted.G
    n = len(fitted.y)
    deviation, mean = np.exp(0.5 * (V @ fit.beta)), X @ fit.alpha
    pool = _noise(fitted) if noise == "residual" else np.empty(0)
    found = np.full((times, 2), np.nan)
    for k in range(times):
        drawn = rng.choice(pool, n) if noise == "residual" else rng.standard_normal(n)
        y = mean + deviation * drawn
        if G is None:
            again = HLM(y, X, V).fit(start=fit.beta)
        else:
            y += np.sqrt(fit.random_variance) * (G @ rng.standard_normal(G.shape[1]))
            again = HLMM(y, X, V, G).fit(start=(fit.beta, fit.random_variance))
        if again.success:
            found[k] = again.alpha[fitted.column], again.beta[-1]
    return found


def _noise(fitted: FittedVariant) -> Float:
    """Residuals over their standard deviations, without the random effects, mean square 1."""
    fit, X, V = fitted.fit, fitted.X, fitted.V
    if fitted.G is None:
        t = (fitted.y - X @ fit.alpha) * np.exp(-0.5 * (V @ fit.beta))
    else:
        model = HLMM(fitted.y, X, V, fitted.G)
        t = model.at(fit.alpha, fit.beta, fit.random_variance).residual_white
    return np.asarray(t / np.sqrt((t**2).mean()))
