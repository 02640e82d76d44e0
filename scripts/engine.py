"""The engine around the fits: see scripts/engine. With --quick the figures mean little.

Three parts. *tasks*: 100,000 partitions that do nothing on two workers, and a plan of a million.
*cores*: a scan of mice by two workers, beside the same scan cut into two separate runs at once.
*memory*: a scan of 100,000 people with 500 random effects by two workers.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import engine_cores
import engine_memory
import engine_tasks
from commands import stop
from tables import table, write

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MOUSE = Path(os.environ.get("HLMM_SCAN_DATA", SHARED)) / "mouse"

Figures = dict[str, float]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    few: int = 10
    many: int = 100
    variants: int = engine_tasks.VARIANTS
    random_mouse: int = 100
    mouse_part: int = 1
    people: int = 100_000
    tested: int = 5_000
    random: int = 500


FULL = Size()
QUICK = Size(1, 10, 500, random_mouse=10, mouse_part=12, people=4_000, tested=400, random=40)


@dataclass(frozen=True)
class Line:
    """One figure, and the most or least it may be."""

    part: str
    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None
    judged: bool = True

    @property
    def missed(self) -> bool:
        """Whether it is out."""
        return self.judged and (
            (self.most is not None and self.value > self.most)
            or (self.least is not None and self.value < self.least)
        )

    def cells(self) -> list[str]:
        """Return the row of a table."""
        bounds = [f"≥ {self.least:,g}"] if self.least is not None else []
        bounds += [f"≤ {self.most:,g}"] if self.most is not None else []
        wanted = ", ".join(bounds)
        return [self.part, self.name, f"{self.value:,.4g} {self.unit}".strip(), wanted]


def tasks(folder: Path, size: Size, judged: bool) -> list[Line]:
    """Measure what tasks cost beside their arithmetic."""
    config = engine_tasks.cohort(folder, size.variants, size.many)
    few = engine_tasks.no_operations(engine_tasks.first_of(config, size.few, "few.zarr"))
    many = engine_tasks.many(config)
    part = f"{few['partitions']:,.0f} tasks"
    plan = f"{many['partitions']:,.0f} tasks"
    return [
        Line(part, "dispatch", few["dispatch_ms"], "ms a task", most=5, judged=judged),
        Line(part, "journal", few["journal_ms"], "ms a task", most=5, judged=judged),
        Line(part, "of dispatch and journal, computing", few["client_cpu_ms"], "ms a task"),
        Line(part, "results, smallest", few["write_ms"], "ms a task"),
        Line(part, "growth of client and scheduler", few["growth_mb"], "MB", most=200),
        Line(part, "start to first result", few["start_s"], "s"),
        Line(plan, "planned", many["planned_s"], "s", most=10, judged=judged),
        Line(plan, "prepared", many["prepared_s"], "s"),
        Line(plan, "start to first task", many["first_task_s"], "s", most=10, judged=judged),
        Line(plan, "growth as it begins", many["begin_growth_mb"], "MB", most=200),
        Line(plan, "growth over 20,000 tasks", many["task_growth_mb"], "MB", most=10),
        Line(plan, "next task", many["task_us"], "µs"),
        Line(plan, "read where all stand", many["state_s"], "s"),
        Line(plan, "growth by that", many["state_growth_mb"], "MB", most=200),
    ]


def cores(folder: Path, size: Size, judged: bool, mouse: Path) -> list[Line]:
    """Measure how two workers compare with two separate runs."""
    found = engine_cores.two_workers(folder, mouse, size.random_mouse, size.mouse_part)
    part = f"{found['tasks']:.0f} tasks of mice"
    return [
        Line(part, "time of a task", found["task_s"], "s"),
        Line(part, "two workers", found["rate"], "tests/s"),
        Line(part, "two separate runs, together", found["apart"], "tests/s"),
        Line(part, "efficiency", found["efficiency"], "", least=0.9, judged=judged),
        Line(part, "BLAS threads a worker, most", found["pool"], "", most=1),
        Line(part, "threads of a worker that compute, most", found["busy_threads"], "", most=1),
        Line(part, "cores at work", found["cores"], "", most=2.1),
    ]


def memory(folder: Path, size: Size, judged: bool) -> list[Line]:
    """Measure what workers take of the memory."""
    os.environ["HLMM_SCAN_CACHE"] = str(folder)
    found = engine_memory.two_workers(folder, size.people, size.tested, size.random)
    part = f"{size.people:,} people, {size.random} random effects"
    own, shared = found["planned_own"], found["planned_shared"]
    megabyte = 2**20
    return [
        Line(part, "own memory of a worker, planned", own / megabyte, "MiB"),
        Line(part, "the same, seen", found["most_own"] / megabyte, "MiB"),
        Line(part, "the same, in the ledger", found["recorded_own"] / megabyte, "MiB"),
        Line(part, "own, seen over planned", found["most_own"] / own, "", 1.2, 0.8, judged),
        Line(part, "shared memory, planned", shared / megabyte, "MiB"),
        Line(part, "the same, seen in both workers", found["shared"] / megabyte, "MiB"),
        Line(part, "shared, seen over planned", found["shared"] / shared, "", 1.2, judged=judged),
        Line(part, "prepared", found["prepared_s"], "s"),
        Line(part, "time of a task", found["task_s"], "s"),
        Line(part, "the same, planned", found["planned_task_s"], "s"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and small tasks")
    parser.add_argument("--only", action="append", choices=["tasks", "cores", "memory"])
    parser.add_argument("--mouse", type=Path, default=MOUSE, metavar="FOLDER", help="the data")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    parts = options.only or ["tasks", "cores", "memory"]
    if "cores" in parts and not (options.mouse / "mouse_hs1940.bed").exists():
        stop(f"{options.mouse}: no mouse_hs1940.bed; name its folder with --mouse")
    size, judged = (QUICK, False) if options.quick else (FULL, True)
    measure: dict[str, Callable[[Path], list[Line]]] = {
        "tasks": lambda folder: tasks(folder, size, judged),
        "cores": lambda folder: cores(folder, size, judged, options.mouse),
        "memory": lambda folder: memory(folder, size, judged),
    }
    lines: list[Line] = []
    for part in parts:
        with tempfile.TemporaryDirectory() as scratch:
            lines += measure[part](Path(scratch))
    misses = [f"{x.part}: {x.name} {x.value:,.4g} {x.unit}".rstrip() for x in lines if x.missed]
    text = table(["work", "figure", "measured", "wanted"], (x.cells() for x in lines)) + "\n"
    text += "".join(f"MISS {miss}\n" for miss in misses) or "All as required.\n"
    figures = [{"part": x.part, "name": x.name, "value": x.value, "unit": x.unit} for x in lines]
    write(options.output, "engine", text, figures)
    for miss in misses:
        print(f"engine: {miss}", file=sys.stderr)
    return int(bool(misses))


if __name__ == "__main__":  # workers start by importing this file
    sys.exit(main())
