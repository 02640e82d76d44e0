"""Reading and writing PLINK 1 filesets (.bed, .bim, .fam) in bounded memory.

The .bim is read as a stream and the .bed in byte ranges, so a fileset costs the same memory
whatever its number of variants. Both text files are split line by line rather than by a table
reader: that is fast enough beside the .bed, and an error can name its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.genotypes.calls import HARD_CALLS, Calls
from hlmm_scan.genotypes.packing import pack, packed_width, set_padding
from hlmm_scan.genotypes.readers.lines import text_lines
from hlmm_scan.genotypes.samples import SampleIds, SexWords
from hlmm_scan.genotypes.variants import VariantTable

MAGIC = bytes((0x6C, 0x1B))
VARIANT_MAJOR = 0x01
SAMPLE_MAJOR = 0x00
HEADER_SIZE = 3

READ_ROWS = 16384
"""Variants of a .bim held as Python objects at once."""

_COLUMNS = 6
_LEAST_COLUMNS = 5
_TWO_DIGITS = re.compile(r"-?[0-9]{2,}")
_NO_NAME = "."
_NO_FAMILY = "0"
_FAM_HEADER = ({"fid"}, {"iid"})
_BIM_HEADER = ({"chr", "chrom"}, {"id", "snp", "rs", "rsid", "varid", "variant_id"})
"""How the first two columns are called in files that someone gave a line of names."""
_INT32 = np.iinfo(np.int32)
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}(?:\.0{0,9})?|[1-9](?:\.[0-9]{1,9})?e\+[0-9]{2}")
"""How programs write whole numbers: R has 1e+05 for 100000, and others 100.0."""


@dataclass(frozen=True)
class PlinkFileset:
    """One .bed with its .bim and .fam, checked against one another.

    Attributes
    ----------
    bed, bim, fam : Path
    samples : SampleIds
        People in the order of the .fam.
    n_variants : int
        Variants in the .bim.
    """

    bed: Path
    bim: Path
    fam: Path
    samples: SampleIds
    n_variants: int

    @classmethod
    def open(cls, path: Path) -> PlinkFileset:
        """Open a fileset and check that its three files belong together.

        Parameters
        ----------
        path : Path
            The .bed, or the path of all three without extension.

        Returns
        -------
        PlinkFileset

        Raises
        ------
        InputError
            If a file is missing, unreadable, empty or malformed, the .bed is no variant-major
            .bed, its size disagrees with the counts of the other two, or a sample id (FID and
            IID) stands twice.
        """
        prefix = str(path).removesuffix(".bed")
        bed, bim, fam = (Path(prefix + extension) for extension in (".bed", ".bim", ".fam"))
        for file in (bed, bim, fam):
            if not file.is_file():
                raise InputError(f"{file}: no such file (a PLINK fileset is .bed, .bim and .fam)")
        _check_header(bed)
        samples = read_fam(fam)
        n_variants = _count_variants(bim)
        if n_variants == 0:
            raise InputError(f"{bim}: no variants in it")
        _check_size(bed, len(samples), n_variants)
        return cls(bed, bim, fam, samples, n_variants)

    @property
    def n_samples(self) -> int:
        """People in the fileset."""
        return len(self.samples)

    @property
    def path(self) -> Path:
        """The .bed."""
        return self.bed

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the fileset."""
        return (self.bed, self.bim, self.fam)

    @property
    def unit(self) -> float:
        """0: there are only hard calls."""
        return 0.0

    @property
    def guarded(self) -> bool:
        """False: what reads it is numpy."""
        return False

    def variants(self, rows: int) -> Iterator[VariantTable]:
        """Yield the variant table, as `read_variants` does, and check its length."""
        n = 0
        for table in self.read_variants(min(rows, READ_ROWS)):
            n += len(table)
            yield table
        if n != self.n_variants:
            raise InputError(f"{self.bim}: changed while it was read")

    def reader(self) -> PlinkReader:
        """Return what reads the calls."""
        return PlinkReader(self.bed, self.n_samples, self.n_variants)

    def read_packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read packed calls, as :meth:`PlinkReader.read_packed` does."""
        return self.reader().read_packed(start, stop)

    def read_variants(self, rows: int = READ_ROWS) -> Iterator[VariantTable]:
        """Yield the variant table from the top, ``rows`` variants at a time.

        Raises
        ------
        InputError
            With file and line, for a short row or a position that is not a 32-bit integer.
        """
        contig: list[str] = []
        position: list[int] = []
        variant_id: list[str] = []
        allele_1: list[str] = []
        allele_2: list[str] = []

        def table() -> VariantTable:
            made = VariantTable(
                _text(contig),
                np.array(position, dtype=np.int32),
                _text(variant_id),
                other_allele=_text(allele_2),
                effect_allele=_text(allele_1),
            )
            for column in (contig, position, variant_id, allele_1, allele_2):
                column.clear()
            return made

        width = 0
        for number, cells in _rows(self.bim, _BIM_HEADER):
            width = width or min(len(cells), _COLUMNS)
            if len(cells) < width:
                raise InputError(
                    f"{self.bim}, line {number}: {len(cells)} columns where {width} are needed"
                )
            if width < _COLUMNS and _TWO_DIGITS.fullmatch(cells[3]):  # a position, no allele
                raise InputError(
                    f"{self.bim}, line {number}: {width} columns where {_COLUMNS} are needed"
                )
            contig.append(cells[0])
            variant_id.append(cells[1] or _NO_NAME)
            # The position in morgans, before that in base pairs, may be left out.
            position.append(parse_position(cells[width - 3], self.bim, number))
            allele_1.append(cells[width - 2])
            allele_2.append(cells[width - 1])
            if len(contig) == rows:
                yield table()
        if contig:
            yield table()


@dataclass(frozen=True)
class PlinkReader:
    """Reads a .bed of a known size: a :class:`~hlmm_scan.genotypes.readers.source.Reader`."""

    bed: Path
    n_samples: int
    n_variants: int

    def read_block(self, start: int, stop: int) -> Calls:
        """Read packed calls; a .bed knows nothing else."""
        block = HardCalls(self.read_packed(start, stop), self.n_samples)
        return Calls(block, fields={HARD_CALLS: stop - start})

    def read_packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read packed calls of variants ``start`` to ``stop`` (exclusive).

        Returns
        -------
        ndarray of uint8, shape (stop - start, ⌈n/4⌉)
            Padding bits set to missing, whatever they are in the file.

        Raises
        ------
        InputError
            If the file can no longer give those bytes.
        """
        if not 0 <= start <= stop <= self.n_variants:
            raise IndexError(f"variants {start}:{stop} of {self.n_variants}")
        width = packed_width(self.n_samples)
        size = (stop - start) * width
        try:
            with self.bed.open("rb") as file:
                file.seek(HEADER_SIZE + start * width)
                packed = np.fromfile(file, np.uint8, size)
        except OSError as error:
            raise _unreadable(self.bed, error) from error
        if packed.size != size:
            raise InputError(f"{self.bed}: truncated while it was read")
        packed = packed.reshape(stop - start, width)
        set_padding(packed, self.n_samples)
        return packed


