"""The grammar of a table's body: how lines divide, which cells are missing, what a fault says."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.cohort.words import advice, looks_missing, number, numbers_in_disguise, shown

_ALWAYS_MISSING = frozenset({"", "na", "nan"})
_TOKEN = re.compile(r'"([^"]*)"|([^ \t]+)')
_SEPARATOR_WORDS = {"\t": "tab-separated ", ",": "comma-separated ", " ": ""}

csv.field_size_limit(2**31 - 1)  # a cell may be as long as it likes


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
        texts = frozenset(split_missing(listed))
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
    wanted : tuple of int
        Value columns that are read, counted from 0, ascending; the others may hold anything.
    levels : frozenset of int
        Those of them that hold levels; the others hold numbers.
    named : frozenset of int
        Those of them whose levels may be numbers, because the user named the column.
    level_option : str, default ""
        How a column of levels is named; where there is such a way, faults tell it.
    """

    path: str
    separator: str
    n_ids: int
    columns: tuple[str, ...]
    first_line: int
    wanted: tuple[int, ...]
    levels: frozenset[int] = frozenset()
    named: frozenset[int] = frozenset()
    level_option: str = ""

    @property
    def n_fields(self) -> int:
        """Fields in every line."""
        return self.n_ids + len(self.columns)

    def ragged(self, line: int, found: int) -> str:
        """The fault of a line with another number of fields."""
        words = _SEPARATOR_WORDS[self.separator]
        return f"line {line}: expected {self.n_fields} {words}fields, found {found}"

    def bad_cells(self, column: int, cells: Mapping[str, int], count: int) -> str:
        """The fault of a column with cells that are not what it holds.

        Parameters
        ----------
        column : int
        cells : mapping of str to int
            Different ones with their first lines, the first one first.
        count : int
            Lines with such a cell.
        """
        cell, line = next(iter(cells.items()))
        words = column in self.levels
        more = f" (and {count - 1:,} more cells)" if count > 1 else ""
        name = self.columns[column]
        wrong = advice(cells, name, self.level_option, words=words)
        return f"line {line}, column '{shown(name)}': '{shown(cell)}'{more} {wrong}"

    def bad_levels(self, column: int, levels: Sequence[str]) -> list[str]:
        """Return those levels of a column that were meant for something else."""
        if column in self.named:
            return []
        disguised = set(numbers_in_disguise(levels))
        return [
            level
            for level in levels
            if level in disguised or looks_missing(level) or not math.isnan(number(level))
        ]


@dataclass(frozen=True)
class Cells:
    """A parsed body.

    Attributes
    ----------
    ids : tuple of ndarray of object (str), each shape (rows,)
        The id columns.
    values : ndarray of float64, shape (rows, wanted columns)
        The columns wanted; NaN where missing. Of a column of levels, positions among its levels.
    lines : ndarray of int64, shape (rows,)
        Line number of each row in the file, from 1.
    levels : mapping of int to tuple of str
        By value column, the levels that occur, sorted as text.
    faults : tuple of str
        What is wrong with lines as a whole. The lines are left out.
    bad_columns : mapping of int to str
        By value column, what is wrong with its cells; they are NaN, or levels all the same.
    """

    ids: tuple[Strings, ...]
    values: NDArray[np.float64]
    lines: NDArray[np.int64]
    levels: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    bad_columns: Mapping[int, str] = field(default_factory=dict)


def split_missing(listed: Sequence[str]) -> list[str]:
    """Return the texts that mean missing: ``-9,-3`` lists two."""
    return [text.strip() for given in listed for text in given.split(",") if text.strip()]


def split_line(line: str, separator: str) -> list[str]:
    """Fields of one line, without the blanks and quotation marks around them."""
    if separator == " ":
        return [quoted or bare for quoted, bare in _TOKEN.findall(line)]
    if '"' not in line:
        return [cell.strip() for cell in line.split(separator)]
    row = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    return [cell.strip() for cell in row]


def coded(cells: Strings, missing: Missing) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Positions of cells among their levels, NaN where missing, and the levels."""
    codes, found = pd.factorize(cells)  # −1 where pandas found a cell missing
    stripped = [str(cell).strip() for cell in found]
    levels = tuple(sorted({cell for cell in stripped if cell not in missing}))
    position = {level: float(k) for k, level in enumerate(levels)}
    return np.array([*(position.get(cell, np.nan) for cell in stripped), np.nan])[codes], levels
