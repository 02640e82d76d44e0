"""Score test of the product of genotype and environment, whatever the genotype's additive effect.

With g·E less its weighted regression on the covariates and on g, x, the score at the null model is
U = Σx·wr of information Σwx², w = 1/D₀; an additive effect of g has no part in it. Its tail is that
of x dealt to people at random (:mod:`~hlmm_scan.kernels.scores.saddlepoints`): x is put into
classes of equal width over its range, as dosages are, and as many.
"""

from __future__ import annotations

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.kernels.limits import COLLINEAR
from hlmm_scan.kernels.scores.design import ScoreDesign, with_all_squares
from hlmm_scan.kernels.scores.p_values import score_tests
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel

_AT_ONCE = 64


def interaction_neg_log10_p(
    null: NullModel, design: ScoreDesign, genotypes: GenotypeBlock
) -> Float:
    """Test the interaction of m variants with the environment.

    Parameters
    ----------
    null : NullModel
        With an environment, without random effects.
    design : ScoreDesign
        Of the null model.
    genotypes : HardCalls or Dosages
        People without a call are left out for that variant.

    Returns
    -------
    ndarray, shape (m,)
        −log10 p; NaN where the product is a combination of the genotype and the covariates.
    """
    z = np.full(len(genotypes), np.nan)
    people, values = np.zeros((2, len(genotypes), design.classes + 1))
    for start in range(0, len(genotypes), _AT_ONCE):
        part = genotypes.take(slice(start, start + _AT_ONCE)).copies(null.samples)
        for j, g in enumerate(part, start):
            z[j], x = _standardised(null, g)
            if len(x):
                people[j], values[j] = _classes(x, design.classes)
    rows = np.flatnonzero(np.isfinite(z))
    scores = np.zeros((len(rows), 3))
    scores[:, 0] = z[rows]
    found = np.full(len(genotypes), np.nan)
    found[rows] = score_tests(design.bins, people[rows], values[rows], scores, (1.0, 1.0, 1.0)).add
    return found


def _standardised(null: NullModel, g: Float) -> tuple[float, Float]:
    """Return the score over its standard deviation, and x of the people called."""
    fit, there = null.fits[ALL_RANDOM_EFFECTS], ~np.isnan(g)
    assert null.environment is not None
    X, g = null.mean_design[there], g[there]
    n, c = X.shape
    if n < c + 3:
        return np.nan, np.empty(0)
    w = np.exp(-null.variance_design[there] @ fit.beta)
    r = null.y[there] - X @ fit.alpha
    others = np.column_stack([X, g - g.mean()])
    product = (g - g.mean()) * null.environment[there]
    root = np.sqrt(w)[:, None]
    solution = np.linalg.lstsq(others * root, product * root[:, 0], rcond=None)[0]
    x = product - others @ solution
    information = x @ (w * x)
    if not information > COLLINEAR * (product @ (w * product)):
        return np.nan, np.empty(0)
    freedom = np.sqrt((n - c - 1) / (n - 1))
    return float(freedom * (x @ (w * r)) / np.sqrt(information)), x - x.mean()


def _classes(x: Float, classes: int) -> tuple[Float, Float]:
    """Return the people and the mean of each class of x, one of them split to keep Σx²."""
    ends = np.array([[x.min(), x.max()]])
    place = np.minimum((x - ends[0, 0]) / (np.ptp(x) / classes), classes - 1).astype(np.intp)
    people = np.bincount(place, minlength=classes).astype(np.float64)
    means = np.bincount(place, x, classes) / np.maximum(people, 1)
    split = with_all_squares(people[None], means[None], np.array([x @ x]), ends)
    return split[0][0], split[1][0]
