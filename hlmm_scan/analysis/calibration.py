"""Whether p-values can be believed: λ_GC, quantiles, the trait's shape, and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp

from hlmm_scan.analysis.quantiles import Float, PValues, expected_neg_log10_p
from hlmm_scan.analysis.rows import (
    chosen_phenotypes,
    chosen_tests,
    read_rows,
    trusted,
)
from hlmm_scan.results.null_summary import trait_shape
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.tests import LIKELIHOOD_RATIO, ReportedTest, available_tests

FREQUENCY_EDGES = (0.0, 0.01, 0.05, 0.2, 0.5)
"""Bins of the minor allele frequency: each from its lower edge (kept) to its upper one (not)."""

NEARLY_NORMAL = 0.2
"""Skewness and excess kurtosis, of either sign, up to which the model-based tests are believed."""

MOST_SKEWNESS = 2.0
MOST_EXCESS_KURTOSIS = 10.0
"""Beyond either, a trait is better transformed than tested robustly."""

ALLELES_PER_SQUARED_SKEWNESS = 100.0
"""Minor alleles, over squared skewness, that the additive test needs at small p."""

WORTH_TELLING = 20.0
"""Minor alleles that scans keep by default: what goes wrong below need not be said."""

GENOME_WIDE = 5e-8


@dataclass(frozen=True)
class Verdict:
    """Which p-values of a trait to use.

    Attributes
    ----------
    use : {"model", "robust", "transform"}
        The model-based tests can be trusted; the robust ones should be taken; or the trait should
        be scanned again on another scale.
    skewness, excess_kurtosis : float
        Of the residuals over their standard deviations.
    expected_lambda : float
        λ_GC of the model-based variance test that these moments lead to.
    level_at_genome_wide : float
        True chance of a model-based variance p below 5e-8 where there is no effect.
    least_minor_alleles : float
        Minor alleles below which also the additive test rejects too often at small p.
    text : str
        All this in a few sentences.
    """

    use: str
    skewness: float
    excess_kurtosis: float
    expected_lambda: float
    level_at_genome_wide: float
    least_minor_alleles: float
    text: str


@dataclass(frozen=True, eq=False)
class CalibratedTest:
    """Quantiles of one test in one frequency bin.

    Attributes
    ----------
    test : str
        As ``--test`` takes it.
    frequency : tuple of float, or None
        Minor allele frequencies from the first (kept) to the second (not); None for all.
    n : int
        Tests in it; those with a status of 5 or more, or none yet, are left out.
    lambda_gc : float
        Median χ² over that of the null distribution.
    rank : ndarray of int64, shape (k,)
        1 the smallest p: the 100 smallest, and 40 ranks for each tenfold.
    observed, expected, lower, upper : ndarray, shape (k,)
        −log10 p of that rank, what uniform p-values lead one to expect, and their 95% band.
    """

    test: str
    frequency: tuple[float, float] | None
    n: int
    lambda_gc: float
    rank: NDArray[np.int64]
    observed: Float
    expected: Float
    lower: Float
    upper: Float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        numbers = ("rank", "observed", "expected", "lower", "upper")
        return {
            "test": self.test,
            "frequency": None if self.frequency is None else list(self.frequency),
            "n": self.n,
            "lambda_gc": _number(self.lambda_gc),
            **{name: getattr(self, name).tolist() for name in numbers},
        }


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
    verdict : Verdict
        From the residuals of the null model.
    tests : tuple of CalibratedTest
        Test by test, first over all frequencies, then in each bin that holds any.
    """

    phenotype: str
    people: int
    trait_skewness: float
    trait_excess_kurtosis: float
    verdict: Verdict
    tests: tuple[CalibratedTest, ...]

    def of(self, test: str, frequency: tuple[float, float] | None = None) -> CalibratedTest:
        """Return one test's quantiles.

        Raises
        ------
        KeyError
            If there are none.
        """
        for found in self.tests:
            if (found.test, found.frequency) == (test, frequency):
                return found
        raise KeyError((test, frequency))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "phenotype": self.phenotype,
            "people": self.people,
            "trait_skewness": self.trait_skewness,
            "trait_excess_kurtosis": self.trait_excess_kurtosis,
            "verdict": asdict(self.verdict),
            "tests": [test.to_json() for test in self.tests],
        }


def calibration(
    store: ResultStore,
    phenotypes: Sequence[str] = (),
    *,
    tests: Sequence[str] = (),
    frequency_edges: Sequence[float] = FREQUENCY_EDGES,
) -> list[Calibration]:
    """Measure how the tests of a scan are calibrated, and say which to use.

    Parameters
    ----------
    store : ResultStore
        Complete or not: what is there is taken.
    phenotypes : sequence of str, default all
    tests : sequence of str, optional
        As :func:`hlmm_scan.results.tests.parse_tests` takes them. Default: the score tests, that
        of dispersion and the likelihood-ratio tests, as far as the store has them.
    frequency_edges : sequence of float, optional
        Ascending edges of the bins of the minor allele frequency.

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
    One pass over the rows; some 300 kB for each test and bin, whatever the number of rows.
    λ_GC also rises with true effects on many variants (a polygenic trait has λ > 1 for `add`);
    the verdict therefore rests on the residuals' moments alone, see :func:`judge`.
    """
    chosen = chosen_tests(store, tests)
    if not tests:
        there = available_tests([v.name for v in store.readable])
        chosen += [test for test in there if test.form == LIKELIHOOD_RATIO]
    with store.being_read():
        return [
            _of_phenotype(store, number, chosen, tuple(frequency_edges))
            for number in chosen_phenotypes(store, phenotypes)
        ]


