"""Rows of a result store as exports take them: finished tests, a bounded number at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.results.export_chromosomes import (
    autosomes_said,
    exported_chromosomes,
    named_chromosomes,
    ranks_of,
)
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.tests import ReportedTest
from hlmm_scan.schema import COORDINATES, Status

ROWS_PER_READ = 65_536
"""Tests held at a time: 25 variables and 5 coordinates of them are some 30 MiB."""

_READS_KEPT = 8
"""Reads kept while rows are sorted: a dataset made of so many sorted parts is still read once."""

Columns = dict[str, NDArray[Any]]
"""Columns of equal length by name: text as objects, ``status`` as its number."""

VARIANT_COLUMNS = tuple(v.name for v in COORDINATES if v.name != "phenotype")


class FinishedRows:
    """The finished tests of some phenotypes of a store.

    Parameters
    ----------
    store : ResultStore
    phenotypes : sequence of int
        Positions of the phenotypes, in the order wanted.
    variables : sequence of str, optional
        Result variables wanted, ``status`` always among what is given. Default: all.
    tests : sequence of ReportedTest, optional
        Tests whose −log10 p stands after the variables, where it is not one of them.
    numbered : bool, default False
        Whether chromosomes are numbers (X is 23), not names as the store has them.

    Attributes
    ----------
    columns : tuple of str
        Names of the columns, in their order.
    made : tuple of ReportedTest
        Tests that are not stored, each a column.
    """

    def __init__(
        self,
        store: ResultStore,
        phenotypes: Sequence[int],
        variables: Sequence[str] | None = None,
        tests: Sequence[ReportedTest] = (),
        *,
        numbered: bool = False,
    ) -> None:
        self._store = store
        self._numbered = numbered
        self._phenotypes = list(phenotypes)
        self._names = store.phenotypes
        known = [v.name for v in store.readable]
        self._variables = [v for v in known if variables is None or v in (*variables, "status")]
        self.made = tuple(test for test in tests if not test.stored)
        made = (test.column for test in self.made)
        self.columns = ("phenotype", *VARIANT_COLUMNS, *self._variables, *made)
        status = store.array("status")
        self._n_variants, self._chunk = int(status.shape[1]), int(status.chunks[1])
        self._coordinates: tuple[int, Columns] = (-1, {})

    def by_phenotype(self) -> Iterator[Columns]:
        """Yield finished rows phenotype after phenotype, each sorted as :meth:`by_position`."""
        size = self._block_rows(1)
        order = self._order
        as_stored = bool((np.diff(order) > 0).all())
        for phenotype in self._phenotypes:
            blocks = _Recent(lambda p, first: self._block(p, first, size), _READS_KEPT)
            for start in range(0, self._n_variants, size):
                if as_stored:
                    yield _finished(self._block(phenotype, start, size))
                else:
                    rows = order[start : start + size]
                    yield _finished(_gather(blocks, phenotype, rows, size))

    def by_position(self) -> Iterator[Columns]:
        """Yield finished rows sorted by chromosome and position.

        Chromosomes come by number, then those without one as they first appear in the store;
        variants of one position, and the phenotypes of one variant, stay in their order.
        """
        order = self._order
        size = self._block_rows(len(self._phenotypes))
        together = size * max(len(self._phenotypes), 1)
        blocks = _Recent(
            lambda phenotype, first: self._block(phenotype, first, size),
            max(2, _READS_KEPT * ROWS_PER_READ // together),
        )
        for start in range(0, self._n_variants, size):
            rows = order[start : start + size]
            each = [_gather(blocks, p, rows, size) for p in self._phenotypes]
            variant = np.tile(np.arange(len(rows)), len(each))
            interleaved = np.argsort(variant, kind="stable")
            yield _finished(
                {name: np.concatenate([c[name] for c in each])[interleaved] for name in each[0]}
            )

    def _block_rows(self, phenotypes_at_once: int) -> int:
        """Return variants per read: whole chunks of the store, so that none is decoded twice."""
        return -(-max(ROWS_PER_READ // phenotypes_at_once, 1) // self._chunk) * self._chunk

    def _block(self, phenotype: int, start: int, size: int) -> Columns:
        stop = min(start + size, self._n_variants)
        if self._coordinates[0] != start:  # else those of the phenotype before
            read = {n: _plain(self._store.array(n)[start:stop]) for n in VARIANT_COLUMNS}
            names = self._chromosomes
            read["contig"] = np.array([names[str(c)] for c in read["contig"]], object)
            self._coordinates = (start, read)
        values = self._store.read_partition(phenotype, start, stop, self._variables)
        values |= {test.column: test.neg_log10_p(values) for test in self.made}
        phenotypes = np.full(stop - start, self._names[phenotype], dtype=object)
        return {"phenotype": phenotypes, **self._coordinates[1], **values}

    @cached_property
    def _places(self) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]]:
        """Chromosomes of the store, and which one and where each variant is, shape (m,)."""
        contigs: dict[str, int] = {}
        codes = np.empty(self._n_variants, np.int32)
        positions = np.empty(self._n_variants, np.int64)
        size = self._block_rows(1)
        for start in range(0, self._n_variants, size):
            rows = slice(start, min(start + size, self._n_variants))
            local, names = pd.factorize(_plain(self._store.array("contig")[rows]))
            known = [contigs.setdefault(str(name), len(contigs)) for name in names]
            codes[rows] = np.array(known, np.int32)[local]
            positions[rows] = np.asarray(self._store.array("position")[rows])
        return list(contigs), codes, positions

    @cached_property
    def _numbers(self) -> dict[str, str]:
        """Numbers of the chromosomes of the store."""
        return exported_chromosomes(self._places[0], autosomes_said(self._store.attributes))

    @cached_property
    def _chromosomes(self) -> dict[str, str]:
        """What the rows call the chromosomes of the store."""
        if self._numbered:
            return self._numbers
        return named_chromosomes(self._places[0], autosomes_said(self._store.attributes))

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        """Variants by chromosome and position, shape (m,)."""
        contigs, codes, positions = self._places
        ranks = ranks_of(self._numbers, self._chromosomes)
        rank_of_code = np.array([ranks[contig] for contig in contigs], np.int32)
        return np.lexsort((positions, rank_of_code[codes]))


class _Recent:
    """Blocks by (phenotype, first variant), the last few of each phenotype kept."""

    def __init__(self, read: Callable[[int, int], Columns], kept: int) -> None:
        self._read = read
        self._most = kept
        self._kept: OrderedDict[tuple[int, int], Columns] = OrderedDict()

    def __call__(self, phenotype: int, start: int) -> Columns:
        key = (phenotype, start)
        if key not in self._kept:
            of_this = [k for k in self._kept if k[0] == phenotype]
            if len(of_this) >= self._most:
                del self._kept[of_this[0]]
            self._kept[key] = self._read(phenotype, start)
        self._kept.move_to_end(key)
        return self._kept[key]


def _gather(blocks: _Recent, phenotype: int, rows: NDArray[np.intp], size: int) -> Columns:
    """Return some variants of a phenotype, in the order given, from the blocks they lie in."""
    block_of = rows // size
    parts, at = [], []
    for block in np.unique(block_of):
        here = np.flatnonzero(block_of == block)
        columns = blocks(phenotype, int(block) * size)
        within = rows[here] - block * size
        parts.append({name: values[within] for name, values in columns.items()})
        at.append(here)
    back = np.argsort(np.concatenate(at), kind="stable")
    return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}


def _finished(columns: Columns) -> Columns:
    done = columns["status"] != Status.PENDING
    return columns if done.all() else {name: values[done] for name, values in columns.items()}


def _plain(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    return array if array.dtype.kind in "iuf" else array.astype(object)
