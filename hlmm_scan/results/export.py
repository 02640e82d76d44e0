"""Results as files that other programs read, written a bounded number of rows at a time."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from hlmm_scan.errors import InputError, nearest
from hlmm_scan.outputs import staged_file
from hlmm_scan.results.export_gwas_ssf import read_metadata, write_gwas_ssf
from hlmm_scan.results.export_parquet import write_parquet
from hlmm_scan.results.export_rows import Columns, FinishedRows
from hlmm_scan.results.export_tabix import INDEXES, write_tabix
from hlmm_scan.results.export_text import (
    COMPRESSION,
    REGENIE_COLUMNS,
    SEED_COLUMNS,
    header,
    named_rows,
    regenie_rows,
    seed_rows,
)
from hlmm_scan.results.phenotypes import chosen_phenotypes
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.tests import ReportedTest, parse_tests
from hlmm_scan.separators import separator_by_name
from hlmm_scan.staging import read_error, staged_folder, write_error

FORMATS = ("tsv", "csv", "parquet", "tabix", "gwas-ssf", "regenie", "seed")

ONE_PHENOTYPE = ("regenie", "seed")
"""Formats without a column for the phenotype."""


@dataclass(frozen=True)
class Export:
    """What is to be written.

    Attributes
    ----------
    kind : str
        One of :data:`FORMATS`. ``tsv``, ``csv``, ``parquet`` and ``tabix`` have every coordinate
        and variable under its own name, one row a test. All are sorted by chromosome and position,
        ``tabix`` with all phenotypes of a variant together, the others phenotype after phenotype.
        ``gwas-ssf`` is a folder, of a file for each phenotype and test. ``regenie`` has a row for
        each test of each variant, ``seed`` the columns of the 2018 script, effects per copy of
        PLINK's A2 and the frequency of the minor allele, as it has
        them; both hold one phenotype.
    phenotypes : tuple of str
        Empty for all.
    tests : tuple of str
        As :func:`~hlmm_scan.results.tests.parse_tests` takes them. ``gwas-ssf`` and ``regenie``
        hold these, by default the default ones; ``tsv``, ``parquet`` and ``tabix`` have what is
        stored and, of these, what is made from it.
    metadata : Path or None
        For ``gwas-ssf``: a YAML file of what the GWAS catalog asks and results do not hold.
    """

    kind: str
    phenotypes: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    metadata: Path | None = None


def format_by_name(output: Path) -> str:
    """Return the format that a file's name stands for, if none is given.

    Raises
    ------
    InputError
        If it stands for one that is not written.
    """
    if output.suffix == ".parquet":
        return "parquet"
    return "csv" if separator_by_name(output) == "," else "tsv"


def export(store: ResultStore, output: Path, wanted: Export) -> int:
    """Write the finished tests of a store; those that are pending are left out.

    Parameters
    ----------
    store : ResultStore
    output : Path
        A file, which takes the place of one that stands there; ``.gz`` compresses text. A pipe or
        device gets the content once it is whole. For ``gwas-ssf`` a folder, which must not exist.
        Whatever goes wrong, nothing half-written stands there.
    wanted : Export

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    InputError
        If a phenotype, test or format is unknown, an option is not for the format, a library that
        it needs is not installed, or the file cannot be written.
    StoreHeldError
        If another command replaces the store, or what is derived in it, meanwhile.
    InfrastructureError
        If the store cannot be read for the moment.
    """
    kind = wanted.kind
    if kind not in FORMATS:
        raise InputError(f"unknown format '{kind}'{nearest(kind, FORMATS)}")
    if wanted.tests and kind == "seed":
        raise InputError("--test is not for the format seed, which has the Wald tests of 2018")
    if wanted.metadata is not None and kind != "gwas-ssf":
        raise InputError(f"--metadata is for the format gwas-ssf, not for {kind}")
    if kind not in ("parquet", "gwas-ssf"):
        separator_by_name(output)  # refuses what is no text
    chosen = _phenotypes(store, wanted)
    tests: list[ReportedTest] = []
    if wanted.tests or kind in ("gwas-ssf", "regenie"):
        stored = [v.name for v in store.readable]
        with_effect = kind == "gwas-ssf"
        tests = parse_tests(wanted.tests, stored, store.path, with_effect=with_effect)
    if wanted.tests and any(test.effect == "dispersion" for test in tests):
        _require_dispersion(store, chosen)
    if kind == "gwas-ssf":
        known = read_metadata(wanted.metadata)
        if output.exists():
            raise InputError(f"{output}: something stands there already; name a new folder")
        with (
            _errors_told(store, output),
            staged_folder(output) as folder,
            store.being_read(),
        ):
            return write_gwas_ssf(store, folder, chosen, tests, known)
    if kind == "seed" and all(v.name != "log_likelihood" for v in store.variables):
        raise InputError(f"{store.path}: pooled, so without the likelihoods of the format seed")
    companions = INDEXES if kind == "tabix" else ()
    with (
        staged_file(output, companions) as scratch,
        _errors_told(store, output),
        store.being_read(),
    ):
        if kind == "parquet":
            return write_parquet(FinishedRows(store, chosen, tests=tests), scratch, store)
        if kind == "tabix":
            return write_tabix(FinishedRows(store, chosen, tests=tests), scratch)
        if kind == "regenie":
            variables = {v for t in tests for v in t.variables}
            variables |= {"n", "effect_allele_frequency", "info", "test_flags"}
            rows = FinishedRows(store, chosen, sorted(variables), numbered=True)
            columns = [c for c in REGENIE_COLUMNS if c != "INFO" or "info" in rows.columns]
            first = header(columns, " ")
            return _write_text(rows, scratch, first, lambda r: regenie_rows(r, tests))
        rows = FinishedRows(store, chosen, tests=tests)
        if kind == "seed":
            return _write_text(rows, scratch, header(SEED_COLUMNS), seed_rows)
        separator = "," if kind == "csv" else "\t"
        first = header(rows.columns, separator)
        return _write_text(rows, scratch, first, lambda r: named_rows(r, separator))


def _phenotypes(store: ResultStore, wanted: Export) -> list[int]:
    known = store.phenotypes
    names = chosen_phenotypes(store, wanted.phenotypes)
    if wanted.kind in ONE_PHENOTYPE and len(names) > 1:
        raise InputError(
            f"{store.path}: the {wanted.kind} format holds one phenotype, this store has "
            f"{len(known)}; name it with --phenotype"
        )
    return [known.index(name) for name in names]


def _require_dispersion(store: ResultStore, phenotypes: Sequence[int]) -> None:
    """Refuse phenotypes without any dispersion effect, where these are asked for."""
    for phenotype in phenotypes:
        if np.isnan(np.asarray(store.array("dispersion")[phenotype])).all():
            raise InputError(
                f"{store.path}: '{store.phenotypes[phenotype]}' has no dispersion effects (its "
                "slope of var on add is unknown)"
            )


@contextlib.contextmanager
def _errors_told(store: ResultStore, output: Path) -> Iterator[None]:
    """Say in one line which of the two, store or file, could not be read or written."""
    try:
        yield
    except OSError as error:
        if str(error.filename).startswith(f"{store.path}/"):
            raise read_error(store.path, error) from error
        raise write_error(output, error) from error


def _write_text(
    rows: FinishedRows, scratch: Path, first: str, text: Callable[[Columns], str]
) -> int:
    written = 0
    with _open(scratch, compressed=scratch.suffix == ".gz") as file:
        file.write(first)
        for block in rows.by_phenotype():
            file.write(text(block))
            written += len(block["status"])
    return written


def _open(path: Path, *, compressed: bool) -> IO[str]:
    if compressed:
        return cast(IO[str], gzip.open(path, "wt", compresslevel=COMPRESSION, encoding="utf-8"))
    return path.open("w", encoding="utf-8")
