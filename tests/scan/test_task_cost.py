"""What a task costs besides its arithmetic: memory as planned, and no compiling."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plink_by_hand as plink
import pytest

from hlmm_scan.cli import main
from hlmm_scan.config import ScanConfig
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.kernels import warm_up
from hlmm_scan.kernels.block import FitOptions
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import compiled, run
from hlmm_scan.scan.options import fit_options
from hlmm_scan.scan.plan import PROCESS_BYTES, Plan


def in_a_process(store: Path, partition: int, *more: object) -> dict[str, object]:
    script = Path(__file__).with_name("task_process.py")
    words = [sys.executable, str(script), str(store), str(partition), *map(str, more)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    cost = json.loads(found.stdout)
    assert cost["error"] == ""
    return cost


# Memory ------------------------------------------------------------------------------------


def prepared(
    folder: Path, n: int, m: int, chunk: int, n_random: int, n_covariates: int, traits: int = 1
) -> Path:
    """Prepare a scan of n people, m variants and as many random effects, covariates and traits."""
    rng = np.random.default_rng(1)
    n_all = m + n_random
    copies = rng.binomial(2, rng.uniform(0.1, 0.5, (n_all, 1)), (n_all, n)).astype(float)
    copies[:, ::50] = np.nan
    ids = np.array([f"p{k}" for k in range(n)])
    nothing = np.zeros(n, int)
    fam = pd.DataFrame({0: ids, 1: ids, 2: nothing, 3: nothing, 4: nothing, 5: -9})
    bim = pd.DataFrame(
        {
            0: np.where(np.arange(n_all) < n_all // 2, "1", "2"),
            1: [f"v{k}" for k in range(n_all)],
            2: 0,
            3: np.arange(1, n_all + 1),
            4: "A",
            5: "C",
        }
    )
    plink.Fileset(copies, bim, fam).write(folder / "all")
    convert([folder / "all.bed"], folder / "g.zarr", chunk_variants=chunk)
    table = pd.DataFrame({"FID": ids, "IID": ids, "y": rng.standard_normal(n)})
    if n_random:
        table["y"] += np.nan_to_num(copies[-n_random:]).T @ rng.standard_normal(n_random) / 9
    for k in range(1, traits):
        table[f"y{k}"] = np.where(np.arange(n) % 20 == k, np.nan, rng.standard_normal(n))
    table.to_csv(folder / "y.tsv", sep="\t", index=False)
    options = {}
    if n_random:
        chosen = rng.choice(n_all, n_random, replace=False)
        (folder / "random.txt").write_text("\n".join(f"v{k}" for k in chosen))
        options["random_effects"] = folder / "random.txt"
    if n_covariates:
        names = [f"c{k}" for k in range(n_covariates)]
        covariates = pd.DataFrame(rng.standard_normal((n, n_covariates)), columns=names)
        pd.concat([table[["FID", "IID"]], covariates], axis=1).to_csv(
            folder / "c.tsv", sep="\t", index=False
        )
        options |= dict.fromkeys(("mean_covariates", "variance_covariates"), folder / "c.tsv")
    config = ScanConfig(
        genotypes=folder / "g.zarr",
        phenotypes=folder / "y.tsv",
        output=folder / "r.zarr",
        **options,
    )
    return run.prepare(config).path


@pytest.mark.parametrize(
    ("n", "m", "chunk", "n_random", "n_covariates", "traits"),
    [
        pytest.param(20_000, 2000, 1000, 0, 0, 1, id="class sums"),
        pytest.param(20_000, 2000, 1000, 0, 0, 8, id="class sums of eight phenotypes"),
        pytest.param(10_000, 128, 64, 0, 10, 1, id="joint"),
        pytest.param(4000, 16, 4, 400, 0, 1, id="HLMM"),
        pytest.param(8000, 16, 4, 400, 0, 1, id="HLMM to second order"),
        pytest.param(300, 16, 4, 900, 0, 1, id="HLMM, more random effects than people"),
    ],
)
def test_a_task_needs_no_more_memory_than_planned_and_not_much_less(
    tmp_path, monkeypatch, n, m, chunk, n_random, n_covariates, traits
):
    monkeypatch.setenv("HLMM_SCAN_CACHE", str(tmp_path))
    monkeypatch.setattr("hlmm_scan.scan.plan.LEAST_PARTITIONS", 1)
    store = prepared(tmp_path, n, m, chunk, n_random, n_covariates, traits)
    plan = Plan.from_json(ResultStore.open(store).plan)
    assert plan.together == traits
    for model in plan.models:
        compiled.compile_kernels(fit_options(plan), model)
    # Once unmeasured: tests beside this one compile as well, and of two who write a function's code
    # at the same time one loses it (numba), so that the task would compile.
    in_a_process(store, plan.n_partitions - 1)
    cost = in_a_process(store, plan.n_partitions - 1)
    assert PROCESS_BYTES / 1.5 < cost["own"] < PROCESS_BYTES
    planned = plan.task_bytes - PROCESS_BYTES + plan.shared_bytes

    assert cost["growth"] <= planned <= 5 * cost["growth"] + (20 << 20)


# Compiling ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changed", "more"),
    [
        ("hlm", {"sandwich": True, "likelihood_ratio": True}, ()),
        ("joint", {}, ()),
        ("hlmm", {}, ()),
        pytest.param("hlmm", {}, (100,), id="HLMM to second order"),
        ("seed", {}, ()),
    ],
)
def test_what_a_task_runs_is_compiled_before(bench, tmp_path, monkeypatch, kind, changed, more):
    monkeypatch.setenv("HLMM_SCAN_CACHE", str(tmp_path))
    store = run.prepare(bench.config(tmp_path / "r", kind, **changed)).path
    cost = in_a_process(store, 0, *more)
    assert cost["statuses"].get("ok", 0) > 5
    assert cost["known"] > 1
    assert cost["compiled"] == []


@pytest.fixture
def warmed(monkeypatch, tmp_path) -> list[tuple[object, ...]]:
    """What kernels were warmed up for, none of it really; marks go into a folder of their own."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(compiled, "_warm_up_apart", lambda *of: calls.append(of))
    monkeypatch.setattr(warm_up, "machine_code", lambda: ((str(tmp_path),), "this machine"))
    return calls


