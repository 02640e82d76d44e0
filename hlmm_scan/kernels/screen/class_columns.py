"""The columns that an HLM with covariates sums within genotype classes, whatever it makes of them.

With w = 1/D₀, r and k = wr² of the null model, Z the columns of both designs and V those of the
variance's: wZ, wrZ, kV, V, √w and the density of the null model. The score screen and the Newton
step from class fits take all that they need of the people from these sums, so that one pass over
the calls serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import Dosages, GenotypeBlock, packed_calls
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.sums import columns as column_sums
from hlmm_scan.kernels.sums import dosage_powers
from hlmm_scan.kernels.sums.columns import ColumnSumsPlan
from hlmm_scan.kernels.sums.dosage_powers import NODES, PowerSumsPlan, node_sums, soft_sums
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel

VARIANTS_AT_ONCE = 4096

SECOND_POWERS_APART = 20_000
"""People from whom on second powers of dosages are summed where they matter only."""


class ClassColumnSums(NamedTuple):
    """Sums of m variants within genotype classes, soft ones of dosages.

    Attributes
    ----------
    people : ndarray, shape (m, 3)
        With none, one and two copies.
    one, two, called : ndarray, shape (m, 2z + 2v + 1)
        Sums over people with one copy, with two, and with a call, of the columns in the order of
        :class:`NullColumns`.
    nodes : ndarray, shape (m, nodes, 4)
        Sums of w, wr, wr² and √w by the classes that columns have nodes of.
    higher : ndarray, shape (m, 2)
        Σh³ and Σh⁴, h copies less their mean; NaN of hard calls, of which `people` tells.
    """

    people: Float
    one: Float
    two: Float
    called: Float
    nodes: Float
    higher: Float

    def take(self, rows: NDArray[np.intp]) -> ClassColumnSums:
        """Return those of some variants."""
        return ClassColumnSums(*(part[rows] for part in self))

    def put(self, rows: NDArray[np.intp], some: ClassColumnSums) -> None:
        """Take the sums of one copy and of two of some variants from others."""
        self.one[rows], self.two[rows] = some.one, some.two


class Layout(NamedTuple):
    """Where the columns of a null model are.

    Attributes
    ----------
    n, c, v, z : int
        People; columns of the two designs and of both together.
    v_place : ndarray of intp, shape (v,)
        Columns of the variance design among those of both.
    nodes : ndarray, shape (nodes,)
        Copies that the classes of the genotype's own sums stand for.
    """

    n: int
    c: int
    v: int
    z: int
    v_place: NDArray[np.intp]
    nodes: Float


@dataclass(frozen=True, eq=False)
class NullColumns:
    """What is summed of a null model: wZ, wrZ, k·V, V without its intercept, √w and the density.

    Attributes
    ----------
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
    def of(cls, null: NullModel) -> NullColumns:
        """Take them from the null fit of everybody."""
        fit = null.fits[ALL_RANDOM_EFFECTS]
        X, V = null.mean_design, null.variance_design
        Z, v_place = _union(X, V)
        w = np.exp(-V @ fit.beta)
        weight = float(w[0]) if V.shape[1] == 1 else 0.0
        sizes = len(X), X.shape[1], V.shape[1], Z.shape[1]
        return cls(*sizes, X, V, Z, v_place, w, null.y - X @ fit.alpha, weight, null.samples)

    @property
    def own(self) -> NDArray[np.intp]:
        """Places of w, wr, wr² and √w among the columns."""
        return np.array([0, self.z, 2 * self.z, 2 * self.z + 2 * self.v - 1])

    def layout(self, nodes: Float) -> Layout:
        """Return where the columns are, with sums at some nodes."""
        return Layout(self.n, self.c, self.v, self.z, self.v_place, nodes)

    def columns(self) -> Float:
        """Return all columns, shape (n, 2z + 2v + 1)."""
        w, k = self.w, self.w * self.r * self.r
        density = -0.5 * (np.log(2 * np.pi) - np.log(w) + k)
        of_mean, of_noise = self.Z * w[:, None], self.Z * (w * self.r)[:, None]
        of_variance = self.V * k[:, None]
        return np.column_stack([of_mean, of_noise, of_variance, self.V[:, 1:], np.sqrt(w), density])