class PlinkWriter:
    """Writes a fileset block by block; a context manager.

    Parameters
    ----------
    prefix : Path
        Path of the three files without extension; they are replaced where they exist.
    samples : SampleIds
        People in the order of the calls. Without family ids, FID is written as "0".
    """

    def __init__(self, prefix: Path, samples: SampleIds) -> None:
        n = len(samples)
        family = samples.family_id if samples.family_id is not None else ["0"] * n
        with _create_text(Path(f"{prefix}.fam")) as fam:
            for fid, iid, sex in zip(family, samples.individual_id, samples.sex, strict=True):
                fam.write(f"{fid}\t{iid}\t0\t0\t{sex}\t-9\n")
        self._bim = _create_text(Path(f"{prefix}.bim"))
        self._bed = Path(f"{prefix}.bed").open("wb")  # noqa: SIM115 (closed by __exit__)
        self._bed.write(MAGIC + bytes((VARIANT_MAJOR,)))

    def append(self, variants: VariantTable, copies: NDArray[np.int8]) -> None:
        """Write the next variants.

        Parameters
        ----------
        variants : VariantTable
            Of length m.
        copies : ndarray of int8, shape (m, n)
            Copies of the effect allele (A1); -1 where the call is missing.
        """
        columns = zip(
            variants.contig,
            variants.variant_id,
            variants.position,
            variants.effect_allele,
            variants.other_allele,
            strict=True,
        )
        for contig, variant_id, position, a1, a2 in columns:
            self._bim.write(f"{contig}\t{variant_id}\t0\t{position}\t{a1}\t{a2}\n")
        self._bed.write(pack(copies).tobytes())

    def __enter__(self) -> PlinkWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bim.close()
        self._bed.close()


def _create_text(path: Path) -> TextIO:
    # Line feeds on every platform, so that equal content makes equal files.
    return path.open("w", encoding="utf-8", newline="\n")


