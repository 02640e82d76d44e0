"""Variance effects that are none, and one that is: simulated, scanned, found and checked."""

from __future__ import annotations

import shutil

import hand_made
import numpy as np
import pytest
import small_scans
from cohorts_by_hand import null_model_of

from hlmm_scan.analysis.hits import hits
from hlmm_scan.analysis.linkage import ChosenGenotypes
from hlmm_scan.analysis.refits import Refits
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import MISSING_CODE, Dosages
from hlmm_scan.models.hlm import HLM
from hlmm_scan.results.inputs import scanned_genotypes, stored_null_model
from hlmm_scan.results.store import ResultStore

N = 4000
PHANTOM, CAUSAL, DOMINANT, TRUE, PROXY = 10, 11, 40, 70, 71
POSITION = np.concatenate([1000 * np.arange(1, 31), 9_000_000 + 1000 * np.arange(60)])


def cohort(seed: int = 4) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """90 variants in three places: a tag of a rarer causal one, a recessive one, a true vQTL."""
    rng = np.random.default_rng(seed)
    copies = rng.binomial(2, 0.3, (90, N)).astype(np.int8)
    # Every haplotype with the causal allele has the tag's; the tag is commoner.
    tag = rng.random((2, N)) < 0.35
    causal = tag & (rng.random((2, N)) < 0.4)
    copies[PHANTOM], copies[CAUSAL] = tag.sum(axis=0), causal.sum(axis=0)
    copies[PROXY] = np.where(rng.random(N) < 0.9, copies[TRUE], copies[PROXY])
    true = copies[TRUE]
    traits = {
        "phantom": 1.4 * copies[CAUSAL] + rng.standard_normal(N),
        "recessive": 2.0 * (copies[DOMINANT] == 2) + rng.standard_normal(N),
        "true": 0.3 * true + np.exp(0.2 * true) * rng.standard_normal(N),
    }
    traits["phantom"][:250] = np.nan
    traits["true"][-300:] = np.nan
    copies[PHANTOM, 300:360] = -1
    copies[CAUSAL, 340:400] = -1
    copies[TRUE, 0] = -1
    return copies, traits


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ResultStore:
    copies, traits = cohort()
    folder = tmp_path_factory.mktemp("confounders")
    return small_scans.scan_of(folder, copies, traits, position=POSITION, chunk=16)


def row(table, phenotype, variant, test="var"):
    mine = table["phenotype"].eq(phenotype) & table["variant_id"].eq(f"v{variant}")
    (found,) = table[mine & table["test"].eq(test)].to_dict("records")
    return found


@pytest.fixture(scope="module")
def table(store):
    return hits(store, genotypes=scanned_genotypes(store), threshold=1e-5)


def test_a_phantom_is_flagged_and_gone_when_its_neighbour_is_in(table):
    found = row(table, "phantom", PHANTOM)
    assert found["var_neg_log10_p"] > 8
    assert found["neighbour"] == f"v{CAUSAL}"
    assert found["neighbour_position"] == POSITION[CAUSAL]
    assert 0.05 < found["neighbour_r2"] < 0.6
    assert found["var_given_neighbour_mean_neg_log10_p"] < 2
    assert found["var_given_neighbour_neg_log10_p"] < 2
    assert found["flags"] == "neighbour"
    # The refit without the neighbour is the scan's own, but for the moments of the noise.
    assert found["var_refitted"] == pytest.approx(found["var"], rel=1e-4)


def test_dominance_is_flagged_and_gone_when_it_is_in_the_mean(table):
    found = row(table, "recessive", DOMINANT)
    assert found["var_neg_log10_p"] > 5
    assert found["dominance_neg_log10_p"] > 20
    # g(2 − g) is −½ of (g = 2) besides a line.
    assert found["dominance"] == pytest.approx(-1.0, abs=0.15)
    assert found["var_given_dominance_neg_log10_p"] < 2
    assert found["flags"] == "dominance"
    assert found["mean_2"] - found["mean_1"] > 1.5
    assert found["n_0"] + found["n_1"] + found["n_2"] == found["n"]


