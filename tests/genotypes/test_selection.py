"""Which variants are scanned: lists of ids and regions, and what each took."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.open import open_genotypes
from hlmm_scan.genotypes.selection import IdList, Region, VariantChoice


@pytest.fixture
def genotypes(make_fileset, copies, tmp_path):
    """101 variants at 10, 20, …: 60 on chr1, 41 on X; data_7 stands twice."""
    ids = [f"data_{k}" for k in range(101)]
    ids[8] = "data_7"
    bed = make_fileset(copies, ids=ids, contig=["chr1"] * 60 + ["X"] * 41)
    convert([bed], tmp_path / "g.zarr", chunk_variants=20)
    return open_genotypes([tmp_path / "g.zarr"])


@pytest.fixture
def ids(tmp_path):
    """Return a function that writes a list of ids."""

    def write(text: str, name: str = "ids.txt") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def chosen(genotypes, extract=None, exclude=None, regions=()):
    return VariantChoice.read(extract, exclude, regions).rows_of(genotypes)


def test_nothing_asked_for_is_everything(genotypes):
    selection = chosen(genotypes)
    assert selection.rows is None
    assert selection.lines == ()


def test_extract_takes_listed_ids_and_counts_unknown_ones(genotypes, ids):
    listed = ids("data_3\n\ndata_7\nrs1\ndata_3\nrs2\r\n")
    selection = chosen(genotypes, extract=listed)
    assert selection.rows.tolist() == [3, 7, 8]  # both that carry data_7
    words = [" ".join(line.split()) for line in selection.lines]
    assert words == [
        f"extract 3 of 101 variants are in {listed}, 2 of its 4 ids unknown",
        "variants 3 of 101 are scanned",
    ]


def test_exclude_leaves_them(genotypes, ids):
    selection = chosen(genotypes, exclude=ids("data_3\ndata_7\n"))
    assert selection.rows.tolist() == [k for k in range(101) if k not in (3, 7, 8)]
    assert chosen(genotypes, exclude=ids("")).rows.tolist() == list(range(101))


@pytest.mark.parametrize(
    ("regions", "rows"),
    [
        (["1"], range(60)),
        (["chr1:15-40"], [1, 2, 3]),
        (["1:20-20", "1:20", "X:1,010-2,000"], [1, 100]),
        (["x:605-620"], [60, 61]),
        (["chr01:15-40"], [1, 2, 3]),
        (["23:605-620", "NC_000001.11:20"], [1, 60, 61]),
        (["7:605-620"], None),
        (["chrX:611-620", "1:585-9999"], [58, 59, 61]),
    ],
)
def test_regions_are_added_up_and_chr_makes_no_difference(genotypes, regions, rows):
    if rows is None:
        with pytest.raises(InputError, match="'7': no such chromosome"):
            chosen(genotypes, regions=regions)
    else:
        assert chosen(genotypes, regions=regions).rows.tolist() == list(rows)


def test_an_endless_region_lies_behind_every_chromosome():
    region = Region.parse("1:" + "9" * 5000)
    assert region.start == region.stop == np.iinfo(np.int32).max


def test_all_options_must_take_a_variant(genotypes, ids):
    selection = chosen(
        genotypes,
        extract=ids("data_1\ndata_2\ndata_3\ndata_90\n", "in"),
        exclude=ids("data_2\n", "out"),
        regions=["1"],
    )
    assert selection.rows.tolist() == [1, 3]
    assert len(selection.lines) == 4


def test_nothing_left_is_an_error_that_says_what_took_it(genotypes, ids):
    with pytest.raises(InputError, match=r"no variants are left to scan: region 0 of 101 .* 1:5-6"):
        chosen(genotypes, regions=["1:5-6"])
    with pytest.raises(InputError, match=r"extract 0 of 101 .* 1 of its 1 ids unknown"):
        chosen(genotypes, extract=ids("rs1"))


def test_an_unknown_chromosome_is_refused_with_those_there_are(genotypes):
    with pytest.raises(InputError, match=r"region '2': no such chromosome.*\(there are chr1, X\)"):
        chosen(genotypes, regions=["2:1-5"])


@pytest.mark.parametrize("text", ["", "1:", "1:a-b", "1:5-", "1:-5"])
def test_what_is_no_region_is_refused(text):
    with pytest.raises(InputError, match="is not chromosome, or chromosome:from-to"):
        Region.parse(text)


def test_regions_as_they_are_read():
    assert Region.parse("6") == Region("6", 0, 2**31 - 1)
    assert str(Region.parse("6")) == "6"
    assert str(Region.parse("6:1,000-2,000")) == "6:1000-2000"
    assert Region.parse("HLA:A*01:5-9") == Region("HLA:A*01", 5, 9)
    with pytest.raises(InputError, match="'1:9-5' ends before it starts"):
        Region.parse("1:9-5")


def test_lists_may_be_gzipped_and_are_hashed(tmp_path, ids):
    plain = ids("a\nb\n")
    packed = tmp_path / "ids.txt.gz"
    packed.write_bytes(gzip.compress(b"a\nb\n"))
    assert IdList.read(packed).names == IdList.read(plain).names
    assert [str(name) for name in IdList.read(plain).names] == ["a", "b"]
    parameters = VariantChoice.read(plain, None, ["2", "1:5-6"]).parameters()
    assert parameters["region"] == ["1:5-6", "2"]
    assert parameters["exclude"] is None
    assert len(parameters["extract"]) == 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\nb c\n", "line 2: expected one variant id, found 2 words"),
        (b"\xff\xfe\x00", "not a text file in UTF-16"),
        (None, "No such file"),
    ],
)
def test_files_that_are_no_lists_are_refused(tmp_path, content, words):
    path = tmp_path / "ids"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        IdList.read(path)


def test_a_cut_gzip_is_refused(tmp_path):
    path = tmp_path / "ids.gz"
    path.write_bytes(gzip.compress(b"a\nb\n" * 500)[:-9])
    with pytest.raises(InputError, match=r"ids\.gz: the gzip data are damaged"):
        IdList.read(path)


def test_only_a_wanted_chromosomes_table_is_read(genotypes, monkeypatch):
    from hlmm_scan.genotypes import selection
    from hlmm_scan.genotypes.dataset import GenotypeDataset

    monkeypatch.setattr(selection, "_TABLE_ROWS", 20)
    read = []
    original = GenotypeDataset.variants
    monkeypatch.setattr(
        GenotypeDataset,
        "variants",
        lambda self, start, stop: read.append(start) or original(self, start, stop),
    )
    rows = chosen(genotypes, regions=["X"]).rows
    np.testing.assert_array_equal(rows, np.arange(60, 101))
    assert read == [60, 80, 100]
