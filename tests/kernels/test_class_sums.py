"""Sums within genotype classes, and the fit that needs nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hlmm_scan.genotypes.packing import unpack_reference
from hlmm_scan.kernels.classes.fit import COLUMNS, Asked, class_sums, fit_class_sums, fit_one
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.models import HLM
from hlmm_scan.schema import Status


def plain_sums(packed, samples, y, powers=2):
    """n, Σy, Σy², … by copies of the effect allele, added one person after the other."""
    copies = unpack_reference(packed, 4 * packed.shape[1])[:, samples]
    sums = np.zeros((len(packed), 3, 1 + powers))
    for i, value in enumerate(y):
        for c in range(3):
            sums[copies[:, i] == c, c] += np.cumprod([1.0] + [value] * powers)
    return sums


@settings(deadline=None, max_examples=60)
@given(data=st.data(), m=st.integers(1, 5), width=st.integers(1, 9), powers=st.integers(0, 4))
def test_sums_are_those_of_a_plain_loop_bit_for_bit(data, m, width, powers):
    packed = data.draw(hnp.arrays(np.uint8, (m, width)))
    samples = data.draw(st.lists(st.integers(0, 4 * width - 1), unique=True))
    samples = np.array(samples, np.int64)
    y = data.draw(hnp.arrays(np.float64, len(samples), elements=st.floats(-1e3, 1e3)))
    np.testing.assert_array_equal(
        class_sums(packed, samples, y, powers), plain_sums(packed, samples, y, powers)
    )


def test_read_only_and_strided_blocks_are_taken():
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (6, 10), dtype=np.uint8)
    samples = np.arange(37)
    y = rng.standard_normal(37)
    wanted = plain_sums(packed, samples, y)
    for array in (packed, samples, y):
        array.flags.writeable = False
    np.testing.assert_array_equal(class_sums(packed, samples, y), wanted)
    np.testing.assert_array_equal(class_sums(packed[::2], samples, y), wanted[::2])


def sums_of(groups):
    """Class sums of one variant from the phenotypes with 0, 1 and 2 copies."""
    return np.array([[[len(y), np.sum(y), np.sum(np.square(y))] for y in groups]])


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(*[st.integers(0, 60)] * 3),
    means=st.tuples(*[st.floats(-2, 2)] * 3),
    log_sd=st.tuples(*[st.floats(-1, 1)] * 3),
    seed=st.integers(0, 1000),
)
@example(sizes=(9, 3, 10), means=(0.0, 0.0, 1.0), log_sd=(-1.0, 1.0, -1.0), seed=0)  # a flat floor
def test_any_three_classes_fit_as_the_people_in_them(sizes, means, log_sd, seed):
    # Classes need not follow the model: means and variances are not linear in the copies.
    rng = np.random.default_rng(seed)
    groups = [rng.normal(a, np.exp(s), k) for k, a, s in zip(sizes, means, log_sd, strict=True)]
    y = np.concatenate(groups)
    if len(y) < 20:
        groups[0] = np.append(groups[0], rng.standard_normal(20))
        y = np.concatenate(groups)
    centre, scale = y.mean(), y.std()
    groups = [(group - centre) / scale for group in groups]
    y = np.concatenate(groups)
    g = np.repeat([0.0, 1.0, 2.0], [len(group) for group in groups])
    X = np.column_stack([np.ones(len(y)), g - g.mean()])
    plain = HLM(y, X, X).fit()
    found = fit_class_sums(sums_of(groups))
    assert Status(found.status[0]) is plain.status
    if plain.status is Status.OK:
        assert abs(found.add[0] - plain.alpha[1]) <= 1e-7 * plain.alpha_se[1]
        assert abs(found.var[0] - plain.beta[1]) <= 1e-7 * plain.beta_se[1]
        assert abs(found.log_likelihood[0] - plain.log_likelihood) <= 1e-8


@pytest.mark.parametrize(("people", "var"), [(3000, 0.0), (3000, 0.25), (300, 1.0), (40, 0.5)])
def test_fits_from_steps_abreast_are_those_of_the_search_from_zero(people, var):
    """The same maximum, and the same bits whoever stands beside a variant."""
    rng = np.random.default_rng(people)
    frequencies = rng.uniform(0.01, 0.5, 131)  # no whole number of vectors, nor of blocks
    sums = np.empty((131, 3, 3))
    for own, p in zip(sums, frequencies, strict=True):
        g = rng.binomial(2, p, people)
        y = 0.1 * g + np.exp(0.5 * var * g) * rng.normal(size=people)
        for c in range(3):
            own[c] = [(g == c).sum(), y[g == c].sum(), (y[g == c] ** 2).sum()]
    found = fit_class_sums(sums)
    work, asked = (np.empty(3), np.empty((6, 3))), Asked.of((0.0, 3.0), Inference())
    for j in range(131):
        out = np.full(len(COLUMNS), np.nan)
        status = fit_one(sums[j], np.arange(3.0), asked, 0.0, *work, out)
        assert status == found.status[j]
        if status == Status.OK:
            assert found.add[j] == pytest.approx(out[0], abs=1e-9 * np.sqrt(out[2]))
            assert found.var[j] == pytest.approx(out[1], abs=1e-9 * np.sqrt(out[3]))
    turned = fit_class_sums(sums[:0:-1])
    for name in ("add", "var", "add_variance", "log_likelihood"):
        np.testing.assert_array_equal(getattr(turned, name)[::-1], getattr(found, name)[1:])
