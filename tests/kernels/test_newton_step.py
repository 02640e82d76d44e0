"""The class fit and its Newton step: its plain formula, the maximum it stands for, its bound."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from cohorts_by_hand import null_model_of
from hypothesis import given, settings
from hypothesis import strategies as st
from screened_cohorts import (
    BLOCKS,
    blocks_of_other_sizes,
    correlated_calls,
    screened_cohort,
    without_estimate,
)

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels import block as blocks
from hlmm_scan.kernels import paths
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.joint.fit import fit_joint
from hlmm_scan.kernels.newton_step import fit as newton_step
from hlmm_scan.kernels.newton_step.design import NewtonDesign, whitening
from hlmm_scan.kernels.newton_step.fit import fit_newton_step
from hlmm_scan.kernels.newton_step.plain import fit_newton_step_plain
from hlmm_scan.kernels.screen.fit import ScreenDesign, fit_screen
from hlmm_scan.kernels.variants import Variants
from hlmm_scan.schema import Status

COLUMNS = [name for name in vars(Estimates.empty(1)) if name != "status"]


def stepped(null, calls, inference=DEFAULT_INFERENCE, of=HardCalls.of) -> Estimates:
    block = of(calls)
    counts = GenotypeCounts.of(block, null.samples)
    return fit_newton_step(NewtonDesign.of(null, block.width), block, counts, inference)


def scanned(null, calls, inference=DEFAULT_INFERENCE, of=HardCalls.of) -> Estimates:
    """What a scan gets, with what the bound leaves fitted again."""
    genotypes = of(calls)
    counts = GenotypeCounts.of(genotypes, null.samples)
    contigs = np.full(len(calls), "1", object)
    size = ModelSize.of(null, dosages=genotypes.unit > 0)
    variants = Variants(null, size, genotypes, counts, contigs, inference)
    return blocks.fit(paths.NEWTON_STEP, variants)


def maximum(null, calls, inference=DEFAULT_INFERENCE, of=HardCalls.of) -> Estimates:
    return fit_joint(JointDesign.of(null), of(calls).copies(null.samples).T, inference)


def distance(found: Estimates, wanted: Estimates, rows=slice(None)) -> float:
    """Largest of the effects' differences, in standard errors."""
    gaps = [
        (getattr(found, k) - getattr(wanted, k))[rows]
        / getattr(wanted, f"{k}_variance")[rows] ** 0.5
        for k in ("add", "var")
    ]
    return float(np.abs(gaps).max(initial=0.0))


CASES = {
    "in the mean": {},
    "in both": {"v": 3},
    "in both, different": {"c": 2, "v": 4, "own": True},
    "in the variance": {"c": 0, "v": 2},
    "twenty": {"c": 20, "v": 20, "n": 4001},
    "strong effect": {"v": 3, "effect": 0.6},
    "independent of the genotype": {"correlation": 0.0, "v": 2},
    "missing": {"v": 3, "missing": 0.03},
}


@pytest.mark.parametrize("of", BLOCKS)
@pytest.mark.parametrize("case", CASES)
def test_as_the_plain_formula(case, of, monkeypatch):
    """Quantising costs less than 1e-5 of a standard error, whatever is left to the maximum.

    Polynomials through the three whole dosages cost less than the one step.
    """
    monkeypatch.setattr(newton_step, "_ALLOWED", np.inf)
    null, calls = screened_cohort(**CASES[case])
    found = stepped(null, calls, of=BLOCKS[of])
    wanted = fit_newton_step_plain(null, BLOCKS[of](calls).copies(null.samples).T)
    assert (found.status == Status.OK).all()
    assert (wanted.status == Status.OK).all()
    left = distance(wanted, maximum(null, calls, of=BLOCKS[of]))
    exactly, share = of == "calls", 0.2 * left
    assert distance(found, wanted) < (1e-5 if exactly else share)
    for name in ("add_variance", "var_variance"):
        gap = np.abs(getattr(found, name) / getattr(wanted, name) - 1).max()
        assert gap < (1e-5 if exactly else 5e-3)
    gap = np.abs(found.log_likelihood - wanted.log_likelihood).max()
    assert gap < (1e-4 if exactly else 0.2 * left + 1e-3)


