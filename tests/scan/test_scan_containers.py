"""A scan's numbers do not depend on the container its genotypes came in."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from container_files import VCF_ZARR, blank, plink2, without_families, write_containers

from hlmm_scan.config import ScanConfig
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.scan import run

pytest.importorskip("bgen")
pytest.importorskip("pgenlib")
pytest.importorskip("cyvcf2")
pytest.importorskip("bio2zarr")

OPENED = ("bed.bed", "bgen8.bgen", "pgen.pgen", *VCF_ZARR)
"""The rest has the same fingerprint as one of these: tests/genotypes/readers/test_containers.py."""


@pytest.mark.parametrize("blanked", [False, True])
def test_scans_of_all_containers_are_identical(shared_data, tmp_path, blanked):
    mouse = shared_data / "mouse"
    plink2("--bfile", mouse / "mouse_hs1940", "--chr", "17,19", "--thin-count", 90, "--seed", 4,
           "--make-bed", "--out", tmp_path / "some")  # fmt: skip
    without_families(tmp_path / "some", tmp_path / "bed")
    if blanked:
        blank(tmp_path / "bed", 0.03, seed=6)
    files = write_containers(tmp_path / "bed", tmp_path)
    files["bed.bed"] = tmp_path / "bed.bed"
    rows = [line.split() for line in (mouse / "pheno.tsv").read_text().splitlines()]
    text = "\n".join("\t".join(row[1:3]) for row in rows)  # IID and the first trait
    (tmp_path / "pheno.tsv").write_text(text + "\n")
    results = {}
    for name in OPENED:
        genotypes = files[name]
        if name not in VCF_ZARR:
            genotypes = tmp_path / f"{name}.zarr"
            # bio2zarr's chunks: which variants share a matrix product must not differ.
            convert([files[name]], genotypes, workers=0, chunk_variants=50)
        config = ScanConfig(
            genotypes=genotypes,
            phenotypes=tmp_path / "pheno.tsv",
            output=tmp_path / f"{name}.results",
            workers=1,
            min_maf=0.01,
        )
        with xr.open_zarr(run.scan(config).path) as opened:
            results[name] = opened.load()
    first = results.pop("bed.bed")
    assert (first["status"] == 1).sum() > 60
    for name, other in results.items():
        assert set(other.variables) == set(first.variables)
        for variable in first.variables:
            values, expected = other[variable].values, first[variable].values
            assert values.dtype == expected.dtype
            equal = values == expected
            if values.dtype.kind == "f":
                equal |= np.isnan(values) & np.isnan(expected)
            assert equal.all(), (name, variable)


def test_scans_of_dosages_agree_to_their_precision(tmp_path):
    n = 400
    plink2("--dummy", n, 60, 0.01, "acgt", "dosage-freq=0.7", "--seed", 9, "--make-pgen", "--out",
           tmp_path / "d")  # fmt: skip
    written = {
        "b8": ["bgen-1.2", "bits=8", "ref-first"],
        "b16": ["bgen-1.2", "bits=16", "ref-first"],
        "v": ["vcf", "vcf-dosage=DS"],
    }
    for name, options in written.items():
        plink2("--pfile", tmp_path / "d", "--export", *options, "--out", tmp_path / name)
    rng = np.random.default_rng(2)
    rows = [f"per{i}\t{y:.6f}" for i, y in enumerate(rng.normal(size=n))]
    (tmp_path / "pheno.tsv").write_text("\n".join(["IID\ty", *rows]) + "\n")
    found = {}
    for name in ("d.pgen", "b8.bgen", "b16.bgen", "v.vcf"):
        dataset = convert([tmp_path / name], tmp_path / f"{name}.zarr", workers=0)
        assert dataset.unit > 0
        config = ScanConfig(
            genotypes=dataset.path,
            phenotypes=tmp_path / "pheno.tsv",
            output=tmp_path / f"{name}.results",
            workers=1,
            max_missing=1.0,  # plink2 leaves out many
        )
        with xr.open_zarr(run.scan(config).path) as opened:
            found[name] = opened.load()
    first = found.pop("d.pgen")
    ok = first["status"].values == 1
    assert ok.sum() > 50
    for name, other in found.items():
        np.testing.assert_array_equal(other["n"], first["n"])
        off = 0.05 if name == "b8.bgen" else 0.002
        for effect in ("add", "var"):
            difference = np.abs(other[effect] - first[effect]) / first[f"{effect}_se"]
            assert float(difference.values[ok].max()) < off, (name, effect)
