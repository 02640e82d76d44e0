"""Packing against plain numpy and against codes written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hlmm_scan.genotypes import packing

PAIRS = [
    pytest.param(packing.pack, packing.unpack, id="numba"),
    pytest.param(packing.pack_reference, packing.unpack_reference, id="reference"),
]
CALLS = hnp.arrays(
    np.int8,
    st.tuples(st.integers(0, 5), st.integers(1, 21)),
    elements=st.integers(-1, 2),
)


@pytest.mark.parametrize(("pack", "unpack"), PAIRS)
def test_codes_are_those_of_plink(pack, unpack):
    # Lowest bits first: 2 copies 00, missing 01, one 10, none 11; the fifth with padding 010101.
    packed = pack(np.array([[2, -1, 1, 0, 1]], dtype=np.int8))
    assert packed.tolist() == [[0b11_10_01_00, 0b01_01_01_10]]
    assert unpack(packed, 5).tolist() == [[2, -1, 1, 0, 1]]


@pytest.mark.parametrize(("pack", "unpack"), PAIRS)
@settings(deadline=None, max_examples=60)
@given(calls=CALLS)
def test_round_trip(pack, unpack, calls):
    packed = pack(calls)
    assert packed.dtype == np.uint8
    assert packed.shape == (calls.shape[0], -(-calls.shape[1] // 4))
    again = unpack(packed, calls.shape[1])
    assert again.dtype == np.int8
    np.testing.assert_array_equal(again, calls)


@settings(deadline=None, max_examples=60)
@given(calls=CALLS, data=st.data())
def test_fast_kernels_equal_the_references(calls, data):
    n = calls.shape[1]
    packed = packing.pack(calls)
    np.testing.assert_array_equal(packed, packing.pack_reference(calls))
    samples = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=8)), dtype=np.int64)
    fast, plain = packing.unpack_samples, packing.unpack_samples_reference
    np.testing.assert_array_equal(fast(packed, samples), plain(packed, samples))
    for chosen in (None, samples):
        counts = packing.count_genotypes(packed, n, chosen)
        assert counts.dtype == np.int64
        expected = packing.count_genotypes_reference(packed, n, chosen)
        np.testing.assert_array_equal(counts, expected)
        assert (counts.sum(axis=1) == (n if chosen is None else len(samples))).all()


@settings(deadline=None, max_examples=60)
@given(codes=hnp.arrays(np.uint16, st.tuples(st.integers(0, 4), st.integers(1, 9))), data=st.data())
def test_dosages_are_packed_as_the_references_pack_them(codes, data):
    steps = data.draw(st.sampled_from([510, 32_768, 65_534]))
    special = [0, steps // 4, steps // 2, steps, steps + 1, 65_535]
    whole = data.draw(hnp.arrays(np.uint16, (2, codes.shape[1]), elements=st.sampled_from(special)))
    codes = np.concatenate([codes, whole])
    found = packing.whole_rows(codes, steps)
    np.testing.assert_array_equal(found, packing.whole_rows_reference(codes, steps))
    table = np.random.default_rng(steps).integers(-1, 3, 1 << 16).astype(np.int8)
    packed = packing.pack_coded(codes, table)
    np.testing.assert_array_equal(packed, packing.pack_coded_reference(codes, table))


COUNTS = [packing.count_genotypes, packing.count_genotypes_reference]
DOSAGES = [packing.unpack_samples, packing.unpack_samples_reference]


@pytest.mark.parametrize("count", COUNTS)
def test_counts_are_plain_counting(count):
    calls = np.array([[0, 1, 1, 2, -1, 0, 0], [-1] * 7], dtype=np.int8)
    packed = packing.pack(calls)
    assert count(packed, 7).tolist() == [[3, 2, 1, 1], [0, 0, 0, 7]]
    assert count(packed, 7, [4, 1, 1]).tolist() == [[0, 2, 0, 1], [0, 0, 0, 3]]


@pytest.mark.parametrize("count", COUNTS)
def test_counts_of_more_people_than_one_counter_field_holds(count):
    n = 70_001
    calls = np.full((1, n), 2, dtype=np.int8)
    calls[0, 5] = 0
    assert count(packing.pack(calls), n).tolist() == [[1, 0, n - 1, 0]]


@pytest.mark.parametrize("decode", DOSAGES)
def test_chosen_people_come_as_numbers_with_nan(decode):
    packed = packing.pack(np.array([[2, -1, 1, 0, 1]], dtype=np.int8))
    np.testing.assert_array_equal(decode(packed, [4, 1, 0, 0]), [[1.0, np.nan, 2.0, 2.0]])
    assert decode(packed, []).shape == (1, 0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_padding_becomes_missing(n):
    packed = packing.pack(np.zeros((2, n), dtype=np.int8))
    as_plink_writes = packed & np.uint8(0xFF if n % 4 == 0 else (1 << 2 * (n % 4)) - 1)
    if n > 4:
        as_plink_writes[:, 0] = packed[:, 0]
    packing.set_padding(as_plink_writes, n)
    np.testing.assert_array_equal(as_plink_writes, packed)


@pytest.mark.parametrize("pack", [packing.pack, packing.pack_reference])
@pytest.mark.parametrize("bad", [3, -2])
def test_other_values_are_refused(pack, bad):
    with pytest.raises(ValueError, match="0, 1, 2, or -1"):
        pack(np.array([[0, bad]], dtype=np.int8))
    with pytest.raises(ValueError, match="dimensional"):
        pack(np.array([0, 1], dtype=np.int8))


@pytest.mark.parametrize("decode", DOSAGES)
def test_people_out_of_range_are_refused(decode):
    packed = packing.pack(np.zeros((1, 4), dtype=np.int8))
    for bad in ([4], [-1]):
        with pytest.raises(IndexError, match=r"0\.\.3"):
            decode(packed, bad)
    with pytest.raises(ValueError, match="one-dimensional"):
        decode(packed, [[0]])


@pytest.mark.parametrize("unpack", [packing.unpack, packing.unpack_reference])
def test_a_row_of_another_width_is_refused(unpack):
    with pytest.raises(ValueError, match="packed calls of 9 people"):
        unpack(np.zeros((1, 2), dtype=np.uint8), 9)
