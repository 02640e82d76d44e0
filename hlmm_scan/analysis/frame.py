"""Rows of a result store as a data frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hlmm_scan.analysis.rows import chosen_tests, numbers_of_phenotypes, trusted
from hlmm_scan.errors import InputError
from hlmm_scan.results.export_rows import FinishedRows
from hlmm_scan.results.store import ResultStore


def rows_below(
    store: ResultStore,
    below: float | None = None,
    phenotypes: Sequence[str] = (),
    tests: Sequence[str] = (),
) -> pd.DataFrame:
    """Return finished rows, or those of which a test has a smaller p.

    Parameters
    ----------
    store : ResultStore
    below : float, optional
        Rows with a status of 5 or more are never below it.
    phenotypes, tests : sequence of str, optional
        Default: all phenotypes, the default tests.

    Returns
    -------
    pandas.DataFrame
        Phenotype after phenotype, each by chromosome and position; coordinates, variables, and
        those of the tests that are not stored.

    Raises
    ------
    InputError
        If a phenotype or test is unknown, or `below` is not between 0 and 1.

    Notes
    -----
    Read piece by piece: memory is that of the rows returned and of one read.
    """
    if below is not None and not 0 < below <= 1:
        raise InputError(f"below must be a p-value between 0 and 1, not {below:g}")
    chosen = numbers_of_phenotypes(store, phenotypes)
    asked = chosen_tests(store, tests)
    rows = FinishedRows(store, chosen, tests=asked)
    parts = [pd.DataFrame({name: [] for name in rows.columns})]
    with store.being_read():
        for columns in rows.by_phenotype():
            part = pd.DataFrame({name: columns[name] for name in rows.columns})
            if below is not None:
                p = np.column_stack([columns[test.column] for test in asked])
                strongest = np.fmax.reduce(p, axis=1)
                part = part[(strongest > -np.log10(below)) & trusted(columns["status"])]
            if len(part):
                parts.append(part)
    return pd.concat(parts[1:] or parts, ignore_index=True)
