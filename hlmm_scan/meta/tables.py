"""Tables as cohorts to pool: our exports as text or Parquet, and GWAS-SSF."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import MT
from hlmm_scan.meta.pool import FIELDS
from hlmm_scan.meta.rows import ROWS_AT_ONCE, Columns, Source
from hlmm_scan.meta.text import TextColumns, file_digest
from hlmm_scan.models.inference import wald_neg_log10_p
from hlmm_scan.results.export_chromosomes import autosomes_said
from hlmm_scan.schema import Status
from hlmm_scan.shown import listed_names, quoted
from hlmm_scan.yaml_files import read_mapping

_PLACE = ("contig", "position", "effect_allele", "other_allele")
_NEEDED = (*_PLACE, "n", "effect_allele_frequency")
_SSF = {
    "chromosome": "contig",
    "base_pair_location": "position",
    "effect_allele": "effect_allele",
    "other_allele": "other_allele",
    "beta": "beta",
    "standard_error": "standard_error",
    "effect_allele_frequency": "effect_allele_frequency",
    "neg_log_10_p_value": "neg_log_10_p_value",
    "p_value": "p_value",
    "n": "n",
    "info": "info",
    "source_id": "source_id",
    "variant_id": "ssf_variant_id",
    "rsid": "rsid",
}
_TEXTS = (
    *("contig", "effect_allele", "other_allele", "phenotype", "variant_id", "status"),
    *("source_id", "ssf_variant_id", "rsid"),
)
_UNTRUSTED = {s.label for s in Status if not Status.PENDING < s < Status.NOT_CONVERGED}
_STATUSES = {s.label for s in Status}
_MITOCHONDRIA = {"25": MT, "26": MT}
"""GWAS-SSF's number, which is not PLINK's."""

Blocks = Iterator[tuple[Columns, Callable[[int], str]]]


def table_source(name: str, path: Path, phenotype: str) -> Source:
    """Return a table as a cohort.

    Parameters
    ----------
    name : str
        Of the cohort.
    path : Path
        Text, plain or packed by gzip (also as bgzip does), or Parquet. Columns are those of our
        exports or of GWAS-SSF, whichever the names show; others are left alone.
    phenotype : str
        Empty for the only one.

    Raises
    ------
    InputError
        If there is no such file, it is no table, or columns are missing.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file or result store")
    about: dict[str, Any] = {}
    parquet = path.suffix == ".parquet"
    table = _Parquet(path) if parquet else TextColumns(path)
    names = table.names
    ssf = "chromosome" in names and "base_pair_location" in names
    if ssf:
        effect, people = _about_ssf(path)
        about |= {"kind": "GWAS-SSF", "effect": effect}
        columns = {known: ours for known, ours in _SSF.items() if known in names}
        missing = [n for n in list(_SSF)[:7] if n not in names]
        if "neg_log_10_p_value" not in names and "p_value" not in names:
            missing.append("neg_log_10_p_value or p_value")
        if missing and ("odds_ratio" in names or "hazard_ratio" in names):
            raise InputError(f"{path}: has ratios, which are no effects on a mean; beta is wanted")
        if "n" not in names and people is None:
            missing.append("n (or samples: sample_size in its -meta.yaml)")
    else:
        columns = {
            n: n for n in (*_NEEDED, "phenotype", "variant_id", "status", *FIELDS[2:]) if n in names
        }
        missing = [n for n in _NEEDED if n not in names]
        if not any({e, f"{e}_se"} <= set(names) for e in ("add", "var")):
            missing.append("add and add_se, or var and var_se")
        about |= {"kind": "Parquet" if parquet else "text"}
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}: neither an export of hlmm-scan nor GWAS-SSF"
        )
    attributes: dict[str, Any] = table.attributes if isinstance(table, _Parquet) else {}
    source = Source(
        name,
        str(path),
        phenotype,
        str(attributes.get("effect_scale", "")),
        autosomes_said(attributes) if attributes else None,
        "",
        about,
        lambda: iter(()),
    )

    def read() -> Blocks:
        blocks = table.blocks(columns, _TEXTS)
        if ssf:
            return _as_ours(blocks, effect, people, source)
        return _of_phenotype(blocks, phenotype, source)

    source.read = read
    source.identity = about["digest"] = table.digest()
    return source


