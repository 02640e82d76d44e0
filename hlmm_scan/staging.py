"""Making a store all at once, so that one that exists is whole.

A folder is built beside its place under a temporary name, then renamed; what it replaces changes
places with it in one step, where the system can do that. A temporary folder belongs to the process
that holds the lock file in it. The kernel lets go of the lock when that process ends, however it
ends, so whoever finds the lock free may sweep the folder; process ids would mislead between
containers.

Object stores have no renaming. There a store is built in its place with its root's metadata under
another name, and stands once an object of the right name is put, the last of all. What has only
the other name is unfinished, and belongs to the process that holds the lease beside it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from hlmm_scan.errors import HlmmScanError, InfrastructureError, InputError, StoreHeldError
from hlmm_scan.storage import ObjectPath, Place, UnfinishedPath, transient
from hlmm_scan.storage.durable import sync_folder, sync_tree
from hlmm_scan.storage.exchange import exchange
from hlmm_scan.storage.lease import FOLDER as LEASES
from hlmm_scan.storage.lease import held_alone
from hlmm_scan.storage.places import ROOT, UNFINISHED_ROOT

_SUFFIX = ".partial"
_LOCK = "lock"
_REPLACED = "replaced"
_CONTENT = "content"
_PURPOSE = "purpose"

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


class AppearedError(InputError):
    """Another process put something where this one was to put a store."""


def write_error(target: Place, error: OSError) -> HlmmScanError:
    """Return the one-line error for a failed write to ``target``.

    Parameters
    ----------
    target : Path or ObjectPath
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


def read_error(source: Place, error: OSError) -> HlmmScanError:
    """Return the one-line error for a failed read of ``source``."""
    kind = InfrastructureError if transient(error) else InputError
    return kind(f"{source}: cannot be read: {error.strerror or error}")


def stands(target: Place) -> bool:
    """Return whether something stands at a place; an unfinished store of ours does not count.

    Raises
    ------
    HlmmScanError
        If an object store does not answer, or refuses.
    """
    if isinstance(target, Path):
        return target.exists() or target.is_symlink() or _brought_back(target)
    try:
        return (target / ROOT).is_file() or (
            not (target / UNFINISHED_ROOT).is_file()
            and any(not name.startswith(f"{LEASES}/") for name in target.objects())
        )
    except OSError as error:
        raise read_error(target, error) from error


def refuse_link(target: Place) -> None:
    """Raise an error where what is to be replaced is a link.

    Replacing the link would leave what it leads to, and put the new store on another disk perhaps;
    following it would remove something that the command does not name.

    Raises
    ------
    InputError
    """
    if isinstance(target, Path) and target.is_symlink():
        raise InputError(
            f"{target}: a link to {target.resolve()}; name that itself to overwrite it, or remove "
            "the link"
        )


