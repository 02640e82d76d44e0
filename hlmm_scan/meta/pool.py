"""The pool of K cohorts at V variants: effects, tests, heterogeneity (math.md §13).

Everything adds up cohort after cohort in the order given, so that no result depends on how the
variants are cut into windows. What a cohort does not know is NaN, and takes no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, gammaln

from hlmm_scan.models.inference import chi2_of, neg_log10_p
from hlmm_scan.schema import ScoreFlag

Float = NDArray[np.float64]

FIELDS = (
    *("n", "effect_allele_frequency", "info", "add", "add_se", "var", "var_se", "add_var_cov"),
    *("add_neg_log10_p", "var_neg_log10_p", "av_neg_log10_p", "test_flags"),
)
"""What is taken of each cohort, all as float64."""

AT_BOUND = int(ScoreFlag.ADD_AT_BOUND | ScoreFlag.VAR_AT_BOUND | ScoreFlag.AV_AT_BOUND)
UNKNOWN = int(ScoreFlag.VAR_UNKNOWN)


def pool(cohorts: Mapping[str, Float], which: Iterable[int]) -> dict[str, Float]:
    """Pool some of the cohorts at each variant.

    Parameters
    ----------
    cohorts : mapping of str to ndarray, shape (K, V)
        :data:`FIELDS`, effects and frequencies of one and the same allele; NaN throughout where a
        cohort does not have a variant.
    which : iterable of int
        Cohorts to pool, in the order in which they add up.

    Returns
    -------
    dict of str to ndarray, shape (V,)
        Result variables; NaN where no cohort knows of them.
    """
    which = list(which)
    c = {name: [values[k] for k in which] for name, values in cohorts.items()}
    there = [
        np.isfinite(add) | np.isfinite(var) for add, var in zip(c["add"], c["var"], strict=True)
    ]
    out: dict[str, Float] = {"n_cohorts": _total(t.astype(np.float64) for t in there)}
    out["n"] = _total(np.where(t, n, 0.0) for t, n in zip(there, c["n"], strict=True))
    alleles = zip(there, c["n"], c["effect_allele_frequency"], strict=True)
    frequency = _total(np.where(t, n * f, 0.0) for t, n, f in alleles)
    with np.errstate(invalid="ignore", divide="ignore"):
        out["effect_allele_frequency"] = frequency / out["n"]
        out |= _effects(c)
        out |= _tests(c)
        for name, effects, errors in (
            ("add", c["add"], c["add_se"]),
            ("var", c["var"], c["var_se"]),
        ):
            out |= _heterogeneity(name, *_one_effect(effects, errors))
    out["test_flags"] = _flags(c, there)
    return out


def _effects(c: Mapping[str, list[Float]]) -> dict[str, Float]:
    """Return both effects with their covariance and joint heterogeneity."""
    informations = [
        _information(*each) for each in zip(c["add_se"], c["var_se"], c["add_var_cov"], strict=True)
    ]
    thetas = [(_known(a), _known(b)) for a, b in zip(c["add"], c["var"], strict=True)]
    aa, bb, ab = (_total(i[part] for i in informations) for part in range(3))
    t_a = _total(i[0] * a + i[2] * b for i, (a, b) in zip(informations, thetas, strict=True))
    t_b = _total(i[2] * a + i[1] * b for i, (a, b) in zip(informations, thetas, strict=True))
    # Scaled to unit diagonal, as the two informations may differ by many powers of ten.
    s_a, s_b = np.sqrt(aa), np.sqrt(bb)
    r = np.where((aa > 0) & (bb > 0), ab / (s_a * s_b), 0.0)
    u_a, u_b = (np.where(s > 0, t / s, 0.0) for t, s in ((t_a, s_a), (t_b, s_b)))
    rest = 1.0 - r * r
    add = np.where(aa > 0, (u_a - r * u_b) / rest / s_a, np.nan)
    var = np.where(bb > 0, (u_b - r * u_a) / rest / s_b, np.nan)
    q, df = np.zeros_like(aa), np.zeros_like(aa)
    for (i_a, i_b, i_ab), (a, b) in zip(informations, thetas, strict=True):
        d_a, d_b = np.where(i_a > 0, a - add, 0.0), np.where(i_b > 0, b - var, 0.0)
        q += i_a * d_a * d_a + 2.0 * i_ab * d_a * d_b + i_b * d_b * d_b
        df += (i_a > 0).astype(np.float64) + (i_b > 0)
    df -= (aa > 0).astype(np.float64) + (bb > 0)
    return {
        "add": add,
        "add_se": np.where(aa > 0, 1.0 / np.sqrt(rest) / s_a, np.nan),
        "var": var,
        "var_se": np.where(bb > 0, 1.0 / np.sqrt(rest) / s_b, np.nan),
        "add_var_cov": np.where((aa > 0) & (bb > 0), -r / rest / (s_a * s_b), np.nan),
        **_heterogeneity("av", q, df),
    }


def _information(add_se: Float, var_se: Float, covariance: Float) -> tuple[Float, Float, Float]:
    """Return the inverse of a cohort's covariance, nought where it has no estimate.

    An effect without a covariance with the other one counts as independent of it.
    """
    r = np.nan_to_num(covariance / (add_se * var_se), nan=0.0)
    rest = 1.0 - r * r
    i_a, i_b = (np.nan_to_num(1.0 / (se * se * rest), nan=0.0) for se in (add_se, var_se))
    both = np.nan_to_num(-r / (add_se * var_se * rest), nan=0.0)
    return i_a, i_b, both


def _tests(c: Mapping[str, list[Float]]) -> dict[str, Float]:
    """Return the pooled score tests: sums of signed z, weighted by the genotype's information."""
    columns = (c["n"], c["effect_allele_frequency"], c["info"])
    weights = [
        np.sqrt(n * 2.0 * f * (1.0 - f) * np.where(np.isnan(info), 1.0, info))
        for n, f, info in zip(*columns, strict=True)
    ]
    add2 = [chi2_of(p, 1) for p in c["add_neg_log10_p"]]
    z_add = [np.copysign(np.sqrt(x), e) for x, e in zip(add2, c["add"], strict=True)]
    z_var = [
        np.copysign(np.sqrt(chi2_of(p, 1)), e)
        for p, e in zip(c["var_neg_log10_p"], c["var"], strict=True)
    ]
    # The joint test is z_add² + z², z that of the variance given the mean: so z is known.
    z_given = [
        np.where(np.isnan(z), np.nan, np.copysign(np.sqrt(np.maximum(chi2_of(p, 2) - x, 0.0)), z))
        for p, x, z in zip(c["av_neg_log10_p"], add2, z_var, strict=True)
    ]
    add, var, given = (_stouffer(z, weights) for z in (z_add, z_var, z_given))
    joint = neg_log10_p(add * add + np.nan_to_num(given * given, nan=0.0), 2)
    of_add = neg_log10_p(add * add, 1)
    two_valued = np.any(
        [np.nan_to_num(flags).astype(np.int64) & UNKNOWN for flags in c["test_flags"]], 0
    )
    return {
        "add_neg_log10_p": of_add,
        "var_neg_log10_p": neg_log10_p(var * var, 1),
        # Of a trait of two values the joint test is that of the mean.
        "av_neg_log10_p": np.where(np.isnan(given), np.where(two_valued, of_add, np.nan), joint),
    }


