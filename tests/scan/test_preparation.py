"""Null models with random effects: fitted in threads, kept one by one, told as they go."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scan_helpers import assert_identical

from hlmm_scan.cli import cli
from hlmm_scan.errors import InputError
from hlmm_scan.null import fit as null_fit
from hlmm_scan.null import store as null_store
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import prepare, run
from hlmm_scan.scan.preparation import preparing

STEPS = 4 * (2 + 2)
"""Of all and without each of three chromosomes: random effects and fits of two phenotypes."""


@pytest.fixture(params=["covariates", "intercepts"])
def options(request, bench, tmp_path):
    """More random effects than people; the two phenotypes have different people."""
    people = pd.read_csv(bench.phenotypes, sep="\t").dropna()
    keep = tmp_path / "keep.txt"
    keep.write_text("".join(f"{f} {i}\n" for f, i in people[["FID", "IID"]].to_numpy()[:60]))
    others = tmp_path / "phenotypes.tsv"
    people.loc[people.index[5], "a/b"] = np.nan
    people.to_csv(others, sep="\t", index=False, na_rep="NA")
    covariates = bench.options("joint") if request.param == "covariates" else {}
    return {
        **bench.options("hlmm"),
        **covariates,
        "random_effects": bench.genotypes(),
        "keep": keep,
        "phenotypes": others,
    }


@pytest.fixture
def made(monkeypatch):
    """What is done: the names of sets and fits made in this run."""
    found: list[str] = []
    fit_set, put_big = null_fit._fit_set, null_store._put_big

    def fitted(phenotype, *args):
        found.append(phenotype)
        return fit_set(phenotype, *args)

    def put(group, name, *args, **kwargs):
        found.append(name)
        put_big(group, name, *args, **kwargs)

    monkeypatch.setattr(null_fit, "_fit_set", fitted)
    monkeypatch.setattr(null_store, "_put_big", put)
    return found


def several_threads(monkeypatch, threads: int = 3) -> None:
    monkeypatch.setattr(prepare, "preparation_threads", lambda *_: threads)


def test_threads_do_not_change_a_bit(bench, options, tmp_path, monkeypatch, made):
    one = run.prepare(bench.config(tmp_path / "one.zarr", "hlmm", **options))
    assert len(made) == STEPS
    several_threads(monkeypatch)
    two = run.prepare(bench.config(tmp_path / "two.zarr", "hlmm", **options))
    assert_identical(two.path, one.path)


@pytest.mark.parametrize("after", [0, 2, 5, 11, 15])
def test_what_an_interrupted_preparation_has_done_is_not_done_again(
    bench, options, tmp_path, monkeypatch, made, after
):
    whole = run.prepare(bench.config(tmp_path / "whole.zarr", "hlmm", **options))
    config = bench.config(tmp_path / "cut.zarr", "hlmm", **options)
    made.clear()

    class Cut(list):
        def append(self, name):
            if len(self) == after:
                raise KeyboardInterrupt
            super().append(name)

    with monkeypatch.context() as patch:
        cut, fit_set, put_big = Cut(), null_fit._fit_set, null_store._put_big
        patch.setattr(null_fit, "_fit_set", lambda *a: (cut.append("fit"), fit_set(*a))[1])
        patch.setattr(
            null_store, "_put_big", lambda *a, **k: (cut.append("set"), put_big(*a, **k))[1]
        )
        with pytest.raises(KeyboardInterrupt):
            run.prepare(config)
    assert not config.output.exists()
    state = preparing(config.output)
    assert state is not None
    assert not state.running
    # As killed in the middle of a file, which stands beside its place until it is whole.
    for metadata in [*tmp_path.glob(".cut.zarr.*/content/random_effects/**/zarr.json")]:
        metadata.with_name("zarr.0123456789abcdef.partial").write_bytes(b"{")
    made.clear()
    store = run.prepare(config)
    assert len(made) == STEPS - after
    assert_identical(store.path, whole.path)
    assert ResultStore.open(store.path).attributes["run_status"] == "incomplete"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".cut")] == []
    assert preparing(config.output) is None


def test_other_options_begin_anew(bench, options, tmp_path, monkeypatch, made):
    config = bench.config(tmp_path / "cut.zarr", "hlmm", **options)

    def cut(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare.ResultStore, "seal", cut)
        with pytest.raises(KeyboardInterrupt):
            run.prepare(config)
    assert len(made) == STEPS
    run.prepare(bench.config(tmp_path / "cut.zarr", "hlmm", **options, min_maf=0.2))
    assert len(made) == 2 * STEPS


def test_status_knows_a_store_in_preparation(bench, options, tmp_path, monkeypatch):
    output = tmp_path / "new.zarr"
    told: list[str] = []

    def look(*_args, **_kwargs):
        for arguments in (["status", str(output)], ["status", str(output), "--json"]):
            result = CliRunner().invoke(cli, arguments)
            assert result.exit_code == 0, result.output
            told.append(result.output)
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare.ResultStore, "seal", look)
    monkeypatch.setattr("hlmm_scan.scan.preparation._SECONDS_BETWEEN_STATES", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run.prepare(bench.config(output, "hlmm", **options))
    assert f"{output}: in preparation, {STEPS} of {STEPS} steps" in told[0]
    assert "a/b without chromosome 3" in told[0]
    assert json.loads(told[1])["preparing"]["done"] == STEPS
    after = CliRunner().invoke(cli, ["status", str(output)])
    assert after.exit_code == 0
    assert "its preparation was cut off" in after.output
    assert "run the same scan again" in after.output
    missing = CliRunner().invoke(cli, ["status", str(tmp_path / "none.zarr")])
    assert isinstance(missing.exception, InputError)


def test_plan_and_log_say_what_null_models_take(bench, options, tmp_path, caplog):
    config = bench.config(tmp_path / "new.zarr", "hlmm", **options)
    assert f"in {STEPS} steps of random effects and chromosomes" in run.dry_run(config)
    with caplog.at_level(logging.DEBUG, "hlmm_scan"):
        run.prepare(config)
    assert "null models        1 s (rough)" in caplog.text
    assert "a/b without chromosome 2: done in" in caplog.text
    # What stands needs no null models any more.
    assert "null models" not in run.dry_run(config)
