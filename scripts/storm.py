"""A kill storm: `kill -9` on random processes of a running scan, and what comes of it.

Three kinds of runs take turns on one result store: `scan` on its embedded cluster, `scan` on a
scheduler and workers (with nannies) that are processes of their own, and shards beside one another.
Every round kills one process at a random instant: a worker, a nanny, the scheduler, the client or a
shard. What died is started again as a batch system would; a run that had its share of rounds is
asked to stop (SIGTERM), and the next kind goes on. When the scan is complete its store is compared
with that of an undisturbed run: every array in the root and in null/ bit for bit, every partition
committed, with the checksum it has there. Then a new scan begins, until all rounds are done.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import zarr
from tables import table, write

from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.state import standing, verify
from hlmm_scan.simulate import simulate_cohort

LONGEST_WAIT = 2.0
"""Seconds from one round to the next, at most: some strike while processes start."""

SHARDS = 2
WORKERS = 2
BY_SCAN = {0: "complete", 1: "failed partitions", 3: "store held", 4: "cluster lost"}
"""Exit codes a client may end with in a storm; any other is a finding."""


class Bench:
    """A cohort, its genotype dataset, a prepared store and one that was scanned undisturbed."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self.folder = folder
        cohort = simulate_cohort(
            folder / "cohort",
            n_samples=120,
            chromosomes=1,
            variants_per_chromosome=partitions,
            n_random_effects=0,
            seed=1,
        )
        convert(cohort.beds, folder / "genotypes.zarr", chunk_variants=1)
        self.flags = ["--genotypes", folder / "genotypes.zarr", "--phenotypes", cohort.phenotypes]
        self.flags += ["--partition-variants", 1]
        self.prepared, self.undisturbed = folder / "prepared.zarr", folder / "undisturbed.zarr"
        for more in (
            ["-o", self.prepared, "--prepare"],
            ["-o", self.undisturbed, "--workers", WORKERS],
        ):
            ended = start("scan", *self.flags, *more)
            if ended.wait():
                raise SystemExit(f"storm: cannot begin:\n{said(ended)}")
        self.journal = checksums(self.undisturbed)
        self.contents = contents(self.undisturbed)

    def check(self, store: Path) -> None:
        """Compare a complete store with the undisturbed one; anything else than equal ends all."""
        found = contents(store)
        different = [name for name in self.contents if found.get(name) != self.contents[name]]
        if different or found.keys() != self.contents.keys():
            raise SystemExit(f"storm: FAILED: {store}: not as undisturbed: {different}")
        if checksums(store) != self.journal:
            raise SystemExit(f"storm: FAILED: {store}: other checksums than undisturbed")
        if damaged := verify(ResultStore.open(store)):
            raise SystemExit(f"storm: FAILED: {store}: not as recorded: {damaged}")


def contents(store: Path) -> dict[str, Any]:
    """Return every array in the root and below null/, and the attributes there."""
    found: dict[str, Any] = {}

    def take(group: zarr.Group, prefix: str) -> None:
        for name, member in group.members():
            if isinstance(member, zarr.Array):
                values = np.asarray(member[...])
                plain = values.tolist() if values.dtype.kind in "OT" else values.tobytes()
                found[prefix + name] = (str(values.dtype), values.shape, plain)
            elif prefix + name != "run":
                found[prefix + name] = member.attrs.asdict()
                take(member, f"{prefix}{name}/")

    take(zarr.open_group(store, mode="r", use_consolidated=False), "")
    return found


def checksums(path: Path) -> list[bytes]:
    """Return the one checksum of every partition; none may be missing or have two."""
    store = ResultStore.open(path)
    stands = standing(store, Plan.from_json(store.plan))  # an error where two records disagree
    if not stands.done.all():
        raise SystemExit(f"storm: FAILED: {path}: {int((~stands.done).sum())} partitions missing")
    return stands.checksum.tolist()


# Processes ----------------------------------------------------------------------------------


