"""Parquet, tabix, GWAS-SSF and regenie files against the values in the store."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import result_stores as stores
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.errors import InputError
from hlmm_scan.models.inference import neg_log10_p
from hlmm_scan.results import export_rows
from hlmm_scan.results.derived import write_derived
from hlmm_scan.results.export import Export, export, format_by_name
from hlmm_scan.results.export_chromosomes import catalog_numbers, exported_chromosomes
from hlmm_scan.results.export_rows import FinishedRows
from hlmm_scan.results.export_text import REGENIE_COLUMNS, cells, unbroken
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.wald import wald_test
from hlmm_scan.schema import DISPERSION_RESULTS, ScoreFlag, Status, result_variables

CONTIGS = ["2", "2", "chrX", "2", "1", "1", "MT", "weird", "1", "2", "1"]
POSITIONS = [500, 90, 7, 500, 33, 12, 16_000, 5, 0, 1_000, 12]
NUMBERS = {"chrX": "23", "MT": "25"}
ALLELES = ["A", "a", "G", "T", "<DEL>", "C", "ACGT", "A", "A", "C", "G"]
CHUNK = 3
TRUSTED = {Status.OK, Status.SCREENED, Status.REFINED, Status.RANDOM_VARIANCE_AT_ZERO}


def make_store(
    path: Path,
    phenotypes: tuple[str, ...] = ("height", "body weight"),
    contigs: list[str] = CONTIGS,
    positions: list[int] = POSITIONS,
    ids: list[str] | None = None,
    *,
    info: float | None = None,
) -> ResultStore:
    """Out of order, with every kind of row: filtered, failed, pending, −log10 p in thousands."""
    n = len(contigs)
    store = ResultStore.create(
        path,
        phenotypes=phenotypes,
        n_variants=n,
        chunk_variants=CHUNK,
        variables=result_variables(random_effects=False, info=info is not None),
        attributes={"parameters": {"min_maf": 0.01}, "software": {"hlmm_scan": "0.0.7"}},
        plan={},
    )
    store.write_variants(
        0,
        {
            "variant_id": np.array(
                ids
                or [
                    f"rs{k}" if k % 2 else f"{c}:{p}"
                    for k, (c, p) in enumerate(zip(contigs, positions, strict=True))
                ],
                dtype=object,
            ),
            "contig": np.array(contigs, dtype=object),
            "position": np.array(positions, dtype=np.int32),
            "effect_allele": np.array((ALLELES * n)[:n], dtype=object),
            "other_allele": np.array(["GT"] * n, dtype=object),
        },
    )
    store.seal()
    store = ResultStore.open(path)
    for phenotype in range(len(phenotypes)):
        for start in range(0, n, CHUNK):
            if phenotype == 1 and start == CHUNK:
                continue  # pending
            stop = min(start + CHUNK, n)
            values = stores.chunk_values(stop - start, 100 * phenotype + start)
            if info is not None:
                values["info"] = np.full(stop - start, info)
            if start == 0:
                values["status"][:3] = [Status.OK, Status.LOW_MAF, Status.NOT_CONVERGED][:stop]
                for name in set(values) - {"n", "effect_allele_frequency", "status", "test_flags"}:
                    values[name][1:2] = np.nan
                values["add_neg_log10_p"][0] = 4_321.125
            if start == CHUNK:
                values["test_flags"][0] = ScoreFlag.VAR_AT_BOUND
            store.write_partition(phenotype, start, stop, values)
    return store


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return make_store(tmp_path / "results.zarr")


def stored_rows(store: ResultStore) -> pd.DataFrame:
    """All finished tests as a frame, by way of xarray, in the order of exports."""
    frame = store.dataset().compute().to_dataframe().reset_index()
    frame = frame[frame["status"] != Status.PENDING].reset_index(drop=True)
    frame["status"] = [Status(s).label for s in frame["status"]]
    numbers = frame["contig"].replace(NUMBERS)
    return frame.assign(
        contig_order=[int(c) if c.isdigit() else 99 for c in numbers],
        phenotype_order=frame["phenotype"].map({p: k for k, p in enumerate(store.phenotypes)}),
    ).sort_values(["phenotype_order", "contig_order", "position"], kind="stable")


def assert_same(table: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Every value equal to the last bit, rows in the order given."""
    assert len(table) == len(expected)
    for name in table.columns:
        column, wanted = table[name], expected[name]
        if wanted.dtype.kind == "f":
            np.testing.assert_array_equal(column.to_numpy(), wanted.to_numpy(), err_msg=name)
        else:
            assert [str(v) for v in column] == [str(v) for v in wanted], name


