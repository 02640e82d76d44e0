"""Which fields of a VCF say how many copies there are, and that each is read as what it is."""

from __future__ import annotations

import numpy as np
import pytest
from vcf_by_hand import write_vcf

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import Dosages
from hlmm_scan.genotypes.calls import WrongValueError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import summary
from hlmm_scan.genotypes.readers.dosage_fields import PHRED, copies_of_variant, probabilities
from hlmm_scan.genotypes.readers.vcf import VcfFile

DS = ["0.1", "0.9", "1.95", "0", "1"]
GT = ["0/0", "0/1", "1/1", "0/0", "0/1"]
EXPECTED = [0.1, 0.9, 1.95, 0.0, 1.0]


def beside(left, right, separator=":"):
    return [f"{a}{separator}{b}" for a, b in zip(left, right, strict=True)]


def copies_in(path) -> np.ndarray:
    source = VcfFile.open(path)
    block = source.reader().read_block(0, source.n_variants).block
    assert isinstance(block, Dosages)
    return block.copies()


@pytest.mark.parametrize(
    ("form", "cells"),
    [
        ("GT:DS", beside(GT, DS)),
        ("DS:GT", beside(DS, GT)),
        ("DS", DS),
        ("GT:DS", beside(["."] * 5, DS)),
        ("GT:DS", beside(["./."] * 5, DS)),
        ("GT:DS", beside([".", "./.", ".", "0/0", "."], DS)),
        ("GT:HDS", beside(GT, ["0.1,0", "0.8,0.1", "1,0.95", "0,0", "0.5,0.5"])),
        ("HDS", ["0,0.1", "0.8,0.1", "0.95,1", "0,0", "1,0"]),
        ("GT:GP", beside(GT, ["0.9,0.1,0", "0.1,0.9,0", "0,0.05,0.95", "1,0,0", "0,1,0"])),
    ],
)
@pytest.mark.parametrize("declared", [("GT", "DS", "HDS", "GP"), ("GT",), ()])
def test_dosages_are_those_of_the_field_that_has_them(tmp_path, form, cells, declared):
    path = write_vcf(tmp_path / "a.vcf", [(form, cells)], declared=declared)
    np.testing.assert_allclose(copies_in(path)[0], EXPECTED, atol=1e-4)


def test_a_dosage_declared_as_text_is_a_number(tmp_path):
    text = '##FORMAT=<ID=DS,Number=1,Type=String,Description="Dosage">\n'
    path = write_vcf(tmp_path / "a.vcf", [("GT:DS", beside(GT, DS))], declared=["GT"], extra=text)
    np.testing.assert_allclose(copies_in(path)[0], EXPECTED, atol=1e-4)


def test_nobody_is_haploid_because_a_call_is_missing(tmp_path):
    """At a rare variant, where nobody has more than one copy, doubling would not be seen."""
    low = ["0.9", "0.05", "0", "0.1", "0"]
    rows = [("DS", low), ("GT:DS", beside(["."] * 5, low)), ("GT:DS", beside(["./."] * 5, low))]
    copies = copies_in(write_vcf(tmp_path / "a.vcf", rows))
    np.testing.assert_allclose(copies, np.tile([0.9, 0.05, 0, 0.1, 0], (3, 1)), atol=1e-4)


def test_a_haploid_call_counts_its_dosage_twice(tmp_path):
    rows = [("GT:DS", ["1:0.9", "0:0", "0/1:1"]), ("GT:HDS", ["1:0.9", "0:0.1", "0|1:0,1"])]
    copies = copies_in(write_vcf(tmp_path / "a.vcf", rows))
    np.testing.assert_allclose(copies, [[1.8, 0, 1], [1.8, 0.2, 1]], atol=1e-4)


