"""Several covariate tables as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.table import Table
from hlmm_scan.cohort.words import shown
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds


def join(samples: SampleIds, tables: Sequence[Table]) -> Table | None:
    """Put the columns of tables side by side, each table found by its own people.

    Parameters
    ----------
    samples : SampleIds
        The people who are asked for.
    tables : sequence of Table
        One may have FIDs and another none.

    Returns
    -------
    Table or None
        Of the people who are in all tables, in the order of `samples`; the one table as it is, or
        None where there is none.

    Raises
    ------
    InputError
        If a column is in two tables, nobody is in all of them, or a person cannot be told from
        another.
    """
    if len(tables) < 2:
        return tables[0] if tables else None
    where: dict[str, Path] = {}
    for table in tables:
        for name in table.columns:
            if name in where:
                raise InputError(
                    f"covariate '{shown(name)}' is in {where[name]} and in {table.path}: rename or "
                    "leave out one of the two"
                )
            where[name] = table.path
    rows = [match(samples, table) for table in tables]
    there = np.flatnonzero(np.all([found >= 0 for found in rows], axis=0))
    names = " and ".join(str(table.path) for table in tables)
    if not len(there):
        raise InputError(f"nobody is in all of {names}")
    values = np.hstack([t.values[found[there]] for t, found in zip(tables, rows, strict=True)])
    ids = samples.individual_id[there]
    family = None if samples.family_id is None else samples.family_id[there]
    for array in (values, ids, family):
        if array is not None:
            array.flags.writeable = False
    return Table(
        Path(names),
        family,
        ids,
        tuple(where),
        values,
        hashlib.sha256("".join(table.sha256 for table in tables).encode()).hexdigest(),
        {name: levels for table in tables for name, levels in table.levels.items()},
    )
