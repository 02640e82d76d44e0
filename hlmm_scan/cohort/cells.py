"""The body of a table: from bytes to ids and numbers, with the line of every fault.

Two readers of one grammar. The fast one checks the shape of the file with numpy and lets pandas'
C parser convert it; whatever that parser refuses, or would take for something else, goes to the
slow one, which walks line by line and names the line, the column and the text of the first fault.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.errors import InputError

StrArray = NDArray[np.object_]

_BLOCK = 1 << 24
"""Bytes looked at together when fields are counted; bounds the temporaries."""

_ALWAYS_MISSING = frozenset({"", "na", "nan"})
_TOKEN = re.compile(r'"([^"]*)"|([^ \t]+)')
_SEPARATOR_WORDS = {"\t": "tab-separated ", ",": "comma-separated ", " ": ""}


@dataclass(frozen=True)
class Missing:
    """Which cells are missing.

    Attributes
    ----------
    texts : frozenset of str
        Cells that are missing as they stand; empty, NA and NaN in any case always are.
    numbers : frozenset of float
        The same where the text is a number: a listed -9 also stands for -9.0.
    """

    texts: frozenset[str]
    numbers: frozenset[float]

    @classmethod
    def of(cls, listed: Sequence[str]) -> Missing:
        """Make the rule from the values that the user lists."""
        texts = frozenset(text.strip() for text in listed)
        return cls(texts, frozenset(x for text in texts if not math.isnan(x := number(text))))

    def __contains__(self, cell: str) -> bool:
        if cell in self.texts or cell.lower() in _ALWAYS_MISSING:
            return True
        return bool(self.numbers) and number(cell) in self.numbers

    def spellings(self) -> list[str]:
        """Every text that is missing, for a parser that knows no upper and lower case."""
        words = [""]
        for word in ("na", "nan"):
            cases = [""]
            for letter in word:
                cases = [head + form for head in cases for form in (letter, letter.upper())]
            words += cases
        return sorted({*words, *self.texts})


@dataclass(frozen=True)
class Layout:
    """How the lines of one table are divided.

    Attributes
    ----------
    path : str
        The file, as error messages name it.
    separator : {"\\t", ",", " "}
        The blank stands for any run of blanks and tabs.
    n_ids : int
        Leading id columns: 2 (FID, IID) or 1 (IID).
    columns : tuple of str
        Names of the value columns.
    first_line : int
        Line number in the file (from 1) of the first line of the body.
    levels : frozenset of int
        Value columns, counted from 0, that hold levels; the others hold numbers.
    named : frozenset of int
        Those of them whose levels may be numbers, because the user named the column.
    level_option : str, default ""
        How a column of levels is named; where there is such a way, errors tell it.
    """

    path: str
    separator: str
    n_ids: int
    columns: tuple[str, ...]
    first_line: int
    levels: frozenset[int] = frozenset()
    named: frozenset[int] = frozenset()
    level_option: str = ""

    @property
    def n_fields(self) -> int:
        """Fields in every line."""
        return self.n_ids + len(self.columns)

    def ragged(self, line: int, found: int) -> InputError:
        """The error for a line with another number of fields."""
        words = _SEPARATOR_WORDS[self.separator]
        return InputError(
            f"{self.path}, line {line}: expected {self.n_fields} {words}fields, found {found}"
        )

    def bad_cell(self, line: int, column: int, cell: str) -> InputError:
        """The error for a cell that is not what its column holds; columns count from 0."""
        name, value = self.columns[column], number(cell)
        if column in self.levels:
            wrong = "is a number in a column that begins with words"
        else:
            wrong = "is not finite" if math.isinf(value) else "is not a number"
        if self.level_option and (column in self.levels or math.isnan(value)):
            wrong += f"; {self.level_option} {name} takes the column's cells for levels"
        return InputError(f"{self.path}, line {line}, column '{name}': '{cell}' {wrong}")

    def is_bad(self, column: int, cell: str) -> bool:
        """Whether a cell that is not missing is not what its column holds."""
        value = number(cell)
        if column in self.levels:
            return column not in self.named and not math.isnan(value)
        return not math.isfinite(value)


@dataclass(frozen=True)
class Cells:
    """A parsed body.

    Attributes
    ----------
    ids : tuple of ndarray of object (str), each shape (rows,)
        The id columns.
    values : ndarray of float64, shape (rows, columns)
        The value columns; NaN where missing. Of a column of levels, positions among its levels.
    lines : ndarray of int64, shape (rows,)
        Line number of each row in the file, from 1.
    levels : mapping of int to tuple of str
        By value column, the levels that occur, sorted as text.
    """

    ids: tuple[StrArray, ...]
    values: NDArray[np.float64]
    lines: NDArray[np.int64]
    levels: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


def number(cell: str) -> float:
    """The number in a cell, NaN where there is none."""
    # float() also takes 1_000 and digits of other scripts, which no other program would.
    if "_" in cell or not cell.isascii():
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return math.nan


def split_line(line: str, separator: str) -> list[str]:
    """Fields of one line, without the blanks and quotation marks around them."""
    if separator == " ":
        return [quoted or bare for quoted, bare in _TOKEN.findall(line)]
    if '"' not in line:
        return [cell.strip() for cell in line.split(separator)]
    row = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    return [cell.strip() for cell in row]


def parse_body(body: bytes, layout: Layout, missing: Missing) -> Cells:
    """Ids and values of the lines below the header.

    Parameters
    ----------
    body : bytes
        UTF-8 text with ``\\n`` line ends.
    layout : Layout
    missing : Missing

    Raises
    ------
    InputError
        For a line with another number of fields, a cell that is no finite number (or, in a column
        of levels that was not named, a number), or a quotation mark that does not close on its
        line.
    """
    plain = _without_quotes(body, layout)
    if plain is None:
        return _parse_slowly(body, layout, missing)
    starts, n_fields = _shape(plain, layout.separator)
    rows = np.flatnonzero(n_fields)
    if not len(rows):
        return _parse_slowly(body, layout, missing)
    ragged = rows[n_fields[rows] != layout.n_fields]
    if len(ragged):
        row = int(ragged[0])
        raise layout.ragged(layout.first_line + row, int(n_fields[row]))
    try:
        ids, values, levels = _parse_fast(plain, layout, missing)
    except ValueError:
        return _parse_slowly(body, layout, missing)
    if len(values) != len(rows):  # the two disagree about what a line is: trust neither
        return _parse_slowly(body, layout, missing)
    if missing.numbers:
        listed = np.isin(values, list(missing.numbers))
        listed[:, list(layout.levels)] = False
        values[listed] = np.nan
    infinite = np.isinf(values)
    if infinite.any():
        row, column = (int(i) for i in np.argwhere(infinite)[0])
        line = plain[starts[rows[row]] :].split(b"\n", 1)[0].decode()
        cell = split_line(line, layout.separator)[layout.n_ids + column]
        raise layout.bad_cell(layout.first_line + int(rows[row]), column, cell)
    return Cells(ids, values, layout.first_line + rows.astype(np.int64), levels)


def columns_of_words(body: bytes, layout: Layout, missing: Missing) -> frozenset[int]:
    """Return the value columns whose first cell that is not missing is no number.

    Lines with another number of fields are passed over: parsing names them.
    """
    unseen = set(range(len(layout.columns)))
    words = set()
    start = 0
    while unseen and start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        cells = split_line(body[start:end].decode(), layout.separator)
        start = end + 1
        if len(cells) != layout.n_fields:
            continue
        for column, cell in enumerate(cells[layout.n_ids :]):
            if column in unseen and cell not in missing:
                unseen.remove(column)
                if math.isnan(number(cell)):
                    words.add(column)
    return frozenset(words)


def _without_quotes(body: bytes, layout: Layout) -> bytes | None:
    """The body without its quotation marks, or None where they change how a line divides."""
    if b'"' not in body:
        return body
    text = np.frombuffer(body, np.uint8)
    inside = np.logical_xor.accumulate(text == ord('"'))
    line_ends = inside & (text == ord("\n"))
    unclosed = int(np.argmax(line_ends)) if line_ends.any() else len(body) if inside[-1] else None
    if unclosed is not None:
        line = layout.first_line + body.count(b"\n", 0, unclosed)
        raise InputError(f"{layout.path}, line {line}: a quotation mark is not closed")
    divides = (text == ord(layout.separator)) | (text == ord("\t")) | (text == ord(" "))
    # A pair around nothing is a field of its own where runs of blanks separate.
    if (inside & divides).any() or (layout.separator == " " and b'""' in body):
        return None
    # Marks that stand within a field, or are doubled, belong to it.
    edge = np.concatenate([[True], divides | (text == ord("\n")), [True]])
    marks = np.flatnonzero(text == ord('"'))
    if not (edge[marks[::2]].all() and edge[marks[1::2] + 2].all()):
        return None
    return body.replace(b'"', b"")


def _shape(body: bytes, separator: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each line starts, and how many fields it has (0 where it is blank)."""
    text = np.frombuffer(body, np.uint8)
    all_starts, all_counts = [], []
    begin = 0
    while begin < len(body):
        end = body.rfind(b"\n", begin, begin + _BLOCK) + 1
        if end == 0:  # one line longer than a block, or the last without its line end
            end = body.find(b"\n", begin + _BLOCK) + 1 or len(body)
        block = text[begin:end]
        starts = np.flatnonzero(block == ord("\n")) + 1
        starts = np.concatenate([[0], starts[starts < len(block)]])
        inked = (block != ord("\n")) & (block != ord(" "))
        if separator != "\t":
            inked &= block != ord("\t")
        if separator == " ":
            inked[1:] &= ~inked[:-1].copy()  # only the first byte of every field remains
            counts = np.add.reduceat(inked, starts, dtype=np.int64)
        else:
            counts = np.add.reduceat(block == ord(separator), starts, dtype=np.int64) + 1
            counts[~np.logical_or.reduceat(inked, starts)] = 0
        all_starts.append(starts + begin)
        all_counts.append(counts)
        begin = end
    if not all_starts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(all_starts), np.concatenate(all_counts)


