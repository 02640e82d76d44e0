"""The interaction with an environment, beside the plain estimator with the product as covariate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cohorts_by_hand import null_model_of

from hlmm_scan.genotypes.blocks import BGEN_8_BIT, MISSING_CODE, Dosages, HardCalls
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.kernels.paths import INTERACTION, path_of
from hlmm_scan.models.hlm import HLM
from hlmm_scan.models.inference import neg_log10_p
from hlmm_scan.results.wald import wald_test
from hlmm_scan.schema import Status

N = 501
OPTIONS = FitOptions(0, 0, 1, Inference(sandwich=True, interaction=True))


def make(*, scale=1.0, binary=False, c=2, v=1, seed=0):
    """A null model with an environment, and calls that act through it."""
    rng = np.random.default_rng(seed)
    E = rng.integers(0, 2, N).astype(float) if binary else 20 + 4 * rng.normal(size=N)
    calls = rng.choice(np.array([0, 1, 2], np.int8), (9, N), p=(0.5, 0.4, 0.1))
    calls[1, :30] = -1
    g = calls[0].astype(float)
    covariates = rng.normal(size=(N, max(c - 1, v)))
    unit = (E - E.mean()) / E.std()
    y = 0.2 * g + 0.8 * g * unit + 0.3 * unit + np.exp(0.2 * g) * rng.normal(size=N)
    y = scale * (y + covariates[:, 0])
    mean = np.column_stack([covariates[:, : c - 1], E])
    null = null_model_of(y, mean, covariates[:, :v], np.arange(2, N + 2))
    null = replace(null, environment=unit, environment_scale=float(E.std()))
    calls[2] = 1  # no spread
    if binary:
        calls[3] = np.where(E == 1, 0, calls[3])  # all carriers are exposed alike
    everybody = np.full((9, N + 3), -1, np.int8)
    everybody[:, 2:-1] = calls
    return null, y, mean, covariates[:, :v], E, calls, HardCalls.of(everybody)


def plain(y, mean, variance, E, calls):
    """Fit as a user would by hand, the product of centred genotype and environment a covariate."""
    used = calls >= 0
    g = calls[used].astype(float)
    ones = np.ones(used.sum())
    X = np.column_stack([ones, mean[used], g * (E[used] - E.mean()), g])
    V = np.column_stack([ones, variance[used], g])
    return HLM(y[used], X, V).fit()


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e5])
def test_it_equals_the_plain_estimator(binary, scale):
    null, y, mean, variance, E, calls, packed = make(scale=scale, binary=binary)
    assert path_of(ModelSize.of(null)) is INTERACTION
    found = fit_block(null, packed, np.array(["1"] * 9, dtype=object), OPTIONS)
    expected = {2} | ({3} if binary else set())
    assert {k for k in range(9) if found["status"][k] != Status.OK} == expected
    for row in set(range(9)) - expected:
        fit = plain(y, mean, variance, E, calls[row])
        k = len(fit.alpha)
        for name, value, se in (
            ("interaction", fit.alpha[-2], fit.alpha_se[-2]),
            ("add", fit.alpha[-1], fit.alpha_se[-1]),
            ("var", fit.beta[-1], fit.beta_se[-1]),
        ):
            assert abs(found[name][row] - value) < 1e-4 * se
            assert np.isclose(found[f"{name}_se"][row], se, rtol=1e-4)
            p = neg_log10_p(np.array([(value / se) ** 2]), 1)[0]
            got = wald_test(name, "", found)[row]
            assert np.isclose(got, p, rtol=1e-3, atol=1e-4)
        assert np.isclose(found["log_likelihood"][row], fit.log_likelihood, rtol=1e-8)
        assert np.isclose(found["add_var_cov"][row], fit.covariance[k - 1, -1], atol=1e-12)
    for suffix in ("robust", "sandwich"):
        ratio = found[f"interaction_se_{suffix}"] / found["interaction_se"]
        assert np.nanmax(np.abs(np.log(ratio))) < 0.4
    assert wald_test("interaction", "_robust", found)[0] > 5


def test_effects_do_not_depend_on_the_block():
    null, *_, packed = make()
    names = np.array(["1"] * 9, dtype=object)
    whole = fit_block(null, packed, names, OPTIONS)
    parts = [fit_block(null, packed.take(slice(k, k + 1)), names[:1], OPTIONS) for k in range(9)]
    for name, values in whole.items():
        again = np.concatenate([part[name] for part in parts])
        assert np.allclose(again, values, rtol=1e-9, atol=1e-9, equal_nan=True), name


def test_dosages_and_calls_are_one():
    null, y, mean, variance, E, calls, packed = make()
    names = np.array(["1"] * 9, dtype=object)
    everybody = np.full((9, N + 3), -1)
    everybody[:, 2:-1] = calls
    codes = np.where(everybody < 0, MISSING_CODE, 255 * everybody).astype(np.uint16)
    same = fit_block(null, Dosages(codes, BGEN_8_BIT), names, OPTIONS)
    whole = fit_block(null, packed, names, OPTIONS)
    assert all(np.array_equal(same[n], whole[n], equal_nan=n != "status") for n in whole)
    rng = np.random.default_rng(1)
    codes[4] = rng.integers(0, 511, N + 3)
    uncertain = fit_block(null, Dosages(codes, BGEN_8_BIT), names, OPTIONS)
    fit = plain(y, mean, variance, E, codes[4, 2:-1] / 255)
    assert np.isclose(uncertain["interaction"][4], fit.alpha[-2], rtol=1e-3)
    here, there = (found["interaction"][5:] for found in (uncertain, whole))
    assert np.allclose(here, there, rtol=1e-9)


def test_without_an_environment_there_is_no_interaction():
    null, *_, packed = make()
    names = np.array(["1"] * 9, dtype=object)
    found = fit_block(replace(null, environment=None), packed, names, OPTIONS)
    assert np.isnan(found["interaction"]).all()
    assert (found["status"][[0, 1, 4]] == Status.OK).all()
    assert "interaction" not in fit_block(null, packed, names, FitOptions(0, 0, 1))
