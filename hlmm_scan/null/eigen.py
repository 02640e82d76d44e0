"""The eigenstructure of the random effects that all variants of a scan share.

It imports no input or output, so that kernels can depend on it.

For a random-effect design G of shape (n, l), columns standardised and divided by √l, a set of
random effects (all, or all but one chromosome's) is held as

    F = G·B,    FᵀF = diag(s²),    F·Fᵀ = G·Gᵀ,

where B holds the eigenvectors of GᵀG. F = A·diag(s) with the A of math.md §5; the kernels need
nothing but F, and F needs no division by s: where s is small, A = GB/s would lose its
orthogonality to rounding (that of a Gram matrix is relative to its largest eigenvalue, so s is
known to √ε·s₁ only), while an error of the size of rounding in F is an error of that size in GGᵀ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpstrf

from hlmm_scan.array_types import Float
from hlmm_scan.models.lapack import cholesky_in_place

_CENTRED = 1e-13
"""Sum of a row of ZZᵀ, over n times its largest element, up to which Z is taken as centred."""

_LEAST_PIVOT = 1e-10
"""Pivot over the largest element below which the order of people matters."""

_PEOPLE_PER_STRIP = 1024
"""People whose rows of G are worked on at a time, so that they stay in cache."""


@dataclass(frozen=True)
class Eigenstructure:
    """One set of random effects in its principal axes.

    Attributes
    ----------
    columns : ndarray, shape (n, k), row-major
        What all sets share: standardised genotypes where k ≤ n. Never changed nor copied.
    chosen : ndarray of intp, shape (l,)
        The columns in this set, ascending.
    scale : float
        G = scale·columns[:, chosen].
    rotation : ndarray, shape (l, r)
        F = columns[:, chosen] @ rotation, that is scale·B.
    values : ndarray, shape (r,)
        s², the eigenvalues of GᵀG that are not zero to rounding, largest first.
    single : callable, optional
        Returns `columns` in single precision, where they are kept as well.
    principal : bool, default True
        Whether FᵀF is diagonal. Where it is not, F is any factor of GGᵀ and `values` are the
        squares of its columns: enough for whoever weights people and so turns the axes himself.
    """

    columns: Float
    chosen: NDArray[np.intp]
    scale: float
    rotation: Float
    values: Float
    single: Callable[[], NDArray[np.float32]] | None = None
    principal: bool = True

    @classmethod
    def in_own_axes(
        cls,
        factor: Float,
        values: Float,
        single: Callable[[], NDArray[np.float32]] | None = None,
        *,
        principal: bool = True,
    ) -> Eigenstructure:
        """Take F itself, shape (n, r), as the columns."""
        r = len(values)
        return cls(factor, np.arange(r), 1.0, np.eye(r), values, single, principal)

    @property
    def n(self) -> int:
        """Number of people."""
        return len(self.columns)

    @property
    def n_random(self) -> int:
        """Number l of random effects in the set."""
        return len(self.chosen)

    def single_columns(self) -> NDArray[np.float32]:
        """Return `columns` in single precision: those that are kept, or a copy."""
        return self.columns.astype(np.float32) if self.single is None else self.single()

    def of_gram(self, gram: Float) -> Float:
        """Take this set's part of a Gram matrix of `columns` over any people, (k, k) → (l, l).

        For Σᵢ columnsᵢᵀcolumnsᵢ it is Σᵢ GᵢᵀGᵢ: one Gram matrix serves all sets.
        """
        if self.n_random == len(gram):
            return np.asarray(gram * self.scale**2)
        return np.asarray(gram[np.ix_(self.chosen, self.chosen)] * self.scale**2)

    def of_sums(self, sums: Float) -> Float:
        """Take this set's part of sums over people of multiples of rows, (k, j) → (l, j)."""
        return np.asarray(sums[self.chosen] * self.scale)

    def rotate(self, sums: Float) -> Float:
        """Turn columnsᵀM, shape (k, j), into FᵀM, shape (r, j), without F."""
        return np.asarray(self.rotation.T @ sums[self.chosen])

    def combine(self, coefficients: Float) -> Float:
        """Return F @ coefficients, shape (n, j), for coefficients of shape (r, j)."""
        spread = np.zeros((self.columns.shape[1], coefficients.shape[1]))
        spread[self.chosen] = self.rotation @ coefficients
        return np.asarray(self.columns @ spread)

    def leverage(self, weights: Float) -> Float:
        """Return the row sums of F²·diag(w) for several w.

        Parameters
        ----------
        weights : ndarray, shape (r, j)

        Returns
        -------
        ndarray, shape (n, j)
            Column k holds Σⱼ Fᵢⱼ²·weights[j, k]; 2n·l·r operations, in strips.
        """
        spread = np.zeros((self.columns.shape[1], len(self.values)))
        spread[self.chosen] = self.rotation
        result = np.empty((self.n, weights.shape[1]))
        for start in range(0, self.n, _PEOPLE_PER_STRIP):
            strip = slice(start, start + _PEOPLE_PER_STRIP)
            result[strip] = (self.columns[strip] @ spread) ** 2 @ weights
        return result


