"""Hard calls and dosages: the same calls give the same answers in both forms."""

from __future__ import annotations

import numpy as np
import pytest

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import (
    BGEN_8_BIT,
    FINEST,
    MISSING_CODE,
    PGEN,
    Dosages,
    HardCalls,
    joined,
    packed_calls,
)

UNITS = {"8-bit BGEN": BGEN_8_BIT, "PGEN": PGEN, "finest": FINEST}


@pytest.fixture(params=UNITS.values(), ids=UNITS)
def unit(request) -> float:
    return request.param


@pytest.fixture
def calls() -> np.ndarray:
    return np.random.default_rng(5).integers(-1, 3, (9, 23)).astype(np.int8)


def test_both_forms_say_the_same_of_the_same_calls(calls, unit):
    hard = HardCalls.of(calls)
    soft = hard.in_unit(unit)
    assert (soft.unit, hard.unit, soft.steps) == (unit, 0.0, round(2 / unit))
    exact = np.where(calls < 0, np.nan, calls)
    people, rows = np.array([22, 3, 3]), np.array([8, 0])
    for block in (hard, soft):
        assert (len(block), block.n_samples) == (9, 23)
        np.testing.assert_array_equal(block.copies(), exact)
        np.testing.assert_array_equal(block.copies(people), exact[:, people])
        np.testing.assert_array_equal(block.take(rows).copies(), exact[rows])
        assert block.whole().all()
        np.testing.assert_array_equal(block.best_guess().packed, hard.packed)
        assert block.digest(4) == hard.digest(4) != hard.digest(5)
        counts, frequency = block.counts()
        np.testing.assert_array_equal(
            counts, [[(row == k).sum() for k in (0, 1, 2, -1)] for row in calls]
        )
        np.testing.assert_allclose(frequency, np.nanmean(exact, axis=1) / 2, rtol=1e-15)
    assert (hard.nbytes, soft.nbytes) == (9 * 6, 9 * 23 * 2)


def test_uncertain_dosages(unit):
    steps = round(2 / unit)
    codes = np.array([[0, steps // 2, steps, MISSING_CODE], [steps // 8, 0, steps - 1, steps // 2]])
    block = Dosages(codes.astype(np.uint16), unit)
    assert block.whole().tolist() == [True, False]
    np.testing.assert_array_equal(block.best_guess().copies(), [[0, 1, 2, np.nan], [0, 0, 2, 1]])
    finest = block.in_unit(FINEST)
    np.testing.assert_allclose(finest.copies(), block.copies(), atol=FINEST / 2)
    assert block.in_unit(unit) is block
    counts, frequency = block.counts()
    assert counts.tolist() == [[1, 1, 1, 1], [2, 1, 1, 0]]
    np.testing.assert_allclose(frequency, np.nanmean(block.copies(), axis=1) / 2, rtol=1e-15)
    # A checksum adds up over blocks.
    parts = [block.take(slice(0, 1)), block.take(slice(1, 2))]
    assert block.digest(7) == (parts[0].digest(7) + parts[1].digest(8)) % (1 << 256)


def test_blocks_end_to_end(calls):
    hard = HardCalls.of(calls)
    parts = [hard.take(slice(0, 4)), hard.take(slice(4, 9))]
    whole = joined(parts)
    np.testing.assert_array_equal(packed_calls(whole, "both"), hard.packed)
    assert joined([hard]) is hard
    first, second = parts[0].in_unit(PGEN), parts[1].in_unit(BGEN_8_BIT)
    for pieces, own in (
        ([first, parts[1]], PGEN),
        ([parts[0], second], BGEN_8_BIT),
        ([first, second], FINEST),
    ):
        both = joined(pieces)
        assert both.unit == own
        np.testing.assert_array_equal(both.copies(), hard.copies())
    assert joined([first], FINEST).unit == FINEST
    assert joined([first, parts[1]], FINEST).unit == FINEST
    with pytest.raises(InputError, match="variants 0:4 have dosages, not hard calls"):
        packed_calls(first, "variants 0:4")
