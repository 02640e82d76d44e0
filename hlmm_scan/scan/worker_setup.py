"""What is done on a Dask worker before its first task, while it works, and after the scan.

It travels as a plugin, so that workers that join later are treated as those that were there.
"""

# distributed is typed in part only.
# mypy: disallow-untyped-calls=False, disallow-subclassing-any=False

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from distributed import WorkerPlugin
from distributed.core import Status

from hlmm_scan import __version__
from hlmm_scan.errors import HlmmScanError, InputError
from hlmm_scan.scan import fork_server
from hlmm_scan.scan.memory import own_bytes
from hlmm_scan.scan.task import PartitionTask, open_inputs
from hlmm_scan.scan.worker import let_go, pin_threads

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.2

OUT_OF_MEMORY = 77
"""Exit code of a worker that took more memory than it may."""


class WorkerSetup(WorkerPlugin):
    """Makes a worker fit for the tasks of one scan, or keeps it from having any.

    Parameters
    ----------
    task : PartitionTask
        Any of the scan: its store and genotypes are those of all.
    own_bytes : int
        Memory of its own that a worker may take for each of its threads, mapped files not counted;
        0 for any. One that takes more is ended, and counts as a death for the task it was at.

    Attributes
    ----------
    topic : str
        Of the events in which workers tell the client what became of them: the worker's address,
        whether it gets no tasks, and a line for the user.
    """

    def __init__(self, task: PartitionTask, own_bytes: int = 0) -> None:
        self.name = self.topic = f"hlmm-scan {task.run_id}"
        self.task = replace(task, partition=replace(task.partition, index=-1))
        self.own_bytes = own_bytes
        self.version = __version__
        self._guard: MemoryGuard | None = None
        self._fractions: dict[str, float | bool] = {}

    async def setup(self, worker: Any) -> None:
        """Pin threads, see that all is there that tasks need, and watch the memory from then on.

        Raises
        ------
        HlmmScanError
            If the worker cannot serve. It is paused then, so that it gets no tasks, not ended: it
            may be somebody else's.
        """
        fork_server.hear_sigterm()
        pin_threads()
        self._keep_from_pausing(worker)
        try:
            if self.version != __version__:
                raise InputError(
                    f"has hlmm-scan {__version__}, but the scan is run by {self.version}; install "
                    "the same version"
                )
            await asyncio.to_thread(open_inputs, self.task)  # a slow mount must not stop heartbeats
        except Exception as error:
            kind = type(error) if isinstance(error, HlmmScanError) else InputError
            line = f"the worker on {socket.gethostname()} ({worker.address}) cannot serve: {error}"
            worker.status = Status.paused
            self._tell(worker, line, refused=True)
            raise kind(line) from None
        if self.own_bytes:
            limit = self.own_bytes * worker.state.nthreads
            self._guard = MemoryGuard(limit, partial(self._tell, worker))
            self._guard.start()

    def _keep_from_pausing(self, worker: Any) -> None:
        """Leave pauses to us: Dask would pause it by its memory, mapped files included."""
        manager = worker.memory_manager
        for name in ("memory_pause_fraction", "memory_spill_fraction", "memory_target_fraction"):
            self._fractions[name] = getattr(manager, name)
            setattr(manager, name, False)
        if manager.memory_limit and self.own_bytes > manager.memory_limit:
            self._tell(
                worker,
                f"the worker on {socket.gethostname()} ({worker.address}) may be ended by Dask at "
                f"{manager.memory_limit / 2**20:,.0f} MiB, mapped files included; start workers "
                "with --memory-limit 0",
            )

    def _tell(self, worker: Any, line: str, *, refused: bool = False) -> None:
        """Have a line logged where the scan runs."""
        event = {"worker": worker.address, "refused": refused, "line": line}
        worker.log_event(self.topic, event)

    def teardown(self, worker: Any) -> None:
        """Drop what the scan kept here; the last worker of a host removes what they shared."""
        if self._guard is not None:
            self._guard.stop()
        for name, fraction in self._fractions.items():
            setattr(worker.memory_manager, name, fraction)
        if worker.status == Status.paused:
            worker.status = Status.running
        let_go(threads=False)  # a task of a scan that was given up may still be at work


class MemoryGuard(threading.Thread):
    """Ends this process when it takes more memory of its own than it may.

    Dask's own limits count mapped files, which all workers of a host share, and would end healthy
    workers; the kernel's would end whichever process it likes.

    Parameters
    ----------
    limit : int
        Bytes.
    tell : callable
        Takes a line for the user; it has a moment to get out.
    """

    def __init__(self, limit: int, tell: Callable[[str], None]) -> None:
        super().__init__(name="memory guard", daemon=True)
        self.limit, self.tell = limit, tell
        self._over = threading.Event()

    def run(self) -> None:
        """Look now and then."""
        while not self._over.wait(SECONDS_BETWEEN_LOOKS):
            taken = own_bytes()
            if taken > self.limit:
                line = (
                    f"a worker on {socket.gethostname()} (process {os.getpid()}) was ended: it had "
                    f"{taken / 2**20:,.0f} MiB of memory of its own, and its limit is "
                    f"{self.limit / 2**20:,.0f} MiB"
                )
                logger.error(line)
                self.tell(line)
                time.sleep(SECONDS_BETWEEN_LOOKS)
                os._exit(OUT_OF_MEMORY)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
