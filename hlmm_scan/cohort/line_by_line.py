"""The body of a table read line by line: slow, and knows all that is wrong, and where."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hlmm_scan.cohort.grammar import Cells, Layout, Missing, coded, split_line
from hlmm_scan.cohort.words import number

_BAD_CELLS_KEPT = 40
"""Different cells of a column that a message is made of."""


class _Column:
    """One column as the slow reader meets it: numbers, or words, and what is wrong."""

    def __init__(self, of_levels: bool) -> None:
        self.of_levels = of_levels
        self.cells: list[Any] = []
        self.bad: dict[str, int] = {}
        self.n_bad = 0

    def add(self, cell: str, line: int, missing: Missing) -> None:
        if self.of_levels:
            self.cells.append((cell, line))
            return
        value = math.nan if cell in missing else number(cell)
        if not math.isfinite(value) and cell not in missing:
            self.note(cell, line)
            value = math.nan
        self.cells.append(value)

    def note(self, cell: str, line: int) -> None:
        self.n_bad += 1
        if cell in self.bad or len(self.bad) < _BAD_CELLS_KEPT:
            self.bad.setdefault(cell, line)


def parse_lines(body: bytes, layout: Layout, missing: Missing) -> Cells:
    """The same grammar as the fast reader's, one line at a time; every fault is kept."""
    ids: list[list[str]] = []
    columns = {column: _Column(column in layout.levels) for column in layout.wanted}
    lines: list[int] = []
    faults: list[str] = []
    blanks = " " if layout.separator == "\t" else " \t"
    for line_number, line in enumerate(body.decode().split("\n"), layout.first_line):
        if not line.strip(blanks):
            continue
        cells = split_line(line, layout.separator)
        if len(cells) != layout.n_fields:
            faults.append(layout.ragged(line_number, len(cells)))
            continue
        for column, found in columns.items():
            found.add(cells[layout.n_ids + column], line_number, missing)
        ids.append(cells[: layout.n_ids])
        lines.append(line_number)
    values = np.empty((len(lines), len(columns)))
    levels = {}
    for position, (column, found) in enumerate(columns.items()):
        if found.of_levels:
            words = np.array([cell for cell, _ in found.cells], object)
            values[:, position], levels[column] = coded(words, missing)
            bad = set(layout.bad_levels(column, levels[column]))
            for cell, line_number in found.cells if bad else ():
                if cell in bad:
                    found.note(cell, line_number)
        else:
            values[:, position] = found.cells
    id_columns = np.array(ids, object).reshape(len(ids), layout.n_ids)
    return Cells(
        tuple(id_columns[:, i].copy() for i in range(layout.n_ids)),
        values,
        np.array(lines, np.int64),
        levels,
        tuple(faults),
        {
            column: layout.bad_cells(column, found.bad, found.n_bad)
            for column, found in columns.items()
            if found.bad
        },
    )
