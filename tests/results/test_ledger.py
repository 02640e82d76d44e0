"""The ledger: journals that survive any cut, and the lock of one run at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_scan.errors import HlmmScanError, InputError, StoreHeldError
from hlmm_scan.results.ledger_files import (
    JOURNAL_SUFFIX,
    FileJournal,
    FileLedger,
)
from hlmm_scan.results.records import PartitionRecord, Standing, decode, encode

RECORDS = st.builds(
    PartitionRecord,
    partition=st.integers(0, 10**9),
    checksum=st.text(max_size=30),
    statuses=st.dictionaries(st.text(max_size=10), st.integers(0, 10**6), max_size=4),
    started=st.floats(0, 2e9),
    finished=st.floats(0, 2e9),
    error=st.text(max_size=60),
    peak_bytes=st.integers(0, 2**50),
    retries=st.integers(0, 9),
    worker=st.text(max_size=20),
)


def success(partition: int, checksum: str = "abc") -> PartitionRecord:
    return PartitionRecord(partition, checksum, {"ok": 3}, 1.0, 2.5)


def failure(partition: int, error: str = "ValueError: no") -> PartitionRecord:
    return PartitionRecord(partition, started=1.0, finished=2.0, error=error)


def journal(ledger: FileLedger) -> Path:
    (path,) = ledger.directory.glob(f"*{JOURNAL_SUFFIX}")
    return path


def partitions(ledger: FileLedger) -> set[int]:
    return {record.partition for record in ledger.records()}


@pytest.fixture
def ledger(tmp_path: Path) -> FileLedger:
    return FileLedger(tmp_path)


@given(RECORDS)
def test_a_line_holds_a_whole_record(record):
    line = encode(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == record


@given(RECORDS, st.data())
def test_a_line_with_any_byte_changed_reads_as_absent(record, data):
    line = bytearray(encode(record))
    position = data.draw(st.integers(0, len(line) - 1))
    line[position] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(line)) is None


def test_a_journal_cut_at_any_byte_gives_its_whole_lines(ledger):
    with ledger.writer() as writer:
        for k in range(3):
            writer.append(success(k))
    path = journal(ledger)
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        assert partitions(ledger) == set(range(content[:cut].count(b"\n")))


def test_a_damaged_line_hides_only_itself(ledger):
    with ledger.writer() as writer:
        for k in range(3):
            writer.append(success(k))
    path = journal(ledger)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"ok":3', b'"ok":4')
    path.write_bytes(b"".join(lines))
    assert partitions(ledger) == {0, 2}


def test_a_success_stands_over_failures_before_and_after_it(ledger):
    for first, second in ((failure(0), success(0)), (success(0), failure(0))):
        for record in (first, second):
            with ledger.writer() as writer:
                writer.append(record)
        stands = Standing(1, ledger.records())
        assert stands.done.tolist() == [True]
        assert stands.failed == {}
        assert stands.statuses == {"ok": 3}
        for path in ledger.directory.iterdir():
            path.unlink()


def test_of_several_failures_the_last_stands(ledger):
    for error in ("first", "second"):
        with ledger.writer() as writer:
            writer.append(failure(5, error))
    stands = Standing(6, ledger.records())
    assert stands.failed[5].error == "second"
    assert not stands.done.any()


def test_the_same_partition_done_twice_alike_is_no_conflict(ledger):
    with ledger.writer() as writer:
        writer.append(success(1))
        writer.append(success(1))
    stands = Standing(2, ledger.records())
    assert stands.done.tolist() == [False, True]
    assert stands.tests.tolist() == [0, 3]
    assert stands.statuses == {"ok": 3}


def test_two_checksums_of_one_partition_are_refused(ledger):
    with ledger.writer() as writer:
        writer.append(success(4, "aaa"))
        writer.append(success(4, "bbb"))
    with pytest.raises(HlmmScanError, match=r"partition 4 was written twice .*aaa and bbb"):
        Standing(5, ledger.records())


@pytest.mark.parametrize("partition", [-1, 5])
def test_a_partition_the_plan_does_not_have_is_refused(partition):
    with pytest.raises(HlmmScanError, match=rf"partition {partition}, of 5 planned"):
        Standing(5, [success(partition)])


def test_standing_keeps_what_every_record_says():
    records = [
        PartitionRecord(2, "ab" * 12, {"ok": 3, "low_maf": 1}, 1.0, 3.5, peak_bytes=7, retries=2),
        PartitionRecord(0, error="no", retries=1),
    ]
    stands = Standing(3, records)
    assert stands.checksum[2].decode() == "ab" * 12
    assert (stands.started[2], stands.finished[2], stands.peak_bytes[2]) == (1.0, 3.5, 7)
    assert stands.tests.tolist() == [0, 0, 4]
    assert stands.failed == {0: records[1]}
    assert stands.retries == 3


def test_an_empty_journal_is_removed_and_one_with_records_stays(ledger):
    with ledger.writer():
        assert len(list(ledger.directory.iterdir())) == 1
    assert list(ledger.directory.iterdir()) == []
    with ledger.writer() as writer:
        writer.append(success(0))
    assert list(ledger.records()) == [success(0)]


def test_a_journal_is_no_executable_file(ledger):
    with ledger.writer() as writer:
        assert writer.path.stat().st_mode & 0o111 == 0


def test_a_record_is_in_the_file_before_append_returns(ledger):
    with ledger.writer() as writer:
        writer.append(success(0))
        assert partitions(FileLedger(ledger.directory)) == {0}


def test_a_line_written_in_part_is_an_error_and_reads_as_absent(ledger, monkeypatch):
    writer = FileJournal(ledger.directory)
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, line: whole(fd, line[: len(line) // 2]))
    with pytest.raises(OSError, match="No space") as caught:
        writer.append(success(0))
    monkeypatch.undo()
    writer.close()
    assert caught.value.errno == errno.ENOSPC
    assert list(ledger.records()) == []


def test_a_second_holder_is_told_who_holds_the_store(tmp_path):
    directory = tmp_path / "results.zarr" / "run" / "ledger"
    directory.mkdir(parents=True)
    with (
        FileLedger(directory).lock(),
        pytest.raises(StoreHeldError, match=f"process {os.getpid()} on") as caught,
        FileLedger(directory).lock(),
    ):
        pass
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{tmp_path / 'results.zarr'}: another run holds")
    with FileLedger(directory).lock():  # free again
        pass


def test_the_lock_of_a_killed_process_is_free(ledger):
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from hlmm_scan.results.ledger_files import FileLedger\n"
        "with FileLedger(Path(sys.argv[1])).lock():\n"
        "    print('held', flush=True)\n    time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(ledger.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreHeldError, match=f"process {holder.pid} "), ledger.lock():
            pass
        holder.send_signal(signal.SIGKILL)
    started = time.monotonic()
    with ledger.lock():
        assert time.monotonic() - started < 5


def test_shards_hold_the_store_together_and_keep_off_who_wants_it_alone(ledger):
    with ledger.lock("shard 0 of 2"), ledger.lock("shard 1 of 2"):
        with (
            pytest.raises(StoreHeldError, match=r"\(shards, shard 1 of 2 the last to start: proc"),
            ledger.lock(),
        ):
            pass
        with ledger.lock("shard 0 of 2"):  # once more
            pass
    with (
        ledger.lock(),
        pytest.raises(StoreHeldError, match=rf"\(process {os.getpid()} on \S+\); wait"),
        ledger.lock("shard 0 of 2"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_on_a_file_system_without_locks_only_shards_run(ledger, monkeypatch, caplog, number):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match="this file system has no locks"), ledger.lock():
        pass
    assert caplog.text == ""
    with ledger.lock("shard 0 of 2"), ledger.lock("shard 1 of 2"):
        pass
    assert caplog.text.count("start nothing but shards on this store") == 2


def test_another_error_of_locking_is_not_hidden(ledger, monkeypatch):
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    for shard in ("", "shard 0 of 2"):
        with pytest.raises(OSError, match="Input/output error"), ledger.lock(shard):
            pass
