"""How the fits of null models are done: one after another or side by side, and kept when done."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Made = TypeVar("Made")


class Work(Protocol):
    """Does what preparing null models consists of."""

    def each(self, function: Callable[[Item], Made], items: Iterable[Item]) -> Iterable[Made]:
        """Return the function of every item, in their order, worked out in any order."""

    def kept(self, label: str, digest: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what an earlier run kept under a digest, or make it and keep it."""


class InTurn:
    """One thing after the other, nothing kept."""

    def each(self, function: Callable[[Item], Made], items: Iterable[Item]) -> Iterable[Made]:
        """Return the function of every item."""
        return map(function, items)

    def kept(self, label: str, digest: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Make it."""
        return make()


class KeptFiles:
    """Small results of a preparation that may be cut off, one file each.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def get(self, digest: str) -> dict[str, Any] | None:
        """Return what was kept; None where nothing was, or not all of it reached the disk."""
        try:
            found = json.loads(self._path(digest).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def put(self, digest: str, result: dict[str, Any]) -> None:
        """Keep JSON types, numbers to their last bit: the file is whole, or not there."""
        descriptor, scratch = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(result, file)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(self._path(digest))

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.json"


def digest_of_parts(*parts: str | NDArray[Any]) -> str:
    """Return one digest of texts and arrays, which tells their order, shapes and kinds too."""
    digest = hashlib.sha256()
    for part in parts:
        values = np.frombuffer(part.encode(), np.uint8) if isinstance(part, str) else part
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
