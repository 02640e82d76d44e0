"""Reading PLINK 2 filesets (.pgen with .pvar or .pvar.zst and .psam).

https://github.com/chrchang/plink-ng/tree/master/pgen_spec. The tables are read here, and so are
the sizes in the .pgen's header, which say whether it is whole; its records are decoded by the
library `Pgenlib`, in a process whose crash costs nothing but the conversion.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import PGEN, Dosages, HardCalls
from hlmm_scan.genotypes.calls import HARD_CALLS as HARD_CALL_RECORDS
from hlmm_scan.genotypes.calls import Calls
from hlmm_scan.genotypes.dosage_coding import code_copies
from hlmm_scan.genotypes.packing import packed_width
from hlmm_scan.genotypes.readers.lines import text_lines
from hlmm_scan.genotypes.readers.plink import MAGIC, parse_position
from hlmm_scan.genotypes.readers.source import changed, needs, unreadable
from hlmm_scan.genotypes.samples import SEX_COLUMNS, SampleIds, SexWords, repeated_id
from hlmm_scan.genotypes.variants import MoreThanTwoAlleles, VariantTable, text_column

HARD_CALLS, DOSAGES_8, DOSAGES_16, VARIABLE = 0x02, 0x03, 0x04, 0x10
_FIXED = {HARD_CALLS: 0, DOSAGES_8: 2, DOSAGES_16: 4}
"""Bytes a person beside packed calls, in the modes of records of one size."""

_HEADER = 12
_BLOCK = 1 << 16
_DOSAGE_BITS = 0x60
_ALLELE_COUNTS_STORED, _FLAGS_STORED = 0x30, 3

_Columns = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class PgenFileset:
    """One .pgen with its .pvar and .psam: a :class:`~hlmm_scan.genotypes.readers.source.Source`.

    Made by :meth:`open`. The alternative allele is the effect allele.
    """

    path: Path
    pvar: Path
    psam: Path
    samples: SampleIds
    n_variants: int
    unit: float
    guarded: bool = True

    @classmethod
    def open(cls, path: Path) -> PgenFileset:
        """Open a fileset and check that its header and the people belong together.

        Raises
        ------
        InputError
            If a file is missing, unreadable, malformed or cut short.
        """
        prefix = str(path).removesuffix(".pgen")
        psam = Path(f"{prefix}.psam")
        pvars = [Path(f"{prefix}.pvar"), Path(f"{prefix}.pvar.zst")]
        pvar = next((p for p in pvars if p.is_file()), None)
        if pvar is None:
            raise InputError(f"{pvars[0]}: no such file, nor {pvars[1].name}")
        for file in (path, psam):
            if not file.is_file():
                raise InputError(f"{file}: no such file (a fileset is .pgen, .pvar and .psam)")
        samples = read_psam(psam)
        try:
            with path.open("rb") as pgen:
                n_variants, dosages = _check_header(pgen, path, psam, len(samples))
        except OSError as error:
            raise unreadable(path, error) from error
        return cls(path, pvar, psam, samples, n_variants, PGEN if dosages else 0.0)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the fileset."""
        return (self.path, self.pvar, self.psam)

    def variants(self, rows: int) -> Iterator[VariantTable]:
        """Yield the variant table; its length is checked against the .pgen."""
        contig: list[str] = []
        position: list[int] = []
        names: list[str] = []
        reference: list[str] = []
        alternative: list[str] = []

        def table() -> VariantTable:
            made = VariantTable(
                text_column(contig),
                np.array(position, dtype=np.int32),
                text_column(names),
                text_column(reference),
                text_column(alternative),
            )
            for column in (contig, position, names, reference, alternative):
                column.clear()
            return made

        more, n = MoreThanTwoAlleles(), 0
        columns: _Columns | None = None
        for number, cells in text_lines(self.pvar):
            if cells[0].startswith("#"):
                if cells[0] == "#CHROM":
                    columns = _pvar_columns(cells, self.pvar, number)
                continue
            if columns is None:  # as a .bim, with or without its third column
                columns = (0, 3, 1, 5, 4) if len(cells) > 5 else (0, 2, 1, 4, 3)
            if len(cells) <= max(columns):
                raise InputError(
                    f"{self.pvar}, line {number}: {len(cells)} columns where at least "
                    f"{max(columns) + 1} are needed"
                )
            n += 1
            c, p, i, r, a = (cells[k] for k in columns)
            if "," in a:
                more.add(f"line {number}, {i}", [r, *a.split(",")])
            contig.append(c)
            position.append(parse_position(p, self.pvar, number))
            names.append(i)
            reference.append(r)
            alternative.append(a)
            if len(names) == rows:
                yield table()
        if n != self.n_variants:
            raise InputError(
                f"{self.pvar}: {n} variants where {self.path} has {self.n_variants}; they are not "
                "of one fileset, or one of them is damaged"
            )
        more.refuse(self.pvar, n)
        if names:
            yield table()

    def reader(self) -> PgenReader:
        """Return what reads the calls."""
        return PgenReader(self.path, len(self.samples), self.n_variants, self.unit)


