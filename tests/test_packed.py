"""Gzipped text that is read whole: members, damage, and what fills a machine's memory."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hlmm_scan import packed
from hlmm_scan.cohort.people import read_people
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.selection import IdList, Region
from hlmm_scan.packed import unpacked

HERE = Path("x.gz")


def test_what_is_packed_is_unpacked_and_the_rest_left_alone():
    assert unpacked(b"plain", HERE) == b"plain"
    assert unpacked(gzip.compress(b""), HERE) == b""
    text = bytes(range(256)) * 1000
    assert unpacked(gzip.compress(text), HERE) == text
    assert unpacked(gzip.compress(text) + gzip.compress(b"more"), HERE) == text + b"more"


@pytest.mark.parametrize("cut", [3, 15, -1, -9])
def test_data_that_end_too_early_are_told(cut):
    with pytest.raises(InputError, match=r"x\.gz: the gzip data are damaged or truncated"):
        unpacked(gzip.compress(b"some text" * 100)[:cut], HERE)
    spoilt = bytearray(gzip.compress(b"some text" * 100))
    spoilt[20] ^= 8
    with pytest.raises(InputError, match="damaged or truncated"):
        unpacked(bytes(spoilt), HERE)


@pytest.mark.parametrize("read", [read_table, read_people, IdList.read])
def test_a_bomb_is_refused_and_the_limit_said(read, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "LEAST_BYTES", 1 << 20)
    path = tmp_path / "table.gz"
    path.write_bytes(gzip.compress(b"IID y\n" + b" " * (8 << 20)))
    with pytest.raises(InputError, match="unpacks to more than 1 MiB, over 200 times its size"):
        read(path)


def test_a_line_of_blanks_takes_no_time(tmp_path):
    """Of which a quadratic pattern made minutes."""
    path = tmp_path / "table"
    path.write_bytes(b" " * (1 << 20) + b"\n" + b" \t" * (1 << 20) + b"\nIID y\np1 1\n")
    assert read_table(path).individual_id.tolist() == ["p1"]


def test_regions_may_end_anywhere():
    assert Region.parse("6:1-99999999999999999999").stop == 2**31 - 1
    assert Region.parse("6:1-" + "9" * 5000) == Region.parse("6:1-2147483647")
    assert Region.parse("6:" + "0" * 5000 + "7") == Region("6", 7, 7)
    with pytest.raises(InputError) as caught:
        Region.parse("x" * 5000 + ":\x1b-")
    assert len(str(caught.value)) < 200
