"""Arrays of a Zarr group as genotype datasets read them: looked for, decoded, errors in words."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.errors import DamagedError, InputError
from hlmm_scan.staging import read_error, stands
from hlmm_scan.storage import ObjectPath, Place, transient, zarr_store
from hlmm_scan.storage.arrays import CheckedArray
from hlmm_scan.storage.checksums import (
    MANIFEST,
    Checks,
    Manifest,
    every_chunk,
    no_chunk,
    read_document,
)
from hlmm_scan.storage.places import MARK, ROOT

logger = logging.getLogger(__name__)

ROOT_V2 = ".zgroup"

CHECKSUMS = "checksums"
"""In our mark: whether the dataset was made with checksums."""

REMEDY = "convert the genotypes again"

_LISTED_FROM = 20  # chunks from which one list is cheaper than asking for each


class StoredArrays:
    """The arrays of one group, read by rows.

    Parameters
    ----------
    path : Path or ObjectPath
        Where the group lies.
    group : zarr.Group
        As :func:`open_group` gives it.
    remedy : str
        What a user can do about damage.
    """

    def __init__(
        self,
        path: Place,
        group: zarr.Group,
        *,
        remedy: str = REMEDY,
    ) -> None:
        self.path = path
        self.group = group
        self.remedy = remedy
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.group

    def __getitem__(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            array = self.group[name]
            if not isinstance(array, zarr.Array):
                raise KeyError(name)
            self._arrays[name] = array
        return self._arrays[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read rows of an array.

        Errors that may pass are not the dataset's fault and remain as they are.

        Raises
        ------
        IndexError
            If the range does not lie within the array.
        DamagedError
            If a chunk is missing from the store, is another's, or cannot be decoded.
        """
        stop = int(self[name].shape[0]) if stop is None else stop
        return self.read_columns(name, start, stop, slice(None))

    def read_columns(self, name: str, start: int, stop: int, columns: slice) -> NDArray[Any]:
        """Read rows ``start`` to ``stop`` of some columns, as :meth:`read` does."""
        array = self[name]
        if not 0 <= start <= stop <= array.shape[0]:
            raise IndexError(f"{name}[{start}:{stop}] of {array.shape[0]}")
        selection = slice(start, stop) if array.ndim == 1 else (slice(start, stop), columns)
        try:
            return CheckedArray(array)[selection]
        except OSError as error:
            if transient(error):
                raise
            raise DamagedError(
                f"{self.path}: {name} cannot be read at rows {start}:{stop} "
                f"({error.strerror or error}); {self.remedy}"
            ) from error

    def text(self, name: str, start: int = 0, stop: int | None = None) -> Strings:
        """Read rows of an array of text; some programs store it as bytes.

        Raises
        ------
        DamagedError
            As :meth:`read`, or if it is no UTF-8.
        """
        values = self.read(name, start, stop).astype(object)
        if bytes not in set(map(type, values.ravel().tolist())):
            return values
        try:
            text = [v.decode() if isinstance(v, bytes) else v for v in values.flat]
        except UnicodeDecodeError as error:
            raise DamagedError(
                f"{self.path}: {name} is not text in UTF-8; {self.remedy}"
            ) from error
        found = np.empty(len(text), dtype=object)
        found[:] = text
        return found.reshape(values.shape)


def open_group(path: Place, *, whole: bool = True, remedy: str = REMEDY) -> zarr.Group | None:
    """Open the Zarr group at a place for reading; None where there is none.

    Parameters
    ----------
    path : Path or ObjectPath
    whole : bool, default True
        Whether a chunk that is absent from a store of ours is damage: zarr reads it as fill
        values, missing calls that nobody made. Stores of others may leave such chunks out.
    remedy : str
        What a user can do about damage.

    Raises
    ------
    InputError
        If nothing is at that place.
    InfrastructureError
        If an object store does not answer.
    """
    if not stands(path):
        raise InputError(f"{path}: no such file or folder")
    try:
        root = read_document(path)
        if root is None and not (path / ROOT_V2).is_file():
            return None
        version: Any = 2 if root is None else 3
        store = zarr_store(path, read_only=True, checks=_checks(path, root or {}, whole, remedy))
        return zarr.open_group(store, mode="r", zarr_format=version)
    except (ValueError, KeyError, TypeError, OSError, zarr.errors.BaseZarrError) as error:
        if isinstance(path, ObjectPath) and isinstance(error, OSError):
            raise read_error(path, error) from error
        # What stands in zarr.json is no group's metadata.
        return None


def _checks(path: Place, root: Mapping[str, Any], whole: bool, remedy: str) -> Checks:
    """Return what looks at the files of a dataset: ours have checksums, all but old ones."""
    attributes = root.get("attributes")
    mark = attributes.get(MARK) if isinstance(attributes, dict) else None
    if not isinstance(mark, dict) or "kind" not in mark:
        return Checks(path, remedy)
    key = f"{MANIFEST}/{ROOT}"
    checked = bool(mark.get(CHECKSUMS))
    if not checked:
        _tell_once(str(path))
    return Checks(
        path,
        remedy,
        manifest=partial(Manifest.read, path, key) if checked else None,
        whole=every_chunk if whole else no_chunk,
        own=(ROOT,) if checked else (),
    )


@lru_cache
def _tell_once(path: str) -> None:
    logger.info(
        "%s: made without checksums, by an older version: damage to it may go unnoticed; convert "
        "the genotypes again to have them",
        path,
    )


def missing_chunk(
    store: Place, name: str, array: zarr.Array[Any], start: int = 0, stop: int | None = None
) -> str | None:
    """Return the key of the first chunk of rows ``start`` to ``stop`` that is not there.

    Parameters
    ----------
    store : Path or ObjectPath
        Where the group is that the array is in.
    name : str
        Name of the array in it.
    array : zarr.Array
        Unsharded.
    start, stop : int
        Rows, all by default.

    Returns
    -------
    str or None
        None where all are there.
    """
    stop = int(array.shape[0]) if stop is None else stop
    if start >= stop:
        return None
    first, last = start // array.chunks[0], (stop - 1) // array.chunks[0]
    across = [range(-(-s // c)) for s, c in zip(array.shape[1:], array.chunks[1:], strict=True)]
    chunks = itertools.product(range(first, last + 1), *across)
    keys = [array.metadata.encode_chunk_key(index) for index in chunks]
    if isinstance(store, ObjectPath) and len(keys) > _LISTED_FROM:
        there = set((store / name).objects())
        return next((f"{name}/{key}" for key in keys if key not in there), None)
    return next((f"{name}/{key}" for key in keys if not (store / name / key).is_file()), None)
