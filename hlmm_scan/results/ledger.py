"""Which partitions are finished: journals, and the lock of the run that writes them.

Protocol: a task first writes all chunks of its partition, each of them whole or not at all, and
then the one writer of a journal records it. What no whole record names is done again, with the
same bytes. Whether a partition is done never depends on the values in it.

Two back ends keep this: :mod:`~hlmm_scan.results.ledger_files` in a folder,
:mod:`~hlmm_scan.results.ledger_objects` in an object store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from hlmm_scan.results.ledger_files import FileLedger
from hlmm_scan.results.ledger_objects import ObjectLedger
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.storage import ObjectPath, Place


class Journal(Protocol):
    """The records of one writer; closed at the end of a ``with`` block."""

    def append(self, record: PartitionRecord) -> None:
        """Record a partition.

        Raises
        ------
        OSError
            If that cannot be written.
        InfrastructureError
            If this run no longer holds the store.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Ledger(Protocol):
    """The journals of one result store."""

    def records(self) -> Iterator[PartitionRecord]:
        """Yield every whole record, journal by journal in the order they were begun."""

    def damaged_lines(self) -> int:
        """Return how many lines are not as they were written; the last of a journal may be torn."""

    def writer(self) -> Journal:
        """Open a new journal of this process."""

    def lock(self, shard: str = "") -> AbstractContextManager[None]:
        """Hold the store: alone, or as one of several shards.

        Parameters
        ----------
        shard : str, default ""
            Name of the shard, for the message to whoever wants the store alone.

        Raises
        ------
        StoreHeldError
            If another run holds it; for a shard, one that is none.
        """


def ledger_at(store: Place, run_id: str) -> Ledger:
    """Return the ledger of a result store.

    Parameters
    ----------
    store : Path or ObjectPath
        Its root.
    run_id : str
        Of the store as it was opened: it must still be that one when it is held.
    """
    if isinstance(store, ObjectPath):
        return ObjectLedger(store, run_id)
    return FileLedger(store / "run" / "ledger")
