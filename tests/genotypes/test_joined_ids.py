"""FID and IID as one id, as plink2 writes them to VCF: told where nobody matches, and parted."""

from __future__ import annotations

import numpy as np
import pytest
from vcf_by_hand import write_vcf

from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.open import SourceOptions
from hlmm_scan.genotypes.samples import SampleIds, halves

PEOPLE = ["f1_i1", "0_i2", "a_b_a_b", "i4_i4"]


@pytest.fixture
def vcf(tmp_path):
    return write_vcf(tmp_path / "a.vcf", [("GT", ["0/0", "0/1", "1/1", "0/1"])], people=PEOPLE)


def test_a_delimiter_parts_them(vcf, tmp_path):
    options = SourceOptions(id_delim="_")
    samples = convert([vcf], tmp_path / "a.zarr", options=options, workers=0).samples
    assert samples.family_id.tolist() == ["f1", "0", "a_b", "i4"]
    assert samples.individual_id.tolist() == ["i1", "i2", "a_b", "i4"]
    assert halves("a_b_c", "_") is None
    assert halves("_a", "_") is None
    assert halves("a", "_") is None


@pytest.mark.parametrize(
    ("people", "delimiter", "words"),
    [
        (["a_b_c"], "_", "'a_b_c' is not an FID and an IID with one '_' between"),
        (["ab"], "_", "'ab' is not an FID"),
        (["a_b"], "__", "id_delim must be one character"),
    ],
)
def test_what_cannot_be_parted_is_named(tmp_path, people, delimiter, words):
    path = write_vcf(tmp_path / "a.vcf", [("GT", ["0/0"])], people=people)
    with pytest.raises(InputError, match=words):
        convert([path], tmp_path / "a.zarr", options=SourceOptions(id_delim=delimiter), workers=0)


@pytest.mark.parametrize("delimiter", ["_", " ", ":"])
@pytest.mark.parametrize("header", ["FID\tIID\ty\n", "IID\ty\n"])
def test_that_nobody_matches_for_this_is_told(tmp_path, delimiter, header):
    ids = np.array([f"p{k}{delimiter}p{k}" for k in range(5)], dtype=object)
    rows = "".join(f"p{k}\tp{k}\t{k}\n" if "F" in header else f"p{k}\t{k}\n" for k in range(4))
    (tmp_path / "y.tsv").write_text(header + rows)
    table = read_table(tmp_path / "y.tsv")
    words = f"4 people of the genotypes are FID{delimiter}IID in one id.*--id-delim '{delimiter}'"
    with pytest.raises(InputError, match=words):
        match(SampleIds(ids), table)
