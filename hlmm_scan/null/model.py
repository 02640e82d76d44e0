"""The frozen null model of one phenotype: everything a task needs besides the genotypes.

It imports no input or output, so that kernels can depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, linkage_group
from hlmm_scan.null.eigen import Eigenstructure, SharedEigenstructure
from hlmm_scan.schema import Status

ALL_RANDOM_EFFECTS = ""
"""Name of the random-effect set that leaves no chromosome out."""


@dataclass(frozen=True)
class NullFit:
    """Maximum-likelihood estimates without a test variant, in standardised units.

    Attributes
    ----------
    alpha : ndarray, shape (c,)
        Mean coefficients.
    beta : ndarray, shape (v,)
        Log-variance coefficients.
    random_variance : float
        Variance of the random effects; 0 where there are none.
    log_likelihood : float
        Of the standardised phenotype.
    status : Status
    third_moment, fourth_moment : float, default 0 and 3
        Pooled over people, of the residuals over their standard deviations; those of the normal
        distribution where nothing else is known. The studentised covariance takes them.
    """

    alpha: Float
    beta: Float
    random_variance: float
    log_likelihood: float
    status: Status
    third_moment: float = 0.0
    fourth_moment: float = 3.0

    @property
    def moments(self) -> tuple[float, float]:
        """Third and fourth moment."""
        return self.third_moment, self.fourth_moment


@dataclass(frozen=True, eq=False)
class RandomEffects:
    """The random-effect variants for some people, compared and hashed by identity.

    Attributes
    ----------
    columns : ndarray, shape (n, l), or None
        Standardised genotypes: mean 0 and variance 1 in each column, missing calls imputed by the
        column mean. None where l > n and `sets` holds all that is ever asked for.
    contigs : tuple of str, length l
        :meth:`key` of each column's chromosome.
    variant_ids : tuple of str, length l
    sets : mapping of str to Eigenstructure, optional
        By left-out chromosome, those that need not be worked out from `columns`.
    autosomes : int, default 22
        Of the species: which number X has.
    """

    columns: Float | None
    contigs: tuple[str, ...]
    variant_ids: tuple[str, ...]
    sets: Mapping[str, Eigenstructure] = field(default_factory=dict)
    autosomes: int = HUMAN_AUTOSOMES

    def key(self, contig: str) -> str:
        """Return the name of what is left out for a test variant on a chromosome.

        Whatever the chromosome is called: were ``chr1`` and ``1`` two, leaving one out would
        silently leave out nothing.
        """
        return linkage_group(contig, self.autosomes)

    def set_names(self, contigs: Iterable[str]) -> list[str]:
        """Name the sets that a scan of some chromosomes needs when each is left out in turn.

        Parameters
        ----------
        contigs : iterable of str
            Any names; empty without LOCO.

        Returns
        -------
        list of str
            :data:`ALL_RANDOM_EFFECTS`, then :meth:`key` of those that hold random effects.
        """
        return [ALL_RANDOM_EFFECTS, *sorted({self.key(c) for c in contigs} & set(self.contigs))]

    @cached_property
    def _shared(self) -> SharedEigenstructure:
        assert self.columns is not None
        return SharedEigenstructure(self.columns, self.contigs)

    def eigenstructure(self, left_out: str, *, principal: bool = True) -> Eigenstructure:
        """Return the eigenstructure of the random effects without one chromosome.

        Parameters
        ----------
        left_out : str
            :meth:`key` of the chromosome, or :data:`ALL_RANDOM_EFFECTS`.
        principal : bool, default True
            Whether its axes must be the principal ones, where it is worked out here.
        """
        found = self.sets.get(left_out)
        if found is not None:
            return found
        return self._shared.without(left_out, principal=principal)

    def prepare(self) -> None:
        """Work out what all sets share, before they are asked for from several threads."""
        assert self._shared.gram is not None

    def n_random(self, left_out: str) -> int:
        """Return how many random effects are left without one chromosome."""
        return sum(contig != left_out for contig in self.contigs)

    def relationship(self, left_out: str) -> Float:
        """Return K = GGᵀ, shape (n, n), of the :meth:`design` without one chromosome."""
        if self.columns is None:
            F = self.eigenstructure(left_out).columns
            return np.asarray(F @ F.T)
        return self._shared.relationship(left_out)

    def design(self, left_out: str) -> Float:
        """Return G without one chromosome: columns over √(number of columns left).

        Parameters
        ----------
        left_out : str
            :meth:`key` of the chromosome, or :data:`ALL_RANDOM_EFFECTS`.

        Returns
        -------
        ndarray, shape (n, l_left)
            Or, where `columns` are not at hand, F of shape (n, r) with the same FFᵀ = GGᵀ.
        """
        if self.columns is None:
            return self.eigenstructure(left_out).columns
        chosen = [k for k, contig in enumerate(self.contigs) if contig != left_out]
        columns = self.columns if len(chosen) == len(self.contigs) else self.columns[:, chosen]
        return np.ascontiguousarray(columns / np.sqrt(len(chosen)))


@dataclass(frozen=True, eq=False)
class NullModel:
    """One phenotype, its people and designs, fitted without a test variant.

    Compared and hashed by identity, so that what kernels work out once per model can be cached.

    Attributes
    ----------
    phenotype : str
    samples : ndarray of int64, shape (n,)
        Ascending rows of the genotype dataset's sample axis. The order in which sums over people
        are accumulated everywhere.
    y : ndarray, shape (n,)
        Phenotype as analysed: standardised (mean 0, variance 1), or prepared as the 2018 script
        does in covariate mode ``seed``.
    mean_design, variance_design : ndarray, shapes (n, c) and (n, v)
        Standardised covariates, intercept first.
    y_scale : float
        Reported phenotype units per unit of `y`.
    fits : mapping of str to NullFit
        By left-out chromosome; always holds :data:`ALL_RANDOM_EFFECTS`.
    random_effects : RandomEffects or None
        None for the HLM.
    environment : ndarray, shape (n,), optional
        Standardised environment whose interaction with the genotype is in the mean; itself among
        the columns of `mean_design`.
    environment_scale : float, default 1
        Its standard deviation in the user's units.
    two_valued : bool, default False
        Whether the phenotype has two values only, whose variance is a function of their mean:
        it has no test of its own.
    """

    phenotype: str
    samples: NDArray[np.int64]
    y: Float
    mean_design: Float
    variance_design: Float
    y_scale: float
    fits: Mapping[str, NullFit]
    random_effects: RandomEffects | None = None
    environment: Float | None = None
    environment_scale: float = 1.0
    two_valued: bool = False

    @property
    def n(self) -> int:
        """Number of people analysed."""
        return len(self.y)

    @property
    def intercept_only(self) -> bool:
        """Whether neither design has a covariate, so that class sums decide everything."""
        return bool(self.mean_design.shape[1] == self.variance_design.shape[1] == 1)

    def random_effect_set(self, contig: str) -> str:
        """Return the key into `fits` for a test variant on that chromosome."""
        if self.random_effects is None:
            return ALL_RANDOM_EFFECTS
        return self._sets.get(self.random_effects.key(contig), ALL_RANDOM_EFFECTS)

    @cached_property
    def _sets(self) -> dict[str, str]:
        """Keys of `fits` by what they leave out: stores of before have 23 for X."""
        assert self.random_effects is not None
        return {self.random_effects.key(name): name for name in self.fits if name}
