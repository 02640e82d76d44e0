"""λ, quantiles, rejection, and the verdict from what is seen."""

from __future__ import annotations

import json
import re

import hand_made
import numpy as np
import pytest
import small_scans
from scipy import stats

from hlmm_scan.analysis.calibration import OUTLIER_SHARE, calibration, not_shown
from hlmm_scan.analysis.hits import hits
from hlmm_scan.analysis.rejection import ALL, COLUMNS, LEVELS, Bin
from hlmm_scan.analysis.rows import chosen_tests
from hlmm_scan.cli import main
from hlmm_scan.errors import InputError
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import Status

N, M = 3000, 1500
TRAITS = ("normal", "gamma", "t5", "log_normal")


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


def test_shape_tells_nothing_of_the_tests_by_itself(store):
    for found in calibration(store):
        assert "trusted" not in found.verdict.text
        assert found.verdict.tests == found.of("add").n
    (found,) = calibration(store, ["gamma"])
    assert found.people == N - 100
    assert found.trait_skewness == pytest.approx(np.sqrt(2), abs=0.2)
    assert found.verdict.facts.skewness == pytest.approx(found.trait_skewness, 1e-6)


def test_lambda_of_the_models_wald_test_follows_the_kurtosis(store):
    for found in calibration(store, tests=["wald", "wald_robust"]):
        model, robust = found.of("var_wald"), found.of("var_wald_robust")
        expected = 1 + found.verdict.facts.excess_kurtosis / 2
        assert model.lambda_gc == pytest.approx(expected, rel=0.3)
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
        for level in (0.5, 1e-3, 1e-4):
            rejection = line.at(level)
            assert rejection.observed == (p > -np.log10(level)).sum()
            assert rejection.expected == pytest.approx(len(p) * level)
            band = line.alike * stats.binom.ppf([0.025, 0.975], round(line.independent), level)
            assert [rejection.lower, rejection.upper] == band.tolist()
    frequency = dataset["effect_allele_frequency"].values[ok]
    count = 2 * dataset["n"].values[ok] * np.minimum(frequency, 1 - frequency)
    rare = found.of("add", Bin("count", 100.0, 200.0))
    assert rare.n == ((count >= 100) & (count < 200)).sum()
    assert sum(t.n for t in found.tests if t.test == "add" and t.bin != ALL) == ok.sum()


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
    assert found.people == 50
    assert found.verdict.state == "too_few"
    assert "2 tests are too few" in found.verdict.text


# The verdict ------------------------------------------------------------------------------

TESTED = 40_000


def made(path, *, seed=1, counts=None, shape=lambda rng, p: p, **options) -> ResultStore:
    """Uniform p-values of 40,000 variants, as `shape` changes them: a dict of −log10 p."""
    rng = np.random.default_rng(seed)
    count = rng.choice([30, 70, 150, 300, 1500], TESTED) if counts is None else counts
    people = options.pop("people", 3000)
    columns = {
        "n": np.full(TESTED, people),
        "effect_allele_frequency": count / (2 * people),
        **{f"{t}_neg_log10_p": -np.log10(rng.random(TESTED)) for t in ("add", "var", "av")},
        **options.pop("columns", {}),
    }
    columns |= shape(rng, columns)
    return hand_made.store_of(
        path, np.arange(TESTED), columns, chunk=TESTED, people=people, **options
    )


def verdict(store: ResultStore):
    (found,) = calibration(store)
    return found.verdict


def causes(store: ResultStore) -> list[str]:
    return [cause.name for cause in verdict(store).causes]


def inflated(factor: float, *tests: str):
    """χ² of 1 df times a factor."""

    def shape(rng, columns):
        return {
            f"{t}_neg_log10_p": -stats.chi2.logsf(factor * rng.chisquare(1, TESTED), 1) / np.log(10)
            for t in tests
        }

    return shape


def test_no_verdict_over_no_tests(tmp_path):
    status = np.full(5, Status.LOW_MAF)
    store = hand_made.store_of(tmp_path / "r", range(5), {"status": status})
    found = verdict(store)
    assert found.state == "none"
    assert found.text == "No verdict: no variant was tested."
    (calibrated,) = calibration(store)
    for test in calibrated.tests:
        name, which, n, *rest = test.cells
        assert (name, which, n) == (test.test, "all", "no tests")
        assert len(test.cells) == len(COLUMNS)
        assert not any(rest)


