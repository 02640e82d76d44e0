"""Real mice through the whole command, against reference values and the plain models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plink_by_hand as plink
import pytest
import xarray as xr

from hlmm_scan.cli import main
from hlmm_scan.models import HLM, HLMM
from hlmm_scan.models.inference import joint_chi2, neg_log10_p, wald_neg_log10_p
from hlmm_scan.results.wald import wald_test
from hlmm_scan.schema import Status

TRAITS = [f"trait{k}" for k in range(1, 7)]


def command(*arguments: object) -> None:
    """Run a command of hlmm-scan in this process; it must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def mice(shared_data) -> plink.Fileset:
    """All mice as they are."""
    return plink.read(shared_data / "mouse" / "mouse_hs1940")


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory) -> Path:
    """A folder with all mice converted in it."""
    folder = tmp_path_factory.mktemp("mice")
    bed = shared_data / "mouse" / "mouse_hs1940.bed"
    command("convert", bed, "-o", folder / "all.zarr")
    return folder


def rows_of(mice: plink.Fileset, ids) -> np.ndarray:
    return pd.Index(mice.bim[1]).get_indexer_for(list(ids))


def check_against_reference(results: xr.Dataset, reference: pd.DataFrame) -> None:
    """Assert the tolerances of the issue, variant by variant."""
    results = results.sel(phenotype="trait1")
    assert list(results["variant_id"].values) == list(reference["variant_id"])
    fitted = reference["add"].notna().to_numpy()
    status = results["status"].values
    assert (status[fitted] == Status.OK).all()
    assert (status[~fitted] >= Status.MONOMORPHIC).all()
    got = {name: results[name].values[fitted] for name in results.data_vars}
    want = reference[fitted]
    np.testing.assert_array_equal(got["n"], want["n"])
    for name in ("add", "var"):
        se = want[f"{name}_se"].to_numpy()
        assert np.abs(got[name] - want[name]).max() < 1e-4 * se.min()
        np.testing.assert_allclose(got[f"{name}_se"], se, rtol=1e-6)
    assert np.abs(got["log_likelihood"] - want["log_likelihood"]).max() < 1e-3
    if "h2" in want:
        assert (np.abs(got["random_variance"] - want["h2"]) < 1e-4 * want["h2_se"]).all()
        np.testing.assert_allclose(got["random_variance_se"], want["h2_se"], rtol=1e-6)
    for name in ("add", "var", "log_likelihood", "av_neg_log10_p"):
        assert np.isnan(results[name].values[~fitted]).all()


def test_hlm_on_chromosome_17_agrees_with_the_reference(shared_data, folder, tmp_path):
    command(
        "scan", "--genotypes", folder / "all.zarr", "-o", tmp_path / "r",
        "--phenotypes", shared_data / "mouse" / "pheno.tsv", "--phenotype", "trait1",
        "--covariate-mode", "seed", "--min-maf", 0.05, "--min-mac", 0, "--workers", 1,
    )  # fmt: skip
    results = xr.open_zarr(tmp_path / "r")
    reference = pd.read_csv(shared_data / "reference" / "mouse_t1_chr17_hlm.csv")
    assert results.sizes["variant"] == 12_226
    here = results.isel(variant=results["contig"].values == "17")
    check_against_reference(here, reference)


def test_hlmm_on_chromosome_17_agrees_with_the_reference(shared_data, folder, tmp_path, mice):
    reference = pd.read_csv(shared_data / "reference" / "mouse_t1_chr17_hlmm300.csv")
    listed = (shared_data / "mouse" / "random300_not17.txt").read_text().split()
    mice.part(rows_of(mice, reference["variant_id"])).write(tmp_path / "tested")
    mice.part(rows_of(mice, listed)).write(tmp_path / "random")
    for name in ("tested", "random"):
        command("convert", tmp_path / f"{name}.bed", "-o", tmp_path / f"{name}.zarr")
    command(
        "scan", "--genotypes", tmp_path / "tested.zarr", "-o", tmp_path / "r",
        "--phenotypes", shared_data / "mouse" / "pheno.tsv", "--phenotype", "trait1",
        "--random-effects", tmp_path / "random.zarr", "--no-loco",
        "--covariate-mode", "seed", "--min-maf", 0.05, "--min-mac", 0, "--workers", 1,
    )  # fmt: skip
    results = xr.open_zarr(tmp_path / "r")
    check_against_reference(results, reference)
    assert results.attrs["parameters"]["se"] == "observed"
    assert results.attrs["effect_scale"].startswith("null residual over")


