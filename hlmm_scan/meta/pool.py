"""The pool of K cohorts at V variants: effects, tests, heterogeneity (math.md §13).

Everything adds up cohort after cohort in the order given, so that no result depends on how the
variants are cut into windows. What a cohort does not know is NaN, and takes no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, gammaln

from hlmm_scan.array_types import Float
from hlmm_scan.models.inference import chi2_of, neg_log10_p
from hlmm_scan.schema import ScoreFlag

FIELDS = (
    *("n", "effect_allele_frequency", "info", "add", "add_se", "var", "var_se", "add_var_cov"),
    *("add_se_robust", "var_se_robust", "add_var_cov_robust"),
    *("add_neg_log10_p", "var_neg_log10_p", "av_neg_log10_p", "test_flags"),
)
"""What is taken of each cohort, all as float64."""

AT_BOUND = int(ScoreFlag.ADD_AT_BOUND | ScoreFlag.VAR_AT_BOUND | ScoreFlag.AV_AT_BOUND)
UNKNOWN = int(ScoreFlag.VAR_UNKNOWN)

ALIKE = 1.25
"""Times by which the spread of squared residuals may differ from the cohort's in the middle."""


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
        for name, variances in zip(("add", "var"), _variances(c)[:2], strict=True):
            out |= _heterogeneity(name, *_one_effect(c[name], variances))
    out["test_flags"] = _flags(c, there)
    return out


def _effects(c: Mapping[str, list[Float]]) -> dict[str, Float]:
    """Return both effects with their covariance and joint heterogeneity."""
    model = _each(_information, c["add_se"], c["var_se"], c["add_var_cov"])
    known = [(i[0] > 0, i[1] > 0) for i in model]
    robust = [
        tuple(np.where(here, values, 0.0) for here, values in zip((a, b, a & b), each, strict=True))
        for (a, b), each in zip(known, zip(*_variances(c), strict=True), strict=True)
    ]
    theta = [(_known(a), _known(b)) for a, b in zip(c["add"], c["var"], strict=True)]
    aa, bb, ab = (_total(i[part] for i in model) for part in range(3))
    t_a = _total(i[0] * a + i[2] * b for i, (a, b) in zip(model, theta, strict=True))
    t_b = _total(i[2] * a + i[1] * b for i, (a, b) in zip(model, theta, strict=True))
    # The inverse of the informations' sum, each part of it nought where there is no estimate.
    rest = 1.0 - np.where((aa > 0) & (bb > 0), ab * ab / (aa * bb), 0.0)
    v_a, v_b = (np.where(total > 0, 1.0 / (total * rest), 0.0) for total in (aa, bb))
    v_ab = np.where((aa > 0) & (bb > 0), -ab / (aa * bb * rest), 0.0)
    add = np.where(aa > 0, v_a * t_a + v_ab * t_b, np.nan)
    var = np.where(bb > 0, v_ab * t_a + v_b * t_b, np.nan)
    # Of each cohort's estimates the pool takes the share (v_a v_ab; v_ab v_b) times information.
    variance, other_variance, covariance = np.zeros((3, len(aa)))
    q, df = np.zeros((2, len(aa)))
    parts = zip(model, robust, theta, known, strict=True)
    for (i_a, i_b, i_ab), (c_a, c_b, c_ab), (a, b), (has_a, has_b) in parts:
        w_aa, w_ab = v_a * i_a + v_ab * i_ab, v_a * i_ab + v_ab * i_b
        w_ba, w_bb = v_ab * i_a + v_b * i_ab, v_ab * i_ab + v_b * i_b
        variance += w_aa * w_aa * c_a + 2.0 * w_aa * w_ab * c_ab + w_ab * w_ab * c_b
        other_variance += w_ba * w_ba * c_a + 2.0 * w_ba * w_bb * c_ab + w_bb * w_bb * c_b
        covariance += w_aa * w_ba * c_a + (w_aa * w_bb + w_ab * w_ba) * c_ab + w_ab * w_bb * c_b
        d_a, d_b = np.where(has_a, a - add, 0.0), np.where(has_b, b - var, 0.0)
        r_a, r_b, r_ab = _information(np.sqrt(c_a), np.sqrt(c_b), c_ab)
        q += r_a * d_a * d_a + 2.0 * r_ab * d_a * d_b + r_b * d_b * d_b
        df += has_a.astype(np.float64) + has_b
    df -= (aa > 0).astype(np.float64) + (bb > 0)
    return {
        "add": add,
        "add_se": np.where(aa > 0, np.sqrt(variance), np.nan),
        "var": var,
        "var_se": np.where(bb > 0, np.sqrt(other_variance), np.nan),
        "add_var_cov": np.where((aa > 0) & (bb > 0), covariance, np.nan),
        **_heterogeneity("av", q, df),
    }


def _information(add_se: Float, var_se: Float, covariance: Float) -> tuple[Float, Float, Float]:
    """Return the inverse of a covariance, nought where there is no estimate.

    An effect without a covariance with the other one counts as independent of it.
    """
    i_a, i_b = (np.where(se > 0, 1.0 / (se * se), 0.0) for se in (add_se, var_se))
    both = np.where((i_a > 0) & (i_b > 0) & np.isfinite(covariance), covariance, 0.0)
    r = both * np.sqrt(i_a * i_b)
    rest = 1.0 - r * r
    return i_a / rest, i_b / rest, -both * i_a * i_b / rest


