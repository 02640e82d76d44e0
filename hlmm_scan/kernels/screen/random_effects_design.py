"""What the score screen of the HLMM needs of a null model and one set of random effects.

The symbols are those of :mod:`hlmm_scan.kernels.screen.random_effects`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from hlmm_scan.array_types import Float, Float32
from hlmm_scan.kernels import limits
from hlmm_scan.null.eigen import Eigenstructure
from hlmm_scan.null.model import NullFit, NullModel

PEOPLE_PER_STRIP = 8192
"""No fewer than those, so that with M∘M written out all people are in one strip."""


def strips(n: int) -> list[slice]:
    """Return the slices of people worked on at a time."""
    return [slice(start, start + PEOPLE_PER_STRIP) for start in range(0, n, PEOPLE_PER_STRIP)]


@dataclass(frozen=True, eq=False)
class RandomScreenDesign:
    """What the screen needs of a null model and one set of random effects, worked out once.

    Attributes
    ----------
    fit : NullFit
    samples : ndarray of int64, shape (n,)
    X, V : ndarray, shapes (n, c) and (n, v)
    w : ndarray, shape (n,)
        1/D₀.
    R : ndarray of float32, shape (n, r)
    root : ndarray, shape (r, r)
        L, lower triangular.
    own : ndarray, shape (n,)
        h2·pᵢ − 1, which is minus the diagonal of M.
    diagonal : ndarray, shape (n,)
        That of M∘M less the mean off the diagonal, for genotypes of mean 0.
    squares : ndarray of float32, shape (n, n), or None
        M∘M where it is written out.
    thin : ndarray, shape (n, c + q + 1)
        Σ₀⁻¹X, u and Σ₀⁻¹r₀; u (n, q) are the diagonals of the derivatives by the q = v or v + 1
        nuisance parameters of the variance (math.md §1: (M∘M)V, and D‖(Σ⁻¹G)ᵢ‖² of h2 where it is
        off its boundary).
    mean, variance : ndarray, shapes (c, c) and (q, q)
        Inverses of XᵀΣ₀⁻¹X and of the expected information of the nuisance parameters.
    X_scores : ndarray, shape (c,)
        XᵀΣ₀⁻¹r₀.
    RX, Rr : ndarray, shapes (r, c) and (r,)
        RᵀX and Rᵀr₀.
    trace : float
        tr Σ₀⁻¹GGᵀ.
    """

    fit: NullFit
    samples: NDArray[np.int64]
    X: Float
    V: Float
    w: Float
    R: Float32
    root: Float
    own: Float
    diagonal: Float
    squares: Float32 | None
    thin: Float
    mean: Float
    variance: Float
    X_scores: Float
    RX: Float
    Rr: Float
    trace: float

    @classmethod
    def of(cls, null: NullModel, eigen: Eigenstructure, left_out: str) -> RandomScreenDesign:
        """Prepare the screen of one phenotype and one set; about 6n·l·r operations.

        Parameters
        ----------
        null : NullModel
            With random effects.
        eigen : Eigenstructure
            Of the set.
        left_out : str
            Key of the set into `null.fits`.
        """
        fit, X, V = null.fits[left_out], null.mean_design, null.variance_design
        n, h2 = null.n, fit.random_variance
        D = np.exp(V @ fit.beta)
        w = 1 / D
        r0 = null.y - X @ fit.alpha
        columns = np.zeros((eigen.columns.shape[1], len(eigen.values)))
        columns[eigen.chosen] = eigen.rotation
        parts = strips(n)
        gram = np.zeros((len(eigen.values),) * 2)
        for s in parts:
            F = eigen.columns[s] @ columns
            gram += F.T @ (F * w[s, None])
        identity = np.eye(len(gram))
        root: Float = np.asarray(np.linalg.cholesky(identity + h2 * gram), np.float64)
        inverse_root = solve_triangular(root, identity, lower=True)
        reduced = inverse_root @ gram @ inverse_root.T  # Λ^-½FᵀWFΛ^-½, up to a rotation
        R = np.empty((n, len(gram)), np.float32)
        leverage, second = np.empty(n), np.empty(n)
        RX, Rr = np.zeros((len(gram), X.shape[1])), np.zeros(len(gram))
        for s in parts:
            rows = (eigen.columns[s] @ (columns @ inverse_root.T)) * w[s, None]
            R[s] = rows
            leverage[s] = D[s] * (rows**2).sum(axis=1)
            second[s] = D[s] * ((rows @ inverse_root) ** 2).sum(axis=1)
            RX += rows.T @ X[s]
            Rr += rows.T @ r0[s]
        SX, scores = X * w[:, None], w * r0
        for s in parts:
            SX[s] -= h2 * (R[s] @ RX)
            scores[s] -= h2 * (R[s] @ Rr)
        others = float((reduced**2).sum() - (leverage**2).sum()) * h2**2 / max(n * (n - 1), 1)
        diagonal = (1 - h2 * leverage) ** 2 - others
        squares = None
        if n <= limits.WRITTEN_OUT_PEOPLE:
            scaled = R * np.sqrt(D)[:, None]
            M = np.eye(n) - h2 * (scaled @ scaled.T)
            squares = (M * M).astype(np.float32)
            u = (M * M) @ V
        else:
            u = diagonal[:, None] * V + others * V.sum(axis=0)
        information = 0.5 * V.T @ u
        if h2 > 0:
            edge = 0.5 * (V.T @ second)
            corner = 0.5 * (reduced**2).sum()
            information = np.block([[information, edge[:, None]], [edge, corner]])
            u = np.column_stack([u, second])
        return cls(
            fit=fit,
            samples=null.samples,
            X=X,
            V=V,
            w=w,
            R=R,
            root=root,
            own=h2 * leverage - 1,
            diagonal=diagonal,
            squares=squares,
            thin=np.column_stack([SX, u, scores]),
            mean=_inverse(X.T @ SX),
            variance=_inverse(information),
            X_scores=X.T @ scores,
            RX=RX,
            Rr=Rr,
            trace=float(np.trace(reduced)),
        )

    @property
    def u(self) -> Float:
        """The part u of `thin`."""
        return self.thin[:, self.X.shape[1] : -1]


def _inverse(matrix: Float) -> Float:
    return np.asarray(np.linalg.inv(matrix), np.float64)
