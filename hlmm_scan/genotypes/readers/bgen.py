"""Reading BGEN 1.2 and 1.3 (layout 2): https://www.well.ox.ac.uk/~gav/bgen_format.

The file is walked here, record by record, so that whatever does not fit is named with its place
before native code sees it, and checksums are compared. Probabilities of the usual kind are decoded
here, all others by the library `bgen`, from records under a header of ours, in a process whose
crash costs nothing but the conversion.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import Dosages
from hlmm_scan.genotypes.calls import Calls
from hlmm_scan.genotypes.readers.bgen_probabilities import (
    decode_any,
    decode_usual,
    flipped,
    unit_of,
)
from hlmm_scan.genotypes.readers.oxford_samples import people_of
from hlmm_scan.genotypes.readers.source import MARKED_EVERY, FinerDosagesError, needs, unreadable
from hlmm_scan.genotypes.readers.spans import as_file
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import MoreThanTwoAlleles, VariantTable, text_column

_fast: Any = None
with suppress(ImportError):  # of the extra: twice as fast, and it is most of what a file takes
    _fast = import_module("isal.isal_zlib")

EffectAllele = Literal["first", "second"]

ZLIB, ZSTD = 1, 2
_HEADER = 20  # bytes of a header block without free text
_MOST_ALLELES = 1000
_MOST_TEXT = 1 << 20
PROBABILITIES = "genotype probabilities"


@dataclass(frozen=True)
class _Record:
    """One variant's identifying data, and where it and its probabilities stand."""

    offset: int
    data: int
    end: int
    variant_id: str
    contig: str
    position: int
    alleles: list[str]


class _Walker:
    """Goes through the records of a BGEN file; every size is checked against the file's."""

    def __init__(self, file: IO[bytes], path: Path, n_samples: int, compressed: bool) -> None:
        self.file = file
        self.path = path
        self.compressed = compressed
        # No more than 32 bits a probability, two of them a person.
        self.most = 10 + 9 * n_samples
        file.seek(0, 2)
        self.size = file.tell()

    def record(self, offset: int, number: int) -> _Record:
        """Read the identifying data of the record at an offset."""
        self.number, self.offset = number, offset
        self.file.seek(offset)
        varid, rsid, contig = (self._text(2) for _ in range(3))
        position, n_alleles = struct.unpack("<IH", self._bytes(6))
        if not 1 <= n_alleles <= _MOST_ALLELES or position > np.iinfo(np.int32).max:
            raise self.wrong(f"position {position}, {n_alleles} alleles")
        alleles = [self._text(4) for _ in range(n_alleles)]
        (length,) = struct.unpack("<I", self._bytes(4))
        data = self.file.tell()
        end = data + length
        if end > self.size:
            raise self.short()
        if n_alleles == 2:
            unpacked = struct.unpack("<I", self._bytes(4))[0] if self.compressed else length
            if unpacked > self.most:
                raise self.wrong(f"{unpacked} bytes of probabilities, at most {self.most} fit")
        name = rsid if rsid not in ("", ".") else varid
        return _Record(offset, data, end, name or ".", contig, position, alleles)

    def probabilities(self, record: _Record, compression: int, n_samples: int) -> bytes:
        """Return the unpacked probability block of a record; its checksum has been compared."""
        self.file.seek(record.data)
        body = self._bytes(record.end - record.data)
        size = len(body)
        if compression:
            size = int.from_bytes(body[:4], "little")
            try:
                if compression == ZLIB:
                    body = _inflate(memoryview(body)[4:], size)
                else:
                    from numcodecs.zstd import decompress

                    body = bytes(decompress(body[4:]))
            except (zlib.error, RuntimeError, ValueError) as error:
                raise self.wrong(str(error)) from error
        if len(body) != size or size < 10 + n_samples:
            raise self.wrong(f"{len(body)} bytes of probabilities, {size} announced")
        if int.from_bytes(body[:4], "little") != n_samples:
            raise self.wrong(f"not the probabilities of {n_samples} people")
        return body

    def wrong(self, why: str) -> InputError:
        return InputError(
            f"{self.path}: variant {self.number + 1}, at byte {self.offset}, makes no sense "
            f"({why}); the file is damaged"
        )

    def short(self) -> InputError:
        return InputError(
            f"{self.path}: ends within variant {self.number + 1} (at byte {self.offset} of "
            f"{self.size}): truncated, or damaged"
        )

    def _bytes(self, length: int) -> bytes:
        data = self.file.read(length)
        if len(data) < length:
            raise self.short()
        return data

    def _text(self, width: int) -> str:
        length = int.from_bytes(self._bytes(width), "little")
        if length > _MOST_TEXT:
            raise self.wrong(f"a name of {length} characters")
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError:
            raise self.wrong("a name that is no text in UTF-8") from None


