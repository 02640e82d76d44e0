"""Exported tables against the values in the store."""

from __future__ import annotations

import errno
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import result_stores as stores

from hlmm_scan.errors import InfrastructureError, InputError
from hlmm_scan.models.inference import neg_log10_p, wald_neg_log10_p
from hlmm_scan.results import export as export_module
from hlmm_scan.results import export_rows
from hlmm_scan.results.export import Export
from hlmm_scan.results.export_text import SEED_COLUMNS
from hlmm_scan.results.phenotypes import chosen_phenotypes
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import COORDINATES, Status, result_variables


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    """Two phenotypes; variant 1 monomorphic, and the last chunk of weight still pending."""
    store = stores.make_store(tmp_path / "results.zarr", ["height", "weight"])
    for phenotype in (0, 1):
        for start, stop in ((0, 3), (3, 6), (6, 7))[: 3 - phenotype]:
            values = stores.chunk_values(stop - start, 10 * phenotype + start)
            if start == 0:
                values["status"][1] = Status.MONOMORPHIC
                for name in set(values) - {"n", "effect_allele_frequency", "status", "test_flags"}:
                    values[name][1] = np.nan
            store.write_partition(phenotype, start, stop, values)
    return store


def export(store: ResultStore, output: Path, kind: str, phenotypes: Sequence[str] = ()) -> int:
    return export_module.export(store, output, Export(kind, tuple(phenotypes)))


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"contig": str})


def test_tsv_has_every_variable_of_every_finished_test(store, tmp_path):
    output = tmp_path / "out.tsv"
    assert export(store, output, "tsv") == 7 + 6
    frame = table(output)
    names = {v.name for v in (*COORDINATES, *result_variables(random_effects=False))}
    assert set(frame.columns) == names
    assert list(frame["phenotype"]) == ["height"] * 7 + ["weight"] * 6
    assert list(frame["variant_id"]) == [f"rs{k}" for k in (*range(7), *range(6))]
    assert list(frame["contig"][:7]) == ["1"] * 4 + ["X"] * 3
    assert list(frame["status"][:3]) == ["ok", "monomorphic", "ok"]
    dataset = store.dataset()
    for name in ("n", "add", "var_se", "add_var_cov", "log_likelihood", "effect_allele_frequency"):
        stored = dataset[name].values
        expected = np.concatenate([stored[0], stored[1, :6]])
        np.testing.assert_array_equal(frame[name], expected, err_msg=name)


def test_a_value_that_does_not_exist_is_na(store, tmp_path):
    export(store, tmp_path / "out.tsv", "tsv", ["height"])
    header, _, monomorphic, *_ = (tmp_path / "out.tsv").read_text().splitlines()
    cells = dict(zip(header.split("\t"), monomorphic.split("\t"), strict=True))
    assert cells["add"] == cells["av_neg_log10_p"] == "NA"
    assert cells["n"].isdigit()


def test_a_table_written_in_many_steps_is_the_same(store, tmp_path, monkeypatch):
    export(store, tmp_path / "one.tsv", "tsv")
    monkeypatch.setattr(export_rows, "ROWS_PER_READ", 2)
    export(store, tmp_path / "many.tsv", "tsv")
    assert (tmp_path / "many.tsv").read_bytes() == (tmp_path / "one.tsv").read_bytes()


def test_seed_has_the_2018_columns_and_counts_copies_of_a2(store, tmp_path):
    output = tmp_path / "out.txt"
    assert export(store, output, "seed", ["height"]) == 7
    frame = table(output)
    assert tuple(frame.columns) == SEED_COLUMNS
    d = {name: array.values[0] for name, array in store.dataset().items()}
    np.testing.assert_array_equal(frame["SNP"], [f"rs{k}" for k in range(7)])
    np.testing.assert_array_equal(frame["add"], -d["add"])
    np.testing.assert_array_equal(frame["var"], -d["var"])
    for name, column in (
        ("n", "n"),
        ("likelihood", "log_likelihood"),
        ("add_se", "add_se"),
        ("var_se", "var_se"),
    ):
        np.testing.assert_array_equal(frame[name], d[column], err_msg=name)
    for name in ("add", "var"):
        wald = wald_neg_log10_p(d[name], d[f"{name}_se"])
        np.testing.assert_array_equal(frame[f"{name}_pval"], wald)
        assert not np.allclose(wald, d[f"{name}_neg_log10_p"], equal_nan=True)
    np.testing.assert_allclose(frame["add_t"], -d["add"] / d["add_se"], rtol=1e-14)
    np.testing.assert_allclose(frame["var_t"], -d["var"] / d["var_se"], rtol=1e-14)


