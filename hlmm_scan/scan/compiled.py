"""Kernels compiled before the first task, so that no task spends its time on it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from hlmm_scan.children import environment
from hlmm_scan.genotypes import packing
from hlmm_scan.kernels import warm_up
from hlmm_scan.kernels.block import FitOptions
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.estimates import Inference

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 600.0
"""How long to wait for another process that compiles: it may be a stopped one."""

_AGAIN_SECONDS = 0.1

_CHILD = "import sys; from hlmm_scan.scan import compiled; compiled.warm_up_for(*sys.argv[1:])"


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
    folders, size = [Path(folder) for folder in kept_in], warm_up.smallest_alike(model)
    folder = folders[0]
    files = [*Path(warm_up.__file__).parent.rglob("*.py"), Path(packing.__file__)]
    sources = _digest([(f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(files)])
    wanted = _digest([machine, size, options.inference, bool(options.refine_below)])
    mark = folder / f"{sources}-{wanted}.compiled"
    if mark.exists():
        return False
    with _one_at_a_time(folder):
        if mark.exists():
            return False
        if not any(folder.glob(f"{sources}-*.compiled")):
            for kept in folders:
                _forget(kept)
        started = time.monotonic()
        _warm_up_apart(options, size)
        logger.debug("kernels compiled in %.1f s, kept in %s", time.monotonic() - started, folder)
        with suppress(OSError):  # without the mark, the next scan only does it again
            mark.touch()
    return True


def warm_up_for(options: str, size: str) -> None:
    """Warm up for options and a size in JSON: the program of a process that compiles.

    Parameters
    ----------
    options, size : str
    """
    given = json.loads(options)
    inference = Inference(**given.pop("inference"))
    warm_up.warm_up(FitOptions(inference=inference, **given), ModelSize(**json.loads(size)))


def _warm_up_apart(options: FitOptions, size: ModelSize) -> None:
    """Warm up in a process of its own.

    What this process has compiled or loaded before, numba would not write again, though the folder
    has been emptied since; and compiling takes memory that is never given back.
    """
    said = [json.dumps(asdict(of)) for of in (options, size)]
    try:
        subprocess.run(
            [sys.executable, "-c", _CHILD, *said],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            env=environment(),
        )
    except (OSError, subprocess.CalledProcessError) as error:
        # Then here, whatever the reason: a fault of ours shows with its cause.
        logger.debug("no process of its own for compiling: %s", error)
        warm_up.warm_up(options, size)


def _digest(of: object) -> str:
    return hashlib.sha256(repr(of).encode()).hexdigest()[:16]


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of machine code, where it has one to be had.

    After an installation the shards of a job all find nothing compiled. Without the lock each would
    throw away what the others have made so far and leave its mark all the same. And numba reads,
    extends and writes the index of a function without one: of two processes that add code for
    different types at once, the index may come to name the one's code for the other's types.
    """
    try:
        descriptor = os.open(folder / "compiling.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # no folder, or not ours to write to: then nobody throws anything away
        yield
        return
    try:
        end = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < end:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_AGAIN_SECONDS)
                continue
            except OSError:  # a file system without locks
                pass
            break
        yield
    finally:
        os.close(descriptor)


def _forget(folder: Path) -> None:
    """Throw away the machine code of other sources.

    numba looks whether the file of a function has changed, but not those of the functions that it
    calls and whose code its own contains: after an upgrade, the two would be mixed.
    """
    for pattern in ("*.nbi", "*.nbc", "*.compiled"):
        for file in folder.glob(pattern):
            with suppress(OSError):  # another scan may be at it too, where there are no locks
                file.unlink()
