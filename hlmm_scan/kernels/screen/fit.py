"""Score screen of the HLM: one-step effects and tests of every variant from one pass over calls.

Every sum over people in the formulas of :mod:`hlmm_scan.kernels.screen.plain` is made of sums
Σ g·q and Σ g²·q with columns q that do not depend on the variant, and these of sums of q within the
genotype classes, soft ones of dosages, which :mod:`~hlmm_scan.kernels.screen.class_columns` has.
With h = g − ḡ, ĥ = Xγ and v̂ = Vδ its regressions on the covariates, w = 1/D₀, Z the columns of both
designs and ζ the sum of γ and δ by column:

    I_a = Σh²w − γᵀXᵀwh,          2I_b = Σh² − δᵀVᵀh,
    Σṽ·wr·x̃ = Σh²wr − ζᵀZᵀwr·h + δᵀ(Vᵀwr·X)γ,
    Σṽ·w·x̃² = Σh³w − (γ + ζ)ᵀZᵀwh² + terms with two or three of ĥ and v̂,

Σh³w from the classes of the genotype's own sums. The terms left out count for a_g² only and, in
standard errors of b_g, are of size z_a²R²/√n, R² that of the genotype on covariates: where that is
not small, the sum is taken person by person. In the covariance of both effects under skewness,
Zᵀ√w·h is taken as what it is where covariates explain the genotype linearly.

Where calls are missing, sums are those of the people called, and XᵀwX and VᵀV those of everybody
times the share of (weighted) people called; that is exact with intercepts only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.limits import COLLINEAR_SCREENED
from hlmm_scan.kernels.screen import class_columns
from hlmm_scan.kernels.screen.class_columns import (
    VARIANTS_AT_ONCE,
    ClassColumns,
    ClassColumnSums,
    Layout,
    NullColumns,
)
from hlmm_scan.kernels.screen.plain import put_screened
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel
from hlmm_scan.schema import Status

_TILE = 64  # variants in one product; fewer are filled up, since rounding depends on the shape
_PEOPLE_PER_STRIP = 4096
_SECOND_ORDER = 2e-4
"""z_a²R²/√n from which on second-order terms are exact; they are a few times that at most."""


class Products(NamedTuple):
    """Products of the designs of a null model with one another.

    Attributes
    ----------
    mean, variance : ndarray, shapes (c, c) and (v, v)
        Inverses of XᵀwX and VᵀV.
    noise : ndarray, shape (v, c)
        Vᵀdiag(wr)X.
    root : ndarray, shape (v, c)
        Vᵀdiag(√w)X.
    to_root : ndarray, shape (z, z)
        (ZᵀwZ)⁻¹Zᵀdiag(√w)Z, which turns Zᵀwh into what Zᵀdiag(√w)h is up to noise.
    weight : float
        Everybody's weight where all have the same; else 0.
    total : float
        Sum of the weights.
    """

    mean: Float
    variance: Float
    noise: Float
    root: Float
    to_root: Float
    weight: float
    total: float


@dataclass(frozen=True, eq=False)
class ScreenDesign:
    """What the screen needs of a null model without random effects, worked out once.

    Attributes
    ----------
    columns : ClassColumns
        What is summed, of whom.
    products : Products
    moments : tuple of float
        m₃ and m₄ of the null residuals.
    """

    columns: ClassColumns
    products: Products
    moments: tuple[float, float]

    @classmethod
    def of(cls, null: NullModel, width: int | None) -> ScreenDesign:
        """Prepare the screen of one phenotype; a few products of the designs.

        Parameters
        ----------
        null : NullModel
            Without random effects.
        width : int or None
            Bytes of a packed variant; None for dosages.
        """
        columns = class_columns.class_columns(null, width)
        of = columns.of
        X, V, Z, w, r = of.X, of.V, of.Z, of.w, of.r
        root = np.sqrt(w)
        products = Products(
            mean=np.asarray(np.linalg.inv(X.T @ (X * w[:, None])), np.float64),
            variance=np.asarray(np.linalg.inv(V.T @ V), np.float64),
            noise=V.T @ (X * (w * r)[:, None]),
            root=V.T @ (X * root[:, None]),
            # Covariates of the mean and of the variance may depend on each other.
            to_root=np.linalg.pinv(Z.T @ (Z * w[:, None]), hermitian=True)
            @ (Z.T @ (Z * root[:, None])),
            weight=of.weight,
            total=float(w.sum()),
        )
        return cls(columns, products, null.fits[ALL_RANDOM_EFFECTS].moments)


@dataclass(frozen=True, eq=False)
class Projections:
    """What the covariates leave of m genotypes, by the null model.

    Attributes
    ----------
    mean, variance : ndarray, shape (m,)
        Efficient informations of both effects, I_a and I_b.
    cross : ndarray, shape (m,)
        x̃ᵀD^-½ṽ.
    rest : ndarray, shape (m,)
        The lesser share of an information that is left.
    """

    mean: Float
    variance: Float
    cross: Float
    rest: Float

    def take(self, rows: NDArray[np.intp]) -> Projections:
        """Return those of some variants."""
        return Projections(self.mean[rows], self.variance[rows], self.cross[rows], self.rest[rows])


@njit(nogil=True, cache=True)
def _times(vector: Any, matrix: Any, out: Any) -> None:  # pragma: no cover
    """Put vectorᵀ·matrix into `out`."""
    out[:] = 0
    for j in range(len(vector)):
        for k in range(len(out)):
            out[k] += matrix[j, k] * vector[j]


@njit(nogil=True, cache=True)
def _dot(one: Any, other: Any) -> float:  # pragma: no cover
    total = 0.0
    for k in range(len(one)):
        total += one[k] * other[k]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _finish(
    sums: ClassColumnSums, layout: Layout, products: Products, gammas: Any, deltas: Any, out: Any
) -> None:  # pragma: no cover
    """Turn sums by class into γ, δ and, in the columns of `out`, what :func:`screened` takes.

    One variant after the other: array operations over variants may round differently at the ends
    of vectors.
    """
    counts, one, two, called, of_nodes, _ = sums
    n, c, v, z, v_place, nodes = layout
    mean, variance, noise, root, to_root, weight, total = products
    gamma, delta, zeta = np.empty(c), np.empty(v), np.empty(z)
    linear, square, noisy = np.empty(z), np.empty(z), np.empty(z)
    h_V, c_work, z_work = np.empty(v), np.empty(c), np.empty(z)
    first_V = 2 * z + v
    at_root = first_V + v - 1
    for j in range(len(one)):
        T1, T2, C = one[j], two[j], called[j]
        people = counts[j, 0] + counts[j, 1] + counts[j, 2]
        g1, g2 = counts[j, 1] + 2.0 * counts[j, 2], counts[j, 1] + 4.0 * counts[j, 2]
        g = g1 / people
        for k in range(z):
            once, twice = T1[k] + 2.0 * T2[k], T1[k] + 4.0 * T2[k]
            linear[k] = once - g * C[k]
            square[k] = twice - 2 * g * once + g * g * C[k]
            at = z + k
            noisy[k] = T1[at] + 2.0 * T2[at] - g * C[at]
        at = z
        once, twice = T1[at] + 2.0 * T2[at], T1[at] + 4.0 * T2[at]
        noisy_square = twice - 2 * g * once + g * g * C[at]
        cube = 0.0
        for k in range(len(nodes)):
            cube += of_nodes[j, k, 0] * (nodes[k] - g) ** 3
        at = 2 * z
        excess = T1[at] + 2.0 * T2[at] - g * C[at]
        at = at_root
        once, twice = T1[at] + 2.0 * T2[at], T1[at] + 4.0 * T2[at]
        root_square = twice - 2 * g * once + g * g * C[at]
        h_V[0] = 0.0
        for k in range(v - 1):
            at = first_V + k
            h_V[1 + k] = T1[at] + 2.0 * T2[at] - g * C[at]
        share, weighted_share = people / n, C[0] / total
        _times(linear[:c], mean, gamma)
        gamma /= weighted_share
        _times(h_V, variance, delta)
        delta /= share
        I_a = square[0] - _dot(gamma, linear[:c])
        hh = g2 - g * g1
        vv = hh - _dot(delta, h_V)
        U_a = noisy[0] - _dot(gamma, C[z : z + c])
        a = U_a / I_a
        zeta[:] = 0
        zeta[:c] = gamma
        for k in range(v):
            zeta[v_place[k]] += delta[k]
        # Σṽ(k₀ − 1), −2Σṽ·wr·x̃ and Σṽ·w·x̃².
        first = excess
        for k in range(1, v):
            first -= delta[k] * (C[2 * z + k] - C[first_V + k - 1])
        _times(delta, noise, c_work)
        second = noisy_square - _dot(zeta, noisy) + _dot(c_work, gamma)
        third = cube - _dot(zeta, square) - _dot(gamma, square[:c])
        if weight > 0:
            cross = I_a / np.sqrt(weight)
        else:
            _times(linear, to_root, z_work)
            _times(delta, root, c_work)
            cross = root_square - _dot(zeta, z_work) + share * _dot(c_work, gamma)
        gammas[j], deltas[j] = gamma, delta
        out[j, 0], out[j, 1], out[j, 2], out[j, 3] = a, I_a, 0.5 * vv, first
        out[j, 4], out[j, 5], out[j, 6] = second, third, cross
        out[j, 7] = min(I_a / square[0], vv / hh)


def fit_screen(
    design: ScreenDesign,
    genotypes: GenotypeBlock,
    counts: GenotypeCounts,
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Screen variants for additive and variance effects, one step from the null fit.

    Parameters
    ----------
    design : ScreenDesign
        Of the null model and of such genotypes; make it once per null model.
    genotypes : HardCalls or Dosages
        Of everybody in the dataset; m variants.
    counts : GenotypeCounts
        Of them in the people analysed.
    inference : Inference, optional
        Ignored but for its presence in every kernel's signature: standard errors are from the
        expected information at the null fit, studentised companions are given, a sandwich and
        likelihood ratios are not (NaN).

    Returns
    -------
    Estimates
        m rows with status SCREENED, or NOT_UNIQUE where the genotype is a combination of the
        covariates. `log_likelihood` is the null model's in the people called plus half of both
        score statistics. A row is the same bit for bit whatever block it stands in.
    """
    del inference
    estimates = Estimates.empty(len(genotypes))
    for start in range(0, len(genotypes), VARIANTS_AT_ONCE):
        rows = np.arange(start, min(start + VARIANTS_AT_ONCE, len(genotypes)))
        some = genotypes.take(slice(rows[0], rows[-1] + 1))
        estimates.put(rows, screened(design, some, design.columns.sums(some, counts.take(rows)))[0])
    return estimates


