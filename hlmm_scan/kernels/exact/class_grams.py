"""Gram matrices of the random effects within the genotype classes of one hard-called variant.

With nothing but intercepts and the genotype in the designs, a person's variance depends on the
genotype class alone, and so everything the likelihood needs of the random effects is, per class c,
their Gram matrix K_c = Σ_{i∈c} GᵢᵀGᵢ (math.md §5, *exact*).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.null.eigen import Eigenstructure, symmetric_from_lower

_PEOPLE_PER_STRIP = 2048  # rows of G gathered at a time, so that they are multiplied in cache


@dataclass(frozen=True)
class ClassGrams:
    """What the likelihood of one variant depends on; C genotype classes with anyone in them.

    Attributes
    ----------
    copies : ndarray, shape (C,)
        Copies of the effect allele.
    counts : ndarray, shape (C,)
        People n_c with a call.
    means, within : ndarray, shape (C,)
        Mean ȳ_c of the phenotype in the class and Σ(y − ȳ_c)².
    sums, products : ndarray, shape (C, l)
        Σ Gᵢ and Σ Gᵢ(yᵢ − ȳ_c) over the class.
    grams : ndarray, shape (C, l, l)
        K_c.
    reference : int
        The largest class, whose sums are what the others leave of the total.
    """

    copies: Float
    counts: Float
    means: Float
    within: Float
    sums: Float
    products: Float
    grams: Float
    reference: int

    def standardised(self, position: Float, ols: Float, scale: float, unit: float) -> ClassGrams:
        """Return the same with y replaced by (y − (1, v)·ols)/scale and G by G/unit.

        Centred within classes, y is divided by `scale` only; `position` is v, shape (C,).
        """
        return replace(
            self,
            means=(self.means - ols[0] - ols[1] * position) / scale,
            within=self.within / scale**2,
            sums=self.sums / unit,
            products=self.products / (scale * unit),
            grams=self.grams / unit**2,
        )


@dataclass(frozen=True)
class Totals:
    """Sums over all people of one set of random effects, shared by the variants.

    Attributes
    ----------
    gram : ndarray, shape (l, l)
        GᵀG.
    sums, products : ndarray, shape (l,)
        Gᵀ1 and Gᵀy.
    """

    gram: Float
    sums: Float
    products: Float

    @classmethod
    def of(cls, eigen: Eigenstructure, y: Float) -> Totals:
        """Add up over everyone, with or without a call."""
        vectors = eigen.rotation / eigen.scale
        both = eigen.of_sums(eigen.columns.T @ np.column_stack((np.ones_like(y), y)))
        return cls((vectors * eigen.values) @ vectors.T, both[:, 0].copy(), both[:, 1].copy())


def class_grams(
    eigen: Eigenstructure,
    totals: Totals,
    y: Float,
    genotype: Float,
    columns: NDArray[np.floating] | None = None,
    lattice: CallLattice | None = None,
) -> tuple[ClassGrams, list[NDArray[np.intp]]]:
    """Make the Gram matrices of one variant's classes.

    Parameters
    ----------
    eigen : Eigenstructure
    totals : Totals
        Of `eigen` and `y`.
    y, genotype : ndarray, shape (n,)
        Genotype NaN where there is no call.
    columns : ndarray of float32 or float64, shape (n, k), optional
        A copy of `eigen.columns` to multiply in place of them; in single precision it takes half
        the time.
    lattice : CallLattice, optional
        Of `eigen.columns`, where they have one: people are counted, exactly, and columns are not
        looked at.

    Returns
    -------
    ClassGrams
    list of ndarray of intp
        The people of each class.

    Notes
    -----
    People of the largest class are not looked at: K_ref = GᵀG − Σ_others K_c − K_missing, with an
    error of rounding relative to GᵀG, which is at most three times K_ref in mean (and a little
    more with missing calls). (n − n_ref)·k² operations for k shared columns.

    Without a lattice, single precision rounds each column's three values, an error of 1e-7
    relative to the Gram matrix, and sums of one strip: estimates move by less than 1e-4 of a
    standard error (tested). Small classes, whose variance may run to zero, stay in double
    precision, which costs nothing.
    """
    columns = eigen.columns if columns is None else columns
    people = [np.flatnonzero(genotype == copies) for copies in (0.0, 1.0, 2.0)]
    present = [c for c in range(3) if len(people[c])]
    people = [people[c] for c in present]
    counts = np.array([len(p) for p in people], dtype=np.float64)
    reference = int(np.argmax(counts))
    means = np.array([y[p].mean() for p in people])
    within = np.array([((y[p] - mean) ** 2).sum() for p, mean in zip(people, means, strict=True)])

    size, l_random = len(people), eigen.n_random
    sums, products = np.zeros((size, l_random)), np.zeros((size, l_random))
    grams = np.zeros((size, l_random, l_random))
    rest_gram, rest_sum, rest_product = totals.gram, totals.sums, totals.products
    missing = np.flatnonzero(np.isnan(genotype))
    for c in [*range(size), -1]:
        chosen = missing if c == -1 else people[c]
        if c == reference or not len(chosen):
            continue
        centre = 0.0 if c == -1 else means[c]
        if lattice is not None:
            gram, linear = lattice.gathered(chosen, y[chosen] - centre)
        else:
            precise = len(chosen) <= _PEOPLE_PER_STRIP
            from_these = eigen.columns if precise else columns
            gram, linear = _gathered(from_these, chosen, y[chosen] - centre)
        gram, linear = eigen.of_gram(gram), eigen.of_sums(linear)
        rest_gram = rest_gram - gram
        rest_sum = rest_sum - linear[:, 0]
        rest_product = rest_product - linear[:, 1] - centre * linear[:, 0]
        if c != -1:
            grams[c], sums[c], products[c] = gram, linear[:, 0], linear[:, 1]
    grams[reference], sums[reference] = rest_gram, rest_sum
    products[reference] = rest_product - means[reference] * rest_sum
    copies = np.array(present, dtype=np.float64)
    return (
        ClassGrams(copies, counts, means, within, sums, products, grams, reference),
        people,
    )


def _gathered(
    columns: NDArray[np.floating], people: NDArray[np.intp], y: Float
) -> tuple[Float, Float]:
    """Gram matrix (k, k) of some people's rows, and their sums weighted by 1 and y, (k, 2)."""
    k = columns.shape[1]
    product = get_blas_funcs("syrk", (columns,))
    lower = np.zeros((k, k), order="F")
    linear = np.zeros((k, 2))
    weights = np.column_stack((np.ones_like(y), y)).astype(columns.dtype)
    buffer = np.empty((min(_PEOPLE_PER_STRIP, len(people)), k), columns.dtype)
    for start in range(0, len(people), _PEOPLE_PER_STRIP):
        strip = people[start : start + _PEOPLE_PER_STRIP]
        rows = np.take(columns, strip, axis=0, out=buffer[: len(strip)], mode="clip")
        lower += product(1.0, rows.T, lower=1)
        linear += rows.T @ weights[start : start + _PEOPLE_PER_STRIP]
    return symmetric_from_lower(lower), linear
