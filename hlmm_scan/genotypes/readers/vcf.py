"""Reading VCF (plain, gzip, BGZF) and BCF: https://samtools.github.io/hts-specs/.

One pass over the file, in Python, checks it to its last byte, counts its records and keeps their
first columns and where to find them. Calls are parsed by htslib, through the library `cyvcf2`,
from spans of records under the file's own header, in a process whose crash costs nothing but the
conversion. A file needs no index.
"""

from __future__ import annotations

import re
import struct
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import HlmmScanError, InputError
from hlmm_scan.genotypes.blocks import FINEST, Dosages, HardCalls
from hlmm_scan.genotypes.calls import Calls, WrongValueError, copies_of_alleles, encode_dosages
from hlmm_scan.genotypes.readers.dosage_fields import (
    CALLS,
    DOSAGE_FIELDS,
    Copies,
    copies_of_variant,
)
from hlmm_scan.genotypes.readers.lines import ByteStream
from hlmm_scan.genotypes.readers.plink import parse_position
from hlmm_scan.genotypes.readers.source import MARKED_EVERY, changed, needs
from hlmm_scan.genotypes.readers.spans import as_file
from hlmm_scan.genotypes.samples import SampleIds, repeated_id
from hlmm_scan.genotypes.variants import MoreThanTwoAlleles, VariantTable, text_column
from hlmm_scan.textfiles import MARK, not_utf_8

Kind = Literal["vcf", "bcf"]

_FIXED = 9  # columns before the first person
_BCF = b"BCF\x02\x02"
_MOST_HEADER = 1 << 28
_FORMAT = re.compile(r"##FORMAT=<ID=([^,>]+)")
_INTEGERS = {1: "b", 2: "<h", 3: "<i"}


@dataclass
class VcfFile:
    """A VCF or BCF file: a :class:`~hlmm_scan.genotypes.readers.source.Source`.

    Made by :meth:`open`. The alternative allele is the effect allele. Which of its fields say how
    many copies there are, :mod:`~hlmm_scan.genotypes.readers.dosage_fields` decides, record by
    record.
    """

    path: Path
    samples: SampleIds
    n_variants: int
    unit: float
    kind: Kind
    marks: NDArray[np.int64]
    table: IO[bytes]
    guarded: bool = True

    @classmethod
    def open(cls, path: Path) -> VcfFile:
        """Go through a file once.

        Raises
        ------
        InputError
            With file and place, if it cannot be read, is cut short or malformed, has no people,
            or has records of more than two alleles.
        """
        with ByteStream(path) as stream:
            kind: Kind = "bcf" if stream.read(5) == _BCF else "vcf"
        header, body = _header(path, kind)
        text = header.decode(errors="replace")
        samples = _people(path, text)
        formats: set[str] = set()
        if kind == "bcf":
            formats.update(_FORMAT.findall(text))
            records = _bcf_records(path, body, text, len(samples))
        else:  # fields need not be declared
            records = _vcf_records(path, body, len(samples), formats)
        with ExitStack() as stack:
            # Lives as long as the object.
            table = stack.enter_context(tempfile.TemporaryFile())
            marks = _read_through(path, records, table)
            n = marks.pop()
            made = cls(
                path=path,
                samples=samples,
                n_variants=n,
                unit=FINEST if formats & set(DOSAGE_FIELDS) else 0.0,
                kind=kind,
                marks=np.array(marks, dtype=np.int64),
                table=table,
            )
            weakref.finalize(made, stack.pop_all().close)
        return made

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def variants(self, rows: int) -> Iterator[VariantTable]:
        """Yield the variant table."""
        self.table.seek(0)
        for start in range(0, self.n_variants, rows):
            m = min(rows, self.n_variants - start)
            cells = [self.table.readline().decode().rstrip("\n").split("\t") for _ in range(m)]
            contig, position, name, reference, alternative = zip(*cells, strict=True)
            yield VariantTable(
                text_column(contig),
                np.array([int(p) for p in position], dtype=np.int32),
                text_column(name),
                text_column(reference),
                text_column(alternative),
            )

    def reader(self) -> VcfReader:
        """Return what reads the calls."""
        return VcfReader(self.path, self.kind, len(self.samples), self.unit, self.marks)


