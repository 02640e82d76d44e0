"""What tasks keep in a process between one another, and how it is let go of.

Whatever a module keeps for the tasks that follow it keeps in functions with a cache of the
standard library: opened genotypes and stores, null models, and what kernels make of them. A worker
may be somebody else's, or the notebook of a user: after a scan it is to be as it was before. So
they are all found and emptied here, also those that a kernel written tomorrow will have.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from dataclasses import is_dataclass
from functools import _lru_cache_wrapper
from typing import Any

import zarr
from threadpoolctl import threadpool_limits

from hlmm_scan.null import host_cache

_PACKAGES = tuple(
    f"hlmm_scan.{name}" for name in ("genotypes", "kernels", "null", "polygenic", "scan")
)
"""Where something is kept; what other packages keep is small, or their own."""

_SETTINGS = ("threading.max_workers", "async.concurrency")


class _Pinned:
    """The threads of this process, as they were before the first task."""

    def __init__(self) -> None:
        self._limits: Any = None
        self._settings: dict[str, Any] = {}

    def pin(self) -> None:
        if self._limits is not None:
            return
        self._settings = {name: zarr.config.get(name) for name in _SETTINGS}
        self._limits = threadpool_limits(1)
        zarr.config.set({"threading.max_workers": 1, "async.concurrency": 2})

    def restore(self) -> None:
        if self._limits is not None:
            self._limits.restore_original_limits()
            zarr.config.set(self._settings)
            self._limits = None


_pinned = _Pinned()


def pin_threads() -> None:
    """Keep BLAS and Zarr's codecs of this process at one thread, until :func:`let_go`.

    Workers times threads is the number of cores already; more threads cost a factor of two
    (small factorisations most of all), and one thread keeps sums in one order.
    """
    _pinned.pin()


def kept() -> list[_lru_cache_wrapper[Any]]:
    """Return every function that keeps something in this process.

    Those of this package's modules, and those that objects of its modules hold (the ways to fit).
    """
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(_PACKAGES) and module is not None
    ]
    values = [value for module in modules for value in vars(module).values()]
    objects = [v for v in values if is_dataclass(v) and not isinstance(v, type)]
    values += [held for v in objects for held in getattr(v, "__dict__", {}).values()]
    found = [f for f in values if isinstance(f, _lru_cache_wrapper)]
    return list({id(function): function for function in found}.values())


def forget_inputs() -> None:
    """Let go of all that tasks keep in this process between one another."""
    for function in kept():
        function.cache_clear()


def let_go(*, threads: bool = True) -> None:
    """Leave this process as it was before the first task: memory, mapped files and threads.

    Parameters
    ----------
    threads : bool, default True
        Whether libraries may use several threads again.
    """
    forget_inputs()
    gc.collect()  # null models and what is made of them know one another
    host_cache.sweep()  # nobody maps those files any more
    if threads:
        _pinned.restore()
    with suppress(OSError, AttributeError):  # of the C library of Linux
        ctypes.CDLL(None).malloc_trim(0)
