"""Tables of hits and checks as files and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pandas as pd

from hlmm_scan.outputs import staged_text
from hlmm_scan.separators import separator_by_name


def write_table(table: pd.DataFrame, output: Path) -> None:
    """Write a table, all at once; what does not exist is ``NA``.

    Separated by commas where the name ends in .csv, else by tabs.

    Raises
    ------
    InputError
        If the file cannot be written, or its name stands for something else.
    """
    separator = separator_by_name(output)
    with staged_text(output) as file:
        table.to_csv(file, sep=separator, index=False, na_rep="NA", lineterminator="\n")


def to_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON types, what does not exist as None."""
    return cast(
        list[dict[str, Any]], json.loads(table.to_json(orient="records", double_precision=15))
    )
