"""Results as a table sorted by position, compressed in blocks and indexed, as tabix reads it."""

from __future__ import annotations

import logging
from pathlib import Path

from hlmm_scan.errors import InputError
from hlmm_scan.results.export_rows import FinishedRows
from hlmm_scan.results.export_text import header, named_rows

logger = logging.getLogger(__name__)

FIRST_COLUMNS = ("contig", "position", "variant_id", "effect_allele", "other_allele", "phenotype")

LONGEST_TBI = 1 << 29
"""Positions from here on need an index in the CSI format."""


INDEXES = (".tbi", ".csi")


def write_tabix(rows: FinishedRows, scratch: Path) -> int:
    """Write the sorted table, its index beside it, and return the number of rows.

    Parameters
    ----------
    rows : FinishedRows
        Phenotypes stand next to one another at each variant.
    scratch : Path
        File to write, its name ending in ``.gz``. The index has the same name and ``.tbi`` or, for
        positions of 2²⁹ and more, ``.csi``.

    Raises
    ------
    InputError
        If pysam is not installed or the name does not end in ``.gz``.
    """
    try:
        import pysam
    except ImportError:
        raise InputError("tabix files need pysam: pip install 'hlmm-scan[exports]'") from None
    if scratch.suffix != ".gz":
        raise InputError(f"{scratch.name}: tabix reads files whose names end in .gz; name it so")
    columns = (*FIRST_COLUMNS, *(name for name in rows.columns if name not in FIRST_COLUMNS))
    written = unplaced = largest = 0
    with pysam.BGZFile(str(scratch), "w", None) as file:
        file.write(f"#{header(columns)}".encode())
        for block in rows.by_position():
            placed = block["position"] > 0
            file.write(named_rows({name: block[name][placed] for name in columns}).encode())
            written += int(placed.sum())
            unplaced += int((~placed).sum())
            largest = max(largest, int(block["position"].max(initial=0)))
    if unplaced:
        logger.warning(
            "%d rows without a position are left out: tabix has no place for them", unplaced
        )
    far = largest >= LONGEST_TBI
    pysam.tabix_index(
        str(scratch),
        index=f"{scratch}{'.csi' if far else '.tbi'}",
        csi=far,
        seq_col=0,
        start_col=1,
        end_col=1,
        keep_original=True,
    )
    return written
