"""Which separator the name of a table to be written stands for."""

from __future__ import annotations

from pathlib import Path

from hlmm_scan.errors import InputError

_NO_TEXT = frozenset(
    (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers", ".sav", ".dta", ".sas7bdat", ".rds",
     ".rda", ".rdata", ".feather", ".arrow", ".h5", ".hdf5", ".nc", ".zarr", ".json", ".db",
     ".sqlite", ".docx", ".pdf", ".html", ".vcf", ".bcf", ".zip", ".7z", ".tar", ".bz2", ".xz",
     ".zst", ".lz4"),
)  # fmt: skip


def separator_by_name(output: Path) -> str:
    """Return the comma for names in .csv and .csv.gz, else the tab.

    Raises
    ------
    InputError
        If the name stands for something that is no table of text.
    """
    suffixes = [suffix.lower() for suffix in output.suffixes[-2:]]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    if last in _NO_TEXT:
        raise InputError(
            f"{output}: tables are written as text (.tsv, .csv; .gz compresses) or Parquet, "
            f"not as {last}"
        )
    return "," if last == ".csv" else "\t"
