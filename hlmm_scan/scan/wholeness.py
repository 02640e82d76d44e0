"""Whether stores hold what was written: all of a dataset or result store, or what a run wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.cohort.backgrounds import FORMAT
from hlmm_scan.cohort.backgrounds import KIND as BACKGROUND
from hlmm_scan.errors import HlmmScanError, InputError
from hlmm_scan.genotypes import in_use as genotypes_in_use
from hlmm_scan.genotypes.arrays import CHECKSUMS
from hlmm_scan.genotypes.dataset import DATASET_FORMAT, KIND, GenotypeDataset
from hlmm_scan.genotypes.fingerprint import fingerprint_of
from hlmm_scan.results import in_use as results_in_use
from hlmm_scan.results.recorded import checksums_by_key, chunk_key, chunk_place
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.state import standing, verify
from hlmm_scan.schema import STORE_FORMAT
from hlmm_scan.staging import read_error, stands
from hlmm_scan.storage import ObjectPath, Place, place
from hlmm_scan.storage.checksums import CHUNK, MANIFEST, Manifest, read_document
from hlmm_scan.storage.places import MARK, ROOT
from hlmm_scan.storage.rereading import MISSING, File, look


@dataclass(frozen=True)
class Verdict:
    """What was found where a store was read from beginning to end.

    Attributes
    ----------
    path : str
    files : int
        Chunks and documents whose checksums were recomputed.
    damage : tuple of str
        A line for each thing that is not what was written.
    notes : tuple of str
        What could not be looked at.
    """

    path: str
    files: int
    damage: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify_store(where: Place | str) -> Verdict:
    """Recompute every checksum and digest of a genotype dataset, a result store or a background.

    Raises
    ------
    InputError
        If there is nothing, or nothing of ours.
    StoreHeldError
        If somebody replaces it meanwhile.
    InfrastructureError
        If an object store does not answer.
    """
    where = place(where)
    if not stands(where):
        raise InputError(f"{where}: nothing is there")
    try:
        root = read_document(where)
        if root is None and (where / ROOT).is_file():
            return Verdict(str(where), 0, (f"{ROOT} is damaged",))
    except InputError as error:
        return Verdict(str(where), 0, (_without(where, error),))
    except OSError as error:
        raise read_error(where, error) from error
    attributes = (root or {}).get("attributes")
    mark = attributes.get(MARK) if isinstance(attributes, dict) else None
    kind = mark.get("kind") if isinstance(mark, dict) else None
    known = {KIND: (DATASET_FORMAT,), "results": (STORE_FORMAT,), BACKGROUND: (FORMAT,)}
    if mark and kind in known and mark.get("format") not in known[kind]:
        raise InputError(
            f"{where}: {kind} of format {mark.get('format')}, this version verifies "
            f"{known[kind][0]}; do it with the version that wrote it"
        )
    try:
        if mark and kind == KIND:
            with genotypes_in_use.being_read([where]):
                return _verify_dataset(where, checked=bool(mark.get(CHECKSUMS)))
        if attributes and kind == "results":
            with results_in_use.being_read(where, str(attributes.get("run_id", ""))):
                return _verify_results(where)
        if kind == BACKGROUND:
            return _verify_listed(where)
    except OSError as error:
        raise read_error(where, error) from error
    raise InputError(
        f"{where}: no genotype dataset, result store or background of hlmm-scan, so there are no "
        "checksums to verify"
    )


def _verify_listed(where: Place) -> Verdict:
    """Look at a store of which the manifest lists all there is."""
    try:
        files, damage = _look_at(where, _listed(Manifest.read(where, f"{MANIFEST}/{ROOT}")))
    except InputError as error:
        files, damage = 0, [_without(where, error)]
    return Verdict(str(where), files, tuple(damage))


def _verify_dataset(where: Place, *, checked: bool) -> Verdict:
    damage: list[str] = []
    notes: tuple[str, ...] = ()
    files = 0
    if checked:
        try:
            manifest = Manifest.read(where, f"{MANIFEST}/{ROOT}")
            files, damage = _look_at(where, _listed(manifest))
        except InputError as error:
            damage = [_without(where, error)]
    else:
        notes = ("made without checksums, by an older version: only its fingerprint was verified",)
    if not damage:
        try:
            dataset = GenotypeDataset.open(where)
            if fingerprint_of(dataset) != dataset.fingerprint:
                damage = ["its content is not what its fingerprint was made of"]
        except HlmmScanError as error:
            damage = [_without(where, error)]
    return Verdict(str(where), files, tuple(damage), notes)


def _verify_results(where: Place) -> Verdict:
    damage: list[str] = []
    notes: tuple[str, ...] = ()
    files = 0
    try:
        store = ResultStore.open(where)
    except InputError as error:
        return Verdict(str(where), 0, (_without(where, error),))
    try:
        plan = Plan.from_json(store.plan)
        if store.manifest is not None:
            files, damage = _look_at(where, _listed(store.manifest))
            run_id = str(store.attributes.get("run_id", ""))
            if store.manifest.of != run_id:
                damage.append("its checksums are those of another run")
        else:
            notes = (
                "made without checksums, by an older version: only the values of partitions were "
                "verified",
            )
        torn = store.ledger.damaged_lines()
        if torn:
            damage.append(f"run/ledger: {torn} damaged records")
        complete = store.attributes["run_status"] == "complete"
        unrecorded = int((~standing(store, plan).done).sum()) if complete else 0
        if unrecorded:
            damage.append(f"run/ledger: no record of {unrecorded} finished partitions")
        if not damage:
            chunks = look_at_partitions(store, plan)
            files += 0 if complete else chunks.files
            damage = [f"partition {k}: {reason}" for k, reason in chunks.damaged.items()]
        if not damage:
            damage = [
                f"partition {k}: its values are not those that were recorded" for k in verify(store)
            ]
    except HlmmScanError as error:
        damage.append(_without(where, error))
    return Verdict(str(where), files, tuple(damage), notes)


def _listed(manifest: Manifest) -> Iterator[File]:
    yield from ((key, (checksum,)) for key, checksum in manifest.files())


def _look_at(where: Place, files: Iterable[File]) -> tuple[int, list[str]]:
    n, damage = 0, []
    for key, found, _ in look(where, files):
        n += 1
        if found:
            damage.append(f"{'chunk ' if CHUNK in key else ''}{key} is {found}")
    return n, damage


def _without(where: Place, error: Exception) -> str:
    return str(error).removeprefix(f"{where}: ")


# What a run wrote -------------------------------------------------------------------------


@dataclass(frozen=True)
class WrittenChunks:
    """The chunks of all finished partitions, looked at.

    Attributes
    ----------
    files : int
    damaged : dict of int to str
        Partitions whose chunks are not what was recorded, and the first of them.
    checksums : dict of str to ndarray of uint32
        By variable, over its grid of chunks; nothing where the store has no checksums.
    """

    files: int
    damaged: dict[int, str]
    checksums: dict[str, NDArray[np.uint32]]


def look_at_partitions(store: ResultStore, plan: Plan) -> WrittenChunks:
    """Look at every chunk of every finished partition.

    In a folder each is read, and held against what the ledger says. An object is there whole once
    it is there at all, so in an object store the look is for those that are missing.

    Parameters
    ----------
    store : ResultStore
    plan : Plan
    """
    names = [v.name for v in store.variables]
    grid = (len(plan.phenotypes), plan.n_blocks)
    checksums = {name: np.zeros(grid, np.uint32) for name in names} if store.checked else {}
    damaged: dict[int, str] = {}
    there = _objects(store.path, names) if isinstance(store.path, ObjectPath) else None
    files = 0
    for index, chunks in _finished(store, plan).items():
        partition = plan.partition(index)
        block = partition.start // plan.partition_variants
        places = [chunk_place(k, block) for k in partition.phenotypes]
        right: dict[str, set[int]] = {chunk_key(n, p): set() for p in places for n in names}
        for of_one in chunks:
            for key, checksum in checksums_by_key(of_one, names).items():
                right.setdefault(key, set()).add(checksum)
        files += len(right)
        for key, found, checksum in _looked_at(store, right, there):
            if found:
                damaged.setdefault(index, f"chunk {key} is {found}")
            elif checksums:
                name, _, where = key.partition(CHUNK)
                phenotype, number = map(int, where.split("/"))
                checksums[name][phenotype, number] = checksum
    return WrittenChunks(files, damaged, checksums)


def revocations(store: ResultStore, damaged: Mapping[int, str]) -> list[PartitionRecord]:
    """Return records that take back what the ledger says of damaged partitions."""
    last = {
        record.partition: record
        for record in store.ledger.records()
        if record.partition in damaged and not record.failed
    }
    return [
        PartitionRecord(
            index,
            statuses=last[index].statuses,
            worker=last[index].worker,
            error=f"it was done, but {reason}",
            revoked=True,
        )
        for index, reason in damaged.items()
    ]


def _finished(store: ResultStore, plan: Plan) -> dict[int, list[Mapping[str, str]]]:
    """Return what records say of the chunks of each finished partition."""
    done = standing(store, plan).done
    found: dict[int, list[Mapping[str, str]]] = {}
    for record in store.ledger.records():
        if record.revoked:
            found.pop(record.partition, None)
        elif not record.failed and done[record.partition]:
            found.setdefault(record.partition, []).append(record.chunks)
    return found


def _objects(store: ObjectPath, names: Iterable[str]) -> set[str]:
    return {f"{name}/{key}" for name in names for key in (store / name).objects()}


def _looked_at(
    store: ResultStore, right: Mapping[str, set[int]], there: set[str] | None
) -> Iterator[tuple[str, str, int]]:
    if there is None:
        yield from look(store.path, right.items())
        return
    for key, checksums in right.items():
        if len(checksums) > 1:  # done twice, packed differently: only the object tells which
            yield from look(store.path, [(key, checksums)])
        else:
            yield key, "" if key in there else MISSING, next(iter(checksums), 0)
