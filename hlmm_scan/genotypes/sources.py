"""What may be converted: which files a source means, and several of them read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.bgen import BgenFile, EffectAllele
from hlmm_scan.genotypes.blocks import FINEST
from hlmm_scan.genotypes.calls import Calls
from hlmm_scan.genotypes.dataset import GenotypeDataset, holds_genotypes
from hlmm_scan.genotypes.parts import Piece
from hlmm_scan.genotypes.pgen import PgenFileset
from hlmm_scan.genotypes.plink import READ_ROWS, PlinkFileset
from hlmm_scan.genotypes.samples import SampleIds, parted
from hlmm_scan.genotypes.source import Reader, Source
from hlmm_scan.genotypes.variants import VariantTable, reblock
from hlmm_scan.genotypes.vcf import VcfFile

VCF_EXTENSIONS = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
ZARR_EXTENSIONS = (".vcz", ".zarr")
KINDS = "PLINK .bed, BGEN, PGEN, VCF, BCF and VCF-Zarr"


@dataclass(frozen=True)
class SourceOptions:
    """What files do not say themselves.

    Attributes
    ----------
    sample_file : Path or None
        The .sample of BGEN files, where it does not lie beside.
    bgen_effect_allele : {"second", "first"}
    id_delim : str or None
        What parts FID and IID in ids of people that are both.
    finest : bool
        Keep the dosages of BGEN files in the finest unit: those of some variants have more bits
        than those of the first.
    """

    sample_file: Path | None = None
    bgen_effect_allele: EffectAllele = "second"
    id_delim: str | None = None
    finest: bool = False


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


@dataclass(frozen=True)
class ZarrSource:
    """A VCF-Zarr store or a genotype dataset: a :class:`~hlmm_scan.genotypes.source.Source`."""

    path: Path
    dataset: GenotypeDataset
    guarded: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of its metadata."""
        return tuple(f for f in (self.path / "zarr.json", self.path / ".zgroup") if f.exists())

    @property
    def samples(self) -> SampleIds:
        """People in the order of the calls."""
        return self.dataset.samples

    @property
    def n_variants(self) -> int:
        """Variants."""
        return self.dataset.n_variants

    @property
    def unit(self) -> float:
        """Of its dosages; 0 where there are only hard calls."""
        return self.dataset.unit

    def variants(self, rows: int) -> Iterator[VariantTable]:
        """Yield the variant table."""
        for start in range(0, self.n_variants, rows):
            yield self.dataset.variants(start, min(start + rows, self.n_variants))

    def reader(self) -> ZarrReader:
        """Return what reads the calls."""
        return ZarrReader(self.dataset)


@dataclass(frozen=True)
class ZarrReader:
    """Reads a Zarr store: a :class:`~hlmm_scan.genotypes.source.Reader`."""

    dataset: GenotypeDataset

    def read_block(self, start: int, stop: int) -> Calls:
        """Read calls or dosages, and the information where it is there."""
        block = self.dataset.read_block(start, stop)
        fields = {self.dataset.taken_from: stop - start}
        return Calls(block, self.dataset.info(start, stop), fields)


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
    paths = [_meant(source) for source in sources]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise InputError(f"{path}: given twice")
    if options.sample_file is not None and not any(p.suffix == ".bgen" for p in paths):
        raise InputError(f"{options.sample_file}: only BGEN files have a .sample file")
    opened = [_open(path, options) for path in paths]
    _check_same_samples(opened)
    return JoinedSources(opened, options.id_delim)


def _open(path: Path, options: SourceOptions) -> Source:
    name = path.name.lower()
    if name.endswith(ZARR_EXTENSIONS):
        return ZarrSource(path, GenotypeDataset.open(path))
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if name.endswith(".bgen"):
        bgen = BgenFile.open(path, options.sample_file, options.bgen_effect_allele)
        bgen.unit = FINEST if options.finest else bgen.unit
        return bgen
    if name.endswith(".pgen"):
        return PgenFileset.open(path)
    if name.endswith(VCF_EXTENSIONS):
        return VcfFile.open(path)
    return PlinkFileset.open(path)


def _meant(source: Path) -> Path:
    """Return the file that a source means, or raise InputError on another kind of file."""
    name = source.name.lower()
    if name.endswith((".bed", ".bgen", ".pgen", *VCF_EXTENSIONS, *ZARR_EXTENSIONS)):
        return source
    for main, beside in (
        (".bed", (".bim", ".fam")),
        (".pgen", (".pvar", ".pvar.zst", ".psam")),
        (".bgen", (".sample", ".bgi")),
    ):
        if name.endswith(beside):
            raise InputError(f"{source}: name the {main}; {' and '.join(beside)} go with it")
    for extension in (".bed", ".pgen"):
        if (whole := Path(f"{source}{extension}")).exists():
            return whole
    if source.is_dir() and holds_genotypes(source):
        return source
    if source.exists():
        raise InputError(f"{source}: unknown kind of genotype file; {KINDS} are converted")
    raise InputError(f"{source}: no such file, nor {source}.bed or {source.name}.pgen")


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
