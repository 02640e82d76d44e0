"""Results as the GWAS catalog takes them: GWAS-SSF files, one a phenotype and test, with metadata.

The format is that of https://github.com/EBISPOT/gwas-summary-statistics-standard (v1.0): eight
columns in a fixed order, then others; chromosomes as numbers, alleles as bases, nothing missing in
the eight, and a YAML file beside each table. p-values stand as −log10 p, so none is ever 0.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from hlmm_scan import __version__
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.results.export_chromosomes import catalog_numbers
from hlmm_scan.results.export_rows import Columns, FinishedRows
from hlmm_scan.results.export_text import COMPRESSION, cells, header, lines
from hlmm_scan.results.store import ResultStore, group_name
from hlmm_scan.results.tests import ReportedTest
from hlmm_scan.schema import Status
from hlmm_scan.shown import one_line, quoted
from hlmm_scan.yaml_files import read_mapping

logger = logging.getLogger(__name__)

COLUMNS = (
    "chromosome", "base_pair_location", "effect_allele", "other_allele", "beta",
    "standard_error", "effect_allele_frequency", "neg_log_10_p_value", "rsid", "n", "source_id",
)  # fmt: skip
"""``source_id`` is the id as the genotypes have it, ``rsid`` the same where it is one."""

MISSING = "#NA"

TEXT_KEYS = (
    "genome_assembly", "gwas_id", "author_notes", "gwas_catalog_api", "imputation_panel",
    "imputation_software", "sex",
)  # fmt: skip
LIST_KEYS = ("trait_description", "ontology_mapping", "genotyping_technology")
SAMPLE_KEYS = ("sample_ancestry_category", "sample_ancestry", "ancestry_method")

WANTED_BY_THE_CATALOG = ("sample_ancestry_category", "genotyping_technology")
"""What the catalog wants and its validator does not look for."""

_TRUSTED = (Status.OK, Status.SCREENED, Status.REFINED, Status.RANDOM_VARIANCE_AT_ZERO)
_BASES = re.compile("[ACGTacgt]+")
_RSID = re.compile("rs[0-9]+")


def read_metadata(path: Path | None) -> dict[str, Any]:
    """Read what a user knows of a study: text, lists of text, and words on the people.

    Parameters
    ----------
    path : Path or None
        YAML; ``genome_assembly`` must be there, other keys are those of the format.

    Raises
    ------
    InputError
        If there is no file or assembly, or a key is unknown or holds something else.
    """
    if path is None:
        raise InputError(
            "gwas-ssf needs --metadata FILE, a YAML file with at least 'genome_assembly: GRCh38' "
            "(or what it is)"
        )
    content = read_mapping(path)
    known = (*TEXT_KEYS, *LIST_KEYS, *SAMPLE_KEYS)
    metadata: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            hint = nearest(str(key), known)
            raise InputError(f"{path}: unknown key '{one_line(str(key), 80)}'{hint}")
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, str) for item in items):
            raise InputError(f"{path}: {key} must be text, not {quoted(value)}")
        if key in TEXT_KEYS and len(items) > 1:
            raise InputError(f"{path}: {key} must be one text, not a list")
        metadata[key] = items[0] if key in TEXT_KEYS else items
    if "genome_assembly" not in metadata:
        raise InputError(f"{path}: genome_assembly is missing, as 'genome_assembly: GRCh38'")
    absent = [key for key in WANTED_BY_THE_CATALOG if key not in metadata]
    if absent:
        logger.warning("%s: the GWAS catalog also wants %s", path, " and ".join(absent))
    return metadata


@dataclass
class _Table:
    """One file under way."""

    test: ReportedTest
    path: Path
    file: IO[bytes]
    rows: int = 0
    people: int = 0
    in_order: bool = True
    last: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def write_gwas_ssf(
    store: ResultStore,
    folder: Path,
    phenotypes: Sequence[int],
    tests: Sequence[ReportedTest],
    metadata: Mapping[str, Any],
) -> int:
    """Write ``PHENOTYPE.TEST.tsv.gz`` and its ``-meta.yaml`` for each phenotype and test.

    Rows that the format has no place for are left out, counted and named by reason: tests that
    were filtered, failed or are not to be trusted, chromosomes other than 1 to 22, X, Y and MT,
    and alleles that are not bases.

    Parameters
    ----------
    store : ResultStore
    folder : Path
        Empty.
    phenotypes : sequence of int
    tests : sequence of ReportedTest
        Each with an effect.
    metadata : mapping
        From :func:`read_metadata`.

    Returns
    -------
    int
        Rows written, of all files.
    """
    variables = {v for test in tests for v in test.variables}
    total = 0
    for phenotype in phenotypes:
        columns = ("n", "effect_allele_frequency", *sorted(variables))
        rows = FinishedRows(store, [phenotype], columns, numbered=True)
        name = store.phenotypes[phenotype]
        with ExitStack() as open_files:
            tables = [_open(folder, name, test, open_files) for test in tests]
            for block in rows.by_phenotype():
                variant = _Variants(block)
                for table in tables:
                    _write(table, block, variant)
        for table in tables:
            _report(name, table)
            about = table.path.with_name(f"{table.path.name}-meta.yaml")
            about.write_text(_describe(store, name, table, metadata), encoding="utf-8")
            total += table.rows
    return total


class _Variants:
    """What the files of a block have in common: rows that fit, as text, and why others do not."""

    def __init__(self, block: Columns) -> None:
        numbers = catalog_numbers(block["contig"])
        self.places = (numbers << 40) + block["position"].astype(np.int64)
        alleles = [
            np.array([bool(_BASES.fullmatch(str(a))) for a in block[name]], dtype=bool)
            for name in ("effect_allele", "other_allele")
        ]
        trusted = np.isin(block["status"], [int(s) for s in _TRUSTED])
        self.reasons: dict[str, NDArray[np.bool_]] = {
            "not fitted, or not to be trusted": ~trusted,
            "not on chromosome 1-22, X, Y or MT": numbers < 0,
            "without a position": block["position"] < 1,
            "with alleles that are not bases": ~(alleles[0] & alleles[1]),
        }
        ids = cells(block["variant_id"])
        self.first = [
            cells(numbers),
            cells(block["position"]),
            cells(block["effect_allele"]),
            cells(block["other_allele"]),
        ]
        self.frequency = cells(block["effect_allele_frequency"])
        self.last = [[i if _RSID.fullmatch(i) else MISSING for i in ids], cells(block["n"]), ids]


def _open(folder: Path, phenotype: str, test: ReportedTest, open_files: ExitStack) -> _Table:
    path = folder / f"{group_name(phenotype)}.{test.name}.tsv.gz"
    raw = open_files.enter_context(path.open("wb"))
    # Without name and time, so that the same results are the same file.
    file = gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=raw, mtime=0)
    open_files.enter_context(file)
    file.write(header(COLUMNS).encode())
    return _Table(test, path, cast(IO[bytes], file))


def _write(table: _Table, block: Columns, variant: _Variants) -> None:
    test = table.test
    values = [block[test.effect], block[test.standard_error], test.neg_log10_p(block)]
    whole = np.isfinite(np.column_stack(values)).all(axis=1)
    fits = np.ones(len(whole), dtype=bool)
    for reason, rows in {**variant.reasons, "without an estimate": ~whole}.items():
        table.left_out[reason] += int((rows & fits).sum())
        fits &= ~rows
    beta, error, log_p = map(cells, values)
    text = lines([*variant.first, beta, error, variant.frequency, log_p, *variant.last])
    table.file.write("".join(text[row] for row in np.flatnonzero(fits)).encode())
    places = np.append(table.last, variant.places[fits])
    table.in_order &= bool((np.diff(places) >= 0).all())
    table.last = int(places[-1])
    table.rows += int(fits.sum())
    table.people = max(table.people, int(block["n"][fits].max(initial=0)))


def _report(phenotype: str, table: _Table) -> None:
    left_out = [f"{n:,} {reason}" for reason, n in table.left_out.items() if n]
    if left_out:
        logger.warning(
            "%s, %s: of %d rows these are left out: %s",
            phenotype,
            table.test.name,
            table.rows + sum(table.left_out.values()),
            "; ".join(left_out),
        )


def _describe(store: ResultStore, phenotype: str, table: _Table, known: Mapping[str, Any]) -> str:
    """Return the YAML file of a table."""
    given = {key: known[key] for key in (*TEXT_KEYS, *LIST_KEYS) if key in known}
    notes = [f"Variance-QTL scan; beta is the {table.test.meaning}"]
    if "author_notes" in given:
        notes.append(str(given.pop("author_notes")))
    sample = {key: known[key] for key in SAMPLE_KEYS if key in known}
    metadata: dict[str, Any] = {
        "author_notes": ". ".join(notes),
        "date_metadata_last_modified": datetime.now(UTC).date(),
        "trait_description": [phenotype],
        "coordinate_system": "1-based",
        **given,
        "samples": [{**sample, "sample_size": table.people, "case_control_study": False}],
        "data_file_name": table.path.name,
        "file_type": "GWAS-SSF v1.0",
        "data_file_md5sum": _md5(table.path),
        "analysis_software": f"hlmm-scan {_version(store)}",
        "is_harmonised": False,
        "is_sorted": table.in_order,
    }
    covariates = _covariates(store, phenotype)
    if covariates:
        metadata["adjusted_covariates"] = covariates
    smallest = store.attributes.get("parameters", {}).get("min_maf")
    if smallest:
        metadata["minor_allele_freq_lower_limit"] = smallest
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)


def _version(store: ResultStore) -> str:
    return str(store.attributes.get("software", {}).get("hlmm_scan", __version__))


def _covariates(store: ResultStore, phenotype: str) -> list[str]:
    """Return the names of covariates in the null model, where the store says them."""
    nulls = store.group("null")
    name = group_name(phenotype)
    fit = nulls[name].attrs.get("covariate_fit") if name in nulls else None
    effects = fit.get("effects", []) if isinstance(fit, dict) else []
    names = [str(e.get("name", "")) for e in effects if isinstance(e, dict)]
    return [name for name in dict.fromkeys(names) if name not in ("", "intercept")]


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
