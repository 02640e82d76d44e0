"""Phenotype and covariate tables: reading, checking and choosing columns."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.cohort.cells import (
    Layout,
    Missing,
    columns_of_words,
    number,
    parse_body,
    split_line,
)
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.packed import unpacked

StrArray = NDArray[np.object_]

FAMILY = {"fid", "#fid"}
INDIVIDUAL = {"iid", "#iid"}


@dataclass(frozen=True, eq=False)
class Table:
    """Numbers and levels of people, as a file gives them. The arrays are read-only.

    Attributes
    ----------
    path : Path
        The file.
    family_id : ndarray of object (str), shape (rows,), or None
        Family ids; None where the file has none.
    individual_id : ndarray of object (str), shape (rows,)
        Individual ids.
    columns : tuple of str
        Names of the value columns; no two alike.
    values : ndarray of float64, shape (rows, columns), C-ordered
        Values in the user's units; NaN where missing, never infinite. Of a column of levels,
        positions among them.
    sha256 : str
        SHA-256 of the file's bytes (of the compressed ones where it is compressed), hexadecimal.
    levels : mapping of str to tuple of str
        By column, its levels, sorted as text; of columns of numbers nothing.
    """

    path: Path
    family_id: StrArray | None
    individual_id: StrArray
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    sha256: str
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.individual_id)

    def index(self, name: str, kind: str = "phenotype") -> int:
        """Return the position of one column.

        Parameters
        ----------
        name : str
            Name of the column, upper and lower case as in the file.
        kind : str, default "phenotype"
            What an error message calls the column, for example "covariate".

        Raises
        ------
        InputError
            If the table has no such column; the nearest name is offered.
        """
        if name in self.columns:
            return self.columns.index(name)
        hint = nearest(name, self.columns)
        if not hint:
            more = f" and {len(self.columns) - 8:,} more" if len(self.columns) > 8 else ""
            hint = f"; it has {', '.join(self.columns[:8])}{more}"
        raise InputError(f"unknown {kind} '{name}' in {self.path}{hint}")

    def select(self, names: Sequence[str], kind: str = "phenotype") -> Table:
        """Return the table with the named columns only, in the order named.

        Parameters
        ----------
        names : sequence of str
            Names of columns.
        kind : str, default "phenotype"
            What an error message calls a column, for example "covariate".

        Raises
        ------
        InputError
            If a name is unknown or named twice.
        """
        for position, name in enumerate(names):
            if name in names[:position]:
                raise InputError(f"{kind} '{name}' is named twice")
        values = np.ascontiguousarray(self.values[:, [self.index(name, kind) for name in names]])
        values.flags.writeable = False
        levels = {name: self.levels[name] for name in names if name in self.levels}
        return replace(self, columns=tuple(names), values=values, levels=levels)


def read_table(
    path: str | os.PathLike[str],
    *,
    missing_values: Sequence[str] = ("NA",),
    categorical: Collection[str] | None = None,
) -> Table:
    """Read a phenotype or covariate table.

    The file is plain or gzipped UTF-8 text, separated by tabs, commas or blanks (the first line
    decides), with a header ``FID IID name…`` or ``IID name…`` (also ``#FID``, ``#IID``; any
    case). Without a header the columns are FID, IID and the values, named ``phenotype_1`` and
    on. Fields may stand in double quotation marks; blank lines are skipped.

    Parameters
    ----------
    path : path-like
        The file.
    missing_values : sequence of str, default ("NA",)
        Cells that are missing, besides the empty cell, NA and NaN in any case, which always are.
        A number is missing however it is written: -9 also means -9.0.
    categorical : collection of str, optional
        Columns, where the table has them, whose cells are levels: texts, also where they look like
        numbers. A column that begins with a word is one of levels by itself, and a number in it an
        error: which of the two was meant cannot be told. Without this all columns are numbers.

    Returns
    -------
    Table
        Rows and columns in the order of the file.

    Raises
    ------
    InputError
        If the file cannot be read or is no text; is empty, has no people or no value columns; the
        first line is neither header nor data; a line has another number of fields; a cell is no
        finite number, or no level; a column name or a person occurs twice, or is empty.
    """
    path = Path(path)
    missing = Missing.of(missing_values)
    text, sha256 = read_text(path)
    first = re.search(rb"(?m)^[ \t]*+[^ \t\n][^\n]*", text)
    if first is None:
        raise InputError(f"{path} is empty")
    line = first.group().decode()
    first_line = text.count(b"\n", 0, first.start()) + 1
    separator = separator_of(line)
    fields = split_line(line, separator)
    names = _header(fields, path, first_line)
    if names is None:
        values = fields[2:]
        if not values or not all(
            cell in missing or not math.isnan(number(cell)) for cell in values
        ):
            raise InputError(
                f"{path}, line {first_line}: expected a header 'FID IID name…' or 'IID name…', "
                f"or data 'FID IID value…'; found '{_shortened(line)}'"
            )
        n_ids = 2
        names = [f"phenotype_{i}" for i in range(1, len(values) + 1)]
        body_start = first.start()
    else:
        n_ids = len(fields) - len(names)
        body_start = first.end() + 1
        first_line += 1
    _check_names(names, path)
    body = text[body_start:]
    del text

    layout = Layout(str(path), separator, n_ids, tuple(names), first_line)
    if categorical is not None:
        named = frozenset(k for k, name in enumerate(names) if name in categorical)
        levels = named | columns_of_words(body, layout, missing)
        layout = replace(layout, levels=levels, named=named, level_option="--categorical")
    cells = parse_body(body, layout, missing)
    if not len(cells.lines):
        raise InputError(f"{path} has a header but no people")
    _check_ids(cells.ids, cells.lines, path)
    cells.values.flags.writeable = False
    for ids in cells.ids:
        ids.flags.writeable = False
    family_id = cells.ids[0] if n_ids == 2 else None
    by_name = {names[column]: levels for column, levels in cells.levels.items()}
    return Table(path, family_id, cells.ids[-1], tuple(names), cells.values, sha256, by_name)


def read_text(path: Path) -> tuple[bytes, str]:
    """Return a file as UTF-8 text with ``\\n`` line ends, and the SHA-256 of its bytes.

    Raises
    ------
    InputError
        If it cannot be read, or is no text.
    """
    content = _read_bytes(path)
    return _as_text(content, path), hashlib.sha256(content).hexdigest()


def _read_bytes(path: Path) -> bytes:
    """The file as it lies on disk."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _as_text(content: bytes, path: Path) -> bytes:
    """UTF-8 text with ``\\n`` line ends, decompressed and without a byte-order mark."""
    content = unpacked(content, path)
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        raise InputError(f"{path} is not a text file")
    if not content.isascii():
        try:
            content.decode()
        except UnicodeDecodeError as error:
            line = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
            raise InputError(f"{path} is not a text file in UTF-8 (line {line})") from None
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content


