"""Scans of imputed dosages: info and Hardy–Weinberg filters, partitions, phenotypes together."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

from hlmm_scan.cli import cli
from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.open import open_dataset
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.null.store import read_null_model
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.schema import Status

sys.path.append(str(Path(__file__).parent.parent / "kernels"))
from simulated_dosages import simulated_dosages

N, M = 403, 60
TRAITS = ("one", "two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A VCF-Zarr store with dosages in chunks of 20 variants, and tables of two traits."""
    folder = tmp_path_factory.mktemp("dosages")
    dosages = simulated_dosages(M, N, missing=0.01, seed=5).copies()
    rng = np.random.default_rng(6)
    dosages[::3] = np.rint(dosages[::3])  # certain
    dosages[4] = 0.6 + 0.1 * rng.random(N)  # known badly
    dosages[6] = 1.0  # heterozygous, but for a few
    dosages[6, :30] = 0.0
    dosages[9] = 0.0
    group = zarr.create_group(folder / "imputed.vcz", zarr_format=3)

    def put(name, values, dims, **kind):
        array = group.create_array(
            name, shape=values.shape, dtype=kind.pop("dtype", values.dtype), dimension_names=dims,
            **kind,
        )  # fmt: skip
        array[:] = values

    put("call_DS", dosages.astype("f4"), ("variants", "samples"), chunks=(20, N))
    put("variant_contig", np.repeat([0, 1], M // 2).astype("i1"), ("variants",))
    put("variant_position", np.arange(1, M + 1, dtype="i4"), ("variants",))
    alleles = np.array([["A", "C"]] * M, dtype=object)
    put("variant_allele", alleles, ("variants", "alleles"), dtype=str)
    ids = np.array([f"v{k}" for k in range(M)], dtype=object)
    put("variant_id", ids, ("variants",), dtype=str)
    people = np.array([f"p{i}" for i in range(N)], dtype=object)
    put("sample_id", people, ("samples",), dtype=str)
    put("contig_id", np.array(["1", "2"], dtype=object), ("contigs",), dtype=str)

    known = np.nan_to_num(dosages, nan=1.0)
    traits = rng.standard_normal((2, N)) + 0.4 * known[1] + 0.3 * known[2]
    covariate = rng.standard_normal(N)
    rows = []
    for i in range(N):
        values = [f"{v:.9f}" for v in traits[:, i]]
        if i % 11 == 3:
            values[0] = "NA"
        if i % 7 == 2:
            values[1] = "NA"
        rows.append("\t".join([people[i], *values]))
    (folder / "traits.tsv").write_text("\n".join(["IID\tone\ttwo", *rows]) + "\n")
    lines = [f"{p}\t{c:.6f}" for p, c in zip(people, covariate, strict=True)]
    (folder / "age.tsv").write_text("\n".join(["IID\tage", *lines]) + "\n")
    return folder


def scan_of(folder: Path, output: str, **changed) -> ResultStore:
    options = {
        "genotypes": folder / "imputed.vcz",
        "phenotypes": folder / "traits.tsv",
        "output": folder / output,
        "workers": 1,
        **changed,
    }
    return run.scan(ScanConfig(**options), executor=SerialExecutor())


def test_info_and_hardy_weinberg_are_reported_and_filter(folder):
    store = scan_of(folder, "plain.zarr")
    plain = xr.open_zarr(store.path)
    assert "hwe_neg_log10_p" not in plain
    assert (plain["status"].values[:, 4] == Status.OK).all()
    dataset = open_dataset(folder / "imputed.vcz")
    assert dataset.unit > 0
    filtered = xr.open_zarr(scan_of(folder, "filtered.zarr", min_info=0.3, hwe=1e-6).path)
    for k, name in enumerate(TRAITS):
        null = read_null_model(store.null_group(name), None)
        g = dataset.read_block(0, M).copies(null.samples)
        p = np.nanmean(g, axis=1) / 2
        with np.errstate(invalid="ignore"):
            expected = np.nanvar(g, axis=1) / (2 * p * (1 - p))
        certain = np.array([set(row[~np.isnan(row)]) <= {0, 1, 2} for row in g])
        expected[certain] = 1.0
        np.testing.assert_allclose(plain["info"].values[k], expected, rtol=1e-3)
        status = filtered["status"].values[k]
        assert status[4] == Status.LOW_INFO
        assert status[6] == Status.HWE
        assert status[9] == Status.MONOMORPHIC
        np.testing.assert_array_equal(filtered["info"].values[k], plain["info"].values[k])
        hwe = filtered["hwe_neg_log10_p"].values[k]
        assert hwe[6] > 6
        assert (np.isfinite(hwe)).all()
        rest = np.setdiff1d(np.arange(M), [4, 6])
        np.testing.assert_array_equal(status[rest], plain["status"].values[k][rest])
    with pytest.raises(InputError, match=r"min_info: stored nothing, now 0\.3"):
        scan_of(folder, "plain.zarr", min_info=0.3)


@pytest.mark.parametrize("kind", ["class sums", "joint", "screened"])
def test_partitions_and_phenotypes_beside_it_change_nothing(folder, kind):
    options = {} if kind == "class sums" else {"mean_covariates": folder / "age.tsv"}
    if kind == "screened":
        options["method"] = "score"
    name = kind.replace(" ", "")
    both = scan_of(folder, f"{name}-both.zarr", partition_variants=20, **options).dataset()
    for trait in TRAITS:
        alone = scan_of(
            folder, f"{name}-{trait}.zarr", partition_variants=60, phenotype=(trait,), **options
        ).dataset()
        for variable in both.data_vars:
            one = both[variable].sel(phenotype=trait).values
            other = alone[variable].sel(phenotype=trait).values
            np.testing.assert_array_equal(one, other, err_msg=variable)


def test_the_scan_fits_what_the_kernel_does(folder):
    store = scan_of(folder, "again.zarr")
    null = read_null_model(store.null_group("two"), None)
    dataset = open_dataset(folder / "imputed.vcz")
    contigs = dataset.variants(0, M).contig
    found = fit_block(null, dataset.read_block(0, M), contigs, FitOptions(info=True))
    for name, values in store.read_partition(1, 0, M).items():
        np.testing.assert_allclose(values, found[name], rtol=1e-12, err_msg=name)


def test_the_command_counts_what_each_filter_took_in_their_order(folder):
    command = ["scan", "--genotypes", str(folder / "imputed.vcz"), "--phenotypes"]
    command += [str(folder / "traits.tsv"), "-o", str(folder / "cli.zarr"), "--workers", "1"]
    result = CliRunner().invoke(cli, [*command, "--min-info", "0.3", "--hwe", "1e-6"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    labels = [line.split()[0] for line in lines if line.startswith("  ")]
    assert labels == [s.label for s in Status if s.label in labels]
    assert {"ok", "monomorphic", "low_info", "hwe"} <= set(labels)
    refused = CliRunner().invoke(cli, [*command, "--hwe", "2"])
    assert isinstance(refused.exception, InputError)
    assert "hwe must be between 0 and 1" in str(refused.exception)
