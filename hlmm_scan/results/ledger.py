"""Which partitions are finished: append-only journals, and the lock of the run that writes them.

Protocol: a task first writes all chunks of its partition (each renamed into place), then the one
writer of a journal file appends one line. A line carries its own checksum, so a line torn by a
kill reads as absent, and the partition is done again, with the same bytes. Whether a partition is
done never depends on the values in it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from hlmm_scan.errors import HlmmScanError, StoreHeldError

JOURNAL_SUFFIX = ".journal"
LOCK_NAME = "lock"


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
    """

    partition: int
    checksum: str = ""
    statuses: Mapping[str, int] = field(default_factory=dict)
    started: float = 0.0
    finished: float = 0.0
    error: str = ""

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


class Ledger:
    """The journals of one result store.

    Parameters
    ----------
    directory : Path
        Holds one ``*.journal`` file per writer, and the run lock.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def records(self) -> dict[int, PartitionRecord]:
        """Return the standing record of every partition that has one.

        A success stands over any failure of the same partition; among failures the last stands.

        Raises
        ------
        HlmmScanError
            If one partition was written twice with different values.
        """
        standing: dict[int, PartitionRecord] = {}
        for record in self._lines():
            before = standing.get(record.partition)
            if before is None or before.failed:
                standing[record.partition] = record
            elif not record.failed and record.checksum != before.checksum:
                raise HlmmScanError(
                    f"{self.directory}: partition {record.partition} was written twice with "
                    f"different values ({before.checksum} and {record.checksum}); the inputs or "
                    "the machines of this run disagree"
                )
        return standing

    def _lines(self) -> Iterator[PartitionRecord]:
        for path in sorted(self.directory.glob(f"*{JOURNAL_SUFFIX}")):
            with path.open("rb") as journal:
                for line in journal:
                    record = decode(line)
                    if record is not None:
                        yield record

    def writer(self) -> JournalWriter:
        """Open a new journal of this process."""
        return JournalWriter(self.directory)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for one run; the lock of a dead process is free by itself.

        Raises
        ------
        StoreHeldError
            If another run holds it.
        """
        path = self.directory / LOCK_NAME
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
                raise StoreHeldError(
                    f"{self.directory.parent.parent}: another run holds this store ({holder}); "
                    "wait for it or stop it"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            yield
        finally:
            os.close(descriptor)


class JournalWriter:
    """The only writer of one journal file; every record is on disk before ``append`` returns."""

    def __init__(self, directory: Path) -> None:
        name = f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}{JOURNAL_SUFFIX}"
        self.path = directory / name
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(self.path, flags, 0o644)

    def append(self, record: PartitionRecord) -> None:
        """Write one record.

        Raises
        ------
        OSError
            If the line could not be written whole (a torn line reads as absent).
        """
        line = encode(record)
        if os.write(self._descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; one that holds no record is removed."""
        empty = os.fstat(self._descriptor).st_size == 0
        os.close(self._descriptor)
        if empty:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
