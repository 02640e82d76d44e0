"""The process that embedded workers are forked from: it imports once what all of them need.

Imports take a worker longer than a small scan its tasks. A server that is started before this
process begins to import has them done, on another core, by the time that there is a plan; and what
is imported takes up memory once, however many the workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""Of starting workers. Elsewhere the system's own libraries may not survive a fork."""

_IMPORTED = ["distributed.nanny", "hlmm_scan.scan.worker_setup"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ZARR_THREADING__MAX_WORKERS",
)
"""All 1 in a worker: workers times threads is the number of cores already."""


def environment() -> dict[str, str]:
    """Return what workers find in their environment: this process's, one thread for a library.

    What the user's shell exports has precedence; pin_threads has the last word.
    """
    return dict.fromkeys(THREAD_VARIABLES, "1") | dict(os.environ)


def start() -> None:
    """Start the server, unless it runs; this returns at once."""
    if METHOD != "forkserver":
        return
    # For workers of other software in this process, what is imported here does no harm.
    multiprocessing.set_forkserver_preload(_IMPORTED)
    # SIGTERM to the whole group would leave this process asking a dead server for workers.
    with held_back(signal.SIGINT, signal.SIGTERM), _exported(environment()):
        forkserver.ensure_running()


def hear_sigterm() -> None:
    """In a worker: no longer be deaf to SIGTERM, as the server is that it was forked from."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@contextmanager
def held_back(*signals: signal.Signals) -> Iterator[None]:
    """Keep signals that reach the whole process group from threads and processes made here.

    They are for the main thread to act on; one that arrives meanwhile is delivered at the end.
    """
    # Started with the first process, the tracker would let signals through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _exported(variables: Mapping[str, str]) -> Iterator[None]:
    """Have these in the environment of processes made here."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
