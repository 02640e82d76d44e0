"""Whether p-values can be believed: λ and rejection, by allele count and info, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import zarr

from hlmm_scan.analysis.rejection import ALL, BLOCKS, Bin, CalibratedTest, Seen, summary
from hlmm_scan.analysis.rows import (
    chosen_tests,
    numbers_of_phenotypes,
    read_rows,
    trusted,
)
from hlmm_scan.analysis.verdict import FEWEST_TESTS, Facts, Verdict, judge
from hlmm_scan.array_types import Float
from hlmm_scan.results.null_summary import trait_shape
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.tests import LIKELIHOOD_RATIO, ReportedTest, at_bound, available_tests

COUNT_EDGES = (0.0, 20.0, 50.0, 100.0, 200.0, 500.0, 2000.0, np.inf)
"""Bins of the minor allele count: each from its lower edge (kept) to its upper one (not)."""

SMOOTH_COUNT = 50.0
"""Minor allele count from which on p-values of a trait of few values are close enough: their sums
over carriers take few values too, and one p stands for all of a jump (math.md §7)."""

OUTLIER_SHARE = 1 / 3
"""Share of the variance of t² from which on one person decides p-values of rare alleles: whether
they carry it is a jump of the score, which no smooth tail follows."""

OUTLIER_COUNT = 200.0
"""Minor allele count from which on they do not (math.md §7)."""

INFO_EDGES = (0.0, 0.3, 0.6, 0.8, 0.9, np.inf)
"""Bins of the imputation info, alike."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of all tests of one phenotype.

    Attributes
    ----------
    phenotype : str
    people : int
        Analysed.
    trait_skewness, trait_excess_kurtosis : float
        Of the phenotype as analysed, before the null model.
    few_values : bool
        Whether the trait takes at most 20 values, so that p-values of rare alleles jump.
    outlier : float
        Share that the most outlying person has of the variance of t², t the standardised trait.
    verdict : Verdict
        From what is seen in the default tests.
    tests : tuple of CalibratedTest
        Test by test, first over all variants, then in each bin that holds any.
    """

    phenotype: str
    people: int
    trait_skewness: float
    trait_excess_kurtosis: float
    few_values: bool
    outlier: float
    verdict: Verdict
    tests: tuple[CalibratedTest, ...]

    def of(self, test: str, which: Bin = ALL) -> CalibratedTest:
        """Return one test over some variants.

        Raises
        ------
        KeyError
            If there is none.
        """
        for found in self.tests:
            if (found.test, found.bin) == (test, which):
                return found
        raise KeyError((test, which))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "phenotype": self.phenotype,
            "people": self.people,
            "trait_skewness": _or_none(self.trait_skewness),
            "trait_excess_kurtosis": _or_none(self.trait_excess_kurtosis),
            "few_values": self.few_values,
            "outlier": _or_none(self.outlier),
            "verdict": self.verdict.to_json(),
            "tests": [test.to_json() for test in self.tests],
        }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def calibration(
    store: ResultStore,
    phenotypes: Sequence[str] = (),
    *,
    tests: Sequence[str] = (),
    count_edges: Sequence[float] = COUNT_EDGES,
    info_edges: Sequence[float] = INFO_EDGES,
) -> list[Calibration]:
    """Measure how the tests of a scan are calibrated, and say what is wrong with them.

    Parameters
    ----------
    store : ResultStore
        Complete or not: what is there is taken.
    phenotypes : sequence of str, default all
    tests : sequence of str, optional
        As :func:`hlmm_scan.results.tests.parse_tests` takes them. Default: the score tests, that
        of dispersion and the likelihood-ratio tests, as far as the store has them.
    count_edges, info_edges : sequence of float, optional
        Ascending edges of the bins of the minor allele count, and of the imputation info where
        the store has it.

    Returns
    -------
    list of Calibration
        One for each phenotype.

    Raises
    ------
    InputError
        If a phenotype is unknown, or the store has no such test.

    Notes
    -----
    One pass over the rows; some 300 kB for each test and bin, whatever the number of rows. What is
    made of it in words, :func:`hlmm_scan.analysis.verdict.judge` explains.
    """
    chosen = chosen_tests(store, tests)
    names = [v.name for v in store.readable]
    if not tests:
        chosen += [t for t in available_tests(names) if t.form == LIKELIHOOD_RATIO]
    bins = [ALL, *(Bin("count", low, high) for low, high in pairwise(count_edges))]
    if "info" in names:
        bins += [Bin("info", low, high) for low, high in pairwise(info_edges)]
    with store.being_read():
        return [
            _of_phenotype(store, number, chosen, bins)
            for number in numbers_of_phenotypes(store, phenotypes)
        ]


def _of_phenotype(
    store: ResultStore, number: int, chosen: Sequence[ReportedTest], bins: Sequence[Bin]
) -> Calibration:
    found = {(test, which): Seen() for test in chosen for which in bins}
    variables = ["status", "n", "effect_allele_frequency"]
    variables += ["info"] if any(which.of == "info" for which in bins) else []
    variables += [name for test in chosen for name in test.needs]
    m = store.array("status").shape[1]
    for start, rows in read_rows(store, number, variables):
        kept = np.flatnonzero(trusted(rows["status"]))
        values = {name: column[kept] for name, column in rows.items()}
        block = (start + kept) * BLOCKS // m
        of = {"count": minor_allele_count(values), "info": values.get("info")}
        inside = {b: b.holds(cast(Float, of[b.of])) for b in bins if b.of != "all"}
        p = {test: test.neg_log10_p(values) for test in chosen}
        for (test, which), seen in found.items():
            mine = inside.get(which, slice(None))
            seen.add(p[test][mine], block[mine])
    tests = tuple(
        summary(test, which, seen)
        for (test, which), seen in found.items()
        if seen.values.n or which.of == "all"
    )
    name = store.phenotypes[number]
    shape = trait_shape(store.null_group(name))
    return Calibration(
        name,
        *shape,
        judge(tests, _facts(store, name, shape.people)),
        tests,
    )


def not_shown(calibrated: Calibration, test: ReportedTest, hit: Mapping[str, Any]) -> list[str]:
    """Name what this trait's own tests have not shown of one test at one variant.

    Parameters
    ----------
    calibrated : Calibration
        With this test.
    test : ReportedTest
    hit : mapping
        The variant's ``n``, ``effect_allele_frequency``, ``status`` and, where the store has them,
        ``test_flags`` and ``info``.

    Returns
    -------
    list of str
        ``few_tests_count`` or ``few_tests_info`` where less than 1,000 tests have the variant's
        minor allele count or info; ``inflated_count`` or ``inflated_info`` where these reject too
        often; ``jumps`` where the trait takes few values and the allele is rare, so that p may be
        three times too small; ``outlier`` where one person has a third of the variance of squares,
        alike of tests of the variance or of both effects; ``at_bound`` where the score is beyond
        what the residuals can reach, so that p is no smaller than said.
    """
    values = {"count": float(minor_allele_count(hit))}
    if any(t.bin.of == "info" for t in calibrated.tests):
        values["info"] = float(hit["info"])
    found = []
    for of, value in values.items():
        mine = [t for t in calibrated.tests if t.test == test.name and t.bin.of == of]
        here = next((t for t in mine if t.bin.low <= value < t.bin.high), None)
        if here is None or here.n < FEWEST_TESTS:
            found.append(f"few_tests_{of}")
        elif here.beyond > 0:
            found.append(f"inflated_{of}")
    found += doubts_of_trait(
        calibrated.few_values, calibrated.outlier, values["count"], test.question
    )
    columns = {name: np.array([hit[name]]) for name in ("status", "test_flags") if name in hit}
    return [*found, *(["at_bound"] if at_bound(test, columns)[0] else [])]


def doubts_of_trait(few_values: bool, outlier: float, count: float, question: str) -> list[str]:
    """Name what the shape of a trait leaves in doubt of a test at a minor allele count.

    Parameters
    ----------
    few_values, outlier
        As of :class:`~hlmm_scan.results.null_summary.TraitShape`.
    count : float
    question : str
        ``add``, ``var``, ``av``, …
    """
    found = ["jumps"] if few_values and count < SMOOTH_COUNT else []
    outlying = outlier >= OUTLIER_SHARE and count < OUTLIER_COUNT
    return [*found, *(["outlier"] if outlying and question in ("var", "av") else [])]


def minor_allele_count(columns: Mapping[str, Any]) -> Float:
    """Return minor alleles in the people of a test, from ``n`` and ``effect_allele_frequency``."""
    frequency = columns["effect_allele_frequency"]
    return np.asarray(2 * columns["n"] * np.minimum(frequency, 1 - frequency))


def _facts(store: ResultStore, name: str, people: int) -> Facts:
    """Return what the verdict wants to know of the scan."""
    parameters = store.attributes.get("parameters", {})
    third, fourth = np.asarray(store.null_array(name, "moments")[0], np.float64)
    group = store.null_group(name)
    # Every design has an intercept.
    designs = (group[name] for name in ("alpha", "beta") if name in group)
    covariates = sum(cast(zarr.Array[Any], fit).shape[-1] - 1 for fit in designs)
    return Facts(
        people=people,
        covariates=covariates,
        skewness=float(third),
        excess_kurtosis=float(fourth) - 3.0,
        background=bool(parameters.get("random_effects") or parameters.get("offset")),
        loco=bool(parameters.get("loco") or parameters.get("offset")),
    )
