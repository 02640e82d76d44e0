"""Faults of storage: which pass by themselves and are tried again, and which mean that it is gone.

What passes (a server that restarts, a time-out, a lost connection) is tried again inside the task.
What does not is one partition's own fault as long as the store and the genotypes are still there;
where they are not, no partition would fare better, and the run ends.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hlmm_scan import storage
from hlmm_scan.errors import HlmmScanError, InfrastructureError
from hlmm_scan.staging import write_error
from hlmm_scan.storage import ObjectPath, Place

logger = logging.getLogger(__name__)

TRIES = 6
FIRST_WAIT = 0.5
LONGEST_WAIT = 8.0
"""Seconds before the second try, and most before any other: about 10 s in all."""

T = TypeVar("T")


class Retrying:
    """Does things again that failed for a passing reason, a few times and ever more patiently.

    Attributes
    ----------
    retries : int
        Failures that were tried again since this was made, those that `hlmm_scan.storage` tried
        again by itself included.
    """

    def __init__(self) -> None:
        self._own = 0
        self._before = storage.retries()

    @property
    def retries(self) -> int:
        return self._own + storage.retries() - self._before

    def __call__(self, action: Callable[[], T]) -> T:
        """Return what `action` returns.

        Parameters
        ----------
        action : callable
            Safe to be done again, wherever it stopped.

        Raises
        ------
        Exception
            That of `action`, where it does not pass or the last try failed.
        """
        for wait in waits(random.random):
            try:
                return action()
            except Exception as error:
                if not storage.transient(error):
                    raise
                self._own += 1
                logger.warning("tried again in %.1f s: %s", wait, error)
                time.sleep(wait)
        return action()


def waits(uniform: Callable[[], float]) -> Iterator[float]:
    """Yield the seconds to wait before each further try.

    Parameters
    ----------
    uniform : callable
        Returns a number from 0 to 1. Workers that failed together shall not come back together,
        so the second half of every wait is left to chance.
    """
    for number in range(TRIES - 1):
        yield min(FIRST_WAIT * 2**number, LONGEST_WAIT) * (1 + uniform()) / 2


@contextmanager
def writing(store: Place) -> Iterator[None]:
    """Write to a store within this block; it must be the same store from beginning to end.

    Zarr makes what folders are missing. Where a mount is lost it would write beneath the mount
    point, to files that nobody ever reads.

    Raises
    ------
    InfrastructureError
        If the store went away.
    HlmmScanError
        If it cannot be written, as :func:`~hlmm_scan.staging.write_error` says.
    """
    if isinstance(store, ObjectPath):  # nothing is mounted there
        try:
            yield
        except OSError as error:
            raise storage_error(store, error) from error
        return
    try:
        metadata = store / "zarr.json"
        metadata.stat()
        before = store.stat()
        yield
        metadata.stat()
        after = store.stat()
    except OSError as error:
        raise storage_error(store, error) from error
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
        raise gone(store)


def storage_error(store: Place, error: OSError) -> HlmmScanError:
    """Return the one-line error for a store that could not be written or read any more."""
    return write_error(store, error) if present(store) else gone(store)


_ROOTS = ("zarr.json", ".zgroup")  # the second of a VCF-Zarr store in Zarr's older format


def present(store: Place) -> bool:
    """Say whether a Zarr store still stands at a path, and can be looked into."""
    try:
        if isinstance(store, ObjectPath):
            return any((store / root).is_file() for root in _ROOTS)
        root = next((r for r in _ROOTS if (store / r).exists()), _ROOTS[0])
        return (store / root).stat().st_size > 0
    except OSError:
        return False


def gone(store: Place) -> InfrastructureError:
    """Return the one-line error for a store that went away under a run."""
    why = "no answer" if isinstance(store, ObjectPath) else "a lost mount"
    return InfrastructureError(
        f"{store}: not there any more ({why}, or moved, or deleted); bring it back and run "
        "the same command again"
    )
