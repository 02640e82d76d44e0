"""Variants of several cohorts put beside one another, window by window along the genome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.meta.alleles import pairs
from hlmm_scan.meta.pool import FIELDS
from hlmm_scan.meta.rows import Rows, UnsortedError

_SIGNED = ("add", "var")


@dataclass(frozen=True)
class Matching:
    """What two cohorts must agree in to have the same variant.

    Attributes
    ----------
    same_strand : bool, default False
        Whether alleles are named on one strand throughout.
    most_difference : float, default 0.2
        Largest difference of effect allele frequencies between cohorts.
    palindrome_maf : float, default 0.4
        Minor allele frequency from which on A/T and C/G are refused, unless the strand is known.
    """

    same_strand: bool = False
    most_difference: float = 0.2
    palindrome_maf: float = 0.4


@dataclass(eq=False)
class Window:
    """V variants, all that some cohorts have in one piece of the genome.

    Attributes
    ----------
    place : ndarray of int64, shape (V,)
        Ascending.
    effect_allele, other_allele, variant_id : ndarray of object (str), shape (V,)
        As the first cohort has them.
    values : dict of str to ndarray, shape (K, V)
        Of the cohorts, all of the same effect allele; NaN where one does not have the variant.
    strand_unknown, frequencies_differ : ndarray of bool, shape (V,)
        Variants that are not to be pooled.
    """

    place: NDArray[np.int64]
    effect_allele: NDArray[np.object_]
    other_allele: NDArray[np.object_]
    variant_id: NDArray[np.object_]
    values: dict[str, Float]
    strand_unknown: NDArray[np.bool_]
    frequencies_differ: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.place)


def windows(
    cohorts: Sequence[Iterator[Rows]], matching: Matching, counts: Sequence[Counter[str]]
) -> Iterator[Window]:
    """Yield all variants of all cohorts, each once.

    Parameters
    ----------
    cohorts : sequence of iterator of Rows
        Each ascending.
    matching : Matching
    counts : sequence of Counter
        Of each cohort: what was flipped or left out is added.

    Raises
    ------
    UnsortedError
        With the number of a cohort whose rows do not ascend.
    """
    streams = [_Stream(rows, k) for k, rows in enumerate(cohorts)]
    while sum(stream.fill() for stream in streams):
        open_ends = [stream.last for stream in streams if not stream.ended]
        limit = min(open_ends) if open_ends else np.iinfo(np.int64).max
        parts = [stream.before(limit) for stream in streams]
        if not any(map(len, parts)):
            # One place fills all that was read of some: more of these is needed.
            for stream in streams:
                if not stream.ended and stream.last == limit:
                    stream.extend()
            continue
        yield _beside(parts, matching, counts)


class _Stream:
    """Rows of a cohort, those read and not yet taken."""

    def __init__(self, rows: Iterator[Rows], number: int) -> None:
        self._rows, self._number = rows, number
        self._kept: Rows | None = None
        self._last = -1
        self.ended = False

    @property
    def last(self) -> int:
        return self._last

    def fill(self) -> bool:
        """Read on where nothing is left; return whether anything is."""
        while not self.ended and (self._kept is None or not len(self._kept)):
            self.extend()
        return self._kept is not None and len(self._kept) > 0

    def extend(self) -> None:
        more = next(self._rows, None)
        if more is None:
            self.ended = True
            return
        if more.place[0] < self._last or (np.diff(more.place) < 0).any():
            raise UnsortedError(self._number)
        self._last = int(more.place[-1])
        here = self._kept
        self._kept = more if here is None or not len(here) else _joined(here, more)

    def before(self, limit: int) -> Rows:
        if self._kept is None:
            return _NONE
        cut = int(np.searchsorted(self._kept.place, limit))
        taken, self._kept = self._kept.take(slice(0, cut)), self._kept.take(slice(cut, None))
        return taken


def _no_ids(wanted: NDArray[np.intp]) -> NDArray[np.object_]:
    return np.empty(0, object)


_NONE = Rows(
    np.empty(0, np.int64), np.empty(0, object), np.empty(0, object),
    np.empty((len(FIELDS), 0)), _no_ids,
)  # fmt: skip


def _joined(one: Rows, other: Rows) -> Rows:
    def ids(wanted: NDArray[np.intp]) -> NDArray[np.object_]:
        found = np.empty(len(wanted), object)
        second = wanted >= len(one)
        found[~second] = one.ids(wanted[~second])
        found[second] = other.ids(wanted[second] - len(one))
        return found

    return Rows(
        np.concatenate([one.place, other.place]),
        np.concatenate([one.effect_allele, other.effect_allele]),
        np.concatenate([one.other_allele, other.other_allele]),
        np.concatenate([one.values, other.values], axis=1),
        ids,
    )


def _beside(parts: list[Rows], matching: Matching, counts: Sequence[Counter[str]]) -> Window:
    """Put the rows of all cohorts in one piece of the genome beside one another."""
    read = [pairs(p.effect_allele, p.other_allele, same_strand=matching.same_strand) for p in parts]
    kept = []
    for k, (part, pair) in enumerate(zip(parts, read, strict=True)):
        order = np.lexsort((pair.code, part.place))
        place, code = part.place[order], pair.code[order]
        again = (place[1:] == place[:-1]) & (code[1:] == code[:-1])
        twice = np.append(again, False) | np.insert(again, 0, False)
        counts[k]["that stand there twice"] += int(twice[: len(order)].sum())
        kept.append(order[~twice[: len(order)]])
    place = np.concatenate([part.place[rows] for part, rows in zip(parts, kept, strict=True)])
    code = np.concatenate([pair.code[rows] for pair, rows in zip(read, kept, strict=True)])
    order = np.lexsort((code, place))  # stable: of one variant the first cohort comes first
    place, code = place[order], code[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (place[1:] != place[:-1]) | (code[1:] != code[:-1])
    variant = np.empty(len(order), np.intp)
    variant[order] = np.cumsum(new) - 1
    n_variants = int(new.sum())
    table = np.full((len(parts), len(FIELDS), n_variants), np.nan)
    texts = np.empty((3, n_variants), object)
    sign, reverse = np.zeros(n_variants), np.zeros(n_variants, np.bool_)
    palindromic = np.zeros(n_variants, np.bool_)
    start = 0
    for k, (part, pair, rows) in enumerate(zip(parts, read, kept, strict=True)):
        to = variant[start : start + len(rows)]
        start += len(rows)
        first = sign[to] == 0
        sign[to[first]] = pair.sign[rows[first]]
        reverse[to[first]] = pair.reverse[rows[first]]
        palindromic[to] = pair.palindromic[rows]
        if first.any():
            named = rows[first]
            texts[0, to[first]] = part.effect_allele[named]
            texts[1, to[first]] = part.other_allele[named]
            texts[2, to[first]] = part.ids(named)
        _put(table[k], to, part.values[:, rows], sign[to] * pair.sign[rows])
        counts[k]["flipped"] += int((sign[to] != pair.sign[rows]).sum())
        counts[k]["read from the other strand"] += int((reverse[to] != pair.reverse[rows]).sum())
    values = {name: table[:, j] for j, name in enumerate(FIELDS)}
    ambiguous, differ = _doubtful(values["effect_allele_frequency"], palindromic, matching)
    effect, other, ids = texts
    return Window(place[new], effect, other, ids, values, ambiguous, differ)


def _put(table: Float, to: NDArray[np.intp], values: Float, sign: Float) -> None:
    """Write the values of a cohort as those of the allele that is counted."""
    table[:, to] = values
    for name in _SIGNED:
        table[FIELDS.index(name), to] *= sign
    f = table[FIELDS.index("effect_allele_frequency")]
    f[to] = np.where(sign < 0, 1.0 - f[to], f[to])


def _doubtful(
    frequency: Float, palindromic: NDArray[np.bool_], matching: Matching
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return variants whose strand is not known, and those whose frequencies differ too much."""
    several = np.isfinite(frequency).sum(axis=0) > 1
    low = np.fmin.reduce(frequency, axis=0)
    high = np.fmax.reduce(frequency, axis=0)
    limit = matching.palindrome_maf
    # Both below or both above: then the minor allele has one name in all of them.
    plain = (high < limit) | (low > 1.0 - limit)
    ambiguous = several & palindromic & ~plain & (not matching.same_strand)
    return ambiguous, several & ~ambiguous & (high - low > matching.most_difference)
