"""Blocks that are screened: what is refitted, and that refitted rows are as if never screened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cohorts_by_hand import null_model_of, random_effects_of

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.schema import Status

MLE = FitOptions(min_maf=0.02, min_mac=5, max_missing=0.2)
SCREEN = replace(MLE, screen=True)
KINDS = ("plain", "covariates", "random", "random and covariates")


def make(kind, n=503, m=60, scale=1.0):
    """A null model and calls of which the first have effects and the last are filtered out."""
    rng = np.random.default_rng(8)
    calls = rng.binomial(2, rng.uniform(0.1, 0.5, (m, 1)), (m, n)).astype(np.int8)
    calls[10:20][rng.random((10, n)) < 0.03] = -1
    calls[-1] = 0
    covariates = rng.standard_normal((n, 2)) + 0.3 * calls[5:7].T
    g = calls[0]
    y = 0.4 * g + np.exp(0.2 * g) * rng.standard_normal(n) + covariates @ [0.2, -0.1]
    effects = None
    if "random" in kind:
        effects = random_effects_of(n, ["1"] * 8 + ["2"] * 6, seed=1)
        y = y + effects.design("") @ rng.standard_normal(14)
    mean = variance = None
    if "covariates" in kind:
        mean, variance = covariates, covariates[:, :1]
    null = null_model_of(scale * y, mean, variance, effects=effects, left_out=["1", "2"])
    return null, HardCalls.of(calls), np.array([str(1 + j % 3) for j in range(m)], dtype=object)


@pytest.mark.parametrize("kind", KINDS)
def test_interesting_variants_are_refitted_as_if_never_screened(kind):
    null, packed, contigs = make(kind)
    fitted = fit_block(null, packed, contigs, MLE)
    screened = fit_block(null, packed, contigs, SCREEN)
    refined = fit_block(null, packed, contigs, replace(SCREEN, refine_below=0.05))
    assert screened["status"][-1] == refined["status"][-1] == Status.MONOMORPHIC
    if kind == "plain":
        for name, values in fitted.items():
            np.testing.assert_array_equal(values, screened[name], err_msg=name)
        return
    assert set(screened["status"][:-1]) == {Status.SCREENED}
    tests = ("add_neg_log10_p", "var_neg_log10_p", "av_neg_log10_p")
    interesting = np.max([screened[t] for t in tests], axis=0) > -np.log10(0.05)
    assert interesting[0]
    assert 1 < interesting.sum() < 40
    expected = np.where(interesting[:-1], Status.REFINED, Status.SCREENED)
    np.testing.assert_array_equal(refined["status"][:-1], expected)
    for name, values in refined.items():
        if name != "status":
            np.testing.assert_array_equal(values[~interesting], screened[name][~interesting])
            np.testing.assert_allclose(
                values[interesting], fitted[name][interesting], rtol=1e-9, atol=1e-11, err_msg=name
            )


@pytest.mark.parametrize("kind", KINDS[1:])
def test_one_step_is_near_the_maximum_for_most_variants(kind):
    null, packed, contigs = make(kind)
    fitted, screened = (fit_block(null, packed, contigs, o) for o in (MLE, SCREEN))
    dull = slice(20, -1)
    for effect in ("add", "var"):
        z = [values[effect][dull] / values[f"{effect}_se"][dull] for values in (fitted, screened)]
        # Some z²/√n: with 503 people a third of a standard error at z = 2.5.
        assert np.abs(z[0] - z[1]).max() < 0.5
        assert np.corrcoef(*z)[0, 1] > 0.99


@pytest.mark.parametrize("kind", KINDS[1:])
def test_screened_rows_do_not_depend_on_block_or_unit(kind):
    null, packed, contigs = make(kind)
    options = replace(SCREEN, refine_below=0.01, inference=Inference(likelihood_ratio=True))
    whole = fit_block(null, packed, contigs, options)
    parts = [
        fit_block(null, packed.take(slice(k, k + 7)), contigs[k : k + 7], options)
        for k in range(0, 60, 7)
    ]
    for name, values in whole.items():
        again = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(values, again, rtol=1e-9, atol=1e-10, err_msg=name)
    metres = fit_block(make(kind, scale=1e-3)[0], packed, contigs, options)
    # Fits with a bound of 1e-2 standard errors stop where that is kept, in any unit.
    np.testing.assert_allclose(metres["add"], 1e-3 * whole["add"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(metres["var_se_robust"], whole["var_se_robust"], rtol=1e-4)
    asked = np.isfinite(whole["var_lrt_neg_log10_p"])
    np.testing.assert_array_equal(asked, whole["status"] == Status.REFINED)
