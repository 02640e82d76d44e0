"""The table of hits, on stores made by hand."""

from __future__ import annotations

import json

import hand_made
import numpy as np
import pandas as pd
import pytest

from hlmm_scan.analysis.calibration import calibration
from hlmm_scan.analysis.confounders import CHECKS
from hlmm_scan.analysis.hits import hits
from hlmm_scan.analysis.tables import to_records, write_table
from hlmm_scan.cli import main
from hlmm_scan.errors import InputError
from hlmm_scan.models.inference import wald_neg_log10_p
from hlmm_scan.results.derived import write_derived
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import DISPERSION_RESULTS, Status

POSITION = [100, 200, 5_000, 9_000, 50, 300_000, 300_100, 900_000]
CONTIG = ["2", "2", "2", "2", "10", "10", "10", "10"]


@pytest.fixture
def store(tmp_path) -> ResultStore:
    """Two chromosomes; var has a clump of two, a lone hit, and what only looks like one."""
    return hand_made.store_of(
        tmp_path / "results.zarr",
        POSITION,
        {
            "add_neg_log10_p": [0.1, 20.0, 0.2, 0.3, 8.0, 8.0, 0.1, 0.2],
            "var_neg_log10_p": [8.0, 9.0, 9.0, 40.0, 1.0, 2.0, 3.0, 7.2],
            "var": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 50.0, 1.0],
            "add_var_cov": np.zeros(8),
            "status": [1, 1, 1, Status.UNBOUNDED, 1, 1, 1, 1],
            "add": np.arange(8.0),
        },
        contig=CONTIG,
        chunk=3,
    )


def leads(table: pd.DataFrame) -> list[tuple[str, str, int]]:
    columns = table["test"], table["variant_id"], table["clumped"]
    return [(t, v, int(n)) for t, v, n in zip(*columns, strict=True)]


def test_leads_of_each_test_along_the_genome(store):
    table = hits(store, distance=1000)
    assert leads(table) == [
        ("add", "v1", 0),
        ("add", "v4", 0),
        ("add", "v5", 0),
        ("var", "v1", 1),
        ("var", "v2", 0),
    ]
    # Of equals the first leads.
    assert leads(hits(store, distance=250_000))[-1] == ("var", "v1", 2)
    assert list(table["add"]) == [1.0, 4.0, 5.0, 1.0, 2.0]
    assert list(table["contig"]) == ["2", "10", "10", "2", "2"]
    assert list(table["status"]) == ["ok"] * 5
    assert set(CHECKS) < set(table.columns)
    assert table["dominance"].isna().all()


def test_dispersion_effects_have_hits_of_their_own(store):
    p = np.full(8, np.nan)
    p[[0, 3, 7]] = 12.0, 50.0, 8.0  # v3 is not to be trusted
    values = {"dispersion": p, "dispersion_se": p, "dispersion_neg_log10_p": p}
    chunks = [(0, a, {k: v[a : a + 3] for k, v in values.items()}) for a in (0, 3, 6)]
    write_derived(store, DISPERSION_RESULTS, chunks, {})
    table = hits(store, distance=1000)
    assert leads(table)[-2:] == [("dispersion", "v0", 0), ("dispersion", "v7", 0)]
    assert list(table["dispersion_neg_log10_p"][-2:]) == [12.0, 8.0]
    (found,) = calibration(store)
    np.testing.assert_array_equal(found.of("dispersion").observed, [12.0, 8.0])
    assert len([t for t in found.tests if t.test == "dispersion"]) == 2


def test_threshold_and_form(store):
    loose = leads(hits(store, threshold=1e-7, distance=0))
    assert [v for t, v, _ in loose if t == "var"] == ["v0", "v1", "v2", "v7"]
    table = hits(store, tests=["wald"], threshold=5e-8)
    assert [v for t, v, _ in leads(table) if t == "var_wald"] == ["v6"]
    (row,) = np.flatnonzero(table["test"] == "var_wald")
    assert table["var_neg_log10_p_wald"][row] == wald_neg_log10_p(50.0, 1.0)
    assert leads(hits(store, tests=["var"], distance=1000)) == [("var", "v1", 1), ("var", "v2", 0)]
    assert len(hits(store, threshold=1e-60)) == 0


def test_the_table_is_written_whole(store, tmp_path, capsys):
    output = tmp_path / "hits.tsv"
    assert main(["hits", str(store.path), "-o", str(output), "--distance", "1000"]) == 0
    assert "5 hits" in capsys.readouterr().out
    table = pd.read_csv(output, sep="\t", dtype={"contig": str})
    expected = hits(store, distance=1000)
    assert list(table.columns) == list(expected.columns)
    np.testing.assert_array_equal(table["var_neg_log10_p"], [9, 1, 2, 9, 9])
    assert main(["hits", str(store.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == to_records(hits(store))
    assert found[0]["dominance"] is None
    assert main(["hits", str(store.path)]) == 0
    assert "var v1  2:200" in capsys.readouterr().out


def test_no_hits_leave_a_header(store, tmp_path):
    table = hits(store, threshold=1e-60)
    write_table(table, tmp_path / "none.tsv")
    (header,) = (tmp_path / "none.tsv").read_text().splitlines()
    assert header.split("\t")[:3] == ["phenotype", "test", "variant_id"]
    assert to_records(table) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0.0}, "threshold must be a p-value"),
        ({"threshold": 1.0}, "threshold must be a p-value"),
        ({"distance": -1}, "distance must be 0"),
        ({"r2": 1.5}, "r2 must be between"),
        ({"tests": ["wald_sandwich"]}, r"no test 'wald_sandwich' in it \(scan --sandwich makes"),
        ({"tests": ["robust"]}, r"unknown test 'robust'; there are add, var, av, .* wald_robust"),
        ({"phenotypes": ["weight"]}, "unknown phenotype 'weight'"),
    ],
)
def test_bad_requests_are_one_line(store, options, words):
    with pytest.raises(InputError, match=words):
        hits(store, **options)


def test_a_table_that_cannot_be_written_is_one_line(store, tmp_path, capsys):
    assert main(["hits", str(store.path), "-o", str(tmp_path / "no" / "hits.tsv")]) == 2
    assert "cannot be written" in capsys.readouterr().err