def test_a_true_variance_effect_stays_without_a_flag(table):
    found = row(table, "true", TRUE)
    assert found["flags"] == ""
    assert found["neighbour"] == f"v{PROXY}"
    assert found["var_given_neighbour_mean_neg_log10_p"] > 5
    assert found["var_given_dominance_neg_log10_p"] > 5
    assert found["sd_0"] < found["sd_1"] < found["sd_2"]
    assert found["n"] == N - 301


def test_linkage_tells_hits_apart_that_distance_does_not(store, table):
    near = hits(store, threshold=1e-5, distance=250_000)
    additive = near[near["phenotype"].eq("phantom") & near["test"].eq("add")]
    assert list(additive["variant_id"]) == [f"v{CAUSAL}"]
    assert additive["clumped"].item() >= 1
    # In linkage, so the tag still belongs to the causal one.
    with_linkage = table[table["phenotype"].eq("phantom") & table["test"].eq("add")]
    assert f"v{PHANTOM}" not in set(with_linkage["variant_id"])
    genotypes = scanned_genotypes(store)
    apart = hits(store, ["phantom"], genotypes=genotypes, threshold=1e-5, r2=0.9, checks=False)
    assert {f"v{PHANTOM}", f"v{CAUSAL}"} <= set(apart[apart["test"].eq("add")]["variant_id"])
    assert apart["neighbour_r2"].isna().all()


def test_a_phenotype_s_hits_do_not_depend_on_others(store, table):
    alone = hits(store, ["true"], genotypes=scanned_genotypes(store), threshold=1e-5)
    together = table[table["phenotype"].eq("true")].reset_index(drop=True)
    assert alone.equals(together)


def test_linkage_is_the_correlation_of_the_people_analysed(store):
    copies, _ = cohort()
    null = stored_null_model(store, "phantom")
    genotypes = ChosenGenotypes(scanned_genotypes(store), null.samples)
    used = copies[:, null.samples].astype(float)
    used[used < 0] = np.nan
    filled = np.where(np.isnan(used), np.nanmean(used, axis=1, keepdims=True), used)
    expected = np.corrcoef(filled)[PHANTOM] ** 2
    np.testing.assert_allclose(genotypes.r2(PHANTOM, np.arange(90)), expected, atol=1e-10)
    np.testing.assert_array_equal(genotypes.copies(CAUSAL), used[CAUSAL])


class _Dosed:
    """As much of a dataset of dosages as is read."""

    chunk_variants, n_variants = 2, 5

    def __init__(self, codes):
        self.codes = codes

    def read_block(self, start, stop):
        return Dosages(self.codes[start:stop], 1 / 255)


def test_dosages_are_read_like_calls():
    codes = np.random.default_rng(2).integers(0, 511, (5, 30)).astype(np.uint16)
    codes[3] = 255  # one copy each
    codes[1, 4] = MISSING_CODE
    people = np.arange(1, 30, 2)
    genotypes = ChosenGenotypes(_Dosed(codes), people)
    expected = codes[0, people] / 255
    np.testing.assert_allclose(genotypes.copies(0), expected)
    found = genotypes.r2(0, np.array([4, 3, 0]))
    correlation = np.corrcoef(codes[0, people], codes[4, people])[0, 1]
    np.testing.assert_allclose(found, [correlation**2, 0, 1])


def test_refits_are_the_plain_model_s(store):
    copies, traits = cohort()
    refits = Refits(stored_null_model(store, "true"))
    people = refits.null.samples
    g = copies[TRUE, people].astype(float)
    g[g < 0] = np.nan
    other = copies[PROXY, people].astype(float)
    called = ~np.isnan(g)
    y, g_called, o = traits["true"][people][called], g[called], other[called]
    one = np.ones(len(y))
    fit = HLM(y, np.column_stack([one, g_called, o]), np.column_stack([one, o, g_called])).fit()
    found = refits.fit("1", g, mean=(other,), variance=(other,))
    assert found.var == pytest.approx(fit.beta[-1], rel=1e-6)
    assert found.effect == pytest.approx(fit.alpha[-1], rel=1e-6)
    assert found.effect_se == pytest.approx(fit.alpha_se[-1], rel=1e-6)
    t = (y - np.column_stack([one, g_called, o]) @ fit.alpha) / np.exp(
        0.5 * np.column_stack([one, o, g_called]) @ fit.beta
    )
    robust = fit.beta_se[-1] * np.sqrt(((t**4).mean() - 1) / 2)
    assert found.var_se == pytest.approx(robust, rel=1e-6)
    # A column that is the genotype once more: no fit, and no error.
    assert np.isnan(refits.fit("1", g, mean=(np.nan_to_num(g, nan=0.0),)).var)


