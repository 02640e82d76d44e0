"""A copy of a result store that may leave the house: results and provenance, and no person in it.

Result stores hold each person's trait, covariates, sex and genotypes at the random effects, since
every task reads its null models there. What is copied here is chosen by name, so what a later
version may add to a store stays out until somebody adds it below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, cast

import numpy as np

from hlmm_scan import __version__
from hlmm_scan.errors import InputError
from hlmm_scan.results.digests import checksum, combined
from hlmm_scan.results.mark import REMEDY
from hlmm_scan.results.null_summary import copy_summary
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.staging import staged_store, stands
from hlmm_scan.storage import Place

PUBLISHED = "published"
"""Attribute of the root that tells a published store, and the version that made it."""

ROOT_ATTRIBUTES = (
    *("coordinates", "run_id", "run_status", "started", "finished", "status_counts"),
    *("parameters", "software", "effects_per", "effect_scale", "log_likelihood_of"),
    *("dispersion_fit", "software_of_partitions"),
)
"""Copied as they are: parameters hold options and digests of the inputs, not what was in them."""

_ROWS = 65_536


def publish(store: ResultStore, output: Place) -> ResultStore:
    """Write what a scan found, and nothing of the people in it, as a result store of its own.

    Every value is read, compared with its checksum and written anew.

    Parameters
    ----------
    store : ResultStore
        Complete.
    output : Path or ObjectPath
        Where nothing stands.

    Returns
    -------
    ResultStore
        Results, dispersion effects if there are any, what was run with which software (of input
        files their names, not where they lay), how many people were analysed or left out and why,
        effects of covariates, third and fourth moments of traits and residuals, and when each
        partition was done (not on which machine).

    Raises
    ------
    IncompleteError
        If the scan is not complete.
    InputError
        If something in the store is damaged, or the output cannot be written.
    StoreHeldError
        If another command changes the store meanwhile.
    """
    store.require_current()
    store.require_complete()
    if "cohorts" in store.attributes:
        raise InputError(
            f"{store.path}: a meta-analysis, in which there is nobody: copy it as it is"
        )
    if stands(output):  # rather now than when all is copied
        raise InputError(f"{output}: something stands there already; choose another --output")
    with store.being_read(), staged_store(output) as unfinished:
        summary = ResultStore.create(
            unfinished,
            phenotypes=store.phenotypes,
            n_variants=store.array("status").shape[1],
            chunk_variants=store.array("status").chunks[1],
            variables=store.readable,
            attributes=_attributes(store),
            plan=_plan(store.plan),
        )
        for name in ("phenotype", *_coordinates(store), *(v.name for v in store.readable)):
            summary.array(name).zarr.attrs.put(store.array(name).attrs)
        if store.genotype_rows is not None:
            summary.put_genotype_rows(np.asarray(store.genotype_rows[:]))
        _copy_coordinates(store, summary)
        records = _copy_results(store, summary)
        for name in store.phenotypes:
            copy_summary(store.null_group(name), summary.null_group(name))
        summary.seal()
        with summary.ledger.writer() as journal:
            for record in records:
                journal.append(record)
    return ResultStore.open(output)


def is_published(store: ResultStore) -> bool:
    """Return whether a store holds no people, and so nothing that needs them."""
    return PUBLISHED in store.attributes


def require_people(store: ResultStore, what: str) -> None:
    """Raise InputError where a store was published, and thus lacks what something needs.

    Parameters
    ----------
    store : ResultStore
    what : str
        What needs it, as the subject of the message.
    """
    if is_published(store):
        raise InputError(
            f"{store.path}: published, so without the people it was made of; {what} needs the "
            "store of the scan itself"
        )


def public_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a root, of input files only their names: paths name users."""
    inputs = cast(Mapping[str, Any], attributes.get("inputs", {}))
    return {**attributes, "inputs": {name: _names(paths) for name, paths in inputs.items()}}


def _attributes(store: ResultStore) -> dict[str, Any]:
    known = store.attributes
    kept = {name: known[name] for name in (*ROOT_ATTRIBUTES, "inputs") if name in known}
    return {**public_attributes(kept), PUBLISHED: {"hlmm_scan": __version__}}


def _plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {**plan, "genotypes": _names(plan["genotypes"])}


def _names(paths: Any) -> Any:
    if isinstance(paths, str):
        return PureWindowsPath(PurePosixPath(paths).name).name
    return [_names(path) for path in cast(Iterable[Any], paths)]


def _coordinates(store: ResultStore) -> list[str]:
    return str(store.attributes["coordinates"]).split()


def _copy_coordinates(store: ResultStore, summary: ResultStore) -> None:
    names = _coordinates(store)
    n_variants = store.array("status").shape[1]
    for start in range(0, n_variants, _ROWS):
        rows = slice(start, min(start + _ROWS, n_variants))
        summary.write_variants(start, {n: np.asarray(store.array(n)[rows]) for n in names})


def _copy_results(store: ResultStore, summary: ResultStore) -> list[PartitionRecord]:
    """Copy results partition by partition; return the records of the copy."""
    names = [v.name for v in store.variables]
    records = {}
    for record in store.ledger.records():
        if not record.failed:
            records[record.partition] = replace(record, worker="", retries=0)
    for index, phenotypes, start, stop in _partitions(store.plan):
        checksums, chunks = [], dict[str, str]()
        for phenotype in phenotypes:
            values = store.read_partition(phenotype, start, stop)
            checksums.append(checksum(values, names))
            summary.write_partition(phenotype, start, stop, values)
            chunks |= summary.chunk_checksums(phenotype, start)
        if index not in records or combined(checksums) != records[index].checksum:
            raise InputError(
                f"{store.path}: partition {index} does not hold what was written; {REMEDY}"
            )
        records[index] = replace(records[index], chunks=chunks)
    _copy_derived(store, summary)
    return [records[index] for index in sorted(records)]


def _partitions(plan: Mapping[str, Any]) -> Iterator[tuple[int, range, int, int]]:
    """Yield number, phenotypes and variants of every partition, as the scan's plan cuts them."""
    n, size, together = plan["n_variants"], plan["partition_variants"], plan.get("together", 1)
    index = 0
    for start in range(0, n, size):
        for first in range(0, len(plan["phenotypes"]), together):
            last = min(first + together, len(plan["phenotypes"]))
            yield index, range(first, last), start, min(start + size, n)
            index += 1


def _copy_derived(store: ResultStore, summary: ResultStore) -> None:
    n_phenotypes, n_variants = store.array("status").shape
    size = -(-_ROWS // store.array("status").chunks[1]) * store.array("status").chunks[1]
    for name in (v.name for v in store.derived):
        for phenotype in range(n_phenotypes):
            for start in range(0, n_variants, size):
                rows = phenotype, slice(start, min(start + size, n_variants))
                summary.array(name)[rows] = np.asarray(store.array(name)[rows])
