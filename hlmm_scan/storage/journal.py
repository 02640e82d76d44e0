"""What is done of some work, a line of JSON each, in a file beside what is being made.

A line is on the disk before anybody relies on it; the one in which a process was killed does not
count. What a line vouches for must be on the disk before the line is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hlmm_scan.storage.durable import write_durably


class Journal:
    """A file of records, written by one process at a time.

    Parameters
    ----------
    path : Path or None
        None where nothing can be noted: then nothing is.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """Return what earlier processes noted."""
        if self.path is None or not self.path.is_file():
            return []
        lines = self.path.read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"}\n")]

    def begin(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write these records anew."""
        if self.path is not None:
            write_durably(self.path, "".join(map(_line, records)).encode())

    def note(self, record: Mapping[str, Any]) -> None:
        """Add a record."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(record))
                file.flush()
                os.fsync(file.fileno())


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
