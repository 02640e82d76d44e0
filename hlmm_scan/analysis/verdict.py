"""What is wrong with the p-values of a trait, its likely cause and remedy, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binom

from hlmm_scan.analysis.rejection import LEVELS, CalibratedTest

FEWEST_TESTS = 1_000
"""Tests below which nothing can be said of small p: one of them is expected below 1e-3."""

COMMON_COUNT = 200.0
"""Minor allele count from which on carriers are many."""

GOOD_INFO = 0.8

INFLATED = 1.1
"""λ of the additive test that relatives, structure or very many effects explain."""

FEW_PEOPLE_PER_COVARIATE = 20.0

MOST_SKEWNESS = 2.0
MOST_EXCESS_KURTOSIS = 10.0
"""Beyond either, a trait is far from normal."""

_WORSE, _ALPHA = 1.2, 5e-4
"""Times that rejection must be of that elsewhere, and the probability of so many at that rate, for
the one place to be its cause."""

_WORDS = {"add": "mean", "var": "variance", "av": "joint"}


@dataclass(frozen=True)
class Facts:
    """What the verdict knows of a scan beside its tests.

    Attributes
    ----------
    people, covariates : int
        Analysed, and columns of both designs beside the intercepts.
    skewness, excess_kurtosis : float
        Of the null model's residuals over their standard deviations.
    background : bool
        Whether there are random effects or predictions.
    loco : bool
        Whether these leave the variant's own chromosome out.
    """

    people: int
    covariates: int
    skewness: float
    excess_kurtosis: float
    background: bool = False
    loco: bool = False

    @property
    def far_from_normal(self) -> bool:
        """Whether residuals are very skewed or heavy-tailed."""
        return abs(self.skewness) > MOST_SKEWNESS or self.excess_kurtosis > MOST_EXCESS_KURTOSIS

    @property
    def people_to_a_covariate(self) -> float:
        """Infinite where there is no covariate."""
        return self.people / self.covariates if self.covariates else float("inf")

    @property
    def people_words(self) -> str:
        """People and covariates in words."""
        if not self.covariates:
            return f"{self.people:,} people"
        return f"{self.people:,} people ({self.people_to_a_covariate:,.0f} to a covariate)"

    @property
    def shape(self) -> str:
        """Skewness and kurtosis in words."""
        return (
            f"residuals have skewness {self.skewness:.2f} and excess kurtosis "
            f"{self.excess_kurtosis:.2f}"
        )


@dataclass(frozen=True)
class Cause:
    """Something that is wrong, or likely to be.

    Attributes
    ----------
    name : str
        ``relatives``, ``many_effects``, ``few_carriers``, ``poor_imputation``,
        ``few_people_per_covariate``, ``skew``, ``too_few_rejections`` or ``unknown``.
    seen, remedy : str
        In words.
    """

    name: str
    seen: str
    remedy: str


@dataclass(frozen=True)
class Verdict:
    """What is seen in the tests of a trait.

    Attributes
    ----------
    state : {"held", "doubtful", "too_few", "none"}
        Nothing is seen against the p-values; something is; there are too few tests to see
        anything; there are none.
    tests : int
        Variants tested.
    causes : tuple of Cause
        The likely causes, the plainest first; empty unless doubtful.
    shown_to : float
        Smallest p down to which rejection was counted: ten independent tests are expected below
        it.
    facts : Facts
    text : str
        All this in a few sentences.
    """

    state: str
    tests: int
    causes: tuple[Cause, ...]
    shown_to: float
    facts: Facts
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types; moments that are not known as None."""
        facts = {k: None if v != v else v for k, v in asdict(self.facts).items()}
        return {**asdict(self), "facts": facts}


