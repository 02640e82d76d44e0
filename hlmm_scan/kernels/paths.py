"""THE table of ways to fit a block of variants: what each covers, prepares, does and costs.

A way to fit is a folder of kernels and a row here. :data:`PATHS` is read from top to bottom: the
first row that covers a model fits its variants. The other rows are taken after another one, for
scores or for what is doubtful or interesting. Planner, warm-up and :mod:`~hlmm_scan.kernels.block`
read nothing but the table.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from hlmm_scan.kernels import limits
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.classes import dosages as class_dosages
from hlmm_scan.kernels.classes.dosages import DosageSumsPlan, fit_dosages
from hlmm_scan.kernels.classes.fit import fit_class_sums, powers_needed
from hlmm_scan.kernels.estimates import Estimates
from hlmm_scan.kernels.exact.fit import fit_exact
from hlmm_scan.kernels.exact.gram_fit import GramBasis, fit_grams
from hlmm_scan.kernels.joint import interaction
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.joint.fit import fit_joint, fit_tiles
from hlmm_scan.kernels.joint.interaction import InteractionDesign, fit_interaction
from hlmm_scan.kernels.newton_step import fit as newton_step
from hlmm_scan.kernels.newton_step.design import NewtonDesign
from hlmm_scan.kernels.newton_step.fit import fit_newton_step
from hlmm_scan.kernels.prepared import call_lattice, eigenstructure, random_screen_design
from hlmm_scan.kernels.scores import random_effects as scores_by_class
from hlmm_scan.kernels.scores.design import all_class_scores
from hlmm_scan.kernels.scores.random_effects import ClassScoreDesign, class_scores
from hlmm_scan.kernels.scoring import fit as scoring
from hlmm_scan.kernels.scoring.design import ScoringDesign
from hlmm_scan.kernels.scoring.fit import fit_scoring
from hlmm_scan.kernels.scoring.tile import OfPeople
from hlmm_scan.kernels.screen import fit as screen
from hlmm_scan.kernels.screen import random_effects as random_screen
from hlmm_scan.kernels.screen.fit import ScreenDesign, fit_screen
from hlmm_scan.kernels.screen.plain import fit_hlmm_screen_plain, fit_screen_plain
from hlmm_scan.kernels.screen.random_effects import fit_random_screen
from hlmm_scan.kernels.second_order import fit as second_order
from hlmm_scan.kernels.second_order.basis import SecondOrderBasis
from hlmm_scan.kernels.second_order.fit import fit_second_order
from hlmm_scan.kernels.sums import class_sums
from hlmm_scan.kernels.variants import Variants
from hlmm_scan.kernels.weighted import fit as weighted
from hlmm_scan.kernels.weighted.basis import WeightedBasis
from hlmm_scan.kernels.weighted.fit import fit_weighted
from hlmm_scan.models import HLM, HLMM
from hlmm_scan.null.model import NullFit, NullModel

_MOST_STEPS = 65_535
"""Code of two copies in the finest dosages."""


def _per_set(variants: Variants) -> tuple[Hashable, ...]:
    return variants.null, variants.left_out


def _per_set_and_width(variants: Variants) -> tuple[Hashable, ...]:
    return variants.null, variants.left_out, variants.genotypes.width


@dataclass(frozen=True, eq=False)
class Path:
    """A way to fit variants.

    Attributes
    ----------
    name : str
    reference : callable
        What it is held to: the plain kernel, or the model itself.
    prepare : callable
        Makes what all variants of a null model and a left-out chromosome share, of what `needs`
        names.
    fit : callable
        Fits variants of one left-out chromosome with what was prepared. Estimates are in
        standardised units; a single variant never raises.
    work_bytes : callable
        Memory of what is prepared and of fitting: of a model, m variants, the people in the
        dataset and phenotypes in work at once.
    covers : callable
        Whether it fits models of a size, if no row above does.
    seconds : callable, optional
        Time of m variants of one phenotype, within a factor of three, with what is fitted again by
        `rest` and `then`. A row that covers nothing has none.
    needs : callable
        What of some variants is handed to `prepare`, and told apart.
    rest : Path, optional
        Which path fits what this one leaves PENDING.
    then : callable
        Which path, if any, fits once more what turns out interesting.
    scored : bool
        Whether fits come with scores at the null model.
    together : bool
        Whether it goes on from class sums, of which one pass over the calls makes those of several
        phenotypes.
    counts : bool
        Whether it counts, or takes counts of, the random effects of genotype classes, which a fit
        and scores then share.
    made : callable
        `prepare`, what it returns kept for two left-out chromosomes: a block may straddle two.
    """

    name: str
    reference: Callable[..., Any]
    prepare: Callable[..., Any]
    fit: Callable[[Any, Variants], Estimates]
    work_bytes: Callable[[ModelSize, int, int, int], int]
    covers: Callable[[ModelSize], bool] = lambda size: False
    seconds: Callable[[ModelSize, int], float] | None = None
    needs: Callable[[Variants], tuple[Hashable, ...]] = _per_set
    rest: Path | None = None
    then: Callable[[ModelSize], Path | None] = lambda size: None
    scored: bool = False
    together: bool = False
    counts: bool = False
    made: Callable[..., Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "made", lru_cache(maxsize=2)(self.prepare))

    def prepared(self, variants: Variants) -> Any:
        """Return what such variants share, made where it is not at hand."""
        return self.made(*self.needs(variants))


# ----------------------------------------------------------------------- without random effects


def _from_class_sums(prepared: None, v: Variants) -> Estimates:
    assert v.sums is not None
    estimates = fit_class_sums(v.sums, v.fit.moments, v.inference)
    scores = np.empty((len(v), 3))
    sums = np.require(v.sums, np.float64, ["C", "W"])
    all_class_scores(sums, *_mean_and_variance(v.fit), float(v.fit.fourth_moment), scores)
    estimates.put_scores(np.arange(len(v)), scores)
    return estimates


def _mean_and_variance(fit: NullFit) -> tuple[float, float]:
    return float(fit.alpha[0]), float(np.exp(fit.beta[0]))


CLASS_SUMS = Path(
    "maximum likelihood from class sums",
    reference=HLM,
    covers=lambda s: s.by_class and not s.random,
    prepare=lambda null, left_out: None,  # sums come before filters: `prepared.class_sums_plan`
    fit=_from_class_sums,
    seconds=lambda s, m: m * (s.people * 1.5e-10 + 1.5e-5),
    work_bytes=lambda s, m, n_total, phenotypes: class_sums.work_bytes(m, n_total, phenotypes, 4),
    scored=True,
    together=True,
)

DOSAGE_SUMS = Path(
    "maximum likelihood from sums by dosage",
    reference=HLM,
    needs=lambda v: (v.null, powers_needed(v.inference)),
    prepare=lambda null, powers: DosageSumsPlan.of(null.samples, null.y, powers),
    fit=lambda plan, v: fit_dosages(
        plan, v.dosages, v.fit.moments, v.inference, _mean_and_variance(v.fit)
    ),
    work_bytes=lambda s, *_: class_dosages.work_bytes(s.people, _MOST_STEPS),
    scored=True,
)


def _class_columns_seconds(s: ModelSize, m: int) -> float:
    """Time of the pass over genotypes of m variants, and of what is made of its sums."""
    person = 3e-9 + 8e-11 * s.designs if s.dosages else 5e-10 + 2.5e-11 * s.designs
    return m * (s.people * person + 2e-5)


SCREEN = Path(
    "one step from the null model",
    reference=fit_screen_plain,
    covers=lambda s: s.screen and not (s.random or s.interaction),
    needs=_per_set_and_width,
    prepare=lambda null, left_out, width: ScreenDesign.of(null, width),
    fit=lambda design, v: fit_screen(design, v.genotypes, v.counts, v.inference),
    seconds=_class_columns_seconds,
    work_bytes=lambda s, m, n_total, _: screen.work_bytes(
        m, n_total, s.people, s.mean, s.variance, dosages=s.dosages
    ),
    scored=True,
)

SOFT_CLASSES = Path(
    "maximum likelihood from soft class sums",
    reference=fit_dosages,
    covers=lambda s: s.intercepts and not s.random,
    prepare=lambda null, left_out: NewtonDesign.of(null, None),
    fit=lambda design, v: fit_newton_step(design, v.genotypes, v.counts, v.inference),
    # What the bound of polynomials leaves is a hundredth.
    seconds=lambda s, m: m * (s.people * 1.5e-9 + 2e-5),
    work_bytes=lambda s, m, n_total, _: (
        newton_step.work_bytes(m, n_total, s.people, 1, 1, dosages=True)
        + DOSAGE_SUMS.work_bytes(s, m, n_total, 1)
    ),
    rest=DOSAGE_SUMS,
    scored=True,
)

JOINT_PLAIN = Path(
    "maximum likelihood by Newton's method, covariates refitted",
    reference=HLM,
    prepare=lambda null, left_out: JointDesign.of(null),
    fit=lambda design, v: fit_tiles(design, v.genotypes, v.samples, v.inference),
    work_bytes=lambda s, *_: scoring.work_bytes(s.people, s.mean, s.variance, dosages=s.dosages),
)

JOINT = Path(
    "maximum likelihood by scoring, covariates refitted",
    reference=fit_joint,
    prepare=lambda null, left_out: ScoringDesign.of(JointDesign.of(null)),
    fit=lambda design, v: fit_scoring(
        design, OfPeople(v.genotypes, v.samples, v.counts), v.inference
    ),
    work_bytes=JOINT_PLAIN.work_bytes,
    rest=JOINT_PLAIN,
)


def _left_to_joint(s: ModelSize, m: int) -> float:
    """Time of what the bound of a Newton step leaves: by measurement a share of 50 (c + v)/n."""
    # Start and about one sweep: ten products with the designs, and what stands between.
    scoring = m * (s.people * (10 * 2 * s.designs / 60e9 + 3e-9) + 2e-4)
    return min(1.0, 50 * s.designs / s.people) * scoring


NEWTON_STEP = Path(
    "maximum likelihood by a class fit and one Newton step",
    reference=fit_joint,
    covers=lambda s: not (s.random or s.interaction),
    needs=_per_set_and_width,
    prepare=lambda null, left_out, width: NewtonDesign.of(null, width),
    fit=lambda design, v: fit_newton_step(design, v.genotypes, v.counts, v.inference),
    seconds=lambda s, m: _class_columns_seconds(s, m) + _left_to_joint(s, m),
    work_bytes=lambda s, m, n_total, _: (
        newton_step.work_bytes(m, n_total, s.people, s.mean, s.variance, dosages=s.dosages)
        + JOINT.work_bytes(s, m, n_total, 1)
    ),
    rest=JOINT,
    scored=True,
)

INTERACTION = Path(
    "maximum likelihood with an interaction, covariates refitted",
    reference=HLM,
    covers=lambda s: s.interaction,
    prepare=lambda null, left_out: InteractionDesign.of(null),
    fit=lambda design, v: fit_interaction(design, v.genotypes, v.samples, v.inference),
    # Some six evaluations of all pairs of columns.
    seconds=lambda s, m: m * (s.people * (6 * s.designs**2 / 30e9 + 2e-7) + 1e-3),
    work_bytes=lambda s, *_: interaction.work_bytes(s.people, s.mean, s.variance),
)


# -------------------------------------------------------------------------- with random effects


def _class_score_design(null: NullModel, left_out: str, width: int) -> ClassScoreDesign:
    eigen, fit = eigenstructure(null, left_out), null.fits[left_out]
    return ClassScoreDesign.of(null, fit, eigen, width, call_lattice(null))


def _class_scores(design: ClassScoreDesign, v: Variants) -> Estimates:
    estimates = Estimates.empty(len(v))
    estimates.put_scores(np.arange(len(v)), class_scores(design, v.packed, v.counted))
    return estimates


def _gram_basis(null: NullModel, left_out: str) -> GramBasis:
    eigen = eigenstructure(null, left_out)
    return GramBasis.of(eigen, null.y, null.fits[left_out], lattice=call_lattice(null))


def _second_order_basis(null: NullModel, left_out: str) -> SecondOrderBasis:
    eigen, lattice = eigenstructure(null, left_out), call_lattice(null)
    return SecondOrderBasis.of(eigen, null.y, null.fits[left_out], eigen.single_columns(), lattice)


def _plain_bytes(s: ModelSize, *_: int) -> int:
    """G of one left-out chromosome, that of the people called, and about eight arrays of its shape
    in a fit; one l×l product for each column of V; copies of both designs.
    """
    own = 8 * s.rank * (10 * s.people + (6 + s.variance) * s.rank)
    return own + 64 * s.people * s.designs


def _gram_bytes(s: ModelSize, m: int, *_: int) -> int:
    return second_order.work_bytes(m, s.people, s.random)


RANDOM_SCREEN = Path(
    "one step from the null model with random effects",
    reference=fit_hlmm_screen_plain,
    covers=lambda s: s.screen and s.random > 0,
    prepare=random_screen_design,
    fit=lambda design, v: fit_random_screen(design, v.genotypes, v.inference),
    seconds=lambda s, m: m * (s.people * s.rank * 6e-11 + s.people * 2e-9 * s.designs),
    work_bytes=lambda s, *_: random_screen.work_bytes(s.people, s.mean, s.variance, s.random),
    scored=True,
)

CLASS_SCORES = Path(
    "scores with random effects from class sums",
    reference=fit_hlmm_screen_plain,
    needs=_per_set_and_width,
    prepare=_class_score_design,
    fit=_class_scores,
    work_bytes=lambda s, m, n_total, _: scores_by_class.work_bytes(m, n_total, s.people, s.random),
    scored=True,
    counts=True,
)

CLASS_GRAMS = Path(
    "maximum likelihood with random effects from class Gram matrices",
    reference=fit_exact,
    covers=lambda s: s.by_class and limits.CLASS_GRAMS_SHARE * s.rank < s.people,
    prepare=_gram_basis,
    fit=lambda basis, v: fit_grams(basis, v.packed, v.samples, v.inference),
    # The people who are not in the largest class, counted, then evaluations of l³.
    seconds=lambda s, m: m * (s.people * s.rank**2 * 2e-12 + s.rank**3 * 6e-10 + 2e-3),
    work_bytes=_gram_bytes,
)

GRAMS_AFTER_SECOND_ORDER: Path = replace(
    CLASS_GRAMS,
    name="class Gram matrices with the leverages of second order",
    covers=lambda s: False,
    seconds=None,
    prepare=lambda null, left_out: SECOND_ORDER.made(null, left_out).for_exact_fits(null.y),
)

SECOND_ORDER: Path = Path(
    "maximum likelihood with random effects, to second order with a bound",
    reference=fit_grams,
    covers=lambda s: (
        s.by_class
        and (
            s.people >= limits.SECOND_ORDER_ALONE_PEOPLE
            or (
                limits.CLASS_GRAMS_SHARE * s.rank < s.people
                and s.people >= limits.SECOND_ORDER_PEOPLE
            )
        )
    ),
    prepare=_second_order_basis,
    fit=lambda basis, v: fit_second_order(
        v.null,
        basis,
        v.packed,
        v.inference,
        exact=lambda: GRAMS_AFTER_SECOND_ORDER.prepared(v),
        counted=v.counted,
    ),
    seconds=lambda s, m: m * (s.people * s.rank * 1.2e-10 + s.rank * 1e-6 + 2e-4),
    work_bytes=_gram_bytes,
    then=lambda s: (
        GRAMS_AFTER_SECOND_ORDER if s.people < limits.SECOND_ORDER_ALONE_PEOPLE else None
    ),
    counts=True,
)

PLAIN = Path(
    "maximum likelihood with random effects, one variant at a time",
    reference=HLMM,
    covers=lambda s: s.people * s.rank**2 <= limits.PLAIN_WORK,
    prepare=lambda null, left_out: None,
    fit=lambda _, v: fit_exact(v.null, v.left_out, v.genotypes, v.inference),
    # Some eight evaluations of about two n·l² products and two l³ factorisations.
    seconds=lambda s, m: m * (8 * (4 * s.people * s.rank**2 + 4 * s.rank**3) / 30e9 + 8e-3),
    work_bytes=_plain_bytes,
)

WEIGHTED: Path = Path(
    "maximum likelihood with random effects, weights by person",
    reference=fit_exact,
    covers=lambda s: True,
    prepare=lambda null, left_out: WeightedBasis.of(null, left_out, eigenstructure(null, left_out)),
    # What is fitted once more need not be made exact twice.
    fit=lambda basis, v: fit_weighted(
        basis, v.genotypes, v.samples, v.inference,
        exact_beyond=np.inf if WEIGHTED.then(v.size) else None,
    ),
    seconds=lambda s, m: weighted.work_seconds(m, s.people, s.mean, s.variance, s.random),
    work_bytes=lambda s, *_: weighted.work_bytes(s.people, s.mean, s.variance, s.random),
    rest=PLAIN,
    # Strong effects of few people are where its standard errors are least exact.
    then=lambda s: PLAIN if s.people * s.rank**2 <= limits.PLAIN_WORK_FOR_FEW else None,
)  # fmt: skip

PATHS: tuple[Path, ...] = (
    INTERACTION,
    CLASS_SUMS,
    SOFT_CLASSES,
    SCREEN,
    NEWTON_STEP,
    RANDOM_SCREEN,
    SECOND_ORDER,
    CLASS_GRAMS,
    PLAIN,
    WEIGHTED,
)
"""What covers models, the first row that does so before those below it."""


def path_of(size: ModelSize) -> Path:
    """Return the path for models of a size.

    Without covariates and random effects nothing is screened: maximum likelihood from class sums
    costs less than reading the genotypes. With random effects and intercepts only, few people with
    many random effects are fitted with weights by person: Gram matrices cost l³. Where covariates
    or many random effects meet very few people, the plain estimator is cheap, and exact in its
    standard errors too. Dosages have no classes to make Gram matrices of: with random effects they
    are fitted with weights by person.
    """
    return next(path for path in PATHS if path.covers(size))


def score_path(size: ModelSize) -> Path | None:
    """Return which path scores at the null model come from, if fits do not come with them."""
    if size.random and size.by_class and size.people > limits.WRITTEN_OUT_PEOPLE:
        return CLASS_SCORES
    if path_of(size).scored:
        return None
    return path_of(replace(size, screen=True, interaction=False))
