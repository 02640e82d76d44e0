"""Scans with lists of people, transforms, levels and products: who, what, and in which units."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scan_helpers import contents

from hlmm_scan.cli import main
from hlmm_scan.errors import InputError
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run


@pytest.fixture(scope="module")
def covariates(bench, tmp_path_factory):
    """Age, sex in words and a centre in numbers."""
    table = pd.read_csv(bench.cohort.covariates, sep="\t")
    table["sex"] = table["sex"].map({1: "male", 2: "female"})
    table["centre"] = np.random.default_rng(8).choice(
        [11, 12, 13, 14], len(table), p=[3 / 10] * 3 + [0.1]
    )
    path = tmp_path_factory.mktemp("choices") / "covariates.tsv"
    table.to_csv(path, sep="\t", index=False)
    return path


@pytest.fixture
def asked(covariates):
    """Everything at once."""
    return {
        "mean_covariates": covariates,
        "variance_covariates": covariates,
        "categorical": ("centre",),
        "reference": ("centre=12",),
        "mean_terms": ("sex:age", "age^2"),
        "rint": True,
        "outlier_sd": 2.5,
        "condition": ("rs1_5",),
        "min_maf": 0.05,
    }


def test_a_phenotype_alone_is_the_phenotype_beside_others(bench, asked, tmp_path):
    """Bit for bit: levels, ranks, outliers and means of missing calls are its own."""
    together = contents(bench.scan(tmp_path / "together", **asked))
    for position, name in enumerate(together["phenotype"][2]):
        if name == "trait1":
            continue
        alone = contents(bench.scan(tmp_path / f"alone{position}", phenotype=(name,), **asked))
        arrays = {key: values for key, values in alone.items() if isinstance(values, tuple)}
        results = [key for key, (_, shape, _) in arrays.items() if shape == (1, 72)]
        assert len(results) > 15
        for key in results:
            of_all = np.frombuffer(together[key][2], together[key][0]).reshape(together[key][1])
            assert alone[key][2] == of_all[[position]].tobytes(), key
        nulls = [key for key in alone if key.startswith("null/")]
        assert nulls
        assert [key for key in nulls if alone[key] != together[key]] == []


def test_the_plan_counts_expanded_columns(bench, asked, tmp_path):
    store = run.prepare(bench.config(tmp_path / "r", **asked))
    names = {
        part: [
            effect["name"]
            for effect in store.null_group("trait1").attrs["covariate_fit"]["effects"]
            if effect["part"] == part
        ]
        for part in ("mean", "log_variance")
    }
    levels = ["centre=11", "centre=13", "centre=14"]
    reference = "sex=male" if "sex=male" in names["mean"] else "sex=female"
    main_effects = ["intercept", "age", reference, *levels]
    assert names["mean"] == [*main_effects, f"{reference}:age", "age:age", "variant rs1_5"]
    assert names["log_variance"] == [*main_effects, "variant rs1_5"]
    model = store.plan["model"]
    assert (model["mean"], model["variance"]) == (9, 7)
    for name in store.plan["phenotypes"]:
        group = store.null_group(name)
        assert group["mean_design"].shape[1] == 9
        dropped = group.attrs["dropped"]
        assert group.attrs["people"] + sum(dropped.values()) == group.attrs["people_in_genotypes"]


@pytest.mark.parametrize(
    ("changed", "unit", "scale"),
    [
        ({}, "phenotype units", "units of the phenotype table"),
        (
            {"log_transform": True, "phenotype": ("count",)},
            "log phenotype units",
            "natural logarithm of units of the phenotype table",
        ),
        (
            {"rint": True},
            "rank-normal units",
            "standard normal quantiles of the ranks of the phenotype's residuals on the mean "
            "covariates",
        ),
    ],
)
def test_units_of_effects(bench, tmp_path, changed, unit, scale):
    store = run.prepare(bench.config(tmp_path / "r", "hlmm", **changed))
    results = xr.open_zarr(store.path)
    assert results.attrs["effect_scale"] == scale
    assert {results[name].attrs["units"] for name in ("add", "add_se", "add_se_robust")} == {unit}
    assert results["random_variance"].attrs["units"] == f"{unit} squared"
    assert results["var"].attrs["units"] == "log variance per allele"


def test_lists_of_people_and_one_sex(bench, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    fam = pd.read_csv(bench.cohort.beds[0].with_suffix(".fam"), sep=r"\s+", header=None)
    (tmp_path / "keep.txt").write_text("\n".join([*fam[1][:120], "nobody"]))
    (tmp_path / "remove.txt").write_text("\n".join(f"{f} {i}" for f, i in fam[[0, 1]][110:].values))
    flags = ["scan", "--genotypes", str(bench.genotypes()), "--phenotypes", str(bench.phenotypes)]
    flags += ["--keep", str(tmp_path / "keep.txt"), "--remove", str(tmp_path / "remove.txt")]
    flags += ["--only-sex", "female", "--phenotype", "trait1", "-o", str(tmp_path / "r")]
    assert main([*flags, "--workers", "1", "--prepare"]) == 0
    store = ResultStore.open(tmp_path / "r")
    group = store.null_group("trait1")
    women = np.flatnonzero((fam[4] == 2).to_numpy()[:110])
    phenotyped = pd.read_csv(bench.phenotypes, sep="\t")["trait1"].notna().to_numpy()
    np.testing.assert_array_equal(group["samples"][...], women[phenotyped[women]])
    dropped = group.attrs["dropped"]
    assert (dropped["not_kept"], dropped["removed"]) == (30, 10)
    assert dropped["other_sex"] == 110 - len(women)
    assert list(store.attributes["inputs"])[-2:] == ["keep", "remove"]
    told = "\n".join(caplog.messages)
    assert "keep.txt: 1 of its 121 people are not in the genotypes" in told
    assert f"30 not_kept, 10 removed, {110 - len(women)} other_sex" in told
    with pytest.raises(InputError, match=r"nobody is left to analyse for trait1, .* 30 not_kept"):
        run.prepare(
            bench.config(
                tmp_path / "none",
                keep=tmp_path / "keep.txt",
                remove=tmp_path / "keep.txt",
                phenotype=("trait1",),
            )
        )
    assert not (tmp_path / "none").exists()


def test_fit_takes_the_same(bench, covariates, asked, tmp_path, capsys):
    store = run.prepare(
        bench.config(tmp_path / "r", **{**asked, "condition": ()}, phenotype=("a/b",))
    )
    stored = store.null_group("a/b").attrs["covariate_fit"]
    flags = ["--phenotypes", str(bench.phenotypes), "--phenotype", "a/b", "--rint"]
    flags += ["--mean-covariates", str(covariates), "--variance-covariates", str(covariates)]
    flags += ["--categorical", "centre", "--reference", "centre=12", "--outlier-sd", "2.5"]
    flags += ["--mean-terms", "sex:age", "--mean-terms", "age^2"]
    assert main(["fit", *flags, "-o", str(tmp_path / "effects.tsv")]) == 0
    found = pd.read_csv(tmp_path / "effects.tsv", sep="\t")
    assert list(found["name"]) == [effect["name"] for effect in stored["effects"]]
    np.testing.assert_allclose(
        found["estimate"], [e["estimate"] for e in stored["effects"]], rtol=1e-6, atol=1e-9
    )
    capsys.readouterr()
    assert main(["fit", *flags, "--reference", "age=3"]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            "column 'age' of "
            + str(covariates)
            + " holds numbers; --categorical age makes levels of them"
        )
    )
