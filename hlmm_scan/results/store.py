"""The result store: one Zarr group that xarray opens as it is, at any moment of the run.

Layout: arrays over (phenotype, variant) and the coordinates in the root; ``null/<phenotype>`` the
null models; ``random_effects`` those that phenotypes of the same people share; ``run`` the plan
(its attributes) and ``run/ledger`` the journals. A partition is exactly one chunk, 1 phenotype × B
variants, of every result array, so no two writers ever share a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from hlmm_scan.errors import IncompleteError, InputError
from hlmm_scan.results.digests import checksum
from hlmm_scan.results.in_use import being_read
from hlmm_scan.results.mark import CHECKSUMS, REMEDY, read_mark, read_root
from hlmm_scan.results.recorded import chunk_key, chunk_place
from hlmm_scan.results.sealed import SealedGroup
from hlmm_scan.schema import (
    COORDINATES,
    DERIVED_RESULTS,
    STORE_FORMAT,
    WALD_FORMAT,
    Variable,
    find,
)
from hlmm_scan.staging import read_error, stands
from hlmm_scan.storage import ObjectPath, Place, place, zarr_store
from hlmm_scan.storage.arrays import CheckedArray, compressors
from hlmm_scan.storage.places import MARK, ROOT

if TYPE_CHECKING:
    import xarray as xr

T = TypeVar("T")

logger = logging.getLogger(__name__)

ROWS = "genotype_rows"
COORDINATE_CHUNK = 65_536
"""Variants per chunk of the coordinate arrays: read whole by every plot, written once."""

_REQUESTS_AT_ONCE = 8


class ResultStore(SealedGroup):
    """A result store, in a folder or an object store; see :meth:`create` and :meth:`open`."""

    # Opening and making -------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: Place,
        *,
        phenotypes: Sequence[str],
        n_variants: int,
        chunk_variants: int,
        variables: Sequence[Variable],
        attributes: Mapping[str, Any],
        plan: Mapping[str, Any],
    ) -> ResultStore:
        """Make the empty arrays of a scan; not yet a store until :meth:`seal` is called.

        Parameters
        ----------
        path : Path or ObjectPath
            Where nothing is yet; see :func:`hlmm_scan.staging.staged_store`.
        phenotypes : sequence of str
        n_variants, chunk_variants : int
        variables : sequence of Variable
            As :func:`hlmm_scan.schema.result_variables` gives them.
        attributes : mapping
            Provenance of the run, JSON types only.
        plan : mapping
            Stored as the attributes of ``run``.
        """
        group = zarr.create_group(zarr_store(path), zarr_format=3)
        store = cls(path, group)
        store._growing = True
        shapes = {"phenotype": len(phenotypes), "variant": n_variants}
        for variable in (*COORDINATES, *variables):
            two_dimensional = len(variable.dims) == 2
            chunks = (1, chunk_variants) if two_dimensional else (COORDINATE_CHUNK,)
            shape = tuple(shapes[d] for d in variable.dims)
            fitting = tuple(max(1, min(c, s)) for c, s in zip(chunks, shape, strict=True))
            store.make_array(variable, shape, fitting)
        names = np.array(list(phenotypes), dtype=object)
        cast(zarr.Array[Any], group["phenotype"])[:] = names
        group.create_group("null")
        group.create_group("random_effects")
        group.create_group("run").create_group("ledger")
        group.attrs.update(
            {
                MARK: {"kind": "results", "format": STORE_FORMAT, CHECKSUMS: True},
                "coordinates": " ".join(v.name for v in COORDINATES if v.name != "phenotype"),
                **attributes,
            }
        )
        store.put_plan(plan)
        return store

    @classmethod
    def open(cls, path: Place | str) -> ResultStore:
        """Open an existing store, also one of :data:`~hlmm_scan.schema.WALD_FORMAT` to read.

        Raises
        ------
        InputError
            If there is none, or it is not ours, or of another format version.
        InfrastructureError
            If an object store does not answer.
        """
        path = place(path)
        if not stands(path):
            raise InputError(f"{path}: no such result store")
        mark = read_mark(path)
        if mark is None or mark.get("kind") != "results":
            damaged = mark is None and (path / ROOT).is_file() and read_root(path) is None
            or_damaged = f", or {ROOT} is damaged" if damaged else ""
            raise InputError(f"{path}: not a result store of hlmm-scan{or_damaged}")
        if mark.get("format") not in (WALD_FORMAT, STORE_FORMAT):
            raise InputError(
                f"{path}: result store of format {mark.get('format')}, this version reads "
                f"{WALD_FORMAT} and {STORE_FORMAT}; open it with the version that wrote it"
            )
        try:
            store = cls(path, cast(zarr.Group, None))
            store._open(checked=bool(mark.get(CHECKSUMS)))
            if not store.checked:
                _tell_once(str(path))
            return store
        except OSError as error:
            raise read_error(path, error) from error
        except (ValueError, KeyError, TypeError, zarr.errors.BaseZarrError) as error:
            raise InputError(f"{path}: its metadata are damaged ({error}); {REMEDY}") from error

    def require_current(self) -> None:
        """Raise an error unless this version writes such stores.

        Raises
        ------
        InputError
        """
        if self.of_wald_tests:
            raise InputError(
                f"{self.path}: result store of format {WALD_FORMAT}, which this version only "
                f"reads (it writes {STORE_FORMAT}); go on with the version that wrote it, or scan "
                "anew with --overwrite"
            )

    def make_array(
        self,
        variable: Variable,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        *,
        overwrite: bool = False,
    ) -> None:
        """Make the array of a variable, all of it missing."""
        self._group.create_array(
            variable.name,
            shape=shape,
            chunks=chunks,
            dtype=str if variable.dtype == "str" else variable.dtype,
            fill_value=variable.fill_value,
            dimension_names=variable.dims,
            attributes=variable.attributes(),
            compressors=compressors(),
            overwrite=overwrite,
        )
        self._arrays.pop(variable.name, None)

    def end_at(self, n_variants: int) -> None:
        """Cut the arrays to the variants there turned out to be; before :meth:`seal`."""
        for variable in (*COORDINATES, *self.variables):
            if "variant" in variable.dims:
                array = self.array(variable.name).zarr
                shape = (*array.shape[:-1], n_variants)
                # Nothing was written beyond, and there may be a great many places for it.
                sync(array.async_array.resize(shape, delete_outside_chunks=False))
                self._arrays.pop(variable.name)

    def put_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add to the attributes of the root; before :meth:`seal`."""
        self._group.attrs.update(dict(attributes))

    # Reading ------------------------------------------------------------------------------

    @property
    def genotype_rows(self) -> CheckedArray | None:
        """Variants of the genotype datasets that are scanned, (m,), ascending; None for all."""
        run = self.group("run")
        return CheckedArray(cast(zarr.Array[Any], run[ROWS])) if ROWS in run else None

    def put_genotype_rows(self, rows: NDArray[np.int64]) -> None:
        """Store which variants are scanned; before :meth:`seal`."""
        array = self.group("run").create_array(
            ROWS,
            shape=rows.shape,
            chunks=(COORDINATE_CHUNK,),
            dtype="int64",
            compressors=compressors(),
        )
        CheckedArray(array)[:] = rows

    @property
    def phenotypes(self) -> list[str]:
        """Names of the phenotypes, in stored order."""
        return [str(name) for name in np.asarray(self.array("phenotype")[:])]

    def being_read(self) -> AbstractContextManager[None]:
        """Keep others from replacing this store, and what is derived in it, within a block.

        Raises
        ------
        StoreHeldError
            If somebody does, or did since this was opened.
        """
        return being_read(self.path, self._run_id)

    def null_group(self, phenotype: str, key: str = "") -> zarr.Group:
        """Return the group of one phenotype's null model; while the store is made, make it.

        Parameters
        ----------
        phenotype : str
        key : str, default ""
            The default null model, or by its key another one, which stands below it.
        """
        path = f"null/{group_name(phenotype)}" + (f"/others/{group_name(key)}" if key else "")
        return self._group.require_group(path) if self._growing else self.group(path)

    def null_array(self, phenotype: str, name: str) -> CheckedArray:
        """Return an array of a phenotype's default null model."""
        return CheckedArray(cast(zarr.Array[Any], self.null_group(phenotype)[name]))

    def array(self, name: str) -> CheckedArray:
        """Return an array of the root; opened once."""
        if name not in self._arrays:
            with self._reading_metadata():
                self._arrays[name] = CheckedArray(cast(zarr.Array[Any], self._group[name]))
        return self._arrays[name]

    def dataset(self, **options: Any) -> xr.Dataset:
        """Open the results lazily; in a folder the same as ``xarray.open_zarr(path, **options)``.

        With ``chunks=None`` a slice is read when its values are asked for, without Dask.
        """
        # Imported here: xarray takes longer to load than most tasks' first reads, and only readers
        # of results need it.
        import xarray as xr

        store = zarr_store(self.path, read_only=True, checks=self._files.checks)
        dataset: xr.Dataset = xr.open_zarr(store, **options)
        return dataset

    def read_partition(
        self, phenotype: int, start: int, stop: int, names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return result variables of one partition, all by default, (stop − start,) each."""
        names = [v.name for v in self.variables] if names is None else names
        columns = self._each(names, lambda name: self.array(name)[phenotype, start:stop])
        return {name: np.asarray(column) for name, column in zip(names, columns, strict=True)}

    def require_complete(self) -> None:
        """Raise an error unless the scan is complete.

        Raises
        ------
        IncompleteError
        """
        if self.attributes.get("run_status") != "complete":
            raise IncompleteError(
                f"{self.path}: the scan is not complete; run it to its end first "
                "(hlmm-scan status says what is missing)"
            )

    @property
    def derived(self) -> tuple[Variable, ...]:
        """Derived variables this store holds, whole."""
        consolidated = (read_root(self.path) or {}).get("consolidated_metadata") or {}
        metadata = consolidated.get("metadata", {})
        return tuple(v for v in DERIVED_RESULTS if v.name in metadata)

    @property
    def readable(self) -> tuple[Variable, ...]:
        """All result variables that a reader finds: those of the scan, then derived ones."""
        return self.variables + self.derived

    # Writing ------------------------------------------------------------------------------

    def write_variants(self, start: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write coordinates of consecutive variants from `start` on."""
        for name, values in columns.items():
            self.array(find(name, COORDINATES).name)[start : start + len(values)] = values

    def write_partition(
        self, phenotype: int, start: int, stop: int, values: Mapping[str, NDArray[Any]]
    ) -> str:
        """Write one phenotype of a partition: exactly one chunk of every result array.

        Parameters
        ----------
        phenotype, start, stop : int
        values : mapping of str to ndarray, shape (stop − start,)
            One entry for every variable of the store.

        Returns
        -------
        str
            Checksum of the values.

        Raises
        ------
        ValueError
            If names, lengths or chunk bounds are not those of the store.
        """
        names = [v.name for v in self.variables]
        if sorted(values) != sorted(names):
            raise ValueError(f"partition has {sorted(values)}, the store {sorted(names)}")
        chunk = self.array("status").chunks[1]
        n_variants = self.array("status").shape[1]
        if start % chunk or stop != min(start + chunk, n_variants):
            raise ValueError(f"variants {start}-{stop} are not one chunk of {chunk}")
        stored = {
            v.name: np.asarray(values[v.name], dtype=object if v.dtype == "str" else v.dtype)
            for v in self.variables
        }
        for name, column in stored.items():
            if column.shape != (stop - start,):
                raise ValueError(f"{name} has shape {column.shape}, not ({stop - start},)")

        # The status last: rows that are not whole, meanwhile or after a kill, read as pending.
        others = {name: column for name, column in stored.items() if name != "status"}
        self.write_columns(phenotype, start, others)
        self.array("status")[phenotype, start:stop] = stored["status"]
        return checksum(stored, names)

    def chunk_checksums(self, phenotype: int, start: int) -> dict[str, str]:
        """Return the checksums of the chunks that :meth:`write_partition` wrote just now.

        Returns
        -------
        dict of str to str
            As :class:`~hlmm_scan.results.records.PartitionRecord` has them; nothing where the
            store was made without checksums.
        """
        if not self.checked:
            return {}
        place = chunk_place(phenotype, start // self.array("status").chunks[1])
        noted = self._files.written
        # While the store is made they stay where the manifest will be made of them.
        take = noted.__getitem__ if self._growing else noted.pop
        written = [take(chunk_key(v.name, place)) for v in self.variables]
        return {place: "".join(f"{checksum:08x}" for checksum in written)}

    def write_columns(
        self, phenotype: int, start: int, columns: Mapping[str, NDArray[Any]]
    ) -> None:
        """Write values of some result variables from a variant on; the status is not among them."""

        def put(name: str) -> None:
            values = columns[name]
            self.array(name)[phenotype, start : start + len(values)] = values

        self._each(list(columns), put)

    def _each(self, names: Sequence[str], do: Callable[[str], T]) -> list[T]:
        """Read or write arrays; several at a time where each costs a trip to a server."""
        if isinstance(self.path, ObjectPath):
            for name in names:
                self.array(name)
            with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
                return list(pool.map(do, names))
        return [do(name) for name in names]


@lru_cache
def _tell_once(path: str) -> None:
    logger.info(
        "%s: made without checksums, by an older version: damage to it may go unnoticed", path
    )


def group_name(phenotype: str) -> str:
    """Return a phenotype's name in the form that any file system and Zarr accept."""
    name = quote(phenotype, safe=" ()+,=@")
    return name if not name.startswith(("__", ".")) and name != "zarr.json" else f"%{name}"
