"""The heteroskedastic linear mixed model (HLMM) of one data set."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from hlmm_scan.array_types import Float
from hlmm_scan.models.design import (
    Standardised,
    as_design,
    as_parameters,
    as_phenotype,
    as_random_variance,
)
from hlmm_scan.models.fit import (
    Fit,
    Information,
    check_information,
    minimise_from,
    minimise_random_variance,
    report,
    unidentified,
)
from hlmm_scan.models.hlm import HLMObjective
from hlmm_scan.models.hlmm_objective import (
    HLMMEvaluation,
    HLMMObjective,
    RandomEffectEvaluation,
)
from hlmm_scan.models.lowrank import thin
from hlmm_scan.models.newton import GRADIENT_TOLERANCE, Objective
from hlmm_scan.models.relationship import RelationshipObjective, by_relationship


class HLMM:
    """Heteroskedastic linear mixed model y ~ N(Xa, diag(exp(Vb)) + h2·GGᵀ).

    Parameters
    ----------
    y : array_like, shape (n,)
        Phenotype.
    X : array_like, shape (n,) or (n, c)
        Mean design; an intercept is one of its columns if there is to be one.
    V : array_like, shape (n,) or (n, v)
        Log-variance design; as `X`.
    G : array_like, shape (n,) or (n, l)
        Random-effect design; genotypes are to be standardised and divided by √l. A row-major
        float64 array is not copied. With l > n it is replaced by n columns of the same GGᵀ.

    Attributes
    ----------
    n : int
        People.
    n_mean, n_variance, n_random : int
        Columns c, v and l of the three designs.

    Raises
    ------
    ValueError
        If shapes disagree, values are not finite, or n < c + v + 1.

    Notes
    -----
    math.md §1; Young, Wauthier and Donnelly, Nat Genet 50, 1608 (2018). An evaluation with all
    derivatives costs about 2n·l² + (v − 1)·n·l² operations where V has an intercept; a fit with
    l > n/2 makes n³ of them instead (:mod:`hlmm_scan.models.relationship`).
    """

    def __init__(self, y: ArrayLike, X: ArrayLike, V: ArrayLike, G: ArrayLike) -> None:
        self.y = as_phenotype(y)
        self.n = len(self.y)
        self.X = as_design(X, self.n, "mean")
        self.V = as_design(V, self.n, "variance")
        self.G = as_design(G, self.n, "random-effect")
        self.n_mean = self.X.shape[1]
        self.n_variance = self.V.shape[1]
        self.n_random = self.G.shape[1]
        parameters = self.n_mean + self.n_variance + 1
        if self.n < parameters:
            raise ValueError(f"{self.n} people are fewer than {parameters} parameters")

    def likelihood(self, b: ArrayLike, h2: float, negative: bool = False) -> float:
        """Return the profile log-likelihood, the mean effects at their maximum given b and h2.

        Parameters
        ----------
        b : array_like, shape (v,)
            Effects on the log-variance.
        h2 : float
            Variance of the random effects, ≥ 0.
        negative : bool, default False
            Return −2L/n − log 2π, the function that is minimised, in place of L.

        Raises
        ------
        ValueError
            If a parameter has the wrong shape or range, a log-variance lies outside ±600, or
            the columns of X are collinear; so do all methods that take parameters.
        """
        value = self.at(None, b, h2).value
        return value if negative else -0.5 * self.n * (value + float(np.log(2 * np.pi)))

    def likelihood_and_gradient(self, b: ArrayLike, h2: float) -> tuple[float, Float]:
        """Return −2L/n − log 2π and its gradient, first b, then h2; shape (v + 1,)."""
        evaluation = self.at(None, b, h2)
        return evaluation.value, evaluation.gradient

    def alpha_ols(self) -> Float:
        """Return the ordinary least-squares estimate of the mean effects, shape (c,).

        Raises
        ------
        ValueError
            If the columns of X are collinear.
        """
        if not self._standard.mean.full_rank:
            raise ValueError("the columns of the mean design are collinear")
        return self._standard.mean.to_design(self._standard.ols)

    def alpha_mle(self, b: ArrayLike, h2: float) -> Float:
        """Return the maximum-likelihood estimate of the mean effects given b and h2."""
        return self.at(None, b, h2).alpha

    def observed_information(self, a: ArrayLike, b: ArrayLike, h2: float) -> Float:
        """Return the observed information of log L at any (a, b, h2).

        Returns
        -------
        ndarray, shape (c + v + 1, c + v + 1)
            Order a, b, h2. Half the Hessian of −2·log L, so its inverse is the covariance of
            the estimates.
        """
        return self.at(a, b, h2).observed

    def expected_information(self, a: ArrayLike, b: ArrayLike, h2: float) -> Float:
        """Return the expected information of log L; as `observed_information`.

        It does not depend on a, and a is orthogonal to (b, h2) in it.
        """
        return self.at(a, b, h2).expected

    def fit(
        self,
        start: tuple[ArrayLike, float] | None = None,
        information: Information = "expected",
    ) -> Fit:
        """Find the maximum-likelihood estimates and their covariance.

        Parameters
        ----------
        start : tuple of (array_like of shape (v,), float), optional
            Start of (b, h2), such as the null estimates. By default b is that of the HLM, and
            the variance is shared with the random effects in the best of six proportions.
        information : {"expected", "observed"}, default "expected"
            From which the covariance is taken. The seed has observed for HLMM and expected for
            HLM; they differ by sampling noise.

        Returns
        -------
        Fit
            ``status`` says what became of it; no data raise an error here.

        Raises
        ------
        ValueError
            If `start` has the wrong shape or range, or `information` another value.

        Notes
        -----
        :func:`hlmm_scan.models.fit.minimise_random_variance` says what is tried.
        """
        return self.fit_and_evaluate(start, information)[0]

    def fit_and_evaluate(
        self,
        start: tuple[ArrayLike, float] | None = None,
        information: Information = "expected",
        tolerance: float = GRADIENT_TOLERANCE,
    ) -> tuple[Fit, RandomEffectEvaluation | None]:
        """Fit as :meth:`fit` does, and keep what is known of the model at the maximum.

        Parameters
        ----------
        start, information
            As for :meth:`fit`.
        tolerance : float, default 1e-9
            Gradient before the last Newton step, as for :func:`hlmm_scan.models.newton.minimise`.

        Returns
        -------
        Fit
        RandomEffectEvaluation or None
            In standardised units, before the last Newton step, which is within the tolerance;
            None where there are no estimates.
        """
        if by_relationship(self.n, self.n_random):
            K = self.G @ self.G.T
            return fit_relationship(self.y, self.X, self.V, K, start, information, tolerance)
        standard = self._standard
        # A fixed trace of GGᵀ makes h2 a variance in the phenotype's standardised units.
        unit = float(np.linalg.norm(self.G) / np.sqrt(self.n)) or 1.0
        return _fit(
            standard,
            lambda: HLMMObjective(*_designs(standard), self.G, standard.offset, unit),
            start,
            information,
            tolerance,
        )

    def at(self, a: ArrayLike | None, b: ArrayLike, h2: float) -> HLMMEvaluation:
        """Evaluate the model with all derivatives, on the designs as they are.

        Parameters
        ----------
        a : array_like, shape (c,), or None
            Effects on the mean; None for their maximum given b and h2.
        b : array_like, shape (v,)
        h2 : float
        """
        theta = np.append(as_parameters(b, self.n_variance, "b"), as_random_variance(h2))
        alpha = None if a is None else as_parameters(a, self.n_mean, "a")
        return HLMMObjective(self.y, self.X, self.V, self._G).at(theta, alpha)

    @cached_property
    def _standard(self) -> Standardised:
        return Standardised(self.y, self.X, self.V)

    @cached_property
    def _G(self) -> Float:
        return thin(self.G)


def fit_relationship(
    y: ArrayLike,
    X: ArrayLike,
    V: ArrayLike,
    K: Float,
    start: tuple[ArrayLike, float] | None = None,
    information: Information = "expected",
    tolerance: float = GRADIENT_TOLERANCE,
) -> tuple[Fit, RandomEffectEvaluation | None]:
    """Fit an HLMM of which K = GGᵀ is at hand, as :meth:`HLMM.fit_and_evaluate` does.

    Parameters
    ----------
    y, X, V
        As for :class:`HLMM`.
    K : ndarray, shape (n, n)
        Symmetric, not checked and not copied.
    start, information, tolerance
        As for :meth:`HLMM.fit_and_evaluate`.
    """
    y = as_phenotype(y)
    standard = Standardised(y, as_design(X, len(y), "mean"), as_design(V, len(y), "variance"))
    unit = float(np.sqrt(np.trace(K) / len(y))) or 1.0
    return _fit(
        standard,
        lambda: RelationshipObjective(*_designs(standard), K, standard.offset, unit),
        start,
        information,
        tolerance,
    )


def _designs(standard: Standardised) -> tuple[Float, Float, Float]:
    return standard.phenotype, standard.mean.columns, standard.variance.columns


def _fit(
    standard: Standardised,
    make_objective: Callable[[], HLMMObjective | RelationshipObjective],
    start: tuple[ArrayLike, float] | None,
    information: Information,
    tolerance: float,
) -> tuple[Fit, RandomEffectEvaluation | None]:
    check_information(information)
    given = None
    if start is not None:
        given = as_parameters(start[0], standard.V.shape[1], "start of b")
        given_h2 = as_random_variance(start[1])
    refused = unidentified(standard, n_random=1)
    if refused is not None:
        return refused, None
    objective = make_objective()
    ratio = standard.scale / objective.unit
    random_unit = ratio * ratio
    theta = None
    if given is not None:
        h2 = given_h2 / random_unit if random_unit > 0 else 0.0
        theta = np.append(standard.variance.from_design(given), h2)
    # Log-variances move together by this if V spans the constant, else nearly so.
    level = standard.variance.columns.mean(axis=0)
    function: Objective[RandomEffectEvaluation] = objective
    minimum = minimise_random_variance(
        function, theta, lambda: _hlm_start(standard), level, tolerance
    )
    fit = report(standard, minimum, information, random_unit=random_unit)
    return fit, None if minimum is None or minimum.degenerate else minimum.evaluation


def _hlm_start(standard: Standardised) -> Float:
    """Coefficients b of the HLM in the variance basis; of equal variances where it has none."""
    equal = standard.homoskedastic()
    objective = HLMObjective(
        standard.phenotype, standard.mean.columns, standard.variance.columns, standard.offset
    )
    minimum = minimise_from(objective, [equal])
    return minimum.theta if minimum is not None and minimum.converged else equal


def simulate(
    n: int,
    n_random: int,
    alpha: ArrayLike,
    beta: ArrayLike,
    h2: float,
    *,
    seed: int | np.random.Generator | None = None,
) -> HLMM:
    """Simulate a data set of an HLMM with independent designs.

    Parameters
    ----------
    n : int
        People.
    n_random : int
        Random effects l: genotypes of frequency one half, standardised and divided by √l.
    alpha : array_like, shape (c,)
        Effects on the mean, one per standard normal column of X.
    beta : array_like, shape (v,)
        Effects on the log-variance, one per standard normal column of V.
    h2 : float
        Variance of the random effects; each has variance h2, a person's sum about h2.
    seed : int or numpy.random.Generator, optional

    Returns
    -------
    HLMM
    """
    rng = np.random.default_rng(seed)
    variance = as_random_variance(h2)
    a = np.atleast_1d(np.asarray(alpha, dtype=np.float64))
    b = np.atleast_1d(np.asarray(beta, dtype=np.float64))
    X = rng.standard_normal((n, len(a)))
    V = rng.standard_normal((n, len(b)))
    genotypes = rng.binomial(2, 0.5, (n, n_random)).astype(np.float64)
    genotypes -= genotypes.mean(axis=0)
    deviation = genotypes.std(axis=0)
    # In small samples a column may be constant; it then has no effect.
    G = genotypes / np.where(deviation > 0, deviation, 1.0) / np.sqrt(n_random)
    random = np.sqrt(variance) * (G @ rng.standard_normal(n_random))
    residual = np.exp(0.5 * (V @ b)) * rng.standard_normal(n)
    return HLMM(X @ a + random + residual, X, V, G)
