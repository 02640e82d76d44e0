"""Exact test of Hardy–Weinberg proportions (Wigginton, Cutler & Abecasis 2005).

Given the alleles, the number of heterozygotes h has, under random mating, a distribution that only
three factorials of each variant make:

    P(h) ∝ 2ʰ / (h!·a!·b!),    a and b homozygotes of either kind,

and the p-value is the sum of P over everything that is no more likely than what was seen. Not the
mid-p: the numbers are those that ``plink2 --hardy`` gives by default. h has the parity of the
number of minor alleles, and P rises to one maximum and falls from there.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy.special import gammaln, logsumexp

from hlmm_scan.array_types import Float, Int

_NEGLIGIBLE = 1e-17  # of a sum, below which the terms that follow do not matter
_TIE = 1e-12  # relative difference of probabilities that is but rounding, at magnitude one


@njit(nogil=True, cache=True)
def _log_weight(het: int, minor: int, alleles: int) -> float:  # pragma: no cover
    """log P(het), up to a constant."""
    a = (minor - het) // 2
    b = (alleles - minor - het) // 2
    return (
        het * math.log(2.0) - math.lgamma(het + 1.0) - math.lgamma(a + 1.0) - math.lgamma(b + 1.0)
    )


@njit(nogil=True, cache=True)
def _outwards(het: int, step: int, minor: int, alleles: int) -> float:  # pragma: no cover
    """ΣP/P(het) from `het` on, in steps of 2 up or of −2 down, away from the maximum."""
    total = term = 1.0
    while True:
        a = 0.5 * (minor - het)
        b = 0.5 * (alleles - minor - het)
        if step > 0:
            term *= 4.0 * a * b / ((het + 1.0) * (het + 2.0))
        else:
            term *= het * (het - 1.0) / (4.0 * (a + 1.0) * (b + 1.0))
        het += step
        total += term
        if term <= _NEGLIGIBLE * total:
            return total


@njit(nogil=True, cache=True)
def _neg_log10_p(n0: int, n1: int, n2: int) -> float:  # pragma: no cover
    alleles = 2 * (n0 + n1 + n2)
    minor = min(2 * n0 + n1, 2 * n2 + n1)
    if minor == 0:
        return math.nan if alleles == 0 else 0.0
    # The most likely number of heterozygotes, found from next to their expected number.
    top = int(minor * (alleles - minor) / alleles)
    top += (top - minor) % 2
    top = min(max(top, minor % 2), minor)
    while top + 2 <= minor and _log_weight(top + 2, minor, alleles) > _log_weight(
        top, minor, alleles
    ):
        top += 2
    while top >= 2 and _log_weight(top - 2, minor, alleles) > _log_weight(top, minor, alleles):
        top -= 2
    most, seen = _log_weight(top, minor, alleles), _log_weight(n1, minor, alleles)
    # Rounding of the logarithms of factorials; two numbers of heterozygotes may be as likely.
    tie = _TIE * (1.0 + 1e-3 * math.lgamma(alleles + 1.0))
    if seen >= most - tie:
        return 0.0
    step = 2 if n1 > top else -2
    tail = _outwards(n1, step, minor, alleles)
    # On the other side of the maximum: the first that is no more likely, by bisection.
    last = (minor % 2) if step > 0 else minor
    if _log_weight(last, minor, alleles) <= seen + tie:
        near, far = 0, abs(last - top) // 2
        while far - near > 1:
            middle = (near + far) // 2
            if _log_weight(top - step * middle, minor, alleles) <= seen + tie:
                far = middle
            else:
                near = middle
        first = top - step * far
        tail += math.exp(_log_weight(first, minor, alleles) - seen) * _outwards(
            first, -step, minor, alleles
        )
    everything = _outwards(top, 2, minor, alleles) + _outwards(top, -2, minor, alleles) - 1.0
    log_p = seen - most + math.log(tail) - math.log(everything)
    return max(-log_p / math.log(10.0), 0.0)


@njit(nogil=True, cache=True)
def _test_all(counts: Int, out: Float) -> None:  # pragma: no cover
    for j in range(len(counts)):
        out[j] = _neg_log10_p(counts[j, 0], counts[j, 1], counts[j, 2])


def hwe_neg_log10_p(counts: Int) -> Float:
    """Test genotype counts of variants for Hardy–Weinberg proportions.

    Parameters
    ----------
    counts : ndarray of int64, shape (m, 3)
        People with 0, 1 and 2 copies of either allele.

    Returns
    -------
    ndarray, shape (m,)
        −log10 p of the exact test; 0 where one allele is absent, NaN where nobody has a call.

    Notes
    -----
    Never by way of p: −log10 p of 150,000, all of half a million people heterozygous, is a number
    as good as any. Its error is that of the logarithms of factorials, some 1e-8 there. Sums run
    over the terms that matter, some standard deviations of the heterozygotes: microseconds.
    """
    out = np.empty(len(counts))
    _test_all(np.require(counts, np.int64, ["C", "W"]), out)
    return out


def hwe_reference(counts: Int) -> Float:
    """Do what `hwe_neg_log10_p` does, by adding up all there is."""
    out = np.full(len(counts), np.nan)
    for j, (n0, n1, n2) in enumerate(np.asarray(counts).tolist()):
        alleles, minor = 2 * (n0 + n1 + n2), min(2 * n0 + n1, 2 * n2 + n1)
        if not alleles:
            continue
        het = np.arange(minor % 2, minor + 1, 2)
        a, b = (minor - het) / 2, (alleles - minor - het) / 2
        log_p = het * np.log(2) - gammaln(het + 1) - gammaln(a + 1) - gammaln(b + 1)
        seen = log_p[(n1 - minor % 2) // 2]
        rare = log_p[log_p <= seen + 1e-12 * (1 + 1e-3 * gammaln(alleles + 1))]
        out[j] = max((logsumexp(log_p) - logsumexp(rare)) / np.log(10), 0.0)
    return out
