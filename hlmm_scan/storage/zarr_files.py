"""Zarr's store over a folder: what it reads is looked at, what it writes can be had on the disk."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Self

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from hlmm_scan.storage.checksums import Checks, bytes_of, checksum_of
from hlmm_scan.storage.durable import sync

_FLUSHING = threading.Lock()


class ZarrFiles(LocalStore):
    """All files below a folder as a Zarr store.

    Parameters
    ----------
    root : Path
    read_only : bool, default False
    checks : Checks, optional
        Of what is read.

    Attributes
    ----------
    written : dict of str to int
        Checksums of the files written, by key, until somebody takes them out.
    """

    def __init__(
        self, root: Path | str, *, read_only: bool = False, checks: Checks | None = None
    ) -> None:
        super().__init__(root, read_only=read_only)
        self.checks = checks
        self.written: dict[str, int] = {}
        self._unsynced: set[str] = set()
        self._synced_folders: set[Path] = set()

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same store, for reading only or not."""
        other = type(self)(self.root, read_only=read_only, checks=self.checks)
        other.written, other._unsynced = self.written, self._unsynced
        other._synced_folders = self._synced_folders
        return other

    # Zarr has a set of methods for its event loop and one without it; both are asked for.

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return a file or part of it; None where there is none and need not be."""
        found = await super().get(key, prototype, byte_range)
        return self._looked_at(key, found, byte_range)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return a file or part of it; None where there is none and need not be."""
        found = super().get_sync(key, prototype=prototype, byte_range=byte_range)
        return self._looked_at(key, found, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file."""
        await super().set(key, value)
        self._note(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a file."""
        super().set_sync(key, value)
        self._note(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file where there is none."""
        if not await self.exists(key):
            await super().set_if_not_exists(key, value)
            self._note(key, value)

    async def delete(self, key: str) -> None:
        """Remove a file."""
        self._forget(key)
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove a folder."""
        self._forget(prefix)
        await super().delete_dir(prefix)

    def _forget(self, key: str) -> None:
        below = f"{key.rstrip('/')}/" if key else ""
        for gone in [k for k in list(self.written) if k == key or k.startswith(below)]:
            del self.written[gone]
            self._unsynced.discard(gone)

    def flush(self) -> None:
        """Have on the disk all that was written since this was last called."""
        with _FLUSHING:  # another thread may be at what this one wrote
            self._flush()

    def _flush(self) -> None:
        keys = [self._unsynced.pop() for _ in range(len(self._unsynced))]
        paths = [self.root / key for key in keys]
        folders = {path.parent for path in paths}
        new = {
            above
            for folder in folders - self._synced_folders
            for above in itertools.takewhile(lambda p: p != self.root.parent, folder.parents)
        }
        try:
            sync(paths, folders | new)
        except BaseException:
            self._unsynced.update(keys)
            raise
        self._synced_folders |= folders

    def _note(self, key: str, value: Buffer) -> None:
        self.written[key] = checksum_of(key, bytes_of(value))
        self._unsynced.add(key)

    def _looked_at(
        self, key: str, found: Buffer | None, byte_range: ByteRequest | None
    ) -> Buffer | None:
        if self.checks is not None and byte_range is None:
            self.checks.look(key, None if found is None else bytes_of(found))
        return found