def test_phred_scaled_probabilities_are_told_from_probabilities(tmp_path):
    cells = beside(GT, ["0,23,45", "20,0,31", "60,27,0", "3,3,40", "0,12,13"])
    path = write_vcf(tmp_path / "a.vcf", [("GT:GP", cells)])
    copies = copies_in(path)[0]
    p = 10.0 ** (-np.array([[0, 23, 45], [20, 0, 31], [60, 27, 0], [3, 3, 40], [0, 12, 13]]) / 10)
    expected = (p / p.sum(axis=1, keepdims=True)) @ [0, 1, 2]
    np.testing.assert_allclose(copies, expected, atol=1e-4)
    dataset = convert([path], tmp_path / "a.zarr", workers=0)
    assert f"1 of dosages (from {PHRED})" in summary(dataset)


@pytest.mark.parametrize(
    ("form", "cells", "words"),
    [
        ("GT:DS", ["0/0:0", "1/1:2.01"], r"record 1 \(rs0 at 1:100\), person p1: DS is 2.01, outs"),
        ("DS", ["-0.1", "1"], "person p0: DS is -0.1, outside 0 to 2"),
        ("GT:DS", ["0/0:1", "1:1.4"], "person p1: DS is 1.4, outside 0 to 1 or 2"),
        ("GT:DS", ["0/0:0,1", "0/1:0,9"], "person p0: DS is 0,1: more than one number"),
        ("DS", ["0", "1,9"], "person p1: DS is 1,9: more than one .* decimals need a point"),
        ("HDS", ["0,1", "0.5,1.2"], "person p1: HDS is 1.2, outside 0 to 1"),
        ("GT:HDS", ["0/0:0,0", "0/1:0.9"], "person p1: HDS is 0.9: too few for a call of two"),
        ("GT:GP", ["0/0:1,0,0", "0/1:0.1,0.9"], "person p1: GP is 0.1,0.9: too few for a call"),
        ("GP", ["1,0,0", "0.4,0.1,0"], "person p1: GP is 0.4,0.1,0: .* sum to 1"),
        ("GP", ["1,0,0", "0,23,45"], "person p1: GP is 0,23,45"),
        ("GP", ["1,0,0", "1.2,-0.2,0"], "person p1: GP is 1.2,-0.2,0: a negative number"),
        ("GP", ["98,1,1", "1,98.5,0.5"], "person p0: GP is 98,1,1: they sum to 100, as perc"),
        ("GP", ["-2,-0.009,-2", "0,-2,-3"], "person p0: GP is -2,-0.009,-2: a negative number"),
        ("GT", ["0/0", "0/2"], r"record 1 .*, person p1: a call of a third allele"),
        ("PL", ["0,3,30", "3,0,3"], "line 9: its FORMAT PL has neither GT nor DS, HDS or GP"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_person(tmp_path, form, cells, words):
    path = write_vcf(tmp_path / "a.vcf", [(form, cells)])
    with pytest.raises(InputError, match=words):
        convert([path], tmp_path / "a.zarr", workers=0)


def test_nothing_but_zeros_says_nothing():
    gp = np.array([[0.0, 0, 0], [1, 0, 0], [np.nan] * 3, [0.3, 0.3, 0.4]])
    said = probabilities(gp, np.zeros(4, bool))
    np.testing.assert_array_equal(np.isnan(said.mean), [True, False, True, False])
    assert not said.phred
    calls = np.array([[0, 1], [1, 1], [1, 1], [0, 0]])
    copies = copies_of_variant(calls, 4, gp=gp)
    np.testing.assert_allclose(copies.copies, [1, 0, 2, 1.1])
    with pytest.raises(WrongValueError, match="person 2"):
        copies_of_variant(None, 2, ds=np.array([0.0, 3.0]))


def test_the_last_line_says_what_was_read(tmp_path):
    rows = [("GT:DS", beside(GT, DS)), ("GT", GT), ("GP", ["1,0,0"] * 5)]
    dataset = convert([write_vcf(tmp_path / "a.vcf", rows)], tmp_path / "a.zarr", workers=0)
    assert summary(dataset) == (
        "3 variants of 5 people; 2 of hard calls, 1 of dosages (from DS 1, GP 1, GT 1); "
        "chromosome 1; 5 of unknown sex"
    )