@dataclass(frozen=True)
class PgenReader:
    """Reads a .pgen: a :class:`~hlmm_scan.genotypes.readers.source.Reader`."""

    path: Path
    n_samples: int
    n_variants: int
    unit: float

    def read_block(self, start: int, stop: int) -> Calls:
        """Read calls or, where the file has any, dosages; a .pgen holds no probabilities."""
        try:
            from pgenlib import PgenReader as Library
        except ImportError as error:
            raise needs("pgen", "the library Pgenlib", self.path) from error
        try:
            with Library(str(self.path).encode(), raw_sample_ct=self.n_samples) as pgen:
                if pgen.get_variant_ct() != self.n_variants:
                    raise changed(self.path)
                if self.unit:
                    dosages = self._dosages(pgen, start, stop)
                    return Calls(dosages, fields={"dosages": stop - start})
                hard = self._hard_calls(pgen, start, stop)
                return Calls(hard, fields={HARD_CALL_RECORDS: stop - start})
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{self.path}: variants {start + 1} to {stop} cannot be read ({error}); the file "
                "is damaged"
            ) from error

    def _hard_calls(self, pgen: Any, start: int, stop: int) -> HardCalls:
        copies = np.empty((stop - start, self.n_samples), dtype=np.int8)
        if stop > start:
            pgen.read_range(start, stop, copies)
        copies[copies < 0] = -1
        return HardCalls.of(copies)

    def _dosages(self, pgen: Any, start: int, stop: int) -> Dosages:
        codes = np.empty((stop - start, self.n_samples), dtype=np.uint16)
        row = np.empty(self.n_samples, dtype=np.float32)
        for k, variant in enumerate(range(start, stop)):
            pgen.read_dosages(variant, row)
            if code_copies(row, np.float32(1 / PGEN), codes[k]) > 2:
                raise ValueError(f"variant {variant + 1} has dosages over 2")
        return Dosages(codes, PGEN)


def read_psam(path: Path) -> SampleIds:
    """Read the people of a .psam; without a header line its columns are a .fam's.

    Raises
    ------
    InputError
        With file and line, for what is malformed; if somebody stands twice.
    """
    columns: dict[str, int] | None = None
    family: list[str] = []
    individual: list[str] = []
    sex: list[int] = []
    words = SexWords(path)
    for number, cells in text_lines(path):
        if cells[0].startswith("#"):
            names = [cells[0][1:], *cells[1:]]
            if names[0] in ("FID", "IID") and "IID" in names:
                columns = {
                    "SEX" if name.lower() in SEX_COLUMNS else name: k
                    for k, name in enumerate(names)
                }
            elif individual or not cells[0].startswith("##"):
                raise InputError(f"{path}, line {number}: neither #FID nor #IID begins its header")
            continue
        if columns is None:
            columns = {"FID": 0, "IID": 1, "SEX": 4}
        if len(cells) <= max(columns.values()):
            raise InputError(
                f"{path}, line {number}: {len(cells)} columns where {max(columns.values()) + 1} "
                "are needed"
            )
        individual.append(cells[columns["IID"]])
        family.append(cells[columns["FID"]] if "FID" in columns else "0")
        sex.append(words.code(cells[columns["SEX"]], number) if "SEX" in columns else 0)
    words.tell()
    if not individual:
        raise InputError(f"{path}: no people in it")
    if again := repeated_id(
        text_column([f"{f} {i}" for f, i in zip(family, individual, strict=True)])
    ):
        raise InputError(f"{path}: sample {again} stands twice; sample ids must be unique")
    with_families = columns is not None and "FID" in columns
    return SampleIds(
        text_column(individual),
        text_column(family) if with_families else None,
        np.array(sex, dtype=np.int8),
    )


