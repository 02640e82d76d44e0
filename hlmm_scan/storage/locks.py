"""Locks on files of a store, so that nobody replaces what somebody reads or writes.

The kernel frees them with their process, however it ends. What is locked is a file that stands
unchanged as long as its store does, so a lock needs no file of its own and no leave to write.
Object stores have none of this: there readers look again at what they read (:func:`identity`).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hlmm_scan.storage.places import ROOT, ObjectPath, Place

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a file system without locks answers."""

_HELD_BY_OTHERS = (errno.EAGAIN, errno.EACCES)
_ROOTS = (ROOT, ".zgroup", ".zattrs")  # the others of Zarr's older format


@contextmanager
def locked(file: Path, *, alone: bool) -> Iterator[bool]:
    """Hold the lock of a file: alone, or together with others.

    Parameters
    ----------
    file : Path
        The lock is of the file that stands there when it is taken: one that was replaced meanwhile
        does not count.
    alone : bool

    Yields
    ------
    bool
        False where the file system knows no locks.

    Raises
    ------
    BlockingIOError
        If others hold it.
    OSError
        If there is no such file, or it cannot be opened.
    """
    descriptor, known = _hold(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield known
    finally:
        os.close(descriptor)


def _hold(file: Path, operation: int) -> tuple[int, bool]:
    while True:
        descriptor = _open(file, operation)
        try:
            known = _lock(descriptor, operation)
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor, known
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(file: Path, operation: int) -> int:
    """Open a file for its lock; network file systems want it writable by who wants it alone."""
    if operation == fcntl.LOCK_EX:
        try:
            return os.open(file, os.O_RDWR)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
    return os.open(file, os.O_RDONLY)


def _lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_BY_OTHERS:
            raise BlockingIOError(*error.args) from None
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


def root_file(store: Path) -> Path:
    """Return the file of a Zarr store that is locked by who reads or replaces all of it."""
    return next((store / name for name in _ROOTS if (store / name).is_file()), store / ROOT)


def identity(store: Place) -> Any:
    """Return what tells the store that stands at a place from any other that stands there later.

    A few looks, however large the store; equal values mean the same store. Stores made by other
    programs may be written over in place, which the times of their arrays' folders tell.

    Raises
    ------
    OSError
        If nothing stands there, or it cannot be looked at.
    """
    if isinstance(store, ObjectPath):
        content, version = store.read_root(_ROOTS)
        return content, tuple(sorted(version.items()))
    root = root_file(store).stat()
    with os.scandir(store) as entries:
        folders = [(e.name, e.stat()) for e in entries if e.is_dir(follow_symlinks=False)]
    return (
        (root.st_dev, root.st_ino, root.st_mtime_ns, root.st_size),
        tuple(sorted((name, s.st_ino, s.st_mtime_ns) for name, s in folders)),
    )
