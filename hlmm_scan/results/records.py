"""What a ledger says of partitions: one record for each that was tried, and how all stand."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import HlmmScanError

_CHECKSUM = "S24"  # 12 bytes in hexadecimal, as results.digests.checksum gives them


@dataclass(frozen=True)
class PartitionRecord:
    """One finished or failed partition.

    Attributes
    ----------
    partition : int
    checksum : str
        Of the values written; empty where the partition failed.
    statuses : mapping of str to int
        Number of variants by status label.
    started, finished : float
        Seconds since 1970 (UTC).
    error : str
        Why the partition failed; empty where it did not.
    peak_bytes : int
        Most memory of its own that the process had meanwhile, shared pages not counted; 0 where
        unknown.
    retries : int
        Transient errors that were tried again.
    worker : str
        Host and process that did it, as ``host:process``.
    chunks : mapping of str to str
        Checksums of the chunks written, eight hexadecimal digits for each variable of the store,
        by where the chunks stand.
    software : mapping of str to str
        Versions of the libraries that numbers depend on, where they are not those that the store
        was prepared with.
    revoked : bool
        Whether the partition was done and is no longer, as its chunks are damaged: the error says
        so, statuses and worker are those of before.
    """

    partition: int
    checksum: str = ""
    statuses: Mapping[str, int] = field(default_factory=dict)
    started: float = 0.0
    finished: float = 0.0
    error: str = ""
    peak_bytes: int = 0
    retries: int = 0
    worker: str = ""
    chunks: Mapping[str, str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    revoked: bool = False

    @property
    def failed(self) -> bool:
        """Whether the partition failed for good."""
        return bool(self.error)


def encode(record: PartitionRecord) -> bytes:
    """Return the journal line of a record: JSON, a tab, CRC-32 of the JSON, a newline."""
    known = {name: value for name, value in asdict(record).items() if value or name == "partition"}
    text = json.dumps(known, separators=(",", ":"), sort_keys=True)
    return f"{text}\t{zlib.crc32(text.encode()):08x}\n".encode()


def decode(line: bytes) -> PartitionRecord | None:
    """Return the record of a journal line, or None where the line is torn or damaged."""
    text, tab, crc = line.rstrip(b"\n").partition(b"\t")
    if not tab or not line.endswith(b"\n") or f"{zlib.crc32(text):08x}".encode() != crc:
        return None
    return PartitionRecord(**json.loads(text))


class Standing:
    """Where every partition of a plan stands: some 60 bytes for each, however many there are.

    A success stands over any failure of the same partition; among failures the last stands.

    Parameters
    ----------
    n_partitions : int
    records : iterable of PartitionRecord
        In the order they were written.

    Attributes
    ----------
    done : ndarray of bool, shape (n_partitions,)
    checksum : ndarray of bytes, shape (n_partitions,)
        Empty where not done, as the other arrays are 0 there.
    started, finished : ndarray of float64, shape (n_partitions,)
        Seconds since 1970 (UTC).
    tests : ndarray of int32, shape (n_partitions,)
        Variants of the partition.
    peak_bytes : ndarray of int64, shape (n_partitions,)
    failed : dict of int to PartitionRecord
    statuses : Counter of str
        Finished tests by status label.
    retries : int
        Transient errors that were tried again, over all records.
    workers : Counter of str
        Finished partitions by worker.
    software : dict of int to str
        Versions under which partitions ran, where they are not those of the store.

    Raises
    ------
    HlmmScanError
        If one partition was written twice with different values, or the plan has no such partition.
    """

    def __init__(self, n_partitions: int, records: Iterable[PartitionRecord] = ()) -> None:
        self.done: NDArray[np.bool_] = np.zeros(n_partitions, dtype=bool)
        self.checksum: NDArray[np.bytes_] = np.zeros(n_partitions, dtype=_CHECKSUM)
        self.started: NDArray[np.float64] = np.zeros(n_partitions)
        self.finished: NDArray[np.float64] = np.zeros(n_partitions)
        self.tests: NDArray[np.int32] = np.zeros(n_partitions, dtype=np.int32)
        self.peak_bytes: NDArray[np.int64] = np.zeros(n_partitions, dtype=np.int64)
        self.failed: dict[int, PartitionRecord] = {}
        self.statuses: Counter[str] = Counter()
        self.retries = 0
        self.workers: Counter[str] = Counter()
        self.software: dict[int, str] = {}
        for record in records:
            self.add(record)

    def add(self, record: PartitionRecord) -> None:
        """Take one more record into account."""
        index = record.partition
        if not 0 <= index < len(self.done):
            raise HlmmScanError(
                f"the ledger has a partition {index}, of {len(self.done)} planned: its journals "
                "belong to another run"
            )
        self.retries += record.retries
        if record.revoked and self.done[index]:
            self._forget(record)
        if record.failed:
            if not self.done[index]:
                self.failed[index] = record
            return
        if self.done[index]:
            before = self.checksum[index].decode()
            if record.checksum != before:
                raise HlmmScanError(
                    f"partition {index} was written twice with different values ({before} and "
                    f"{record.checksum}); the inputs or the machines of this run disagree"
                )
            return
        self.failed.pop(index, None)
        self.done[index] = True
        self.checksum[index] = record.checksum.encode()
        self.started[index], self.finished[index] = record.started, record.finished
        self.tests[index] = sum(record.statuses.values())
        self.peak_bytes[index] = record.peak_bytes
        self.statuses.update(record.statuses)
        if record.software:
            told = (f"{name} {version}" for name, version in sorted(record.software.items()))
            self.software[index] = ", ".join(told)
        if record.worker:
            self.workers[record.worker] += 1

    def _forget(self, record: PartitionRecord) -> None:
        index = record.partition
        self.done[index] = False
        self.checksum[index] = b""
        for values in (self.started, self.finished, self.tests, self.peak_bytes):
            values[index] = 0
        self.statuses.subtract(record.statuses)
        self.statuses += Counter()  # without those that are at nought
        self.workers.subtract([record.worker])
        self.workers += Counter()
        self.software.pop(index, None)