@dataclass
class BgenFile:
    """A BGEN file with its people: a :class:`~hlmm_scan.genotypes.readers.source.Source`.

    Made by :meth:`open`.
    """

    path: Path
    files: tuple[Path, ...]
    samples: SampleIds
    n_variants: int
    unit: float
    flags: int
    first: int
    effect: EffectAllele
    guarded: bool = True
    marks: list[int] = field(default_factory=list)

    @classmethod
    def open(
        cls, path: Path, sample_file: Path | None = None, effect: EffectAllele = "second"
    ) -> BgenFile:
        """Read the header and the people of a BGEN file.

        Parameters
        ----------
        path : Path
        sample_file : Path, optional
            Default: the file beside it with the extension .sample, where there is one.
        effect : {"second", "first"}, default "second"
            Which allele is the effect allele. Files with the reference allele first (UK Biobank;
            plink2 with ``ref-first``) have the alternative one second.

        Raises
        ------
        InputError
            If a file cannot be read, is damaged, of layout 1, or its people are not known.
        """
        if sample_file is None and path.with_suffix(".sample").is_file():
            sample_file = path.with_suffix(".sample")
        try:
            with path.open("rb") as file:
                header = _read_header(file, path)
                bits = _bits_of_first(file, path, header)
        except OSError as error:
            raise unreadable(path, error) from error
        return cls(
            path=path,
            files=(path,) if sample_file is None else (path, sample_file),
            samples=people_of(path, header.n_samples, header.sample_ids, sample_file),
            n_variants=header.n_variants,
            unit=unit_of(bits),
            flags=header.flags,
            first=header.first,
            effect=effect,
        )

    def variants(self, rows: int) -> Iterator[VariantTable]:
        """Yield the variant table, and remember where records stand."""
        self.marks.clear()
        more = MoreThanTwoAlleles()
        held: list[_Record] = []
        try:
            with self.path.open("rb") as file:
                walker = _Walker(file, self.path, len(self.samples), bool(self.flags & 3))
                offset = self.first
                for number in range(self.n_variants):
                    record = walker.record(offset, number)
                    if number % MARKED_EVERY == 0:
                        self.marks.append(offset)
                    offset = record.end
                    if len(record.alleles) != 2:
                        more.add(f"variant {number + 1}, {record.variant_id}", record.alleles)
                    held.append(record)
                    if len(held) == rows:
                        yield self._table(held)
                        held = []
                if offset != walker.size:
                    raise InputError(
                        f"{self.path}: {walker.size - offset} bytes after the last of the "
                        f"{self.n_variants} variants of its header; the count is wrong, or it is "
                        "damaged"
                    )
        except OSError as error:
            raise unreadable(self.path, error) from error
        more.refuse(self.path, self.n_variants)
        if held:
            yield self._table(held)

    def _table(self, records: list[_Record]) -> VariantTable:
        other, effect = (0, 1) if self.effect == "second" else (1, 0)
        return VariantTable(
            contig=text_column([r.contig for r in records]),
            position=np.array([r.position for r in records], dtype=np.int32),
            variant_id=text_column([r.variant_id for r in records]),
            other_allele=text_column([_allele(r, other) for r in records]),
            effect_allele=text_column([_allele(r, effect) for r in records]),
        )

    def reader(self) -> BgenReader:
        """Return what reads the calls."""
        return BgenReader(
            path=self.path,
            n_samples=len(self.samples),
            flags=self.flags,
            unit=self.unit,
            effect=self.effect,
            marks=np.array(self.marks, dtype=np.int64),
        )


def _allele(record: _Record, number: int) -> str:
    return record.alleles[number % len(record.alleles)] or "."


