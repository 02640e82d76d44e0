"""The result store: one Zarr group that xarray opens as it is, at any moment of the run.

Layout: arrays over (phenotype, variant) and the coordinates in the root; ``null/<phenotype>`` the
null models; ``random_effects`` those that phenotypes of the same people share; ``run`` the plan
(its attributes) and ``run/ledger`` the journals. A partition is exactly one chunk, 1 phenotype × B
variants, of every result array, so no two writers ever share a file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ZarrUserWarning

from hlmm_scan.errors import IncompleteError, InputError
from hlmm_scan.results.ledger import Ledger, ledger_at
from hlmm_scan.results.recorded import RecordedChunks, chunk_key, chunk_place
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
from hlmm_scan.storage.arrays import CheckedArray, compressors, get_bytes, put_bytes
from hlmm_scan.storage.checksums import (
    CHUNK,
    MANIFEST,
    Checks,
    Manifest,
    checksum_of,
    document_is_whole,
    sealed,
)
from hlmm_scan.storage.durable import write_durably
from hlmm_scan.storage.places import MARK, ROOT, read_json

if TYPE_CHECKING:
    import xarray as xr

    from hlmm_scan.storage.zarr_files import ZarrFiles
    from hlmm_scan.storage.zarr_objects import ZarrObjects

T = TypeVar("T")

logger = logging.getLogger(__name__)

ROWS = "genotype_rows"
CHECKSUMS = "checksums"
"""In our mark: whether the store was made with checksums."""

REMEDY = "restore the store from a copy, or start the scan anew with --overwrite"

_MANIFEST = f"run/{MANIFEST}/{ROOT}"
_PLAN = f"run/{ROOT}"
COORDINATE_CHUNK = 65_536
"""Variants per chunk of the coordinate arrays: read whole by every plot, written once."""

_REQUESTS_AT_ONCE = 8
_COORDINATES = {v.name for v in COORDINATES}
_RESULTS = {v.name for v in ALL_RESULTS} - {v.name for v in DERIVED_RESULTS}


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
        self._arrays: dict[str, CheckedArray] = {}
        self._variables: tuple[Variable, ...] = ()
        self._growing = False

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
                compressors=compressors(),
            )
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
        store = cls(path, group)
        store._growing = True
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
            damaged = mark is None and (path / ROOT).is_file() and _root(path) is None
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

    def _open(self, checked: bool) -> None:
        checks = Checks(
            self.path,
            REMEDY,
            manifest=partial(Manifest.read, self.path, _MANIFEST) if checked else None,
            recorded=self._recorded,
            whole=_written_before_the_run,
            own=(ROOT, _PLAN) if checked else (),
            thorough=True,  # xarray says of what cannot be decoded neither what nor where
        )
        store = zarr_store(self.path, checks=checks)
        self._group = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)
        self._arrays.clear()

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
        The manifest lists what is there now: coordinates, null models, and those metadata.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
            zarr.consolidate_metadata(self._group.store)
        files = {**self._of_earlier_runs(), **self._files.written}
        for key in (ROOT, _PLAN):
            del files[key]
            put_bytes(self._files, key, sealed(json.loads(get_bytes(self._files, key))))
        of = str(self.attributes.get("run_id", ""))
        put_bytes(self._files, _MANIFEST, Manifest.of_files(of, files).to_document())
        self._growing = False

    def _of_earlier_runs(self) -> dict[str, int]:
        """Return checksums of random effects that a run made which was cut off."""
        if not isinstance(self.path, Path):
            return {}
        written, found = self._files.written, {}
        for file in (self.path / "random_effects").rglob("*"):
            key = file.relative_to(self.path).as_posix()
            if key not in written and file.is_file():
                found[key] = checksum_of(key, file.read_bytes())
        return found

    # Reading ------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the root: our mark and the provenance."""
        return self._group.attrs.asdict()

    @property
    def plan(self) -> dict[str, Any]:
        """The plan as it was stored by :meth:`create`."""
        try:
            return cast(dict[str, Any], self.group("run").attrs["plan"])
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{self.path}: its plan is damaged ({error}); {REMEDY}") from error

    @property
    def checked(self) -> bool:
        """Whether the store was made with checksums: those before 2026-12 were not."""
        return bool(cast(dict[str, Any], self.attributes.get(MARK, {})).get(CHECKSUMS))

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

    def put_plan(self, plan: Mapping[str, Any]) -> None:
        """Store the plan in place of the one there is."""
        if self._growing or not self.checked:
            self.group("run").attrs.update({"plan": dict(plan)})
            return
        self._edit(_PLAN, lambda metadata: metadata["attributes"].update({"plan": dict(plan)}))

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
            # Of a store with a manifest without a word to Zarr, within whose reads this is asked.
            known = self._group if self.manifest is None else self._listed_arrays
            with self._reading_metadata():
                self._variables = tuple(
                    v for v in ALL_RESULTS if v.name in known and v.name not in other
                )
        return self._variables

    @property
    def _listed_arrays(self) -> set[str]:
        assert self.manifest is not None
        return {key.removesuffix(f"/{ROOT}") for key in self.manifest.documents}

    def group(self, name: str) -> zarr.Group:
        """Return a group of the store."""
        return cast(zarr.Group, self._group[name])

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

    @contextmanager
    def _reading_metadata(self) -> Iterator[None]:
        """Say in one line that metadata of a store without checksums make no sense."""
        try:
            yield
        except (ValueError, TypeError, zarr.errors.MetadataValidationError) as error:
            raise InputError(
                f"{self.path}: its metadata are damaged ({error}); {REMEDY}"
            ) from error

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

        # The status last: rows that are not whole, meanwhile or after a kill, read as pending.
        self._each([name for name in names if name != "status"], put)
        put("status")
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
        written = [self._files.written.pop(chunk_key(v.name, place)) for v in self.variables]
        return {place: "".join(f"{checksum:08x}" for checksum in written)}

    def flush(self) -> None:
        """Have on the disk all that this object wrote, so that a power cut leaves it there."""
        self._files.flush()

    @property
    def manifest(self) -> Manifest | None:
        """Checksums of what does not change any more; None where the store has none."""
        return self._files.checks.manifest if self._files.checks else None

    @property
    def _files(self) -> ZarrFiles | ZarrObjects:
        return cast("ZarrFiles | ZarrObjects", self._group.store)

    def _recorded(self, key: str) -> Collection[int] | None:
        """Return what is known of a chunk of a result variable that no manifest lists."""
        if key.partition(CHUNK)[0] not in _RESULTS:
            return None
        complete = self.attributes.get("run_status") == "complete"
        if complete or not self.checked:
            return () if complete and not self.checked else None
        return self._recorded_chunks(key)

    @cached_property
    def _recorded_chunks(self) -> RecordedChunks:
        return RecordedChunks(self.ledger.records(), [v.name for v in self.variables])

    def _each(self, names: Sequence[str], do: Callable[[str], T]) -> list[T]:
        """Read or write arrays; several at a time where each costs a trip to a server."""
        if isinstance(self.path, ObjectPath):
            for name in names:
                self.array(name)
            with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
                return list(pool.map(do, names))
        return [do(name) for name in names]

    def complete(
        self,
        attributes: Mapping[str, Any],
        chunks: Mapping[str, NDArray[np.uint32]] | None = None,
    ) -> None:
        """Put the completion mark and closing attributes on the store, in one atomic write.

        Parameters
        ----------
        attributes : mapping
        chunks : mapping of str to ndarray of uint32, optional
            Checksums of all chunks of the result variables, for the manifest: nothing writes them
            again.
        """
        if chunks:
            self._add_to_manifest(Manifest("", chunks=dict(chunks)))
        self._edit_root(lambda metadata: metadata["attributes"].update(attributes))

    def _add_to_manifest(self, more: Manifest) -> None:
        """List more files, which stand already."""
        manifest = Manifest.read(self.path, _MANIFEST)
        manifest.documents.update(more.documents)
        manifest.chunks.update(more.chunks)
        where = self.path / _MANIFEST
        if isinstance(where, ObjectPath):
            where.write_bytes(manifest.to_document())
        else:
            write_durably(where, manifest.to_document())

    def _edit_root(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the root's metadata in one atomic write, consolidated metadata and all.

        Done by hand: zarr would drop the consolidated metadata.
        """
        self._edit(ROOT, change)

    def _edit(self, key: str, change: Callable[[dict[str, Any]], None]) -> None:
        checked = self.checked

        def changed(content: bytes) -> bytes:
            if checked and not document_is_whole(content):
                raise InputError(f"{self.path}: {key} is damaged; {REMEDY}")
            metadata = json.loads(content)
            change(metadata)
            return sealed(metadata) if checked else json.dumps(metadata, indent=2).encode()

        document = self.path / key
        if isinstance(document, ObjectPath):
            content, version = document.read()
            document.replace(changed(content), version)
        else:
            write_durably(document, changed(document.read_bytes()))
        self._open(checked)

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
        consolidated = (_root(self.path) or {}).get("consolidated_metadata") or {}
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
            If another run holds the store.
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
            with self.ledger.lock():
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
                        compressors=compressors(),
                        overwrite=True,
                    )
                    self._arrays.pop(variable.name, None)
                for phenotype, start, values in chunks:
                    self._write_chunk(phenotype, start, names, values)
                self.flush()
                if self.checked:
                    theirs = tuple(f"{name}/" for name in names)
                    files = {
                        k: self._files.written.pop(k)
                        for k in list(self._files.written)
                        if k.startswith(theirs)
                    }
                    self._add_to_manifest(Manifest.of_files("", files))
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


@lru_cache
def _tell_once(path: str) -> None:
    logger.info(
        "%s: made without checksums, by an older version: damage to it may go unnoticed", path
    )


def _written_before_the_run(key: str) -> bool:
    """Return whether a chunk must exist as soon as there is a store, even an old one."""
    return key.startswith(("null/", "random_effects/")) or key.partition(CHUNK)[0] in _COORDINATES


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
    """Return our mark on a Zarr group, or None where there is none; damaged groups have it too.

    Raises
    ------
    HlmmScanError
        If an object store does not answer, or refuses.
    """
    metadata = _root(path)
    attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
    mark = attributes.get(MARK) if isinstance(attributes, dict) else None
    return mark if isinstance(mark, dict) else None


def _root(path: Place) -> Any:
    try:
        return read_json(path / ROOT)
    except OSError as error:
        raise read_error(path, error) from error
