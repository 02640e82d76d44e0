"""The columns that an HLM with covariates sums within genotype classes, whatever it makes of them.

With w = 1/D₀, r and k = wr² of the null model, Z the columns of both designs and V those of the
variance's: wZ, wrZ, kV, V, √w and the density of the null model. The score screen and the Newton
step from class fits take all that they need of the people from these sums, so that one pass over
the calls serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.kernels.sums import columns as column_sums
from hlmm_scan.kernels.sums.columns import ColumnSumsPlan
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel

Float = NDArray[np.float64]

VARIANTS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class ClassColumnSums:
    """Sums of m variants.

    Attributes
    ----------
    people : ndarray of int64, shape (m, 3)
        With none, one and two copies.
    one, two, called : ndarray, shape (m, 2z + 2v + 1)
        Sums over people with one copy, with two, and with a call, of the columns in the order of
        :class:`ClassColumns`.
    """

    people: NDArray[np.int64]
    one: Float
    two: Float
    called: Float


@dataclass(frozen=True, eq=False)
class ClassColumns:
    """Columns of a null model, and the plan of their sums.

    wZ (z columns), wrZ (z), k·V (v), V without its intercept (v − 1), √w and the density.

    Attributes
    ----------
    plan : ColumnSumsPlan
    summed : ndarray of intp, shape (k,)
        Places of the plan's columns among all. Where all weights are equal, counts tell of some.
    n, c, v, z : int
        People; columns of the two designs and of both together.
    X, V, Z : ndarray, shapes (n, c), (n, v) and (n, z)
        The designs and the columns of both, those of the mean first.
    v_place : ndarray of intp, shape (v,)
        Columns of the variance design among those of both.
    w, r : ndarray, shape (n,)
    weight : float
        Everybody's weight where all have the same; else 0.
    samples : ndarray of int64, shape (n,)
    """

    plan: ColumnSumsPlan
    summed: NDArray[np.intp]
    n: int
    c: int
    v: int
    z: int
    X: Float
    V: Float
    Z: Float
    v_place: NDArray[np.intp]
    w: Float
    r: Float
    weight: float
    samples: NDArray[np.int64]

    @classmethod
    def of(cls, null: NullModel, width: int) -> ClassColumns:
        """Prepare sums for packed rows of `width` bytes."""
        fit = null.fits[ALL_RANDOM_EFFECTS]
        X, V = null.mean_design, null.variance_design
        Z, v_place = _union(X, V)
        log_variance = V @ fit.beta
        w = np.exp(-log_variance)
        r = null.y - X @ fit.alpha
        k = w * r * r
        density = -0.5 * (np.log(2 * np.pi) + log_variance + k)
        columns = np.column_stack(
            [Z * w[:, None], Z * (w * r)[:, None], V * k[:, None], V[:, 1:], np.sqrt(w), density]
        )
        equal = V.shape[1] == 1
        summed = np.arange(columns.shape[1])
        if equal:
            summed = summed[1:-2]
        plan = ColumnSumsPlan.of(width, null.samples, columns[:, summed])
        weight = float(w[0]) if equal else 0.0
        sizes = len(X), X.shape[1], V.shape[1], Z.shape[1]
        return cls(plan, summed, *sizes, X, V, Z, v_place, w, r, weight, null.samples)

    def sums(self, packed: NDArray[np.uint8]) -> ClassColumnSums:
        """Pass over the calls of some variants.

        Parameters
        ----------
        packed : ndarray of uint8, shape (m, width)
        """
        found = self.plan.sums(packed)
        one, two, absent = found.counts.T
        none = self.n - absent - one - two
        people = np.column_stack([none, one, two])
        if not self.weight:
            return ClassColumnSums(people, found.one, found.two, found.called)
        w, width = self.weight, 2 * (self.z + self.v) + 1
        whole = []
        for sums, number in ((found.one, one), (found.two, two), (found.called, self.n - absent)):
            columns = np.empty((len(packed), width))
            columns[:, self.summed] = sums
            columns[:, 0], columns[:, -2] = w * number, np.sqrt(w) * number
            columns[:, -1] = -0.5 * (np.log(2 * np.pi / w) * number + columns[:, 2 * self.z])
            whole.append(columns)
        return ClassColumnSums(people, *whole)


def _union(X: Float, V: Float) -> tuple[Float, NDArray[np.intp]]:
    """Put the columns of X and those of V that X lacks side by side; say where V's are."""
    columns, place = [*X.T], []
    for column in V.T:
        same = [k for k, other in enumerate(columns) if np.array_equal(column, other)]
        place.append(same[0] if same else len(columns))
        columns.extend([] if same else [column])
    return np.column_stack(columns), np.array(place, np.intp)


def work_bytes(m: int, n_total: int, n: int, n_mean: int, n_variance: int) -> int:
    """Bound the memory of a plan and its sums of at most `m` variants, packed calls not.

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
    columns = 2 * (union + n_variance) + 1
    made = 8 * n * (2 * columns + 3 * union)
    at_once = min(m, VARIANTS_AT_ONCE)
    return made + column_sums.work_bytes(at_once, n_total, columns) + 8 * 3 * at_once * columns