def test_what_is_compiled_already_is_not_looked_at_again(warmed, monkeypatch, tmp_path):
    options, large = FitOptions(), ModelSize(1000, 1, 1, 0)
    assert compiled.compile_kernels(options, large)
    assert not compiled.compile_kernels(options, large)
    assert not compiled.compile_kernels(replace(options, min_maf=0.2), ModelSize(5000, 1, 1, 0))
    assert compiled.compile_kernels(options, ModelSize(1000, 9, 9, 0))
    assert not compiled.compile_kernels(options, ModelSize(1000, 2, 2, 0))
    assert compiled.compile_kernels(options, ModelSize(1000, 1, 1, 500))
    assert compiled.compile_kernels(options, ModelSize(100_000, 1, 1, 500))
    sandwich = replace(options, inference=Inference(sandwich=True))
    assert compiled.compile_kernels(sandwich, large)
    monkeypatch.setattr(warm_up, "machine_code", lambda: ((str(tmp_path),), "another machine"))
    assert compiled.compile_kernels(options, large)
    assert len(warmed) == 6


def test_machine_code_of_other_sources_is_thrown_away(warmed, monkeypatch, tmp_path):
    source, code = tmp_path / "kernel.py", tmp_path / "kernel.fit-1.py311.nbi"
    source.write_text("one")
    monkeypatch.setattr(warm_up, "__file__", str(source))
    code.touch()
    options, model = FitOptions(), ModelSize(1000, 1, 1, 0)
    assert compiled.compile_kernels(options, model)
    assert not code.exists()  # of which nothing is known
    code.touch()
    assert compiled.compile_kernels(options, replace(model, random=500))
    assert code.exists()
    source.write_text("another")
    assert compiled.compile_kernels(options, model)
    assert not code.exists()
    assert len(list(tmp_path.glob("*.compiled"))) == 1


