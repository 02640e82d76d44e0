"""Writing a Zarr genotype dataset, as a stream.

One pass over the variant tables checks and writes them; calls follow in parts, wherever those are
done. Nothing held grows with the number of variants except places to begin reading at, eight bytes
for 64 variants, and the list of chromosomes: even the search for repeated ids goes through a
scratch file. What is done is noted beside the unfinished dataset, so that a conversion that was
killed goes on when it is started again.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ZarrUserWarning

from hlmm_scan import __version__, schema
from hlmm_scan.array_types import Strings
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.arrays import CHECKSUMS, missing_chunk
from hlmm_scan.genotypes.conversion.duplicates import RepeatedIds
from hlmm_scan.genotypes.conversion.parts import COUNTS, OF_DOSAGES, Part, PartRecord, Pool
from hlmm_scan.genotypes.conversion.sources import JoinedSources
from hlmm_scan.genotypes.dataset import (
    CALLS,
    DATASET_FORMAT,
    DOSAGES,
    HAS_DOSAGES,
    INFO,
    KIND,
    variable,
)
from hlmm_scan.genotypes.fingerprint import Fingerprint
from hlmm_scan.genotypes.packing import MISSING_BYTE, packed_width
from hlmm_scan.genotypes.variants import VariantTable
from hlmm_scan.storage import Place, UnfinishedPath, zarr_store
from hlmm_scan.storage.arrays import CheckedArray, compressors, dosage_compressors, seal
from hlmm_scan.storage.checksums import CHUNK, Manifest
from hlmm_scan.storage.journal import Journal
from hlmm_scan.storage.places import MARK

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], object]

TABLE_CHUNK_VARIANTS = 65536
"""Variants a chunk in the per-variant arrays, rounded down to whole chunks of calls."""

PART_VARIANTS = 4096
"""Variants a part of the conversion, and a chunk of the arrays of counts; rounded likewise."""

LEAST_PART_VARIANTS = 1024
MIN_PARTS = 16
"""Parts where there are fewer variants, so that they divide among workers."""

SAMPLE_CHUNK = 1 << 20


def _unchecked() -> None:
    """Let a part write without a lease."""


class DatasetWriter:
    """Writes one dataset where nothing is yet, or what an earlier process left of the same.

    Parameters
    ----------
    source : JoinedSources
    store : Path or ObjectPath
        Where the dataset grows; a folder of its own around it holds the journal.
    chunk : int
        Variants in one chunk of calls.
    pool : Pool
        Where parts are done.
    progress : callable or None
        Called with (variants done, all variants) after every part.
    """

    def __init__(
        self,
        source: JoinedSources,
        store: Place,
        chunk: int,
        pool: Pool,
        progress: Progress | None,
    ) -> None:
        self.source = source
        self.place = store
        self.chunk = min(chunk, source.n_variants)
        self.span = self.chunk * max(1, TABLE_CHUNK_VARIANTS // self.chunk)
        part = min(PART_VARIANTS, max(LEAST_PART_VARIANTS, source.n_variants // MIN_PARTS))
        self.part = self.chunk * max(1, part // self.chunk)
        self.pool = pool
        self.progress = progress
        self.fingerprint = Fingerprint()
        self.contigs: dict[str, int] = {}
        # Without a folder of its own a conversion cannot be gone on with.
        self.journal = Journal(store.parent / "parts.jsonl" if isinstance(store, Path) else None)
        self.manifest = Manifest("")
        self.done = [PartRecord(**noted) for noted in self.journal.records()]
        if isinstance(store, Path) and store.is_dir():
            for left in store.iterdir() if not self.done else store.rglob("*.partial"):
                # Of what no record vouches for, a power cut may have left anything.
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.files = zarr_store(store)
        self.group = zarr.open_group(self.files, mode="a", zarr_format=3, use_consolidated=False)
        self.arrays: dict[str, CheckedArray] = {}

    def write(self) -> None:
        """Write all of it.

        Raises
        ------
        InputError
            If a source cannot be read, is malformed or changes meanwhile.
        InfrastructureError
            If writing failed for a reason that may pass, or a worker was lost.
        """
        self._create_arrays()
        repeated = self._write_tables()
        self._write_people_and_contigs()
        self.files.flush()  # before a record relies on arrays that it fills
        self._write_parts()
        self._check()
        self._finish()
        n_repeated, first = repeated
        if n_repeated:
            example = str(self.arrays["variant_id"][first])
            logger.warning(
                "%d variants have the id of an earlier one (first: %s, variant %d); all are kept, "
                "each by its position",
                n_repeated,
                example,
                first + 1,
            )

    def _create_arrays(self) -> None:
        m, n = self.source.n_variants, self.source.n_samples
        for name in ("variant_contig", "variant_position", "variant_id"):
            self._create(name, (m,), self.span)
        self._create("variant_allele", (m, 2), self.span)
        for name in COUNTS:
            self._create(name, (m, 3) if name == "variant_genotype_counts" else (m,), self.part)
        self._create(CALLS, (m, packed_width(n)), self.chunk)
        if self.source.unit:
            self._create(DOSAGES, (m, n), self.chunk, unit=self.source.unit)
            for name in (HAS_DOSAGES, INFO):
                self._create(name, (m,), self.part)

    def _write_tables(self) -> tuple[int, int]:
        """Write what is known of variants; return repeated ids as `RepeatedIds.find` does."""
        beside = self.place.parent if isinstance(self.place, Path) else None
        with tempfile.TemporaryFile(dir=beside) as scratch:
            repeated = RepeatedIds(scratch)
            done = 0
            for table in self.source.variants(self.span):
                self._write_table(done, table)
                repeated.add(table.variant_id)
                done += len(table)
            if done != self.source.n_variants:
                raise InputError(f"{self._last_file()}: changed while it was read")
            return repeated.find()

    def _write_table(self, start: int, table: VariantTable) -> None:
        stop = start + len(table)
        if stop > self.source.n_variants:
            raise InputError(f"{self._last_file()}: changed while it was read")
        rows = slice(start, stop)
        alleles = np.column_stack([table.other_allele, table.effect_allele])
        self._put("variant_contig", rows, self._contig_index(table.contig))
        self._put("variant_position", rows, table.position)
        self._put("variant_id", rows, table.variant_id)
        self._put("variant_allele", rows, alleles)
        self.fingerprint.add_variants(table)
        self._note()

    def _contig_index(self, contig: Strings) -> NDArray[np.int16]:
        index = [self.contigs.setdefault(name, len(self.contigs)) for name in contig.tolist()]
        limit = np.iinfo(np.int16).max
        if len(self.contigs) > limit:
            raise InputError(
                f"{self.source.sources[0].path}: more than {limit} chromosomes; is the column of "
                "chromosomes right?"
            )
        return np.array(index, dtype=np.int16)

    def _write_people_and_contigs(self) -> None:
        samples = self.source.samples
        n = len(samples)
        columns: dict[str, NDArray[Any]] = {
            "sample_id": samples.individual_id,
            "sample_sex": samples.sex,
        }
        if samples.family_id is not None:
            columns["sample_family_id"] = samples.family_id
        for name, values in columns.items():
            self._create(name, (n,), SAMPLE_CHUNK)
            self._put(name, slice(0, n), values)
        self.fingerprint.add_people(samples)
        self._create("contig_id", (len(self.contigs),), SAMPLE_CHUNK)
        self._put("contig_id", slice(None), np.array(list(self.contigs), dtype=object))

    # Calls --------------------------------------------------------------------------------

    def _parts(self, done: set[int]) -> Iterator[Part]:
        """Yield the parts that are not done."""
        m = self.source.n_variants
        store = self.place
        if isinstance(store, UnfinishedPath):
            # A lease does not travel; this process looks after it as records come in.
            store = UnfinishedPath(store.url, _unchecked)
        for index, start in enumerate(range(0, m, self.part)):
            if index in done:
                continue
            stop = min(start + self.part, m)
            yield Part(
                index=index,
                start=start,
                stop=stop,
                pieces=self.source.pieces(start, stop),
                store=store,
                chunk=self.chunk,
                n_samples=self.source.n_samples,
                unit=self.source.unit,
            )

    def _write_parts(self) -> None:
        m = self.source.n_variants
        self.journal.begin(record.to_json() for record in self.done)
        self.done = [self._noted(record) for record in self.done]
        converted = sum(record.stop - record.start for record in self.done)
        if converted:
            logger.info("going on after %d of %d variants", converted, m)
        for record in self.pool.run(self._parts({record.index for record in self.done})):
            self.journal.note(record.to_json())
            self.done.append(self._noted(record))
            converted += record.stop - record.start
            if isinstance(self.place, UnfinishedPath):
                self.place.check()
            if self.progress is not None:
                self.progress(converted, m)

    def _check(self) -> None:
        """Check that what was written is what was promised; remove arrays that hold nothing."""
        m, n = self.source.n_variants, self.source.n_samples
        ranges = sorted((record.start, record.stop) for record in self.done)
        if [a for a, _ in ranges] != list(range(0, m, self.part)) or ranges[-1][1] != m:
            raise AssertionError(f"parts {ranges[:3]}… do not cover {m} variants once")
        n_calls = sum(record.n_calls for record in self.done)
        if n_calls != m * n:
            raise AssertionError(f"{n_calls} calls counted of {m} × {n}")
        hard = sum(record.hard_chunks for record in self.done)
        dosages = sum(record.dosage_chunks for record in self.done)
        if hard + dosages != -(-m // self.chunk):
            raise AssertionError(f"{hard} + {dosages} chunks of {m} variants")
        idle = [] if hard else [CALLS]
        if not dosages:
            idle += [name for name in OF_DOSAGES if name in self.arrays]
        elif not any(record.has_info for record in self.done):
            idle.append(INFO)
        for name in idle:
            del self.group[name]
            del self.arrays[name]
            del self.manifest.chunks[name]
        absent: str | None = None
        for name, array in self.arrays.items():
            if not (dosages and name in (CALLS, DOSAGES)):
                absent = absent or missing_chunk(self.place, name, array.zarr)
        if dosages:
            flags = np.asarray(self.arrays[HAS_DOSAGES][:])
            for start in range(0, m, self.chunk):
                name = DOSAGES if flags[start] else CALLS
                stop = min(start + self.chunk, m)
                array = self.arrays[name]
                absent = absent or missing_chunk(self.place, name, array.zarr, start, stop)
        if absent is not None:
            raise AssertionError(f"chunk {absent} was written and is not there")

    def _finish(self) -> None:
        m, n = self.source.n_variants, self.source.n_samples
        calls = sum(int(record.digest, 16) for record in self.done)
        attributes: dict[str, Any] = {
            MARK: {
                "kind": KIND,
                "format": DATASET_FORMAT,
                "version": __version__,
                "n_samples": n,
                "n_variants": m,
                "fingerprint": self.fingerprint.digest(n, m, calls),
                CHECKSUMS: True,
            },
            # VCF-Zarr's name for the software that wrote the store.
            "source": f"hlmm_scan-{__version__}",
            # Names only: where files lay on the machine that converted is nobody's business.
            "source_files": [source.path.name for source in self.source.sources],
            "variants_by_source": dict(sorted(self._fields().items())),
            "variants_with_dosages": sum(record.uncertain for record in self.done),
        }
        self.group.attrs.update(attributes)
        with warnings.catch_warnings():
            # Zarr says that other readers may not know consolidated metadata; they need not.
            warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
            zarr.consolidate_metadata(self.files)
        self._note()
        self.manifest.of = str(attributes[MARK]["fingerprint"])
        seal(self.files, self.manifest, self.arrays)

    def _note(self) -> None:
        """List the chunks that this process wrote since it last did."""
        written = self.files.written
        self.manifest.note({key: written[key] for key in written if CHUNK in key})
        written.clear()

    def _noted(self, record: PartRecord) -> PartRecord:
        """List the chunks of a part, and return its record without them."""
        self.manifest.note(record.chunks)
        return replace(record, chunks={})

    def _fields(self) -> Counter[str]:
        """Count variants by what of the sources they were taken from."""
        fields = Counter[str]()
        for record in self.done:
            fields.update(record.fields)
        return fields

    def _last_file(self) -> Path:
        return self.source.sources[-1].path

    def _create(self, name: str, shape: tuple[int, ...], rows: int, **attributes: float) -> None:
        entry = variable(name)
        array = self.group.get(name)
        if not isinstance(array, zarr.Array):  # else an earlier process made it
            array = self.group.create_array(
                name,
                shape=shape,
                chunks=(max(1, min(rows, shape[0])), *shape[1:]),
                dtype=_dtype(entry),
                fill_value=MISSING_BYTE if name == CALLS else entry.fill_value,
                # Shuffling bits would make calls larger, not smaller.
                compressors=dosage_compressors() if name == DOSAGES else compressors(),
                dimension_names=entry.dims,
                attributes=entry.attributes() | attributes,
            )
        self.arrays[name] = CheckedArray(array)
        grid = (-(-s // max(c, 1)) for s, c in zip(array.shape, array.chunks, strict=True))
        self.manifest.make_room(name, tuple(grid))

    def _put(self, name: str, rows: slice, values: NDArray[Any]) -> None:
        self.arrays[name][rows] = values


def _dtype(entry: schema.Variable) -> Any:
    return str if entry.dtype == "str" else np.dtype(entry.dtype)