def judge(tests: Sequence[CalibratedTest], facts: Facts) -> Verdict:
    """Say what is wrong with the tests of a trait.

    Parameters
    ----------
    tests : sequence of CalibratedTest
        Over all variants, and in bins of allele count and info.
    facts : Facts

    Returns
    -------
    Verdict

    Notes
    -----
    The verdict comes from rejection as it is counted (at 0.5, which is λ, 1e-3 and 1e-4), by allele
    count and by info; the trait's shape and the number of covariates only tell causes apart.

    * ``relatives``: the additive test is inflated among common variants (λ of 1.1 and more), or
      already would be among 1,000 people (1 + 1000(λ − 1)/n); where it would not, ``many_effects``
      of many people are as likely.
    * ``few_carriers``, ``poor_imputation``: too many rejections at low counts or info, more than
      elsewhere.
    * ``few_people_per_covariate``: variance or joint tests reject too often, and there are less
      than 20 people to a covariate.
    * ``skew``: they do, and residuals are far from normal.
    """
    default = [t for t in tests if t.test in _WORDS or not any(x.test in _WORDS for x in tests)]
    # The variance of a trait of two values has no test.
    default = [t for t in default if t.n]
    whole = [t for t in default if t.bin.of == "all"]
    n = max((t.n for t in whole), default=0)
    shown_to = 10 / max((t.independent for t in whole), default=10.0)
    if not n:
        text = "No verdict: no variant was tested."
        return Verdict("none", 0, (), shown_to, facts, text)
    if n < FEWEST_TESTS:
        text = (
            f"No verdict: {n:,} {_tests(n)} are too few to show how often small p-values come by "
            f"chance ({FEWEST_TESTS:,} at least)."
        )
        return Verdict("too_few", n, (), shown_to, facts, text)
    causes = tuple(_causes([t for t in default if t.n >= FEWEST_TESTS], facts))
    if causes:
        text = f"Not as expected without effects in {n:,} tests of {facts.people_words}: "
        text += " ".join(_sentence(c) for c in causes)
        return Verdict("doubtful", n, causes, shown_to, facts, text)
    text = (
        f"As expected without effects in {n:,} tests of {facts.people_words}: {_summary(whole)}. "
        f"So many tests show how often p comes by chance down to some {shown_to:.1g}, and nothing "
        "below."
    )
    if facts.far_from_normal:
        text += f" The {facts.shape}: ranks (--rint) or the logarithm may find more."
    return Verdict("held", n, (), shown_to, facts, text)


def _causes(tests: Sequence[CalibratedTest], facts: Facts) -> Iterable[Cause]:
    """Yield what explains the rejections that are out of the ordinary."""
    high = [t for t in tests if t.beyond > 0]
    low = [t for t in tests if t.beyond < 0]
    explained: set[int] = set()

    def take(some: Iterable[CalibratedTest]) -> None:
        explained.update(id(t) for t in some)

    background = _background(tests, facts)
    if background is not None:
        yield background
        # What moves the common variants moves every bin, and the other tests with it.
        take(t for t in high if t.bin.of == "all" or not _worse(t, tests, _elsewhere(t)))
    for of, name, remedy in (
        ("count", "few_carriers", "scan with a larger --min-mac ({:,.0f}), or leave them out"),
        ("info", "poor_imputation", "scan with --min-info {:g}, or leave them out"),
    ):
        mine = [t for t in high if t.bin.of == of and _elsewhere(t)]
        mine = [t for t in mine if id(t) not in explained and _worse(t, tests, _elsewhere(t))]
        if mine:
            edge = max(t.bin.high for t in mine)
            what = "few carriers" if of == "count" else "poor imputation"
            seen = f"{what}: {_rates(mine)}"
            yield Cause(name, seen, remedy.format(edge))
            # Rarer or worse variants may carry the whole count of all.
            take(t for t in high if t.bin.of == "all" or t.bin.high <= edge)
            take(t for t in high if t.bin.of not in (of, "all"))
    rest = [t for t in high if id(t) not in explained]
    scale = [t for t in rest if _question(t) in ("var", "av")]
    if scale and facts.people_to_a_covariate < FEW_PEOPLE_PER_COVARIATE:
        seen = f"{facts.covariates} covariates are many for so few people: {_rates(scale)}"
        yield Cause("few_people_per_covariate", seen, "scan with fewer covariates")
        take(scale)
    rest = [t for t in rest if id(t) not in explained]
    if rest and facts.far_from_normal:
        yield Cause("skew", f"{facts.shape}: {_rates(rest)}", _TRANSFORM)
    elif rest:
        remedy = "permute people at the hits (hlmm-scan check) before they are believed"
        yield Cause("unknown", f"no cause is plain: {_rates(rest)}", remedy)
    if low and not high:
        why = f"{facts.shape}" if facts.far_from_normal else "no cause is plain"
        remedy = "hits are valid, some are missed" + (
            "; ranks (--rint) or the logarithm may find more" if facts.far_from_normal else ""
        )
        yield Cause("too_few_rejections", f"{why}: {_rates(low)}", remedy)


_TRANSFORM = "scan the logarithm (--log-transform) or ranks (--rint) of the trait"


