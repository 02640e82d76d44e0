"""Who opens what: stores as genotype datasets, genotype files as what is converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.arrays import open_group
from hlmm_scan.genotypes.blocks import FINEST
from hlmm_scan.genotypes.dataset import KIND, GenotypeDataset, mark_of
from hlmm_scan.genotypes.joined import Genotypes, JoinedGenotypes
from hlmm_scan.genotypes.readers.bgen import BgenFile, EffectAllele
from hlmm_scan.genotypes.readers.cross import Cross
from hlmm_scan.genotypes.readers.cross_files import EXTENSIONS as CROSS_EXTENSIONS
from hlmm_scan.genotypes.readers.pgen import PgenFileset
from hlmm_scan.genotypes.readers.plink import PlinkFileset
from hlmm_scan.genotypes.readers.source import Source
from hlmm_scan.genotypes.readers.stores import ZarrSource
from hlmm_scan.genotypes.readers.vcf import VcfFile
from hlmm_scan.genotypes.vcf_zarr import VcfZarrDataset, is_vcf_zarr
from hlmm_scan.storage import Place, place

VCF_EXTENSIONS = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
ZARR_EXTENSIONS = (".vcz", ".zarr")
KINDS = "PLINK .bed, BGEN, PGEN, VCF, BCF, VCF-Zarr and crosses of R/qtl2 (.zip, .yaml, .json)"


def open_genotypes(paths: Sequence[Place | str]) -> Genotypes:
    """Open one dataset, or several of the same people as one; see :func:`open_dataset`.

    Raises
    ------
    InputError
        Also if one is given twice, or people differ: the first who does is named.
    """
    parts = [open_dataset(path) for path in paths]
    return parts[0] if len(parts) == 1 else JoinedGenotypes.of(parts)


def open_dataset(path: Place | str) -> GenotypeDataset:
    """Open a genotype dataset of this package, or a VCF-Zarr store of another program.

    Parameters
    ----------
    path : Path, ObjectPath or str

    Returns
    -------
    GenotypeDataset

    Raises
    ------
    InputError
        If nothing is there, or it is neither a genotype dataset of this package and version nor a
        VCF-Zarr store that can be read as one.
    InfrastructureError
        If an object store does not answer.
    """
    path = place(path)
    group = open_group(path)
    if group is not None and "kind" not in mark_of(group) and is_vcf_zarr(group):
        return VcfZarrDataset.open(path)
    return GenotypeDataset.of(path, group)


def holds_genotypes(path: Place) -> bool:
    """Return whether `open_dataset` knows what a place holds."""
    group = open_group(path)
    return group is not None and (mark_of(group).get("kind") == KIND or is_vcf_zarr(group))


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


def open_source(path: Path, options: SourceOptions) -> Source:
    """Open one genotype file, or a store to be converted, as :func:`file_meant` names it.

    Raises
    ------
    InputError
        If it is not there, or malformed.
    """
    name = path.name.lower()
    if name.endswith(ZARR_EXTENSIONS):
        return ZarrSource(path, open_dataset(path))
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
    if name.endswith(CROSS_EXTENSIONS):
        return Cross.open(path)
    return PlinkFileset.open(path)


def file_meant(source: Path) -> Path:
    """Return the file that a source means.

    Raises
    ------
    InputError
        If it is no genotype file, or goes with one.
    """
    name = source.name.lower()
    files = (".bed", ".bgen", ".pgen", *VCF_EXTENSIONS, *CROSS_EXTENSIONS)
    if name.endswith((*files, *ZARR_EXTENSIONS)):
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
