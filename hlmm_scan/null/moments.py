"""Third and fourth moment of the noise of a null model, which studentised covariances take."""

from __future__ import annotations

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.models.hlmm_objective import HLMMEvaluation, RandomEffectEvaluation
from hlmm_scan.models.relationship import RelationshipEvaluation

_ALL_PAIRS = 5_000  # people up to whom all pairs are looked at
_FEW_RANDOM_EFFECTS = 0.2  # of the number of people, below which pairs do not matter
_PEOPLE_PER_STRIP = 512


def pooled_moments(residuals: Float) -> tuple[float, float]:
    """Return the third and fourth moment of residuals over their standard deviations, (n,)."""
    return float((residuals**3).mean()), float((residuals**4).mean())


def noise_moments(evaluation: RandomEffectEvaluation) -> tuple[float, float]:
    """Return the third and fourth moment of the noise beside random effects.

    Parameters
    ----------
    evaluation : RandomEffectEvaluation
        At the maximum.

    Returns
    -------
    tuple of float
        m₃ and m₄ of tᵢ, the noise over its standard deviation √Dᵢ. No distribution has m₄ below
        1 + m₃²: an estimate below is raised to it.

    Notes
    -----
    What can be observed is s = D^-½e = D^½Σ⁻¹r = Mt + normal, M = D^½Σ⁻¹D^½ = I − h2·QQᵀ, since
    the random effects are normal. The cumulants of sⱼ are Mⱼⱼ (the variance), m₃ΣᵢMⱼᵢ³ and
    κ₄ΣᵢMⱼᵢ⁴, κ₄ = m₄ − 3, so

        m₃ = Σsⱼ³/ΣᵢⱼMᵢⱼ³,    κ₄ = (Σsⱼ⁴ − 3ΣMⱼⱼ²)/ΣᵢⱼMᵢⱼ⁴.

    h2·QQᵀ has l eigenvalues, all below 1. Pairs i ≠ j thus add at most l·max|Mᵢⱼ| to the sum of
    cubes: little where l ≪ n, and there and above 5,000 people only i = j is summed. Relatives
    are the exception that the l ≥ n of a relationship matrix makes; small cohorts have all pairs
    summed (n³ operations or fewer, less than one step of the fit takes there).
    """
    h2, p, s = evaluation.h2, evaluation.covariance.leverage, evaluation.residual_white
    own = 1 - h2 * p
    cubes, fourths = own**3, own**4
    n = len(s)
    if h2 > 0 and n <= _ALL_PAIRS:
        if isinstance(evaluation, RelationshipEvaluation):
            others = evaluation.covariance.pair_sums(np.ones((n, 1)), 3, 4)
            cubes, fourths = cubes + others[0][:, 0], fourths + others[1][:, 0]
        elif isinstance(evaluation, HLMMEvaluation):
            Q = evaluation.covariance.Q
            if Q.shape[1] > _FEW_RANDOM_EFFECTS * n:
                cubes, fourths = _all_pairs(Q, h2)
    third = float((s**3).sum() / cubes.sum())
    excess = float(((s**4).sum() - 3 * (own**2).sum()) / fourths.sum())
    return third, max(3 + excess, 1 + third**2)


def _all_pairs(Q: Float, h2: float) -> tuple[Float, Float]:
    """Row sums of the third and fourth powers of I − h2·QQᵀ."""
    n = len(Q)
    cubes, fourths = np.empty(n), np.empty(n)
    for start in range(0, n, _PEOPLE_PER_STRIP):
        strip = slice(start, min(start + _PEOPLE_PER_STRIP, n))
        rows = Q[strip] @ Q.T
        rows *= -h2
        rows[np.arange(len(rows)), np.arange(strip.start, strip.stop)] += 1
        squares = rows**2
        cubes[strip] = np.einsum("ij,ij->i", squares, rows)
        fourths[strip] = np.einsum("ij,ij->i", squares, squares)
    return cubes, fourths