def _background(tests: Sequence[CalibratedTest], facts: Facts) -> Cause | None:
    """Return relatives, structure or many effects as a cause, where the mean's λ says so."""
    additive = [t for t in tests if _question(t) == "add"]
    common = [t for t in additive if t.bin.of == "count" and t.bin.low >= COMMON_COUNT]
    # Where nearly all are rare, all of them must do.
    seen = [t for t in common if t.n >= FEWEST_TESTS] or [t for t in additive if t.bin.of == "all"]
    largest = max(seen, key=lambda t: t.n, default=None)
    if largest is None or not (largest.lambda_gc >= INFLATED and largest.at(0.5).beyond > 0):
        return None
    factor = largest.lambda_gc
    of = "" if largest.bin.of == "all" else f" ({largest.bin.words})"
    others = [t for t in tests if t.bin.of == "all" and _question(t) in ("var", "av")]
    words = "".join(f", of the {_name(t)} test {t.lambda_gc:.2f}" for t in others)
    seen_words = f"λ of the {_name(largest)} test is {factor:.2f}{of}{words}"
    per_1000 = 1 + 1000 * (factor - 1) / max(facts.people, 1000)
    if per_1000 < INFLATED:
        seen_words += (
            f", as very many effects would have it in {facts.people:,} people, or relatives or "
            "structure"
        )
    elif facts.background:
        seen_words += ", in spite of the background that was given"
    else:
        seen_words += ", as relatives or population structure have it"
    if not facts.background:
        remedy = (
            "give the scan a background: random effects (--random-effects with --loco), or "
            "predictions from the other chromosomes (--offset); principal components among the "
            "covariates for structure alone"
        )
    elif not facts.loco:
        remedy = "leave each variant's own chromosome out of the background (--loco), and give it "
        remedy += "more variants, or principal components among the covariates"
    else:
        remedy = "give the background more variants, or principal components among the covariates"
    name = "many_effects" if per_1000 < INFLATED else "relatives"
    return Cause(name, seen_words, remedy)


def _question(test: CalibratedTest) -> str:
    return test.test.partition("_")[0]


def _name(test: CalibratedTest) -> str:
    question, _, form = test.test.partition("_")
    words = _WORDS.get(question, question)
    return f"{words} ({form.replace('_', ' ')})" if form else words


def _elsewhere(test: CalibratedTest) -> str:
    """Return which kind of low bin a test is in: ``count`` or ``info``; empty for other bins."""
    low = {"count": COMMON_COUNT, "info": GOOD_INFO}.get(test.bin.of)
    return test.bin.of if low is not None and test.bin.high <= low else ""


def _worse(test: CalibratedTest, tests: Sequence[CalibratedTest], of: str) -> bool:
    """Whether a low bin rejects more than the better bins of the same test do."""
    limit = {"count": COMMON_COUNT, "info": GOOD_INFO}.get(of)
    if limit is None:
        return False
    better = [t for t in tests if t.test == test.test and t.bin.of == of and t.bin.low >= limit]
    for here in test.rejections:
        if here.level == 0.5 or here.beyond <= 0:
            continue
        expected = sum(t.at(here.level).expected for t in better)
        if expected < 1:
            return True  # nothing to hold it against but the nominal rate
        observed = sum(t.at(here.level).observed for t in better)
        # Were rates alike, all would be shared out as expected ones are; events, not tests.
        share = here.expected / (here.expected + expected)
        events = math.ceil(here.observed / test.alike)
        both = math.ceil((here.observed + observed) / test.alike)
        more = here.ratio > _WORSE * observed / expected
        if more and binom.sf(events - 1, both, share) < _ALPHA:
            return True
    return False


def _rates(tests: Sequence[CalibratedTest], most: int = 3) -> str:
    """Say what was seen, the strongest first."""
    strongest = sorted(tests, key=_distance, reverse=True)[:most]
    return "; ".join(_rate(test) for test in strongest)


def _distance(test: CalibratedTest) -> float:
    return max(
        (abs(r.observed - r.expected) / max(r.expected, 1) ** 0.5 for r in test.rejections if
         r.beyond),
        default=0.0,
    )  # fmt: skip


def _rate(test: CalibratedTest) -> str:
    """Say what one test did in one bin."""
    where = "" if test.bin.of == "all" else f" at {test.bin.words}"
    found = [r for r in test.rejections if r.beyond and r.level < 0.5]
    if not found:
        low, high = test.lambda_band
        return (
            f"λ of the {_name(test)} test{where} is {test.lambda_gc:.2f} where {low:.2f} to "
            f"{high:.2f} were expected"
        )
    worst = max(found, key=lambda r: abs(r.ratio - 1))
    return (
        f"the {_name(test)} test{where} has {worst.observed:,} p-values below {worst.level:g} of "
        f"{worst.lower:,.0f} to {worst.upper:,.0f} expected"
    )


def _summary(tests: Sequence[CalibratedTest]) -> str:
    """λ and rejections of every test."""
    factors = ", ".join(f"{t.lambda_gc:.2f} ({_name(t)})" for t in tests)
    level = LEVELS[1]
    counts = ", ".join(f"{t.at(level).observed:,}" for t in tests)
    band = tests[0].at(level)
    return (
        f"λ is {factors}, and {counts} p-values are below {level:g} where {band.lower:,.0f} to "
        f"{band.upper:,.0f} were expected"
    )


def _tests(n: int) -> str:
    return "test" if n == 1 else "tests"


def _sentence(cause: Cause) -> str:
    # Not of λ, which would be Λ.
    first = cause.seen[0].upper() if cause.seen[0].isascii() else cause.seen[0]
    return f"{first}{cause.seen[1:]}. Remedy: {cause.remedy}."
