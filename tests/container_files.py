"""One data set in every container: written by plink2, bio2zarr and the BGEN library."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

PLINK2 = {
    "pgen.pgen": ["--make-pgen"],
    "packed.pgen": ["--make-pgen", "vzs"],
    "bgen8.bgen": ["--export", "bgen-1.2", "bits=8", "ref-first"],
    "bgen16.bgen": ["--export", "bgen-1.2", "bits=16", "ref-first"],
    "zstd8.bgen": ["--export", "bgen-1.3", "bits=8", "ref-first"],
    "reference_last.bgen": ["--export", "bgen-1.2", "bits=8"],
    "plain.vcf": ["--export", "vcf"],
    "bgzf.vcf.gz": ["--export", "vcf", "bgz"],
    "bcf.bcf": ["--export", "bcf"],
}
"""How plink2 writes each; the name before the dot is its --out."""

REFERENCE_LAST = "reference_last.bgen"
GZIPPED = "gzip.vcf.gz"
VCF_ZARR = {"v2.vcz": 2, "v3.vcz": 3}


def plink2(*arguments: object) -> None:
    """Run plink2; skips where there is none."""
    if shutil.which("plink2") is None:
        pytest.skip("plink2 is not installed")
    command = ["plink2", *map(str, arguments), "--threads", "1", "--memory", "640"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def write_containers(prefix: Path, folder: Path, *, vcf_zarr: bool = True) -> dict[str, Path]:
    """Write the PLINK fileset at a prefix in every container, and return where, by name."""
    for name, arguments in PLINK2.items():
        plink2("--bfile", prefix, *arguments, "--out", folder / name.partition(".")[0])
    (folder / GZIPPED).write_bytes(gzip.compress((folder / "plain.vcf").read_bytes()))
    stores = VCF_ZARR if vcf_zarr else {}
    for name, version in stores.items():
        write_vcf_zarr(folder / "bgzf.vcf.gz", folder / name, version)
    return {name: folder / name for name in (*PLINK2, GZIPPED, *stores)}


def write_vcf_zarr(vcf: Path, store: Path, zarr_format: int = 2) -> None:
    """Write a bgzipped VCF as VCF-Zarr, by bio2zarr."""
    import pysam
    from bio2zarr import vcf as bio2zarr

    if not Path(f"{vcf}.csi").exists():
        pysam.tabix_index(str(vcf), preset="vcf", force=True, csi=True)
    with Path(os.devnull).open("w") as null, contextlib.redirect_stderr(null):
        bio2zarr.convert(
            [vcf], store, worker_processes=0, show_progress=False, zarr_format=zarr_format,
            variants_chunk_size=50, samples_chunk_size=500,
        )  # fmt: skip


def without_families(prefix: Path, new: Path) -> None:
    """Copy a PLINK fileset, its FIDs replaced by 0: VCF has one id a person."""
    for extension in (".bed", ".bim"):
        shutil.copy(f"{prefix}{extension}", f"{new}{extension}")
    lines = Path(f"{prefix}.fam").read_text().splitlines()
    rows = ["\t".join(["0", *line.split()[1:]]) for line in lines]
    Path(f"{new}.fam").write_text("\n".join(rows) + "\n")


def blank(prefix: Path, fraction: float, seed: int) -> None:
    """Make some of a fileset's calls missing, in place."""
    bed = Path(f"{prefix}.bed")
    data = np.fromfile(bed, np.uint8)
    rng = np.random.default_rng(seed)
    for shift in range(0, 8, 2):
        chosen = rng.random(data.size - 3) < fraction
        data[3:][chosen] = data[3:][chosen] & ~np.uint8(3 << shift) | np.uint8(1 << shift)
    data.tofile(bed)
