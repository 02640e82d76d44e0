"""A converted genotype dataset: opening it and reading blocks of variants.

Opening reads one small metadata file; arrays are read where they are asked for. A dataset is sent
to another process as its path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hlmm_scan import schema
from hlmm_scan.array_types import Strings
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.arrays import StoredArrays, open_group
from hlmm_scan.genotypes.blocks import Dosages, GenotypeBlock, HardCalls, joined, packed_calls
from hlmm_scan.genotypes.calls import HARD_CALLS
from hlmm_scan.genotypes.chromosomes import NUMBERS_STAY, in_words
from hlmm_scan.genotypes.packing import packed_width
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variant_names import VariantName, find_variants
from hlmm_scan.genotypes.variants import Loci, VariantTable
from hlmm_scan.storage import Place, place
from hlmm_scan.storage.places import MARK

KIND = "genotypes"

DATASET_FORMAT = 2
"""Version of the genotype dataset's layout; a store of another version is refused."""

CALLS = "call_genotype_packed"
DOSAGES = "call_dosage"
HAS_DOSAGES = "variant_has_dosages"
INFO = "variant_info"

_IDS_AT_ONCE = 65_536


class GenotypeDataset:
    """Hard calls or dosages of n people at m variants, as `convert` wrote them.

    Opened by :func:`hlmm_scan.genotypes.open.open_dataset`. Instances are read-only and cheap to
    pickle.

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
    unit : float
        Copies of the effect allele a step of its dosages; 0 where it has only hard calls.
    fingerprint : str
        ``"sha256:…"`` over people, variants and calls; the same content has the same one whatever
        its chunking.
    """

    def __init__(self, path: Place, group: zarr.Group) -> None:
        self.path = path
        self._arrays = StoredArrays(path, group)
        self.fingerprint = str(mark_of(group)["fingerprint"])
        self._dosages = DOSAGES in group
        self._hard_calls = CALLS in group
        calls = self._arrays[CALLS if self._hard_calls else DOSAGES]
        self.n_variants = int(calls.shape[0])
        self.chunk_variants = int(calls.chunks[0])
        self.n_samples = int(self._arrays["sample_id"].shape[0])
        self.unit = float(self._arrays[DOSAGES].attrs["unit"]) if self._dosages else 0.0  # type: ignore[arg-type]
        width = packed_width(self.n_samples) if self._hard_calls else self.n_samples
        if calls.shape[1] != width:
            raise InputError(
                f"{path}: {calls.shape[1]} {'bytes' if self._hard_calls else 'dosages'} a variant "
                f"do not fit {self.n_samples} people; convert the genotypes again"
            )

    @classmethod
    def open(cls, path: Place | str) -> GenotypeDataset:
        """Open a dataset of this package; others are opened by `hlmm_scan.genotypes.open`.

        Raises
        ------
        InputError
            If nothing is there, or no genotype dataset of this package and version.
        InfrastructureError
            If an object store does not answer.
        """
        path = place(path)
        return cls.of(path, open_group(path))

    @classmethod
    def of(cls, path: Place, group: zarr.Group | None) -> GenotypeDataset:
        """Return the dataset whose group was opened; see :meth:`open`."""
        if group is None:
            raise InputError(f"{path}: not a genotype dataset: no Zarr group there")
        mark = mark_of(group)
        if mark.get("kind") != KIND:
            raise InputError(f"{path}: not a genotype dataset: {_what_it_is(group)}")
        if mark.get("format") != DATASET_FORMAT:
            raise InputError(
                f"{path}: genotype dataset of format {mark.get('format')}, this version reads "
                f"{DATASET_FORMAT}; convert the genotypes again"
            )
        if CALLS not in group and DOSAGES not in group:
            raise InputError(f"{path}: the genotype dataset has no {CALLS}; convert again")
        try:
            return cls(path, group)
        except KeyError as error:
            raise InputError(
                f"{path}: the genotype dataset has no {error.args[0]}; convert again"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).open, (self.path,)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the store says of itself."""
        return dict(self._arrays.group.attrs)

    @property
    def taken_from(self) -> str:
        """What of the store its genotypes are, for messages."""
        return CALLS if self._hard_calls and not self._dosages else DOSAGES

    @property
    def paths(self) -> tuple[Place, ...]:
        """Where it is, as one of several has it."""
        return (self.path,)

    def __repr__(self) -> str:
        return (
            f"<GenotypeDataset {self.path}: {self.n_variants} variants × {self.n_samples} people, "
            f"{self.chunk_variants} variants a chunk>"
        )

    @cached_property
    def samples(self) -> SampleIds:
        """People in the order of the calls."""
        return SampleIds(
            individual_id=self._arrays.text("sample_id"),
            family_id=self._arrays.text("sample_family_id")
            if "sample_family_id" in self._arrays
            else None,
            sex=self._arrays.read("sample_sex").astype(np.int8),
        )

    @cached_property
    def contigs(self) -> tuple[str, ...]:
        """Chromosomes in the order in which they first appear."""
        return tuple(self._arrays.text("contig_id"))

    def variant_contig(self) -> NDArray[np.int16]:
        """Return the index into `contigs` of every variant, shape (m,)."""
        return self._arrays.read("variant_contig").astype(np.int16, copy=False)

    @property
    def _contig_names(self) -> tuple[str, ...]:
        """Names that the codes of `variant_contig` are places in."""
        return self.contigs

    def variants(self, start: int, stop: int) -> VariantTable:
        """Return the variant table of variants ``start`` to ``stop`` (exclusive).

        Raises
        ------
        IndexError
            If the range does not lie within the dataset.
        DamagedError
            If a chunk is missing from the store, or cannot be decoded.
        """
        alleles, loci = self._arrays.text("variant_allele", start, stop), self.loci(start, stop)
        return VariantTable(
            contig=loci.contig,
            position=loci.position,
            variant_id=self._arrays.text("variant_id", start, stop),
            other_allele=alleles[:, 0],
            effect_allele=alleles[:, 1],
        )

    def loci(self, start: int, stop: int) -> Loci:
        """Return where variants ``start`` to ``stop`` (exclusive) are; raises as `variants`."""
        names = np.array(self._contig_names, dtype=object)
        return Loci(
            names[self._arrays.read("variant_contig", start, stop)],
            self._arrays.read("variant_position", start, stop).astype(np.int32, copy=False),
        )

    def variant_ids(self, start: int, stop: int) -> Strings:
        """Return the ids of variants ``start`` to ``stop`` (exclusive)."""
        return self._arrays.text("variant_id", start, stop)

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of variants that are read and fitted together: chunks.

        Parameters
        ----------
        start, stop : int
            `start` is the first of a chunk.
        """
        size = self.chunk_variants
        yield from ((first, min(first + size, stop)) for first in range(start, stop, size))

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
        InputError
            If one of the variants has dosages.
        """
        where = f"{self.path}: variants {start}:{stop}"
        return packed_calls(self.read_block(start, stop), where)

    def read_block(self, start: int, stop: int) -> GenotypeBlock:
        """Read variants ``start`` to ``stop`` (exclusive) as kernels take them.

        Returns
        -------
        HardCalls or Dosages
            Dosages if a chunk among them has some.

        Raises
        ------
        IndexError
            If the range does not lie within the dataset.
        DamagedError
            If a chunk is missing from the store, or cannot be decoded.
        """
        if not self._dosages:
            return self._read(start, stop)
        flags = self._arrays.read(HAS_DOSAGES, start, stop)
        if not flags.any():
            return self._read(start, stop)
        edges = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
        blocks = (
            self._read(start + a, start + b, dosages=bool(flags[a])) for a, b in pairwise(edges)
        )
        return joined(list(blocks), self.unit)

    def _read(self, start: int, stop: int, *, dosages: bool = False) -> GenotypeBlock:
        """Read variants of one kind."""
        name = DOSAGES if dosages else CALLS
        read = np.ascontiguousarray(self._arrays.read(name, start, stop))
        return Dosages(read, self.unit) if dosages else HardCalls(read, self.n_samples)

    def info(self, start: int, stop: int) -> NDArray[np.float64] | None:
        """Return the imputation information of variants ``start`` to ``stop`` (exclusive).

        Returns
        -------
        ndarray of float64, shape (stop - start,), or None
            From genotype probabilities over all people
            (:func:`~hlmm_scan.genotypes.calls.information`); NaN for variants, and None for
            datasets, whose source had none.

        Raises
        ------
        IndexError
            If the range does not lie within the dataset.
        DamagedError
            If a chunk is missing from the store, or cannot be decoded.
        """
        return self._arrays.read(INFO, start, stop) if INFO in self._arrays else None

    def genotype_counts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return stored counts over all people for variants ``start`` to ``stop`` (exclusive).

        Returns
        -------
        ndarray of int64, shape (stop - start, 4)
            People with 0, 1 and 2 copies of the effect allele (nearest to it, where there are
            dosages), and people without a call.

        Raises
        ------
        IndexError
            If the range does not lie within the dataset.
        DamagedError
            If a chunk is missing from the store, or cannot be decoded.
        """
        called = self._arrays.read("variant_genotype_counts", start, stop)
        missing = self._arrays.read("variant_missing_count", start, stop)
        return np.column_stack([called, missing]).astype(np.int64)

    def find_variants(self, ids: Iterable[str | VariantName]) -> NDArray[np.int64]:
        """Return where variants of these ids stand.

        Parameters
        ----------
        ids : iterable of str or VariantName
            Also ``chromosome:position:other:effect`` and ``row:17``.

        Returns
        -------
        ndarray of int64
            Positions along the variant axis, in the order of ``ids``.

        Raises
        ------
        InputError
            If ids are unknown, or stand at more than one variant; the first few are named.
        """
        return find_variants(ids, self.n_variants, self.variant_ids, self.variants, str(self.path))

    def id_blocks(self) -> Iterator[Strings]:
        """Yield the ids of all variants, a bounded number at a time."""
        for start in range(0, self.n_variants, _IDS_AT_ONCE):
            yield self.variant_ids(start, min(start + _IDS_AT_ONCE, self.n_variants))


