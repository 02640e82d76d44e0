"""Variants named by id, by place and alleles, or by row: in lists, and in tables of hits."""

from __future__ import annotations

import numpy as np
import pytest

from hlmm_scan.cohort.condition import read_conditioning
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.joined import chosen_variants
from hlmm_scan.genotypes.selection import VariantChoice
from hlmm_scan.genotypes.variant_names import Place, VariantName, read_variant_names

IDS = [".", "rs1", "rs1", "a b", ".", "1:50:G:AT", "rs7", "rs7"]


@pytest.fixture
def genotypes(make_fileset, copies, tmp_path):
    contigs = ["1", "1", "1", "1", "chrX", "1", "2", "2"]
    bed = make_fileset(copies[:8], ids=[i.replace(" ", "\u00a0") for i in IDS], contig=contigs)
    bim = bed.with_suffix(".bim")
    lines = bim.read_text().replace("\u00a0", " ").splitlines()
    lines[7] = lines[7].replace("\t80\t", "\t70\t")  # as the one before it in all
    bim.write_text("\n".join(lines) + "\n")
    return convert([bed], tmp_path / "g.zarr")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("1:10:G:AT", 0),
        ("chr01:10:G:AT", 0),
        ("a b", 3),
        ("23:50:G:AT", 4),
        ("1:50:G:AT", 5),
        ("row:7", 7),
        (VariantName(".", Place("1", 10, "G", "AT")), 0),
        (VariantName("rs1", Place("1", 30, "G", "AT")), 2),
        (VariantName("rs7", Place("2", 70, "G", "AT"), 6), 6),
        (VariantName("rs7", Place("2", 70, "G", "AT"), 7), 7),
        (VariantName("rs1", None, 2), 2),
        (VariantName("a b", None, 1), 3),  # of other genotypes: the row holds another variant
    ],
)
def test_a_variant_is_found_by_what_tells_it(genotypes, name, row):
    assert genotypes.find_variants([name]).tolist() == [row]
    view = chosen_variants(genotypes, np.arange(8))
    assert view.find_variants([name, "a b"]).tolist() == [row, 3]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "rs1",
            r"variant id rs1 is carried by more than one variant, .* as 1:20:G:AT, or as row:1",
        ),
        ("rs7", "carried by more than one"),
        ("2:70:G:AT", "variant id 2:70:G:AT is not among"),
        (".", r"variant id \. is not among"),
        ("1:10:AT:G", "is not among"),
        ("row:8", "variant id row:8 is not among"),
        (VariantName(".", None, 0), "is not among"),
    ],
)
def test_what_names_none_or_several_is_refused(genotypes, name, words):
    with pytest.raises(InputError, match=words):
        genotypes.find_variants([name])


def names(path, text):
    path.write_text(text, encoding="utf-8")
    return read_variant_names(path)


def test_a_variant_without_an_id_is_told_by_its_place():
    place = Place("1", 10, "G", "AT")
    names = [str(VariantName(name, place)) for name in (".", "", "NA", "rs1")]
    assert names == ["1:10:G:AT"] * 3 + ["rs1"]


def test_a_table_names_variants_by_all_of_its_columns(tmp_path):
    table = (
        "\ufeffphenotype\tvariant_id\tcontig\tposition\teffect_allele\tother_allele\trow\n"
        "y\t.\t1\t10\tAT\tG\t0\ny\ta b\t1\t40\tAT\tG\tNA\n"
    )
    assert names(tmp_path / "hits.tsv", table) == [
        VariantName(".", Place("1", 10, "G", "AT"), 0),
        VariantName("a b", Place("1", 40, "G", "AT")),
    ]
    assert list(map(str, names(tmp_path / "l", "variant_id\nrs1\n"))) == ["rs1"]
    assert list(map(str, names(tmp_path / "l", "\nrs1\r\n 1:2:A:C \n"))) == ["rs1", "1:2:A:C"]
    with pytest.raises(InputError, match="line 2: expected one variant id, found 2 words"):
        names(tmp_path / "l", "rs1\nrs2 rs3\n")
    with pytest.raises(InputError, match="line 1: expected one variant id, found 2 words"):
        names(tmp_path / "l", "rs1\x0crs2\n")
    assert list(map(str, names(tmp_path / "l", "rs\u00a01\n"))) == ["rs\u00a01"]
    with pytest.raises(InputError, match="line 3: has no variant_id"):
        names(tmp_path / "l", "x\tvariant_id\na\tb\nc\n")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("rs1\n", [1, 2]),
        ("1:10:G:AT\nX:50:G:AT\n", [0, 4]),
        ("1:50:G:AT\n", [5]),
        ("row:3\nrow:9\n", [3]),
        ('"rs1"\n"1:50:G:AT"\n', [1, 2, 5]),
        (".\n", []),
        ("variant_id\tcontig\tposition\tother_allele\teffect_allele\nrs1\t1\t30\tG\tAT\n", [2]),
    ],
)
def test_lists_of_variants_know_places_and_rows(genotypes, tmp_path, text, rows):
    (tmp_path / "ids").write_text(text)
    choice = VariantChoice.read(None, tmp_path / "ids", ())
    left = choice.rows_of(genotypes).rows
    assert sorted(set(range(8)) - set(left.tolist())) == rows


@pytest.mark.parametrize("text", ["rs99\n1:10:AT:G\n", "\n"])
def test_a_list_that_leaves_out_nothing_is_told(genotypes, tmp_path, caplog, text):
    """It may be one for all chromosomes, of which these are others: no error, as for people."""
    (tmp_path / "ids").write_text(text)
    rows = VariantChoice.read(None, tmp_path / "ids", ()).rows_of(genotypes).rows
    assert len(rows) == 8
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ids is among the variants, so it leaves none out" in caplog.text


def test_conditioning_on_a_variant_without_an_id(genotypes, copies):
    found = read_conditioning(genotypes, ["1:10:G:AT", "a b"])
    assert found.names == ("variant 1:10:G:AT", "variant a b")
    expected = np.where(copies[[0, 3]] < 0, np.nan, copies[[0, 3]])
    np.testing.assert_array_equal(found.copies, expected)
    with pytest.raises(InputError, match="variant row:0 is given twice"):
        read_conditioning(genotypes, ["1:10:G:AT", "row:0"])
