"""Scans with an environment, beside models fitted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.packing import unpack
from hlmm_scan.kernels.covariances import degrees_of_freedom
from hlmm_scan.models.hlm import HLM
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.schema import Status

UNEXPOSED = [4, 9, 40]


@pytest.fixture(scope="module")
def tables(bench, tmp_path_factory):
    """A phenotype, a covariate and an environment that some people lack, in three tables."""
    folder = tmp_path_factory.mktemp("interaction")
    people = GenotypeDataset.open(bench.genotypes()).samples.individual_id
    rng = np.random.default_rng(6)
    n = len(people)
    frame = pd.DataFrame({"IID": people, "smoking": 10 + 3 * rng.normal(size=n)})
    frame["age"] = rng.normal(size=n)
    frame["y"] = 5 + frame["age"] + 0.1 * frame["smoking"] + rng.normal(size=n)
    frame.loc[UNEXPOSED, "smoking"] = np.nan
    for name, columns in (("y", ["y"]), ("age", ["age"]), ("both", ["y", "smoking"])):
        frame[["IID", *columns]].to_csv(folder / name, sep="\t", index=False, na_rep="NA")
    frame[["IID", "age", "smoking"]].to_csv(folder / "x", sep="\t", index=False, na_rep="NA")
    return folder, frame


def scan(bench, output, **options):
    config = bench.config(output, min_mac=8, phenotype=(), **options)
    store = run.scan(config, executor=SerialExecutor())
    return xr.open_zarr(store.path).load().isel(phenotype=0)


def expected(bench, frame, row, in_variance):
    """Fit one variant by the plain estimator."""
    dataset = GenotypeDataset.open(bench.genotypes())
    g = unpack(dataset.read_packed(row, row + 1), dataset.n_samples)[0].astype(float)
    E = frame["smoking"].to_numpy()
    used = np.isfinite(E) & (g >= 0)
    centre = E[np.isfinite(E)].mean()
    ones = np.ones(used.sum())
    columns = [ones, frame["age"].to_numpy()[used], E[used], (g * (E - centre))[used], g[used]]
    variance = [ones, *([E[used]] if in_variance else []), g[used]]
    y = frame["y"].to_numpy()[used]
    return HLM(y, np.column_stack(columns), np.column_stack(variance)).fit()


@pytest.mark.parametrize("in_variance", [False, True])
def test_the_interaction_is_that_of_a_model_by_hand(bench, tables, tmp_path, in_variance):
    folder, frame = tables
    options = {"interaction": "smoking", "interaction_variance": in_variance or None}
    # From the covariates, or as a column beside the phenotype, which is then none.
    covariates = {"phenotypes": folder / "y", "mean_covariates": folder / "x"}
    beside = {"phenotypes": folder / "both", "mean_covariates": folder / "age"}
    results = scan(bench, tmp_path / "r", **options, **covariates)
    other = scan(bench, tmp_path / "s", **options, **beside)
    fitted = np.flatnonzero(results["status"] == Status.OK)
    assert len(fitted) > 40
    for row in fitted[::9]:
        fit = expected(bench, frame, int(row), in_variance)
        for found in (results.isel(variant=row), other.isel(variant=row)):
            assert abs(found["interaction"] - fit.alpha[-2]) < 1e-4 * fit.alpha_se[-2]
            designs = len(fit.alpha) - 2, len(fit.beta) - 1
            freedom, _ = degrees_of_freedom(int(results["n"].max()), *designs)
            assert np.isclose(found["interaction_se"], freedom * fit.alpha_se[-2], rtol=1e-3)
            assert abs(found["add"] - fit.alpha[-1]) < 1e-4 * fit.alpha_se[-1]
            assert abs(found["var"] - fit.beta[-1]) < 1e-4 * fit.beta_se[-1]
            assert np.isclose(found["log_likelihood"], fit.log_likelihood, rtol=1e-7)
    group = ResultStore.open(tmp_path / "s").null_group("y")
    assert group.attrs["dropped"]["environment_missing"] == len(UNEXPOSED)
    assert other.sizes["variant"] == results.sizes["variant"]


def test_results_do_not_depend_on_how_the_scan_is_cut(bench, tables, tmp_path):
    folder, _ = tables
    options = {"phenotypes": folder / "both", "interaction": "smoking", "sandwich": True}
    one, whole = (
        scan(bench, tmp_path / f"r{k}", **options, partition_variants=k) for k in (12, 72)
    )
    assert {"interaction_se_robust", "interaction_se_sandwich"} <= set(one.data_vars)
    for name in one.data_vars:
        assert np.array_equal(one[name], whole[name], equal_nan=name != "status"), name
    with pytest.raises(InputError, match="interaction_variance: stored"):
        scan(bench, tmp_path / "r12", **options, interaction_variance=True)


def test_what_does_not_go_together_is_said(bench, tables, tmp_path):
    folder, _ = tables
    for options, words in (
        ({"interaction": "smokin", "phenotypes": folder / "both"}, "no column 'smokin'.*smoking"),
        ({"interaction": "y", "random_effects": bench.cohort.random_effects}, "random_effects"),
        ({"interaction": "y", "method": "score"}, "method score"),
        ({"interaction": "y", "covariate_mode": "seed"}, "null or seed"),
        ({"interaction": "y", "likelihood_ratio": True}, "likelihood_ratio"),
        ({"interaction_variance": True}, "needs interaction"),
    ):
        with pytest.raises(InputError, match=words):
            run.dry_run(bench.config(tmp_path / "r", phenotype=(), **options))
