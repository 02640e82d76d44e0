"""The ledger in files: append-only journals, and a lock that the kernel frees with its process.

The one writer of a journal appends a line and has it on disk before it goes on. A line carries its
own checksum, so a line torn by a kill reads as absent.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from hlmm_scan.errors import InputError, StoreHeldError
from hlmm_scan.results.records import PartitionRecord, decode, encode
from hlmm_scan.storage.durable import sync_folder

logger = logging.getLogger(__name__)

JOURNAL_SUFFIX = ".journal"
LOCK_NAME = "lock"

_ALONE, _TOGETHER = fcntl.LOCK_EX, fcntl.LOCK_SH
_NOTE_BYTES = 240  # in the lock file: who holds it
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FileLedger:
    """The journals of one result store, in a folder.

    Parameters
    ----------
    directory : Path
        Holds one ``*.journal`` file per writer, and the run lock.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def records(self) -> Iterator[PartitionRecord]:
        """Yield every whole record, journal by journal in the order they were begun."""
        for path in sorted(self.directory.glob(f"*{JOURNAL_SUFFIX}")):
            with path.open("rb") as journal:
                for line in journal:
                    record = decode(line)
                    if record is not None:
                        yield record

    def damaged_lines(self) -> int:
        """Return how many lines are not as they were written; the last of a journal may be torn."""
        damaged = 0
        for path in sorted(self.directory.glob(f"*{JOURNAL_SUFFIX}")):
            lines = path.read_bytes().splitlines(keepends=True)
            wrong = [decode(line) is None for line in lines]
            torn = bool(lines) and not lines[-1].endswith(b"\n")
            damaged += sum(wrong) - torn
        return damaged

    def writer(self) -> FileJournal:
        """Open a new journal of this process."""
        return FileJournal(self.directory)

    @contextmanager
    def lock(self, shard: str = "") -> Iterator[None]:
        """Hold the store: alone, or as one of several shards; a dead process holds nothing.

        Parameters
        ----------
        shard : str, default ""
            Name of the shard, for the message to whoever wants the store alone.

        Raises
        ------
        StoreHeldError
            If another run holds it; for a shard, one that is none.
        InputError
            If the store is wanted alone on a file system that knows no locks. A shard goes on there
            with a warning: shards do without a lock, theirs only keeps off who wants to be alone.

        Notes
        -----
        On network file systems these locks hold between machines where the server is asked for
        them: NFS with its lock service, Lustre mounted with ``flock``. The lock of a machine that
        died is free once the server gives that machine up.
        """
        descriptor = os.open(self.directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_NB | (_TOGETHER if shard else _ALONE))
            except OSError as error:
                self._refuse_or_warn(descriptor, error, shard)
            else:
                note = f"process {os.getpid()} on {socket.gethostname()}"
                note = f"shards, {shard} the last to start: {note}" if shard else note
                # One write of one length: shards that start at once leave the note of either.
                os.pwrite(descriptor, note.encode()[:_NOTE_BYTES].ljust(_NOTE_BYTES), 0)
            yield
        finally:
            os.close(descriptor)

    def _refuse_or_warn(self, descriptor: int, error: OSError, shard: str) -> None:
        store = self.directory.parent.parent
        if error.errno in (errno.EAGAIN, errno.EACCES):
            note = os.pread(descriptor, _NOTE_BYTES, 0).decode(errors="replace").strip()
            raise StoreHeldError(
                f"{store}: another run holds this store ({note or 'unknown'}); wait for it or "
                "stop it"
            ) from None
        if error.errno not in _NO_LOCKS:
            raise error
        if not shard:
            raise InputError(
                f"{store}: this file system has no locks ({error.strerror}), so nothing keeps two "
                "runs apart; mount it with locks (Lustre: -o flock), or run shards only"
            ) from None
        logger.warning(
            "%s: this file system has no locks (%s): start nothing but shards on this store while "
            "they run",
            store,
            error.strerror,
        )


class FileJournal:
    """The only writer of one journal file; every record is on disk before ``append`` returns."""

    def __init__(self, directory: Path) -> None:
        name = f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}{JOURNAL_SUFFIX}"
        self.path = directory / name
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(self.path, flags, 0o644)
        sync_folder(directory)

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
