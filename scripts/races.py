"""Races: two commands at once on one path, and what comes of it.

Each race starts two commands in processes of their own, the second at a random moment of the first.
Whatever the order, each must end with exit code 0 or with one line that says who was in the way
(2, 3), at least one of them must succeed, and what stands there then must be whole: equal to what
one of them makes alone, to the last byte where it is a file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from storm import contents
from tables import table, write

from hlmm_scan.cli import main as run_command
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.state import scan_state, verify
from hlmm_scan.schema import Status
from hlmm_scan.simulate import simulate_cohort

Command = list[str]

CHUNK = "8"
STOOD_BACK = {2: "bad input", 3: "in use"}
"""Exit codes of a command that found another one in its way."""


@dataclass
class Ended:
    """How one command ended."""

    code: int
    said: str
    seconds: float


class Race:
    """A race under way: two commands, and the folder that is theirs."""

    def __init__(self, bench: Bench, folder: Path, moment: float) -> None:
        self.bench, self.folder, self.moment = bench, folder, moment
        self.ends: list[Ended] = []

    def run(self, one: Command, other: Command) -> list[int]:
        """Run both, the second at the moment of this race; return their exit codes."""
        started = [start(one, self.folder / "0.log")]
        time.sleep(self.moment * self.bench.seconds.get(one[0], 1.0))
        started.append(start(other, self.folder / "1.log"))
        self.ends = [end(*process) for process in started]
        for command, ended in zip((one, other), self.ends, strict=True):
            errors = [x for x in ended.said.splitlines() if x.startswith("hlmm-scan: ")]
            clear = ended.code == 0 or (ended.code in STOOD_BACK and len(errors) == 1)
            require(clear and "Traceback" not in ended.said, f"{command}: {ended}")
        codes = [ended.code for ended in self.ends]
        require(0 in codes, f"neither succeeded: {self.ends}")
        return codes

    def alone(self, *command: str) -> int:
        """Run a command with nothing beside it."""
        ended = end(*start(list(command), self.folder / "alone.log"))
        require("Traceback" not in ended.said, f"{command}: {ended}")
        return ended.code


def require(condition: bool, words: str) -> None:
    if not condition:
        raise SystemExit(f"races: FAILED: {words}")


def start(
    command: Command, log: Path, prepare: Callable[[], None] = lambda: None
) -> tuple[int, Path, float]:
    """Run a command in a fork of this process: all is imported already."""
    began = time.monotonic()
    process = os.fork()
    if process:
        return process, log, began
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for number in (1, 2):
            os.dup2(descriptor, number)
        prepare()
        code = run_command(command)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:  # no fork may go on as this process
        os.write(2, f"Traceback: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def end(process: int, log: Path, began: float) -> Ended:
    _, status = os.waitpid(process, 0)
    said = log.read_text(errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), said, time.monotonic() - began)


# What commands make alone -------------------------------------------------------------------


@dataclass
class Bench:
    """Two cohorts of the same people and variants with other calls, and what is made of them."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.beds: dict[str, list[str]] = {}
        for name, seed in (("a", 1), ("b", 2)):
            cohort = simulate_cohort(
                self.folder / name, n_samples=500, chromosomes=1, variants_per_chromosome=200,
                n_random_effects=0, seed=seed,
            )  # fmt: skip
            self.beds[name] = [str(bed) for bed in cohort.beds]
            self.make("convert", *self.convert(name, self.dataset(name)))
        self.phenotypes = str(cohort.phenotypes)
        self.prints = {n: GenotypeDataset.open(self.dataset(n)).fingerprint for n in "ab"}
        self.references = {}
        for name in ("a", "b", "rare"):
            path = self.folder / f"{name}-results.zarr"
            self.make("scan", *self.scan(name, path, self.dataset(name.replace("rare", "a"))))
            self.references[name] = contents(path)
        for kind in ("export", "hits", "report", "fit"):
            for name in "ab":
                command = self.output(kind, name, self.made(kind, name))
                self.make(*command)

    def make(self, *command: str) -> None:
        # In this process, so that its forks find the kernels compiled and loaded.
        began = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            require(run_command(list(map(str, command))) == 0, f"{command}")
        self.seconds[command[0]] = time.monotonic() - began

    def dataset(self, name: str) -> Path:
        return self.folder / f"{name}.zarr"

    def made(self, kind: str, name: str) -> Path:
        return self.folder / f"{name}.{kind}"

    def convert(self, name: str, path: Path, *more: str) -> Command:
        return [*self.beds[name], "-o", str(path), "--chunk-variants", CHUNK, *more]

    def scan(self, name: str, path: Path, genotypes: Path, *more: str) -> Command:
        flags = ["--genotypes", str(genotypes), "--phenotypes", self.phenotypes, "-o", str(path)]
        flags += ["--workers", "1", "--partition-variants", CHUNK]
        return [*flags, *(["--min-maf", "0.2"] if name == "rare" else []), *more]

    def output(self, kind: str, name: str, path: Path) -> Command:
        if kind == "fit":
            covariates = str(Path(self.beds[name][0]).with_name("covariates.tsv"))
            return [kind, "--phenotypes", self.phenotypes, "--mean-covariates", covariates,
                    "-o", str(path)]  # fmt: skip
        results = str(self.folder / f"{name}-results.zarr")
        more = ["--threshold", "0.01", "--no-checks"] if kind == "hits" else []
        return [kind, results, "-o", str(path), *more]

    def copy(self, name: str, path: Path) -> Path:
        shutil.copytree(self.folder / name, path)
        return path


