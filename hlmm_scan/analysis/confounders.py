"""What could fake a variance effect: dominance, an additive neighbour, poor imputation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.analysis.linkage import ChosenGenotypes, imputed
from hlmm_scan.analysis.refits import Refit, Refits
from hlmm_scan.array_types import Float

LOST_SHARE = 0.5
"""Share of a variance effect's χ² that must go when something is modelled, for that to be its
cause."""

WORTH_EXPLAINING = 3.0
"""−log10 p of the variance effect below which there is nothing to explain."""

NEIGHBOUR_NEG_LOG10_P = 5.0
"""−log10 p of the additive effect of a neighbour worth looking at."""

NEIGHBOUR_R2 = (0.01, 0.99)
"""Linkage of a neighbour that could be the cause: some, and not the same variant."""

NEIGHBOURS_LOOKED_AT = 256

LOW_INFO = 0.8
"""Imputation info below which the variance of what was not imputed matters."""

CHECKS: tuple[str, ...] = (
    *(f"{what}_{copies}" for what in ("n", "mean", "sd") for copies in range(3)),
    "var_refitted",
    "var_refitted_neg_log10_p",
    "dominance",
    "dominance_se",
    "dominance_neg_log10_p",
    "var_given_dominance",
    "var_given_dominance_neg_log10_p",
    "neighbour",
    "neighbour_position",
    "neighbour_r2",
    "neighbour_add_neg_log10_p",
    "var_given_neighbour_mean",
    "var_given_neighbour_mean_neg_log10_p",
    "var_given_neighbour",
    "var_given_neighbour_neg_log10_p",
    "flags",
)
"""Columns that the checks add to the table of hits."""


def no_checks() -> dict[str, Any]:
    """Return the columns of a hit that was not checked."""
    return {name: "" if name in ("neighbour", "flags") else np.nan for name in CHECKS}


def strongest_neighbour(
    genotypes: ChosenGenotypes, lead: int, rows: NDArray[np.int64], strength: Float
) -> tuple[int, float] | None:
    """Return the strongest additive variant in linkage with a lead, and their r².

    Parameters
    ----------
    genotypes : ChosenGenotypes
    lead : int
        Row of the lead.
    rows, strength : ndarray, shape (k,)
        Rows around it, and −log10 p of their additive effects.

    Returns
    -------
    tuple of (int, float), or None
        None where none of the 256 strongest is significant and in linkage, see
        :data:`NEIGHBOUR_NEG_LOG10_P` and :data:`NEIGHBOUR_R2`.
    """
    candidates = np.flatnonzero((strength > NEIGHBOUR_NEG_LOG10_P) & (rows != lead))
    order = candidates[np.lexsort((rows[candidates], -strength[candidates]))]
    for start in range(0, min(len(order), NEIGHBOURS_LOOKED_AT), 32):
        part = rows[order[start : start + 32]]
        r2 = genotypes.r2(lead, part)
        linked = np.flatnonzero((r2 >= NEIGHBOUR_R2[0]) & (r2 <= NEIGHBOUR_R2[1]))
        if len(linked):
            return int(part[linked[0]]), float(r2[linked[0]])
    return None


def check_variance_effect(
    refits: Refits,
    contig: str,
    genotype: Float,
    neighbour: Float | None,
    info: float = np.nan,
) -> dict[str, Any]:
    """Look for other causes of a variant's variance effect.

    Parameters
    ----------
    refits : Refits
    contig : str
    genotype : ndarray, shape (n,)
        Copies of the effect allele of the people analysed, NaN where missing.
    neighbour : ndarray, shape (n,), or None
        The same of the strongest additive neighbour.
    info : float, optional
        Imputation info score.

    Returns
    -------
    dict
        Those of :data:`CHECKS` that tell nothing of the neighbour's name and place.

    Notes
    -----
    * *Dominance*: where the mean of heterozygotes is not half way, a straight line through the
      three means leaves a rest that differs between the classes, and is taken for variance. The
      variant is fitted again with g(2 − g), which is 1 for heterozygotes and 0 for homozygotes, in
      the mean beside g. By class: people, mean and standard deviation of the null model's
      residuals; imputed genotypes are rounded for that.
    * *An additive neighbour in incomplete linkage*: with effect β it adds β²·Var(c | g) to the
      variance within a genotype class of g, which differs between the classes. Fitted again with
      the neighbour in the mean alone, that is gone, whereas a true variance effect stays; with the
      neighbour in both designs (``var_given_neighbour``) a variance effect of the neighbour's own
      is taken away too, and so is most of a true one where linkage is high.
    * ``flags`` names what takes more than half of the variance effect's χ² with it, where that
      effect has p < 10⁻³ by itself, and ``low_info`` for an imputation info below 0.8: what is not
      imputed of an additive effect looks like variance.

    Variance tests are studentised with the fit's own residuals.
    """
    found: dict[str, Any] = {**_by_class(refits.residuals(contig), genotype)}
    alone = refits.fit(contig, genotype)
    found["var_refitted"] = alone.var
    found["var_refitted_neg_log10_p"] = alone.var_neg_log10_p
    heterozygous = genotype * (2 - genotype)
    dominant = refits.fit(contig, genotype, mean=(imputed(heterozygous),))
    found["dominance"] = dominant.effect
    found["dominance_se"] = dominant.effect_se
    found["dominance_neg_log10_p"] = dominant.effect_neg_log10_p
    found["var_given_dominance"] = dominant.var
    found["var_given_dominance_neg_log10_p"] = dominant.var_neg_log10_p
    flags = ["dominance"] if _explains(alone, dominant) else []
    if neighbour is not None:
        other = imputed(neighbour)
        mean_only = refits.fit(contig, genotype, mean=(other,))
        both = refits.fit(contig, genotype, mean=(other,), variance=(other,))
        found["var_given_neighbour_mean"] = mean_only.var
        found["var_given_neighbour_mean_neg_log10_p"] = mean_only.var_neg_log10_p
        found["var_given_neighbour"] = both.var
        found["var_given_neighbour_neg_log10_p"] = both.var_neg_log10_p
        flags += ["neighbour"] if _explains(alone, mean_only) else []
    if info < LOW_INFO:
        flags.append("low_info")
    found["flags"] = ",".join(flags)
    return found


def _explains(alone: Refit, given: Refit) -> bool:
    """Whether what was put beside the variant took most of its variance effect away."""
    return bool(
        alone.var_neg_log10_p > WORTH_EXPLAINING
        and given.var_chi2 < (1 - LOST_SHARE) * alone.var_chi2
    )


def _by_class(residuals: Float, genotype: Float) -> Mapping[str, float]:
    """People, mean and standard deviation in each genotype class."""
    found = {}
    nearest = np.rint(genotype)
    for copies in range(3):
        mine = residuals[nearest == copies]
        found[f"n_{copies}"] = float(len(mine))
        found[f"mean_{copies}"] = float(mine.mean()) if len(mine) else np.nan
        found[f"sd_{copies}"] = float(mine.std(ddof=1)) if len(mine) > 1 else np.nan
    return found
