"""Scores of hard calls at the null model of an HLMM without covariates, from class sums.

What :mod:`~hlmm_scan.kernels.screen.random_effects` makes of a product with all people takes sums
within genotype classes here: with intercepts alone D₀ is one number, Σ₀⁻¹ = w(I − κFΛ⁻¹Fᵀ), w =
1/D₀, κ = h2·w, and a variant needs Fᵀh for the information on its additive effect, which is a count
of people where the random effects are hard calls, and sums of a few columns that no variant
changes. For more people than
:data:`~hlmm_scan.kernels.limits.WRITTEN_OUT_PEOPLE` only: M∘M is its diagonal
and a mean, as there.

Left out: what the additive effect in the residuals does to the score of h2, itself a small part of
the score of b_g; it moves z by less than z_a²·√(l)/n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.limits import COLLINEAR_SCREENED
from hlmm_scan.kernels.sums import columns as column_sums
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.sums.call_counts import (
    PEOPLE_PER_STRIP,
    WIDTH,
    CallCounts,
    plain,
    strips,
)
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.kernels.sums.columns import ColumnSumsPlan
from hlmm_scan.null.eigen import Eigenstructure
from hlmm_scan.null.model import NullFit, NullModel

_COLUMN = np.array([0, 0, 1, 2, 2, 3, 3, 4, 5])
_POWERS = np.array([1, 2, 1, 1, 2, 1, 2, 1, 1])
"""Which column of the plan is summed, and with g or g²."""
_VARIANTS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class ClassScoreDesign:
    """What the scores need of a null model and one set of random effects, worked out once.

    Attributes
    ----------
    eigen : Eigenstructure
    samples : ndarray of int64, shape (n,)
    plan : ColumnSumsPlan
        Of the columns s, q, δ, δ², d and δd, δ the diagonal of M∘M less the mean off it and d that
        of the derivative by h2; s, δ and δ² with g² as well.
    lattice : CallLattice or None
    columns : ndarray of float32, shape (n, k), or None
        Those of `eigen`, where there is no lattice.
    shrink : ndarray, shape (r,)
        κ/(1 + κs²).
    ones : ndarray, shape (r,)
        Fᵀ1.
    w, fourth : float
    nuisance, gram : ndarray, shape (2, 2) or (1, 1)
        Inverse expected information of b₀ and h2, and uᵀu of their derivatives u.
    others : float
        n times the mean of M∘M off the diagonal.
    """

    eigen: Eigenstructure
    samples: NDArray[np.int64]
    plan: ColumnSumsPlan
    lattice: CallLattice | None
    columns: NDArray[np.float32] | None
    shrink: Float
    ones: Float
    w: float
    fourth: float
    nuisance: Float
    gram: Float
    others: float

    @classmethod
    def of(
        cls,
        null: NullModel,
        fit: NullFit,
        eigen: Eigenstructure,
        width: int,
        lattice: CallLattice | None,
    ) -> ClassScoreDesign:
        """Prepare one phenotype and set; 4n·l·r operations.

        Parameters
        ----------
        null : NullModel
            With random effects and intercepts only.
        fit : NullFit
            Of the set.
        eigen : Eigenstructure
            Of the set.
        width : int
            Bytes of a packed variant.
        lattice : CallLattice or None
            Of `eigen.columns`.
        """
        n, values, D = null.n, eigen.values, float(np.exp(fit.beta[0]))
        kappa = fit.random_variance / D
        phi = 1 / (1 + kappa * values)
        ones = eigen.rotate(eigen.columns.T @ np.ones((n, 1)))[:, 0]
        s, q, leverage, second = residuals_and_leverages(null, fit, eigen)
        pairs = ((values * phi) ** 2).sum() - (leverage**2).sum()
        others = float(kappa**2 * pairs / max(n * (n - 1), 1))
        diagonal = (1 - kappa * leverage) ** 2 - others
        u = [diagonal + n * others]
        second = second / D
        information = np.array([[0.5 * u[0].sum()]])
        if fit.random_variance > 0:
            u.append(second)
            edge, corner = 0.5 * second.sum(), 0.5 * ((values * phi / D) ** 2).sum()
            information = np.array([[information[0, 0], edge], [edge, corner]])
        columns = np.column_stack([s, q, diagonal, diagonal**2, second, diagonal * second])
        single = eigen.single_columns() if lattice is None else None
        U = np.column_stack(u)
        return cls(
            eigen=eigen,
            samples=null.samples,
            plan=ColumnSumsPlan.of(width, null.samples, columns),
            lattice=lattice,
            columns=single,
            shrink=kappa * phi,
            ones=ones,
            w=1 / D,
            fourth=fit.fourth_moment,
            nuisance=np.asarray(np.linalg.inv(information)),
            gram=U.T @ U,
            others=n * others,
        )


def residuals_and_leverages(
    null: NullModel, fit: NullFit, eigen: Eigenstructure
) -> tuple[Float, Float, Float, Float]:
    """Return Σ₀⁻¹r₀, k₀/D₀ − 1, and the diagonals of FΛ⁻¹Fᵀ and FΛ⁻²Fᵀ, each of shape (n,).

    Parameters
    ----------
    null, fit, eigen
        As for :meth:`ClassScoreDesign.of`.
    """
    D = float(np.exp(fit.beta[0]))
    kappa = fit.random_variance / D
    phi = 1 / (1 + kappa * eigen.values)
    r = null.y - fit.alpha[0]
    of_r = eigen.rotate(eigen.columns.T @ r[:, None])
    s = (r - eigen.combine(kappa * phi[:, None] * of_r)[:, 0]) / D
    leverage, second = eigen.leverage(np.column_stack([phi, phi**2])).T
    return s, D * s**2 + kappa * leverage - 1, leverage, second


def class_scores(
    design: ClassScoreDesign, packed: NDArray[np.uint8], counted: CallCounts | None = None
) -> Float:
    """Return standardised scores of m variants.

    Parameters
    ----------
    design : ClassScoreDesign
    packed : ndarray of uint8, shape (m, width)
        A missing call counts as the mean genotype of the people called.
    counted : CallCounts, optional
        Of these variants, where a fit has filled it; counted here where it is not given.

    Returns
    -------
    ndarray, shape (m, 3)
        Of the additive effect, of the variance effect as the null model leaves it, and of that
        with the additive effect taken out; NaN where the genotype does not vary.
    """
    found = np.full((len(packed), 3), np.nan)
    for start in range(0, len(packed), _VARIANTS_AT_ONCE):
        rows = slice(start, start + _VARIANTS_AT_ONCE)
        own = None if counted is None else counted.take(np.arange(len(packed))[rows])
        found[rows] = _scores(design, packed[rows], own)
    return found


def _scores(
    design: ClassScoreDesign, packed: NDArray[np.uint8], counted: CallCounts | None
) -> Float:
    sums = design.plan.sums(packed)
    one, two, absent = sums.counts.T.astype(np.float64)
    n, w = len(design.samples), design.w
    people = n - absent
    with np.errstate(all="ignore"):
        mean = (one + 2 * two) / people
        M = (sums.one[:, _COLUMN] + 2.0 * _POWERS * sums.two[:, _COLUMN]).T
        C = sums.called[:, _COLUMN].T

        def first(k: int) -> Float:
            return np.asarray(M[k] - mean * C[k])

        def square(k: int) -> Float:
            """Σh²·column, which stands at k with g and at k + 1 with g²."""
            return np.asarray(M[k + 1] - 2 * mean * M[k] + mean**2 * C[k])

        zero = people - one - two
        h2 = zero * mean**2 + one * (1 - mean) ** 2 + two * (2 - mean) ** 2
        h3 = -zero * mean**3 + one * (1 - mean) ** 3 + two * (2 - mean) ** 3
        F = np.ascontiguousarray(_products(design, packed, mean, bool(absent.any()), counted).T)
        # Row by row, so that a variant's sum has one order whatever the block.
        random = np.array([f @ (design.shrink * f) for f in F])
        with_ones = np.array([f @ (design.shrink * design.ones) for f in F])
        of_ones = n - design.ones @ (design.shrink * design.ones)
        gamma = -with_ones / of_ones
        whole = w * (h2 - random)
        I_a = whole - w * gamma**2 * of_ones
        U_a, square_s = first(0), square(0)
        a = U_a / I_a
        d1 = first(3)
        d2 = square(3)
        uh = np.stack([d1, first(7)])[: len(design.nuisance)]
        delta = 0.5 * design.nuisance @ uh
        I_b = 0.5 * (d2 - (delta * uh).sum(axis=0))
        # Σ(δh − Σ_k delta_k·u_k)², u₁ = δ + others.
        mixed = np.stack([first(5) + design.others * d1, first(8)])[: len(delta)]
        excess = square(5) - 2 * (delta * mixed).sum(axis=0)
        excess += (delta * (design.gram @ delta)).sum(axis=0)
        phi = random / h2  # what the random effects take of the genotype
        shrunk = 1 - phi
        d0 = delta[0]
        taken = square_s - (d0 + gamma) * U_a
        cube = h3 - (2 * gamma + d0) * h2 - n * d0 * gamma**2
        plain_b = first(2)
        b = plain_b - 2 * a * shrunk * taken + (a * shrunk) ** 2 * w * cube
        varies = 4 * I_b + (design.fourth - 3) * excess
        # Of two equally frequent values r² does not vary: then there is no such score.
        spread = np.where(varies > 1e-12 * I_b, np.sqrt(np.maximum(varies, 0)), np.inf)
        z = np.stack([U_a / np.sqrt(I_a), plain_b / spread, b / spread], axis=1)
        z[
            ~(
                (people >= 5)
                & (I_a > COLLINEAR_SCREENED * whole)
                & (2 * I_b > COLLINEAR_SCREENED * d2)
            )
        ] = np.nan
    return z


@njit(nogil=True, cache=True)
def _centred(packed: Any, samples: Any, mean: Any, h: Any) -> None:  # pragma: no cover
    """Write copies less their mean, 0 without a call, shape (WIDTH, people)."""
    for j in range(len(packed)):
        row, centre = packed[j], mean[j]
        for i in range(len(samples)):
            code = (row[samples[i] >> 2] >> (2 * (samples[i] & 3))) & 3
            copies = 0.0 if code == 3 else 1.0 if code == 2 else 2.0
            h[j, i] = 0.0 if code == 1 else copies - centre


def _products(
    design: ClassScoreDesign,
    packed: NDArray[np.uint8],
    mean: Float,
    missing: bool,
    counted: CallCounts | None,
) -> Float:
    """Return Fᵀh, shape (r, m); `missing` says whether a call of any variant is."""
    packed, samples, lattice = plain(packed), plain(design.samples), design.lattice
    found = np.empty((len(design.shrink), len(packed)))
    n = len(samples)
    if counted is None and lattice is not None:
        counted = CallCounts.of(lattice, packed, samples, missing)
    for start in range(0, len(packed), WIDTH):
        rows = np.arange(start, min(start + WIDTH, len(packed)))
        if lattice is None or counted is None:
            assert design.columns is not None
            linear: Float = np.zeros((WIDTH, design.columns.shape[1]))
            h = np.zeros((WIDTH, min(n, PEOPLE_PER_STRIP)), np.float32)
            for s in strips(n):
                part = h[:, : s.stop - s.start]
                _centred(packed[rows], samples[s], mean[rows], part)
                products.add_product(part, design.columns[s], linear)
            found[:, rows] = design.eigen.rotate(linear.T)[:, : len(rows)]
            continue
        one, two, absent = counted.sums(rows).transpose(1, 0, 2)
        # Columns are origin + x, of mean 0 over everybody, and h has mean 0: Σ(origin + x)h = Σxh,
        # and Σx over everybody is −n·origin.
        centre = np.zeros(WIDTH)
        centre[: len(rows)] = mean[rows]
        of_h = one + 2 * two
        if missing:
            of_h += absent * centre
        of_h += n * lattice.origin[:, None] * centre
        found[:, rows] = design.eigen.rotate(of_h)[:, : len(rows)]
    return found


def work_bytes(m: int, n_total: int, n: int, n_random: int) -> int:
    """Bound the memory of a design and of scores with it, beside the shared random effects.

    With the counts that a fit leaves for them.

    Parameters
    ----------
    m, n_total, n, n_random : int
        Variants per call, people in the packed calls and those analysed, random effects.
    """
    sums = column_sums.work_bytes(min(m, _VARIANTS_AT_ONCE), n_total, int(_COLUMN.max()) + 1)
    made = 8 * n * (2 * len(_POWERS) + 12) + 4 * n * n_random
    bits = 4 * 3 * WIDTH * 64 * (3 * n_random // 64 + 2) + 8 * min(m, _VARIANTS_AT_ONCE) * n_random
    counts = 4 * m * 3 * 2 * n_random
    return sums + made + 2 * bits + counts + 8 * 3 * n_random**2
