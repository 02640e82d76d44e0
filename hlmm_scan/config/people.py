"""Who is analysed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hlmm_scan.config.declared import Group, option

SEXES = ("male", "female")


@dataclass(frozen=True)
class People(Group):
    """Who is analysed."""

    title: ClassVar[str] = "People"

    keep: Path | None = option(
        None, "path", "People to analyse and no others: IID or FID IID, one a line."
    )
    remove: Path | None = option(None, "path", "People to leave out: IID or FID IID, one a line.")
    only_sex: str | None = option(None, "choice", "Analyse people of this sex only.", choices=SEXES)
