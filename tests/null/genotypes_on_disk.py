"""Small genotype datasets written through PLINK filesets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.readers.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable


def texts(values) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = [str(v) for v in values]
    return array


def people(names) -> SampleIds:
    return SampleIds(texts(names), texts([f"f{name}" for name in names]))


def write_dataset(folder: Path, name: str, calls, names, contigs, ids=None) -> GenotypeDataset:
    """Convert calls (variants, people) of the named people; ids are v0, v1, … by default."""
    m = len(calls)
    table = VariantTable(
        contig=texts(contigs),
        position=np.arange(1, m + 1, dtype=np.int32),
        variant_id=texts(ids or [f"v{k}" for k in range(m)]),
        other_allele=texts(["A"] * m),
        effect_allele=texts(["C"] * m),
    )
    with PlinkWriter(folder / name, people(names)) as writer:
        writer.append(table, np.asarray(calls, np.int8))
    return convert([folder / f"{name}.bed"], folder / f"{name}.zarr", chunk_variants=4)