def summary(dataset: GenotypeDataset) -> str:
    """Say in one line what was converted: variants, from what, chromosomes, people, their sex."""
    attributes = dataset.attributes
    m, soft = dataset.n_variants, int(attributes.get("variants_with_dosages", 0))
    fields = attributes.get("variants_by_source", {})
    told = ", ".join(
        name if len(fields) == 1 else f"{name} {count:,}" for name, count in fields.items()
    )
    kinds = [f"{m - soft:,} of hard calls"] if m > soft else []
    kinds += [f"{soft:,} of dosages"] if soft else []
    if told and told != HARD_CALLS:
        kinds[-1] += f" (from {told})"
    counts = np.bincount(dataset.samples.sex, minlength=3).tolist()
    sexes = [f"{counts[1]:,} male", f"{counts[2]:,} female", f"{counts[0]:,} of unknown sex"]
    named = [words for words, count in zip(sexes, (*counts[1:3], counts[0]), strict=True) if count]
    several = "s" if len(dataset.contigs) > 1 else ""
    return (
        f"{m:,} variants of {dataset.n_samples:,} people; {', '.join(kinds)}; chromosome{several} "
        f"{in_words(dataset.contigs, NUMBERS_STAY)}; {', '.join(named)}"
    )


def is_genotype_dataset(path: Place) -> bool:
    """Return whether the store at a place carries our mark, of whatever format version."""
    group = open_group(path)
    return group is not None and mark_of(group).get("kind") == KIND


def variable(name: str) -> schema.Variable:
    """Return the registry's entry of a stored genotype array."""
    return schema.find(name, schema.GENOTYPES)


def mark_of(group: zarr.Group) -> dict[str, Any]:
    """Return what a store of this package says it is; nothing of others."""
    mark = group.attrs.get(MARK)
    return dict(mark) if isinstance(mark, dict) else {}


def _what_it_is(group: zarr.Group) -> str:
    kind = mark_of(group).get("kind")
    if kind is not None:
        return f"the store holds {kind}"
    return "the Zarr group does not carry this package's mark"
