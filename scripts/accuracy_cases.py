"""Random cases for scripts/accuracy: a seed makes people, designs, effects and one test variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from simulated import draw_genotypes, null_model, random_effects, standardised_columns

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import (
    BGEN_8_BIT,
    MISSING_CODE,
    Dosages,
    GenotypeBlock,
    HardCalls,
)
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.limits import second_order_distance
from hlmm_scan.kernels.paths import (
    CLASS_GRAMS,
    CLASS_SUMS,
    DOSAGE_SUMS,
    JOINT,
    NEWTON_STEP,
    SECOND_ORDER,
    WEIGHTED,
    Path,
    path_of,
)
from hlmm_scan.null.model import NullModel

LEAST_MAC = 20
_PLAIN_WORK = 1_500**3
"""Largest n·l²: the plain fit of an HLMM takes about twenty times that many operations."""


@dataclass(frozen=True)
class Kind:
    """A way to fit, and how far from the plain model it may be.

    Attributes
    ----------
    name : str
    path : Path
        That fits it, whether or not a scan of so many people would take it.
    share : float
        Of the cases.
    allowed : callable
        Distance of either effect in standard errors, for n people.
    people : tuple of int
        Fewest and most.
    random : str
        ``""``, ``"few"`` (1 to n, log-uniform, as n·l² of the plain fit allows) or ``"full"``
        (n to 2n).
    covariates : bool
        1 to 4 in either design, a test genotype correlated with the first of them in some cases.
    dosages : bool
        In steps of an 8-bit BGEN, of a tenth or more of the people uncertain.
    """

    name: str
    path: Path
    share: float
    allowed: Callable[[int], float]
    people: tuple[int, int]
    random: str = ""
    covariates: bool = False
    dosages: bool = False


def _one_step_distance(n: int) -> float:
    """What the bound of a Newton step allows."""
    return 1e-3


KINDS = (
    Kind("HLM, class sums", CLASS_SUMS, 0.42, lambda n: 1e-5, (500, 20_000)),
    Kind("HLM, dosages", DOSAGE_SUMS, 0.05, lambda n: 1e-5, (500, 20_000), dosages=True),
    Kind("HLM, joint", JOINT, 0.14, lambda n: 1e-3, (500, 20_000), "", True),
    Kind("HLM, one Newton step", NEWTON_STEP, 0.14, _one_step_distance, (500, 50_000), "", True),
    Kind(
        "HLM, one Newton step, dosages",
        NEWTON_STEP,
        0.08,
        _one_step_distance,
        (500, 50_000),
        covariates=True,
        dosages=True,
    ),
    Kind("HLMM, exact", CLASS_GRAMS, 0.08, lambda n: 1e-5, (500, 20_000), "few"),
    Kind("HLMM, second order", SECOND_ORDER, 0.05, second_order_distance, (500, 20_000), "few"),
    Kind("HLMM, covariates", WEIGHTED, 0.03, second_order_distance, (500, 5_000), "few", True),
    Kind("HLMM, full rank", WEIGHTED, 0.01, second_order_distance, (500, 1_200), "full"),
)


@dataclass(frozen=True)
class Plan:
    """Sizes of a case; `family` people at a time share half their alleles."""

    seed: int
    kind: Kind
    n: int
    l_random: int
    family: int

    @property
    def work(self) -> int:
        """About a twentieth of the operations of its plain fit, beside n of the HLM."""
        return self.n * min(self.l_random, self.n) ** 2


@dataclass(frozen=True)
class Case:
    """One test variant and the null model it is added to.

    Attributes
    ----------
    plan : Plan
    null : NullModel
    genotypes : HardCalls or Dosages
        Of that variant.
    what : str
        Sizes and effects in words.
    """

    plan: Plan
    null: NullModel
    genotypes: GenotypeBlock
    what: str

    @property
    def taken(self) -> bool:
        """Whether a scan of that size takes the path of the case."""
        size = ModelSize.of(self.null, dosages=self.plan.kind.dosages)
        return path_of(size) is self.plan.kind.path


def plan_case(seed: int) -> Plan:
    """Draw the sizes of the case of a seed."""
    rng = np.random.default_rng([5, seed])
    kind = KINDS[rng.choice(len(KINDS), p=[k.share for k in KINDS])]
    n = _log_uniform(rng, *kind.people)
    if kind.path is SECOND_ORDER and rng.random() < 0.5:
        n = kind.people[1]
    if kind.random == "full":
        # Relatives share alleles, so that random effects may look much like the test genotype.
        return Plan(seed, kind, n, int(rng.integers(n, 2 * n)), int(rng.choice([1, 4, 10])))
    most = min(n, int(np.sqrt(_PLAIN_WORK / n)))
    return Plan(seed, kind, n, _log_uniform(rng, 1, most) if kind.random else 0, 1)


def draw_case(plan: Plan) -> Case | None:
    """Draw a case; None where the phenotype has no null model to start from.

    The phenotype is y = Xα + a·g + G·u + exp(½(Vβ + b·g))·ε, g centred, ε normal. a and b are 0
    in half the cases each, else uniform on ±2 and ±1. h2 is 0, uniform up to 0.9 or 0.9 of the
    variance, and none, up to 5% or 5% of the calls are missing, in a third of the cases each.
    """
    rng, n = np.random.default_rng([7, plan.seed]), plan.n
    g = _test_genotype(rng, n, plan.family)
    centred = g - g.mean()
    a = 0.0 if rng.random() < 0.5 else rng.uniform(-2, 2)
    b = 0.0 if rng.random() < 0.5 else rng.uniform(-1, 1)
    mean, variance = (_covariates(rng, centred, plan.kind.covariates) for _ in range(2))
    log_variance = b * centred + variance @ rng.uniform(-0.3, 0.3, variance.shape[1])
    y = a * centred + mean @ rng.uniform(-1, 1, mean.shape[1])
    y += np.exp(0.5 * log_variance) * rng.standard_normal(n)
    effects, h2 = None, 0.0
    if plan.l_random:
        columns = standardised_columns(draw_genotypes(n, plan.l_random, rng, family=plan.family))
        h2 = float(rng.choice([0.0, rng.uniform(0, 0.9), 0.9]))
        spread = np.sqrt(np.exp(log_variance).mean() * h2 / (1 - h2) / plan.l_random)
        y += columns @ (spread * rng.standard_normal(plan.l_random))
        effects = random_effects(columns)
    calls = g.astype(np.int8)
    gone = rng.random(n) < rng.choice([0.0, rng.uniform(0, 0.05), 0.05])
    if _minor_count(calls[~gone]) >= LEAST_MAC:
        calls[gone] = -1
    what = (
        f"n {n}, MAC {_minor_count(calls[calls >= 0])}, missing {(calls < 0).mean():.3f}, "
        f"a {a:.2f}, b {b:.2f}, covariates {mean.shape[1]}+{variance.shape[1]}, "
        f"l {plan.l_random}, family {plan.family}, h2 {h2:.2f}"
    )
    try:
        null = null_model(y, mean, variance, effects)
    except InputError:
        return None
    if plan.kind.dosages:
        return Case(plan, null, _uncertain(rng, calls), what)
    return Case(plan, null, HardCalls.of(calls[None]), what)


def _uncertain(rng: np.random.Generator, calls: NDArray[np.int8]) -> Dosages:
    """Mix the copies of some people with the mean, as the imputation of a share of them would."""
    called = calls >= 0
    uncertain = rng.random(len(calls)) < rng.uniform(0.1, 1)
    share = np.where(uncertain, rng.beta(rng.uniform(1, 8), 1, len(calls)), 1.0)
    copies = share * calls + (1 - share) * calls[called].mean()
    codes = np.rint(copies / BGEN_8_BIT).astype(np.int64)
    return Dosages(np.where(called, codes, MISSING_CODE).astype(np.uint16)[None], BGEN_8_BIT)


def _log_uniform(rng: np.random.Generator, least: int, most: int) -> int:
    return int(np.exp(rng.uniform(np.log(least), np.log(most + 1))))


def _test_genotype(rng: np.random.Generator, n: int, family: int) -> NDArray[np.float64]:
    """Minor allele count log-uniform from 20, either allele the rarer one."""
    while True:
        frequency = _log_uniform(rng, LEAST_MAC, n) / (2 * n)
        calls = draw_genotypes(n, 1, rng, (frequency, frequency), family)[0]
        if _minor_count(calls) >= LEAST_MAC:
            return (2.0 - calls) if rng.random() < 0.5 else calls.astype(float)


def _minor_count(called: NDArray[np.int8]) -> int:
    copies = int(called.sum())
    return min(copies, 2 * len(called) - copies)


def _covariates(
    rng: np.random.Generator, centred: NDArray[np.float64], wanted: bool
) -> NDArray[np.float64]:
    columns = rng.standard_normal((len(centred), rng.integers(1, 5) if wanted else 0))
    if wanted and rng.random() < 0.5:
        rho = rng.uniform(-0.9, 0.9)
        columns[:, 0] = rho * centred / centred.std() + np.sqrt(1 - rho**2) * columns[:, 0]
    return columns
