"""What pictures of one phenotype need, read in one pass over its results in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from hlmm_scan.analysis import rows
from hlmm_scan.analysis.dispersion import ATTRIBUTE
from hlmm_scan.analysis.quantiles import PValues
from hlmm_scan.array_types import Float
from hlmm_scan.errors import InputError
from hlmm_scan.report.genome import Genome
from hlmm_scan.report.thinning import KEEP, Thinner
from hlmm_scan.results.tests import (
    DISPERSION,
    LIKELIHOOD_RATIO,
    QUESTIONS,
    ReportedTest,
    available_tests,
    default_tests,
    parse_tests,
)
from hlmm_scan.schema import SCORE_TESTS, TRAIT_UNIT, WALD_FORMAT, Status
from hlmm_scan.storage.places import MARK

TESTS = (*QUESTIONS, DISPERSION)
"""What is tested: mean, log-variance, both (2 df), variance beyond what the mean brings along."""

GENOME_WIDE = 5e-8
"""p-value below which a variant is a hit."""

ROWS_PER_READ = 262_144
_SAMPLED = 20_000
_EFFECTS = ("n", "effect_allele_frequency", "add", "add_se", "var", "var_se")
_DISPERSION = ("dispersion", "dispersion_se")
_HERITABLE = "random_variance_fraction"


def shown_p(test: str) -> str:
    """Return the column of −log10 p in tables of a :class:`Trait`, in whichever form."""
    return f"{test}_neg_log10_p"


@dataclass(frozen=True, eq=False)
class Points:
    """Points along the genome, dull ones thinned.

    Attributes
    ----------
    x : ndarray, shape (k,)
        Places on the axis of the :class:`~hlmm_scan.report.genome.Genome`.
    y : ndarray, shape (k,)
    variant : ndarray of int64, shape (k,)
        Indices along the dimension ``variant``.
    """

    x: Float
    y: Float
    variant: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trait:
    """One phenotype's results, as far as pictures show them.

    Only tests with status ``ok``, ``screened``, ``refined`` or ``random_variance_at_zero`` are in.

    Attributes
    ----------
    phenotype : str
    genome : Genome
    shown : mapping of str to ReportedTest
        The test in `points` and `hits` for each question, one of :data:`TESTS`.
    threshold : float
        −log10 p beyond which a variant is a hit.
    statuses : mapping of str to int
        Tests by status label, all of them.
    points : mapping of str to Points
        −log10 p by test, one of :data:`TESTS`.
    quantiles : mapping of str to PValues
        By the name of the test: those shown, the default and the likelihood-ratio tests.
    hits : DataFrame
        Every variant that some test calls a hit, indexed by ``variant``: effects, standard errors,
        frequency, and −log10 p of each test shown as :func:`shown_p` names it.
    sample : DataFrame
        The same of some 20,000 variants, evenly spaced, hits or not.
    random_variance : Points or None
        The random effects' share of the variance along the genome.
    slope : float or None
        Of variance on additive effects, where dispersion effects were made.
    unit : str
        Of the phenotype as it was analysed: additive effects are so many of it per allele.
    """

    phenotype: str
    genome: Genome
    shown: Mapping[str, ReportedTest]
    threshold: float
    statuses: Mapping[str, int]
    points: Mapping[str, Points]
    quantiles: Mapping[str, PValues]
    hits: pd.DataFrame
    sample: pd.DataFrame
    random_variance: Points | None
    slope: float | None
    unit: str

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests there are, in the order of :data:`TESTS`."""
        return tuple(self.points)

    @property
    def n_tested(self) -> int:
        """Variants whose tests are in."""
        return self.quantiles[self.shown["av"].name].n


def one_phenotype(results: xr.Dataset) -> xr.Dataset:
    """Return a Dataset without the dimension ``phenotype``.

    Raises
    ------
    InputError
        If it has several.
    """
    if "phenotype" not in results.dims:
        return results
    if results.sizes["phenotype"] != 1:
        names = ", ".join(map(str, results["phenotype"].values[:5]))
        raise InputError(f'choose one phenotype, as results.sel(phenotype="…"), of {names}')
    return results.isel(phenotype=0)


def read_trait(
    results: xr.Dataset,
    *,
    tests: Sequence[str] = (),
    threshold: float = GENOME_WIDE,
    genome: Genome | None = None,
    rows_per_read: int = ROWS_PER_READ,
) -> Trait:
    """Read what the pictures of one phenotype show.

    Parameters
    ----------
    results : Dataset
        Opened result store, one phenotype of it; complete or not.
    tests : sequence of str, optional
        For each question one test at most, as :func:`hlmm_scan.results.tests.parse_tests` takes
        them; those that are not named are shown by their default test.
    threshold : float, default 5e-8
        p-value below which a variant is a hit.
    genome : Genome, optional
        Of these results, where it was read before.
    rows_per_read : int, default 262,144
        Variants read at a time. It changes nothing but the memory.

    Raises
    ------
    InputError
        If there are several phenotypes, no such test, two of one question, or the threshold is no
        p-value.
    """
    results = one_phenotype(results)
    shown = tests_shown(tests, _names(results), "these results")
    if not 0 < threshold < 1:
        raise InputError(f"the threshold must be a p-value between 0 and 1, not {threshold}")
    genome = genome or Genome.read(results, rows_per_read)
    reader = _Reader(results, shown, -np.log10(threshold), genome)
    for start in range(0, results.sizes["variant"], rows_per_read):
        reader.take(start, min(start + rows_per_read, results.sizes["variant"]))
    return reader.trait()


