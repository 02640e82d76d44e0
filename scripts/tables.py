"""Markdown tables, and the two files that every measuring script leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines) + "\n"


def write(folder: Path, name: str, text: str, data: Any) -> None:
    """Write ``name.md`` and ``name.json`` to a folder, which is made; print the text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")
    print(text)
