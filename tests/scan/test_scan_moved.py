"""Inputs that moved, and what is said of a store that wants something."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from scan_helpers import ShuffledExecutor, assert_identical

from hlmm_scan.cli import main
from hlmm_scan.errors import IncompleteError
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import completion, run
from hlmm_scan.scan.executors import SerialExecutor


@pytest.fixture
def moved(bench, tmp_path) -> Path:
    """A result store half done, and its genotype dataset where it was not then."""
    first, second = tmp_path / "first.zarr", tmp_path / "second.zarr"
    shutil.copytree(bench.genotypes(), first)
    with pytest.raises(KeyboardInterrupt):
        run.scan(
            bench.config(tmp_path / "r", genotypes=first),
            executor=ShuffledExecutor(seed=2, stop_after=7),
        )
    first.rename(second)
    return second


def test_a_scan_goes_on_with_the_genotypes_where_they_are_now(bench, tmp_path, moved, caplog):
    config = bench.config(tmp_path / "r", genotypes=moved)
    with caplog.at_level(logging.INFO):
        store = run.scan(config, executor=SerialExecutor())
    assert f"first.zarr, are now at {moved}" in caplog.text
    assert_identical(store.path, bench.reference("hlm"))
    assert ResultStore.open(store.path).plan["genotypes"] == [str(moved)]


def test_a_complete_store_does_not_follow_its_genotypes(bench, tmp_path):
    store = shutil.copytree(bench.reference("hlm"), tmp_path / "r")
    copy = shutil.copytree(bench.genotypes(), tmp_path / "copy.zarr")
    before = (store / "run" / "zarr.json").read_bytes()
    run.scan(bench.config(store, genotypes=copy), executor=SerialExecutor())
    assert (store / "run" / "zarr.json").read_bytes() == before


def test_what_is_missing_is_named_before_what_failed(bench, tmp_path):
    store = run.prepare(bench.config(tmp_path / "r"))
    with store.ledger.writer() as journal:
        for index in (5, 3):
            journal.append(PartitionRecord(index, error=f"ValueError: number {index}"))
    with pytest.raises(IncompleteError) as caught:
        completion.finalise(store)
    assert str(caught.value) == (
        f"{store.path}: 16 of 18 partitions are missing (0, 1, 2, 4, 6, 7, 8, 9, 10, 11, …) and "
        "2 of 18 partitions failed (3, 5); the first with: ValueError: number 3; run the same "
        "scan again to finish it, with --retry-failed to do these again"
    )


def test_damage_is_reported_with_what_to_do(bench, tmp_path, capsys):
    store = ResultStore.open(shutil.copytree(bench.reference("hlm"), tmp_path / "r"))
    assert main(["status", "--verify", str(store.path)]) == 0
    assert "verified    every value is as written" in capsys.readouterr().out
    store.array("add")[1, 0] = 17.0
    assert main(["status", "--verify", str(store.path)]) == 0
    assert (
        "verified    DAMAGED: 1 partitions do not hold what was written (1); restore the store "
        "from a copy, or start the scan anew with --overwrite"
    ) in capsys.readouterr().out