def _pvar_columns(cells: list[str], pvar: Path, number: int) -> _Columns:
    names = ["CHROM", *cells[1:]]
    absent = [name for name in ("POS", "ID", "REF", "ALT") if name not in names]
    if absent:
        raise InputError(f"{pvar}, line {number}: no column {absent[0]} in the header")
    c, p, i, r, a = (names.index(name) for name in ("CHROM", "POS", "ID", "REF", "ALT"))
    return c, p, i, r, a


def _check_header(file: IO[bytes], path: Path, psam: Path, n_samples: int) -> tuple[int, bool]:
    """Return the number of variants and whether there may be dosages, sizes having been checked."""
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    head = file.read(_HEADER)
    if len(head) < _HEADER:
        raise InputError(f"{path}: truncated: {size} bytes do not even make a header")
    if head[:2] != MAGIC:
        raise InputError(f"{path}: not a .pgen: it begins with {head[:2].hex(' ')}")
    mode, n_variants, people, control = struct.unpack("<BIIB", head[2:])
    if mode not in (VARIABLE, *_FIXED):
        raise InputError(
            f"{path}: storage mode {mode:#04x} is not read; make it anew with plink2 --make-pgen"
        )
    if people != n_samples:
        raise InputError(
            f"{path}: {people} people where {psam} has {n_samples}; they are not of one fileset, "
            "or one of them is damaged"
        )
    if not n_variants:
        raise InputError(f"{path}: no variants in it")
    if mode != VARIABLE:
        expected = _HEADER + n_variants * (packed_width(n_samples) + _FIXED[mode] * n_samples)
        dosages = mode != HARD_CALLS
    else:
        expected, dosages = _variable_size(file, path, size, n_variants, control)
    if size != expected:
        raise InputError(
            f"{path}: {size} bytes where {n_variants} variants of {n_samples} people take "
            f"{expected} by its header: truncated, or damaged"
        )
    return n_variants, dosages


def _variable_size(
    file: IO[bytes], path: Path, size: int, n_variants: int, control: int
) -> tuple[int, bool]:
    """Add up the records of a .pgen of records of different sizes."""
    storage = control & 0xF
    if storage > 7:
        raise InputError(
            f"{path}: a header of kind {control:#04x} is not read; make it anew with plink2 "
            "--make-pgen"
        )
    wide, width = storage > 3, 1 + storage % 4
    counts = (control & _ALLELE_COUNTS_STORED) >> 4
    file.seek(_HEADER + 8 * -(-n_variants // _BLOCK))
    total, dosages = 0, False
    for first in range(0, n_variants, _BLOCK):
        m = min(_BLOCK, n_variants - first)
        kinds = file.read(m if wide else (m + 1) // 2)
        lengths = file.read(m * width)
        if len(lengths) < m * width:
            raise InputError(f"{path}: cut short within its header, at byte {size}")
        dosages |= wide and bool((np.frombuffer(kinds, np.uint8) & _DOSAGE_BITS).any())
        cells = np.zeros((m, 4), np.uint8)
        cells[:, :width] = np.frombuffer(lengths, np.uint8).reshape(m, width)
        total += int(cells.view("<u4").sum(dtype=np.int64))
        file.seek(m * counts + ((m + 7) // 8 if control >> 6 == _FLAGS_STORED else 0), 1)
    return file.tell() + total, dosages
