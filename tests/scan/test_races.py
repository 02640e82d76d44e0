"""Inputs and stores that another command replaces while they are in use."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from object_server import environment
from scan_helpers import assert_identical

from hlmm_scan.cli import main
from hlmm_scan.errors import InputError, StoreHeldError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.in_use import Opened, being_read
from hlmm_scan.results.export import Export, export
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import completion, run, task
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.state import scan_state, verify
from hlmm_scan.schema import Status
from hlmm_scan.storage import locks, place


@pytest.fixture
def genotypes(bench, tmp_path) -> Path:
    """A dataset of this test's own."""
    shutil.copytree(bench.genotypes(), tmp_path / "g.zarr")
    return tmp_path / "g.zarr"


@pytest.fixture
def others(bench, tmp_path) -> list[Path]:
    """Files of the same people and variants with other calls: every .bed turned about."""
    beds = []
    for bed in bench.cohort.beds:
        for suffix in (".bed", ".bim", ".fam"):
            shutil.copy(bed.with_suffix(suffix), tmp_path / f"o{bed.stem}{suffix}")
        copy = tmp_path / f"o{bed.name}"
        content = bytearray(copy.read_bytes())
        rows = np.frombuffer(bytes(content[3:]), np.uint8).reshape(24, -1)
        content[3:] = rows[::-1].tobytes()
        copy.write_bytes(content)
        beds.append(copy)
    return beds


@pytest.fixture
def no_locks(monkeypatch) -> None:
    """A file system that knows no locks for what is read."""
    monkeypatch.setattr(locks, "_lock", lambda *_: False)


class Between(SerialExecutor):
    """Does something once so many partitions are done."""

    def __init__(self, done: int, do) -> None:
        self.done, self.do = done, do

    def run(self, tasks) -> Iterator:
        for number, record in enumerate(super().run(tasks), 1):
            yield record
            if number == self.done:
                self.do()


def rows_of(store: ResultStore, reference: Path) -> list[int]:
    """Assert that what is there is as in the reference; return how many rows that is a trait."""
    here, there = store.dataset(chunks=None), ResultStore.open(reference).dataset(chunks=None)
    done = here["status"].values != Status.PENDING
    for variable in store.variables:
        got, expected = here[variable.name].values[done], there[variable.name].values[done]
        np.testing.assert_array_equal(got, expected)
    return done.sum(axis=1).tolist()


# Genotypes ----------------------------------------------------------------------------------


def test_genotypes_replaced_between_tasks_end_the_scan(
    bench, genotypes, others, tmp_path, no_locks
):
    config = bench.config(tmp_path / "r.zarr", genotypes=genotypes)
    replace = Between(4, lambda: convert(others, genotypes, chunk_variants=12, overwrite=True))
    with pytest.raises(InputError, match=r"g\.zarr: the genotype dataset changed since") as caught:
        run.scan(config, executor=replace)
    assert caught.value.exit_code == 2
    store = ResultStore.open(tmp_path / "r.zarr")
    assert sum(rows_of(store, bench.reference("hlm"))) == 4 * 12
    assert not scan_state(store).failed


