"""The one task function: serial, Dask and shard runs all call it, and only it fits variants."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import DamagedError, HlmmScanError, InputError
from hlmm_scan.genotypes.in_use import Opened
from hlmm_scan.genotypes.joined import Genotypes, chosen_variants
from hlmm_scan.kernels.block import FitOptions
from hlmm_scan.null.model import NullModel, RandomEffects
from hlmm_scan.null.serving import DEFAULT
from hlmm_scan.null.store import read_null_model, read_random_effects, read_serving
from hlmm_scan.results.digests import combined
from hlmm_scan.results.in_use import of_run, require_run
from hlmm_scan.results.mark import REMEDY
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.chunks import TraitModels, fit_chunk
from hlmm_scan.scan.faults import Retrying, gone, present, writing
from hlmm_scan.scan.memory import MemoryWatch
from hlmm_scan.scan.plan import Partition
from hlmm_scan.scan.worker import pin_threads
from hlmm_scan.schema import Status
from hlmm_scan.storage import ObjectPath, place
from hlmm_scan.storage.places import OwnedPath

logger = logging.getLogger(__name__)

NUMERICAL = ("numba", "numpy", "scipy")
"""Libraries whose versions may show in the last digits."""


@dataclass(frozen=True)
class PartitionTask:
    """All a worker is told: where to read, what to fit, where to write.

    Attributes
    ----------
    store : str
        Absolute path, or address in an object store.
    genotypes : tuple of str
        The same of every genotype dataset; which of their variants are scanned, the store knows.
    run_id : str
        Of the prepared store. Two stores that stood at the same path, one after the other, differ
        in it, so a worker never reuses the null model of the first.
    genotype_fingerprint : str
        The dataset must still be the one the plan was made for.
    phenotypes : tuple of str
        Of the partition.
    partition : Partition
    options : FitOptions
    """

    store: str
    genotypes: tuple[str, ...]
    run_id: str
    genotype_fingerprint: str
    phenotypes: tuple[str, ...]
    partition: Partition
    options: FitOptions


def run_partition(task: PartitionTask) -> PartitionRecord:
    """Fit one partition and write its chunks.

    Parameters
    ----------
    task : PartitionTask

    Returns
    -------
    PartitionRecord
        With its checksum and counts; or, where anything in the partition failed for good, with the
        error and nothing to rely on in the store. Faults that pass were tried again.

    Raises
    ------
    HlmmScanError
        If the inputs changed under the run, or the store cannot be written or is gone: no other
        partition would fare better.
    """
    with MemoryWatch() as memory:
        record = _fit_and_write(task)
    return replace(record, peak_bytes=memory.peak_bytes, worker=_worker())


def _fit_and_write(task: PartitionTask) -> PartitionRecord:
    started = time.time()
    partition, retrying = task.partition, Retrying()
    pin_threads()
    try:
        store = retrying(lambda: _store(task.store, task.run_id))
        results = _results(task, retrying)
        checksums, statuses, chunks = [], Counter[str](), dict[str, str]()
        for phenotype, columns in zip(partition.phenotypes, results, strict=True):
            wanted = {variable.name: columns[variable.name] for variable in store.variables}
            write = partial(
                store.write_partition, phenotype, partition.start, partition.stop, wanted
            )
            with writing(store.path), of_run(store.path, task.run_id):
                checksums.append(retrying(write))
            chunks |= store.chunk_checksums(phenotype, partition.start)
            codes, counts = np.unique(columns["status"], return_counts=True)
            statuses.update(
                {Status(c).label: n for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}
            )
        with writing(store.path), of_run(store.path, task.run_id):
            retrying(store.flush)  # a journal that is on the disk must not speak of what is not
    except Exception as error:
        return PartitionRecord(
            partition.index,
            started=started,
            finished=time.time(),
            error=_own_fault(task, error),
            retries=retrying.retries,
        )
    return PartitionRecord(
        partition.index,
        combined(checksums),
        dict(sorted(statuses.items())),
        started,
        time.time(),
        retries=retrying.retries,
        chunks=chunks,
        software=_other_software(store),
    )


def _results(task: PartitionTask, retrying: Retrying) -> list[dict[str, NDArray[Any]]]:
    """Return the results of a partition; all of them of the genotypes the scan was made for."""
    while True:
        opened, chosen = retrying(lambda: _genotypes_of(task))
        traits = retrying(
            partial(_traits, task.store, task.run_id, task.phenotypes, chosen.n_samples)
        )
        try:
            results = _fit(task.partition, chosen, traits, task.options, retrying)
        except DamagedError:  # as other chunks of the same content look
            if retrying(opened.still_there):
                raise
            continue
        if retrying(opened.still_there):
            return results


def _other_software(store: ResultStore) -> dict[str, str]:
    """Return the libraries whose versions here are not those that the store was prepared with."""
    known = store.attributes.get("software", {})
    return {name: version for name, version in _here().items() if known.get(name) != version}


@lru_cache(maxsize=1)
def _here() -> dict[str, str]:
    return {name: metadata.version(name) for name in NUMERICAL}


def _fit(
    partition: Partition,
    dataset: Genotypes,
    traits: Sequence[TraitModels],
    options: FitOptions,
    retrying: Retrying,
) -> list[dict[str, NDArray[Any]]]:
    """Return the results of a partition's variants for each phenotype, by names of arrays."""
    start, stop = partition.start, partition.stop
    loci = retrying(lambda: dataset.loci(start, stop))
    # Genotype chunk by chunk: which variants share a matrix product must not depend on how the
    # scan is cut, or a trait's last digits would depend on the traits beside it.
    blocks = []
    for first, last in dataset.blocks(start, stop):
        genotypes = retrying(partial(dataset.read_block, first, last))
        part = loci.take(slice(first - start, last - start))
        info = retrying(partial(dataset.info, first, last)) if options.info else None
        blocks.append(fit_chunk(traits, genotypes, part, options, retrying, info))
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*blocks, strict=True)
    ]


