"""The score screen of the HLM: its plain formula, the joint fits it stands for, calibration."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from cohorts_by_hand import null_model_of
from screened_cohorts import (
    BLOCKS,
    blocks_of_other_sizes,
    correlated_calls,
    dense_model,
    gaps,
    screened_cohort,
    without_estimate,
    z_scores,
)

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels.estimates import Estimates
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.joint.fit import fit_joint
from hlmm_scan.kernels.screen import fit as hlm_screen
from hlmm_scan.kernels.screen.fit import ScreenDesign, fit_screen
from hlmm_scan.kernels.screen.plain import fit_screen_plain
from hlmm_scan.models.robust import studentised_covariance
from hlmm_scan.schema import Status


def run_fast(null, calls, of=HardCalls.of) -> Estimates:
    block = of(calls)
    counts = GenotypeCounts.of(block, null.samples)
    return fit_screen(ScreenDesign.of(null, block.width), block, counts)


def run_plain(null, calls, of=HardCalls.of) -> Estimates:
    return fit_screen_plain(null, of(calls).copies(null.samples).T)


RUN = {"fast": run_fast, "plain": run_plain}


CASES = {
    "no covariates": {"c": 0},
    "in the mean": {},
    "in both": {"v": 3},
    "in both, different": {"c": 2, "v": 4, "own": True},
    "in the variance": {"c": 0, "v": 2},
    "twenty": {"c": 20, "v": 20, "n": 4001},
    "strong effect": {"v": 3, "effect": 1.0},
    "independent of the genotype": {"correlation": 0.0},
    "no covariates, missing": {"c": 0, "missing": 0.05},
}


@pytest.mark.parametrize("of", BLOCKS)
@pytest.mark.parametrize("case", CASES)
def test_as_the_plain_formula(case, of):
    """1e-3 of a standard error is asked for; quantising costs less than 1e-5."""
    null, calls = screened_cohort(**CASES[case])
    found, wanted = (run(null, calls, BLOCKS[of]) for run in RUN.values())
    assert (found.status == Status.SCREENED).all()
    assert (wanted.status == Status.SCREENED).all()
    gap = gaps(found, wanted)
    assert gap["add"] < 1e-5
    assert gap["var"] < (3e-5 if "no covariates" in case else 5e-4)
    assert max(gap["add_se"], gap["var_se"], gap["var_robust"]) < 3e-6
    assert gap["robust"] < 5e-3
    assert gap["log_likelihood"] < 2e-3


@pytest.mark.parametrize("kind", [{}, {"v": 3}])
def test_missing_calls_cost_a_little_accuracy_where_covariates_explain_the_genotype(kind):
    """Of Gram matrices of the people called, only the share of the whole is known."""
    null, calls = screened_cohort(missing=0.03, n=4001, **kind)
    gap = gaps(run_fast(null, calls), run_plain(null, calls))
    assert max(gap["add"], gap["var"], gap["add_se"], gap["var_se"]) < 0.015


@pytest.mark.parametrize("run", RUN)
@pytest.mark.parametrize("kind", [{"c": 0}, {"c": 2, "v": 2}])
def test_one_scoring_step_of_the_dense_model(run, kind):
    """The additive effect first, then the gradient of the variance effect at the new mean."""
    null, calls = screened_cohort(n=403, m=3, **kind)
    fit, found = null.fits[""], RUN[run](null, calls)
    for j, row in enumerate(calls):
        g = row - row.mean()
        X, V = np.column_stack([null.mean_design, g]), np.column_stack([null.variance_design, g])
        model, beta = dense_model()(null.y, X, V), np.append(fit.beta, 0.0)
        p, q = X.shape[1], X.shape[1] + V.shape[1]
        covariance = np.linalg.inv(model.expected_information(beta))
        start = np.append(fit.alpha, 0.0)
        mean = start - 0.5 * covariance[:p, :p] @ model.gradient(start, beta)[:p]
        step = -0.5 * covariance[p:q, p:q] @ model.gradient(mean, beta)[p:q]
        np.testing.assert_allclose(found.add[j], mean[-1], rtol=1e-4)
        np.testing.assert_allclose(found.var[j], step[-1], atol=1e-3 * covariance[-1, -1] ** 0.5)
        np.testing.assert_allclose(found.add_variance[j], covariance[p - 1, p - 1], rtol=1e-5)
        np.testing.assert_allclose(found.var_variance[j], covariance[-1, -1], rtol=1e-5)
        robust = studentised_covariance(X, V, beta, fit.moments)
        np.testing.assert_allclose(found.var_variance_robust[j], robust[-1, -1], rtol=1e-5)
        scale = np.sqrt(covariance[p - 1, p - 1] * covariance[-1, -1])
        np.testing.assert_allclose(
            found.add_var_covariance_robust[j], robust[p - 1, -1], rtol=0, atol=2e-2 * scale
        )
        restricted = dense_model()(null.y, X[:, :-1], V[:, :-1])
        z = np.square(z_scores(found))[:, j].sum()
        level = restricted.log_likelihood(fit.alpha, fit.beta)
        np.testing.assert_allclose(found.log_likelihood[j], level + 0.5 * z, atol=1e-3)


@pytest.mark.parametrize("of", BLOCKS)
@pytest.mark.parametrize("missing", [0.0, 0.02])
def test_a_variant_does_not_know_its_block(missing, of, monkeypatch):
    """Bit for bit, but for the few that are summed up person by person."""
    null, calls = screened_cohort(v=2, m=150, missing=missing, effect=0.3)
    block = BLOCKS[of](calls)
    design = ScreenDesign.of(null, block.width)
    for threshold in (0.0, np.inf):
        monkeypatch.setattr(hlm_screen, "_SECOND_ORDER", threshold)
        counts = GenotypeCounts.of(block, null.samples)
        whole = fit_screen(design, block, counts)
        for rows in blocks_of_other_sizes(150):
            part = fit_screen(design, block.take(rows), counts.take(rows))
            np.testing.assert_array_equal(part.add, whole.add[rows])
            error = np.abs(part.var - whole.var[rows]) / np.sqrt(part.var_variance)
            assert error.max() <= (1e-10 if threshold == 0 else 0)


def test_agrees_with_joint_fits_where_effects_are_small():
    """The step stops short of the maximum by terms of order z³/√n."""
    null, calls = screened_cohort(n=6000, c=4, v=2, m=40, effect=0.03)
    fit = null.fits[""]
    joint = fit_joint(
        JointDesign(null.y, null.mean_design, null.variance_design, fit.alpha, fit.beta),
        calls.T.astype(float),
    )
    found = run_fast(null, calls)
    largest = np.maximum(1, np.abs(z_scores(joint)).max(axis=0))
    for one, other in zip(z_scores(found), z_scores(joint), strict=True):
        assert (np.abs(one - other) < 6 * largest**3 / np.sqrt(null.n)).all()
        assert np.corrcoef(one, other)[0, 1] > 0.999


@pytest.mark.parametrize("c", [0, 2])
def test_a_strong_additive_effect_does_not_leak_into_the_variance(c):
    """At raw null residuals z_b would be z_a²(1−2p)/√(2n·2pq) = 8 on average (math.md §5)."""
    rng = np.random.default_rng(5)
    n, found = 20_000, []
    for _ in range(12):
        covariates = rng.standard_normal((n, c))
        calls = rng.binomial(2, 0.1, (1, n)).astype(np.int8)
        null = null_model_of(0.5 * calls[0] + rng.standard_normal(n), covariates)
        found.append(np.ravel(z_scores(run_fast(null, calls))))
    z_a, z_b = np.array(found).T
    assert 27 < z_a.mean() < 32
    assert abs(z_b.mean()) < 4 / np.sqrt(12)
    assert np.abs(z_b).max() < 4


def test_null_statistics_are_calibrated_where_covariates_go_with_the_genotype():
    rng = np.random.default_rng(6)
    n, z = 2000, []
    for _ in range(8):
        covariates = rng.standard_normal((n, 3))
        calls = correlated_calls(rng, covariates[:, 0], 400, 0.5)
        y = covariates @ [0.8, 0.3, 0.0] + np.exp(0.3 * covariates[:, 0]) * rng.standard_normal(n)
        null = null_model_of(y, covariates, covariates[:, :1])
        z.append(z_scores(run_fast(null, calls)))
    for values in np.array(z).transpose(1, 0, 2):
        assert 0.9 < np.median(values**2) / 0.4549 < 1.1
        assert abs(values.mean()) < 0.2


def test_studentised_errors_grow_with_the_kurtosis():
    rng = np.random.default_rng(7)
    calls = rng.binomial(2, 0.3, (200, 3000)).astype(np.int8)
    ratios = []
    for _ in range(6):
        null = null_model_of(rng.gamma(2.0, size=3000))
        found = run_fast(null, calls)
        ratios.append([np.median(found.var**2 / v) / 0.4549 for v in (
            found.var_variance, found.var_variance_robust)])  # fmt: skip
    model, robust = np.mean(ratios, axis=0)
    assert model > 1.8
    assert 0.8 < robust < 1.2


@pytest.mark.parametrize("run", RUN)
def test_what_has_no_estimate(run):
    """Each has its status, and the neighbours do not suffer."""
    null, good = screened_cohort(n=800, c=2, v=2, m=8)
    covariate = np.random.default_rng(8).integers(0, 3, 800).astype(np.int8)
    null = null_model_of(null.y, np.column_stack([null.mean_design[:, 1], covariate]))
    calls = without_estimate(good, covariate)
    found = RUN[run](null, calls)
    expected = [Status.NOT_UNIQUE] * 8
    expected[0] = expected[7] = Status.SCREENED
    assert found.status.tolist() == expected
    assert np.isnan(found.add[1:7]).all()
    alone = RUN[run](null, calls[[0, 7]])
    np.testing.assert_array_equal(found.var[[0, 7]], alone.var)


def test_people_who_are_not_analysed_do_not_count():
    """And neither the unit of the phenotype nor the coded allele matters."""
    rng = np.random.default_rng(9)
    calls = rng.binomial(2, 0.4, (5, 1203)).astype(np.int8)
    samples = np.flatnonzero(rng.random(1203) < 0.7)
    y = rng.standard_normal(len(samples))
    found = run_fast(null_model_of(y, samples=samples), calls)
    alone = run_fast(null_model_of(1e-12 * y), calls[:, samples])
    flipped = run_fast(null_model_of(1e12 * y), 2 - calls[:, samples])
    for other, sign in ((alone, 1), (flipped, -1)):
        for one, two in zip(z_scores(found), z_scores(other), strict=True):
            np.testing.assert_allclose(one, sign * two, rtol=0, atol=1e-5)


def test_nothing_to_do():
    null, calls = screened_cohort(n=200)
    assert len(run_fast(null, calls[:0]).add) == 0


@pytest.mark.parametrize("of", BLOCKS)
@pytest.mark.parametrize("v", [0, 10])
def test_memory_formula_is_a_bound_and_not_a_loose_one(v, of):
    null, calls = screened_cohort(n=20_000, c=10, v=v, m=64)
    block, of_dosages = BLOCKS[of](calls), of == "dosages"
    run_fast(null, calls[:2], BLOCKS[of])
    counts = GenotypeCounts.of(block, null.samples)
    tracemalloc.start()
    fit_screen(ScreenDesign.of(null, block.width), block, counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    planned = hlm_screen.work_bytes(64, 20_000, 20_000, 11, 1 + v, dosages=of_dosages)
    assert peak <= planned <= 4 * peak