@contextmanager
def staged_store(
    target: Place,
    *,
    replace: bool = False,
    resume: str | None = None,
    held: Callable[[Path], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Place]:
    """Give a place where a Zarr store may be made; it is at ``target`` when the block ends well.

    Whatever ends the block otherwise, there is nothing at the target but what stood there before.
    On object stores there is only one place: what is to be replaced is removed at the beginning.

    Parameters
    ----------
    target : Path or ObjectPath
    replace : bool, default False
    resume : str, optional
    held : callable, optional
        As for :func:`staged_folder`. Nothing is resumed on object stores, nor are there locks.

    Yields
    ------
    Path or ObjectPath
        To be opened by :func:`hlmm_scan.storage.zarr_store`.

    Raises
    ------
    StoreHeldError
        If another process makes a store there, or uses the one that is to be replaced.
    HlmmScanError
        As for :func:`staged_folder`.
    """
    if isinstance(target, Path):
        with staged_folder(target, replace=replace, resume=resume, held=held) as folder:
            yield folder
        return
    root, unfinished = target / ROOT, target / UNFINISHED_ROOT
    try:
        with held_alone(target) as lease:
            if replace:
                unfinished.write_bytes(b"{}")  # or nobody would know for whose leftovers these are
                root.unlink(missing_ok=True)
            elif stands(target):
                raise AppearedError(
                    f"{target}: something appeared there meanwhile; nothing was written"
                )
            _remove_objects(target)
            try:
                yield UnfinishedPath(target.url, lease.check)
                lease.check()
                root.create(unfinished.read_bytes())
            except BaseException:
                lease.check()  # else another process may be at it
                if not root.is_file():
                    _remove_objects(target)
                raise
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(target, error) from error


def _remove_objects(store: ObjectPath) -> None:
    """Remove all of an unfinished store, last of all what tells that it is one."""
    store.remove_below(lambda name: name == UNFINISHED_ROOT or name.startswith(f"{LEASES}/"))
    (store / UNFINISHED_ROOT).unlink(missing_ok=True)


@contextmanager
def staged_folder(
    target: Path,
    *,
    replace: bool = False,
    resume: str | None = None,
    held: Callable[[Path], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Path]:
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
    resume : str, optional
        What is being made, and of what. A folder that was to become the same and was left by a
        process that was killed, interrupted or lost its workers is gone on with; without it, and
        for other purposes, such leftovers are removed.
    held : callable, optional
        Gives, for `target`, what holds what stands there while it is replaced; it raises
        StoreHeldError where somebody uses it, and what was made is left to be resumed.

    Yields
    ------
    Path
        A folder on the same file system; empty, unless another process began to fill it. A file
        beside it, in its parent, does not come along to the target.

    Raises
    ------
    InputError
        On a write that the user must mend: disk full, read-only, no permission.
    AppearedError
        If something came to stand at the target meanwhile.
    InfrastructureError
        On any other failed write.
    """
    try:
        if not target.parent.is_dir():
            raise InputError(f"{target}: cannot be written: there is no folder {target.parent}")
        left = None if resume is None else _left_for(target, resume)
        sweep(target)
        temporary, lock = left or locked_folder(target)
    except OSError as error:
        raise write_error(target, error) from error
    keep = False
    try:
        content = temporary / _CONTENT
        content.mkdir(exist_ok=left is not None)
        if resume is not None:
            (temporary / _PURPOSE).write_text(resume, encoding="utf-8")
        try:
            yield content
        except BaseException as error:
            keep = resume is not None and (
                not isinstance(error, Exception) or isinstance(error, InfrastructureError)
            )
            raise
        # All of it on the disk before it stands where others rely on it.
        sync_tree(content)
        try:
            _put_in_place(temporary, target, replace, held)
        except StoreHeldError:
            keep = resume is not None
            raise
        sync_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        _put_back(temporary, target)
        if not keep:
            remove(temporary)
        lock.close()


def unfinished_folders(target: Path) -> list[tuple[Path, bool]]:
    """Return the folders in which ``target`` is being made, or was, and whether it still is."""
    found = sorted(target.parent.glob(_pattern(target)))
    return [(folder, not _abandoned(folder)) for folder in found]


def _put_in_place(
    temporary: Path,
    target: Path,
    replace: bool,
    held: Callable[[Path], AbstractContextManager[object]],
) -> None:
    content, replaced = temporary / _CONTENT, temporary / _REPLACED
    if replace and target.exists():
        with held(target):
            # Out of its place first, or a kill would leave the old store as content to resume.
            content.rename(replaced)
            if exchange(replaced, target):
                return
            replaced.rename(content)
            target.rename(replaced)
            content.rename(target)
        return
    appeared = AppearedError(f"{target}: something appeared there meanwhile; nothing was written")
    if target.exists():  # rename would take an empty folder's place without a word
        raise appeared
    try:
        content.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise appeared from None
        raise


def sweep(target: Place) -> list[Path]:
    """Remove what processes that are gone left of writing ``target``, where that stands.

    Returns
    -------
    list of Path
        The folders removed.
    """
    if isinstance(target, ObjectPath):
        with contextlib.suppress(OSError):  # no harm but the look of it
            (target / UNFINISHED_ROOT).unlink(missing_ok=True)
        return []
    swept = []
    for folder in sorted(target.parent.glob(_pattern(target))):
        if _abandoned(folder):
            _put_back(folder, target)
            remove(folder)
            swept.append(folder)
    return swept


def remove(temporary: Path) -> None:
    """Remove a temporary folder, its lock the last of all: a kill meanwhile leaves one to sweep."""
    with contextlib.suppress(OSError):
        for entry in list(temporary.iterdir()):
            if entry.name != _LOCK:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)


def _prefix(target: Path) -> str:
    return f".{target.name}."


def _pattern(target: Path) -> str:
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in _prefix(target))
    return f"{escaped}*{_SUFFIX}"


def locked_folder(target: Path) -> tuple[Path, IO[bytes]]:
    """Make a temporary folder beside ``target`` and hold its lock; see :func:`remove`."""
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
            # A power cut must not leave a folder that nobody can tell from one just made.
            sync_folder(folder)
            return folder, lock
        lock.close()


def _left_for(target: Path, purpose: str) -> tuple[Path, IO[bytes]] | None:
    """Lock a folder that another process left unfinished and that was to become the same."""
    for folder in sorted(target.parent.glob(_pattern(target))):
        try:
            lock = (folder / _LOCK).open("r+b")
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Without content it was put in place, and only the old one not yet removed.
            here = (folder / _CONTENT).is_dir()
            if here and (folder / _PURPOSE).read_text(encoding="utf-8") == purpose:
                return folder, lock
        except (OSError, ValueError):
            pass
        lock.close()
    return None


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


def _put_back(temporary: Path, target: Path) -> bool:
    """Undo the first of a replacement's two renames where the second did not happen."""
    replaced = temporary / _REPLACED
    half_done = replaced.exists() and (temporary / _CONTENT).exists()
    if half_done and not target.exists():
        replaced.rename(target)
        return True
    return False


def _brought_back(target: Path) -> bool:
    """Put a store back that a process was about to replace when it was killed."""
    try:
        left = [folder for folder in target.parent.glob(_pattern(target)) if _abandoned(folder)]
        return any(_put_back(folder, target) for folder in left)
    except OSError:
        return False
