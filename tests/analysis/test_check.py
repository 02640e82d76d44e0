"""Permutation p-values and bootstrapped standard errors of chosen variants."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from cohorts_by_hand import null_model_of, random_effects_of
from scipy import stats
from small_scans import scan_of

import hlmm_scan.analysis.check as checking
from hlmm_scan.analysis.check import check, read_variants
from hlmm_scan.analysis.permuted import (
    CheckedGenotypes,
    Counts,
    ScoreStatistic,
    count,
    exceedances_wanted,
)
from hlmm_scan.cli import main
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import BGEN_8_BIT, Dosages, HardCalls
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.scores.p_values import GenotypeShapes
from hlmm_scan.kernels.screen.plain import fit_hlmm_screen_plain, fit_screen_plain
from hlmm_scan.results.inputs import scanned_genotypes

N = 600
TESTS = ("add", "var", "av")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """60 variants; the first has both effects on each trait, v1 is monomorphic, v2 rare."""
    rng = np.random.default_rng(3)
    copies = rng.binomial(2, rng.uniform(0.2, 0.5, 60)[:, None], (60, N)).astype(np.int8)
    copies[1] = 0
    copies[2] = rng.binomial(2, 0.03, N)
    copies[3, :20] = -1
    g = copies[0]
    traits = {
        "normal": 0.4 * g + np.exp(0.3 * g) * rng.standard_normal(N),
        "gamma": 0.4 * g + np.exp(0.3 * g) * (rng.gamma(1.0, size=N) - 1),
    }
    traits["gamma"][-50:] = np.nan
    folder = tmp_path_factory.mktemp("check")
    return scan_of(folder, copies, traits, min_maf=0.0, min_mac=1)


def ids(k: int) -> list[str]:
    return [f"v{j}" for j in range(k)]


def checked(store, variants, phenotypes=(), **options):
    return check(store, variants, scanned_genotypes(store), phenotypes, **options)


def observed_of(store, variants, phenotype):
    """The tests that `check` starts from, and the stored ones, (m, 3) each."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "_compare", lambda *arguments: seen.append(arguments))
        table = checked(store, variants, [phenotype], permutations=1)
    observed = np.full((len(table), 3), np.nan)
    for _, part, found in seen:
        observed[part.lines] = found
    return observed, table[[f"{test}_neg_log10_p" for test in TESTS]].to_numpy()


def same_tests(store, variants, phenotype, tolerance=1e-6):
    observed, stored = observed_of(store, variants, phenotype)
    np.testing.assert_allclose(observed, stored, rtol=tolerance, atol=tolerance)
    return stored


@pytest.mark.parametrize("phenotype", ["normal", "gamma"])
def test_the_observed_tests_are_the_scan_s(store, phenotype):
    stored = same_tests(store, ids(60), phenotype)
    assert np.isnan(stored[1]).all()  # monomorphic
    assert np.isfinite(stored[[0, 2, 3]]).all()  # a strong effect, few carriers, missing calls
    table = checked(store, ["v1"], [phenotype], permutations=5)
    assert np.isnan(table["var_p_permutation"][0])
    assert np.isnan(table["var_p_permutation_low"][0])
    assert table["var_permutations"][0] == 0
    assert table["status"][0] == "monomorphic"


@pytest.mark.parametrize("phenotype", ["normal", "gamma"])
def test_permutations_say_what_the_tests_say(store, phenotype):
    table = checked(store, ids(60), [phenotype], permutations=300, half_width=0.05)
    table = table.drop(index=[0, 1])
    outside = 0
    for test in TESTS:
        permuted = table[f"{test}_p_permutation"].to_numpy()
        assert stats.kstest(permuted, "uniform").pvalue > 1e-3
        p = 10 ** -table[f"{test}_neg_log10_p"].to_numpy()
        np.testing.assert_allclose(permuted, p, atol=0.12)
        low, high = (table[f"{test}_p_permutation_{end}"].to_numpy() for end in ("low", "high"))
        assert ((low < permuted) & (permuted <= high)).all()
        outside += ((p < low) | (p > high)).sum()
    assert outside <= 0.1 * 3 * len(table)


