"""A span of a large file as a small file of its own, for libraries that read from the top."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def as_file(parts: Iterable[bytes]) -> Iterator[str]:
    """Give the path of a file that holds these bytes, in memory where the system can.

    Parameters
    ----------
    parts : iterable of bytes

    Yields
    ------
    str
        Good until the block ends.
    """
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("hlmm-scan"), "wb") as file:
            file.writelines(parts)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.NamedTemporaryFile("wb") as file:
        file.writelines(parts)
        file.flush()
        yield file.name
