"""Reading files of a store again, as they are, and saying which are not what they should be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from hlmm_scan.storage.checksums import CHUNK, Bytes, checksum_of, whole_chunk
from hlmm_scan.storage.places import ObjectPath, Place

_AT_ONCE, _HELD = 16, 1024

MISSING, DAMAGED = "missing", "damaged"

File = tuple[str, Collection[int]]
"""A key, and the checksums that are right; none where any is."""


def read_file(store: Place, key: str) -> bytes | None:
    """Return a file or object of a store; None where there is none."""
    try:
        return (store / key).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def fault(key: str, data: Bytes | None, right: Collection[int]) -> str:
    """Return what is wrong with a file; nothing if it is what it should be."""
    if data is None:
        return MISSING
    if right and checksum_of(key, data) not in right:
        return DAMAGED
    if right and CHUNK in key and not whole_chunk(data):
        return DAMAGED
    return "" if len(data) else DAMAGED


def look(store: Place, files: Iterable[File]) -> Iterator[tuple[str, str, int]]:
    """Read files and yield of each its key, what is wrong with it, and its checksum."""
    one = partial(_look_at_one, store)
    if not isinstance(store, ObjectPath):
        yield from map(one, files)
        return
    waiting = iter(files)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while some := list(islice(waiting, _HELD)):
            yield from pool.map(one, some)


def _look_at_one(store: Place, file: File) -> tuple[str, str, int]:
    key, right = file
    data = read_file(store, key)
    return key, fault(key, data, right), checksum_of(key, data) if data else 0