def start(*arguments: object, program: str = "hlmm_scan") -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; what it says goes to a file."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 (the process has it)
    process = subprocess.Popen(
        [sys.executable, "-m", program, *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    process.log = log  # type: ignore[attr-defined]
    return process


def said(process: subprocess.Popen[bytes]) -> str:
    process.log.seek(0)  # type: ignore[attr-defined]
    return process.log.read().decode(errors="replace")  # type: ignore[attr-defined]


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the worker processes that a nanny started, or had the fork server start."""
    found = []
    with contextlib.suppress(psutil.Error):
        for below in psutil.Process(process.pid).children(recursive=True):
            line = " ".join(below.cmdline())
            # Workers have the command line of the server that they are forked from.
            if "spawn_main" in line or ("forkserver" in line and below.ppid() != process.pid):
                found.append(below.pid)
    return found


class Run:
    """One way to run a scan, tended as a batch system would: what ends too soon starts again."""

    name = ""

    def __init__(self, bench: Bench, store: Path, storm: Storm) -> None:
        self.bench, self.store, self.storm = bench, store, storm
        self.client: subprocess.Popen[bytes] | None = None
        self.retry = False
        self.complete = False

    def victims(self) -> dict[str, list[int]]:
        """Return the processes that may be killed now, by what they are."""
        return {"client": self.alive(self.client), **self.others()}

    @staticmethod
    def alive(*processes: subprocess.Popen[bytes] | None) -> list[int]:
        return [p.pid for p in processes if p is not None and p.poll() is None]

    def others(self) -> dict[str, list[int]]:
        return {"worker": workers_of(self.client)} if self.client else {}

    def where(self) -> list[object]:
        return ["--workers", WORKERS]

    def tend(self) -> None:
        """Start what is not there, or note that the scan is complete."""
        if self.client is not None and self.client.poll() is None:
            return
        if self.client is not None:
            code = self.client.returncode
            self.complete = code == 0
            self.storm.ended(self.client, {-signal.SIGKILL: "killed", **BY_SCAN})
            self.retry |= code == 1
        if not self.complete:
            more = ["--retry-failed"] if self.retry else []
            flags = [*self.bench.flags, *self.where(), "-o", self.store, *more]
            self.client = start("scan", *flags)

    def stop(self) -> None:
        """Ask for an end, and then see to it."""
        if self.client is not None and self.client.poll() is None:
            self.storm.stopped(self.client)
        self.clear()

    def clear(self) -> None:
        if self.client is not None:
            end(self.client)


class OnEmbeddedCluster(Run):
    name = "embedded cluster"


class OnRunningScheduler(Run):
    name = "scheduler, nannies"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.nannies: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def others(self) -> dict[str, list[int]]:
        return {
            "worker": [pid for nanny in self.nannies for pid in workers_of(nanny)],
            "nanny": self.alive(*self.nannies),
            "scheduler": self.alive(self.scheduler),
        }

    def where(self) -> list[object]:
        return ["--scheduler", self.address]

    def tend(self) -> None:
        if not self.alive(self.scheduler):
            if self.alive(self.client):  # it has to see by itself that the scheduler is gone
                assert self.client is not None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.client.wait(60)
            for nanny in self.nannies:
                end(nanny)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            self.address = f"tcp://127.0.0.1:{port}"
            self.scheduler = start(
                "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", program="dask"
            )
            self.nannies = []
        self.nannies = [nanny for nanny in self.nannies if nanny.poll() is None]
        while len(self.nannies) < WORKERS:
            options = ["--nthreads", 1, "--memory-limit", 0, "--host", "127.0.0.1"]
            options += ["--no-dashboard", "--local-directory", self.bench.folder / "dask"]
            self.nannies.append(start("worker", self.address, *options, program="dask"))
        super().tend()

    def clear(self) -> None:
        super().clear()
        for process in (*self.nannies, self.scheduler):
            if process is not None:
                end(process)


class AsShards(Run):
    name = "shards"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shards: list[subprocess.Popen[bytes] | None] = [None] * SHARDS
        self.over: set[int] = set()

    def victims(self) -> dict[str, list[int]]:
        return {"shard": self.alive(*self.shards)}

    def tend(self) -> None:
        for index, shard in enumerate(self.shards):
            if index in self.over or (shard is not None and shard.poll() is None):
                continue
            if shard is not None:
                self.storm.ended(shard, {-signal.SIGKILL: "killed", **BY_SCAN})
                if shard.returncode == 0:
                    self.over.add(index)
                    continue
            more = ["--retry-failed"] if shard and shard.returncode == 1 else []
            flags = ["--index", index, "--count", SHARDS, *more]
            self.shards[index] = start("shard", self.store, *flags)
        if len(self.over) == SHARDS:
            finalise = start("finalise", self.store)
            finalise.wait()
            self.storm.ended(finalise, {0: "complete"})
            self.complete = True

    def stop(self) -> None:
        for shard in self.shards:
            if shard is not None and shard.poll() is None:
                self.storm.stopped(shard)

    def clear(self) -> None:
        for shard in self.shards:
            if shard is not None:
                end(shard)


# The storm ----------------------------------------------------------------------------------


class Watch:
    """Looks which partitions are written, by the files of one array: each write makes a new file.

    A partition that is written twice between two looks counts once.
    """

    def __init__(self, store: Path) -> None:
        self.folder = store / "n" / "c" / "0"
        self.seen: dict[str, int] = {}
        self.redone = 0
        self.last_write = 0.0

    def look(self) -> None:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.isdecimal() or self.seen.get(entry.name) == entry.inode():
                    continue
                self.redone += entry.name in self.seen
                self.seen[entry.name] = entry.inode()
                self.last_write = time.monotonic()


@dataclass
class Blow:
    """One process killed, and what came of it until the next blow.

    Attributes
    ----------
    victim, run : str
    redone : int
        Partitions written again.
    silence : float
        Seconds until something was written, by whomever; NaN where nothing was before the next.
    """

    victim: str
    run: str
    redone: int
    silence: float


class Storm:
    """Rounds of one kill each, and what was seen of them."""

    def __init__(self, bench: Bench, rounds: int, minutes: float, seed: int) -> None:
        self.bench, self.rounds = bench, rounds
        self.until = time.monotonic() + 60 * minutes
        self.random = random.Random(seed)
        self.blows: list[Blow] = []
        self.stops: list[float] = []
        self.ends: Counter[str] = Counter()
        self.scans = 0

    def ended(self, process: subprocess.Popen[bytes], expected: dict[int, str]) -> None:
        """Note how a process of ours ended, once; any other end than these is a finding."""
        text = said(process)
        if process.returncode not in expected or "Traceback" in text:
            raise SystemExit(f"storm: FAILED: exit code {process.returncode}:\n{text[-4000:]}")
        self.ends[f"{process.returncode} ({expected[process.returncode]})"] += 1

    def stopped(self, process: subprocess.Popen[bytes]) -> None:
        """Ask a process to end, as Kubernetes does, and note how long that takes."""
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        self.stops.append(time.monotonic() - started)
        # While Python itself starts, a signal simply ends it.
        self.ended(process, {143: "stopped", -signal.SIGTERM: "stopped", **BY_SCAN})

    def over(self) -> bool:
        """Say whether nothing is to be killed any more."""
        return len(self.blows) >= self.rounds or time.monotonic() > self.until

    def run(self) -> None:
        """Scan after scan until all rounds are done, every one of them to its end."""
        kinds = cycle((OnEmbeddedCluster, AsShards, OnRunningScheduler))
        while not self.over():
            store = self.bench.folder / f"storm-{self.scans}.zarr"
            shutil.copytree(self.bench.prepared, store)
            watch = Watch(store)
            while not self.one_run(next(kinds)(self.bench, store, self), watch):
                pass
            self.bench.check(store)
            shutil.rmtree(store)
            self.scans += 1
            print(f"{len(self.blows)} kills: scan {self.scans} complete and identical", flush=True)

    def one_run(self, run: Run, watch: Watch) -> bool:
        """Run the scan one way, for some rounds or to its end; return whether it is complete."""
        left = min(self.random.randint(2, 5), max(1, self.rounds // 3))
        try:
            while not run.complete:
                if self.over():
                    self.go_on(run, watch, float("inf"))
                elif left:
                    self.go_on(run, watch, self.random.uniform(0, LONGEST_WAIT))
                    left -= self.strike(run, watch)
                else:
                    run.stop()
                    break
        finally:
            run.clear()
        watch.look()
        return run.complete

    def go_on(self, run: Run, watch: Watch, seconds: float) -> None:
        """Tend a run for a while, or to its end."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not run.complete:
            run.tend()
            watch.look()
            time.sleep(0.05)

    def strike(self, run: Run, watch: Watch) -> bool:
        """Kill one process of a run, and wait until work goes on, or for no more than a moment."""
        victims = {kind: pids for kind, pids in run.victims().items() if pids}
        if run.complete or not victims:
            return False
        kind = self.random.choice(sorted(victims))
        watch.look()
        before, struck = watch.redone, time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.random.choice(victims[kind]), signal.SIGKILL)
        patience = struck + self.random.choice([0.5, 20.0])
        while not run.complete and time.monotonic() < patience and watch.last_write <= struck:
            self.go_on(run, watch, 0.1)
        silence = watch.last_write - struck if watch.last_write > struck else math.nan
        self.go_on(run, watch, 0.3)
        self.blows.append(Blow(kind, run.name, watch.redone - before, silence))
        print(
            f"{len(self.blows)}: {kind} of {run.name}, {len(watch.seen)} partitions written, "
            f"{watch.redone} again",
            flush=True,
        )
        return True

    def report(self) -> str:
        """Return what was seen as a table."""
        by_victim: dict[tuple[str, str], list[Blow]] = {}
        for blow in self.blows:
            by_victim.setdefault((blow.run, blow.victim), []).append(blow)
        rows = []
        for (run, victim), blows in sorted(by_victim.items()):
            waited = [blow.silence for blow in blows if not math.isnan(blow.silence)]
            rows.append(
                (
                    run,
                    victim,
                    len(blows),
                    sum(blow.redone for blow in blows),
                    f"{median(waited):.1f}" if waited else "",
                    f"{max(waited):.1f}" if waited else "",
                )
            )
        header = ["run", "killed", "rounds", "partitions done again", "s to go on, median", "most"]
        return table(header, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--partitions", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="Then no more are killed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="6 rounds of 150 partitions")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.partitions = 6, 150
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    started = time.monotonic()
    try:
        bench = Bench(folder, arguments.partitions)
        storm = Storm(bench, arguments.rounds, arguments.minutes, arguments.seed)
        storm.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - started
    redone = sum(blow.redone for blow in storm.blows)
    summary = (
        f"{len(storm.blows)} kills in {storm.scans} scans of {arguments.partitions:,} partitions: "
        f"every scan identical to an undisturbed one, {redone} partitions done again, "
        f"{seconds / 60:.1f} min. Asked to stop (SIGTERM): {len(storm.stops)} times, after "
        f"{max(storm.stops, default=0):.1f} s at most. Exit codes: "
        + ", ".join(f"{count} × {end}" for end, count in sorted(storm.ends.items()))
    )
    data = {
        "rounds": len(storm.blows),
        "scans": storm.scans,
        "partitions": arguments.partitions,
        "redone": redone,
        "seconds": seconds,
        "stops": storm.stops,
        "ends": dict(storm.ends),
        "blows": [
            {**vars(b), "silence": None if math.isnan(b.silence) else b.silence}
            for b in storm.blows
        ],
    }
    write(arguments.output, "storm", f"{storm.report()}\n{summary}\n", data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
