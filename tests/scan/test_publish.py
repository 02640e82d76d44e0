"""Published stores: all results, nobody in them, read by what comes after a scan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from scan_helpers import contents

from hlmm_scan.cli import main
from hlmm_scan.errors import IncompleteError, InputError
from hlmm_scan.results import null_summary
from hlmm_scan.results.publish import publish
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.state import verify
from hlmm_scan.scan.wholeness import verify_store
from hlmm_scan.storage import place

KINDS = ("joint", "hlmm")


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def stores(bench, kind, tmp_path) -> tuple[Path, Path]:
    """A scan's store and what is published of it."""
    scanned = tmp_path / "r.zarr"
    shutil.copytree(bench.reference(kind), scanned)
    published = tmp_path / "summary.zarr"
    assert main(["publish", str(scanned), "-o", str(published)]) == 0
    return scanned, published


def arrays(group: zarr.Group, prefix: str = "") -> dict[str, zarr.Array]:
    found = {}
    for name, member in group.members():
        if isinstance(member, zarr.Array):
            found[prefix + name] = member
        else:
            found.update(arrays(member, f"{prefix}{name}/"))
    return found


def test_results_and_their_checksums_are_those_of_the_scan(stores):
    scanned, published = stores
    here, there = contents(published), contents(scanned)
    roots = [name for name in there if "/" not in name and name not in ("null", "random_effects")]
    assert [name for name in roots if here[name] != there[name]] == []
    assert verify(ResultStore.open(published)) == []
    whole = verify_store(published)
    assert (whole.damage, whole.notes) == ((), ())
    chunks = [p for p in published.rglob("*") if p.is_file() and "/c/" in p.as_posix()]
    listed = dict(ResultStore.open(published).manifest.files())
    assert {p.relative_to(published).as_posix() for p in chunks} <= listed.keys()
    with xr.open_zarr(published) as mine, xr.open_zarr(scanned) as theirs:
        assert mine.variables.keys() == theirs.variables.keys()
        for name, variable in theirs.variables.items():
            assert mine[name].attrs == variable.attrs
        for name in ("parameters", "software", "status_counts", "run_id", "finished"):
            assert mine.attrs[name] == theirs.attrs[name]


def test_nobody_is_in_it(bench, kind, stores):
    scanned, published = stores
    store = ResultStore.open(scanned)
    traits = {}
    for name in store.phenotypes:
        null = store.null_group(name)
        traits[name] = set(np.asarray(null["y"][:]).tolist())
    people = [len(np.asarray(store.null_group(name)["y"][:])) for name in store.phenotypes]
    group = zarr.open_group(published, mode="r")
    for name, array in arrays(group).items():
        assert "sample" not in (array.metadata.dimension_names or ()), name
        assert not set(array.shape) & {*people, 150}, name
        if array.dtype.kind == "f":
            values = set(np.asarray(array[...]).ravel().tolist())
            assert not any(len(values & trait) > 1 for trait in traits.values()), name
    # Nor names of people or of users, in whatever file.
    ids = pd.read_csv(bench.cohort.phenotypes, sep="\t")["IID"].astype(str)
    text = b"".join(f.read_bytes() for f in published.rglob("*.json"))
    text += b"".join(f.read_bytes() for f in published.rglob("*.journal"))
    assert bench.folder.name.encode() not in text
    assert str(bench.folder).encode() in (scanned / "zarr.json").read_bytes()
    assert not [i for i in ids if f'"{i}"'.encode() in text]
    assert {p.name for p in (published / "random_effects").iterdir()} == {"zarr.json"}
    assert not any(p.name in ("y", "samples", "sex", "mean_design") for p in published.rglob("*"))


@pytest.mark.parametrize("more", [-1, 0])
def test_whether_a_trait_takes_few_values_is_known_of_it(stores, tmp_path, monkeypatch, more):
    """As whoever reads p-values of rare alleles must know, though the trait is not there."""
    store = ResultStore.open(stores[0])
    values = len(np.unique(store.null_array(store.phenotypes[0], "y")[:]))
    monkeypatch.setattr(null_summary, "_FEW", values + more)
    again = publish(store, tmp_path / "again.zarr")
    monkeypatch.undo()
    group = again.null_group(again.phenotypes[0])
    assert null_summary.trait_shape(group).few_values == (more == 0)


def told(command: list[str], capsys: Any) -> str:
    assert main(command) == 0
    return capsys.readouterr().out


def test_what_comes_after_a_scan_says_the_same_of_it(stores, tmp_path, capsys):
    scanned, published = map(str, stores)
    capsys.readouterr()
    for command in (["calibration", "--json"], ["dispersion", "--json"]):
        here, there = (told([command[0], s, *command[1:]], capsys) for s in (published, scanned))
        assert json.loads(here) == json.loads(there)
    for form in ("tsv", "regenie"):
        files = [tmp_path / f"{form}-{n}" for n in "ab"]
        for store, file in zip((published, scanned), files, strict=True):
            flags = ["--format", form, "--phenotype", "trait1"]
            told(["export", store, "-o", str(file), *flags], capsys)
        assert files[0].read_bytes() == files[1].read_bytes()
    far = [*("--threshold", "0.01"), "--json", "--no-checks"]
    assert json.loads(told(["hits", published, *far], capsys))
    told(["report", published, "-o", str(tmp_path / "r.html")], capsys)
    state, before = (
        json.loads(told(["status", s, "--json"], capsys)) for s in (published, scanned)
    )
    assert state["complete"]
    for name in ("tests", "tests_done", "partitions_done", "statuses", "tests_filtered"):
        assert state[name] == before[name]
    assert state["workers"] == {}
    assert "every value is as written" in told(["status", published, "--verify"], capsys)


def test_what_needs_people_says_so(bench, stores, tmp_path, capsys):
    _, published = stores
    (tmp_path / "ids").write_text("x\n")
    for command in (
        ["check", str(published), "--variants", str(tmp_path / "ids")],
        ["hits", str(published), "--genotypes", str(bench.genotypes())],
    ):
        capsys.readouterr()
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{published}: published, so without the people it was made of; " in line


def test_published_again_it_is_the_same(stores, tmp_path):
    _, published = stores
    again = publish(ResultStore.open(published), tmp_path / "again.zarr")
    assert contents(again.path) == contents(published)


def test_unfinished_and_damaged_stores_are_not_published(bench, tmp_path):
    unfinished = run.prepare(bench.config(tmp_path / "u.zarr"))
    with pytest.raises(IncompleteError, match="not complete"):
        publish(unfinished, tmp_path / "out.zarr")
    damaged = tmp_path / "d.zarr"
    shutil.copytree(bench.reference("hlm"), damaged)
    store = ResultStore.open(damaged)
    values = store.read_partition(0, 0, 12)
    store.write_partition(0, 0, 12, {**values, "add": values["add"] + 1})
    with pytest.raises(InputError, match="chunk add/c/0/0 is damaged"):
        publish(store, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    (tmp_path / "out.zarr").mkdir()
    with pytest.raises(InputError, match="something stands there already"):
        publish(ResultStore.open(bench.reference("hlm")), tmp_path / "out.zarr")


def test_to_an_object_store(bench, bucket):
    target = place(f"{bucket}/summary.zarr")
    published = publish(ResultStore.open(bench.reference("hlm")), target)
    assert verify(published) == []
    assert ResultStore.open(target).dataset().attrs["run_status"] == "complete"
