"""From the columns of a covariate table to those of a design: levels, products, who has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.codes import tell_codes
from hlmm_scan.cohort.design import centre_and_scale, listed
from hlmm_scan.cohort.table import Table
from hlmm_scan.cohort.words import shown
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.genotypes.samples import SampleIds

DEFAULT_MIN_LEVEL_COUNT = 10

RARE = "(rare)"
"""Name of the level that takes in the rare ones."""


@dataclass(frozen=True)
class CovariateRules:
    """How covariate tables become columns of the designs.

    Attributes
    ----------
    mean_terms, variance_terms : tuple of str
        Products of covariates in the designs of the mean and of the log variance, each written
        ``a:b`` or ``a*b``, with ``a^2`` for ``a:a``. Every covariate of a table is in its design in
        any case.
    reference : mapping of str to str
        Reference level of a column of levels. The others' is the level most people of the table
        have, of equally common ones the first in the order of text.
    min_level_count : int, default 10
        A level that fewer of the people analysed have is rare. Rare levels are put together, and
        with the reference level where together they are still rare.
    """

    mean_terms: tuple[str, ...] = ()
    variance_terms: tuple[str, ...] = ()
    reference: Mapping[str, str] = field(default_factory=dict)
    min_level_count: int = DEFAULT_MIN_LEVEL_COUNT


def parse_references(given: Sequence[str]) -> dict[str, str]:
    """Read ``column=level`` pairs.

    Raises
    ------
    InputError
        If one is not such a pair, or names a column again.
    """
    found: dict[str, str] = {}
    for pair in given:
        name, equals, level = (part.strip() for part in pair.partition("="))
        if not (name and equals and level):
            raise InputError(f"reference must be column=level, as centre=Leeds, not '{pair}'")
        if name in found:
            raise InputError(f"reference: column '{name}' is given twice")
        found[name] = level
    return found


def check_levels(
    tables: Iterable[Table | None], categorical: Sequence[str], reference: Mapping[str, str]
) -> None:
    """Refuse columns and levels that no covariate is or has.

    Parameters
    ----------
    tables : iterable of Table or None
        Of the mean and the variance.
    categorical : sequence of str
        Columns the user named as ones of levels.
    reference : mapping of str to str
        Reference levels the user named, by column.

    Raises
    ------
    InputError
        With the nearest name or level there is.
    """
    there = [table for table in tables if table is not None]
    columns = [name for table in there for name in table.columns]
    for option, names in (("categorical", categorical), ("reference", reference)):
        for name in names:
            if name not in columns:
                raise InputError(
                    f"{option}: no covariate is called '{name}'{nearest(name, columns)}"
                )
    for name, level in reference.items():
        for table in there:
            if name in table.columns and name not in table.levels:
                raise InputError(
                    f"reference: column '{name}' of {table.path} holds numbers; "
                    f"--categorical {name} makes levels of them"
                )
            levels = table.levels.get(name, (level,))
            if level not in levels:
                raise InputError(
                    f"reference: column '{name}' of {table.path} has no level '{level}'"
                    f"{nearest(level, levels) or f'; it has {listed(levels)}'}"
                )


def parse_terms(terms: Sequence[str], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the factors of each product.

    Parameters
    ----------
    terms : sequence of str
        As :class:`CovariateRules` has them.
    columns : sequence of str
        Covariates there are.

    Raises
    ------
    InputError
        If a term has one factor only, an unknown one, or is another one in another order.
    """
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for term in terms:
        factors: list[str] = []
        for factor in (part.strip() for part in re.split(r"[:*]", term)):
            base, power = (factor.removesuffix("^2"), 2) if factor.endswith("^2") else (factor, 1)
            if base not in columns:
                has = f"; there are {listed(columns)}" if columns else "; there is no table of them"
                raise InputError(
                    f"term '{term}': no covariate '{base}'{nearest(base, columns) or has}"
                )
            factors += [base] * power
        if len(factors) < 2:
            raise InputError(
                f"term '{term}' is no product: write sex:age or age^2 (all covariates of a table "
                "are in the model by themselves)"
            )
        if tuple(sorted(factors)) in found:
            raise InputError(f"term '{term}' is given twice")
        found[tuple(sorted(factors))] = tuple(factors)
    return list(found.values())


