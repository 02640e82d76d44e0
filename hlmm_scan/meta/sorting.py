"""Rows sorted by place where their source is not: spooled to disk, and read back in order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.meta.pool import FIELDS
from hlmm_scan.meta.rows import ROWS_AT_ONCE, Rows

_TEXTS = ("effect_allele", "other_allele", "variant_id")


@contextmanager
def sorted_rows(rows: Iterable[Rows]) -> Iterator[Iterator[Rows]]:
    """Give the same rows, ascending by place; rows of one place stay in their order.

    Parameters
    ----------
    rows : iterable of Rows
        In any order.

    Notes
    -----
    16 bytes of memory a row; numbers and text lie in a temporary folder meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="hlmm-scan-meta-") as folder:
        yield _spooled(rows, Path(folder))


def _spooled(rows: Iterable[Rows], folder: Path) -> Iterator[Rows]:
    places = [np.empty(0, np.int64)]
    ends = {name: [np.zeros(1, np.int64)] for name in _TEXTS}
    at = dict.fromkeys(_TEXTS, 0)
    with (folder / "values").open("wb") as values:
        files = {name: (folder / name).open("wb") for name in _TEXTS}
        try:
            for block in rows:
                places.append(block.place)
                values.write(np.ascontiguousarray(block.values.T).tobytes())
                ids = block.ids(np.arange(len(block)))
                for name, column in zip(
                    _TEXTS, (block.effect_allele, block.other_allele, ids), strict=True
                ):
                    encoded = [str(text).encode() for text in column]
                    files[name].write(b"".join(encoded))
                    lengths = np.cumsum([len(text) for text in encoded], dtype=np.int64)
                    ends[name].append(at[name] + lengths)
                    at[name] += int(lengths[-1])
        finally:
            for file in files.values():
                file.close()
    place = np.concatenate(places)
    if not len(place):
        return
    order = np.argsort(place, kind="stable")
    table = np.memmap(folder / "values", np.float64, "r", shape=(len(place), len(FIELDS)))
    texts = {name: _Texts(folder / name, np.concatenate(ends[name])) for name in _TEXTS}
    for start in range(0, len(order), ROWS_AT_ONCE):
        mine = order[start : start + ROWS_AT_ONCE]
        names = texts["variant_id"](mine)
        yield Rows(
            place[mine],
            texts["effect_allele"](mine),
            texts["other_allele"](mine),
            np.ascontiguousarray(table[mine].T),
            names.__getitem__,
        )


class _Texts:
    """Texts in a file, one behind the other."""

    def __init__(self, path: Path, ends: NDArray[np.int64]) -> None:
        self._bytes = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, "u1")
        self._ends = ends

    def __call__(self, rows: NDArray[np.intp]) -> NDArray[np.object_]:
        found = np.empty(len(rows), object)
        starts, ends = self._ends[rows].tolist(), self._ends[rows + 1].tolist()
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            found[k] = self._bytes[start:end].tobytes().decode()
        return found
