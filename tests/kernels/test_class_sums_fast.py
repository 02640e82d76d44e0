"""The fast class sums: those of the plain loop, and the same bits however a scan is cut."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.genotypes.packing import pack, unpack_reference
from hlmm_scan.kernels.classes.fit import class_sums as plain_class_sums
from hlmm_scan.kernels.classes.fit import fit_class_sums
from hlmm_scan.kernels.sums import class_sums as fast
from hlmm_scan.kernels.sums import class_sums_pass
from hlmm_scan.kernels.sums.class_sums import (
    class_sums,
    class_sums_of_phenotypes,
    plan_class_sums,
    work_bytes,
)
from hlmm_scan.schema import Status

KINDS = ("hardy", "bytes", "missing", "some missing", "none", "one", "two", "rare none")


def compile_the_pass():
    class_sums(np.zeros((1, 1), np.uint8), np.arange(4), np.zeros(4))


def calls(rng, kind, n):
    """Copies of the effect allele of one variant."""
    frequency = rng.uniform(0.05, 0.5)
    copies = rng.binomial(2, frequency, n).astype(np.int8)
    if kind == "bytes":
        copies = rng.integers(-1, 3, n, dtype=np.int8)
    elif kind == "missing":
        copies[:] = -1
    elif kind == "some missing":
        copies[rng.random(n) < 0.03] = -1
    elif kind == "rare none":
        copies[:] = 2 - rng.binomial(1, 0.01, n)
        copies[:2] = 0
    elif kind in ("none", "one", "two"):
        copies[:] = ("none", "one", "two").index(kind)
    return copies


def genotypes(rng, m, n, kinds=KINDS):
    """Packed calls of every kind in turn."""
    return pack(np.array([calls(rng, kinds[j % len(kinds)], n) for j in range(m)]))


def assert_close(found, wanted, y):
    """Equal counts; sums to the rounding of a sum over everybody."""
    np.testing.assert_array_equal(found[..., 0], wanted[..., 0])
    for power in range(1, wanted.shape[-1]):
        scale = np.sum(np.abs(y) ** power)
        np.testing.assert_allclose(
            found[..., power], wanted[..., power], rtol=0, atol=1e-15 * (len(y) + 2) * scale
        )


@settings(deadline=None, max_examples=150)
@given(
    m=st.integers(0, 20),
    n=st.integers(1, 700) | st.integers(1, 9),
    share=st.sampled_from([1.0, 0.9, 0.3, 0.02]),
    scale=st.sampled_from([1.0, 1e-3, 1e3, 0.0]),
    missing_shift=st.integers(0, len(KINDS) - 1),
    powers=st.sampled_from([2, 4]),
    seed=st.integers(0, 10**6),
)
def test_sums_are_those_of_the_plain_loop(m, n, share, scale, missing_shift, powers, seed):
    rng = np.random.default_rng(seed)
    kinds = KINDS[missing_shift:] + KINDS[:missing_shift]
    packed = genotypes(rng, m, n, kinds) if m else np.empty((0, (n + 3) // 4), np.uint8)
    samples = np.flatnonzero(rng.random(n) < share)
    rng.shuffle(samples)
    y = scale * rng.standard_normal(len(samples))
    found, wanted = (sum_(packed, samples, y, powers) for sum_ in (class_sums, plain_class_sums))
    assert found.shape == (m, 3, 1 + powers)
    assert_close(found, wanted, y)


@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(1, 12),
    n=st.integers(1, 600),
    count=st.integers(0, 7),
    powers=st.sampled_from([2, 4]),
    seed=st.integers(0, 999),
)
def test_many_phenotypes_are_each_one_alone_bit_for_bit(m, n, count, powers, seed):
    rng = np.random.default_rng(seed)
    packed = genotypes(rng, m, n)
    samples = [np.flatnonzero(rng.random(n) < rng.choice([0.0, 0.1, 0.97])) for _ in range(count)]
    ys = [rng.standard_normal(len(s)) * rng.choice([1.0, 1e4]) for s in samples]
    together = class_sums_of_phenotypes(packed, samples, ys, powers)
    assert together.shape == (count, m, 3, 1 + powers)
    assert together.flags.c_contiguous
    for p in range(count):
        alone = class_sums(packed, samples[p], ys[p], powers)
        np.testing.assert_array_equal(together[p], alone)
        # Nor do further powers change a bit of the lower ones.
        np.testing.assert_array_equal(alone[..., :3], class_sums(packed, samples[p], ys[p]))
        assert_close(alone, plain_class_sums(packed, samples[p], ys[p], powers), ys[p])


@pytest.mark.parametrize(("count", "powers"), [(1, 2), (2, 2), (5, 2), (1, 4), (3, 4)])
def test_neither_blocks_nor_neighbours_change_a_bit(count, powers, monkeypatch):
    rng = np.random.default_rng(1)
    n, m = 1_031, 1_000
    packed = genotypes(rng, m, n)
    samples = [np.flatnonzero(rng.random(n) < 0.95) for _ in range(count)]
    ys = [rng.standard_normal(len(s)) for s in samples]
    whole = class_sums_of_phenotypes(packed, samples, ys, powers)
    plan = plan_class_sums(packed.shape[1], samples, ys, powers)
    for size in (1, 7, 64, 1000):
        blocks = [plan.sums(packed[at : at + size]) for at in range(0, m, size)]
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)
        monkeypatch.setattr(fast, "_BLOCK", size)
        monkeypatch.setattr(fast, "_BLOCK_MANY", size)
        np.testing.assert_array_equal(plan.sums(packed), whole)
        monkeypatch.undo()
    order = rng.permutation(m)
    np.testing.assert_array_equal(plan.sums(packed[order]), whole[:, order])


def test_the_order_of_people_does_not_matter():
    rng = np.random.default_rng(2)
    packed = genotypes(rng, 40, 501)
    samples = np.flatnonzero(rng.random(501) < 0.8)
    y = rng.standard_normal(len(samples))
    order = rng.permutation(len(samples))
    np.testing.assert_array_equal(
        class_sums(packed, samples[order], y[order]), class_sums(packed, samples, y)
    )


def test_people_not_analysed_may_hold_any_call():
    rng = np.random.default_rng(3)
    n = 403
    copies = np.array([calls(rng, kind, n) for kind in KINDS])
    samples = np.flatnonzero(rng.random(n) < 0.5)
    y = rng.standard_normal(len(samples))
    wanted = class_sums(pack(copies), samples, y)
    others = np.setdiff1d(np.arange(n), samples)
    copies[:, others] = rng.integers(-1, 3, (len(copies), len(others)))
    packed = pack(copies)
    packed[:, -1] &= 0x3F  # n = 4·100 + 3: PLINK's own padding, which reads as two copies
    np.testing.assert_array_equal(class_sums(packed, samples, y), wanted)


def test_read_only_and_strided_blocks_are_taken_without_compiling_again():
    compile_the_pass()
    before = len(class_sums_pass.sum_block.signatures)
    rng = np.random.default_rng(4)
    packed = genotypes(rng, 24, 77)
    samples, y = np.arange(77), rng.standard_normal(77)
    wanted = class_sums(packed, samples, y)
    backwards = np.asfortranarray(packed)
    wide = np.hstack([packed, packed])
    for array in (packed, samples, y):
        array.flags.writeable = False
    width = packed.shape[1]
    np.testing.assert_array_equal(class_sums(packed, samples, y), wanted)
    np.testing.assert_array_equal(class_sums(packed[::2], samples[:], y), wanted[::2])
    np.testing.assert_array_equal(class_sums(backwards, samples, y), wanted)
    np.testing.assert_array_equal(class_sums(wide[:, :width], samples, y), wanted)
    class_sums_of_phenotypes(packed, [samples] * 4, [y] * 4)
    class_sums(packed, samples, y, powers=4)
    class_sums(packed[:1, :1], samples[:4], y[:4])
    assert len(class_sums_pass.sum_block.signatures) == before == 1


# ------------------------------------------------------------------------------------- accuracy


def standardised(y):
    return (y - y.mean()) / y.std()


TRAITS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "log-normal": lambda rng, n: np.exp(2.0 * rng.standard_normal(n)),
    "t": lambda rng, n: rng.standard_t(2.1, n),
    "few values": lambda rng, n: rng.poisson(0.3, n).astype(float),
}


@pytest.mark.parametrize("trait", TRAITS)
def test_residual_sums_of_rare_and_common_classes_are_as_good_as_exact_ones(trait):
    rng = np.random.default_rng(5)
    n = 20_000
    y = standardised(TRAITS[trait](rng, n))
    copies = np.zeros((6, n), np.int8)
    for j, order in enumerate([(0, 1, 2), (2, 1, 0), (1, 0, 2)]):
        for half, sizes in enumerate([(n - 23, 20, 3), (n - 1, 1, 0)]):
            values = np.repeat(np.array(order, np.int8), sizes)
            copies[2 * j + half] = rng.permutation(values)
    packed = pack(copies)
    sums = class_sums(packed, np.arange(n), y)
    for j in range(len(copies)):
        for c in range(3):
            members = y[copies[j] == c]
            first, second = math.fsum(members), math.fsum(members * members)
            assert sums[j, c, 0] == len(members)
            # At most half a quantum per person, whatever the other classes hold.
            bound = len(members) * 2.0**-46
            assert abs(sums[j, c, 1] - first) <= bound + 1e-15 * abs(first)
            assert abs(sums[j, c, 2] - second) <= bound + 1e-15 * second
            if len(members):
                within = sums[j, c, 2] - sums[j, c, 1] ** 2 / sums[j, c, 0]
                exact = math.fsum((members - first / len(members)) ** 2)
                assert abs(within - exact) <= 1e-12 * n


def test_a_class_of_tied_phenotypes_has_no_variance_to_speak_of():
    rng = np.random.default_rng(6)
    n = 10_000
    copies = np.array([calls(rng, "rare none", n), calls(rng, "hardy", n)])
    for j in range(2):
        for c in range(3):
            y = rng.standard_normal(n)
            tied = copies[j] == c
            y[tied] = 1.7
            y[~tied] += 0.1
            n_c, first, second = class_sums(pack(copies[j : j + 1]), np.arange(n), y)[0, c]
            assert abs(second - first**2 / n_c) <= 1e-14 * n_c + 1e-15 * second


@pytest.mark.parametrize("trait", TRAITS)
def test_estimates_are_those_of_the_plain_sums(trait):
    rng = np.random.default_rng(7)
    n = 20_000
    frequencies = np.concatenate(
        [rng.uniform(0.05, 0.5, 30), rng.uniform(0.0005, 0.01, 15), rng.uniform(0.99, 0.9995, 15)]
    )
    copies = rng.binomial(2, frequencies[:, None], (60, n)).astype(np.int8)
    copies[::2][rng.random((30, n)) < 0.03] = -1
    effect = np.exp(0.1 * copies[0]) if trait != "few values" else 1.0
    y = TRAITS[trait](rng, n) * effect
    samples = np.flatnonzero(rng.random(n) < 0.98)
    y = standardised(y[samples])
    packed = pack(copies)
    found = fit_class_sums(class_sums(packed, samples, y))
    wanted = fit_class_sums(plain_class_sums(packed, samples, y))
    np.testing.assert_array_equal(found.status, wanted.status)
    fitted = wanted.status == int(Status.OK)
    assert fitted.sum() >= 40
    for name in ("add", "var"):
        variance = getattr(wanted, f"{name}_variance")[fitted]
        difference = getattr(found, name)[fitted] - getattr(wanted, name)[fitted]
        assert np.max(np.abs(difference) / np.sqrt(variance)) <= 1e-9
        np.testing.assert_allclose(getattr(found, f"{name}_variance")[fitted], variance, rtol=1e-10)


@settings(deadline=None, max_examples=40)
@given(exponent=st.integers(-140, 140), n=st.integers(1, 200), seed=st.integers(0, 999))
def test_any_scale_of_the_phenotype_will_do(exponent, n, seed):
    rng = np.random.default_rng(seed)
    packed = genotypes(rng, 3, n)
    y = rng.standard_normal(n) * 10.0**exponent
    assert_close(class_sums(packed, np.arange(n), y), plain_class_sums(packed, np.arange(n), y), y)


# ------------------------------------------------------------------------------ refusals, memory


@pytest.mark.parametrize(
    ("samples", "y", "error"),
    [
        ([0, 1, 1], [1.0, 2.0, 3.0], ValueError),
        ([0, 1], [1.0, 2.0, 3.0], ValueError),
        ([0, 8], [1.0, 2.0], IndexError),
        ([-1, 0], [1.0, 2.0], IndexError),
        ([0, 1], [1.0, np.nan], ValueError),
        ([0, 1], [1.0, np.inf], ValueError),
        ([0, 1], [1.0, 1e200], ValueError),
    ],
)
def test_people_and_phenotypes_that_make_no_sense_are_refused(samples, y, error):
    with np.errstate(over="ignore"), pytest.raises(error):
        class_sums(np.zeros((1, 2), np.uint8), np.array(samples), np.array(y))


def test_blocks_of_another_shape_and_lists_of_unlike_length_are_refused():
    plan = plan_class_sums(3, [np.arange(9)], [np.zeros(9)])
    for packed in (np.zeros((2, 4), np.uint8), np.zeros(3, np.uint8), np.zeros((2, 3), np.int8)):
        with pytest.raises(ValueError, match="packed must be uint8"):
            plan.sums(packed)
    with pytest.raises(ValueError, match="1 sets of people for 2 phenotypes"):
        plan_class_sums(3, [np.arange(9)], [np.zeros(9)] * 2)
    with pytest.raises(ValueError, match="powers must be 2 or 4, not 3"):
        plan_class_sums(3, [np.arange(9)], [np.zeros(9)], 3)
    with pytest.raises(ValueError, match="sum of one of its powers is not finite"):
        plan_class_sums(3, [np.arange(9)], [np.full(9, 1e80)], 4)


@pytest.mark.parametrize(
    ("m", "n", "count", "powers"),
    [(1, 40_000, 1, 2), (3000, 500, 1, 2), (700, 9_999, 6, 2), (3000, 500, 1, 4), (9, 9_999, 3, 4)],
)
def test_the_memory_formula_bounds_what_numpy_allocates(m, n, count, powers):
    compile_the_pass()
    rng = np.random.default_rng(8)
    packed = rng.integers(0, 256, (m, (n + 3) // 4), dtype=np.uint8)
    samples, ys = [np.arange(n)] * count, [rng.standard_normal(n)] * count
    tracemalloc.start()
    class_sums_of_phenotypes(packed, samples, ys, powers)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= work_bytes(m, n, count, powers) <= 3 * peak + 10**6


def test_missing_calls_belong_to_no_class():
    rng = np.random.default_rng(9)
    packed = genotypes(rng, 16, 1_000)
    copies = unpack_reference(packed, 1_000)
    sums = class_sums(packed, np.arange(1_000), np.ones(1_000))
    np.testing.assert_array_equal(sums[..., 0].sum(axis=1), (copies >= 0).sum(axis=1))
    np.testing.assert_array_equal(sums[..., 1], sums[..., 0])
    np.testing.assert_array_equal(sums[..., 2], sums[..., 0])
