"""The Python front door: public names, what a person would write, and that nothing stays behind."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from small_scans import scan_of

import hlmm_scan as hs
from hlmm_scan.analysis.calibration import Calibration
from hlmm_scan.simulate import simulate_cohort

PUBLIC = [
    "HLM",
    "HLMM",
    "HlmmScanError",
    "InputError",
    "Status",
    "calibration",
    "convert",
    "dispersion",
    "export",
    "fit_null",
    "fit_variants",
    "hits",
    "meta",
    "open_genotypes",
    "open_results",
    "polygenic",
    "report",
    "scan",
]
N, M = 240, 130


@pytest.fixture(scope="module")
def people() -> pd.Index:
    return pd.Index([f"p{i}" for i in range(N)], name="IID")


@pytest.fixture(scope="module")
def copies() -> np.ndarray:
    """Whole copies, −1 where missing."""
    rng = np.random.default_rng(11)
    drawn = rng.binomial(2, rng.uniform(0.1, 0.5, (M, 1)), (M, N)).astype(np.int8)
    drawn[rng.random(drawn.shape) < 0.01] = -1
    return drawn


@pytest.fixture(scope="module")
def dosages(copies) -> np.ndarray:
    """Dosages of some variants, copies of the others; NaN where missing."""
    rng = np.random.default_rng(12)
    near = np.clip(copies + rng.uniform(-0.3, 0.3, copies.shape), 0, 2)
    mixed = np.where(np.arange(M)[:, None] % 3 == 0, copies, near)
    return np.where(copies < 0, np.nan, mixed)


@pytest.fixture(scope="module")
def covariates(people) -> pd.DataFrame:
    rng = np.random.default_rng(13)
    return pd.DataFrame({"x0": rng.normal(50, 10, N), "x1": rng.standard_normal(N)}, people)


@pytest.fixture(scope="module")
def traits(people, copies, covariates) -> pd.DataFrame:
    rng = np.random.default_rng(14)
    spread = np.exp(0.5 * copies[7] + 0.01 * covariates["x0"].to_numpy())
    t = 0.1 * covariates["x0"].to_numpy() + spread * rng.standard_normal(N)
    other = rng.standard_normal(N)
    other[:9] = np.nan
    return pd.DataFrame({"t": t, "other": other}, people)


@pytest.fixture(scope="module")
def variants() -> pd.DataFrame:
    chromosome = np.where(np.arange(M) < M // 2, "1", "2")
    return pd.DataFrame(
        {
            "contig": chromosome,
            "position": np.arange(1, M + 1) * 1000,
            "variant_id": [f"v{j}" for j in range(M)],
            "effect_allele": "C",
            "other_allele": "A",
        }
    )


def assert_same(one: xr.Dataset, other: xr.Dataset) -> None:
    """Assert that two scans hold the same numbers, bit for bit."""
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))


# names ------------------------------------------------------------------------------------


def test_the_public_names_are_these() -> None:
    assert sorted(hs.__all__) == PUBLIC
    assert all(callable(getattr(hs, name)) for name in PUBLIC)
    assert set(PUBLIC) <= set(dir(hs))
    assert hs.__version__
    with pytest.raises(AttributeError, match="no attribute 'scam'"):
        hs.scam  # noqa: B018


def test_importing_the_package_loads_no_library() -> None:
    heavy = "{'numpy', 'pandas', 'dask', 'distributed', 'xarray', 'zarr', 'numba', 'scipy'}"
    code = f"import sys, hlmm_scan; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_functions_named_like_packages_stay_functions_when_these_are_loaded() -> None:
    importlib.import_module("hlmm_scan.scan.run")
    importlib.import_module("hlmm_scan.report.page")
    for name in ("scan", "report"):
        public = getattr(hs, name)
        assert isinstance(public, ModuleType)
        assert "Parameters" in public.__doc__
        assert "output" in public.__signature__.parameters


# (a) data frames and one's own client -------------------------------------------------------


def test_frames_give_the_numbers_of_files(
    tmp_path, copies, traits, covariates, variants, people
) -> None:
    numbers = {"traits": traits["t"].to_numpy(), "other": traits["other"].to_numpy()}
    of_files = scan_of(
        tmp_path / "files", copies, numbers, covariates=covariates.to_numpy(), sandwich=True
    )
    results = hs.scan(
        hs.open_genotypes(tmp_path / "files" / "genotypes.zarr"),
        traits.rename(columns={"t": "traits"}),
        output=tmp_path / "results.zarr",
        mean_covariates=covariates,
        variance_covariates=covariates,
        sandwich=True,
    )
    # A text of a covariate is read back to the last digit.
    assert_same(results.dataset, of_files.dataset())
    assert results.complete
    assert "complete" in repr(results)
    assert "<table>" in results._repr_html_()
    assert results.dataset["add"].attrs["units"].startswith("phenotype units")
    again = hs.scan(
        tmp_path / "files" / "genotypes.zarr",
        traits.rename(columns={"t": "traits"}),
        output=str(tmp_path / "results.zarr"),
        mean_covariates=covariates,
        variance_covariates=covariates,
        sandwich=True,
    )
    assert again.store.attributes["run_id"] == results.store.attributes["run_id"]


def test_rows_below_a_p_are_those_of_the_dataset(tmp_path, copies, traits, variants, people):
    results = hs.scan(copies, traits, tmp_path / "r.zarr", samples=people, variants=variants)
    dataset = results.dataset.load()
    names = ["add_neg_log10_p", "var_neg_log10_p", "av_neg_log10_p"]
    best = np.nanmax([dataset[name].values for name in names], axis=0)
    best[dataset["status"].values >= 5] = 0
    expected = [(dataset["phenotype"].values[k], f"v{j}") for k, j in np.argwhere(best > 2)]
    table = results.to_frame(below=0.01)
    assert list(zip(table["phenotype"], table["variant_id"], strict=True)) == expected
    assert len(results.to_frame()) == 2 * M
    assert "add_neg_log10_p_wald_robust" in results.to_frame(test="add_wald_robust")
    with pytest.raises(hs.InputError, match="below"):
        results.to_frame(below=2)


# (b) arrays and an sgkit dataset in memory ---------------------------------------------------


def sgkit(copies: np.ndarray, people: pd.Index, variants: pd.DataFrame) -> xr.Dataset:
    """A dataset as sgkit has it, with dimensions, dtypes and attributes of its own."""
    pair = np.stack([copies == 2, copies >= 1], axis=-1).astype(np.int8)
    pair[copies < 0] = -1
    alleles = variants[["other_allele", "effect_allele"]].to_numpy().astype("S1")
    return xr.Dataset(
        {
            "variant_contig": ("variants", np.where(variants["contig"] == "1", 0, 1)),
            "variant_position": ("variants", variants["position"].to_numpy()),
            "variant_id": ("variants", variants["variant_id"].to_numpy().astype(str)),
            "variant_allele": (("variants", "alleles"), alleles),
            "sample_id": ("samples", people.to_numpy().astype(str)),
            "call_genotype": (("variants", "samples", "ploidy"), pair),
            "call_genotype_mask": (("variants", "samples", "ploidy"), pair < 0),
        },
        attrs={"contigs": ["1", "2"], "source": "sgkit"},
    )


def test_a_dataset_of_sgkit_in_memory_gives_the_numbers_of_an_array(
    tmp_path, copies, traits, variants, people
) -> None:
    dataset = sgkit(copies, people, variants)
    lazy = dataset.chunk({"variants": 17, "samples": 100})
    one = hs.scan(dataset, traits, tmp_path / "a.zarr")
    two = hs.scan(lazy, traits, tmp_path / "b.zarr")
    nan = np.where(copies < 0, np.nan, copies)
    three = hs.scan(nan, traits, tmp_path / "c.zarr", samples=people, variants=variants)
    assert_same(one.dataset, two.dataset)
    assert_same(one.dataset, three.dataset)
    assert list(one.dataset["contig"].values[[0, -1]]) == ["1", "2"]
    assert hs.hits(one, threshold=1e-2)["variant_id"].tolist()
    places = list(tmp_path.glob(".*genotypes*"))
    assert len(places) == 3  # what hits need
    del one, two, three
    assert not list(tmp_path.glob(".*genotypes*"))


def test_traits_may_be_labelled_arrays_or_files(tmp_path, copies, traits, variants, people):
    genotypes = hs.convert(copies, tmp_path / "g.zarr", samples=people, variants=variants)
    expected = hs.scan(genotypes, traits, tmp_path / "frame.zarr").dataset
    panel = xr.Dataset(
        {"level": (("samples", "trait"), traits.to_numpy())},
        coords={"samples": people.to_numpy().astype(object), "trait": ["t", "other"]},
    )
    traits.to_parquet(tmp_path / "traits.parquet")
    panel.to_zarr(tmp_path / "traits.zarr", zarr_format=2)
    shuffled = traits.sample(frac=1, random_state=1).reset_index()
    for k, given in enumerate(
        (panel, tmp_path / "traits.parquet", str(tmp_path / "traits.zarr"), shuffled)
    ):
        assert_same(hs.scan(genotypes, given, tmp_path / f"{k}.zarr").dataset, expected)


# (c) arrays only ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "model", "method"),
    [
        ("copies", "plain", "mle"),
        ("dosages", "plain", "score"),
        ("copies", "covariates", "mle"),
        ("dosages", "covariates", "mle"),
        ("copies", "random", "mle"),
        ("dosages", "random", "score"),
    ],
)
def test_fits_of_arrays_are_those_of_the_scan(
    tmp_path, kind, model, method, copies, dosages, traits, covariates, variants, people
) -> None:
    array = {"copies": copies, "dosages": dosages}[kind]
    table = None if model == "plain" else covariates
    chosen = list(range(0, M // 2, 3))
    random = [f"v{j}" for j in chosen] if model == "random" else None
    results = hs.scan(
        array,
        traits,
        output=tmp_path / "results.zarr",
        samples=people,
        variants=variants,
        phenotype="other",
        mean_covariates=table,
        variance_covariates=table,
        random_effects=random,
        method=method,
        likelihood_ratio=method == "mle",
        sandwich=True,
    )
    null = hs.fit_null(
        traits["other"].to_numpy(),
        mean=table,
        variance=None if table is None else table.to_numpy(),
        random_effects=None if random is None else array[chosen],
    )
    found = hs.fit_variants(
        null, array, method=method, likelihood_ratio=method == "mle", sandwich=True
    )
    stored = results.dataset.sel(phenotype="other").load()
    assert set(found) == set(stored)
    for name in found:
        np.testing.assert_array_equal(found[name], stored[name], err_msg=str(name))
        assert found[name].attrs["description"] == stored[name].attrs["description"]
    assert f"{N - 9} people" in repr(null)
    assert null.effects["part"].iloc[0] == "mean"


def test_arrays_that_do_not_fit_are_named() -> None:
    y = np.random.default_rng(0).standard_normal(50)
    null = hs.fit_null(y)
    g = np.zeros((2, 50))
    g[1, 2] = 3
    with pytest.raises(hs.InputError, match="variant 2, person 3: 3 is neither"):
        hs.fit_variants(null, g)
    with pytest.raises(hs.InputError, match=r"shape \(2, 49\), but y has 50 people"):
        hs.fit_variants(null, np.zeros((2, 49)))
    with pytest.raises(hs.InputError, match="mean: shape"):
        hs.fit_null(y, mean=y[1:])
    with pytest.raises(hs.InputError, match="did you mean 'score'"):
        hs.fit_variants(null, np.zeros((2, 50)), method="scor")


# (d) from files to hits and a picture -----------------------------------------------------------


def test_from_bed_files_to_hits_and_a_page(tmp_path, capfd) -> None:
    cohort = simulate_cohort(
        tmp_path / "cohort", n_samples=400, variants_per_chromosome=40, n_random_effects=0, seed=3
    )
    genotypes = hs.convert(cohort.beds, tmp_path / "genotypes.zarr")
    table = pd.read_csv(cohort.phenotypes, sep="\t", dtype={"FID": str, "IID": str})
    results = hs.scan(
        genotypes, table, output=tmp_path / "results.zarr", mean_covariates=cohort.covariates
    )
    hits = hs.hits(results, threshold=1e-2)
    judged = hs.calibration(results)
    size = hs.report(results, tmp_path / "page.html", threshold=1e-2)
    rows = hs.export(results, tmp_path / "results.parquet")
    assert len(hits)
    assert isinstance(judged[0], Calibration)
    assert size == (tmp_path / "page.html").stat().st_size
    assert "<svg" in (tmp_path / "page.html").read_text() or size > 100_000
    assert rows == len(pd.read_parquet(tmp_path / "results.parquet")) == 120
    told = capfd.readouterr()
    assert told.out == ""


# errors -----------------------------------------------------------------------------------------


def test_an_unknown_option_names_the_nearest(tmp_path, traits) -> None:
    with pytest.raises(TypeError, match=r"no option 'min_maff'; did you mean 'min_maf'\?"):
        hs.scan("g.zarr", traits, tmp_path / "r.zarr", min_maff=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.reset_index(drop=True), "who is who"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "IID 'p0' occurs twice"),
        (lambda t: t.assign(t="a", other="b"), "'a' of p0 is no number"),
        (lambda t: t.assign(t=np.inf, other=np.inf), "not finite"),
        (lambda t: {"t": 1}, "a table is a DataFrame"),
        (lambda t: t[[]], "no data columns"),
    ],
)
def test_faults_of_frames_are_named(
    tmp_path, change, words, copies, traits, variants, people
) -> None:
    with pytest.raises(hs.InputError, match=words):
        hs.scan(
            copies,
            change(traits),
            tmp_path / "r.zarr",
            samples=people,
            variants=variants,
            rint=True,
        )
    assert list(tmp_path.iterdir()) == []  # nothing half made, no temporary genotypes


def test_lists_and_frames_stand_for_files(tmp_path, copies, traits, variants, people) -> None:
    genotypes = hs.convert(copies, tmp_path / "g.zarr", samples=people, variants=variants)
    results = hs.scan(
        genotypes,
        traits,
        tmp_path / "r.zarr",
        keep=list(people[:200]),
        remove=pd.DataFrame({"IID": people[:10]}),
        extract=["v1", "v5"],
        phenotype="t",
    )
    assert results.dataset["variant_id"].values.tolist() == ["v1", "v5"]
    assert results.dataset["n"].values.max() <= 190
    words = traits.assign(centre=np.where(np.arange(N) % 2, "Leeds", "York"))
    with_levels = hs.scan(
        genotypes, traits, tmp_path / "l.zarr", mean_covariates=words[["centre"]], phenotype="t"
    )
    fit = with_levels.store.null_group("t").attrs["covariate_fit"]
    assert [e["name"] for e in fit["effects"]] == ["intercept", "centre=York", "intercept"]


def test_columns_of_one_frame(tmp_path, copies, traits, covariates, variants, people) -> None:
    genotypes = hs.convert(copies, tmp_path / "g.zarr", samples=people, variants=variants)
    several = hs.scan(
        genotypes,
        traits,
        tmp_path / "several.zarr",
        mean_covariates=covariates,
        variance_covariates=covariates[["x1"]],
    )
    one = hs.scan(
        genotypes,
        traits.join(covariates).assign(note="a word"),
        tmp_path / "one.zarr",
        phenotype=["t", "oth*"],
        mean_covariate="x0-x1",
        variance_covariate=["x1"],
    )
    assert_same(one.dataset, several.dataset)
    with pytest.raises(
        hs.InputError, match="unknown mean covariate 'x3' in phenotypes; it has t, other, x0"
    ):
        hs.scan(genotypes, traits.join(covariates), tmp_path / "no.zarr", mean_covariate="x3")


# examples ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documented(tmp_path_factory) -> Path:
    """The folder that examples are run in."""
    folder = tmp_path_factory.mktemp("examples")
    cohort = simulate_cohort(
        folder / "cohort", n_samples=150, variants_per_chromosome=24, n_random_effects=0, seed=5
    )
    hs.convert(cohort.beds, folder / "genotypes.zarr")
    return folder


def test_the_examples_of_docstrings_run(documented, monkeypatch) -> None:
    monkeypatch.chdir(documented)
    table = pd.read_csv("cohort/phenotypes.tsv", sep="\t", dtype={"IID": str, "FID": str})
    known = {
        "hs": hs,
        "np": np,
        "phenotypes": table,
        "covariates": Path("cohort/covariates.tsv"),
    }
    finder = doctest.DocTestFinder(recurse=True)
    tried = []
    # The scan before its results.
    for name in ("genotypes", "background", "scanning", "results", "arrays", "pooling"):
        module = importlib.import_module(f"hlmm_scan.api.{name}")
        for test in finder.find(module, extraglobs=known):
            told = []
            result = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
            assert result.failed == 0, "".join(told)
            tried += [test.name.rpartition(".")[2]] * (result.attempted > 0)
    functions = {name for name in PUBLIC if name.islower()}
    assert functions <= set(tried)
