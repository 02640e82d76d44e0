"""The fileset reader against bed_reader, and everything that can be wrong with a fileset."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.packing import pack, unpack
from hlmm_scan.genotypes.readers.plink import PlinkFileset
from hlmm_scan.genotypes.variants import concatenate, reblock


def oracle(bed: Path) -> np.ndarray:
    """Return copies of A1 (m, n), -1 where missing, as bed_reader reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bed_reader import open_bed

        with open_bed(bed, count_A1=True) as file:
            calls = file.read(dtype="int8", num_threads=1)
    return np.where(calls == -127, -1, calls).T


def test_calls_equal_those_of_bed_reader(make_fileset, copies):
    bed = make_fileset(copies)
    np.testing.assert_array_equal(oracle(bed), copies)
    fileset = PlinkFileset.open(bed)
    read = fileset.read_packed(0, fileset.n_variants)
    np.testing.assert_array_equal(unpack(read, fileset.n_samples), oracle(bed))


def test_real_mice_equal_bed_reader(shared_data):
    bed = shared_data / "mouse" / "mouse_hs1940.bed"
    fileset = PlinkFileset.open(bed)
    assert (fileset.n_variants, fileset.n_samples) == (12226, 1940)
    read = fileset.read_packed(0, fileset.n_variants)
    np.testing.assert_array_equal(unpack(read, fileset.n_samples), oracle(bed))
    table = concatenate(fileset.read_variants())
    assert len(table) == 12226
    assert (table.variant_id[0], table.contig[0], table.position[0]) == ("rs3683945", "1", 3197400)
    assert (table.effect_allele[0], table.other_allele[0]) == ("A", "G")
    # The .fam has twelve columns.
    family = fileset.samples.family_id
    assert family is not None
    assert (family[0], fileset.samples.individual_id[0]) == ("1_3", "A048005080")
    assert fileset.samples.sex[:2].tolist() == [2, 1]


def test_ranges_and_prefix(make_fileset, copies):
    bed = make_fileset(copies)
    fileset = PlinkFileset.open(bed.with_suffix(""))
    assert fileset.bed == bed
    np.testing.assert_array_equal(fileset.read_packed(10, 17), pack(copies[10:17]))
    assert fileset.read_packed(5, 5).shape == (0, 6)
    with pytest.raises(IndexError, match="99:102"):
        fileset.read_packed(99, 102)


def test_padding_bits_of_the_file_are_not_trusted(make_fileset, copies):
    bed = make_fileset(copies)
    content = np.fromfile(bed, np.uint8)
    rows = content[3:].reshape(101, 6)
    rows[:, -1] &= 0b00_11_11_11  # what plink writes
    content.tofile(bed)
    np.testing.assert_array_equal(PlinkFileset.open(bed).read_packed(0, 101), pack(copies))


def test_variant_table_in_blocks(make_fileset, copies):
    fileset = PlinkFileset.open(make_fileset(copies))
    whole = concatenate(fileset.read_variants())
    tables = list(reblock(fileset.read_variants(rows=7), 25))
    assert [len(t) for t in tables] == [25, 25, 25, 25, 1]
    again = concatenate(tables)
    assert again.variant_id.tolist() == whole.variant_id.tolist()
    np.testing.assert_array_equal(again.position, np.arange(1, 102) * 10)


def test_blank_lines_crlf_and_odd_columns_are_tolerated(make_fileset, copies):
    bed = make_fileset(copies)
    fam = bed.with_suffix(".fam")
    text = fam.read_text()
    fam.write_bytes((text.replace("\n", " extra\r\n") + "\r\n").encode())
    bim = bed.with_suffix(".bim")
    bim.write_text(bim.read_text().replace("\t", "   ") + "\n\n")
    fileset = PlinkFileset.open(bed)
    assert fileset.samples.individual_id[22] == "i22"
    assert len(concatenate(fileset.read_variants())) == 101


@pytest.mark.parametrize("extension", [".bed", ".bim", ".fam"])
def test_missing_file(make_fileset, copies, extension):
    bed = make_fileset(copies)
    bed.with_suffix(extension).unlink()
    with pytest.raises(InputError, match=rf"data\{extension}: no such file"):
        PlinkFileset.open(bed)


