"""Dispersion effects of a store: values, what may go wrong while they are written, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hlmm_scan.analysis import dispersion as module
from hlmm_scan.analysis.dispersion import dispersion_effects, fit_slopes, write_dispersion
from hlmm_scan.analysis.regions import parse_region
from hlmm_scan.cli import main
from hlmm_scan.errors import IncompleteError, InputError
from hlmm_scan.models.inference import wald_neg_log10_p
from hlmm_scan.results.derived import write_derived
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import DISPERSION_RESULTS, Status, result_variables

M = 150
NAMES = [v.name for v in DISPERSION_RESULTS]
SLOPES = {"height": 0.5, "weight": -1.0}
PLANTED = 40


def make_store(
    path: Path | str,
    *,
    chunk: int = 60,
    signal: float = 4.0,
    flat: str = "",
    status: str = "complete",
) -> ResultStore:
    """A store of two phenotypes with known slopes and one dispersion effect; `flat` has no add."""
    from hlmm_scan.storage import place

    variables = result_variables(random_effects=False)
    store = ResultStore.create(
        place(path),
        phenotypes=list(SLOPES),
        n_variants=M,
        chunk_variants=chunk,
        variables=variables,
        attributes={"run_status": status, "run_id": "1"},
        plan={},
    )
    rows = np.arange(M)
    letters = np.array(["A"] * M, dtype=object)
    store.write_variants(
        0,
        {
            "variant_id": np.array([f"rs{k}" for k in rows], dtype=object),
            "contig": np.array(["chr6" if k < 30 else "chr7" for k in rows], dtype=object),
            "position": (30_000_000 + rows).astype(np.int32),
            "effect_allele": letters,
            "other_allele": letters,
        },
    )
    for index, (name, slope) in enumerate(SLOPES.items()):
        rng = np.random.default_rng(index)
        se = rng.uniform(0.01, 0.03, M)
        true = (0.0 if name == flat else signal) * se * rng.standard_normal(M)
        columns = {v.name: np.ones(M, v.dtype) for v in variables}
        columns["add"] = true + se * rng.standard_normal(M) * (0.1 if name == flat else 1)
        columns["var"] = slope * true + 1.4 * se * rng.standard_normal(M)
        columns["var"][PLANTED] += 20 * se[PLANTED]
        for suffix in ("", "_robust"):
            columns[f"add_se{suffix}"], columns[f"var_se{suffix}"] = se, 1.4 * se
        columns["add_var_cov_robust"] = np.zeros(M)
        columns["status"][[3, 4, 5]] = Status.NOT_CONVERGED, Status.LOW_MAF, Status.REFINED
        columns["var"][3] = 1e6
        columns["add"][4] = np.nan
        for start in range(0, M, chunk):
            part = slice(start, min(start + chunk, M))
            store.write_partition(
                index, part.start, part.stop, {k: v[part] for k, v in columns.items()}
            )
    store.seal()
    return ResultStore.open(path)


@pytest.fixture
def store(tmp_path) -> ResultStore:
    return make_store(tmp_path / "results.zarr")


# Warnings are errors in these tests: opening without one is part of each assertion.


@pytest.mark.parametrize("method", ["invariant", "published"])
def test_values_are_those_of_the_formula_and_of_the_function(store, method):
    lazy = dispersion_effects(xr.open_zarr(store.path), method)
    slopes = write_dispersion(store, method)
    stored = xr.open_zarr(store.path)
    for index, fitted in enumerate(slopes):
        fit = fitted.fit
        assert fit.slope == pytest.approx(SLOPES[fitted.phenotype], abs=5 * fit.slope_se)
        assert fit.n_variants == M - 2
        assert fit.n_outliers == (1 if method == "invariant" else 0)
        rows = stored.isel(phenotype=index).load()
        d = (rows["var"] - fit.slope * rows["add"]).values
        extra = (rows["add"] * fit.slope_se) ** 2 if method == "invariant" else 0
        se = np.sqrt(rows["var_se"] ** 2 + (fit.slope * rows["add_se"]) ** 2 + extra).values
        left_out = np.isin(np.arange(M), [3, 4])
        expected = {
            "dispersion": d,
            "dispersion_se": se,
            "dispersion_neg_log10_p": wald_neg_log10_p(d, se),
        }
        for name, values in expected.items():
            found = rows[name].values
            np.testing.assert_allclose(found[~left_out], values[~left_out], rtol=1e-12)
            assert np.isnan(found[left_out]).all()
        assert rows["dispersion_neg_log10_p"].argmax("variant") == PLANTED
    assert all(lazy[name].chunks is not None for name in NAMES)  # nothing computed yet
    for variable in DISPERSION_RESULTS:
        np.testing.assert_array_equal(lazy[variable.name].values, stored[variable.name].values)
        assert stored[variable.name].attrs == variable.attributes()
        assert stored[variable.name].dims == variable.dims
    assert lazy["slope"].values.tolist() == [s.fit.slope for s in slopes]
    assert stored.attrs["dispersion_fit"] == {
        "method": method,
        "excluded_regions": [],
        "phenotypes": [s.to_json() for s in slopes],
    }


def test_the_store_is_otherwise_as_it_was(store):
    before = xr.open_zarr(store.path).load()
    variables = store.variables
    assert store.derived == ()
    write_dispersion(store)
    after = xr.open_zarr(store.path).load()
    xr.testing.assert_identical(after.drop_vars(NAMES).drop_attrs(), before.drop_attrs())
    attributes = [
        {k: v for k, v in x.attrs.items() if k != "dispersion_fit"} for x in (after, before)
    ]
    for found in attributes:  # the root's checksum is of all of it
        found["hlmm_scan"] = {k: v for k, v in found["hlmm_scan"].items() if "crc32c" not in k}
    assert attributes[0] == attributes[1]
    again = ResultStore.open(store.path)
    assert again.variables == variables  # checksums of partitions are over these
    assert again.derived == DISPERSION_RESULTS
    write_dispersion(again, "published")
    assert xr.open_zarr(store.path).attrs["dispersion_fit"]["method"] == "published"


def test_how_a_store_is_cut_moves_nothing(tmp_path, monkeypatch):
    whole = make_store(tmp_path / "whole", chunk=M)
    cut = make_store(tmp_path / "cut", chunk=28)
    write_dispersion(whole)
    monkeypatch.setattr(module, "ROWS_PER_READ", 30)
    write_dispersion(cut)
    one, two = xr.open_zarr(whole.path), xr.open_zarr(cut.path)
    for name in NAMES:
        np.testing.assert_allclose(one[name].values, two[name].values, rtol=1e-12)
    assert two["dispersion"].encoding["chunks"] == two["add"].encoding["chunks"]


def test_a_write_that_is_cut_short_leaves_a_whole_store(store, monkeypatch):
    write_dispersion(store)
    rows, calls = module._rows, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rows(*arguments)

    monkeypatch.setattr(module, "_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_dispersion(store, "published")
    dataset = xr.open_zarr(store.path)
    assert not set(NAMES) & set(dataset)
    assert "dispersion_fit" not in dataset.attrs
    assert dataset.attrs["run_status"] == "complete"
    assert ResultStore.open(store.path).derived == ()
    monkeypatch.undo()
    write_dispersion(ResultStore.open(store.path), "published")
    assert np.isfinite(xr.open_zarr(store.path)["dispersion"].values).sum() == 2 * (M - 2)


def test_an_incomplete_scan_is_refused(tmp_path):
    store = make_store(tmp_path / "r.zarr", status="incomplete")
    with pytest.raises(IncompleteError, match="not complete"):
        write_dispersion(store)
    with pytest.raises(IncompleteError, match="not complete"):
        write_derived(store, DISPERSION_RESULTS, [], {})
    assert not set(NAMES) & set(xr.open_zarr(store.path))


def test_a_store_without_the_covariance_is_refused(store):
    dataset = store.dataset().drop_vars("add_var_cov_robust")
    with pytest.raises(InputError, match="no add_var_cov_robust, which method invariant needs"):
        fit_slopes(dataset)
    assert fit_slopes(dataset, "published")[0].fit is not None
    with pytest.raises(InputError, match="unknown method 'theirs'"):
        fit_slopes(dataset, "theirs")


def test_regions_have_no_say_and_still_get_their_effects(store, caplog):
    caplog.set_level("INFO", "hlmm_scan")
    exclude = [parse_region("mhc-grch37"), parse_region("7:30000040-30000040"), parse_region("8")]
    (fitted, _) = write_dispersion(store, exclude=exclude)
    assert fitted.fit.n_variants == M - 31
    assert fitted.fit.n_outliers == 0
    assert "6:28477797-33448354: 30 variants have no say" in caplog.text
    assert "no variant lies in 8" in caplog.text
    stored = xr.open_zarr(store.path)
    assert np.isfinite(stored["dispersion"].values).sum() == 2 * (M - 2)
    assert stored.attrs["dispersion_fit"]["excluded_regions"] == [
        *("6:28477797-33448354", "7:30000040-30000040", "8")
    ]


def test_one_phenotype_without_a_slope_leaves_the_others(tmp_path, caplog):
    store = make_store(tmp_path / "r.zarr", flat="weight")
    alone, none = write_dispersion(store)
    assert none.fit is None
    assert "do not exceed their noise" in none.error
    assert "weight: the additive effects do not exceed" in caplog.text
    stored = xr.open_zarr(store.path)
    assert np.isfinite(stored["dispersion"][0].values).sum() == M - 2
    assert np.isnan(stored["dispersion"][1].values).all()
    effects = dispersion_effects(stored)
    assert effects["slope"].values[0] == alone.fit.slope
    assert np.isnan(effects["slope"].values[1])
    # Each phenotype alone: what runs beside it has no say.
    beside = write_dispersion(make_store(tmp_path / "both.zarr"))
    assert beside[0] == alone


def test_the_command(store, capsys):
    path = str(store.path)
    assert main(["dispersion", path, "--json", "--exclude-region", "6:1-2"]) == 0
    (first, second) = json.loads(capsys.readouterr().out)
    keys = {"phenotype", "slope", "slope_se", "noise_inflation", "n_variants"}
    assert keys <= first.keys()
    assert (first["phenotype"], second["phenotype"]) == ("height", "weight")
    assert first["slope"] == pytest.approx(0.5, abs=5 * first["slope_se"])
    assert main(["dispersion", path, "--method", "published"]) == 0
    assert "height: slope 0." in capsys.readouterr().out
    assert main(["dispersion", path, "--exclude-region", "mhc-grch39"]) == 2
    assert "did you mean 'mhc-grch3" in capsys.readouterr().err
    with store.ledger.lock():
        assert main(["dispersion", path]) == 3


def test_the_command_where_there_is_no_slope_or_no_end(tmp_path, capsys):
    small = make_store(tmp_path / "small.zarr")
    assert (
        main(["dispersion", str(small.path), "--exclude-region", "6", "--exclude-region", "7"]) == 2
    )
    error = capsys.readouterr().err.splitlines()[-1]
    assert "small.zarr: height: 0 variants with estimates are too few" in error
    assert "dispersion" not in xr.open_zarr(small.path)
    begun = make_store(tmp_path / "begun.zarr", status="incomplete")
    assert main(["dispersion", str(begun.path)]) == 1
    assert "not complete" in capsys.readouterr().err


def test_exports_have_them(store, tmp_path):
    table = tmp_path / "t.tsv"
    assert main(["export", str(store.path), "-o", str(table)]) == 0
    assert not set(NAMES) & set(pd.read_csv(table, sep="\t").columns)
    write_dispersion(store)
    assert main(["export", str(store.path), "-o", str(table)]) == 0
    found = pd.read_csv(table, sep="\t").set_index("phenotype")
    stored = xr.open_zarr(store.path)["dispersion_neg_log10_p"].values
    for index, name in enumerate(SLOPES):
        values = found.loc[name, "dispersion_neg_log10_p"].to_numpy()
        np.testing.assert_allclose(values, stored[index], rtol=1e-12)


def test_in_an_object_store(bucket):
    store = make_store(f"{bucket}/r.zarr")
    write_dispersion(store)
    write_dispersion(store, "published")
    dataset = ResultStore.open(store.path).dataset()
    assert np.isfinite(dataset["dispersion"].values).sum() == 2 * (M - 2)
    assert dataset.attrs["dispersion_fit"]["method"] == "published"