def _parse_fast(
    body: bytes, layout: Layout, missing: Missing
) -> tuple[tuple[StrArray, ...], NDArray[np.float64], dict[int, tuple[str, ...]]]:
    """Ids, values and levels by pandas' C parser; ValueError where a cell is not as it must be."""
    n_ids, n_fields = layout.n_ids, layout.n_fields
    text = {*range(n_ids), *(n_ids + column for column in layout.levels)}
    # The overloads of read_csv know no mapping of missing values by integer column name.
    options: dict[str, Any] = {
        "sep": r"\s+" if layout.separator == " " else layout.separator,
        "header": None,
        "names": list(range(n_fields)),
        "index_col": False,
        "dtype": {i: object if i in text else np.float64 for i in range(n_fields)},
        "na_values": {i: missing.spellings() for i in range(n_ids, n_fields)},
        "keep_default_na": False,  # a person may be called NA
        "skipinitialspace": True,
        "quoting": csv.QUOTE_NONE,
        "encoding": "utf-8",
    }
    if tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1):
        options["float_precision"] = "round_trip"  # later versions always round correctly
    frame = pd.read_csv(io.BytesIO(body), **options)
    ids = tuple(frame[i].to_numpy(dtype=object) for i in range(n_ids))
    if layout.separator != " ":
        ids = tuple(np.array([text.strip() for text in column], object) for column in ids)
    # pandas takes true and false for 1 and 0 in a column of numbers, and cannot be told not to.
    if (truths := _truths(body)) and truths != sum(_truths_in(frame[i]) for i in sorted(text)):
        raise ValueError
    levels = {}
    for column in sorted(layout.levels):
        cells = frame[n_ids + column].to_numpy(dtype=object)
        frame[n_ids + column], levels[column] = _coded(cells, missing)
        if any(layout.is_bad(column, level) for level in levels[column]):
            raise ValueError
    values = frame.iloc[:, n_ids:].to_numpy(dtype=np.float64)
    # A copy: pandas may hand out memory of its own, read-only and in column order.
    return ids, np.array(values, order="C"), levels