def test_genotypes_replaced_within_a_task_leave_nothing_of_it(
    bench, genotypes, others, tmp_path, no_locks, monkeypatch
):
    config = bench.config(tmp_path / "r.zarr", genotypes=genotypes)
    fit, calls = task._fit, 0

    def replaced_before(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            convert(others, genotypes, chunk_variants=12, overwrite=True)
        return fit(*arguments)

    monkeypatch.setattr(task, "_fit", replaced_before)
    with pytest.raises(InputError, match="the genotype dataset changed since"):
        run.scan(config, executor=SerialExecutor())
    assert sum(rows_of(ResultStore.open(tmp_path / "r.zarr"), bench.reference("hlm"))) == 2 * 12


def test_the_same_genotypes_in_other_chunks_are_opened_anew(bench, genotypes, tmp_path, no_locks):
    def other_chunks() -> None:
        convert(bench.cohort.beds, genotypes, chunk_variants=6, overwrite=True)

    config = bench.config(tmp_path / "r.zarr", genotypes=genotypes)
    store = run.scan(config, executor=Between(4, other_chunks))
    assert rows_of(store, bench.reference("hlm")) == [72, 72, 72]


def test_genotypes_put_back_from_a_copy_are_gone_on_with(bench, genotypes, tmp_path, no_locks):
    def put_back() -> None:
        shutil.copytree(genotypes, tmp_path / "copy.zarr")
        shutil.rmtree(genotypes)
        (tmp_path / "copy.zarr").rename(genotypes)

    config = bench.config(tmp_path / "r.zarr", genotypes=genotypes)
    store = run.scan(config, executor=Between(4, put_back))
    assert_identical(store.path, bench.reference("hlm"))


def test_datasets_in_use_are_not_overwritten(bench, genotypes, others, tmp_path, capsys):
    again = ["convert", *map(str, others), "-o", str(genotypes), "--overwrite"]
    codes = []
    config = bench.config(tmp_path / "r.zarr", genotypes=genotypes)
    run.scan(config, executor=Between(4, lambda: codes.append(main(again))))
    assert codes == [3]
    (line,) = capsys.readouterr().err.splitlines()
    assert "g.zarr: in use, a scan or another command reads this dataset; wait for it" in line
    assert_identical(tmp_path / "r.zarr", bench.reference("hlm"))
    assert main(again) == 0
    # Now the scan's own genotypes are others.
    scan = ["scan", "--genotypes", str(genotypes), "--phenotypes", str(bench.phenotypes)]
    assert main([*scan, "-o", str(tmp_path / "r.zarr"), "--workers", "1"]) == 2


def test_a_dataset_in_use_when_all_is_converted_is_replaced_later(genotypes, others, tmp_path):
    seen: list[tuple[int, int]] = []
    held = being_read([genotypes])
    before = Opened([str(genotypes)], _fingerprint(genotypes))

    def begin(*_: int) -> None:
        held.__enter__()

    with pytest.raises(StoreHeldError, match="in use"):
        convert(others, genotypes, overwrite=True, progress=begin)
    assert before.still_there()
    held.__exit__(None, None, None)
    convert(others, genotypes, overwrite=True, progress=lambda *p: seen.append(p))
    assert seen == []  # nothing was converted twice
    with pytest.raises(InputError, match="changed"):
        before.still_there()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def _fingerprint(path: Path) -> str:
    from hlmm_scan.genotypes.dataset import GenotypeDataset

    return GenotypeDataset.open(path).fingerprint


KILLED = """
import os, shutil, signal, sys
from hlmm_scan.cli import main
rmtree, calls = shutil.rmtree, 0
def half(path, *more, **also):
    if str(path).endswith(("replaced", ".partial")):
        for name in sorted(os.listdir(path))[:3]:
            rmtree(os.path.join(path, name), ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)
    rmtree(path, *more, **also)
shutil.rmtree = half
main(sys.argv[1:])
"""


def test_a_conversion_killed_as_it_removes_the_old_dataset(genotypes, others, tmp_path):
    command = ["convert", *map(str, others), "-o", str(genotypes), "--overwrite"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".g.zarr.")]
    new = _fingerprint(genotypes)
    assert main(command) == 0
    assert _fingerprint(genotypes) == new
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


# Result stores ------------------------------------------------------------------------------


def test_a_store_overwritten_before_it_is_locked_gets_nothing_of_the_other_run(bench, tmp_path):
    path = tmp_path / "r.zarr"
    mine = run.prepare(bench.config(path))
    theirs = run.prepare(bench.config(path, "joint"), overwrite=True)
    with pytest.raises(StoreHeldError, match=r"r\.zarr: another run replaced this store just now"):
        run.run(mine, SerialExecutor())
    with pytest.raises(StoreHeldError, match="another run replaced this store"):
        mine.complete({"run_status": "complete"})
    assert not scan_state(theirs).partitions_done
    run.run(theirs, SerialExecutor())
    assert_identical(completion.finalise(theirs).path, bench.reference("joint"))


@pytest.mark.parametrize("where", ["folder", "object store"])
def test_a_task_left_over_from_a_run_writes_nothing_to_the_next_ones_store(
    bench, tmp_path, request, where
):
    path = tmp_path / "r.zarr"
    if where == "object store":
        path = place(f"{request.getfixturevalue('bucket')}/r.zarr")
    mine = run.prepare(bench.config(path))
    tasks = list(run._tasks(mine, Plan.from_json(mine.plan), np.arange(6)))
    task.run_partition(tasks[0])
    theirs = run.prepare(bench.config(path, min_maf=0.2), overwrite=True)
    for late in tasks[:2]:  # one whose chunks are there, one whose are not
        with pytest.raises(StoreHeldError, match="another run replaced this store"):
            task.run_partition(late)
    assert (theirs.dataset(chunks=None)["status"].values == Status.PENDING).all()
    done = run.scan(bench.config(path, min_maf=0.2), executor=SerialExecutor())
    assert verify(done) == []
    assert_identical(done.path, bench.scan(tmp_path / "alone.zarr", min_maf=0.2))


