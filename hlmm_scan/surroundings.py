"""What the shell that a command is given in grants it, seen to before anything else is done."""

from __future__ import annotations

import atexit
import logging
import os
import resource
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hlmm_scan.errors import InputError

logger = logging.getLogger(__name__)

ADDRESSES = 4 << 30
ADDRESSES_PER_CORE = 128 << 20
"""Bytes of address space that a process needs: libraries reserve buffers for every thread, most of
which they never touch, and OpenBLAS tries again for ever, deaf to signals, where it gets none."""

_CACHE_VARIABLE = "NUMBA_CACHE_DIR"


def prepare() -> None:
    """See that there are addresses, descriptors and a folder for compiled kernels.

    Raises
    ------
    InputError
        If the shell grants too little address space.
    """
    _check_addresses(resource.getrlimit(resource.RLIMIT_AS)[0], os.cpu_count() or 1)
    _raise_descriptors()
    _find_cache()


def _check_addresses(limit: int, cores: int) -> None:
    needed = ADDRESSES + cores * ADDRESSES_PER_CORE
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise InputError(
            f"this shell limits a process to {limit / 2**20:,.0f} MiB of virtual memory, of which "
            f"{needed / 2**20:,.0f} MiB are needed, most of them never used; "
            "`ulimit -v unlimited` lifts the limit, and --memory-limit bounds what is used"
        )


def _raise_descriptors() -> None:
    """Take as many descriptors as may be had: a genotype file each, and a socket a worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _find_cache() -> None:
    """Have kernels kept in a folder of this process alone where no other can be written."""
    named = os.environ.get(_CACHE_VARIABLE)
    here = Path(__file__).parent / "kernels" / "__pycache__"
    if any(_writable(Path(one)) for one in ([named] if named else [here, _user_cache()])):
        return
    folder = tempfile.mkdtemp(prefix="hlmm-scan-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[_CACHE_VARIABLE] = folder
    logger.warning(
        "no folder to keep compiled kernels in can be written (%s); they are compiled anew",
        named or f"{here}, {_user_cache()}",
    )


def _user_cache() -> Path:
    """Return where numba keeps code that it cannot keep beside the sources."""
    root = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(root) / "numba"


def _writable(folder: Path) -> bool:
    """Return whether a file can be made in a folder, which is made as well."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError, RuntimeError):
        return False
    return True
