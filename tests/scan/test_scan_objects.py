"""Whole scans from and to an object store: the same numbers, whatever fails meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from object_server import Faults, environment, failing_proxy
from scan_helpers import ShuffledExecutor, assert_identical

from hlmm_scan.cli import main
from hlmm_scan.errors import IncompleteError, InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import completion, run
from hlmm_scan.scan.executors import DaskExecutor
from hlmm_scan.scan.shard import Shard, run_shard
from hlmm_scan.scan.state import scan_state, verify
from hlmm_scan.storage import ObjectPath, place
from hlmm_scan.storage.places import client

KILLED = """
import os, signal, sys
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor

class Killed(SerialExecutor):
    def run(self, tasks):
        for number, record in enumerate(super().run(tasks)):
            if number == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield record

run.run(ResultStore.open(sys.argv[1]), Killed())
"""


class Remote:
    """The bench's cohort on an object store, and scans of one phenotype: 6 tasks."""

    def __init__(self, bench: Any, bucket: str) -> None:
        self.bench = bench
        self.results = place(f"{bucket}/results.zarr")
        # The same for all tests.
        self.genotypes = place(f"{bucket.rpartition('/')[0]}/bench/genotypes.zarr")
        if not self.genotypes.exists():
            convert(bench.cohort.beds, self.genotypes, chunk_variants=12)

    def config(self, kind: str = "hlm", **changed: Any) -> Any:
        changed = {"phenotype": ("a/b",), **changed}
        return self.bench.config(self.results, kind, genotypes=self.genotypes, **changed)

    def reference(self, kind: str = "hlm", **changed: Any) -> Path:
        """The same scan on this machine, made once."""
        name = f"local-{kind}-{len(changed)}"
        if name not in self.bench.references:
            changed = {"phenotype": ("a/b",), **changed}
            path = self.bench.folder / f"{name}.zarr"
            self.bench.references[name] = self.bench.scan(path, kind, **changed)
        return self.bench.references[name]

    def prepared(self, kind: str = "hlm") -> ResultStore:
        return run.prepare(self.config(kind))

    def flags(self) -> list[str]:
        flags = ["--genotypes", self.genotypes, "--phenotypes", self.bench.phenotypes]
        flags += ["--phenotype", "a/b", "-o", self.results, "--workers", 1]
        return [str(part) for part in flags]


@pytest.fixture
def remote(bench, bucket) -> Remote:
    return Remote(bench, bucket)


def test_converted_genotypes_are_those_of_a_local_conversion(remote, bucket):
    here, there = GenotypeDataset.open(remote.bench.genotypes(12)), place(f"{bucket}/g.zarr")
    convert(remote.bench.cohort.beds, there, chunk_variants=12)
    assert GenotypeDataset.open(there).fingerprint == here.fingerprint
    assert main(["convert", *map(str, remote.bench.cohort.beds), "-o", str(there)]) == 2
    # Chunks that hold a dataset's only copy of some calls are missed, not read as missing calls.
    (there / "call_genotype_packed/c/2/0").unlink()
    with pytest.raises(InputError, match="c/2/0 is missing; convert the genotypes again"):
        GenotypeDataset.open(there).read_packed(24, 36)


@pytest.mark.parametrize("kind", ["joint", "hlmm"])
def test_a_scan_on_an_object_store_equals_the_local_one(remote, kind):
    traits = {"phenotype": ("a/b", "trait1")} if kind == "joint" else {}
    store = run.scan(remote.config(kind, **traits), executor=ShuffledExecutor(1))
    assert isinstance(store.path, ObjectPath)
    assert_identical(store.path, remote.reference(kind, **traits))
    assert verify(store) == []
    dataset = ResultStore.open(store.path).dataset()
    assert dataset.attrs["run_status"] == "complete"
    assert (dataset["status"].values > 0).all()
    # Nothing that opens anything is kept.
    kept = json.dumps(store.attributes) + json.dumps(store.plan)
    for name, value in environment(0).items():
        if name not in ("AWS_ALLOW_HTTP", "AWS_REGION"):
            assert value.partition(":0")[0] not in kept
    assert str(remote.genotypes) in kept


