"""What ``hlmm-scan fit`` runs: tables in, effects in the user's units out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from genotypes_on_disk import write_dataset

from hlmm_scan.errors import HlmmScanError, InputError
from hlmm_scan.models import HLM, HLMM
from hlmm_scan.null.standalone import COLUMNS, fit_tables, write_effects

N = 150


@pytest.fixture
def tables(tmp_path):
    """Tables in three orders, each without some people, and a function of the scale."""

    def make(scale=1.0):
        rng = np.random.default_rng(2)
        frame = pd.DataFrame({"FID": [f"fp{i}" for i in range(N)]})
        frame["IID"] = [f"p{i}" for i in range(N)]
        frame["age"] = rng.normal(50, 8, N).round(2)
        frame["sex"] = rng.integers(0, 2, N)
        frame["batch"] = rng.integers(0, 2, N)
        noise = np.exp(0.4 * frame["batch"]) * rng.standard_normal(N)
        frame["bmi"] = scale * (25 + 0.05 * frame["age"] + noise)
        frame["height"] = scale * rng.standard_normal(N)
        frame.loc[5, "bmi"] = np.nan
        chosen = {"pheno": ["bmi", "height"], "mean": ["age", "sex"], "variance": ["batch"]}
        for seed, (name, columns) in enumerate(chosen.items()):
            rows = frame[["FID", "IID", *columns]].sample(N - 6, random_state=seed)
            rows.to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False, na_rep="NA")
        paths = {name: tmp_path / f"{name}.tsv" for name in chosen}
        complete = frame.dropna()
        for path in paths.values():
            complete = complete[complete["IID"].isin(pd.read_csv(path, sep="\t")["IID"])]
        return paths, complete

    return make


def check(found, fit):
    wanted = np.concatenate([fit.alpha, fit.beta])
    errors = np.concatenate([fit.alpha_se, fit.beta_se])
    effects = [e for e in found.effects if e.part != "random"]
    assert (np.abs([e.estimate for e in effects] - wanted) <= 1e-7 * errors).all()
    np.testing.assert_allclose([e.standard_error for e in effects], errors, rtol=1e-7)
    assert found.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-7)
    assert found.status == fit.status.label


@pytest.mark.parametrize("information", ["expected", "observed"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_hlm_from_tables_is_the_hlm_of_the_raw_data(tables, scale, information):
    paths, frame = tables(scale)
    found = fit_tables(
        paths["pheno"],
        mean_covariates=paths["mean"],
        variance_covariates=paths["variance"],
        information=information,
    )
    one = np.ones(len(frame))
    X = np.column_stack([one, frame[["age", "sex"]]])
    V = np.column_stack([one, frame["batch"]])
    check(found, HLM(frame["bmi"], X, V).fit(information=information))
    names = [(e.part, e.name) for e in found.effects]
    assert names[:3] == [("mean", "intercept"), ("mean", "age"), ("mean", "sex")]
    assert names[3:] == [("log_variance", "intercept"), ("log_variance", "batch")]


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_an_hlmm_from_tables_is_the_hlmm_of_the_raw_data(tables, tmp_path, scale, as_list):
    paths, _ = tables(scale)
    rng = np.random.default_rng(4)
    order = rng.permutation(N)[:140]
    calls = rng.binomial(2, 0.4, (12, 140)).astype(np.int8)
    write_dataset(tmp_path, "kin", calls, [f"p{i}" for i in order], ["1"] * 12)
    table = pd.read_csv(paths["pheno"], sep="\t").dropna()
    row = {f"p{i}": k for k, i in enumerate(order)}
    table = table[table["IID"].isin(row)]
    chosen = [1, 3, 4, 5, 8] if as_list else list(range(12))
    G = calls[chosen][:, [row[iid] for iid in table["IID"]]].T.astype(float)
    G = (G - G.mean(axis=0)) / G.std(axis=0) / np.sqrt(len(chosen))
    # A phenotype with random effects, written back in place.
    table["height"] += scale * G @ rng.standard_normal(len(chosen))
    table.to_csv(paths["pheno"], sep="\t", index=False)
    if as_list:
        ids = tmp_path / "ids.txt"
        ids.write_text("\n".join(f"v{k}" for k in chosen))
        given = {"random_effects": ids, "genotypes": tmp_path / "kin.zarr"}
    else:
        given = {"random_effects": tmp_path / "kin.zarr"}
    found = fit_tables(paths["pheno"], phenotype="height", **given)
    one = np.ones(len(table))
    fit = HLMM(table["height"], one, one, G).fit()
    assert fit.random_variance > 0
    check(found, fit)
    assert found.effects[-1].part == "random"
    assert found.effects[-1].estimate == pytest.approx(fit.random_variance, rel=1e-6)
    assert found.effects[-1].standard_error == pytest.approx(fit.random_variance_se, rel=1e-6)


def test_effects_are_written_as_one_table(tables, tmp_path):
    paths, _ = tables()
    found = fit_tables(paths["pheno"], phenotype="height", mean_covariates=paths["mean"])
    write_effects(found, tmp_path / "effects.tsv")
    text = (tmp_path / "effects.tsv").read_text()
    assert text.splitlines()[0].split("\t") == list(COLUMNS)
    back = pd.read_csv(tmp_path / "effects.tsv", sep="\t")
    assert list(back["name"]) == [e.name for e in found.effects]
    for column in ("estimate", "standard_error", "neg_log10_p"):
        assert list(back[column]) == [getattr(e, column) for e in found.effects]
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_effects_that_cannot_be_written_leave_nothing_behind(tables, tmp_path):
    paths, _ = tables()
    found = fit_tables(paths["pheno"])
    with pytest.raises(InputError, match="nowhere"):
        write_effects(found, tmp_path / "nowhere" / "effects.tsv")
    with pytest.raises(InputError, match="there is no folder"):
        write_effects(found, paths["pheno"] / "effects.tsv")
    (tmp_path / "taken").mkdir()
    with pytest.raises(HlmmScanError, match="taken: cannot be written"):
        write_effects(found, tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"phenotype": "hieght"}, "did you mean 'height'"),
        ({"random_effects": "pheno"}, "needs --genotypes"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(tables, given, message):
    paths, _ = tables()
    given = {key: paths.get(value, value) for key, value in given.items()}
    with pytest.raises(InputError) as error:
        fit_tables(paths["pheno"], **given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
