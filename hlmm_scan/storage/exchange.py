"""Two folders changing places in one step, which Python has no function for."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM}
"""What kernels and file systems without it answer (NFS among them)."""


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places, so that neither is missing for a moment.

    Returns
    -------
    bool
        False where the system or the file system cannot do that; nothing was done.

    Raises
    ------
    OSError
        If one of them is not there, or may not be moved.
    """
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@lru_cache(maxsize=1)
def _renameat2() -> Any:
    """Return Linux' system call as the C library has it; None elsewhere."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    path, number = ctypes.c_char_p, ctypes.c_int
    call.argtypes = [number, path, number, path, ctypes.c_uint]
    call.restype = number
    return call
