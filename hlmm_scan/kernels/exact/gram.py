"""The HLMM of one hard-called variant from Gram matrices of its genotype classes.

:mod:`~hlmm_scan.kernels.exact.class_grams` makes those once; every evaluation is then free of n.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.linalg.blas import dsymm
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.exact.class_grams import ClassGrams
from hlmm_scan.models.hlm import profile_hessian, vanishing_variance
from hlmm_scan.null.eigen import Eigenstructure, symmetric_from_lower

_MAX_LOG_VARIANCE = 600.0  # beyond it variances or their reciprocals leave float64
_LOOK_FOR_VANISHING = 1e-6  # class variance above which nobody's can count as vanishing
_SMALL_RANDOM_VARIANCE = 0.3  # h2 below which the size of a step is no longer relative to h2
_TILE = 32  # rows and columns that are read across and down while they are in cache
_BY_IDENTITY = 1e-3  # least mean eigenvalue of Λ − I from which K̄ may be had of Λ⁻¹


@njit(nogil=True, cache=True)
def _trace_of_product(a: Float, b: Float) -> float:  # pragma: no cover
    """tr(AB) of square matrices."""
    total, size = 0.0, len(a)
    for top in range(0, size, _TILE):
        for left in range(0, size, _TILE):
            for i in range(top, min(top + _TILE, size)):
                for j in range(left, min(left + _TILE, size)):
                    total += a[i, j] * b[j, i]
    return total


@dataclass(frozen=True)
class GramObjective:
    """(−2·log L)/n − log 2π as a function of θ = (b, h2), mean effects profiled out.

    Attributes
    ----------
    data : ClassGrams
        Standardised.
    mean, variance : ndarray, shapes (C, p) and (C, q)
        Row of either design in each class: (1, v_c), or 1 where the genotype is left out.
    people : list of ndarray of intp
        The people of each class, for the residuals of those whose variance seems to vanish.
    y : ndarray, shape (n,)
        Phenotype as it came, and `scale`, by which it was divided.
    eigen : Eigenstructure
    scale, unit : float
    """

    data: ClassGrams
    mean: Float
    variance: Float
    people: list[NDArray[np.intp]]
    y: Float
    eigen: Eigenstructure
    scale: float
    unit: float

    @property
    def n(self) -> float:
        """Number of people with a call."""
        return float(self.data.counts.sum())

    def at(self, theta: Float) -> GramEvaluation:
        """Evaluate.

        Raises
        ------
        numpy.linalg.LinAlgError
            If a log-variance lies outside ±600 or Λ is not positive definite numerically.
        """
        return GramEvaluation(self, theta)

    def step_size(self, theta: Float, step: Float) -> float:
        """Largest change of a log-variance, or of h2 relative to h2 or 0.3."""
        log_variance = float(np.abs(self.variance @ step[:-1]).max())
        return max(log_variance, float(abs(step[-1]) / max(theta[-1], _SMALL_RANDOM_VARIANCE)))

    def random_part(self, c: int, u: Float) -> Float:
        """Return Gᵢu of the people of class c."""
        spread = np.zeros(self.eigen.columns.shape[1])
        spread[self.eigen.chosen] = u * (self.eigen.scale / self.unit)
        return np.asarray(self.eigen.columns[self.people[c]] @ spread)

    def phenotype(self, c: int) -> Float:
        """Return y of the people of class c, standardised as `data` is."""
        y = self.y[self.people[c]]
        return np.asarray((y - y.mean()) / self.scale + self.data.means[c])


class GramEvaluation:
    """Value and derivatives at one point, computed as they are asked for.

    Notes
    -----
    The formulas of :class:`hlmm_scan.models.hlmm_objective.HLMMEvaluation`, with D the same
    ω_c⁻¹ throughout a class and x_c, v_c the rows of the designs. With class sums
    t_c = ΣGᵢ, K̄ = Σω_cK_c, Λ = I + h2·K̄,

        Mᵀ Σ⁻¹ N = MᵀD⁻¹N − h2·(GᵀD⁻¹M)ᵀ Λ⁻¹ (GᵀD⁻¹N)

    and every product with D⁻¹ is a sum over classes: of residuals r = y − x_cᵀα with class mean
    r̄_c = ȳ_c − x_cᵀα,

        ρ_c = ΣGᵢrᵢ = ΣGᵢ(yᵢ − ȳ_c) + r̄_c·t_c,     z = Σω_cρ_c,     u = Λ⁻¹z
        Σ_{i∈c} eᵢ² = Σr² − 2h2·uᵀρ_c + h2²·uᵀK_cu          (e = r − h2·Gu).

    The traces need σ_c = ω_c·tr(Λ⁻¹K_c), the sum over the class of p = rowsums(Q²), and
    N_cd = ω_cω_d·tr(Λ⁻¹K_cΛ⁻¹K_d):

        value    n·f = Σn_c·log D_c + log det Λ + Σω_cE_c + h2·uᵀu,   E_c = Σ_{i∈c}eᵢ²
        ∂f/∂b  = Σ_c v_c(n_c − h2·σ_c − ω_cE_c)        ∂f/∂h2 = Σσ_c − uᵀu       (each over n)
        T      = Σ_c v_cv_cᵀ(n_c − 2h2·σ_c) + h2²·Σ_cd v_cv_dᵀN_cd
        τ      = Σ_c v_cσ_c − h2·Σ_cd v_cN_cd          ‖S‖² = Σ_cd N_cd

    so a value costs l³/3 operations, a gradient l³, a Hessian 5l³. N of the largest class is had
    from that of the total Λ⁻¹K̄ = (I − Λ⁻¹)/h2.
    """

    def __init__(self, objective: GramObjective, theta: Float) -> None:
        self.objective = objective
        data, X, V = objective.data, objective.mean, objective.variance
        self.h2 = h2 = float(theta[-1])
        self.log_variance = V @ theta[:-1]
        if not np.abs(self.log_variance).max() <= _MAX_LOG_VARIANCE:
            raise np.linalg.LinAlgError("a residual log-variance lies outside ±600")
        self.weights = w = np.exp(-self.log_variance)
        self.gram = np.tensordot(w, data.grams, 1)
        core = h2 * self.gram
        core.flat[:: len(core) + 1] += 1.0
        # The transposed view of a symmetric array is the layout LAPACK works on in place.
        self._chol, info = dpotrf(core.T, lower=1, clean=1, overwrite_a=1)
        if info != 0:
            raise np.linalg.LinAlgError("Λ is not positive definite")
        log_det = 2.0 * float(np.log(np.diag(self._chol)).sum())

        weighted_sums = (data.sums * w[:, None]).T @ X
        self._right = right = self._solve(weighted_sums)
        self.mean_information = (X.T * (w * data.counts)) @ X - h2 * (weighted_sums.T @ right)
        weighted_y = w @ (data.products + data.means[:, None] * data.sums)
        moment = X.T @ (w * data.counts * data.means) - h2 * (right.T @ weighted_y)
        solution = np.linalg.solve(self.mean_information, moment)
        self.alpha = np.asarray(solution, dtype=np.float64)

        mean = data.means - X @ self.alpha
        self.residual_sums = mean * data.counts
        residual_products = data.products + mean[:, None] * data.sums
        self.u = self._solve(w @ residual_products)
        self._weighted_sums, self._rho = weighted_sums, residual_products
        self._Ku = data.grams @ self.u
        self._uKu = self._Ku @ self.u
        self._u_rho = residual_products @ self.u
        squares = data.within + data.counts * mean**2
        self.squares = np.maximum(squares - 2 * h2 * self._u_rho + h2**2 * self._uKu, 0.0)
        total = data.counts @ self.log_variance + log_det
        self.value = float(total + w @ self.squares + h2 * (self.u @ self.u)) / objective.n

    def _solve(self, right: Float) -> Float:
        """Λ⁻¹ times one or more vectors."""
        solution, _ = dpotrs(self._chol, right, lower=1)
        return np.asarray(solution)

    @cached_property
    def _inverse(self) -> Float:
        """Lower triangle of Λ⁻¹, zero above."""
        inverse, info = dpotri(self._chol, lower=1)
        if info != 0:
            raise np.linalg.LinAlgError("Λ is singular")
        return np.asarray(inverse)

    @cached_property
    def leverages(self) -> Float:
        """σ_c, shape (C,)."""
        grams, inverse = self.objective.data.grams, self._inverse
        # K_c is symmetric, so its rows serve as columns and both arrays are read in order.
        twice = 2 * np.array([np.vdot(inverse.T, K) for K in grams])
        diagonal = np.diagonal(grams, axis1=1, axis2=2) @ np.diag(inverse)
        return np.asarray(self.weights * (twice - diagonal))

    @cached_property
    def _score(self) -> Float:
        """n_c − h2·σ_c − ω_cE_c, shape (C,): gradient with respect to each class's log-variance."""
        counts = self.objective.data.counts
        return np.asarray(counts - self.h2 * self.leverages - self.weights * self.squares)

    @cached_property
    def gradient(self) -> Float:
        """Gradient of `value`, shape (q + 1,)."""
        by_b = self._score @ self.objective.variance
        by_h2 = self.leverages.sum() - self.u @ self.u
        return np.append(by_b, by_h2) / self.objective.n

    @cached_property
    def squared_traces(self) -> Float:
        """N_cd, shape (C, C)."""
        data, size = self.objective.data, len(self.weights)
        others = [c for c in range(size) if c != data.reference]
        products = [dsymm(self.weights[c], self._inverse, data.grams[c].T, lower=1) for c in others]
        mean_eigenvalue = self.h2 * np.trace(self.gram) / len(self.gram)
        if mean_eigenvalue > _BY_IDENTITY:
            # In place of another product; where h2 is small it would be lost in rounding.
            total = symmetric_from_lower(self._inverse) / -self.h2
            total.flat[:: len(total) + 1] += 1 / self.h2
        else:
            total = dsymm(1.0, self._inverse, self.gram.T, lower=1)
        products.append(total)
        rows = [np.ascontiguousarray(P.T) for P in products]  # as BLAS leaves them, no copy
        inner = np.empty((len(rows), len(rows)))
        for k, first in enumerate(rows):
            for j, second in enumerate(rows[: k + 1]):
                inner[j, k] = inner[k, j] = _trace_of_product(first, second)
        # Classes out of (others, total): the reference is the total without the others.
        combination = np.zeros((size, size))
        for k, c in enumerate(others):
            combination[c, k] = 1.0
            combination[data.reference, k] = -1.0
        combination[data.reference, -1] = 1.0
        return np.asarray(combination @ inner @ combination.T)

    @cached_property
    def _traces(self) -> Float:
        """T, τ and ‖S‖² as one symmetric matrix, shape (q + 1, q + 1)."""
        V, h2, N = self.objective.variance, self.h2, self.squared_traces
        q = V.shape[1]
        traces = np.empty((q + 1, q + 1))
        weights = self.objective.data.counts - 2 * h2 * self.leverages
        traces[:q, :q] = (V.T * weights) @ V + h2**2 * (V.T @ N @ V)
        traces[:q, q] = traces[q, :q] = (self.leverages - h2 * N.sum(axis=1)) @ V
        traces[q, q] = N.sum()
        return 0.5 * (traces + traces.T)

    @cached_property
    def mean_sums(self) -> Float:
        """Class sums of D^½Σ⁻¹X, shape (C, p)."""
        data, w = self.objective.data, self.weights[:, None]
        sums = data.counts[:, None] * self.objective.mean - self.h2 * (data.sums @ self._right)
        return np.asarray(np.sqrt(w) * sums)

    @cached_property
    def expected(self) -> Float:
        """Expected information of log L, order α, b, h2."""
        p = self.objective.mean.shape[1]
        information = np.zeros((p + len(self._traces),) * 2)
        information[:p, :p] = self.mean_information
        information[p:, p:] = 0.5 * self._traces
        return information

    @cached_property
    def observed(self) -> Float:
        """Observed information of log L, order α, b, h2.

        JᵀΣ⁻¹J with the columns of J: X, V∘e, and Gu.
        """
        data, X, V = self.objective.data, self.objective.mean, self.objective.variance
        h2, w, p, end = self.h2, self.weights, X.shape[1], X.shape[1] + V.shape[1]
        t_u = data.sums @ self.u
        e_sums = self.residual_sums - h2 * t_u
        e_Gu = self._u_rho - h2 * self._uKu
        # Inner products over the class of (1, e, Gu); X takes 1, V∘e takes e.
        inner = np.empty((len(w), 3, 3))
        inner[:, 0, 0], inner[:, 1, 1], inner[:, 2, 2] = data.counts, self.squares, self._uKu
        inner[:, 0, 1] = inner[:, 1, 0] = e_sums
        inner[:, 0, 2] = inner[:, 2, 0] = t_u
        inner[:, 1, 2] = inner[:, 2, 1] = e_Gu
        rows = np.zeros((len(w), 3, end + 1))  # of J: value = (1, e, Gu) @ rows
        rows[:, 0, :p], rows[:, 1, p:end] = X, V
        rows[:, 2, end] = 1.0
        weighted = np.einsum("cij,cik,ckl,c->jl", rows, inner, rows, w)
        e_products = self._rho - h2 * self._Ku
        projected = np.column_stack(
            (self._weighted_sums, (e_products * w[:, None]).T @ V, w @ self._Ku)
        )
        information = weighted - h2 * (projected.T @ self._solve(projected))
        information[p:, p:] -= 0.5 * self._traces
        information[p:end, p:end] += 0.5 * (V.T * self._score) @ V
        return np.asarray(information)

    @property
    def hessian(self) -> Float:
        """Hessian of `value`, shape (q + 1, q + 1)."""
        return profile_hessian(self.observed, self.objective.mean.shape[1], int(self.objective.n))

    @property
    def scoring_hessian(self) -> Float:
        """Expected information of (b, h2) in the scale of `hessian`."""
        return self._traces / self.objective.n

    @property
    def vanishing(self) -> float:
        """Smallest residual variance of a person without residual."""
        least = np.inf
        for c in np.flatnonzero(np.exp(self.log_variance) < _LOOK_FOR_VANISHING):
            residual = self.residuals(int(c))
            level = np.full(len(residual), self.log_variance[c])
            least = min(least, vanishing_variance(level, residual))
        return least

    def residuals(self, c: int) -> Float:
        """Return e of the people of class c."""
        mean = float(self.objective.mean[c] @ self.alpha)
        return self.objective.phenotype(c) - mean - self.h2 * self.objective.random_part(c, self.u)