def _stouffer(z: list[Float], weights: list[Float]) -> Float:
    known = [np.isfinite(one) & (weight > 0) for one, weight in zip(z, weights, strict=True)]
    used = [np.where(k, w, 0.0) for k, w in zip(known, weights, strict=True)]
    top = _total(np.where(k, w * one, 0.0) for k, w, one in zip(known, used, z, strict=True))
    below = _total(w * w for w in used)
    return np.asarray(np.where(below > 0, top / np.sqrt(below), np.nan))


def _one_effect(effects: list[Float], errors: list[Float]) -> tuple[Float, Float]:
    """Return Q of one effect about its own inverse-variance mean, and its degrees of freedom."""
    weights = [np.nan_to_num(1.0 / (se * se), nan=0.0) for se in errors]
    total = _total(weights)
    mean = _total(w * _known(e) for w, e in zip(weights, effects, strict=True)) / total
    q = _total(
        np.where(w > 0, w * (e - mean) ** 2, 0.0) for w, e in zip(weights, effects, strict=True)
    )
    return q, _total((w > 0).astype(np.float64) for w in weights) - 1.0


def _heterogeneity(name: str, q: Float, df: Float) -> dict[str, Float]:
    """Return Q, I² and −log10 p of heterogeneity; NaN where one cohort alone says something."""
    q = np.where(df > 0, q, np.nan)
    return {
        f"q_{name}": q,
        f"i2_{name}": np.where(q > 0, np.maximum(1.0 - df / q, 0.0), np.where(q == 0, 0.0, np.nan)),
        f"q_{name}_neg_log10_p": chi2_tail(q, df),
    }


def chi2_tail(chi2: Float, df: Float) -> Float:
    """Return −log10 of the upper tail of χ² with any degrees of freedom, without underflow.

    Parameters
    ----------
    chi2, df : ndarray, shape (V,)
        NaN gives NaN.
    """
    p = np.asarray(chdtrc(df, chi2))
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    far = np.flatnonzero(p < 1e-290)
    if len(far):
        # Γ(s, x) = x^(s−1)·e^−x·(1 + (s−1)/x + (s−1)(s−2)/x² + …), s ≪ x.
        s, x = df[far] / 2.0, chi2[far] / 2.0
        term, series = np.ones_like(x), np.ones_like(x)
        for j in range(1, 60):
            term = term * (s - j) / x
            series = series + term
        log_p[far] = (s - 1.0) * np.log(x) - x - gammaln(s) + np.log(series)
    return np.asarray(np.maximum(-log_p / np.log(10.0), 0.0) + 0.0)


def _flags(c: Mapping[str, list[Float]], there: list[NDArray[np.bool_]]) -> Float:
    some = np.zeros(there[0].shape, np.int64)
    every = np.full(there[0].shape, UNKNOWN, np.int64)
    for flags, t in zip(c["test_flags"], there, strict=True):
        known = np.nan_to_num(flags, nan=0.0).astype(np.int64)
        some |= np.where(t, known & AT_BOUND, 0)
        every &= np.where(t, known, UNKNOWN)
    return np.where(_total(t.astype(np.float64) for t in there) > 0, some | every, 0).astype(float)


def _known(values: Float) -> Float:
    return np.where(np.isnan(values), 0.0, values)


def _total(parts: Iterable[Float]) -> Float:
    """Return the sum in the order given."""
    iterator = iter(parts)
    total = np.array(next(iterator), np.float64)
    for part in iterator:
        total += part
    return total
