"""Opening a dataset: what is refused, what is read, and damage that must not pass unseen."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.open import open_dataset
from hlmm_scan.genotypes.packing import pack
from hlmm_scan.storage.checksums import sealed


@pytest.fixture
def dataset(make_fileset, copies, tmp_path) -> GenotypeDataset:
    contig = ["1"] * 60 + ["X"] * 41
    return convert([make_fileset(copies, contig=contig)], tmp_path / "geno.zarr", chunk_variants=20)


def test_ranges(dataset, copies):
    np.testing.assert_array_equal(dataset.read_packed(13, 47), pack(copies[13:47]))
    assert dataset.read_packed(20, 40).flags.c_contiguous
    assert dataset.read_packed(101, 101).shape == (0, 6)
    table = dataset.variants(58, 62)
    assert table.contig.tolist() == ["1", "1", "X", "X"]
    assert table.position.tolist() == [590, 600, 610, 620]
    assert isinstance(table.variant_id[0], str)
    assert len(dataset.variants(3, 3)) == 0
    for bad in [(-1, 4), (5, 4), (100, 102)]:
        with pytest.raises(IndexError):
            dataset.read_packed(*bad)
        with pytest.raises(IndexError):
            dataset.variants(*bad)


def test_goes_to_another_process_as_a_path(dataset):
    sent = pickle.dumps(dataset)
    assert len(sent) < 500
    again = pickle.loads(sent)
    assert again.fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(again.read_packed(0, 101), dataset.read_packed(0, 101))
    assert "101 variants × 23 people, 20 variants a chunk" in repr(again)


def test_find_variants(dataset):
    found = dataset.find_variants(["data_100", "data_0", "data_55", "data_0"])
    assert found.dtype == np.int64
    assert found.tolist() == [100, 0, 55, 0]
    assert dataset.find_variants([]).tolist() == []
    with pytest.raises(InputError, match=r"variant id rs1 is not among its variant ids"):
        dataset.find_variants(["data_1", "rs1"])
    with pytest.raises(InputError, match=r"5 variant ids \(a, b, c and 2 more\) are not among"):
        dataset.find_variants(["a", "b", "c", "d", "e", "a"])


def test_find_variants_that_stand_twice(make_fileset, copies, tmp_path):
    ids = [f"rs{v}" for v in range(101)]
    ids[70] = ids[60] = ids[3]
    dataset = convert([make_fileset(copies, ids=ids)], tmp_path / "twice.zarr")
    assert dataset.find_variants(["rs4"]).tolist() == [4]
    with pytest.raises(InputError, match="variant id rs3 is carried by more than one variant"):
        dataset.find_variants(["rs4", "rs3"])


@pytest.mark.parametrize("name", ["call_genotype_packed", "variant_missing_count", "variant_id"])
def test_missing_chunk_is_an_error(dataset, name):
    chunk = sorted((dataset.path / name / "c").rglob("0"))[-1]
    chunk.unlink()
    read = {
        "call_genotype_packed": dataset.read_packed,
        "variant_missing_count": dataset.genotype_counts,
        "variant_id": dataset.variants,
    }[name]
    with pytest.raises(InputError, match=rf"chunk {name}/c/\d.* is missing"):
        read(0, 101)


def test_only_the_chunks_read_must_be_there(dataset, copies):
    (dataset.path / "call_genotype_packed" / "c" / "2" / "0").unlink()
    np.testing.assert_array_equal(dataset.read_packed(0, 40), pack(copies[:40]))
    np.testing.assert_array_equal(dataset.read_packed(60, 101), pack(copies[60:]))
    with pytest.raises(InputError, match="c/2/0 is missing"):
        dataset.read_packed(39, 41)


def test_torn_chunk_is_an_error(dataset):
    chunk = dataset.path / "call_genotype_packed" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-4])
    with pytest.raises(InputError, match="chunk call_genotype_packed/c/1/0 is damaged"):
        dataset.read_packed(20, 40)


def edit_mark(path: Path, **changes: object) -> None:
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["hlmm_scan"] |= changes
    (path / "zarr.json").write_bytes(sealed(root))


def unseal(path: Path) -> None:
    """Make it a dataset of before there were checksums."""
    root = json.loads((path / "zarr.json").read_text())
    del root["attributes"]["hlmm_scan"]["document_crc32c"]
    del root["attributes"]["hlmm_scan"]["checksums"]
    (path / "zarr.json").write_text(json.dumps(root))
    shutil.rmtree(path / "checksums")


def test_what_is_not_a_dataset(dataset, tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_dataset(tmp_path / "absent.zarr")
    with pytest.raises(InputError, match="no Zarr group there"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="no Zarr group there"):
        open_dataset(tmp_path / "data.bed")
    broken = tmp_path / "broken.zarr"
    broken.mkdir()
    for content in ("{", "[]", '{"zarr_format": 2}', '{"zarr_format": 3, "node_type": "array"}'):
        (broken / "zarr.json").write_text(content)
        with pytest.raises(InputError, match="not a genotype dataset"):
            open_dataset(broken)
    zarr.create_group(tmp_path / "foreign.zarr", zarr_format=3)
    with pytest.raises(InputError, match="does not carry this package's mark"):
        open_dataset(tmp_path / "foreign.zarr")
    edit_mark(dataset.path, kind="results")
    with pytest.raises(InputError, match="the store holds results"):
        open_dataset(dataset.path)


def test_other_format_version(dataset):
    edit_mark(dataset.path, format=1)
    with pytest.raises(InputError, match="of format 1, this version reads 2"):
        open_dataset(dataset.path)


@pytest.mark.parametrize("name", ["call_genotype_packed", "sample_id"])
def test_missing_array(dataset, name):
    # As a writer without consolidated metadata would have left it.
    unseal(dataset.path)
    shutil.rmtree(dataset.path / name)
    root = dataset.path / "zarr.json"
    group = zarr.open_group(dataset.path, mode="r", use_consolidated=False)
    attributes = dict(group.attrs)
    root.unlink()
    zarr.open_group(dataset.path, mode="a", zarr_format=3, attributes=attributes)
    with pytest.raises(InputError, match=f"has no {name}; convert again"):
        open_dataset(dataset.path)


def test_calls_of_another_number_of_people(dataset, copies):
    unseal(dataset.path)
    group = zarr.open_group(dataset.path, mode="r+", use_consolidated=False)
    del group["sample_id"]
    group.create_array("sample_id", shape=(40,), dtype=str)
    zarr.open_group(dataset.path, mode="r+")
    text = dataset.path / "zarr.json"
    attributes = dict(group.attrs)
    text.unlink()
    zarr.open_group(dataset.path, mode="a", zarr_format=3, attributes=attributes)
    with pytest.raises(InputError, match="6 bytes a variant do not fit 40 people"):
        open_dataset(dataset.path)
