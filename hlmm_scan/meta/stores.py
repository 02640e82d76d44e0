"""Result stores as cohorts to pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.meta.pool import FIELDS
from hlmm_scan.meta.rows import ROWS_AT_ONCE, Columns, Source
from hlmm_scan.results.export_chromosomes import autosomes_said
from hlmm_scan.results.null_summary import trait_shape
from hlmm_scan.results.phenotypes import chosen_phenotypes
from hlmm_scan.results.publish import is_published
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import Status
from hlmm_scan.shown import listed_names


def store_source(name: str, store: ResultStore, phenotype: str) -> Source:
    """Return a result store as a cohort.

    Parameters
    ----------
    name : str
        Of the cohort.
    store : ResultStore
        Complete; of a scan, published, or itself pooled.
    phenotype : str
        Empty for the only one.

    Raises
    ------
    InputError
        If it has no such phenotype, or several and none is named, or an earlier version made it.
    IncompleteError
        If the scan is not complete.
    """
    store.require_current()
    store.require_complete()
    known = chosen_phenotypes(store, [phenotype] if phenotype else [])
    if len(known) > 1:
        raise InputError(
            f"{store.path}: has {len(known)} phenotypes ({listed_names(known)}); name one of them "
            "with --phenotype"
        )
    attributes = store.attributes
    stored = {v.name for v in store.variables}
    columns = [name for name in FIELDS if name in stored]
    run = f"{attributes.get('run_id', '')}, {known[0]}"
    return Source(
        name,
        str(store.path),
        known[0],
        str(attributes.get("effect_scale", "")),
        autosomes_said(attributes),
        run,
        {
            "kind": "published store" if is_published(store) else "result store",
            "phenotype": known[0],
            "run_id": str(attributes.get("run_id", "")),
            "digest": _digest(store),
        },
        lambda: _read(store, store.phenotypes.index(known[0]), columns),
        store.being_read,
        store.array("status").shape[1],
        trait_shape(store.null_group(known[0])),
    )


def _digest(store: ResultStore) -> str:
    """Return a digest of all checksums of the store."""
    manifest = store.manifest
    if manifest is None:
        return ""
    listed = "\n".join(f"{key} {checksum}" for key, checksum in sorted(manifest.files()))
    return sha256(listed.encode()).hexdigest()


def _read(
    store: ResultStore, phenotype: int, variables: list[str]
) -> Iterator[tuple[Columns, Callable[[int], str]]]:
    n_variants, chunk = store.array("status").shape[1], store.array("status").chunks[1]
    step = -(-ROWS_AT_ONCE // chunk) * chunk
    for start in range(0, n_variants, step):
        rows = slice(start, min(start + step, n_variants))
        read = store.read_partition(phenotype, rows.start, rows.stop, [*variables, "status"])
        status = read["status"]
        columns: dict[str, NDArray[np.generic]] = {v: read[v] for v in variables}
        columns["trusted"] = (status > Status.PENDING) & (status < Status.NOT_CONVERGED)
        for name in ("contig", "effect_allele", "other_allele"):
            columns[name] = np.asarray(store.array(name)[rows]).astype(object)
        columns["position"] = np.asarray(store.array("position")[rows])
        columns["variant_id"] = _Ids(store, rows)  # type: ignore[assignment]
        yield columns, lambda row, first=start: f"{store.path}, variant {first + row + 1}"  # type: ignore[misc]


class _Ids:
    """Ids of some variants, read when they are asked for."""

    def __init__(self, store: ResultStore, rows: slice) -> None:
        self._store, self._rows = store, rows
        self._ids: NDArray[np.object_] | None = None

    def __call__(self, wanted: NDArray[np.intp]) -> NDArray[np.object_]:
        if self._ids is None:
            self._ids = np.asarray(self._store.array("variant_id")[self._rows]).astype(object)
        return self._ids[wanted]
