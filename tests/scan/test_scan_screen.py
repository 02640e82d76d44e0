"""Scans that screen, and those that give more tests, from the command's options to the store."""

from __future__ import annotations

import numpy as np
import pytest

from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.wald import wald_test
from hlmm_scan.schema import Status


def results(path) -> dict[str, np.ndarray]:
    store = ResultStore.open(path)
    return {v.name: np.asarray(store.array(v.name)[:]) for v in store.variables}


@pytest.mark.parametrize("kind", ["joint", "hlmm"])
def test_a_screen_refits_what_is_below_its_threshold(bench, tmp_path, kind):
    fitted = results(bench.reference(kind))
    found = results(bench.scan(tmp_path / "r", kind, method="score", refine_threshold=0.05))
    kept = fitted["status"] < Status.MONOMORPHIC
    refined = found["status"] == Status.REFINED
    assert set(np.unique(found["status"][kept])) <= {
        *(Status.SCREENED, Status.REFINED, Status.RANDOM_VARIANCE_AT_ZERO)
    }
    assert 5 < refined.sum() < kept.sum() / 2
    for name in ("add", "var", "add_se", "var_se_robust"):
        np.testing.assert_allclose(found[name][refined], fitted[name][refined], rtol=1e-6)
        assert np.isfinite(found[name][kept]).all()


def test_null_mode_screens_and_refits_by_itself(bench, tmp_path):
    null = results(bench.scan(tmp_path / "a", "joint", covariate_mode="null"))
    score = results(bench.scan(tmp_path / "b", "joint", method="score", refine_threshold=1e-3))
    for name, values in null.items():
        np.testing.assert_array_equal(values, score[name], err_msg=name)


def test_a_screen_in_parts_and_by_dask_is_the_same(bench, tmp_path):
    options = {"method": "score", "refine_threshold": 0.05}
    one = results(bench.scan(tmp_path / "a", "joint", **options))
    two = results(bench.scan(tmp_path / "b", "joint", **options, chunk=5))
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("kind", ["hlm", "joint", "hlmm"])
def test_more_tests_are_stored_where_they_are_asked_for(bench, tmp_path, kind):
    plain = results(bench.reference(kind))
    more = results(bench.scan(tmp_path / "r", kind, sandwich=True, likelihood_ratio=True))
    new = set(more) - set(plain)
    assert new == {
        *("add_se_sandwich", "var_se_sandwich", "add_var_cov_sandwich"),
        *("add_lrt_neg_log10_p", "var_lrt_neg_log10_p", "av_lrt_neg_log10_p"),
    }
    ok = plain["status"] == Status.OK
    for name in new:
        assert np.isfinite(more[name][ok]).mean() > 0.98
    for name in set(plain) - {"log_likelihood"}:
        # Asking for more may take a more exact way to the covariances.
        np.testing.assert_allclose(plain[name], more[name], rtol=2e-3, atol=1e-6, err_msg=name)
    close = np.abs(more["av_lrt_neg_log10_p"] - wald_test("av", "", more))[ok]
    assert np.nanmedian(close) < 0.1
