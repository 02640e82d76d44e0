"""Which kernel fits a model, and what that costs in memory and time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from hlmm_scan.kernels.classes import dosages as hlm_dosages
from hlmm_scan.kernels.joint import interaction as hlm_interaction
from hlmm_scan.kernels.scores import random_effects as hlmm_class_scores
from hlmm_scan.kernels.scoring import fit as hlm_scoring
from hlmm_scan.kernels.screen import dosages as hlm_screen_dosages
from hlmm_scan.kernels.screen import fit as hlm_screen
from hlmm_scan.kernels.screen import random_effects as hlmm_screen
from hlmm_scan.kernels.screen.random_effects_design import WRITTEN_OUT_PEOPLE
from hlmm_scan.kernels.second_order import fit as hlmm_eigen
from hlmm_scan.kernels.second_order.fit import QUASI_EXACT_PEOPLE
from hlmm_scan.kernels.sums import class_sums
from hlmm_scan.kernels.weighted import fit as hlmm_weighted
from hlmm_scan.null.model import NullModel

_MANY = 4
"""People per random effect up to which class Gram matrices cost more than weights by person."""

SECOND_ORDER_PEOPLE = 5_000
"""From so many people on, second-order fits are near exact ones (at l = 500, 3e-3 of a standard
error; 1e-2 at most) and ten to a hundred times as fast. What is interesting is fitted exactly."""

_CHEAP = 50_000_000
"""n·l² up to which the plain estimator takes some hundredths of a second for a variant."""

_CHEAP_FOR_FEW = 1_000_000_000
"""The same, where only the variants that are interesting are fitted plainly."""


_ARRAYS_OF_BINS = 14  # numbers a person while residuals are put into bins

_MOST_STEPS = 65_535
"""Code of two copies in the finest dosages."""


class Kernel(StrEnum):
    """The ways to fit a block of variants."""

    CLASS_SUMS = "maximum likelihood from class sums"
    JOINT = "maximum likelihood by scoring, covariates refitted"
    SCREEN = "one step from the null model"
    CLASS_GRAMS = "maximum likelihood with random effects from class Gram matrices"
    SECOND_ORDER = "maximum likelihood with random effects, to second order with a bound"
    PLAIN = "maximum likelihood with random effects, one variant at a time"
    WEIGHTED = "maximum likelihood with random effects, weights by person"
    INTERACTION = "maximum likelihood with an interaction, covariates refitted"
    RANDOM_SCREEN = "one step from the null model with random effects"


@dataclass(frozen=True)
class ModelSize:
    """How large a model is, and whether its variants are screened.

    Attributes
    ----------
    people, mean, variance, random : int
        People, columns of the mean and variance designs, random effects.
    screen : bool, default False
    dosages : bool, default False
        Whether the genotypes are dosages. Those that are whole copies in everybody go the way of
        hard calls all the same.
    interaction : bool, default False
        Whether the genotype's product with an environment is in the mean.
    """

    people: int
    mean: int
    variance: int
    random: int
    screen: bool = False
    dosages: bool = False
    interaction: bool = False

    @classmethod
    def of(cls, null: NullModel, screen: bool = False, *, dosages: bool = False) -> ModelSize:
        """Measure a null model."""
        effects = null.random_effects
        return cls(
            null.n,
            null.mean_design.shape[1],
            null.variance_design.shape[1],
            0 if effects is None else len(effects.contigs),
            screen,
            dosages,
            null.environment is not None,
        )

    @property
    def kernel(self) -> Kernel:
        """The kernel for it.

        Without covariates and random effects nothing is screened: maximum likelihood from class
        sums costs less than reading the genotypes. With random effects and intercepts only, few
        people with many random effects are fitted with weights by person: Gram matrices cost l³.
        Where covariates or many random effects meet very few people, the plain estimator is cheap,
        and exact in its standard errors too. Dosages have no classes to make Gram matrices of:
        with random effects they are fitted with weights by person.
        """
        if self.interaction:
            return Kernel.INTERACTION
        intercepts = self.mean == self.variance == 1
        if not self.random:
            if intercepts:
                return Kernel.CLASS_SUMS
            return Kernel.SCREEN if self.screen else Kernel.JOINT
        if self.screen:
            return Kernel.RANDOM_SCREEN
        classes = intercepts and not self.dosages
        rank = min(self.people, self.random)
        few = _MANY * rank < self.people
        if classes and (
            self.people >= QUASI_EXACT_PEOPLE or (few and self.people >= SECOND_ORDER_PEOPLE)
        ):
            return Kernel.SECOND_ORDER
        if classes and few:
            return Kernel.CLASS_GRAMS
        return Kernel.PLAIN if self.people * rank**2 <= _CHEAP else Kernel.WEIGHTED

    @property
    def refitted_plainly(self) -> bool:
        """Whether what the kernel finds interesting goes to the plain estimator as well.

        Strong effects of few people are where the standard errors of :attr:`Kernel.WEIGHTED` are
        least exact.
        """
        rank = min(self.people, self.random)
        return self.kernel is Kernel.WEIGHTED and self.people * rank**2 <= _CHEAP_FOR_FEW

    @property
    def refitted_exactly(self) -> bool:
        """Whether what the kernel finds interesting is fitted once more, exactly."""
        return self.kernel is Kernel.SECOND_ORDER and self.people < QUASI_EXACT_PEOPLE

    @property
    def scores_apart(self) -> bool:
        """Whether scores at the null model are no by-product of the kernel's fits."""
        made_of_scores = (Kernel.CLASS_SUMS, Kernel.SCREEN, Kernel.RANDOM_SCREEN)
        return self.scores_by_class or self.kernel not in made_of_scores

    @property
    def scores_by_class(self) -> bool:
        """Whether scores with random effects come from class sums."""
        intercepts = self.mean == self.variance == 1 and not self.interaction
        return bool(
            self.random and intercepts and not self.dosages and self.people > WRITTEN_OUT_PEOPLE
        )

    @property
    def reading_prevails(self) -> bool:
        """Whether genotypes take longer to read than to fit: phenotypes should share them."""
        return self.kernel is Kernel.CLASS_SUMS and not self.dosages

    def seconds(self, m: int, phenotypes: int = 1) -> float:
        """Estimate (within a factor of three) the time of fitting m variants on one core.

        Parameters
        ----------
        m : int
        phenotypes : int, default 1
            Fitted while the genotypes are in memory.
        """
        if self.reading_prevails:
            n = self.people
            return m * (n * 3e-10 + phenotypes * (n * 1.5e-10 + 1.5e-5))
        return phenotypes * self._seconds(m)

    def _seconds(self, m: int) -> float:
        n, designs, rank = self.people, self.mean + self.variance, min(self.people, self.random)
        kernel = self.kernel
        if kernel is Kernel.CLASS_SUMS:  # of dosages
            return m * (n * 1e-8 + 2e-5)
        if kernel is Kernel.SCREEN and self.dosages:
            return m * n * (4 * designs / 30e9 + 8e-9)
        if kernel is Kernel.SCREEN:
            return m * (n * (2.5e-10 + 3e-11 * designs) + 1e-5)
        if kernel is Kernel.INTERACTION:
            # Some six evaluations of all pairs of columns.
            return m * (n * (6 * designs**2 / 30e9 + 2e-7) + 1e-3)
        if kernel is Kernel.JOINT:
            # Start and about one sweep: ten products with the designs, and what stands between.
            return m * (n * (10 * 2 * designs / 60e9 + 3e-9) + 2e-4)
        if kernel is Kernel.RANDOM_SCREEN:
            return m * (n * rank * 6e-11 + n * 2e-9 * designs)
        if kernel is Kernel.SECOND_ORDER:
            return m * (n * rank * 1.2e-10 + rank * 1e-6 + 2e-4)
        if kernel is Kernel.CLASS_GRAMS:
            # The people who are not in the largest class, counted, then evaluations of l³.
            return m * (n * rank**2 * 2e-12 + rank**3 * 6e-10 + 2e-3)
        if kernel is Kernel.PLAIN:
            # Some eight evaluations of about two n·l² products and two l³ factorisations.
            return m * (8 * (4 * n * rank**2 + 4 * rank**3) / 30e9 + 8e-3)
        return hlmm_weighted.work_seconds(m, n, self.mean, self.variance, self.random)

    def task_bytes(self, m: int, n_genotyped: int | None = None, phenotypes: int = 1) -> int:
        """Estimate the memory of fitting m variants, beside :attr:`shared_bytes`.

        Parameters
        ----------
        m : int
        n_genotyped : int, optional
            People in the genotype dataset, if there are more than are analysed.
        phenotypes : int, default 1
            Fitted while the genotypes are in memory.

        Returns
        -------
        int
            Bytes: null model, packed block, results and the working arrays of the kernel. Screened
            variants may be fitted afterwards, so theirs is the larger of the two.
        """
        n_total = max(self.people, n_genotyped or 0)
        designs = 8 * self.people * (self.mean + self.variance + 2)
        # Codes as stored, as decoded and as handed over, of which one goes on to those of the
        # variants that pass; counts, sums, estimates and results.
        bytes_each = 2 * n_total if self.dosages else n_total // 4 + 1
        block = m * 3 * bytes_each + m * 100 * 8 * phenotypes
        ways = [self, replace(self, screen=False)] if self.screen else [self]
        if self.dosages:
            ways += [replace(way, dosages=False) for way in ways]
        working = max(
            way._working_bytes(m, n_total, phenotypes) + way._score_bytes(m, n_total)
            for way in ways
        )
        # Residuals are sorted into bins when a phenotype's first block comes.
        bins = 8 * self.people * _ARRAYS_OF_BINS
        return 2 * designs * phenotypes + bins + block + working

    def _score_bytes(self, m: int, n_total: int) -> int:
        """Memory of scores at the null model that are no by-product of the fits."""
        n, c, v, k = self.people, self.mean, self.variance, self.random
        if not self.scores_apart or (self.screen and not self.scores_by_class):
            return 0
        if self.scores_by_class:
            return hlmm_class_scores.work_bytes(m, n_total, n, k)
        if k:
            return hlmm_screen.work_bytes(n, c, v, k)
        if self.dosages:
            return hlm_screen_dosages.work_bytes(n, c, v)
        return hlm_screen.work_bytes(m, n_total, n, c, v)

    def _working_bytes(self, m: int, n_total: int, phenotypes: int) -> int:
        n, c, v, k = self.people, self.mean, self.variance, self.random
        kernel = self.kernel
        if kernel is Kernel.CLASS_SUMS and self.dosages:
            return hlm_dosages.work_bytes(n, _MOST_STEPS)
        if kernel is Kernel.CLASS_SUMS:
            return class_sums.work_bytes(m, n_total, phenotypes, 4)
        if kernel is Kernel.SCREEN and self.dosages:
            return hlm_screen_dosages.work_bytes(n, c, v)
        if kernel is Kernel.SCREEN:
            return hlm_screen.work_bytes(m, n_total, n, c, v)
        if kernel is Kernel.INTERACTION:
            return hlm_interaction.work_bytes(n, c, v)
        if kernel is Kernel.JOINT:
            return hlm_scoring.work_bytes(n, c, v, dosages=self.dosages)
        if kernel is Kernel.RANDOM_SCREEN:
            return hlmm_screen.work_bytes(n, c, v, k)
        if kernel in (Kernel.SECOND_ORDER, Kernel.CLASS_GRAMS):
            return hlmm_eigen.work_bytes(m, n, k)
        # G of one left-out chromosome, that of the people called, and about eight arrays of its
        # shape in a fit; one l×l product for each column of V; copies of both designs.
        rank = min(n, k)
        plain = 8 * rank * (10 * n + (6 + v) * rank) + 64 * n * (c + v)
        if kernel is Kernel.PLAIN:
            return plain
        weighted = hlmm_weighted.work_bytes(n, c, v, k)
        return max(weighted, plain) if self.refitted_plainly else weighted

    @property
    def shared_bytes(self) -> int:
        """Memory that all tasks of a host share: the random effects, mapped from files.

        The columns in both precisions and two chromosomes' rotations; or, where there are more
        random effects than people, two chromosomes' F in both precisions.
        """
        n, k = self.people, self.random
        return 2 * 12 * n**2 if k > n else 12 * n * k + 2 * 8 * k**2
