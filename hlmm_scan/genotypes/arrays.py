"""Arrays of a Zarr group as genotype datasets read them: looked for, decoded, errors in words."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from hlmm_scan.errors import DamagedError, InputError
from hlmm_scan.genotypes.variants import StrArray
from hlmm_scan.staging import read_error, stands
from hlmm_scan.storage import ObjectPath, Place, transient, zarr_store
from hlmm_scan.storage.places import ROOT

ROOT_V2 = ".zgroup"

_LISTED_FROM = 20  # chunks from which one list is cheaper than asking for each


class StoredArrays:
    """The arrays of one group, read by rows.

    Parameters
    ----------
    path : Path or ObjectPath
        Where the group lies.
    group : zarr.Group
    whole : bool, default True
        Whether a chunk that is absent is damage. Stores of others may leave chunks of nothing but
        fill values out.
    remedy : str
        What a user can do about damage.
    """

    def __init__(
        self,
        path: Place,
        group: zarr.Group,
        *,
        whole: bool = True,
        remedy: str = "convert the genotypes again",
    ) -> None:
        self.path = path
        self.group = group
        self.whole = whole
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
        """Read rows of an array, having looked that their chunks exist.

        Zarr reads an absent chunk as fill values: missing calls that nobody made. The look costs
        one `stat` a chunk; object stores are opened so that reading it fails.

        Errors that may pass are not the dataset's fault and remain as they are.

        Raises
        ------
        IndexError
            If the range does not lie within the array.
        DamagedError
            If a chunk is missing from the store, or cannot be decoded.
        """
        stop = int(self[name].shape[0]) if stop is None else stop
        return self.read_columns(name, start, stop, slice(None))

    def read_columns(self, name: str, start: int, stop: int, columns: slice) -> NDArray[Any]:
        """Read rows ``start`` to ``stop`` of some columns, as :meth:`read` does."""
        array = self[name]
        if not 0 <= start <= stop <= array.shape[0]:
            raise IndexError(f"{name}[{start}:{stop}] of {array.shape[0]}")
        if self.whole and not isinstance(self.path, ObjectPath):
            absent = missing_chunk(self.path, name, array, start, stop)
            if absent is not None:
                raise self._misses(absent)
        try:
            if array.ndim == 1:
                return np.asarray(array[start:stop])
            return np.asarray(array[start:stop, columns])
        except FileNotFoundError as error:
            raise self._misses(str(error.filename)) from error
        except (RuntimeError, ValueError, OSError) as error:
            if transient(error):
                raise
            # A torn or overwritten chunk ends in the decoder, whose message names no file.
            raise DamagedError(
                f"{self.path}: {name} cannot be decoded at rows {start}:{stop} ({error}); "
                f"{self.remedy}"
            ) from error

    def text(self, name: str, start: int = 0, stop: int | None = None) -> StrArray:
        """Read rows of an array of text; some programs store it as bytes.

        Raises
        ------
        DamagedError
            As :meth:`read`, or if it is no UTF-8.
        """
        values = self.read(name, start, stop).astype(object)
        if not any(isinstance(value, bytes) for value in values.flat):
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

    def _misses(self, chunk: str) -> DamagedError:
        return DamagedError(
            f"{self.path}: chunk {chunk} is missing, the dataset is damaged; {self.remedy}"
        )


def open_group(path: Place, *, whole: bool = True) -> zarr.Group | None:
    """Open the Zarr group at a place for reading; None where there is none.

    Parameters
    ----------
    path : Path or ObjectPath
    whole : bool, default True
        For object stores: whether an absent chunk is an error.

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
        version: Any = 3 if (path / ROOT).is_file() else 2
        if version == 2 and not (path / ROOT_V2).is_file():
            return None
        return zarr.open_group(
            zarr_store(path, read_only=True, whole=whole), mode="r", zarr_format=version
        )
    except (ValueError, KeyError, TypeError, OSError, zarr.errors.BaseZarrError) as error:
        if isinstance(path, ObjectPath) and isinstance(error, OSError):
            raise read_error(path, error) from error
        # What stands in zarr.json is no group's metadata.
        return None


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
