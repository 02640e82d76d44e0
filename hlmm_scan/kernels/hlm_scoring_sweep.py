"""The pass over people of the fast joint HLM kernel: exact gradients of a tile of variants.

Everything that touches people × variants arrays is here. A sweep goes over strips of people small
enough to stay in the second-level cache: two matrix products out (Xa and Vb), an exponential, one
compiled pass over the strip, two matrix products back (XᵀWr and Vᵀ(1 − r²W)).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float = NDArray[np.float64]
Real = NDArray[Any]
"""float64 or float32."""

STRIP = 512
"""People per strip: with 64 variants, the strip's arrays fill about half of a 2 MiB cache."""

TILE = 64
"""Variants fitted abreast."""

LANES = 16
"""Columns of a sweep are padded to a multiple of this: whole BLAS micro-tiles only, so that a
variant's sums are the same bit for bit wherever in a tile it stands."""


@njit(nogil=True, cache=True)
def _slope(e: Real, g: Real, centre: Float, slope: Real) -> None:  # pragma: no cover
    """Subtract slope·(g − centre) from `e`, (strip, m); people without a call stay as they are."""
    n, m = e.shape
    middle = centre.astype(e.dtype)
    for i in range(n):
        for j in range(m):
            x = e.dtype.type(g[i, j]) - middle[j]
            e[i, j] -= slope[j] * x if x == x else e.dtype.type(0)


@njit(nogil=True, cache=True)
def _weigh(e: Real, r: Real, g: Real, centre: Float, a_g: Real) -> None:  # pragma: no cover
    """Turn weights and y − X₀a₀ into 1 − r²w and wr, in place.

    Parameters
    ----------
    e : ndarray, shape (strip, m)
        In: weights w. Out: 1 − r²w, 0 where the genotype is missing.
    r : ndarray, shape (strip, m)
        In: y − X₀a₀. Out: w·r with r = y − X₀a₀ − a_g·(g − centre).
    g : ndarray, shape (strip, m)
    centre, a_g : ndarray, shape (m,)
    """
    n, m = e.shape
    zero, one = e.dtype.type(0), e.dtype.type(1)
    middle = centre.astype(e.dtype)
    for i in range(n):
        for j in range(m):
            x = e.dtype.type(g[i, j]) - middle[j]
            called = x == x
            w = e[i, j] if called else zero
            residual = r[i, j] - a_g[j] * (x if called else zero)
            wr = w * residual
            r[i, j] = wr
            e[i, j] = (one if called else zero) - wr * residual


# The sums below stay apart from the pass above, each on three rows: more arrays in one loop and
# the compiler gives up proving that they do not overlap, and with it vector instructions.


@njit(nogil=True, cache=True)
def _scores(
    e: Real, r: Real, g: Real, centre: Float, gr: Real, ge: Real, total: Real
) -> None:  # pragma: no cover
    """Add Σg·wr, Σg(1 − r²w) and Σ(1 − r²w) to `gr`, `ge` and `total`, (m,)."""
    n, m = e.shape
    zero = e.dtype.type(0)
    middle = centre.astype(e.dtype)
    for i in range(n):
        for j in range(m):
            x = e.dtype.type(g[i, j]) - middle[j]
            x = x if x == x else zero
            gr[j] += r[i, j] * x
            ge[j] += e[i, j] * x
            total[j] += e[i, j]


@njit(nogil=True, cache=True)
def _moments(
    w: Real, g: Real, centre: Float, w0: Real, w1: Real, w2: Real
) -> None:  # pragma: no cover
    """Add Σw, Σwg and Σwg² to `w0`, `w1` and `w2`, (m,)."""
    n, m = w.shape
    zero = w.dtype.type(0)
    middle = centre.astype(w.dtype)
    for i in range(n):
        for j in range(m):
            x = w.dtype.type(g[i, j]) - middle[j]
            weight = w[i, j] if x == x else zero
            x = x if x == x else zero
            wx = weight * x
            w0[j] += weight
            w1[j] += wx
            w2[j] += wx * x


