"""Phenotype and covariate tables: reading, checking and choosing columns."""

from __future__ import annotations

import codecs
import hashlib
import math
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.cohort.cells import columns_of_words, parse_body
from hlmm_scan.cohort.columns import named
from hlmm_scan.cohort.grammar import Layout, Missing, split_line
from hlmm_scan.cohort.table import FAMILY, INDIVIDUAL, Table
from hlmm_scan.cohort.words import number, shown
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.readers.cross_files import EXTENSIONS as CROSS_EXTENSIONS
from hlmm_scan.packed import unpacked

_FAULTS_TOLD = 5
_MARK = codecs.BOM_UTF8
_WIDE = (
    ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),  # the first begins as UTF-16's does
    ((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
)


def read_table(
    path: str | os.PathLike[str],
    *,
    missing_values: Sequence[str] = ("NA",),
    categorical: Collection[str] | None = None,
    only: Collection[str] | None = None,
    faults_by_column: bool = False,
) -> Table:
    """Read a phenotype or covariate table.

    The file is plain or gzipped text, separated by tabs, commas or blanks (the first line
    decides), with a header ``FID IID name…`` or ``IID name…`` (also ``#FID``, ``#IID``; any
    case). Without a header the columns are FID, IID and the values, named ``phenotype_1`` and
    on. Fields may stand in double quotation marks; blank lines are skipped. Files named .parquet,
    .zarr or .nc, and crosses of R/qtl2 (.zip, .yaml, .json), are read as
    :mod:`~hlmm_scan.cohort.frames` says.

    Parameters
    ----------
    path : path-like
        The file.
    missing_values : sequence of str, default ("NA",)
        Cells that are missing, besides the empty cell, NA and NaN in any case, which always are;
        one text may list several with commas. A number is missing however it is written: -9 also
        means -9.0.
    categorical : collection of str, optional
        Columns, where the table has them, whose cells are levels: texts, also where they look like
        numbers. A column of words is one of levels by itself, and a number in it, also one with a
        comma or a unit, an error: which of the two was meant cannot be told. So is a usual word
        for missing. Without this all columns are numbers.
    only : collection of str, optional
        Columns to read, where the table has them, as :func:`~hlmm_scan.cohort.columns.named` takes
        them; the others may hold anything. Default: all.
    faults_by_column : bool, default False
        Whether a column that is not as it must be is no error, but among the table's faults.

    Returns
    -------
    Table
        Rows and columns in the order of the file.

    Raises
    ------
    InputError
        If the file cannot be read or is no text; is empty, has no people or no value columns; the
        first line is neither header nor data; lines have another number of fields; a cell is no
        finite number, or no level; a column name or a person occurs twice, or is empty. All faults
        of the body are told together.
    """
    path = Path(path)
    if path.suffix in (".parquet", ".zarr", ".nc", *CROSS_EXTENSIONS):
        from hlmm_scan.cohort.frames import read_frame

        return read_frame(
            path,
            missing_values=missing_values,
            categorical=categorical,
            only=only,
            faults_by_column=faults_by_column,
        )
    missing = Missing.of(missing_values)
    text, sha256 = read_text(path)
    first_line, line, end = _first_line(text, path)
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
                f"or data 'FID IID value…'; found '{shown(line)}'"
            )
        n_ids = 2
        names = [f"phenotype_{i}" for i in range(1, len(values) + 1)]
        body = text[end - len(line.encode()) :]
    else:
        n_ids = len(fields) - len(names)
        body = text[end + 1 :]
        first_line += 1
    del text
    read = set(names if only is None else named(only, names))
    wanted = [k for k, name in enumerate(names) if name in read]
    _check_names([(k, names[k]) for k in wanted], path)

    layout = Layout(str(path), separator, n_ids, tuple(names), first_line, tuple(wanted))
    if categorical is not None:
        told = frozenset(k for k in wanted if names[k] in categorical)
        levels = told | columns_of_words(body, layout, missing)
        layout = replace(layout, levels=levels, named=told, level_option="--categorical")
    cells = parse_body(body, layout, missing)
    faults = [*cells.faults, *_faults_of_ids(cells.ids, cells.lines)]
    by_column = {names[k]: f"{path}, {fault}" for k, fault in cells.bad_columns.items()}
    if not faults_by_column:
        faults += cells.bad_columns.values()
    if faults:
        more = f"; and {len(faults) - _FAULTS_TOLD:,} more" if len(faults) > _FAULTS_TOLD else ""
        raise InputError(f"{path}, {'; '.join(faults[:_FAULTS_TOLD])}{more}")
    if not len(cells.lines):
        raise InputError(f"{path} has a header but no people")
    cells.values.flags.writeable = False
    for ids in cells.ids:
        ids.flags.writeable = False
    return Table(
        path,
        cells.ids[0] if n_ids == 2 else None,
        cells.ids[-1],
        tuple(names[k] for k in wanted),
        cells.values,
        sha256,
        {names[column]: levels for column, levels in cells.levels.items()},
        tuple(name for k, name in enumerate(names) if k not in set(wanted)),
        by_column,
    )


