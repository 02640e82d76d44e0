"""Shards as batch systems run them: by the manifests, in processes killed and stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scan_helpers import assert_identical

from hlmm_scan.cli import main
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.state import scan_state, verify
from hlmm_scan.simulate import simulate_cohort

ROOT = Path(__file__).resolve().parent.parent.parent
MANIFESTS = ROOT / "configs" / "kubernetes"


class Volume:
    """A folder as the manifests expect their volume, with a prepared scan and one that Dask ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cohort = simulate_cohort(
            folder / "cohort",
            n_samples=2000,
            variants_per_chromosome=80,
            n_random_effects=0,
            seed=2,
        )
        convert(cohort.beds, folder / "genotypes.zarr", chunk_variants=5)
        shutil.copy(cohort.phenotypes, folder / "phenotypes.tsv")
        shutil.copy(cohort.covariates, folder / "covariates.tsv")
        flags = ["--genotypes", "genotypes.zarr", "--phenotypes", "phenotypes.tsv"]
        flags += ["--mean-covariates", "covariates.tsv", "--variance-covariates", "covariates.tsv"]
        flags = [str(folder / f) if f.endswith((".zarr", ".tsv")) else f for f in flags]
        self.scan = ["scan", *flags, "--partition-variants", "5"]
        self.by_dask = folder / "dask.zarr"
        self.prepared = folder / "prepared.zarr"
        assert main([*self.scan, "-o", str(self.by_dask), "--workers", "2"]) == 0
        assert main([*self.scan, "-o", str(self.prepared), "--prepare"]) == 0

    def new(self, folder: Path) -> Path:
        """A prepared store, under the name the manifests give it."""
        return Path(shutil.copytree(self.prepared, folder / "results.zarr"))


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> Volume:
    """2,000 people, 240 variants, joint with covariates: 48 tasks."""
    return Volume(tmp_path_factory.mktemp("volume"))


def run_jobs(folder: Path, *jobs: str) -> subprocess.Popen[str]:
    command = [sys.executable, ROOT / "scripts" / "run_jobs.py", *(MANIFESTS / j for j in jobs)]
    return subprocess.Popen(
        [*map(str, command), "--volume", f"data={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "OPENBLAS_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
    )


def process_at_work(store: Path, but: set[int]) -> int:
    """Wait for a process that has journalled a partition and return its id."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for journal in (store / "run" / "ledger").glob("*.journal"):
            process = int(journal.stem.rpartition("-")[2])
            if process not in but and journal.stat().st_size:
                return process
        time.sleep(0.002)
    raise AssertionError("no shard got to work")


def test_the_job_as_8_processes_3_of_them_killed_equals_the_dask_run(volume, tmp_path):
    store = volume.new(tmp_path)
    job = run_jobs(tmp_path, "shards.yaml", "finalise.yaml")
    killed: set[int] = set()
    while len(killed) < 3:
        process = process_at_work(store, but=killed)
        os.kill(process, signal.SIGKILL)
        killed.add(process)
    out = job.communicate(timeout=120)[0]
    assert job.returncode == 0, out
    lines = out.splitlines()
    shards = [line.split() for line in lines if line.startswith("hlmm-scan-shards ")]
    started = [words[1] for words in shards if "started" in words]
    again = [words[1] for words in shards if words[-4:] == ["killed", "by", "signal", "9"]]
    assert len(again) == 3
    assert sorted(started) == sorted([*(f"{index}:" for index in range(8)), *again])
    assert lines[-1] == "hlmm-scan-finalise: complete"
    assert_identical(store, volume.by_dask)
    assert verify(ResultStore.open(store)) == []


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_a_shard_in_one_line_and_it_goes_on(volume, tmp_path, number, code, word):
    store = volume.new(tmp_path)
    command = [sys.executable, "-m", "hlmm_scan", "shard", str(store), "--index", "0"]
    process = subprocess.Popen([*command, "--count", "1"], stderr=subprocess.PIPE, text=True)
    assert process_at_work(store, but=set()) == process.pid
    process.send_signal(number)
    err = process.communicate(timeout=20)[1]
    assert process.returncode == code
    assert err.strip() == f"hlmm-scan: {word}; the same command again goes on from here"
    state = scan_state(ResultStore.open(store))
    assert 0 < state.partitions_done < state.partitions
    assert main([*volume.scan, "-o", str(store), "--workers", "1"]) == 0
    assert_identical(store, volume.by_dask)
