"""Result stores made without a scan pass for those of one."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.state import scan_state, verify
from hlmm_scan.schema import Status

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def synthetic(monkeypatch):
    """The script, imported as Python does when it runs it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("synthetic_results")


def test_it_is_complete_and_every_command_knows_it(synthetic, tmp_path):
    path = tmp_path / "results.zarr"
    synthetic.make_results(path, 2_500, phenotypes=2, chunk=1_000, random_effects=True)
    store = ResultStore.open(path)
    state = scan_state(store)
    assert state.complete
    assert state.partitions_done == 6
    assert state.tests == 5_000
    assert verify(store) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = xr.open_zarr(path)
    assert dict(results.sizes) == {"phenotype": 2, "variant": 2_500}
    position, contig = results["position"].values, results["contig"].values
    assert list(dict.fromkeys(contig)) == [str(c) for c in range(1, 23)]
    same = contig[1:] == contig[:-1]
    assert (np.diff(position)[same] >= 0).all()
    assert (results["effect_allele"].values != results["other_allele"].values).all()


def test_planted_loci_are_found_by_their_tests_and_the_rest_is_calibrated(synthetic):
    m = 20_000
    rows = synthetic.draw_rows(np.arange(m), m, 100_000, np.random.default_rng(0))
    additive, variance, both = (locus.variant for locus in synthetic.planted_loci(m))
    p_add, p_var = rows["add_neg_log10_p"], rows["var_neg_log10_p"]
    assert p_add[additive] > 323  # where p itself is 0
    assert p_var[variance] > 8
    assert p_add[variance] < 8
    assert min(p_add[both], p_var[both]) > 5
    far = np.abs(np.arange(m)[:, None] - [additive, variance, both]).min(axis=1) > 500
    z = (rows["var"] - synthetic.SLOPE * rows["add"]) / np.sqrt(
        rows["var_se_robust"] ** 2
        + synthetic.SLOPE**2 * rows["add_se_robust"] ** 2
        - 2 * synthetic.SLOPE * rows["add_var_cov_robust"]
    )
    fitted = rows["status"] == Status.OK
    assert np.mean(z[fitted & far] ** 2) == pytest.approx(1, abs=0.04)
    assert np.isnan(rows["add"][rows["status"] == Status.LOW_MAF]).all()
