"""Variants of one or several datasets of the same people, all or some of them, read as one.

Nothing is merged or copied: a view is a few paths and, where variants were chosen, their rows. It
has what `GenotypeDataset` has for a reader. A read decodes the chunks in which its variants lie and
no other.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import FINEST, GenotypeBlock, joined, packed_calls
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.packing import packed_width
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variant_names import VariantName, find_variants
from hlmm_scan.genotypes.variants import Loci, VariantTable, concatenate
from hlmm_scan.storage import Place

FEWEST_VARIANTS = 64
"""Variants of a block, unless there are no more."""

MOST_BLOCKS = 64
"""Blocks that few chosen variants are read in, so that they still make tasks for many cores."""

_TABLE_ROWS = 65_536
"""Rows of a dataset's variant table looked at at a time, some as it is chunked."""


class Rows(Protocol):
    """Rows along all datasets, ascending: an array in memory or in a store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One length."""

    def __getitem__(self, key: slice, /) -> Any:
        """Return some of them."""


class JoinedGenotypes:
    """Variants of datasets one after the other, or chosen ones of them.

    Parameters
    ----------
    parts : sequence of GenotypeDataset
        At least one; see :meth:`of`, which looks whether their people are the same.
    rows : array of int, shape (m,), optional
        Chosen variants, counted along all parts, ascending. Read piece by piece. Default: all.

    Attributes
    ----------
    parts : tuple of GenotypeDataset
    paths : tuple of Path or ObjectPath
    n_samples, n_variants : int
    chunk_variants : int
        Variants of a block, see :meth:`blocks`.
    held_bytes : int
        Most that the chunk decoded last takes.
    unit : float
        Of the dosages of all parts, the finest one if they differ; 0 where there are none.
    fingerprint : str
        Of the datasets; which variants were chosen is not in it.
    """

    def __init__(self, parts: Sequence[GenotypeDataset], rows: Rows | None = None) -> None:
        self.parts = tuple(parts)
        self.paths: tuple[Place, ...] = tuple(part.path for part in parts)
        self.n_samples = self.parts[0].n_samples
        self.fingerprint = _joint_fingerprint([part.fingerprint for part in parts])
        self._first = np.concatenate([[0], np.cumsum([part.n_variants for part in parts])])
        self._rows = rows
        self.n_variants = int(self._first[-1] if rows is None else rows.shape[0])
        units = {part.unit for part in parts} - {0.0}
        self.unit = FINEST if len(units) > 1 else max(units, default=0.0)
        largest = max(part.chunk_variants for part in parts)
        few = max(FEWEST_VARIANTS, self.n_variants // MOST_BLOCKS)
        self.chunk_variants = largest if rows is None else min(largest, few)
        width = 2 * self.n_samples if self.unit else packed_width(self.n_samples)
        self.held_bytes = largest * width
        self._decoded: tuple[tuple[int, int], GenotypeBlock] | None = None

    @classmethod
    def of(cls, parts: Sequence[GenotypeDataset]) -> JoinedGenotypes:
        """Return datasets of the same people, in the same order, as one.

        Raises
        ------
        InputError
            If a dataset is given twice, or people differ: the first who does is named.
        """
        for k, part in enumerate(parts):
            for earlier in parts[:k]:
                if part.fingerprint == earlier.fingerprint:
                    raise InputError(
                        f"{part.path}: the same genotypes as {earlier.path}; give them once"
                    )
            if k:
                _same_people(parts[0], part)
        return cls(parts)

    def chosen(self, rows: Rows) -> JoinedGenotypes:
        """Return a view of some rows of all parts, ascending."""
        return JoinedGenotypes(self.parts, rows)

    def __reduce__(self) -> tuple[Any, ...]:
        rows = None if self._rows is None else np.asarray(self._rows[:])
        return JoinedGenotypes, (self.parts, rows)

    def __repr__(self) -> str:
        return (
            f"<JoinedGenotypes of {len(self.parts)} datasets: {self.n_variants} variants × "
            f"{self.n_samples} people>"
        )

    # People and chromosomes ---------------------------------------------------------------

    @cached_property
    def samples(self) -> SampleIds:
        """People; sex of the first dataset that knows it."""
        first = self.parts[0].samples
        if len(self.parts) == 1:
            return first
        sex = first.sex.copy()
        for part in self.parts[1:]:
            sex = np.where(sex == 0, part.samples.sex, sex)
        return SampleIds(first.individual_id, first.family_id, sex)

    @cached_property
    def contigs(self) -> tuple[str, ...]:
        """Chromosomes of these variants, as they first appear."""
        return tuple(self._contigs_of_parts[k] for k in self._used_contigs)

    def variant_contig(self) -> NDArray[np.int16]:
        """Return the index into `contigs` of every variant, shape (m,)."""
        place_of = np.zeros(len(self._contigs_of_parts), np.int16)
        place_of[self._used_contigs] = np.arange(len(self._used_contigs))
        index: NDArray[np.int16] = place_of[self._contig_among_parts()]
        return index

    @cached_property
    def _contigs_of_parts(self) -> tuple[str, ...]:
        """Chromosomes of all parts, those without a chosen variant too."""
        return tuple(dict.fromkeys(c for part in self.parts for c in part.contigs))

    @cached_property
    def _used_contigs(self) -> NDArray[np.int64]:
        """Those of them that have variants here, as they first appear."""
        if self._rows is None:
            return np.arange(len(self._contigs_of_parts))
        used, first = np.unique(self._contig_among_parts(), return_index=True)
        return used[np.argsort(first)].astype(np.int64)

    def _contig_among_parts(self) -> NDArray[np.int16]:
        """Return the index of every variant's chromosome among those of all parts."""
        known = {contig: k for k, contig in enumerate(self._contigs_of_parts)}
        every = [
            np.array([known[c] for c in part.contigs], np.int16)[part.variant_contig()]
            for part in self.parts
        ]
        joined = np.concatenate(every)
        return joined if self._rows is None else joined[np.asarray(self._rows[:])]

    # Blocks of variants -------------------------------------------------------------------

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of variants that are read and fitted together.

        They are `chunk_variants` long, counted from variant 0, and cut where a dataset ends: which
        variants share a block depends on the view alone, not on `start` and `stop`, if these are
        multiples of `chunk_variants`.
        """
        size = self.chunk_variants
        for first in range(start, stop, size):
            part, _ = self._locate(first, min(first + size, stop))
            cuts = np.flatnonzero(np.diff(part)) + 1
            edges = [0, *cuts.tolist(), len(part)]
            yield from ((first + a, first + b) for a, b in itertools.pairwise(edges))

    def variants(self, start: int, stop: int) -> VariantTable:
        """Return the variant table of variants ``start`` to ``stop`` (exclusive).

        Raises
        ------
        IndexError
            If the range does not lie within the view.
        DamagedError
            If a chunk is missing from a store, or cannot be decoded.
        """
        tables = [
            part.variants(low, high).take(rows)
            for part, low, high, rows in self._spans(start, stop)
        ]
        return concatenate(tables) if tables else self.parts[0].variants(0, 0)

    def loci(self, start: int, stop: int) -> Loci:
        """Return where variants ``start`` to ``stop`` (exclusive) are; raises as `variants`."""
        parts = [
            part.loci(low, high).take(rows) for part, low, high, rows in self._spans(start, stop)
        ]
        none = Loci(np.empty(0, object), np.empty(0, np.int32))
        contigs, positions = zip(*((p.contig, p.position) for p in (none, *parts)), strict=True)
        return Loci(np.concatenate(contigs), np.concatenate(positions))

    def variant_ids(self, start: int, stop: int) -> Strings:
        """Return the ids of variants ``start`` to ``stop`` (exclusive)."""
        ids = [p.variant_ids(low, high)[rows] for p, low, high, rows in self._spans(start, stop)]
        return np.concatenate([np.zeros(0, object), *ids])

    def info(self, start: int, stop: int) -> NDArray[np.float64] | None:
        """Return imputation information, as `GenotypeDataset.info`; None where no part has any."""
        found = [(part.info(low, high), rows) for part, low, high, rows in self._spans(start, stop)]
        if all(info is None for info, _ in found):
            return None
        return np.concatenate(
            [np.full(len(rows), np.nan) if info is None else info[rows] for info, rows in found]
        )

    def genotype_counts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return stored counts, shape (stop - start, 4), as `GenotypeDataset.genotype_counts`."""
        counts = [
            part.genotype_counts(low, high)[rows]
            for part, low, high, rows in self._spans(start, stop)
        ]
        return np.concatenate([np.zeros((0, 4), np.int64), *counts])

    def read_block(self, start: int, stop: int) -> GenotypeBlock:
        """Read variants ``start`` to ``stop`` (exclusive) as kernels take them.

        Dosages where one of them has some; those of parts of different unit in the finest one, but
        the ranges of :meth:`blocks` end where parts do. The chunk decoded last is kept, as
        neighbouring reads share one.

        Raises
        ------
        IndexError
            If the range does not lie within the view.
        DamagedError
            If a chunk is missing from a store, or cannot be decoded.
        """
        part, local = self._locate(start, stop)
        if start == stop:
            return self.parts[0].read_block(0, 0)
        sizes = np.array([p.chunk_variants for p in self.parts])
        chunk = local // sizes[part]
        cuts = np.flatnonzero((np.diff(part) != 0) | (np.diff(chunk) != 0)) + 1
        pieces = []
        for at in np.split(np.arange(len(local)), cuts):
            k, c = int(part[at[0]]), int(chunk[at[0]])
            pieces.append(self._take(k, c, local[at] - c * int(sizes[k])))
        return joined(pieces)

    def read_packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read packed calls, as `GenotypeDataset.read_packed`."""
        return packed_calls(self.read_block(start, stop), f"variants {start}:{stop}")

    def find_variants(self, ids: Iterable[str | VariantName]) -> NDArray[np.int64]:
        """Return where variants of these ids stand, as `GenotypeDataset.find_variants`."""
        where = ", ".join(map(str, self.paths))
        return find_variants(ids, self.n_variants, self.variant_ids, self.variants, where)

    def id_blocks(self) -> Iterator[Strings]:
        """Yield the ids of all variants, a bounded number at a time."""
        for start in range(0, self.n_variants, _TABLE_ROWS):
            yield self.variant_ids(start, min(start + _TABLE_ROWS, self.n_variants))

    # Where variants lie -------------------------------------------------------------------

    def _locate(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the part of each variant of a range, and its row in that part."""
        if not 0 <= start <= stop <= self.n_variants:
            raise IndexError(f"variants {start}:{stop} of {self.n_variants}")
        rows = (
            np.arange(start, stop, dtype=np.int64)
            if self._rows is None
            else np.asarray(self._rows[start:stop], dtype=np.int64)
        )
        part = np.searchsorted(self._first, rows, side="right") - 1
        return part, rows - self._first[part]

    def _spans(
        self, start: int, stop: int
    ) -> Iterator[tuple[GenotypeDataset, int, int, NDArray[np.int64]]]:
        """Yield ranges of parts to read of their variant tables, and the rows wanted in each.

        No range crosses one of their chunks, nor reads more than lies between wanted rows.
        """
        part, local = self._locate(start, stop)
        table = local // _TABLE_ROWS
        cuts = np.flatnonzero((np.diff(part) != 0) | (np.diff(table) != 0)) + 1
        for rows in np.split(np.arange(len(local)), cuts):
            if len(rows):
                low, high = int(local[rows[0]]), int(local[rows[-1]]) + 1
                yield self.parts[int(part[rows[0]])], low, high, local[rows] - low

    def _take(self, part: int, index: int, rows: NDArray[np.int64]) -> GenotypeBlock:
        """Return some variants of a chunk, the caller's to change."""
        dataset = self.parts[part]
        start = index * dataset.chunk_variants
        stop = min(start + dataset.chunk_variants, dataset.n_variants)
        if len(rows) == stop - start:  # no other read needs it
            return dataset.read_block(start, stop)
        if self._decoded is None or self._decoded[0] != (part, index):
            self._decoded = None  # or two would be held while the next is read
            self._decoded = ((part, index), dataset.read_block(start, stop))
        return self._decoded[1].take(rows)


Genotypes = GenotypeDataset | JoinedGenotypes
"""What a scan reads."""


def chosen_variants(genotypes: Genotypes, rows: Rows | None) -> Genotypes:
    """Return the chosen variants of a dataset or of several; all of them for None."""
    if rows is None:
        return genotypes
    return JoinedGenotypes(parts_of(genotypes), rows)


def parts_of(genotypes: Genotypes) -> tuple[GenotypeDataset, ...]:
    """Return the datasets, all their variants, of which some are read."""
    return genotypes.parts if isinstance(genotypes, JoinedGenotypes) else (genotypes,)


def _same_people(one: GenotypeDataset, other: GenotypeDataset) -> None:
    """Raise InputError where people of two datasets differ, naming the first."""
    if one.n_samples != other.n_samples:
        raise InputError(
            f"{other.path}: {other.n_samples} people, but {one.path} has {one.n_samples}; datasets "
            "scanned together must be of the same people in the same order"
        )
    here, there = one.samples, other.samples
    columns = [(here.individual_id, there.individual_id, "person")]
    if here.family_id is not None and there.family_id is not None:
        columns.append((here.family_id, there.family_id, "family id of person"))
    for mine, others, what in columns:
        differs = np.flatnonzero(mine != others)
        if len(differs):
            k = int(differs[0])
            raise InputError(
                f"{other.path}: {what} {k + 1} is {others[k]}, but {mine[k]} in {one.path}; "
                "datasets scanned together must be of the same people in the same order"
            )
    clash = np.flatnonzero((here.sex != there.sex) & (here.sex != 0) & (there.sex != 0))
    if len(clash):
        raise InputError(
            f"{other.path}: sex of {here.individual_id[clash[0]]} is not that in {one.path}"
        )


def _joint_fingerprint(fingerprints: Sequence[str]) -> str:
    if len(fingerprints) == 1:
        return fingerprints[0]
    return f"sha256:{hashlib.sha256(' '.join(fingerprints).encode()).hexdigest()}"
