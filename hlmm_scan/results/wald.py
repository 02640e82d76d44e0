"""Wald tests: made from estimates and their covariance when they are asked for, never stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.models.inference import joint_chi2, neg_log10_p, wald_neg_log10_p

COVARIANCES: Mapping[str, str] = {
    "": "the model's standard errors",
    "_robust": "standard errors by the residuals' third and fourth moments",
    "_sandwich": "standard errors by the sandwich estimator",
}
"""Covariances of the estimates, by the suffix of their variables."""


def wald_needs(question: str, covariance: str) -> tuple[str, ...]:
    """Return the stored variables that a Wald test is made of.

    Parameters
    ----------
    question : str
        An effect, as ``add``; ``av`` for ``add`` and ``var`` together.
    covariance : str
        One of :data:`COVARIANCES`.
    """
    if question == "av":
        errors = (f"add_se{covariance}", f"var_se{covariance}", f"add_var_cov{covariance}")
        return ("add", "var", *errors)
    return question, f"{question}_se{covariance}"


def wald_test(question: str, covariance: str, columns: Mapping[str, NDArray[Any]]) -> Float:
    """Return −log10 p of a Wald test; NaN where there is no estimate or no error.

    Parameters
    ----------
    question, covariance : str
        As for :func:`wald_needs`.
    columns : mapping of str to ndarray
        With what it names.
    """
    values = [columns[name] for name in wald_needs(question, covariance)]
    if question != "av":
        return wald_neg_log10_p(*values)
    add, var, add_se, var_se, both = values
    return neg_log10_p(joint_chi2(add, var, add_se**2, var_se**2, both), 2)