def _own_fault(task: PartitionTask, error: Exception) -> str:
    """Return in words why this one partition failed, or raise what no other would escape."""
    for path in (*map(place, task.genotypes), place(task.store)):
        if not present(path):  # and so all of it looks damaged
            raise gone(path) from error
    try:
        _genotypes_of(task)  # other genotypes look damaged as well
        require_run(place(task.store), task.run_id)
    except HlmmScanError as changed:
        raise changed from error
    except OSError:
        pass
    if isinstance(error, HlmmScanError) and not isinstance(error, DamagedError):
        raise error
    words = str(error) if isinstance(error, DamagedError) else f"{type(error).__name__}: {error}"
    told = isinstance(error, DamagedError | OSError)  # anything else may be a bug of ours
    logger.error(
        "partition %d failed: %s", task.partition.index, words, exc_info=None if told else error
    )
    return words


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def open_inputs(task: PartitionTask) -> None:
    """See that the genotypes and the store of a task are there, and are those it was made for.

    Raises
    ------
    HlmmScanError
        In one line, what is not.
    """
    _genotypes_of(task)
    if str(_store(task.store, task.run_id).attributes["run_id"]) != task.run_id:
        _store.cache_clear()
        raise InputError(f"{task.store}: holds another scan here")


def _genotypes_of(task: PartitionTask) -> tuple[Opened, Genotypes]:
    """Return the genotypes of a task, and those of their variants that are scanned."""
    arguments = (task.genotypes, task.genotype_fingerprint, task.store, task.run_id)
    found = _genotypes(*arguments)
    if not found[0].still_there():
        _genotypes.cache_clear()
        found = _genotypes(*arguments)
    return found


@lru_cache(maxsize=4)
def _genotypes(
    paths: tuple[str, ...], fingerprint: str, store: str, run_id: str
) -> tuple[Opened, Genotypes]:
    """Open the variants that are scanned, having looked that they are those of the plan."""
    opened = Opened(paths, fingerprint)
    return opened, chosen_variants(opened.genotypes, _store(store, run_id).genotype_rows)


@lru_cache(maxsize=4)
def _store(path: str, run_id: str) -> ResultStore:
    where = place(path)
    if isinstance(where, ObjectPath):
        where = OwnedPath(where.url, partial(require_run, where, run_id))
    return ResultStore.open(where)


@lru_cache(maxsize=1)
def _traits(
    path: str, run_id: str, phenotypes: tuple[str, ...], n_samples: int
) -> tuple[TraitModels, ...]:
    """Return the null models of a task's phenotypes, kept for the tasks that follow."""
    traits = []
    for phenotype in phenotypes:
        with _reading(path, phenotype):
            serving = read_serving(_store(path, run_id).null_group(phenotype), n_samples)
        traits.append(TraitModels(serving, _models(path, run_id, phenotype)))
    return tuple(traits)


def _models(path: str, run_id: str, phenotype: str) -> Callable[[str], NullModel]:
    """Return what reads null models; the default one is kept beside the one in use.

    They share arrays.
    """

    @lru_cache(maxsize=1)
    def default() -> NullModel:
        return _null_model(path, run_id, phenotype, DEFAULT, None)

    @lru_cache(maxsize=1)
    def other(key: str) -> NullModel:
        return _null_model(path, run_id, phenotype, key, default())

    return lambda key: default() if key == DEFAULT else other(key)


def _null_model(
    path: str, run_id: str, phenotype: str, key: str, default: NullModel | None
) -> NullModel:
    group = _store(path, run_id).null_group(phenotype, key)
    with _reading(path, phenotype):
        shared = str(group.attrs["random_effects"])
        effects = _random_effects(path, run_id, shared) if shared else None
        return read_null_model(group, effects, default)


@contextmanager
def _reading(path: str, phenotype: str) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise InputError(f"the null model of {phenotype} cannot be read: {error}") from error
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{path}: the null model of {phenotype} cannot be read ({error}); {REMEDY}"
        ) from error


@lru_cache(maxsize=2)
def _random_effects(path: str, run_id: str, name: str) -> RandomEffects:
    return read_random_effects(_store(path, run_id).group(f"random_effects/{name}"))
