"""The text files of genotypes as people and programs leave them: marks, headers, blanks, words."""

from __future__ import annotations

import gzip
import logging
import struct
import zlib

import numpy as np
import pytest
import zstandard

from hlmm_scan import packed
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.packing import pack
from hlmm_scan.genotypes.readers import vcf
from hlmm_scan.genotypes.readers.lines import ByteStream, text_lines
from hlmm_scan.genotypes.readers.oxford_samples import made_up, people_of, read_sample_file
from hlmm_scan.genotypes.readers.pgen import read_psam
from hlmm_scan.genotypes.readers.plink import PlinkFileset, read_fam
from hlmm_scan.genotypes.samples import sex_code
from hlmm_scan.genotypes.selection import IdList

MARK = "\ufeff"
FAM = "f1 i1 0 0 1 -9\nf2 i2 0 0 2 -9\nf3 i3 0 0 0 -9\n"
BIM = "1 rs1 0 100 A G\n1 rs2 0 200 A G\n"


def fileset(folder, fam: str | bytes = FAM, bim: str = BIM):
    (folder / "a.fam").write_bytes(fam if isinstance(fam, bytes) else fam.encode())
    (folder / "a.bim").write_bytes(bim.encode())
    calls = pack(np.array([[0, 1, 2], [2, 1, -1]], dtype=np.int8))
    (folder / "a.bed").write_bytes(b"\x6c\x1b\x01" + calls.tobytes())
    return folder / "a.bed"


@pytest.mark.parametrize(
    "fam",
    [
        FAM,
        MARK + FAM,
        FAM.replace("\n", "\r\n"),
        "FID IID PAT MAT SEX PHENO\n" + FAM,
        "#FID\tIID\tPAT\tMAT\tSEX\tPHENO\n" + FAM,
        FAM.replace(" ", "\t"),
        FAM.replace(" -9", ""),
        FAM.replace(" 1 -9", " M -9").replace(" 2 -9", " female -9"),
        FAM.replace(" 1 -9", " 1.0 -9").replace(" 0 -9", " NA -9"),
        "\n" + FAM + "\n",
    ],
)
def test_people_of_a_fam(tmp_path, fam):
    samples = PlinkFileset.open(fileset(tmp_path, fam)).samples
    assert samples.individual_id.tolist() == ["i1", "i2", "i3"]
    assert samples.family_id.tolist() == ["f1", "f2", "f3"]
    assert samples.sex.tolist() == [1, 2, 0]


def test_cells_parted_by_tabs_may_hold_a_blank_or_nothing(tmp_path):
    fam = "f1\tsite i1\t0\t0\t1\t-9\n\ti2\t0\t0\t2\t-9\nf3\ti\u00a03\t0\t0\t0\t-9\n"
    samples = read_fam(fileset(tmp_path, fam).with_suffix(".fam"))
    assert samples.individual_id.tolist() == ["site i1", "i2", "i\u00a03"]
    assert samples.family_id.tolist() == ["f1", "0", "f3"]
    bim = "1\trs 1\t0\t100\tA\tG\n1\t\t0\t200\tA\tG\n"
    table = next(PlinkFileset.open(fileset(tmp_path, bim=bim)).read_variants())
    assert table.variant_id.tolist() == ["rs 1", "."]


