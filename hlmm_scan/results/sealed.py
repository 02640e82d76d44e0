"""The files of a result store: what is known of each, and how the few that change are changed.

What stands for good is listed in a manifest, chunks of finished partitions in the ledger. Root,
plan and manifest are documents that change in one atomic write and carry their own checksum.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ZarrUserWarning

from hlmm_scan.errors import InputError, StoreHeldError
from hlmm_scan.results.in_use import require_run
from hlmm_scan.results.ledger import Ledger, ledger_at
from hlmm_scan.results.mark import CHECKSUMS, REMEDY
from hlmm_scan.results.recorded import RecordedChunks
from hlmm_scan.schema import (
    ALL_RESULTS,
    COORDINATES,
    DERIVED_RESULTS,
    SCORE_TESTS,
    WALD_FORMAT,
    Variable,
)
from hlmm_scan.storage import ObjectPath, Place, zarr_store
from hlmm_scan.storage.arrays import CheckedArray, get_bytes, put_bytes
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
from hlmm_scan.storage.places import MARK, ROOT

if TYPE_CHECKING:
    from hlmm_scan.storage.zarr_files import ZarrFiles
    from hlmm_scan.storage.zarr_objects import ZarrObjects

_MANIFEST = f"run/{MANIFEST}/{ROOT}"
_PLAN = f"run/{ROOT}"
_COORDINATES = {v.name for v in COORDINATES}
_RESULTS = {v.name for v in ALL_RESULTS} - {v.name for v in DERIVED_RESULTS}


class SealedGroup:
    """The Zarr group of a result store, each of whose files is known by a checksum.

    Parameters
    ----------
    path : Path or ObjectPath
    group : zarr.Group
    """

    def __init__(self, path: Place, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self._arrays: dict[str, CheckedArray] = {}
        self._variables: tuple[Variable, ...] = ()
        self._growing = False

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

    # What it says of itself ---------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the root: our mark and the provenance."""
        return self._group.attrs.asdict()

    @property
    def plan(self) -> dict[str, Any]:
        """The plan as it was stored by :meth:`put_plan`."""
        try:
            return cast(dict[str, Any], self.group("run").attrs["plan"])
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{self.path}: its plan is damaged ({error}); {REMEDY}") from error

    @property
    def of_wald_tests(self) -> bool:
        """Whether an earlier version wrote it, which had no score tests."""
        mark = cast(dict[str, Any], self.attributes[MARK])
        return bool(mark["format"] == WALD_FORMAT)

    @property
    def checked(self) -> bool:
        """Whether the store was made with checksums: those before 2026-12 were not."""
        return bool(cast(dict[str, Any], self.attributes.get(MARK, {})).get(CHECKSUMS))

    @cached_property
    def ledger(self) -> Ledger:
        """The journals of finished partitions."""
        return ledger_at(self.path, self._run_id)

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
    def _run_id(self) -> str:
        return str(self.attributes.get("run_id", ""))

    @property
    def _listed_arrays(self) -> set[str]:
        assert self.manifest is not None
        return {key.removesuffix(f"/{ROOT}") for key in self.manifest.documents}

    def group(self, name: str) -> zarr.Group:
        """Return a group of the store."""
        return cast(zarr.Group, self._group[name])

    @contextmanager
    def _reading_metadata(self) -> Iterator[None]:
        """Say in one line that metadata of a store without checksums make no sense."""
        try:
            yield
        except (ValueError, TypeError, zarr.errors.MetadataValidationError) as error:
            raise InputError(
                f"{self.path}: its metadata are damaged ({error}); {REMEDY}"
            ) from error

    # What is known of its files -------------------------------------------------------------

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
        manifest = Manifest.of_files(self._run_id, files)
        put_bytes(self._files, _MANIFEST, manifest.to_document())
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

    # What changes ---------------------------------------------------------------------------

    def put_plan(self, plan: Mapping[str, Any]) -> None:
        """Store the plan in place of the one there is."""
        if self._growing or not self.checked:
            self.group("run").attrs.update({"plan": dict(plan)})
            return
        self._edit(_PLAN, lambda metadata: metadata["attributes"].update({"plan": dict(plan)}))

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
        self.edit_root(lambda metadata: metadata["attributes"].update(attributes))

    def list_written(self, names: Sequence[str]) -> None:
        """List in the manifest the files of some arrays, as they were written just now."""
        if not self.checked:
            return
        theirs = tuple(f"{name}/" for name in names)
        files = {
            k: self._files.written.pop(k) for k in list(self._files.written) if k.startswith(theirs)
        }
        self._add_to_manifest(Manifest.of_files("", files))

    def _add_to_manifest(self, more: Manifest) -> None:
        """List more files, which stand already."""
        where = self.path / _MANIFEST
        version = where.read()[1] if isinstance(where, ObjectPath) else {}
        manifest = Manifest.read(self.path, _MANIFEST)
        if manifest.of != self._run_id:
            raise StoreHeldError(f"{self.path}: another run replaced this store; start again")
        manifest.documents.update(more.documents)
        manifest.chunks.update(more.chunks)
        if isinstance(where, ObjectPath):
            where.replace(manifest.to_document(), version)
        else:
            write_durably(where, manifest.to_document())

    def edit_root(self, change: Callable[[dict[str, Any]], None]) -> None:
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
            if key != ROOT:
                require_run(self.path, self._run_id)
            elif metadata["attributes"].get("run_id", "") != self._run_id:
                raise StoreHeldError(f"{self.path}: another run replaced this store; start again")
            change(metadata)
            return sealed(metadata) if checked else json.dumps(metadata, indent=2).encode()

        document = self.path / key
        if isinstance(document, ObjectPath):
            content, version = document.read()
            document.replace(changed(content), version)
        else:
            write_durably(document, changed(document.read_bytes()))
        self._open(checked)


def _written_before_the_run(key: str) -> bool:
    """Return whether a chunk must exist as soon as there is a store, even an old one."""
    return key.startswith(("null/", "random_effects/")) or key.partition(CHUNK)[0] in _COORDINATES
