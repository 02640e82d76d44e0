"""Who is analysed for a phenotype, with which values, and who is not and why."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.design import Design, build_design, centre_and_scale
from hlmm_scan.cohort.tables import Table
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

REASONS = (
    "not_in_phenotype_table",
    "phenotype_missing",
    "not_in_mean_covariates",
    "mean_covariate_missing",
    "not_in_variance_covariates",
    "variance_covariate_missing",
    "not_in_random_effects",
)
"""Why a person of the genotypes is not analysed; the first that applies is the one counted."""

TEST_PARAMETERS = 2
"""Effects of the test genotype, on the mean and on the variance."""

_TIED_SHARE = 0.5
_FEW_VALUES = 10
_PERFECT_FIT = 1e-9


@dataclass(frozen=True, eq=False)
class Cohort:
    """The complete cases of one phenotype. The arrays are read-only.

    Attributes
    ----------
    phenotype : str
        Name of the phenotype.
    samples : ndarray of int64, shape (n,)
        Rows of the reference samples, ascending: the order in which people are summed.
    y : ndarray of float64, shape (n,)
        The phenotype in the user's units.
    mean_design, variance_design : Design, matrices (n, c) and (n, v)
        Intercept and covariates of the mean and of the log variance.
    dropped : tuple of (str, int)
        All of `REASONS` in their order, each with the number of reference samples that it is the
        first to exclude. These and n add up to `n_reference`.
    n_reference : int
        Number of reference samples.
    not_in_genotypes : int
        People of the phenotype table who are not among the reference samples.
    """

    phenotype: str
    samples: NDArray[np.int64]
    y: FloatArray
    mean_design: Design
    variance_design: Design
    dropped: tuple[tuple[str, int], ...]
    n_reference: int
    not_in_genotypes: int

    def __len__(self) -> int:
        return len(self.samples)


class CohortBuilder:
    """Aligns the tables with the reference samples once, then builds cohort after cohort.

    A cohort depends on its own phenotype and the covariates only, never on the phenotypes that
    are built beside it.

    Parameters
    ----------
    samples : SampleIds
        The n_reference people of the genotypes.
    phenotypes : Table
        Phenotypes in the user's units.
    mean_covariates, variance_covariates : Table, optional
        Covariates of the mean and of the log variance; without one, an intercept only.
    available : ndarray of bool, shape (n_reference,), optional
        False for people who are not in the random-effect dataset; by default everybody is.

    Raises
    ------
    InputError
        If a table has nobody in common with the samples, or a person cannot be told from another.
    """

    def __init__(
        self,
        samples: SampleIds,
        phenotypes: Table,
        mean_covariates: Table | None = None,
        variance_covariates: Table | None = None,
        available: BoolArray | None = None,
    ) -> None:
        n = len(samples)
        if available is not None and available.shape != (n,):
            raise ValueError(f"expected a mask of shape ({n},), found {available.shape}")
        self.phenotypes = phenotypes
        self.n_reference = n
        self._rows = match(samples, phenotypes)
        self._available = np.ones(n, np.bool_) if available is None else available.astype(np.bool_)
        self._mean = _Covariates(samples, mean_covariates)
        self._variance = (
            self._mean
            if variance_covariates is mean_covariates
            else _Covariates(samples, variance_covariates)
        )
        self.not_in_genotypes = len(phenotypes) - int(np.count_nonzero(self._rows >= 0))

    def build(self, name: str, *, announce: bool = True) -> Cohort:
        """Assemble the cohort of one phenotype and log its counts.

        Parameters
        ----------
        name : str
            A column of the phenotype table.
        announce : bool, default True
            Whether to log the counts.

        Returns
        -------
        Cohort

        Raises
        ------
        InputError
            If the name is unknown; nobody is left; there are fewer people than parameters (mean,
            variance and the test genotype's two); the phenotype is constant or a combination of
            the mean covariates; covariates are constant or collinear among these people.
        """
        column = self.phenotypes.values[:, self.phenotypes.index(name)]
        kept, dropped = self._select(column)
        samples = np.flatnonzero(kept).astype(np.int64)
        counts = ", ".join(f"{count:,} {reason}" for reason, count in dropped if count)
        summary = f"{name}: {len(samples):,} of {self.n_reference:,} people analysed"
        logger.log(
            logging.INFO if announce else logging.DEBUG,
            "%s%s; %s people of the phenotype table are not in the genotypes",
            summary,
            f" ({counts})" if counts else "",
            f"{self.not_in_genotypes:,}",
        )
        if not len(samples):
            raise InputError(
                f"nobody is left to analyse for {name}, "
                f"of {self.n_reference:,} people in the genotypes: {counts}"
            )
        parameters = self._mean.count + self._variance.count + TEST_PARAMETERS
        if len(samples) < parameters:
            raise InputError(
                f"fewer people than parameters: {len(samples):,} people are analysed for {name}, "
                f"with {parameters:,} parameters (mean {self._mean.count:,}, variance "
                f"{self._variance.count:,}, test genotype {TEST_PARAMETERS})"
            )
        y = column[self._rows[samples]]
        level = logging.WARNING if announce else logging.DEBUG
        _check_phenotype(name, y, level)
        mean_design = self._mean.design(samples, "mean", name)
        variance_design = self._variance.design(samples, "variance", name)
        _check_not_explained(name, y, mean_design)
        samples.flags.writeable = False
        y.flags.writeable = False
        return Cohort(
            name,
            samples,
            y,
            mean_design,
            variance_design,
            dropped,
            self.n_reference,
            self.not_in_genotypes,
        )

    def _select(self, column: FloatArray) -> tuple[BoolArray, tuple[tuple[str, int], ...]]:
        """Who is analysed, and how many each reason is the first to exclude."""
        in_table = self._rows >= 0
        # Row −1 reads the last person's value; those are excluded as not in the table before.
        conditions = (
            in_table,
            ~np.isnan(column)[self._rows],
            self._mean.present,
            self._mean.complete,
            self._variance.present,
            self._variance.complete,
            self._available,
        )
        kept = np.ones(self.n_reference, np.bool_)
        left = self.n_reference
        dropped = []
        for reason, condition in zip(REASONS, conditions, strict=True):
            kept &= condition
            now = int(np.count_nonzero(kept))
            dropped.append((reason, left - now))
            left = now
        return kept, tuple(dropped)


class _Covariates:
    """One covariate table aligned with the samples; without a table everybody is complete."""

    def __init__(self, samples: SampleIds, table: Table | None) -> None:
        self.table = table
        self.count = 1
        self.rows = np.zeros(len(samples), np.int64)
        self.present = self.complete = np.ones(len(samples), np.bool_)
        if table is not None:
            self.count += len(table.columns)
            self.rows = match(samples, table)
            self.present = self.rows >= 0
            # Row −1 reads the last person's mask; `present` excludes those people before.
            complete: BoolArray = np.logical_not(np.isnan(table.values).any(axis=1))
            self.complete = complete[self.rows]

    def design(
        self, samples: NDArray[np.int64], what: Literal["mean", "variance"], where: str
    ) -> Design:
        """The design of the people given by their reference rows."""
        if self.table is None:
            return build_design(np.zeros((len(samples), 0)), (), what, where)
        return build_design(self.table.values[self.rows[samples]], self.table.columns, what, where)


def assemble(
    samples: SampleIds,
    phenotypes: Table,
    name: str,
    mean_covariates: Table | None = None,
    variance_covariates: Table | None = None,
    available: BoolArray | None = None,
) -> Cohort:
    """Assemble the cohort of one phenotype; see `CohortBuilder` for several.

    Parameters
    ----------
    samples : SampleIds
        The n_reference people of the genotypes.
    phenotypes : Table
        Phenotypes in the user's units.
    name : str
        A column of the phenotype table.
    mean_covariates, variance_covariates : Table, optional
        Covariates of the mean and of the log variance; without one, an intercept only.
    available : ndarray of bool, shape (n_reference,), optional
        False for people who are not in the random-effect dataset; by default everybody is.

    Returns
    -------
    Cohort

    Raises
    ------
    InputError
        As `CohortBuilder` and `CohortBuilder.build`.
    """
    builder = CohortBuilder(samples, phenotypes, mean_covariates, variance_covariates, available)
    return builder.build(name)


def _check_phenotype(name: str, y: FloatArray, level: int) -> None:
    """Refuse a constant phenotype, and log at `level` one that is far from continuous."""
    if centre_and_scale(y[:, None])[1][0] == 0:
        raise InputError(
            f"phenotype '{name}' is constant ({y[0]:g}) among the {len(y):,} people analysed"
        )
    ties = np.unique(y, return_counts=True)[1]
    if len(ties) == 2:
        problem = "takes only two values"
    elif ties.max() >= _TIED_SHARE * len(y):
        problem = f"has one value in {ties.max() / len(y):.0%} of people"
    elif len(ties) < min(_FEW_VALUES, len(y) / 2):
        problem = f"takes only {len(ties)} values"
    else:
        return
    logger.warning(
        "%s %s among the %s people analysed: the models assume a continuous phenotype, and "
        "its variance is bound to its mean",
        name,
        problem,
        f"{len(y):,}",
    )


def _check_not_explained(name: str, y: FloatArray, design: Design) -> None:
    """Refuse a phenotype that the mean covariates give without error: no variance would be left."""
    centres, scales = centre_and_scale(y[:, None])
    standard = (y - centres[0]) / scales[0]
    x = design.matrix
    gram = x.T @ x
    rest = standard
    for _ in range(2):  # the second step takes out the rounding of the first
        rest = rest - x @ np.linalg.lstsq(gram, x.T @ rest, rcond=None)[0]
    if np.linalg.norm(rest) <= _PERFECT_FIT * np.sqrt(len(y)):
        raise InputError(f"phenotype '{name}' is a linear combination of the mean covariates")