@njit(nogil=True, cache=True)
def _weighted(w: Real, g: Real, centre: Float, out: Real) -> None:  # pragma: no cover
    """Put w·(g − centre) into `out`, 0 where the genotype is missing; all (strip, m)."""
    n, m = w.shape
    middle = centre.astype(out.dtype)
    zero = out.dtype.type(0)
    for i in range(n):
        for j in range(m):
            x = out.dtype.type(g[i, j]) - middle[j]
            out[i, j] = out.dtype.type(w[i, j]) * x if x == x else zero


@njit(nogil=True, cache=True)
def centred(g: Real, centre: Float, out: Real, absent: Real) -> None:  # pragma: no cover
    """Put g − centre into `out` and 1 where it is missing into `absent`."""
    n, m = g.shape
    middle = centre.astype(out.dtype)
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for i in range(n):
        for j in range(m):
            x = out.dtype.type(g[i, j]) - middle[j]
            out[i, j] = x if x == x else zero
            absent[i, j] = zero if x == x else one


@njit(nogil=True, cache=True)
def _describe(
    source: Real, g: Real, people: Float, total: Float, low: Float, high: Float
) -> bool:  # pragma: no cover
    """Copy `source`, (n, m), into the first columns of `g`; say whether nothing was lost.

    Counts and sums the calls of each column of `g` besides, with their smallest and largest.
    """
    n, m = source.shape
    lossless = True
    for i in range(n):
        lost = 0
        for j in range(m):
            x = source[i, j]
            g[i, j] = x
            lost += 1 if (x == x) and np.float64(g[i, j]) != x else 0
        lossless = lossless and lost == 0
        for j in range(m):
            x = np.float64(g[i, j])
            people[j] += 1.0 if x == x else 0.0
            total[j] += x if x == x else 0.0
        for j in range(m):
            x = np.float64(g[i, j])
            low[j] = x if x < low[j] else low[j]
            high[j] = x if x > high[j] else high[j]
    return lossless


def strips(n: int) -> Iterator[slice]:
    """Yield the slices of people of one strip each."""
    return (slice(start, start + STRIP) for start in range(0, n, STRIP))


@dataclass(frozen=True)
class Columns:
    """The designs in one precision, laid out for the sweep.

    Attributes
    ----------
    yX : ndarray, shape (n, 1 + c)
    V : ndarray, shape (n, v)
    """

    yX: Real
    V: Real


