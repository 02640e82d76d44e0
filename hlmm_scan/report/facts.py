"""What a report says in words and tables: plain text, which the page escapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlmm_scan.analysis.calibration import Calibration
from hlmm_scan.analysis.rejection import COLUMNS
from hlmm_scan.errors import HlmmScanError, InputError
from hlmm_scan.report.trait import Trait
from hlmm_scan.results.store import ResultStore, group_name
from hlmm_scan.scan.state import ScanState, scan_state
from hlmm_scan.schema import Status

STATUS_WORDS: Mapping[str, str] = {
    "pending": "still to come",
    "ok": "fitted",
    "screened": "one step from the null model",
    "refined": "screened, then fitted",
    "random_variance_at_zero": "fitted, no variance left to the random effects",
    "not_converged": "no maximum found; not shown",
    "not_unique": "genotype not told from covariates; not shown",
    "unbounded": "a genotype class without spread; not shown",
    "monomorphic": "left out: one allele only",
    "low_maf": "left out: minor allele too rare",
    "low_mac": "left out: too few minor alleles",
    "high_missing": "left out: too many calls missing",
    "low_info": "left out: imputed too poorly",
    "hwe": "left out: not in Hardy–Weinberg equilibrium",
    "strand_unknown": "not pooled: A/T or C/G whose strand is not known",
    "frequencies_differ": "not pooled: cohorts differ too much in its frequency",
    "no_cohort": "in none of the cohorts pooled here",
    "task_failed": "not done: its task failed (see status)",
}


TEST_WORDS = {"add": "mean", "var": "variance", "av": "joint", "dispersion": "dispersion"}
"""Tests, by what they ask for."""

FORM_WORDS = {
    "": "score tests",
    "wald": "Wald tests of the model",
    "wald_robust": "Wald tests with robust errors",
    "wald_sandwich": "Wald tests with sandwich errors",
    "lrt": "likelihood-ratio tests",
}
"""Forms of tests."""


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes
    ----------
    header : tuple of str
    rows : tuple of tuple of str
        Cells that read as numbers are set to the right.
    keys : tuple of str
        One for each row, by which pictures find it; or none.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...] = ()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers."""
        return tuple(
            any(row[k] for row in self.rows)
            and all(not row[k] or row[k][0] in "0123456789−±.–" for row in self.rows)
            for k in range(len(self.header))
        )


def number(value: Any, digits: int = 3) -> str:
    """Return a number to some significant digits, with a real minus; an en dash for NaN."""
    if value is None or not np.isfinite(value):
        return "–"
    text = f"{value:.{digits}g}"
    if "e" not in text and abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    return text.replace("-", "−")


def count(value: Any) -> str:
    """Return a whole number with thousands set apart."""
    return f"{int(value):,}"


def p_value(neg_log10: float) -> str:
    """Return a p-value in words, as 3.2e−12, however small: never by way of p."""
    if not np.isfinite(neg_log10):
        return "–"
    if neg_log10 < 2:
        return f"{10**-neg_log10:.2g}"
    exponent = int(np.floor(neg_log10)) + 1
    mantissa = 10 ** (exponent - neg_log10)
    if f"{mantissa:.1f}" == "10.0":
        mantissa, exponent = 1.0, exponent - 1
    return f"{mantissa:.1f}e−{exponent}"


def inflation_factor(value: float) -> str:
    """Return a λ to two or three decimals."""
    return f"{value:.{3 if value < 10 else 2}f}" if np.isfinite(value) else "–"


def null_attributes(store: ResultStore, phenotype: str) -> dict[str, Any]:
    """Return what the store says of a phenotype's null model; nothing where it has none."""
    nulls, name = store.group("null"), group_name(phenotype)
    return dict(nulls[name].attrs) if name in nulls else {}


def people(null: Mapping[str, Any]) -> Table:
    """Return who is in and who was left out, and why."""
    dropped = null.get("dropped", {})
    rows = [("people genotyped", count(null["people_in_genotypes"]))] if null else []
    rows += [(f"left out: {_words(reason)}", count(k)) for reason, k in dropped.items() if k]
    rows += [("analysed", count(null["people"]))] if null else []
    absent = null.get("phenotyped_but_not_in_genotypes", 0)
    rows += [("phenotyped, but not genotyped", count(absent))] if absent else []
    return Table(("people", "count"), tuple(rows))


