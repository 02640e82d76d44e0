"""Rows of one cohort as pooling takes them: checked, a bounded number at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import AFTER_AUTOSOMES, linkage_group, number_of
from hlmm_scan.meta.pool import FIELDS
from hlmm_scan.models.inference import wald_neg_log10_p
from hlmm_scan.results.null_summary import TraitShape
from hlmm_scan.shown import quoted

Columns = Mapping[str, NDArray[Any]]

ROWS_AT_ONCE = 65_536
_LETTERED, _OTHERS = 1 << 20, 1 << 30
_NOWHERE = ("", "0", "NA", ".")
_NO_ALLELE = ("", ".", "NA")
_RANK = 32  # bits of a place that hold the position


@dataclass(eq=False)
class Rows:
    """Consecutive variants of a cohort.

    Attributes
    ----------
    place : ndarray of int64, shape (m,)
        Chromosome and position as one number; ascending.
    effect_allele, other_allele : ndarray of object (str), shape (m,)
    values : ndarray, shape (len(FIELDS), m)
        As :data:`~hlmm_scan.meta.pool.FIELDS` names them.
    ids : callable
        Gives the variant ids of some rows: most are never asked for.
    """

    place: NDArray[np.int64]
    effect_allele: NDArray[np.object_]
    other_allele: NDArray[np.object_]
    values: NDArray[np.float64]
    ids: Callable[[NDArray[np.intp]], NDArray[np.object_]]

    def __len__(self) -> int:
        return len(self.place)

    def take(self, rows: Any) -> Rows:
        """Return some rows: a slice or positions."""
        at = np.arange(len(self))[rows]
        ids = self.ids
        return Rows(
            self.place[rows],
            self.effect_allele[rows],
            self.other_allele[rows],
            self.values[:, rows],
            lambda wanted: ids(at[wanted]),
        )


class UnsortedError(Exception):
    """Rows do not ascend: they have to be sorted first."""


@dataclass(eq=False)
class Source:
    """One cohort's results, somewhere.

    Attributes
    ----------
    name : str
        Of the cohort, as told; cohorts stand in the order of their names.
    where : str
        Path, for messages.
    phenotype : str
        Empty where the file does not say.
    scale : str
        Unit of the phenotype as analysed; empty where the source does not say.
    autosomes : int or None
        Of the species; None where it does not say.
    identity : str
        What two copies of the same results have in common.
    about : dict
        For the provenance: kind, digest and more, JSON types only.
    read : callable
        Yields columns under the names of a result store, and a function that says where a row of
        them stands.
    held : callable
        Keeps it as it is within a block.
    expected : int
        Rows there are; 0 where that is not known before they are read.
    shape : TraitShape or None
        Of the trait, where the source says it.
    counts : Counter
        Rows read, and why others were not taken.
    """

    name: str
    where: str
    phenotype: str
    scale: str
    autosomes: int | None
    identity: str
    about: dict[str, Any]
    read: Callable[[], Iterator[tuple[Columns, Callable[[int], str]]]]
    held: Callable[[], AbstractContextManager[None]] = nullcontext
    expected: int = 0
    shape: TraitShape | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def rows(self, chromosomes: Chromosomes) -> Iterator[Rows]:
        """Yield the rows that say anything, in the order of the source.

        Raises
        ------
        InputError
            If a value cannot be one, naming row and column.
        """
        self.counts.clear()
        for columns, where in self.read():
            rows = _checked(columns, where, chromosomes, self.counts)
            if len(rows):
                yield rows


class Chromosomes:
    """Chromosomes as ranks that are the same in every cohort, whatever it calls them.

    Numbers come first, then X, Y and mitochondria, then others in an order of their own. The
    regions that X and Y share are of X.

    Parameters
    ----------
    autosomes : int
        Of the species.
    """

    def __init__(self, autosomes: int) -> None:
        self.autosomes = autosomes
        self._names: dict[int, str] = {}

    def places(self, contig: NDArray[np.object_], position: NDArray[Any]) -> NDArray[np.int64]:
        """Return where variants lie: ascending by chromosome, then by position."""
        at, names = pd.factorize(contig)
        ranks = np.array([self._rank(str(name)) for name in names], np.int64)
        return np.asarray((ranks[at] << _RANK) + position.astype(np.int64))

    def contigs(self, place: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the names of the chromosomes."""
        at, ranks = pd.factorize(place >> _RANK)
        return np.array([self._names[int(rank)] for rank in ranks], object)[at]

    def _rank(self, contig: str) -> int:
        name = linkage_group(contig, self.autosomes)
        rank = _rank_of(name)
        if self._names.setdefault(rank, name) != name:
            raise InputError(
                f"chromosomes '{name}' and '{self._names[rank]}' cannot be told apart here; rename "
                "one of them"
            )
        return rank