@pytest.mark.parametrize("command", ["calibration", "report"])
def test_no_tests_are_told_without_numbers(tmp_path, capsys, command):
    status = np.full(5, Status.LOW_MAF)
    store = hand_made.store_of(tmp_path / "r", range(5), {"status": status})
    page = tmp_path / "page.html"
    options = [] if command == "calibration" else ["-o", str(page)]
    assert main([command, str(store.path), *options]) == 0
    text = capsys.readouterr().out if command == "calibration" else page.read_text()
    assert "no tests" in text
    assert not re.search(r"\bnan\b", text)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_as_expected_is_said_with_its_limits(tmp_path, seed):
    found = verdict(made(tmp_path / "r", seed=seed))
    assert found.state == "held"
    assert "As expected without effects" in found.text
    assert "40,000 tests of 3,000 people" in found.text
    assert found.shown_to == pytest.approx(10 / TESTED, rel=1)
    assert "down to some 0.000" in found.text
    assert "and nothing below" in found.text
    assert "trusted" not in found.text
    skewed = verdict(made(tmp_path / "s", seed=seed, moments=(6.0, 80.0)))
    assert skewed.state == "held"
    assert "--rint" in skewed.text


def test_relatives_and_their_remedy(tmp_path):
    shape = inflated(3.0, "add", "var", "av")
    store = made(tmp_path / "r", shape=shape)
    assert causes(store) == ["relatives"]
    text = verdict(store).text
    for words in ("relatives or population structure", "--random-effects", "--loco", "--offset"):
        assert words in text
    told = made(tmp_path / "s", shape=shape, parameters={"random_effects": "x", "loco": False})
    text = verdict(told).text
    assert "in spite of the background" in text
    assert "--loco" in text
    whole = made(tmp_path / "t", shape=shape, parameters={"offset": "x"})
    assert "give the background more variants" in verdict(whole).text


def test_many_people_and_many_effects(tmp_path):
    store = made(tmp_path / "r", shape=inflated(1.5, "add"), people=300_000)
    assert causes(store) == ["many_effects"]
    assert "as very many effects would have it in 300,000 people" in verdict(store).text


def test_few_carriers(tmp_path):
    def shape(rng, columns):
        rare = columns["effect_allele_frequency"] * 2 * 3000 < 50
        p = columns["var_neg_log10_p"].copy()
        p[rare & (rng.random(TESTED) < 0.02)] = 4.5
        return {"var_neg_log10_p": p}

    store = made(tmp_path / "r", shape=shape)
    assert causes(store) == ["few_carriers"]
    text = verdict(store).text
    assert "few carriers: the variance test at count 20 to 50 has" in text.casefold()
    assert "--min-mac (50)" in text
    (found,) = calibration(store)
    assert found.of("var", Bin("count", 20.0, 50.0)).beyond == 1
    assert found.of("add").beyond == 0


def test_poor_imputation(tmp_path):
    info = np.random.default_rng(0).uniform(0.2, 1, TESTED)

    def shape(rng, columns):
        p = columns["add_neg_log10_p"].copy()
        p[(info < 0.3) & (rng.random(TESTED) < 0.02)] = 4.5
        return {"add_neg_log10_p": p}

    store = made(tmp_path / "r", shape=shape, columns={"info": info})
    assert causes(store) == ["poor_imputation"]
    assert "--min-info 0.3" in verdict(store).text


def test_too_many_covariates(tmp_path):
    shape, counts = inflated(1.3, "var"), np.resize([30, 70, 150, 300], TESTED)
    store = made(tmp_path / "r", counts=counts, shape=shape, people=433, covariates=24)
    assert causes(store) == ["few_people_per_covariate"]
    text = verdict(store).text
    assert "433 people (18 to a covariate)" in text
    assert "24 covariates are many for so few people" in text
    assert "fewer covariates" in text


def test_skew_and_what_has_no_plain_cause(tmp_path):
    shape = inflated(1.3, "var", "av")
    skewed = made(tmp_path / "r", shape=shape, moments=(6.0, 80.0))
    assert causes(skewed) == ["skew"]
    assert "--rint" in verdict(skewed).text
    plain = made(tmp_path / "s", shape=shape)
    assert causes(plain) == ["unknown"]
    assert "hlmm-scan check" in verdict(plain).text


def test_too_few_rejections_lose_power(tmp_path):
    store = made(tmp_path / "r", shape=inflated(0.6, "var"), moments=(6.0, 80.0))
    assert causes(store) == ["too_few_rejections"]
    assert "some are missed" in verdict(store).text


def test_a_trait_of_two_values_is_judged_by_its_other_tests(tmp_path):
    store = made(tmp_path / "r", columns={"var_neg_log10_p": np.full(TESTED, np.nan)})
    found = verdict(store)
    assert found.state == "held"
    assert "nan" not in found.text
    assert "(mean)" in found.text
    assert "(variance)" not in found.text