def test_all_variants_and_traits_have_a_status_that_adds_up(
    shared_data, folder, tmp_path, mice, capsys
):
    phenotypes = shared_data / "mouse" / "pheno.tsv"
    command(
        "scan", "--genotypes", folder / "all.zarr", "-o", tmp_path / "r",
        "--phenotypes", phenotypes, "--workers", 1,
    )  # fmt: skip
    assert f"{tmp_path / 'r'}: complete" in capsys.readouterr().out
    results = xr.open_zarr(tmp_path / "r")
    status = results["status"].values
    assert status.shape == (6, 12_226)
    labels, counts = np.unique(status, return_counts=True)
    written = {Status(int(s)).label: int(c) for s, c in zip(labels, counts, strict=True)}
    assert written == results.attrs["status_counts"]
    assert sum(written.values()) == 6 * 12_226
    assert Status.PENDING.label not in written
    assert written["ok"] > 60_000
    y = pd.read_csv(phenotypes, sep="\t")[TRAITS].to_numpy()
    for k in range(6):
        calls = mice.copies[:, np.isfinite(y[:, k])]
        frequency = calls.mean(axis=1) / 2
        np.testing.assert_allclose(results["effect_allele_frequency"].values[k], frequency)
        minor = np.minimum(frequency, 1 - frequency)
        np.testing.assert_array_equal(status[k] == Status.MONOMORPHIC, minor == 0)
        np.testing.assert_array_equal(
            status[k] == Status.LOW_MAF, (minor > 0) & (minor < 0.01 - 1e-12)
        )
        np.testing.assert_array_equal(np.isnan(results["add"].values[k]), status[k] >= 7)


@pytest.fixture(scope="module")
def disturbed(shared_data, mice, tmp_path_factory):
    """Chromosome 19 in part, 3% of its calls blanked, people reordered and absent here and there.

    Returns the folder, the fileset and the three tables by IID.
    """
    folder = tmp_path_factory.mktemp("disturbed")
    rng = np.random.default_rng(20261122)
    n = len(mice.fam)
    variants = np.flatnonzero(mice.bim[0] == "19")[::6][:40]
    fileset = mice.part(variants, rng.permutation(n)[: n - 100])
    fileset.copies[rng.random(fileset.copies.shape) < 0.03] = np.nan
    fileset.write(folder / "chr19")
    ids = mice.fam.iloc[:, :2].set_axis(["FID", "IID"], axis=1)
    ids.insert(2, "trait1", pd.read_csv(shared_data / "mouse" / "pheno.tsv", sep="\t")["trait1"])
    made = pd.DataFrame(
        {"sex": mice.fam[4].astype(float), "age": rng.normal(50, 10, n), "cage": rng.random(n)}
    )
    made.loc[rng.random(n) < 0.02, "age"] = np.nan
    # Covariates that matter to both, so that leaving one out anywhere would show.
    ids["trait1"] += 0.05 * (made["age"].fillna(50) - 50) * (1 + made["cage"])
    tables = {
        "phenotypes": ids,
        "mean": ids[["FID", "IID"]].join(made[["sex", "age"]]),
        "variance": ids[["FID", "IID"]].join(made[["age", "cage"]]),
    }
    for name, table in tables.items():
        kept = table.iloc[rng.permutation(n)[: n - 150]]
        kept.to_csv(folder / f"{name}.tsv", sep="\t", index=False, na_rep="NA")
        tables[name] = kept.set_index("IID")
    command("convert", folder / "chr19.bed", "-o", folder / "chr19.zarr", "--chunk-variants", 16)
    return folder, fileset, tables