@dataclass(frozen=True, eq=False)
class CallColumns:
    """How the columns of a null model are summed over hard calls.

    Attributes
    ----------
    of : NullColumns
    plan : ColumnSumsPlan
    summed : ndarray of intp, shape (k,)
        Places of the plan's columns among all. Where all weights are equal, counts tell of some.
    nodes : ndarray, shape (3,)
        Copies that the classes of the genotype's own sums stand for.
    """

    of: NullColumns
    plan: ColumnSumsPlan
    summed: NDArray[np.intp]
    nodes: ClassVar[Float] = np.arange(3.0)

    @classmethod
    def planned(cls, null: NullModel, width: int) -> CallColumns:
        """Prepare sums for packed rows of `width` bytes."""
        of = NullColumns.of(null)
        columns = of.columns()
        summed = np.arange(columns.shape[1])
        if of.weight:
            summed = summed[1:-2]
        return cls(of, ColumnSumsPlan.of(width, of.samples, columns[:, summed]), summed)

    def sums(self, genotypes: GenotypeBlock, counts: GenotypeCounts) -> ClassColumnSums:
        """Pass over the calls of some variants, which counts them as well."""
        del counts
        found = self.plan.sums(packed_calls(genotypes, "variants summed over classes"))
        one, two, absent = found.counts.T
        called = self.of.n - absent
        people = np.column_stack([called - one - two, one, two]).astype(np.float64)
        sums = [found.one, found.two, found.called]
        if self.of.weight:
            numbers = one, two, called
            sums = [self._filled(*known) for known in zip(sums, numbers, strict=True)]
        once, twice, everybody = sums
        by_class = [part[:, self.of.own] for part in (everybody - once - twice, once, twice)]
        nodes, unknown = np.stack(by_class, axis=1), np.full((len(people), 2), np.nan)
        return ClassColumnSums(people, once, twice, everybody, nodes, unknown)

    def _filled(self, sums: Float, number: NDArray[np.int64]) -> Float:
        """Add the sums that follow from numbers of people of equal weight."""
        w, z = self.of.weight, self.of.z
        columns = np.empty((len(sums), 2 * (z + self.of.v) + 1))
        columns[:, self.summed] = sums
        columns[:, 0], columns[:, -2] = w * number, np.sqrt(w) * number
        columns[:, -1] = -0.5 * (np.log(2 * np.pi / w) * number + columns[:, 2 * z])
        return columns


