"""Reading a few columns of a result store, a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.results.phenotypes import chosen_phenotypes
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.tests import ReportedTest, parse_tests
from hlmm_scan.schema import Status

ROWS_PER_READ = 131_072


def chosen_tests(store: ResultStore, names: Sequence[str] = ()) -> list[ReportedTest]:
    """Return the tests of a store that are asked for, the default ones where none is.

    Raises
    ------
    InputError
        If there is no such test.
    """
    return parse_tests(names, [v.name for v in store.readable], store.path)


def numbers_of_phenotypes(store: ResultStore, names: Sequence[str]) -> list[int]:
    """Return the numbers of the phenotypes asked for; see :func:`chosen_phenotypes`."""
    known = store.phenotypes
    return [known.index(name) for name in chosen_phenotypes(store, names)]


def read_rows(
    store: ResultStore, phenotype: int, names: Iterable[str]
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Yield the first row's number and some columns of consecutive rows, whole chunks at a time.

    Parameters
    ----------
    store : ResultStore
    phenotype : int
    names : iterable of str
        Variables over (phenotype, variant) or (variant,).
    """
    names = list(dict.fromkeys(names))
    n_variants, chunk = store.array("status").shape[1], store.array("status").chunks[1]
    step = -(-ROWS_PER_READ // chunk) * chunk
    for start in range(0, n_variants, step):
        rows = slice(start, min(start + step, n_variants))
        yield start, {name: _column(store, name, phenotype, rows) for name in names}


def read_some(
    store: ResultStore, phenotype: int, names: Iterable[str], rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return some columns of chosen rows, in their order; each chunk is read once.

    Parameters
    ----------
    store : ResultStore
    phenotype : int
    names : iterable of str
        Variables over (phenotype, variant) or (variant,).
    rows : ndarray of int64
    """
    found: dict[str, NDArray[Any]] = {}
    for name in dict.fromkeys(names):
        chunk = store.array(name).chunks[-1]
        dtype = store.array(name).dtype
        values = np.empty(len(rows), object if dtype.kind not in "iuf" else dtype)
        for number in np.unique(rows // chunk):
            mine = np.flatnonzero(rows // chunk == number)
            first, last = int(rows[mine].min()), int(rows[mine].max())
            values[mine] = _column(store, name, phenotype, slice(first, last + 1))[
                rows[mine] - first
            ]
        found[name] = values
    return found


def trusted(status: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return which rows hold estimates to be trusted: done, and not of a status from 5 on."""
    return (status > Status.PENDING) & (status < Status.NOT_CONVERGED)


def _column(store: ResultStore, name: str, phenotype: int, rows: slice) -> NDArray[Any]:
    array = store.array(name)
    values = np.asarray(array[phenotype, rows] if array.ndim == 2 else array[rows])
    return values if values.dtype.kind in "iuf" else values.astype(object)


@dataclass(frozen=True, eq=False)
class Positions:
    """Where the rows of a store lie on the genome; 6 bytes a row.

    Attributes
    ----------
    contigs : tuple of str
        Chromosomes in the order in which they first appear.
    contig : ndarray of int16, shape (m,)
        Index into `contigs`.
    position : ndarray of int32, shape (m,)
    """

    contigs: tuple[str, ...]
    contig: NDArray[np.int16]
    position: NDArray[np.int32]

    @classmethod
    def of(cls, store: ResultStore) -> Positions:
        """Read them, a chunk of names at a time."""
        names, positions = store.array("contig"), store.array("position")
        number: dict[str, int] = {}
        contig = np.empty(positions.shape[0], np.int16)
        step = names.chunks[0]
        for start in range(0, len(contig), step):
            block = np.asarray(names[start : start + step])
            # Chromosomes come in runs: one comparison tells where they change.
            first = np.flatnonzero(np.append(True, block[1:] != block[:-1]))
            codes = [number.setdefault(str(name), len(number)) for name in block[first]]
            contig[start : start + step] = np.repeat(codes, np.diff(np.append(first, len(block))))
        return cls(tuple(number), contig, np.asarray(positions[:]))
