"""The tables of a study: read, and their columns given out as phenotypes and covariates.

One table may hold everything, or each part its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlmm_scan.cohort.columns import chosen
from hlmm_scan.cohort.design import listed
from hlmm_scan.cohort.frames import table_of
from hlmm_scan.cohort.table import Table
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.cohort.words import shown
from hlmm_scan.errors import InputError, nearest

logger = logging.getLogger(__name__)

AtHand = Mapping[Path, Any]
"""Tables in memory (data frames, labelled arrays), by the paths that stand for them."""

_COLUMNS_TOLD = 8  # of thousands of traits, the first


@dataclass(frozen=True)
class StudyColumns:
    """Which columns of which tables are what. All names as :mod:`~hlmm_scan.cohort.columns` says.

    Attributes
    ----------
    phenotypes : Path
        Table of the phenotypes.
    phenotype : tuple of str, default ()
        Its columns that are; without any, all that are not named as something else.
    mean_covariates, variance_covariates : tuple of Path, default ()
        Tables of covariates.
    mean_covariate, variance_covariate : tuple of str, default ()
        Their columns that are; without any, all. Where columns are named and no table, those of
        the mean are in the table of the phenotypes, and those of the variance where those of the
        mean are.
    interaction : str, optional
        The column of the environment, in any of these tables.
    """

    phenotypes: Path
    phenotype: tuple[str, ...] = ()
    mean_covariates: tuple[Path, ...] = ()
    variance_covariates: tuple[Path, ...] = ()
    mean_covariate: tuple[str, ...] = ()
    variance_covariate: tuple[str, ...] = ()
    interaction: str | None = None

    @property
    def mean(self) -> tuple[Path, ...]:
        """Where the covariates of the mean are, each table once."""
        named = (self.phenotypes,) if self.mean_covariate else ()
        return tuple(dict.fromkeys(self.mean_covariates or named))

    @property
    def variance(self) -> tuple[Path, ...]:
        """Where the covariates of the log variance are, each table once."""
        named = (self.mean or (self.phenotypes,)) if self.variance_covariate else ()
        return tuple(dict.fromkeys(self.variance_covariates or named))

    def wishes_of(self, covariates: Path) -> set[str] | None:
        """Return which columns of a table of covariates are to be read; None for all."""
        wishes = {self.interaction} if self.interaction is not None else set()
        for tables, names in (
            (self.mean, self.mean_covariate),
            (self.variance, self.variance_covariate),
        ):
            if covariates in tables:
                if not names:
                    return None
                wishes.update(names)
        return wishes


@dataclass(frozen=True)
class StudyTables:
    """The tables with the columns that were asked for.

    Attributes
    ----------
    phenotypes : Table
    mean, variance : tuple of Table
        Tables of covariates.
    environment : Table or None
        The column whose interaction is asked for, alone.
    """

    phenotypes: Table
    mean: tuple[Table, ...]
    variance: tuple[Table, ...]
    environment: Table | None = None


def read_study(
    asked: StudyColumns,
    *,
    missing_values: Sequence[str] = ("NA",),
    categorical: Sequence[str] = (),
    at_hand: AtHand | None = None,
) -> StudyTables:
    """Read each table once and take the columns that are asked for; tell them in the log.

    Parameters
    ----------
    asked : StudyColumns
    missing_values : sequence of str, default ("NA",)
    categorical : sequence of str, default ()
        Covariates whose cells are levels although they are numbers.
    at_hand : mapping of Path to DataFrame, Dataset or DataArray, optional
        Tables in memory, by the paths that stand for them in `asked`.

    Raises
    ------
    InputError
        If a table cannot be read, or a name is no column's; a column is phenotype and something
        else at once, or no phenotype is left.
    """

    def read(path: Path, **options: Any) -> Table:
        options["missing_values"] = missing_values
        if at_hand and path in at_hand:
            return table_of(at_hand[path], path.name.strip("<>"), **options)
        return read_table(path, **options)

    environment = () if asked.interaction is None else (asked.interaction,)
    table = read(
        asked.phenotypes,
        only={*asked.phenotype, *environment} if asked.phenotype else None,
        faults_by_column=True,
    )
    covariates = {
        path: read(path, only=asked.wishes_of(path), categorical=categorical)
        for path in dict.fromkeys((*asked.mean, *asked.variance))
    }
    mean = _taken([covariates[path] for path in asked.mean], asked.mean_covariate, "mean")
    variance = _taken(
        [covariates[path] for path in asked.variance], asked.variance_covariate, "variance"
    )
    elsewhere = dict.fromkeys(environment, "interaction")
    for names, tables in ((asked.mean_covariate, mean), (asked.variance_covariate, variance)):
        for one in tables:
            if names and one.path == table.path:
                elsewhere |= dict.fromkeys(one.columns, "covariate")
    phenotypes = _phenotypes(table, asked.phenotype, elsewhere)
    where = [*covariates.values(), table]
    found = None if asked.interaction is None else _environment(asked.interaction, where)
    for what, tables in (
        ("phenotypes", (phenotypes,)),
        ("covariates of the mean", mean),
        ("covariates of the variance", variance),
    ):
        for one in tables:
            _told(one, what)
    return StudyTables(phenotypes, mean, variance, found)


def _phenotypes(table: Table, wishes: tuple[str, ...], elsewhere: Mapping[str, str]) -> Table:
    """Return the phenotypes without what is something else."""
    columns: Sequence[str] = table.columns
    if wishes:
        columns = chosen(wishes, [*columns, *table.unread], "phenotype", str(table.path))
    for name in wishes:
        if name in elsewhere:
            raise InputError(f"'{shown(name)}' cannot be phenotype and {elsewhere[name]} at once")
    columns = [name for name in columns if name not in elsewhere]
    if not columns:
        raise InputError(f"no phenotype is left in {table.path}: its columns are covariates")
    return table if tuple(columns) == table.columns else table.select(columns)


def _taken(tables: Sequence[Table], wishes: tuple[str, ...], part: str) -> tuple[Table, ...]:
    """Return the tables with the covariates that are asked for; without those that have none."""
    if not wishes:
        return tuple(tables)
    kind = f"{part} covariate"
    where = " and ".join(str(table.path) for table in tables)
    known = [name for table in tables for name in table.columns]
    unread = [name for table in tables for name in table.unread]
    columns = chosen(wishes, [*known, *unread], kind, where)
    found = ([name for name in columns if name in table.columns] for table in tables)
    return tuple(
        table.select(names, kind) for table, names in zip(tables, found, strict=True) if names
    )


def _environment(name: str, tables: Sequence[Table]) -> Table:
    """Return the column of the environment, of the first table that has it."""
    for table in tables:
        if name in table.columns:
            if name in table.faults:
                raise InputError(table.faults[name])
            if name in table.levels:
                raise InputError(f"{table.path}: the environment '{name}' is no number")
            return table.select([name])
    places = ", ".join(str(table.path) for table in tables)
    every = [name for table in tables for name in (*table.columns, *table.unread)]
    raise InputError(f"interaction: no column '{name}' in {places}{nearest(name, every)}")


def _told(table: Table, what: str) -> None:
    """Log which columns were taken of a table."""
    logger.info("%s: %s %s", table.path, what, listed(table.columns, _COLUMNS_TOLD))
