"""Making a folder all at once: built beside its place under a temporary name, then renamed.

A temporary folder belongs to the process that holds the lock file in it. The kernel lets go of the
lock when that process ends, however it ends, so whoever finds the lock free may sweep the folder;
process ids would mislead between containers.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hlmm_scan.errors import HlmmScanError, InfrastructureError, InputError

_SUFFIX = ".partial"
_LOCK = "lock"
_REPLACED = "replaced"
_CONTENT = "content"

_UNLOCKED_AGE = 3600.0
"""Seconds after which a temporary folder without a lock file counts as abandoned."""

_USERS_TO_MEND = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EFBIG,
}
"""Errors that trying again cannot help."""

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of the quota",
    errno.EROFS: "choose another place",
    errno.EACCES: "choose another place",
    errno.EPERM: "choose another place",
}
"""What a user can do about them."""


def write_error(target: Path, error: OSError) -> HlmmScanError:
    """Return the one-line error for a failed write to ``target``.

    Parameters
    ----------
    target : Path
        What the user asked for, not the temporary file that happened to fail.
    error : OSError

    Returns
    -------
    HlmmScanError
        `InputError` where the user has to act (disk full, read-only, no permission), else
        `InfrastructureError`.
    """
    kind = InputError if error.errno in _USERS_TO_MEND else InfrastructureError
    remedy = _REMEDIES.get(error.errno or 0)
    advice = f"; {remedy} and run the same command again" if remedy else ""
    return kind(f"{target}: cannot be written: {error.strerror or error}{advice}")


@contextmanager
def staged_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a new folder to fill; it takes the place of ``target`` when the block ends well.

    Whatever ends the block otherwise, an interrupt included, the folder is removed and the
    target is as it was.

    Parameters
    ----------
    target : Path
        Where the content will stand. Its parent must exist.
    replace : bool, default False
        Whether something may stand there, which is then removed. Whether it may be removed at
        all is for the caller to decide.

    Yields
    ------
    Path
        An empty folder on the same file system.

    Raises
    ------
    InputError
        On a write that the user must mend: disk full, read-only, no permission, or a target that
        appeared meanwhile.
    InfrastructureError
        On any other failed write.
    """
    try:
        if not target.parent.is_dir():
            raise InputError(f"{target}: cannot be written: there is no folder {target.parent}")
        sweep(target)
        temporary, lock = _locked_folder(target)
    except OSError as error:
        raise write_error(target, error) from error
    try:
        content = temporary / _CONTENT
        content.mkdir()
        yield content
        if replace and target.exists():
            target.rename(temporary / _REPLACED)
        elif target.exists():
            # rename would take an empty folder's place without a word.
            raise InputError(f"{target}: something appeared there meanwhile; nothing was written")
        content.rename(target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        _put_back(temporary, target)
        shutil.rmtree(temporary, ignore_errors=True)
        lock.close()


def sweep(target: Path) -> list[Path]:
    """Remove what processes that are gone left of writing ``target``.

    Returns
    -------
    list of Path
        The folders removed.
    """
    swept = []
    for folder in sorted(target.parent.glob(_pattern(target))):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
    return swept


def _prefix(target: Path) -> str:
    return f".{target.name}."


def _pattern(target: Path) -> str:
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in _prefix(target))
    return f"{escaped}*{_SUFFIX}"


def _locked_folder(target: Path) -> tuple[Path, IO[bytes]]:
    """Make a temporary folder beside ``target`` and hold its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(_SUFFIX, _prefix(target), target.parent))
        try:
            lock = (folder / _LOCK).open("wb")
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Someone sweeping came between making the file and locking it: the folder is lost.
            lock.close()
            continue
        except OSError:
            # A file system without locks: then nobody can take the folder for abandoned either.
            return folder, lock
        if (folder / _LOCK).exists():
            return folder, lock
        lock.close()


def _abandoned(folder: Path) -> bool:
    try:
        # A mode that does not make the file where there is none.
        with (folder / _LOCK).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        # Just made by someone, or half removed by someone.
        try:
            return time.time() - folder.stat().st_mtime > _UNLOCKED_AGE
        except OSError:
            return False
    except OSError:
        return False


def _put_back(temporary: Path, target: Path) -> None:
    """Undo the first of a replacement's two renames where the second did not happen."""
    replaced = temporary / _REPLACED
    if replaced.exists() and not target.exists():
        replaced.rename(target)
