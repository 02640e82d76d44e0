"""Crosses in R/qtl2's format: what each kind's genotypes are, and what is wrong with files."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.readers.cross import Cross

MAP = "marker,chr,pos\nm1,1,3.5\nm2,1,1.25\nm3,X,10\n"
GENO = "id,m1,m2,m3\na,A,H,B\nb,B,-,A\nc,H,A,B\n"
TRAITS = "# of a cross\nid,weight,height\na,1.5,10\nb,NA,20\nc,2.5,30\n"
COVARIATES = "id,sex,diet\na,f,chow\nb,m,fat\nc,m,chow\n"


def cross(folder: Path, files: dict[str, str] | None = None, **control: object) -> Path:
    """Write an intercross, or what is made of it, as a zip."""
    said = {
        "crosstype": "f2",
        "geno": "geno.csv",
        "pmap": "map.csv",
        "pheno": "pheno.csv",
        "covar": "covar.csv",
        "alleles": ["A", "B"],
        "genotypes": {"A": 1, "H": 2, "B": 3, "D": 4, "C": 5},
        "sex": {"covar": "sex", "f": "female", "m": "male"},
        **control,
    }
    said = {key: value for key, value in said.items() if value is not None}
    given = {"geno.csv": GENO, "map.csv": MAP, "pheno.csv": TRAITS, "covar.csv": COVARIATES}
    path = folder / "cross.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("cross.json", json.dumps(said))
        for name, text in {**given, **(files or {})}.items():
            out.writestr(name, text)
    return path


def copies_of(path: Path) -> dict[str, list[float]]:
    """Copies of the second allele by marker, NaN where missing."""
    opened = Cross.open(path)
    samples = np.arange(len(opened.samples))
    (table,) = opened.variants(1_000)
    found = opened.reader().read_block(0, opened.n_variants).block.copies(samples)
    return dict(zip(table.variant_id.tolist(), found.tolist(), strict=True))


def test_an_intercross_has_copies_of_the_second_allele(tmp_path):
    path = cross(tmp_path)
    opened = Cross.open(path)
    (table,) = opened.variants(10)
    # By the map: chromosomes as they come, positions ascending, in base pairs.
    assert table.variant_id.tolist() == ["m2", "m1", "m3"]
    assert table.position.tolist() == [1_250_000, 3_500_000, 10_000_000]
    assert table.contig.tolist() == ["1", "1", "X"]
    assert set(table.effect_allele) == {"B"}
    assert set(table.other_allele) == {"A"}
    assert opened.samples.sex.tolist() == [2, 1, 1]
    found = copies_of(path)
    np.testing.assert_array_equal(found["m1"], [0, 2, 1])
    np.testing.assert_array_equal(found["m2"], [1, np.nan, 0])
    np.testing.assert_array_equal(found["m3"], [2, 0, 2])


def test_what_is_neither_of_two_genotypes_is_missing(tmp_path):
    found = copies_of(cross(tmp_path, {"geno.csv": "id,m1\na,C\nb,D\nc,H\n"}))
    np.testing.assert_array_equal(found["m1"], [np.nan, np.nan, 1])


@pytest.mark.parametrize("kind", ["risib", "riself", "dh", "haploid"])
def test_inbred_lines_are_homozygous(tmp_path, kind):
    files = {"geno.csv": "marker,a,b,c\nm1,B,D,H\nm2,D,D,B\n"}
    path = cross(
        tmp_path, files, crosstype=kind, genotypes={"B": 1, "D": 2}, geno_transposed=True, sex=None
    )
    found = copies_of(path)
    np.testing.assert_array_equal(found["m1"], [0, 2, np.nan])
    np.testing.assert_array_equal(found["m2"], [2, 2, 0])


def test_a_backcross_is_heterozygous_but_for_x_of_males(tmp_path):
    files = {"geno.csv": "id,m1,m3\na,H,H\nb,H,H\nc,A,A\n"}
    found = copies_of(cross(tmp_path, files, crosstype="bc", genotypes={"A": 1, "H": 2}))
    np.testing.assert_array_equal(found["m1"], [1, 1, 0])
    np.testing.assert_array_equal(found["m3"], [1, 2, 0])


def test_a_yaml_control_file_lies_beside_the_others(tmp_path):
    zipped = cross(tmp_path)
    folder = tmp_path / "open"
    with zipfile.ZipFile(zipped) as files:
        files.extractall(folder)
    (folder / "cross.yaml").write_text(
        "crosstype: f2\ngeno: [one.csv, two.csv]\ngmap: map.csv\nsep: ','\nna.strings: '-'\n"
        "genotypes: {A: 1, H: 2, B: 3}\n"
    )
    (folder / "one.csv").write_text("id,m1\na,A\nb,B\nc,H\n")
    (folder / "two.csv").write_text("id,m2\na,H\nb,-\nc,A\n")
    whole = copies_of(zipped)
    for name, copies in copies_of(folder / "cross.yaml").items():
        np.testing.assert_array_equal(copies, whole[name])


def test_unknown_genotypes_are_missing_and_markers_without_a_place_left_out(tmp_path, caplog):
    files = {"geno.csv": "id,m1,new\na,A,A\nb,?,A\nc,?,B\n"}
    with caplog.at_level(logging.WARNING):
        found = copies_of(cross(tmp_path, files))
    np.testing.assert_array_equal(found["m1"], [0, np.nan, np.nan])
    assert "new" not in found
    assert "2 genotypes are not among" in caplog.text
    assert "1 markers are on no map" in caplog.text


def test_phenotypes_and_covariates_are_one_table(tmp_path):
    path = cross(tmp_path)
    table = read_table(path, categorical=())
    assert table.columns == ("weight", "height", "sex", "diet")
    assert table.individual_id.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(table.values[:, 0], [1.5, np.nan, 2.5])
    assert table.levels == {"sex": ("f", "m"), "diet": ("chow", "fat")}
    some = read_table(path, only=["height"])
    assert some.columns == ("height",)
    assert set(some.unread) == {"weight", "sex", "diet"}


def test_a_cross_is_converted(tmp_path):
    dataset = convert([cross(tmp_path)], tmp_path / "cross.zarr")
    assert dataset.samples.individual_id.tolist() == ["a", "b", "c"]
    found = dataset.read_block(0, 3).copies(np.arange(3))
    np.testing.assert_array_equal(found, list(copies_of(tmp_path / "cross.zip").values()))


def test_lines_of_bxd_mice(shared_data):
    opened = Cross.open(shared_data / "bxd" / "bxd.zip")
    assert opened.n_variants == 7_320
    assert len(opened.samples) == 198
    copies = opened.calls.copies(np.arange(198))
    with zipfile.ZipFile(opened.path) as files:
        lines = files.read("bxd_geno.csv").decode().splitlines()[4:]
    b, d = (sum(line.split(",")[1:].count(letter) for line in lines) for letter in "BD")
    assert ((copies == 0).sum(), (copies == 2).sum(), (copies == 1).sum()) == (b, d, 0)
    traits = read_table(opened.path, only=["10001"])
    assert traits.values[0, 0] == 61.400002


@pytest.mark.parametrize(
    ("files", "control", "said"),
    [
        ({}, {"geno": "other.csv"}, "'other.csv' is not in it"),
        ({}, {"geno": "../geno.csv"}, "lies outside of it"),
        ({}, {"geno": None}, "names no 'geno'"),
        ({}, {"pmap": None}, "no map"),
        ({}, {"genotypes": {"A": "one"}}, "gives no numbers"),
        ({}, {"alleles": ["A"]}, "names no two"),
        (
            {"geno.csv": "id,m1\na,A\nb,B\n"},
            {"crosstype": "mystery", "genotypes": {"A": 1, "B": 2}},
            "cross 'mystery'",
        ),
        ({"geno.csv": ""}, {}, "geno.csv is empty"),
        ({"geno.csv": "id,m1\na,A\nb\n"}, {}, "geno.csv, line 3: 1 cells"),
        ({"geno.csv": "id,m1\na,A\na,A\n"}, {}, "person 'a' stands twice"),
        ({"geno.csv": "id,m1,m1\na,A,A\n"}, {}, "marker 'm1' stands twice"),
        ({"geno.csv": "id,x\na,A\n"}, {}, "no marker has both"),
        ({"map.csv": "marker,pos\nm1,1\n"}, {}, "not marker, chr and pos"),
        ({"map.csv": "marker,chr,pos\nm1,1,far\n"}, {}, "line 2: the position 'far' of m1"),
        ({"map.csv": "marker,chr,pos\nm1,1,1\nm1,1,2\n"}, {}, "line 3: m1 stands twice"),
        ({"other.json": "{}"}, {}, "2 of them"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, files, control, said):
    with pytest.raises(InputError) as caught:
        Cross.open(cross(tmp_path, files, **control))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cross_without_traits_is_no_table(tmp_path):
    with pytest.raises(InputError, match="neither phenotypes nor covariates"):
        read_table(cross(tmp_path, pheno=None, covar=None, sex=None))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_zips_are_an_error_or_as_they_were(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cross")
    whole = cross(folder)
    right, content = copies_of(whole), bytearray(whole.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    whole.write_bytes(content)
    try:
        found = copies_of(whole)
    except InputError:
        return
    for name, copies in found.items():
        np.testing.assert_array_equal(copies, right[name])
