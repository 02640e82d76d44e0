"""What can be seen of a scan: memory and time of partitions, progress, status, logs."""

from __future__ import annotations

import json
import logging
import mmap
import os
import socket
import time
from dataclasses import replace

import numpy as np
import pytest

from hlmm_scan import logs
from hlmm_scan.cli import main
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import progress as progress_module
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.scan.memory import MemoryWatch, own_bytes
from hlmm_scan.scan.progress import ScanProgress
from hlmm_scan.scan.state import SLOWEST, scan_state

HERE = f"{socket.gethostname()}:{os.getpid()}"


class Recorded(SerialExecutor):
    """Runs some tasks in this process and changes the records."""

    def __init__(self, change, stop_after: int | None = None) -> None:
        self.change, self.stop_after = change, stop_after

    def run(self, tasks):
        for number, record in enumerate(super().run(tasks)):
            if number == self.stop_after:
                return
            yield self.change(record)


# Memory ------------------------------------------------------------------------------------


def fresh_array() -> np.ndarray:
    """40 MiB that no allocator had before: freed memory that it kept would be counted already."""
    private = mmap.mmap(-1, 40 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(private)
    array[:] = 1.0
    return array


def test_own_memory_counts_arrays_and_no_mapped_file(tmp_path):
    before = own_bytes()
    array = fresh_array()
    assert own_bytes() - before == pytest.approx(array.nbytes, rel=0.1)
    np.save(tmp_path / "a.npy", array)
    del array
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert mapped.sum() == mapped.size
    assert own_bytes() - before < 10 << 20


def test_the_watch_sees_what_is_gone_by_the_end():
    before = own_bytes()
    with MemoryWatch() as memory:
        array = fresh_array()
        time.sleep(0.2)
        del array
    assert memory.peak_bytes - before > 35 << 20
    assert own_bytes() - before < 10 << 20


def test_the_watch_ends_with_an_error():
    with pytest.raises(KeyError), MemoryWatch() as memory:
        raise KeyError
    assert memory.peak_bytes > 0


def test_every_record_says_who_did_it_and_with_how_much_memory(bench):
    store = ResultStore.open(bench.reference("hlm"))
    for record in store.ledger.records():
        assert record.worker == HERE
        assert 20 << 20 < record.peak_bytes < 4 << 30
        assert record.finished >= record.started


# Status ------------------------------------------------------------------------------------


@pytest.fixture
def half(bench, tmp_path) -> ResultStore:
    """A scan stopped after 10 of 18 partitions, partition k of which took k seconds.

    They are the six of the first phenotype and four of the second.
    """
    store = run.prepare(bench.config(tmp_path / "r"))

    def change(record: PartitionRecord) -> PartitionRecord:
        k = record.partition
        if k == 4:
            return PartitionRecord(k, error="disk on fire", retries=5, worker="b:2")
        return replace(
            record,
            started=1000.0,
            finished=1000.0 + k,
            peak_bytes=(100 + k) << 20,
            retries=k % 2,
            worker="a:1" if k < 7 else "b:2",
        )

    run.run(store, Recorded(change, stop_after=10))
    return store


def test_the_state_names_the_slowest_and_reconciles_counts(half):
    state = scan_state(half)
    assert [cost.partition for cost in state.slowest] == [15, 12, 10, 9, 7][:SLOWEST]
    slowest = state.slowest[0]
    assert (slowest.phenotype, slowest.start, slowest.stop) == ("trait1", 60, 72)
    assert (slowest.seconds, slowest.peak_bytes) == (15.0, 115 << 20)
    assert state.peak_bytes == 115 << 20
    assert state.retries == 5 + 5
    assert state.workers == {"a:1": 4, "b:2": 5}
    assert state.missing == (2, 5, 8, 11, 13, 14, 16, 17)
    assert dict(state.failed) == {4: "disk on fire"}
    assert state.mismatched == ()
    assert (state.tests, state.tests_done) == (18 * 12, 9 * 12)
    unfitted = {k: v for k, v in state.statuses.items() if k in ("monomorphic", "high_missing")}
    low = {k: v for k, v in state.statuses.items() if k.startswith("low_")}
    assert state.tests_filtered == sum(unfitted.values()) + sum(low.values()) > 0


def test_status_says_all_of_it_in_words_and_for_machines(half, capsys):
    assert main(["status", str(half.path)]) == 0
    words = capsys.readouterr().out
    state = scan_state(half)
    for line in (
        "partitions  9 done, 8 missing, 1 failed of 18",
        f"tests       108 written of 216: {108 - state.tests_filtered} fitted, "
        f"{state.tests_filtered} filtered",
        "memory      up to 115 MiB of a worker's own",
        "workers     2, most by b:2: 5 partitions",
        "retries     10 transient errors",
        "slowest     partition 15 (trait1, variants 60 to 72): 15.0 s, 115 MiB",
        "failed      partition 4: disk on fire",
    ):
        assert line in words
    assert main(["status", str(half.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["missing"] == [[2, 2], [5, 5], [8, 8], [11, 11], [13, 14], [16, 17]]
    assert told["failed"] == {"4": "disk on fire"}
    assert told["workers"] == {"a:1": 4, "b:2": 5}
    assert told["slowest"][1] == {
        "partition": 12, "phenotype": "trait1", "start": 48, "stop": 60, "seconds": 12.0,
        "peak_bytes": 112 << 20,
    }  # fmt: skip
    assert (told["tests_filtered"], told["retries"]) == (state.tests_filtered, 10)


def test_a_partition_with_another_number_of_variants_than_planned_is_named(bench, tmp_path, capsys):
    store = run.prepare(bench.config(tmp_path / "r", chunk=16))  # 72 variants: the last chunk has 8

    def change(record: PartitionRecord) -> PartitionRecord:
        return replace(record, statuses={"ok": 16}) if record.partition == 13 else record

    run.run(store, Recorded(change))
    assert scan_state(store).mismatched == (13,)
    assert main(["status", str(store.path)]) == 0
    assert "MISMATCH    1 partitions" in capsys.readouterr().out
    assert main(["finalise", str(store.path)]) == 1


# Progress and logs -------------------------------------------------------------------------


def record(index: int, seconds: float, **changed: object) -> PartitionRecord:
    done = PartitionRecord(index, "c" * 24, {"ok": 90, "low_maf": 10}, 50.0, 50.0 + seconds)
    return replace(done, worker="a:1", peak_bytes=1 << 20, **changed)


def test_progress_says_rate_time_left_and_the_slowest(monkeypatch, caplog):
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level(logging.INFO, "hlmm_scan")
    progress = ScanProgress(1000, done=200)
    for index, seconds in enumerate((1.0, 30.0, 2.0, 0.5, 4.0)):
        progress.finished(record(index, seconds))
    progress.finished(record(9, 99.0, error="no"))  # took its time, but did nothing
    assert progress.line(10.0) == (
        "700 of 1,000 tests (70.0%), 50 tests/s, 00:06 left; "
        "slowest partitions 1 (30.0 s), 4 (4.0 s), 2 (2.0 s)"
    )
    assert [r.done for r in caplog.records] == [300, 400, 500, 600, 700]


def test_json_log_has_one_object_a_line_with_a_line_for_every_partition(bench, tmp_path, capsys):
    log, text = tmp_path / "log.jsonl", tmp_path / "log.txt"
    config = bench.config(tmp_path / "r")
    words = ["--log-json", str(log), "--log-file", str(text), "scan", "--workers", "1"]
    words += ["--genotypes", str(config.genotypes[0]), "--phenotypes", str(config.phenotypes)]
    assert main([*words, "-o", str(tmp_path / "r")]) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys()
        assert line["time"].endswith("Z")
        assert line["logger"].startswith("hlmm_scan")
    partitions = [line for line in lines if "partition" in line and line["level"] == "debug"]
    assert sorted(line["partition"] for line in partitions) == list(range(18))
    assert all(line["tests"] == 12 and line["seconds"] >= 0 for line in partitions)
    assert {line["worker"] for line in partitions} == {HERE}
    # The lines for people stay as they were.
    assert "partition 3:" not in text.read_text() + capsys.readouterr().err
    assert "INFO hlmm_scan.scan.run: plan:" in text.read_text()


def test_the_json_of_a_line_holds_whatever_it_is_given():
    made = logging.getLogger("hlmm_scan.x").makeRecord(
        "hlmm_scan.x", logging.WARNING, "f", 1, "%s of\n%d", ("a", 2), None,
        extra={"partition": np.int64(3), "seconds": 1.5},
    )  # fmt: skip
    made.created, made.msecs = 86400.25, 250.0
    line = logs.JsonFormatter().format(made)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-02T00:00:00.250Z", "level": "warning", "logger": "hlmm_scan.x",
        "message": "a of\n2", "partition": "3", "seconds": 1.5,
    }  # fmt: skip
    try:
        raise KeyError("gone")
    except KeyError as error:
        made.exc_info = (KeyError, error, error.__traceback__)
    assert json.loads(logs.JsonFormatter().format(made))["exception"].endswith("KeyError: 'gone'")


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, capsys):
    assert main(["--log-json", str(tmp_path / "no" / "log"), "status", "anywhere"]) == 2
    assert capsys.readouterr().err == (
        f"hlmm-scan: {tmp_path / 'no' / 'log'}: No such file or directory\n"
    )