def metadata_file(folder: Path, **more: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"genome_assembly": "GRCh38", **more}))
    return path


# Parquet ----------------------------------------------------------------------------------


def test_parquet_equals_the_store_in_pandas(store, tmp_path, monkeypatch):
    monkeypatch.setattr(export_rows, "ROWS_PER_READ", 4)
    output = tmp_path / "out.parquet"
    rows = export(store, output, Export("parquet"))
    expected = stored_rows(store)
    table = pd.read_parquet(output)
    assert rows == len(expected) == 11 + 8
    helpers = {"variant", "contig_order", "phenotype_order"}
    assert set(table.columns) == set(expected.columns) - helpers
    assert_same(table, expected)
    assert {"n": "int32", "position": "int32", "add": "float64"}.items() <= {
        name: str(dtype) for name, dtype in table.dtypes.items()
    }.items()


def test_parquet_in_duckdb_has_null_where_there_is_no_number(store, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    output = tmp_path / "out.parquet"
    export(store, output, Export("parquet"))
    top = duckdb.sql(
        f"select variant_id, add_neg_log10_p from '{output}' where phenotype = 'height' "
        "order by add_neg_log10_p desc limit 1"
    ).fetchall()
    assert top == [("2:500", 4_321.125)]
    # With NaN in place of null, NaN would count as a number.
    counts = duckdb.sql(f"select count(*), count(add) from '{output}'").fetchall()
    assert counts == [(19, 17)]


def test_parquet_says_what_its_columns_mean_and_where_they_come_from(store, tmp_path):
    import pyarrow.parquet as pq

    output = tmp_path / "out.parquet"
    export(store, output, Export("parquet"))
    schema = pq.read_schema(output)
    assert schema.field("var").metadata[b"unit"] == b"log variance per allele"
    assert json.loads(schema.metadata[b"hlmm_scan"])["parameters"] == {"min_maf": 0.01}


# tabix ------------------------------------------------------------------------------------


def read_tabix(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"#contig": str}).rename(columns={"#contig": "contig"})


@pytest.mark.parametrize("rows_per_read", [2, 7, 65_536])
def test_tabix_is_sorted_and_equals_the_store(store, tmp_path, monkeypatch, rows_per_read):
    monkeypatch.setattr(export_rows, "ROWS_PER_READ", rows_per_read)
    output = tmp_path / "out.tsv.gz"
    expected = stored_rows(store)
    expected = expected[expected["position"] > 0]
    by = ["contig_order", "position", "variant", "phenotype_order"]
    expected = expected.sort_values(by, kind="stable")
    assert export(store, output, Export("tabix")) == len(expected)
    assert_same(read_tabix(output), expected)


def test_tabix_regions_give_the_right_rows(store, tmp_path):
    import pysam

    output = tmp_path / "out.tsv.gz"
    export(store, output, Export("tabix", ("height",)))
    expected = stored_rows(store)
    expected = expected[(expected["phenotype"] == "height") & (expected["position"] > 0)]
    with pysam.TabixFile(str(output)) as table:
        assert set(table.contigs) == set(CONTIGS)
        names = table.header[0].lstrip("#").split("\t")
        for contig in table.contigs:
            for start, stop in ((0, 100), (89, 90), (90, 91), (499, 500), (0, 1 << 28)):
                found = [
                    dict(zip(names, line.split("\t"), strict=True))["variant_id"]
                    for line in table.fetch(contig, start, stop)
                ]
                inside = expected[
                    (expected["contig"] == contig)
                    & (expected["position"] > start)
                    & (expected["position"] <= stop)
                ]
                wanted = inside.sort_values("position", kind="stable")["variant_id"]
                assert found == list(wanted), (contig, start, stop)


