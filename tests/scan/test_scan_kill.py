"""Real processes: killed at any moment, interrupted, terminated; and gone on with."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr
from scan_helpers import assert_identical

from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.state import scan_state, verify
from hlmm_scan.signals import GRACE_SECONDS, SAME_SECONDS
from hlmm_scan.simulate import simulate_cohort

LOG_LINES = ("trait1: ", "plan:", "tests ", "people ", "partitions ", "memory ", "workers ")
LOG_LINES += ("shared memory ", "estimated ", "of each worker", "core hours ", " of ", "/")


class Runs:
    """One scan on the command line, run in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        cohort = simulate_cohort(
            folder / "cohort", n_samples=900, variants_per_chromosome=60, n_random_effects=0, seed=2
        )
        convert(cohort.beds, folder / "genotypes.zarr", chunk_variants=5)
        self.flags = ["--genotypes", folder / "genotypes.zarr", "--phenotypes", cohort.phenotypes]
        self.flags += ["--mean-covariates", cohort.covariates]
        self.flags += ["--variance-covariates", cohort.covariates]
        self.undisturbed = folder / "undisturbed.zarr"
        self.seconds: dict[int, float] = {}
        self.seen: list[int] = []
        # The first may compile kernels; only the others are timed.
        for workers in (1, 1, 2):
            started = time.monotonic()
            process = self.start(self.undisturbed, workers, "--overwrite")
            if workers == 2:
                self.watch(process)
            self.out, self.err = process.communicate(timeout=300)
            assert process.returncode == 0, self.err
            self.seconds[workers] = time.monotonic() - started

    def watch(self, process: subprocess.Popen[str]) -> None:
        """Open the store again and again while the process lives, and count what is done."""
        while process.poll() is None:
            status = xr.open_zarr(self.undisturbed)["status"].values
            self.seen.append(int((status > 0).sum()))
            time.sleep(0.02)

    def start(self, output: Path, workers: int, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hlmm_scan", "scan", *self.flags]
        command += ["-o", output, "--workers", str(workers), *more]
        return subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    """900 people, 180 variants, joint with covariates: 36 tasks."""
    return Runs(tmp_path_factory.mktemp("runs"))


def group_is_gone(group: int, within: float = 10.0) -> bool:
    """Whether every process of a group ends within some seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_moments_until_it_completes_it_is_identical(runs, tmp_path, seed):
    """Kill -9 the whole group at a random moment of what an undisturbed run takes."""
    output = tmp_path / "r.zarr"
    workers = 2 if seed in (1, 4) else 1
    moments = random.Random(seed)
    kills = 0
    while True:
        process = runs.start(output, workers)
        try:
            # After two kills it is left alone.
            patience = moments.uniform(0.25, 0.9) * runs.seconds[workers] if kills < 2 else 60
            process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if process.returncode == 0:
            if kills:
                break
            shutil.rmtree(output)  # faster than expected: not killed at all
            continue
        assert process.returncode == -signal.SIGKILL
        kills += 1
        if output.exists():
            assert xr.open_zarr(output)["status"].shape == (1, 180)
            assert verify(ResultStore.open(output)) == []
    assert_identical(output, runs.undisturbed)
    assert verify(ResultStore.open(output)) == []
    assert [p.name for p in tmp_path.iterdir()] == ["r.zarr"]


def test_kills_before_during_and_after_prepare_are_all_gone_on_with(runs, tmp_path):
    output = tmp_path / "r.zarr"

    def prepared() -> bool:
        return output.exists()

    def preparing() -> bool:
        return prepared() or any(tmp_path.glob(".r.zarr.*.partial/content/null"))

    def running() -> bool:
        return any(output.glob("status/c/0/*"))

    moments = [lambda: True, preparing, prepared, running]
    for moment in moments:
        process = runs.start(output, workers=1)
        while not moment():
            assert process.poll() is None
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if output.exists():
            xr.open_zarr(output)
    process = runs.start(output, workers=1)
    assert process.communicate(timeout=300)[0].startswith(f"{output}: complete")
    assert_identical(output, runs.undisturbed)
    assert [p.name for p in tmp_path.iterdir()] == ["r.zarr"]


def test_it_opens_at_every_moment_and_prints_nothing_but_its_log(runs):
    assert runs.seen[0] == 180  # the old store stands until the new one takes its place
    grown = runs.seen[runs.seen.index(min(runs.seen)) :]
    assert len(set(grown)) > 2
    assert grown == sorted(grown)
    assert runs.out.startswith(f"{runs.undisturbed}: complete\n")
    assert [line for line in runs.err.splitlines() if not line.startswith(LOG_LINES)] == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_it_in_one_line_and_it_goes_on(runs, tmp_path, workers, number, code, word):
    output = tmp_path / "r.zarr"
    process = runs.start(output, workers)
    while not any(j.stat().st_size for j in output.glob("run/ledger/*.journal")):
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C and a batch system do
    started = time.monotonic()
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert time.monotonic() - started < GRACE_SECONDS + 5
    assert out == ""
    lines = [line for line in err.splitlines() if line and not line.startswith(LOG_LINES)]
    assert lines == [f"hlmm-scan: {word}; the same command again goes on from here"]
    assert group_is_gone(process.pid)
    state = scan_state(ResultStore.open(output))
    assert 0 < state.partitions_done < state.partitions
    process = runs.start(output, workers=1)
    err = process.communicate(timeout=300)[1]
    assert f"{state.partitions_done} of {state.partitions} partitions are done" in err
    assert_identical(output, runs.undisturbed)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_it_and_its_workers_at_once(runs, tmp_path, workers):
    output = tmp_path / "r.zarr"
    process = runs.start(output, workers)
    while not any(j.stat().st_size for j in output.glob("run/ledger/*.journal")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    time.sleep(SAME_SECONDS + 0.05)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    err = process.communicate(timeout=30)[1]
    assert time.monotonic() - started < 5
    # The first may have ended the command, or even Python's own handling of signals, before the
    # second came; a shell calls both 130.
    assert process.returncode in (130, -signal.SIGINT)
    assert group_is_gone(process.pid)
    assert ("stopped at once" in err) != ("interrupted" in err)
    assert verify(ResultStore.open(output)) == []
    process = runs.start(output, workers=1)
    assert process.communicate(timeout=300)[0].startswith(f"{output}: complete")
    assert_identical(output, runs.undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_workers_start_ends_it_in_one_line(runs, tmp_path, number):
    output = tmp_path / "r.zarr"
    process = runs.start(output, workers=2)
    while not output.exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.6)  # the store is there, workers are importing
    os.killpg(process.pid, number)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + number
    lines = [line for line in err.splitlines() if line and not line.startswith(LOG_LINES)]
    assert len(lines) == 1
    assert lines[0].startswith("hlmm-scan: ")
