"""Two workers beside two separate runs of one process each, on mice, and the threads they have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from commands import run as run_command
from commands import stop
from engine_work import FOLDER, observed

from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import executors, run
from hlmm_scan.scan.executors import DaskExecutor
from hlmm_scan.scan.plan import Plan, Shard
from hlmm_scan.scan.state import scan_state, standing

HLMM_SCAN = [sys.executable, "-m", "hlmm_scan"]
BUSY = 0.2
"""A thread that did less than this, of what the busiest of its process did, only kept it going."""


def prepared(folder: Path, mouse: Path, random: int) -> Path:
    """Prepare a scan of the mice with some random effects; return its store."""
    genotypes, store = folder / "mouse.zarr", folder / "prepared.zarr"
    bed = mouse / "mouse_hs1940.bed"
    # Small tasks, enough of them that the last ones do not count for much.
    run_command([*HLMM_SCAN, "convert", str(bed), "-o", str(genotypes), "--chunk-variants", "64"])
    chosen = folder / "random.txt"
    ids = (mouse / "random300_not17.txt").read_text().split()
    chosen.write_text("\n".join(ids[:: max(1, len(ids) // random)][:random]))
    command = [*HLMM_SCAN, "scan", "--genotypes", str(genotypes), "--prepare", "-o", str(store)]
    command += ["--phenotypes", str(mouse / "pheno.tsv"), "--random-effects", str(chosen)]
    run_command([*command, "--phenotype", "trait1", "--partition-variants", "64"])
    return store


def together(store: Path, part: int) -> dict[str, float]:
    """Run 1 in `part` of a scan with two workers; return its rate, and what their threads did."""
    folder = store.with_suffix(".threads")
    folder.mkdir()
    cpu, wall = os.times(), time.perf_counter()
    with (
        mock.patch.object(executors, "run_partition", observed),
        mock.patch.dict(os.environ, {FOLDER: str(folder)}),
    ):
        run.run(ResultStore.open(store), DaskExecutor(workers=2), Shard(0, part))
    wall, after = time.perf_counter() - wall, os.times()
    seen = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return {
        "rate": rate(store),
        "seconds": wall,
        # Of workers, which are done with, and of this process: cores that were at work at once.
        "cores": (sum(after[:4]) - sum(cpu[:4])) / wall,
        "workers": len(seen),
        "pool": max(threads for each in seen for threads in each["pools"]),
        "busy_threads": max(
            sum(seconds > BUSY * max(each["thread_seconds"]) for seconds in each["thread_seconds"])
            for each in seen
        ),
    }


def apart(stores: list[Path], part: int) -> list[float]:
    """Run a half of that in each of two stores, one process each and at once; return the rates."""
    running = [
        subprocess.Popen(
            [*HLMM_SCAN, "shard", str(store), "--index", str(index), "--count", str(2 * part)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, store in enumerate(stores)
    ]
    for process in running:
        _, error = process.communicate()
        if process.returncode:
            stop(f"shard: {error.strip().splitlines()[-1]}")
    return [rate(store) for store in stores]


def rate(path: Path) -> float:
    """Return tests per second, from the start of the first task to the end of the last."""
    store = ResultStore.open(path)
    stands = standing(store, Plan.from_json(store.plan))
    span = stands.finished.max() - stands.started[stands.done].min()
    return float(stands.tests.sum() / span)


def two_workers(folder: Path, mouse: Path, random: int, part: int = 1) -> dict[str, float]:
    """Return rates of two workers together and of two runs apart, and the threads of the first.

    Parameters
    ----------
    random : int
        Random effects.
    part : int, default 1
        Scan 1 in so many of the variants.
    """
    store = prepared(folder, mouse, random)
    copies = [folder / f"apart{k}.zarr" for k in range(2)]
    for copy in copies:
        shutil.copytree(store, copy)
    rates = apart(copies, part)
    found = together(store, part)
    state = scan_state(ResultStore.open(store))
    return {
        **found,
        "apart": sum(rates),
        "efficiency": found["rate"] / sum(rates),
        "task_s": state.seconds / state.partitions_done,
        "tasks": state.partitions_done,
    }
