"""Columns of text tables, some megabytes at a time, with the line of whatever is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.shown import quoted

_PIECE = 8 << 20
_LONGEST_HEADER = 1 << 20
_MISSING = ("", "NA", "NaN", "nan", "#NA")


class TextColumns:
    """A table with a header, parted by tabs, commas or blanks as the header shows.

    Parameters
    ----------
    path : Path
        Plain, or packed by gzip.

    Attributes
    ----------
    names : list of str
        Of the columns; a leading ``#`` is left off.

    Raises
    ------
    InputError
        If it cannot be read, or its header names a column twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _reading(path), self._open() as file:
            first = file.readline(_LONGEST_HEADER)
        header = self._decoded(first, 1).rstrip("\r\n").removeprefix("\ufeff").removeprefix("#")
        if not header.strip():
            raise InputError(f"{path}: is empty, or has no header")
        self._separator = next((s for s in "\t," if s in header), " ")
        self.names = next(csv.reader([header], delimiter=self._separator))
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise InputError(f"{path}, line 1: two columns are named {quoted(min(twice))}")

    def digest(self) -> str:
        """Return the SHA-256 of the file."""
        return file_digest(self._path)

    def blocks(
        self, columns: Mapping[str, str], texts: Sequence[str]
    ) -> Iterator[tuple[dict[str, NDArray[Any]], Callable[[int], str]]]:
        """Yield some columns under new names, and a function that says where a row stands.

        Parameters
        ----------
        columns : mapping of str to str
            New names by the file's own.
        texts : sequence of str
            Which of the new names are text; others are float64, NaN where missing.

        Raises
        ------
        InputError
            If a line has too many or too few fields, or a cell is no number.
        """
        line = 2
        with _reading(self._path), self._open() as file:
            file.readline(_LONGEST_HEADER)
            left = b""
            while True:
                piece = file.read(_PIECE)
                whole, newline, rest = (left + piece).rpartition(b"\n")
                if piece:
                    if not newline:
                        left = rest
                        continue
                    body, left = whole + newline, rest
                else:
                    body = left + b"\n" if left else b""
                if body:
                    yield self._parsed(body, line, columns, texts)
                    line += body.count(b"\n")
                if not piece:
                    return

    def _parsed(
        self, body: bytes, line: int, columns: Mapping[str, str], texts: Sequence[str]
    ) -> tuple[dict[str, NDArray[Any]], Callable[[int], str]]:
        text = self._decoded(body, line)
        self._check_shape(body, text, line)
        kinds: dict[str, Any] = {n: str if o in texts else np.float64 for n, o in columns.items()}
        numbers = [name for name, kind in kinds.items() if kind is not str]
        options: dict[str, Any] = {
            "sep": self._separator,
            "names": self.names,
            "header": None,
            "usecols": list(columns),
            "keep_default_na": False,
            "skip_blank_lines": False,
            "engine": "c",
        }
        if tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1):
            options["float_precision"] = "round_trip"  # later versions always round correctly
        try:
            frame = pd.read_csv(
                io.StringIO(text), dtype=kinds, na_values=dict.fromkeys(numbers, _MISSING),
                **options,
            )  # fmt: skip
        except (ValueError, OverflowError) as error:
            raise self._bad_cell(text, line, numbers, options) from error
        found = {ours: frame[name].to_numpy() for name, ours in columns.items()}
        for ours in found:
            if ours in texts:
                found[ours] = found[ours].astype(object)
        return found, lambda row: f"{self._path}, line {line + row}"

    def _check_shape(self, body: bytes, text: str, line: int) -> None:
        """Refuse lines of another number of fields: pandas would fill up or shift them."""
        wanted = len(self.names)
        if b'"' in body:
            rows = csv.reader(io.StringIO(text), delimiter=self._separator)
            counts = np.array([len(row) for row in rows], np.int64)
            if len(counts) != body.count(b"\n"):
                raise InputError(
                    f"{self._path}, from line {line} on: a quoted field that holds a line end, or "
                    "does not end"
                )
        else:
            data = np.frombuffer(body, np.uint8)
            ends = np.flatnonzero(data == ord("\n"))
            marks = np.flatnonzero(data == ord(self._separator))
            counts = np.diff(np.searchsorted(marks, ends), prepend=0) + 1
        bad = np.flatnonzero(counts != wanted)
        if len(bad):
            raise InputError(
                f"{self._path}, line {line + bad[0]}: {counts[bad[0]]} fields where the header has "
                f"{wanted}"
            )

    def _bad_cell(
        self, text: str, line: int, numbers: Sequence[str], options: Mapping[str, Any]
    ) -> InputError:
        frame = pd.read_csv(io.StringIO(text), dtype=str, **options)
        for name in numbers:
            cells = frame[name]
            parsed = pd.to_numeric(cells.where(~cells.isin(_MISSING)), errors="coerce")
            bad = np.flatnonzero(parsed.isna() & ~cells.isin(_MISSING))
            if len(bad):
                where = f"{self._path}, line {line + bad[0]}"
                return InputError(f"{where}: {name} is {quoted(cells.iloc[bad[0]])}, not a number")
        return InputError(f"{self._path}, from line {line} on: cells cannot be read as numbers")

    def _decoded(self, body: bytes, line: int) -> str:
        if b"\0" in body:
            raise InputError(f"{self._path}: not a text file")
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            at = line + body.count(b"\n", 0, error.start)
            raise InputError(f"{self._path}, line {at}: not text in UTF-8") from None

    def _open(self) -> IO[bytes]:
        with self._path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return cast(IO[bytes], gzip.open(self._path)) if packed else self._path.open("rb")


class _reading:
    """Say in one line that a file cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, EOFError | gzip.BadGzipFile | zlib.error):
            raise InputError(f"{self._path}: the gzip data are damaged or truncated") from None
        if isinstance(error, OSError):
            raise InputError(f"{self._path}: cannot be read ({error.strerror})") from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with _reading(path), path.open("rb") as file:
        digest = sha256()
        while part := file.read(1 << 20):
            digest.update(part)
        return digest.hexdigest()
