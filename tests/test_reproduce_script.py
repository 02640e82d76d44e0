"""What scripts/reproduce computes, and that it fails where a figure is off."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from statsmodels.api import OLS, RLM
from statsmodels.regression.quantile_regression import QuantReg
from statsmodels.robust.norms import HuberT

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Import a script by name, as Python does when it runs one."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def test_differences_are_counted_in_printed_digits(script):
    published = script("published")
    theirs = np.array([-0.0887084, 123.456, 1e-7])
    assert published.digits_apart(theirs, theirs * (1 + 1e-8)) == 0
    assert published.digits_apart(theirs, theirs + np.array([0, 0.002, 0])) == 2
    np.testing.assert_array_equal(published.printed([[1 / 3, 2e5 / 3]]), [[0.333333, 66666.7]])


def test_a_figure_holds_only_where_every_number_is_near(script):
    published = script("published")

    def figure(ours, within=0.1):
        return published.figure_of("theirs", "numbers", [1.0, 2.0], ours, within, shown=1)

    assert figure([1.0, 2.05]).holds
    assert figure([1.0, 2.05]).row()[2:5] == ("2", "2", "2.05")
    assert not figure([1.0, 2.2]).holds
    assert not figure([np.nan, 2.0]).holds
    assert "**no**" in figure([np.nan, 2.0]).row()
    with pytest.raises(ValueError, match=r"numbers: \(1,\) beside \(2,\)"):
        figure([1.0])


def test_two_shares_may_differ_by_what_chance_explains(script):
    rng, margin = np.random.default_rng(3), script("published_cross").margin
    ours, theirs = rng.binomial([[200], [1_000]], 0.06, (2, 20_000)) / [[200], [1_000]]
    apart = [abs(a - b) > margin(a, 200, b) for a, b in zip(ours, theirs, strict=True)]
    assert 0.005 < np.mean(apart) < 0.015


@pytest.mark.parametrize(("exceeding", "n"), [(0, 100), (4, 1_000), (100, 100)])
def test_intervals_of_shares_are_exact(script, exceeding, n):
    low, high = script("published_cross").interval(exceeding, n)
    assert low <= exceeding / n <= high
    if exceeding:
        assert binom.sf(exceeding - 1, n, low) == pytest.approx(0.025)
    if exceeding < n:
        assert binom.cdf(exceeding, n, high) == pytest.approx(0.025)


def cross(script):
    """120 mice of three chromosomes, a trait that a few have not, and its scores at 20 loci."""
    module = script("published_cross")
    rng = np.random.default_rng(5)
    walk = np.cumsum(rng.random((120, 20)) < 0.15, axis=1) + rng.integers(0, 2, (120, 1))
    one, other = walk % 2, rng.permutation(walk) % 2
    scores = np.stack([one + other - 1.0, one != other], axis=2)
    males = rng.integers(0, 2, 120).astype(float)
    trait = rng.standard_normal(120) * np.exp(0.3 * scores[:, 7, 0]) + males
    there = np.arange(120) % 40 != 3
    y = trait[there] / trait[there].std()
    tested = module.Tested(y, np.column_stack([np.ones(there.sum()), males[there]]), there)
    return module, tested, scores


@pytest.mark.parametrize("test", ["mean", "variance", "both"])
def test_the_largest_lod_of_a_permutation_is_that_of_fits_to_the_end(script, test):
    module, tested, scores = cross(script)
    permuted = module.Permuted(tested, scores)
    own = scores[tested.there]
    alone = max(tested.lods(own[:, k])[test] for k in range(20))
    assert permuted.largest(test, np.arange(120)) == pytest.approx(alone, abs=1e-8)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(120)
        g = scores[order][tested.there]
        lods = []
        for k in range(20):
            mean = own[:, k] if test == "variance" else g[:, k]
            variance = own[:, k] if test == "mean" else g[:, k]
            without = {"mean": (None, variance), "variance": (mean, None), "both": (None, None)}
            whole = tested.log10_likelihood(mean, variance)
            lods.append(whole - tested.log10_likelihood(*without[test]))
        assert permuted.largest(test, order) == pytest.approx(max(lods), abs=1e-8)


def test_steps_of_scoring_end_at_the_maximum(script):
    module, tested, scores = cross(script)
    g = scores[tested.there]
    designs = np.stack([np.column_stack([tested.covariates, g[:, k]]).T for k in range(20)])
    b, found = module.scoring(tested.y, designs, designs, np.zeros((20, 4)), 60)
    expected = [tested.log10_likelihood(g[:, k], g[:, k]) for k in range(20)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert b.shape == (20, 4)


def test_regressions_leave_out_who_has_no_call(script):
    rng = np.random.default_rng(2)
    copies = rng.integers(0, 3, (3, 60)).astype(float)
    copies[1, :7] = np.nan
    covariates = np.column_stack([np.ones(60), rng.standard_normal(60)])
    y = rng.standard_normal(60)
    found = script("published_tests").Regression.of(y, copies, covariates)
    for k, g in enumerate(copies):
        there = np.isfinite(g)
        fit = OLS(y[there], np.column_stack([g, covariates])[there]).fit()
        assert found.n[k] == there.sum()
        ours = found.effect[k], found.error[k], found.p[k]
        np.testing.assert_allclose(ours, (fit.params[0], fit.bse[0], fit.pvalues[0]), rtol=1e-10)


def test_slopes_are_those_of_rlm(script):
    module = script("published_tests")
    rng = np.random.default_rng(3)
    x = rng.standard_normal(400)
    y = 0.3 * x + rng.standard_t(2, 400)
    converged = RLM(y, x, M=HuberT()).fit(tol=1e-12, maxiter=500).params[0]
    stopped = module.as_rlm_stops(x, y)
    assert stopped == pytest.approx(converged, abs=1e-3)
    assert abs(stopped - converged) > 1e-8


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.83])
def test_quantiles_are_fitted_and_dual_ranks_say_on_which_side(script, tau):
    module = script("published_tests")
    rng = np.random.default_rng(4)
    covariates = np.column_stack([np.ones(200), rng.standard_normal((200, 2))])
    y = covariates @ [1, 2, 0.5] + rng.standard_gamma(2, 200)
    coefficients, ranks = module.quantile_fit(y, covariates, tau)
    residual = y - covariates @ coefficients
    by_statsmodels = QuantReg(y, covariates).fit(tau, p_tol=1e-10, max_iter=5_000).params
    np.testing.assert_allclose(coefficients, by_statsmodels, atol=1e-3)

    def loss(beta):
        r = y - covariates @ beta
        return float(np.sum(r * (tau - (r < 0))))

    assert loss(coefficients) <= loss(by_statsmodels) + 1e-9
    assert (ranks[residual > 1e-9] == 1).all()
    assert (ranks[residual < -1e-9] == 0).all()
    np.testing.assert_allclose(covariates.T @ (ranks - (1 - tau)), 0, atol=1e-9)


def test_the_integrated_score_is_of_the_spread(script):
    rng = np.random.default_rng(6)
    g = rng.integers(0, 3, 600)
    covariates = np.column_stack([np.ones(600), rng.standard_normal(600)])
    y = covariates @ [0, 1] + np.exp(0.4 * g) * rng.standard_normal(600)
    module = script("published_tests")
    score = module.integrated_rank_score(y, covariates, 20)
    residual = y - covariates @ np.linalg.lstsq(covariates, y, rcond=None)[0]
    # High where a value is far from the middle, on whichever side.
    assert np.corrcoef(score, np.abs(residual))[0, 1] > 0.8
    assert abs(np.corrcoef(score, residual)[0, 1]) < 0.2
    assert module.Regression.of(score, g[np.newaxis].astype(float), covariates).p[0] < 1e-6


def test_p_values_are_combined_by_cauchys_distribution(script):
    combined = script("published_tests").cauchy_combined
    np.testing.assert_allclose(combined(np.full((1, 9), 0.3)), 0.3, rtol=1e-12)
    np.testing.assert_allclose(combined(np.array([[1e-40, 0.5]])), 2e-40, rtol=1e-9)


def test_the_sides_of_people_on_a_fit_are_found(script, shared_data):
    folder = shared_data / "quantile"
    if not folder.is_dir():
        pytest.skip(f"the example of quantile regression is not at {folder}")
    found = list(script("published_tests").quantiles(folder))
    assert [figure.numbers for figure in found] == [90, 10, 90]
    assert all(figure.holds for figure in found)


def run(reproduce, monkeypatch, folder: Path, figures) -> int:
    """The command with figures of our own in place of what takes long."""
    for name in ("quantiles", "quail", "lods"):
        monkeypatch.setattr(reproduce, name, lambda *_, **__: iter(figures))
    monkeypatch.setattr(reproduce, "genome_wide", lambda *_: iter([(figures[0], {"n": 1})]))
    monkeypatch.setattr(reproduce.Mice, "read", lambda _: None)
    for name in ("bailey/rvqtl_lods.csv", "quail/test.bed", "quantile/example.sumstat.tsv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    arguments = ["reproduce", "--quick", "--data", str(folder), "-o", str(folder / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    return reproduce.main()


def test_the_status_says_whether_all_figures_hold(script, monkeypatch, tmp_path, capsys):
    figure = script("published").figure_of
    reproduce = script("reproduce")
    good = figure("theirs", "a LOD", 5.1794, 5.1794, 1e-5)
    assert run(reproduce, monkeypatch, tmp_path, [good]) == 0
    assert "4 of 4 figures, which stand for 4 numbers" in capsys.readouterr().out
    off = figure("theirs", "another", 5.1794, 5.1796, 1e-5)
    assert run(reproduce, monkeypatch, tmp_path, [good, off]) == 1
    told = capsys.readouterr()
    assert "reproduce: theirs: another is off" in told.err
    assert "| theirs | another | 1 | 5.1794 | 5.1796 | 0.0002 | 1e-05 | **no** |" in told.out
    written = pd.read_json(tmp_path / "out" / "reproduce.json", typ="series")
    assert len(written["figures"]) == 7


def test_data_that_are_not_there_are_one_clear_line(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        script("reproduce").main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"reproduce: {tmp_path}: no bailey/rvqtl_lods.csv; name the folder")