def _variances(c: Mapping[str, list[Float]]) -> tuple[list[Float], ...]:
    """Return the studentised variances and covariances; the model's where there are none."""
    squares = [
        [np.where(np.isnan(robust), se, robust) ** 2 for se, robust in zip(*both, strict=True)]
        for both in ((c["add_se"], c["add_se_robust"]), (c["var_se"], c["var_se_robust"]))
    ]
    both = zip(c["add_var_cov"], c["add_var_cov_robust"], c["var_se_robust"], strict=True)
    covariances = [
        _known(np.where(np.isnan(studentised), model, robust))
        for model, robust, studentised in both
    ]
    return (*squares, covariances)


def _tests(c: Mapping[str, list[Float]]) -> dict[str, Float]:
    """Return the pooled score tests: sums of signed z, weighted as the scores add up."""
    add2 = _each(lambda p: chi2_of(p, 1), c["add_neg_log10_p"])
    var2 = _each(lambda p: chi2_of(p, 1), c["var_neg_log10_p"])
    z_add = _each(lambda x, e: np.copysign(np.sqrt(x), e), add2, c["add"])
    z_var = _each(lambda x, e: np.copysign(np.sqrt(x), e), var2, c["var"])
    z_given = _each(_given, c["av_neg_log10_p"], add2, z_add, z_var, _correlations(c))
    of_genotype = _each(_genotypes_information, *(c[name] for name in _INFORMATIVE))
    of_kurtosis = _kurtosis(c)
    of_variance = _each(lambda w, k: w * k, of_genotype, of_kurtosis)
    add, var = _stouffer(z_add, of_genotype), _stouffer(z_var, of_variance)
    given = _stouffer(z_given, of_variance)
    of_add = neg_log10_p(add * add, 1)
    joint = neg_log10_p(add * add + given * given, 2)
    two_valued = np.any([_known(f).astype(np.int64) & UNKNOWN for f in c["test_flags"]], axis=0)
    return {
        "add_neg_log10_p": of_add,
        "var_neg_log10_p": neg_log10_p(var * var, 1),
        # Of a trait of two values the joint test is that of the mean.
        "av_neg_log10_p": np.where(np.isnan(given) & two_valued, of_add, joint),
    }


def _given(joint: Float, add2: Float, z_add: Float, z_var: Float, correlation: Float) -> Float:
    """Return z of the variance given the mean: with that of the mean it makes the joint test."""
    size = np.sqrt(np.maximum(chi2_of(joint, 2) - add2, 0.0))
    return np.where(np.isnan(z_var), np.nan, np.copysign(size, z_var - correlation * z_add))


def _correlations(c: Mapping[str, list[Float]]) -> list[Float]:
    return _each(lambda a, b, both: _known(both / np.sqrt(a * b)), *_variances(c))


_INFORMATIVE = ("n", "effect_allele_frequency", "info", "var_se")


def _genotypes_information(n: Float, frequency: Float, info: Float, var_se: Float) -> Float:
    """Return √(Σg²/2), g the centred genotype: of the model's error of var, which is its inverse.

    Where there is none it is what Hardy-Weinberg proportions have.
    """
    expected = n * frequency * (1.0 - frequency) * np.where(np.isnan(info), 1.0, info)
    return np.where(np.isnan(var_se), np.sqrt(expected), 1.0 / var_se)


def _kurtosis(c: Mapping[str, list[Float]]) -> list[Float]:
    """Return the standard deviations of squared residuals, as far as they may be alike.

    Scores add up with these weights. What is further from the middle than chance has it would
    give most of the say to the cohort with an outlier, so it is taken to the edge.
    """
    ratios = np.array(_each(lambda robust, se: robust / se, c["var_se_robust"], c["var_se"]))
    known = np.isfinite(ratios)
    present = np.isfinite(np.array(c["var_neg_log10_p"]))
    count = known.sum(axis=0)
    ascending = np.sort(ratios, axis=0)  # NaN last
    middle = np.take_along_axis(ascending, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    # Where one does not say it, none's counts.
    usable = ~(present & ~known).any(axis=0) & (count > 0)
    clipped = np.clip(ratios, middle / ALIKE, middle * ALIKE)
    return list(np.where(usable, clipped, 1.0))


def _stouffer(z: list[Float], weights: list[Float]) -> Float:
    known = [np.isfinite(one) & (weight > 0) for one, weight in zip(z, weights, strict=True)]
    used = [np.where(k, w, 0.0) for k, w in zip(known, weights, strict=True)]
    top = _total(np.where(k, w * one, 0.0) for k, w, one in zip(known, used, z, strict=True))
    below = _total(w * w for w in used)
    return np.asarray(np.where(below > 0, top / np.sqrt(below), np.nan))


def _one_effect(effects: list[Float], variances: list[Float]) -> tuple[Float, Float]:
    """Return Q of one effect about its own inverse-variance mean, and its degrees of freedom."""
    weights = [np.where(v > 0, 1.0 / v, 0.0) for v in variances]
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


def _each(of: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
    """Return something of every cohort."""
    return [of(*each) for each in zip(*columns, strict=True)]


def _known(values: Float) -> Float:
    return np.where(np.isnan(values), 0.0, values)


def _total(parts: Iterable[Float]) -> Float:
    """Return the sum in the order given."""
    iterator = iter(parts)
    total = np.array(next(iterator), np.float64)
    for part in iterator:
        total += part
    return total
