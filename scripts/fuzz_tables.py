#!/usr/bin/env python3
"""Random tables through the reader of tables: a right answer, or one line that says what is wrong.

Each table is written from values that are known: separators, quotation marks, headers, blanks,
line ends, encodings, ids, numbers and words for missing are drawn. A clean one must be read as it
was written. One with a fault must be refused in one line that names the file; where a fault does no
harm, what is read must still be what was written.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import math
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

from hlmm_scan.cohort.table import Table
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError

IDS = ("NA", "nan", "007", "7", "1e5", "true", "é", "Ø-1", "x.y", "-9", "a_b", "0", "p'q", "日本")
WORDS = ("Leeds", "York", "Hull", "Köln", "a b", "TRUE", "stage 1", "<18", "18-65", "x,y", "T2")
MISSING = ("", "NA", "na", "NaN", "nan")
LISTED = (".", "None", "-9", "N/A", "missing")
NOT_NUMBERS = (
    "45,1", "45y", "1.234,5", "tall", ".", "None", "#N/A", "-", "?", "inf", "-Infinity", "1e999",
    "1_0", "0x1F", "٣", "−5", "1 000", "true", "12kg", "\x1b[2J", "5" * 400 + "e", "null",
)  # fmt: skip
NAMES = ("height", "bmi", "PC1", "größe", "weight, kg", "sex", 'q"q', "age")


def number(draw: random.Random) -> tuple[str, float]:
    """Draw a number as text, and what it is."""
    value = draw.choice(
        [
            draw.uniform(-5, 5),
            float(draw.randint(-99, 99)),
            draw.gauss(0, 1) * 10.0 ** draw.randint(-300, 300),
            1e15 + draw.randint(-9, 9),
            -0.0,
        ]
    )
    forms = [repr(value), f"{value:.17g}", f"{value:+.17e}"]
    if value == int(value) and abs(value) < 1e6:
        forms += [str(int(value)), f"{int(value)}.", f"{int(value)}.00"]
    text = draw.choice(forms)
    return text, float(text)


class Written:
    """One table: what was meant, and the bytes of its file."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.separator = draw.choice(["\t", "\t", ",", " ", "  ", " \t"])
        self.blank = self.separator.strip(" \t") == "" and self.separator != "\t"
        self.family = draw.random() < 0.6
        n, columns = draw.randint(1, 8), draw.randint(1, 4)
        self.names = draw.sample(NAMES, columns)
        people = [(draw.choice(IDS), f"{draw.choice(IDS)}{k}") for k in range(n)]
        self.ids = [who if self.family else who[1:] for who in people]
        self.levels = [draw.random() < 0.25 for _ in range(columns)]
        self.listed = [w for w in LISTED if draw.random() < 0.2]
        self.cells: list[list[str]] = []
        self.values: list[list[float | str | None]] = []
        for _ in range(n):
            pairs = [self._cell(of_levels) for of_levels in self.levels]
            self.cells.append([text for text, _ in pairs])
            self.values.append([value for _, value in pairs])
        if any(self.levels) and n < 3:
            self.levels = [False] * columns
            for row, values in zip(self.cells, self.values, strict=True):
                for k in range(columns):
                    if isinstance(values[k], str):
                        row[k], values[k] = "1", 1.0
        self.header = draw.random() < 0.85
        self.harmful = False

    def _cell(self, of_levels: bool) -> tuple[str, float | str | None]:
        if self.draw.random() < 0.15:
            there = [m for m in (*MISSING, *self.listed) if m or not self.blank]
            return self.draw.choice(there), None
        if of_levels:
            # The first decides that the column holds words, whatever follows.
            word = self.draw.choice(WORDS)
            return word, word
        while True:
            text, value = number(self.draw)
            if not ("-9" in self.listed and value == -9):
                return text, value

    def spoil(self) -> None:
        """Put in one fault."""
        draw, self.harmful = self.draw, True
        row = draw.randrange(len(self.cells))
        kind = draw.choice(["cell", "short", "long", "twice", "name", "id"])
        if kind == "cell":
            numbers = [k for k, levels in enumerate(self.levels) if not levels]
            if numbers:
                column = draw.choice(numbers)
                there = [w for w in NOT_NUMBERS if w not in self.listed]
                self.cells[row][column] = draw.choice(there)
                # A level, where nothing says that the column holds numbers.
                self.values[row][column] = self.cells[row][column]
                return
            kind = "short"
        if kind == "short":
            self.cells[row] = self.cells[row][:-1]
        elif kind == "long":
            self.cells[row] = [*self.cells[row], "1"]
        elif kind == "twice":
            self.ids.append(self.ids[row])
            self.cells.append(list(self.cells[row]))
        elif kind == "name" and len(self.names) > 1 and self.header:
            self.names[1] = self.names[0]
        elif kind == "id" and not self.blank:
            self.ids[row] = (*self.ids[row][:-1], "")
        else:
            self.cells[row] = []

    def content(self) -> bytes:
        """Return the bytes of the file."""
        draw = self.draw
        ids = draw.choice([["FID", "IID"], ["#FID", "IID"], ["fid", "iid"]])
        rows = [[*who, *row] for who, row in zip(self.ids, self.cells, strict=False)]
        if self.header:
            rows.insert(0, [*(ids if self.family else ids[1:]), *self.names])
        quoted = draw.random() < 0.2
        lines = []
        for row in rows:
            line = self.separator.join(self._field(cell, quoted) for cell in row)
            if draw.random() < 0.1 and self.separator != "\t":
                line = f" {line} "
            lines.append(line)
            if draw.random() < 0.05:
                lines.append(draw.choice(["", "  "]))
        end = draw.choice(["\n", "\n", "\r\n", "\r"])
        text = end.join(lines) + draw.choice(["", end])
        encoding = draw.choice(["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-32"])
        content = text.encode(encoding)
        if draw.random() < 0.02 and not text.isascii():
            with contextlib.suppress(UnicodeEncodeError):
                content, self.harmful = text.encode("latin-1"), True
        return gzip.compress(content) if draw.random() < 0.1 else content

    def _field(self, cell: str, quoted: bool) -> str:
        comma = self.separator == ","
        must = any(c in cell for c in (' "' if self.blank else '",' if comma else '"'))
        if not (must or quoted):
            return cell
        if self.blank and ('"' in cell or not cell):
            return cell.replace('"', "").replace(" ", "_")
        return '"' + cell.replace('"', '""') + '"'

    def readable(self) -> bool:
        """Return whether the grammar can hold what was meant."""
        cells = [c for row in (self.names, *self.cells, *self.ids) for c in row]
        if self.blank and any('"' in c or " " in c or not c for c in cells):
            return False
        if not self.header:
            if len(self.cells) == 1 and len(self.cells[0]) != len(self.names):
                return False  # no other line says how many fields there are
            first = self.values[0]
            return self.family and all(not isinstance(v, str) for v in first)
        # Commas in a line without tabs separate, and blanks in an id mean blanks do.
        return not (self.blank and any("," in name for name in self.names))

    def check(self, table: Table) -> str | None:
        """Return what was read otherwise than written, or None."""
        if list(map(str, table.individual_id)) != [who[-1] for who in self.ids]:
            return f"people {list(table.individual_id)} for {self.ids}"
        families = [] if table.family_id is None else list(table.family_id)
        if families != [who[0] for who in self.ids if self.family]:
            return f"families {families}"
        if self.header and list(table.columns) != self.names:
            return f"columns {table.columns} for {self.names}"
        for k, row in enumerate(self.values):
            for j, value in enumerate(row):
                name, found = table.columns[j], table.values[k, j]
                if value is None:
                    same = math.isnan(found)
                elif isinstance(value, str):
                    there = table.levels.get(name, ())
                    same = not math.isnan(found) and bool(there) and there[int(found)] == value
                else:
                    same = name not in table.levels and found == value
                if not same:
                    return f"'{self.cells[k][j]}' in row {k}, column '{name}' became {found}"
        return None