def test_of_several_that_find_nothing_compiled_one_compiles(warmed, monkeypatch, tmp_path):
    """The others wait for it, and throw away nothing of its."""
    code = tmp_path / "kernel.fit-1.py311.nbi"
    at_work, go_on = threading.Event(), threading.Event()

    def slow(*of: object) -> None:
        warmed.append(of)
        code.touch()
        at_work.set()
        assert go_on.wait(300)

    monkeypatch.setattr(compiled, "_warm_up_apart", slow)
    with ThreadPoolExecutor(3) as pool:  # of its own descriptor each, as processes
        tried = [
            pool.submit(compiled.compile_kernels, FitOptions(), ModelSize(1000, 1, 1, 0))
            for _ in range(3)
        ]
        assert at_work.wait(300)
        time.sleep(0.3)
        assert not any(one.done() for one in tried)
        go_on.set()
        assert sorted(one.result() for one in tried) == [False, False, True]
    assert len(warmed) == 1
    assert code.exists()


def test_code_thrown_away_is_made_again_though_this_process_has_it(tmp_path):
    """numba writes no function a second time: another process must compile it."""
    script = (
        "from hlmm_scan.kernels import warm_up\n"
        "from hlmm_scan.kernels.block import FitOptions\n"
        "from hlmm_scan.kernels.choice import ModelSize\n"
        "from hlmm_scan.scan.compiled import _forget, compile_kernels\n"
        "from pathlib import Path\n"
        "options, size = FitOptions(), ModelSize(2000, 1, 1, 0)\n"
        "warm_up.warm_up(options, warm_up.smallest_alike(size))\n"
        "folders = [Path(folder) for folder in warm_up.machine_code()[0]]\n"
        "count = lambda: sum(len(list(folder.rglob('*.nbc'))) for folder in folders)\n"
        "made = count()\n"
        "for folder in folders: _forget(folder)\n"
        "assert made > 5 and not count(), made\n"
        "assert compile_kernels(options, size)\n"
        "assert count() >= made, (count(), made)\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_where_no_process_can_be_had_compiling_is_done_here(monkeypatch):
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(warm_up, "warm_up", lambda *of: calls.append(of))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    compiled._warm_up_apart(FitOptions(), ModelSize(2000, 1, 1, 0))
    assert calls == [(FitOptions(), ModelSize(2000, 1, 1, 0))]


@pytest.mark.parametrize("why", ["stopped", "no locks"])
def test_a_lock_that_is_not_to_be_had_holds_up_nobody(warmed, monkeypatch, tmp_path, why):
    with (tmp_path / "compiling.lock").open("w") as held:
        if why == "stopped":
            fcntl.flock(held, fcntl.LOCK_EX)
            monkeypatch.setattr(compiled, "_LOCK_SECONDS", 0.2)
        else:

            def refuse(*_: object) -> None:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

            monkeypatch.setattr(fcntl, "flock", refuse)
        assert compiled.compile_kernels(FitOptions(), ModelSize(1000, 1, 1, 0))
    assert len(warmed) == 1


def test_where_no_mark_can_be_left_compiling_is_only_tried_again(warmed, monkeypatch, tmp_path):
    monkeypatch.setattr(warm_up, "machine_code", lambda: ((str(tmp_path / "none"),), "here"))
    assert compiled.compile_kernels(FitOptions(), ModelSize(1000, 1, 1, 0))
    assert compiled.compile_kernels(FitOptions(), ModelSize(1000, 1, 1, 0))


def test_a_scan_compiles_before_its_first_task(bench, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(run, "compile_kernels", lambda *of: order.append(of[1:]))

    class Executor:
        def run(self, tasks):
            order.append("first task")
            yield from ()

    store = run.prepare(bench.config(tmp_path / "r", "joint"))
    run.run(store, Executor())
    model = Plan.from_json(store.plan).model
    assert order == [(model,), "first task"]
    assert (model.mean, model.variance, model.random) == (3, 3, 0)


def test_where_nothing_compiled_can_be_kept_one_line_says_what_to_do(monkeypatch, capsys):
    def load(*_: object) -> None:
        raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")

    monkeypatch.setattr(ResultStore, "open", load)
    assert main(["status", "anywhere"]) == 2
    assert capsys.readouterr().err == (
        "hlmm-scan: no folder to keep compiled kernels in can be written; set NUMBA_CACHE_DIR to "
        "one\n"
    )