@pytest.mark.parametrize(
    ("fam", "words"),
    [
        (FAM.encode() + b"f4 Mu\xf1oz 0 0 1 -9\n", "line 4: not text in UTF-8; .*iconv"),
        ("# by hand\n" + FAM, "line 1: 3 columns where 6"),
        ("#a b c d e f\n" + FAM, "line 1: begins with '#'"),
        (FAM.replace(" ", ","), "line 1: 1 columns .*parted by commas"),
        ("f1\t\t0\t0\t1\t-9\n", "line 1: the second column, IID, is empty"),
        (FAM.encode("utf-16"), "in UTF-16"),
        (FAM.replace("\n", "\r"), "lines end in carriage returns alone; tr"),
        (FAM.replace("i2", "i\0"), "line 2: holds a NUL"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_line(tmp_path, fam, words):
    with pytest.raises(InputError, match=words):
        PlinkFileset.open(fileset(tmp_path, fam))


@pytest.mark.parametrize(
    "bim",
    [
        BIM,
        MARK + BIM,
        "CHR SNP CM BP A1 A2\n" + BIM,
        BIM.replace(" 0 ", " "),
        BIM.replace("200", "2e+02").replace("100", "100.0"),
        BIM.replace(" ", "\t").replace("\n", "\r\n"),
    ],
)
def test_variants_of_a_bim(tmp_path, bim):
    source = PlinkFileset.open(fileset(tmp_path, bim=bim))
    (table,) = source.variants(10)
    assert (table.variant_id.tolist(), table.position.tolist()) == (["rs1", "rs2"], [100, 200])
    assert (table.contig.tolist(), table.effect_allele.tolist()) == (["1", "1"], ["A", "A"])


def test_a_bim_without_its_last_column_is_no_bim_without_morgans(tmp_path):
    source = PlinkFileset.open(fileset(tmp_path, bim=BIM.replace(" G", "")))
    with pytest.raises(InputError, match="line 1: 5 columns where 6"):
        list(source.variants(10))


@pytest.mark.parametrize(
    ("sex", "codes"),
    [
        ("1 2 0", [1, 2, 0]),
        ("1.0 2.0 0.0", [1, 2, 0]),
        ("Male Female Not_available", [1, 2, 0]),
        ("XY XX not_recorded", [1, 2, 0]),
        ("m F NA", [1, 2, 0]),
        ('"1" "2" "NA"', [1, 2, 0]),
    ],
)
@pytest.mark.parametrize("name", ["sex", "Sex", "gender"])
def test_sex_in_sample_files_is_understood_as_in_tables(tmp_path, sex, codes, name):
    path = tmp_path / "a.sample"
    rows = "".join(f"i{k} i{k} 0 {word}\n" for k, word in enumerate(sex.split()))
    path.write_text(f"{MARK}ID_1 ID_2 missing {name}\n0 0 0 D\n{rows}")
    assert read_sample_file(path).sex.tolist() == codes
    psam = tmp_path / "a.psam"
    lines = "".join(f"i{k} {word}\n" for k, word in enumerate(sex.replace('"', "").split()))
    psam.write_text(f"{MARK}#IID {name}\n{lines}")
    assert read_psam(psam).sex.tolist() == codes


def test_a_word_that_is_no_sex_is_told_once(tmp_path, caplog):
    bed = fileset(tmp_path, FAM.replace(" 1 -9", " XXY -9").replace(" 2 -9", " 7 -9"))
    with caplog.at_level(logging.WARNING):
        assert PlinkFileset.open(bed).samples.sex.tolist() == [0, 0, 0]
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}/a.fam: the sex of 2 people is none that is known (line 1: 'XXY'), and taken "
        "as unknown; write 1 or male, 2 or female, 0 or NA"
    ]
    assert [sex_code(w) for w in ("1.00", "MALE ", "02", "1.5", "")] == [1, 1, None, None, 0]


def test_made_up_ids_give_way_to_those_of_the_sample_file(tmp_path, caplog):
    ids = [f"(anonymous_sample_{k})" for k in (1, 2, 3)]
    assert made_up(ids)
    assert made_up(["sample_0", "sample_1"])
    assert made_up(["1", "2", "3"])
    assert not made_up(["sample_1", "sample_3"])
    assert not made_up(["a1", "a2"])
    sample = tmp_path / "a.sample"
    sample.write_text("ID_1 ID_2 missing\n0 0 0\na a 0\nb b 0\nc c 0\n")
    assert people_of(tmp_path / "a.bgen", 3, ids, sample).individual_id.tolist() == ["a", "b", "c"]
    with pytest.raises(InputError, match="another cohort"):
        people_of(tmp_path / "a.bgen", 3, ["a", "c", "b"], sample)
    with caplog.at_level(logging.WARNING):
        people_of(tmp_path / "a.bgen", 3, ids, None)
    assert "name its .sample file" in caplog.text
    with pytest.raises(InputError, match="sample id of person 2 in it is empty"):
        people_of(tmp_path / "a.bgen", 2, ["a", ""], None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_are_read_whatever_wrote_them(tmp_path, encoding, end):
    path = tmp_path / "ids"
    content = f"rs1{end}rs2{end}".encode(encoding)
    for data in (content, gzip.compress(content)):
        path.write_bytes(data)
        assert [str(name) for name in IdList.read(path).names] == ["rs1", "rs2"]


def test_a_dataset_of_marked_files_finds_everybody(tmp_path):
    bed = fileset(tmp_path, MARK + FAM, MARK + BIM)
    dataset = convert([bed], tmp_path / "a.zarr")
    assert dataset.samples.family_id.tolist() == ["f1", "f2", "f3"]
    assert dataset.contigs == ("1",)


BOMB = r"unpacks to more than \d MiB, over 200 times its size"


@pytest.fixture
def little_memory(monkeypatch):
    """A mebibyte is much, so that a small file is a bomb."""
    monkeypatch.setattr(packed, "LEAST_BYTES", 1 << 20)


def packed_as(kind: str, data: bytes) -> bytes:
    if kind == "gzip":
        return gzip.compress(data)
    if kind == "zst":
        return bytes(zstandard.compress(data))
    blocks = [data[start : start + 65280] for start in range(0, len(data), 65280)]
    return b"".join(map(bgzf_block, [*blocks, b""]))


def bgzf_block(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(data) + packer.flush()
    head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0"
    size = struct.pack("<H", len(head) + len(body) + 9)
    return head + size + body + struct.pack("<II", zlib.crc32(data), len(data))


@pytest.mark.parametrize("kind", ["gzip", "zst", "bgzf"])
def test_a_packed_table_without_end_is_refused(tmp_path, little_memory, kind):
    path = tmp_path / "a.pvar.zst"
    # In lines and in one.
    for data in (b"1 100 rs1 A G\n" * (8 << 16), b" " * (8 << 20)):
        path.write_bytes(packed_as(kind, data))
        with pytest.raises(InputError, match=BOMB):
            list(text_lines(path))
    rows = b"".join(b"1 %d rs%d A G\n" % (k, k) for k in range(100_000))
    path.write_bytes(packed_as(kind, rows))
    assert len(rows) > 1 << 20
    assert sum(1 for _ in text_lines(path)) == 100_000


@pytest.mark.parametrize("kind", ["gzip", "bgzf"])
def test_a_vcf_may_shrink_but_no_line_of_it(tmp_path, little_memory, kind):
    """Rare variants of many people are one cell over and over."""
    head = "##fileformat=VCFv4.2\n##contig=<ID=1>\n"
    people = "\t".join(f"p{k}" for k in range(2000))
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + people + "\n"
    calls = "\t0/0" * 1999 + "\t0/1\n"
    lines = [f"1\t{k + 1}\trs{k}\tA\tG\t.\t.\t.\tGT{calls}" for k in range(1000)]
    text = (head + columns + "".join(lines)).encode()
    path = tmp_path / "a.vcf.gz"
    path.write_bytes(packed_as(kind, text))
    assert len(text) > max(1 << 20, 100 * path.stat().st_size)
    assert convert([path], tmp_path / "a.zarr").n_variants == 1000
    for bomb in (head.encode() + b"##" + b"x" * (8 << 20), text[:5000] + b"0" * (8 << 20)):
        path.write_bytes(packed_as(kind, bomb))
        with pytest.raises(InputError, match=BOMB):
            convert([path], tmp_path / "b.zarr")


def test_the_header_of_a_vcf_ends_somewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(vcf, "_MOST_HEADER", 1 << 20)
    path = tmp_path / "a.vcf.gz"
    path.write_bytes(gzip.compress(b"##fileformat=VCFv4.2\n" + b"##x\n" * (1 << 20)))
    with pytest.raises(InputError, match="header goes on for more than"):
        convert([path], tmp_path / "a.zarr")


def test_plain_lines_have_no_such_limit(tmp_path, little_memory):
    path = tmp_path / "a"
    path.write_bytes(b"x" * (3 << 20) + b"\n")
    with ByteStream(path) as stream:
        assert len(stream.readline()) == (3 << 20) + 1
