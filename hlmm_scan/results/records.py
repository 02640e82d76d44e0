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

_CHECKSUM = "S24"  # 12 bytes in hexadecimal, as results.store.checksum gives them


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

    @property
    def failed(self) -> bool:
        """Whether the partition failed for good."""
        return bool(self.error)


def encode(record: PartitionRecord) -> bytes:
    """Return the journal line of a record: JSON, a tab, CRC-32 of the JSON, a newline."""
    text = json.dumps(asdict(record), separators=(",", ":"), sort_keys=True)
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
        if record.worker:
            self.workers[record.worker] += 1
