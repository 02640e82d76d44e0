"""λ, quantiles and the verdict on traits of known shape."""

from __future__ import annotations

import json

import hand_made
import numpy as np
import pytest
import small_scans
from scipy import stats

from hlmm_scan.analysis.calibration import calibration, judge
from hlmm_scan.cli import main
from hlmm_scan.errors import InputError
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import Status

N, M = 3000, 1500
USE = {"normal": "model", "gamma": "robust", "t5": "robust", "log_normal": "transform"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ResultStore:
    """1,500 variants without effect on four traits; some people lack one of them."""
    rng = np.random.default_rng(11)
    traits = {
        "normal": rng.standard_normal(N),
        "gamma": rng.gamma(2.0, size=N),
        "t5": rng.standard_t(5, N),
        "log_normal": rng.lognormal(0, 1, N),
    }
    traits["gamma"][:100] = np.nan
    frequency = rng.uniform(0.02, 0.5, M)
    frequency[:3] = 0.0
    copies = rng.binomial(2, frequency[:, None], (M, N))
    return small_scans.scan_of(tmp_path_factory.mktemp("shapes"), copies, traits, chunk=400)


def test_each_trait_gets_its_verdict(store):
    found = {c.phenotype: c for c in calibration(store)}
    assert {name: c.verdict.use for name, c in found.items()} == USE
    assert found["gamma"].people == N - 100
    assert found["gamma"].trait_skewness == pytest.approx(np.sqrt(2), abs=0.2)
    assert found["gamma"].verdict.skewness == pytest.approx(found["gamma"].trait_skewness, 1e-6)
    assert "--rint" in found["log_normal"].verdict.text


def test_lambda_follows_the_kurtosis_and_the_robust_test_does_not(store):
    for found in calibration(store, tests=["wald", "wald_robust"]):
        model, robust = found.of("var_wald"), found.of("var_wald_robust")
        assert model.lambda_gc == pytest.approx(found.verdict.expected_lambda, rel=0.3)
        assert 0.7 < robust.lambda_gc < 1.15
        assert found.of("add_wald").lambda_gc == pytest.approx(1, abs=0.13)


def test_numbers_are_those_of_all_rows_at_once(store):
    (found,) = calibration(store, ["t5"])
    dataset = store.dataset().sel(phenotype="t5")
    ok = dataset["status"].values == Status.OK
    assert ok.sum() < M
    for test, df in (("var", 1), ("av", 2)):
        p = dataset[f"{test}_neg_log10_p"].values[ok]
        line = found.of(test)
        assert line.n == len(p)
        np.testing.assert_allclose(line.observed[:100], np.sort(p)[::-1][:100])
        chi2 = stats.chi2.isf(10**-p, df)
        assert line.lambda_gc == pytest.approx(np.median(chi2) / stats.chi2.median(df), rel=1e-4)
    frequency = dataset["effect_allele_frequency"].values[ok]
    minor = np.minimum(frequency, 1 - frequency)
    rare = found.of("add", (0.01, 0.05))
    assert rare.n == ((minor >= 0.01) & (minor < 0.05)).sum()
    bins = [t.n for t in found.tests if t.test == "add" and t.frequency]
    assert sum(bins) == ok.sum()


def test_limits_of_the_verdict():
    assert judge(0.2, -0.2).use == "model"
    assert judge(0.21, 0.0).use == "robust"
    assert judge(-2.0, 10.0).use == "robust"
    assert judge(-2.1, 6.0).use == "transform"
    assert judge(0.0, 10.1).use == "transform"
    assert judge(0.0, 0.0).level_at_genome_wide == pytest.approx(5e-8)
    # z² = 29.7 over 4
    assert judge(0.0, 6.0).level_at_genome_wide == pytest.approx(stats.chi2.sf(29.717 / 4, 1), 1e-3)
    assert judge(0.0, -2.0).level_at_genome_wide == 0


def test_untrusted_and_pending_rows_do_not_count(tmp_path):
    p = [5.0, 9.0, 3.0, 8.0, np.nan]
    status = [Status.OK, Status.NOT_CONVERGED, Status.SCREENED, Status.PENDING, Status.LOW_MAF]
    store = hand_made.store_of(
        tmp_path / "results.zarr",
        range(5),
        {"status": status, "av_neg_log10_p": p},
        moments=(1.0, 6.0),
    )
    (found,) = calibration(store)
    assert found.of("add").n == 2
    np.testing.assert_array_equal(found.of("av").observed, [5.0, 3.0])
    assert {t.test for t in found.tests} == {"add", "var", "av"}
    assert found.verdict.expected_lambda == 2.5
    assert found.people == 50


def test_the_command_prints_and_writes_json(store, capsys):
    assert main(["calibration", str(store.path), "--phenotype", "gamma"]) == 0
    text = capsys.readouterr().out
    assert "gamma" in text
    assert "Use the robust tests" in text
    assert "t5" not in text
    assert main(["calibration", str(store.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["phenotype"] for c in found] == list(USE)
    line = found[1]["tests"][0]
    assert line["n"] > 0
    assert len(line["rank"]) == len(line["observed"]) == len(line["lower"])


def test_an_unknown_phenotype_is_one_line(store):
    with pytest.raises(InputError, match="unknown phenotype 'gama'; did you mean 'gamma'"):
        calibration(store, ["gama"])
