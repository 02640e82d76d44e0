"""Kills at file operations: a command ends at the n-th file that it opens, makes, moves or removes.

The same command is then given again, killed once more or not, until it ends. What it leaves must
be what it makes undisturbed, to the last byte, with nothing beside it; and what stood there before
must have stood there, or the new one, whenever one looked.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from races import Bench, Command, Ended, end, require, start
from storm import contents
from tables import table, write

from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.state import verify

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}
"""Python's audit events of what changes files or reads them."""


def start_to_be_killed(command: Command, folder: Path, at: int) -> tuple[int, Path, float]:
    """Start a command that ends at its `at`-th operation on files of a folder."""
    counted, prefix = folder.with_suffix(".operations"), str(folder)

    def prepare() -> None:
        done = 0

        def hear(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal done
            if event in EVENTS and str(arguments[0]).startswith(prefix):
                done += 1
                if done == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if at == 0:
                    os.pwrite(total, str(done).encode(), 0)

        total = os.open(counted, os.O_WRONLY | os.O_CREAT) if at == 0 else -1
        sys.addaudithook(hear)

    return start(command, folder.with_suffix(".log"), prepare)


@dataclass
class Kind:
    """A command that is killed, what stands there before, and what must hold after every kill."""

    begin: Callable[[Bench, Path], Command]
    holds: Callable[[Bench, Path], None]
    after: Callable[[Bench, Path], None]
    again: tuple[int, ...] = (0,)
    """Exit codes with which the command may end when it is given again."""


def files(store: Path) -> dict[str, bytes]:
    return {str(f.relative_to(store)): f.read_bytes() for f in store.rglob("*") if f.is_file()}


def converting(*more: str, old: str = "") -> Kind:
    def begin(bench: Bench, folder: Path) -> Command:
        if old:
            bench.copy(f"{old}.zarr", folder / "g.zarr")
        return ["convert", *bench.convert("b", folder / "g.zarr", *more)]

    def holds(bench: Bench, folder: Path) -> None:
        if old or (folder / "g.zarr").exists():
            dataset = GenotypeDataset.open(folder / "g.zarr")
            counts = dataset.genotype_counts(0, dataset.n_variants).sum(axis=1)
            require(bool((counts == dataset.n_samples).all()), "half a dataset")
            allowed = [bench.prints[name] for name in ("b", *old)]
            require(dataset.fingerprint in allowed, "another dataset")

    def after(bench: Bench, folder: Path) -> None:
        found, right = files(folder / "g.zarr"), files(bench.dataset("b"))
        other = sorted(f for f in found.keys() | right.keys() if found.get(f) != right.get(f))
        require(not other, f"other bytes: {other}")

    return Kind(begin, holds, after, (0,) if old else (0, 2))


def scanning(name: str, *more: str, old: bool = False) -> Kind:
    def begin(bench: Bench, folder: Path) -> Command:
        if old:
            bench.copy("a-results.zarr", folder / "r.zarr")
        return ["scan", *bench.scan(name, folder / "r.zarr", bench.dataset("a"), *more)]

    def holds(bench: Bench, folder: Path) -> None:
        if old or (folder / "r.zarr").exists():
            require(verify(ResultStore.open(folder / "r.zarr")) == [], "not as recorded")

    def after(bench: Bench, folder: Path) -> None:
        require(contents(folder / "r.zarr") == bench.references[name], "other values")

    return Kind(begin, holds, after)


def exporting() -> Kind:
    def begin(bench: Bench, folder: Path) -> Command:
        (folder / "x").write_text("old")
        return bench.output("export", "a", folder / "x")

    def holds(bench: Bench, folder: Path) -> None:
        allowed = [b"old", bench.made("export", "a").read_bytes()]
        require((folder / "x").read_bytes() in allowed, "half a table")

    def after(bench: Bench, folder: Path) -> None:
        require((folder / "x").read_bytes() == bench.made("export", "a").read_bytes(), "other text")

    return Kind(begin, holds, after)


def with_dispersion() -> Kind:
    def begin(bench: Bench, folder: Path) -> Command:
        return ["dispersion", str(bench.copy("b-results.zarr", folder / "r.zarr"))]

    def holds(bench: Bench, folder: Path) -> None:
        store = ResultStore.open(folder / "r.zarr")
        require(verify(store) == [], "not as recorded")
        require(bool(store.derived) == ("dispersion_fit" in store.attributes), "half written")

    def after(bench: Bench, folder: Path) -> None:
        store = ResultStore.open(folder / "r.zarr")
        require(len(store.derived) == 3, "no dispersion effects")
        holds(bench, folder)

    return Kind(begin, holds, after)


def publishing() -> Kind:
    def begin(bench: Bench, folder: Path) -> Command:
        return ["publish", str(bench.folder / "a-results.zarr"), "-o", str(folder / "s.zarr")]

    def holds(bench: Bench, folder: Path) -> None:
        if (folder / "s.zarr").exists():
            require(verify(ResultStore.open(folder / "s.zarr")) == [], "not as recorded")

    return Kind(begin, holds, holds, (0, 2))


KINDS = {
    "convert": converting(),
    "convert --overwrite": converting("--overwrite", old="a"),
    "scan": scanning("a"),
    "scan --overwrite": scanning("rare", "--overwrite", old=True),
    "export": exporting(),
    "dispersion": with_dispersion(),
    "publish": publishing(),
}


class Storm:
    """Rounds of one or more kills each."""

    def __init__(self, bench: Bench, folder: Path, chance: random.Random) -> None:
        self.bench, self.folder, self.chance = bench, folder, chance
        self.operations: dict[str, int] = {}
        self.kills: Counter[str] = Counter()

    def round(self, name: str, number: int) -> None:
        """Kill a command of a kind, once or twice, and let it end."""
        kind = KINDS[name]
        if name not in self.operations:
            own = self._folder("all")
            ended = end(*start_to_be_killed(kind.begin(self.bench, own), own, 0))
            require(ended.code == 0, f"{name}: {ended}")
            self.operations[name] = int(own.with_suffix(".operations").read_text())
            shutil.rmtree(own)
        own = self._folder(str(number))
        command = kind.begin(self.bench, own)
        for _ in range(self.chance.choice([1, 1, 2])):
            at = self.chance.randint(1, self.operations[name])
            ended = end(*start_to_be_killed(command, own, at))
            self._check(ended.code in (-signal.SIGKILL, *kind.again), name, at, ended)
            self.kills[name] += ended.code == -signal.SIGKILL
            kind.holds(self.bench, own)
        ended = end(*start(command, own.with_suffix(".log")))
        self._check(ended.code in kind.again, name, at, ended)
        try:
            kind.after(self.bench, own)
        except SystemExit as failed:
            raise SystemExit(f"{failed}; {name}, killed at {at}: {ended}") from None
        left = [p.name for p in own.iterdir() if p.name.startswith(".")]
        require(ended.code == 2 or not left, f"{name}, killed at {at}: left {left}")
        shutil.rmtree(own)
        print(f"{sum(self.kills.values())}: {name}, at {at} of {self.operations[name]}", flush=True)

    def _folder(self, name: str) -> Path:
        own = self.folder / f"kill-{name}"
        own.mkdir()
        return own

    @staticmethod
    def _check(right: bool, name: str, at: int, ended: Ended) -> None:
        require(right and "Traceback" not in ended.said, f"{name}, killed at {at}: {ended}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="5 kills")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"))
    arguments = parser.parse_args()
    wanted, began = 5 if arguments.quick else arguments.kills, time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        storm = Storm(Bench(folder / "bench"), folder, random.Random(arguments.seed))
        rounds = 0
        while sum(storm.kills.values()) < wanted:
            storm.round(list(KINDS)[rounds % len(KINDS)], rounds)
            rounds += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [(name, n, storm.operations[name]) for name, n in storm.kills.items()]
    text = table(["killed", "times", "file operations"], rows)
    seconds, killed = time.monotonic() - began, sum(storm.kills.values())
    summary = f"{killed} kills, everything as undisturbed, {seconds / 60:.1f} min"
    data = {"kills": dict(storm.kills), "operations": storm.operations, "seconds": seconds}
    write(arguments.output, "kills", f"{text}\n{summary}\n", data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
