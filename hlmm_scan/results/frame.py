"""Results as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hlmm_scan.errors import InputError
from hlmm_scan.results.export_rows import Columns, FinishedRows
from hlmm_scan.results.export_text import labels
from hlmm_scan.results.phenotypes import chosen_phenotypes
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.tests import parse_tests
from hlmm_scan.schema import Status


def to_frame(
    store: ResultStore,
    phenotypes: Sequence[str] = (),
    *,
    tests: Sequence[str] = (),
    below: float | None = None,
) -> pd.DataFrame:
    """Return finished tests, a row for each phenotype and variant.

    Parameters
    ----------
    store : ResultStore
    phenotypes : sequence of str, default all
    tests : sequence of str, optional
        As :func:`hlmm_scan.results.tests.parse_tests` takes them: −log10 p of those that are not
        stored (``wald``, ``var_wald_robust``) are columns after the stored variables.
    below : float, optional
        Only rows to be trusted where any of the tests asked for, by default any of the default
        ones, has a p below this. Memory is then that of these rows.

    Returns
    -------
    pandas.DataFrame
        Coordinates and variables under their own names, the status by its name.

    Raises
    ------
    InputError
        If a phenotype is unknown, the store has no such test, or `below` is no p-value.
    """
    if below is not None and not 0 < below <= 1:
        raise InputError(f"below must be a p-value, not {below:g}")
    known = store.phenotypes
    chosen = parse_tests(tests, [v.name for v in store.readable], store.path)
    numbers = [known.index(name) for name in chosen_phenotypes(store, phenotypes)]
    rows = FinishedRows(store, numbers, tests=chosen)

    def kept(block: Columns) -> pd.DataFrame:
        frame = pd.DataFrame(block, columns=rows.columns)
        status = block["status"]
        frame["status"] = labels(status)
        if below is None:
            return frame
        limit = -np.log10(below)
        found = np.logical_or.reduce([test.neg_log10_p(block) > limit for test in chosen])
        some: pd.DataFrame = frame.loc[found & (status < Status.NOT_CONVERGED)]
        return some

    frames = [kept(block) for block in rows.by_phenotype()]
    frames = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=rows.columns)