@dataclass(frozen=True, eq=False)
class BgenReader:
    """Reads probabilities of a BGEN file: a :class:`~hlmm_scan.genotypes.readers.source.Reader`."""

    path: Path
    n_samples: int
    flags: int
    unit: float
    effect: EffectAllele
    marks: NDArray[np.int64]

    def read_block(self, start: int, stop: int) -> Calls:
        """Read dosages of the effect allele and the information of their probabilities."""
        codes = np.empty((stop - start, self.n_samples), dtype=np.uint16)
        info = np.empty(stop - start)
        others: list[tuple[int, bytes, bytes]] = []
        for row, (record, body) in enumerate(self._records(start, stop)):
            try:
                decoded = decode_usual(body, self.n_samples, self.unit)
            except ValueError as error:
                raise self._damaged(start + row, error) from error
            if decoded is None:
                others.append((row, record, body))
            else:
                codes[row], info[row] = decoded
        if others:
            self._decode_others(others, start, codes, info)
        if self.effect == "first":
            codes = flipped(codes, self.unit)
        return Calls(Dosages(codes, self.unit), info, {PROBABILITIES: stop - start})

    def _decode_others(
        self,
        others: list[tuple[int, bytes, bytes]],
        start: int,
        codes: NDArray[np.uint16],
        info: NDArray[np.float64],
    ) -> None:
        """Decode rows by the library, from a BGEN file of them; their blocks are unpacked.

        It compares no checksums, and so is given nothing that is packed.
        """
        try:
            from bgen import BgenReader as Library
        except ImportError as error:
            raise needs("bgen", "the library bgen", self.path) from error
        flags = self.flags & 0x3C  # of the layout; neither compressed nor with ids
        head = struct.pack(
            "<IIII4sI", _HEADER, _HEADER, len(others), self.n_samples, b"bgen", flags
        )
        parts = ((record, struct.pack("<I", len(body)), body) for _, record, body in others)
        done = 0
        with as_file(chain([head], chain.from_iterable(parts))) as span:
            try:
                with Library(span, delay_parsing=True) as records:
                    for (row, _, _), variant in zip(others, records, strict=False):
                        codes[row], info[row] = decode_any(variant, self.unit)
                        done += 1
            except (ValueError, IndexError, RuntimeError, MemoryError) as error:
                raise self._damaged(start + others[done][0], error) from error
        if done < len(others):
            raise self._damaged(start + others[done][0], "it cannot be read")

    def _damaged(self, number: int, why: object) -> InputError:
        return InputError(f"{self.path}: variant {number + 1}: {why}; the file is damaged")

    def _records(self, start: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the identifying data of records, and their probabilities unpacked."""
        if start == stop:
            return
        compression, n = self.flags & 3, self.n_samples
        offset = int(self.marks[start // MARKED_EVERY])
        try:
            with self.path.open("rb") as file:
                walker = _Walker(file, self.path, n, bool(compression))
                for number in range(start // MARKED_EVERY * MARKED_EVERY, stop):
                    record = walker.record(offset, number)
                    offset = record.end
                    if number < start:
                        continue
                    body = walker.probabilities(record, compression, n)
                    bits = body[9 + n]
                    if unit_of(bits) < self.unit:
                        raise FinerDosagesError(
                            f"{self.path}: variant {number + 1} has {bits} bits a probability, "
                            "the first has fewer"
                        )
                    file.seek(record.offset)
                    yield file.read(record.data - record.offset - 4), body
        except OSError as error:
            raise unreadable(self.path, error) from error


def _inflate(packed: memoryview, size: int) -> bytes:
    """Unpack what zlib packed."""
    if _fast is not None:
        with suppress(_fast.error):  # then zlib says what is wrong
            return bytes(_fast.decompress(packed, bufsize=size))
    return zlib.decompress(packed, bufsize=size)


@dataclass(frozen=True)
class _Header:
    n_variants: int
    n_samples: int
    flags: int
    first: int
    sample_ids: list[str] | None


def _read_header(file: IO[bytes], path: Path) -> _Header:
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    head = file.read(4 + _HEADER)
    if len(head) < 4 + _HEADER:
        raise InputError(f"{path}: truncated: {size} bytes do not even make a header")
    offset, length, n_variants, n_samples, magic = struct.unpack("<IIII4s", head[:20])
    if magic not in (b"bgen", b"\0\0\0\0"):
        raise InputError(f"{path}: not a BGEN file: no 'bgen' at byte 16")
    if length < _HEADER or length > offset or 4 + offset > size:
        raise InputError(
            f"{path}: its header of {length} bytes, variants from byte {4 + offset} and {size} "
            "bytes in all do not fit together: truncated, or damaged"
        )
    file.seek(length)
    (flags,) = struct.unpack("<I", file.read(4))
    layout, compression = flags >> 2 & 0xF, flags & 3
    if layout == 1:
        raise InputError(
            f"{path}: BGEN 1.1 (layout 1) is not read; plink2 --bgen {path.name} --export bgen-1.2"
        )
    if layout != 2 or compression > ZSTD:
        raise InputError(
            f"{path}: layout {layout}, compression {compression} in its header are unknown; the "
            "file is damaged"
        )
    if not n_variants or not n_samples:
        raise InputError(f"{path}: {n_variants} variants of {n_samples} people in its header")
    if n_variants * 28 + 4 + offset > size:
        raise InputError(
            f"{path}: {n_variants} variants of its header do not fit into {size} bytes: truncated, "
            "or damaged"
        )
    ids = _read_ids(file, path, n_samples, length, offset) if flags >> 31 else None
    return _Header(n_variants, n_samples, flags, 4 + offset, ids)


def _read_ids(file: IO[bytes], path: Path, n_samples: int, length: int, offset: int) -> list[str]:
    file.seek(4 + length)
    block = file.read(offset - length)
    wrong = InputError(f"{path}: its block of sample ids is damaged, or its counts are wrong")
    if len(block) < 8 or struct.unpack("<II", block[:8]) != (len(block), n_samples):
        raise wrong
    ids, at = [], 8
    for _ in range(n_samples):
        end = at + 2 + int.from_bytes(block[at : at + 2], "little")
        if end > len(block):
            raise wrong
        try:
            ids.append(block[at + 2 : end].decode())
        except UnicodeDecodeError:
            raise wrong from None
        at = end
    if at != len(block):
        raise wrong
    return ids


def _bits_of_first(file: IO[bytes], path: Path, header: _Header) -> int:
    """Return the bits of a probability in the first variant, of which the library says nothing."""
    walker = _Walker(file, path, header.n_samples, bool(header.flags & 3))
    record = walker.record(header.first, 0)
    if len(record.alleles) != 2:
        return 0  # refused as soon as all of them are counted
    body = walker.probabilities(record, header.flags & 3, header.n_samples)
    return body[9 + header.n_samples]