def statuses(trait: Trait) -> Table:
    """Return what became of every test."""
    rows = [
        (_words(label), STATUS_WORDS.get(label, ""), count(k))
        for label, k in trait.statuses.items()
    ]
    return Table(("status", "meaning", "variants"), tuple(rows))


def inflation(calibrated: Calibration) -> Table:
    """Return λ and rejections of every test, by allele count and imputation info."""
    return Table(COLUMNS, tuple(test.cells for test in calibrated.tests))


def covariates(null: Mapping[str, Any]) -> Table:
    """Return covariate effects of the model without a test variant."""
    effects = null.get("covariate_fit", {}).get("effects", [])
    rows = tuple(
        (
            _words(effect["part"]),
            str(effect["name"]),
            number(effect["estimate"]),
            number(effect["standard_error"]),
            "–" if effect["neg_log10_p"] is None else f"{effect['neg_log10_p']:.2f}",
        )
        for effect in effects
    )
    return Table(("effect on", "covariate", "estimate", "s.e.", "−log₁₀ p"), rows)


def provenance(store: ResultStore) -> Table:
    """Return what was run, on what, when and with which software."""
    a = store.attributes
    p: Mapping[str, Any] = a.get("parameters", {})
    rows: list[tuple[str, str]] = [("results", str(store.path)), ("model", str(p.get("model", "")))]
    rows += [(_words(name), _value(path)) for name, path in a.get("inputs", {}).items()]
    rows += [("started", _time(a.get("started"))), ("finished", _time(a.get("finished")))]
    rows += [("effects per", str(a.get("effects_per", "")))]
    rows += [("scale of effects", str(a.get("effect_scale", "")))]
    hashed = {"hlmm_scan", "format", "model", "genotypes", "phenotypes", "phenotype"}
    hashed |= {"mean_covariates", "variance_covariates", "random_effects", "extract", "exclude"}
    rows += [
        (_words(name), _value(value))
        for name, value in p.items()
        if name not in hashed and value is not None
    ]
    software = a.get("software", {})
    rows += [("software", ", ".join(f"{k} {v}" for k, v in software.items()))]
    rows += [("genotypes' fingerprint", str(p.get("genotypes", "")))]
    return Table(("what", "value"), tuple(row for row in rows if row[1]))


def run_statistics(store: ResultStore) -> Table:
    """Return how long the run took, what it needed and what went wrong; none without a ledger."""
    try:
        state: ScanState = scan_state(store)
    except InputError:  # damage
        raise
    except (HlmmScanError, KeyError):
        return Table(("what", "value"), ())
    rows = [
        ("tests", f"{state.tests_done:,} of {state.tests:,} written"),
        (
            "partitions",
            f"{state.partitions_done:,} of {state.partitions:,} done, {len(state.failed):,} failed",
        ),
        ("time of tasks", _seconds(state.seconds)),
        ("rate of the last hour", f"{state.rate:,.0f} tests a second" if state.rate else ""),
        ("most memory of one worker", f"{state.peak_bytes / 2**20:,.0f} MiB of its own"),
        ("workers", count(len(state.workers))),
        ("transient errors tried again", count(state.retries)),
    ]
    rows += [("slowest" if not k else "", str(cost)) for k, cost in enumerate(state.slowest[:3])]
    rows += [
        (f"failed partition {index}", error) for index, error in list(state.failed.items())[:10]
    ]
    if not state.peak_bytes:
        rows = [row for row in rows if not row[0].startswith("most memory")]
    return Table(("what", "value"), tuple(row for row in rows if row[1]))


def fitted(trait: Trait) -> int:
    """Return how many variants were tested."""
    labels = [s.label for s in Status if Status.PENDING < s < Status.NOT_CONVERGED]
    return sum(trait.statuses.get(label, 0) for label in labels)


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value))


def _time(text: Any) -> str:
    return str(text).replace("T", " ").replace("Z", " UTC") if text else ""


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
