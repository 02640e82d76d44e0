"""The tests of a scan by name: what ``--test`` takes, the same in every command.

A name is a question and, but for the default tests, a form: ``add``, ``var_lrt``,
``av_wald_robust``. A form alone stands for the questions ``add``, ``var`` and ``av``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.models.inference import chi2_of
from hlmm_scan.results.wald import COVARIANCES, wald_needs, wald_test
from hlmm_scan.schema import ScoreFlag, Variable

QUESTIONS = ("add", "var", "av")
"""Effect on the mean, on the log-variance, and both together."""

DISPERSION = "dispersion"
"""What of a variance effect the relation of variance to mean does not explain, once stored."""

INTERACTION = "interaction"

LIKELIHOOD_RATIO = "lrt"

FORMS = (*(f"wald{covariance}" for covariance in COVARIANCES), LIKELIHOOD_RATIO)
"""How else than by default a question may be tested."""


@dataclass(frozen=True)
class ReportedTest:
    """One test of a variant.

    Attributes
    ----------
    question : str
        ``add``, ``var``, ``av``, ``dispersion`` or ``interaction``.
    form : str
        One of :data:`FORMS`; empty for the default test.
    effect, standard_error : str
        Stored variables; empty for joint tests, which have no single effect.
    stored : str
        Variable that holds −log10 p; empty where it is made from estimates.
    meaning : str
        In words, for those who get the file.
    """

    question: str
    form: str
    effect: str
    standard_error: str
    stored: str
    meaning: str

    @property
    def name(self) -> str:
        """As ``--test`` takes it."""
        return f"{self.question}_{self.form}" if self.form else self.question

    @property
    def column(self) -> str:
        """Name of its −log10 p in tables."""
        return self.stored or f"{self.question}_neg_log10_p_{self.form}"

    @property
    def df(self) -> int:
        """Degrees of freedom."""
        return 2 if self.question == "av" else 1

    @property
    def needs(self) -> tuple[str, ...]:
        """Stored variables that −log10 p is made of."""
        return (self.stored,) if self.stored else wald_needs(self.question, self._covariance)

    @property
    def variables(self) -> tuple[str, ...]:
        """Stored variables that effect, standard error and −log10 p are made of."""
        names = (self.effect, self.standard_error, *self.needs)
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def variable(self) -> Variable:
        """Its −log10 p, described as stored variables are."""
        return Variable(self.column, ("phenotype", "variant"), "float64", "-log10 p", self.meaning)

    @property
    def _covariance(self) -> str:
        return self.form.removeprefix("wald")

    def neg_log10_p(self, columns: Mapping[str, NDArray[Any]]) -> Float:
        """Return −log10 p, from columns with what it :attr:`needs`."""
        if self.stored:
            return np.asarray(columns[self.stored], np.float64)
        return wald_test(self.question, self._covariance, columns)

    def chi2(self, columns: Mapping[str, NDArray[Any]]) -> Float:
        """Return the χ² statistic of that p, of 1 or 2 :attr:`df`."""
        return chi2_of(self.neg_log10_p(columns), self.df)


_EFFECTS = {
    "add": "effect on the mean per copy of the effect allele, in units of the phenotype",
    "var": "effect on the logarithm of the variance per copy of the effect allele",
    "av": "mean and variance jointly (2 df)",
    INTERACTION: "effect of genotype × environment on the mean",
    DISPERSION: "effect on the logarithm of the variance beyond what that on the mean implies",
}


def _default(question: str, how: str = "") -> ReportedTest:
    effect, error = ("", "") if question == "av" else (question, f"{question}_se")
    stored = f"{question}_neg_log10_p"
    return ReportedTest(question, "", effect, error, stored, _EFFECTS[question] + how)


def _wald(question: str, covariance: str) -> ReportedTest:
    effect, error = ("", "") if question == "av" else (question, f"{question}_se{covariance}")
    how = f"; Wald test, {COVARIANCES[covariance]}"
    return ReportedTest(question, f"wald{covariance}", effect, error, "", _EFFECTS[question] + how)


def _likelihood_ratio(question: str) -> ReportedTest:
    effect, error = ("", "") if question == "av" else (question, f"{question}_se")
    stored = f"{question}_lrt_neg_log10_p"
    how = "; likelihood-ratio test"
    return ReportedTest(question, LIKELIHOOD_RATIO, effect, error, stored, _EFFECTS[question] + how)


DEFAULT_TESTS: tuple[ReportedTest, ...] = (
    *(_default(question, "; score test") for question in QUESTIONS),
    _default(DISPERSION),
)

TESTS: tuple[ReportedTest, ...] = (
    *DEFAULT_TESTS[:3],
    *(_wald(question, covariance) for covariance in COVARIANCES for question in QUESTIONS),
    *(_likelihood_ratio(question) for question in QUESTIONS),
    DEFAULT_TESTS[3],
    _default(INTERACTION),
    *(_wald(INTERACTION, covariance) for covariance in COVARIANCES),
)

_AT_BOUND = {
    "add": ScoreFlag.ADD_AT_BOUND,
    "var": ScoreFlag.VAR_AT_BOUND,
    "av": ScoreFlag.AV_AT_BOUND,
}


def at_bound(test: ReportedTest, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Return where the p of a test is the bound of what the residuals can reach.

    Parameters
    ----------
    test : ReportedTest
    columns : mapping of str to ndarray
        With ``status``, and ``test_flags`` where the store has it.
    """
    bit = _AT_BOUND.get(test.question) if not test.form else None
    if bit is None or "test_flags" not in columns:
        return np.zeros(len(columns["status"]), np.bool_)
    return np.asarray((columns["test_flags"] & bit) > 0)


