"""The tests: scores at the null model, held against the permutation distribution of residuals.

Three questions, each with −log10 p: the additive effect on the mean; the effect on the variance,
whatever the additive one; both nought (2 df). A Wald test takes its weights from the fit, and rare
carriers whose residuals happen to be alike get an enormous one; a score has the null model's.

A score's distribution under the null hypothesis is that of genotype classes which fall at random
on the residuals, class counts fixed. Where the third-order normal form of that does (most
variants, of which most have no small p), it is taken, else the saddlepoint
(:mod:`~hlmm_scan.kernels.scores.saddlepoints`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.scores.residual_bins import ResidualBins
from hlmm_scan.kernels.scores.saddlepoints import mean_and_joint, rows_of_room, variance
from hlmm_scan.models.inference import neg_log10_p
from hlmm_scan.schema import ScoreFlag

_ADD_AT_BOUND = int(ScoreFlag.ADD_AT_BOUND)
_VAR_AT_BOUND = int(ScoreFlag.VAR_AT_BOUND)
_AV_AT_BOUND = int(ScoreFlag.AV_AT_BOUND)
_VAR_UNKNOWN = int(ScoreFlag.VAR_UNKNOWN)

_ROUNDING = 1e-9
_TAIL = 2.3  # |z| from which on the tail counts
_TAIL_JOINT = 7.8  # the same of the joint statistic
_LITTLE = 0.1  # change of log p by third-order terms up to which the normal form has them right
_LITTLE_FOURTH = 0.02  # the same of fourth-order terms
_MUCH = 0.25  # change of z by third-order terms from which on saddlepoints are taken throughout
_LIGHT = -0.1  # fourth cumulant of a score below which saddlepoints are taken throughout
_LITTLE_SKEW = 0.7  # third cumulant of a score up to which its sides are alike enough
_MUCH_SKEW = 1.5  # the same from which on its short side lies within the bulk


@dataclass(frozen=True)
class ScoreTests:
    """−log10 p of m variants.

    Attributes
    ----------
    add, var, av : ndarray, shape (m,)
        NaN where the genotype does not vary; `var` also where the trait has two values, whose
        variance is a function of their mean. `av` is `add` there.
    flags : ndarray of int8, shape (m,)
        :class:`~hlmm_scan.schema.ScoreFlag`.
    """

    add: Float
    var: Float
    av: Float
    flags: NDArray[np.int8]

    @classmethod
    def empty(cls, m: int) -> ScoreTests:
        """Return m rows without tests."""
        add, var, av = np.full((3, m), np.nan)
        return cls(add, var, av, np.zeros(m, np.int8))

    def put(self, rows: NDArray[np.integer], other: ScoreTests) -> None:
        """Copy `other` (one row for each of `rows`) into these rows."""
        self.add[rows], self.var[rows], self.av[rows] = other.add, other.var, other.av
        self.flags[rows] = other.flags


@dataclass(frozen=True, eq=False)
class GenotypeShapes:
    """What the tests take of the genotypes of m variants.

    Attributes
    ----------
    moments : ndarray, shape (5, m)
        People called, mean copies, and the sums of powers 2 to 4 of copies less their mean, the
        latter 0 where the genotype does not vary.
    classes : callable
        Returns, for rows of shape (k,), the people in the classes of those variants and their
        copies of the effect allele, (k, c) each: only saddlepoints ask.
    """

    moments: Float
    classes: Callable[[NDArray[np.intp]], tuple[Float, Float]]

    @classmethod
    def of(cls, people: Float, copies: Float) -> GenotypeShapes:
        """Take them from classes that are known, shape (m, c) each."""
        people, copies = (np.require(x, np.float64, ["C"]) for x in (people, copies))
        moments = np.empty((5, len(people)))
        _describe(people, copies, moments)
        return cls(moments, lambda rows: (people[rows], copies[rows]))

    def at_hand(self) -> GenotypeShapes:
        """Return the same with all classes made now, for tests that are made over and over."""
        people, copies = self.classes(np.arange(self.moments.shape[1]))
        return GenotypeShapes(self.moments, lambda rows: (people[rows], copies[rows]))

    def repeated(self, times: int) -> GenotypeShapes:
        """Return those of a single variant so many times over."""
        moments = np.repeat(self.moments, times, axis=1)
        return GenotypeShapes(moments, lambda rows: self.classes(np.zeros_like(rows)))


@njit(nogil=True, cache=True, error_model="numpy")
def _short(z: float, cumulant: float, tail: float) -> bool:  # pragma: no cover
    """Whether a standardised score is as far out as `tail` on the short side of its distribution.

    The short side of a skew score ends: squares that few outlying people hold most of cannot be
    much below their mean, and a value of −1 may be the least in a thousand. As far out as `tail` is
    where a gamma variable of that third cumulant κ is (Wilson and Hilferty 1931:
    z = 6/κ·((1 + κz₀/2)^⅓ − 1) + κ/6); beyond _MUCH_SKEW, everywhere on that side.
    """
    skew = abs(cumulant)
    root = 1.0 - (tail + skew / 6.0) * skew / 6.0
    far = (skew > _MUCH_SKEW) | (1.0 + cumulant * z / 2.0 < root * root * root)
    return far & (skew >= _LITTLE_SKEW) & (cumulant * z < 0.0)


@njit(nogil=True, cache=True, error_model="numpy")
def _saddlepoints(
    whole: Any,
    everybody: float,
    N: Any,
    g: Any,
    U: Any,
    asked: int,
    own: Any,
    room: Any,
    bits: Any,
    out: Any,
) -> int:  # pragma: no cover
    """Overwrite a variant's normal forms by the saddlepoints `asked` for; return its flags.

    `whole` is the table of bins, of `everybody`, and `own` room for one; `N` and `g` are people and
    centred copies of all classes, `U` and `out` as :func:`_all` has them.
    """
    by_mean, by_variance, by_joint = asked & 1, asked & 2, asked & 4
    # The largest class first, the empty ones left out.
    largest, size, n = 0, 0, 0.0
    for c in range(len(N)):
        if N[c] > N[largest]:
            largest = c
        if N[c] > 0.0:
            size += 1
        n += N[c]
    people, centred = np.empty(size), np.empty(size)
    people[0], centred[0] = N[largest], g[largest]
    size = 1
    for c in range(len(N)):
        if c != largest and N[c] > 0.0:
            people[size], centred[size] = N[c], g[c]
            size += 1
    table = whole
    if n < everybody:
        # People without a call are missing from every bin alike.
        table, share = own, n / everybody
        for i in range(len(own)):
            own[i] = whole[i] if i in (1, 2) else share * whole[i]
    flags = 0
    if by_variance:
        out[1], found = variance(table, people, centred, U[2], room, bits)
        if found:
            flags |= _VAR_AT_BOUND
    if by_mean or by_joint:
        out[0], z_given, out[3], out[4], found = mean_and_joint(
            table, people, centred, U[0], U[1], by_joint > 0, room, bits
        )
        if found & 1 or out[3] == out[3]:
            flags |= _ADD_AT_BOUND
        if by_joint:
            out[2] = z_given
            if found:
                flags |= _AV_AT_BOUND
    return flags


@njit(nogil=True, cache=True, error_model="numpy")
def _describe(N: Any, copies: Any, classes: Any) -> None:  # pragma: no cover
    """Fill people, mean copies, and the sums of powers 2 to 4 of centred copies of each variant.

    The latter are 0 where there is one class only.
    """
    for j in range(len(N)):
        n = total = G2 = G3 = G4 = 0.0
        some = 0
        for c in range(N.shape[1]):
            some += N[j, c] > 0.0
            n += N[j, c]
            total += N[j, c] * copies[j, c]
        centre = total / n
        for c in range(N.shape[1]):
            g = copies[j, c] - centre
            square = g * g
            G2 += N[j, c] * square
            G3 += N[j, c] * square * g
            G4 += N[j, c] * square * square
        if some < 2:
            G2 = G3 = G4 = 0.0
        classes[0, j], classes[1, j], classes[2, j] = n, centre, G2
        classes[3, j], classes[4, j] = G3, G4


@njit(nogil=True, cache=True, error_model="numpy")
def _normal_forms(
    moments: Any, classes: Any, U: Any, z_a: Any, z_b: Any, z_p: Any, asked: Any
) -> None:  # pragma: no cover
    """Fill the third-order normal forms, and whether they do.

    `U` has the scores in rows, `classes` what :func:`_describe` says; z are those of the mean, of
    the variance, and of the variance given the mean. `asked` is 1 where the first wants a
    saddlepoint, 2 where the second and 4 where the last does. No variant's operations depend on
    another's, and none is put together with another, so that vectors of them round alike.

    Where one person has a share ρ of a residual's variance, the score of a common allele lies
    about ±√ρ rather than 0: its fourth cumulant is negative, and too many p-values would be below
    a half, too few below 0.1. (Of rare alleles it is positive, which their skewness tells already.)
    """
    deviation, rho = moments[2], moments[3]
    apart = 1.0 / math.sqrt(1.0 - rho * rho)
    for j in range(len(z_a)):
        n, G2 = classes[0, j], classes[2, j]
        each = 1.0 / math.sqrt(G2)
        skewness = classes[3, j] * each * each * each
        excess = classes[4, j] * each * each * each * each - 3.0 / n
        light_a, light_b = excess * moments[1] < _LIGHT, excess * moments[5] < _LIGHT
        kurtosis = abs(excess)
        exact = math.sqrt(1.0 - 1.0 / n) * each
        # The mean.
        plain_a = exact * U[0, j]
        square_a = plain_a * plain_a
        third_a = skewness * moments[0]
        z_a[j] = plain_a - third_a * (square_a - 1.0) / 6.0
        change_a = abs(z_a[j] - plain_a)
        little_a = abs(plain_a) * change_a
        fourth_a = kurtosis * abs(moments[1]) * square_a * square_a / 24.0
        short_a = _short(plain_a, third_a, _TAIL)
        tail = (abs(plain_a) > _TAIL) & ((little_a > _LITTLE) | (fourth_a > _LITTLE_FOURTH))
        by_mean = (change_a > _MUCH) | tail | short_a | light_a
        # The variance given the mean.
        unit = exact / deviation
        plain_p = (unit * U[1, j] - rho * plain_a) * apart
        square_p = plain_p * plain_p
        z_p[j] = plain_p - skewness * (
            moments[6] * (square_a - 1.0) / 2.0
            + moments[7] * plain_a * plain_p / 2.0
            + moments[8] * (square_p - 1.0) / 6.0
        )
        change_p = abs(z_p[j] - plain_p)
        fourth = fourth_a + kurtosis * abs(moments[5]) * square_p * square_p / 24.0
        little = abs(plain_p) * change_p + little_a
        left = math.sqrt(max(_TAIL_JOINT - square_a, 0.0))
        short = short_a | _short(plain_p, skewness * moments[8], left)
        far = square_a + square_p > _TAIL_JOINT
        tail = far & ((little > _LITTLE) | (fourth > _LITTLE_FOURTH))
        by_joint = (change_p > _MUCH) | tail | short | light_a | light_b
        # The variance.
        plain_b = unit * U[2, j]
        square_b = plain_b * plain_b
        third_b = skewness * moments[4]
        bias = -skewness / deviation
        z_b[j] = plain_b - bias - third_b * (square_b - 1.0) / 6.0
        change_b = abs(z_b[j] - plain_b)
        fourth = kurtosis * abs(moments[5]) * square_b * square_b / 24.0
        little = abs(plain_b) * change_b
        # r² − 1 ends at −1, so the score of few carriers at −√G₂ over the deviation of r²: the
        # gamma variable that ends there has this third cumulant.
        end_b = max(abs(third_b), 2.0 * deviation * each)
        short = _short(plain_b, end_b if skewness >= 0.0 else -end_b, _TAIL)
        tail = (abs(plain_b) > _TAIL) & ((little > _LITTLE) | (fourth > _LITTLE_FOURTH))
        by_variance = (change_b > _MUCH) | tail | short | light_b
        asked[j] = by_mean + 2 * by_variance + 4 * by_joint


@njit(nogil=True, cache=True, error_model="numpy")
def _bulk(
    moments: Any, classes: Any, scores: Any, units: Any, U: Any, out: Any, asked: Any, flags: Any
) -> None:  # pragma: no cover
    """Fill the scores in `U`, z of the mean, of the variance and of the variance given the mean.

    `scores` are Σgs, Σgq and the variance's with the additive effect taken out, in `units`, the
    last of which says whether over √Σg² as well; `asked` is what saddlepoints are wanted of, 0 of a
    genotype that does not vary.
    """
    unknown = math.isnan(moments[3])
    for k in range(3):
        for j in range(len(asked)):
            root = math.sqrt(classes[2, j]) if units[3] > 0.0 else 1.0
            U[k, j] = scores[j, k] * units[k] * root
    _normal_forms(moments, classes, U, out[0], out[1], out[2], asked)
    for j in range(len(asked)):
        flags[j] = 0
        if not classes[2, j] > 0.0:
            out[0, j] = out[1, j] = out[2, j] = math.nan
            asked[j] = 0
        elif unknown:
            flags[j] = _VAR_UNKNOWN
            out[1, j] = out[2, j] = math.nan
            asked[j] &= 1


@njit(nogil=True, cache=True, error_model="numpy")
def _tails(
    table: Any, N: Any, copies: Any, centres: Any, U: Any, asked: Any, out: Any, flags: Any
) -> None:  # pragma: no cover
    """Overwrite by saddlepoints what variants want of them.

    `table` is that of the bins; `N` and `copies` are of all classes; rows 3 and 4 of `out` are log
    p of the mean's score at its bound, and at the bound of the other side.
    """
    everybody = table[0].sum()
    own, g = np.empty_like(table), np.empty(N.shape[1])
    room = np.empty((rows_of_room(N.shape[1]), table.shape[1]))
    bits = np.empty(table.shape[1], np.int64)
    for j in range(len(N)):
        for c in range(N.shape[1]):
            g[c] = copies[j, c] - centres[j]
        flags[j] |= _saddlepoints(
            table, everybody, N[j], g, U[:, j], asked[j], own, room, bits, out[:, j]
        )


def score_tests(
    bins: ResidualBins,
    people: Float,
    copies: Float,
    scores: Float,
    units: tuple[float, float, float] | None = None,
) -> ScoreTests:
    """Test m variants whose genotype classes are known.

    Parameters
    ----------
    bins, scores, units
        As for :func:`shape_tests`.
    people, copies : ndarray, shape (m, c)
        People in the classes of each variant's genotype, and their copies of the effect allele.
    """
    return shape_tests(bins, GenotypeShapes.of(people, copies), scores, units)


def shape_tests(
    bins: ResidualBins,
    genotypes: GenotypeShapes,
    scores: Float,
    units: tuple[float, float, float] | None,
) -> ScoreTests:
    """Test m variants.

    Parameters
    ----------
    bins : ResidualBins
        Of the null model.
    genotypes : GenotypeShapes
    scores : ndarray, shape (m, 3)
        Σgs, Σgq and Σg(q with the additive effect taken out), g in copies less their mean, in
        units in which their variances are those of permutations: Σg² and Σg²·Σq²/n.
    units : tuple of float, or None
        Where scores are standardised: what they are √Σg² times this of.

    Returns
    -------
    ScoreTests
    """
    m = len(scores)
    U, out = np.empty((3, m)), np.full((5, m), np.nan)
    asked, flags = np.empty(m, np.int64), np.empty(m, np.int8)
    sizes = np.array([1.0, 1.0, 1.0, 0.0] if units is None else [*units, 1.0])
    _bulk(
        bins.moments, genotypes.moments, np.require(scores, np.float64, ["C"]), sizes,
        U, out, asked, flags,
    )  # fmt: skip
    if len(rows := np.flatnonzero(asked)):
        N, copies = (np.require(x, np.float64, ["C"]) for x in genotypes.classes(rows))
        of_classes = np.empty((5, len(rows)))
        _describe(N, copies, of_classes)
        # Dosages that hardly vary may be of one class, which has no tail.
        some = of_classes[2] > 0
        rows, N, copies, of_classes = rows[some], N[some], copies[some], of_classes[:, some]
        # Classes of dosages of very few people may have less than all of Σh².
        size = np.sqrt(of_classes[2] / genotypes.moments[2, rows])
        own = U[:, rows] * np.where(np.abs(size - 1) > _ROUNDING, size, 1.0)
        # Row-major, however many they are: numba compiles for each layout.
        centres, own, tails = map(np.ascontiguousarray, (of_classes[1], own, out[:, rows]))
        raised = flags[rows]
        _tails(bins.table, N, copies, centres, own, asked[rows], tails, raised)
        out[:, rows], flags[rows] = tails, raised
    z_a, z_b, given, bound, opposite = out
    log_p = np.log(2.0) + log_ndtr(-np.abs(z_a))
    # At the bound of the mean's score hardly anything is left that the other could be.
    ends = np.isfinite(bound)
    given = np.where(np.isnan(given) | ends, 0.0, given)
    square = z_a * z_a
    rows = np.flatnonzero(ends | (opposite > -np.inf))
    if len(rows):
        one_sided = np.where(ends[rows], bound[rows], log_p[rows] - np.log(2.0))
        # Where no score of the other side is as improbable, none of it is as extreme (Blaker 2000).
        sides = np.where(opposite[rows] > one_sided, 0.0, np.log(2.0))
        log_p[rows] = np.minimum(one_sided + sides, 0.0)
        square[rows] = ndtri_exp(np.minimum(log_p[rows] - np.log(2.0), np.log(0.5))) ** 2
    add = -log_p / np.log(10.0) + 0.0
    joint = neg_log10_p(square + given**2, 2)
    unknown = (flags & _VAR_UNKNOWN) > 0
    return ScoreTests(add, neg_log10_p(z_b**2, 1), np.where(unknown, add, joint), flags)