@dataclass(frozen=True, eq=False)
class VcfReader:
    """Reads calls of a VCF or BCF file: a :class:`~hlmm_scan.genotypes.readers.source.Reader`."""

    path: Path
    kind: Kind
    n_samples: int
    unit: float
    marks: NDArray[np.int64]

    def read_block(self, start: int, stop: int) -> Calls:
        """Read packed calls, or dosages and the information of GP, where there is that."""
        try:
            from cyvcf2 import VCF
        except ImportError as error:
            raise needs("vcf", "the library cyvcf2", self.path) from error
        m = stop - start
        copies = np.full((m, self.n_samples), -1, dtype=np.int8)
        codes = np.empty((m, self.n_samples), dtype=np.uint16) if self.unit else None
        info = np.full(m, np.nan)
        fields = Counter[str]()
        row = -1
        with as_file(self._span(start, stop)) as span:
            try:
                for row, record in enumerate(VCF(span) if m else ()):
                    if row == m:
                        break
                    try:
                        if codes is None:
                            copies[row] = copies_of_alleles(self._alleles(record))
                            fields[CALLS] += 1
                        else:
                            said = self._copies(record)
                            codes[row], info[row] = (
                                encode_dosages(said.copies, self.unit),
                                said.info,
                            )
                            fields[said.field] += 1
                    except ValueError as error:
                        raise self._wrong(start + row, record, error) from error
            except HlmmScanError:
                raise
            except Exception as error:  # cyvcf2 raises this very class
                raise InputError(
                    f"{self.path}: record {start + row + 1} or the one after it: {error}"
                ) from error
        if row != m - 1:
            raise InputError(f"{self.path}: record {start + row + 2} cannot be parsed")
        if codes is None:
            return Calls(HardCalls.of(copies), fields=fields)
        told = None if np.isnan(info).all() else info
        return Calls(Dosages(codes, self.unit), told, fields)

    def _wrong(self, number: int, record: Any, error: ValueError) -> InputError:
        """Return the error for a record with a value that makes no sense."""
        who = ""
        if isinstance(error, WrongValueError):
            ids = _people(self.path, _header(self.path, self.kind)[0].decode(errors="replace"))
            who = f", person {ids.individual_id[error.person]}"
        place = f"{record.ID or '.'} at {record.CHROM}:{record.POS}"
        why = error.why if isinstance(error, WrongValueError) else error
        return InputError(f"{self.path}: record {number + 1} ({place}){who}: {why}")

    def _alleles(self, record: Any) -> NDArray[np.int16]:
        genotype = record.genotype
        if genotype is None:
            raise ValueError("its GT cannot be read")
        alleles: NDArray[np.int16] = genotype.array()[:, :-1]
        if len(alleles) != self.n_samples:
            raise ValueError(f"{len(alleles)} calls of {self.n_samples} people")
        return alleles

    def _copies(self, record: Any) -> Copies:
        """Return what the fields of a record say."""
        fields = set(record.FORMAT)
        if not fields & {CALLS, *DOSAGE_FIELDS}:
            raise ValueError(_no_field(":".join(record.FORMAT)))
        numbers = {name: self._numbers(record, name) for name in DOSAGE_FIELDS if name in fields}
        return copies_of_variant(
            self._alleles(record) if CALLS in fields else None,
            self.n_samples,
            ds=numbers.get("DS"),
            hds=numbers.get("HDS"),
            gp=numbers.get("GP"),
        )

    def _numbers(self, record: Any, name: str) -> NDArray[np.float64]:
        values = record.format(name)
        if values is None:
            return np.full((self.n_samples, 2), np.nan)
        if values.shape[0] != self.n_samples or values.dtype.kind not in "fi":
            raise ValueError(f"{name} is not a number a person")
        if values.dtype.kind == "i":
            return np.where(values < 0, np.nan, values)
        numbers: NDArray[np.float64] = values.astype(np.float64)
        return numbers

    def _span(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the header, and records found from the last mark before them."""
        if start == stop:
            return
        yield _whole_header(self.path, self.kind)
        with ByteStream(self.path, int(self.marks[start // MARKED_EVERY])) as stream:
            for number in range(start // MARKED_EVERY * MARKED_EVERY, stop):
                record = self._record(stream)
                if not record:
                    raise changed(self.path)
                if number >= start:
                    yield record

    def _record(self, stream: ByteStream) -> bytes:
        if self.kind == "vcf":
            line = stream.readline()
            while line.isspace():
                line = stream.readline()
            return line
        lengths = stream.read(8)
        return lengths + stream.read(sum(struct.unpack("<II", lengths))) if lengths else b""


@lru_cache(maxsize=4)
def _whole_header(path: Path, kind: Kind) -> bytes:
    header, _ = _header(path, kind)
    if kind == "vcf":
        return _with_fields_declared(header)
    return _BCF + struct.pack("<I", len(header)) + header


def _with_fields_declared(header: bytes) -> bytes:
    """Declare the fields that are read as what they are read as, whatever the header says."""
    lines = header.splitlines(keepends=True)
    known = (CALLS, *DOSAGE_FIELDS)
    kept = [li for li in lines if not _declares(li, known)]
    declared = [b'##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n']
    declared += [
        f'##FORMAT=<ID={name},Number=.,Type=Float,Description="{name}">\n'.encode()
        for name in DOSAGE_FIELDS
    ]
    return b"".join([*kept[:-1], *declared, kept[-1]])


def _declares(line: bytes, names: Sequence[str]) -> bool:
    found = _FORMAT.match(line.decode(errors="replace"))
    return found is not None and found[1] in names


def _no_field(found: str) -> str:
    return (
        f"its FORMAT {found[:60]} has neither GT nor DS, HDS or GP, which say how many copies "
        "there are; make one of them first, or leave the record out"
    )


def _header(path: Path, kind: Kind) -> tuple[bytes, int]:
    """Return the text of the header, and where records begin."""
    with ByteStream(path) as stream:
        if kind == "bcf":
            stream.skip(len(_BCF))
            size = stream.read(4)
            length = int.from_bytes(size, "little")
            text = stream.read(length) if length < _MOST_HEADER else b""
            if len(size) < 4 or len(text) < length or not text:
                raise InputError(f"{path}: its header is damaged, or the file truncated")
            return text, stream.tell()
        lines: list[bytes] = []
        length = 0
        while line := stream.readline():
            length += len(line)
            if length > _MOST_HEADER:
                raise InputError(f"{path}: its header goes on for more than {length:,} bytes")
            line = line if lines else line.removeprefix(MARK)
            if not lines and not line.startswith(b"##fileformat=VCF"):
                break
            lines.append(line)
            if line.startswith(b"#CHROM"):
                return b"".join(lines), stream.tell()
            if not line.startswith(b"##"):
                break
    if not lines:
        raise InputError(f"{path}: not a VCF: it does not begin with ##fileformat=VCF")
    raise InputError(f"{path}, line {len(lines)}: no #CHROM line ends its header")


def _people(path: Path, header: str) -> SampleIds:
    last = header.rstrip("\0\n\r").rpartition("\n")[2]
    ids = last.split("\t")[_FIXED:]
    if not last.startswith("#CHROM\tPOS\tID\tREF\tALT") or not ids:
        raise InputError(f"{path}: no people in its #CHROM line")
    if again := repeated_id(text_column(ids)):
        raise InputError(f"{path}: sample id {again} stands twice; sample ids must be unique")
    return SampleIds(text_column(ids))


_Row = tuple[int, str, str, int, str, str, str]
"""Place, where it stands in words, contig, position, id, reference, alternative alleles."""


def _read_through(path: Path, records: Iterator[_Row], table: IO[bytes]) -> list[int]:
    """Write what records say of variants to a table; return their marks, and last their number."""
    marks: list[int] = []
    more, n = MoreThanTwoAlleles(), 0
    for place, where, contig, position, name, reference, alternative in records:
        if n % MARKED_EVERY == 0:
            marks.append(place)
        n += 1
        if "," in alternative:
            more.add(f"{where}, {name}", [reference, *alternative.split(",")])
        table.write(f"{contig}\t{position}\t{name}\t{reference}\t{alternative}\n".encode())
    if not n:
        raise InputError(f"{path}: no variants in it")
    more.refuse(path, n)
    return [*marks, n]


def _vcf_records(path: Path, body: int, n_samples: int, formats: set[str]) -> Iterator[_Row]:
    """Yield what the records say of their variants; `formats` gets the names of their fields."""
    seen: set[bytes] = set()
    with ByteStream(path) as stream:
        number = 0
        while line := stream.readline():
            number += 1
            if line.startswith(b"#CHROM"):
                break
        while True:
            place = stream.tell()
            line = stream.readline()
            number += 1
            if not line:
                return
            if line.isspace():
                continue
            if not line.endswith(b"\n"):
                raise InputError(
                    f"{path}, line {number}: the last line does not end with a line feed: cut short"
                )
            cells = line.split(b"\t", _FIXED)
            columns = line.count(b"\t") + 1
            if columns != _FIXED + n_samples:
                raise InputError(
                    f"{path}, line {number}: {columns} columns where {n_samples} people make "
                    f"{_FIXED + n_samples}; cut short, or damaged"
                )
            if cells[_FIXED - 1] not in seen:
                seen.add(cells[_FIXED - 1])
                fields = cells[_FIXED - 1].decode(errors="replace").split(":")
                if not {CALLS, *DOSAGE_FIELDS}.intersection(fields):
                    raise InputError(f"{path}, line {number}: {_no_field(':'.join(fields))}")
                formats.update(fields)
            try:
                contig, position, name, reference, alternative = (c.decode() for c in cells[:5])
            except UnicodeDecodeError:
                raise not_utf_8(path, number) from None
            yield (
                place,
                f"line {number}",
                contig,
                parse_position(position, path, number),
                name,
                reference,
                alternative,
            )


def _bcf_records(path: Path, body: int, header: str, n_samples: int) -> Iterator[_Row]:
    contigs = _bcf_contigs(header)
    with ByteStream(path, body) as stream:
        number = 0
        while True:
            place = stream.tell()
            lengths = stream.read(8)
            if not lengths:
                return
            number += 1
            wrong = InputError(f"{path}: record {number} is cut short, or damaged")
            if len(lengths) < 8:
                raise wrong
            n_shared, n_calls = struct.unpack("<II", lengths)
            shared = stream.read(n_shared) if n_shared < _MOST_HEADER else b""
            if len(shared) < max(n_shared, 24):
                raise wrong
            contig, position, _, _, counts, people = struct.unpack("<iiifII", shared[:24])
            try:
                stream.skip(n_calls)
                if people & 0xFFFFFF != n_samples:
                    raise wrong
                name, at = _bcf_text(shared, 24)
                alleles = []
                for _ in range(counts >> 16):
                    allele, at = _bcf_text(shared, at)
                    alleles.append(allele)
                row = (contigs[contig], position + 1, name or ".", alleles[0])
            except (IndexError, KeyError, struct.error, UnicodeDecodeError):
                raise wrong from None
            yield (place, f"record {number}", *row, ",".join(alleles[1:]) or ".")


def _bcf_contigs(header: str) -> dict[int, str]:
    """Return the contigs of a BCF header by their numbers."""
    contigs: dict[int, str] = {}
    for line in header.splitlines():
        if line.startswith("##contig=<"):
            name = re.search(r"[<,]ID=([^,>]+)", line)
            index = re.search(r"[<,]IDX=(\d+)", line)
            if name is not None:
                contigs[int(index[1]) if index else len(contigs)] = name[1]
    return contigs


def _bcf_text(data: bytes, at: int) -> tuple[str, int]:
    """Return a typed string of a BCF record, and where the next value begins."""
    length, kind = data[at] >> 4, data[at] & 0xF
    at += 1
    if length == 15:
        code = _INTEGERS[data[at] & 0xF]
        (length,) = struct.unpack_from(code, data, at + 1)
        at += 1 + struct.calcsize(code)
    if kind not in (0, 7) or length < 0 or at + length > len(data):
        raise IndexError(at)
    return data[at : at + length].rstrip(b"\0").decode(), at + length