def test_a_late_request_does_not_take_the_place_of_the_next_owners_chunk(bench, bucket):
    path = place(f"{bucket}/r.zarr")
    mine = run.prepare(bench.config(path))
    (late, *_) = run._tasks(mine, Plan.from_json(mine.plan), np.arange(1))
    store = task._store(late.store, late.run_id)
    theirs = run.scan(bench.config(path, min_maf=0.2), overwrite=True, executor=SerialExecutor())
    values = theirs.read_partition(0, 0, 12)
    # As if the store had been looked at before, and the request was under way all the time.
    with pytest.raises(StoreHeldError, match="another run replaced this store"):
        store.write_partition(0, 0, 12, {**values, "n": values["n"] + 1})
    assert verify(ResultStore.open(path)) == []
    assert environment(0)


def test_what_is_exported_is_not_replaced_meanwhile(bench, tmp_path, monkeypatch, capsys):
    path = tmp_path / "r.zarr"
    shutil.copytree(bench.reference("hlm"), path)
    flags = ["--genotypes", str(bench.genotypes()), "--phenotypes", str(bench.phenotypes)]
    others = [["dispersion", str(path)], ["scan", *flags, "-o", str(path), "--overwrite"]]
    store, codes = ResultStore.open(path), []
    read = ResultStore.read_partition

    def meanwhile(self, *arguments):
        if not codes:
            codes.extend(main(command) for command in others)
        return read(self, *arguments)

    export(store, tmp_path / "before.tsv", Export("tsv"))
    monkeypatch.setattr(ResultStore, "read_partition", meanwhile)
    export(store, tmp_path / "during.tsv", Export("tsv"))
    assert codes == [3, 3]
    told = [m for m in capsys.readouterr().err.splitlines() if m.startswith("hlmm-scan: ")]
    assert len(told) == 2
    for line in told:
        assert "in use, another command reads or writes this store; wait for it" in line
    assert (tmp_path / "during.tsv").read_bytes() == (tmp_path / "before.tsv").read_bytes()


def test_a_store_changed_under_an_export_where_there_are_no_locks_ends_it(
    bench, tmp_path, monkeypatch, no_locks
):
    path = tmp_path / "r.zarr"
    shutil.copytree(bench.reference("hlm"), path)
    store, read, calls = ResultStore.open(path), ResultStore.read_partition, []

    def meanwhile(self, *arguments):
        if not calls:
            calls.append(run.prepare(bench.config(path, "joint"), overwrite=True))
        return read(self, *arguments)

    monkeypatch.setattr(ResultStore, "read_partition", meanwhile)
    with pytest.raises(StoreHeldError, match="another command changed this store while it was"):
        export(store, tmp_path / "x.tsv", Export("tsv"))
    assert not (tmp_path / "x.tsv").exists()


def test_a_store_is_not_overwritten_through_a_link(bench, tmp_path, capsys):
    path, link = tmp_path / "elsewhere" / "r.zarr", tmp_path / "link.zarr"
    shutil.copytree(bench.reference("hlm"), path)
    link.symlink_to(path)
    flags = ["--genotypes", str(bench.genotypes()), "--phenotypes", str(bench.phenotypes)]
    assert main(["scan", *flags, "-o", str(link), "--overwrite", "--workers", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{link}: a link to {path}; name that itself to overwrite it" in line
    assert main(["scan", *flags, "-o", str(link), "--workers", "1"]) == 0  # it is gone on with
    assert link.is_symlink()
    assert_identical(path, bench.reference("hlm"))


def test_of_two_runs_that_make_a_store_at_once_the_second_goes_on_with_the_firsts(
    bench, tmp_path, monkeypatch
):
    path = tmp_path / "r.zarr"
    make_plan, first = run.make_plan, []

    def other_is_quicker(inputs):
        if not first:
            first.append(None)
            first[0] = run.prepare(bench.config(path))
        return make_plan(inputs)

    monkeypatch.setattr(run, "make_plan", other_is_quicker)
    second = run.prepare(bench.config(path))
    assert second.attributes["run_id"] == first[0].attributes["run_id"]
    shutil.rmtree(path)
    first.clear()
    with pytest.raises(InputError, match="made by another run"):
        run.prepare(bench.config(path, min_maf=0.2))
