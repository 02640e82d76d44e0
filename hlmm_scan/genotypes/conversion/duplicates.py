"""Finding repeated variant ids among more than fit in memory."""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings

HASHES_AT_ONCE = 1 << 21
"""Hashes sorted together: 16 MiB of them, and some copies."""

_READ = 1 << 18


class RepeatedIds:
    """Counts ids that stood before, from a 64-bit hash of each in a scratch file.

    The hashes are looked at in classes of their value, each class small enough to sort in memory.
    Two of a hundred million different ids share a hash with a probability of 3·10⁻⁴; the outcome
    is good for a warning, not for a decision.

    Parameters
    ----------
    scratch : binary file
        Open for reading and writing, empty. Takes 8 bytes an id.
    """

    def __init__(self, scratch: IO[bytes]) -> None:
        self._scratch = scratch
        self._n = 0

    def add(self, ids: Strings) -> None:
        """Take the next ids, in order; "." is none, and repeats nothing."""
        hashes = np.fromiter(
            (hash(i) if i != "." else hash((i, k)) for k, i in enumerate(ids, start=self._n)),
            dtype=np.int64,
            count=len(ids),
        )
        self._scratch.write(hashes.tobytes())
        self._n += len(ids)

    def find(self) -> tuple[int, int]:
        """Return how many ids had stood before, and where the first such one is (-1: none)."""
        classes = -(-self._n // HASHES_AT_ONCE)
        n_repeated, first = 0, -1
        for number in range(classes):
            hashes, positions = self._read_class(number, classes)
            # A stable sort keeps the order of positions among equals: all but the first repeat.
            order = np.argsort(hashes, kind="stable")
            again = np.flatnonzero(np.diff(hashes[order]) == 0) + 1
            if again.size:
                n_repeated += again.size
                earliest = int(positions[order[again]].min())
                first = earliest if first < 0 else min(first, earliest)
        return n_repeated, first

    def _read_class(self, number: int, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the hashes of one class and where they stand."""
        self._scratch.flush()
        self._scratch.seek(0)
        hashes, positions = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, self._n, _READ):
            block = np.frombuffer(self._scratch.read(8 * _READ), dtype=np.int64)
            mine = np.flatnonzero(block % classes == number)
            hashes.append(block[mine])
            positions.append(mine + start)
        return np.concatenate(hashes), np.concatenate(positions)