@pytest.mark.parametrize(
    ("extension", "words"),
    [(".bed", "the file is empty"), (".bim", "no variants"), (".fam", "no people")],
)
def test_empty_file(make_fileset, copies, extension, words):
    bed = make_fileset(copies)
    bed.with_suffix(extension).write_bytes(b"")
    with pytest.raises(InputError, match=rf"data\{extension}: {words}"):
        PlinkFileset.open(bed)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"\x6c", "truncated"),
        (b"PK\x01", "not a PLINK .bed: it begins with 50 4b, not 6c 1b"),
        (b"\x6c\x1b\x00", "sample-major.*plink2 --make-bed"),
        (b"\x6c\x1b\x07", "unknown storage mode 0x07"),
    ],
)
def test_wrong_header(make_fileset, copies, header, words):
    bed = make_fileset(copies)
    bed.write_bytes(header + (bed.read_bytes()[3:] if len(header) == 3 else b""))
    with pytest.raises(InputError, match=words):
        PlinkFileset.open(bed)


def test_sizes_that_disagree_are_named(make_fileset, copies):
    bed = make_fileset(copies)
    whole = bed.read_bytes()
    bed.write_bytes(whole[:-1])
    words = r"truncated.*101 variants of 23 people take 609 bytes \(3 \+ 101 × 6\), .* has 608"
    with pytest.raises(InputError, match=words):
        PlinkFileset.open(bed)
    bed.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match=r"counts disagree .* take 609 bytes .* has 610"):
        PlinkFileset.open(bed)
    bed.write_bytes(whole)
    bim = bed.with_suffix(".bim")
    bim.write_text("".join(bim.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="100 variants of 23 people take 603 bytes"):
        PlinkFileset.open(bed)


def test_duplicate_person(make_fileset, copies):
    people = [f"i{i}" for i in range(23)]
    people[20] = "i3"
    with pytest.raises(InputError, match=r"data.fam, line 21: sample FID fi3, IID i3 .* line 4 "):
        PlinkFileset.open(make_fileset(copies, people=people))


def test_short_fam_row(make_fileset, copies):
    bed = make_fileset(copies)
    fam = bed.with_suffix(".fam")
    fam.write_text(fam.read_text().replace("fi4\ti4\t0\t0\t1\t-9", "fi4 i4 0"))
    with pytest.raises(InputError, match=r"data\.fam, line 5: 3 columns where 6 are needed"):
        PlinkFileset.open(bed)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1 data_4 0 50 A", "5 columns where 6"),
        ("1 data_4 0 5e1 A G", "position '5e1' is not an integer"),
        ("1 data_4 0 1_0 A G", "position '1_0' is not an integer"),
        ("1 data_4 0 2147483648 A G", "position 2147483648 does not fit 32 bits"),
    ],
)
def test_bad_bim_row_names_its_line(make_fileset, copies, row, words):
    bed = make_fileset(copies)
    bim = bed.with_suffix(".bim")
    lines = bim.read_text().splitlines()
    lines[4] = row
    bim.write_text("\n".join(lines))
    fileset = PlinkFileset.open(bed)
    with pytest.raises(InputError, match=rf"data\.bim, line 5: .*{words}"):
        list(fileset.read_variants())


def test_binary_where_text_should_be(make_fileset, copies):
    bed = make_fileset(copies)
    bed.with_suffix(".fam").write_bytes(b"\xfe\xff\x00\x81")
    with pytest.raises(InputError, match=r"data\.fam: in UTF-16; save it as UTF-8"):
        PlinkFileset.open(bed)


def test_file_cut_while_it_is_read(make_fileset, copies):
    bed = make_fileset(copies)
    fileset = PlinkFileset.open(bed)
    bed.write_bytes(bed.read_bytes()[:100])
    with pytest.raises(InputError, match="truncated while it was read"):
        fileset.read_packed(0, 101)
    bed.unlink()
    with pytest.raises(InputError, match=r"data\.bed: cannot be read: No such file"):
        fileset.read_packed(0, 101)
    fileset.bim.unlink()
    with pytest.raises(InputError, match=r"data\.bim: cannot be read"):
        list(fileset.read_variants())
