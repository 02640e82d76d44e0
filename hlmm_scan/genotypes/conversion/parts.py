"""One part of a conversion: read, written and counted by whoever is at hand, in any order.

A part is a whole number of chunks of calls and exactly one chunk of every array of counts, so
that no two parts write the same file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray

from hlmm_scan.genotypes.blocks import DIGEST_BITS, HardCalls, joined
from hlmm_scan.genotypes.calls import Calls
from hlmm_scan.genotypes.dataset import CALLS, DOSAGES, HAS_DOSAGES, INFO
from hlmm_scan.genotypes.readers.source import Reader
from hlmm_scan.storage import Place, zarr_store
from hlmm_scan.storage.arrays import CheckedArray
from hlmm_scan.storage.checksums import CHUNK

COUNTS = (
    "variant_genotype_counts",
    "variant_missing_count",
    "variant_effect_allele_frequency",
    "variant_missingness",
)
OF_DOSAGES = (DOSAGES, HAS_DOSAGES, INFO)


@dataclass(frozen=True)
class Piece:
    """Variants of one file.

    Attributes
    ----------
    name : str
        Of the file, for messages.
    reader : Reader
    start, stop : int
        Variants of the file, ``stop`` exclusive.
    """

    name: str
    reader: Reader
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """What one part needs to know; small to pickle.

    Attributes
    ----------
    index : int
    start, stop : int
        Its variants in the dataset, ``stop`` exclusive.
    pieces : tuple of Piece
        What they are read with.
    store : Path or ObjectPath
        The unfinished dataset, its arrays made.
    chunk, n_samples : int
    unit : float
        Of dosages; 0 where there are only hard calls.
    """

    index: int
    start: int
    stop: int
    pieces: tuple[Piece, ...]
    store: Place
    chunk: int
    n_samples: int
    unit: float

    def __str__(self) -> str:
        return "; ".join(f"{p.name}: variants {p.start + 1} to {p.stop}" for p in self.pieces)


@dataclass(frozen=True)
class PartRecord:
    """What became of one part.

    Attributes
    ----------
    index : int
    start, stop : int
    n_calls : int
        People counted, over all its variants.
    digest : str
        :meth:`~hlmm_scan.genotypes.blocks.Dosages.digest` of its calls, hexadecimal.
    hard_chunks, dosage_chunks : int
        Chunks written of either kind.
    has_info : bool
    fields : mapping of str to int
        Variants by what of the source they were taken from.
    uncertain : int
        Variants of which somebody has a dosage that is no whole number.
    chunks : dict of str to int
        Checksums of the chunks written, by key.
    """

    index: int
    start: int
    stop: int
    n_calls: int
    digest: str
    hard_chunks: int
    dosage_chunks: int
    has_info: bool
    fields: Mapping[str, int] = field(default_factory=dict)
    uncertain: int = 0
    chunks: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return asdict(self)


class Pool(Protocol):
    """Somewhere that parts are done."""

    def run(self, parts: Iterable[Part]) -> Iterator[PartRecord]:
        """Yield the record of every part, in any order; ``parts`` is drawn from as room appears.

        Raises
        ------
        HlmmScanError
            If a part cannot be done; the others may be left.
        """
        ...


class ThisProcess:
    """Parts one after the other in this process."""

    def run(self, parts: Iterable[Part]) -> Iterator[PartRecord]:
        """Yield the record of every part, in order."""
        return (convert_part(part) for part in parts)


def convert_part(part: Part) -> PartRecord:
    """Read the calls of one part and write its chunks.

    Raises
    ------
    InputError
        If they cannot be read.
    OSError
        If they cannot be written.
    """
    store = zarr_store(part.store)
    group = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)
    m = part.stop - part.start
    counts = np.empty((m, 4), dtype=np.int64)
    frequency, info = np.empty(m), np.full(m, np.nan)
    dosages = np.zeros(m, dtype=bool)
    digest = hard_chunks = dosage_chunks = uncertain = 0
    fields = Counter[str]()
    has_info = False
    for a in range(part.start, part.stop, part.chunk):
        b = min(a + part.chunk, part.stop)
        calls = _read(part, a, b)
        fields.update(calls.fields)
        block = calls.block
        whole = block.whole()
        uncertain += int(np.count_nonzero(~whole))
        if whole.all():
            block = block.best_guess()
        rows = slice(a - part.start, b - part.start)
        counts[rows], frequency[rows] = block.counts()
        digest += block.digest(a)
        if isinstance(block, HardCalls):
            hard_chunks += 1
            _put(group, CALLS, a, b, block.packed)
        else:
            dosage_chunks += 1
            dosages[rows] = True
            _put(group, DOSAGES, a, b, block.codes)
        if calls.info is not None:
            has_info = True
            info[rows] = calls.info
    start, stop = part.start, part.stop
    _put(group, "variant_genotype_counts", start, stop, counts[:, :3])
    _put(group, "variant_missing_count", start, stop, counts[:, 3])
    _put(group, "variant_effect_allele_frequency", start, stop, frequency)
    _put(group, "variant_missingness", start, stop, counts[:, 3] / part.n_samples)
    if part.unit:
        _put(group, HAS_DOSAGES, start, stop, dosages)
        _put(group, INFO, start, stop, info)
    store.flush()  # a journal that is on the disk must not speak of what is not
    return PartRecord(
        index=part.index,
        start=start,
        stop=stop,
        n_calls=int(counts.sum()),
        digest=f"{digest % (1 << DIGEST_BITS):x}",
        hard_chunks=hard_chunks,
        dosage_chunks=dosage_chunks,
        has_info=has_info,
        fields=dict(sorted(fields.items())),
        uncertain=uncertain,
        chunks={key: checksum for key, checksum in store.written.items() if CHUNK in key},
    )


def _read(part: Part, a: int, b: int) -> Calls:
    """Read a chunk, of one file or across the borders of several."""
    read: list[Calls] = []
    at = part.start
    for piece in part.pieces:
        begin, end = max(a, at), min(b, at + piece.stop - piece.start)
        if begin < end:
            shift = piece.start - at
            read.append(piece.reader.read_block(begin + shift, end + shift))
        at += piece.stop - piece.start
    block = joined([calls.block for calls in read], part.unit)
    fields = Counter[str]()
    for calls in read:
        fields.update(calls.fields)
    if all(calls.info is None for calls in read):
        return Calls(block, fields=fields)
    info = [np.full(len(c.block), np.nan) if c.info is None else c.info for c in read]
    return Calls(block, np.concatenate(info), fields)


def _put(group: zarr.Group, name: str, start: int, stop: int, values: NDArray[Any]) -> None:
    array = group[name]
    assert isinstance(array, zarr.Array)
    CheckedArray(array)[start:stop] = values