def screened(
    design: ScreenDesign, genotypes: GenotypeBlock, sums: ClassColumnSums
) -> tuple[Estimates, Projections]:
    """Screen variants whose sums are there.

    Parameters
    ----------
    design : ScreenDesign
    genotypes : HardCalls or Dosages
        For the few of which a term of second order is taken person by person.
    sums : ClassColumnSums

    Returns
    -------
    Estimates
        As :func:`fit_screen` returns them.
    Projections
    """
    of = design.columns.of
    counts, m = sums.people, len(genotypes)
    people = counts.sum(axis=1)
    out = Estimates.empty(m)
    gamma, delta, found = np.empty((m, of.c)), np.empty((m, of.v)), np.empty((m, 8))
    with np.errstate(all="ignore"):
        _finish(sums, of.layout(design.columns.nodes), design.products, gamma, delta, found)
        a, I_a, I_b, first, second, third, cross, rest = found.T
        unique = (people >= of.c + of.v + 3) & (rest > COLLINEAR_SCREENED) & (I_a > 0) & (I_b > 0)
        exactly = unique & (a * a * I_a * (1 - rest) > _SECOND_ORDER * np.sqrt(of.n))
        chosen = np.flatnonzero(exactly)
        for start in range(0, len(chosen), _TILE):
            part = chosen[start : start + _TILE]
            third[part] = _cubes(of, genotypes.take(part), gamma[part], delta[part])
        plain = 0.5 * first / I_b
        b = plain + 0.5 * a * (a * third - 2 * second) / I_b
    out.status[:] = Status.NOT_UNIQUE
    out.genotype_third[:], out.genotype_fourth[:] = sums.higher.T
    parts = (a, b, plain, I_a, I_b, cross, sums.called[:, -1])
    a, b, plain, I_a, I_b, cross, density = (x[unique] for x in parts)
    rows = np.flatnonzero(unique)
    put_screened(out, rows, (a, b), plain, (I_a, I_b), design.moments, cross, 2 * I_b, density)
    return out, Projections(*found[:, [1, 2, 6, 7]].T)