@pytest.mark.parametrize("of", BLOCKS)
@pytest.mark.parametrize("case", CASES)
def test_the_maximum_to_a_thousandth_of_a_standard_error(case, of):
    null, calls = screened_cohort(**CASES[case])
    found, wanted = (fit(null, calls, of=BLOCKS[of]) for fit in (scanned, maximum))
    np.testing.assert_array_equal(found.status, wanted.status)
    assert distance(found, wanted) < 1e-3
    for name in ("add_variance", "var_variance", "var_variance_robust"):
        assert np.abs(getattr(found, name) / getattr(wanted, name) - 1).max() < 3e-3
    both = (found.add_var_covariance_robust - wanted.add_var_covariance_robust) / np.sqrt(
        wanted.add_variance * wanted.var_variance
    )
    assert np.abs(both).max() < 5e-3
    assert np.abs(found.log_likelihood - wanted.log_likelihood).max() < 2e-3


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(400, 6000),
    c=st.integers(0, 8),
    v=st.integers(0, 8),
    own=st.booleans(),
    correlation=st.sampled_from([0.0, 0.05, 0.2, 0.6]),
    effect=st.sampled_from([0.0, 0.1, 0.3]),
    missing=st.sampled_from([0.0, 0.02]),
    of=st.sampled_from(list(BLOCKS)),
    seed=st.integers(0, 10**6),
)
def test_what_the_bound_lets_pass_is_at_the_maximum(
    n, c, v, own, correlation, effect, missing, of, seed
):
    null, calls = screened_cohort(
        n, c, v, 12, own=own and v > 0, correlation=correlation, effect=effect, missing=missing,
        seed=seed,
    )  # fmt: skip
    found = stepped(null, calls, of=BLOCKS[of])
    passed = np.flatnonzero(found.status == Status.OK)
    assert distance(found, maximum(null, calls, of=BLOCKS[of]), passed) < 1e-3


def test_hardly_any_variant_of_a_large_cohort_is_left_to_another_kernel():
    rng = np.random.default_rng(3)
    n = 30_000
    covariates = rng.standard_normal((n, 6))
    calls = rng.binomial(2, rng.uniform(0.01, 0.5, (200, 1)), (200, n)).astype(np.int8)
    y = np.exp(0.1 * covariates[:, 0]) * rng.standard_normal(n) + covariates @ np.full(6, 0.2)
    null = null_model_of(y + 0.05 * (calls[0] - 1.0), covariates, covariates[:, :3])
    found = stepped(null, calls)
    assert (found.status == Status.OK).mean() > 0.98
    some = np.flatnonzero(found.status == Status.OK)[:16]
    few, wanted = stepped(null, calls[some]), maximum(null, calls[some])
    assert distance(few, wanted) < 1e-4


@pytest.mark.parametrize("of", BLOCKS)
@pytest.mark.parametrize("missing", [0.0, 0.02])
def test_a_variant_does_not_know_its_block(missing, of):
    """Bit for bit."""
    null, calls = screened_cohort(v=2, m=150, missing=missing, correlation=0.1)
    block = BLOCKS[of](calls)
    design = NewtonDesign.of(null, block.width)
    counts = GenotypeCounts.of(block, null.samples)
    whole = fit_newton_step(design, block, counts)
    assert (whole.status == Status.OK).sum() > 10
    for rows in blocks_of_other_sizes(150):
        part = fit_newton_step(design, block.take(rows), counts.take(rows))
        np.testing.assert_array_equal(part.status, whole.status[rows])
        for name in ("add", "var", "add_variance", "add_var_covariance_robust"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])


@pytest.mark.parametrize("of", BLOCKS)
def test_scores_are_those_of_the_screen_and_stay_with_what_is_fitted_again(of):
    null, calls = screened_cohort(v=2, effect=0.5)
    block = BLOCKS[of](calls)
    counts = GenotypeCounts.of(block, null.samples)
    wanted = fit_screen(ScreenDesign.of(null, block.width), block, counts).scores
    found = stepped(null, calls, of=BLOCKS[of])
    assert (found.status == Status.PENDING).any()
    np.testing.assert_array_equal(found.scores, wanted)
    np.testing.assert_array_equal(scanned(null, calls, of=BLOCKS[of]).scores, wanted)