def separator_of(line: str) -> str:
    """The separator that the first line shows."""
    if "\t" in line:
        # A blank within an id: the file mixes blanks and tabs, and any run of them separates.
        ids = [cell.strip() for cell in line.split("\t")[:2]]
        if ids[0].lower() in INDIVIDUAL:
            ids = ids[:1]
        return " " if any(" " in cell for cell in ids) else "\t"
    return "," if "," in line else " "


def _header(fields: list[str], path: Path, line: int) -> list[str] | None:
    """Names of the value columns, or None where the line is no header."""
    lower = [field.lower() for field in fields]
    if lower[0] in INDIVIDUAL:
        names = fields[1:]
    elif lower[0] in FAMILY and len(lower) > 1 and lower[1] in INDIVIDUAL:
        names = fields[2:]
    elif lower[0] in FAMILY:
        raise InputError(f"{path}, line {line}: in the header, FID must be followed by IID")
    else:
        return None
    if not names:
        raise InputError(f"{path} has no data columns")
    for name in names:
        if name.lower() in FAMILY | INDIVIDUAL:
            raise InputError(
                f"{path}, line {line}: column '{name}' is out of place; "
                "a header begins 'FID IID' or 'IID'"
            )
    return names


def _check_names(names: list[str], path: Path) -> None:
    seen = set()
    for position, name in enumerate(names, 1):
        if not name:
            raise InputError(f"{path}: data column {position} has no name")
        if name in seen:
            raise InputError(f"{path}: two columns are named '{name}'")
        seen.add(name)


def _check_ids(ids: tuple[StrArray, ...], lines: NDArray[np.int64], path: Path) -> None:
    for column, label in zip(ids, ("FID", "IID")[-len(ids) :], strict=True):
        empty = column == ""
        if empty.any():
            raise InputError(f"{path}, line {lines[np.argmax(empty)]}: the {label} is empty")
    # No id holds a line end, so that no two pairs can run together alike. (NUL would not do:
    # numpy drops it from the end of a string.)
    keys = ids[0] if len(ids) == 1 else ids[0] + "\n" + ids[1]
    repeated = pd.Index(keys).duplicated()
    if repeated.any():
        second = int(np.argmax(repeated))
        first = int(np.argmax(keys == keys[second]))
        person = f"FID '{ids[0][second]}' " if len(ids) == 2 else ""
        raise InputError(
            f"{path}: {person}IID '{ids[-1][second]}' occurs twice "
            f"(lines {lines[first]} and {lines[second]})"
        )


def _shortened(line: str, width: int = 60) -> str:
    return line if len(line) <= width else line[:width] + "…"
