"""The exact test of Hardy–Weinberg proportions, against enumeration in whole numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.kernels.hardy_weinberg import hwe_neg_log10_p, hwe_reference


def enumerated(n0: int, n1: int, n2: int) -> float:
    """−log10 p by counting the ways in which alleles make genotypes."""
    alleles, minor = 2 * (n0 + n1 + n2), min(2 * n0 + n1, 2 * n2 + n1)
    ways = {
        h: Fraction(
            2**h,
            math.factorial(h)
            * math.factorial((minor - h) // 2)
            * math.factorial((alleles - minor - h) // 2),
        )
        for h in range(minor % 2, minor + 1, 2)
    }
    p = sum(w for w in ways.values() if w <= ways[n1]) / sum(ways.values())
    return math.log10(p.denominator) - math.log10(p.numerator)


def test_every_small_table():
    counts = np.array([t for t in np.ndindex(9, 9, 9) if sum(t)])
    wanted = [enumerated(*row) for row in counts.tolist()]
    np.testing.assert_allclose(hwe_neg_log10_p(counts), wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(hwe_reference(counts), wanted, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(counts=st.tuples(*[st.integers(0, 400)] * 3).filter(sum))
def test_larger_tables(counts):
    found = hwe_neg_log10_p(np.array([counts]))[0]
    assert found == pytest.approx(enumerated(*counts), rel=1e-9, abs=1e-12)
    assert hwe_neg_log10_p(np.array([counts[::-1]]))[0] == pytest.approx(found, rel=1e-12)


def test_half_a_million_people():
    """Far beyond the smallest number, and as far on the other side."""
    rng = np.random.default_rng(0)
    draws = [
        rng.multinomial(500_000, [(1 - p) ** 2, 2 * p * (1 - p), p * p])
        for p in rng.uniform(1e-4, 0.5, 30)
    ]
    extreme = [[0, 500_000, 0], [250_000, 0, 250_000], [499_999, 1, 0], [499_000, 0, 1000]]
    counts = np.array([*draws, *extreme])
    found, wanted = hwe_neg_log10_p(counts), hwe_reference(counts)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-7)
    assert found[30] > 150_000
    assert found[32] == 0.0
    assert (found[:30] < 4).all()


def test_nobody_and_one_allele():
    found = hwe_neg_log10_p(np.array([[0, 0, 0], [50, 0, 0], [0, 0, 3], [0, 1, 0]]))
    np.testing.assert_array_equal(found, [np.nan, 0, 0, 0])
    assert hwe_neg_log10_p(np.zeros((0, 3), np.int64)).shape == (0,)