def _cubes(of: NullColumns, genotypes: GenotypeBlock, gamma: Float, delta: Float) -> Float:
    """Return Σṽ·w·x̃² of at most a tile of variants, person by person."""
    m = len(genotypes)
    # Whole tiles only: a product's rounding depends on its shape.
    mean, variance = np.zeros((of.c, _TILE)), np.zeros((of.v, _TILE))
    mean[:, :m], variance[:, :m] = gamma.T, delta.T
    g = genotypes.copies(of.samples).T
    g -= np.nanmean(g, axis=0)
    total = np.zeros(m)
    for start in range(0, of.n, _PEOPLE_PER_STRIP):
        s = slice(start, start + _PEOPLE_PER_STRIP)
        x = g[s] - (of.X[s] @ mean)[:, :m]
        v = g[s] - (of.V[s] @ variance)[:, :m]
        x *= x
        x *= v
        total += np.nansum(x * of.w[s, None], axis=0)
    return total


def work_bytes(m: int, n_total: int, n: int, n_mean: int, n_variance: int, *, dosages: bool) -> int:
    """Bound the memory of a design and of screening with it, genotypes not.

    Parameters
    ----------
    m, n_total, n, n_mean, n_variance : int
        Variants per call, people in the packed calls and those analysed, columns of the designs.
    dosages : bool
    """
    sums = class_columns.work_bytes(m, n_total, n, n_mean, n_variance, dosages=dosages)
    tile = 8 * _TILE * (2 * n + 4 * min(n, _PEOPLE_PER_STRIP))
    return sums + tile + 200 * m