@pytest.mark.parametrize("asked", ["observed", "sandwich", "likelihood_ratio"])
def test_what_takes_more_than_the_sums_is_left_to_another_kernel(asked):
    inference = Inference(**{asked: True})
    null, calls = screened_cohort(v=1, m=8, correlation=0.1)
    assert (stepped(null, calls, inference).status == Status.PENDING).all()
    found, wanted = scanned(null, calls, inference), maximum(null, calls, inference)
    for name in ("add_variance", "add_variance_sandwich", "av_lrt"):
        one, other = getattr(found, name), getattr(wanted, name)
        np.testing.assert_allclose(one, other, rtol=5e-3, atol=1e-3)
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("of", BLOCKS)
def test_what_has_no_estimate(of):
    """Each has the status of the joint kernel, and the neighbours do not suffer."""
    null, good = screened_cohort(n=800, c=2, v=2, m=9, correlation=0.1)
    covariate = np.random.default_rng(8).integers(0, 3, 800).astype(np.int8)
    null = null_model_of(null.y, np.column_stack([null.mean_design[:, 1], covariate]))
    calls = without_estimate(good, covariate)
    calls[7] = 0
    calls[7, 11] = 1  # one carrier
    found, wanted = (fit(null, calls, of=BLOCKS[of]) for fit in (scanned, maximum))
    np.testing.assert_array_equal(found.status, wanted.status)
    assert found.status[[0, 8]].tolist() == [Status.OK] * 2
    np.testing.assert_array_equal(np.isnan(found.add), np.isnan(wanted.add))
    if of == "calls":  # uncertain dosages are no combination of covariates
        assert found.status[7] == Status.UNBOUNDED
        assert np.isnan(found.add[1:8]).all()
    alone = scanned(null, calls[[0, 8]], of=lambda _: BLOCKS[of](calls).take([0, 8]))
    np.testing.assert_allclose(found.var[[0, 8]], alone.var, rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [(0, 1), (1, 2), (0, 2)])
def test_two_classes_and_haploid_codes(classes):
    """One class of people may be empty, the middle one too."""
    rng = np.random.default_rng(5)
    n = 3001
    covariates = rng.standard_normal((n, 3))
    calls = rng.choice(np.array(classes, np.int8), (10, n))
    y = covariates @ [0.3, 0.1, 0.0] + np.exp(0.1 * covariates[:, 0]) * rng.standard_normal(n)
    null = null_model_of(y + 0.1 * calls[0], covariates, covariates[:, :2])
    found, wanted = scanned(null, calls), maximum(null, calls)
    assert (found.status == Status.OK).all()
    assert distance(found, wanted) < 1e-3


def test_neither_the_unit_nor_the_coded_allele_nor_other_people_matter():
    rng = np.random.default_rng(9)
    n = 4003
    covariates = rng.standard_normal((n, 2))
    calls = rng.binomial(2, 0.4, (6, n)).astype(np.int8)
    samples = np.flatnonzero(rng.random(n) < 0.7)
    y = covariates[:, 0] + rng.standard_normal(n)

    def fitted(scale, copies, people=None):
        on = samples if people is None else np.arange(len(samples))
        of = copies if people is None else copies[:, samples]
        Z = covariates[samples]
        null = null_model_of(scale * y[samples], Z, Z[:, :1], samples=on)
        found = fit_block(null, HardCalls.of(of), np.full(6, "1", object), FitOptions(0, 0))
        return found["add"] / scale, found["var"], found["add_neg_log10_p"]

    wanted = fitted(1.0, calls)
    for other, sign in ((fitted(1e-9, calls, 1), 1), (fitted(1e9, 2 - calls), -1)):
        np.testing.assert_allclose(other[0], sign * wanted[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(other[1], sign * wanted[1], rtol=0, atol=1e-6)
        np.testing.assert_allclose(other[2], wanted[2], rtol=1e-5, atol=1e-6)


def test_from_a_null_model_that_is_no_maximum_no_step_is_taken():
    for information in (np.diag([1.0, -1.0]), np.ones((2, 2)), np.zeros((2, 2))):
        assert whitening(information) is None
    null, calls = screened_cohort(v=2, m=4, correlation=0.1)
    block = HardCalls.of(calls)
    design = replace(NewtonDesign.of(null, block.width), whiten=None)
    found = fit_newton_step(design, block, GenotypeCounts.of(block, null.samples))
    assert (found.status == Status.PENDING).all()
    assert np.isfinite(found.scores).all()


def test_nothing_to_do():
    null, calls = screened_cohort(n=200)
    assert len(stepped(null, calls[:0]).add) == 0


@pytest.mark.parametrize("of", BLOCKS)
@pytest.mark.parametrize("v", [0, 10])
def test_memory_formula_is_a_bound_and_not_a_loose_one(v, of):
    null, _ = screened_cohort(n=20_000, c=10, v=v, m=2)
    rng = np.random.default_rng(2)
    block = BLOCKS[of](correlated_calls(rng, null.mean_design[:, 1], 64, 0.0))
    counts = GenotypeCounts.of(block, null.samples)
    fit_newton_step(NewtonDesign.of(null, block.width), block, counts)
    tracemalloc.start()
    fit_newton_step(NewtonDesign.of(null, block.width), block, counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    planned = newton_step.work_bytes(64, 20_000, 20_000, 11, 1 + v, dosages=of == "dosages")
    assert peak <= planned <= 5 * peak
