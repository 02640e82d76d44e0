"""A converted genotype dataset: opening it and reading blocks of variants.

Opening reads one small metadata file; arrays are read where they are asked for. A dataset is sent
to another process as its path.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from hlmm_scan import schema
from hlmm_scan.errors import DamagedError, InputError
from hlmm_scan.genotypes.dosages import GenotypeBlock
from hlmm_scan.genotypes.packing import packed_width
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import StrArray, VariantTable
from hlmm_scan.staging import read_error, stands
from hlmm_scan.storage import ObjectPath, Place, place, transient, zarr_store
from hlmm_scan.storage.places import ROOT

MARK = "hlmm_scan"
"""Root attribute that says a store is ours."""

KIND = "genotypes"

DATASET_FORMAT = 1
"""Version of the genotype dataset's layout; a store of another version is refused."""

CALLS = "call_genotype_packed"

_NAMED_IN_ERRORS = 3
_LISTED_FROM = 20  # chunks from which one list is cheaper than asking for each


class GenotypeDataset:
    """Hard calls of n people at m variants, as `convert` wrote them.

    Made by `GenotypeDataset.open`. Instances are read-only and cheap to pickle.

    Attributes
    ----------
    path : Path or ObjectPath
        The Zarr store.
    n_samples : int
        People, n.
    n_variants : int
        Variants, m.
    chunk_variants : int
        Variants in one chunk of calls; reads that follow it decode nothing twice.
    fingerprint : str
        ``"sha256:…"`` over people, variants and calls; the same content has the same one whatever
        its chunking.
    """

    def __init__(self, path: Place, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}
        mark = _mark(group)
        self.fingerprint = str(mark["fingerprint"])
        calls = self._array(CALLS)
        self.n_variants = int(calls.shape[0])
        self.chunk_variants = int(calls.chunks[0])
        self.n_samples = int(self._array("sample_id").shape[0])
        if calls.shape[1] != packed_width(self.n_samples):
            raise InputError(
                f"{path}: {calls.shape[1]} bytes a variant do not fit {self.n_samples} people; "
                "convert the genotypes again"
            )

    @classmethod
    def open(cls, path: Place | str) -> GenotypeDataset:
        """Open a dataset.

        Parameters
        ----------
        path : Path, ObjectPath or str

        Returns
        -------
        GenotypeDataset

        Raises
        ------
        InputError
            If nothing is there, or it is not a genotype dataset of this package and version.
        InfrastructureError
            If an object store does not answer.
        """
        path = place(path)
        group = open_group(path)
        if group is None:
            raise InputError(f"{path}: not a genotype dataset: no Zarr group there")
        mark = _mark(group)
        if mark.get("kind") != KIND:
            raise InputError(f"{path}: not a genotype dataset: {_what_it_is(group)}")
        if mark.get("format") != DATASET_FORMAT:
            raise InputError(
                f"{path}: genotype dataset of format {mark.get('format')}, this version reads "
                f"{DATASET_FORMAT}; convert the genotypes again"
            )
        if CALLS not in group:
            raise InputError(f"{path}: the genotype dataset has no {CALLS}; convert again")
        try:
            return cls(path, group)
        except KeyError as error:
            raise InputError(
                f"{path}: the genotype dataset has no {error.args[0]}; convert again"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return GenotypeDataset.open, (self.path,)

    def __repr__(self) -> str:
        return (
            f"<GenotypeDataset {self.path}: {self.n_variants} variants × {self.n_samples} people, "
            f"{self.chunk_variants} variants a chunk>"
        )

    @cached_property
    def samples(self) -> SampleIds:
        """People in the order of the calls."""
        return SampleIds(
            individual_id=self._text("sample_id"),
            family_id=self._text("sample_family_id") if "sample_family_id" in self._group else None,
            sex=self._read("sample_sex").astype(np.int8),
        )

    @cached_property
    def contigs(self) -> tuple[str, ...]:
        """Chromosomes in the order in which they first appear."""
        return tuple(self._text("contig_id"))

    def variant_contig(self) -> NDArray[np.int16]:
        """Return the index into `contigs` of every variant, shape (m,)."""
        return self._read("variant_contig").astype(np.int16, copy=False)

    def variants(self, start: int, stop: int) -> VariantTable:
        """Return the variant table of variants ``start`` to ``stop`` (exclusive).

        Raises
        ------
        IndexError
            If the range does not lie within the dataset.
        DamagedError
            If a chunk is missing from the store, or cannot be decoded.
        """
        contigs = np.array(self.contigs, dtype=object)
        alleles = self._text("variant_allele", start, stop)
        return VariantTable(
            contig=contigs[self._read("variant_contig", start, stop)],
            position=self._read("variant_position", start, stop).astype(np.int32, copy=False),
            variant_id=self._text("variant_id", start, stop),
            other_allele=alleles[:, 0],
            effect_allele=alleles[:, 1],
        )

    def read_packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read packed calls of variants ``start`` to ``stop`` (exclusive).

        Returns
        -------
        ndarray of uint8, shape (stop - start, ⌈n/4⌉)
            PLINK bit order, padding set to missing; see `hlmm_scan.genotypes.packing`.

        Raises
        ------
        IndexError
            If the range does not lie within the dataset.
        DamagedError
            If a chunk is missing from the store, or cannot be decoded.
        """
        return np.ascontiguousarray(self._read(CALLS, start, stop))

    def read_block(self, start: int, stop: int) -> GenotypeBlock:
        """Read variants ``start`` to ``stop`` (exclusive) as kernels take them.

        Returns
        -------
        ndarray of uint8, shape (stop - start, ⌈n/4⌉), or Dosages
            Packed hard calls as `read_packed` gives them, or dosages.

        Raises
        ------
        IndexError
            If the range does not lie within the dataset.
        DamagedError
            If a chunk is missing from the store, or cannot be decoded.
        """
        return self.read_packed(start, stop)

    def genotype_counts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return stored counts over all people for variants ``start`` to ``stop`` (exclusive).

        Returns
        -------
        ndarray of int64, shape (stop - start, 4)
            People with 0, 1 and 2 copies of the effect allele, and people without a call.

        Raises
        ------
        IndexError
            If the range does not lie within the dataset.
        DamagedError
            If a chunk is missing from the store, or cannot be decoded.
        """
        called = self._read("variant_genotype_counts", start, stop)
        missing = self._read("variant_missing_count", start, stop)
        return np.column_stack([called, missing]).astype(np.int64)

    def find_variants(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Return where variants of these ids stand.

        Parameters
        ----------
        ids : iterable of str

        Returns
        -------
        ndarray of int64
            Positions along the variant axis, in the order of ``ids``.

        Raises
        ------
        InputError
            If ids are unknown, or stand at more than one variant; the first few are named.
        """
        wanted = list(ids)
        found: dict[str, int] = {}
        asked = set(wanted)
        repeated: dict[str, None] = {}
        step = int(self._array("variant_id").chunks[0])
        for start in range(0, self.n_variants, step):
            block = self._text("variant_id", start, min(start + step, self.n_variants))
            for position, variant_id in enumerate(block, start=start):
                if variant_id in asked:
                    if variant_id in found:
                        repeated[variant_id] = None
                    else:
                        found[variant_id] = position
        unknown = list(dict.fromkeys(i for i in wanted if i not in found))
        if unknown:
            raise InputError(f"{self.path}: {_some(unknown)} not among its variant ids")
        if repeated:
            raise InputError(
                f"{self.path}: {_some(list(repeated))} carried by more than one variant, "
                "so the id does not say which is meant"
            )
        return np.array([found[i] for i in wanted], dtype=np.int64)

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            array = self._group[name]
            if not isinstance(array, zarr.Array):
                raise KeyError(name)
            self._arrays[name] = array
        return self._arrays[name]

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read rows of an array, having looked that their chunks exist.

        Zarr reads an absent chunk as fill values: missing calls that nobody made. The look costs
        one `stat` a chunk; object stores are opened so that reading it fails.

        Errors that may pass are not the dataset's fault and remain as they are.
        """
        array = self._array(name)
        stop = int(array.shape[0]) if stop is None else stop
        if not 0 <= start <= stop <= array.shape[0]:
            raise IndexError(f"{name}[{start}:{stop}] of {array.shape[0]}")
        if not isinstance(self.path, ObjectPath):
            absent = missing_chunk(self.path, name, array, start, stop)
            if absent is not None:
                raise self._misses(absent)
        try:
            return np.asarray(array[start:stop])
        except FileNotFoundError as error:
            raise self._misses(str(error.filename)) from error
        except (RuntimeError, ValueError, OSError) as error:
            if transient(error):
                raise
            # A torn or overwritten chunk ends in the decoder, whose message names no file.
            raise DamagedError(
                f"{self.path}: {name} cannot be decoded at rows {start}:{stop} ({error}); "
                "convert the genotypes again"
            ) from error

    def _misses(self, chunk: str) -> DamagedError:
        return DamagedError(
            f"{self.path}: chunk {chunk} is missing, the dataset is damaged; "
            "convert the genotypes again"
        )

    def _text(self, name: str, start: int = 0, stop: int | None = None) -> StrArray:
        return self._read(name, start, stop).astype(object)


def open_group(path: Place) -> zarr.Group | None:
    """Open the Zarr v3 group at a place for reading; None where there is none.

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
        if not (path / ROOT).is_file():
            return None
        return zarr.open_group(
            zarr_store(path, read_only=True, whole=True), mode="r", zarr_format=3
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


def is_genotype_dataset(path: Place) -> bool:
    """Return whether the store at a place carries our mark, of whatever format version."""
    group = open_group(path)
    return group is not None and _mark(group).get("kind") == KIND


def variable(name: str) -> schema.Variable:
    """Return the registry's entry of a stored genotype array."""
    return schema.find(name, schema.GENOTYPES)


def _mark(group: zarr.Group) -> dict[str, Any]:
    mark = group.attrs.get(MARK)
    return dict(mark) if isinstance(mark, dict) else {}


def _what_it_is(group: zarr.Group) -> str:
    kind = _mark(group).get("kind")
    if kind is not None:
        return f"the store holds {kind}"
    if "call_genotype" in group or "call_dosage" in group:
        return f"a VCF-Zarr store without {CALLS} (not supported yet)"
    return "the Zarr group does not carry this package's mark"


def _some(ids: list[str]) -> str:
    named = ", ".join(ids[:_NAMED_IN_ERRORS])
    if len(ids) == 1:
        return f"variant id {named} is"
    more = f" and {len(ids) - _NAMED_IN_ERRORS} more" if len(ids) > _NAMED_IN_ERRORS else ""
    return f"{len(ids)} variant ids ({named}{more}) are"
