"""What may be converted: which files a source means, and several of them read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.plink import READ_ROWS, PlinkFileset
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable, reblock

NOT_YET = (".bgen", ".pgen", ".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
"""Kinds of genotype files that are recognised, and refused so far."""


class JoinedFilesets:
    """Filesets end to end, read as if they were one."""

    def __init__(self, filesets: Sequence[PlinkFileset]) -> None:
        self.filesets = filesets
        self.samples = filesets[0].samples
        self.n_samples = filesets[0].n_samples
        self._ends = np.cumsum([f.n_variants for f in filesets])
        self.n_variants = int(self._ends[-1])

    def read_packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read packed calls; at a border the pieces of two or more filesets are joined."""
        pieces = []
        for fileset, end in zip(self.filesets, self._ends, strict=True):
            begin = int(end) - fileset.n_variants
            a, b = max(start, begin), min(stop, int(end))
            if a < b:
                pieces.append(fileset.read_packed(a - begin, b - begin))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def variants(self, rows: int) -> Iterator[VariantTable]:
        """Yield the variant tables of all filesets in tables of ``rows`` rows."""
        step = min(rows, READ_ROWS)
        tables = (table for fileset in self.filesets for table in fileset.read_variants(step))
        return reblock(tables, rows)


def open_sources(sources: Sequence[Path]) -> JoinedFilesets:
    """Open one fileset or several of the same people.

    Parameters
    ----------
    sources : sequence of Path
        .bed files, or their paths without extension, in the order their variants shall have.

    Returns
    -------
    JoinedFilesets

    Raises
    ------
    InputError
        If there is none, one stands twice, is of another kind or malformed, or two disagree about
        people.
    """
    if not sources:
        raise InputError("no genotype files given")
    beds = [_plink_path(source) for source in sources]
    for i, bed in enumerate(beds):
        if bed in beds[:i]:
            raise InputError(f"{bed}: given twice")
    filesets = [PlinkFileset.open(bed) for bed in beds]
    _check_same_samples(filesets)
    return JoinedFilesets(filesets)


def _plink_path(source: Path) -> Path:
    """Return the .bed that a source means, or raise InputError on another kind of file."""
    name = source.name.lower()
    if source.name.endswith(".bed"):
        return source
    for extension in NOT_YET:
        if name.endswith(extension):
            raise InputError(f"{source}: {extension} files are not supported yet, only PLINK .bed")
    if name.endswith((".bim", ".fam")):
        raise InputError(f"{source}: name the .bed of the fileset; .bim and .fam go with it")
    bed = Path(f"{source}.bed")
    if bed.exists():
        return bed
    if source.exists():
        raise InputError(f"{source}: unknown kind of genotype file; PLINK .bed files are converted")
    raise InputError(f"{source}: no such file, nor {bed}")


def _check_same_samples(filesets: Sequence[PlinkFileset]) -> None:
    """Raise InputError, with the first difference, unless all have the same people in order."""
    first = filesets[0]
    for other in filesets[1:]:
        pairs = zip(_people(first.samples), _people(other.samples), strict=False)
        for i, (here, there) in enumerate(pairs, start=1):
            if here != there:
                raise InputError(
                    f"{other.fam}: person {i} is FID {there[0]}, IID {there[1]} where {first.fam} "
                    f"has FID {here[0]}, IID {here[1]}; the same people in the same order are "
                    "needed"
                )
        if other.n_samples != first.n_samples:
            raise InputError(
                f"{other.fam}: {other.n_samples} people where {first.fam} has "
                f"{first.n_samples}; the same people in the same order are needed"
            )


def _people(samples: SampleIds) -> Iterator[tuple[str, str]]:
    family = samples.family_id
    assert family is not None  # a .fam always has the column
    return zip(family, samples.individual_id, strict=True)
