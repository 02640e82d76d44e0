"""Files that commands write: whole at their name, or as they were before.

A file is made in a temporary folder beside its place (:mod:`hlmm_scan.staging` says whose that is),
then renamed, so of two writers of one file the last one's stands, whole. A link at the name is
replaced, and what it leads to is left alone. Pipes and devices are written into, once all is made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hlmm_scan.errors import InputError
from hlmm_scan.staging import locked_folder, remove, sweep, write_error

_OF_THIS_PROCESS = re.compile(r"/(?:dev/fd|proc/(?:self|thread-self|[0-9]+)/fd)/([0-9]+)")
_MOST_LINKS = 40


@contextmanager
def staged_file(target: Path, companions: Sequence[str] = ()) -> Iterator[Path]:
    """Give the name of a file to write; it takes the place of `target` if all goes well.

    Parameters
    ----------
    target : Path
        A pipe or a character device gets the content when it is whole, and stays what it is.
    companions : sequence of str, default none
        Endings of files beside it that belong to it: new ones come along, old ones go.

    Yields
    ------
    Path
        Of the same name, in a folder where nothing else is.

    Raises
    ------
    InputError
        If the file cannot be written, or is a folder or a disk.
    """
    try:
        if goes_elsewhere(target):
            if companions:
                raise InputError(
                    f"{target}: a pipe or device; {' or '.join(companions)} would have no place "
                    "beside it, name a file"
                )
            with tempfile.TemporaryDirectory() as folder:
                scratch = Path(folder) / target.name
                yield scratch
                with scratch.open("rb") as made, _opened(target) as stream:
                    shutil.copyfileobj(made, stream)
            return
        if not target.parent.is_dir():
            raise InputError(f"{target}: cannot be written: there is no folder {target.parent}")
        sweep(target)
        temporary, lock = locked_folder(target)
        try:
            made_in = temporary / "made"
            made_in.mkdir()
            yield made_in / target.name
            _put_in_place(made_in, target, companions)
        finally:
            remove(temporary)
            lock.close()
    except OSError as error:
        raise write_error(target, error) from error


@contextmanager
def staged_text(target: Path) -> Iterator[IO[str]]:
    """Open a text file to write that stands at its name once it is whole, or not at all.

    Parameters
    ----------
    target : Path
        As for :func:`staged_file`. UTF-8, whatever the locale; line ends are written as they are
        given.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    with staged_file(target) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        yield file


def goes_elsewhere(target: Path) -> bool:
    """Return whether a name is that of a pipe or a device, which keep nothing under it.

    Raises
    ------
    InputError
        If it is a disk.
    """
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    if stat.S_ISBLK(mode):
        raise InputError(f"{target}: a disk, which is not written over; name a file")
    return _descriptor(target) is not None or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _put_in_place(made_in: Path, target: Path, companions: Sequence[str]) -> None:
    if target.is_dir() and not target.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    # Several files of two writers at once must not come to stand mixed.
    with _alone_in(target.parent) if companions else contextlib.nullcontext():
        for suffix in companions:
            target.with_name(target.name + suffix).unlink(missing_ok=True)
        for file in sorted(made_in.iterdir()):
            file.replace(target.with_name(file.name))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for other processes of ours that put files into a folder: a matter of moments."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _opened(target: Path) -> Iterator[IO[bytes]]:
    """Open a pipe or device to write into it, never a file that took its place."""
    number = _descriptor(target)
    # A file behind /dev/stdout would be cut to nothing if it were opened again.
    descriptor = os.dup(number) if number is not None else os.open(target, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as stream:
        yield stream


def _descriptor(target: Path) -> int | None:
    """Return the open file of this process that a name such as /dev/stdout stands for."""
    path = Path(os.path.abspath(target))  # noqa: PTH100 (links are followed one by one)
    for _ in range(_MOST_LINKS):
        found = _OF_THIS_PROCESS.fullmatch(str(path))
        if found:
            return int(found[1])
        if not path.is_symlink():
            return None
        path = Path(os.path.abspath(path.parent / path.readlink()))  # noqa: PTH100
    return None