def trait_of(results: xr.Dataset | Trait) -> Trait:
    """Return what pictures show of one phenotype, read unless it was read before."""
    return results if isinstance(results, Trait) else read_trait(results)


def tests_shown(
    names: Sequence[str], variables: Collection[str], where: object
) -> dict[str, ReportedTest]:
    """Return the test of each question that pictures show: the one named, else the default one.

    Parameters
    ----------
    names : sequence of str
    variables : collection of str
        What is stored.
    where : object
        What it is stored in, for errors.

    Raises
    ------
    InputError
        If there is no such test, or there are two of one question.
    """
    chosen = {test.question: test for test in default_tests(variables)}
    asked: dict[str, ReportedTest] = {}
    for test in parse_tests(names, variables, where) if names else ():
        if test.question not in TESTS:
            raise InputError(f"there is no picture of the test '{test.name}'; leave it out")
        if test.question in asked:
            raise InputError(
                f"'{asked[test.question].name}' and '{test.name}' ask the same; a picture shows "
                "one of them"
            )
        asked[test.question] = test
    chosen |= asked
    return {question: chosen[question] for question in TESTS if question in chosen}


def _names(results: xr.Dataset) -> list[str]:
    """Return the variables of results; of an earlier version's, without its p-values."""
    mark = results.attrs.get(MARK, {})
    other = SCORE_TESTS if mark.get("format") == WALD_FORMAT else ()
    return [str(name) for name in results if name not in other]


class _Reader:
    """Takes results in, some rows at a time."""

    def __init__(
        self,
        results: xr.Dataset,
        shown: Mapping[str, ReportedTest],
        threshold: float,
        genome: Genome,
    ) -> None:
        self.results, self.shown, self.threshold, self.genome = results, shown, threshold, genome
        names = _names(results)
        ratios = [t for t in available_tests(names) if t.form == LIKELIHOOD_RATIO]
        every = (*default_tests(names), *shown.values(), *ratios)
        self.drawn = {test.name: test for test in every}
        self.quantiles = {name: PValues() for name in self.drawn}
        self.effects = [name for name in (*_EFFECTS, *_DISPERSION) if name in results]
        keep = min(KEEP, threshold)
        self.thinners = {test: Thinner(genome.width, keep) for test in self.shown}
        self.random = (
            Thinner(genome.width, np.inf, top=1.0, levels=500) if _HERITABLE in results else None
        )
        needs = [name for test in every for name in test.needs]
        self.names = list(dict.fromkeys(["status", *needs, *self.effects]))
        self.names += [_HERITABLE] if self.random else []
        self.every = max(1, results.sizes["variant"] // _SAMPLED)
        self.statuses: Counter[int] = Counter()
        self.hits: list[pd.DataFrame] = []
        self.sample: list[pd.DataFrame] = []

    def take(self, start: int, stop: int) -> None:
        part = self.results[self.names].isel(variant=slice(start, stop)).load()
        values = {name: np.asarray(part[name].values) for name in self.names}
        status = values.pop("status")
        self.statuses.update(dict(zip(*np.unique(status, return_counts=True), strict=True)))
        kept = np.flatnonzero(rows.trusted(status))
        variants = kept + start
        values = {name: column[kept] for name, column in values.items()}
        x = self.genome.x(variants)
        p = {name: test.neg_log10_p(values) for name, test in self.drawn.items()}
        for name, quantiles in self.quantiles.items():
            quantiles.add(p[name])
        hit = np.zeros(len(variants), dtype=bool)
        for question, test in self.shown.items():
            self.thinners[question].add(x, p[test.name], variants)
            hit |= p[test.name] > self.threshold
        if self.random:
            self.random.add(x, values[_HERITABLE], variants)
        self.hits.append(self._table(values, variants, hit))
        self.sample.append(self._table(values, variants, variants % self.every == 0))

    def _table(
        self, values: Mapping[str, Float], variants: NDArray[np.intp], chosen: NDArray[np.bool_]
    ) -> pd.DataFrame:
        columns = {name: values[name][chosen] for name in self.effects}
        p = {question: test.neg_log10_p(values) for question, test in self.shown.items()}
        columns |= {shown_p(question): column[chosen] for question, column in p.items()}
        return pd.DataFrame(columns, index=pd.Index(variants[chosen], name="variant"))

    def trait(self) -> Trait:
        # At least one part, so that tables of nothing have their columns.
        none = np.empty(0, dtype=np.intp)
        empty = self._table({name: np.empty(0) for name in self.names}, none, none.astype(np.bool_))
        phenotype = str(self.results["phenotype"].values)
        return Trait(
            phenotype=phenotype,
            genome=self.genome,
            shown=self.shown,
            threshold=self.threshold,
            statuses={Status(int(s)).label: k for s, k in sorted(self.statuses.items())},
            points={test: Points(*thinner.points()) for test, thinner in self.thinners.items()},
            quantiles=self.quantiles,
            hits=pd.concat(self.hits) if self.hits else empty,
            sample=pd.concat(self.sample) if self.sample else empty,
            random_variance=Points(*self.random.points()) if self.random else None,
            slope=_slope(self.results, phenotype),
            unit=str(self.results["add"].attrs.get("units", TRAIT_UNIT)),
        )


def _slope(results: xr.Dataset, phenotype: str) -> float | None:
    """Return the slope that dispersion effects of a phenotype were made with."""
    for fit in results.attrs.get(ATTRIBUTE, {}).get("phenotypes", ()):
        if fit["phenotype"] == phenotype:
            return None if fit["slope"] is None else float(fit["slope"])
    return None
