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
    kept_in, machine = warm_up.machine_code()
    folder, size = Path(kept_in), warm_up.smallest_alike(model)
    files = [*Path(warm_up.__file__).parent.glob("*.py"), Path(packing.__file__)]
    sources = _digest([(f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(files)])
    wanted = _digest([machine, size, options.inference, bool(options.refine_below)])
    mark = folder / f"{sources}-{wanted}.compiled"
    if mark.exists():
        return False
    if not any(folder.glob(f"{sources}-*.compiled")):
        _forget(folder)
    started = time.monotonic()
    warm_up.warm_up(options, size)
    logger.debug("kernels compiled in %.1f s, kept in %s", time.monotonic() - started, folder)
    with suppress(OSError):  # without the mark, the next scan only does it again
        mark.touch()
    return True


def _digest(of: object) -> str:
    return hashlib.sha256(repr(of).encode()).hexdigest()[:16]


def _forget(folder: Path) -> None:
    """Throw away the machine code of other sources.

    numba looks whether the file of a function has changed, but not those of the functions that it
    calls and whose code its own contains: after an upgrade, the two would be mixed.
    """
    for pattern in ("*.nbi", "*.nbc", "*.compiled"):
        for file in folder.glob(pattern):
            with suppress(OSError):  # another scan may be at it too
                file.unlink()
