"""Converting genotype files to a Zarr dataset: what is asked for, and where it may stand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from hlmm_scan import __version__
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.arrays import CHECKSUMS
from hlmm_scan.genotypes.conversion.parts import Pool, ThisProcess
from hlmm_scan.genotypes.conversion.processes import ReaderProcesses
from hlmm_scan.genotypes.conversion.sources import JoinedSources, open_sources
from hlmm_scan.genotypes.conversion.writer import DatasetWriter, Progress
from hlmm_scan.genotypes.dataset import DATASET_FORMAT, GenotypeDataset, is_genotype_dataset
from hlmm_scan.genotypes.in_use import being_replaced
from hlmm_scan.genotypes.open import SourceOptions
from hlmm_scan.genotypes.packing import packed_width
from hlmm_scan.genotypes.readers.source import FinerDosagesError
from hlmm_scan.staging import refuse_link, staged_store, stands
from hlmm_scan.storage import Place, place

CHUNK_BYTES = 8 << 20
"""Packed calls in one chunk, in bytes, where the variants of it allow."""

DOSAGE_CHUNK_BYTES = 32 << 20
"""The same for dosages, which are eight times as large and shrink when they are packed."""

MIN_CHUNK_VARIANTS = 64
MAX_CHUNK_VARIANTS = 8192

MIN_CHUNKS = 64
"""Chunks a dataset should have at least, so that a small one still divides among workers."""

WORTH_A_PROCESS = 1 << 28
"""Packed calls, in bytes, that are converted in less time than processes take to start."""


def default_chunk_variants(n_samples: int, n_variants: int, *, dosages: bool = False) -> int:
    """Return how many variants one chunk of calls should hold.

    A chunk is the least that a task can read, and one file. About 8 MiB makes the millisecond
    that Zarr spends on a chunk vanish beside decoding it, keeps a biobank's dataset at about
    10⁵ files a terabyte, and leaves room for several in one worker. At least 64 variants, because
    the per-variant work of a block is vectorised over them; at most 8,192, and no more than a
    64th of the variants, because a partition of the scan is a whole number of chunks and small
    cohorts must still be cut finely enough for parallel tasks of seconds.

    Parameters
    ----------
    n_samples, n_variants : int
    dosages : bool, default False
        Whether there may be dosages, of two bytes a person.

    Returns
    -------
    int
        Between 64 and 8,192.
    """
    by_size = CHUNK_BYTES // packed_width(n_samples)
    if dosages:
        by_size = DOSAGE_CHUNK_BYTES // (2 * n_samples)
    by_count = -(-n_variants // MIN_CHUNKS)
    return max(MIN_CHUNK_VARIANTS, min(by_size, by_count, MAX_CHUNK_VARIANTS))


def convert(
    sources: Sequence[Path | str],
    output: Place | str,
    *,
    chunk_variants: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    options: SourceOptions | None = None,
    workers: int = 1,
    pool: Pool | None = None,
) -> GenotypeDataset:
    """Convert genotype files to one Zarr genotype dataset.

    The dataset is there once it is whole; see :mod:`hlmm_scan.staging`. A conversion that was
    killed or interrupted goes on where it stopped when the same is asked for again, with the same
    result to the last byte (not on object stores).

    Parameters
    ----------
    sources : sequence of Path or str
        PLINK .bed, BGEN, PGEN, VCF, BCF files or VCF-Zarr stores, or the paths of PLINK filesets
        without extension; one or one per chromosome, of the same people in the same order.
        Variants are concatenated in the order given.
    output : Path, ObjectPath or str
        Where the dataset will stand, by custom with the extension .zarr.
    chunk_variants : int, optional
        Variants in one chunk of calls. Default `default_chunk_variants`.
    overwrite : bool, default False
        Replace a genotype dataset of this package that stands at ``output``, once the new one is
        whole and nobody reads the old one. Nothing else is ever replaced, nor is a link.
    progress : callable, optional
        Called with (variants done, all variants) after every part.
    options : SourceOptions, optional
        What files do not say themselves.
    workers : int, default 1
        Processes. One needs none beside this, nor do small files, unless they are read by native
        code, which damaged ones may crash; 0 reads them here all the same.
    pool : Pool, optional
        Where parts are done instead.

    Returns
    -------
    GenotypeDataset
        The finished dataset, opened.

    Raises
    ------
    InputError
        If a source cannot be read or is malformed, sources disagree about people, a file kind is
        not supported, or ``output`` cannot be written or holds something.
    StoreHeldError
        If the dataset to be replaced is in use.
    InfrastructureError
        If writing failed for a reason that may pass, or a worker was lost.
    """
    options = options or SourceOptions()
    try:
        return _convert(
            sources, place(output), chunk_variants, overwrite, progress, options, workers, pool
        )
    except FinerDosagesError:
        options = replace(options, finest=True)
        return _convert(
            sources, place(output), chunk_variants, overwrite, progress, options, workers, pool
        )


def _convert(
    sources: Sequence[Path | str],
    output: Place,
    chunk_variants: int | None,
    overwrite: bool,
    progress: Progress | None,
    options: SourceOptions,
    workers: int,
    pool: Pool | None,
) -> GenotypeDataset:
    if chunk_variants is not None and chunk_variants < 1:
        raise InputError(f"chunk_variants must be at least 1, not {chunk_variants}")
    replacing = _check_output(output, overwrite=overwrite)
    joined = open_sources([Path(source) for source in sources], options)
    chunk = chunk_variants or default_chunk_variants(
        joined.n_samples, joined.n_variants, dosages=joined.unit > 0
    )
    if pool is None:
        size = joined.n_variants * packed_width(joined.n_samples)
        here = workers < 1 or (not joined.guarded and (workers == 1 or size < WORTH_A_PROCESS))
        pool = ThisProcess() if here else ReaderProcesses(workers)
    purpose = _purpose(joined, chunk, options)
    with staged_store(output, replace=replacing, resume=purpose, held=being_replaced) as unfinished:
        DatasetWriter(joined, unfinished, chunk, pool, progress).write()
    return GenotypeDataset.open(output)


def _purpose(joined: JoinedSources, chunk: int, options: SourceOptions) -> str:
    """Return what a conversion makes, and of what: another one must not go on with its files."""
    files = [
        [str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns]
        for source in joined.sources
        for file in source.files
    ]
    asked = {name: str(value) for name, value in asdict(options).items()}
    what = {"version": __version__, "format": DATASET_FORMAT, "chunk": chunk, "options": asked}
    what[CHECKSUMS] = True  # noted with every part, which those of before were not
    return json.dumps({**what, "files": files}, sort_keys=True)


def _check_output(output: Place, *, overwrite: bool) -> bool:
    """Return whether something is to be replaced; raise InputError where it must not be."""
    if not stands(output):
        return False
    refuse_link(output)
    if not is_genotype_dataset(output):
        raise InputError(
            f"{output}: something that is no genotype dataset of this package stands there; "
            "choose another path or remove it"
        )
    if not overwrite:
        raise InputError(
            f"{output}: a genotype dataset stands there already (--overwrite replaces it)"
        )
    if isinstance(output, Path):
        with being_replaced(output):  # rather now than when all is converted
            pass
    return True
