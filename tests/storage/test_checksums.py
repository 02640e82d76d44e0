"""Checksums of documents and chunks, their manifest, and files that stay on a disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from hlmm_scan.errors import DamagedError, InputError
from hlmm_scan.storage import durable, zarr_store
from hlmm_scan.storage.arrays import CheckedArray, compressors
from hlmm_scan.storage.checksums import (
    Checks,
    Manifest,
    document_is_whole,
    read_document,
    sealed,
    whole_chunk,
)

DOCUMENT = {
    "attributes": {"note": "ü", "hlmm_scan": {"kind": "results"}},
    "zarr_format": 3,
    "node_type": "group",
}


def test_a_document_finds_every_changed_byte_of_itself(tmp_path):
    data = sealed(DOCUMENT)
    assert document_is_whole(data) is True
    assert sealed(json.loads(data)) == data
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 4
        # A byte of the checksum's own name: there is none then, which the reader of a store knows.
        assert not document_is_whole(bytes(changed)), at
    (tmp_path / "zarr.json").write_bytes(data.replace(b"results", b"resulTs"))
    with pytest.raises(InputError, match=r"zarr\.json is damaged, or was changed"):
        read_document(tmp_path)


def test_documents_of_others_are_read_as_they_are(tmp_path):
    assert read_document(tmp_path) is None
    for text, found in (('{"a": 1}', {"a": 1}), ("[]", None), ("{", None), ("\0", None)):
        (tmp_path / "zarr.json").write_text(text)
        assert read_document(tmp_path) == found


def test_a_manifest_comes_back_and_knows_what_it_lists(tmp_path):
    files = {"x/zarr.json": 7, "x/c/0/1": 5, "x/c/2/0": 9, "a/c/b/c/3": 4}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "zarr.json").write_bytes(Manifest.of_files("run", files).to_document())
    manifest = Manifest.read(tmp_path, "m/zarr.json")
    assert manifest.of == "run"
    assert dict(manifest.files()) == files
    for key in ("x/c/0/0", "x/c/9/9", "x/c/0", "y/c/0", "zarr.json"):
        assert manifest.expected(key) is None
    (tmp_path / "m" / "zarr.json").unlink()
    with pytest.raises(InputError, match="holds the checksums, is damaged or missing"):
        Manifest.read(tmp_path, "m/zarr.json")


@pytest.fixture(params=["numbers", "text"])
def array(request, tmp_path) -> tuple[CheckedArray, Path]:
    """An array of four chunks, opened by a reader who knows the checksums."""
    store = zarr_store(tmp_path)
    group = zarr.create_group(store, zarr_format=3)
    made = group.create_array(
        "x",
        shape=(40,),
        chunks=(10,),
        dtype=str if request.param == "text" else "float64",
        compressors=compressors(),
    )
    values = np.arange(40.0)
    CheckedArray(made)[:] = values.astype(str).astype(object) if request.param == "text" else values
    manifest = Manifest.of_files("", store.written)
    checks = Checks(tmp_path, "do this", manifest=lambda: manifest)
    reader = zarr.open_group(zarr_store(tmp_path, checks=checks), mode="r", zarr_format=3)
    return CheckedArray(reader["x"]), tmp_path / "x" / "c"


def test_every_bit_of_a_chunk_matters(array):
    stored, folder = array
    right, data = stored[:], (folder / "2").read_bytes()
    assert whole_chunk(data)
    for bit in range(0, 8 * len(data), 5):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (folder / "2").write_bytes(changed)
        assert (stored[:20] == right[:20]).all()
        with pytest.raises(DamagedError, match="chunk x/c/2 is damaged; do this"):
            stored[:]


@pytest.mark.parametrize("size", [0, 1, 4, 5, -1])
def test_a_chunk_cut_short(array, size):
    stored, folder = array
    (folder / "1").write_bytes((folder / "1").read_bytes()[:size])
    with pytest.raises(DamagedError, match="chunk x/c/1 is damaged"):
        stored[12]


def test_a_chunk_in_anothers_place_or_nowhere(array):
    stored, folder = array
    (folder / "0").rename(folder / "kept")
    (folder / "1").rename(folder / "0")
    with pytest.raises(DamagedError, match="chunk x/c/0 is damaged"):
        stored[:10]
    with pytest.raises(DamagedError, match="chunk x/c/1 is missing"):
        stored[10:20]


def test_metadata_that_are_listed_are_looked_at(array, tmp_path):
    stored, _ = array
    metadata = tmp_path / "x" / "zarr.json"
    metadata.write_bytes(metadata.read_bytes().replace(b'"shape": [', b'"shape":  ['))
    reader = zarr.open_group(stored.zarr.store, mode="r", zarr_format=3)
    with pytest.raises(InputError, match=r"x/zarr\.json is damaged"):
        reader["x"]
    metadata.unlink()
    with pytest.raises(InputError, match=r"x/zarr\.json is missing"):
        reader["x"]


# On the disk ---------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """Names of what was synced, in order."""
    names: list[str] = []
    fsync = os.fsync

    def note(descriptor):
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return names


def test_what_a_store_wrote_is_on_the_disk_with_its_folders(tmp_path, synced):
    store = zarr_store(tmp_path / "s")
    group = zarr.create_group(store, zarr_format=3)
    made = group.create_array("x", shape=(4,), chunks=(2,), dtype="i4", compressors=compressors())
    store.flush()
    synced.clear()
    made[:] = 1
    assert synced == []
    store.flush()
    assert sorted(synced) == ["0", "1", "c", "s", "x"]
    assert set(synced[:2]) == {"0", "1"}  # folders after the files in them
    synced.clear()
    made[:2] = 2
    store.flush()
    assert synced == ["0", "c"]


def test_a_file_that_cannot_be_synced_is_tried_again(tmp_path, monkeypatch):
    store = zarr_store(tmp_path / "s")
    zarr.create_group(store, zarr_format=3)

    def broken(_path):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(durable, "_sync", broken)
    with pytest.raises(OSError, match="Input/output"):
        store.flush()
    monkeypatch.undo()
    seen = []
    monkeypatch.setattr(durable, "_sync", seen.append)
    store.flush()
    assert tmp_path / "s" / "zarr.json" in seen


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, synced, monkeypatch):
    path, replace = tmp_path / "x", Path.replace

    def note(self, target):
        synced.append(f"-> {Path(target).name}")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", note)
    durable.write_durably(path, b"1")
    assert synced == ["x.partial", "-> x", tmp_path.name]
    assert path.read_bytes() == b"1"
