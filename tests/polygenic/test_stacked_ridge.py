"""Stacked ridge beside its plain form, and bits that know nothing of what runs beside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.cohort.cohort import Cohort
from hlmm_scan.cohort.design import build_design
from hlmm_scan.polygenic import plain, whole
from hlmm_scan.polygenic.folds import folds_of
from hlmm_scan.polygenic.level0 import BlockSums, fit_block, predictors
from hlmm_scan.polygenic.level1 import stack
from hlmm_scan.polygenic.people import People

SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)
N, M, CHROMOSOMES = 300, 72, 3
N_FOLDS = 5


class Arrays:
    """Codes, covariates and traits in memory."""

    def __init__(self, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.codes = rng.binomial(2, rng.uniform(0.1, 0.5, (M, 1)), (M, N)).astype(np.uint8)
        self.codes *= whole.STEPS
        self.codes[5] = whole.STEPS  # constant
        self.codes[7] = self.codes[6]
        self.codes[9, ::3] = 13  # a dosage
        self.covariates = rng.normal(size=(N, 2))
        self.folds = rng.integers(0, N_FOLDS, N).astype(np.int8)
        self.blocks = np.array_split(np.arange(M), 6)
        self.of_chromosome = [0, 0, 1, 1, 2, 2]
        self.rows = [
            np.arange(N),
            np.flatnonzero(rng.random(N) > 0.1),
            np.arange(N),
            np.flatnonzero(rng.random(N) > 0.7),
        ]
        x = self.codes.T.astype(float)
        self.y = []
        for _ in self.rows:
            genetic = (x - x.mean(0)) @ rng.normal(size=M)
            self.y.append(
                40 * genetic / genetic.std() + 30 * rng.normal(size=N) + self.covariates[:, 0]
            )
        self.y[2] = rng.normal(size=N)  # nothing to predict

    def cohort(self, trait: int) -> Cohort:
        rows, name = self.rows[trait], f"t{trait}"
        design = build_design(self.covariates[rows], ("x", "z"), "mean", name)
        return Cohort(name, rows, self.y[trait][rows], design, design, (), N, 0)

    def predict(self, traits: list[int], order: int = 1, folds=None) -> dict:
        """Predict traits by both levels; blocks from the first, or from the last."""
        people = People.of([self.cohort(t) for t in traits], self.folds if folds is None else folds)
        penalties = [M * (1 - share) / share for share in SHARES]
        found: dict = {}
        for number in range(len(self.blocks))[::order]:
            codes = self.codes[self.blocks[number]][:, people.samples]
            for trait, made in predictors(codes, people, penalties):
                found[number, trait] = made
        results = {}
        for number, trait in enumerate(traits):
            group = people.group_of[number]
            one = np.concatenate([found[k, number] for k in range(len(self.blocks))])
            result = stack(
                one[:, group.rows],
                np.repeat(self.of_chromosome, len(SHARES)),
                group.response(people, number),
                group.edges(people),
                SHARES,
                CHROMOSOMES,
            )
            full = np.full((CHROMOSOMES, N), np.nan)
            full[:, people.samples[group.rows]] = result.prediction * people.units[number]
            results[trait] = full, result.cv_r2, result.heritability
        return results


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return Arrays()


@pytest.fixture(scope="module")
def together(arrays) -> dict:
    return arrays.predict([0, 1, 2, 3])


@pytest.mark.parametrize("trait", [0, 1, 2, 3])
def test_predictions_are_those_of_the_plain_form(arrays, together, trait):
    rows = arrays.rows[trait]
    expected = plain.stacked_ridge(
        arrays.codes.T[rows] / whole.STEPS,
        arrays.blocks,
        arrays.of_chromosome,
        arrays.y[trait][rows],
        np.column_stack([np.ones(len(rows)), arrays.covariates[rows]]),
        arrays.folds[rows],
        SHARES,
        CHROMOSOMES,
    )
    prediction, r2, heritability = together[trait]
    assert heritability == expected.heritability
    assert abs(r2 - expected.cv_r2) < 1e-4
    spread = max(float(expected.prediction.std()), 1e-3)
    assert np.abs(prediction[:, rows] - expected.prediction).max() < 1e-2 * spread
    assert np.isnan(np.delete(prediction, rows, axis=1)).all()
    assert (trait == 2) == (r2 < 0.05)


@pytest.mark.parametrize("traits", [[0], [1], [2], [3], [3, 1], [2, 0], [1, 2, 3]])
@pytest.mark.parametrize("order", [1, -1])
def test_bits_do_not_depend_on_traits_beside_it_or_on_the_order(arrays, together, traits, order):
    for trait, found in arrays.predict(traits, order).items():
        assert np.array_equal(found[0], together[trait][0], equal_nan=True)
        assert found[1:] == together[trait][1:]


def test_a_fold_that_nobody_is_in_changes_nothing(arrays, together):
    spread = np.array([0, 2, 3, 5, 6], np.int8)[arrays.folds]
    for trait, found in arrays.predict([0, 1], folds=spread).items():
        assert np.array_equal(found[0], together[trait][0], equal_nan=True)


@settings(max_examples=12)
@given(st.integers(1, 5000), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_sums_of_whole_numbers_are_exact(n, m, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 65, (m, n)).astype(np.uint8)
    exact = codes.astype(np.int64)
    assert np.array_equal(whole.gram(codes), exact @ exact.T)
    bits = whole.bits_left(whole.CODE_BITS, n)
    values = rng.normal(size=(n, 2)) * [1e-300, 1e9]
    rounded, exponent = whole.whole(values, bits)
    assert np.abs(rounded).max() <= 2.0**bits
    expected = exact.astype(object) @ rounded.astype(np.int64).astype(object)
    assert (whole.product(codes, rounded).astype(object) == expected).all()
    error = np.abs(np.ldexp(rounded, exponent) - values).max(axis=0)
    assert (error <= 2.0**-bits * np.abs(values).max(axis=0)).all()
    weights, _ = whole.whole(rng.normal(size=(m, 3)), whole.bits_left(whole.CODE_BITS, m))
    expected = exact.T.astype(object) @ weights.astype(np.int64).astype(object)
    assert (whole.combination(codes, weights).astype(object) == expected).all()
    some = rng.integers(-(2**14), 2**14 + 1, (m, n)).astype(np.int16)
    wide = some.astype(np.int64)
    assert np.array_equal(whole.gram_of_predictors(some), wide @ wide.T)


def test_folds_stay_where_people_are_added():
    ids = [f"p{k}" for k in range(2000)]
    folds = folds_of(ids, N_FOLDS)
    assert np.array_equal(folds_of(["new", *ids], N_FOLDS)[1:], folds)
    assert np.bincount(folds).min() > 320


@pytest.mark.parametrize("others", [[0, 2], [2, 0], [3, 0, 1], [1, 2, 3, 0]])
@pytest.mark.parametrize("n_covariates", [0, 2])
def test_ridge_weights_have_the_bits_of_the_trait_alone(arrays, others, n_covariates):
    """Before predictors are rounded, which would hide nearly all differences."""

    def weights_of(traits):
        cohorts = [arrays.cohort(t) for t in traits]
        if not n_covariates:
            cohorts = [replace(c, mean_design=intercept(c)) for c in cohorts]
        people = People.of(cohorts, arrays.folds)
        group = people.group_of[traits.index(0)]
        sums = BlockSums(arrays.codes[:40][:, people.samples], people)
        at = group.traits.index(traits.index(0))
        found = fit_block(sums, group, [0.5, 100.0])
        return found.weights[:, at], found.of_covariates[:, at]

    for alone, together in zip(weights_of([0]), weights_of(others), strict=True):
        assert np.array_equal(alone, together)


def intercept(cohort):
    return build_design(np.zeros((len(cohort), 0)), (), "mean", cohort.phenotype)
