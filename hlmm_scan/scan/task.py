"""The one task function: serial, Dask and shard runs all call it, and only it fits variants."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import zarr
from threadpoolctl import threadpool_limits

from hlmm_scan.errors import HlmmScanError, InputError
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.null.model import NullModel, RandomEffects
from hlmm_scan.null.store import read_null_model, read_random_effects
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.plan import Partition
from hlmm_scan.schema import Status
from hlmm_scan.staging import write_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartitionTask:
    """All a worker is told: where to read, what to fit, where to write.

    Attributes
    ----------
    store, genotypes : str
        Absolute paths.
    run_id : str
        Of the prepared store. Two stores that stood at the same path, one after the other, differ
        in it, so a worker never reuses the null model of the first.
    genotype_fingerprint : str
        The dataset must still be the one the plan was made for.
    phenotype : str
    partition : Partition
    options : FitOptions
    """

    store: str
    genotypes: str
    run_id: str
    genotype_fingerprint: str
    phenotype: str
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
        With its checksum and counts; or, where anything in the partition failed, with the error
        and nothing to rely on in the store.

    Raises
    ------
    HlmmScanError
        If the inputs changed under the run or the store cannot be written: no other partition
        would fare better.
    """
    started = time.time()
    partition = task.partition
    pin_threads()
    try:
        dataset = _dataset(task.genotypes, task.genotype_fingerprint)
        store = _store(task.store, task.run_id)
        null = _null_model(task.store, task.run_id, task.phenotype)
        start, stop = partition.start, partition.stop
        contigs = dataset.variants(start, stop).contig
        # Genotype chunk by chunk: which variants share a matrix product must not depend on how the
        # scan is cut, or a trait's last digits would depend on the traits beside it.
        chunk = dataset.chunk_variants
        blocks = []
        for first in range(start, stop, chunk):
            last = min(first + chunk, stop)
            packed = dataset.read_packed(first, last)
            blocks.append(
                fit_block(null, packed, contigs[first - start : last - start], task.options)
            )
        columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        try:
            checksum = store.write_partition(partition.phenotype, start, stop, columns)
        except OSError as error:
            raise write_error(Path(task.store), error) from error
    except HlmmScanError:
        raise
    except Exception as error:
        logger.exception("partition %d failed", partition.index)
        return PartitionRecord(
            partition.index,
            started=started,
            finished=time.time(),
            error=f"{type(error).__name__}: {error}",
        )
    statuses = Counter(Status(int(s)).label for s in columns["status"])
    return PartitionRecord(
        partition.index, checksum, dict(sorted(statuses.items())), started, time.time()
    )


@lru_cache(maxsize=1)
def pin_threads() -> None:
    """Keep BLAS and Zarr's codecs of this process at one thread, once.

    Workers times threads is the number of cores already; more threads cost a factor of two
    (small factorisations most of all), and one thread keeps sums in one order.
    """
    threadpool_limits(1)
    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 2})


@lru_cache(maxsize=4)
def _dataset(path: str, fingerprint: str) -> GenotypeDataset:
    dataset = GenotypeDataset.open(Path(path))
    if dataset.fingerprint != fingerprint:
        raise InputError(
            f"{path}: the genotype dataset changed since the scan was prepared; restore it, or "
            "start anew with --overwrite"
        )
    return dataset


@lru_cache(maxsize=4)
def _store(path: str, run_id: str) -> ResultStore:
    return ResultStore.open(Path(path))


@lru_cache(maxsize=2)
def _null_model(path: str, run_id: str, phenotype: str) -> NullModel:
    group = _store(path, run_id).null_group(phenotype)
    shared = str(group.attrs["random_effects"])
    return read_null_model(group, _random_effects(path, run_id, shared) if shared else None)


@lru_cache(maxsize=2)
def _random_effects(path: str, run_id: str, name: str) -> RandomEffects:
    return read_random_effects(_store(path, run_id).group(f"random_effects/{name}"))
