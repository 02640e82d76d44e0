"""Score screen of the HLM: one-step effects and tests of every variant from one pass over calls.

Every sum over people in the formulas of :mod:`hlmm_scan.kernels.screen.plain` is made of sums
Σ g·q and Σ g²·q with columns q that do not depend on the variant, which
:mod:`~hlmm_scan.kernels.sums.powers` adds up. With h = g − ḡ, ĥ = Xγ and v̂ = Vδ its regressions
on the covariates, w = 1/D₀, Z the columns of both designs and ζ the sum of γ and δ by column:

    I_a = Σh²w − γᵀXᵀwh,          2I_b = Σh² − δᵀVᵀh,
    Σṽ·wr·x̃ = Σh²wr − ζᵀZᵀwr·h + δᵀ(Vᵀwr·X)γ,
    Σṽ·w·x̃² = Σh³w − (γ + ζ)ᵀZᵀwh² + terms with two or three of ĥ and v̂,

g³ being 3g² − 2g. The terms left out count for a_g² only and, in standard errors of b_g, are of
size z_a²R²/√n, R² that of the genotype on covariates: where that is not small, the sum is taken
person by person. In the covariance of both effects under skewness, Zᵀ√w·h is taken as what it is
where covariates explain the genotype linearly.

Where calls are missing, sums are those of the people called, and XᵀwX and VᵀV those of everybody
times the share of (weighted) people called; that is exact with intercepts only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.genotypes.packing import unpack_samples
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.limits import COLLINEAR_SCREENED
from hlmm_scan.kernels.screen.plain import put_screened
from hlmm_scan.kernels.sums import powers as screen_sums
from hlmm_scan.kernels.sums.powers import ScreenSumsPlan
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel
from hlmm_scan.schema import Status

Float = NDArray[np.float64]

_VARIANTS_AT_ONCE = 4096
_TILE = 64  # variants in one product; fewer are filled up, since rounding depends on the shape
_PEOPLE_PER_STRIP = 4096
_SECOND_ORDER = 2e-4
"""z_a²R²/√n from which on second-order terms are exact; they are a few times that at most."""


@dataclass(frozen=True, eq=False)
class ScreenDesign:
    """What the screen needs of a null model without random effects, worked out once.

    Attributes
    ----------
    plan : ScreenSumsPlan
    layout : ndarray of intp, shape (k + j,)
        Places of the plan's columns among those of :func:`_columns`.
    n, c, v, z : int
        People; columns of the two designs and of both together.
    v_place : ndarray of intp, shape (v,)
        Columns of the variance design among those of both.
    mean, variance : ndarray, shapes (c, c) and (v, v)
        Inverses of XᵀwX and VᵀV.
    noise : ndarray, shape (v, c)
        Vᵀdiag(wr)X.
    root : ndarray, shape (v, c)
        Vᵀdiag(√w)X.
    to_root : ndarray, shape (z, z)
        (ZᵀwZ)⁻¹Zᵀdiag(√w)Z, which turns Zᵀwh into what Zᵀdiag(√w)h is up to noise.
    samples : ndarray of int64, shape (n,)
    X, V : ndarray, shapes (n, c) and (n, v)
    w : ndarray, shape (n,)
    weight : float
        Everybody's weight where all have the same; else 0.
    total : float
        Sum of the weights.
    moments : tuple of float
        m₃ and m₄ of the null residuals.
    """

    plan: ScreenSumsPlan
    layout: NDArray[np.intp]
    n: int
    c: int
    v: int
    z: int
    v_place: NDArray[np.intp]
    mean: Float
    variance: Float
    noise: Float
    root: Float
    to_root: Float
    samples: NDArray[np.int64]
    X: Float
    V: Float
    w: Float
    weight: float
    total: float
    moments: tuple[float, float]

    @classmethod
    def of(cls, null: NullModel, width: int) -> ScreenDesign:
        """Prepare the screen of one phenotype; a few products of the designs.

        Parameters
        ----------
        null : NullModel
            Without random effects.
        width : int
            Bytes of a packed variant.
        """
        fit = null.fits[ALL_RANDOM_EFFECTS]
        X, V = null.mean_design, null.variance_design
        n, c, v = len(X), X.shape[1], V.shape[1]
        Z, v_place = _union(X, V)
        log_variance = V @ fit.beta
        w = np.exp(-log_variance)
        root = np.sqrt(w)
        r = null.y - X @ fit.alpha
        equal = v == 1
        columns, powers = _columns(Z, V, w, r, log_variance)
        layout = np.arange(len(powers))
        if equal:  # counts tell of a constant column
            z = Z.shape[1]
            layout = np.setdiff1d(layout, [0, z, 3 * z + 2, 3 * z + 3])
        return cls(
            plan=ScreenSumsPlan.of(
                width, null.samples, columns[:, layout], powers[layout][powers[layout] > 0]
            ),
            layout=layout,
            n=n,
            c=c,
            v=v,
            z=Z.shape[1],
            v_place=v_place,
            mean=np.asarray(np.linalg.inv(X.T @ (X * w[:, None])), np.float64),
            variance=np.asarray(np.linalg.inv(V.T @ V), np.float64),
            noise=V.T @ (X * (w * r)[:, None]),
            root=V.T @ (X * root[:, None]),
            # Covariates of the mean and of the variance may depend on each other.
            to_root=np.linalg.pinv(Z.T @ (Z * w[:, None]), hermitian=True)
            @ (Z.T @ (Z * root[:, None])),
            samples=null.samples,
            X=X,
            V=V,
            w=w,
            weight=float(w[0]) if equal else 0.0,
            total=float(w.sum()),
            moments=fit.moments,
        )


def _union(X: Float, V: Float) -> tuple[Float, NDArray[np.intp]]:
    """Put the columns of X and those of V that X lacks side by side; say where V's are."""
    columns, place = [*X.T], []
    for column in V.T:
        same = [k for k, other in enumerate(columns) if np.array_equal(column, other)]
        place.append(same[0] if same else len(columns))
        columns.extend([] if same else [column])
    return np.column_stack(columns), np.array(place, np.intp)


