"""Predictions of the log-variance: what they are of, their bits, and what a scan makes of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from background_cohorts import Study
from test_background import Backwards

import hlmm_scan as hs
from hlmm_scan.cohort.cohort import Cohort
from hlmm_scan.cohort.design import build_design
from hlmm_scan.cohort.offsets import load_offsets
from hlmm_scan.errors import InputError
from hlmm_scan.models.hlm import HLM
from hlmm_scan.polygenic import plain, run
from hlmm_scan.polygenic.folds import folds_of
from hlmm_scan.polygenic.plan import SHARES
from hlmm_scan.polygenic.scores import variance_scores
from hlmm_scan.polygenic.state import background_state
from hlmm_scan.results.store import ResultStore


class Variable(Study):
    """The same people, with a heritable log-variance of one trait and none of another."""

    def __init__(self, folder) -> None:
        super().__init__(folder, n=1500, per_chromosome=40, seed=5)
        rng = np.random.default_rng(6)
        causal = np.isin(self.contigs, ("1", "2")) & (np.arange(len(self.contigs)) % 4 == 0)
        centred = self.complete - self.complete.mean(axis=1, keepdims=True)
        self.log_variance = np.where(causal, 0.6, 0.0) * rng.choice([-1, 1], len(causal)) @ centred
        age = (self.covariates["age"].to_numpy() - 50) / 10
        noise = rng.normal(size=self.n) * np.exp(0.5 * (self.log_variance + 0.4 * age))
        mean = 0.3 * centred[np.flatnonzero(self.contigs == "3")[3]]
        traits = {"varies": 5 * (mean + noise + age), "same": mean + rng.normal(size=self.n)}
        self.traits = pd.DataFrame(traits, self.people)

    def made(self, output, traits=None, **options):
        options |= {"variance": True, "variance_covariates": self.covariates[["age"]]}
        return self.background(output, traits, **options)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Variable:
    return Variable(tmp_path_factory.mktemp("variable"))


@pytest.fixture(scope="module")
def both(study, tmp_path_factory):
    return study.made(tmp_path_factory.mktemp("both") / "b.zarr")


def test_the_log_variance_is_predicted_where_it_is_heritable(study, both):
    table = both.to_frame()
    assert table.loc["varies", "log_variance_cv_r2"] > 0.08
    assert table.loc["same", "log_variance_cv_r2"] < 0.03
    with both.dataset.load() as dataset:
        predicted = dataset["log_variance_prediction"].sel(phenotype="varies")
        for contig, least in (("3", 0.5), ("X", 0.5), ("1", 0.25)):
            here = predicted.sel(contig=contig).values
            assert np.corrcoef(here, study.log_variance)[0, 1] > least
        assert dataset["log_variance_prediction"].attrs["units"] == "log variance"


def test_it_is_stacked_ridge_of_the_scores_of_the_variance(study, both):
    with both.dataset.load() as dataset:
        one = dataset.sel(phenotype="varies")
        rest = study.traits["varies"].to_numpy() - one["whole_genome_prediction"].values
        found = one["log_variance_prediction"].values
    x = np.column_stack([np.ones(study.n), study.covariates.to_numpy()])
    x[:, 1] = (x[:, 1] - 50) / 10
    v = x[:, :2]
    fit = HLM(rest / rest.std(), x, v).fit()
    scores = (rest / rest.std() - x @ fit.alpha) ** 2 / np.exp(v @ fit.beta) - 1
    copies = np.where(study.copies < 0, np.nan, study.copies.astype(float))
    filled = np.rint(np.nanmean(copies, axis=1) * 32)[:, None] / 32
    expected = plain.stacked_ridge(
        np.where(np.isnan(copies), filled, copies).T,
        [np.arange(k, k + 20) for k in range(0, len(copies), 20)],
        np.repeat([0, 1, 2, 3], 2).tolist(),
        scores,
        v,
        folds_of(study.people, 5),
        SHARES,
        4,
    )
    assert np.abs(found - expected.prediction).max() < 5e-3 * expected.prediction.std()


def test_bits_are_those_of_the_trait_alone_and_of_a_background_that_was_cut_off(
    study, both, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "SerialPool", lambda do: pool)
    path = tmp_path / "b.zarr"
    for after in (4, 6, 5):  # in the mean's part, in the variance's blocks, at the trait
        pool = Backwards(KeyboardInterrupt(), after)
        with pytest.raises(KeyboardInterrupt):
            study.made(path, ["varies"])
    state = background_state(path)
    assert (state.blocks_done, state.blocks, state.traits_done, state.traits) == (14, 16, 1, 2)
    pool = Backwards()
    with study.made(path, ["varies"]).dataset.load() as alone, both.dataset.load() as together:
        together = together.sel(phenotype=["varies"])
        assert set(alone) == set(together)
        for name in alone:
            np.testing.assert_array_equal(alone[name], together[name], err_msg=name)
    assert pool.done == 3


def test_the_mean_is_predicted_as_without_the_variance(study, both, tmp_path):
    with (
        study.background(tmp_path / "b.zarr").dataset.load() as mean,
        both.dataset.load() as dataset,
    ):
        assert "log_variance_prediction" not in mean
        for name in mean:
            np.testing.assert_array_equal(mean[name], dataset[name], err_msg=name)


def test_a_scan_fits_it_as_a_covariate_of_the_variance(study, both, tmp_path):
    options = {"sex_table": study.sex_table, "mean_covariates": study.covariates}
    options |= {"variance_covariates": study.covariates[["age"]]}
    results = hs.scan(study.genotypes, study.traits, tmp_path / "r", offset=both, **options)
    store = ResultStore.open(tmp_path / "r")
    offsets = load_offsets(both.path, ["varies"], study.genotypes.samples, autosomes=22)
    assert offsets.of_variance
    group = store.null_group("varies")
    assert "log_variance_prediction" in str(group.attrs.asdict())
    without = hs.scan(study.genotypes, study.traits, tmp_path / "w", **options)
    with results.dataset.load() as one, without.dataset.load() as other:
        gained = one["log_likelihood"] - other["log_likelihood"]
        assert (gained.sel(phenotype="varies") > 10).mean() > 0.9
        assert (one["status"] == 1).mean() > 0.9


def test_squares_that_are_all_alike_have_no_variance_to_predict():
    design = build_design(np.zeros((40, 0)), (), "mean", "two")
    y = np.where(np.arange(40) % 2, 1.0, -1.0)
    two = Cohort("two", np.arange(40), y, design, design, (), 40, 0)
    with pytest.raises(InputError, match="squared residuals are alike"):
        variance_scores(two, np.zeros(40))
    found = variance_scores(two, np.where(np.arange(40) < 20, 0.5, 0.0))
    assert abs(found.y.mean()) < 1e-6
    assert found.y.std() > 0.1