def analysed(
    fileset: plink.Fileset, tables
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the fileset with every value there, and their phenotype and raw covariates."""
    people = fileset.fam[1]
    columns = [tables[name].reindex(people) for name in ("phenotypes", "mean", "variance")]
    values = np.column_stack([c.drop(columns="FID").to_numpy(float) for c in columns])
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    y, mean, variance = values[rows, 0], values[rows, 1:3], values[rows, 3:]
    return rows, y, mean, variance


def designs(mean, variance, genotype):
    ones = np.ones(len(genotype))
    return np.column_stack([ones, mean, genotype]), np.column_stack([ones, variance, genotype])


STEP, JOINT, EXACT = 1e-3, 5e-5, 1e-6
"""Standard errors from the maximum: what the Newton step of the HLM with covariates may be, what
the iterated joint kernel keeps at any n, and the HLMM's."""


def check_variant(
    results: xr.Dataset, variant: int, fit, called: np.ndarray, tolerance: float
) -> None:
    """Assert that one variant is what the plain model gives, to a fraction of a standard error."""
    got = {name: float(results[name].values[0, variant]) for name in results.data_vars}
    a, b = len(fit.alpha) - 1, len(fit.alpha) + len(fit.beta) - 1
    covariance = fit.covariance[a, b]
    assert got["status"] == fit.status
    assert got["n"] == called.sum()
    assert abs(got["add"] - fit.alpha[a]) < tolerance * fit.alpha_se[a]
    assert abs(got["var"] - fit.beta[-1]) < tolerance * fit.beta_se[-1]
    relative = min(10 * tolerance, 3e-3)
    assert got["add_se"] == pytest.approx(fit.alpha_se[a], rel=relative)
    assert got["var_se"] == pytest.approx(fit.beta_se[-1], rel=relative)
    scale = fit.alpha_se[a] * fit.beta_se[-1]
    assert got["add_var_cov"] == pytest.approx(covariance, abs=3 * tolerance * scale)
    # Scoring sums in single precision; the log-likelihood of a step is that of its expansion.
    rounding = {STEP: 5e-3, JOINT: 3e-4, EXACT: 1e-6}[tolerance]
    assert got["log_likelihood"] == pytest.approx(fit.log_likelihood, abs=rounding)
    chi2 = joint_chi2(
        fit.alpha[a], fit.beta[-1], fit.alpha_se[a] ** 2, fit.beta_se[-1] ** 2, covariance
    )
    columns = {name: np.array(value) for name, value in got.items()}
    assert wald_test("av", "", columns) == pytest.approx(
        float(neg_log10_p(chi2, 2)), rel=20 * tolerance, abs=rounding
    )
    for name, estimate, se in (
        ("add", fit.alpha[a], fit.alpha_se[a]), ("var", fit.beta[-1], fit.beta_se[-1])
    ):  # fmt: skip
        p = float(wald_neg_log10_p(estimate, se))
        wald = wald_test(name, "", columns)
        assert wald == pytest.approx(p, rel=10 * tolerance, abs=rounding)


@pytest.mark.parametrize("se", ["expected", "observed"])
def test_blanked_reordered_and_absent_mice_are_as_one_variant_at_a_time(disturbed, tmp_path, se):
    folder, fileset, tables = disturbed
    command(
        "scan", "--genotypes", folder / "chr19.zarr", "--phenotypes", folder / "phenotypes.tsv",
        "--mean-covariates", folder / "mean.tsv", "--variance-covariates", folder / "variance.tsv",
        "--max-missing", 0.1, "--workers", 1, "--se", se, "-o", tmp_path / "r",
    )  # fmt: skip
    results = xr.open_zarr(tmp_path / "r")
    rows, y, mean, variance = analysed(fileset, tables)
    assert 800 < len(rows) < 1300
    fitted = np.flatnonzero(results["status"].values[0] == Status.OK)
    assert len(fitted) > 25
    for variant in fitted[::2]:
        genotype = fileset.copies[variant, rows]
        called = np.isfinite(genotype)
        assert 0.01 < 1 - called.mean() < 0.06
        X, V = designs(mean[called], variance[called], genotype[called])
        fit = HLM(y[called], X, V).fit(information=se)
        check_variant(results, variant, fit, called, STEP if se == "expected" else JOINT)
        frequency = float(results["effect_allele_frequency"].values[0, variant])
        assert frequency == pytest.approx(np.nanmean(genotype) / 2)


def test_the_same_with_random_effects_of_which_calls_are_blanked_too(disturbed, tmp_path, mice):
    folder, fileset, tables = disturbed
    rng = np.random.default_rng(7)
    chosen = np.sort(rng.choice(np.flatnonzero(mice.bim[0] != "19"), 40, replace=False))
    random = mice.part(chosen, rng.permutation(len(mice.fam))[:1500])
    random.copies[rng.random(random.copies.shape) < 0.03] = np.nan
    random.write(tmp_path / "random")
    command("convert", tmp_path / "random.bed", "-o", tmp_path / "random.zarr")
    command(
        "scan", "--genotypes", folder / "chr19.zarr", "--phenotypes", folder / "phenotypes.tsv",
        "--mean-covariates", folder / "mean.tsv", "--variance-covariates", folder / "variance.tsv",
        "--random-effects", tmp_path / "random.zarr", "--no-loco",
        "--max-missing", 0.1, "--workers", 1, "-o", tmp_path / "r",
    )  # fmt: skip
    results = xr.open_zarr(tmp_path / "r")
    rows, y, mean, variance = analysed(fileset, tables)
    position = pd.Index(random.fam[1]).get_indexer_for(fileset.fam[1].iloc[rows])
    present = position >= 0
    assert (~present).sum() > 0
    rows, y, mean, variance = rows[present], y[present], mean[present], variance[present]
    columns = plink.standardised(random.copies[:, position[present]])
    assert columns.shape[1] == 38  # two do not vary among these mice
    G = columns / np.sqrt(columns.shape[1])
    for variant in np.flatnonzero(results["status"].values[0] == Status.OK)[::6]:
        genotype = fileset.copies[variant, rows]
        called = np.isfinite(genotype)
        X, V = designs(mean[called], variance[called], genotype[called])
        fit = HLMM(y[called], X, V, G[called]).fit()
        check_variant(results, variant, fit, called, EXACT)
        h2 = float(results["random_variance"].values[0, variant])
        assert abs(h2 - fit.random_variance) < EXACT * fit.random_variance_se
        residual = np.exp(V @ fit.beta).mean()
        fraction = float(results["random_variance_fraction"].values[0, variant])
        assert fraction == pytest.approx(h2 / (h2 + residual), rel=EXACT)
