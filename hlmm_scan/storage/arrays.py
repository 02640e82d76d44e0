"""Zarr arrays as readers take them: what cannot be decoded is an error that says where.

Imported where arrays are made and read; the command line starts without Zarr.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from hlmm_scan.errors import DamagedError, HlmmScanError
from hlmm_scan.storage.attempts import transient
from hlmm_scan.storage.checksums import MANIFEST, Manifest, bytes_of, checksum_of, sealed
from hlmm_scan.storage.places import ROOT
from hlmm_scan.storage.zarr_files import ZarrFiles
from hlmm_scan.storage.zarr_objects import ZarrObjects


def get_bytes(store: ZarrFiles | ZarrObjects, key: str) -> bytes:
    """Return what stands under a key of a store, as Zarr would read it."""
    found = sync(store.get(key, default_buffer_prototype()))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
    return bytes(bytes_of(found))


def put_bytes(store: ZarrFiles | ZarrObjects, key: str, data: bytes) -> None:
    """Put something under a key of a store, as Zarr would write it."""
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(data)))


def flush(group: zarr.Group) -> None:
    """Have on the disk all that was written to a group's store."""
    store = group.store
    if isinstance(store, ZarrFiles | ZarrObjects):
        store.flush()


def seal(files: ZarrFiles | ZarrObjects, manifest: Manifest, arrays: Iterable[str]) -> None:
    """Put the manifest of a finished store beside its arrays, and seal its root.

    Parameters
    ----------
    files : ZarrFiles or ZarrObjects
        With consolidated metadata.
    manifest : Manifest
        Of all chunks.
    arrays : iterable of str
        Names, whose metadata are listed too, as they change no more.
    """
    for name in arrays:
        key = f"{name}/{ROOT}"
        manifest.note({key: checksum_of(key, get_bytes(files, key))})
    put_bytes(files, f"{MANIFEST}/{ROOT}", manifest.to_document())
    root = json.loads(get_bytes(files, ROOT))
    # A process that was killed here left its manifest, which is no part of the data's tree.
    root["consolidated_metadata"]["metadata"].pop(MANIFEST, None)
    put_bytes(files, ROOT, sealed(root))


def compressors() -> list[Any]:
    """Return how chunks of ours are stored: by zstd, and with a checksum at their end."""
    return [ZstdCodec(level=0), Crc32cCodec()]


def dosage_compressors() -> list[Any]:
    """Return how chunks of dosages are stored, two bytes a person.

    Lower and higher bytes apart, as most of the latter are alike: a tenth to a quarter smaller than
    side by side, and quicker both ways. A higher level of zstd gains nothing.
    """
    apart = BloscCodec(typesize=2, cname="zstd", clevel=1, shuffle="shuffle", blocksize=1 << 20)
    return [apart, Crc32cCodec()]


class CheckedArray:
    """An array of a store, read and written by slices as Zarr's own.

    Parameters
    ----------
    array : zarr.Array

    Attributes
    ----------
    zarr : zarr.Array
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        # A chunk that holds only the fill value must be a file as well: one that is absent is
        # damage. Zarr binds this when it opens an array.
        self.zarr = array.with_config({"write_empty_chunks": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each dimension."""
        return self.zarr.shape

    @property
    def chunks(self) -> tuple[int, ...]:
        """Elements of a chunk along each dimension."""
        return self.zarr.chunks

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.zarr.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return np.dtype(self.zarr.dtype)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes."""
        return self.zarr.attrs.asdict()

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        """Return values.

        Raises
        ------
        DamagedError
            If a chunk is missing, is another's, or cannot be decoded.
        """
        try:
            return np.asarray(self.zarr[selection])
        except HlmmScanError:
            raise
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            if transient(error) or isinstance(error, OSError):
                raise
            raise self._damaged(selection, error) from error

    def __setitem__(self, selection: Any, values: Any) -> None:
        self.zarr[selection] = values

    def _damaged(self, selection: Any, error: Exception) -> HlmmScanError:
        """Say which chunk cannot be decoded; only that some cannot, where they have no checksum."""
        checks = getattr(self.zarr.store, "checks", None)
        where = remedy = ""
        if checks is not None:
            where, remedy = f"{checks.store}: ", f"; {checks.remedy}"
            checks.thorough = True
            with suppress(RuntimeError, ValueError, TypeError, OSError):
                try:
                    self.zarr[selection]
                except HlmmScanError as found:
                    return found
        reason = " ".join(str(error).split())[:120]
        parts = selection if isinstance(selection, tuple) else (selection,)
        rows = (p for p in parts if isinstance(p, slice) and p.start is not None)
        told = next((f" at rows {p.start}:{p.stop}" for p in rows), "")
        return DamagedError(f"{where}{self.zarr.path} cannot be decoded{told} ({reason}){remedy}")
