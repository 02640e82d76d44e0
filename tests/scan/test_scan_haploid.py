"""Scans of chromosome X, Y and mitochondria, beside models fitted by hand."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from container_files import PLINK2, plink2
from plink_by_hand import Fileset

from hlmm_scan.analysis.check import check
from hlmm_scan.analysis.hits import hits
from hlmm_scan.analysis.rows import chosen_tests
from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.kernels.covariances import degrees_of_freedom
from hlmm_scan.models.hlm import HLM
from hlmm_scan.results.inputs import scanned_genotypes
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.scan.plan import LEAST_PARTITIONS
from hlmm_scan.schema import Status

N = 203
CONTIGS = ["1"] * 5 + ["X"] * 7 + ["Y"] * 3 + ["MT"] * 2 + ["XY"] * 2
POSITIONS = [*range(1, 6), 60_500, 2_700_000, *range(5_000_000, 5_000_005), *range(20_000_000, 20_000_003), 10, 20, 3, 4]  # fmt: skip  # noqa: E501
PSEUDO_AUTOSOMAL = 5  # row of X at 60,500


class Cohort:
    """People of both sexes with all kinds of chromosomes, and errors of genotyping."""

    def __init__(self, folder):
        rng = np.random.default_rng(12)
        self.sex = np.where(rng.random(N) < 0.5, 1, 2)
        self.male = self.sex == 1
        m = len(CONTIGS)
        self.copies = rng.binomial(2, 0.3, (m, N)).astype(float)
        haploid = 2.0 * rng.binomial(1, 0.3, (m, N))
        for row, contig in enumerate(CONTIGS):
            if contig in ("X", "Y") and row != PSEUDO_AUTOSOMAL:
                self.copies[row, self.male] = haploid[row, self.male]
            if contig == "MT":
                self.copies[row] = haploid[row]
        for row in (7, 12, 15):  # X, Y, MT
            self.copies[row, np.flatnonzero(self.male)[:3]] = 1
        self.copies[:, 50] = np.nan
        self.age = rng.normal(size=N)
        self.y = (
            10
            + self.male
            + 0.5 * self.age
            + 0.3 * np.nan_to_num(self.copies[8])
            + np.exp(0.3 * self.male) * rng.normal(size=N)
        )
        people = [f"p{k}" for k in range(N)]
        self.bim = pd.DataFrame(
            {
                "c": CONTIGS,
                "id": [f"v{k}" for k in range(m)],
                "cm": 0,
                "p": POSITIONS,
                "a": "A",
                "b": "G",
            }
        )
        self.fam = pd.DataFrame(
            {"f": people, "i": people, "a": 0, "b": 0, "sex": self.sex, "y": -9}
        )
        self.folder = folder
        self.phenotypes = folder / "y.tsv"
        pd.DataFrame({"IID": people, "y": self.y}).to_csv(self.phenotypes, sep="\t", index=False)
        self.covariates = folder / "x.tsv"
        pd.DataFrame({"IID": people, "age": self.age}).to_csv(
            self.covariates, sep="\t", index=False
        )
        self.genotypes = self.dataset("all", 4)

    def dataset(self, name, chunk, rows=None, fam=None):
        fileset = Fileset(self.copies, self.bim, self.fam if fam is None else fam).part(rows)
        bed = fileset.write(self.folder / name)
        convert([bed], self.folder / f"{name}.zarr", chunk_variants=chunk)
        return self.folder / f"{name}.zarr"

    def config(self, output, **options):
        defaults = {
            "genotypes": self.genotypes,
            "phenotypes": self.phenotypes,
            "output": output,
            "workers": 1,
            "min_mac": 5,
            "genome_build": "hg19",
        }
        return ScanConfig(**{**defaults, **options})

    def scan(self, output, **options):
        store = run.scan(self.config(output, **options), executor=SerialExecutor())
        return xr.open_zarr(store.path).load().isel(phenotype=0)

    def expected(self, row, covariates=()):
        """Fit one variant by the plain estimator, as a user would by hand."""
        contig = "XY" if row == PSEUDO_AUTOSOMAL else CONTIGS[row]
        g = self.copies[row].copy()
        if contig in ("X", "Y"):
            g[self.male & (g == 1)] = np.nan
        if contig == "MT":
            g[g == 1] = np.nan
        used = ~np.isnan(g)
        if contig == "Y":
            used &= self.male
        columns = [np.ones(N), *covariates, g]
        if contig == "X":
            columns.insert(1, self.sex.astype(float))
        design = np.column_stack(columns)[used]
        fit = HLM(self.y[used], design, design).fit()
        one = {"X": self.male, "Y": self.male, "MT": np.ones(N, bool)}.get(
            contig, np.zeros(N, bool)
        )
        alleles = np.where(one, 1, 2)[used]
        effect = np.where(one, g / 2, g)[used]
        return fit, int(used.sum()), effect.sum() / alleles.sum()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return Cohort(tmp_path_factory.mktemp("haploid"))


@pytest.fixture(scope="module")
def reference(cohort, tmp_path_factory):
    """Results with a mean covariate, one chunk a partition."""
    folder = tmp_path_factory.mktemp("reference")
    return cohort.scan(folder / "r", mean_covariates=cohort.covariates, partition_variants=4)


@pytest.mark.parametrize("covariates", [False, True])
def test_every_chromosome_is_fitted_as_by_hand(cohort, tmp_path, covariates):
    options = {"mean_covariates": cohort.covariates, "variance_covariates": cohort.covariates}
    results = cohort.scan(tmp_path / "r", **(options if covariates else {}))
    for row in range(len(CONTIGS)):
        here = results.isel(variant=row)
        fit, n, frequency = cohort.expected(row, [cohort.age] if covariates else [])
        assert here["status"] == Status.OK, CONTIGS[row]
        assert here["n"] == n
        assert np.isclose(here["effect_allele_frequency"], frequency, rtol=1e-12)
        assert abs(here["add"] - fit.alpha[-1]) < 2e-3 * fit.alpha_se[-1]
        assert abs(here["var"] - fit.beta[-1]) < 2e-3 * fit.beta_se[-1]
        designs = len(fit.alpha) - 1, len(fit.beta) - 1
        people = np.count_nonzero(cohort.male) if CONTIGS[row] == "Y" else N
        freedom, _ = degrees_of_freedom(people, *designs)
        assert np.isclose(here["add_se"], freedom * fit.alpha_se[-1], rtol=1e-3)
        assert np.isclose(here["log_likelihood"], fit.log_likelihood, rtol=1e-6)
    wrong = results["haploid_heterozygous"].values
    assert wrong[[7, 12, 15]].tolist()[:2] == [3, 3]
    assert np.array_equal(np.flatnonzero(wrong), [7, 12, 15])


def test_null_models_say_whom_and_what_they_serve(cohort, tmp_path):
    store = ResultStore.open(
        run.prepare(cohort.config(tmp_path / "r", mean_covariates=cohort.covariates)).path
    )
    default, on_x, on_y = (store.null_group("y", key).attrs for key in ("", "X", "Y"))
    assert default["people"] == on_x["people"] == N
    assert on_y["people"] == np.count_nonzero(cohort.male)
    assert on_y["dropped"]["not_male_on_y"] == np.count_nonzero(~cohort.male)
    names = [(e["part"], e["name"]) for e in on_x["covariate_fit"]["effects"]]
    assert ("mean", "sex") in names
    assert ("log_variance", "sex") in names
    assert on_x["serves"] == [["X", "X"]]
    assert default["served_by_others"] == [["X", "X", "X"], ["Y", "Y", "Y"]]
    assert "samples" not in store.null_group("y", "X")  # as the default's
    assert store.null_group("y", "X")["mean_design"].shape == (N, 1)


def test_results_do_not_depend_on_how_the_scan_is_cut(cohort, tmp_path, reference):
    options = {"mean_covariates": cohort.covariates}
    whole = cohort.scan(tmp_path / "whole", **options, partition_variants=20)
    for name in reference.data_vars:
        assert np.array_equal(whole[name], reference[name], equal_nan=name != "status"), name
    # Chunks of another size, in which other chromosomes meet.
    genotypes = cohort.dataset("chunks", 7)
    other = cohort.scan(tmp_path / "other", **options, genotypes=genotypes)
    for name in ("add", "var", "status", "n", "effect_allele_frequency"):
        assert np.allclose(other[name], reference[name], rtol=1e-9, atol=1e-9)


def test_sex_on_x_can_be_left_out_and_is_where_it_says_nothing(cohort, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        cohort.scan(tmp_path / "sexed")
    assert "y: sex is a covariate of mean and variance on X" in caplog.text
    without = cohort.scan(tmp_path / "without", sex_on_x=False)
    g = cohort.copies[8]
    used = ~np.isnan(g)
    design = np.column_stack([np.ones(N), g])[used]
    fit = HLM(cohort.y[used], design, design).fit()
    assert np.isclose(without["add"][8], fit.alpha[1], rtol=1e-4)
    table = cohort.folder / "sexed.tsv"
    people = [f"p{k}" for k in range(N)]
    pd.DataFrame({"IID": people, "male": cohort.male.astype(int)}).to_csv(
        table, sep="\t", index=False
    )
    caplog.clear()
    with caplog.at_level(logging.INFO):
        store = run.prepare(
            cohort.config(tmp_path / "own", mean_covariates=table, variance_covariates=table)
        )
    assert "on X, sex is no further covariate of the mean and the variance" in caplog.text
    assert store.null_group("y").attrs["served_by_others"] == [["Y", "Y", "Y"]]


def test_females_only_have_no_calls_on_y(cohort, tmp_path):
    females = cohort.folder / "females.tsv"
    frame = pd.DataFrame({"IID": [f"p{k}" for k in range(N)], "y": cohort.y})
    frame[~cohort.male].to_csv(females, sep="\t", index=False)
    results = cohort.scan(tmp_path / "r", phenotypes=females)
    on_y = results["contig"].values == "Y"
    assert (results["status"].values[on_y] == Status.HIGH_MISSING).all()
    assert (results["n"].values[on_y] == 0).all()
    assert (results["status"].values[~on_y] == Status.OK).all()


def test_without_haploids_every_chromosome_is_diploid(cohort, tmp_path):
    results = cohort.scan(tmp_path / "r", haploid=False, genome_build=None)
    assert "haploid_heterozygous" not in results
    assert (results["n"].values == N - 1).all()


def test_what_is_missing_is_said(cohort, tmp_path):
    with pytest.raises(InputError, match=r"1 variants of chromosome X.*--genome-build"):
        run.dry_run(
            cohort.config(
                tmp_path / "r", genome_build=None, genotypes=cohort.dataset("x", 4, list(range(6)))
            )
        )
    unsexed = cohort.fam.assign(sex=np.where(np.arange(N) < 3, 0, cohort.sex))
    genotypes = cohort.dataset("unsexed", 4, fam=unsexed)
    with pytest.raises(InputError, match=r"sex of 3 of 203 people .* for y .*the first: p0\)"):
        run.dry_run(cohort.config(tmp_path / "r", genotypes=genotypes))
    run.dry_run(
        cohort.config(tmp_path / "r", genotypes=cohort.dataset("a", 4, list(range(5)), unsexed))
    )
    table = cohort.folder / "sex"
    table.write_text("IID sex\n" + "".join(f"p{k} {cohort.sex[k]}\n" for k in range(3)))
    told = cohort.scan(tmp_path / "told", genotypes=genotypes, sex_table=table)
    known = cohort.scan(tmp_path / "known")
    assert np.array_equal(told["add"], known["add"])
    with pytest.raises(InputError, match="genome_build"):
        cohort.scan(tmp_path / "known", genome_build="GRCh38")
    with pytest.raises(InputError, match="sex_on_x"):
        cohort.scan(tmp_path / "known", sex_on_x=False)


@pytest.mark.parametrize("options", [{"method": "score"}, {"covariate_mode": "seed"}])
def test_other_modes_take_the_same_null_models(cohort, tmp_path, reference, options):
    results = cohort.scan(tmp_path / "r", mean_covariates=cohort.covariates, **options)
    z = (results["add"] / results["add_se"]).values
    assert np.abs(z - (reference["add"] / reference["add_se"]).values).max() < 1
    assert np.array_equal(results["n"], reference["n"])


def test_random_effects_of_the_people_of_each_null_model(cohort, tmp_path):
    rng = np.random.default_rng(4)
    bim = pd.DataFrame(
        {
            "c": ["2"] * 20 + ["X"] * 20,
            "id": [f"r{k}" for k in range(40)],
            "cm": 0,
            "p": np.arange(40) + 5_000_000,
            "a": "A",
            "b": "G",
        }
    )
    copies = rng.binomial(2, 0.4, (40, N)).astype(float)
    bed = Fileset(copies, bim, cohort.fam).write(tmp_path / "random")
    convert([bed], tmp_path / "random.zarr")
    stores = []
    for size in (4, 20):
        options = {"random_effects": tmp_path / "random.zarr", "partition_variants": size}
        run.scan(cohort.config(tmp_path / f"r{size}", **options), executor=SerialExecutor())
        stores.append(xr.open_zarr(tmp_path / f"r{size}").load())
    assert (stores[0]["status"].values < 5).all()
    for name in ("add", "var", "random_variance", "status"):
        assert np.array_equal(stores[0][name], stores[1][name]), name


def test_every_container_says_the_same_of_haploid_people(cohort, tmp_path):
    rows = [0, 1, 6, 8, 9, 10, 13, 14, 16]  # of diploid and haploid chromosomes, without errors
    cohort.dataset("clean", 4, rows)
    people = [f"p{k}" for k in range(N)]
    fam = Fileset(cohort.copies, cohort.bim, cohort.fam.assign(f="0")).part(rows)
    fam.write(tmp_path / "clean")
    table = tmp_path / "sex"
    pd.DataFrame({"IID": people, "sex": cohort.sex}).to_csv(table, sep="\t", index=False)
    options = {"sex_table": table, "mean_covariates": cohort.covariates}
    reference = cohort.scan(tmp_path / "r", genotypes=cohort.folder / "clean.zarr", **options)
    assert (reference["status"].values == Status.OK).all()
    for name in ("pgen.pgen", "bgen8.bgen", "plain.vcf"):
        out = tmp_path / name.partition(".")[0]
        plink2("--bfile", tmp_path / "clean", *PLINK2[name], "--out", out)
        convert([tmp_path / name], tmp_path / f"{name}.zarr", chunk_variants=4)
        found = cohort.scan(tmp_path / f"r-{name}", genotypes=tmp_path / f"{name}.zarr", **options)
        for variable in ("n", "effect_allele_frequency", "add", "var", "log_likelihood"):
            assert np.array_equal(found[variable], reference[variable]), (name, variable)


def test_hits_and_checks_take_the_null_model_that_served(cohort, tmp_path):
    store = run.scan(
        cohort.config(tmp_path / "r", mean_covariates=cohort.covariates), executor=SerialExecutor()
    )
    results = xr.open_zarr(store.path).load().isel(phenotype=0)
    genotypes = scanned_genotypes(store)
    # Every variant its own hit, refitted alone.
    table = hits(store, genotypes=genotypes, threshold=1 - 1e-12, tests=["wald"], distance=0, r2=1)
    found = table[table["test"] == "var_wald"].set_index("variant_id")["var_refitted"]
    fitted = results["status"].isin([Status.OK, Status.REFINED])
    rows = np.flatnonzero(fitted)
    assert {CONTIGS[row] for row in rows} == {"1", "X", "Y", "MT", "XY"}
    for row in rows:
        refitted, scanned = found[f"v{row}"], float(results["var"][row])
        assert abs(refitted - scanned) < 1e-3 * float(results["var_se"][row])

    options = {"genotypes": genotypes, "tests": ["wald"], "distance": 0, "r2": 1}
    columns = {test.name: test.column for test in chosen_tests(store, ["wald"])}
    few = hits(store, threshold=1 - 1e-12, most_checked=3, **options)
    strongest = (
        table[table["test"] != "add_wald"]
        .groupby("row")
        .apply(lambda same: max(same[columns[test]].iloc[0] for test in same["test"]))
    )
    looked_at = set(few["row"][few["var_refitted"].notna()])
    assert looked_at == set(strongest.sort_values().index[-3:])

    chosen = ["v0", "v8", "v13", "v15"]
    checked = check(store, chosen, genotypes, permutations=50, bootstraps=20)
    assert list(checked["variant_id"]) == chosen
    assert (checked["bootstraps"] > 0).all()
    spread = checked["add_se_bootstrap"] / checked["add_se"]
    assert spread.between(0.5, 2).all()


def test_phenotypes_share_genotypes_though_x_and_y_are_fitted_otherwise(
    cohort, tmp_path, monkeypatch
):
    people = [f"p{k}" for k in range(N)]
    table = pd.DataFrame({"IID": people, "y": cohort.y, "z": cohort.y[::-1], "age": cohort.age})
    table.loc[::7, "z"] = np.nan
    table.to_csv(tmp_path / "three.tsv", sep="\t", index=False)
    stores = []
    for least in (LEAST_PARTITIONS, 1):
        monkeypatch.setattr("hlmm_scan.scan.plan.LEAST_PARTITIONS", least)
        config = cohort.config(tmp_path / f"r{least}", phenotypes=tmp_path / "three.tsv")
        stores.append(run.scan(config, executor=SerialExecutor()))
    assert [store.plan["together"] for store in stores] == [1, 3]
    assert stores[1].plan["on_x"]["mean"] == 2
    apart, together = (xr.open_zarr(store.path).load() for store in stores)
    for name, values in apart.data_vars.items():
        assert values.values.tobytes() == together[name].values.tobytes(), name