def test_percent_signs_in_addresses_and_names_are_themselves(bench, bucket, tmp_path):
    """In an address, and in the group that a phenotype's name becomes."""
    there = place(f"{bucket}/50%/a%20b/g.zarr")
    convert(bench.cohort.beds, there, chunk_variants=12)
    assert (place(f"{bucket}/50%/a%20b") / "g.zarr").exists()
    assert not place(f"{bucket}/50%/a b/g.zarr").exists()
    lines = Path(bench.phenotypes).read_text().splitlines()
    names = ["HDL/LDL", "FEV1 %", "%2F"]
    head = "\t".join([*lines[0].split("\t")[:2], *names])
    rows = [
        "\t".join([*cells[:2], *[cells[2]] * 3]) for cells in (x.split("\t") for x in lines[1:])
    ]
    table = tmp_path / "y.tsv"
    table.write_text("\n".join([head, *rows]) + "\n")
    results = place(f"{bucket}/50%/r.zarr")
    options = ["--genotypes", str(there), "--phenotypes", str(table), "-o", str(results)]
    for _ in range(2):  # the second finds it complete
        assert main(["scan", *options, "--workers", "1"]) == 0
    store = ResultStore.open(results)
    assert list(store.phenotypes) == names
    assert verify(store) == []
    assert all(store.null_array(name, "moments").shape for name in names)
    first, second, third = (store.dataset().sel(phenotype=name)["add"].values for name in names)
    assert (first == second).sum() == (first == third).sum() == (first == first).sum() > 0
    assert main(["export", str(results), "-o", str(tmp_path / "o.tsv")]) == 0


def test_it_goes_on_where_it_was_killed(remote):
    store = remote.prepared()
    command = [sys.executable, "-c", KILLED, str(store.path), "3"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    with pytest.raises(IncompleteError, match="partitions are missing"):
        completion.finalise(store)
    resumed = run.scan(remote.config(), executor=ShuffledExecutor(2))
    assert_identical(resumed.path, remote.reference())
    assert verify(resumed) == []


def test_what_was_interrupted_is_not_done_again(remote):
    first, second = ShuffledExecutor(3, stop_after=2), ShuffledExecutor(4)
    with pytest.raises(KeyboardInterrupt):
        run.scan(remote.config(), executor=first)
    run.scan(remote.config(), executor=second)
    assert len(first.ran) == 2
    assert sorted(first.ran + second.ran) == list(range(6))
    assert_identical(remote.results, remote.reference())


def test_shards_and_finalise(remote, capsys):
    remote.prepared()
    url = str(remote.results)
    order = [2, 0, 2, 1]
    for index in order[:-2]:
        assert main(["shard", url, "--index", str(index), "--count", "3"]) == 0
    assert main(["finalise", url]) == 1
    assert "partitions are missing" in capsys.readouterr().err
    for index in order[-2:]:
        assert main(["shard", url, "--index", str(index), "--count", "3"]) == 0
    assert main(["finalise", url]) == 0
    assert main(["status", url, "--verify"]) == 0
    assert "every value is as written" in capsys.readouterr().out
    assert_identical(remote.results, remote.reference())


def test_two_runs_never_work_on_the_same_store(remote, capsys):
    store = remote.prepared()
    shard = ["shard", str(store.path), "--index", "0", "--count", "6"]
    with ResultStore.open(store.path).ledger.lock():
        assert main(shard) == 3
        assert main(["scan", *remote.flags()]) == 3
        assert main(["scan", *remote.flags(), "--overwrite"]) == 3
        assert "another run holds this store" in capsys.readouterr().err
    with ResultStore.open(store.path).ledger.lock("shard 1 of 6"):
        assert main(shard) == 0
        assert main(["scan", *remote.flags()]) == 3
        assert "shard 1 of 6" in capsys.readouterr().err
    assert main(["scan", *remote.flags()]) == 0
    assert_identical(store.path, remote.reference())


def test_a_run_whose_store_was_replaced_meanwhile_does_nothing(remote):
    old = remote.prepared()
    new = run.prepare(remote.config("joint"), overwrite=True)
    assert new.attributes["run_id"] != old.attributes["run_id"]
    with pytest.raises(Exception, match="another run replaced this store"):
        run_shard(old, Shard(0, 3))
    assert not scan_state(new).partitions_done


def test_it_ends_though_one_request_in_twenty_fails_and_says_how_often(
    remote, object_store, monkeypatch, capsys
):
    faults = Faults(share=0.05, seed=11)
    with failing_proxy(object_store, faults) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment(port)["AWS_ENDPOINT_URL"])
        client.cache_clear()
        store = run.scan(remote.config(), executor=DaskExecutor(2))
        assert verify(store) == []
    assert faults.requests > 300
    assert sum(faults.done.values()) > 0.03 * faults.requests
    monkeypatch.setenv("AWS_ENDPOINT_URL", environment(object_store)["AWS_ENDPOINT_URL"])
    client.cache_clear()
    assert_identical(store.path, remote.reference())
    capsys.readouterr()
    assert main(["status", str(store.path)]) == 0
    (told,) = (line for line in capsys.readouterr().out.splitlines() if "retries" in line)
    assert int(told.split()[1]) >= 3