def test_an_effect_is_seen_up_to_what_permutations_can_tell(store):
    table = checked(store, ["v0"], permutations=999)
    assert (table["av_exceedances"] <= 2).all()
    assert (table["av_p_permutation_low"] < table["av_p_permutation"]).all()
    assert (table["av_p_permutation_high"] < 0.01).all()
    assert (table["av_p_permutation"] <= 3 / 1000).all()
    np.testing.assert_allclose(
        table["av_neg_log10_p_permutation"], -np.log10(table["av_p_permutation"])
    )
    assert (table["av_level_at_0.001"] < 0.01).all()


def test_numbers_depend_on_nothing_else_that_is_checked(store):
    together = checked(store, ["v5", "v0", "v3"], permutations=250)
    alone = checked(store, ["v0"], ["gamma"], permutations=250)
    mine = together[together["phenotype"].eq("gamma") & together["variant_id"].eq("v0")]
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), alone)
    other = checked(store, ["v4"], ["gamma"], permutations=250, seed=2)
    again = checked(store, ["v4"], ["gamma"], permutations=250, seed=1)
    assert other["add_exceedances"].item() != again["add_exceedances"].item()


class Drawn:
    """Statistics that are drawn by permutation, the observed one given."""

    n = 9

    def __init__(self, observed):
        self.own = np.asarray(observed, float)

    def observed(self):
        return self.own

    def at(self, orders, rows):
        drawn = [np.random.default_rng(order).random(self.own.shape) for order in orders]
        return np.array(drawn)[:, rows]


def test_counting_stops_at_the_permutation_that_is_enough():
    observed = [[0.2, 0.9, 2.0], [0.5, np.nan, 0.0]]
    counts = [
        count(Drawn(observed), most=300, enough=5, seed=(7,), at_once=size) for size in (1, 7, 300)
    ]
    for other in counts[1:]:
        np.testing.assert_array_equal(counts[0].permutations, other.permutations)
        np.testing.assert_array_equal(counts[0].exceedances, other.exceedances)
    first = counts[0]
    assert first.exceedances[0].tolist() == [5, 5, 0]
    assert first.permutations[1, 2] == 5
    assert first.permutations[0, 2] == 300
    p = first.p(5)
    assert p[0, 2] == 1 / 301
    assert p[1, 2] == 1
    assert p[0, 1] == 5 / first.permutations[0, 1]
    assert np.isnan(p[1, 1])
    assert first.permutations[1, 1] == 0
    low, high = first.interval(5)
    # Of the number of permutations that five exceedances took.
    took = first.permutations[0, 1]
    assert took > 5
    assert stats.nbinom.cdf(took - 5, 5, low[0, 1]) == pytest.approx(0.025)
    assert stats.nbinom.sf(took - 6, 5, high[0, 1]) == pytest.approx(0.025)
    assert low[0, 2] == 0
    assert stats.binom.cdf(0, 300, high[0, 2]) == pytest.approx(0.025)
    assert (low[1, 2], high[1, 2]) == (pytest.approx(0.025**0.2), 1)
    assert np.isnan([low[1, 1], high[1, 1]]).all()


def test_intervals_hold_p_as_often_as_they_say():
    rng = np.random.default_rng(6)
    enough = exceedances_wanted(0.5)
    for p in (0.004, 0.05, 0.5):
        reached = np.cumsum(rng.random((2_000, 1_000)) < p, axis=1)
        took = np.minimum((reached < enough).sum(axis=1) + 1, 1_000)
        exceedances = reached[np.arange(2_000), took - 1]
        counts = Counts(exceedances, took, np.zeros_like(took), np.ones(2_000, bool))
        low, high = counts.interval(enough)
        assert 0.94 < ((low <= p) & (p <= high)).mean() < 0.995
        stopped = exceedances == enough
        assert stopped.all() or p == 0.004
        if p == 0.05:
            assert np.median((high - low) / 2 / counts.p(enough)) < 0.55