def read_fam(path: Path) -> SampleIds:
    """Read the people of a .fam; columns beyond the sixth are ignored.

    Parameters
    ----------
    path : Path

    Returns
    -------
    SampleIds
        Family ids as they stand, "0" included.

    Raises
    ------
    InputError
        If the file cannot be read, has a short row, nobody in it, or the same FID and IID twice.
    """
    lines: dict[tuple[str, str], int] = {}
    sex: list[int] = []
    words = SexWords(path)
    for number, cells in _rows(path, _FAM_HEADER):
        person = (cells[0] or _NO_FAMILY, cells[1])
        if not person[1]:
            raise InputError(f"{path}, line {number}: the second column, IID, is empty")
        if person in lines:
            raise InputError(
                f"{path}, line {number}: sample FID {person[0]}, IID {person[1]} stands in line "
                f"{lines[person]} already; sample ids must be unique"
            )
        lines[person] = number
        sex.append(words.code(cells[4], number))
    words.tell()
    if not lines:
        raise InputError(f"{path}: no people in it")
    return SampleIds(
        individual_id=_text([iid for _, iid in lines]),
        family_id=_text([fid for fid, _ in lines]),
        sex=np.array(sex, dtype=np.int8),
    )


def _text(values: list[str]) -> NDArray[np.object_]:
    """Return strings as an object array (numpy would make a fixed-width one of a list)."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read: {error.strerror or error}")


def _rows(path: Path, header: tuple[set[str], set[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of each line that is not blank, nor the header of such a file."""
    first = True
    for number, cells in text_lines(path, tabs_from=_COLUMNS - 1):
        if first and _is_header(cells, header):
            first = False
            continue
        first = False
        if len(cells) < _LEAST_COLUMNS:
            commas = "; are they parted by commas?" if "," in cells[0] else ""
            raise InputError(
                f"{path}, line {number}: {len(cells)} columns where {_COLUMNS} are needed{commas}"
            )
        if cells[0].startswith("#"):
            raise InputError(
                f"{path}, line {number}: begins with '#', but such a file has no comments; take "
                "the line out"
            )
        yield number, cells


def _is_header(cells: list[str], names: tuple[set[str], set[str]]) -> bool:
    found = [cell.lower().lstrip("#") for cell in cells[:2]]
    return len(found) == 2 and all(f in known for f, known in zip(found, names, strict=True))


def _count_variants(path: Path) -> int:
    """Count the lines of a .bim that are not blank, nor its header."""
    try:
        # Bytes, because this pass needs no characters; _rows looks at them.
        with path.open("rb") as file:
            n = sum(1 for line in file if not line.isspace())
    except OSError as error:
        raise _unreadable(path, error) from error
    first = next(text_lines(path, tabs_from=_COLUMNS - 1), None)
    return n - (first is not None and _is_header(first[1], _BIM_HEADER))


def parse_position(cell: str, path: Path, number: int) -> int:
    """Return the position a cell of a table names, or raise InputError with the line."""
    # int() alone would also take "1_000" and digits of other scripts.
    match = _WHOLE.fullmatch(cell)
    if match is None:
        raise InputError(f"{path}, line {number}: position '{cell[:40]}' is not an integer")
    try:
        position = int(cell)
    except ValueError:  # 1e+05, as R writes 100000, or 100.0
        value = float(cell)
        if not (np.isfinite(value) and value.is_integer()):
            raise InputError(
                f"{path}, line {number}: position '{cell[:40]}' is not an integer"
            ) from None
        position = int(value)
    if not _INT32.min <= position <= _INT32.max:
        raise InputError(f"{path}, line {number}: position {cell[:40]} does not fit 32 bits")
    return position


def _check_header(bed: Path) -> None:
    try:
        with bed.open("rb") as file:
            header = file.read(HEADER_SIZE)
    except OSError as error:
        raise _unreadable(bed, error) from error
    if not header:
        raise InputError(f"{bed}: the file is empty")
    if len(header) < HEADER_SIZE:
        raise InputError(f"{bed}: truncated: {len(header)} bytes do not even make a header")
    if header[:2] != MAGIC:
        raise InputError(
            f"{bed}: not a PLINK .bed: it begins with {header[:2].hex(' ')}, not {MAGIC.hex(' ')}"
        )
    if header[2] == SAMPLE_MAJOR:
        raise InputError(
            f"{bed}: stored sample-major, which is not read; make it anew with plink2 --make-bed"
        )
    if header[2] != VARIANT_MAJOR:
        raise InputError(f"{bed}: unknown storage mode {header[2]:#04x} in its third byte")


def _check_size(bed: Path, n_samples: int, n_variants: int) -> None:
    size = bed.stat().st_size
    width = packed_width(n_samples)
    expected = HEADER_SIZE + width * n_variants
    if size != expected:
        found = "truncated, or its counts disagree" if size < expected else "its counts disagree"
        raise InputError(
            f"{bed}: {found} with the .bim and .fam: {n_variants} variants of {n_samples} people "
            f"take {expected} bytes ({HEADER_SIZE} + {n_variants} × {width}), the file has {size}"
        )
