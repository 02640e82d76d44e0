"""Who is haploid where, and what their genotypes become."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import BGEN_8_BIT, FINEST, MISSING_CODE, PGEN, Dosages, HardCalls
from hlmm_scan.genotypes.packing import pack, unpack
from hlmm_scan.genotypes.ploidy import (
    HaploidRegions,
    Ploidy,
    genome_build,
    haploid_people,
    recode,
    recode_reference,
)

X, Y, MT, DIPLOID = Ploidy.X, Ploidy.Y, Ploidy.MITOCHONDRIAL, Ploidy.DIPLOID


@pytest.mark.parametrize(
    ("contig", "ploidy"),
    [
        *(dict.fromkeys(("X", "x", "chrX", "ChrX", "23", "chr23", "NC_000023.11"), X).items()),
        *(dict.fromkeys(("Y", "chrY", "24", "NC_000024.9"), Y).items()),
        *(dict.fromkeys(("M", "MT", "chrM", "26", "NC_012920.1"), MT).items()),
        *(dict.fromkeys(("1", "22", "chr7", "XY", "25", "PAR1", "20", "X_1"), DIPLOID).items()),
    ],
)
def test_chromosomes_are_known_by_name_and_number(contig, ploidy):
    assert HaploidRegions().of_contig(contig) is ploidy


def test_numbers_follow_the_autosomes_of_the_species():
    mouse = HaploidRegions(19)
    assert [mouse.of_contig(c) for c in ("19", "20", "21", "22", "23", "X")] == [
        DIPLOID, X, Y, DIPLOID, MT, X,
    ]  # fmt: skip
    mouse.check(["1", "20", "23"])
    with pytest.raises(InputError, match=r"chromosome 29, but with 22 autosomes.*--autosomes"):
        HaploidRegions().check(["1", "29"])
    with pytest.raises(InputError, match="GRCh38 is human"):
        HaploidRegions(19, "GRCh38")


def test_builds_have_aliases():
    assert {genome_build(n) for n in ("GRCh37", "hg19", "37", "b37", "grch37")} == {"GRCh37"}
    assert {genome_build(n) for n in ("GRCh38", "HG38", "38")} == {"GRCh38"}
    with pytest.raises(InputError, match="not 'mm10'"):
        genome_build("mm10")


@pytest.mark.parametrize(
    ("build", "first", "last"),
    [("GRCh37", 2_699_520, 154_931_044), ("GRCh38", 2_781_479, 155_701_383)],
)
def test_pseudo_autosomal_regions_depend_on_the_build(build, first, last):
    positions = np.array([first, first + 1, last - 1, last])
    there = HaploidRegions(build=build)
    assert there.classify("X", positions).tolist() == [DIPLOID, X, X, DIPLOID]
    assert not there.undecided("X", positions).any()
    assert HaploidRegions().classify("X", positions).tolist() == [X] * 4
    outer = np.array([2_781_479, 2_781_480, 154_931_043, 154_931_044])
    assert HaploidRegions().undecided("X", outer).tolist() == [True, False, False, True]
    assert not HaploidRegions(19).undecided("X", outer).any()
    assert not HaploidRegions().undecided("1", outer).any()


def test_a_male_specific_gene_is_not_pseudo_autosomal():
    sry = np.array([2_654_896])
    assert HaploidRegions(build="GRCh37").classify("Y", sry).tolist() == [Y]
    assert HaploidRegions().undecided("Y", sry).tolist() == [True]


@given(data=st.data(), n=st.integers(1, 23), m=st.integers(0, 4), ploidy=st.sampled_from(Ploidy))
@settings(max_examples=80, deadline=None)
def test_recoding_equals_the_plain_reference(data, n, m, ploidy):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    copies = rng.integers(-1, 3, (m, n)).astype(np.int8)
    sex = rng.integers(0, 3, n).astype(np.int8)
    counted = np.flatnonzero(rng.random(n) < 0.7)
    packed = pack(copies)
    before = packed.copy()
    block, heterozygous = recode(HardCalls(packed, n), ploidy, sex, counted)
    expected, count = recode_reference(packed, ploidy, sex, counted)
    assert np.array_equal(block.packed, expected)
    assert np.array_equal(heterozygous, count)
    assert np.array_equal(packed, before)
    after = unpack(block.packed, n)
    free = ~haploid_people(ploidy, sex)
    assert np.array_equal(after[:, free], copies[:, free])
    assert not (after[:, ~free] == 1).any()
    if ploidy is Y:
        assert (after[:, sex != 1] == -1).all()


@pytest.mark.parametrize("unit", [BGEN_8_BIT, PGEN, FINEST])
@pytest.mark.parametrize("ploidy", [X, Y, MT])
def test_whole_dosages_are_calls_and_uncertain_ones_stay(unit, ploidy):
    rng = np.random.default_rng(8)
    n, one = 13, round(1 / unit)
    copies = rng.integers(-1, 3, (6, n)).astype(np.int8)
    sex = rng.integers(0, 3, n).astype(np.int8)
    counted = np.arange(0, n, 2)
    codes = np.where(copies < 0, MISSING_CODE, copies.astype(np.int64) * one).astype(np.uint16)
    block, heterozygous = recode(Dosages(codes, unit), ploidy, sex, counted)
    calls, count = recode(HardCalls.of(copies), ploidy, sex, counted)
    assert isinstance(block, Dosages)
    assert np.array_equal(block.copies(), calls.copies(), equal_nan=True)
    assert np.array_equal(heterozygous, count)
    # One person's dosage between the calls: the variant was imputed, and nothing is an error.
    codes[:, 0] = one // 3
    kept, none = recode(Dosages(codes, unit), ploidy, sex, counted)
    males = sex == 1 if ploidy is Y else np.ones(n, bool)
    assert isinstance(kept, Dosages)
    assert np.array_equal(kept.codes[:, males], codes[:, males])
    assert not none.any()