# the one-step statistic ---------------------------------------------------------------------


def cohort(random: bool, seed: int = 2):
    """A null model with covariates on both sides, and 50 variants; the first is x0's."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, 2))
    copies = rng.binomial(2, 0.3, (50, N)).astype(np.int8)
    copies[0] = rng.binomial(2, np.where(x[:, 0] > 0, 0.5, 0.2))
    copies[1] = rng.binomial(2, 0.02, N)
    noise = rng.standard_normal(N) if random else rng.gamma(2.0, size=N)
    y = x[:, 0] + np.exp(0.3 * x[:, 1]) * noise
    effects = random_effects_of(N, ["1"] * 20 + ["2"] * 25, seed) if random else None
    if effects is not None:
        y = y + 0.15 * effects.columns @ rng.standard_normal(45)
    null = null_model_of(y, x, x, effects=effects, left_out=["1", "2"] if random else ())
    return null, copies


def statistic_of(null, key, copies):
    with_calls = np.where(copies < 0, np.nan, copies.astype(float))
    of_class = np.arange(3.0)
    people = [(g[:, None] == of_class).sum(axis=0).astype(float) for g in with_calls]
    shapes = [GenotypeShapes.of(p[None], of_class[None]) for p in people]
    return ScoreStatistic(null, key, CheckedGenotypes(with_calls, shapes))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("random", [False, True])
def test_scores_are_those_written_out_plainly(random, missing):
    null, copies = cohort(random)
    copies = copies[:6]
    if missing:
        copies[2:4, 5:25] = -1
    copies[4] = 1
    key = null.random_effect_set("1")
    assert key == ("1" if random else "")
    statistic = statistic_of(null, key, copies)
    genotypes = np.where(copies < 0, np.nan, copies.astype(float)).T
    plain = (
        fit_hlmm_screen_plain(null, genotypes, key) if random else fit_screen_plain(null, genotypes)
    )
    everybody = statistic._t[:, None]
    scores = statistic._scores(everybody, np.arange(6), null.fits[key].fourth_moment)[0]
    np.testing.assert_allclose(scores, plain.scores, rtol=1e-6, atol=1e-7)
    assert np.isnan(scores[4]).all()
    # The fourth moment of permuted residuals is that of the observed ones, were they observed.
    again = statistic._scores(everybody, np.arange(6))[0]
    np.testing.assert_allclose(again, scores, rtol=1e-5)


@pytest.mark.parametrize("random", [False, True])
def test_the_observed_tests_are_those_of_any_model(random):
    null, copies = cohort(random)
    key = null.random_effect_set("1")
    found = statistic_of(null, key, copies).observed()
    contigs = np.array(["1"] * len(copies), dtype=object)
    stored = fit_block(
        null, HardCalls.of(copies), contigs, FitOptions(min_maf=0, min_mac=1, screen=True)
    )
    for k, test in enumerate(TESTS):
        # The scan's products are of single precision, and of covariates it takes what matters.
        tolerance = 1e-6 if random else 1e-4
        np.testing.assert_allclose(found[:, k], stored[f"{test}_neg_log10_p"], atol=tolerance)
        assert np.median(np.abs(found[:, k] - stored[f"{test}_neg_log10_p"])) < 1e-6


@pytest.mark.parametrize("random", [False, True])
def test_permuted_p_are_uniform_with_covariates_and_random_effects(random):
    null, copies = cohort(random)
    statistic = statistic_of(null, null.random_effect_set("3"), copies)
    rng = np.random.default_rng(8)
    p = 10 ** -statistic.at([rng.permutation(N) for _ in range(150)], np.arange(50))
    # Variants of one permutation share it: the spread is that of permutations.
    for level in (0.5, 0.1, 0.01):
        rate = (p <= level).mean(axis=1)
        error = np.maximum(rate.std(axis=0) / np.sqrt(len(rate)), 0.05 * level)
        assert (np.abs(rate.mean(axis=0) - level) < 4 * error).all()


def test_a_genotype_that_covariates_explain_cannot_be_tested():
    null, copies = cohort(False)
    genotypes = copies[:4].astype(float)
    genotypes[1] = 1.0
    genotypes[2] = 1 + null.mean_design[:, 1]
    shapes = [GenotypeShapes.of(np.full((1, 3), N / 3), np.arange(3.0)[None])] * 4
    statistic = ScoreStatistic(null, "", CheckedGenotypes(genotypes, shapes))
    assert np.isnan(statistic.observed()[1:3]).all()
    assert np.isfinite(statistic.observed()[[0, 3]]).all()


def test_a_trait_of_two_values_has_no_test_of_its_variance(tmp_path):
    rng = np.random.default_rng(4)
    copies = rng.binomial(2, 0.3, (5, N))
    y = (rng.random(N) < 0.2 + 0.1 * copies[0]).astype(float)
    table = checked(scan_of(tmp_path, copies, {"y": y}), ids(5), permutations=60)
    assert table["var_p_permutation"].isna().all()
    assert (table["var_permutations"] == 0).all()
    for name in ("p_permutation", "p_permutation_low", "permutations"):
        np.testing.assert_array_equal(table[f"add_{name}"], table[f"av_{name}"])
    assert table["add_p_permutation"].notna().all()


def test_covariates_random_effects_and_dosages(store, tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    copies = rng.binomial(2, 0.4, (12, N))
    x = rng.standard_normal((N, 1))
    y = x[:, 0] + np.exp(0.35 * copies[0]) * rng.standard_normal(N)
    made = scan_of(tmp_path, copies, {"y": y}, covariates=x)
    same_tests(made, ids(12), "y", 1e-4)
    table = checked(made, ids(12), permutations=200)
    assert table["var_p_permutation"][0] < 0.02
    dataset = scanned_genotypes(store)
    codes = rng.choice(np.array([0, 100, 255, 510, 65535], np.uint16), (4, N))
    monkeypatch.setattr(
        type(dataset), "read_block", lambda self, a, b: Dosages(codes[a:b], BGEN_8_BIT)
    )
    table = check(store, ["v0"], dataset, ["normal"], permutations=50)
    assert np.isfinite(table["add_p_permutation"]).all()


def test_genotypes_that_were_not_scanned_are_told(store, monkeypatch, caplog):
    dataset = scanned_genotypes(store)
    caplog.set_level("WARNING", "hlmm_scan")
    check(store, ["v0"], dataset, ["normal"], permutations=2)
    assert not caplog.records
    others = dataset.read_block(9, 10)
    monkeypatch.setattr(type(dataset), "read_block", lambda self, a, b: others)
    check(store, ["v0"], dataset, ["normal"], permutations=2)
    assert "the tests of v0 are not those of the scan" in caplog.text


# bootstrap ----------------------------------------------------------------------------------


def test_bootstrapped_standard_errors_are_the_robust_ones(store):
    table = checked(store, ["v0", "v1"], permutations=1, bootstraps=150)
    for row in table[table["variant_id"].eq("v0")].to_dict("records"):
        assert row["add_se_bootstrap"] == pytest.approx(row["add_se"], rel=0.25)
        # The scan's takes the moments of the null model, without the variance effect.
        assert row["var_se_bootstrap"] == pytest.approx(row["var_se_robust"], rel=0.35)
        assert row["bootstraps"] == 150
    gamma = table[table["phenotype"].eq("gamma")].iloc[0]
    assert gamma["var_se_bootstrap"] > 1.4 * gamma["var_se"]
    normal = checked(store, ["v0"], ["gamma"], permutations=1, bootstraps=150, noise="normal")
    assert normal["var_se_bootstrap"].item() == pytest.approx(normal["var_se"].item(), rel=0.25)
    none = table[table["variant_id"].eq("v1")]
    assert none["var_se_bootstrap"].isna().all()
    assert (none["bootstraps"] == 0).all()


def test_bootstrap_with_random_effects(tmp_path):
    rng = np.random.default_rng(6)
    copies = rng.binomial(2, 0.4, (14, 300))
    y = copies[4:].T @ rng.normal(0, 0.4, 10) + rng.standard_normal(300)
    made = scan_of(
        tmp_path, copies, {"y": y}, contig=["1"] * 4 + ["2"] * 10, random_effects=ids(14)[2:]
    )
    table = checked(made, ["v0"], permutations=20, bootstraps=40)
    assert table["add_se_bootstrap"].item() == pytest.approx(table["add_se"].item(), rel=0.45)
    assert table["var_se_bootstrap"].item() == pytest.approx(table["var_se"].item(), rel=0.45)


# the command --------------------------------------------------------------------------------


def test_the_command_takes_ids_and_tables(store, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("v3\nv0\n\nv3\n")
    (tmp_path / "table.csv").write_text("\ufeffx,variant_id\n1,v3\n2,v0\n", encoding="utf-8")
    command = ["check", str(store.path), "--permutations", "20", "--phenotype", "normal"]
    output = tmp_path / "checked.tsv"
    for name in ("ids.txt", "table.csv"):
        assert list(map(str, read_variants(tmp_path / name))) == ["v3", "v0"]
        assert main([*command, "--variants", str(tmp_path / name), "-o", str(output)]) == 0
        assert list(pd.read_csv(output, sep="\t")["variant_id"]) == ["v3", "v0"]
    # A table of hits says of which phenotype each is.
    hits = tmp_path / "hits.tsv"
    hits.write_text("phenotype\tvariant_id\tx\nnormal\tv3\t1\ngamma\tv0\t2\nnormal\tv0\t\n")
    names = {name: list(map(str, found)) for name, found in read_variants(hits).items()}
    assert names == {"normal": ["v3", "v0"], "gamma": ["v0"]}
    assert main([*command[:-2], "--variants", str(hits), "-o", str(output)]) == 0
    table = pd.read_csv(output, sep="\t")
    pairs = list(zip(table["phenotype"], table["variant_id"], strict=True))
    assert sorted(pairs) == [("gamma", "v0"), ("normal", "v0"), ("normal", "v3")]
    capsys.readouterr()
    assert main([*command, "--variants", str(tmp_path / "ids.txt"), "--json"]) == 0
    (row, _) = json.loads(capsys.readouterr().out)
    assert row["add_permutations"] > 0
    assert main([*command, "--variants", str(tmp_path / "ids.txt")]) == 0
    assert "v3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no variant ids in it"),
        ("v1 v2\n", "line 1: expected one variant id"),
        ("a\tvariant_id\nx\n", "line 2: has no variant_id"),
        ("variant_id\n", "no variant ids in it"),
        ("\xff", None),
    ],
)
def test_bad_lists_are_one_line(store, tmp_path, capsys, text, words):
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode("latin-1"))
    assert main(["check", str(store.path), "--variants", str(path)]) == 2
    assert (words or "not text in UTF-8") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"permutations": 0}, "permutations must be 1"),
        ({"half_width": 0}, "half-width must be between 0 and 1"),
        ({"bootstraps": 1}, "bootstraps must be 0, or 2"),
        ({"noise": "cauchy"}, "noise must be one of"),
        ({"seed": -1}, "seed must not be negative"),
        ({"phenotypes": ["nomal"]}, "did you mean 'normal'"),
        ({"variants": ["v99"]}, "v99 is not among"),
    ],
)
def test_bad_requests_are_one_line(store, options, words):
    with pytest.raises(InputError, match=words):
        checked(store, **{"variants": ["v0"], **options})
