"""The score screen of the HLMM: its plain dense formula, exact fits, calibration."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from by_chromosome import fit_exact, fit_random_screen
from cohorts_by_hand import null_model_of, random_effects_of
from screened_cohorts import dense_model, gaps, screened_cohort, z_scores

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.genotypes.packing import pack, unpack_samples
from hlmm_scan.kernels import limits
from hlmm_scan.kernels.estimates import Estimates
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.screen import random_effects as hlmm_screen
from hlmm_scan.kernels.screen import random_effects_design as hlmm_screen_design
from hlmm_scan.kernels.screen.fit import ScreenDesign, fit_screen
from hlmm_scan.kernels.screen.plain import fit_hlmm_screen_plain
from hlmm_scan.kernels.screen.random_effects_design import RandomScreenDesign
from hlmm_scan.models.robust import studentised_covariance
from hlmm_scan.null.eigen import SharedEigenstructure
from hlmm_scan.schema import Status


def designs_of(null) -> dict[str, RandomScreenDesign]:
    effects = null.random_effects
    shared = SharedEigenstructure(effects.columns, effects.contigs)
    return {key: RandomScreenDesign.of(null, shared.without(key), key) for key in null.fits}


def run_fast(null, calls, contig="3") -> Estimates:
    contigs = np.full(len(calls), contig, dtype=object)
    return fit_random_screen(null, HardCalls.of(calls), contigs, designs_of(null))


def run_plain(null, calls, contig="3") -> Estimates:
    genotypes = unpack_samples(pack(calls), null.samples).T
    return fit_hlmm_screen_plain(null, genotypes, null.random_effect_set(contig))


RUN = {"fast": run_fast, "plain": run_plain}

CASES = {
    "no covariates": {"c": 0},
    "in the mean": {},
    "in both": {"v": 3},
    "in the variance, other ones": {"c": 0, "v": 2, "own": True},
    "missing": {"c": 2, "v": 2, "missing": 0.05},
    "strong effect": {"v": 2, "effect": 1.0},
    "more random effects than people": {"n": 301, "c": 2, "v": 1, "l_random": 400},
    "no random variance": {"share": 0.0, "v": 1},
}


@pytest.mark.parametrize(
    ("case", "written_out"),
    # The mean stands for l ≪ n.
    [(case, True) for case in CASES] + [(case, False) for case in CASES if "more" not in case],
)
def test_as_the_plain_formula(case, written_out, monkeypatch):
    """Exact where M∘M is written out; else to what its mean stands for, l ≪ n."""
    kind = {"n": 701, "l_random": 30, "m": 20} | CASES[case]
    if not written_out:
        monkeypatch.setattr(limits, "WRITTEN_OUT_PEOPLE", 0)
        monkeypatch.setattr(hlmm_screen_design, "PEOPLE_PER_STRIP", 200)
        monkeypatch.setattr(hlmm_screen, "_SECOND_PRODUCT", 0.0)
    null, calls = screened_cohort(**kind)
    for contig in ("3", "1"):
        found, wanted = run_fast(null, calls, contig), run_plain(null, calls, contig)
        assert (found.status == Status.SCREENED).all()
        gap = gaps(found, wanted)
        assert gap["add"] < 1e-5
        assert gap["var"] < (1e-5 if written_out else 5e-3)
        assert max(gap["var_se"], gap["var_robust"], gap["robust"]) < (
            1e-5 if written_out else 2e-3
        )
        assert gap["add_se"] < 1e-6
        np.testing.assert_array_equal(found.random_variance, wanted.random_variance)
        np.testing.assert_allclose(
            found.random_variance_variance, wanted.random_variance_variance, rtol=2e-3
        )


def test_without_the_second_product_as_its_rule_says(monkeypatch):
    monkeypatch.setattr(limits, "WRITTEN_OUT_PEOPLE", 0)
    null, calls = screened_cohort(n=6000, c=2, v=1, l_random=40, m=100, effect=0.4)
    found = {}
    for rule in (0.0, 2e-3, np.inf):
        monkeypatch.setattr(hlmm_screen, "_SECOND_PRODUCT", rule)
        found[rule] = run_fast(null, calls)
    z = np.abs(z_scores(found[0.0])[0])
    error = {
        rule: np.abs(one.var - found[0.0].var) / np.sqrt(one.var_variance)
        for rule, one in found.items()
    }
    assert (error[np.inf] < 5 * np.maximum(z, 1) * np.sqrt(2 * 40 / 6000 / 6000)).all()
    assert error[2e-3].max() < 8e-3
    # Not 0: double precision may round by place.
    skipped = error[2e-3] > 1e-10
    assert 20 < skipped.sum() < 100
    np.testing.assert_allclose(error[2e-3][skipped], error[np.inf][skipped], rtol=0, atol=1e-10)
    assert gaps(found[np.inf], found[0.0])["robust"] < 1e-3


@pytest.mark.parametrize("run", RUN)
@pytest.mark.parametrize("l_random", [20, 300])
def test_one_scoring_step_of_the_dense_model(run, l_random):
    null, calls = screened_cohort(n=251, c=2, v=2, m=3, l_random=l_random)
    fit, found = null.fits[""], RUN[run](null, calls)
    G, h2 = null.random_effects.design(""), fit.random_variance
    assert h2 > 0.1
    for j, row in enumerate(calls):
        g = row - row.mean()
        X, V = np.column_stack([null.mean_design, g]), np.column_stack([null.variance_design, g])
        model, beta = dense_model()(null.y, X, V, G), np.append(fit.beta, 0.0)
        p, q = X.shape[1], X.shape[1] + V.shape[1]
        covariance = np.linalg.inv(model.expected_information(beta, h2))
        start = np.append(fit.alpha, 0.0)
        mean = start - 0.5 * covariance[:p, :p] @ model.gradient(start, beta, h2)[:p]
        step = -0.5 * covariance[p:, p:] @ model.gradient(mean, beta, h2)[p:]
        se = np.sqrt(np.diag(covariance))
        assert abs(found.add[j] - mean[-1]) < 1e-4 * se[p - 1]
        assert abs(found.var[j] - step[-2]) < 1e-4 * se[q - 1]
        np.testing.assert_allclose(found.add_variance[j], se[p - 1] ** 2, rtol=1e-5)
        np.testing.assert_allclose(found.var_variance[j], se[q - 1] ** 2, rtol=1e-5)
        robust = studentised_covariance(X, V, beta, fit.moments, G, h2)
        np.testing.assert_allclose(found.var_variance_robust[j], robust[q - 1, q - 1], rtol=1e-5)
        np.testing.assert_allclose(
            found.add_var_covariance_robust[j],
            robust[p - 1, q - 1],
            atol=1e-5 * se[p - 1] * se[q - 1],
        )


def test_without_random_variance_it_is_the_screen_of_the_hlm():
    null, calls = screened_cohort(n=801, c=2, v=1, l_random=30, share=0.0, m=10)
    assert null.fits[""].random_variance < 1e-3
    plain = null_model_of(null.y, null.mean_design[:, 1:], null.variance_design[:, 1:])
    block = HardCalls.of(calls)
    counts = GenotypeCounts.of(block, plain.samples)
    other = fit_screen(ScreenDesign.of(plain, block.width), block, counts)
    for one, two in zip(z_scores(run_fast(null, calls)), z_scores(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=0.05)


@pytest.mark.parametrize("people", [0, 5000], ids=["mean", "written out"])
def test_a_variant_does_not_know_its_block(people, monkeypatch):
    """Nor which chromosomes its neighbours are on; 1e-10 of a standard error is asked for."""
    monkeypatch.setattr(limits, "WRITTEN_OUT_PEOPLE", people)
    null, calls = screened_cohort(n=603, c=2, v=2, l_random=40, m=150, missing=0.01)
    rng = np.random.default_rng(4)
    packed, contigs = HardCalls.of(calls), rng.choice(np.array(["1", "2", "3"], object), 150)
    designs = designs_of(null)
    whole = fit_random_screen(null, packed, contigs, designs)
    for width in (1, 7, 100):
        order = rng.permutation(150)[: 10 * width]
        for start in range(0, len(order), width):
            rows = order[start : start + width]
            part = fit_random_screen(null, packed.take(rows), contigs[rows], designs)
            for name in ("add", "var"):
                se = np.sqrt(getattr(whole, f"{name}_variance")[rows])
                moved = np.abs(getattr(part, name) - getattr(whole, name)[rows]) / se
                assert moved.max() < 1e-10


def test_agrees_with_exact_fits_where_effects_are_small():
    null, calls = screened_cohort(n=1500, c=1, v=1, m=12, l_random=20, correlation=0.3)
    contigs = np.full(len(calls), "3", dtype=object)
    exact, found = fit_exact(null, HardCalls.of(calls), contigs), run_fast(null, calls)
    largest = np.maximum(1, np.abs(z_scores(exact)).max(axis=0))
    for one, other in zip(z_scores(found), z_scores(exact), strict=True):
        assert (np.abs(one - other) < 1.5 * largest**3 / np.sqrt(null.n)).all()


def test_a_strong_additive_effect_does_not_leak_into_the_variance():
    rng = np.random.default_rng(5)
    n, found = 2000, []
    effects = random_effects_of(n, ["2"] * 10, seed=3)
    for _ in range(8):
        calls = rng.binomial(2, 0.1, (1, n)).astype(np.int8)
        y = 1.8 * calls[0] + rng.standard_normal(n)
        null = null_model_of(
            y + 0.5 * effects.design("") @ rng.standard_normal(10), effects=effects
        )
        found.append(np.ravel(z_scores(run_fast(null, calls))))
    z_a, z_b = np.array(found).T
    assert 25 < z_a.mean() < 33
    assert abs(z_b.mean()) < 4 / np.sqrt(8)


@pytest.mark.parametrize("run", RUN)
def test_what_has_no_estimate(run):
    null, calls = screened_cohort(n=403, c=1, l_random=12, m=6, correlation=0.0)
    covariate = np.random.default_rng(8).integers(0, 3, 403).astype(np.int8)
    null = null_model_of(null.y, covariate[:, None], effects=null.random_effects)
    calls = calls.copy()
    calls[1] = 0
    calls[2] = -1
    calls[3] = covariate
    calls[4] = -1
    calls[4, :4] = [0, 1, 2, 1]
    found = RUN[run](null, calls)
    expected = [Status.NOT_UNIQUE] * 6
    expected[0] = expected[5] = Status.SCREENED
    assert found.status.tolist() == expected
    assert np.isnan(found.add[1:5]).all()


@pytest.mark.parametrize("people", [0, 5000], ids=["mean", "written out"])
def test_memory_formula_is_a_bound_and_not_a_loose_one(people, monkeypatch):
    monkeypatch.setattr(limits, "WRITTEN_OUT_PEOPLE", people)
    null, calls = screened_cohort(n=2000, c=3, v=2, m=64, l_random=200)
    run_fast(null, calls[:2])
    effects, packed = null.random_effects, HardCalls.of(calls)
    eigen = SharedEigenstructure(effects.columns, effects.contigs).without("")
    contigs = np.full(64, "3", dtype=object)
    tracemalloc.start()
    fit_random_screen(null, packed, contigs, {"": RandomScreenDesign.of(null, eigen, "")})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= hlmm_screen.work_bytes(2000, 4, 3, 200) <= 5 * peak