def judge(skewness: float, excess_kurtosis: float) -> Verdict:
    """Say which p-values to use, from the third and fourth moment of the residuals.

    Parameters
    ----------
    skewness, excess_kurtosis : float
        Of the null model's residuals over their standard deviations.

    Notes
    -----
    The model-based variance test has λ = (m₄ − 1)/2 = 1 + excess kurtosis/2 (math.md §2). With
    both moments within ±0.2, λ ≤ 1.1 and a nominal 5e-8 is 2e-7 at most.

    The other limits rest on a simulation of type-I error (5,000 people, allele frequencies 0.02
    and 0.2, 100 draws of each of 13 traits with 1,000 variants each). The studentised variance
    test rejected 0.3–1.6 times as often as it should at 1e-3 on all of them, and ever less often
    as tails grow heavier (0.05 on the log-normal of σ = 1): from an excess kurtosis of 10 on it
    wastes power. The additive test at 200 minor alleles rejected at 1e-4 2.8 times too often at a
    skewness of 1.4 (gamma of shape 2), 7 times at 2 (exponential), 15 times at 2.8 (gamma of shape
    ½), 27 times at 5 (log-normal), but 1.5 times at most at any kurtosis without skewness, and
    2.3 times at most at 2,000 minor alleles: what counts is skewness/√(minor alleles), to be kept
    below 0.1.
    """
    expected = max(1.0 + excess_kurtosis / 2.0, 0.0)
    z = -ndtri_exp(np.log(GENOME_WIDE / 2))
    level = float(2 * np.exp(log_ndtr(-z / np.sqrt(expected)))) if expected > 0 else 0.0
    alleles = ALLELES_PER_SQUARED_SKEWNESS * skewness**2
    shape = f"residuals have skewness {skewness:.2f} and excess kurtosis {excess_kurtosis:.2f}"
    model = (
        f"the model-based variance test has λ near {expected:.2f}, so that its p of 5e-8 is "
        f"{level:.0e} in truth"
    )
    if max(abs(skewness), abs(excess_kurtosis)) <= NEARLY_NORMAL:
        use = "model"
        text = f"Nearly normal: {shape}. All tests can be trusted, the model-based ones included."
    elif abs(skewness) <= MOST_SKEWNESS and excess_kurtosis <= MOST_EXCESS_KURTOSIS:
        use = "robust"
        text = f"Not normal: {shape}; {model}. Use the robust tests"
        text += " of variance and of both effects."
        if alleles >= WORTH_TELLING:
            text += (
                f" Below some {_round(alleles)} minor alleles, additive p-values are too small too."
            )
    else:
        use = "transform"
        text = (
            f"Far from normal: {shape}; {model}. The robust tests stay valid for common variants "
            "but lose power, and additive p-values are too small below some "
            f"{_round(alleles)} minor alleles. Scan the logarithm or ranks (--rint) of this trait "
            "instead; effects then are on that scale."
        )
    return Verdict(use, skewness, excess_kurtosis, expected, level, alleles, text)


def _of_phenotype(
    store: ResultStore, number: int, chosen: Sequence[ReportedTest], edges: tuple[float, ...]
) -> Calibration:
    bins: list[tuple[float, float] | None] = [None, *pairwise(edges)]
    found = {(test, b): PValues() for test in chosen for b in bins}
    columns = [name for test in chosen for name in test.needs]
    for _, rows in read_rows(store, number, ["status", "effect_allele_frequency", *columns]):
        kept = trusted(rows["status"])
        frequency = rows["effect_allele_frequency"][kept]
        # A frequency of one half belongs to the last bin.
        minor = np.minimum(np.minimum(frequency, 1 - frequency), np.nextafter(0.5, 0))
        masks = {b: (minor >= b[0]) & (minor < b[1]) for b in bins if b is not None}
        p = {test: test.neg_log10_p(rows)[kept] for test in chosen}
        for (test, frequency_bin), values in found.items():
            mine = slice(None) if frequency_bin is None else masks[frequency_bin]
            values.add(p[test][mine])
    tests = [
        _summary(test, frequency_bin, values)
        for (test, frequency_bin), values in found.items()
        if values.n or frequency_bin is None
    ]
    group = store.null_group(store.phenotypes[number])
    people, skewness, excess = trait_shape(group)
    third, fourth = np.asarray(cast(zarr.Array[Any], group["moments"])[0], np.float64)
    return Calibration(
        store.phenotypes[number],
        people,
        skewness,
        excess,
        judge(float(third), float(fourth) - 3.0),
        tuple(tests),
    )


def _summary(
    test: ReportedTest, frequency: tuple[float, float] | None, values: PValues
) -> CalibratedTest:
    ranks = values.ranks_to_show()
    expected, lower, upper = expected_neg_log10_p(ranks, values.n)
    return CalibratedTest(
        test=test.name,
        frequency=frequency,
        n=values.n,
        lambda_gc=values.lambda_gc(test.df),
        rank=ranks,
        observed=values.at_rank(ranks),
        expected=expected,
        lower=lower,
        upper=upper,
    )


def _round(count: float) -> str:
    """Two leading digits: it is a rule of thumb."""
    unit = 10 ** max(int(np.floor(np.log10(count))) - 1, 0) if count > 0 else 1
    return f"{int(round(count / unit) * unit):,}"


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
