"""What a caller gives: tables, lists and options, as a configuration holds them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlmm_scan import storage
from hlmm_scan.cohort.frames import is_labelled
from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.storage import ObjectPath, Place

KINDS = {f.name: f.metadata["kind"] for f in fields(ScanConfig)}
"""How each option of a scan is read."""


class Tables:
    """Tables in memory, and the paths by which a configuration knows them."""

    def __init__(self) -> None:
        self._by_id: dict[int, Path] = {}
        self.at_hand: dict[Path, Any] = {}

    def put(self, name: str, data: Any) -> Path:
        """Take a table, or leave a path."""
        if isinstance(data, str | Path):
            return Path(data)
        if id(data) not in self._by_id:
            number = f" {len(self.at_hand)}" if self.at_hand else ""
            where = storage.absolute(Path(f"<{name}{number}>"))
            assert isinstance(where, Path)
            self.at_hand[where] = data
            self._by_id[id(data)] = where
        return self._by_id[id(data)]

    def put_all(self, name: str, data: Any) -> tuple[Path, ...]:
        """Take a table or several."""
        if data is None:
            return ()
        several = list(data) if isinstance(data, list | tuple) else [data]
        return tuple(self.put(name, one) for one in several)


class Spill:
    """A temporary folder for short lists that are read from files."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def lines(self, lines: Sequence[str]) -> Path:
        """Write lines to a file of their own."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="hlmm-scan-")
        self._files += 1
        path = Path(self._folder.name) / f"{self._files}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def cleanup(self) -> None:
        """Remove what was written."""
        if self._folder is not None:
            self._folder.cleanup()


def option_value(name: str, value: Any, spill: Spill) -> Any:
    """Return the value of an option as the configuration holds it."""
    kind = KINDS[name]
    if kind == "path" and not isinstance(value, str | Path):
        return spill.lines(lines_of(name, value))
    if kind == "path":
        return Path(value)
    if kind == "store":
        return storage.place(value)
    if kind == "names":
        return (value,) if isinstance(value, str) else tuple(map(str, value))
    if kind in ("number", "whole"):
        return value.item() if isinstance(value, np.generic) else value
    return value


def lines_of(name: str, value: Any) -> list[str]:
    """Return the lines of a list of ids, or of a table."""
    if isinstance(value, pd.DataFrame):
        frame = value
        if not isinstance(frame.index, pd.RangeIndex):
            frame = frame.reset_index(names=["FID", "IID"][-frame.index.nlevels :])
        cells = frame.astype(object).where(frame.notna(), "NA")
        rows = ["\t".join(map(str, row)) for row in cells.itertuples(index=False)]
        return rows if name in ("keep", "remove") else ["\t".join(map(str, frame.columns)), *rows]
    if is_labelled(value) or isinstance(value, Mapping):
        raise InputError(f"{name}: a path, a sequence of ids or a DataFrame is needed")
    return [str(one) for one in value]


def beside(output: Place) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder that workers who write to the output can read."""
    if isinstance(output, ObjectPath):
        raise InputError(
            "genotypes in memory go to a folder beside the output, which is in an object store; "
            "convert them there first"
        )
    folder = output.absolute().parent
    try:
        return tempfile.TemporaryDirectory(prefix=f".{output.name}-genotypes-", dir=folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror})") from error