@dataclass(frozen=True, eq=False)
class DosageColumns:
    """How the columns of a null model are summed over dosages: within soft classes.

    These take Σq·h and Σq·h² of every column. The latter are by and large what the means of the
    covariates make of those of w, wr and wr²: what is left is of second order where the genotype is
    all but independent of the covariates. Of few people they are summed all the same; of many,
    another pass makes them where they matter only.

    Attributes
    ----------
    of : NullColumns
    plan : PowerSumsPlan
    summed : ndarray of intp, shape (k,)
        Places of the plan's columns among all: not of own ones, which have sums of their own.
    means : ndarray, shape (k,)
        Of each of them in units of its own column.
    like : ndarray of intp, shape (k,)
        Which of the own columns that is.
    nodes : ndarray, shape (7,)
        Copies that the classes of the genotype's own sums stand for.
    """

    of: NullColumns
    plan: PowerSumsPlan
    summed: NDArray[np.intp]
    means: Float
    like: NDArray[np.intp]
    nodes: ClassVar[Float] = NODES

    @property
    def exact(self) -> bool:
        """Whether sums come with second powers of their own."""
        return self.of.n < SECOND_POWERS_APART or not len(self.summed)

    @classmethod
    def planned(cls, null: NullModel) -> DosageColumns:
        """Prepare sums over dosages."""
        of = NullColumns.of(null)
        z, v = of.z, of.v
        columns = of.columns()
        totals = columns.sum(axis=0)
        # V and the density enter nothing with a second power, and √w has its own.
        like = np.repeat([0, 1, 2, 0], [z, z, v, v + 1])
        means = np.zeros(len(like))
        means[:z] = means[z : 2 * z] = totals[:z] / totals[0]
        of_k = slice(2 * z, 2 * z + v)
        means[of_k] = totals[of_k] / totals[2 * z]
        # Of equal weights, √w and the density follow.
        own = of.own[:3] if of.weight else of.own
        last = len(like) - (2 if of.weight else 0)
        summed = np.setdiff1d(np.arange(last), own)
        plan = PowerSumsPlan.of(of.samples, columns[:, summed], columns[:, own])
        return cls(of, plan, summed, means[summed], like[summed])

    def sums(self, genotypes: GenotypeBlock, counts: GenotypeCounts) -> ClassColumnSums:
        """Pass over the dosages of some variants."""
        assert isinstance(genotypes, Dosages)
        number, unit = counts.called, 2.0 / genotypes.steps
        everybody = number[:, None].astype(np.float64)
        copies = np.asarray(counts.codes[:, None] * unit, np.float64)
        squares = np.asarray(counts.squares[:, None] * unit**2, np.float64)
        centre = counts.mean_copies
        found = self.plan.sums(genotypes, centre, number)
        own_first, own_second = found.own_about(centre)
        if not len(self.summed):
            second = np.zeros_like(found.first)
        elif self.exact:
            second = self.plan.squares(genotypes, centre)
        else:
            second = own_second[:, self.like] * self.means
        called, first, twice = np.zeros((3, len(number), 2 * (self.of.z + self.of.v) + 1))
        nodes = node_sums(found.own, found.middle)
        own = self.of.own[: found.own.shape[2]]
        for out, some, of_own in (
            (called, found.called, found.own[:, 0]),
            (first, found.first, own_first),
            (twice, second, own_second),
        ):
            out[:, self.summed], out[:, own] = some, of_own
            if w := self.of.weight:
                out[:, -2] = out[:, 0] / np.sqrt(w)
        if w := self.of.weight:
            called[:, -1] = -0.5 * (np.log(2 * np.pi / w) * number + called[:, 2 * self.of.z])
            nodes = np.concatenate([nodes, nodes[:, :, :1] / np.sqrt(w)], axis=2)
        one, two = soft_sums(called, first, twice, centre)
        # Of 1, g and g² in place of powers of g − ḡ.
        heterozygous, homozygous = soft_sums(everybody, copies, squares, np.zeros(len(number)))
        people = np.column_stack([everybody - heterozygous - homozygous, heterozygous, homozygous])
        # Of powers of g − ḡ in place of those of u.
        shift = found.middle - centre
        of_first = copies[:, 0] - found.middle * number
        of_second = squares[:, 0] - 2 * found.middle * copies[:, 0] + found.middle**2 * number
        third, fourth = found.plain.T
        cubes = third + shift * (3 * of_second + shift * (3 * of_first + shift * number))
        fourths = fourth + shift * (
            4 * third + shift * (6 * of_second + shift * (4 * of_first + shift * number))
        )
        higher = np.column_stack([cubes, fourths])
        return ClassColumnSums(people, one, two, called, nodes, higher)

    def squared(self, genotypes: GenotypeBlock, sums: ClassColumnSums) -> ClassColumnSums:
        """Make the second powers of variants whose sums are there, in another pass."""
        assert isinstance(genotypes, Dosages)
        one, two = sums.one.copy(), sums.two.copy()
        centre = (sums.people[:, 1] + 2 * sums.people[:, 2]) / sums.people.sum(axis=1)
        second = self.plan.squares(genotypes, centre)
        called = sums.called[:, self.summed]
        first = one[:, self.summed] + 2 * two[:, self.summed] - centre[:, None] * called
        one[:, self.summed], two[:, self.summed] = soft_sums(called, first, second, centre)
        return sums._replace(one=one, two=two)


ClassColumns = CallColumns | DosageColumns


def class_columns(null: NullModel, width: int | None) -> ClassColumns:
    """Prepare sums for packed rows of `width` bytes; for dosages where that is None."""
    return DosageColumns.planned(null) if width is None else CallColumns.planned(null, width)


def _union(X: Float, V: Float) -> tuple[Float, NDArray[np.intp]]:
    """Put the columns of X and those of V that X lacks side by side; say where V's are."""
    columns, place = [*X.T], []
    for column in V.T:
        same = [k for k, other in enumerate(columns) if np.array_equal(column, other)]
        place.append(same[0] if same else len(columns))
        columns.extend([] if same else [column])
    return np.column_stack(columns), np.array(place, np.intp)


def work_bytes(m: int, n_total: int, n: int, n_mean: int, n_variance: int, *, dosages: bool) -> int:
    """Bound the memory of a plan and its sums of at most `m` variants, genotypes not.

    Parameters
    ----------
    m, n_total, n, n_mean, n_variance : int
        Variants per call, people in the packed calls and those analysed, columns of the designs.
    dosages : bool

    Returns
    -------
    int
        Bytes. Columns are made in double precision, and kept in half of that.
    """
    union = n_mean + n_variance - 1
    columns = 2 * (union + n_variance) + 1
    made = 8 * n * (2 * columns + 3 * union)
    at_once = min(m, VARIANTS_AT_ONCE)
    if dosages:
        own = len(NODES) * 3 * 4
        summed = dosage_powers.work_bytes(n, columns)
        return made + summed + 8 * at_once * (6 * columns + own)
    return made + column_sums.work_bytes(at_once, n_total, columns) + 8 * 3 * at_once * columns
