"""Names of chromosomes: one for all the ways they are written in."""

from __future__ import annotations

import pytest

from hlmm_scan.genotypes.chromosomes import (
    autosomes_seen,
    chromosome,
    in_words,
    is_autosome,
    linkage_group,
    unknown_names,
)

NAMES = {
    "6": "6 06 006 chr6 Chr06 CHR_6 chr.6 chromosome6 6.0 NC_000006.12 NC_000006 CM000668.2",
    "X": "X x 0X 23 chrX chr23 23.0 X_nonPAR X-NONPAR nonPAR XnonPAR NC_000023.11 CM000685.1",
    "Y": "Y 24 chrY Y_nonPAR NC_000024.9",
    "XY": "XY 25 PAR PAR1 PAR2 X_PAR1 chrX_PAR2 Y_PAR1 XPAR1",
    "MT": "MT M mt chrM chrMT 26 NC_012920.1 J01415.2 mitochondrion",
    "10": "10 chr10 010",
    "30": "30 chr30",
    "0": "0 00",
}


@pytest.mark.parametrize(("one", "names"), NAMES.items())
def test_all_names_of_a_chromosome_are_one(one, names):
    assert {chromosome(name) for name in names.split()} == {one}


def test_other_names_stay_and_two_of_them_stay_two():
    others = [
        "scaffold_3",
        "scaffold_30",
        "Un_KI270302v1",
        "Z",
        "W",
        "X2",
        "MTX",
        "1A",
        "NC_037328.1",
        "IV",
        "PARX",
    ]
    assert [chromosome(name) for name in others] == others
    assert chromosome("chrUn_KI270302v1") == "Un_KI270302v1"
    assert (chromosome(""), chromosome("chr"), chromosome("NA")) == ("", "chr", "NA")


def test_the_species_says_what_a_number_is():
    assert [chromosome(n, 29) for n in ("23", "29", "30", "31", "32", "33", "34")] == [
        "23", "29", "X", "Y", "XY", "MT", "34",
    ]  # fmt: skip
    assert (chromosome("NC_000067.7", 19), chromosome("NC_000086.8", 19)) == ("1", "X")
    assert chromosome("NC_000067.7") == "NC_000067.7"
    assert is_autosome("chr023", 29)
    assert not is_autosome("23")
    assert not is_autosome("0")


def test_the_pseudo_autosomal_regions_lie_on_x():
    assert {linkage_group(n) for n in ("X", "23", "PAR1", "25", "chrXY")} == {"X"}
    assert linkage_group("chr07") == "7"


def test_unknown_names_and_other_species_are_seen():
    assert unknown_names(["1", "chrX", "0", "23", "Z", "27"]) == ["0", "Z", "27"]
    letters = ["X", "Y"]
    assert autosomes_seen([*map(str, range(1, 20)), *letters]) == 19
    assert autosomes_seen([f"chr{k:02}" for k in range(1, 27)] + letters) == 26
    for human in (range(1, 23), range(20, 23), (1, 2, 5), range(1, 4)):
        assert autosomes_seen([*map(str, human), *letters]) is None
    assert autosomes_seen(list(map(str, range(1, 27)))) is None  # 23 to 26 may be PLINK's


def test_chromosomes_in_words():
    names = ["2", "chr1", "03", "7", "8", "X", "23", "PAR1", ""]
    assert in_words(names) == "1-3, 7, 8, X, XY, (no name)"
    assert in_words(["1", "9" * 5000]) == f"1, {'9' * 40}"
    assert not is_autosome("9" * 5000)
    assert in_words([f"s{k}" for k in range(9)]) == "s0, s1, s2, s3, s4, s5, 3 more"
