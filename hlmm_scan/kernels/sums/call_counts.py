"""Genotype classes of variants as bits of people, and how many of each have which random effects.

Where random effects are hard calls (:mod:`~hlmm_scan.kernels.sums.call_lattice`), such counts are
what both the fit of a variant and its scores at the null model take from everybody's calls: whole
numbers, made once for both, from which each makes sums of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.sums.bit_planes import BITS, Words, add_shared, words_of
from hlmm_scan.kernels.sums.call_lattice import CallLattice

WIDTH = 64
"""Variants multiplied at once; fewer are filled up, since a product in double precision may round
by its shape, and a variant's numbers may not depend on its neighbours."""

PEOPLE_PER_STRIP = 4096
"""People whose columns are gone through at a time."""

_STAGES = np.array(
    [0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF,
     0x00000000FFFFFFFF], np.uint64,
)  # fmt: skip


def plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array row-major and writable: numba compiles anew for any other kind."""
    return np.require(values, requirements=["C", "W"])


def strips(n: int) -> Iterator[slice]:
    """Cut n people into strips."""
    for start in range(0, n, PEOPLE_PER_STRIP):
        yield slice(start, min(start + PEOPLE_PER_STRIP, n))


def class_planes(packed: NDArray[np.uint8], samples: NDArray[np.int64], kinds: int) -> Words:
    """Return who has one copy, two copies and no call.

    Parameters
    ----------
    packed : ndarray of uint8, shape (m, bytes)
        Of at most WIDTH variants.
    samples : ndarray of int64, shape (n,)
        The people's places in `packed`.
    kinds : int
        2, or 3 with calls that are missing.

    Returns
    -------
    ndarray of uint64, shape (kinds, WIDTH, ⌈n/64⌉)
        No bits beyond the variants that there are.
    """
    planes = np.empty((kinds, WIDTH, words_of(len(samples))), np.uint64)
    _write_planes(plain(packed), plain(samples), _STAGES, planes)
    return planes


def class_planes_reference(
    packed: NDArray[np.uint8], samples: NDArray[np.int64], kinds: int
) -> Words:
    """Do what `class_planes` does, in plain numpy."""
    codes = (packed[:, samples >> 2] >> (2 * (samples & 3)).astype(np.uint8)) & 3
    bits = np.zeros((kinds, WIDTH, BITS * words_of(len(samples))), np.bool_)
    for kind, code in zip(range(kinds), (2, 0, 1), strict=False):
        bits[kind, : len(packed), : len(samples)] = codes == code
    return np.packbits(bits, axis=2, bitorder="little").view(np.uint64)


@njit(nogil=True, cache=True)
def _every_second(word: Any, stages: Any) -> Any:  # pragma: no cover
    """Return bits 0, 2, 4 … of a word side by side (Warren 2013, ch. 7-4)."""
    word &= np.uint64(0x5555555555555555)
    for k in range(len(stages)):
        word = (word | (word >> np.uint64(1 << k))) & stages[k]
    return word


@njit(nogil=True, cache=True)
def _write_planes(packed: Any, samples: Any, stages: Any, planes: Any) -> None:  # pragma: no cover
    """Take 64 people who are side by side in `packed` all at once, others one by one."""
    size, all_bits, one = len(samples), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1)
    together = np.empty(planes.shape[2], np.bool_)
    for w in range(len(together)):
        first, last = BITS * w, min(BITS * w + BITS, size)
        together[w] = last - first == BITS and (samples[first] & 3) == 0
        for i in range(first + 1, last):
            together[w] &= samples[i] == samples[i - 1] + 1
    for j in range(len(packed)):
        row = packed[j]
        for w in range(len(together)):
            first = BITS * w
            there = all_bits
            if together[w]:
                at = samples[first] >> 2
                x = y = np.uint64(0)
                for b in range(8):
                    x |= np.uint64(row[at + b]) << np.uint64(8 * b)
                    y |= np.uint64(row[at + 8 + b]) << np.uint64(8 * b)
                half = np.uint64(32)
                low = _every_second(x, stages) | (_every_second(y, stages) << half)
                high = _every_second(x >> one, stages) | (_every_second(y >> one, stages) << half)
            else:
                low = high = np.uint64(0)
                last = min(first + BITS, size)
                for i in range(first, last):
                    code = np.uint64(row[samples[i] >> 2] >> (2 * (samples[i] & 3)))
                    place = np.uint64(i - first)
                    low |= (code & one) << place
                    high |= ((code >> one) & one) << place
                there >>= np.uint64(BITS - (last - first))
            planes[0, j, w] = high & ~low
            planes[1, j, w] = ~high & ~low & there
            if len(planes) > 2:
                planes[2, j, w] = low & ~high
    planes[:, len(packed) :] = np.uint64(0)


@dataclass(frozen=True)
class CallCounts:
    """How many people of each genotype class have which codes of the random effects.

    Attributes
    ----------
    lattice : CallLattice
    counts : ndarray of int32, shape (m', 3, k + |lacking|)
        Of people with one copy, with two and without a call, as :meth:`CallLattice.folded` has
        them.
    rows : ndarray of intp, shape (m,)
        The variants that are meant.
    """

    lattice: CallLattice
    counts: NDArray[np.int32]
    rows: NDArray[np.intp]

    @classmethod
    def room(cls, lattice: CallLattice, m: int) -> CallCounts:
        """Return what is to be filled for m variants (:meth:`put`)."""
        length = len(lattice.origin) + len(lattice.lacking)
        return cls(lattice, np.zeros((m, 3, length), np.int32), np.arange(m))

    @classmethod
    def of(
        cls,
        lattice: CallLattice,
        packed: NDArray[np.uint8],
        samples: NDArray[np.int64],
        missing: bool,
    ) -> CallCounts:
        """Count m variants; `missing` says whether a call of any of them is.

        Parameters
        ----------
        lattice : CallLattice
        packed : ndarray of uint8, shape (m, bytes)
        samples : ndarray of int64, shape (n,)
        missing : bool
        """
        found = cls.room(lattice, len(packed))
        for start in range(0, len(packed), WIDTH):
            rows = np.arange(start, min(start + WIDTH, len(packed)))
            shared = lattice.none_shared((2 + missing) * WIDTH)
            for strip in strips(len(samples)):
                planes = class_planes(packed[rows], samples[strip], 2 + missing)
                add_shared(lattice.planes(strip), planes.reshape(len(shared.T), -1), shared)
            found.put(rows, shared)
        return found

    def take(self, rows: NDArray[np.integer]) -> CallCounts:
        """Return the counts of some of the variants, which share what is filled."""
        return replace(self, rows=self.rows[rows])

    def put(self, rows: NDArray[np.integer], shared: NDArray[np.int32]) -> None:
        """Fill in at most WIDTH variants.

        Parameters
        ----------
        rows : ndarray of int, shape (m,)
        shared : ndarray of int32, shape (planes, kinds·WIDTH)
            How many people have each of the lattice's planes and each of :func:`class_planes`.
        """
        folded = self.lattice.folded(shared).reshape(self.counts.shape[2], -1, WIDTH)
        kinds = folded.shape[1]
        self.counts[self.rows[rows], :kinds] = folded[:, :, : len(rows)].transpose(2, 1, 0)

    def sums(self, rows: NDArray[np.integer]) -> Float:
        """Return Σ(columns − origin) over the classes of at most WIDTH variants.

        Returns
        -------
        ndarray, shape (k, 3, WIDTH)
            Zeros beyond the variants that there are.
        """
        folded = np.zeros((self.counts.shape[2], 3, WIDTH), np.int32)
        folded[:, :, : len(rows)] = self.counts[self.rows[rows]].transpose(2, 1, 0)
        columns = folded.reshape(len(folded), -1)
        return self.lattice.sums(columns, np.zeros(3 * WIDTH)).reshape(-1, 3, WIDTH)
