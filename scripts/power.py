"""Power cuts: a process that notes what of its writes is on the disk, and loses the rest.

A file's content is on the disk as of its last fsync, a name once its folder was synced after it
came to be. At the cut, of all that is not, some is lost: a draw for each.
"""

# ruff: noqa: PTH100, PTH104, PTH108, PTH110, PTH112, PTH115, PTH118, PTH120, PTH123, PTH202, PTH208
# Paths are text here: they are keys, and parts of one another.

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR
CUT = 9
"""Exit code of a process whose power was cut."""


@dataclass
class Disk:
    """What of a folder would be there after a cut.

    Attributes
    ----------
    folder : str
    sizes : dict of str to int
        Bytes of each file that are on the disk.
    names : set of str
        Files and folders whose names are.
    moved : dict of str to str
        Where what has such a name stood before.
    """

    folder: str
    sizes: dict[str, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    moved: dict[str, str] = field(default_factory=dict)
    events: int = 0
    cut_at: int = 0

    def begin(self) -> None:
        """Take what is there for safe, and note from now on."""
        for here, folders, files in os.walk(self.folder):
            self.names.update(os.path.join(here, name) for name in (*folders, *files))
            for path in (os.path.join(here, name) for name in files):
                self.sizes[path] = os.path.getsize(path)
        sys.addaudithook(self._hear)
        os.fsync = self._sync  # type: ignore[assignment]

    def _event(self) -> None:
        self.events += 1
        if self.events == self.cut_at:
            left = {"sizes": self.sizes, "names": sorted(self.names), "moved": self.moved}
            self.cut_at = -1
            Path(f"{self.folder}.left").write_text(json.dumps(left))
            os._exit(CUT)

    def _sync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if not self._mine(path):
            return
        self._event()
        if os.path.isdir(path):
            self.names.update(os.path.join(path, name) for name in os.listdir(path))
        else:
            self.sizes[path] = os.fstat(descriptor).st_size

    def _hear(self, event: str, arguments: Any) -> None:
        if self.cut_at < 0:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not flags & WRITES or not self._mine(path):
                return
            path = os.path.abspath(path)
            self._event()
            if not os.path.exists(path):
                self._forget(path)
            elif flags & os.O_TRUNC:
                self.sizes[path] = 0
        elif event in ("os.rename", "os.link"):
            source, target = (os.path.abspath(path) for path in arguments[:2])
            if not self._mine(target):
                return
            self._event()
            new = not os.path.exists(target)
            self._move(source, target)
            if new:
                self.names.discard(target)
                self.moved[target] = source
        elif event == "os.mkdir" and self._mine(arguments[0]):
            if not os.path.exists(arguments[0]):
                self.names.discard(os.path.abspath(arguments[0]))
        elif event in ("os.remove", "os.rmdir") and self._mine(arguments[0]):
            self._forget(os.path.abspath(arguments[0]))

    def _move(self, source: str, target: str) -> None:
        inside = f"{source}/"
        for path in [p for p in self.sizes if p == source or p.startswith(inside)]:
            self.sizes[target + path[len(source) :]] = self.sizes.pop(path)
        for path in [p for p in self.names if p.startswith(inside)]:
            self.names.discard(path)
            self.names.add(target + path[len(source) :])

    def _forget(self, path: str) -> None:
        self.sizes.pop(path, None)
        self.names.discard(path)
        self.moved.pop(path, None)

    def _mine(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(
            f"{self.folder}/"
        )


def lose(folder: Path, chance: random.Random) -> int:
    """Lose some of what was not on the disk; return of how much that is."""
    note = Path(f"{folder}.left")
    left = json.loads(note.read_text())
    note.unlink()
    names, lost = set(left["names"]), 0
    for here, folders, files in os.walk(folder):
        for name in list(folders):
            path = os.path.join(here, name)
            if path not in names and chance.random() < 0.5:
                lost += 1
                folders.remove(name)
                before = left["moved"].get(path)
                if before is not None and os.path.isdir(os.path.dirname(before)):
                    os.rename(path, before)
                else:
                    shutil.rmtree(path)
        for name in files:
            path = os.path.join(here, name)
            size, synced = os.path.getsize(path), left["sizes"].get(path, 0)
            if path not in names and chance.random() < 0.5:
                lost += 1
                os.unlink(path)
            elif synced < size and chance.random() < 0.7:
                lost += 1
                with open(path, "r+b") as file:
                    file.truncate(synced)
                    if chance.random() < 0.3:  # blocks that were never written
                        file.truncate(size)
    return lost


# What is cut --------------------------------------------------------------------------------


def convert_beds(folder: Path) -> None:
    from hlmm_scan.genotypes.conversion import writer
    from hlmm_scan.genotypes.conversion.convert import convert

    writer.PART_VARIANTS = writer.LEAST_PART_VARIANTS = 20
    beds = sorted((folder.parent / "cohort").glob("*.bed"))
    convert(beds, folder / "genotypes.zarr", chunk_variants=10, workers=0)


def scan(folder: Path) -> None:
    from hlmm_scan.config import ScanConfig
    from hlmm_scan.scan import run
    from hlmm_scan.scan.executors import SerialExecutor

    config = ScanConfig(
        genotypes=(folder.parent / "genotypes.zarr",),
        phenotypes=folder.parent / "traits.tsv",
        output=folder / "results.zarr",
        workers=1,
        partition_variants=10,
    )
    run.scan(config, executor=SerialExecutor())


KINDS: dict[str, Callable[[Path], None]] = {"convert": convert_beds, "scan": scan}


def cut_power(folder: Path, number: int, seed: int) -> list[str]:
    """Cut the power so many times; return for each ``identical``, or what was wrong after it."""
    from hlmm_scan.genotypes.conversion.convert import convert
    from hlmm_scan.simulate import simulate_cohort

    folder.mkdir(parents=True)
    cohort = simulate_cohort(
        folder / "cohort",
        n_samples=60,
        chromosomes=2,
        variants_per_chromosome=60,
        n_random_effects=0,
        seed=7,
    )
    shutil.copy(cohort.phenotypes, folder / "traits.tsv")
    convert(cohort.beds, folder / "genotypes.zarr", chunk_variants=10, workers=0)
    chance, ended = random.Random(seed), []
    undisturbed = {kind: _run(kind, folder / kind, 0) for kind in KINDS}
    for cut in range(number):
        kind = list(KINDS)[cut % len(KINDS)]
        at = chance.randrange(1, undisturbed[kind])
        where = folder / f"{kind}-{cut}"
        try:
            if _run(kind, where, at) != -CUT:
                raise AssertionError("it was not cut")
            lost = lose(where, chance)
            _hold_to_its_word(where)
            _run(kind, where, 0)
            _compare(folder / kind, where)
        except (AssertionError, OSError) as error:
            ended.append(f"{kind}, cut at event {at} of {undisturbed[kind]}: {error}")
            continue
        print(f"{kind}: cut at event {at} of {undisturbed[kind]}, {lost} things lost: identical")
        ended.append("identical")
        shutil.rmtree(where)
    return ended


def _run(kind: str, where: Path, at: int) -> int:
    """Run it in a process of its own; return its number of events, or less than 0 if it was cut."""
    where.mkdir(exist_ok=True)
    command = [sys.executable, __file__, kind, str(where), str(at)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode == CUT:
        return -CUT
    assert ended.returncode == 0, f"{kind} failed: {ended.stderr.strip().splitlines()[-1:]}"
    return int(ended.stdout.split()[-1])


def _hold_to_its_word(where: Path) -> None:
    """See that of what the ledger has as done nothing is damaged."""
    from hlmm_scan.results.store import ResultStore
    from hlmm_scan.scan.plan import Plan
    from hlmm_scan.scan.wholeness import look_at_partitions, verify_store

    if (where / "genotypes.zarr").exists():
        verdict = verify_store(where / "genotypes.zarr")
        assert not verdict.damage, f"the dataset stands, damaged: {verdict.damage}"
    if (where / "results.zarr").exists():
        store = ResultStore.open(where / "results.zarr")
        found = look_at_partitions(store, Plan.from_json(store.plan)).damaged
        assert not found, f"vouched for, and lost: {found}"
        if store.attributes["run_status"] == "complete":
            verdict = verify_store(store.path)
            assert not verdict.damage, f"complete, and damaged: {verdict.damage}"


def _compare(undisturbed: Path, where: Path) -> None:
    from storm import contents

    from hlmm_scan.scan.wholeness import verify_store

    for name in ("genotypes.zarr", "results.zarr"):
        if (undisturbed / name).exists():
            right, found = contents(undisturbed / name), contents(where / name)
            different = [key for key in right if found.get(key) != right[key]]
            assert not different, f"others: {different}"
            assert found.keys() == right.keys()
            assert not verify_store(where / name).damage
    left = [p for p in where.iterdir() if p.name not in ("genotypes.zarr", "results.zarr")]
    # A folder that lost its lock looks like one just made: it is removed when it is an hour old.
    left = [p for p in left if (p / "lock").exists()]
    assert not left, f"left behind: {left}"


if __name__ == "__main__":
    kind, where, at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    disk = Disk(str(where), cut_at=at)
    disk.begin()
    KINDS[kind](where)
    disk.cut_at = -1
    print(disk.events)
