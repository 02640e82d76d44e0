"""The ledger in an object store, and that both back ends say the same of the same records."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hlmm_scan.errors import InfrastructureError, StoreHeldError
from hlmm_scan.results import ledger_objects
from hlmm_scan.results.ledger import Ledger, ledger_at
from hlmm_scan.results.ledger_files import FileLedger
from hlmm_scan.results.ledger_objects import ObjectLedger
from hlmm_scan.results.records import PartitionRecord, Standing
from hlmm_scan.storage import lease, place

RECORDS = st.builds(
    PartitionRecord,
    partition=st.integers(0, 9),
    checksum=st.just("a" * 24),
    statuses=st.dictionaries(st.sampled_from(["ok", "low_maf"]), st.integers(0, 9)),
    error=st.sampled_from(["", "", "ValueError: é\nno"]),
    retries=st.integers(0, 3),
)


@pytest.fixture
def ledger(bucket) -> ObjectLedger:
    return ObjectLedger(place(bucket), "")


def success(partition: int) -> PartitionRecord:
    return PartitionRecord(partition, "a" * 24, {"ok": 3}, 1.0, 2.5)


def segments(ledger: ObjectLedger) -> list[str]:
    return list(ledger.directory.objects())


def test_the_place_says_which_back_end(bucket, tmp_path):
    assert isinstance(ledger_at(tmp_path, "x"), FileLedger)
    assert isinstance(ledger_at(place(bucket), "x"), ObjectLedger)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(RECORDS, max_size=6), max_size=3), st.integers(1, 3))
def test_both_back_ends_yield_what_was_recorded_in_order(bucket, monkeypatch, journals, lines):
    monkeypatch.setattr(ledger_objects, "MOST_LINES", lines)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run" / "ledger").mkdir(parents=True)
        both: list[Ledger] = [ledger_at(Path(folder), "")]
        both.append(ledger_at(place(bucket) / uuid.uuid4().hex, ""))
        expected = [record for journal in journals for record in journal]
        for ledger in both:
            for journal in journals:
                with ledger.writer() as writer:
                    for record in journal:
                        writer.append(record)
            assert list(ledger.records()) == expected
        here, there = (Standing(10, ledger.records()) for ledger in both)
        assert here.done.tolist() == there.done.tolist()
        assert (here.statuses, here.failed) == (there.statuses, there.failed)


def test_records_wait_for_the_next_segment_and_the_end_writes_them(ledger, monkeypatch):
    monkeypatch.setattr(ledger_objects, "SECONDS", 60.0)
    with ledger.writer() as writer:
        writer.append(success(0))
        assert segments(ledger) == []
    assert len(segments(ledger)) == 1


def test_a_segment_is_put_when_the_last_is_old(ledger, monkeypatch):
    monkeypatch.setattr(ledger_objects, "SECONDS", 0.0)
    with ledger.writer() as writer:
        for k in range(3):
            writer.append(success(k))
            assert [record.partition for record in ledger.records()] == list(range(k + 1))
    assert len(segments(ledger)) == 3
    # Nothing was left to write.


def test_a_writer_with_nothing_to_say_leaves_nothing(ledger):
    with ledger.writer():
        pass
    assert segments(ledger) == []


def test_torn_and_absent_segments_hide_only_what_was_in_them(ledger, monkeypatch):
    monkeypatch.setattr(ledger_objects, "MOST_LINES", 2)
    with ledger.writer() as writer:
        for k in range(6):
            writer.append(success(k))
    first, second, third = segments(ledger)
    whole = (ledger.directory / first).read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        (ledger.directory / first).write_bytes(whole[:cut])
        found = [record.partition for record in ledger.records()]
        assert found == [*range(whole[:cut].count(b"\n")), 2, 3, 4, 5]
    (ledger.directory / second).unlink()
    (ledger.directory / "stray").write_bytes(b"no journal")
    assert [record.partition for record in ledger.records()][-2:] == [4, 5]
    (ledger.directory / third).write_bytes(b"\x00\xff\n" + whole)
    assert [record.partition for record in ledger.records()][-2:] == [0, 1]


def test_an_interrupt_still_writes_what_is_done(ledger, monkeypatch):
    monkeypatch.setattr(ledger_objects, "SECONDS", 60.0)

    def interrupted() -> None:
        with ledger.writer() as writer:
            writer.append(success(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [record.partition for record in ledger.records()] == [3]


def test_who_lost_the_lease_records_nothing(ledger, monkeypatch):
    monkeypatch.setattr(ledger_objects, "SECONDS", 60.0)
    with ledger.lock(), ledger.writer() as writer:
        writer.append(success(0))
        monkeypatch.setattr(lease, "LEASE_SECONDS", -1.0)
        with pytest.raises(InfrastructureError, match="lease on this store was lost"):
            writer.append(success(1))
        with pytest.raises(InfrastructureError, match="lease on this store was lost"):
            writer.close()
        assert segments(ledger) == []
        monkeypatch.undo()


def test_a_store_made_anew_meanwhile_is_not_held(bucket):
    store = place(bucket)
    (store / "zarr.json").write_bytes(b'{"attributes": {"run_id": "new"}}')
    with pytest.raises(StoreHeldError, match="replaced this store"), ledger_at(store, "old").lock():
        pass
    with ledger_at(store, "new").lock("shard 0 of 1"):
        pass


def test_a_segment_of_another_run_that_came_late_does_not_count(bucket):
    mine, theirs = (ObjectLedger(place(bucket), uuid.uuid4().hex) for _ in range(2))
    with mine.writer() as journal:
        journal.append(success(1))
    with theirs.writer() as journal:
        journal.append(success(2))
    assert [record.partition for record in mine.records()] == [1]
    assert [record.partition for record in theirs.records()] == [2]
    with ObjectLedger(place(bucket), "").writer() as journal:  # as earlier versions named them
        journal.append(success(3))
    assert sorted(record.partition for record in mine.records()) == [1, 3]