@dataclass
class Tile:
    """Genotypes of the variants of one tile.

    Attributes
    ----------
    g : ndarray, shape (n, m)
        As given, NaN where missing; float32 where that loses nothing. Columns of zeros may follow
        those of the variants.
    centre, people, reach : ndarray, shape (m,)
        Mean over the people called, their number, and the largest deviation from the mean.
    """

    g: Real
    centre: Float
    people: Float
    reach: Float

    @classmethod
    def of(cls, genotypes: Float) -> Tile:
        """Copy an (n, m) block, people-major, in the narrowest type that holds it."""
        n, m = genotypes.shape
        wide = -(-m // LANES) * LANES
        for dtype in (np.float32, np.float64):
            g: Real = np.zeros((n, wide), dtype)
            people, total = np.zeros(wide), np.zeros(wide)
            low, high = np.full(wide, np.inf), np.full(wide, -np.inf)
            if _describe(genotypes, g, people, total, low, high):
                break
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = np.where(people > 0, total / people, 0.0)
        return cls(g, centre, people, np.maximum(high - centre, centre - low))

    def take(self, columns: NDArray[np.intp]) -> Tile:
        """Return the chosen variants."""
        return Tile(
            np.take(self.g, columns, axis=1),
            self.centre[columns],
            self.people[columns],
            self.reach[columns],
        )

    @staticmethod
    def join(parts: list[tuple[Tile, int]]) -> Tile:
        """Put the first so many variants of several tiles into one."""
        first = [(tile, slice(m)) for tile, m in parts]
        return Tile(
            np.concatenate([tile.g[:, s] for tile, s in first], axis=1),
            np.concatenate([tile.centre[s] for tile, s in first]),
            np.concatenate([tile.people[s] for tile, s in first]),
            np.concatenate([tile.reach[s] for tile, s in first]),
        )

    def padded(self, columns: NDArray[np.intp]) -> NDArray[np.intp]:
        """Fill a choice of columns up to whole lanes, or to all where that takes no longer."""
        wide = -(-len(columns) // LANES) * LANES
        if wide == self.g.shape[1]:
            return np.arange(wide)
        filled = np.full(wide, columns[0])
        filled[: len(columns)] = columns
        return filled


@dataclass
class Sweep:
    """Sums over people of m variants at given coefficients.

    Attributes
    ----------
    excess : ndarray, shape (m,)
        Σ(1 − r²w).
    gradient : ndarray, shape (m, c + v + 2)
        Of −log L: covariates of the mean, of the log-variance, then a_g and b_g.
    moments : ndarray, shape (3, m)
        Where asked for: Σw, Σwg and Σwg², g centred at the tile's centre.
    Xwg : ndarray, shape (m, c)
        Where asked for: XᵀW(g − at).
    """

    excess: Float
    gradient: Float
    moments: Float
    Xwg: Float

    @classmethod
    def at(
        cls,
        columns: Columns,
        tile: Tile,
        index: NDArray[np.intp],
        theta: Float,
        *,
        cross: tuple[Columns, Float] | None = None,
    ) -> Sweep:
        """Sweep over the people.

        Parameters
        ----------
        columns : Columns
            In the precision in which to compute.
        tile : Tile
        index : ndarray of int, shape (m,)
            Variants of the tile.
        theta : ndarray, shape (m, c + v + 2)
            Their coefficients in the order of `gradient`.
        cross : tuple of Columns and ndarray, shape (m,), optional
            Asks for the last two: columns in the precision to do them in, and `at`, from the
            tile's centre.
        """
        dtype = columns.V.dtype
        n, c, v = len(columns.V), columns.yX.shape[1] - 1, columns.V.shape[1]
        padded = tile.padded(index)
        wide = len(padded)
        whole = wide == tile.g.shape[1]
        put: Any = index if whole else slice(len(index))
        centre = tile.centre[padded]
        mean = np.zeros((1 + c, wide), dtype)
        mean[0], mean[1:, put] = 1.0, -theta[:, :c].T
        variance = np.zeros((v, wide), dtype)
        variance[:, put] = -theta[:, c : c + v].T
        a_g, b_g = np.zeros(wide, dtype), np.zeros(wide, dtype)
        a_g[put], b_g[put] = theta[:, c + v], theta[:, c + v + 1]
        rows = min(n, STRIP)
        e, r = np.empty((rows, wide), dtype), np.empty((rows, wide), dtype)
        sums, moments = np.zeros((3, wide)), np.zeros((3, wide))
        Xwr, Vk, Xwg = np.zeros((1 + c, wide)), np.zeros((v, wide)), np.zeros((1 + c, wide))
        chosen = np.empty((rows, wide), tile.g.dtype)
        at = np.zeros(wide)
        if cross is not None:
            at[put] = cross[1]
            wg = np.empty((rows, wide), cross[0].V.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for s in strips(n):
                X, V, g = columns.yX[s], columns.V[s], tile.g[s]
                es, rs = e[: len(g)], r[: len(g)]
                if not whole:
                    g = np.take(g, padded, axis=1, out=chosen[: len(g)], mode="clip")
                np.matmul(V, variance, out=es)
                np.matmul(X, mean, out=rs)
                _slope(es, g, centre, b_g)
                np.exp(es, out=es)
                if cross is not None:
                    _weighted(es, g, centre + at, wg[: len(g)])
                    Xwg += cross[0].yX[s].T @ wg[: len(g)]
                    part = np.zeros((3, wide), dtype)
                    _moments(es, g, centre, *part)
                    moments += part
                _weigh(es, rs, g, centre, a_g)
                # Within a strip in the precision of the arrays, across strips in float64.
                part = np.zeros((3, wide), dtype)
                _scores(es, rs, g, centre, *part)
                sums += part
                Xwr += X.T @ rs
                Vk += V.T @ es
        gradient = np.empty((len(index), c + v + 2))
        gradient[:, :c] = -Xwr[1:, put].T
        gradient[:, c : c + v] = 0.5 * Vk[:, put].T
        gradient[:, c + v] = -sums[0, put]
        gradient[:, c + v + 1] = 0.5 * sums[1, put]
        return cls(sums[2, put], gradient, moments[:, put], Xwg[1:, put].T.copy())
