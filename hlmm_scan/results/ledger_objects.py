"""The ledger in an object store: journals of segments that never change, and leases as locks.

An object cannot be appended to. A writer gathers lines and puts them, every few seconds, as one
object of a new name: there whole or not at all. A kill loses what was gathered since the last one;
those partitions are done again, with the same bytes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from hlmm_scan.errors import InfrastructureError, StoreHeldError
from hlmm_scan.results.records import PartitionRecord, decode, encode
from hlmm_scan.storage import ObjectPath
from hlmm_scan.storage.lease import Lease, held_alone, held_together
from hlmm_scan.storage.places import ROOT, read_json

SUFFIX = ".journal"

SECONDS, SHARE_OF_TIME, MOST_SECONDS = 2.0, 0.01, 60.0
"""A segment is put when the last is this old, or a hundredth of the run's time, but at most so
old: a run of weeks leaves tens of thousands, not millions, for every reader to fetch."""

MOST_LINES = 500

_READ_AT_ONCE = 16


class ObjectLedger:
    """The journals of one result store, in an object store.

    Parameters
    ----------
    store : ObjectPath
        Root of the result store.
    run_id : str
        Attribute of the store; one that was made anew in its place has another.
    """

    def __init__(self, store: ObjectPath, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self.directory = store / "run" / "ledger"
        self._lease: Lease | None = None

    def records(self) -> Iterator[PartitionRecord]:
        """Yield every whole record, journal by journal in the order they were begun."""
        names = [name for name in self.directory.objects() if name.endswith(SUFFIX)]
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            for start in range(0, len(names), 8 * _READ_AT_ONCE):
                some = names[start : start + 8 * _READ_AT_ONCE]
                for segment in pool.map(lambda name: (self.directory / name).read_bytes(), some):
                    for line in segment.splitlines(keepends=True):
                        record = decode(line)
                        if record is not None:
                            yield record

    def damaged_lines(self) -> int:
        """Return how many lines are not as they were written; objects are never torn."""
        names = [name for name in self.directory.objects() if name.endswith(SUFFIX)]
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            segments = pool.map(lambda name: (self.directory / name).read_bytes(), names)
            return sum(
                decode(line) is None
                for segment in segments
                for line in segment.splitlines(keepends=True)
            )

    def writer(self) -> ObjectJournal:
        """Open a new journal of this process."""
        return ObjectJournal(self.directory, self._lease)

    @contextmanager
    def lock(self, shard: str = "") -> Iterator[None]:
        """Hold the store: alone, or as one of several shards.

        Parameters
        ----------
        shard : str, default ""
            Name of the shard, for the message to whoever wants the store alone.

        Raises
        ------
        StoreHeldError
            If another run holds it; for a shard, one that is none. Also if the store was made anew
            since it was opened.
        """
        held = held_together(self.store, shard) if shard else held_alone(self.store)
        with held as lease:
            root = read_json(self.store / ROOT) or {}
            if root.get("attributes", {}).get("run_id", "") != self.run_id:
                raise StoreHeldError(
                    f"{self.store}: another run replaced this store just now; start again"
                )
            self._lease = lease
            try:
                yield
            finally:
                self._lease = None


class ObjectJournal:
    """The only writer of a sequence of segments.

    Parameters
    ----------
    directory : ObjectPath
    lease : Lease or None
        Checked before every segment.
    """

    def __init__(self, directory: ObjectPath, lease: Lease | None) -> None:
        self._directory = directory
        self._lease = lease
        self._name = f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}"
        self._number = 0
        self._lines: list[bytes] = []
        self._begun = self._put = time.monotonic()

    def append(self, record: PartitionRecord) -> None:
        """Gather one record, and put those gathered where it is time to.

        Raises
        ------
        OSError
            If a segment cannot be put; its lines stay gathered.
        InfrastructureError
            If the lease on the store was lost.
        """
        if self._lease is not None:
            self._lease.check()
        self._lines.append(encode(record))
        now = time.monotonic()
        wait = min(max(SECONDS, SHARE_OF_TIME * (now - self._begun)), MOST_SECONDS)
        if now - self._put >= wait or len(self._lines) >= MOST_LINES:
            self._put_segment()

    def close(self) -> None:
        """Put what is left."""
        if self._lines:
            self._put_segment()

    def _put_segment(self) -> None:
        if self._lease is not None:
            self._lease.check()
        name = f"{self._name}-{self._number:08d}{SUFFIX}"
        (self._directory / name).create(b"".join(self._lines))
        self._number += 1
        self._lines.clear()
        self._put = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        with suppress(OSError, InfrastructureError):  # the first error is the one to tell
            self.close()
