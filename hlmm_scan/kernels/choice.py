"""What of a model decides how its variants are fitted, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from hlmm_scan.null.model import NullModel


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
    def designs(self) -> int:
        """Columns of both designs."""
        return self.mean + self.variance

    @property
    def rank(self) -> int:
        """Rank of the random effects, at most."""
        return min(self.people, self.random)

    @property
    def intercepts(self) -> bool:
        """Whether neither design has a covariate, nor the genotype an interaction."""
        return self.mean == self.variance == 1 and not self.interaction

    @property
    def by_class(self) -> bool:
        """Whether sums within genotype classes say everything of a variant, but random effects."""
        return self.intercepts and not self.dosages

    @property
    def shared_bytes(self) -> int:
        """Memory that all tasks of a host share: the random effects, mapped from files.

        The columns in both precisions and two chromosomes' rotations; or, where there are more
        random effects than people, two chromosomes' F in both precisions.
        """
        n, k = self.people, self.random
        return 2 * 12 * n**2 if k > n else 12 * n * k + 2 * 8 * k**2