def test_covariates_held_at_the_null_fit_change_little():
    rng = np.random.default_rng(12)
    n = 3000
    x = rng.standard_normal((n, 2))
    g = rng.binomial(2, np.where(x[:, 0] > 0, 0.5, 0.25)).astype(float)
    other = rng.binomial(2, 0.3, n).astype(float)
    y = x[:, 0] + 0.3 * g + np.exp(0.2 * x[:, 1] + 0.1 * g) * rng.standard_normal(n)
    g[:30] = np.nan
    null = null_model_of(y, x, x)
    exact, quick = Refits(null), Refits(null)
    quick._too_many_covariates = lambda: True  # type: ignore[method-assign]
    for mean, variance in (((), ()), ((other,), ()), ((other,), (other,))):
        a, b = (refits.fit("1", g, mean, variance) for refits in (exact, quick))
        assert b.var == pytest.approx(a.var, abs=0.1 * a.var_se)
        assert b.var_se == pytest.approx(a.var_se, rel=0.03)
        if mean:
            assert b.effect == pytest.approx(a.effect, abs=0.1 * a.effect_se)
            assert b.effect_se == pytest.approx(a.effect_se, rel=0.03)
    assert exact.fitted("1", g).column == 3
    assert quick.fitted("1", g).column == 0
    assert exact.fitted("1", np.where(np.arange(n) < 8, 1.0, np.nan)) is None
    assert np.isnan(exact.fit("1", np.full(n, np.nan)).var)


def test_with_random_effects_and_covariates(tmp_path):
    rng = np.random.default_rng(8)
    n = 500
    copies = rng.binomial(2, 0.4, (40, n))
    contig = ["1"] * 20 + ["2"] * 20
    random = copies[20:40].T - copies[20:40].mean(axis=1)
    x = rng.standard_normal((n, 1))
    y = x[:, 0] + 0.15 * random @ rng.standard_normal(20)
    y += np.exp(0.45 * copies[3]) * rng.standard_normal(n)
    store = small_scans.scan_of(
        tmp_path,
        copies,
        {"y": y},
        contig=contig,
        covariates=x,
        random_effects=[f"v{k}" for k in range(10, 40)],
    )
    table = hits(store, genotypes=scanned_genotypes(store), threshold=1e-5)
    found = row(table, "y", 3)
    assert found["flags"] == ""
    assert found["var_refitted"] == pytest.approx(found["var"], rel=1e-3)
    # The scan takes the null model's moments, which the variance effect itself has made larger.
    assert found["var_refitted_neg_log10_p"] > found["var_neg_log10_p"]
    # Their prediction taken off the phenotype does nearly as well.
    refits = Refits(stored_null_model(store, "y"))
    refits._too_dear = lambda key: True  # type: ignore[method-assign]
    cheap = refits.fit("1", copies[3].astype(float))
    assert cheap.var == pytest.approx(found["var"], abs=0.5 * found["var_se"])


def test_genotypes_that_are_not_those_scanned(store, tmp_path):
    copies, traits = cohort(5)
    other = small_scans.scan_of(tmp_path / "other", copies[:3], {"true": traits["true"]})
    with pytest.raises(InputError, match="not the genotypes that"):
        scanned_genotypes(store, scanned_genotypes(other).paths)
    (genotypes,) = scanned_genotypes(other).paths
    genotypes.rename(tmp_path / "moved.zarr")
    assert scanned_genotypes(other) is None
    assert scanned_genotypes(other, [tmp_path / "moved.zarr"]).n_variants == 3
    shutil.copytree(scanned_genotypes(store).paths[0], genotypes)
    assert scanned_genotypes(other) is None
    by_hand = hand_made.store_of(tmp_path / "hand.zarr", [1, 2], {})
    assert scanned_genotypes(by_hand) is None