def _columns(
    Z: Float, V: Float, w: Float, r: Float, log_variance: Float
) -> tuple[Float, NDArray[np.intp]]:
    """Return all columns that sums are wanted of, and their powers of g.

    Those of power 0 come last; they are wanted for the people called.
    """
    excess = w * r * r - 1
    density = -0.5 * (np.log(2 * np.pi) + log_variance + excess + 1)
    root = np.sqrt(w)
    z, others = Z.shape[1], V.shape[1] - 1
    wZ, wrZ = Z * w[:, None], Z * (w * r)[:, None]
    columns = (
        wZ, wZ, wrZ, w * r, excess, root, root, V[:, 1:], V[:, 1:] * excess[:, None], density
    )  # fmt: skip
    powers = [1] * z + [2] * z + [1] * z + [2, 1, 1, 2] + [1] * others + [0] * (others + 1)
    return np.column_stack(columns), np.array(powers, np.intp)


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
    multiples: Any,
    called: Any,
    counts: Any,
    sizes: tuple[int, int, int, int],
    v_place: Any,
    mean: Any,
    variance: Any,
    noise: Any,
    root: Any,
    to_root: Any,
    weight: float,
    total: float,
    gammas: Any,
    deltas: Any,
    out: Any,
) -> None:  # pragma: no cover
    """Turn sums into γ, δ and, in the columns of `out`, :class:`_Parts`.

    One variant after the other: array operations over variants may round differently at the ends
    of vectors.
    """
    n, c, v, z = sizes
    gamma, delta, zeta = np.empty(c), np.empty(v), np.empty(z)
    linear, square, noisy = np.empty(z), np.empty(z), np.empty(z)
    h_V, c_work, z_work = np.empty(v), np.empty(c), np.empty(z)
    for j in range(len(multiples)):
        M, C = multiples[j], called[j]
        people = counts[j, 0] + counts[j, 1] + counts[j, 2]
        g1, g2 = counts[j, 1] + 2.0 * counts[j, 2], counts[j, 1] + 4.0 * counts[j, 2]
        g = g1 / people
        for k in range(z):
            linear[k] = M[k] - g * C[k]
            square[k] = M[z + k] - 2 * g * M[k] + g * g * C[k]
            noisy[k] = M[2 * z + k] - g * C[2 * z + k]
        g3 = 3 * M[z] - 2 * M[0]
        cube = g3 - 3 * g * M[z] + 3 * g * g * M[0] - g * g * g * C[0]
        at = 3 * z
        noisy_square = M[at] - 2 * g * M[2 * z] + g * g * C[at]
        excess = M[at + 1] - g * C[at + 1]
        root_square = M[at + 3] - 2 * g * M[at + 2] + g * g * C[at + 3]
        at += 4
        h_V[0] = 0.0
        for k in range(v - 1):
            h_V[1 + k] = M[at + k] - g * C[at + k]
        share, weighted_share = people / n, C[0] / total
        _times(linear[:c], mean, gamma)
        gamma /= weighted_share
        _times(h_V, variance, delta)
        delta /= share
        I_a = square[0] - _dot(gamma, linear[:c])
        hh = g2 - g * g1
        vv = hh - _dot(delta, h_V)
        U_a = noisy[0] - _dot(gamma, C[2 * z : 2 * z + c])
        a = U_a / I_a
        zeta[:] = 0
        zeta[:c] = gamma
        for k in range(v):
            zeta[v_place[k]] += delta[k]
        # Σṽ(k₀ − 1), −2Σṽ·wr·x̃ and Σṽ·w·x̃².
        first = excess - _dot(delta[1:], C[at + v - 1 : at + 2 * (v - 1)])
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
        out[j, 4], out[j, 5], out[j, 6], out[j, 7] = second, third, cross, C[len(C) - 1]
        out[j, 8] = min(I_a / square[0], vv / hh)


