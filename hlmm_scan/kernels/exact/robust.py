"""Covariances of HLMM estimates that hold where residuals are not normal, from class sums.

:mod:`hlmm_scan.models.robust` has the definitions and the dense reference. What they need beyond
the information are sums over people of powers of the leverages pᵢ = Q²'s row sums, which no Gram
matrix of a class gives: here the class means of p are the variant's own, and their relative
spread within a class is that of the null model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.models.inference import covariance_from_information
from hlmm_scan.null.eigen import Eigenstructure

_POWERS = np.add.outer(np.arange(3), np.arange(3))


@dataclass(frozen=True)
class Leverages:
    """How leverages vary between people under the null model.

    Attributes
    ----------
    relative : ndarray, shape (n,)
        Row sums of F(1 + κs²)⁻¹Fᵀ over their mean.
    moments : ndarray, shape (5,)
        Means over people of their powers 0 to 4.
    """

    relative: Float
    moments: Float

    @classmethod
    def of(cls, eigen: Eigenstructure, kappa: float) -> Leverages:
        """Work them out for κ = h2/D of the null model; 2n·l·r operations."""
        return cls.from_leverages(eigen.leverage(1 / (1 + kappa * eigen.values[:, None]))[:, 0])

    @classmethod
    def from_leverages(cls, leverages: Float) -> Leverages:
        """Take leverages in any unit."""
        mean = float(leverages.mean())
        relative = leverages / mean if mean > 0 else np.ones_like(leverages)
        return cls(relative, np.array([float((relative**k).mean()) for k in range(5)]))


@dataclass(frozen=True)
class ClassTraces:
    """What covariances take of one variant's fit; C genotype classes, p and q columns of designs.

    Attributes
    ----------
    mean, variance : ndarray, shapes (C, p) and (C, q)
        Rows x_c and v_c of the designs, the intercept first.
    counts, weights : ndarray, shape (C,)
        People n_c, and ω_c = 1/D_c.
    h2 : float
    leverages : ndarray, shape (C,)
        σ_c, the class sums of p.
    squared_traces : ndarray, shape (C, C)
        N_cd = Σ_{i∈c, j∈d} (QQᵀ)ᵢⱼ².
    mean_sums : ndarray, shape (C, p)
        Class sums of D^½Σ⁻¹X.
    """

    mean: Float
    variance: Float
    counts: Float
    weights: Float
    h2: float
    leverages: Float
    squared_traces: Float
    mean_sums: Float


def studentised(
    information: Float,
    traces: ClassTraces,
    spread: Float,
    moments: tuple[float, float],
    held: bool,
) -> Float:
    """Return the covariance A⁻¹BA⁻¹ from the pooled moments of the noise.

    Parameters
    ----------
    information : ndarray, shape (p + q + 1, p + q + 1)
        Expected information A of (α, b, h2).
    traces : ClassTraces
    spread : ndarray, shape (5,)
        :attr:`Leverages.moments`.
    moments : tuple of float
        m₃ and m₄ of the noise over its standard deviation.
    held : bool
        Whether h2 is on its boundary, and left out.

    Returns
    -------
    ndarray, shape (p + q + 1, p + q + 1)
        NaN where there is none.

    Notes
    -----
    The score of log-variance column v has the diagonal u = (M∘M)v, M = I − h2·QQᵀ, and that of h2
    u_h = p − h2·rowsums((QQᵀ)²) (models.robust). On the diagonal of M∘M stands (1 − h2·pᵢ)²; what
    stands off it is replaced by its mean over the people of each class, which N gives exactly:

        uᵢ  = v_c(1 − h2·pᵢ)² + h2²·o_c,      o_c = (Σ_d N_cdv_d − v_cΣ_{i∈c}pᵢ²)/n_c
        u_h = pᵢ − h2·(pᵢ² + o_c),            o_c with v = 1
        D^½Σ⁻¹x = ω_c^½x_c(1 − h2·pᵢ) + o'_c, o'_c so that class sums are right.

    All are polynomials of pᵢ within a class.
    """
    third, fourth = moments
    n, h2, p, q = traces.counts, traces.h2, traces.mean.shape[1], traces.variance.shape[1]
    level = traces.leverages / n
    powers = spread * level[:, None] ** np.arange(5)  # class means of pᵏ, shape (C, 5)
    columns = np.column_stack((traces.variance, np.ones_like(n)))
    off = (traces.squared_traces @ columns) / n[:, None] - columns * powers[:, [2]]
    u = np.zeros((len(n), q + 1, 3))  # coefficients of pᵏ
    u[:, :q] = traces.variance[:, :, None] * np.array([1.0, -2.0 * h2, h2**2])
    u[:, :q, 0] += h2**2 * off[:, :q]
    u[:, q, 0], u[:, q, 1], u[:, q, 2] = -h2 * off[:, q], 1.0, -h2
    x = np.zeros((len(n), p, 3))
    rooted = np.sqrt(traces.weights)[:, None] * traces.mean
    x[:, :, 0] = traces.mean_sums / n[:, None] + h2 * level[:, None] * rooted
    x[:, :, 1] = -h2 * rooted
    means = powers[:, _POWERS] * n[:, None, None]
    uu = np.einsum("cak,ckl,cbl->ab", u, means, u)
    xu = np.einsum("cak,ckl,cbl->ab", x, means, u)
    B = information.copy()
    B[p:, p:] += 0.25 * (fourth - 3) * uu
    B[:p, p:] = 0.5 * third * xu
    B[p:, :p] = B[:p, p:].T
    return between(information, B, p + q if held else p + q + 1)


def person_scores(
    X_white: Float, V: Float, h2: float, residuals: Float, random: Float, leverages: Float
) -> Float:
    """Return every person's score.

    Parameters
    ----------
    X_white : ndarray, shape (n, p) or (p,)
        D^-½X; one row where it is that of all.
    V : ndarray, shape (n, q) or (q,)
    h2 : float
    residuals, random, leverages : ndarray, shape (n,)
        D^-½e, D^-½GGᵀΣ⁻¹r and p.

    Returns
    -------
    ndarray, shape (n, p + q + 1)
        (x·e/D, ½v(e²/D + h2·p − 1), ½(e/D·GGᵀΣ⁻¹r − p)), as math.md §2 with k/D = e²/D + h2·p
        and e = DΣ⁻¹r.
    """
    excess = 0.5 * (residuals**2 + h2 * leverages - 1)
    own = 0.5 * (residuals * random - leverages)
    return np.column_stack((X_white * residuals[:, None], V * excess[:, None], own))


def without_random_effects(information: Float, variance: Float, squares: Float) -> Float:
    """Return the information that the sandwich of an HLM takes: A_bb = ½Vᵀdiag(r²/D)V.

    Parameters
    ----------
    information : ndarray, shape (p + q + 1, p + q + 1)
        Expected information.
    variance : ndarray, shape (C, q)
        Rows of the log-variance design.
    squares : ndarray, shape (C,)
        Class sums of r²/D.
    """
    q = variance.shape[1]
    result = information.copy()
    result[-q - 1 : -1, -q - 1 : -1] = 0.5 * (variance.T * squares) @ variance
    return result


def between(information: Float, B: Float, free: int) -> Float:
    """Return A⁻¹BA⁻¹ of the first `free` parameters, NaN for the others."""
    result = np.full_like(information, np.nan)
    inverse = covariance_from_information(information[:free, :free])
    result[:free, :free] = inverse @ B[:free, :free] @ inverse
    return result
