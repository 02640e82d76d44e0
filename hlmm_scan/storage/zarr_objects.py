"""Zarr's store over an object store, with our retries; what it reads is looked at."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, Self, TypeVar

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from hlmm_scan.storage.attempts import again_async
from hlmm_scan.storage.checksums import Checks, bytes_of, checksum_of
from hlmm_scan.storage.places import ROOT, UNFINISHED_ROOT

T = TypeVar("T")

HIDDEN = (UNFINISHED_ROOT, ".lease")
"""Names beside a root that Zarr need not see."""


class ZarrObjects(ObjectStore[Any]):
    """All objects below an address as a Zarr store.

    Parameters
    ----------
    store : obstore.store.ObjectStore
        Made for that address.
    url : str
        The address, for messages.
    read_only : bool, default False
    root : str
        Key under which the root's metadata stand: not its own while the store is being made. As
        only one process makes it, metadata it has written are not asked for again meanwhile.
    check : callable
        Called before every write; raises if this process may no longer write.
    checks : Checks, optional
        Of what is read.

    Attributes
    ----------
    written : dict of str to int
        Checksums of the objects written, by key, until somebody takes them out.
    """

    def __init__(
        self,
        store: Any,
        url: str,
        *,
        read_only: bool = False,
        root: str = ROOT,
        check: Callable[[], None] = lambda: None,
        checks: Checks | None = None,
    ) -> None:
        super().__init__(store, read_only=read_only)
        self.url = url
        self.root = root
        self.check = check
        self.checks = checks
        self.written: dict[str, int] = {}
        self._metadata: dict[str, Buffer] = {}

    def __str__(self) -> str:
        return self.url

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same store, for reading only or not."""
        other = type(self)(
            self.store,
            self.url,
            read_only=read_only,
            root=self.root,
            check=self.check,
            checks=self.checks,
        )
        other.written, other._metadata = self.written, self._metadata
        return other

    def flush(self) -> None:
        """Do nothing: an object is there for good once the server has answered."""

    def _key(self, key: str) -> str:
        return self.root if key == ROOT else key

    def _keep(self, key: str, value: Buffer) -> None:
        self.written[key] = checksum_of(key, bytes_of(value))
        if self.root != ROOT and key.endswith(ROOT):
            self._metadata[key] = value

    async def _again(self, key: str, call: Callable[[str], Awaitable[T]]) -> T:
        stored = self._key(key)
        return await again_async(lambda: call(stored), f"{self.url}/{stored}")

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object or part of it; None where there is none."""
        if byte_range is None and key in self._metadata:
            return self._metadata[key]
        found = await self._again(key, lambda k: ObjectStore.get(self, k, prototype, byte_range))
        if self.checks is not None and byte_range is None:
            self.checks.look(key, None if found is None else bytes_of(found))
        return found

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        ranges = [(self._key(key), part) for key, part in key_ranges]
        return await again_async(
            lambda: ObjectStore.get_partial_values(self, prototype, ranges), self.url
        )

    async def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return key in self._metadata or await self._again(
            key, lambda k: ObjectStore.exists(self, k)
        )

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object."""
        self.check()
        await self._again(key, lambda k: ObjectStore.set(self, k, value))
        self._keep(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put an object where there is none."""
        self.check()
        if key not in self._metadata and not await self.exists(key):
            await self._again(key, lambda k: ObjectStore.set_if_not_exists(self, k, value))
            self.written[key] = checksum_of(key, bytes_of(value))
            # Not kept: whether this stands there now, or another's that came first, is not known.

    async def delete(self, key: str) -> None:
        """Delete an object."""
        self.check()
        self._metadata.pop(key, None)
        self.written.pop(key, None)
        await self._again(key, lambda k: ObjectStore.delete(self, k))

    async def getsize(self, key: str) -> int:
        """Return the size of an object."""
        return await self._again(key, lambda k: ObjectStore.getsize(self, k))

    def list(self) -> AsyncGenerator[str, None]:
        """Yield all keys."""
        return self._listed(lambda: ObjectStore.list(self))

    def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield all keys that begin so."""
        return self._listed(lambda: ObjectStore.list_prefix(self, prefix))

    def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield what is directly below a prefix."""
        return self._listed(lambda: ObjectStore.list_dir(self, prefix))

    async def _listed(
        self, begin: Callable[[], AsyncGenerator[str, None]]
    ) -> AsyncGenerator[str, None]:
        async def whole() -> tuple[str, ...]:
            return tuple([key async for key in begin()])

        # As a whole: a stream could not be taken up again where it broke.
        for key in await again_async(whole, self.url):
            if key == self.root:
                yield ROOT
            elif key.partition("/")[0] not in HIDDEN:
                yield key
