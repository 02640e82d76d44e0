"""Bits of people, turned over and counted, beside plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.kernels.sums.bit_planes import (
    add_shared,
    add_shared_reference,
    planes_of,
    planes_of_reference,
    words_of,
)

FAST = {"planes": planes_of, "shared": add_shared}
PLAIN = {"planes": planes_of_reference, "shared": add_shared_reference}


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, shape, dtype=np.uint64)


@pytest.mark.parametrize("kind", [FAST, PLAIN], ids=["fast", "plain"])
def test_by_hand(kind) -> None:
    rows = np.array([[i % 4 + (i >= 66) * 2**63] for i in range(70)], np.uint64)
    planes = kind["planes"](rows, np.arange(70))
    assert planes.shape == (64, 2)
    odd = np.array([i % 2 for i in range(70)])
    assert [int(planes[0, i // 64]) >> (i % 64) & 1 for i in range(70)] == odd.tolist()
    assert int(planes[63, 1]) == 0b111100  # persons 66 to 69 of the second word
    assert not planes[2:63].any()
    counts = np.ones((4, 4), np.int32)
    kind["shared"](planes[:4].copy(), planes[:4].copy(), counts)
    assert counts[0, 0] == 1 + 35  # odd
    assert counts[0, 1] == counts[1, 0] == 1 + 17  # 3 of 4, of 70 people
    assert counts[2, 0] == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.integers(1, 3), st.integers(0, 2**32))
def test_planes_are_those_of_plain_numpy(m: int, c: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, people = drawn(seed, 90, c), rng.integers(0, 90, m)
    planes = planes_of(rows, people)
    assert planes.shape == (64 * c, words_of(m))
    np.testing.assert_array_equal(planes, planes_of_reference(rows, people))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 400), st.integers(0, 2**32))
def test_counts_are_those_of_plain_numpy(p: int, q: int, words: int, seed: int) -> None:
    one, other = drawn(seed, 4 * p, words), drawn(seed + 1, 4 * q, words)
    found, plain = (np.full((4 * p, 4 * q), 7, np.int32) for _ in range(2))
    add_shared(one, other, found)
    add_shared_reference(one, other, plain)
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("words", [1, 128, 300])
def test_of_planes_with_themselves_the_lower_triangle_is_counted(words: int) -> None:
    planes = drawn(words, 24, words)
    found, plain = (np.zeros((24, 24), np.int32) for _ in range(2))
    add_shared(planes, planes, found)
    add_shared_reference(planes, planes, plain)
    np.testing.assert_array_equal(np.tril(found), np.tril(plain))
