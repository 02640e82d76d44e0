"""Converting genotype files to a Zarr dataset, as a stream.

Variants pass through in spans of whole chunks. Nothing held grows with their number except the
list of chromosomes: even the search for repeated ids goes through a scratch file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.errors import ZarrUserWarning

from hlmm_scan import __version__, schema
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.dataset import (
    CALLS,
    DATASET_FORMAT,
    KIND,
    MARK,
    GenotypeDataset,
    is_genotype_dataset,
    missing_chunk,
    variable,
)
from hlmm_scan.genotypes.duplicates import RepeatedIds
from hlmm_scan.genotypes.packing import MISSING_BYTE, count_genotypes, packed_width
from hlmm_scan.genotypes.sources import JoinedFilesets, open_sources
from hlmm_scan.genotypes.variants import StrArray, VariantTable
from hlmm_scan.staging import staged_store, stands
from hlmm_scan.storage import Place, place, zarr_store

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], object]

CHUNK_BYTES = 8 << 20
"""Packed calls in one chunk, in bytes, where the variants of it allow."""

MIN_CHUNK_VARIANTS = 64
MAX_CHUNK_VARIANTS = 8192

MIN_CHUNKS = 64
"""Chunks a dataset should have at least, so that a small one still divides among workers."""

TABLE_CHUNK_VARIANTS = 65536
"""Variants a chunk in the per-variant arrays, rounded down to whole chunks of calls."""

SAMPLE_CHUNK = 1 << 20


def default_chunk_variants(n_samples: int, n_variants: int) -> int:
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

    Returns
    -------
    int
        Between 64 and 8,192.
    """
    by_size = CHUNK_BYTES // packed_width(n_samples)
    by_count = -(-n_variants // MIN_CHUNKS)
    return max(MIN_CHUNK_VARIANTS, min(by_size, by_count, MAX_CHUNK_VARIANTS))


def convert(
    sources: Sequence[Path | str],
    output: Place | str,
    *,
    chunk_variants: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> GenotypeDataset:
    """Convert PLINK filesets to one Zarr genotype dataset.

    The dataset is there once it is whole; see :mod:`hlmm_scan.staging`.

    Parameters
    ----------
    sources : sequence of Path or str
        .bed files (or their paths without extension), one or one per chromosome, of the same
        people in the same order. Variants are concatenated in the order given.
    output : Path, ObjectPath or str
        Where the dataset will stand, by custom with the extension .zarr.
    chunk_variants : int, optional
        Variants in one chunk of calls. Default `default_chunk_variants`.
    overwrite : bool, default False
        Replace a genotype dataset of this package that stands at ``output``. Nothing else is ever
        replaced.
    progress : callable, optional
        Called with (variants done, all variants) after every chunk.

    Returns
    -------
    GenotypeDataset
        The finished dataset, opened.

    Raises
    ------
    InputError
        If a source cannot be read or is malformed, sources disagree about people, a file kind is
        not supported, or ``output`` cannot be written or holds something.
    InfrastructureError
        If writing failed for a reason that may pass.
    """
    output = place(output)
    if chunk_variants is not None and chunk_variants < 1:
        raise InputError(f"chunk_variants must be at least 1, not {chunk_variants}")
    replace = _check_output(output, overwrite=overwrite)
    joined = open_sources([Path(source) for source in sources])
    chunk = chunk_variants or default_chunk_variants(joined.n_samples, joined.n_variants)
    with staged_store(output, replace=replace) as unfinished:
        _Writer(joined, unfinished, chunk, progress).write()
    return GenotypeDataset.open(output)


def _check_output(output: Place, *, overwrite: bool) -> bool:
    """Return whether something is to be replaced; raise InputError where it must not be."""
    if not stands(output):
        return False
    if (isinstance(output, Path) and output.is_symlink()) or not is_genotype_dataset(output):
        raise InputError(
            f"{output}: something that is no genotype dataset of this package stands there; "
            "choose another path or remove it"
        )
    if not overwrite:
        raise InputError(
            f"{output}: a genotype dataset stands there already (--overwrite replaces it)"
        )
    return True


@dataclass
class _Fingerprint:
    """Checksums over content only: each stream is fed in order, so chunking leaves no trace."""

    streams: dict[str, Any] = field(default_factory=dict)

    def update(self, stream: str, data: bytes | NDArray[Any]) -> None:
        self.streams.setdefault(stream, hashlib.sha256()).update(data)

    def update_text(self, stream: str, values: StrArray) -> None:
        # Cells of a PLINK file hold no white space, so line feeds part them without doubt.
        self.update(stream, "".join(f"{value}\n" for value in values.tolist()).encode())

    def digest(self, n_samples: int, n_variants: int) -> str:
        parts: dict[str, Any] = {name: s.hexdigest() for name, s in self.streams.items()}
        parts |= {"format": DATASET_FORMAT, "n_samples": n_samples, "n_variants": n_variants}
        return "sha256:" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Writer:
    """Writes one dataset where nothing is yet."""

    def __init__(
        self, source: JoinedFilesets, place: Place, chunk: int, progress: Progress | None
    ) -> None:
        self.source = source
        self.place = place
        self.chunk = min(chunk, source.n_variants)
        self.span = self.chunk * max(1, TABLE_CHUNK_VARIANTS // self.chunk)
        self.progress = progress
        self.fingerprint = _Fingerprint()
        self.contigs: dict[str, int] = {}
        self.n_calls = 0
        self.group = zarr.create_group(zarr_store(place), zarr_format=3)
        self.arrays: dict[str, zarr.Array[Any]] = {}

    def write(self) -> None:
        m, n = self.source.n_variants, self.source.n_samples
        for name in ("variant_contig", "variant_position", "variant_id", "variant_missing_count"):
            self._create(name, (m,))
        for name in ("variant_effect_allele_frequency", "variant_missingness"):
            self._create(name, (m,))
        self._create("variant_allele", (m, 2))
        self._create("variant_genotype_counts", (m, 3))
        self._create(CALLS, (m, packed_width(n)))
        beside = self.place.parent if isinstance(self.place, Path) else None
        with tempfile.TemporaryFile(dir=beside) as scratch:
            repeated = RepeatedIds(scratch)
            done = 0
            for table in self.source.variants(self.span):
                self._write_span(done, table)
                repeated.add(table.variant_id)
                done += len(table)
            n_repeated, first = repeated.find()
        self._write_people_and_contigs()
        self._check(done)
        self._finish()
        if n_repeated:
            example = str(self.arrays["variant_id"][first])
            logger.warning(
                "%d variants have the id of an earlier one (first: %s, variant %d); all are kept, "
                "each by its position",
                n_repeated,
                example,
                first + 1,
            )

    def _write_span(self, start: int, table: VariantTable) -> None:
        """Write one span: its table in one chunk an array, its calls chunk by chunk."""
        stop = start + len(table)
        if stop > self.source.n_variants:
            raise InputError(f"{self.source.filesets[-1].bim}: changed while it was read")
        rows = slice(start, stop)
        alleles = np.column_stack([table.other_allele, table.effect_allele])
        self._put("variant_contig", rows, self._contig_index(table.contig))
        self._put("variant_position", rows, table.position)
        self._put("variant_id", rows, table.variant_id)
        self._put("variant_allele", rows, alleles)
        self.fingerprint.update_text("contig", table.contig)
        self.fingerprint.update("position", table.position.astype("<i4"))
        self.fingerprint.update_text("id", table.variant_id)
        self.fingerprint.update_text("allele", alleles.ravel())
        counts = np.empty((len(table), 4), np.int64)
        for a in range(start, stop, self.chunk):
            b = min(a + self.chunk, stop)
            packed = self.source.read_packed(a, b)
            self._put(CALLS, slice(a, b), packed)
            self.fingerprint.update("calls", packed)
            counts[a - start : b - start] = count_genotypes(packed, self.source.n_samples)
            if self.progress is not None:
                self.progress(b, self.source.n_variants)
        self._write_counts(rows, counts)

    def _write_counts(self, rows: slice, counts: NDArray[np.int64]) -> None:
        called = counts[:, :3].sum(axis=1)
        copies = counts[:, 1] + 2 * counts[:, 2]
        frequency = np.full(len(counts), np.nan)
        np.divide(copies, 2 * called, out=frequency, where=called > 0)
        self._put("variant_genotype_counts", rows, counts[:, :3])
        self._put("variant_missing_count", rows, counts[:, 3])
        self._put("variant_effect_allele_frequency", rows, frequency)
        self._put("variant_missingness", rows, counts[:, 3] / self.source.n_samples)
        self.n_calls += int(counts.sum())

    def _contig_index(self, contig: StrArray) -> NDArray[np.int16]:
        index = [self.contigs.setdefault(name, len(self.contigs)) for name in contig.tolist()]
        limit = np.iinfo(np.int16).max
        if len(self.contigs) > limit:
            raise InputError(
                f"{self.source.filesets[0].bim}: more than {limit} chromosomes; is column 1 right?"
            )
        return np.array(index, dtype=np.int16)

    def _write_people_and_contigs(self) -> None:
        samples = self.source.samples
        everyone = slice(0, len(samples))
        family = samples.family_id
        assert family is not None  # a .fam always has the column
        columns: dict[str, NDArray[Any]] = {
            "sample_id": samples.individual_id,
            "sample_family_id": family,
            "sample_sex": samples.sex,
        }
        for name, values in columns.items():
            self._create(name, (len(samples),))
            self._put(name, everyone, values)
        self.fingerprint.update_text("sample_id", samples.individual_id)
        self.fingerprint.update_text("sample_family_id", family)
        self.fingerprint.update("sample_sex", samples.sex)
        self._create("contig_id", (len(self.contigs),))
        self._put("contig_id", slice(None), np.array(list(self.contigs), dtype=object))

    def _check(self, done: int) -> None:
        """Check that what was written is what was promised."""
        m, n = self.source.n_variants, self.source.n_samples
        if done != m:
            raise InputError(f"{self.source.filesets[-1].bim}: changed while it was read")
        if self.n_calls != m * n:
            raise AssertionError(f"{self.n_calls} calls counted of {m} × {n}")
        for name, array in self.arrays.items():
            absent = missing_chunk(self.place, name, array)
            if absent is not None:
                raise AssertionError(f"chunk {absent} was written and is not there")

    def _finish(self) -> None:
        m, n = self.source.n_variants, self.source.n_samples
        attributes: dict[str, Any] = {
            MARK: {
                "kind": KIND,
                "format": DATASET_FORMAT,
                "version": __version__,
                "n_samples": n,
                "n_variants": m,
                "fingerprint": self.fingerprint.digest(n, m),
            },
            # VCF-Zarr's name for the software that wrote the store.
            "source": f"hlmm_scan-{__version__}",
            # Names only: where files lay on the machine that converted is nobody's business.
            "source_files": [fileset.bed.name for fileset in self.source.filesets],
        }
        self.group.attrs.update(attributes)
        with warnings.catch_warnings():
            # Zarr says that other readers may not know consolidated metadata; they need not.
            warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
            zarr.consolidate_metadata(self.group.store)

    def _create(self, name: str, shape: tuple[int, ...]) -> None:
        entry = variable(name)
        if name == CALLS:
            chunks, fill = (self.chunk, *shape[1:]), MISSING_BYTE
        else:
            per_variant = entry.dims[0] == "variants"
            rows = self.span if per_variant else SAMPLE_CHUNK
            chunks, fill = (max(1, min(rows, shape[0])), *shape[1:]), entry.fill_value
        array: zarr.Array[Any] = self.group.create_array(
            name,
            shape=shape,
            chunks=chunks,
            dtype=_dtype(entry),
            fill_value=fill,
            # zstd's own default level; shuffling bits makes packed calls larger, not smaller.
            compressors=[ZstdCodec(level=0)],
            dimension_names=entry.dims,
            attributes=entry.attributes(),
        )
        # Chunks that hold only fill values are written too: one that is absent is damage.
        self.arrays[name] = array.with_config({"write_empty_chunks": True})

    def _put(self, name: str, rows: slice, values: NDArray[Any]) -> None:
        self.arrays[name][rows] = values


def _dtype(entry: schema.Variable) -> Any:
    return str if entry.dtype == "str" else np.dtype(entry.dtype)
