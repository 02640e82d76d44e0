"""Damage to stores after they were written: one line that names it, never other numbers."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hlmm_scan.cli import main
from hlmm_scan.errors import DamagedError, IncompleteError, InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.results.ledger_files import FileJournal
from hlmm_scan.results.records import PartitionRecord, Standing, decode, encode
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import completion, run, task, worker
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.scan.state import scan_state
from hlmm_scan.scan.wholeness import verify_store


@pytest.fixture
def store(bench, tmp_path) -> Path:
    """A complete scan of three phenotypes, six blocks each."""
    return shutil.copytree(bench.reference("hlm"), tmp_path / "r")


@pytest.fixture
def genotypes(bench, tmp_path) -> Path:
    return shutil.copytree(bench.genotypes(), tmp_path / "g.zarr")


def flip(file: Path, at: int = -9) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 16
    file.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


DAMAGE = {
    "a flipped bit": (lambda s: flip(s / "add_se/c/1/2"), "chunk add_se/c/1/2 is damaged"),
    "cut short": (lambda s: (s / "n/c/0/0").write_bytes(b""), "chunk n/c/0/0 is damaged"),
    "deleted": (lambda s: (s / "status/c/2/5").unlink(), "chunk status/c/2/5 is missing"),
    "swapped": (lambda s: swap(s / "add/c/1/3", s / "add/c/1/2"), "chunk add/c/1/2 is damaged"),
    "other array": (lambda s: swap(s / "add/c/1/3", s / "var/c/1/3"), "chunk add/c/1/3 is damaged"),
    "positions": (lambda s: flip(s / "position/c/0"), "chunk position/c/0 is damaged"),
    "ids": (lambda s: (s / "variant_id/c/0").unlink(), "chunk variant_id/c/0 is missing"),
    "metadata": (lambda s: flip(s / "add/zarr.json", 40), "add/zarr.json is damaged"),
    "no metadata": (lambda s: (s / "var/zarr.json").unlink(), "var/zarr.json is missing"),
    "the root": (lambda s: flip(s / "zarr.json", 300), "zarr.json is damaged"),
    "no root": (lambda s: (s / "zarr.json").write_text("{"), "zarr.json is damaged"),
    "checksums": (lambda s: flip(s / "run/checksums/zarr.json", 400), "checksums/zarr.json"),
    "no checksums": (lambda s: (s / "run/checksums/zarr.json").unlink(), "checksums/zarr.json"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_export_of_a_damaged_store_is_one_line(store, tmp_path, capsys, kind):
    damage, said = DAMAGE[kind]
    damage(store)
    assert main(["export", str(store), "-o", str(tmp_path / "x.tsv")]) == 2
    (line,) = lines(capsys)
    assert line.startswith(f"hlmm-scan: {store}: ")
    assert said in line
    assert not (tmp_path / "x.tsv").exists()
    assert main(["verify", str(store)]) == 1
    output = capsys.readouterr()
    assert said.split(" is ")[0] in output.out
    assert output.err.startswith(f"hlmm-scan: {store}: damaged, in ")


@pytest.mark.parametrize(
    "command", [["report", "-o", "x.html"], ["hits"], ["calibration"], ["dispersion"]]
)
def test_readers_name_the_chunk_that_is_damaged(store, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    for name in ("add", "var", "status", "n"):
        flip(store / name / "c/0/1")
    assert main([command[0], str(store), *command[1:]]) == 2
    assert lines(capsys)[-1].split(" is ")[0].split("/c/")[-1] == "0/1"
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("command", ["status", "export", "shard", "finalise"])
def test_a_damaged_plan_is_one_line(store, tmp_path, capsys, command):
    for damage in (lambda p: flip(p, 500), lambda p: p.write_bytes(p.read_bytes()[:300])):
        whole = (store / "run/zarr.json").read_bytes()
        damage(store / "run/zarr.json")
        more = {"export": ["-o", str(tmp_path / "x")], "shard": ["--index", "0", "--count", "1"]}
        code = main([command, str(store), *more.get(command, [])])
        if command == "export":  # asks for nothing of the plan
            assert code == 0
        else:
            assert code == 2
            (line,) = lines(capsys)
            assert "run/zarr.json is damaged" in line
        (store / "run/zarr.json").write_bytes(whole)


def test_null_models_are_looked_at(bench, tmp_path, capsys):
    store = run.prepare(bench.config(tmp_path / "r")).path
    null = store / "null" / "trait1"
    for damage, said in (
        (lambda: swap(null / "y/c/0", null / "samples/c/0"), "chunk null/trait1/samples/c/0"),
        (lambda: (null / "alpha/c/0/0").unlink(), "chunk null/trait1/alpha/c/0/0 is missing"),
        (lambda: flip(null / "y/zarr.json", 30), "null/trait1/y/zarr.json is damaged"),
        (lambda: flip(null / "zarr.json", 50), "null/trait1/zarr.json is damaged"),
    ):
        kept = shutil.copytree(store, tmp_path / "kept", dirs_exist_ok=True)
        damage()
        worker.forget_inputs()
        assert main(["shard", str(store), "--index", "0", "--count", "1"]) == 2
        (line,) = (x for x in lines(capsys) if x.startswith("hlmm-scan: "))
        assert said in line
        assert scan_state(ResultStore.open(store)).failed == {}
        shutil.rmtree(store)
        shutil.copytree(kept, store)
        shutil.rmtree(kept)
    worker.forget_inputs()


def test_damaged_metadata_of_an_array_is_one_error_not_one_for_each_partition(bench, tmp_path):
    store = run.prepare(bench.config(tmp_path / "r"))
    flip(store.path / "add/zarr.json", 40)
    worker.forget_inputs()
    with pytest.raises(InputError, match=r"add/zarr\.json is damaged"):
        run.run(ResultStore.open(store.path), SerialExecutor())
    assert scan_state(ResultStore.open(store.path)).failed == {}


def test_a_damaged_store_can_be_overwritten(bench, store):
    flip(store / "zarr.json", 300)
    with pytest.raises(InputError, match=r"zarr\.json is damaged"):
        ResultStore.open(store)
    run.prepare(bench.config(store), overwrite=True)
    assert ResultStore.open(store).attributes["run_status"] == "incomplete"


class Halfway(SerialExecutor):
    """Stops after seven partitions."""

    def run(self, tasks):
        for number, record in enumerate(super().run(tasks)):
            yield record
            if number == 6:
                raise KeyboardInterrupt


def test_of_an_incomplete_store_the_ledger_tells_what_must_be_there(bench, tmp_path):
    config = bench.config(tmp_path / "r")
    with pytest.raises(KeyboardInterrupt):
        run.scan(config, executor=Halfway())
    opened = ResultStore.open(tmp_path / "r")
    done = run.standing(opened, run.Plan.from_json(opened.plan)).done
    inside = run.Plan.from_json(opened.plan).partition(int(np.flatnonzero(done)[0]))
    phenotype, block = inside.phenotypes[0], inside.start // 12
    assert np.isnan(opened.array("add")[2, 60:72]).all()  # not done yet
    swap(opened.path / f"var/c/{phenotype}/{block}", opened.path / f"add/c/{phenotype}/{block}")
    for name in ("var", "add"):
        with pytest.raises(DamagedError, match=f"chunk {name}/c/{phenotype}/{block} is damaged"):
            opened.read_partition(phenotype, inside.start, inside.stop, [name])
    (opened.path / f"n/c/{phenotype}/{block}").unlink()
    with pytest.raises(DamagedError, match=f"chunk n/c/{phenotype}/{block} is missing"):
        ResultStore.open(tmp_path / "r").array("n")[phenotype]
    # What the run finds damaged at its end it takes back, and does again where it is told to.
    with pytest.raises(IncompleteError, match=r"1 of 18 partitions do not hold what was written"):
        run.scan(config, executor=SerialExecutor())
    state = scan_state(ResultStore.open(tmp_path / "r"))
    assert (state.partitions_done, list(state.failed)) == (17, [inside.index])
    assert "it was done, but chunk" in state.failed[inside.index]
    assert state.tests_done == sum(state.statuses.values()) == 216 - 12
    with pytest.raises(IncompleteError, match="1 of 18 partitions failed"):
        run.scan(config, executor=SerialExecutor())
    run.scan(config, executor=SerialExecutor(), retry_failed=True)
    assert verify_store(tmp_path / "r").damage == ()
    state = scan_state(ResultStore.open(tmp_path / "r"))
    assert state.tests_done == sum(state.statuses.values()) == 216


def test_genotypes_are_looked_at(genotypes, bench, tmp_path, capsys):
    assert main(["verify", str(genotypes)]) == 0
    assert "whole" in capsys.readouterr().out
    calls = genotypes / "call_genotype_packed/c"
    swap(calls / "1/0", calls / "4/0")
    swap(genotypes / "variant_missing_count/c/0", genotypes / "variant_contig/c/0")
    dataset = GenotypeDataset.open(genotypes)
    with pytest.raises(DamagedError, match="chunk call_genotype_packed/c/1/0 is damaged"):
        dataset.read_block(12, 24)
    with pytest.raises(DamagedError, match="chunk variant_contig/c/0 is damaged"):
        dataset.variants(0, 12)
    assert main(["verify", str(genotypes)]) == 1
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 4
    assert "damaged, in 4 places" in output.err


def older(dataset: Path) -> None:
    """Make it a dataset of before there were checksums."""
    root = json.loads((dataset / "zarr.json").read_text())
    for name in ("document_crc32c", "checksums"):
        del root["attributes"]["hlmm_scan"][name]
    (dataset / "zarr.json").write_text(json.dumps(root))
    shutil.rmtree(dataset / "checksums")


def test_an_older_dataset_is_read_and_verified_as_far_as_it_can(genotypes, capsys, caplog):
    older(genotypes)
    caplog.set_level("INFO", "hlmm_scan")
    for _ in range(2):
        assert GenotypeDataset.open(genotypes).read_packed(0, 12).shape[0] == 12
    assert [r.message for r in caplog.records if "without checksums" in r.message] == [
        f"{genotypes}: made without checksums, by an older version: damage to it may go unnoticed; "
        "convert the genotypes again to have them"
    ]
    assert main(["verify", str(genotypes)]) == 0
    assert "only its fingerprint was verified" in capsys.readouterr().out
    swap(genotypes / "call_genotype_packed/c/1/0", genotypes / "call_genotype_packed/c/4/0")
    assert main(["verify", str(genotypes)]) == 1
    assert "not what its fingerprint was made of" in capsys.readouterr().out
    (genotypes / "call_genotype_packed/c/1/0").unlink()
    with pytest.raises(DamagedError, match="chunk call_genotype_packed/c/1/0 is missing"):
        GenotypeDataset.open(genotypes).read_packed(12, 24)


def test_what_cannot_be_verified(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "absent")]) == 2
    assert main(["verify", str(tmp_path)]) == 2
    assert "no genotype dataset, result store or background" in lines(capsys)[-1]


def test_a_damaged_ledger_is_told_and_costs_nothing_but_work(store, capsys):
    (journal,) = (store / "run/ledger").glob("*.journal")
    flip(journal, 100)
    assert main(["verify", str(store)]) == 1
    assert "run/ledger: 1 damaged records" in capsys.readouterr().out
    values = ResultStore.open(store).array("add")[:]
    assert np.isfinite(values).any()


# Before a journal speaks of it, it is on the disk ------------------------------------------


def test_chunks_are_on_the_disk_before_their_record(bench, tmp_path, monkeypatch):
    synced: set[str] = set()
    appended: list[PartitionRecord] = []
    fsync, append = os.fsync, FileJournal.append

    def note(descriptor):
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def see(self, record):
        appended.append(record)
        for place in record.chunks:
            for name in ("add", "status", "n"):
                assert f"{tmp_path}/r/{name}/c/{place}" in synced
                assert f"{tmp_path}/r/{name}/c/{place.split('/')[0]}" in synced
                assert f"{tmp_path}/r/{name}" in synced
        append(self, record)

    store = run.prepare(bench.config(tmp_path / "r"))
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(FileJournal, "append", see)
    worker.forget_inputs()
    run.run(store, SerialExecutor())
    assert sum(len(record.chunks) for record in appended) == 18


def test_what_is_prepared_or_converted_is_on_the_disk_first(bench, tmp_path, monkeypatch):
    synced: set[str] = set()
    rename, fsync = Path.rename, os.fsync
    renamed = []

    def note(descriptor):
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def see(self, target):
        files = {str(p) for p in self.rglob("*")}
        assert files <= synced
        renamed.append(str(target))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "rename", see)
    convert(bench.cohort.beds, tmp_path / "g.zarr", chunk_variants=12, workers=0)
    run.prepare(bench.config(tmp_path / "r", genotypes=tmp_path / "g.zarr"))
    assert renamed == [str(tmp_path / "g.zarr"), str(tmp_path / "r")]
    assert str(tmp_path) in synced


# Which software a partition ran under ------------------------------------------------------


def test_software_that_differs_from_the_stores_is_told(bench, tmp_path, monkeypatch, capsys):
    store = run.prepare(bench.config(tmp_path / "r"))
    monkeypatch.setattr(task, "_here", lambda: {"numpy": "9.9", "scipy": "1.0", "numba": "0.1"})
    assert main(["shard", str(store.path), "--index", "0", "--count", "2"]) == 0
    monkeypatch.undo()
    done = completion.finalise
    assert main(["shard", str(store.path), "--index", "1", "--count", "2"]) == 0
    finished = done(ResultStore.open(store.path))
    told = finished.attributes["software_of_partitions"]
    assert told == {"numba 0.1, numpy 9.9, scipy 1.0": 9}
    capsys.readouterr()
    assert main(["status", str(store.path)]) == 0
    assert "software    9 partitions under numba 0.1, numpy 9.9, scipy 1.0" in (
        capsys.readouterr().out
    )


def test_a_record_that_is_taken_back_leaves_no_trace_in_the_counts():
    record = PartitionRecord(1, "ab" * 12, {"ok": 3}, 1.0, 2.0, worker="a:1", chunks={"0/1": "ab"})
    assert decode(encode(record)) == record
    back = PartitionRecord(1, statuses={"ok": 3}, worker="a:1", error="gone", revoked=True)
    stands = Standing(2, [record, back])
    assert not stands.done.any()
    assert (stands.statuses, stands.workers, stands.tests.sum()) == ({}, {}, 0)
    assert stands.failed == {1: back}
    again = Standing(2, [record, back, replace(record, checksum="cd" * 12)])
    assert again.done.tolist() == [False, True]
    assert (again.failed, again.statuses["ok"]) == ({}, 3)
