"""The table of ways to fit: every row is whole, and a new one is added in one place."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
from cohorts_by_hand import null_model_of

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels import paths, warm_up
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.cost import task_bytes, task_seconds
from hlmm_scan.kernels.estimates import Estimates
from hlmm_scan.kernels.paths import (
    CLASS_SCORES,
    DOSAGE_SUMS,
    GRAMS_AFTER_SECOND_ORDER,
    JOINT,
    JOINT_PLAIN,
    PATHS,
    Path,
)
from hlmm_scan.schema import Status

ROWS = [value for value in vars(paths).values() if isinstance(value, Path)]
TAKEN_AFTER_OTHERS = [DOSAGE_SUMS, JOINT, JOINT_PLAIN, GRAMS_AFTER_SECOND_ORDER, CLASS_SCORES]
SIZES = [
    ModelSize(people, mean, mean, random, screen, dosages)
    for people in (300, 3_000, 6_000, 30_000)
    for mean in (1, 4)
    for random in (0, 40, 900, 40_000)
    for screen in (False, True)
    for dosages in (False, True)
] + [ModelSize(1_000, 3, 1, 0, interaction=True)]


def test_the_table_has_all_rows_there_are():
    assert {id(path) for path in ROWS} == {id(path) for path in (*PATHS, *TAKEN_AFTER_OTHERS)}
    assert len({path.name for path in ROWS}) == len(ROWS)
    for path in PATHS:
        assert path.seconds is not None
    for path in TAKEN_AFTER_OTHERS:
        assert path.seconds is None
        assert not any(path.covers(size) for size in SIZES)


def test_every_row_is_taken_by_some_model():
    taken = [paths.path_of(size) for size in SIZES]
    taken += [path for size in SIZES if (path := paths.score_path(size))]
    taken += [path for size in SIZES if (path := paths.path_of(size).then(size))]
    for _ in range(2):
        taken += [path.rest for path in taken if path.rest]
    assert {id(path) for path in taken} == {id(path) for path in ROWS}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_model_is_scored_once_and_what_is_fitted_again_stays_so(size):
    path, scores = paths.path_of(size), paths.score_path(size)
    # Without a path for them, scores come with the fits; with one, they are those of any method.
    assert path.scored if scores is None else scores.scored
    assert paths.score_path(replace(size, screen=False)) is scores or path.scored
    for again in (path.rest, path.then(size)):
        for _ in range(2):  # so many at most fit what is doubtful, one after the other
            if again is not None:
                assert again.then(size) is None
                again = again.rest
        assert again is None


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.name)
def test_what_fits_and_what_it_is_held_to_are_not_the_same(path):
    assert path.reference not in inspect.getclosurevars(path.fit).globals.values()


@pytest.fixture
def toy(monkeypatch) -> list[object]:
    """A row on top of the table, which says who asked for what."""
    asked: list[object] = []

    def fit(prepared: object, variants) -> Estimates:
        asked.append(prepared)
        found = Estimates.empty(len(variants))
        found.add[:], found.var[:] = np.arange(len(variants)), 0.5
        found.add_variance[:] = found.var_variance[:] = 1.0
        found.add_var_covariance[:] = 0.0
        found.status[1:] = Status.OK  # the first is left for another path
        return found

    path = Path(
        "a toy",
        reference=fit,
        covers=lambda size: size.people <= 2_000 and not (size.random or size.screen),
        prepare=lambda null, left_out: (null.phenotype, left_out),
        fit=fit,
        seconds=lambda size, m: 3.0 * m,
        work_bytes=lambda size, *_: 5 << 30,
        rest=JOINT_PLAIN,
        then=lambda size: JOINT_PLAIN,
    )
    monkeypatch.setattr(paths, "PATHS", (path, *PATHS))
    return asked


def test_a_new_way_to_fit_is_a_row(toy):
    """Block, planner and warm-up take it; what is doubtful or interesting is fitted once more."""
    rng = np.random.default_rng(3)
    calls = rng.binomial(2, 0.4, (9, 77)).astype(np.int8)
    null = null_model_of(rng.standard_normal(77), rng.standard_normal((77, 1)))
    packed, contigs = HardCalls.of(calls), np.full(9, "1", object)
    found = fit_block(null, packed, contigs, FitOptions(0, 0))
    assert toy == [(null.phenotype, "")]
    assert (found["status"] == Status.OK).all()
    # A toy's effect of k has |z| = k: from 4 on −log10 p is beyond 4.
    np.testing.assert_array_equal(found["add"][1:4], null.y_scale * np.arange(1, 4))
    joint = JOINT_PLAIN.reference(
        null.y,
        np.column_stack([null.mean_design, calls[0] - calls[0].mean()]),
        np.column_stack([null.variance_design, calls[0] - calls[0].mean()]),
    ).fit()
    assert found["add"][0] == pytest.approx(null.y_scale * joint.alpha[-1], rel=1e-6)
    assert (np.abs(found["add"][5:]) < 4).all()
    assert np.isfinite(found["add_neg_log10_p"]).all()

    size = ModelSize(1_500, 7, 1, 0)
    assert task_seconds(size, 10) == 30.0
    assert task_bytes(size, 10) > 5 << 30
    assert paths.path_of(warm_up.smallest_alike(size)) is paths.PATHS[0]