def positions(place: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the positions of places."""
    return (place & ((1 << _RANK) - 1)).astype(np.int32)


@lru_cache(maxsize=1 << 12)
def _rank_of(name: str) -> int:
    number = number_of(name)
    if number is not None and number < _LETTERED:
        return number
    if name in AFTER_AUTOSOMES:
        return _LETTERED + AFTER_AUTOSOMES.index(name)
    digest = blake2b(name.encode(), digest_size=4).digest()
    return _OTHERS + (int.from_bytes(digest, "big") >> 2)


def _checked(
    columns: Columns,
    where: Callable[[int], str],
    chromosomes: Chromosomes,
    counts: Counter[str],
) -> Rows:
    """Return the rows with an estimate, each value looked at."""
    m = len(columns["position"])
    counts["rows"] += m
    values = np.full((len(FIELDS), m), np.nan)
    for k, name in enumerate(FIELDS):
        if name in columns:
            values[k] = columns[name]
    of = dict(zip(FIELDS, values, strict=True))
    keep = np.ones(m, np.bool_)

    def drop(reason: str, rows: NDArray[np.bool_]) -> None:
        nonlocal keep
        counts[reason] += int((rows & keep).sum())
        keep = keep & ~rows

    if "trusted" in columns:
        drop("filtered, failed or not to be trusted", ~columns["trusted"])
    for effect in ("add", "var"):
        if effect not in columns:
            continue
        unknown = np.isnan(of[effect]) | np.isnan(of[f"{effect}_se"])
        for name in (effect, f"{effect}_se", f"{effect}_se_robust", f"{effect}_neg_log10_p"):
            of[name][unknown] = np.nan
    drop("without an estimate", np.isnan(of["add"]) & np.isnan(of["var"]))
    effect_allele, other_allele = columns["effect_allele"], columns["other_allele"]
    drop("without a chromosome", _none(columns["contig"], _NOWHERE))
    drop("without alleles", _none(effect_allele) | _none(other_allele))
    position = np.asarray(columns["position"])
    drop("without a position", np.isnan(position) if position.dtype.kind == "f" else position < 1)
    drop("without people or frequency", np.isnan(of["n"]) | np.isnan(of["effect_allele_frequency"]))

    def refuse(name: str, rows: NDArray[np.bool_], what: str) -> None:
        bad = np.flatnonzero(rows & keep)
        if len(bad):
            value = columns[name][bad[0]] if name in columns else of[name][bad[0]]
            shown = quoted(value.item() if isinstance(value, np.generic) else value)
            raise InputError(f"{where(int(bad[0]))}: {name} is {shown}, {what}")

    refuse("position", ~(position >= 1) | (position != np.floor(position)) | (position >= 2**31),
           "not a position")  # fmt: skip
    refuse("effect_allele", effect_allele == other_allele, "the same as the other allele")
    refuse("n", ~((of["n"] >= 1) & np.isfinite(of["n"])), "not a number of people")
    f = of["effect_allele_frequency"]
    refuse("effect_allele_frequency", ~((f >= 0) & (f <= 1)), "not between 0 and 1")
    for effect in ("add", "var"):
        se, p = of[f"{effect}_se"], of[f"{effect}_neg_log10_p"]
        refuse(effect, np.isinf(of[effect]), "not finite")
        for name in (f"{effect}_se", f"{effect}_se_robust"):
            refuse(name, (of[name] <= 0) | np.isinf(of[name]), "not a standard error")
        refuse(f"{effect}_neg_log10_p", (p < 0) | np.isinf(p), "not −log10 of a p-value")
        if effect in columns and f"{effect}_neg_log10_p" not in columns:
            p[:] = wald_neg_log10_p(of[effect], se)
    joint = of["av_neg_log10_p"]
    refuse("av_neg_log10_p", (joint < 0) | np.isinf(joint), "not −log10 of a p-value")
    for suffix in ("", "_robust"):
        covariance, most = of[f"add_var_cov{suffix}"], of[f"add_se{suffix}"] * of[f"var_se{suffix}"]
        beyond = np.isfinite(covariance) & np.isfinite(most) & ~(np.abs(covariance) < most)
        refuse(f"add_var_cov{suffix}", beyond, "more than the standard errors allow")
    info = of["info"]
    refuse("info", (info < 0) | np.isinf(info), "not an imputation info")

    rows = np.flatnonzero(keep)
    counts["taken"] += len(rows)
    ids = columns["variant_id"]
    find = ids if callable(ids) else ids.__getitem__
    return Rows(
        chromosomes.places(columns["contig"][rows], position[rows]),
        effect_allele[rows],
        other_allele[rows],
        values[:, rows],
        lambda wanted: find(rows[wanted]),
    )


def _none(texts: NDArray[np.object_], words: Sequence[str] = _NO_ALLELE) -> NDArray[np.bool_]:
    """Return where a column says nothing."""
    at, different = pd.factorize(texts)
    return np.array([str(text) in words for text in different], np.bool_)[at]