# The races ----------------------------------------------------------------------------------


def convert_convert(race: Race, bench: Bench) -> None:
    path = race.folder / "g.zarr"
    commands = [["convert", *bench.convert(name, path)] for name in "ab"]
    codes = race.run(commands[0], commands[1])
    require(sorted(codes) == [0, 2], f"two datasets at one path: {codes}")
    made = GenotypeDataset.open(path).fingerprint
    require(made == bench.prints["ab"[codes.index(0)]], "not what the first one made")


def overwrite_overwrite(race: Race, bench: Bench) -> None:
    path = bench.copy("a.zarr", race.folder / "g.zarr")
    codes = race.run(*(["convert", *bench.convert(n, path, "--overwrite")] for n in "ab"))
    made = GenotypeDataset.open(path)
    require(made.fingerprint in bench.prints.values(), "neither dataset")
    require(codes != [3, 0] or made.fingerprint == bench.prints["b"], "not the last one's")
    counts = made.genotype_counts(0, made.n_variants).sum(axis=1)
    require(bool((counts == made.n_samples).all()), "not whole")


def scan_scan(race: Race, bench: Bench) -> None:
    path = race.folder / "r.zarr"
    command = ["scan", *bench.scan("a", path, bench.dataset("a"))]
    race.run(command, command)
    whole(path, bench, "a")


def scan_other_scan(race: Race, bench: Bench) -> None:
    path = race.folder / "r.zarr"
    race.run(*(["scan", *bench.scan(name, path, bench.dataset("a"))] for name in ("a", "rare")))
    whole(path, bench, "a", "rare")


def scan_overwrite(race: Race, bench: Bench) -> None:
    path = race.folder / "r.zarr"
    race.alone("scan", *bench.scan("a", path, bench.dataset("a"), "--prepare"))
    other = ["scan", *bench.scan("rare", path, bench.dataset("a"), "--overwrite")]
    race.run(["scan", *bench.scan("a", path, bench.dataset("a"))], other)
    whole(path, bench, "a", "rare")


def overwrite_both(race: Race, bench: Bench) -> None:
    path = bench.copy("a-results.zarr", race.folder / "r.zarr")
    each = (bench.scan(n, path, bench.dataset("a"), "--overwrite") for n in ("a", "rare"))
    race.run(*(["scan", *flags] for flags in each))
    whole(path, bench, "a", "rare")


def whole(path: Path, bench: Bench, *names: str) -> None:
    """Require a complete store equal to one of the references."""
    found = contents(path)
    require(any(found == bench.references[name] for name in names), f"{path}: equal to none")
    store = ResultStore.open(path)
    require(scan_state(store).complete and verify(store) == [], f"{path}: not as recorded")


def scan_convert(race: Race, bench: Bench) -> None:
    genotypes = bench.copy("a.zarr", race.folder / "g.zarr")
    path = race.folder / "r.zarr"
    scan = ["scan", *bench.scan("a", path, genotypes)]
    codes = race.run(scan, ["convert", *bench.convert("b", genotypes, "--overwrite")])
    if codes[0] == 0:
        whole(path, bench, "a", "b")
    elif path.exists():
        partly(path, bench)
    require(
        GenotypeDataset.open(genotypes).fingerprint == bench.prints["ab"[codes[1] == 0]],
        "another dataset than the exit code says",
    )


def partly(path: Path, bench: Bench) -> None:
    """Require that what rows there are, are of the genotypes the store was made for."""
    store = ResultStore.open(path)
    name = next(n for n in "ab" if bench.prints[n] == store.attributes["parameters"]["genotypes"])
    reference = ResultStore.open(bench.folder / f"{name}-results.zarr")
    here, there = (s.dataset(chunks=None) for s in (store, reference))
    done = here["status"].values != Status.PENDING
    for variable in store.variables:
        values = [d[variable.name].values[done] for d in (here, there)]
        require(np.array_equal(*values, equal_nan=True), f"{path}: rows of other genotypes")


