"""Which kernel a model gets, and that what it costs grows as it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_scan.kernels.choice import Kernel, ModelSize


@pytest.mark.parametrize(
    ("size", "fitted", "screened"),
    [
        ((5_000, 1, 1, 0), Kernel.CLASS_SUMS, Kernel.CLASS_SUMS),
        ((5_000, 4, 1, 0), Kernel.JOINT, Kernel.SCREEN),
        ((5_000, 1, 4, 0), Kernel.JOINT, Kernel.SCREEN),
        ((4_999, 1, 1, 300), Kernel.CLASS_GRAMS, Kernel.RANDOM_SCREEN),
        ((5_000, 1, 1, 300), Kernel.SECOND_ORDER, Kernel.RANDOM_SCREEN),
        ((19_999, 1, 1, 5_000), Kernel.WEIGHTED, Kernel.RANDOM_SCREEN),
        ((1_410, 1, 1, 12_226), Kernel.WEIGHTED, Kernel.RANDOM_SCREEN),
        ((1_000, 4, 1, 200), Kernel.PLAIN, Kernel.RANDOM_SCREEN),
        ((1_000, 4, 1, 300), Kernel.WEIGHTED, Kernel.RANDOM_SCREEN),
        ((300, 1, 1, 5_000), Kernel.PLAIN, Kernel.RANDOM_SCREEN),
        ((1_000, 1, 1, 250), Kernel.WEIGHTED, Kernel.RANDOM_SCREEN),
        ((1_001, 1, 1, 250), Kernel.CLASS_GRAMS, Kernel.RANDOM_SCREEN),
        ((20_000, 1, 1, 500), Kernel.SECOND_ORDER, Kernel.RANDOM_SCREEN),
        ((100_000, 6, 6, 500), Kernel.WEIGHTED, Kernel.RANDOM_SCREEN),
    ],
)
def test_every_model_has_its_kernel(size, fitted, screened):
    model = ModelSize(*size)
    assert (model.kernel, replace(model, screen=True).kernel) == (fitted, screened)


@given(
    people=st.integers(100, 400_000),
    covariates=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    random=st.sampled_from([0, 5, 500]),
    screen=st.booleans(),
    m=st.integers(1, 2_000),
)
def test_more_variants_take_longer_and_no_less_memory(people, covariates, random, screen, m):
    model = ModelSize(people, *covariates, random, screen)
    assert 0 < model.seconds(m) < model.seconds(2 * m)
    assert 0 < model.task_bytes(m) <= model.task_bytes(2 * m)
    assert model.task_bytes(m) < model.task_bytes(m, 2 * people)
    assert (model.shared_bytes > 0) == (random > 0)
    assert model.task_bytes(m) >= replace(model, screen=False).task_bytes(m)


def test_the_plain_refit_of_what_is_interesting_is_planned_for():
    people, random = 2_000, 700
    size = ModelSize(people, 4, 4, random)
    assert size.kernel is Kernel.WEIGHTED
    assert size.refitted_plainly
    columns = 8 * people * random
    assert size.task_bytes(100) >= 10 * columns