def test_seed_has_the_minor_alleles_frequency(store, tmp_path):
    export(store, tmp_path / "out.txt", "seed", ["height"])
    effect = store.dataset()["effect_allele_frequency"].values[0]
    assert (effect > 0.5).any()
    np.testing.assert_allclose(
        table(tmp_path / "out.txt")["frequency"], np.where(effect > 0.5, 1 - effect, effect)
    )


def test_seed_adds_the_two_squared_t_without_their_covariance(store, tmp_path):
    export(store, tmp_path / "out.txt", "seed", ["height"])
    frame = table(tmp_path / "out.txt")
    squares = (frame["add_t"] ** 2 + frame["var_t"] ** 2).to_numpy()
    assert np.nanmax(squares) > 1
    np.testing.assert_allclose(frame["av_pval"], neg_log10_p(squares, 2), rtol=1e-12)
    stored = store.dataset()["av_neg_log10_p"].values[0]
    assert not np.allclose(frame["av_pval"], stored, equal_nan=True)


def test_a_name_that_ends_in_gz_is_compressed(store, tmp_path):
    export(store, tmp_path / "plain.tsv", "tsv")
    export(store, tmp_path / "small.tsv.gz", "tsv")
    with gzip.open(tmp_path / "small.tsv.gz") as file:
        assert file.read() == (tmp_path / "plain.tsv").read_bytes()


def test_phenotypes_come_in_the_order_asked_for(store, tmp_path):
    export(store, tmp_path / "out.tsv", "tsv", ["weight", "height"])
    assert list(table(tmp_path / "out.tsv")["phenotype"]) == ["weight"] * 6 + ["height"] * 7


def test_phenotypes_are_asked_for_by_pattern(store, tmp_path):
    assert chosen_phenotypes(store) == store.phenotypes
    assert chosen_phenotypes(store, ["?eight", "height"]) == [
        name for name in store.phenotypes if name in ("height", "weight")
    ]
    export(store, tmp_path / "all.tsv", "tsv", ["*"])
    export(store, tmp_path / "each.tsv", "tsv", store.phenotypes)
    assert (tmp_path / "all.tsv").read_bytes() == (tmp_path / "each.tsv").read_bytes()


def test_an_unknown_phenotype_is_refused_with_the_nearest(store, tmp_path):
    with pytest.raises(
        InputError, match=r"unknown phenotype 'heigth' in .*; did you mean 'height'"
    ):
        export(store, tmp_path / "out.tsv", "tsv", ["heigth"])
    assert not (tmp_path / "out.tsv").exists()


def test_seed_refuses_several_phenotypes(store, tmp_path):
    with pytest.raises(InputError, match="one phenotype, this store has 2"):
        export(store, tmp_path / "out.txt", "seed")
    assert not (tmp_path / "out.txt").exists()


def test_a_table_that_cannot_be_written_leaves_the_old_one(store, tmp_path, monkeypatch):
    output = tmp_path / "out.tsv"
    output.write_text("old")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "named_rows", full)
    with pytest.raises(InputError, match=r"out\.tsv: cannot be written: No space"):
        export(store, output, "tsv")
    assert output.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tsv", "results.zarr"]


def test_a_store_that_cannot_be_read_is_not_blamed_on_the_table(store, tmp_path, monkeypatch):
    def away(*_args):
        raise OSError(errno.EIO, "503 Service Unavailable", f"{store.path}/add/c/0/0")

    monkeypatch.setattr(ResultStore, "read_partition", away)
    with pytest.raises(InfrastructureError, match=r"results\.zarr: cannot be read: 503"):
        export(store, tmp_path / "out.tsv", "tsv")
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize("place", ["absent/out.tsv", "file/out.tsv"])
def test_a_place_that_cannot_be_written_to_is_bad_input(store, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export(store, tmp_path / place, "tsv")
