"""What converting takes beside reading alone: see scripts/benchmark_convert."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from commands import run, stop
from tables import table, write

MOST_BYTES = 2 * 10**9
SECONDS_BETWEEN_LOOKS = 0.05

ALONE = {
    "bgen": """
import sys
from bgen import BgenReader
with BgenReader(sys.argv[1]) as reader:
    for variant in reader:
        variant.alt_dosage
""",
    "pgen": """
import sys
import numpy as np
from pgenlib import PgenReader
with PgenReader(sys.argv[1].encode()) as reader:
    row = np.empty(reader.get_raw_sample_ct(), np.float32)
    for variant in range(reader.get_variant_ct()):
        reader.read_dosages(variant, row)
""",
}


def tree_bytes(process: psutil.Process) -> int:
    """Return the memory of a process and all below it; pages they share count in each."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue
    return total


def measured(command: list[str]) -> tuple[float, int]:
    """Return the seconds of a command and the most memory that was seen of it."""
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            try:
                peak = max(peak, tree_bytes(psutil.Process(process.pid)))
            except psutil.Error:
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if process.wait():
            said.seek(0)
            stop(said.read().decode(errors="replace").strip().splitlines()[-1])
    return time.perf_counter() - start, peak


def make(folder: Path, people: int, variants: int) -> dict[str, Path]:
    """Write the files to convert."""
    plink2 = ["plink2", "--threads", "2"]
    made = folder / "made"
    run([*plink2, "--dummy", str(people), str(variants), "0.01", "dosage-freq=0.5", "--seed", "1",
         "--make-pgen", "--out", str(made)])  # fmt: skip
    run([*plink2, "--pfile", str(made), "--export", "bgen-1.2", "bits=8", "ref-first", "--out",
         str(made)])  # fmt: skip
    return {kind: made.with_suffix(f".{kind}") for kind in ALONE}


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def main() -> int:
    """Measure, write, and say whether memory stayed within its bound."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--people", type=int)
    parser.add_argument("--variants", type=int)
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"))
    arguments = parser.parse_args()
    people = arguments.people or (2_000 if arguments.quick else 100_000)
    variants = arguments.variants or (400 if arguments.quick else 20_000)
    rows, data, good = [], [], True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, path in make(folder, people, variants).items():
            alone, alone_peak = measured([sys.executable, "-c", ALONE[kind], str(path)])
            cases = [("library alone", alone, alone_peak, path.stat().st_size)]
            for workers in arguments.workers or (1, 2):
                out = folder / f"{kind}{workers}.zarr"
                command = [sys.executable, "-m", "hlmm_scan", "convert", str(path), "-o", str(out)]
                seconds, peak = measured([*command, "--workers", str(workers)])
                cases.append((f"convert, {workers} workers", seconds, peak, size_of(out)))
                good &= peak <= MOST_BYTES
            for what, seconds, peak, size in cases:
                calls = people * variants / seconds
                rows.append(
                    [kind, what, f"{seconds:,.1f}", f"{calls / 1e6:,.1f}", f"{seconds / alone:.2f}",
                     f"{peak / 1e6:,.0f}", f"{size / (people * variants):.2f}"]
                )  # fmt: skip
                data.append(
                    {"kind": kind, "what": what, "seconds": seconds, "peak_bytes": peak,
                     "bytes": size, "people": people, "variants": variants}
                )  # fmt: skip
    header = ["file", "what", "s", "10⁶ dosages/s", "of alone", "peak MB", "bytes a dosage"]
    text = f"# Converting {people:,} people × {variants:,} variants\n\n{table(header, rows)}\n"
    load = psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
    text += f"{psutil.cpu_count()} cores, load {np.round(load, 1)} a core at the end.\n"
    write(arguments.output, "convert", text, data)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
