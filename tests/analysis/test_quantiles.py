"""Streamed quantiles against those of all values at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hlmm_scan.analysis.quantiles import PValues, expected_neg_log10_p
from hlmm_scan.models.inference import chi2_of, neg_log10_p


@given(
    st.lists(st.floats(0, 400), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(1, 20),
)
def test_few_values_are_exact_whatever_the_blocks(values, blocks, exact):
    streamed = PValues(exact=max(exact, len(values)))
    for part in np.array_split(np.array(values), blocks):
        streamed.add(part)
    ranks = np.arange(1, len(values) + 1)
    np.testing.assert_array_equal(streamed.at_rank(ranks), np.sort(values)[::-1])
    assert np.isnan(streamed.at_rank(len(values) + 1))


def test_many_values_are_as_exact_as_promised():
    rng = np.random.default_rng(1)
    values = -np.log10(rng.random(200_000))
    values[:500] *= 60
    streamed = PValues(exact=1000)
    for part in np.array_split(values, 7):
        streamed.add(part)
    ordered = np.sort(values)[::-1]
    ranks = streamed.ranks_to_show()
    found = streamed.at_rank(ranks)
    np.testing.assert_array_equal(found[ranks <= 1000], ordered[ranks[ranks <= 1000] - 1])
    np.testing.assert_allclose(found, ordered[ranks - 1], atol=1 / 4096, rtol=3e-3)
    np.testing.assert_allclose(streamed.at_rank(100_000), ordered[99_999], atol=3e-5)
    assert len(ranks) < 300
    assert (np.diff(found) <= 0).all()


def test_values_that_are_none_are_left_out():
    streamed = PValues()
    streamed.add(np.array([np.nan, -1.0, 0.0, 2.0]))
    assert streamed.n == 2
    empty = PValues()
    empty.add(np.array([np.nan]))
    assert np.isnan(empty.lambda_gc(1))
    assert len(empty.ranks_to_show()) == 0


@pytest.mark.parametrize("df", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 1.4])
def test_lambda_is_the_ratio_of_medians(df, scale):
    chi2 = scale * np.random.default_rng(df).chisquare(df, 40_001)
    streamed = PValues(exact=100)
    streamed.add(neg_log10_p(chi2, df))
    expected = np.median(chi2) / stats.chi2.median(df)
    assert streamed.lambda_gc(df) == pytest.approx(expected, abs=2e-4)


@given(st.floats(1e-8, 5000), st.sampled_from([1, 2]))
def test_chi2_goes_there_and_back(chi2, df):
    assert chi2_of(neg_log10_p(chi2, df), df) == pytest.approx(chi2, rel=1e-6, abs=1e-9)


def test_the_band_is_that_of_order_statistics():
    ranks = np.array([1, 10, 1000])
    expected, lower, upper = expected_neg_log10_p(ranks, 1000)
    draws = np.sort(np.random.default_rng(3).random((4000, 1000)), axis=1)[:, ranks - 1]
    inside = (-np.log10(draws) > lower) & (-np.log10(draws) < upper)
    np.testing.assert_allclose(inside.mean(axis=0), 0.95, atol=0.015)
    assert ((expected > lower) & (expected < upper)).all()
