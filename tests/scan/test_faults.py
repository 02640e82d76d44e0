"""Faults of storage: what passes is tried again, what does not is one partition's, or the run's."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scan_helpers import assert_identical

from hlmm_scan.cli import main
from hlmm_scan.errors import IncompleteError, InfrastructureError, InputError, StoreHeldError
from hlmm_scan.genotypes import open as opening
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import chunks as chunk_module
from hlmm_scan.scan import completion, faults, run, worker
from hlmm_scan.scan import task as task_module
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.scan.state import scan_state, standing
from hlmm_scan.schema import Status


@pytest.fixture
def waited(monkeypatch) -> list[float]:
    """The seconds that tasks would have waited."""
    seconds: list[float] = []
    monkeypatch.setattr(faults.time, "sleep", seconds.append)
    return seconds


def failing(function: Callable, times: int, error: Exception) -> Callable:
    """The function, but it raises in its first calls, after the work as if the answer were lost."""
    left = [times]

    def wrapped(*arguments, **options):
        result = function(*arguments, **options)
        if left[0]:
            left[0] -= 1
            raise error
        return result

    return wrapped


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def clear_caches() -> None:
    """Forget what tasks of this process opened, as a new process would."""
    worker.forget_inputs()


# Errors that pass ---------------------------------------------------------------------------


def test_waits_double_up_to_a_limit_and_half_of_each_is_chance():
    longest = list(faults.waits(lambda: 1.0))
    assert longest == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert list(faults.waits(lambda: 0.0)) == [wait / 2 for wait in longest]


PLACES = {
    "opening genotypes": (opening, "open_dataset"),
    "reading where variants are": (GenotypeDataset, "loci"),
    "reading genotypes": (GenotypeDataset, "read_block"),
    "opening the store": (ResultStore, "open"),
    "reading null models": (task_module, "read_null_model"),
    "writing chunks": (ResultStore, "write_partition"),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_that_passes_is_tried_again_wherever_it_arises(
    bench, tmp_path, monkeypatch, waited, place
):
    store = run.prepare(bench.config(tmp_path / "r"))
    clear_caches()
    owner, name = PLACES[place]
    function = failing(getattr(owner, name), 2, os_error(errno.ESTALE))
    static = name == "open"
    monkeypatch.setattr(owner, name, staticmethod(function) if static else function)
    run.run(store, SerialExecutor())
    clear_caches()
    records = {r.partition: r for r in store.ledger.records()}
    assert records[0].retries == 2
    assert sum(r.retries for r in records.values()) == len(waited) == 2
    assert 0.25 <= waited[0] <= 0.5 <= waited[1] <= 1.0
    assert {r.worker for r in records.values()} == {f"{os.uname().nodename}:{os.getpid()}"}
    completion.finalise(store)
    assert_identical(store.path, bench.reference("hlm"))


def test_an_error_that_never_passes_fails_one_partition_after_the_last_try(
    bench, tmp_path, monkeypatch, waited
):
    store = run.prepare(bench.config(tmp_path / "r"))
    read = GenotypeDataset.read_block

    def bad_sector(self, start, stop):
        if start == 24:
            raise os_error(errno.EIO)
        return read(self, start, stop)

    monkeypatch.setattr(GenotypeDataset, "read_block", bad_sector)
    run.run(store, SerialExecutor())
    state = scan_state(store)
    assert list(state.failed) == [6, 7, 8]
    assert set(state.failed.values()) == {f"OSError: [Errno 5] {os.strerror(errno.EIO)}"}
    assert (state.partitions_done, state.retries) == (15, 3 * (faults.TRIES - 1))
    assert len(waited) == state.retries


def test_what_cannot_pass_is_not_tried_again(bench, tmp_path, monkeypatch, waited):
    store = run.prepare(bench.config(tmp_path / "r"))
    full = failing(ResultStore.write_partition, 1, os_error(errno.EDQUOT))
    monkeypatch.setattr(ResultStore, "write_partition", full)
    with pytest.raises(InputError, match=r"r: cannot be written: .*quota.* run the same command"):
        run.run(store, SerialExecutor())
    assert waited == []


# Damaged genotypes --------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut short", "overwritten", "empty"])
def test_a_damaged_genotype_chunk_fails_its_partitions_and_is_named(
    bench, tmp_path, damage, capsys
):
    genotypes = tmp_path / "g.zarr"
    convert(bench.cohort.beds, genotypes, chunk_variants=12)
    (chunk,) = (genotypes / "call_genotype_packed" / "c" / "2").iterdir()
    content = chunk.read_bytes()
    spoilt = {"cut short": content[: len(content) // 2], "empty": b"", "overwritten": b"x" * 80}
    chunk.write_bytes(spoilt[damage])
    flags = ["scan", "--genotypes", str(genotypes), "--phenotypes", str(bench.phenotypes)]
    flags += ["-o", str(tmp_path / "r"), "--workers", "1"]
    assert main(flags) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert "3 of 18 partitions failed (6, 7, 8); the first with: " in last
    assert f"{genotypes}: chunk call_genotype_packed/c/2/0 is damaged; convert" in last
    assert scan_state(ResultStore.open(tmp_path / "r")).partitions_done == 15
    chunk.write_bytes(content)
    assert main([*flags, "--retry-failed"]) == 0
    assert_identical(tmp_path / "r", bench.reference("hlm"))


def test_a_damaged_null_model_concerns_all_its_partitions_and_stops_the_run(bench, tmp_path):
    store = run.prepare(bench.config(tmp_path / "r"))
    (chunk,) = (store.path / "null" / "trait1" / "y" / "c").iterdir()
    chunk.write_bytes(chunk.read_bytes()[:20])
    clear_caches()
    with pytest.raises(InputError, match=r"null model of trait1 cannot be read: .*--overwrite"):
        run.run(store, SerialExecutor())
    assert scan_state(store).failed == {}


# Failed for good ----------------------------------------------------------------------------


@pytest.fixture
def failed(bench, tmp_path, monkeypatch) -> ResultStore:
    """A store whose partitions 4 and 5 failed, as a run left it."""
    fit_block, calls = chunk_module.fit_block, []

    def fail_twice(*arguments, **options):
        calls.append(arguments)
        if len(calls) in (8, 14):  # phenotype after phenotype, six blocks each
            raise ArithmeticError("no")
        return fit_block(*arguments, **options)

    monkeypatch.setattr(chunk_module, "fit_block", fail_twice)
    store = run.prepare(bench.config(tmp_path / "r"))
    run.run(store, SerialExecutor())
    monkeypatch.undo()
    return store


def marked(store: ResultStore) -> list[tuple[int, int]]:
    status = np.asarray(store.array("status")[:])
    return [tuple(map(int, row)) for row in np.argwhere(status == Status.TASK_FAILED)]


ROWS = [(phenotype, variant) for phenotype in (1, 2) for variant in range(12, 24)]


def test_rows_of_failed_partitions_say_so_until_they_are_done(failed, bench):
    with pytest.raises(IncompleteError, match=r"2 of 18 partitions failed \(4, 5\)"):
        completion.finalise(failed)
    assert marked(failed) == ROWS
    assert np.isnan(xr.open_zarr(failed.path)["add"].values[1:, 12:24]).all()
    run.run(failed, SerialExecutor())
    assert marked(failed) == ROWS
    run.run(failed, SerialExecutor(), retry_failed=True)
    assert marked(failed) == []
    completion.finalise(failed)
    assert_identical(failed.path, bench.reference("hlm"))
    plan = run.Plan.from_json(failed.plan)
    assert standing(failed, plan).done.all()


def test_nothing_is_marked_while_others_work_on_the_store(failed):
    with failed.ledger.lock("shard 1 of 2"), pytest.raises(IncompleteError):
        completion.finalise(failed)
    assert marked(failed) == []


def test_rows_that_another_process_wrote_are_not_marked(failed):
    """It succeeded where this one failed, and its journal is not to be seen here yet."""
    (task,) = run._tasks(failed, run.Plan.from_json(failed.plan), [4])
    assert task_module.run_partition(task).error == ""
    with pytest.raises(IncompleteError):
        completion.finalise(failed)
    assert marked(failed) == [row for row in ROWS if row[0] == 2]


# The store or the genotypes go away -----------------------------------------------------------


class Interfering:
    """Runs tasks in this process and does something before one of them."""

    dashboard_link = ""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.number, self.action = number, action

    def run(self, tasks):
        for count, task in enumerate(tasks):
            if count == self.number:
                self.action()
            yield task_module.run_partition(task)


@pytest.mark.parametrize("what", ["store", "genotypes"])
def test_what_is_moved_away_ends_the_run_and_back_it_goes_on(bench, tmp_path, what):
    genotypes = Path(shutil.copytree(bench.genotypes(), tmp_path / "g.zarr"))
    store = run.prepare(bench.config(tmp_path / "r", genotypes=genotypes))
    place = {"store": store.path, "genotypes": genotypes}[what]
    away = tmp_path / "away"
    with pytest.raises(InfrastructureError, match="not there any more") as caught:
        run.run(store, Interfering(5, lambda: place.rename(away)))
    assert str(caught.value).startswith(f"{place}: ")
    assert not place.exists()  # nothing was written where it had been
    away.rename(place)
    assert scan_state(store).partitions_done == 5
    assert scan_state(store).failed == {}
    run.run(store, SerialExecutor())
    completion.finalise(store)
    assert_identical(store.path, bench.reference("hlm"))


def test_a_store_that_vanishes_while_a_partition_is_written_is_not_believed(
    bench, tmp_path, monkeypatch
):
    """Zarr makes the folders anew and writes where nobody looks."""
    store = run.prepare(bench.config(tmp_path / "r"))
    write = ResultStore.write_partition

    def vanish(self, phenotype, start, stop, columns):
        store.path.rename(tmp_path / "away")
        try:
            return write(self, phenotype, start, stop, columns)
        finally:
            monkeypatch.undo()

    monkeypatch.setattr(ResultStore, "write_partition", vanish)
    with pytest.raises(InfrastructureError, match="not there any more"):
        run.run(store, SerialExecutor())
    shutil.rmtree(store.path, ignore_errors=True)
    (tmp_path / "away").rename(store.path)
    assert scan_state(store).partitions_done == 0


def in_a_namespace(folder: Path, script: str, *arguments: object) -> str:
    """Run a shell script in a mount namespace with a tmpfs of its own at `folder`, or skip."""
    mount = f"mount -t tmpfs -o size=30m tmpfs '{folder}'"
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare(1) here, so no mounts of our own")
    probe = subprocess.run([unshare, "-rm", "sh", "-c", mount], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no private mounts here: {probe.stderr.decode().strip()}")
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", f"{mount} && {script}", "sh", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHON": sys.executable, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.stdout + done.stderr


RUN = '"$PYTHON" -m hlmm_scan "$@"'
BEGUN = 'until ls "$V"/r.zarr/status/c/0 2>/dev/null | grep -q .; do sleep 0.01; done'


def test_a_mount_that_is_lost_under_a_scan(bench, tmp_path):
    volume, genotypes = tmp_path / "volume", tmp_path / "g.zarr"
    volume.mkdir()
    convert(bench.cohort.beds, genotypes, chunk_variants=2)
    # The second mount of the same file system outlives the first, as a server does its client.
    script = f"""V='{volume}'; mkdir '{tmp_path}/server'; mount --bind "$V" '{tmp_path}/server'
        {RUN} & scan=$!
        {BEGUN}; umount -l "$V"; wait $scan; echo "code $?"
        mount --bind '{tmp_path}/server' "$V"
        {RUN}; echo "then $?"; cp -r "$V/r.zarr" '{tmp_path}/copy.zarr'"""
    arguments = ["scan", "--genotypes", genotypes, "--phenotypes", bench.phenotypes]
    arguments += ["--phenotype", "trait1", "--phenotype", "count"]
    arguments += ["--partition-variants", 2, "--workers", 2, "-o", volume / "r.zarr"]
    text = in_a_namespace(volume, script, *arguments)
    assert "code 4\n" in text, text
    assert "then 0\n" in text, text
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("hlmm-scan: ")]
    assert "r.zarr: not there any more (a lost mount, or moved, or deleted); bring it back" in line
    undisturbed = bench.scan(
        tmp_path / "r", genotypes=genotypes, phenotype=("trait1", "count"), partition_variants=2
    )
    assert_identical(tmp_path / "copy.zarr", undisturbed)


def test_a_file_system_that_became_read_only(bench, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    script = f"""V='{volume}'; {RUN} --prepare
        mount -o remount,ro "$V"; {RUN}; echo "code $?"
        mount -o remount,rw "$V"; {RUN}; echo "then $?" """
    arguments = ["scan", "--genotypes", bench.genotypes(), "--phenotypes", bench.phenotypes]
    text = in_a_namespace(volume, script, *arguments, "--workers", 1, "-o", volume / "r.zarr")
    assert "code 2\n" in text, text
    assert "then 0\n" in text, text
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("hlmm-scan: ")]
    assert "r.zarr: cannot be written: Read-only file system" in line


# Locks --------------------------------------------------------------------------------------


def test_a_lock_file_that_a_dead_process_left_is_no_obstacle(bench, tmp_path):
    store = run.prepare(bench.config(tmp_path / "r"))
    hold = (
        "import os, sys, signal; from pathlib import Path\n"
        "from hlmm_scan.results.store import ResultStore\n"
        "with ResultStore.open(Path(sys.argv[1])).ledger.lock():\n"
        "    print('held', flush=True); signal.pause()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(store.path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreHeldError, match=rf"\(process {holder.pid} on "):
        run.run(store, SerialExecutor())
    holder.kill()
    holder.communicate()
    assert str(holder.pid) in (store.path / "run" / "ledger" / "lock").read_text()
    run.run(store, SerialExecutor())
    completion.finalise(store)
    assert_identical(store.path, bench.reference("hlm"))


def test_a_file_system_that_forbids_writing_is_one_line(bench, tmp_path, monkeypatch, capsys):
    """Root may write anywhere, so the refusal is made up."""
    store = run.prepare(bench.config(tmp_path / "r"))

    def forbidden(*_arguments, **_options):
        raise os_error(errno.EACCES)

    monkeypatch.setattr(ResultStore, "write_partition", forbidden)
    assert main(["shard", str(store.path), "--index", "0", "--count", "2"]) == 2
    assert capsys.readouterr().err == (
        f"hlmm-scan: {store.path}: cannot be written: Permission denied; choose another place and "
        "run the same command again\n"
    )
    monkeypatch.undo()
    assert main(["shard", str(store.path), "--index", "0", "--count", "2"]) == 0
