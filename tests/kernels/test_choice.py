"""Which kernel a model gets, and that what it costs grows as it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.cost import task_bytes, task_seconds
from hlmm_scan.kernels.paths import (
    CLASS_GRAMS,
    CLASS_SUMS,
    JOINT,
    NEWTON_STEP,
    PLAIN,
    RANDOM_SCREEN,
    SCREEN,
    SECOND_ORDER,
    WEIGHTED,
    path_of,
)


@pytest.mark.parametrize(
    ("size", "fitted", "screened"),
    [
        ((5_000, 1, 1, 0), CLASS_SUMS, CLASS_SUMS),
        ((5_000, 4, 1, 0), NEWTON_STEP, SCREEN),
        ((5_000, 1, 4, 0), NEWTON_STEP, SCREEN),
        ((4_999, 1, 1, 300), CLASS_GRAMS, RANDOM_SCREEN),
        ((5_000, 1, 1, 300), SECOND_ORDER, RANDOM_SCREEN),
        ((19_999, 1, 1, 5_000), WEIGHTED, RANDOM_SCREEN),
        ((1_410, 1, 1, 12_226), WEIGHTED, RANDOM_SCREEN),
        ((1_000, 4, 1, 200), PLAIN, RANDOM_SCREEN),
        ((1_000, 4, 1, 300), WEIGHTED, RANDOM_SCREEN),
        ((300, 1, 1, 5_000), PLAIN, RANDOM_SCREEN),
        ((1_000, 1, 1, 250), WEIGHTED, RANDOM_SCREEN),
        ((1_001, 1, 1, 250), CLASS_GRAMS, RANDOM_SCREEN),
        ((20_000, 1, 1, 500), SECOND_ORDER, RANDOM_SCREEN),
        ((100_000, 6, 6, 500), WEIGHTED, RANDOM_SCREEN),
    ],
)
def test_every_model_has_its_path(size, fitted, screened):
    model = ModelSize(*size)
    assert (path_of(model), path_of(replace(model, screen=True))) == (fitted, screened)


@given(
    people=st.integers(100, 400_000),
    covariates=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    random=st.sampled_from([0, 5, 500]),
    screen=st.booleans(),
    m=st.integers(1, 2_000),
)
def test_more_variants_take_longer_and_no_less_memory(people, covariates, random, screen, m):
    model = ModelSize(people, *covariates, random, screen)
    assert 0 < task_seconds(model, m) < task_seconds(model, 2 * m)
    assert 0 < task_bytes(model, m) <= task_bytes(model, 2 * m)
    assert task_bytes(model, m) < task_bytes(model, m, 2 * people)
    assert (model.shared_bytes > 0) == (random > 0)
    assert task_bytes(model, m) >= task_bytes(replace(model, screen=False), m)


def test_the_plain_refit_of_what_is_interesting_is_planned_for():
    people, random = 2_000, 700
    size = ModelSize(people, 4, 4, random)
    assert path_of(size) is WEIGHTED
    assert WEIGHTED.then(size) is PLAIN
    columns = 8 * people * random
    assert task_bytes(size, 100) >= 10 * columns


@pytest.mark.parametrize("dosages", [False, True])
def test_with_covariates_what_one_step_does_not_reach_is_fitted_by_scoring(dosages):
    path = path_of(ModelSize(5_000, 4, 1, 0, dosages=dosages))
    assert (path, path.rest) == (NEWTON_STEP, JOINT)
