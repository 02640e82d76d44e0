"""Passes over dosage codes: their plain references, and what filters make of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_dosages import UNITS, of_calls, simulated_dosages

from hlmm_scan.genotypes.blocks import MISSING_CODE, Dosages, HardCalls, joined
from hlmm_scan.genotypes.packing import pack, unpack
from hlmm_scan.kernels.filters import Filters, GenotypeCounts
from hlmm_scan.kernels.sums.dosage_codes import (
    count_dosages,
    count_dosages_reference,
    dosage_classes,
    dosage_classes_reference,
)
from hlmm_scan.schema import Status


@st.composite
def blocks(draw):
    """Dosages of a few people, many of them whole or half copies, at the ends, or missing."""
    unit = draw(st.sampled_from(list(UNITS.values())))
    steps = round(2 / unit)
    special = [0, 1, steps // 4, steps // 2, 3 * steps // 4, steps - 1, steps, MISSING_CODE]
    code = st.one_of(st.sampled_from(special), st.integers(0, steps))
    m, n = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    codes = draw(st.lists(st.lists(code, min_size=n, max_size=n), min_size=m, max_size=m))
    return Dosages(np.array(codes, np.uint16), unit)


@settings(deadline=None, max_examples=150)
@given(dosages=blocks(), data=st.data())
def test_passes_are_their_plain_references(dosages, data):
    n = dosages.codes.shape[1]
    chosen = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n))
    samples = np.array(chosen, np.int64)
    found = count_dosages(dosages, samples)
    np.testing.assert_array_equal(found, count_dosages_reference(dosages, samples))
    np.testing.assert_array_equal(found[:, 3:6].sum(axis=1), found[:, 0])
    rows = np.arange(len(dosages))[::-1].copy()
    for classes in (7, 31):
        people, means = dosage_classes(dosages, rows, samples, found[rows, 6:], classes)
        wanted = dosage_classes_reference(dosages, rows, samples, found[rows, 6:], classes)
        np.testing.assert_array_equal(people, wanted[0])
        np.testing.assert_array_equal(means, wanted[1])
    # Alleles swapped, everything is mirrored.
    there = dosages.codes <= dosages.steps
    swapped = np.where(there, dosages.steps - dosages.codes.astype(int), MISSING_CODE)
    other = count_dosages(Dosages(swapped.astype(np.uint16), dosages.unit), samples)
    np.testing.assert_array_equal(other[:, 3:6], found[:, 5:2:-1])


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_more_people_than_a_strip(unit):
    rng = np.random.default_rng(3)
    steps = round(2 / unit)
    codes = rng.integers(0, steps + 1, (5, 9_001)).astype(np.uint16)
    codes[1] = steps  # the largest sums there are
    codes[2, rng.random(9_001) < 0.7] = MISSING_CODE
    codes[3] = MISSING_CODE
    codes[4] = rng.integers(3, 8, 9_001)  # fewer codes than classes
    dosages, rows = Dosages(codes, unit), np.array([4, 3, 2, 1, 0])
    for samples in (np.arange(9_001), rng.permutation(9_001)[:8_192]):
        found = count_dosages(dosages, samples)
        np.testing.assert_array_equal(found, count_dosages_reference(dosages, samples))
        for classes in (7, 31):
            people, means = dosage_classes(dosages, rows, samples, found[rows, 6:], classes)
            wanted = dosage_classes_reference(dosages, rows, samples, found[rows, 6:], classes)
            np.testing.assert_array_equal(people, wanted[0])
            np.testing.assert_array_equal(means, wanted[1])
            np.testing.assert_array_equal(people.sum(axis=1), found[rows, 0])


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("n", [1, 4, 101])
def test_whole_copies_are_packed_as_calls_are(n, unit):
    calls = np.random.default_rng(n).integers(-1, 3, (9, n)).astype(np.int8)
    dosages = of_calls(calls, unit)
    assert dosages.whole().all()
    rows = np.array([7, 0, 3])
    packed = dosages.take(rows).best_guess().packed
    np.testing.assert_array_equal(packed, pack(calls[rows]))
    np.testing.assert_array_equal(unpack(packed, n), calls[rows])
    # Both kinds of a block are read alike.
    people = np.arange(n)[::-1].copy()
    for block in (HardCalls.of(calls), dosages):
        wanted = np.where(calls < 0, np.nan, calls)[rows][:, people]
        np.testing.assert_array_equal(block.take(rows).copies(people), wanted)
        both = joined([block.take(slice(0, 4)), block.take(slice(4, 9))])
        np.testing.assert_array_equal(both.copies(people), block.copies(people))


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_frequencies_info_and_calls_of_both_kinds_agree(unit):
    calls = np.random.default_rng(0).integers(-1, 3, (40, 203)).astype(np.int8)
    samples = np.arange(0, 203, 2)
    hard = GenotypeCounts.of(HardCalls.of(calls), samples)
    soft = GenotypeCounts.of(of_calls(calls, unit), samples)
    np.testing.assert_array_equal(hard.called, soft.called)
    np.testing.assert_array_equal(hard.genotypes, soft.genotypes)
    np.testing.assert_allclose(hard.frequency, soft.frequency, rtol=1e-15)
    np.testing.assert_allclose(hard.mean_copies, soft.mean_copies, rtol=1e-15)
    assert (hard.info == 1).all()
    for filters in (Filters(0.1, 20, 0.1), Filters(0.3, 95, 0.3)):
        np.testing.assert_array_equal(hard.status(filters), soft.status(filters))


def test_info_is_the_variance_over_that_of_certain_genotypes():
    dosages = simulated_dosages(5, 4000)
    samples = np.arange(1, 4000)
    g = dosages.copies(samples)
    p = g.mean(axis=1) / 2
    found = GenotypeCounts.of(dosages, samples).info
    np.testing.assert_allclose(found, g.var(axis=1) / (2 * p * (1 - p)), rtol=1e-9)
    assert ((found > 0.3) & (found < 0.95)).all()
    certain = np.random.default_rng(1).binomial(2, 0.3, (1, 100_000)).astype(np.int8)
    codes = of_calls(certain, dosages.unit)
    assert abs(GenotypeCounts.of(codes, np.arange(100_000)).info[0] - 1) < 0.02


def test_the_first_reason_stands_in_the_order_of_the_status_codes():
    counts = GenotypeCounts.of_calls(
        np.array([[100, 0, 0], [99, 1, 0], [90, 10, 0], [60, 30, 5], [50, 30, 20], [50, 30, 20],
                  [50, 30, 20], [0, 0, 0]]),
        100,
    )  # fmt: skip
    info = np.array([0.1] * 5 + [0.9, 0.9, np.nan])
    hwe = np.array([9.0] * 6 + [1.0, np.nan])
    filters = Filters(0.02, 20, 0.02, min_info=0.3, min_hwe_p=1e-6)
    found = [Status(s).label for s in counts.status(filters, info, hwe)]
    reasons = ["monomorphic", "low_maf", "low_mac", "high_missing", "low_info", "hwe"]
    assert found == [*reasons, "pending", "high_missing"]
    codes = [Status[reason.upper()] for reason in reasons]
    assert codes == sorted(codes)
    # A bound that is not given takes nothing, and what is reported need not filter.
    found = counts.status(Filters(0, 0, 1), info, hwe)
    assert set(found[1:-1]) == {Status.PENDING}
