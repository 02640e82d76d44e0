"""Tables as text: cells, lines, and the columns of each kind of table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.models.inference import neg_log10_p, wald_neg_log10_p
from hlmm_scan.results.export_rows import Columns
from hlmm_scan.results.tests import ReportedTest, at_bound
from hlmm_scan.schema import Status

SEED_COLUMNS = (
    "SNP", "n", "frequency", "likelihood", "add", "add_se", "add_t", "add_pval",
    "var", "var_se", "var_t", "var_pval", "av_pval",
)  # fmt: skip
"""Columns of the 2018 script; ``*_pval`` are −log10 p."""

REGENIE_COLUMNS = (
    "CHROM", "GENPOS", "ID", "ALLELE0", "ALLELE1", "A1FREQ", "INFO", "N", "TEST",
    "BETA", "SE", "CHISQ", "LOG10P", "EXTRA",
)  # fmt: skip
"""INFO where the genotypes are dosages."""

COMPRESSION = 4
"""Of gzip: level 6 takes two and a half times as long for files 2% smaller."""

_LABELS = {int(status): status.label for status in Status}


def labels(status: NDArray[Any]) -> NDArray[np.object_]:
    """Return the names of statuses."""
    return np.array([_LABELS[s] for s in status.tolist()], dtype=object)


def cells(values: NDArray[Any], missing: str = "NA", separator: str = "\t") -> list[str]:
    """Return a column as text: numbers as short as reads back the same, what is NaN as `missing`.

    Text that holds the separator, a line end or a quote is quoted, as tables have it.
    """
    if values.dtype.kind == "f":
        text = list(map(repr, values.tolist()))
        for row in np.flatnonzero(np.isnan(values)):
            text[row] = missing
        return text
    if values.dtype.kind in "iu":
        return list(map(str, values.tolist()))
    text = list(map(str, values))
    marks = f'"{separator}\n\r'
    everything = "".join(text)
    if any(c in everything for c in marks):
        text = [_quoted(t, marks) for t in text]
    return text


def unbroken(column: Sequence[str]) -> list[str]:
    """Return cells for a table parted by blanks: none holds a blank, none is empty."""
    return ["_".join(cell.split()) or "NA" for cell in column]


def lines(columns: Sequence[Sequence[str]], separator: str = "\t") -> list[str]:
    """Return the rows of columns of text, each ended."""
    ended = [*columns[:-1], [f"{cell}\n" for cell in columns[-1]]]
    return list(map(separator.join, zip(*ended, strict=True)))


def header(names: Iterable[str], separator: str = "\t") -> str:
    """Return the line of column names."""
    return separator.join(names) + "\n"


def named_rows(rows: Columns, separator: str = "\t") -> str:
    """Return every column under its own name."""
    columns = [
        cells(labels(v) if name == "status" else v, separator=separator) for name, v in rows.items()
    ]
    return "".join(lines(columns, separator))


def seed_rows(rows: Columns) -> str:
    """Return the 2018 script's columns.

    It counts copies of A2, so the mean and variance effects change sign; its tests are Wald tests,
    the joint one the sum of the two squared t values without their covariance.
    """
    frequency = rows["effect_allele_frequency"]
    add, var = -rows["add"], -rows["var"]
    with np.errstate(divide="ignore", invalid="ignore"):
        add_t, var_t = add / rows["add_se"], var / rows["var_se"]
    columns = {
        "SNP": rows["variant_id"],
        "n": rows["n"],
        "frequency": np.minimum(frequency, 1 - frequency),
        "likelihood": rows["log_likelihood"],
        "add": add,
        "add_se": rows["add_se"],
        "add_t": add_t,
        "add_pval": wald_neg_log10_p(add, rows["add_se"]),
        "var": var,
        "var_se": rows["var_se"],
        "var_t": var_t,
        "var_pval": wald_neg_log10_p(var, rows["var_se"]),
        "av_pval": neg_log10_p(add_t**2 + var_t**2, 2),
    }
    return "".join(lines([cells(columns[name]) for name in SEED_COLUMNS]))


def regenie_rows(rows: Columns, tests: Sequence[ReportedTest]) -> str:
    """Return regenie's columns, a row for each test of each variant.

    ALLELE1 is the effect allele; joint tests have no BETA and SE, and a CHISQ of 2 df; EXTRA holds
    the status where it is not plain ``ok``, and ``at_bound`` where p is a bound.
    """
    variant = [
        unbroken(cells(column))
        for column in (
            rows["contig"],
            rows["position"],
            rows["variant_id"],
            rows["other_allele"],
            rows["effect_allele"],
            rows["effect_allele_frequency"],
            *([rows["info"]] if "info" in rows else []),
            rows["n"],
        )
    ]
    statuses = ["" if s == Status.OK.label else s for s in labels(rows["status"])]
    none = ["NA"] * len(statuses)
    each = []
    for test in tests:
        effect = [cells(rows[v]) for v in (test.effect, test.standard_error)] if test.effect else ()
        beta, se = effect or (none, none)
        chi2, log_p = cells(test.chi2(rows)), cells(test.neg_log10_p(rows))
        name = [test.name.upper()] * len(statuses)
        bound = at_bound(test, rows)
        extra = [
            ";".join(filter(None, (s, "at_bound" if b else ""))) or "NA"
            for s, b in zip(statuses, bound, strict=True)
        ]
        each.append(lines([*variant, name, beta, se, chi2, log_p, extra], " "))
    return "".join(line for of_variant in zip(*each, strict=True) for line in of_variant)


def _quoted(text: str, marks: str) -> str:
    """Return a cell as tables quote it, if it holds one of some marks."""
    if not any(c in text for c in marks):
        return text
    return '"' + text.replace('"', '""') + '"'