def test_tabix_says_how_many_rows_have_no_position(store, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        export(store, tmp_path / "out.tsv.gz", Export("tabix"))
    assert "2 rows without a position are left out" in caplog.text


def test_positions_beyond_a_tbi_get_a_csi(tmp_path):
    import pysam

    store = make_store(tmp_path / "r.zarr", contigs=["1H"] * 3, positions=[5, 600_000_000, 40])
    output = tmp_path / "out.tsv.gz"
    output.with_name("out.tsv.gz.tbi").write_text("of an older table")
    export(store, output, Export("tabix", ("height",)))
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out.tsv.gz", "out.tsv.gz.csi"]
    with pysam.TabixFile(str(output), index=f"{output}.csi") as table:
        (line,) = table.fetch("1H", 599_999_999, 600_000_000)
    assert line.split("\t")[1] == "600000000"


def test_tabix_wants_a_name_in_gz(store, tmp_path):
    with pytest.raises(InputError, match=r"out\.tsv: tabix reads files whose names end in \.gz"):
        export(store, tmp_path / "out.tsv", Export("tabix"))
    assert [p.name for p in tmp_path.iterdir()] == ["results.zarr"]


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["1", "2", "X"]), st.integers(1, 9)), min_size=1, max_size=20
    ),
    rows_per_read=st.integers(1, 9),
    reads_kept=st.integers(1, 3),
)
def test_any_order_is_sorted_whatever_is_read_at_a_time(
    tmp_path_factory, rows, rows_per_read, reads_kept
):
    folder = tmp_path_factory.mktemp("sorted")
    contigs, positions = [c for c, _ in rows], [p for _, p in rows]
    store = make_store(folder / "r.zarr", ("a",), contigs, positions)
    codes = [{"1": 1, "2": 2, "X": 23}[contig] for contig in contigs]
    wanted = np.lexsort((positions, codes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_rows, "ROWS_PER_READ", rows_per_read)
        patch.setattr(export_rows, "_READS_KEPT", reads_kept)
        both = [
            list(read())
            for read in (
                FinishedRows(store, [0]).by_position,
                FinishedRows(store, [0]).by_phenotype,
            )
        ]
    for blocks in both:
        frame = pd.concat([pd.DataFrame(block) for block in blocks])
        np.testing.assert_array_equal(frame["add"], np.asarray(store.array("add")[0])[wanted])
        assert list(frame["variant_id"]) == list(np.asarray(store.array("variant_id")[:])[wanted])


# GWAS-SSF ---------------------------------------------------------------------------------


def read_ssf(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", na_values=["#NA"], keep_default_na=False)


def test_gwas_ssf_has_a_file_for_each_phenotype_and_test(store, tmp_path, caplog):
    output = tmp_path / "catalog"
    with caplog.at_level(logging.WARNING):
        rows = export(store, output, Export("gwas-ssf", metadata=metadata_file(tmp_path)))
    names = {
        f"{phenotype}.{test}.tsv.gz{end}"
        for phenotype in ("height", "body weight")
        for test in ("add", "var")
        for end in ("", "-meta.yaml")
    }
    assert {p.name for p in output.iterdir()} == names
    expected = stored_rows(store)
    kept = expected[
        expected["status"].isin([s.label for s in TRUSTED])
        & (expected["contig"] != "weird")
        & (expected["position"] > 0)
        & (expected["effect_allele"] != "<DEL>")
    ]
    assert rows == 2 * len(kept)
    for phenotype in ("height", "body weight"):
        one = kept[kept["phenotype"] == phenotype]
        for test in ("add", "var"):
            table = read_ssf(output / f"{phenotype}.{test}.tsv.gz")
            assert list(table.columns[:8]) == [
                "chromosome", "base_pair_location", "effect_allele", "other_allele", "beta",
                "standard_error", "effect_allele_frequency", "neg_log_10_p_value",
            ]  # fmt: skip
            numbers = list(one["contig"].replace(NUMBERS))
            assert [str(c) for c in table["chromosome"]] == numbers
            places = list(zip(table["chromosome"], table["base_pair_location"], strict=True))
            assert places == sorted(places)
            for column, variable in (
                ("base_pair_location", "position"),
                ("beta", test),
                ("standard_error", f"{test}_se"),
                ("neg_log_10_p_value", f"{test}_neg_log10_p"),
                ("effect_allele_frequency", "effect_allele_frequency"),
                ("n", "n"),
            ):
                np.testing.assert_array_equal(table[column], one[variable], err_msg=column)
            assert list(table["source_id"]) == list(one["variant_id"])
            rsids = [v if v.startswith("rs") else None for v in one["variant_id"]]
            assert [None if pd.isna(v) else v for v in table["rsid"]] == rsids
    assert "height, var: of 11 rows these are left out: 2 not fitted" in caplog.text
    assert "1 with alleles that are not bases" in caplog.text


def test_gwas_ssf_metadata(store, tmp_path):
    output = tmp_path / "catalog"
    known = metadata_file(
        tmp_path,
        sample_ancestry_category="European",
        genotyping_technology=["Genome-wide genotyping array"],
        author_notes="Pilot",
    )
    export(store, output, Export("gwas-ssf", ("height",), ("var_wald_robust",), known))
    path = output / "height.var_wald_robust.tsv.gz"
    metadata = yaml.safe_load(path.with_name(f"{path.name}-meta.yaml").read_text())
    assert metadata["data_file_name"] == path.name
    assert metadata["data_file_md5sum"] == hashlib.md5(path.read_bytes()).hexdigest()
    assert metadata["genome_assembly"] == "GRCh38"
    assert metadata["trait_description"] == ["height"]
    assert metadata["genotyping_technology"] == ["Genome-wide genotyping array"]
    assert metadata["samples"][0]["sample_ancestry_category"] == ["European"]
    assert metadata["samples"][0]["sample_size"] == read_ssf(path)["n"].max()
    assert metadata["analysis_software"] == "hlmm-scan 0.0.7"
    assert metadata["is_sorted"] is True
    assert "logarithm of the variance" in metadata["author_notes"]
    assert metadata["author_notes"].endswith("Pilot")


def test_gwas_ssf_is_the_same_file_every_time(store, tmp_path):
    wanted = Export("gwas-ssf", ("height",), metadata=metadata_file(tmp_path))
    for name in ("one", "two"):
        export(store, tmp_path / name, wanted)
    one, two = ((tmp_path / n / "height.add.tsv.gz").read_bytes() for n in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sex: F", "genome_assembly is missing"),
        (
            "genome_assembly: GRCh38\ngenome_asembly: x",
            "unknown key 'genome_asembly'; did you mean",
        ),
        ("genome_assembly: 38", "genome_assembly must be text, not 38"),
        ("genome_assembly: [a, b]", "genome_assembly must be one text"),
        ("- a", "expected 'key: value' lines"),
        ("a: [", "not valid YAML"),
    ],
)
def test_metadata_that_cannot_be_right_are_refused(store, tmp_path, text, words):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        export(store, tmp_path / "out", Export("gwas-ssf", metadata=path))
    assert str(error.value).startswith(str(path))
    assert not (tmp_path / "out").exists()


def test_gwas_ssf_without_metadata_says_what_is_wanted(store, tmp_path):
    with pytest.raises(InputError, match=r"gwas-ssf needs --metadata FILE.*genome_assembly"):
        export(store, tmp_path / "out", Export("gwas-ssf"))
    with pytest.raises(InputError, match="No such file"):
        export(store, tmp_path / "out", Export("gwas-ssf", metadata=tmp_path / "absent.yaml"))


def test_gwas_ssf_never_replaces_what_stands_there(store, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="something"):
        export(store, tmp_path / "out", Export("gwas-ssf", metadata=metadata_file(tmp_path)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "results.zarr", "study.yaml"]


# regenie ----------------------------------------------------------------------------------


def test_no_cell_of_a_table_parted_by_blanks_holds_one():
    names = ["rs1 rs2", "chr 1:300", " a\tb ", "", "  ", "rs5"]
    assert unbroken(names) == ["rs1_rs2", "chr_1:300", "a_b", "NA", "NA", "rs5"]


def test_every_row_of_a_regenie_table_has_as_many_cells_as_its_header(tmp_path):
    contigs, ids = ["chr 1", "2", "2", "3"], ["rs1 rs2", " a b ", "", "rs 5"]
    store = make_store(tmp_path / "r.zarr", ("body weight",), contigs, [5, 1, 3, 7], ids)
    export(store, tmp_path / "x.regenie", Export("regenie"))
    rows = [line.split(" ") for line in (tmp_path / "x.regenie").read_text().splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert "" not in {cell for row in rows for cell in row}
    assert {row[2] for row in rows[1:]} <= {"rs1_rs2", "a_b", "NA", "rs_5"}


@pytest.mark.parametrize("rows_per_read", [3, 65_536])
def test_regenie_has_a_row_for_each_test_of_each_variant(
    store, tmp_path, monkeypatch, rows_per_read
):
    monkeypatch.setattr(export_rows, "ROWS_PER_READ", rows_per_read)
    output = tmp_path / "height.regenie.gz"
    assert export(store, output, Export("regenie", ("height",))) == 11
    table = pd.read_csv(output, sep=" ", dtype={"CHROM": str})
    assert list(table.columns) == [c for c in REGENIE_COLUMNS if c != "INFO"]
    assert list(table["TEST"]) == ["ADD", "VAR", "AV"] * 11
    expected = stored_rows(store)
    expected = expected[expected["phenotype"] == "height"]
    for test in ("add", "var", "av"):
        rows = table[table["TEST"] == test.upper()]
        assert list(rows["ID"]) == list(expected["variant_id"])
        assert list(rows["ALLELE1"]) == list(expected["effect_allele"])
        assert list(rows["CHROM"]) == list(expected["contig"].replace(NUMBERS))
        np.testing.assert_array_equal(rows["LOG10P"], expected[f"{test}_neg_log10_p"])
        df = 2 if test == "av" else 1
        np.testing.assert_allclose(
            neg_log10_p(rows["CHISQ"], df), expected[f"{test}_neg_log10_p"], rtol=1e-12
        )
        if test == "av":
            assert rows["BETA"].isna().all()
        else:
            np.testing.assert_array_equal(rows["BETA"], expected[test])
            np.testing.assert_array_equal(rows["SE"], expected[f"{test}_se"])
        extra = [None if s == "ok" else s for s in expected["status"]]
        bound = list(expected["variant"]).index(CHUNK)
        extra[bound] = "at_bound" if test == "var" else None
        assert [None if pd.isna(v) else v for v in rows["EXTRA"]] == extra


def test_regenie_has_the_information_of_dosages(tmp_path):
    export(make_store(tmp_path / "r.zarr", ("y",), info=0.75), tmp_path / "x", Export("regenie"))
    table = pd.read_csv(tmp_path / "x", sep=" ")
    assert list(table.columns) == list(REGENIE_COLUMNS)
    assert set(table["INFO"].dropna()) == {0.75}


def test_regenie_holds_one_phenotype_and_the_tests_asked_for(store, tmp_path):
    with pytest.raises(InputError, match="regenie format holds one phenotype, this store has 2"):
        export(store, tmp_path / "out", Export("regenie"))
    export(
        store,
        tmp_path / "out",
        Export("regenie", ("height",), ("av_wald_robust", "var_wald_robust")),
    )
    assert set(pd.read_csv(tmp_path / "out", sep=" ")["TEST"]) == {
        "AV_WALD_ROBUST",
        "VAR_WALD_ROBUST",
    }


# tests, options, libraries ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tsv", "parquet", "tabix"])
def test_wald_tests_are_columns_on_request(store, tmp_path, kind):
    output = tmp_path / "out.gz"
    export(store, output, Export(kind, ("height",), ("wald_robust", "add")))
    read = pd.read_parquet if kind == "parquet" else lambda path: pd.read_csv(path, sep="\t")
    table = read(output).sort_values("variant_id")
    expected = stored_rows(store).query("phenotype == 'height'").sort_values("variant_id")
    expected = expected[expected["variant_id"].isin(table["variant_id"])]
    new = [f"{test}_neg_log10_p_wald_robust" for test in ("add", "var", "av")]
    assert list(table.columns[-3:]) == new
    for test, column in zip(("add", "var", "av"), new, strict=True):
        columns = {c: expected[c].to_numpy() for c in expected}
        wanted = wald_test(test, "_robust", columns)
        np.testing.assert_array_equal(table[column], wanted)
    export(store, tmp_path / "plain.gz", Export(kind, ("height",), ("add", "av")))
    assert list(read(tmp_path / "plain.gz").columns) == list(table.columns[:-3])


def test_a_joint_test_is_not_for_a_format_that_wants_an_effect(store, tmp_path):
    known = metadata_file(tmp_path)
    with pytest.raises(InputError, match="joint test 'av' has no single effect"):
        export(store, tmp_path / "out", Export("gwas-ssf", tests=("av",), metadata=known))
    export(store, tmp_path / "out", Export("gwas-ssf", ("height",), ("wald",), known))
    names = sorted(p.name for p in (tmp_path / "out").glob("*.gz"))
    assert names == ["height.add_wald.tsv.gz", "height.var_wald.tsv.gz"]


def test_options_of_other_formats_are_refused(store, tmp_path):
    with pytest.raises(InputError, match="--test is not for the format seed"):
        export(store, tmp_path / "out", Export("seed", ("height",), tests=("add",)))
    with pytest.raises(InputError, match="--metadata is for the format gwas-ssf"):
        export(store, tmp_path / "out", Export("tsv", metadata=tmp_path))
    with pytest.raises(InputError, match="unknown format 'parket'; did you mean 'parquet'"):
        export(store, tmp_path / "out", Export("parket"))


@pytest.mark.parametrize(("kind", "library"), [("parquet", "pyarrow"), ("tabix", "pysam")])
def test_a_library_that_is_not_there_is_named(store, tmp_path, monkeypatch, kind, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"need {library}: pip install 'hlmm-scan\[exports\]'"):
        export(store, tmp_path / "out.gz", Export(kind))
    assert [p.name for p in tmp_path.iterdir()] == ["results.zarr"]


def test_a_broken_write_leaves_the_old_file(store, tmp_path, monkeypatch):
    output = tmp_path / "out.parquet"
    output.write_text("old")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        importlib.import_module("pyarrow.parquet").ParquetWriter, "write_table", full
    )
    with pytest.raises(InputError, match="No space"):
        export(store, output, Export("parquet"))
    assert output.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.parquet", "results.zarr"]


def test_chromosomes_have_one_number_in_every_export():
    human = {
        "1": "1", "chr22": "22", "07": "7", "chr07": "7", "X": "23", "chrx": "23", "23": "23",
        "Y": "24", "24": "24", "MT": "25", "chrM": "25", "26": "25", "25": "23", "XY": "23",
        "PAR1": "23", "0": "0", "HLA": "HLA", "GL000192.1": "GL000192.1",
    }  # fmt: skip
    assert exported_chromosomes(human, None) == human == exported_chromosomes(human, 22)
    mouse = {"chr19": "19", "X": "20", "20": "20", "Y": "21", "MT": "22", "23": "22"}
    assert exported_chromosomes(mouse, 19) == mouse
    cattle = {name: name for name in ("1", "25", "26", "29")}
    assert exported_chromosomes(cattle, None) == cattle == exported_chromosomes(cattle, 29)
    names = np.array(["7", "23", "25", "26", "0", "HLA"], object)
    assert list(catalog_numbers(names)) == [7, 23, 25, -1, -1, -1]


def test_every_format_has_the_same_chromosomes_in_the_same_order(tmp_path):
    contigs = ["chr10", "chr02", "chrX", "chr2", "XY", "chrX"]
    store = make_store(tmp_path / "r.zarr", ("a",), contigs, [5, 9, 1, 3, 2, 4])
    named = [("chr02", 3), ("chr02", 9), ("chr10", 5), ("chrX", 1), ("chrX", 4), ("XY", 2)]
    numbered = [("2", 3), ("2", 9), ("10", 5), ("23", 1), ("23", 2), ("23", 4)]
    for name, kind, separator in (
        ("t.tsv", "tsv", "\t"),
        ("t.csv", "csv", ","),
        ("t.gz", "tabix", "\t"),
        ("t.txt", "regenie", " "),
    ):
        export(store, tmp_path / name, Export(kind))
        table = pd.read_csv(tmp_path / name, sep=separator, dtype=str)
        table = table.rename(columns={"#contig": "contig", "CHROM": "contig", "GENPOS": "position"})
        found = zip(table["contig"], table["position"].astype(int), strict=True)
        assert list(dict.fromkeys(found)) == (numbered if kind == "regenie" else named), kind
    export(store, tmp_path / "t.parquet", Export("parquet"))
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert list(zip(table["contig"], table["position"], strict=True)) == named


def test_the_name_of_a_file_says_what_separates(tmp_path):
    for name, kind in {
        "x.csv": "csv", "x.csv.gz": "csv", "x.CSV": "csv", "x.tsv": "tsv", "x.out": "tsv",
        "x": "tsv", "x.csv.txt": "tsv", "x.parquet": "parquet",
    }.items():  # fmt: skip
        assert format_by_name(tmp_path / name) == kind, name
    store = make_store(tmp_path / "r.zarr", ("a, b",))
    export(store, tmp_path / "x.csv", Export("csv"))
    assert set(pd.read_csv(tmp_path / "x.csv")["phenotype"]) == {"a, b"}
    for name in ("x.xlsx", "x.ods", "x.tsv.bz2"):
        with pytest.raises(InputError, match="tables are written as text"):
            format_by_name(tmp_path / name)
        with pytest.raises(InputError, match="tables are written as text"):
            export(store, tmp_path / name, Export("tsv"))


def test_dispersion_that_is_not_there_is_refused(store, tmp_path):
    wanted = Export("regenie", ("height",), ("dispersion",))
    with pytest.raises(InputError, match="no test 'dispersion' in it"):
        export(store, tmp_path / "x", wanted)
    # Worked out for another phenotype alone.
    values = {v.name: np.full(11, 0.5) for v in DISPERSION_RESULTS}
    store.complete({"run_status": "complete"})
    write_derived(store, DISPERSION_RESULTS, [(1, 0, values)], {})
    with pytest.raises(InputError, match="'height' has no dispersion effects"):
        export(ResultStore.open(store.path), tmp_path / "x", wanted)


@given(st.lists(st.floats(allow_infinity=False), max_size=5))
def test_cells_of_numbers_read_back_to_the_last_bit(values):
    text = cells(np.array(values))
    back = [np.nan if t == "NA" else float(t) for t in text]
    np.testing.assert_array_equal(back, np.array(values))


def test_text_that_would_break_a_table_is_quoted(tmp_path):
    store = make_store(tmp_path / "r.zarr", ('a "b"\tc',))
    export(store, tmp_path / "out.tsv.gz", Export("tsv"))
    with gzip.open(tmp_path / "out.tsv.gz", "rt") as file:
        assert set(pd.read_csv(file, sep="\t")["phenotype"]) == {'a "b"\tc'}
