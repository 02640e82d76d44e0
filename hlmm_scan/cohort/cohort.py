"""Who is analysed for a phenotype, with which values, and who is not and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Bool, Float
from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.codes import tell_codes
from hlmm_scan.cohort.condition import Conditioning
from hlmm_scan.cohort.covariates import CovariateRules, Covariates
from hlmm_scan.cohort.design import Design, build_design, centre_and_scale
from hlmm_scan.cohort.table import Table
from hlmm_scan.cohort.transform import (
    Transform,
    logarithm,
    normal_quantiles_of_ranks,
    residuals,
    within,
)
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds

logger = logging.getLogger(__name__)


REASONS = (
    "not_kept",
    "removed",
    "sex_unknown",
    "other_sex",
    "not_in_phenotype_table",
    "phenotype_missing",
    "not_in_mean_covariates",
    "mean_covariate_missing",
    "not_in_variance_covariates",
    "variance_covariate_missing",
    "not_in_random_effects",
    "not_predicted",
    "environment_missing",
    "outlier",
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
        The phenotype as analysed: in the user's units, or transformed.
    mean_design, variance_design : Design, matrices (n, c) and (n, v)
        Intercept, covariates and variants to condition on, of the mean and of the log variance.
    dropped : tuple of (str, int)
        All of `REASONS` in their order, each with the number of reference samples that it is the
        first to exclude. These and n add up to `n_reference`.
    n_reference : int
        Number of reference samples.
    not_in_genotypes : int
        People of the phenotype table who are not among the reference samples.
    environment : ndarray of float64, shape (n,), optional
        The environment whose interaction with the genotype is asked for, in the user's units.
    two_valued : bool, default False
        Whether the phenotype has two values only among these people, before it is transformed and
        predictions are taken off.
    """

    phenotype: str
    samples: NDArray[np.int64]
    y: Float
    mean_design: Design
    variance_design: Design
    dropped: tuple[tuple[str, int], ...]
    n_reference: int
    not_in_genotypes: int
    environment: Float | None = None
    two_valued: bool = False

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
    restrictions : mapping of str to ndarray of bool, shape (n_reference,), optional
        Whom other wishes leave in, by the one of :data:`REASONS` that drops the others.
    rules : CovariateRules, optional
        How covariates become columns.
    transform : Transform, optional
        What is done to each phenotype.
    condition : Conditioning, optional
        Genotypes that are covariates of mean and variance.
    strict : bool, default False
        Whether a covariate that is the same in all people of a phenotype is an error. It is left
        out there otherwise.

    Raises
    ------
    InputError
        If a table has nobody in common with the samples, a person cannot be told from another, or
        a term of `rules` is no product of covariates.
    """

    def __init__(
        self,
        samples: SampleIds,
        phenotypes: Table,
        mean_covariates: Table | None = None,
        variance_covariates: Table | None = None,
        *,
        restrictions: Mapping[str, Bool] | None = None,
        rules: CovariateRules | None = None,
        transform: Transform | None = None,
        condition: Conditioning | None = None,
        strict: bool = False,
    ) -> None:
        n = len(samples)
        for reason, passing in (restrictions or {}).items():
            if reason not in REASONS or passing.shape != (n,):
                raise ValueError(f"restriction {reason}: unknown, or not of shape ({n},)")
        self.phenotypes = phenotypes
        self.n_reference = n
        self._rows = match(samples, phenotypes)
        self._restrictions = dict(restrictions or {})
        self._transform = transform or Transform()
        self._condition = condition
        self._strict = strict
        rules = rules or CovariateRules()
        shared = rules.reference, rules.min_level_count
        self._mean = Covariates(samples, mean_covariates, rules.mean_terms, *shared)
        self._variance = Covariates(samples, variance_covariates, rules.variance_terms, *shared)
        for note in dict.fromkeys(self._mean.notes + self._variance.notes):
            logger.info("%s", note)
        for doubt in dict.fromkeys(self._mean.doubts + self._variance.doubts):
            logger.warning("%s", doubt)
        self.not_in_genotypes = len(phenotypes) - int(np.count_nonzero(self._rows >= 0))

    def build(
        self,
        name: str,
        *,
        announce: bool = True,
        restrictions: Mapping[str, Bool] | None = None,
    ) -> Cohort:
        """Assemble the cohort of one phenotype and log its counts.

        Parameters
        ----------
        name : str
            A column of the phenotype table.
        announce : bool, default True
            Whether to log the counts.
        restrictions : mapping of str to ndarray of bool, shape (n_reference,), optional
            Further ones, of this phenotype alone.

        Returns
        -------
        Cohort

        Raises
        ------
        InputError
            If the name is unknown or its column faulty; nobody is left; there are fewer people
            than parameters (mean, variance and the test genotype's two); the phenotype is
            constant, a combination of the mean covariates, or has no logarithm where one is
            wanted; covariates are collinear among these people (or constant, where that is no
            reason to leave them out), or a variant to condition on does not vary.
        """
        column = self.phenotypes.values[:, self.phenotypes.index(name)]
        if name in self.phenotypes.faults:
            raise InputError(self.phenotypes.faults[name])
        kept, dropped = self._select(column, restrictions or {})
        samples = np.flatnonzero(kept).astype(np.int64)
        y = column[self._rows[samples]]
        doubt = tell_codes(y, name, self.phenotypes.path) if announce else None
        if doubt:
            logger.warning("%s", doubt)
        if self._transform.log and len(y):
            y = logarithm(y, name)
        if self._transform.outlier_sd is not None and len(y):
            near = within(y, self._transform.outlier_sd)
            dropped["outlier"] = int(np.count_nonzero(~near))
            samples, y = samples[near], y[near]
        self._tell_counts(name, len(samples), dropped, announce)
        mean, mean_names, notes = self._mean.columns(samples, constant_too=self._strict)
        variance, variance_names, more_notes = self._variance.columns(
            samples, constant_too=self._strict
        )
        if announce:
            for note in dict.fromkeys(notes + more_notes):
                logger.info("%s: %s", name, note)
        self._check_size(name, len(samples), mean.shape[1], variance.shape[1])
        _check_phenotype(name, y, logging.WARNING if announce else logging.DEBUG)
        mean_design = build_design(mean, mean_names, "mean", name)
        _check_not_explained(name, y, mean_design)
        two_valued = len(np.unique(y)) == 2
        if two_valued and announce:
            logger.info(
                "%s: two values have no variance of their own: its variance test is unknown, and "
                "the test of both effects is that of the mean",
                name,
            )
        if self._transform.rank_normal is not None:
            of_residuals = self._transform.rank_normal == "residuals"
            y = normal_quantiles_of_ranks(residuals(y, mean_design.matrix) if of_residuals else y)
        if self._condition is not None:
            copies, ids = self._condition.columns(samples, name), self._condition.names
            mean, variance = np.hstack([mean, copies]), np.hstack([variance, copies])
            mean_names, variance_names = mean_names + ids, variance_names + ids
            mean_design = build_design(mean, mean_names, "mean", name)
            _check_not_explained(name, y, mean_design)
        variance_design = build_design(variance, variance_names, "variance", name)
        samples.flags.writeable = False
        y.flags.writeable = False
        return Cohort(
            name,
            samples,
            y,
            mean_design,
            variance_design,
            tuple(dropped.items()),
            self.n_reference,
            self.not_in_genotypes,
            two_valued=two_valued,
        )

    def _select(self, column: Float, also: Mapping[str, Bool]) -> tuple[Bool, dict[str, int]]:
        """Who is analysed, and how many each reason is the first to exclude."""
        # Row −1 reads the last person's value; those are excluded as not in the table before.
        passing = {
            **self._restrictions,
            **also,
            "not_in_phenotype_table": self._rows >= 0,
            "phenotype_missing": ~np.isnan(column)[self._rows],
            "not_in_mean_covariates": self._mean.present,
            "mean_covariate_missing": self._mean.complete,
            "not_in_variance_covariates": self._variance.present,
            "variance_covariate_missing": self._variance.complete,
        }
        kept = np.ones(self.n_reference, np.bool_)
        left = self.n_reference
        dropped = dict.fromkeys(REASONS, 0)
        for reason in REASONS:
            if reason in passing:
                kept &= passing[reason]
                now = int(np.count_nonzero(kept))
                dropped[reason] = left - now
                left = now
        return kept, dropped

    def _tell_counts(self, name: str, n: int, dropped: Mapping[str, int], announce: bool) -> None:
        """Log who is analysed; refuse a phenotype with nobody."""
        counts = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
        logger.log(
            logging.INFO if announce else logging.DEBUG,
            "%s%s; %s people of the phenotype table are not in the genotypes",
            f"{name}: {n:,} of {self.n_reference:,} people analysed",
            f" ({counts})" if counts else "",
            f"{self.not_in_genotypes:,}",
        )
        if not n:
            raise InputError(
                f"nobody is left to analyse for {name}, "
                f"of {self.n_reference:,} people in the genotypes: {counts}"
            )

    def _check_size(self, name: str, n: int, mean: int, variance: int) -> None:
        """Refuse fewer people than parameters."""
        condition = 0 if self._condition is None else len(self._condition.variant_ids)
        mean, variance = (1 + condition + covariates for covariates in (mean, variance))
        parameters = mean + variance + TEST_PARAMETERS
        if n < parameters:
            raise InputError(
                f"fewer people than parameters: {n:,} people are analysed for {name}, "
                f"with {parameters:,} parameters (mean {mean:,}, variance "
                f"{variance:,}, test genotype {TEST_PARAMETERS})"
            )


def assemble(
    samples: SampleIds,
    phenotypes: Table,
    name: str,
    mean_covariates: Table | None = None,
    variance_covariates: Table | None = None,
    **options: Any,
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
    **options
        Further options of `CohortBuilder`.

    Returns
    -------
    Cohort

    Raises
    ------
    InputError
        As `CohortBuilder` and `CohortBuilder.build`.
    """
    builder = CohortBuilder(samples, phenotypes, mean_covariates, variance_covariates, **options)
    return builder.build(name)


def _check_phenotype(name: str, y: Float, level: int) -> None:
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


def _check_not_explained(name: str, y: Float, design: Design) -> None:
    """Refuse a phenotype that the mean covariates give without error: no variance would be left."""
    rest = residuals(y, design.matrix)
    if np.linalg.norm(rest) <= _PERFECT_FIT * np.sqrt(len(y)):
        raise InputError(f"phenotype '{name}' is a linear combination of the mean covariates")
