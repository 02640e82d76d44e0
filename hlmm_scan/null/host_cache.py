"""Big arrays decoded once per host, into files that all its processes map.

A file is named by the digest of the array in it, which the result store holds: so runs that need
the same array share it, and whoever opens it can tell that it is what the store means. Whoever
uses a file holds a shared lock on it for as long, and only who gets an exclusive one removes it;
the kernel lets go of a lock when its process ends, however it ends, so that what a killed run left
behind is free to be swept by the next.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "HLMM_SCAN_CACHE"
"""Environment variable that names where the files go; else the system's temporary folder."""

_WHOLE, _PARTIAL = ".npy", ".partial"
_STRIP_BYTES = 16 << 20
_ATTEMPTS = 3
_AGAIN_SECONDS = 0.01


@dataclass(frozen=True)
class StoredArray:
    """An array in the result store and all it takes to have it as a file.

    Attributes
    ----------
    name : str
        For messages: where it is stored.
    digest : str
        As :func:`digest_of` gives it.
    shape : tuple of int
    dtype : numpy.dtype
    strips : callable
        Returns the array anew, as C-ordered runs of consecutive rows.
    """

    name: str
    digest: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strips: Callable[[], Iterable[NDArray[Any]]]

    def mapped(self) -> NDArray[Any]:
        """Return the array, read-only, in memory that all processes of this host share.

        Returns
        -------
        ndarray
            A private copy, with a warning, where the folder cannot be written.

        Raises
        ------
        InputError
            If the array in the store is not the one its digest was taken of.
        """
        array = _arrays.get(self.digest)
        if array is None:
            try:
                array = self._open()
            except OSError as error:
                _warn(error)
                array = self._private()
            _arrays[self.digest] = array
        return array

    def _open(self) -> NDArray[Any]:
        path = _folder() / f"{self.digest}{_WHOLE}"
        for _ in range(_ATTEMPTS):
            descriptor = _open_shared(path)
            if descriptor is None:
                self._decode(path)
                continue
            # A damaged header may raise anything.
            with suppress(Exception):
                array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
                # All of it, at the speed of memory: it has to be read sooner or later.
                if digest_of(array.shape, array.dtype, [array]) == self.digest:
                    _locks[self.digest] = weakref.finalize(array, os.close, descriptor)
                    return array
            logger.warning("%s: damaged, and so made again", path)
            path.unlink(missing_ok=True)
            os.close(descriptor)
        raise OSError(errno.EIO, "files do not stay as they are written", str(path))

    def _decode(self, path: Path) -> None:
        """Put the file into place, unless another process does so first."""
        scratch = path.with_suffix(_PARTIAL)
        with _opened(scratch, os.O_RDWR | os.O_CREAT) as descriptor:
            if not _alone(descriptor, scratch) or path.exists():
                return
            try:
                # A mapped file would answer a full disk with a fatal signal, a written one not.
                with os.fdopen(os.dup(descriptor), "wb") as file:
                    file.truncate(0)
                    header = np.lib.format.header_data_from_array_1_0(
                        np.empty((0,) * len(self.shape), self.dtype)
                    )
                    np.lib.format.write_array_header_1_0(file, {**header, "shape": self.shape})
                    for strip in self._checked():
                        file.write(strip.data)
                scratch.rename(path)
            except BaseException:
                scratch.unlink(missing_ok=True)
                raise

    def _private(self) -> NDArray[Any]:
        array = np.empty(self.shape, self.dtype)
        row = 0
        for strip in self._checked():
            array[row : row + len(strip)] = strip
            row += len(strip)
        array.flags.writeable = False
        return array

    def _checked(self) -> Iterator[NDArray[Any]]:
        """Yield the strips and end with an error where they were not the right ones."""
        found = _start(self.shape, self.dtype)
        for strip in self.strips():
            found.update(strip.data)
            yield strip
        if found.hexdigest() != self.digest:
            raise InputError(f"{self.name}: damaged; start the scan anew with --overwrite")


def digest_of(shape: tuple[int, ...], dtype: np.dtype[Any], strips: Iterable[NDArray[Any]]) -> str:
    """Return the digest by which an array is known: of its shape, type and values.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    strips : iterable of ndarray
        The array as C-ordered runs of consecutive rows; how it is cut does not matter.
    """
    found = _start(shape, dtype)
    for strip in strips:
        found.update(strip.data)
    return str(found.hexdigest())


def strips_of(array: NDArray[Any], dtype: type[np.generic] | None = None) -> Iterator[NDArray[Any]]:
    """Yield runs of rows of 16 MiB, C-ordered, and of another type where one is given."""
    rows = max(1, _STRIP_BYTES // max(1, array.itemsize * array[:1].size))
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows], dtype)


def sweep() -> None:
    """Remove the files that no process uses, after letting go of those of this one.

    Arrays that this process still has stay valid: they keep what they map.
    """
    _arrays.clear()
    while _locks:
        _locks.popitem()[1]()
    with suppress(OSError):
        for path in sorted(_folder(make=False).iterdir()):
            if path.suffix in (_WHOLE, _PARTIAL):
                _remove_unused(path)


_arrays: weakref.WeakValueDictionary[str, NDArray[Any]] = weakref.WeakValueDictionary()
"""By digest, the arrays that somebody in this process has."""

_locks: dict[str, weakref.finalize[[int], NDArray[Any]]] = {}
"""What lets go of the lock of each array once nobody has it any more."""


def _start(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    return hashlib.sha256(f"{dtype.newbyteorder('<').str} {shape} ".encode())


def _folder(make: bool = True) -> Path:
    """Return the folder of this user, made where it is absent.

    Raises
    ------
    OSError
        If it cannot be made, or somebody else could write to it.
    """
    root = Path(os.environ.get(FOLDER_VARIABLE) or tempfile.gettempdir())
    folder = root / f"hlmm-scan-{os.getuid()}"
    if make:
        root.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "it is not a folder of this user alone", str(folder))
    return folder


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_shared(path: Path) -> int | None:
    """Open a file and hold its shared lock; None where there is no such file."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except BaseException:
            os.close(descriptor)
            raise
        if _stands_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # removed between opening and locking


def _alone(descriptor: int, scratch: Path) -> bool:
    """Get the exclusive lock of a file in the making; False once there is no such file any more.

    Waiting for it is for a shared lock: who makes the file renames it and keeps it with a shared
    lock of its own, perhaps before anyone who waits is woken. An exclusive one would then have to
    wait for as long as that process uses the file.
    """
    while _stands_at(descriptor, scratch):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _stands_at(descriptor, scratch)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(_AGAIN_SECONDS)
    return False


def _remove_unused(path: Path) -> None:
    with suppress(OSError), _opened(path, os.O_RDWR) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _stands_at(descriptor, path):
            path.unlink()


def _stands_at(descriptor: int, path: Path) -> bool:
    """Say whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


_warned = False


def _warn(error: OSError) -> None:
    """Say once in each process that there is nothing to share."""
    global _warned
    if not _warned:
        logger.warning(
            "%s: %s; this process keeps the random effects in its own memory instead (set %s to "
            "a folder with room)",
            error.filename or os.environ.get(FOLDER_VARIABLE) or tempfile.gettempdir(),
            error.strerror or error,
            FOLDER_VARIABLE,
        )
    _warned = True