def test_a_store_that_went_away_ends_the_run_and_it_goes_on_when_it_is_back(
    remote, object_store, monkeypatch
):
    from hlmm_scan.scan import faults as task_faults
    from hlmm_scan.storage import attempts

    monkeypatch.setattr(attempts, "ATTEMPTS", 2)
    monkeypatch.setattr(task_faults, "TRIES", 1)
    faults = Faults(share=0.0, kinds=("503",))

    class Away(ShuffledExecutor):
        def run(self, tasks):
            for number, record in enumerate(super().run(tasks)):
                yield record
                faults.share = float(number == 1)

    with failing_proxy(object_store, faults) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment(port)["AWS_ENDPOINT_URL"])
        client.cache_clear()
        store = remote.prepared()
        with pytest.raises(Exception, match="not there any more") as caught:
            run.run(store, Away(1))
        assert getattr(caught.value, "exit_code", None) == 4
        faults.share = 0.0
        run.scan(remote.config(), executor=ShuffledExecutor(2))
        assert_identical(remote.results, remote.reference())


def test_damage_is_found(remote):
    store = run.scan(remote.config(), executor=ShuffledExecutor(6))
    (store.path / "add/c/0/1").unlink()
    (store.path / "var/c/0/3").write_bytes(b"torn")
    assert verify(ResultStore.open(store.path)) == [1, 3]


def test_addresses_stand_in_a_configuration_as_they_are(remote, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    text = f"genotypes: {remote.genotypes}\noutput: {remote.results}\n"
    file.write_text(f"{text}phenotypes: {remote.bench.phenotypes}\n")
    assert main(["config", "show", "--config", str(file)]) == 0
    shown = capsys.readouterr().out
    assert f"genotypes:\n- {remote.genotypes}\n" in shown
    assert text.splitlines()[1] in shown
    assert main(["config", "check", str(file)]) == 0


def test_what_is_not_there_or_not_ours_is_one_line(remote, capsys):
    (remote.results / "thesis.tex").write_bytes(b"years of work")
    for arguments in (
        ["status", str(remote.results)],
        ["status", f"{remote.results}-none"],
        ["scan", *remote.flags()],
        ["shard", str(remote.genotypes), "--index", "0", "--count", "1"],
        ["status", "s3://no-such-bucket/x"],
        ["status", "s3://key:secret@scans/x"],
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert error.startswith("hlmm-scan: s3://")
        assert "secret" not in error
    assert (remote.results / "thesis.tex").is_file()
