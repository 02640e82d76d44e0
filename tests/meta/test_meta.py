"""Cohorts in, a result store out: alleles, order, chunks, files, and what is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import made_cohorts as by_hand
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import hlmm_scan as hs
from hlmm_scan.cli import main
from hlmm_scan.meta import rows as meta_rows
from hlmm_scan.meta import text as meta_text
from hlmm_scan.meta import writing as meta_writing

M = 300


@pytest.fixture(scope="module")
def places() -> pd.DataFrame:
    return by_hand.variants(M)


@pytest.fixture(scope="module")
def cohorts(places) -> list[pd.DataFrame]:
    rng = np.random.default_rng(5)
    some = [by_hand.cohort(places, seed=k + 1, n=800 + 300 * k) for k in range(3)]
    return [c[rng.random(M) < 0.9].reset_index(drop=True) for c in some]


def pooled(tables: list[pd.DataFrame], folder: Path, ending: str = ".tsv", **options) -> xr.Dataset:
    folder.mkdir(exist_ok=True)
    paths = [by_hand.write(t, folder / f"c{k}{ending}") for k, t in enumerate(tables)]
    return hs.meta(paths, folder / "pooled.zarr", **options).dataset.load()


def assert_same(one: xr.Dataset, other: xr.Dataset, but: tuple[str, ...] = ()) -> None:
    assert list(one) == list(other)
    for name in (*one, *one.coords):
        if name not in but:
            np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)


def test_every_variant_of_any_cohort_is_there_once_in_order(cohorts, places, tmp_path) -> None:
    found = pooled(cohorts, tmp_path / "a")
    ids = {v for c in cohorts for v in c["variant_id"]}
    assert found["variant_id"].values.tolist() == [v for v in places["variant_id"] if v in ids]
    counted = sum(
        places["variant_id"].isin(c["variant_id"]).to_numpy().astype(int) for c in cohorts
    )
    row = places.set_index("variant_id").index.get_indexer(found["variant_id"].values)
    trusted = found["status"].values[0] == hs.Status.OK
    assert trusted.all()
    np.testing.assert_array_equal(found["n_cohorts"].values[0], counted[row])
    assert (found["add"].values > 0).all()
    assert found.attrs["run_status"] == "complete"
    assert [c["people"] for c in found.attrs["cohorts"]] == [800, 1100, 1400]


@pytest.mark.parametrize("same_strand", [False, True])
def test_swapped_alleles_turn_effects_back(cohorts, tmp_path, same_strand) -> None:
    rng = np.random.default_rng(2)
    turned = [by_hand.swapped(c, rng.random(len(c)) < 0.5 * (k > 0)) for k, c in enumerate(cohorts)]
    plain = pooled(cohorts, tmp_path / "a", same_strand=same_strand)
    other = pooled(turned, tmp_path / "b", same_strand=same_strand)
    # The allele counted is the first cohort's; where it is another's, all of it turns.
    sign = np.where(plain["effect_allele"].values == other["effect_allele"].values, 1.0, -1.0)
    assert (sign > 0).any()
    assert (sign < 0).any()
    for name in plain:
        if name == "direction":
            continue
        right = plain[name].values[0]
        right = (
            sign * right
            if name
            in (
                "add",
                "var",
            )
            else right
        )
        if name == "effect_allele_frequency":
            right = np.where(sign < 0, 1 - right, right)
        np.testing.assert_allclose(other[name].values[0], right, rtol=1e-9, err_msg=name)


def test_single_bases_are_read_from_the_other_strand_but_palindromes_are_refused(
    cohorts, tmp_path
) -> None:
    rng = np.random.default_rng(3)
    turned = [cohorts[0]]
    turned += [by_hand.other_strand(c, rng.random(len(c)) < 0.5) for c in cohorts[1:]]
    plain, other = pooled(cohorts, tmp_path / "a"), pooled(turned, tmp_path / "b")
    refused = other["status"].values[0] == hs.Status.STRAND_UNKNOWN
    palindromic = by_hand.palindromic(other[["effect_allele", "other_allele"]].to_dataframe())
    assert refused.any()
    assert not (refused & ~palindromic).any()
    assert np.isnan(other["add"].values[0][refused]).all()
    assert (other["n_cohorts"].values[0][refused] == 0).all()
    for name in plain:
        one, two = plain[name].values[0][~refused], other[name].values[0][~refused]
        np.testing.assert_array_equal(one, two, err_msg=str(name))
    assert sum(c["rows"].get("read from the other strand", 0) for c in other.attrs["cohorts"]) > 0


def test_palindromes_near_a_half_need_same_strand(places, tmp_path) -> None:
    both = [by_hand.cohort(places, seed=k) for k in (1, 2)]
    for table in both:
        table["effect_allele_frequency"] = 0.45
    at = by_hand.palindromic(places)
    assert at.any()
    found = pooled(both, tmp_path / "a")["status"].values[0]
    np.testing.assert_array_equal(found == hs.Status.STRAND_UNKNOWN, at)
    assert (pooled(both, tmp_path / "b", same_strand=True)["status"].values == 1).all()


def test_frequencies_that_differ_are_not_pooled(places, tmp_path, caplog) -> None:
    both = [by_hand.cohort(places, seed=k) for k in (1, 2)]
    both[1].loc[7, "effect_allele_frequency"] = 0.9
    found = pooled(both, tmp_path / "a", same_strand=True)
    assert np.flatnonzero(found["status"].values[0] != 1).tolist() == [7]
    assert found["status"].values[0, 7] == hs.Status.FREQUENCIES_DIFFER
    assert "1 variants are not pooled: with frequencies" in caplog.text
    wide = pooled(both, tmp_path / "b", same_strand=True, max_frequency_difference=1.0)
    assert (wide["status"].values == 1).all()


def test_neither_order_nor_chunks_nor_kind_of_file_change_a_bit(
    cohorts, tmp_path, monkeypatch
) -> None:
    plain = pooled(cohorts, tmp_path / "a")
    again = hs.meta([tmp_path / "a" / f"c{k}.tsv" for k in (2, 0, 1)], tmp_path / "b.zarr")
    assert_same(plain, again.dataset.load())
    assert_same(plain, pooled(cohorts, tmp_path / "c", ".parquet"))
    assert_same(plain, pooled(cohorts, tmp_path / "d", ".csv"))
    shuffled = [c.sample(frac=1, random_state=k) for k, c in enumerate(cohorts)]
    assert_same(plain, pooled(shuffled, tmp_path / "e"))
    monkeypatch.setattr(meta_text, "_PIECE", 1000)
    monkeypatch.setattr(meta_writing, "CHUNK", 7)
    small = pooled(cohorts, tmp_path / "f")
    assert_same(plain, small)


def test_stores_and_their_exports_are_pooled_alike(tmp_path) -> None:
    rng = np.random.default_rng(8)
    n, m = 300, 40
    people = [f"p{k}" for k in range(n)]
    calls = rng.binomial(2, 0.3, (m, n))
    table = pd.DataFrame({"t": rng.standard_normal(n) * np.exp(0.3 * calls[4])}, people)
    known = pd.DataFrame(
        {
            "contig": "7",
            "position": np.arange(1, m + 1) * 1000,
            "variant_id": [f"v{j}" for j in range(m)],
            "effect_allele": "C",
            "other_allele": "A",
        }
    )
    stores, exports = [], []
    for k, some in enumerate((slice(0, 140), slice(140, n))):
        mine = hs.convert(
            calls[:, some], tmp_path / f"g{k}.zarr", samples=people[some], variants=known
        )
        one = hs.scan(mine, table[some], output=tmp_path / f"r{k}.zarr")
        stores.append(one)
        exports.append(tmp_path / f"r{k}.tsv")
        hs.export(one, exports[-1])
    first = hs.meta(stores, tmp_path / "one.zarr")
    assert_same(first.dataset.load(), hs.meta(exports, tmp_path / "two.zarr").dataset.load())
    hs.report(first, tmp_path / "page.html")
    assert hs.calibration(first)[0].people == n
    assert len(hs.hits(first, threshold=1e-2))
    assert hs.export(first, tmp_path / "pooled.parquet") == m
    assert main(["verify", str(tmp_path / "one.zarr")]) == 0
    assert main(["status", str(tmp_path / "one.zarr")]) == 0
    # A pool is pooled again; one store twice is not.
    twice = hs.meta([stores[0], tmp_path / "two.zarr"], tmp_path / "three.zarr")
    assert int(twice.dataset["n_cohorts"].max()) == 2
    shutil.copytree(tmp_path / "r0.zarr", tmp_path / "copy.zarr")
    with pytest.raises(hs.InputError, match="the same results as"):
        hs.meta([stores[0], tmp_path / "copy.zarr"], tmp_path / "four.zarr")
    assert not (tmp_path / "four.zarr").exists()
    assert main(["publish", str(tmp_path / "one.zarr"), "-o", str(tmp_path / "p.zarr")]) == 2


def test_gwas_ssf_brings_one_effect(cohorts, tmp_path) -> None:
    store = by_hand.write(cohorts[0], tmp_path / "a.tsv")
    add = by_hand.write_ssf(cohorts[1], tmp_path / "b.add.tsv", "add")
    var = by_hand.write_ssf(cohorts[2], tmp_path / "b.var.tsv", "var")
    with gzip.open(tmp_path / "c.var.tsv.gz", "wt") as file:
        file.write(var.read_text())
    found = hs.meta([store, add, tmp_path / "c.var.tsv.gz"], tmp_path / "o.zarr").dataset.load()
    assert [c.get("effect") for c in found.attrs["cohorts"]] == [None, "add", "var"]
    marks = set("".join(d[1] + d[6] for d in found["direction"].values[0]))
    assert {d[2] for d in found["direction"].values[0]} == {"?"}
    assert {d[5] for d in found["direction"].values[0]} == {"?"}
    assert marks == {"+", "?"}
    assert (found["add"].values[np.isfinite(found["add"].values)] > 0).all()


def test_leaving_out_each_cohort_gives_phenotypes_of_their_own(cohorts, tmp_path) -> None:
    found = pooled(cohorts, tmp_path / "a", leave_one_out=True)
    assert found["phenotype"].values.tolist() == [
        "pooled",
        *(f"pooled without c{k}" for k in range(3)),
    ]
    others = pooled(cohorts[1:], tmp_path / "b")
    at = np.isin(found["variant_id"].values, others["variant_id"].values)
    for name in ("add", "var_neg_log10_p", "q_av", "n", "n_cohorts"):
        np.testing.assert_array_equal(found[name].values[1][at], others[name].values[0])
    assert (found["status"].values[1][~at] == hs.Status.NO_COHORT).all()


def test_a_variant_that_stands_twice_is_not_taken_from_that_cohort(cohorts, tmp_path) -> None:
    table = cohorts[0]
    again = by_hand.swapped(table.iloc[[4]], np.array([True]))
    doubled = pd.concat([table.iloc[:5], again, table.iloc[5:]])
    found = pooled([doubled, *cohorts[1:]], tmp_path / "a")
    right = pooled([table.drop(index=4), *cohorts[1:]], tmp_path / "b")
    assert_same(found, right)
    assert found.attrs["cohorts"][0]["rows"]["that stand there twice"] == 2


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda t: t.drop(columns="effect_allele"), "no column effect_allele"),
        (lambda t: t.drop(columns=["add_se", "var_se"]), "no column add and add_se, or"),
        (lambda t: t.assign(add_se=-1.0), "line 2: add_se is -1.0, not a standard error"),
        (lambda t: t.assign(other_allele=t.effect_allele), "line 2: effect_allele is"),
        (lambda t: t.assign(effect_allele_frequency=1.5), "line 2: effect_allele_frequency is 1.5"),
        (lambda t: t.assign(position=[*t.position[:-1], "x"]), "position is 'x', not a number"),
        (lambda t: t.assign(add_var_cov_robust=5.0), "add_var_cov_robust is 5.0, more than"),
        (lambda t: t.assign(var_neg_log10_p=-2.0), "var_neg_log10_p is -2.0, not"),
        (lambda t: t.assign(status="fine"), "line 2: status is 'fine', not a status"),
        (lambda t: t.assign(phenotype=["a"] * 9 + ["b"] * (len(t) - 9)), "has several phenotypes"),
        (lambda t: t.assign(status="low_maf"), None),
        (lambda t: t.iloc[:0], None),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_one_line(spoil, told, cohorts, tmp_path, capsys) -> None:
    paths = [
        by_hand.write(c, tmp_path / f"{k}.tsv")
        for k, c in enumerate((spoil(cohorts[0]), cohorts[1]))
    ]
    code = main(["meta", *map(str, paths), "-o", str(tmp_path / "o.zarr"), "--json"])
    out, err = capsys.readouterr()
    if told is None:
        assert code == 0
        assert json.loads(out)["cohorts"][0]["people"] == 0
        return
    last = err.strip().splitlines()[-1]
    assert code == 2
    assert f"{paths[0]}" in last
    assert told in last
    assert not (tmp_path / "o.zarr").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "is empty"),
        (b"\x1f\x8bno gzip", "gzip data are damaged"),
        (b"contig\tcontig\n", "two columns are named 'contig'"),
        (b"\x00\x01\x02\n", "not a text file"),
        (b"a\tb\n1\t2\n", "no column contig"),
    ],
)
def test_files_that_are_no_tables(text, told, cohorts, tmp_path) -> None:
    (tmp_path / "a.tsv").write_bytes(text)
    other = by_hand.write(cohorts[1], tmp_path / "b.tsv")
    with pytest.raises(hs.InputError, match=told):
        hs.meta([tmp_path / "a.tsv", other], tmp_path / "o.zarr")


def test_lines_cut_short_and_files_cut_short_are_told(cohorts, tmp_path) -> None:
    whole = by_hand.write(cohorts[0], tmp_path / "a.tsv").read_text().splitlines(keepends=True)
    other = by_hand.write(cohorts[1], tmp_path / "b.tsv")
    (tmp_path / "a.tsv").write_text(
        "".join([*whole[:9], whole[9].rpartition("\t")[0] + "\n", *whole[10:]])
    )
    with pytest.raises(hs.InputError, match="line 10: 18 fields where the header has 19"):
        hs.meta([tmp_path / "a.tsv", other], tmp_path / "o.zarr")
    packed = gzip.compress("".join(whole).encode())
    (tmp_path / "a.tsv").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(hs.InputError, match="gzip data are damaged or truncated"):
        hs.meta([tmp_path / "a.tsv", other], tmp_path / "o.zarr")


def test_what_stands_is_replaced_only_when_asked(cohorts, tmp_path) -> None:
    pooled(cohorts, tmp_path / "a")
    with pytest.raises(hs.InputError, match="--overwrite"):
        pooled(cohorts, tmp_path / "a")
    pooled(cohorts, tmp_path / "a", overwrite=True)
    (tmp_path / "mine").write_text("x")
    paths = [tmp_path / "a" / f"c{k}.tsv" for k in range(2)]
    with pytest.raises(hs.InputError, match="holds something else"):
        hs.meta(paths, tmp_path / "mine", overwrite=True)
    with pytest.raises(hs.InputError, match="two cohorts or more"):
        hs.meta(paths[:1], tmp_path / "o.zarr")


def test_another_unit_is_noticed(cohorts, tmp_path, caplog) -> None:
    table = cohorts[0].copy()
    for name in ("add", "add_se", "add_se_robust", "add_var_cov_robust"):
        table[name] *= 10
    found = pooled([table, *cohorts[1:]], tmp_path / "a")
    assert "is its trait in another unit?" in caplog.text
    assert found.attrs["cohorts"][0]["residual_sd"] > 8
    plain = pooled(cohorts, tmp_path / "b")
    for test in ("add", "var", "av"):
        name = f"{test}_neg_log10_p"
        np.testing.assert_allclose(found[name].values, plain[name].values, rtol=1e-9)


def test_scaffolds_and_names_of_chromosomes(cohorts, tmp_path) -> None:
    renamed = [c.copy() for c in cohorts]
    renamed[1]["contig"] = "chr" + renamed[1]["contig"]
    renamed[2]["contig"] = renamed[2]["contig"].map(
        {"1": "01", "2": "2", "10": "NC_000010.11", "X": "23"}
    )
    assert_same(pooled(cohorts, tmp_path / "a"), pooled(renamed, tmp_path / "b"))
    chromosomes = meta_rows.Chromosomes(22)
    at = chromosomes.places(
        np.array(["GL000192.1", "X", "chr2", "MT"], object), np.array([5, 5, 5, 5])
    )
    assert np.argsort(at).tolist() == [2, 1, 3, 0]
    assert chromosomes.contigs(at).tolist() == ["GL000192.1", "X", "2", "MT"]