def same_output(kind: str) -> Callable[[Race, Bench], None]:
    def race_of_outputs(race: Race, bench: Bench) -> None:
        path = race.folder / f"out.{kind}"
        codes = race.run(*(bench.output(kind, name, path) for name in "ab"))
        require(codes == [0, 0], f"both can be written: {codes}")
        expected = [bench.made(kind, name).read_bytes() for name in "ab"]
        require(path.read_bytes() in expected, f"{path}: mixed")

    race_of_outputs.__name__ = f"{kind}_{kind}"
    return race_of_outputs


def dispersion_export(race: Race, bench: Bench) -> None:
    store = bench.copy("b-results.zarr", race.folder / "r.zarr")
    after = race.folder / "after.zarr"
    shutil.copytree(store, after)
    require(race.alone("dispersion", str(after)) == 0, "no dispersion effects to race with")
    race.alone("export", str(after), "-o", str(race.folder / "after.tsv"))
    commands = [["dispersion", str(store)], ["export", str(store), "-o", f"{race.folder}/x.tsv"]]
    first = random.Random(race.moment).random() < 0.5
    codes = race.run(*(commands if first else commands[::-1]))
    exported = codes[1] if first else codes[0]
    require((race.folder / "x.tsv").exists() == (exported == 0), "half an export")
    if exported == 0:
        expected = [bench.made("export", "b").read_bytes()]
        expected.append((race.folder / "after.tsv").read_bytes())
        require((race.folder / "x.tsv").read_bytes() in expected, "an export of two stores")


def overwrite_export(race: Race, bench: Bench) -> None:
    store = bench.copy("a-results.zarr", race.folder / "r.zarr")
    out = race.folder / "x.tsv"
    scan = ["scan", *bench.scan("rare", store, bench.dataset("a"), "--overwrite")]
    codes = race.run(scan, ["export", str(store), "-o", str(out)])
    whole(store, bench, "a", "rare")
    require(out.exists() == (codes[1] == 0), "half an export")
    if codes[1] == 0 and codes[0] != 0:
        require(out.read_bytes() == bench.made("export", "a").read_bytes(), "another export")


def publish_publish(race: Race, bench: Bench) -> None:
    path = race.folder / "summary.zarr"
    codes = race.run(
        *(["publish", str(bench.folder / f"{n}-results.zarr"), "-o", str(path)] for n in "ab")
    )
    require(sorted(codes) == [0, 2], f"two stores at one path: {codes}")
    require(verify(ResultStore.open(path)) == [], "not as recorded")


RACES = (
    *(convert_convert, overwrite_overwrite, scan_scan, scan_other_scan, scan_overwrite),
    *(overwrite_both, scan_convert, same_output("export"), same_output("hits")),
    *(same_output("report"), same_output("fit"), dispersion_export, overwrite_export),
    publish_publish,
)


QUICK = (overwrite_overwrite, scan_overwrite, scan_convert, RACES[7], dispersion_export)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--races", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="5 races")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"))
    arguments = parser.parse_args()
    kinds = QUICK if arguments.quick else RACES
    count = len(QUICK) if arguments.quick else arguments.races
    chance, began = random.Random(arguments.seed), time.monotonic()
    ends: dict[str, Counter[str]] = {}
    folder = Path(tempfile.mkdtemp(prefix="races-"))
    try:
        bench = Bench(folder)
        for number in range(count):
            kind = kinds[number % len(kinds)]
            own = folder / f"race-{number}"
            own.mkdir()
            # Most at once, as that is where it hurts; others when the first has begun its work.
            race = Race(bench, own, chance.choice([0.0, chance.random()]))
            kind(race, bench)
            codes = " and ".join(str(ended.code) for ended in race.ends)
            ends.setdefault(kind.__name__, Counter())[codes] += 1
            print(f"{number + 1}: {kind.__name__}, exit codes {codes}", flush=True)
            shutil.rmtree(own)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [
        (name.replace("_", " / "), sum(c.values()), ", ".join(f"{n} × {e}" for e, n in c.items()))
        for name, c in ends.items()
    ]
    seconds = time.monotonic() - began
    text = table(["commands", "races", "exit codes"], rows)
    summary = f"{count} races, every output whole and one of the two, {seconds / 60:.1f} min"
    data: dict[str, Any] = {"races": count, "seconds": seconds, "ends": ends}
    write(arguments.output, "races", f"{text}\n{summary}\n", data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
