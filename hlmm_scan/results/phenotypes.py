"""Which phenotypes of a result store are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hlmm_scan.cohort.columns import chosen

if TYPE_CHECKING:
    from hlmm_scan.results.store import ResultStore


def chosen_phenotypes(store: ResultStore, names: Sequence[str] = ()) -> list[str]:
    """Return the phenotypes that are named, all where none is.

    Parameters
    ----------
    store : ResultStore
    names : sequence of str, default ()
        Names, ranges or patterns; see :func:`~hlmm_scan.cohort.columns.named`.

    Raises
    ------
    InputError
        If one names none; the nearest is offered.
    """
    known = store.phenotypes
    return chosen(names, known, "phenotype", str(store.path)) if names else known
