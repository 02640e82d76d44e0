"""What scripts/engine and scripts/predict work out, and that they fail where a figure is out."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hlmm_scan.kernels.block import FitOptions
from hlmm_scan.scan.plan import Partition
from hlmm_scan.scan.prediction import Cluster, Workload, predict
from hlmm_scan.scan.task import PartitionTask

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Import a script by name, as Python does when it runs one."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.mark.parametrize(
    ("value", "most", "least", "judged", "missed"),
    [
        (6.0, 5, None, True, True),
        (5.0, 5, None, True, False),
        (0.8, None, 0.9, True, True),
        (0.8, None, 0.9, False, False),
        (0.7, 1.2, 0.8, True, True),
        (9.0, None, None, True, False),
    ],
)
def test_a_figure_is_judged_by_its_bounds(script, value, most, least, judged, missed):
    line = script("engine").Line("part", "name", value, "s", most, least, judged)
    assert line.missed is missed
    assert len(line.cells()) == 4


def test_engine_ends_with_1_where_a_figure_is_out(script, monkeypatch, tmp_path, capsys):
    engine = script("engine")
    good = engine.Line("tasks", "dispatch", 2.0, "ms a task", most=5)
    monkeypatch.setattr(sys, "argv", ["engine", "--only", "tasks", "-o", str(tmp_path)])
    monkeypatch.setattr(engine, "tasks", lambda *_: [good])
    assert engine.main() == 0
    monkeypatch.setattr(engine, "tasks", lambda *_: [good, replace(good, value=7.0)])
    assert engine.main() == 1
    out, error = capsys.readouterr()
    assert "| tasks | dispatch | 7 ms a task | ≤ 5 |" in out
    assert error == "engine: tasks: dispatch 7 ms a task\n"
    assert len(json.loads((tmp_path / "engine.json").read_text())) == 2


def test_engine_without_the_mice_is_one_clear_line(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["engine", "--mouse", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        script("engine").main()
    assert stopped.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_doing_nothing_leaves_a_record_like_any_other(script):
    task = PartitionTask(
        store="", genotypes=(), run_id="", genotype_fingerprint="", phenotypes=("",),
        partition=Partition(7, range(1), 70, 80), options=FitOptions(),
    )  # fmt: skip
    record = script("engine_work").nothing(task)
    assert (record.partition, record.failed, dict(record.statuses)) == (7, False, {"ok": 10})
    assert len(record.checksum) == 24


def test_threads_are_told_apart_by_what_they_compute(script):
    before = script("engine_work").thread_seconds()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        np.sqrt(2.0)
    after = script("engine_work").thread_seconds()
    mine = str(os.getpid())  # the first thread's number is the process's
    assert after[mine] - before[mine] == pytest.approx(0.3, abs=0.1)


def test_memory_of_a_child_is_its_own_or_of_the_folder(script, tmp_path):
    import subprocess

    (tmp_path / "shared").mkdir()
    np.save(tmp_path / "shared" / "a.npy", np.ones(20 << 17))  # 20 MiB
    code = (
        "import sys, numpy as np\n"
        f"a = np.load({str(tmp_path / 'shared' / 'a.npy')!r}, mmap_mode='r'); a.sum()\n"
        "b = np.ones(30 << 17)\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    maps = script("engine_memory").Maps(tmp_path / "shared")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        for child in children:
            assert child.stdout.readline() == b"ready\n"
        maps.look()
    finally:
        for child in children:
            child.communicate()
    for child in children:
        assert 30 << 20 < maps.own[child.pid] < 60 << 20
    assert maps.shared == pytest.approx(20 << 20, rel=0.02)  # once, not twice


def test_large_scans_are_cut_and_predicted(script):
    script_predict = script("predict")
    plans = {
        name: script_predict.large_plan(model, variants=100_000, traits=2)
        for name, model in script_predict.LARGE.items()
    }
    for plan in plans.values():
        assert plan.n_tests == 200_000
        assert plan.partition_variants % 67 == 0  # 8 MiB of packed calls
    quick, slow = (
        predict(Workload.of(plans[name]), Cluster(10)).seconds
        for name in ("HLM, no covariates", "HLMM, 500 random effects")
    )
    assert quick < slow / 3


def test_predict_ends_with_1_where_a_scan_took_far_from_predicted(
    script, monkeypatch, tmp_path, capsys
):
    script_predict = script("predict")
    small = script_predict.large_plan(script_predict.ModelSize(5_000, 1, 1, 0), 10_000, 1)
    rows = [("small", small, predict(Workload.of(small), Cluster(10)))]
    monkeypatch.setattr(script_predict, "predictions", lambda storage: rows)
    check = script_predict.Check(2, 10.0, 11.0)
    monkeypatch.setattr(script_predict, "checks", lambda *_: [check])
    monkeypatch.setattr(sys, "argv", ["predict", "--price", "0.05", "-o", str(tmp_path)])
    assert script_predict.main() == 0
    assert "| 2 | 10.0 | 11.0 | 1.10 |" in capsys.readouterr().out
    monkeypatch.setattr(script_predict, "checks", lambda *_: [replace(check, predicted=20.0)])
    assert script_predict.main() == 1
    assert "MISS 2 workers: predicted 2.00 of what was measured" in capsys.readouterr().out
