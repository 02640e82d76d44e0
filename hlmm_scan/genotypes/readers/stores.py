"""Zarr stores read as genotype files are: to convert them, with others or by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hlmm_scan.genotypes.calls import Calls
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable


@dataclass(frozen=True)
class ZarrSource:
    """A genotype dataset or VCF-Zarr: a :class:`~hlmm_scan.genotypes.readers.source.Source`."""

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
    """Reads a Zarr store: a :class:`~hlmm_scan.genotypes.readers.source.Reader`."""

    dataset: GenotypeDataset

    def read_block(self, start: int, stop: int) -> Calls:
        """Read calls or dosages, and the information where it is there."""
        block = self.dataset.read_block(start, stop)
        fields = {self.dataset.taken_from: stop - start}
        return Calls(block, self.dataset.info(start, stop), fields)
