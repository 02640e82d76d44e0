"""The result store on disk: what xarray sees, what a partition may be, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import result_stores as stores
import xarray as xr

from hlmm_scan.errors import InputError
from hlmm_scan.results import store as store_module
from hlmm_scan.results.mark import read_mark
from hlmm_scan.results.store import ResultStore, group_name
from hlmm_scan.schema import COORDINATES, Status, result_variables


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return stores.make_store(tmp_path / "results.zarr")


def partitions(store: ResultStore):
    n, chunk = store.array("status").shape[1], store.array("status").chunks[1]
    return [(start, min(start + chunk, n)) for start in range(0, n, chunk)]


# Warnings are errors in these tests: opening without one is part of each assertion.


def test_xarray_opens_it_before_during_and_after_the_run(store):
    assert (xr.open_zarr(store.path)["status"].values == Status.PENDING).all()
    (first, *others) = partitions(store)
    values = stores.chunk_values(3, seed=1)
    store.write_partition(0, *first, values)
    dataset = xr.open_zarr(store.path)
    np.testing.assert_array_equal(dataset["add"][0, :3], values["add"])
    assert dataset["add"][0, 3:].isnull().all()
    for start, stop in others:
        store.write_partition(0, start, stop, stores.chunk_values(stop - start, seed=start))
    store.complete({"run_status": "complete"})
    dataset = xr.open_zarr(store.path)
    assert (dataset["status"] == Status.OK).all()
    assert dataset.attrs["run_status"] == "complete"


def test_coordinates_are_coordinates_and_variables_variables(store):
    dataset = store.dataset()
    assert set(dataset.coords) == {v.name for v in COORDINATES}
    assert set(dataset.data_vars) == {v.name for v in result_variables(random_effects=False)}
    assert dict(dataset.sizes) == {"phenotype": 1, "variant": stores.N_VARIANTS}
    assert dataset["phenotype"].dims == ("phenotype",)
    assert [str(c) for c in dataset["contig"].values] == ["1"] * 4 + ["X"] * 3


def test_stored_types_dimensions_and_attributes_are_those_of_the_registry(tmp_path):
    dataset = stores.make_store(tmp_path / "r", random_effects=True).dataset()
    for variable in (*COORDINATES, *result_variables(random_effects=True)):
        array = dataset[variable.name]
        assert array.dims == variable.dims
        if variable.dtype != "str":
            assert array.dtype == np.dtype(variable.dtype)
        assert array.attrs["description"] == variable.description
        assert array.attrs.get("units", "") == variable.unit


def test_the_status_carries_its_flags(store):
    attributes = store.dataset()["status"].attrs
    names = attributes["flag_meanings"].split()
    assert attributes["flag_values"] == [int(s) for s in Status]
    assert dict(zip(names, attributes["flag_values"], strict=True))["unbounded"] == 7


@pytest.mark.parametrize("read_before", [False, True])
def test_a_partition_of_fill_values_is_a_file_in_every_array(store, read_before):
    if read_before:
        store.read_partition(0, 0, 3)
    store.write_partition(0, 0, 3, stores.fill_values(3))
    for variable in store.variables:
        assert (store.path / variable.name / "c" / "0" / "0").is_file(), variable.name


def test_a_partition_reads_back_as_written_whatever_else_is_written(tmp_path):
    store = stores.make_store(tmp_path / "r", ["a", "b"], random_effects=True)
    for phenotype in (1, 0):
        for start, stop in reversed(partitions(store)):
            values = stores.chunk_values(stop - start, 10 * phenotype + start, random_effects=True)
            store.write_partition(phenotype, start, stop, values)
    for phenotype in (0, 1):
        for start, stop in partitions(store):
            expected = stores.chunk_values(
                stop - start, 10 * phenotype + start, random_effects=True
            )
            for name, column in store.read_partition(phenotype, start, stop).items():
                np.testing.assert_array_equal(column, expected[name], err_msg=name)


def test_the_checksum_sees_values_names_and_signs_of_zero(store):
    values = stores.chunk_values(3, seed=2)
    before = store.write_partition(0, 0, 3, values)
    assert store.write_partition(0, 0, 3, values) == before
    swapped = {**values, "add": values["var"], "var": values["add"]}
    assert store.write_partition(0, 0, 3, swapped) != before
    zero = store.write_partition(0, 0, 3, {**values, "add": np.zeros(3)})
    assert store.write_partition(0, 0, 3, {**values, "add": -np.zeros(3)}) != zero


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (1, 4), (3, 7), (6, 9), (0, 7)])
def test_anything_but_one_whole_chunk_is_refused(store, start, stop):
    with pytest.raises(ValueError, match="not one chunk of 3"):
        store.write_partition(0, start, stop, stores.chunk_values(stop - start, 0))


def test_wrong_names_or_lengths_are_refused_before_anything_is_written(store):
    values = stores.chunk_values(3, 0)
    without = {name: column for name, column in values.items() if name != "var"}
    with pytest.raises(ValueError, match="partition has"):
        store.write_partition(0, 0, 3, without)
    with pytest.raises(ValueError, match="partition has"):
        store.write_partition(0, 0, 3, {**values, "extra": values["add"]})
    with pytest.raises(ValueError, match=r"status has shape \(2,\)"):
        store.write_partition(0, 0, 3, {**values, "status": values["status"][:2]})
    assert not list(store.path.glob("*/c/0/0"))


def test_completing_keeps_consolidated_metadata_and_attributes_of_arrays(store):
    before = json.loads((store.path / "zarr.json").read_text())
    assert set(before["consolidated_metadata"]["metadata"]) >= {"add", "null", "run", "status"}
    store.complete({"run_status": "complete", "finished": "now"})
    after = json.loads((store.path / "zarr.json").read_text())
    assert after["consolidated_metadata"] == before["consolidated_metadata"]
    del before["attributes"]["hlmm_scan"]["document_crc32c"]
    del after["attributes"]["hlmm_scan"]["document_crc32c"]
    assert after["attributes"] == {
        **before["attributes"],
        "run_status": "complete",
        "finished": "now",
    }
    assert store.attributes["finished"] == "now"
    assert store.dataset()["add"].attrs["units"] == "phenotype units"


@pytest.mark.parametrize("fault", ["open", "replace"])
def test_a_completion_that_fails_leaves_the_store_as_it_was(store, monkeypatch, fault):
    before = (store.path / "zarr.json").read_bytes()

    def fail(path, *args, **kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, fault, fail)
    with pytest.raises(OSError, match="No space"):
        store.complete({"run_status": "complete"})
    monkeypatch.undo()
    assert (store.path / "zarr.json").read_bytes() == before
    assert [p.name for p in store.path.glob("*.partial")] == []


AWKWARD = ["a/b", ".x", "..", "__y", "ü", "zarr.json", "%.x", "a b", "A", "a", "%C3%BC", "c:\\d"]


def test_phenotypes_of_any_name_have_a_null_group_of_their_own(tmp_path):
    store = stores.make_store(tmp_path / "r", AWKWARD, sealed=False)
    for k, name in enumerate(AWKWARD):
        store.null_group(name).attrs.update({"number": k})
    store.seal()
    again = ResultStore.open(store.path)
    assert again.phenotypes == AWKWARD
    assert [again.null_group(name).attrs["number"] for name in AWKWARD] == list(range(len(AWKWARD)))
    assert len({group_name(name) for name in AWKWARD}) == len(AWKWARD)
    folders = [p for p in (store.path / "null").iterdir() if p.is_dir()]
    assert len(folders) == len(AWKWARD)
    assert [str(p) for p in xr.open_zarr(store.path)["phenotype"].values] == AWKWARD


def test_a_lazy_dataset_travels(store):
    values = stores.chunk_values(3, seed=1)
    store.write_partition(0, 0, 3, values)
    sent = pickle.loads(pickle.dumps(ResultStore.open(store.path).dataset(chunks={})))
    assert (sent["add"].values[0, :3] == values["add"]).all()


def test_the_plan_comes_back(store):
    assert store.plan == {"answer": 42}


def test_what_is_no_result_store_is_not_opened(tmp_path, store):
    with pytest.raises(InputError, match="no such result store"):
        ResultStore.open(tmp_path / "absent")
    folder = tmp_path / "folder"
    folder.mkdir()
    file = tmp_path / "file"
    file.write_text("{}")
    for path in (folder, file):
        with pytest.raises(InputError, match="not a result store"):
            ResultStore.open(path)
    for content in ("{", "[]", '{"attributes": {"hlmm_scan": 1}}', "{}"):
        (folder / "zarr.json").write_text(content)
        assert read_mark(folder) is None
        with pytest.raises(InputError, match="not a result store"):
            ResultStore.open(folder)


def test_a_genotype_dataset_is_no_result_store(tmp_path):
    (tmp_path / "zarr.json").write_text('{"attributes": {"hlmm_scan": {"kind": "genotypes"}}}')
    with pytest.raises(InputError, match="not a result store"):
        ResultStore.open(tmp_path)


def test_a_store_of_another_format_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "STORE_FORMAT", 99)
    stores.make_store(tmp_path / "r")
    monkeypatch.undo()
    with pytest.raises(InputError, match="format 99, this version reads 1 and 2"):
        ResultStore.open(tmp_path / "r")
