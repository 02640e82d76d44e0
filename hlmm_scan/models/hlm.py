"""The heteroskedastic linear model (HLM) of one data set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import qr, solve_triangular

from hlmm_scan.array_types import Float
from hlmm_scan.models.design import (
    Standardised,
    as_design,
    as_parameters,
    as_phenotype,
)
from hlmm_scan.models.fit import (
    Fit,
    Information,
    check_information,
    minimise_from,
    report,
    unidentified,
)
from hlmm_scan.models.lowrank import root_variance

_NO_RESIDUAL = 1e-9


def vanishing_variance(log_variance: Float, residual: Float) -> float:
    """Return the smallest variance of a person without residual, in standardised units.

    The residual must vanish too, its square below 1e-9: a variance that the design holds at a
    small value against large residuals is a bad model, not an unbounded likelihood.
    """
    without = log_variance[residual**2 < _NO_RESIDUAL]
    return float(np.exp(without.min())) if without.size else np.inf


def weighted_basis(X_white: Float) -> tuple[Float, Float]:
    """Return U and R of the QR decomposition of the whitened mean design.

    Raises
    ------
    numpy.linalg.LinAlgError
        If its columns are collinear.
    """
    U, R = qr(X_white, mode="economic", check_finite=False)
    if (np.abs(np.diag(R)) <= 1e-14 * np.sqrt((R**2).sum(axis=0))).any():
        raise np.linalg.LinAlgError("the columns of the mean design are collinear")
    return np.asarray(U, dtype=np.float64), np.asarray(R, dtype=np.float64)


@dataclass(frozen=True)
class HLMObjective:
    """(−2·log L)/n − log 2π of an HLM as a function of b, the mean effects profiled out.

    Inputs are used as they are: nothing is checked, scaled or copied.

    Attributes
    ----------
    y : ndarray, shape (n,)
    X : ndarray, shape (n, c)
    V : ndarray, shape (n, v)
    offset : float
        Added to every log-variance.
    """

    y: Float
    X: Float
    V: Float
    offset: float = 0.0

    def at(self, theta: Float, alpha: Float | None = None) -> HLMEvaluation:
        """Evaluate at b = `theta`, shape (v,), with a at its maximum or at `alpha`, shape (c,).

        Raises
        ------
        numpy.linalg.LinAlgError
            If a log-variance lies outside ±600, or the columns of X are collinear.
        """
        return HLMEvaluation(self, theta, alpha)

    def step_size(self, theta: Float, step: Float) -> float:
        """Largest change of a log-variance."""
        return float(np.abs(self.V @ step).max())


class HLMEvaluation:
    """Value and derivatives of an HLM's objective at one point.

    Notes
    -----
    f = Σᵢ(Vb)ᵢ + rᵀD⁻¹r with r = y − Xa (math.md §1 at h2 = 0). With whitened residuals
    e = D^-½r and J = D^-½[X, V∘r], the observed information of (a, b) is

        JᵀJ − ½·[0, 0; 0, Vᵀdiag(e²)V],

    since ∂²/∂b² of ½f is ½Vᵀdiag(e²)V; the expected one is diag(XᵀD⁻¹X, ½VᵀV).
    """

    def __init__(self, objective: HLMObjective, theta: Float, alpha: Float | None) -> None:
        self.objective = objective
        self.log_variance = objective.offset + objective.V @ theta
        self.root = root_variance(self.log_variance)
        self.X_white = objective.X / self.root[:, np.newaxis]
        if alpha is None:
            y_white = objective.y / self.root
            # QR, not normal equations: weights span many powers of ten where a fit runs off.
            U, R = weighted_basis(self.X_white)
            coefficients = U.T @ y_white
            self.residual_white = y_white - U @ coefficients
            self.alpha = np.asarray(solve_triangular(R, coefficients, check_finite=False))
        else:
            self.residual_white = (objective.y - objective.X @ alpha) / self.root
            self.alpha = alpha
        n = len(objective.y)
        total = self.log_variance.sum() + self.residual_white @ self.residual_white
        self.value = float(total) / n

    @property
    def gradient(self) -> Float:
        """Gradient of `value` with respect to b, shape (v,)."""
        V = self.objective.V
        return np.asarray((1 - self.residual_white**2) @ V / len(V))

    @cached_property
    def observed(self) -> Float:
        """Observed information of log L, order a, b; shape (c + v, c + v)."""
        V, c = self.objective.V, self.X_white.shape[1]
        J = np.hstack((self.X_white, V * self.residual_white[:, np.newaxis]))
        information = J.T @ J
        information[c:, c:] *= 0.5
        return np.asarray(information)

    @cached_property
    def expected(self) -> Float:
        """Expected information of log L, order a, b; shape (c + v, c + v)."""
        V, c = self.objective.V, self.X_white.shape[1]
        information = np.zeros((c + V.shape[1],) * 2)
        information[:c, :c] = self.X_white.T @ self.X_white
        information[c:, c:] = 0.5 * (V.T @ V)
        return information

    @property
    def hessian(self) -> Float:
        """Hessian of `value` with respect to b, shape (v, v)."""
        return profile_hessian(self.observed, self.X_white.shape[1], len(self.X_white))

    @property
    def scoring_hessian(self) -> Float:
        """Expected information of b in the scale of `hessian`, shape (v, v)."""
        c = self.X_white.shape[1]
        return self.expected[c:, c:] * (2 / len(self.X_white))

    @property
    def vanishing(self) -> float:
        """Smallest variance of a person without residual."""
        return vanishing_variance(self.log_variance, self.residual_white * self.root)


def profile_hessian(observed: Float, c: int, n: int) -> Float:
    """Return the Hessian per observation of −2·log L with the first c parameters profiled out.

    Parameters
    ----------
    observed : ndarray, shape (k, k)
        Observed information of log L at the maximum over the first c parameters.
    c, n : int

    Returns
    -------
    ndarray, shape (k − c, k − c)
        2/n times the Schur complement, which is exact for a profile likelihood.
    """
    try:
        shift = np.linalg.solve(observed[:c, :c], observed[:c, c:])
    except np.linalg.LinAlgError:
        return np.full_like(observed[c:, c:], np.nan)
    return np.asarray((observed[c:, c:] - observed[c:, :c] @ shift) * (2 / n))


class HLM:
    """Heteroskedastic linear model y ~ N(Xa, diag(exp(Vb))).

    Parameters
    ----------
    y : array_like, shape (n,)
        Phenotype.
    X : array_like, shape (n,) or (n, c)
        Mean design; an intercept is one of its columns if there is to be one.
    V : array_like, shape (n,) or (n, v)
        Log-variance design; as `X`.

    Attributes
    ----------
    n : int
        People.
    n_mean, n_variance : int
        Columns c of the mean and v of the log-variance design.

    Raises
    ------
    ValueError
        If shapes disagree, values are not finite, or n < c + v.

    Notes
    -----
    math.md §1 with h2 = 0; Young, Wauthier and Donnelly, Nat Genet 50, 1608 (2018).
    """

    def __init__(self, y: ArrayLike, X: ArrayLike, V: ArrayLike) -> None:
        self.y = as_phenotype(y)
        self.n = len(self.y)
        self.X = as_design(X, self.n, "mean")
        self.V = as_design(V, self.n, "variance")
        self.n_mean = self.X.shape[1]
        self.n_variance = self.V.shape[1]
        if self.n < self.n_mean + self.n_variance:
            parameters = self.n_mean + self.n_variance
            raise ValueError(f"{self.n} people are fewer than {parameters} parameters")

    def likelihood(self, b: ArrayLike, negative: bool = False) -> float:
        """Return the profile log-likelihood, the mean effects at their maximum given b.

        Parameters
        ----------
        b : array_like, shape (v,)
            Effects on the log-variance.
        negative : bool, default False
            Return −2L/n − log 2π, the function that is minimised, in place of L.

        Raises
        ------
        ValueError
            If b has the wrong shape, a log-variance lies outside ±600, or the columns of X are
            collinear; so do all methods that take parameters.
        """
        value = self._at(b).value
        return value if negative else -0.5 * self.n * (value + float(np.log(2 * np.pi)))

    def likelihood_and_gradient(self, b: ArrayLike) -> tuple[float, Float]:
        """Return −2L/n − log 2π and its gradient with respect to b, shape (v,)."""
        evaluation = self._at(b)
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

    def alpha_mle(self, b: ArrayLike) -> Float:
        """Return the maximum-likelihood estimate of the mean effects given b, shape (c,)."""
        return self._at(b).alpha

    def observed_information(self, a: ArrayLike, b: ArrayLike) -> Float:
        """Return the observed information of log L at any (a, b).

        Returns
        -------
        ndarray, shape (c + v, c + v)
            Order a, b. Half the Hessian of −2·log L, so its inverse is the covariance of the
            estimates.
        """
        return self._at(b, a).observed

    def expected_information(self, a: ArrayLike, b: ArrayLike) -> Float:
        """Return the expected information of log L; as `observed_information`.

        It does not depend on a, and a and b are orthogonal in it.
        """
        return self._at(b, a).expected

    def fit(self, start: ArrayLike | None = None, information: Information = "expected") -> Fit:
        """Find the maximum-likelihood estimates and their covariance.

        Parameters
        ----------
        start : array_like, shape (v,), optional
            Start of b; equal variances by default. Where the likelihood has one maximum, as it
            has but for the wildest data, the result does not depend on it.
        information : {"expected", "observed"}, default "expected"
            From which the covariance is taken. The seed has expected for HLM and observed for
            HLMM.

        Returns
        -------
        Fit
            ``status`` says what became of it; no data raise an error here.

        Raises
        ------
        ValueError
            If `start` has the wrong shape or `information` another value.
        """
        given = None if start is None else as_parameters(start, self.n_variance, "start")
        check_information(information)
        standard = self._standard
        refused = unidentified(standard, n_random=0)
        if refused is not None:
            return refused
        objective = HLMObjective(
            standard.phenotype, standard.mean.columns, standard.variance.columns, standard.offset
        )
        starts = [standard.homoskedastic()]
        if given is not None:
            starts.insert(0, standard.variance.from_design(given))
        return report(standard, minimise_from(objective, starts), information)

    @cached_property
    def _standard(self) -> Standardised:
        return Standardised(self.y, self.X, self.V)

    def _at(self, b: ArrayLike, a: ArrayLike | None = None) -> HLMEvaluation:
        theta = as_parameters(b, self.n_variance, "b")
        alpha = None if a is None else as_parameters(a, self.n_mean, "a")
        return HLMObjective(self.y, self.X, self.V).at(theta, alpha)


def simulate(
    n: int,
    alpha: ArrayLike,
    beta: ArrayLike,
    *,
    seed: int | np.random.Generator | None = None,
) -> HLM:
    """Simulate a data set of an HLM with independent standard normal designs.

    Parameters
    ----------
    n : int
        People.
    alpha : array_like, shape (c,)
        Effects on the mean, one per column of X.
    beta : array_like, shape (v,)
        Effects on the log-variance, one per column of V.
    seed : int or numpy.random.Generator, optional

    Returns
    -------
    HLM
    """
    rng = np.random.default_rng(seed)
    a = np.atleast_1d(np.asarray(alpha, dtype=np.float64))
    b = np.atleast_1d(np.asarray(beta, dtype=np.float64))
    X = rng.standard_normal((n, len(a)))
    V = rng.standard_normal((n, len(b)))
    return HLM(X @ a + np.exp(0.5 * (V @ b)) * rng.standard_normal(n), X, V)
