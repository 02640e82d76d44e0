"""Scores at the null model: fast ones against plain ones, whichever kernel estimates effects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cohorts_by_hand import null_model_of, random_effects_of

from hlmm_scan.genotypes.dosages import BGEN_8_BIT, Dosages
from hlmm_scan.genotypes.packing import pack
from hlmm_scan.kernels import prepared
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.covariances import degrees_of_freedom
from hlmm_scan.kernels.scores.design import all_class_scores
from hlmm_scan.kernels.scores.random_effects import class_scores
from hlmm_scan.kernels.screen.plain import fit_hlmm_screen_plain, fit_screen_plain
from hlmm_scan.kernels.screen.random_effects import fit_random_screen
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS
from hlmm_scan.schema import ScoreFlag

TESTS = ("add_neg_log10_p", "var_neg_log10_p", "av_neg_log10_p", "test_flags")


def contigs(m: int) -> np.ndarray:
    return np.array(["1"] * m, dtype=object)


def cohort(n: int, covariates: int, random: int, seed: int = 1, trait: str = "t5", share=0.2):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, covariates))
    y = rng.standard_t(5, size=n) if trait == "t5" else (np.arange(n) < share * n).astype(float)
    effects = None
    if random:
        effects = random_effects_of(n, ["2"] * random, seed)
        y = y + 0.5 * effects.columns @ rng.normal(size=random) / np.sqrt(random)
    if covariates:
        y = y * np.exp(0.2 * X[:, 0]) + X.sum(axis=1)
    null = null_model_of(y, X, X[:, :1], np.arange(n), effects)
    calls = rng.binomial(2, rng.uniform(0.02, 0.5, 40)[:, None], (40, n)).astype(np.int8)
    calls[:6][rng.random((6, n)) < 0.02] = -1
    return null, calls


def dosages_of(calls: np.ndarray, seed: int = 2) -> Dosages:
    rng = np.random.default_rng(seed)
    codes = np.clip(calls.astype(int) * 255 + rng.integers(-80, 81, calls.shape), 0, 510)
    return Dosages(np.where(calls < 0, 65_535, codes).astype(np.uint16), BGEN_8_BIT)


@pytest.mark.parametrize("kind", ["calls", "dosages"])
@pytest.mark.parametrize(("covariates", "random"), [(0, 0), (3, 0), (0, 12), (2, 12)])
def test_maximum_likelihood_and_one_step_have_the_same_tests(covariates, random, kind):
    null, calls = cohort(300, covariates, random)
    block = pack(calls) if kind == "calls" else dosages_of(calls)
    options = {"min_maf": 0.0, "min_mac": 5.0}
    exact = fit_block(null, block, contigs(40), FitOptions(**options))
    step = fit_block(null, block, contigs(40), FitOptions(**options, screen=True))
    refined = FitOptions(**options, screen=True, refine_below=0.3)
    again = fit_block(null, block, contigs(40), refined)
    assert np.isfinite(exact["add_neg_log10_p"]).sum() > 30
    for name in TESTS:
        np.testing.assert_array_equal(step[name], exact[name])
        np.testing.assert_array_equal(again[name], exact[name])


def test_scores_of_class_sums_are_the_plain_ones():
    null, calls = cohort(301, 0, 0)
    plain = fit_screen_plain(null, np.where(calls < 0, np.nan, calls).T)
    found = fit_block(null, pack(calls), contigs(40), FitOptions(0, 0))
    sums = prepared.class_sums_plan((null,), pack(calls).shape[1]).sums(pack(calls))[0]
    scores, (fit,) = np.empty((40, 3)), null.fits.values()
    all_class_scores(
        sums, float(fit.alpha[0]), float(np.exp(fit.beta[0])), fit.fourth_moment, scores
    )
    complete = (calls >= 0).all(axis=1)
    np.testing.assert_allclose(scores[complete], plain.scores[complete], rtol=1e-9, atol=1e-9)
    assert np.isfinite(found["var_neg_log10_p"]).all()


@pytest.mark.parametrize("missing", [False, True])
def test_scores_by_class_with_random_effects_are_those_of_the_screen(missing, monkeypatch):
    """Where M∘M is its diagonal and a mean for both."""
    from hlmm_scan.kernels.screen import random_effects_design as hlmm_screen_design

    monkeypatch.setattr(hlmm_screen_design, "WRITTEN_OUT_PEOPLE", 10)
    null, calls = cohort(900, 0, 12)
    calls = calls[:6] if missing else calls[6:]
    prepared.random_screen_design.cache_clear()
    design = prepared.random_screen_design(null, ALL_RANDOM_EFFECTS)
    screen = fit_random_screen(null, pack(calls), contigs(len(calls)), {"": design})
    packed = pack(calls)
    by_class = prepared.class_score_design(null, ALL_RANDOM_EFFECTS, packed.shape[1])
    found = class_scores(by_class, packed)
    np.testing.assert_allclose(found[:, :2], screen.scores[:, :2], rtol=2e-5, atol=2e-5)
    # What the additive effect does to the score of h2 is left out.
    np.testing.assert_allclose(found[:, 2], screen.scores[:, 2], atol=0.02)
    prepared.random_screen_design.cache_clear()


def test_scores_with_random_effects_are_the_dense_ones():
    null, calls = cohort(200, 2, 9)
    plain = fit_hlmm_screen_plain(null, np.where(calls < 0, np.nan, calls).T, ALL_RANDOM_EFFECTS)
    design = prepared.random_screen_design(null, ALL_RANDOM_EFFECTS)
    found = fit_random_screen(null, pack(calls), contigs(40), {ALL_RANDOM_EFFECTS: design})
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize(("covariates", "random"), [(0, 0), (3, 0), (0, 12)])
def test_a_trait_of_two_values_has_no_variance_test(covariates, random, share):
    null, calls = cohort(400, covariates, random, trait="binary", share=share)
    null = replace(null, two_valued=True)
    found = fit_block(null, pack(calls), contigs(40), FitOptions(0, 20))
    tested = np.isfinite(found["add_neg_log10_p"])
    assert tested.any()
    assert np.isnan(found["var_neg_log10_p"]).all()
    np.testing.assert_array_equal(found["av_neg_log10_p"], found["add_neg_log10_p"])
    assert (found["test_flags"][tested] & ScoreFlag.VAR_UNKNOWN).all()


def test_rare_carriers_who_are_alike_are_no_discovery():
    """A Wald test takes the weight of the carriers from the fit, and has p = 1e-12 here."""
    rng = np.random.default_rng(11)
    y = rng.normal(size=3_000)
    near = np.argsort(np.abs(y - y.mean() - 0.4))[:2_000]
    calls = np.zeros((1, 3_000), np.int8)
    calls[0, rng.choice(near[:600], 20, replace=False)] = 1
    null = null_model_of(y, np.empty((3_000, 0)), np.empty((3_000, 0)), np.arange(3_000))
    found = fit_block(null, pack(calls), contigs(1), FitOptions(0, 20))
    wald = abs(found["add"] / found["add_se"])[0]
    assert wald > 5
    assert found["add_neg_log10_p"][0] < 3


def test_degrees_of_freedom_are_those_of_the_covariates():
    assert degrees_of_freedom(433, 1, 1) == (1.0, 1.0)
    add, var = degrees_of_freedom(433, 11, 2)
    assert 1.01 < add < 1.05 < var < 1.1
