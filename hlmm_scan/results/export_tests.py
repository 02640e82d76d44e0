"""The tests of a store as other programs have them: one effect, error and p-value a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError, nearest
from hlmm_scan.results.export_rows import Columns
from hlmm_scan.results.store import ResultStore


@dataclass(frozen=True)
class ReportedTest:
    """One test of a variant.

    Attributes
    ----------
    name : str
        As ``--test`` takes it.
    effect, standard_error : str
        Stored variables; empty for joint tests, which have no single effect.
    neg_log10_p : str
        Stored variable.
    meaning : str
        In words, for those who get the file.
    """

    name: str
    effect: str
    standard_error: str
    neg_log10_p: str
    meaning: str

    @property
    def variables(self) -> tuple[str, ...]:
        """Stored variables the test is made of."""
        return tuple(v for v in (self.effect, self.standard_error, self.neg_log10_p) if v)

    def chi2(self, columns: Columns) -> NDArray[np.float64]:
        """Return the test's chi-squared statistic: 1 df, 2 df for a joint test."""
        if self.effect:
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray((columns[self.effect] / columns[self.standard_error]) ** 2)
        # Of 2 df, p = exp(−χ²/2).
        return np.asarray(columns[self.neg_log10_p] * (2.0 * np.log(10.0)))


_ADD = "effect on the mean per copy of the effect allele, in units of the phenotype"
_VAR = "effect on the logarithm of the variance per copy of the effect allele"
_AV = "mean and variance jointly (2 df)"
_HOW = {
    "": "",
    "_robust": ", studentised by third and fourth moments of the residuals",
    "_sandwich": ", standard errors by the sandwich estimator",
}

TESTS: tuple[ReportedTest, ...] = (
    *(
        test
        for suffix, how in _HOW.items()
        for test in (
            ReportedTest(
                f"add{suffix}", "add", f"add_se{suffix}", f"add_neg_log10_p{suffix}", _ADD + how
            ),
            ReportedTest(
                f"var{suffix}", "var", f"var_se{suffix}", f"var_neg_log10_p{suffix}", _VAR + how
            ),
            ReportedTest(f"av{suffix}", "", "", f"av_neg_log10_p{suffix}", _AV + how),
        )
    ),
    ReportedTest(
        "dispersion",
        "dispersion",
        "dispersion_se",
        "dispersion_neg_log10_p",
        "effect on the logarithm of the variance beyond what the effect on the mean implies",
    ),
)

DEFAULT_TESTS = ("add", "var", "av", "dispersion")

_CHROMOSOMES = {"X": 23, "Y": 24, "M": 25, "MT": 25, "XY": 23, "PAR1": 23, "PAR2": 23}
"""The GWAS catalog's numbers. PLINK's own 25 and 26, pseudo-autosomal and mitochondrial, are
those of files that have no other names for them."""

_PLINK_CODES = {25: 23, 26: 25}


def chosen_tests(
    store: ResultStore, names: Sequence[str], *, with_effect: bool
) -> list[ReportedTest]:
    """Return the tests asked for, or, of the default ones, those the store has.

    Parameters
    ----------
    store : ResultStore
    names : sequence of str
        Empty for the default.
    with_effect : bool
        Whether a test must have one effect with a standard error.

    Raises
    ------
    InputError
        If a test is unknown, not in the store, or has no effect where it must have one.
    """
    stored = {v.name for v in store.readable}
    there = [t for t in TESTS if stored.issuperset(t.variables)]
    usable = {t.name: t for t in there if t.effect or not with_effect}
    if not names:
        return [usable[name] for name in DEFAULT_TESTS if name in usable]
    for name in names:
        if name in usable:
            continue
        if name not in {t.name for t in TESTS}:
            raise InputError(f"unknown test '{name}'{nearest(name, [t.name for t in TESTS])}")
        if name not in {t.name for t in there}:
            raise InputError(f"{store.path}: the test '{name}' is not among its results")
        raise InputError(
            f"the joint test '{name}' has no single effect with a standard error, which this "
            "format wants; leave it out"
        )
    return [usable[name] for name in dict.fromkeys(names)]


def chromosome_numbers(contigs: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return chromosomes as the GWAS catalog numbers them: X 23, Y 24, MT 25; else −1.

    Parameters
    ----------
    contigs : ndarray of object (str), shape (m,)
    """
    known = {name: _number(str(name)) for name in set(contigs)}
    return np.array([known[name] for name in contigs], dtype=np.int64)


def _number(contig: str) -> int:
    name = contig[3:] if contig[:3].lower() == "chr" else contig
    if name.isascii() and name.isdigit():
        number = int(name)
        return _PLINK_CODES.get(number, number if 1 <= number <= 24 else -1)
    return _CHROMOSOMES.get(name.upper(), -1)
