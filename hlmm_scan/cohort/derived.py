"""Cohorts made from another: more covariates, fewer people, another phenotype."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.cohort.cohort import TEST_PARAMETERS, Cohort
from hlmm_scan.cohort.design import Design, build_design, centre_and_scale, is_combination
from hlmm_scan.errors import InputError

logger = logging.getLogger(__name__)


def with_covariate(design: Design, name: str, values: Float) -> Design | None:
    """Put one more covariate into a design.

    Parameters
    ----------
    design : Design
        Of n people.
    name : str
    values : ndarray of float64, shape (n,)
        In the user's units.

    Returns
    -------
    Design or None
        None where the covariate is constant, or a combination of those that are there already.
    """
    centres, scales = centre_and_scale(values[:, None])
    if scales[0] == 0:
        return None
    column = (values - centres[0]) / scales[0]
    matrix = np.column_stack([design.matrix, column])
    if is_combination(matrix):
        return None
    extended = Design(
        matrix,
        (*design.names, name),
        np.append(design.centres, centres),
        np.append(design.scales, scales),
    )
    for array in (extended.matrix, extended.centres, extended.scales):
        array.flags.writeable = False
    return extended


def with_covariate_in_both(cohort: Cohort, name: str, values: Float) -> Cohort:
    """Put a covariate into the mean and the variance, where it says something new there.

    Parameters
    ----------
    cohort : Cohort
        Of n people.
    name : str
    values : ndarray of float64, shape (n,)

    Returns
    -------
    Cohort
        The same one where it says nothing new in either.
    """
    mean = with_covariate(cohort.mean_design, name, values)
    variance = with_covariate(cohort.variance_design, name, values)
    if mean is None and variance is None:
        return cohort
    return replace(
        cohort,
        mean_design=mean or cohort.mean_design,
        variance_design=variance or cohort.variance_design,
    )


def with_environment(
    cohort: Cohort, name: str, values: Float, *, in_variance: bool = False
) -> Cohort:
    """Put an environment beside a phenotype, and among its mean covariates if it is not yet.

    Parameters
    ----------
    cohort : Cohort
        Of n people.
    name : str
    values : ndarray of float64, shape (n,)
        In the user's units.
    in_variance : bool, default False
        Whether it is to be a covariate of the variance, too.

    Raises
    ------
    InputError
        If it is constant.
    """
    if centre_and_scale(values[:, None])[1][0] == 0:
        raise InputError(
            f"the environment '{name}' is constant among the {len(values):,} people analysed for "
            f"{cohort.phenotype}"
        )
    mean = with_covariate(cohort.mean_design, name, values)
    variance = with_covariate(cohort.variance_design, name, values) if in_variance else None
    values.flags.writeable = False
    return replace(
        cohort,
        mean_design=mean or cohort.mean_design,
        variance_design=variance or cohort.variance_design,
        environment=values,
    )


def restricted(cohort: Cohort, kept: NDArray[np.bool_], reason: str) -> Cohort | None:
    """Keep some of the people; covariates that tell them apart no longer are left out.

    Parameters
    ----------
    cohort : Cohort
        Of n people.
    kept : ndarray of bool, shape (n,)
    reason : str
        Why the others are dropped, to be counted.

    Returns
    -------
    Cohort or None
        The same one where all are kept. None where there are fewer people than parameters, or
        their phenotype is constant.
    """
    if kept.all():
        return cohort
    y = cohort.y[kept]
    few = len(y) < len(cohort.mean_design.names) + len(cohort.variance_design.names)
    if few or len(y) <= TEST_PARAMETERS or centre_and_scale(y[:, None])[1][0] == 0:
        return None
    samples = cohort.samples[kept]
    environment = None if cohort.environment is None else cohort.environment[kept]
    if environment is not None and centre_and_scale(environment[:, None])[1][0] == 0:
        logger.info("%s: no interaction there, the environment is constant", cohort.phenotype)
        environment = None
    designs = [
        _of_people(design, kept, what, cohort.phenotype)
        for design, what in ((cohort.mean_design, "mean"), (cohort.variance_design, "variance"))
    ]
    for array in (y, samples):
        array.flags.writeable = False
    return replace(
        cohort,
        samples=samples,
        y=y,
        mean_design=designs[0],
        variance_design=designs[1],
        dropped=(*cohort.dropped, (reason, int(len(kept) - len(y)))),
        environment=environment,
    )


def _of_people(design: Design, kept: NDArray[np.bool_], what: str, phenotype: str) -> Design:
    part: Literal["mean", "variance"] = "mean" if what == "mean" else "variance"
    found = build_design(np.zeros((int(kept.sum()), 0)), (), part, phenotype)
    raw = design.matrix[kept] * design.scales + design.centres
    for name, column in zip(design.names[1:], raw.T[1:], strict=True):
        extended = with_covariate(found, name, column)
        if extended is None:
            logger.info("%s: %s covariate '%s' left out there", phenotype, what, name)
        found = extended or found
    return found


def with_phenotype(cohort: Cohort, y: Float, name: str) -> Cohort:
    """Put another phenotype in the place of the one there is.

    Parameters
    ----------
    cohort : Cohort
        Of n people.
    y : ndarray of float64, shape (n,)
    name : str
        What it is, for messages.

    Raises
    ------
    InputError
        If it is constant.
    """
    if centre_and_scale(y[:, None])[1][0] == 0:
        raise InputError(f"{name} is constant among the {len(y):,} people analysed")
    y.flags.writeable = False
    return replace(cohort, y=y)