def try_one(seed: int, folder: Path) -> str:
    """Write and read one table; return what became of it, or raise AssertionError."""
    draw = random.Random(seed)
    written = Written(draw)
    if draw.random() < 0.3:
        written.spoil()
    path = folder / "table.txt"
    path.write_bytes(written.content())
    try:
        table = read_table(path, missing_values=[",".join(written.listed)], categorical=())
    except InputError as error:
        line = str(error)
        assert line.isprintable(), f"seed {seed}: unprintable: {line!r}"
        assert str(path) in line, f"seed {seed}: no file named: {line[:300]}"
        assert len(line) < 2000, f"seed {seed}: {len(line)} characters: {line[:300]}"
        may_fail = written.harmful or not written.readable()
        assert may_fail, f"seed {seed}: refused without a fault: {line}"
        return "refused"
    if not written.readable():
        return "of no grammar"
    wrong = None if len(table) != len(written.ids) else written.check(table)
    assert wrong is None, f"seed {seed}: {wrong}"
    assert len(table) == len(written.ids), f"seed {seed}: {len(table)} people"
    assert not written.harmful or _harmless(written), f"seed {seed}: a fault was read over"
    return "read"


def _harmless(written: Written) -> bool:
    """Return whether a fault that was put in is none: the values were compared all the same."""
    return all(len(row) == len(written.names) for row in written.cells) and len(
        set(written.ids)
    ) == len(written.ids)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="500 tables, a few seconds")
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first table")
    parser.add_argument("-o", "--output", type=Path, help="folder for fuzz_tables.json")
    arguments = parser.parse_args()
    n = 500 if arguments.quick else arguments.tables
    outcomes: dict[str, int] = {}
    failures = []
    np.seterr(all="raise", under="ignore")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seed, arguments.seed + n):
            try:
                outcome = try_one(seed, Path(folder))
            except Exception as error:
                outcome = "wrong"
                failures.append(f"{type(error).__name__}: {error}")
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    for failure in failures[:10]:
        print(failure, file=sys.stderr)
    print(f"{n:,} tables: " + ", ".join(f"{count:,} {what}" for what, count in outcomes.items()))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"tables": n, **outcomes})
        (arguments.output / "fuzz_tables.json").write_text(text, encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
