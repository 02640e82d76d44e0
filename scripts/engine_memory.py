"""What two workers take of the memory: their own, and what they share."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from engine_work import Sampler
from simulated import draw_genotypes

from hlmm_scan.config import ScanConfig
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.readers.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.state import scan_state

WRITTEN_AT_ONCE = 250
STRONG = 0.3
"""Effect of one variant of each of these: what is interesting takes more memory."""


def write_cohort(folder: Path, n: int, tested: int, random: int) -> ScanConfig:
    """Write variants of two chromosomes, some of them random effects, and a phenotype of people."""
    rng = np.random.default_rng(1)
    ids = np.array([f"p{k}" for k in range(n)], dtype=object)
    samples = SampleIds(ids, ids, np.zeros(n, np.int8))
    in_all = tested + random
    y = rng.standard_normal(n)
    with PlinkWriter(folder / "all", samples) as writer:
        for start in range(0, in_all, WRITTEN_AT_ONCE):
            rows = range(start, min(start + WRITTEN_AT_ONCE, in_all))
            calls = draw_genotypes(n, len(rows), rng)
            y += STRONG * calls[0]
            names = np.array([f"v{k}" for k in rows], dtype=object)
            contig = np.array([str(1 + (k >= in_all // 2)) for k in rows], dtype=object)
            position = np.array(rows, np.int32) + 1
            alleles = (np.full(len(rows), base, dtype=object) for base in "AC")
            writer.append(VariantTable(contig, position, names, *alleles), calls)
    convert([folder / "all.bed"], folder / "genotypes.zarr")
    chosen = rng.choice(in_all, random, replace=False)
    (folder / "random.txt").write_text("".join(f"v{k}\n" for k in chosen))
    people = pd.DataFrame({"FID": ids, "IID": ids, "y": y})
    people.to_csv(folder / "y.tsv", sep="\t", index=False)
    return ScanConfig(
        genotypes=folder / "genotypes.zarr",
        phenotypes=folder / "y.tsv",
        random_effects=folder / "random.txt",
        output=folder / "r.zarr",
        workers=2,
    )


class Maps:
    """The memory of processes below this one, over time.

    Attributes
    ----------
    own : dict of int to int
        Most bytes of its own that each process had.
    shared : int
        Most bytes that files of a folder had in all of them at once, each page counted once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.own: defaultdict[int, int] = defaultdict(int)
        self.shared = 0

    def look(self) -> None:
        """Look at every process now."""
        shared = 0.0
        for process in psutil.Process().children(recursive=True):
            try:
                maps = Path(f"/proc/{process.pid}/smaps").read_text()
            except OSError:  # it has ended
                continue
            own, inside = 0, False
            for line in maps.splitlines():
                name, _, rest = line.partition(" ")
                if not name.endswith(":"):  # the first line of a mapping ends with its file
                    inside = self._folder in rest
                elif name == "Anonymous:":
                    own += 1024 * int(rest.split()[0])
                elif name == "Pss:" and inside:
                    shared += 1024 * int(rest.split()[0])
            self.own[process.pid] = max(self.own[process.pid], own)
        self.shared = max(self.shared, int(shared))


def two_workers(folder: Path, n: int, tested: int, random: int) -> dict[str, float]:
    """Scan with two workers; return bytes planned and seen, and seconds."""
    config = write_cohort(folder, n, tested, random)
    start = time.perf_counter()
    store = run.prepare(config)
    prepared = time.perf_counter() - start
    maps = Maps(folder)
    with Sampler(maps.look):
        run.scan(config)
    plan, state = Plan.from_json(store.plan), scan_state(ResultStore.open(store.path))
    workers = {int(worker.rpartition(":")[2]) for worker in state.workers}
    return {
        "planned_own": plan.task_bytes,
        "planned_shared": plan.shared_bytes,
        "most_own": max(maps.own[pid] for pid in workers),
        "recorded_own": state.peak_bytes,
        "shared": maps.shared,
        "prepared_s": prepared,
        "task_s": state.seconds / state.partitions_done,
        "planned_task_s": plan.task_seconds,
    }
