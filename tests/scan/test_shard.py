"""Slices of a prepared scan: who does what, with and beside whom, and what comes of it."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scan_helpers import ShuffledExecutor, assert_identical

from hlmm_scan.cli import main
from hlmm_scan.errors import InputError, StoreHeldError
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import chunks as chunk_module
from hlmm_scan.scan import completion, run
from hlmm_scan.scan.executors import DaskExecutor, SerialExecutor
from hlmm_scan.scan.plan import Shard
from hlmm_scan.scan.shard import run_shard, this_shard
from hlmm_scan.scan.state import scan_state, verify


def array(task: int, first: int, last: int, step: int = 1, size: int | None = None) -> dict:
    """The environment of one task of a SLURM array."""
    values = {"ID": task, "MIN": first, "MAX": last, "STEP": step}
    values["COUNT"] = (last - first) // step + 1 if size is None else size
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


JOB = {"JOB_COMPLETION_INDEX": "2", "HLMM_SCAN_SHARD_COUNT": "8"}


# Slices -------------------------------------------------------------------------------------


@given(st.integers(0, 10**7), st.integers(1, 500))
def test_shards_share_out_the_partitions_evenly_and_in_order(n_partitions, count):
    slices = [Shard(index, count).partitions(n_partitions) for index in range(count)]
    assert slices[0].start == 0
    assert slices[-1].stop == n_partitions
    assert all(one.stop == other.start for one, other in pairwise(slices))
    assert {len(one) for one in slices} <= {n_partitions // count, n_partitions // count + 1}


@pytest.mark.parametrize("count", [1, 4, 5, 18, 100])
def test_the_tests_of_shards_add_up(bench, count):
    plan = run.Plan.from_json(ResultStore.open(bench.reference("hlm")).plan)
    counted = 0
    for index in range(count):
        mine = Shard(index, count).partitions(plan.n_partitions)
        tests = sum(p.stop - p.start for p in map(plan.partition, mine))
        assert plan.tests_before(mine.stop) - plan.tests_before(mine.start) == tests
        counted += tests
    assert counted == plan.n_tests


# Which shard this is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "count", "environment", "shard"),
    [
        (3, 8, {}, (3, 8)),
        (0, 1, JOB, (0, 1)),
        (3, None, {"HLMM_SCAN_SHARD_COUNT": "8"}, (3, 8)),
        (None, None, JOB, (2, 8)),
        (None, 4, JOB, (2, 4)),
        (None, None, array(0, 0, 3), (0, 4)),
        (None, None, array(3, 0, 3), (3, 4)),
        (None, None, array(1, 1, 4), (0, 4)),
        (None, None, array(4, 1, 4), (3, 4)),
        (None, 4, array(4, 1, 4), (3, 4)),
        (None, None, array(9, 1, 13, step=4), (2, 4)),
        (None, None, array(7, 7, 7), (0, 1)),
        (5, 8, array(5, 5, 6), (5, 8)),
        (None, None, {**array(2, 1, 4), "HLMM_SCAN_SHARD_COUNT": " 4 "}, (1, 4)),
    ],
)
def test_index_and_count_as_given_or_from_the_environment(index, count, environment, shard):
    assert this_shard(index, count, environment) == Shard(*shard)


@pytest.mark.parametrize(
    ("index", "count", "environment", "words"),
    [
        (None, None, {}, "which shard this is is not known"),
        (None, 4, {}, "which shard this is is not known"),
        (None, None, {"JOB_COMPLETION_INDEX": ""}, "which shard this is is not known"),
        (1, None, {}, "the number of shards is not known"),
        (1, None, array(1, 0, 3), "the number of shards is not known"),
        (None, None, {"JOB_COMPLETION_INDEX": "2"}, "give --count or set HLMM_SCAN_SHARD_COUNT"),
        (4, 4, {}, "there is no shard 4 of 4: they are 0 to 3"),
        (-1, 4, {}, "there is no shard -1 of 4"),
        (None, 2, JOB, "there is no shard 2 of 2"),
        (0, 0, {}, "there cannot be 0 shards"),
        (0, -3, {}, "there cannot be -3 shards"),
        (None, 8, array(1, 0, 3), "the SLURM array has 4 tasks, but there are to be 8 shards"),
        (None, None, array(5, 3, 5, size=2), "leaves indices out"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_ID is set but not the rest"),
        (None, None, {**JOB, **array(1, 0, 3)}, "both JOB_COMPLETION_INDEX and SLURM_ARRAY"),
        (None, None, {**JOB, "JOB_COMPLETION_INDEX": "two"}, "INDEX is 'two', not a whole number"),
        (2, None, {"HLMM_SCAN_SHARD_COUNT": "8.0"}, "COUNT is '8.0', not a whole number"),
    ],
)
def test_what_is_missing_disagrees_or_is_out_of_range_is_said(index, count, environment, words):
    with pytest.raises(InputError, match=words):
        this_shard(index, count, environment)


# Whole scans --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["joint", "hlmm"])
def test_shards_in_any_order_some_of_them_twice_change_no_bit(bench, tmp_path, kind):
    store = run.prepare(bench.config(tmp_path / "r", kind))
    count = random.Random(kind).choice([3, 5, 7])
    order = [*range(count), 0, count - 1]
    random.Random(1).shuffle(order)
    for index in order:
        run_shard(store, Shard(index, count))
    completion.finalise(store)
    assert_identical(tmp_path / "r", bench.reference(kind))
    assert verify(store) == []


@pytest.mark.parametrize("executor", [SerialExecutor(), DaskExecutor(workers=2)])
def test_begun_with_shards_it_is_finished_by_a_scan(bench, tmp_path, executor):
    store = run.prepare(bench.config(tmp_path / "r", "joint"))
    for index in (3, 1):
        run_shard(store, Shard(index, 5))
    assert 0 < scan_state(store).partitions_done < scan_state(store).partitions
    run.scan(bench.config(tmp_path / "r", "joint"), executor=executor)
    assert_identical(tmp_path / "r", bench.reference("joint"))


def test_begun_by_a_scan_it_is_finished_with_shards_that_skip_what_is_done(bench, tmp_path):
    config = bench.config(tmp_path / "r", "joint")
    begun = ShuffledExecutor(seed=4, stop_after=7)
    with pytest.raises(KeyboardInterrupt):
        run.scan(config, executor=begun)
    store = ResultStore.open(tmp_path / "r")
    before = {record.partition: record for record in store.ledger.records()}
    for index in range(4):
        run_shard(store, Shard(index, 4))
    after = {record.partition: record for record in store.ledger.records()}
    assert sorted(before) == sorted(begun.ran)
    assert {index: after[index] for index in before} == before
    lines = [
        line
        for journal in (tmp_path / "r" / "run" / "ledger").glob("*.journal")
        for line in journal.read_bytes().splitlines()
    ]
    assert len(lines) == len(after)  # nothing was done twice
    run.scan(config, executor=SerialExecutor())  # nothing left but to finalise
    assert_identical(tmp_path / "r", bench.reference("joint"))


def test_more_shards_than_partitions_leave_some_with_nothing(bench, tmp_path, capsys):
    store = run.prepare(bench.config(tmp_path / "r"))
    n_partitions = scan_state(store).partitions
    assert sum(run_shard(store, Shard(index, 30)) for index in range(30)) == n_partitions
    assert main(["finalise", str(tmp_path / "r")]) == 0
    assert_identical(tmp_path / "r", bench.reference("hlm"))


def test_a_failing_partition_is_exit_1_with_the_others_done_and_stands_until_retried(
    bench, tmp_path, monkeypatch, capsys
):
    path = run.prepare(bench.config(tmp_path / "r")).path
    fit_block, calls = chunk_module.fit_block, []

    def fail_in_the_third(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:  # 6 and 9 of the first phenotype, then 7 of the second
            raise ValueError("no")
        return fit_block(*arguments, **options)

    monkeypatch.setattr(chunk_module, "fit_block", fail_in_the_third)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("HLMM_SCAN_SHARD_COUNT", "3")
    assert main(["shard", str(path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"hlmm-scan: {path}: shard 1 of 3: 1 of 6 partitions failed (7); the first with: "
        "ValueError: no; run the same shard with --retry-failed to do these again"
    )
    records = ResultStore.open(path).ledger.records()
    assert sorted(record.partition for record in records) == list(range(6, 12))
    monkeypatch.undo()
    again = ["shard", str(path), "--index", "1", "--count", "3"]
    assert main(again) == 1
    assert "1 of 6 partitions failed (7)" in capsys.readouterr().err
    assert len(list(ResultStore.open(path).ledger.records())) == 6  # nothing was tried
    assert main([*again, "--retry-failed"]) == 0
    assert capsys.readouterr().out == f"{path}: shard 1 of 3: 6 partitions, all done\n"


def test_what_cannot_be_is_one_line_and_exit_2(bench, tmp_path, monkeypatch, capsys):
    assert main(["shard", str(tmp_path / "none"), "--index", "0", "--count", "1"]) == 2
    assert main(["shard", str(bench.reference("hlm")), "--index", "3", "--count", "3"]) == 2
    for name in ("JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert main(["shard", str(bench.reference("hlm"))]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("hlmm-scan: ") for line in lines)


# At once ------------------------------------------------------------------------------------


def test_shards_and_a_scan_keep_each_other_out_and_shards_do_not(bench, tmp_path, capsys):
    config = bench.config(tmp_path / "r")
    store = run.prepare(config)
    shard = ["shard", str(tmp_path / "r"), "--index", "0", "--count", "2"]
    with store.ledger.lock():
        assert main(shard) == 3
        assert "another run holds this store (process " in capsys.readouterr().err
    with store.ledger.lock("shard 1 of 2"):
        assert main(shard) == 0
        for overwrite in (False, True):
            with pytest.raises(StoreHeldError, match=r"\(shards, shard 0 of 2 the last to start"):
                run.scan(config, overwrite=overwrite, executor=SerialExecutor())
    run.scan(config, executor=SerialExecutor())
    assert_identical(tmp_path / "r", bench.reference("hlm"))


def test_one_shard_twice_at_once_and_all_others_beside_it(bench, tmp_path):
    store = run.prepare(bench.config(tmp_path / "r", "joint"))
    processes = [start(tmp_path / "r", index, 2) for index in (0, 0, 1)]
    for process in processes:
        err = process.communicate(timeout=300)[1]
        # One that starts late may find some of its partitions done.
        told = re.sub(r"\d of \d partitions are done\n", "", err)
        assert (process.returncode, told) == (0, "")
    completion.finalise(store)
    assert_identical(tmp_path / "r", bench.reference("joint"))


def start(store: Path, index: int, count: int) -> subprocess.Popen[str]:
    """One shard in a process of its own."""
    command = [sys.executable, "-m", "hlmm_scan", "shard", str(store)]
    command += ["--index", str(index), "--count", str(count)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
