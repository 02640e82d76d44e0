"""Run one task in a process of its own and print what it cost, as JSON.

Arguments: store, partition, and perhaps the number of people from which second-order fits begin.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from contextlib import suppress
from pathlib import Path

import distributed  # noqa: F401 (a worker has it)
from numba.core.registry import CPUDispatcher

from hlmm_scan.kernels import limits, warm_up
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.options import fit_options
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.task import run_partition
from hlmm_scan.scan.worker import pin_threads


def signatures() -> set[tuple[str, str]]:
    """All functions of ours with the types they are compiled for in this process."""
    return {
        (f"{function.py_func.__module__}.{function.py_func.__name__}", str(signature))
        for name, module in list(sys.modules.items())
        if name.startswith("hlmm_scan")
        for function in vars(module).values()
        if isinstance(function, CPUDispatcher)
        for signature in function.signatures
    }


def resident(name: str) -> int:
    """Bytes of a line of this process's status."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


def main() -> None:
    path, index = Path(sys.argv[1]), int(sys.argv[2])
    if len(sys.argv) > 3:
        limits.SECOND_ORDER_ALONE_PEOPLE = limits.SINGLE_PRECISION_PEOPLE = int(sys.argv[3])
    store = ResultStore.open(path)
    plan = Plan.from_json(store.plan)
    (task,) = run._tasks(store, plan, [index])
    pin_threads()
    warm_up.warm_up(fit_options(plan), warm_up.smallest_alike(plan.model))
    known = signatures()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # a worker does not fit what was made up here
    before, own = resident("VmRSS"), resident("RssAnon")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    record = run_partition(task)
    print(
        json.dumps(
            {
                "own": own,
                "growth": resident("VmHWM") - before,
                "mapped": resident("RssFile") + resident("RssShmem"),
                "compiled": sorted(signatures() - known),
                "known": len(known),
                "error": record.error,
                "statuses": dict(record.statuses),
            }
        )
    )


if __name__ == "__main__":
    main()
