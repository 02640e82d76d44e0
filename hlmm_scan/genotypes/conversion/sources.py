"""Several genotype files of the same people, read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import FINEST
from hlmm_scan.genotypes.conversion.parts import Piece
from hlmm_scan.genotypes.open import SourceOptions, file_meant, open_source
from hlmm_scan.genotypes.readers.plink import READ_ROWS
from hlmm_scan.genotypes.readers.source import Reader, Source
from hlmm_scan.genotypes.samples import SampleIds, parted
from hlmm_scan.genotypes.variants import VariantTable, reblock


class JoinedSources:
    """Sources end to end, read as if they were one.

    Attributes
    ----------
    sources : sequence of Source
    samples : SampleIds
    n_samples, n_variants : int
    unit : float
        Of all dosages: that of the sources where they agree, else the finest; 0 where there are
        only hard calls.
    guarded : bool
        Whether one of them is read by native code.
    """

    def __init__(self, sources: Sequence[Source], id_delim: str | None = None) -> None:
        self.sources = sources
        self.samples = sources[0].samples
        if id_delim is not None:
            self.samples = parted(self.samples, id_delim, _people_file(sources[0]))
        self.n_samples = len(self.samples)
        self._ends = np.cumsum([s.n_variants for s in sources])
        self.n_variants = int(self._ends[-1])
        units = {s.unit for s in sources} - {0.0}
        self.unit = FINEST if len(units) > 1 else max(units, default=0.0)
        self.guarded = any(s.guarded for s in sources)

    def variants(self, rows: int) -> Iterator[VariantTable]:
        """Yield the variant tables of all sources in tables of ``rows`` rows."""
        step = min(rows, READ_ROWS)
        return reblock((table for s in self.sources for table in s.variants(step)), rows)

    def pieces(self, start: int, stop: int) -> tuple[Piece, ...]:
        """Return what variants ``start`` to ``stop`` are read with."""
        pieces = []
        for source, reader, end in zip(self.sources, self._readers, self._ends, strict=True):
            begin = int(end) - source.n_variants
            a, b = max(start, begin), min(stop, int(end))
            if a < b:
                pieces.append(Piece(source.path.name, reader, a - begin, b - begin))
        return tuple(pieces)

    @cached_property
    def _readers(self) -> list[Reader]:
        return [s.reader() for s in self.sources]


def open_sources(sources: Sequence[Path], options: SourceOptions | None = None) -> JoinedSources:
    """Open one file or several of the same people.

    Parameters
    ----------
    sources : sequence of Path
        .bed, .bgen, .pgen, .vcf(.gz), .bcf files or VCF-Zarr stores, or the paths of PLINK filesets
        without extension, in the order their variants shall have.
    options : SourceOptions, optional

    Returns
    -------
    JoinedSources

    Raises
    ------
    InputError
        If there is none, one stands twice, is of another kind or malformed, or two disagree about
        people.
    """
    if not sources:
        raise InputError("no genotype files given")
    options = options or SourceOptions()
    paths = [file_meant(source) for source in sources]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise InputError(f"{path}: given twice")
    if options.sample_file is not None and not any(p.suffix == ".bgen" for p in paths):
        raise InputError(f"{options.sample_file}: only BGEN files have a .sample file")
    opened = [open_source(path, options) for path in paths]
    _check_same_samples(opened)
    return JoinedSources(opened, options.id_delim)


def _check_same_samples(sources: Sequence[Source]) -> None:
    """Raise InputError, with the first difference, unless all have the same people in order."""
    first, here = sources[0], sources[0].samples
    for other in sources[1:]:
        there = other.samples
        if len(there) != len(here):
            raise InputError(
                f"{_people_file(other)}: {len(there)} people where {_people_file(first)} has "
                f"{len(here)}; the same people in the same order are needed"
            )
        for i, (a, b) in enumerate(zip(_people(here), _people(there), strict=True), start=1):
            if a != b:
                raise InputError(
                    f"{_people_file(other)}: person {i} is {_named(b)} where "
                    f"{_people_file(first)} has {_named(a)}; the same people in the same order "
                    "are needed"
                )


def _people_file(source: Source) -> Path:
    """Return the file that names a source's people: the last of those that belong to it."""
    return source.files[-1] if len(source.files) > 1 else source.path


def _people(samples: SampleIds) -> Iterator[tuple[str, str]]:
    family = ["0"] * len(samples) if samples.family_id is None else samples.family_id.tolist()
    return zip(family, samples.individual_id.tolist(), strict=True)


def _named(person: tuple[str, str]) -> str:
    return f"FID {person[0]}, IID {person[1]}"
