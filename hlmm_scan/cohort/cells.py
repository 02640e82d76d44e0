"""The body of a table: from bytes to ids and numbers, with the lines of its faults.

Two readers of one grammar. The fast one checks the shape of the file with numpy and lets pandas'
C parser convert it; whatever that parser refuses, or would take for something else, goes to the
slow one, which walks line by line and names line, column and text of what is wrong.
"""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.cohort.grammar import Cells, Layout, Missing, coded, split_line
from hlmm_scan.cohort.line_by_line import parse_lines
from hlmm_scan.cohort.words import disguise, looks_missing, number, numbers_in_disguise
from hlmm_scan.errors import InputError

_BLOCK = 1 << 24
"""Bytes looked at together when fields are counted; bounds the temporaries."""


def parse_body(body: bytes, layout: Layout, missing: Missing) -> Cells:
    """Ids and values of the lines below the header, and all that is wrong with them.

    Parameters
    ----------
    body : bytes
        UTF-8 text with ``\\n`` line ends.
    layout : Layout
    missing : Missing

    Returns
    -------
    Cells
        With faults for lines with another number of fields, and for columns with a cell that is no
        finite number or, in a column of levels that was not named, was not meant for a level.

    Raises
    ------
    InputError
        For a quotation mark that does not close on its line.
    """
    plain = _without_quotes(body, layout)
    if plain is None:
        return parse_lines(body, layout, missing)
    rows, n_fields = _shape(plain, layout.separator)
    if not len(rows) or (n_fields != layout.n_fields).any():
        return parse_lines(body, layout, missing)
    try:
        ids, values, levels = _parse_fast(_without_blanks(plain, layout), layout, missing)
    except ValueError:
        return parse_lines(body, layout, missing)
    if len(values) != len(rows):  # the two disagree about what a line is: trust neither
        return parse_lines(body, layout, missing)
    if missing.numbers:
        listed = np.isin(values, list(missing.numbers))
        listed[:, [layout.wanted.index(column) for column in layout.levels]] = False
        values[listed] = np.nan
    if np.isinf(values).any():
        return parse_lines(body, layout, missing)
    return Cells(ids, values, layout.first_line + rows, levels)


def columns_of_words(body: bytes, layout: Layout, missing: Missing) -> frozenset[int]:
    """Return the wanted columns that hold words: whose first cell to tell is no number.

    Cells that are missing, usually mean it, or are a number in disguise do not tell. A column in
    which none does holds words if its cells can be taken for words.
    Lines with another number of fields are passed over: parsing names them.
    """
    unseen: dict[int, dict[str, None]] = {column: {} for column in layout.wanted}
    words = set()
    start = 0
    while unseen and start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        cells = split_line(body[start:end].decode(), layout.separator)
        start = end + 1
        if len(cells) != layout.n_fields:
            continue
        for column in list(unseen):
            cell = cells[layout.n_ids + column]
            if cell in missing or looks_missing(cell):
                continue
            told = not math.isnan(number(cell))
            if not told and disguise(cell):
                unseen[column][cell] = None
                continue
            del unseen[column]
            if not told:
                words.add(column)
    return frozenset(
        words | {c for c, seen in unseen.items() if seen and not numbers_in_disguise(seen)}
    )


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


def _without_blanks(body: bytes, layout: Layout) -> bytes:
    """The body without blanks before separators: pandas rounds a number otherwise with them."""
    if layout.separator == " ":
        return body
    blanks = b" " if layout.separator == "\t" else b" \t"
    if b" " not in body and layout.separator == "\t":
        return body
    ends = layout.separator.encode() + b"\n"
    return re.sub(rb"(?<![%b])[%b]++(?=[%b]|\Z)" % (blanks, blanks, ends), b"", body)


def _shape(body: bytes, separator: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which lines are not blank, counted from 0, and how many fields each of them has."""
    text = np.frombuffer(body, np.uint8)
    all_counts = []
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
        all_counts.append(counts)
        begin = end
    counts = np.concatenate([np.zeros(0, np.int64), *all_counts])
    rows = np.flatnonzero(counts).astype(np.int64)
    return rows, counts[rows]


def _parse_fast(
    body: bytes, layout: Layout, missing: Missing
) -> tuple[tuple[Strings, ...], NDArray[np.float64], dict[int, tuple[str, ...]]]:
    """Ids, values and levels by pandas' C parser; ValueError where a cell is not as it must be."""
    n_ids, n_fields = layout.n_ids, layout.n_fields
    text = {*range(n_ids), *(n_ids + column for column in layout.levels)}
    wanted = [n_ids + column for column in layout.wanted]
    # pandas takes true and false for 1 and 0 in a column of numbers, and cannot be told not to.
    truths = _truths(body)
    if truths and len(wanted) < len(layout.columns):
        raise ValueError
    # The overloads of read_csv know no mapping of missing values by integer column name.
    options: dict[str, Any] = {
        "sep": r"\s+" if layout.separator == " " else layout.separator,
        "header": None,
        "names": list(range(n_fields)),
        "usecols": [*range(n_ids), *wanted],
        "index_col": False,
        "dtype": {i: object if i in text else np.float64 for i in [*range(n_ids), *wanted]},
        "na_values": {i: missing.spellings() for i in wanted},
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
    if truths and truths != sum(_truths_in(frame[i]) for i in sorted(text)):
        raise ValueError
    levels = {}
    for column in sorted(layout.levels):
        cells = frame[n_ids + column].to_numpy(dtype=object)
        frame[n_ids + column], levels[column] = coded(cells, missing)
        if layout.bad_levels(column, levels[column]):
            raise ValueError
    values = frame[wanted].to_numpy(dtype=np.float64)
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
