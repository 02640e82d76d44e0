"""The genotypes that the fast joint HLM kernel has before it: 64 variants, people-major.

A tile always has 64 columns, some of which may stand empty: loops of vectors go over all of them,
and treat every column alike, as matrix products (:mod:`~hlmm_scan.kernels.sums.products`) do. So a
variant's sums are the same bit for bit wherever in a tile it stands and whoever its neighbours are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Int
from hlmm_scan.genotypes.blocks import GenotypeBlock, HardCalls
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.scoring.lanes import MISSING, WIDTH
from hlmm_scan.kernels.sums.dosage_codes import CODES_AHEAD, copies_by_code

Rows = NDArray[np.intp]

TILE = WIDTH
"""Variants fitted abreast."""

_BLOCK = 256  # people or bytes that stay in cache while rows are made columns


@njit(nogil=True, cache=True)
def _transpose(packed: Any, out: Any) -> None:  # pragma: no cover
    m, width = packed.shape
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        for j in range(m):
            for b in range(start, stop):
                out[b, j] = packed[j, b]


@njit(nogil=True, cache=True)
def _decode(
    by_byte: Any, samples: Any, g: Any, called: Any, copies: Any, high: Any, low: Any
) -> None:  # pragma: no cover
    """Fill g with the copies of the chosen people; count and sum calls, find their range."""
    for i in range(len(samples)):
        row = by_byte[samples[i] >> 2]
        shift = np.uint8(2 * (samples[i] & 3))
        for j in range(WIDTH):
            code = (row[j] >> shift) & np.uint8(3)
            # 0 two copies, 1 missing, 2 one, 3 none.
            value = np.int8(2) - np.int8(code >> np.uint8(1)) - np.int8(code == np.uint8(3))
            g[i, j] = np.int8(MISSING) if code == np.uint8(1) else value
        for j in range(WIDTH):
            x = np.int32(g[i, j])
            called[j] += np.int32(x >= 0)
            copies[j] += max(x, np.int32(0))
        for j in range(WIDTH):
            x = np.int32(g[i, j])
            high[j] = max(high[j], x)
            low[j] = min(low[j], x if x >= 0 else np.int32(2))


@njit(nogil=True, cache=True)
def _describe(
    source: Any, g: Any, people: Any, total: Any, low: Any, high: Any
) -> None:  # pragma: no cover
    """Copy `source`, (n, m), less the smallest value of each column; MISSING for NaN."""
    n, m = source.shape
    for start in range(0, n, _BLOCK):
        for j in range(m):
            for i in range(start, min(start + _BLOCK, n)):
                low[j] = min(low[j], source[i, j]) if source[i, j] == source[i, j] else low[j]
    for start in range(0, n, _BLOCK):
        for j in range(m):
            for i in range(start, min(start + _BLOCK, n)):
                x = source[i, j] - low[j]
                called = x == x
                g[i, j] = np.float32(x) if called else np.float32(MISSING)
                people[j] += 1.0 if called else 0.0
                total[j] += x if called else 0.0
                high[j] = max(high[j], x) if called else high[j]


@njit(nogil=True, cache=True)
def _spread_codes(
    codes: Any, samples: Any, copies: Any, least: Any, g: Any
) -> None:  # pragma: no cover
    """Fill g with the copies of the chosen people, less the smallest of each variant."""
    n, beyond = len(samples), np.uint64(len(copies))
    for start in range(0, n, CODES_AHEAD):
        for j in range(len(codes)):
            row = codes[j]
            for i in range(start, min(start + CODES_AHEAD, n)):
                code: Any = np.uint64(row[np.uint64(samples[i])])
                g[i, j] = copies[code - least[j]] if code < beyond else np.float32(MISSING)


@njit(nogil=True, cache=True)
def centred(
    g: Any, centre: Any, x: Any, squares: Any, cubes: Any, absent: Any
) -> None:  # pragma: no cover
    """Put powers of x = g − centre into three arrays and 1 where g is missing into `absent`.

    Parameters
    ----------
    g : ndarray of int8 or float32, shape (people, WIDTH)
    centre : ndarray of float32, shape (WIDTH,)
    x, squares, cubes, absent : ndarray of float32, shape (people, WIDTH)
        `absent` may have no rows: then it is left.
    """
    for i in range(len(g)):
        for j in range(WIDTH):
            value = np.float32(g[i, j])
            x[i, j] = value - centre[j] if value >= np.float32(0) else np.float32(0)
        for j in range(WIDTH):
            squares[i, j] = x[i, j] * x[i, j]
            cubes[i, j] = x[i, j] * x[i, j] * x[i, j]
    for i in range(len(absent)):
        for j in range(WIDTH):
            absent[i, j] = np.float32(0) if g[i, j] >= 0 else np.float32(1)


@njit(nogil=True, cache=True)
def _pick(g: Any, columns: Any, out: Any) -> None:  # pragma: no cover
    for i in range(len(g)):
        for j in range(len(columns)):
            out[i, j] = g[i, columns[j]]


@njit(nogil=True, cache=True)
def _place(g: Any, at: int, out: Any) -> None:  # pragma: no cover
    for i in range(len(g)):
        for j in range(g.shape[1]):
            out[i, at + j] = g[i, j]


@dataclass(frozen=True)
class OfPeople:
    """Genotypes of a block of variants as they are stored, and whose are analysed.

    Attributes
    ----------
    block : HardCalls or Dosages
    samples : ndarray of int64, shape (n,)
        People analysed.
    counts : GenotypeCounts, optional
        Of the block in them; dosages need it.
    """

    block: GenotypeBlock
    samples: Int
    counts: GenotypeCounts | None = None

    def __len__(self) -> int:
        """Return the number of variants."""
        return len(self.block)


Genotypes = Float | OfPeople
"""Dosages of shape (n, m), NaN where missing, or hard calls or dosages as they are stored."""


def count(genotypes: Genotypes) -> int:
    """Return the number of variants."""
    return genotypes.shape[1] if isinstance(genotypes, np.ndarray) else len(genotypes)


@dataclass(frozen=True)
class Tile:
    """Genotypes of up to 64 variants.

    Attributes
    ----------
    g : ndarray of int8 or float32, shape (n, 64)
        Hard calls as int8, dosages as float32 less the smallest of their column; MISSING where
        missing. Columns behind those of the variants are of no account.
    centre, people, reach : ndarray, shape (64,)
        Mean over the people called, their number, and the largest deviation from the mean.
    """

    g: NDArray[Any]
    centre: Float
    people: Float
    reach: Float

    @classmethod
    def of(cls, genotypes: Genotypes, rows: slice) -> Tile:
        """Lay out at most 64 variants of a block."""
        rows = slice(rows.start, min(rows.stop, count(genotypes)))
        people, total = np.zeros(TILE), np.zeros(TILE)
        if isinstance(genotypes, np.ndarray):
            g: NDArray[Any] = np.zeros((len(genotypes), TILE), np.float32)
            low, high = np.full(TILE, np.inf), np.zeros(TILE)
            _describe(genotypes[:, rows], g, people, total, low, high)
            low[:] = 0.0
        elif isinstance(genotypes.block, HardCalls):
            packed = np.ascontiguousarray(genotypes.block.packed[rows])
            by_byte = np.zeros((packed.shape[1], TILE), np.uint8)
            _transpose(packed, by_byte)
            g = np.empty((len(genotypes.samples), TILE), np.int8)
            called, copies = np.zeros(TILE, np.int32), np.zeros(TILE, np.int32)
            most, least = np.zeros(TILE, np.int32), np.full(TILE, 2, np.int32)
            _decode(by_byte, genotypes.samples, g, called, copies, most, least)
            people += called
            total += copies
            low, high = least.astype(np.float64), most.astype(np.float64)
        else:
            part = genotypes.block.take(rows)
            assert genotypes.counts is not None
            counts = genotypes.counts.take(np.arange(rows.start, rows.stop))
            assert counts.ranges is not None
            least, most = counts.ranges.T
            single = copies_by_code(part.steps).astype(np.float32)
            g = np.zeros((len(genotypes.samples), TILE), np.float32)
            _spread_codes(part.codes, genotypes.samples, single, least.astype(np.uint64), g)
            low, high = np.zeros(TILE), np.zeros(TILE)
            people[: len(part)] = counts.called
            total[: len(part)] = (counts.codes - counts.called * least) * 2.0 / part.steps
            high[: len(part)] = np.maximum(most - least, 0) * 2.0 / part.steps
        people[rows.stop - rows.start :] = len(g)
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = np.where(people > 0, total / people, 0.0)
        return cls(g, centre, people, np.maximum(high - centre, centre - low))

    def take(self, columns: Rows) -> Tile:
        """Return the chosen variants, with as many columns; itself where they are all there are."""
        if np.array_equal(columns, np.arange(self.g.shape[1])):
            return self
        g = np.empty((len(self.g), len(columns)), self.g.dtype)
        _pick(self.g, columns, g)
        return Tile(g, self.centre[columns], self.people[columns], self.reach[columns])

    @staticmethod
    def join(parts: list[Tile]) -> Tile:
        """Put variants that were taken out of tiles into one."""
        size = sum(part.g.shape[1] for part in parts)
        if len(parts) == 1 and size == TILE:
            return parts[0]
        n, dtype = len(parts[0].g), parts[0].g.dtype
        g, rest = np.zeros((n, TILE), dtype), np.zeros(TILE - size)
        at = 0
        for part in parts:
            _place(part.g, at, g)
            at += part.g.shape[1]
        own = (
            np.concatenate([*(getattr(part, name) for part in parts), rest])
            for name in ("centre", "people", "reach")
        )
        return Tile(g, *own)
