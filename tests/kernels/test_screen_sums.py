"""Sums of g and g² times columns: those of plain products, and the same bits however cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.genotypes.packing import pack, unpack_samples
from hlmm_scan.kernels.sums import powers as screen_sums
from hlmm_scan.kernels.sums.powers import LANES, RUN, ScreenSumsPlan


def made_up(rng, m, n, missing=0.1):
    """Packed calls, some variants of one class only, some all missing, some arbitrary."""
    copies = rng.binomial(2, rng.uniform(0.02, 0.98, (m, 1)), (m, n)).astype(np.int8)
    copies[rng.random((m, n)) < missing] = -1
    copies[::7] = rng.integers(-1, 3, (len(copies[::7]), 1))
    return pack(copies)


def plainly(packed, samples, columns, powers):
    g = unpack_samples(packed, samples)
    called = ~np.isnan(g)
    g = np.where(called, g, 0.0)
    k = len(powers)
    sums = np.where(powers == 1, g @ columns[:, :k], (g * g) @ columns[:, :k])
    counts = np.column_stack([(g == 1).sum(1), (g == 2).sum(1), (~called).sum(1)])
    return counts, sums, called.astype(float) @ columns


@settings(deadline=None, max_examples=40)
@given(
    m=st.integers(1, 9),
    n=st.integers(1, 9) | st.integers(1, 3 * RUN),
    k=st.integers(1, 3 * LANES),
    more=st.integers(0, LANES + 3),
    share=st.sampled_from([1.0, 0.9, 0.03]),
    scale=st.sampled_from([1.0, 1e-9, 1e9, 0.0]),
    seed=st.integers(0, 10**6),
)
def test_sums_are_those_of_plain_products(m, n, k, more, share, scale, seed):
    """To a few quanta for each person, whose effects on a sum add up like noise."""
    rng = np.random.default_rng(seed)
    packed = made_up(rng, m, n)
    samples = np.flatnonzero(rng.random(n) < share)
    columns = scale * rng.standard_normal((len(samples), k + more))
    powers = rng.integers(1, 3, k)
    plan = ScreenSumsPlan.of(packed.shape[1], samples, columns, powers)
    found = plan.sums(packed)
    counts, sums, called = plainly(packed, samples, columns, powers)
    np.testing.assert_array_equal(found.counts, counts)
    bound = 8e-6 * scale * np.sqrt(len(samples)) + 1e-300
    assert np.abs(found.multiples - sums).max(initial=0.0) <= bound
    assert np.abs(found.called - called).max(initial=0.0) <= bound


def test_neither_blocks_nor_neighbours_change_a_bit(monkeypatch):
    rng = np.random.default_rng(1)
    n, m = 2 * RUN + 77, 150
    packed = made_up(rng, m, n)
    powers = rng.integers(1, 3, 21)
    plan = ScreenSumsPlan.of(packed.shape[1], np.arange(n), rng.standard_normal((n, 24)), powers)
    whole = plan.sums(packed)
    order = rng.permutation(m)
    for size in (1, 7, 64):
        monkeypatch.setattr(screen_sums, "BLOCK", size)
        for name in ("counts", "multiples", "called"):
            wanted = getattr(whole, name)
            parts = [getattr(plan.sums(packed[s : s + 50]), name) for s in range(0, m, 50)]
            np.testing.assert_array_equal(np.concatenate(parts), wanted)
            np.testing.assert_array_equal(getattr(plan.sums(packed[order]), name), wanted[order])


def test_rounding_is_small_beside_noise_and_none_where_the_genotype_is_constant():
    """Also with one person who holds most of a column."""
    rng = np.random.default_rng(2)
    n = 20_000
    columns = np.column_stack([rng.standard_normal(n), rng.standard_normal(n), np.ones(n)])
    columns[77, 1] = 3e3
    copies = np.full((2, n), 2, np.int8)
    copies[1] = rng.binomial(2, 0.3, n)
    plan = ScreenSumsPlan.of((n + 3) // 4, np.arange(n), columns, np.array([1, 2, 1]))
    found = plan.sums(pack(copies))
    g = copies.astype(float)
    wanted = np.column_stack([g @ columns[:, 0], g**2 @ columns[:, 1], g @ columns[:, 2]])
    error = np.abs(found.multiples - wanted)
    assert (error[1] < np.sqrt(n) * np.array([1e-6, 3e-5, 1e-6])).all()
    assert (error[0] < 4 * plan.quanta + 1e-10).all()


def test_columns_and_people_are_checked():
    ones = np.ones((4, 1))
    with pytest.raises(IndexError, match="outside the 4 packed"):
        ScreenSumsPlan.of(1, np.arange(1, 5), ones, np.array([1]))
    with pytest.raises(ValueError, match="finite"):
        ScreenSumsPlan.of(1, np.arange(4), ones * np.nan, np.array([1]))
    plan = ScreenSumsPlan.of(1, np.arange(4), ones, np.array([1]))
    with pytest.raises(ValueError, match="packed must be uint8"):
        plan.sums(np.zeros((3, 2), np.uint8))
    assert plan.sums(np.zeros((0, 1), np.uint8)).multiples.shape == (0, 1)