def test_one_true_locus_is_no_inflation(tmp_path):
    def shape(rng, columns):
        p = columns["add_neg_log10_p"].copy()
        p[1000:1250] = rng.uniform(4, 30, 250)
        return {"add_neg_log10_p": p}

    store = made(tmp_path / "r", shape=shape)
    (found,) = calibration(store)
    assert found.of("add").at(1e-4).observed > 200
    assert found.verdict.state == "held"


# Hits -------------------------------------------------------------------------------------


def test_hits_say_what_their_trait_does_not_show(tmp_path):
    counts = np.full(TESTED, 1500)
    counts[:20_000] = 30
    counts[-500:] = 70

    def shape(rng, columns):
        p = columns["var_neg_log10_p"].copy()
        p[:20_000][rng.random(20_000) < 0.02] = 4.5
        flags = np.zeros(TESTED)
        p[[5, 25_000, TESTED - 5]] = 9.0
        flags[25_000] = 2
        add = columns["add_neg_log10_p"].copy()
        add[[7, 25_000]] = 9.0
        return {"var_neg_log10_p": p, "add_neg_log10_p": add, "test_flags": flags}

    store = made(tmp_path / "r", shape=shape, counts=counts)
    table = hits(store, distance=10)
    found = {(h["test"], h["row"]): h["calibration_flags"] for h in table.to_dict("records")}
    assert found == {
        ("add", 7): "",
        ("add", 25_000): "",
        ("var", 5): "inflated_count",
        ("var", 25_000): "at_bound",
        ("var", TESTED - 5): "few_tests_count",
    }
    assert (table["flags"] == "").all()


def test_an_info_without_tests_is_told(tmp_path):
    info = np.full(TESTED, 0.95)
    info[3] = 0.1
    store = made(tmp_path / "r", columns={"info": info})
    (found,) = calibration(store, tests=["add"])
    (test,) = chosen_tests(store, ["add"])
    hit = {"n": 3000, "effect_allele_frequency": 0.25, "info": 0.1, "status": "ok", "test_flags": 0}
    assert not_shown(found, test, hit) == ["few_tests_info"]
    assert not_shown(found, test, hit | {"info": 0.99, "test_flags": 1}) == ["at_bound"]


@pytest.mark.parametrize(("away", "outlier"), [(4.0, False), (30.0, True)])
def test_rare_alleles_and_a_trait_of_one_person_are_told(tmp_path, away, outlier):
    """Whether that person is a carrier decides."""
    y = np.random.default_rng(5).standard_normal(3000)
    y[7] = away
    store = made(tmp_path / "r", y=y)
    (found,) = calibration(store, tests=["add"])
    assert (found.outlier >= OUTLIER_SHARE) == outlier
    assert found.to_json()["outlier"] == found.outlier
    hit = {"n": 3000, "effect_allele_frequency": 150 / 6000, "status": "ok", "test_flags": 0}
    for name in ("add", "var", "av"):
        (found,), (test,) = calibration(store, tests=[name]), chosen_tests(store, [name])
        assert not_shown(found, test, hit) == ["outlier"] * (outlier and name != "add")
        assert not_shown(found, test, hit | {"effect_allele_frequency": 250 / 6000}) == []


@pytest.mark.parametrize(("values", "jump"), [(3, True), (20, True), (21, False)])
def test_rare_alleles_and_a_trait_of_few_values_are_told(tmp_path, values, jump):
    """A sum over few carriers takes few values too."""
    store = made(tmp_path / "r", y=np.arange(3000.0) % values)
    (found,) = calibration(store, tests=["add"])
    (test,) = chosen_tests(store, ["add"])
    assert found.few_values == found.to_json()["few_values"] == jump
    hit = {"n": 3000, "effect_allele_frequency": 30 / 6000, "status": "ok", "test_flags": 0}
    assert not_shown(found, test, hit) == ["jumps"] * jump
    assert not_shown(found, test, hit | {"effect_allele_frequency": 70 / 6000}) == []


# The command ------------------------------------------------------------------------------


def test_the_command_prints_and_writes_json(store, capsys):
    assert main(["calibration", str(store.path), "--phenotype", "gamma"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("gamma, 2,900 people. ")
    assert "t5" not in text
    assert "p < 0.001" in text
    assert main(["calibration", str(store.path), "--json", "--test", "add_wald"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["phenotype"] for c in found] == list(TRAITS)
    line = found[1]["tests"][0]
    assert line["test"] == "add_wald"
    assert line["n"] > 0
    assert len(line["rank"]) == len(line["observed"]) == len(line["lower"])
    assert [r["level"] for r in line["rejections"]] == list(LEVELS)


def test_an_unknown_phenotype_is_one_line(store):
    with pytest.raises(InputError, match=r"unknown phenotype 'gama' in .*; did you mean 'gamma'"):
        calibration(store, ["gama"])
