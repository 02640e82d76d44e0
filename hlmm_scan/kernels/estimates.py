"""What a kernel returns for a block of variants, before tests and units are put on."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.schema import Status


@dataclass(frozen=True)
class Inference:
    """Which standard errors and tests a fit is to have besides the default ones.

    Attributes
    ----------
    observed : bool, default False
        Model covariance from the observed instead of the expected information.
    sandwich : bool, default False
        Also the sandwich covariance.
    likelihood_ratio : bool, default False
        Also the three likelihood-ratio tests, which refit without either effect and without both.
    interaction : bool, default False
        Also the interaction with the environment, where the null model has one.

    Notes
    -----
    The studentised covariance is always given: it costs next to nothing (math.md §2).
    """

    observed: bool = False
    sandwich: bool = False
    likelihood_ratio: bool = False
    interaction: bool = False


DEFAULT_INFERENCE = Inference()


@dataclass(frozen=True)
class Estimates:
    """Estimates of m variants in standardised units; NaN where there is none.

    Attributes
    ----------
    add, var : ndarray, shape (m,)
        Additive effect on the mean and log-linear effect on the variance, per effect allele.
    add_variance, var_variance, add_var_covariance : ndarray, shape (m,)
        Sampling covariance of the two under the model.
    add_variance_robust, var_variance_robust, add_var_covariance_robust : ndarray, shape (m,)
        The same, studentised: with the pooled third and fourth moments of the null residuals.
    add_variance_sandwich, var_variance_sandwich, add_var_covariance_sandwich : ndarray, shape (m,)
        The same by the sandwich, where it was asked for.
    add_lrt, var_lrt, av_lrt : ndarray, shape (m,)
        Likelihood-ratio statistics of the additive effect given the variance effect, of the
        variance effect given the additive one, and of both, where they were asked for.
    interaction, interaction_variance : ndarray, shape (m,)
        Effect of genotype times environment on the mean, and its sampling variance.
    interaction_variance_robust, interaction_variance_sandwich : ndarray, shape (m,)
        The same by the other covariances.
    score_add, score_var, score_plain : ndarray, shape (m,)
        Standardised scores at the null model: of the additive effect, of the variance effect with
        the additive one taken out, and of the variance effect as the null model leaves it.
    genotype_third, genotype_fourth : ndarray, shape (m,)
        Σh³ and Σh⁴ of the genotype, h copies less their mean, where sums of dosages have them.
    log_likelihood : ndarray, shape (m,)
    random_variance, random_variance_variance : ndarray, shape (m,)
        Variance of the random effects and its sampling variance (HLMM).
    residual_variance : ndarray, shape (m,)
        Mean over people of the fitted residual variance exp(Vb) (HLMM).
    status : ndarray of int8, shape (m,)
        :class:`~hlmm_scan.schema.Status`.
    """

    add: Float
    var: Float
    add_variance: Float
    var_variance: Float
    add_var_covariance: Float
    add_variance_robust: Float
    var_variance_robust: Float
    add_var_covariance_robust: Float
    add_variance_sandwich: Float
    var_variance_sandwich: Float
    add_var_covariance_sandwich: Float
    add_lrt: Float
    var_lrt: Float
    av_lrt: Float
    interaction: Float
    interaction_variance: Float
    interaction_variance_robust: Float
    interaction_variance_sandwich: Float
    score_add: Float
    score_var: Float
    score_plain: Float
    genotype_third: Float
    genotype_fourth: Float
    log_likelihood: Float
    random_variance: Float
    random_variance_variance: Float
    residual_variance: Float
    status: NDArray[np.int8]

    @classmethod
    def empty(cls, m: int) -> Estimates:
        """Return m rows without estimates, each with status PENDING."""
        columns = {f.name: np.full(m, np.nan) for f in fields(cls) if f.name != "status"}
        return cls(**columns, status=np.full(m, Status.PENDING, np.int8))

    def put_scores(
        self, rows: NDArray[np.integer], scores: Float, higher: Float | None = None
    ) -> None:
        """Put scores and, where they are known, powers of the genotype into rows."""
        self.score_add[rows], self.score_plain[rows], self.score_var[rows] = scores.T
        if higher is not None:
            self.genotype_third[rows], self.genotype_fourth[rows] = higher.T

    @property
    def scores(self) -> Float:
        """Standardised scores, shape (m, 3): additive, plain variance, variance."""
        return np.column_stack([self.score_add, self.score_plain, self.score_var])

    @property
    def higher(self) -> Float:
        """Σh³ and Σh⁴ of the genotype, shape (m, 2)."""
        return np.column_stack([self.genotype_third, self.genotype_fourth])

    def put(self, rows: NDArray[np.integer], other: Estimates) -> None:
        """Copy `other` (one row for each of `rows`) into these rows."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)
