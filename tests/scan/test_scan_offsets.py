"""Scans with predictions from the other chromosomes, beside models fitted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from plink_by_hand import Fileset

from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.kernels.covariances import degrees_of_freedom
from hlmm_scan.models.hlm import HLM
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.schema import Status

N = 160
CONTIGS = ["1"] * 5 + ["2"] * 4 + ["X"] * 3
UNPREDICTED = [3, 20, 21]


class Cohort:
    """Two autosomes and X, a trait with a covariate, and predictions as regenie writes them."""

    def __init__(self, folder):
        rng = np.random.default_rng(31)
        m = len(CONTIGS)
        self.folder = folder
        self.sex = np.where(rng.random(N) < 0.5, 1, 2)
        self.copies = rng.binomial(2, 0.4, (m, N)).astype(float)
        on_x = np.array(CONTIGS) == "X"
        self.copies[np.ix_(on_x, self.sex == 1)] = 2 * rng.binomial(
            1, 0.4, (3, (self.sex == 1).sum())
        )
        self.copies[2, 7] = np.nan
        self.age = rng.normal(size=N)
        self.predictions = {row: rng.normal(scale=0.5, size=N) for row in ("1", "2", "23")}
        self.y = 100 * (3 + self.age + self.predictions["2"] + rng.normal(size=N))
        self.used = np.ones(N, bool)
        self.used[UNPREDICTED] = False
        people = [f"p{k}" for k in range(N)]
        bim = pd.DataFrame({"c": CONTIGS, "id": [f"v{k}" for k in range(m)], "cm": 0})
        bim = bim.assign(p=np.arange(m) + 5_000_000, a="A", b="G")
        fam = pd.DataFrame({"f": people, "i": people, "a": 0, "b": 0, "s": self.sex, "y": -9})
        bed = Fileset(self.copies, bim, fam).write(folder / "g")
        self.genotypes = folder / "g.zarr"
        convert([bed], self.genotypes, chunk_variants=3)
        self.tables = {}
        for name, values in (("y", self.y), ("age", self.age)):
            self.tables[name] = folder / f"{name}.tsv"
            pd.DataFrame({"IID": people, name: values}).to_csv(
                self.tables[name], sep="\t", index=False, float_format="%.17g"
            )
        self.list = folder / "step1_pred.list"
        self.list.write_text(f"y {folder}/step1_1.loco\n")
        shuffled = rng.permutation(N)
        lines = ["FID_IID " + " ".join(f"p{k}_p{k}" for k in shuffled if k != 3)]
        for row, values in self.predictions.items():
            cells = ["NA" if k in UNPREDICTED else f"{values[k]:.17g}" for k in shuffled if k != 3]
            lines.append(f"{row} " + " ".join(cells))
        (folder / "step1_1.loco").write_text("\n".join(lines) + "\n")

    def config(self, output, **options):
        defaults = {
            "genotypes": self.genotypes,
            "phenotypes": self.tables["y"],
            "mean_covariates": self.tables["age"],
            "offset": self.list,
            "output": output,
            "workers": 1,
            "min_mac": 5,
        }
        return ScanConfig(**{**defaults, **options})

    def scan(self, output, **options):
        store = run.scan(self.config(output, **options), executor=SerialExecutor())
        return xr.open_zarr(store.path).load().isel(phenotype=0)

    def expected(self, row, use="subtract"):
        """Fit one variant by the plain estimator on y − s·prediction."""
        contig = {"X": "23"}.get(CONTIGS[row], CONTIGS[row])
        prediction = self.predictions[contig]
        covariates = [self.age, *([self.sex.astype(float)] if contig == "23" else [])]
        mean = np.column_stack([np.ones(N), *covariates])
        used, y = self.used, self.y
        if use == "subtract":
            x = mean[used]
            rest = y[used] - x @ np.linalg.lstsq(x, y[used], rcond=None)[0]
            y = y - np.sqrt(rest @ rest / (len(rest) - x.shape[1])) * prediction
        else:
            mean = np.column_stack([mean, prediction])
        g = self.copies[row]
        used = used & ~np.isnan(g)
        variance = np.column_stack([np.ones(N), *covariates[1:], g])
        return HLM(y[used], np.column_stack([mean, g])[used], variance[used]).fit()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return Cohort(tmp_path_factory.mktemp("offsets"))


@pytest.mark.parametrize("use", ["subtract", "covariate"])
def test_every_chromosome_has_the_prediction_of_the_others(cohort, tmp_path, use):
    results = cohort.scan(tmp_path / "r", offset_as=use)
    assert (results["status"].values == Status.OK).all()
    for row in range(len(CONTIGS)):
        here = results.isel(variant=row)
        fit = cohort.expected(row, use)
        assert here["n"] == N - 3 - (row == 2)
        assert abs(here["add"] - fit.alpha[-1]) < 2e-3 * fit.alpha_se[-1]
        assert abs(here["var"] - fit.beta[-1]) < 2e-3 * fit.beta_se[-1]
        freedom, _ = degrees_of_freedom(N - 3, len(fit.alpha) - 1, len(fit.beta) - 1)
        assert np.isclose(here["add_se"], freedom * fit.alpha_se[-1], rtol=2e-3)
        assert np.isclose(here["log_likelihood"], fit.log_likelihood, rtol=1e-6)
    group = ResultStore.open(tmp_path / "r").null_group("y")
    assert group.attrs["dropped"]["not_predicted"] == 3
    assert group.attrs["serves"] == [["1", "DIPLOID"]]
    assert group.attrs["served_by_others"] == [["2", "DIPLOID", "2"], ["X", "X", "X"]]


def test_results_do_not_depend_on_how_the_scan_is_cut(cohort, tmp_path):
    one, whole = (cohort.scan(tmp_path / f"r{k}", partition_variants=k) for k in (3, 12))
    for name in one.data_vars:
        assert np.array_equal(one[name], whole[name], equal_nan=name != "status"), name


def test_a_table_is_taken_off_as_it_is_everywhere(cohort, tmp_path):
    people = [f"p{k}" for k in range(N)]
    table = cohort.folder / "table.tsv"
    whole = cohort.predictions["23"]
    pd.DataFrame({"IID": people, "y": 100 * whole}).drop(index=UNPREDICTED).to_csv(
        table, sep="\t", index=False, float_format="%.17g"
    )
    results = cohort.scan(tmp_path / "r", offset=table, mean_covariates=None)
    without = cohort.tables["y"].with_name("without.tsv")
    frame = pd.DataFrame({"IID": people, "y": cohort.y - 100 * whole}).drop(index=UNPREDICTED)
    frame.to_csv(without, sep="\t", index=False, float_format="%.17g")
    same = cohort.scan(tmp_path / "s", offset=None, phenotypes=without, mean_covariates=None)
    for name in ("add", "var", "add_se", "log_likelihood", "n"):
        assert np.allclose(results[name], same[name], rtol=1e-9)


def test_random_effects_leave_out_the_chromosome_as_well(cohort, tmp_path):
    rng = np.random.default_rng(5)
    ids = [f"r{k}" for k in range(30)]
    bim = pd.DataFrame({"c": ["1"] * 15 + ["2"] * 15, "id": ids, "cm": 0})
    bim = bim.assign(p=np.arange(30) + 1, a="A", b="G")
    people = [f"p{k}" for k in range(N)]
    fam = pd.DataFrame({"f": people, "i": people, "a": 0, "b": 0, "s": cohort.sex, "y": -9})
    bed = Fileset(rng.binomial(2, 0.4, (30, N)).astype(float), bim, fam).write(tmp_path / "random")
    convert([bed], tmp_path / "random.zarr")
    options = {"random_effects": tmp_path / "random.zarr", "mean_covariates": None}
    store = run.prepare(cohort.config(tmp_path / "r", **options))
    fits = [store.null_group("y", key)["left_out_contig"][:].tolist() for key in ("", "2", "X")]
    assert fits == [["", "1"], ["", "2"], [""]]
    run.run(store, SerialExecutor())
    assert (xr.open_zarr(store.path)["status"].load() < 5).all()


def test_what_is_wrong_is_said_before_anything_is_written(cohort, tmp_path):
    other = cohort.folder / "other.list"
    loco = (cohort.folder / "step1_1.loco").read_text()
    lines = loco.splitlines()
    (cohort.folder / "cut.loco").write_text("\n".join(lines[:2]) + "\n")
    other.write_text("y cut.loco\n")
    with pytest.raises(InputError, match=r"cut\.loco: no predictions for chromosome 2"):
        run.dry_run(cohort.config(tmp_path / "r", offset=other))
    assert not (tmp_path / "r").exists()
    cohort.scan(tmp_path / "r")
    for options in ({"offset_as": "covariate"}, {"offset_units": "phenotype"}, {"offset": None}):
        with pytest.raises(InputError, match=f"{next(iter(options))}: stored"):
            cohort.scan(tmp_path / "r", **options)
