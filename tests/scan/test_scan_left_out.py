"""What cannot be analysed is left out and told, and does not stop the rest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scan_helpers import contents

from hlmm_scan.cli import main
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run


@pytest.fixture
def many(bench, tmp_path):
    """A good trait among five that cannot be analysed, each for a reason of its own."""
    table = pd.read_csv(bench.cohort.phenotypes, sep="\t")
    n = len(table)
    table = table.assign(empty=np.nan, same=1.0, centre="Leeds", typo=table["trait1"].astype(str))
    table.loc[3, "typo"] = "1,5"
    # No variance in one sex: its null model has no maximum.
    sex = np.arange(n) % 2
    table["flat"] = np.where(sex, 2.0, table["trait1"])
    table["last"] = 2 * table["trait1"]
    phenotypes, covariates = tmp_path / "many.tsv", tmp_path / "sex.tsv"
    table.to_csv(phenotypes, sep="\t", index=False, na_rep="NA")
    table[["FID", "IID"]].assign(sex=sex).to_csv(covariates, sep="\t", index=False)
    return {
        "phenotypes": phenotypes, "mean_covariates": covariates, "variance_covariates": covariates,
    }  # fmt: skip


def test_bad_traits_do_not_stop_good_ones(bench, many, tmp_path, capsys):
    output = tmp_path / "r.zarr"
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in many.items()]
    command = ["scan", f"--genotypes={bench.genotypes()}", "-o", str(output), "--workers=1", *flags]
    assert main(command) == 0
    store = ResultStore.open(output)
    assert store.phenotypes == ["trait1", "last"]
    reasons = store.attributes["phenotypes_left_out"]
    for name, words in {
        "empty": "nobody is left to analyse for empty",
        "same": "phenotype 'same' is constant (1)",
        "centre": "column 'centre': 'Leeds' (and 149 more cells) is not a number",
        "typo": "line 5, column 'typo': '1,5' is a number but for its comma",
        "flat": "flat: its null model (no test variant) could not be fitted",
    }.items():
        assert words in reasons.pop(name), name
    assert not reasons
    last = capsys.readouterr().err.splitlines()[-1]
    assert "5 phenotypes were left out, empty, same, centre, typo, flat" in last
    # Run again it is the same scan; strictly, it is none.
    assert main(command) == 0
    assert "5 phenotypes were left out" in capsys.readouterr().err
    assert main([*command, "--strict"]) == 2
    assert "made without phenotypes" in capsys.readouterr().err
    anew = tmp_path / "strict.zarr"
    assert main([*command[:3], str(anew), *command[4:], "--strict"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    for words in ("4 of 7 phenotypes cannot be analysed", "empty", "same", "centre", "typo"):
        assert words in line
    assert not anew.exists()


def test_where_no_trait_is_left_all_reasons_are_told(bench, many, tmp_path):
    with pytest.raises(InputError, match=r"2 of 2 phenotypes cannot be .*: nobody .*; phenot"):
        run.prepare(bench.config(tmp_path / "r", **many, phenotype=("empty", "same")))
    with pytest.raises(InputError, match=r"^flat: its null model"):
        run.prepare(bench.config(tmp_path / "r", **many, phenotype=("flat",)))
    assert not (tmp_path / "r").exists()


def test_tables_of_covariates_are_joined(bench, tmp_path):
    table = pd.read_csv(bench.cohort.covariates, sep="\t")
    rng = np.random.default_rng(4)
    whole = table.assign(batch=rng.normal(size=len(table)))
    one, two = tmp_path / "one.tsv", tmp_path / "two.csv"
    whole.drop(columns="batch").to_csv(one, sep="\t", index=False)
    # Another order, no FIDs, and not everybody.
    shuffled = whole[["IID", "batch"]].iloc[rng.permutation(len(whole))[:140]]
    shuffled.to_csv(two, index=False)
    both = tmp_path / "both.tsv"
    whole[whole["IID"].isin(shuffled["IID"])].to_csv(both, sep="\t", index=False)
    options = {"phenotype": ("trait1",)}

    def prepared(name, tables):
        config = bench.config(tmp_path / name, mean_covariates=tables, **options)
        return contents(run.prepare(config).path)

    joined, single = prepared("joined", (one, two)), prepared("single", both)
    nulls = [key for key in single if key.startswith("null/")]
    assert len(nulls) > 5
    assert [key for key in nulls if joined[key] != single[key]] == []
    with pytest.raises(InputError, match=r"covariate 'age' is in .*one\.tsv and in .*both\.tsv"):
        run.prepare(bench.config(tmp_path / "x", mean_covariates=(one, both), **options))


def test_columns_nobody_asked_for(bench, many, tmp_path):
    config = bench.config(tmp_path / "r", phenotypes=many["phenotypes"], phenotype=("last",))
    store = run.prepare(config)
    assert store.phenotypes == ["last"]
    assert not store.attributes["phenotypes_left_out"]


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_units_of_any_size_give_the_same_tests(bench, tmp_path, scale):
    table = pd.read_csv(bench.cohort.phenotypes, sep="\t")
    table["far"] = scale * table["trait1"]
    table["trait1"] = table["far"] / scale
    table.to_csv(tmp_path / "y.tsv", sep="\t", index=False)
    store = ResultStore.open(bench.scan(tmp_path / "r", phenotypes=tmp_path / "y.tsv"))
    values = {name: np.asarray(store.array(name)[:]) for name in ("add", "add_se", "var")}
    assert np.isfinite(values["add_se"]).sum() > 40
    np.testing.assert_allclose(values["add"][1] / scale, values["add"][0], rtol=1e-6)
    np.testing.assert_allclose(values["add_se"][1] / scale, values["add_se"][0], rtol=1e-6)
    np.testing.assert_allclose(values["var"][1], values["var"][0], rtol=1e-6, atol=1e-9)
    errors = [
        [e["standard_error"] for e in store.null_group(name).attrs["covariate_fit"]["effects"]]
        for name in ("far", "trait1")
    ]
    np.testing.assert_allclose(np.array(errors[0]) / [scale, 1], errors[1], rtol=1e-6)


def test_noise_on_a_large_number_is_no_constant(bench, tmp_path):
    table = pd.read_csv(bench.cohort.phenotypes, sep="\t")
    noise = np.random.default_rng(1).normal(size=len(table)).round(3)
    table["offset"] = [repr(float(1e15 + e)) for e in noise]
    table["rounding"] = [repr(0.1 + 0.2) if k % 2 else "0.3" for k in range(len(table))]
    table.to_csv(tmp_path / "y.tsv", sep="\t", index=False)
    store = run.prepare(bench.config(tmp_path / "r", phenotypes=tmp_path / "y.tsv"))
    assert store.phenotypes == ["trait1", "offset"]
    assert "is constant (0.3)" in store.attributes["phenotypes_left_out"]["rounding"]
    found = store.null_group("offset").attrs["y_scale"]
    column = read_table(tmp_path / "y.tsv").select(["offset"]).values[:, 0]
    assert found == pytest.approx((column - 1e15).std(), rel=1e-9)


def test_no_variant_analysed_is_a_warning(bench, tmp_path, capsys):
    options = [f"--genotypes={bench.genotypes()}", f"--phenotypes={bench.phenotypes}"]
    output = str(tmp_path / "r.zarr")
    assert main(["scan", *options, "-o", output, "--min-mac=100000", "--workers=1"]) == 0
    assert "no variant was analysed: 216 low_mac" in capsys.readouterr().err.splitlines()[-1]