def weighted(eigen: Eigenstructure, columns: Float) -> Eigenstructure:
    """Return the principal axes of a set whose people's rows have been multiplied by numbers.

    Parameters
    ----------
    eigen : Eigenstructure
    columns : ndarray, shape (n, k), row-major
        `eigen.columns` with its rows multiplied.

    Notes
    -----
    n·k² operations. Where there are half as many axes as people or more, their own columns are
    made, so that they need not be rotated to.
    """
    values, vectors = _principal(eigen.of_gram(_gram(columns)))
    rotation = np.ascontiguousarray(vectors * eigen.scale)
    if 2 * len(values) < eigen.n:
        return Eigenstructure(columns, eigen.chosen, eigen.scale, rotation, values)
    factor = np.ascontiguousarray(columns[:, eigen.chosen] @ rotation)
    return Eigenstructure.in_own_axes(factor, values)


class SharedEigenstructure:
    """Eigenstructures of all random effects and of those without each chromosome, on demand.

    Parameters
    ----------
    columns : ndarray, shape (n, l), row-major
        Standardised genotypes, :attr:`hlmm_scan.null.model.RandomEffects.columns`.
    contigs : sequence of str, length l
        Chromosome of each.

    Notes
    -----
    Where l ≤ n, one Gram matrix of `columns` (n·l² operations) gives every set: leaving columns
    out of G leaves rows and columns out of GᵀG. Where l > n, the same holds of the n×n matrix
    ZZᵀ from which a chromosome's own is subtracted, Z₋Z₋ᵀ = ZZᵀ − Z_cZ_cᵀ; its eigenvectors A
    give F = A·diag(s) directly, and `columns` of such a set is F itself.
    """

    def __init__(self, columns: Float, contigs: Iterable[str]) -> None:
        self.columns = np.ascontiguousarray(columns, dtype=np.float64)
        self.contigs = np.array(list(contigs), dtype=object)

    @property
    def dual(self) -> bool:
        """Whether there are more random effects than people."""
        return bool(self.columns.shape[1] > self.columns.shape[0])

    @cached_property
    def gram(self) -> Float:
        """ZᵀZ, shape (l, l), or ZZᵀ, shape (n, n), where l > n; Z = `columns`."""
        return self.people if self.dual else _gram(self.columns)

    @cached_property
    def people(self) -> Float:
        """ZZᵀ, shape (n, n)."""
        return _gram(self.columns.T)

    def relationship(self, left_out: str) -> Float:
        """Return K = GGᵀ, shape (n, n), without one chromosome: an array of its own.

        Parameters
        ----------
        left_out : str
            As for :meth:`without`.

        Raises
        ------
        ValueError
            If nothing is left.
        """
        left = self._left(left_out)
        if left.all():
            return self.people / len(left)
        K = _gram(np.ascontiguousarray(self.columns[:, ~left].T))
        np.subtract(self.people, K, out=K)
        K /= np.count_nonzero(left)
        return K

    def _left(self, left_out: str) -> NDArray[np.bool_]:
        left = self.contigs != left_out
        if not left.any():
            raise ValueError(f"all random effects lie on chromosome {left_out}")
        return np.asarray(left, bool)

    def without(self, left_out: str, *, principal: bool = True) -> Eigenstructure:
        """Return the random effects that do not lie on one chromosome.

        Parameters
        ----------
        left_out : str
            Name in `contigs`; any other, such as ``""``, leaves none out.
        principal : bool, default True
            Whether principal axes are needed. Where they are not and l > n, F comes from a
            Cholesky decomposition, at a fiftieth of the time.

        Raises
        ------
        ValueError
            If nothing is left.
        """
        if self.dual:
            K = self.relationship(left_out)
            if not principal:
                factor = _cholesky_factor(K)
                squares = np.asarray(np.einsum("ij,ij->j", factor, factor))
                return Eigenstructure.in_own_axes(factor, squares, principal=False)
            values, vectors = _principal(K)
            factor = np.ascontiguousarray(vectors * np.sqrt(values))
            return Eigenstructure.in_own_axes(factor, values)
        chosen = np.flatnonzero(self._left(left_out))
        scale = 1 / np.sqrt(len(chosen))
        values, vectors = _principal(self.gram[np.ix_(chosen, chosen)] * scale**2)
        return Eigenstructure(
            self.columns, chosen, float(scale), np.ascontiguousarray(vectors * scale), values
        )