def _first_line(text: bytes, path: Path) -> tuple[int, str, int]:
    """Number, text and end of the first line that is not blank."""
    start, number_ = 0, 1
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end]
        if line.strip(b" \t"):
            return number_, line.decode(), end
        start, number_ = end + 1, number_ + 1
    raise InputError(f"{path} is empty")


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
    for marks, encoding in _WIDE:
        if content.startswith(marks):
            try:
                content = content.decode(encoding).encode()
            except UnicodeDecodeError:
                raise InputError(f"{path} is not a text file") from None
            break
    if b"\0" in content:
        raise InputError(f"{path} is not a text file")
    if not content.isascii():
        try:
            content.decode()
        except UnicodeDecodeError as error:
            # Read in another encoding a name is another name, and would be found nowhere.
            line = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
            raise InputError(
                f"{path}, line {line}: not text in UTF-8; if it is in latin-1, iconv -f latin1 "
                "-t utf8 makes it so"
            ) from None
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if _MARK in content:  # files with a mark, one put after the other
        content = content.removeprefix(_MARK).replace(b"\n" + _MARK, b"\n")
    return content


def separator_of(line: str) -> str:
    """The separator that the first line shows."""
    if "\t" in line:
        # A blank within an id: the file mixes blanks and tabs, and any run of them separates.
        ids = split_line(line, "\t")[:2]
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


def _check_names(names: Sequence[tuple[int, str]], path: Path) -> None:
    seen = set()
    for position, name in names:
        if not name:
            raise InputError(f"{path}: data column {position + 1} has no name")
        if name in seen:
            raise InputError(f"{path}: two columns are named '{shown(name)}'")
        seen.add(name)


def _faults_of_ids(ids: tuple[Strings, ...], lines: NDArray[np.int64]) -> list[str]:
    """What is wrong with the people: empty ids, and whoever occurs more than once."""
    faults = []
    for column, label in zip(ids, ("FID", "IID")[-len(ids) :], strict=True):
        empty = np.flatnonzero(column == "")
        faults += [f"line {lines[row]}: the {label} is empty" for row in empty[:_FAULTS_TOLD]]
    # No id holds a line end, so that no two pairs can run together alike. (NUL would not do:
    # numpy drops it from the end of a string.)
    keys = ids[0] if len(ids) == 1 else ids[0] + "\n" + ids[1]
    repeated = pd.Index(keys).duplicated()
    for second in np.flatnonzero(repeated)[:_FAULTS_TOLD]:
        first = int(np.argmax(keys == keys[second]))
        family = f"FID '{shown(ids[0][second])}' " if len(ids) == 2 else ""
        faults.append(
            f"line {lines[second]}: {family}IID '{shown(ids[-1][second])}' occurs twice "
            f"(first in line {lines[first]})"
        )
    return faults
