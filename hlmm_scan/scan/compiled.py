"""Kernels compiled before the first task, so that no task spends its time on it."""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import suppress
from pathlib import Path

from hlmm_scan.genotypes import packing
from hlmm_scan.kernels import warm_up
from hlmm_scan.kernels.block import FitOptions
from hlmm_scan.kernels.choice import ModelSize

logger = logging.getLogger(__name__)


def compile_kernels(options: FitOptions, model: ModelSize) -> bool:
    """See to it that the machine code of a scan's kernels is there for its workers to load.

    Parameters
    ----------
    options : FitOptions
    model : ModelSize
        Of the scan.

    Returns
    -------
    bool
        Whether there was anything to do. Where there was not, that takes milliseconds, which even
        loading the code would not: a mark beside it says for which sources, kind of model and
        tests, version of numba and processor it was made.
    """
    folder, machine = warm_up.machine_code()
    size = warm_up.smallest_alike(model)
    made_for = [machine, size, options.inference, bool(options.refine_below)]
    sources = [*Path(warm_up.__file__).parent.glob("*.py"), Path(packing.__file__)]
    for source in sorted(sources):
        found = source.stat()
        made_for.append((source.name, found.st_mtime_ns, found.st_size))
    name = hashlib.sha256(repr(made_for).encode()).hexdigest()[:24]
    mark = Path(folder) / f"{name}.compiled"
    if mark.exists():
        return False
    started = time.monotonic()
    warm_up.warm_up(options, size)
    logger.debug("kernels compiled in %.1f s, kept in %s", time.monotonic() - started, folder)
    with suppress(OSError):  # without the mark, the next scan only does it again
        mark.touch()
    return True
