"""The result store: one Zarr group that xarray opens as it is, at any moment of the run.

Layout: arrays over (phenotype, variant) and the coordinates in the root; ``null/<phenotype>`` the
null models; ``random_effects`` those that phenotypes of the same people share; ``run`` the plan
(its attributes) and ``run/ledger`` the journals. A partition is exactly one chunk, 1 phenotype × B
variants, of every result array, so no two writers ever share a file.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ZarrUserWarning

from hlmm_scan.errors import IncompleteError, InputError, StoreHeldError
from hlmm_scan.results.in_use import being_changed, being_read
from hlmm_scan.results.ledger import Ledger, ledger_at
from hlmm_scan.schema import (
    ALL_RESULTS,
    COORDINATES,
    DERIVED_RESULTS,
    SCORE_TESTS,
    STORE_FORMAT,
    WALD_FORMAT,
    Variable,
    find,
)
from hlmm_scan.staging import read_error, stands, write_error
from hlmm_scan.storage import ObjectPath, Place, place, zarr_store
from hlmm_scan.storage.places import ROOT, read_json

if TYPE_CHECKING:
    import xarray as xr

T = TypeVar("T")

MARK = "hlmm_scan"
ROWS = "genotype_rows"
COORDINATE_CHUNK = 65_536
"""Variants per chunk of the coordinate arrays: read whole by every plot, written once."""

_REQUESTS_AT_ONCE = 8


class ResultStore:
    """A result store, in a folder or an object store.

    Parameters
    ----------
    path : Path or ObjectPath
        Existing store; see :meth:`create` and :meth:`open`.
    """

    def __init__(self, path: Place, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._variables: tuple[Variable, ...] = ()

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
        shapes = {"phenotype": len(phenotypes), "variant": n_variants}
        for variable in (*COORDINATES, *variables):
            two_dimensional = len(variable.dims) == 2
            chunks = (1, chunk_variants) if two_dimensional else (COORDINATE_CHUNK,)
            shape = tuple(shapes[d] for d in variable.dims)
            group.create_array(
                variable.name,
                shape=shape,
                chunks=tuple(max(1, min(c, s)) for c, s in zip(chunks, shape, strict=True)),
                dtype=str if variable.dtype == "str" else variable.dtype,
                fill_value=variable.fill_value,
                dimension_names=variable.dims,
                attributes=variable.attributes(),
            )
        names = np.array(list(phenotypes), dtype=object)
        cast(zarr.Array[Any], group["phenotype"])[:] = names
        group.create_group("null")
        group.create_group("random_effects")
        group.create_group("run").create_group("ledger")
        group.attrs.update(
            {
                MARK: {"kind": "results", "format": STORE_FORMAT},
                "coordinates": " ".join(v.name for v in COORDINATES if v.name != "phenotype"),
                **attributes,
            }
        )
        store = cls(path, group)
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
            raise InputError(f"{path}: not a result store of hlmm-scan")
        if mark.get("format") not in (WALD_FORMAT, STORE_FORMAT):
            raise InputError(
                f"{path}: result store of format {mark.get('format')}, this version reads "
                f"{WALD_FORMAT} and {STORE_FORMAT}; open it with the version that wrote it"
            )
        try:
            return cls(path, _open_group(path))
        except OSError as error:
            raise read_error(path, error) from error

    @property
    def of_wald_tests(self) -> bool:
        """Whether an earlier version wrote it, which had no score tests."""
        mark = cast(dict[str, Any], self.attributes[MARK])
        return bool(mark["format"] == WALD_FORMAT)

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

    def seal(self) -> None:
        """Write consolidated metadata, so that xarray opens the store without a warning.

        Done once, before the ledger holds files: the metadata of the arrays never changes later.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
            zarr.consolidate_metadata(self._group.store)

    # Reading ------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the root: our mark and the provenance."""
        return self._group.attrs.asdict()

    @property
    def plan(self) -> dict[str, Any]:
        """The plan as it was stored by :meth:`create`."""
        return cast(dict[str, Any], self.group("run").attrs["plan"])

    @property
    def genotype_rows(self) -> zarr.Array[Any] | None:
        """Variants of the genotype datasets that are scanned, (m,), ascending; None for all."""
        run = self.group("run")
        return cast(zarr.Array[Any], run[ROWS]) if ROWS in run else None

    def put_genotype_rows(self, rows: NDArray[np.int64]) -> None:
        """Store which variants are scanned; before :meth:`seal`."""
        array = self.group("run").create_array(
            ROWS, shape=rows.shape, chunks=(COORDINATE_CHUNK,), dtype="int64"
        )
        array[:] = rows

    def put_plan(self, plan: Mapping[str, Any]) -> None:
        """Store the plan in place of the one there is."""
        self.group("run").attrs.update({"plan": dict(plan)})

    @property
    def phenotypes(self) -> list[str]:
        """Names of the phenotypes, in stored order."""
        return [str(name) for name in np.asarray(self.array("phenotype")[:])]

    @cached_property
    def ledger(self) -> Ledger:
        """The journals of finished partitions."""
        return ledger_at(self.path, str(self.attributes.get("run_id", "")))

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Result variables this store holds; of an earlier version's, not its p-values."""
        if not self._variables:
            other = SCORE_TESTS if self.of_wald_tests else ()
            self._variables = tuple(
                v for v in ALL_RESULTS if v.name in self._group and v.name not in other
            )
        return self._variables

    def being_read(self) -> AbstractContextManager[None]:
        """Keep others from replacing this store, and what is derived in it, within a block.

        Raises
        ------
        StoreHeldError
            If somebody does, or did since this was opened.
        """
        return being_read(self.path, str(self.attributes.get("run_id", "")))

    def group(self, name: str) -> zarr.Group:
        """Return a group of the store."""
        return cast(zarr.Group, self._group[name])

    def null_group(self, phenotype: str, key: str = "") -> zarr.Group:
        """Return (making it where absent) the group of one phenotype's null model.

        Parameters
        ----------
        phenotype : str
        key : str, default ""
            The default null model, or by its key another one, which stands below it.
        """
        group = self.group("null").require_group(group_name(phenotype))
        return group.require_group(f"others/{group_name(key)}") if key else group

    def array(self, name: str) -> zarr.Array[Any]:
        """Return an array of the root; opened once."""
        if name not in self._arrays:
            array = cast(zarr.Array[Any], self._group[name])
            # A chunk that holds only the fill value must be a file as well: a store is compared
            # and counted by its chunks. Zarr binds this when it opens an array.
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]

    def dataset(self, **options: Any) -> xr.Dataset:
        """Open the results lazily; in a folder the same as ``xarray.open_zarr(path, **options)``.

        With ``chunks=None`` a slice is read when its values are asked for, without Dask.
        """
        # Imported here: xarray takes longer to load than most tasks' first reads, and only readers
        # of results need it.
        import xarray as xr

        dataset: xr.Dataset = xr.open_zarr(zarr_store(self.path, read_only=True), **options)
        return dataset

    def read_partition(
        self, phenotype: int, start: int, stop: int, names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return result variables of one partition, all by default, (stop − start,) each."""
        names = [v.name for v in self.variables] if names is None else names
        columns = self._each(names, lambda name: self.array(name)[phenotype, start:stop])
        return {name: np.asarray(column) for name, column in zip(names, columns, strict=True)}

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
        stored = {v.name: np.asarray(values[v.name], dtype=v.dtype) for v in self.variables}
        for name, column in stored.items():
            if column.shape != (stop - start,):
                raise ValueError(f"{name} has shape {column.shape}, not ({stop - start},)")

        def put(name: str) -> None:
            self.array(name)[phenotype, start:stop] = stored[name]

        self._each(names, put)
        return checksum(stored, names)

    def _each(self, names: Sequence[str], do: Callable[[str], T]) -> list[T]:
        """Read or write arrays; several at a time where each costs a trip to a server."""
        if isinstance(self.path, ObjectPath):
            for name in names:
                self.array(name)
            with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
                return list(pool.map(do, names))
        return [do(name) for name in names]

    def complete(self, attributes: Mapping[str, Any]) -> None:
        """Put the completion mark and closing attributes on the store, in one atomic write."""
        self._edit_root(lambda metadata: metadata["attributes"].update(attributes))

    def _edit_root(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the root's metadata in one atomic write, consolidated metadata and all.

        Done by hand: zarr would drop the consolidated metadata.
        """

        def changed(content: bytes) -> str:
            metadata = json.loads(content)
            if metadata["attributes"].get("run_id") != self.attributes.get("run_id"):
                raise StoreHeldError(f"{self.path}: another run replaced this store; start again")
            change(metadata)
            return json.dumps(metadata, indent=2)

        root = self.path / ROOT
        if isinstance(root, ObjectPath):
            content, version = root.read()
            root.replace(changed(content).encode(), version)
        else:
            scratch = root.with_name(f"{ROOT}.partial")
            try:
                scratch.write_text(changed(root.read_bytes()))
                scratch.replace(root)
            finally:
                scratch.unlink(missing_ok=True)
        self._group = _open_group(self.path)
        self._arrays.clear()

    # What is derived from a complete store ------------------------------------------------

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
        consolidated = read_json(self.path / ROOT).get("consolidated_metadata") or {}
        metadata = consolidated.get("metadata", {})
        return tuple(v for v in DERIVED_RESULTS if v.name in metadata)

    @property
    def readable(self) -> tuple[Variable, ...]:
        """All result variables that a reader finds: those of the scan, then derived ones."""
        return self.variables + self.derived

    def write_derived(
        self,
        variables: Sequence[Variable],
        chunks: Iterable[tuple[int, int, Mapping[str, NDArray[Any]]]],
        attributes: Mapping[str, Any],
    ) -> None:
        """Put derived variables into a complete store, in place of those of the same names.

        Readers that open the store meanwhile, or after a write that was cut short, find it without
        these variables and attributes, and otherwise as it was: what the consolidated metadata do
        not name is not there.

        Parameters
        ----------
        variables : sequence of Variable
            Of :data:`hlmm_scan.schema.DERIVED_RESULTS`.
        chunks : iterable of (int, int, mapping of str to ndarray)
            Phenotype, first variant, and the values of all `variables` from there on, in whole
            chunks of the store; what is not given stays missing.
        attributes : mapping
            Put on the root with them, JSON types only.

        Raises
        ------
        IncompleteError
            If the scan is not complete.
        StoreHeldError
            If another run holds the store, or somebody reads it.
        HlmmScanError
            If it cannot be written.
        """
        self.require_complete()
        names = [v.name for v in variables]

        def without(metadata: dict[str, Any]) -> None:
            for name in names:
                metadata["consolidated_metadata"]["metadata"].pop(name, None)
            for name in attributes:
                metadata["attributes"].pop(name, None)

        def with_them(metadata: dict[str, Any]) -> None:
            for name in names:
                stored = read_json(self.path / name / ROOT)
                metadata["consolidated_metadata"]["metadata"][name] = stored
            metadata["attributes"].update(attributes)

        like = self.array("status")
        try:
            with self.ledger.lock(), being_changed(self.path):
                self._edit_root(without)
                for variable in variables:
                    self._group.create_array(
                        variable.name,
                        shape=like.shape,
                        chunks=like.chunks,
                        dtype=variable.dtype,
                        fill_value=variable.fill_value,
                        dimension_names=variable.dims,
                        attributes=variable.attributes(),
                        overwrite=True,
                    )
                for phenotype, start, values in chunks:
                    self._write_chunk(phenotype, start, names, values)
                self._edit_root(with_them)
        except OSError as error:
            raise write_error(self.path, error) from error

    def _write_chunk(
        self, phenotype: int, start: int, names: Sequence[str], values: Mapping[str, NDArray[Any]]
    ) -> None:
        def put(name: str) -> None:
            stop = start + len(values[name])
            self.array(name)[phenotype, start:stop] = values[name]

        self._each(names, put)


def _open_group(path: Place) -> zarr.Group:
    return zarr.open_group(zarr_store(path), mode="r+", zarr_format=3, use_consolidated=False)


def checksum(values: Mapping[str, NDArray[Any]], names: Iterable[str]) -> str:
    """Return a digest of the named arrays, in that order, as little-endian bytes."""
    digest = hashlib.blake2b(digest_size=12)
    for name in names:
        column = values[name]
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def combined(checksums: Sequence[str]) -> str:
    """Return the checksum of a partition of several phenotypes, from those of each."""
    if len(checksums) == 1:
        return checksums[0]
    return hashlib.blake2b("".join(checksums).encode(), digest_size=12).hexdigest()


def group_name(phenotype: str) -> str:
    """Return a phenotype's name in the form that any file system and Zarr accept."""
    name = quote(phenotype, safe=" ()+,=@")
    return name if not name.startswith(("__", ".")) and name != "zarr.json" else f"%{name}"


def read_mark(path: Place) -> dict[str, Any] | None:
    """Return our mark on a Zarr group, or None where there is none.

    Raises
    ------
    HlmmScanError
        If an object store does not answer, or refuses.
    """
    try:
        metadata = read_json(path / ROOT)
    except OSError as error:
        raise read_error(path, error) from error
    mark = metadata.get("attributes", {}).get(MARK) if isinstance(metadata, dict) else None
    return mark if isinstance(mark, dict) else None
