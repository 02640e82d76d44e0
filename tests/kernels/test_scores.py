"""Scores at the null model: fast ones against plain ones, whichever kernel estimates effects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cohorts_by_hand import null_model_of, random_effects_of

from hlmm_scan.genotypes.blocks import BGEN_8_BIT, MISSING_CODE, Dosages, HardCalls
from hlmm_scan.genotypes.packing import pack
from hlmm_scan.kernels import limits, paths, prepared
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.covariances import degrees_of_freedom
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.scores.design import all_class_scores, classes_for, genotype_classes
from hlmm_scan.kernels.scores.p_values import score_tests
from hlmm_scan.kernels.scores.random_effects import class_scores
from hlmm_scan.kernels.scores.residual_bins import ResidualBins
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
    block = HardCalls.of(calls) if kind == "calls" else dosages_of(calls)
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
    found = fit_block(null, HardCalls.of(calls), contigs(40), FitOptions(0, 0))
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
    monkeypatch.setattr(limits, "WRITTEN_OUT_PEOPLE", 10)
    null, calls = cohort(900, 0, 12)
    calls = calls[:6] if missing else calls[6:]
    prepared.random_screen_design.cache_clear()
    design = prepared.random_screen_design(null, ALL_RANDOM_EFFECTS)
    screen = fit_random_screen(design, HardCalls.of(calls))
    packed = pack(calls)
    by_class = paths.CLASS_SCORES.made(null, ALL_RANDOM_EFFECTS, packed.shape[1])
    found = class_scores(by_class, packed)
    np.testing.assert_allclose(found[:, :2], screen.scores[:, :2], rtol=2e-5, atol=2e-5)
    # What the additive effect does to the score of h2 is left out.
    np.testing.assert_allclose(found[:, 2], screen.scores[:, 2], atol=0.02)
    prepared.random_screen_design.cache_clear()


def test_scores_with_random_effects_are_the_dense_ones():
    null, calls = cohort(200, 2, 9)
    plain = fit_hlmm_screen_plain(null, np.where(calls < 0, np.nan, calls).T, ALL_RANDOM_EFFECTS)
    design = prepared.random_screen_design(null, ALL_RANDOM_EFFECTS)
    found = fit_random_screen(design, HardCalls.of(calls))
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize(("covariates", "random"), [(0, 0), (3, 0), (0, 12)])
def test_a_trait_of_two_values_has_no_variance_test(covariates, random, share):
    null, calls = cohort(400, covariates, random, trait="binary", share=share)
    null = replace(null, two_valued=True)
    found = fit_block(null, HardCalls.of(calls), contigs(40), FitOptions(0, 20))
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
    found = fit_block(null, HardCalls.of(calls), contigs(1), FitOptions(0, 20))
    wald = abs(found["add"] / found["add_se"])[0]
    assert wald > 5
    assert found["add_neg_log10_p"][0] < 3


def test_degrees_of_freedom_are_those_of_the_covariates():
    assert degrees_of_freedom(433, 1, 1) == (1.0, 1.0)
    add, var = degrees_of_freedom(433, 11, 2)
    assert 1.01 < add < 1.05 < var < 1.1


@pytest.mark.parametrize("random", [0, 12])
def test_a_large_residual_of_large_weight_makes_no_small_p_values(random):
    """Covariates of the variance may weigh it up; its score then varies more than the model says.

    By weights alone an eighth of these p-values is below 0.05.
    """
    n, m = 200, 4_000
    rng = np.random.default_rng(3)
    X = rng.normal(size=(n, 4))
    y = rng.lognormal(size=n) * np.exp(0.2 * X[:, 0])
    effects = random_effects_of(n, ["2"] * random, 3) if random else None
    if effects is not None:
        y = y + effects.columns @ rng.normal(size=random) / np.sqrt(random)
    null = null_model_of(y, X, X[:, :3], np.arange(n), effects)
    calls = rng.binomial(2, rng.uniform(0.3, 0.5, m)[:, None], (m, n)).astype(np.int8)
    found = fit_block(null, HardCalls.of(calls), contigs(m), FitOptions(0, 0, screen=True))
    rejected = (found["add_neg_log10_p"] > -np.log10(0.05)).mean()
    assert rejected == pytest.approx(0.05, abs=0.015)


# ----------------------------------------------------------------------------- imputed dosages


def imputed(info: float, alleles: tuple[float, float], m: int, n: int, seed: int) -> Dosages:
    """Probabilities of each allele are beta, as those of an imputation of that info."""
    rng, weight = np.random.default_rng(seed), 1.0 / info - 1.0
    f = rng.uniform(*alleles, m)[:, None] / (2 * n)
    both = sum(rng.beta(f * weight, (1 - f) * weight, (m, n)) for _ in range(2))
    return Dosages(np.round(both / BGEN_8_BIT).astype(np.uint16), BGEN_8_BIT)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("alleles", [(20, 50), (200, 400), (2900, 3100)])
@pytest.mark.parametrize("info", [0.3, 0.9])
def test_classes_of_dosages_keep_people_and_moments(info, alleles, swapped):
    dosages, n = imputed(info, alleles, 30, 3_000, 5), 3_000
    codes = dosages.codes.copy()
    if swapped:
        codes = (dosages.steps - codes).astype(np.uint16)
    codes[:, :100] = MISSING_CODE
    dosages = Dosages(codes, dosages.unit)
    samples = np.arange(0, n, 2)
    counts = GenotypeCounts.of(dosages, samples)
    people, copies = genotype_classes(dosages, np.arange(30), counts, samples)
    own = np.where(codes <= dosages.steps, codes * (2.0 / dosages.steps), np.nan)[:, samples]
    assert (people >= 0).all()
    within = (copies >= np.nanmin(own, axis=1)[:, None] - 1e-9) & (copies <= 2)
    assert (within | (people == 0)).all()
    there = ~np.isnan(own)
    for power in (0, 1, 2):
        np.testing.assert_allclose(
            (people * copies**power).sum(axis=1), (own**power).sum(axis=1, where=there), rtol=1e-9
        )


@pytest.mark.parametrize("alleles", [(20, 50), (500, 3000)], ids=["rare", "common"])
@pytest.mark.parametrize("info", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("trait", ["normal", "gamma", "log-normal"])
def test_a_few_classes_tell_the_tail_of_imputed_alleles(trait, info, alleles):
    """A false hit is what must not be: one class for all who have next to no copy made many.

    And one person who has most of a trait's variance must not be given their class's mean dosage.
    """
    n, m = 3_000, 150
    draw = {
        "normal": lambda rng: rng.standard_normal(n),
        "gamma": lambda rng: rng.gamma(2, size=n),
        "log-normal": lambda rng: rng.lognormal(size=n),
    }[trait]
    dosages, samples = imputed(info, alleles, m, n, 6), np.arange(n)
    counts = GenotypeCounts.of(dosages, samples)
    g = dosages.codes * (2.0 / dosages.steps)
    values = [np.unique(row, return_counts=True) for row in g]
    size = max(len(v) for v, _ in values)
    all_people, all_copies = np.zeros((2, m, size))
    for j, (value, number) in enumerate(values):
        all_people[j, : len(value)], all_copies[j, : len(value)] = number, value
    differences = []
    for seed in range(6):
        y = draw(np.random.default_rng(seed))
        s = (y - y.mean()) / y.std()
        q = s**2 - 1
        bins = ResidualBins.of(s, q)
        few = genotype_classes(dosages, np.arange(m), counts, samples, classes_for(s, q))
        x = g - g.mean(axis=1, keepdims=True)
        squares = (x**2).sum(axis=1)
        alpha = x @ s / squares
        score_b = x @ q - 2 * alpha * (x**2 @ s) + alpha**2 * (x**3).sum(axis=1)
        scores = np.column_stack([x @ s, x @ q, score_b])
        found = score_tests(bins, *few, scores)
        # Saddlepoints of 500 classes take a second or more each.
        rows = np.maximum.reduce([found.add, found.var, found.av]) > 1
        exact = score_tests(bins, all_people[rows], all_copies[rows], scores[rows])
        for name in ("add", "var", "av"):
            told, right = getattr(found, name)[rows], getattr(exact, name)
            tail = np.maximum(told, right) > 2
            differences.extend((told - right)[tail])
    assert len(differences) > 15
    assert max(differences) < 0.06
    assert min(differences) > {"normal": -0.15, "gamma": -0.25, "log-normal": -0.6}[trait]
