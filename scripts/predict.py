"""How the prediction compares with real scans, and what it says of very large ones: see
scripts/predict.

The real scans are of simulated people with one worker, which gives the times of tasks, then with
two and four. All of them are predicted from those times; four workers share the cores there are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tables import table, write

from hlmm_scan.config import ScanConfig
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import available_cores
from hlmm_scan.scan.plan import Plan, partition_size, phenotypes_together
from hlmm_scan.scan.prediction import Cluster, Prediction, Workload, predict
from hlmm_scan.scan.state import standing
from hlmm_scan.simulate import simulate_cohort

PEOPLE, VARIANTS, TRAITS = 500_000, 10_000_000, 20
CHUNK_BYTES = 8 << 20
WORKERS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
LARGE = {
    "HLM, no covariates": ModelSize(PEOPLE, 1, 1, 0),
    "HLM, score screen, 20 + 20 covariates": ModelSize(PEOPLE, 21, 21, 0, screen=True),
    "HLM, 20 + 20 covariates": ModelSize(PEOPLE, 21, 21, 0),
    "HLMM, 500 random effects": ModelSize(PEOPLE, 1, 1, 500),
}
WITHIN = 0.25
"""Part by which a real scan may differ from its prediction."""

CHECKED = (1, 2, 4)


@dataclass(frozen=True)
class Check:
    """A real scan beside its prediction; seconds from the first step of the run to the last."""

    workers: int
    measured: float
    predicted: float

    @property
    def ratio(self) -> float:
        """What was predicted over what was measured."""
        return self.predicted / self.measured


def large_plan(model: ModelSize, variants: int = VARIANTS, traits: int = TRAITS) -> Plan:
    """Return the plan of a large scan, cut as prepare would cut it."""
    sizes = {
        "chunk_variants": max(1, CHUNK_BYTES // (model.people // 4)),
        "model": model,
        "n_genotyped": model.people,
    }
    size = {"n_variants": variants, "n_phenotypes": traits}
    together = phenotypes_together(chunk_variants=sizes["chunk_variants"], model=model, **size)
    cut = partition_size(together=together, **size, **sizes)
    return Plan.of(
        phenotypes=tuple(f"trait{k}" for k in range(traits)),
        people=(model.people,) * traits,
        n_variants=variants,
        partition_variants=cut,
        genotypes=(),
        parameters={},
        together=together,
        **sizes,
    )


def predictions(storage: float) -> list[tuple[str, Plan, Prediction]]:
    """Return what is predicted of large scans."""
    plans = {name: large_plan(model) for name, model in LARGE.items()}
    return [
        (name, plan, predict(Workload.of(plan), Cluster(n, storage_bytes_per_second=storage)))
        for name, plan in plans.items()
        for n in WORKERS
    ]


def checks(folder: Path, people: int, variants: int) -> list[Check]:
    """Scan with 1, 2 and 4 workers, and predict that from the tasks of the first."""
    cohort = simulate_cohort(
        folder / "cohort",
        n_samples=people,
        chromosomes=1,
        variants_per_chromosome=variants,
        n_random_effects=1,
    )
    genotypes, chunk = folder / "genotypes.zarr", max(1, variants // 120)
    convert(cohort.beds, genotypes, chunk_variants=chunk)
    config = ScanConfig(
        genotypes=genotypes,
        phenotypes=cohort.phenotypes,
        mean_covariates=cohort.covariates,
        variance_covariates=cohort.covariates,
        partition_variants=chunk,
        output=folder / "0.zarr",
    )
    found, load = [], None
    for workers in CHECKED:
        wanted = replace(config, output=folder / f"{workers}.zarr", workers=workers)
        store = run.prepare(wanted)
        start = time.perf_counter()
        run.scan(wanted)
        seconds = time.perf_counter() - start
        if load is None:
            plan = Plan.from_json(store.plan)
            stands = standing(ResultStore.open(store.path), plan)
            load = replace(Workload.of(plan, stands), tasks=plan.n_partitions)
        # One worker is this process: nothing starts, and nobody hands out.
        cluster = Cluster(workers, available_cores())
        if workers == 1:
            cluster = replace(cluster, start_seconds=0.0, dispatch_seconds=0.0)
        found.append(Check(workers, seconds, predict(load, cluster).seconds))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small real scans; not judged")
    parser.add_argument("--price", type=float, help="of a core for an hour, in any currency")
    parser.add_argument("--storage", type=float, default=1e9, help="bytes a second, of all hosts")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    people, variants = (1_000, 800) if options.quick else (30_000, 60_000)
    with tempfile.TemporaryDirectory() as scratch:
        checked = checks(Path(scratch), people, variants)
    text = f"Real scans on {available_cores()} cores, seconds:\n\n"
    text += table(
        ["workers", "measured", "predicted", "predicted / measured"],
        ([c.workers, f"{c.measured:.1f}", f"{c.predicted:.1f}", f"{c.ratio:.2f}"] for c in checked),
    )
    large = predictions(options.storage)
    text += (
        f"\n{PEOPLE:,} people × {VARIANTS:,} variants × {TRAITS} traits, storage of "
        f"{options.storage / 1e9:g} GB/s:\n\n"
    )
    header = ["work", "tasks", "workers", "hours", "core hours", "at work", "bottleneck"]
    rows = [
        [
            name,
            f"{plan.n_partitions:,}",
            f"{p.workers:,}",
            f"{p.seconds / 3600:,.1f}",
            f"{p.core_hours:,.0f}",
            f"{p.efficiency:.0%}",
            p.bottleneck,
        ]
        for name, plan, p in large
    ]
    if options.price is not None:
        header.append("cost")
        for row, (_, _, p) in zip(rows, large, strict=True):
            row.append(f"{p.core_hours * options.price:,.0f}")
    text += table(header, rows) + "\n"
    misses = [
        f"{c.workers} workers: predicted {c.ratio:.2f} of what was measured, allowed "
        f"{1 - WITHIN:g} to {1 + WITHIN:g}"
        for c in checked
        if abs(c.ratio - 1) > WITHIN and not options.quick
    ]
    text += "".join(f"MISS {miss}\n" for miss in misses) or "All as required.\n"
    data = {
        "checks": [vars(c) for c in checked],
        "large": [
            {"work": name, "workers": p.workers, "seconds": p.seconds, "parts": dict(p.parts)}
            for name, _, p in large
        ],
    }
    write(options.output, "predict", text, data)
    for miss in misses:
        print(f"predict: {miss}", file=sys.stderr)
    return int(bool(misses))


if __name__ == "__main__":  # workers start by importing this file
    sys.exit(main())
