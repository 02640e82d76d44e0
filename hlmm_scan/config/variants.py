"""Which variants get rows, and which of these numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hlmm_scan.config.declared import Group, option

DEFAULT_MIN_MAF = 0.01
DEFAULT_MIN_MAC = 20
DEFAULT_MAX_MISSING = 0.05


@dataclass(frozen=True)
class Variants(Group):
    """Which variants get rows, and which of these numbers."""

    title: ClassVar[str] = "Variants"

    extract: Path | None = option(
        None, "path", "Variant ids, one a line: only these get rows in the results."
    )
    exclude: Path | None = option(
        None, "path", "Variant ids, one a line: these get no rows in the results."
    )
    region: tuple[str, ...] = option(
        (),
        "names",
        "Chromosome, or chromosome:from-to: only variants there get rows; repeatable.",
    )
    min_maf: float = option(
        DEFAULT_MIN_MAF, "number", "Smallest minor allele frequency.", low=0, high=0.5
    )
    min_mac: float = option(DEFAULT_MIN_MAC, "number", "Smallest minor allele count.", low=0)
    max_missing: float = option(
        DEFAULT_MAX_MISSING, "number", "Largest fraction of missing calls.", low=0, high=1
    )
    min_info: float | None = option(
        None,
        "number",
        "Smallest info score of dosages; hard calls have 1. Default: none, scores reported where "
        "there are dosages.",
        low=0,
        high=1,
    )
    hwe: float | None = option(
        None,
        "number",
        "Smallest p of the exact test of Hardy-Weinberg proportions; 0 reports and takes none. "
        "Default: not tested.",
        low=0,
        high=1,
    )
