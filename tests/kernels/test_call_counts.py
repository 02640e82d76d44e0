"""Genotype classes as bits: who is in them, sums over them, counts of random effects in them."""

from __future__ import annotations

import numpy as np
import pytest
from cohorts_by_hand import null_model_of
from test_call_lattice import standardised

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.genotypes.packing import pack
from hlmm_scan.kernels import block, prepared
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.paths import CLASS_SCORES, SECOND_ORDER
from hlmm_scan.kernels.scores.random_effects import class_scores
from hlmm_scan.kernels.second_order.fit import fit_second_order
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.sums.call_counts import (
    WIDTH,
    CallCounts,
    class_planes,
    class_planes_reference,
)
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.kernels.sums.chosen import add_chosen, add_chosen_reference
from hlmm_scan.kernels.variants import by_left_out
from hlmm_scan.null.model import NullModel, RandomEffects


def calls_of(m: int, n: int, missing: float = 0.1, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    calls = rng.binomial(2, np.linspace(0.05, 0.9, m)[:, None], (m, n)).astype(np.int8)
    calls[rng.random((m, n)) < missing] = -1
    return calls


PEOPLE = {
    "all": np.arange(1_000),
    "from the second on": np.arange(1, 900),
    "from the fourth on, 64": np.arange(4, 68),
    "gaps": np.flatnonzero(np.arange(1_000) % 97 > 0),
    "another order": np.random.default_rng(2).permutation(1_000),
    "one": np.array([7]),
    "none": np.array([], np.int64),
}


@pytest.mark.parametrize("planes", [class_planes, class_planes_reference])
@pytest.mark.parametrize("people", PEOPLE.values(), ids=PEOPLE)
@pytest.mark.parametrize("kinds", [2, 3])
def test_planes_say_who_is_in_a_class(planes, people, kinds):
    calls = calls_of(5, 1_000)
    found = planes(pack(calls), people, kinds)
    assert found.shape == (kinds, WIDTH, -(-len(people) // 64))
    assert not found[:, 5:].any()
    bits = np.unpackbits(found.view(np.uint8), axis=2, bitorder="little")
    for kind, copies in zip(range(kinds), (1, 2, -1), strict=False):
        np.testing.assert_array_equal(bits[kind, :5, : len(people)], calls[:, people] == copies)
    assert not bits[:, :, len(people) :].any()


@pytest.mark.parametrize("w", [1, 16, 17, 100, 131, 300])
@pytest.mark.parametrize("n", [1, 64, products.RUN + 3, 3 * products.RUN])
def test_sums_over_the_people_of_a_class_are_the_products_with_zeros(w, n):
    rng = np.random.default_rng(w + n)
    weights, columns = (rng.standard_normal(s).astype(np.float32) for s in (n, (n, w)))
    weights.flags.writeable = columns.flags.writeable = False  # as mapped files are
    calls = calls_of(9, n)
    calls[0], calls[1] = 0, 2  # nobody, and everybody
    planes = class_planes(pack(calls), np.arange(n), 3).reshape(3 * WIDTH, -1)
    chosen = np.zeros((3, WIDTH, n), np.float32)
    chosen[:, :9] = [calls == copies for copies in (1, 2, -1)]
    start = rng.standard_normal((3 * WIDTH, w))
    written, found, plain = start.copy(), start.copy(), start.copy()
    products.add_product(chosen.reshape(-1, n) * weights, columns, written)
    add_chosen(planes, weights, columns, found)
    add_chosen_reference(planes, weights, columns, plain)
    np.testing.assert_array_equal(found, written)
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-6 * n)


def test_counts_are_sums_of_columns():
    rng = np.random.default_rng(3)
    n, m, people = 5_000, 70, np.flatnonzero(np.arange(5_000) % 31)
    random = rng.binomial(2, 0.3, (len(people), 9))
    random[:, 3:5][rng.random((len(people), 2)) < 0.02] = -1
    columns, calls = standardised(random), calls_of(m, n)
    lattice = CallLattice.of(columns)
    assert lattice is not None
    assert lattice.lacking.tolist() == [3, 4]
    counted = CallCounts.of(lattice, pack(calls), people, missing=True)
    rows = np.array([66, 3, 40])
    found = counted.take(rows).sums(np.array([0, 2]))
    assert found.shape == (9, 3, WIDTH)
    assert not found[:, :, 2:].any()
    for kind, copies in enumerate((1, 2, -1)):
        there = (calls[rows[[0, 2]]][:, people] == copies).astype(float)
        expected = there @ (columns - lattice.origin)
        np.testing.assert_allclose(found[:, kind, :2].T, expected, atol=1e-9 * n)


def scanned(n: int = 6_001) -> tuple[NullModel, np.ndarray, np.ndarray]:
    """A null model with random effects of many people, calls of which some lack, chromosomes."""
    rng = np.random.default_rng(4)
    random = rng.binomial(2, 0.3, (n, 12))
    random[rng.random(n) < 0.02, 1] = -1
    columns = standardised(random)
    y = rng.standard_normal(n) + 0.1 * columns.sum(axis=1)
    calls = calls_of(70, n, missing=0.01)
    calls[::3] = np.abs(calls[::3])
    contigs = np.array(["1", "2"], dtype=object)[np.arange(70) % 2]
    effects = RandomEffects(columns, ("2",) * 5 + ("3",) * 7, tuple(f"r{k}" for k in range(12)))
    return null_model_of(y, effects=effects, left_out=["2"]), HardCalls.of(calls), contigs


def test_fits_leave_the_counts_that_scores_would_make():
    null, calls, contigs = scanned()
    packed = calls.packed
    lattice = prepared.call_lattice(null)
    assert lattice is not None
    keys = {null.random_effect_set(str(contig)) for contig in contigs}
    filled = CallCounts.room(lattice, len(packed))
    for key, rows in by_left_out(null, contigs):
        basis = SECOND_ORDER.made(null, key)
        fit_second_order(null, basis, packed[rows], counted=filled.take(rows))
    counted = CallCounts.of(lattice, packed, null.samples, missing=True)
    assert filled.counts.any(axis=(0, 2)).all()
    np.testing.assert_array_equal(filled.counts, counted.counts)
    design = CLASS_SCORES.made(null, min(keys), packed.shape[1])
    alone = class_scores(design, packed)
    assert np.isfinite(alone).all()
    np.testing.assert_array_equal(class_scores(design, packed, filled), alone)


def test_what_a_block_counts_once_changes_no_bit(monkeypatch):
    null, calls, contigs = scanned()
    once = fit_block(null, calls, contigs, FitOptions())
    monkeypatch.setattr(block, "_room_for_counts", lambda *_: None)
    twice = fit_block(null, calls, contigs, FitOptions())
    assert np.isfinite(once["add_neg_log10_p"]).sum() > 50
    for name, values in once.items():
        np.testing.assert_array_equal(values, twice[name])
