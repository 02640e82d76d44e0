"""Passes over dosage codes: their plain references, and what filters make of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_dosages import UNITS, of_calls, simulated_dosages

from hlmm_scan.genotypes.blocks import (
    BGEN_8_BIT,
    FINEST,
    MISSING_CODE,
    PGEN,
    Dosages,
    HardCalls,
    joined,
)
from hlmm_scan.genotypes.packing import pack, unpack
from hlmm_scan.kernels.filters import Filters, GenotypeCounts
from hlmm_scan.kernels.scores.design import genotype_shapes
from hlmm_scan.kernels.scores.p_values import GenotypeShapes, shape_tests
from hlmm_scan.kernels.scores.residual_bins import ResidualBins
from hlmm_scan.kernels.sums.dosage_codes import (
    count_dosages,
    count_dosages_reference,
    dosage_classes,
    dosage_classes_reference,
    third_and_fourth,
)
from hlmm_scan.kernels.sums.dosage_powers import POWERS, PowerSumsPlan
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


@pytest.mark.parametrize("people", [1, 7, 64, 1_025])
@pytest.mark.parametrize("unit", [BGEN_8_BIT, PGEN, FINEST])
@pytest.mark.parametrize("columns", [3, 4])
def test_power_sums_are_those_written_out(people, unit, columns):
    rng = np.random.default_rng(people)
    steps = round(2 / unit)
    codes = rng.integers(0, steps + 1, (3, people + 9)).astype(np.uint16)
    codes[rng.random(codes.shape) < 0.1] = MISSING_CODE
    dosages, samples = Dosages(codes, unit), rng.permutation(people + 9)[:people]
    own, others = rng.standard_normal((people, columns)), rng.standard_normal((people, 5))
    g = dosages.copies(samples)
    called = np.isfinite(g)
    centre = np.where(called, g, 0).sum(axis=1) / np.maximum(called.sum(axis=1), 1)
    plan = PowerSumsPlan.of(samples, others, own)
    found = plan.sums(dosages, centre, called.sum(axis=1))
    u = np.where(called, g - found.middle[:, None], 0)
    powers = np.stack([called, *(u**p for p in range(1, POWERS + 1))], axis=1)
    np.testing.assert_allclose(found.own[:, :3], powers[:, :3] @ own, rtol=1e-12, atol=1e-9)
    # The others are in single precision.
    assert (np.abs(found.own - powers @ own) <= 1e-6 * (np.abs(powers) @ np.abs(own))).all()
    plain = powers[:, 3:5]
    assert (np.abs(found.plain - plain.sum(2)) <= 1e-6 * np.abs(plain).sum(2)).all()
    h = np.where(called, g - centre[:, None], 0)
    np.testing.assert_allclose(found.first, h @ others, rtol=1e-5, atol=1e-4)
    about = found.own_about(centre)
    np.testing.assert_allclose(about, [h @ own, h**2 @ own], rtol=1e-10, atol=1e-8)
    again = third_and_fourth(dosages, np.arange(3), samples, centre)
    np.testing.assert_allclose(again, np.stack([(h**3).sum(1), (h**4).sum(1)], 1), atol=1e-9)
    alone = plan.sums(dosages.take(np.array([1])), centre[1:2], called[1:2].sum(axis=1))
    assert (alone.own == found.own[1:2]).all()


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_moments_by_counts_are_those_of_the_dosages(people, seed):
    rng = np.random.default_rng(seed)
    unit = (BGEN_8_BIT, PGEN, FINEST)[seed % 3]
    rare = rng.random(people) < rng.random()
    codes = np.where(rare, rng.integers(0, round(2 / unit) + 1, people), seed % 2 * round(2 / unit))
    dosages, samples = Dosages(codes[None].astype(np.uint16), unit), np.arange(people)
    counts, rows = GenotypeCounts.of(dosages, samples), np.zeros(1, np.intp)
    shapes = genotype_shapes(dosages, rows, counts, samples)
    g = dosages.copies(samples)[0]
    h = g - g.mean()
    wanted = [people, g.mean(), *((h**p).sum() for p in (2, 3, 4))]
    np.testing.assert_allclose(shapes.moments[:, 0], wanted, rtol=1e-9, atol=1e-9)
    assert (shapes.moments[2, 0] == 0) == (len(set(codes.tolist())) == 1)
    of_classes = GenotypeShapes.of(*shapes.classes(rows))
    np.testing.assert_allclose(of_classes.moments[:2, 0], wanted[:2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("other", [1, 3])
def test_dosages_that_hardly_vary_are_tested(other):
    """All in one class of the seven but for rounding; what is split off is a hair away."""
    people = 200
    codes = np.full((1, people), 300, np.uint16)
    codes[0, :other] = 301
    dosages, samples = Dosages(codes, FINEST), np.arange(people)
    counts = GenotypeCounts.of(dosages, samples)
    shapes = genotype_shapes(dosages, np.zeros(1, np.intp), counts, samples)
    r = np.random.default_rng(2).exponential(size=people)
    s = (r - r.mean()) / r.std()
    bins = ResidualBins.of(s, s**2 - 1)
    for z in (0.5, 6.0):
        found = shape_tests(bins, shapes, np.full((1, 3), z), (1.0, 1.0, 1.0))
        assert np.isfinite([found.add, found.var, found.av]).all()
    one = GenotypeShapes(
        shapes.moments, lambda rows: (np.array([[200.0, 0]]), np.array([[0.1, 0]]))
    )
    found = shape_tests(bins, one, np.full((1, 3), 6.0), (1.0, 1.0, 1.0))
    assert np.isfinite([found.add, found.var, found.av]).all()
