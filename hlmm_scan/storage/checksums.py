"""Checksums of the files of a store: of each chunk, of each metadata document, and which is where.

* Every chunk ends with its CRC-32C (Zarr's codec ``crc32c``), so that whoever decodes it finds a
  flipped bit.
* A manifest beside the arrays lists the checksums of all chunks and documents that do not change
  any more: it finds a chunk that is absent, or that stands in the place of another.
* Documents that do change (the root, the plan, the manifest) hold their own checksum.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import DamagedError, InputError
from hlmm_scan.storage.places import MARK, ROOT, Place

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

CHUNK = "/c/"
MANIFEST = "checksums"
"""Name of the group whose attributes are the manifest."""

_OWN = "document_crc32c"
_OWN_PATTERN = re.compile(rb'"document_crc32c": ?"([0-9a-f]{8})"')
_ZEROS = "0" * 8


Bytes = bytes | memoryview


def bytes_of(buffer: Buffer) -> memoryview:
    """Return what one of Zarr's buffers holds, without a copy."""
    return memoryview(cast(Any, buffer.as_numpy_array()))


def crc32c(data: Bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes."""
    # The library's C code takes arrays and bytes, but no views.
    return int(google_crc32c.value(np.frombuffer(data, np.uint8) if len(data) else b""))


def checksum_of(key: str, data: Bytes) -> int:
    """Return the checksum by which a manifest knows a file: a chunk ends with its own."""
    return int.from_bytes(data[-4:], "little") if CHUNK in key else crc32c(data)


def whole_chunk(data: Bytes) -> bool:
    """Return whether a chunk is as its own checksum says."""
    return len(data) > 4 and crc32c(data[:-4]) == int.from_bytes(data[-4:], "little")


# Documents that hold their own checksum ---------------------------------------------------


def sealed(document: Mapping[str, Any]) -> bytes:
    """Return the JSON text of a group's metadata with its own checksum in our mark."""
    attributes = document["attributes"]
    # It stands first of all, so that it is found without parsing what may be megabytes.
    mark = {_OWN: _ZEROS} | {k: v for k, v in attributes.get(MARK, {}).items() if k != _OWN}
    ordered = {"attributes": {MARK: mark, **{k: v for k, v in attributes.items() if k != MARK}}}
    text = json.dumps({**ordered, **{k: v for k, v in document.items() if k != "attributes"}})
    own = f"{crc32c(text.encode()):08x}"
    return text.replace(_ZEROS, own, 1).encode()


def document_is_whole(data: Bytes) -> bool | None:
    """Return whether a document is as its own checksum says; None where it holds none."""
    found = _OWN_PATTERN.search(data)
    if found is None:
        return None
    blank = bytes(data[: found.start(1)]) + _ZEROS.encode() + bytes(data[found.end(1) :])
    return crc32c(blank) == int(found[1], 16)


def read_document(store: Place, key: str = ROOT) -> dict[str, Any] | None:
    """Return a metadata document of a store; None where there is none, or no JSON object.

    Raises
    ------
    InputError
        If it is not as its own checksum says.
    OSError
        If it cannot be read for another reason than that it is not there.
    """
    try:
        data = (store / key).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    if document_is_whole(data) is False:
        raise InputError(f"{store}: {key} is damaged, or was changed by another program")
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


# The manifest -----------------------------------------------------------------------------


@dataclass
class Manifest:
    """Checksums of all files of a store that do not change any more.

    Attributes
    ----------
    of : str
        What tells the store from others: its run id or fingerprint.
    documents : dict of str to int
        By key.
    chunks : dict of str to ndarray of uint32
        By array, over its grid of chunks; 0 where there is no chunk.
    """

    of: str
    documents: dict[str, int] = field(default_factory=dict)
    chunks: dict[str, NDArray[np.uint32]] = field(default_factory=dict)

    @classmethod
    def of_files(cls, of: str, files: Mapping[str, int]) -> Manifest:
        """Make one from checksums by key, as stores note them when they write."""
        manifest = cls(of)
        places: dict[str, list[tuple[int, ...]]] = {}
        for key in files:
            array, chunk, index = key.rpartition(CHUNK)
            if chunk:
                places.setdefault(array, []).append(tuple(map(int, index.split("/"))))
        for array, all_of_it in places.items():
            manifest.make_room(array, tuple(np.max(all_of_it, axis=0) + 1))
        manifest.note(files)
        return manifest

    def make_room(self, array: str, grid: tuple[int, ...]) -> None:
        """Begin to list an array, of so many chunks along each dimension."""
        self.chunks[array] = np.zeros(grid, np.uint32)

    def note(self, files: Mapping[str, int]) -> None:
        """List files by their keys; there must be room for their arrays."""
        for key, checksum in files.items():
            array, chunk, index = key.rpartition(CHUNK)
            if chunk:
                self.chunks[array][tuple(map(int, index.split("/")))] = checksum
            else:
                self.documents[key] = checksum

    @classmethod
    def read(cls, store: Place, key: str) -> Manifest:
        """Read the manifest that stands under a key of a store.

        Raises
        ------
        InputError
            If there is none or it is damaged.
        """
        document = read_document(store, key)
        try:
            attributes = (document or {})["attributes"]
            chunks = {}
            for array, stored in attributes["chunks"].items():
                values = np.frombuffer(base64.b64decode(stored["crc32c"]), "<u4")
                chunks[array] = values.reshape(stored["grid"])
            documents = {k: int(v, 16) for k, v in attributes["documents"].items()}
            return cls(str(attributes["of"]), documents, chunks)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(
                f"{store}: {key}, which holds the checksums, is damaged or missing"
            ) from None

    def to_document(self) -> bytes:
        """Return it as the metadata of a Zarr group."""
        attributes = {
            MARK: {"kind": MANIFEST},
            "of": self.of,
            "documents": {key: f"{crc:08x}" for key, crc in sorted(self.documents.items())},
            "chunks": {
                array: {
                    "grid": list(grid.shape),
                    "crc32c": base64.b64encode(grid.astype("<u4").tobytes()).decode(),
                }
                for array, grid in sorted(self.chunks.items())
            },
        }
        return sealed({"attributes": attributes, "zarr_format": 3, "node_type": "group"})

    def expected(self, key: str) -> int | None:
        """Return the checksum of a file; None where nothing is known of it."""
        array, chunk, index = key.rpartition(CHUNK)
        if not chunk:
            return self.documents.get(key)
        grid = self.chunks.get(array)
        if grid is None:
            return None
        place = tuple(map(int, index.split("/")))
        if len(place) != grid.ndim or any(i >= n for i, n in zip(place, grid.shape, strict=True)):
            return None
        return int(grid[place]) or None

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the keys of all files and their checksums."""
        yield from self.documents.items()
        for array, grid in self.chunks.items():
            for place in np.argwhere(grid):
                yield f"{array}{CHUNK}{'/'.join(map(str, place))}", int(grid[tuple(place)])


class Recorded(Protocol):
    """What is known of chunks that are not in the manifest yet."""

    def __call__(self, key: str) -> Collection[int] | None:
        """Return checksums that are right; none where any is; None where it need not exist."""


def _nothing(key: str) -> None:
    """Know nothing of any chunk."""


def every_chunk(key: str) -> bool:
    """Say that every chunk must exist."""
    return True


def no_chunk(key: str) -> bool:
    """Say that no chunk need exist."""
    return False


class Checks:
    """Looks at what was read from a store before anybody uses it.

    Parameters
    ----------
    store : Path or ObjectPath
        For messages.
    remedy : str
        What a user can do about damage.
    manifest : callable, optional
        Reads the manifest, once, when it is first needed; without it nothing is known.
    recorded : callable, optional
        Asked of chunks that are not in it.
    whole : callable, optional
        Says of a chunk of which nothing is known whether it must exist all the same.
    own : collection of str
        Keys of documents that must hold their own checksum.
    thorough : bool, default False
        Whether chunks are held against their own checksums too, which decoding does anyhow, but
        without saying where. May be set at any time.
    """

    def __init__(
        self,
        store: Place,
        remedy: str,
        *,
        manifest: Callable[[], Manifest] | None = None,
        recorded: Recorded = _nothing,
        whole: Callable[[str], bool] = no_chunk,
        own: Collection[str] = (),
        thorough: bool = False,
    ) -> None:
        self.store = store
        self.remedy = remedy
        self.thorough = thorough
        self._read_manifest = manifest
        self._manifest: Manifest | None = None
        self._recorded = recorded
        self._whole = whole
        self._own = own

    @property
    def manifest(self) -> Manifest | None:
        """The manifest; None where the store has none."""
        if self._manifest is None and self._read_manifest is not None:
            self._manifest = self._read_manifest()
        return self._manifest

    def look(self, key: str, data: Bytes | None) -> None:
        """Raise an error where a file is not what the store should have there.

        Parameters
        ----------
        key : str
        data : bytes or None
            All that was read; None where there is no such file.

        Raises
        ------
        DamagedError
            Of a chunk.
        InputError
            Of metadata: nothing of the array can be read then.
        """
        if key in self._own:
            if data is not None and not document_is_whole(data):
                raise InputError(
                    f"{self.store}: {key} is damaged, or was changed by another program; "
                    f"{self.remedy}"
                )
            return
        right = self._right(key)
        if data is None:
            if right is not None or (CHUNK in key and self._whole(key)):
                self._raise(key, "missing")
        elif right and (
            checksum_of(key, data) not in right
            or (self.thorough and CHUNK in key and not whole_chunk(data))
        ):
            self._raise(key, "damaged")

    def _right(self, key: str) -> Collection[int] | None:
        listed = None if self.manifest is None else self.manifest.expected(key)
        if listed is not None:
            return (listed,)
        return self._recorded(key) if CHUNK in key else None

    def _raise(self, key: str, what: str) -> None:
        if CHUNK in key:
            raise DamagedError(f"{self.store}: chunk {key} is {what}; {self.remedy}")
        raise InputError(f"{self.store}: {key} is {what}; {self.remedy}")