class Covariates:
    """One covariate table aligned with the samples; without a table everybody is complete.

    Parameters
    ----------
    samples : SampleIds
        The n_reference people of the genotypes.
    table : Table or None
    terms : sequence of str, default ()
        Products of its columns.
    reference : mapping of str to str, default {}
        Reference levels; columns the table does not have are passed over.
    min_level_count : int, default 10

    Attributes
    ----------
    present, complete : ndarray of bool, shape (n_reference,)
        Who is in the table, and who of them has all its values.
    notes : tuple of str
        For the log: which columns became levels, and how many.
    doubts : tuple of str
        For the log: what may be meant otherwise.

    Raises
    ------
    InputError
        If nobody is in both, a person cannot be told from another, or a term is no product of
        columns.
    """

    def __init__(
        self,
        samples: SampleIds,
        table: Table | None,
        terms: Sequence[str] = (),
        reference: Mapping[str, str] | None = None,
        min_level_count: int = DEFAULT_MIN_LEVEL_COUNT,
    ) -> None:
        self._table = table
        self._terms = parse_terms(terms, () if table is None else table.columns)
        self._reference = dict(reference or {})
        self._least = min_level_count
        self._rows = np.zeros(len(samples), np.int64)
        self.present = self.complete = np.ones(len(samples), np.bool_)
        self.notes: tuple[str, ...] = ()
        self.doubts: tuple[str, ...] = ()
        if table is None:
            return
        self._rows = match(samples, table)
        self.present = self._rows >= 0
        # Row −1 reads the last person's mask; `present` excludes those people before.
        complete: NDArray[np.bool_] = np.logical_not(np.isnan(table.values).any(axis=1))
        self.complete = complete[self._rows]
        for name, levels in table.levels.items():
            if levels and name not in self._reference:
                codes = table.values[:, table.index(name)]
                counts = np.bincount(codes[~np.isnan(codes)].astype(np.int64))
                self._reference[name] = levels[int(np.argmax(counts))]
        for factors in self._terms:
            for name in factors:
                if name in table.levels and factors.count(name) > 1:
                    raise InputError(
                        f"term '{':'.join(factors)}': '{name}' holds levels, not numbers"
                    )
        self._tell(table)

    def _tell(self, table: Table) -> None:
        """Say what was made of the columns, and what of it may be a mistake."""
        self.notes = tuple(
            f"{table.path}: '{shown(name)}' has {len(levels):,} levels: {listed(levels)}"
            for name, levels in table.levels.items()
        )
        doubts: list[str | None] = []
        for name, levels in table.levels.items():
            alike: dict[str, list[str]] = {}
            for level in levels:
                alike.setdefault(" ".join(level.lower().split()), []).append(level)
            pairs = [level for same in alike.values() if len(same) > 1 for level in same]
            if pairs:
                doubts.append(
                    f"{table.path}: '{shown(name)}' has levels that differ in capitals or blanks "
                    f"only: {listed(pairs)}"
                )
        rows = self._rows[self.present]
        for position, name in enumerate(table.columns):
            if name not in table.levels:
                doubts.append(tell_codes(table.values[rows, position], name, table.path))
        self.doubts = tuple(doubt for doubt in doubts if doubt)

    def columns(
        self, samples: NDArray[np.int64], *, constant_too: bool = False
    ) -> tuple[Float, tuple[str, ...], tuple[str, ...]]:
        """Expand levels and products among some people.

        Parameters
        ----------
        samples : ndarray of int64, shape (n,)
            Their rows among the reference samples; all of them are complete.
        constant_too : bool, default False
            Whether to keep what tells none of these people from another; it is left out otherwise.

        Returns
        -------
        values : ndarray of float64, shape (n, p)
        names : tuple of str, length p
            A column of levels becomes indicators ``column=level``, one for each level but the
            reference; a product's name is its factors' with colons.
        notes : tuple of str
            What was put together or left out, for the log.

        Raises
        ------
        InputError
            If a column of levels has none that enough of these people have, a product overflows,
            or, with `constant_too`, there is only one such level.
        """
        if self._table is None:
            return np.zeros((len(samples), 0)), (), ()
        values = self._table.values[self._rows[samples]]
        notes: list[str] = []
        blocks: dict[str, list[tuple[str, Float]]] = {}
        for position, name in enumerate(self._table.columns):
            column = values[:, position]
            if name in self._table.levels:
                block = self._indicators(name, column.astype(np.int64), notes, constant_too)
            else:
                block = [(name, column)] if constant_too else _varying([(name, column)])
            if not block:
                notes.append(_left_out(name, len(values)))
            blocks[name] = block
        found = [column for block in blocks.values() for column in block]
        for factors in self._terms:
            products = self._products([blocks[name] for name in factors])
            if products and all(name in self._table.levels for name in factors):
                products = self._common(products, notes)
            if not all(np.isfinite(column).all() for _, column in products):
                raise InputError(f"term '{':'.join(factors)}': products are too large for numbers")
            varying = products if constant_too else _varying(products)
            if len(varying) < max(len(products), 1):
                notes.append(f"term '{':'.join(factors)}' is left out where it is the same in all")
            found += varying
        matrix = np.empty((len(samples), len(found)))
        for position, (_, column) in enumerate(found):
            matrix[:, position] = column
        return matrix, tuple(name for name, _ in found), tuple(notes)

    def _indicators(
        self, name: str, codes: NDArray[np.int64], notes: list[str], constant_too: bool
    ) -> list[tuple[str, Float]]:
        """The indicators of the levels of one column, but for the reference level."""
        assert self._table is not None
        levels = self._table.levels[name]
        counts = np.bincount(codes, minlength=len(levels))
        empty = [levels[k] for k in np.flatnonzero(counts == 0)]
        if empty:
            notes.append(f"nobody has {name} {listed(empty)}")
        rare = np.flatnonzero((counts > 0) & (counts < self._least))
        reference = levels.index(self._reference[name])
        if counts[reference] < max(self._least, 1):
            commonest = int(np.argmax(counts))
            notes.append(
                f"{counts[reference]:,} people have {name} '{levels[reference]}', so "
                f"'{levels[commonest]}' takes its place as the reference"
            )
            reference = commonest
            rare = rare[rare != reference]
        pooled = int(counts[rare].sum())
        if pooled:
            into = f"{name}={RARE}" if pooled >= self._least else f"'{levels[reference]}'"
            notes.append(
                f"{name} {listed([levels[k] for k in rare])}: fewer than {self._least} people "
                f"each, {pooled:,} in all, put together as {into}"
            )
        common = set(np.flatnonzero(counts > 0)) - set(rare) - {reference}
        found = [(f"{name}={levels[k]}", (codes == k).astype(np.float64)) for k in sorted(common)]
        if pooled >= self._least and pooled:
            found.append((f"{name}={RARE}", np.isin(codes, rare).astype(np.float64)))
        # One level is a constant; where all are rare, something else is wrong.
        if counts.max() < self._least or (constant_too and not found):
            raise InputError(
                f"covariate '{name}' has no two levels that {self._least} or more of the "
                f"{len(codes):,} people analysed have each"
            )
        return found

    @staticmethod
    def _products(
        factors: Sequence[Sequence[tuple[str, Float]]],
    ) -> list[tuple[str, Float]]:
        """All products of a column of each factor, the first factor's columns slowest."""
        products = list(factors[0])
        for factor in factors[1:]:
            with np.errstate(over="ignore", invalid="ignore"):
                products = [(f"{a}:{b}", x * y) for a, x in products for b, y in factor]
        return products

    def _common(
        self, products: list[tuple[str, Float]], notes: list[str]
    ) -> list[tuple[str, Float]]:
        """Those combinations of levels that are not rare."""
        rare = [name for name, column in products if column.sum() < self._least]
        if rare:
            notes.append(
                f"{listed(rare)}: fewer than {self._least} people each, left out of the model"
            )
        return [(name, column) for name, column in products if name not in rare]


def _varying(columns: list[tuple[str, Float]]) -> list[tuple[str, Float]]:
    """Those columns that are not the same in everybody."""
    if not columns or not len(columns[0][1]):
        return columns
    scales = centre_and_scale(np.column_stack([column for _, column in columns]))[1]
    return [column for column, scale in zip(columns, scales, strict=True) if scale > 0]


def _left_out(name: str, n: int) -> str:
    return f"covariate '{name}' is left out: it is the same in all {n:,}"
