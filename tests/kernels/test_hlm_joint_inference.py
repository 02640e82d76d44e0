"""Robust covariances and likelihood ratios of both joint kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from by_chromosome import fit_scoring
from test_hlm_scoring import CASES, cohort

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels.estimates import Estimates, Inference
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.joint.fit import fit_joint
from hlmm_scan.kernels.scoring import report as hlm_scoring_report
from hlmm_scan.kernels.scoring.tile import OfPeople
from hlmm_scan.models.hlm import HLM
from hlmm_scan.models.robust import sandwich_covariance, studentised_covariance
from hlmm_scan.schema import Status

EVERYTHING = Inference(sandwich=True, likelihood_ratio=True)
MOMENTS = (0.7, 5.0)
TESTS = ("add_lrt", "var_lrt", "av_lrt")
SOME = ("five and one", "missing", "dosages, missing", "stronger", "heavy tails")


def inputs(case: str, **changes: int) -> tuple[JointDesign, np.ndarray]:
    design, genotypes = cohort(**(CASES[case] | changes))
    return replace(design, moments=MOMENTS), genotypes


def covariance(estimates: Estimates, suffix: str) -> np.ndarray:
    """Variances and correlation of the effects, (3, m)."""
    add, var, both = (
        getattr(estimates, name + suffix)
        for name in ("add_variance", "var_variance", "add_var_covariance")
    )
    return np.stack([add, var, both / np.sqrt(add * var)])


def assert_near(one: Estimates, other: Estimates, suffix: str, limit: float) -> None:
    """Standard errors to a relative, their correlation to an absolute limit."""
    found, expected = covariance(one, suffix), covariance(other, suffix)
    assert np.abs(np.sqrt(found[:2] / expected[:2]) - 1).max() < limit
    assert np.abs(found[2] - expected[2]).max() < limit


@pytest.mark.parametrize("case", SOME)
def test_plain_kernel_as_the_dense_covariances(case: str) -> None:
    design, genotypes = inputs(case, n=250)
    estimates = fit_joint(design, genotypes[:, 2:], EVERYTHING)
    for j in (0, 1):
        called = ~np.isnan(genotypes[:, 2 + j])
        g = genotypes[called, 2 + j]
        X, V = (np.column_stack([part[called], g]) for part in (design.X, design.V))
        y = design.y[called]
        fit = HLM(y, X, V).fit()
        studentised = studentised_covariance(X, V, fit.beta, MOMENTS)
        sandwich = sandwich_covariance(y, X, V, fit.alpha, fit.beta)
        a, b = X.shape[1] - 1, len(sandwich) - 1
        for suffix, C in (("_robust", studentised), ("_sandwich", sandwich)):
            expected = [C[a, a], C[b, b], C[a, b] / np.sqrt(C[a, a] * C[b, b])]
            np.testing.assert_allclose(covariance(estimates, suffix)[:, j], expected, rtol=1e-6)
        restricted = ((X[:, :-1], V), (X, V[:, :-1]), (X[:, :-1], V[:, :-1]))
        for name, (mean, variance) in zip(TESTS, restricted, strict=True):
            less = HLM(y, mean, variance).fit().log_likelihood
            expected = 2 * (fit.log_likelihood - less)
            assert abs(getattr(estimates, name)[j] - expected) < 1e-6


@pytest.mark.parametrize("case", [*SOME, "twenty", "strong, correlated", "no covariates"])
def test_fast_kernel_as_the_plain_one(case: str) -> None:
    design, genotypes = inputs(case)
    plain = fit_joint(design, genotypes, EVERYTHING)
    fast = fit_scoring(design, genotypes, EVERYTHING)
    assert (fast.status == Status.OK).all()
    for suffix in ("", "_robust", "_sandwich"):
        assert_near(fast, plain, suffix, 1e-3)
    for name in TESTS:
        np.testing.assert_allclose(getattr(fast, name), getattr(plain, name), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"confounded": 0.5}, {"heavy": True}])
def test_shortcuts_of_the_covariances(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """With enough people next to nothing is computed exactly, and nothing is lost by that."""
    design, genotypes = cohort(20000, 4, 3, effects=0.05, missing=0.02, **options)
    design = replace(design, moments=MOMENTS)
    plain = fit_joint(design, genotypes, EVERYTHING)
    if not options:
        refused = lambda *a: pytest.fail("exact")  # noqa: E731
        monkeypatch.setattr(hlm_scoring_report, "put_covariances", refused)
    default = fit_scoring(design, genotypes)
    everything = fit_scoring(design, genotypes, EVERYTHING)
    for suffix in ("", "_robust"):
        assert_near(default, plain, suffix, 5e-4)
        assert_near(everything, plain, suffix, 5e-4)
    assert_near(everything, plain, "_sandwich", 1e-3)
    assert np.isnan(default.add_variance_sandwich).all()
    assert np.isnan(default.av_lrt).all()


@pytest.mark.parametrize("kernel", [fit_joint, fit_scoring])
def test_without_missing_calls_the_joint_test_is_against_the_null(kernel) -> None:
    design, genotypes = cohort(1500, 3, 2)
    estimates = kernel(design, genotypes, Inference(likelihood_ratio=True))
    null = HLM(design.y, design.X, design.V).fit().log_likelihood
    expected = 2 * (estimates.log_likelihood - null)
    np.testing.assert_allclose(estimates.av_lrt, expected, rtol=0, atol=1e-3)
    assert (estimates.av_lrt > np.maximum(estimates.add_lrt, estimates.var_lrt) - 1e-3).all()


def test_packed_calls_are_the_same_as_their_numbers() -> None:
    design, genotypes = inputs("missing")
    calls = np.where(np.isnan(genotypes), -1, genotypes).T.astype(np.int8)
    hard = fit_scoring(design, OfPeople(HardCalls.of(calls), np.arange(calls.shape[1])), EVERYTHING)
    soft = fit_scoring(design, genotypes, EVERYTHING)
    for name, values in vars(soft).items():
        np.testing.assert_allclose(getattr(hard, name), values, rtol=1e-5, atol=1e-6)