_MADE_BY = {
    "wald_sandwich": "scan --sandwich",
    LIKELIHOOD_RATIO: "scan --likelihood-ratio",
    DISPERSION: "hlmm-scan dispersion",
    INTERACTION: "scan --interaction",
}
"""What makes tests that not every store has."""


def available_tests(variables: Collection[str]) -> list[ReportedTest]:
    """Return the tests that can be made of some stored variables."""
    return [test for test in TESTS if set(variables).issuperset(test.variables)]


def default_tests(variables: Collection[str]) -> list[ReportedTest]:
    """Return the default tests of what is stored: the score tests, and of dispersion.

    Where there are no score tests, in stores of an earlier version, the Wald tests with robust
    errors take their place.
    """
    there = available_tests(variables)
    chosen = [test for test in DEFAULT_TESTS if test in there]
    if any(test.question in QUESTIONS for test in chosen):
        return chosen
    return [t for t in there if t.form == "wald_robust" and t.question in QUESTIONS] + chosen


def parse_tests(
    names: Iterable[str], variables: Collection[str], where: object, *, with_effect: bool = False
) -> list[ReportedTest]:
    """Return the tests asked for, or the default ones.

    Parameters
    ----------
    names : iterable of str
        Names of tests or forms; empty for the default.
    variables : collection of str
        What is stored.
    where : object
        What it is stored in, for errors.
    with_effect : bool, default False
        Whether a test must have one effect with a standard error.

    Raises
    ------
    InputError
        If there is no such test, or it has no effect where it must have one.
    """
    asked = list(names)
    if not asked:
        return [t for t in default_tests(variables) if t.effect or not with_effect]
    there = available_tests(variables)
    found: dict[str, ReportedTest] = {}
    for name in asked:
        mine = [t for t in there if t.name == name]
        mine += [t for t in there if t.form == name and t.question in QUESTIONS]
        if not mine:
            raise InputError(_no_such_test(name, there, where))
        usable = [t for t in mine if t.effect or not with_effect]
        if not usable:
            raise InputError(
                f"the joint test '{name}' has no single effect with a standard error, which this "
                "format wants; leave it out"
            )
        found.update((t.name, t) for t in usable)
    return list(found.values())


def _no_such_test(name: str, there: Sequence[ReportedTest], where: object) -> str:
    forms = [f for f in FORMS if any(t.form == f for t in there)]
    names = ", ".join(t.name for t in there)
    every = f"there are {names}; and {', '.join(forms)} for add, var and av of that form"
    if any(name in (t.name, t.form) for t in TESTS):
        wanted = next((how for part, how in _MADE_BY.items() if part in name), "")
        return f"{where}: no test '{name}' in it{wanted and f' ({wanted} makes it)'}; {every}"
    known = [*(t.name for t in there), *forms]
    return f"{where}: unknown test '{name}'; {every}{nearest(name, known)}"
