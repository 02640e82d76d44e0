"""Sums of columns by genotype class: those of plain products, and the same bits however cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.genotypes.packing import pack, unpack_samples
from hlmm_scan.kernels.sums import columns as column_sums
from hlmm_scan.kernels.sums.columns import LANES, RUN, ColumnSumsPlan

SUMS = ("counts", "one", "two", "called")


def made_up(rng, m, n, missing=0.1):
    """Packed calls, some variants of one class only, some all missing, some arbitrary."""
    copies = rng.binomial(2, rng.uniform(0.0, 1.0, (m, 1)), (m, n)).astype(np.int8)
    copies[rng.random((m, n)) < missing] = -1
    copies[::7] = rng.integers(-1, 3, (len(copies[::7]), 1))
    return pack(copies)


def plainly(packed, samples, columns):
    """As :attr:`ColumnSums` has them."""
    g = unpack_samples(packed, samples)
    one, two, absent = g == 1, g == 2, np.isnan(g)
    counts = np.column_stack([of.sum(axis=1) for of in (one, two, absent)])
    return counts, *(of.astype(float) @ columns for of in (one, two, ~absent))


@settings(deadline=None, max_examples=40)
@given(
    m=st.integers(1, 9),
    n=st.integers(1, 9) | st.integers(1, 3 * RUN),
    k=st.integers(1, 6 * LANES),
    share=st.sampled_from([1.0, 0.9, 0.03]),
    scale=st.sampled_from([1.0, 1e-9, 1e9, 0.0]),
    seed=st.integers(0, 10**6),
)
def test_sums_are_those_of_plain_products(m, n, k, share, scale, seed):
    """To a few quanta for each person, whose effects on a sum add up like noise."""
    rng = np.random.default_rng(seed)
    packed = made_up(rng, m, n)
    samples = np.flatnonzero(rng.random(n) < share)
    columns = scale * rng.standard_normal((len(samples), k))
    found = ColumnSumsPlan.of(packed.shape[1], samples, columns).sums(packed)
    counts, *sums = plainly(packed, samples, columns)
    np.testing.assert_array_equal(found.counts, counts)
    bound = 8e-6 * scale * np.sqrt(len(samples)) + 1e-300
    for name, wanted in zip(SUMS[1:], sums, strict=True):
        assert np.abs(getattr(found, name) - wanted).max(initial=0.0) <= bound


def test_neither_blocks_nor_neighbours_nor_the_way_of_adding_up_change_a_bit(monkeypatch):
    """Sixteen, four and a single group of columns; people one by one, by tables, and both."""
    rng = np.random.default_rng(1)
    n, m = 2 * RUN + 77, 150
    packed = made_up(rng, m, n)
    plan = ColumnSumsPlan.of(packed.shape[1], np.arange(n), rng.standard_normal((n, 5 * LANES)))
    whole = plan.sums(packed)
    order = rng.permutation(m)
    for few in (0, column_sums._FEW, RUN):
        monkeypatch.setattr(column_sums, "_FEW", few)
        for size in (1, 7, 64):
            monkeypatch.setattr(column_sums, "BLOCK", size)
            parts = [plan.sums(packed[s : s + 50]) for s in range(0, m, 50)]
            shuffled = plan.sums(packed[order])
            for name in SUMS:
                wanted = getattr(whole, name)
                pieces = np.concatenate([getattr(part, name) for part in parts])
                np.testing.assert_array_equal(pieces, wanted)
                np.testing.assert_array_equal(getattr(shuffled, name), wanted[order])


def test_which_allele_is_counted_changes_no_bit():
    """Of the homozygotes the rarer ones are summed, the others follow from the totals."""
    rng = np.random.default_rng(3)
    copies = rng.binomial(2, rng.uniform(0, 1, (60, 1)), (60, RUN + 5)).astype(np.int8)
    columns = rng.standard_normal((copies.shape[1], 3))
    plan = ColumnSumsPlan.of((copies.shape[1] + 3) // 4, np.arange(copies.shape[1]), columns)
    found, other = plan.sums(pack(copies)), plan.sums(pack(2 - copies))
    np.testing.assert_array_equal(found.one, other.one)
    np.testing.assert_array_equal(found.called, other.called)
    np.testing.assert_array_equal(found.two, other.called - other.one - other.two)


def test_rounding_is_small_beside_noise_and_none_where_the_genotype_is_constant():
    """Also with one person who holds most of a column."""
    rng = np.random.default_rng(2)
    n = 20_000
    columns = np.column_stack([rng.standard_normal(n), rng.standard_normal(n), np.ones(n)])
    columns[77, 1] = 3e3
    copies = np.full((2, n), 2, np.int8)
    copies[1] = rng.binomial(2, 0.3, n)
    plan = ColumnSumsPlan.of((n + 3) // 4, np.arange(n), columns)
    found = plan.sums(pack(copies))
    one, two = ((copies == c).astype(float) @ columns for c in (1, 2))
    error = np.maximum(np.abs(found.one - one), np.abs(found.two - two))
    assert (error[1] < np.sqrt(n) * np.array([1e-6, 1e-5, 1e-6])).all()
    assert (error[0] < 2 * plan.quanta + 1e-10).all()


def test_columns_and_people_are_checked():
    ones = np.ones((4, 1))
    with pytest.raises(IndexError, match="outside the 4 packed"):
        ColumnSumsPlan.of(1, np.arange(1, 5), ones)
    with pytest.raises(ValueError, match="finite"):
        ColumnSumsPlan.of(1, np.arange(4), ones * np.nan)
    plan = ColumnSumsPlan.of(1, np.arange(4), ones)
    with pytest.raises(ValueError, match="packed must be uint8"):
        plan.sums(np.zeros((3, 2), np.uint8))
    assert plan.sums(np.zeros((0, 1), np.uint8)).one.shape == (0, 1)