def _of_phenotype(blocks: Blocks, wanted: str, source: Source) -> Blocks:
    """Take the rows of one phenotype."""
    seen: set[str] = set()
    for columns, where in blocks:
        columns = dict(columns)
        rows: NDArray[Any] = np.arange(len(columns["position"]))
        if "phenotype" in columns:
            seen.update(map(str, np.unique(columns["phenotype"].astype(str))))
            if not wanted and len(seen) > 1:
                raise InputError(
                    f"{source.where}: has several phenotypes ({listed_names(sorted(seen))}); name "
                    "one of them with --phenotype"
                )
            rows = np.flatnonzero(columns["phenotype"] == (wanted or next(iter(seen), "")))
            source.phenotype = wanted or next(iter(seen), "")
            del columns["phenotype"]
        columns = {name: values[rows] for name, values in columns.items()}
        status = columns.pop("status", None)
        if status is not None:
            labels = status.astype(str)
            unknown = [k for k, label in enumerate(labels) if label not in _STATUSES]
            if unknown:
                shown = quoted(str(labels[unknown[0]]))
                raise InputError(f"{where(int(rows[unknown[0]]))}: status is {shown}, not a status")
            columns["trusted"] = ~np.isin(labels, list(_UNTRUSTED))
        columns.setdefault("variant_id", np.full(len(rows), "", object))
        yield columns, lambda row, rows=rows, where=where: where(int(rows[row]))  # type: ignore[misc]
    if wanted and seen and wanted not in seen:
        raise InputError(
            f"{source.where}: no phenotype '{wanted}'; it has {listed_names(sorted(seen))}"
        )


def _as_ours(blocks: Blocks, effect: str, people: int | None, source: Source) -> Blocks:
    """Give the columns of GWAS-SSF the names of ours."""
    for given, where in blocks:
        columns = dict(given)
        m = len(columns["position"])
        contig = columns["contig"]
        for number, name in _MITOCHONDRIA.items():
            contig = np.where(contig == number, name, contig)
        columns["contig"] = contig
        columns[effect] = columns.pop("beta")
        columns[f"{effect}_se"] = columns.pop("standard_error")
        p = columns.pop("neg_log_10_p_value", None)
        plain = columns.pop("p_value", None)
        if p is None:
            assert plain is not None
            with np.errstate(divide="ignore", invalid="ignore"):
                p = -np.log10(plain)
            bad = np.flatnonzero((plain < 0) | (plain > 1))
            if len(bad):
                raise InputError(
                    f"{where(int(bad[0]))}: p_value is {plain[bad[0]]:g}, not between 0 and 1"
                )
            gone = plain == 0
            source.counts["with p = 0, taken from effect and error"] += int(gone.sum())
            wald = wald_neg_log10_p(columns[effect], columns[f"{effect}_se"])
            p = np.where(gone, wald, p) + 0.0
        columns[f"{effect}_neg_log10_p"] = p
        if "n" not in columns:
            columns["n"] = np.full(m, float(people or 0))
        elif people is not None:
            columns["n"] = np.where(np.isnan(columns["n"]), float(people), columns["n"])
        ids = np.full(m, "", object)
        for name in ("source_id", "ssf_variant_id", "rsid"):
            if name in columns:
                here = columns.pop(name)
                ids = np.where((ids == "") & (here != "#NA") & (here != "NA"), here, ids)
        columns["variant_id"] = ids
        yield columns, where


def _about_ssf(path: Path) -> tuple[str, int | None]:
    """Return which effect a GWAS-SSF file holds, and the people that its metadata name."""
    stem = path.name.removesuffix(".gz").removesuffix(".tsv")
    effect = "var" if stem.endswith(".var") else "add"
    described = path.with_name(f"{path.name}-meta.yaml")
    if not described.is_file():
        return effect, None
    try:
        samples = read_mapping(described).get("samples") or []
        sizes = [int(one["sample_size"]) for one in samples if one.get("sample_size")]
    except (ValueError, TypeError, AttributeError):
        raise InputError(f"{described}: 'samples' has no list of sample_size") from None
    return effect, sum(sizes) or None


class _Parquet:
    """Columns of a Parquet file."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as parquet
        except ImportError:
            raise InputError(
                "Parquet files need pyarrow: pip install 'hlmm-scan[exports]'"
            ) from None
        self._path = path
        self._errors = (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError)
        try:
            self._file = parquet.ParquetFile(path)
        except self._errors as error:
            raise self._damaged(error) from None
        self.names: list[str] = list(self._file.schema_arrow.names)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the result store said of itself."""
        known = (self._file.schema_arrow.metadata or {}).get(b"hlmm_scan", b"{}")
        try:
            found = json.loads(known)
        except ValueError as error:
            raise self._damaged(error) from None
        return found if isinstance(found, dict) else {}

    def digest(self) -> str:
        return file_digest(self._path)

    def blocks(self, columns: dict[str, str], texts: Sequence[str]) -> Blocks:
        first = 0
        try:
            for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
                found: dict[str, NDArray[Any]] = {}
                for name, ours in columns.items():
                    values = batch.column(batch.schema.get_field_index(name))
                    text = ours in texts
                    if text:
                        found[ours] = np.array(values.cast("string").fill_null(""), object)
                    else:
                        found[ours] = values.cast("double").to_numpy(zero_copy_only=False)
                yield found, lambda row, first=first: f"{self._path}, row {first + row + 1}"  # type: ignore[misc]
                first += len(batch)
        except self._errors as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self._path}: cannot be read ({' '.join(str(error).split())[:160]})")