def _truths(text: bytes) -> int:
    """How often true or false stands in a text."""
    lower = text.lower()
    return lower.count(b"true") + lower.count(b"false")


def _truths_in(column: pd.Series[Any]) -> int:
    """The same for a column of texts."""
    counts = column.value_counts()
    return sum(_truths(str(cell).encode()) * int(count) for cell, count in counts.items())


def _coded(cells: StrArray, missing: Missing) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Positions of cells among their levels, NaN where missing, and the levels."""
    codes, found = pd.factorize(cells)  # −1 where pandas found a cell missing
    stripped = [str(cell).strip() for cell in found]
    levels = tuple(sorted({cell for cell in stripped if cell not in missing}))
    position = {level: float(k) for k, level in enumerate(levels)}
    return np.array([*(position.get(cell, np.nan) for cell in stripped), np.nan])[codes], levels


def _parse_slowly(body: bytes, layout: Layout, missing: Missing) -> Cells:
    """The same grammar as `_parse_fast`, one line at a time; the first fault is named."""
    ids: list[list[str]] = []
    rows: list[NDArray[np.float64]] = []
    words: dict[int, list[str]] = {column: [] for column in sorted(layout.levels)}
    lines: list[int] = []
    blanks = " " if layout.separator == "\t" else " \t"
    for line_number, line in enumerate(body.decode().split("\n"), layout.first_line):
        if not line.strip(blanks):
            continue
        cells = split_line(line, layout.separator)
        if len(cells) != layout.n_fields:
            raise layout.ragged(line_number, len(cells))
        row = np.empty(len(layout.columns))
        for column, cell in enumerate(cells[layout.n_ids :]):
            row[column] = np.nan if cell in missing else number(cell)
            if cell not in missing and layout.is_bad(column, cell):
                raise layout.bad_cell(line_number, column, cell)
            if column in words:
                words[column].append(cell)
        ids.append(cells[: layout.n_ids])
        rows.append(row)
        lines.append(line_number)
    columns = np.array(ids, object).reshape(len(ids), layout.n_ids)
    values = np.array(rows, np.float64).reshape(len(rows), len(layout.columns))
    id_columns = tuple(columns[:, i].copy() for i in range(layout.n_ids))
    levels = {}
    for column, cells in words.items():
        values[:, column], levels[column] = _coded(np.array(cells, object), missing)
    return Cells(id_columns, values, np.array(lines, np.int64), levels)