def fit_screen(
    design: ScreenDesign,
    packed: NDArray[np.uint8],
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Screen variants for additive and variance effects, one step from the null fit.

    Parameters
    ----------
    design : ScreenDesign
        Of the null model and of packed rows of this width; make it once per null model.
    packed : ndarray of uint8, shape (m, width)
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
    estimates = Estimates.empty(len(packed))
    for start in range(0, len(packed), _VARIANTS_AT_ONCE):
        rows = np.arange(start, min(start + _VARIANTS_AT_ONCE, len(packed)))
        _screen(design, packed[rows[0] : rows[-1] + 1], estimates, rows)
    return estimates


def _screen(
    design: ScreenDesign, packed: NDArray[np.uint8], out: Estimates, rows: NDArray[np.intp]
) -> None:
    """Screen a few variants into `rows` of `out`."""
    sums = design.plan.sums(packed)
    one, two, absent = sums.counts.T
    people = design.n - absent
    width = 3 * design.z + 4 + 2 * (design.v - 1) + 1
    multiples, called = np.zeros((len(rows), width)), np.zeros((len(rows), width))
    multiples[:, design.layout[: design.plan.n_powers]] = sums.multiples
    called[:, design.layout] = sums.called
    if design.weight:
        multiples[:, 0] = design.weight * (one + 2 * two)
        multiples[:, design.z] = design.weight * (one + 4 * two)
        called[:, 0] = called[:, design.z] = design.weight * people
    counts = np.column_stack([people - one - two, one, two])
    m = len(rows)
    gamma, delta, found = np.empty((m, design.c)), np.empty((m, design.v)), np.empty((m, 9))
    with np.errstate(all="ignore"):
        _finish(
            multiples, called, counts, (design.n, design.c, design.v, design.z), design.v_place,
            design.mean, design.variance, design.noise, design.root, design.to_root,
            design.weight, design.total, gamma, delta, found,
        )  # fmt: skip
        a, I_a, I_b, first, second, third, cross, density, rest = found.T
        unique = (
            (people >= design.c + design.v + 3)
            & (rest > COLLINEAR_SCREENED)
            & (I_a > 0)
            & (I_b > 0)
        )
        exactly = unique & (a * a * I_a * (1 - rest) > _SECOND_ORDER * np.sqrt(design.n))
        chosen = np.flatnonzero(exactly)
        for start in range(0, len(chosen), _TILE):
            part = chosen[start : start + _TILE]
            third[part] = _cubes(design, packed[part], gamma[part], delta[part])
        plain = 0.5 * first / I_b
        b = plain + 0.5 * a * (a * third - 2 * second) / I_b
    out.status[rows] = Status.NOT_UNIQUE
    parts = (a, b, plain, I_a, I_b, cross, density)
    a, b, plain, I_a, I_b, cross, density = (x[unique] for x in parts)
    put_screened(
        out, rows[unique], (a, b), plain, (I_a, I_b), design.moments, cross, 2 * I_b, density
    )


def _cubes(design: ScreenDesign, packed: NDArray[np.uint8], gamma: Float, delta: Float) -> Float:
    """Return Σṽ·w·x̃² of at most a tile of variants, person by person."""
    m = len(packed)
    # Whole tiles only: a product's rounding depends on its shape.
    mean, variance = np.zeros((design.c, _TILE)), np.zeros((design.v, _TILE))
    mean[:, :m], variance[:, :m] = gamma.T, delta.T
    g = unpack_samples(packed, design.samples).T
    g -= np.nanmean(g, axis=0)
    total = np.zeros(m)
    for start in range(0, design.n, _PEOPLE_PER_STRIP):
        s = slice(start, start + _PEOPLE_PER_STRIP)
        x = g[s] - (design.X[s] @ mean)[:, :m]
        v = g[s] - (design.V[s] @ variance)[:, :m]
        x *= x
        x *= v
        total += np.nansum(x * design.w[s, None], axis=0)
    return total


def work_bytes(m: int, n_total: int, n: int, n_mean: int, n_variance: int) -> int:
    """Bound the memory of a design and of screening with it, packed calls not.

    Parameters
    ----------
    m, n_total, n, n_mean, n_variance : int
        Variants per call, people in the packed calls and those analysed, columns of the designs.

    Returns
    -------
    int
        Bytes. Columns are made in double precision, and kept in half of that.
    """
    union = n_mean + n_variance - 1
    columns = 3 * union + 4 + 2 * n_variance
    made = 8 * n * (2 * columns + 3 * union)
    sums = screen_sums.work_bytes(min(m, _VARIANTS_AT_ONCE), n_total, columns)
    tile = 8 * _TILE * (2 * n + 4 * _PEOPLE_PER_STRIP)
    return made + sums + tile + 8 * min(m, _VARIANTS_AT_ONCE) * (3 * columns + union) + 200 * m