def _gram(Z: Float) -> Float:
    """ZᵀZ of an array of any layout."""
    # numpy sees that both factors are one array and makes half of the product (syrk); unlike
    # scipy's own it lets other threads of Python run meanwhile.
    return np.asarray(Z.T @ Z)


def symmetric_from_lower(lower: Float) -> Float:
    """Return the symmetric matrix of which the lower triangle is filled, and zero above."""
    whole = lower + lower.T
    whole.flat[:: len(whole) + 1] *= 0.5
    return np.asarray(whole)


def _principal(gram: Float) -> tuple[Float, Float]:
    """Eigenvalues, largest first, without those that are zero to rounding, and their vectors.

    At most half of ε·k times the largest is an error of rounding. What is dropped changes GGᵀ by
    no more than rounding does.
    """
    # numpy's lets other threads of Python run meanwhile, scipy's does not.
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > np.finfo(np.float64).eps * len(values) * max(values[0], 0.0)
    return np.ascontiguousarray(values[kept]), np.ascontiguousarray(vectors[:, kept])


def _cholesky_factor(kernel: Float) -> Float:
    """F with FFᵀ = a positive semi-definite matrix, to rounding; as many columns as its rank.

    The matrix is used up. Columns that sum to 0 over people make the last person's row the negative
    sum of all others, so that an ordinary decomposition without him is all of it. Where there is
    more in common between people, as of twins, or fewer columns than people, the order of people is
    chosen by pivots.
    """
    n = len(kernel)
    largest = float(np.diag(kernel).max(initial=0.0))
    if np.abs(kernel.sum(axis=1)).max(initial=0.0) <= _CENTRED * n * largest:
        diagonal = np.array(np.diag(kernel))
        try:
            cholesky_in_place(kernel, n - 1)
            if np.diag(kernel)[:-1].min(initial=np.inf) ** 2 > _LEAST_PIVOT * largest:
                return _with_last_row(kernel)
        except np.linalg.LinAlgError:
            pass
        # What is above the diagonal is still there.
        kernel = np.triu(kernel, 1)
        kernel += kernel.T
        np.fill_diagonal(kernel, diagonal)
    packed, order, rank, _ = dpstrf(kernel.T, lower=1)  # which is the same, in BLAS' own order
    factor = np.empty((n, rank))
    factor[order - 1] = np.tril(packed[:, :rank])
    return factor


def _with_last_row(lower: Float) -> Float:
    """Take all but the last row and column of a lower triangle, and the row that makes sums 0."""
    n = len(lower)
    factor = np.zeros((n, n - 1))
    for start in range(0, n - 1, _PEOPLE_PER_STRIP):
        rows = slice(start, min(start + _PEOPLE_PER_STRIP, n - 1))
        factor[rows, :start] = lower[rows, :start]
        factor[rows, rows] = np.tril(lower[rows, rows])
    factor[-1] = -factor.sum(axis=0)
    return factor
