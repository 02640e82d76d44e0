"""Compiled passes over dosages: their plain numpy forms, to the last bit."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.genotypes.blocks import (
    BGEN_8_BIT,
    FINEST,
    MISSING_CODE,
    PGEN,
    Dosages,
)
from hlmm_scan.genotypes.dosage_coding import code_copies, count_codes, count_codes_reference
from hlmm_scan.genotypes.packing import count_genotypes
from hlmm_scan.genotypes.readers import bgen
from hlmm_scan.genotypes.readers.bgen_probabilities import decode_usual


def block(ploidy, p0, p1) -> bytes:
    """An unpacked BGEN block of 8-bit unphased probabilities."""
    n = len(ploidy)
    head = n.to_bytes(4, "little") + (2).to_bytes(2, "little") + bytes((2, 2))
    stored = np.column_stack([p0, p1]).astype(np.uint8).tobytes()
    return head + np.asarray(ploidy, np.uint8).tobytes() + bytes((0, 8)) + stored


@settings(deadline=None)
@given(st.data())
def test_probabilities_of_eight_bits_are_those_written_out(data):
    n = data.draw(st.integers(1, 20))
    p0 = np.array(data.draw(st.lists(st.integers(0, 255), min_size=n, max_size=n)))
    p1 = np.array([data.draw(st.integers(0, 255 - int(p))) for p in p0])
    missing = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    decoded = decode_usual(block(2 + 128 * missing, p0, p1), n, BGEN_8_BIT)
    assert decoded is not None
    codes, info = decoded
    dosage = 510 - 2 * p0 - p1
    np.testing.assert_array_equal(codes, np.where(missing, MISSING_CODE, dosage))
    assert codes.dtype == np.uint16
    mean, expected = dosage[~missing] / 255, (p1 + 4 * (255 - p0 - p1))[~missing] / 255
    frequency = mean.mean() / 2 if len(mean) else np.nan
    if not len(mean):
        assert np.isnan(info)
    elif frequency in (0, 1):
        assert info == 1
    else:
        uncertain = (expected - mean**2).mean() / (2 * frequency * (1 - frequency))
        np.testing.assert_allclose(info, 1 - uncertain, rtol=1e-9, atol=1e-9)


def test_probabilities_that_sum_to_more_than_one_are_told():
    with pytest.raises(ValueError, match="sum to more than 1"):
        decode_usual(block([2, 2], [200, 0], [56, 0]), 2, BGEN_8_BIT)
    # Of somebody who is missing they mean nothing.
    assert decode_usual(block([130, 2], [200, 0], [56, 0]), 2, BGEN_8_BIT) is not None


@given(st.lists(st.floats(-9, 2, width=32), min_size=1, max_size=30))
def test_copies_go_to_the_nearest_step(values):
    copies, codes = np.array(values, np.float32), np.empty(len(values), np.uint16)
    assert code_copies(copies, np.float32(1 / PGEN), codes) == max(0, copies.max())
    wanted = np.where(copies < 0, MISSING_CODE, np.rint(np.maximum(copies, 0) / np.float32(PGEN)))
    np.testing.assert_array_equal(codes, wanted)


@given(
    st.sampled_from([BGEN_8_BIT, PGEN, FINEST]),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_counts_are_those_written_out(unit, n, seed):
    rng = np.random.default_rng(seed)
    steps = round(2 / unit)
    special = [0, steps // 4, steps // 4 + 1, steps // 2, 3 * steps // 4, 3 * steps // 4 + 1, steps]
    codes = rng.choice([*special, MISSING_CODE, steps + 1], (3, n)).astype(np.uint16)
    found = count_codes(codes, steps)
    np.testing.assert_array_equal(found, count_codes_reference(codes, steps))
    guessed = Dosages(codes, unit).best_guess()
    np.testing.assert_array_equal(found[:, :4], count_genotypes(guessed.packed, n))


@pytest.mark.parametrize("fast", [True, False], ids=["isal", "zlib"])
def test_damaged_zlib_says_the_same_whatever_unpacks_it(fast, monkeypatch):
    data = np.random.default_rng(1).integers(0, 9, 5000).astype(np.uint8).tobytes()
    packed = zlib.compress(data)
    assert bgen._fast is not None
    if not fast:
        monkeypatch.setattr(bgen, "_fast", None)
    assert bgen._inflate(memoryview(packed), len(data)) == data
    for damaged in (packed[:-1], packed[:40], b"\0" + packed[1:], packed[:-2] + b"ab", b""):
        with pytest.raises(zlib.error) as wrong:
            zlib.decompress(damaged)
        with pytest.raises(zlib.error) as found:
            bgen._inflate(memoryview(damaged), len(data))
        assert str(found.value) == str(wrong.value)
