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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp

from hlmm_scan.kernels.scores.residual_bins import ResidualBins
from hlmm_scan.kernels.scores.saddlepoints import mean_and_joint, rows_of_room, variance
from hlmm_scan.models.inference import neg_log10_p
from hlmm_scan.schema import ScoreFlag

Float = NDArray[np.float64]

_ADD_AT_BOUND = int(ScoreFlag.ADD_AT_BOUND)
_VAR_AT_BOUND = int(ScoreFlag.VAR_AT_BOUND)
_AV_AT_BOUND = int(ScoreFlag.AV_AT_BOUND)
_VAR_UNKNOWN = int(ScoreFlag.VAR_UNKNOWN)

_TAIL = 2.3  # |z| from which on the tail counts
_TAIL_JOINT = 7.8  # the same of the joint statistic
_LITTLE = 0.1  # change of log p by third-order terms up to which the normal form has them right
_LITTLE_FOURTH = 0.02  # the same of fourth-order terms
_MUCH = 0.25  # change of z by third-order terms from which on saddlepoints are taken throughout
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


@njit(nogil=True, cache=True, error_model="numpy")
def _short(z: float, cumulant: float, tail: float) -> bool:  # pragma: no cover
    """Whether a standardised score is as far out as `tail` on the short side of its distribution.

    The short side of a skew score ends: squares that few outlying people hold most of cannot be
    much below their mean, and a value of −1 may be the least in a thousand. As far out as `tail` is
    where a gamma variable of that third cumulant κ is (Wilson and Hilferty 1931:
    z = 6/κ·((1 + κz₀/2)^⅓ − 1) + κ/6); beyond _MUCH_SKEW, everywhere on that side.
    """
    skew = abs(cumulant)
    if skew < _LITTLE_SKEW or cumulant * z >= 0.0:
        return False
    root = 1.0 - (tail + skew / 6.0) * skew / 6.0
    return skew > _MUCH_SKEW or 1.0 + cumulant * z / 2.0 < root * root * root


@njit(nogil=True, cache=True, error_model="numpy")
def _saddlepoints(
    whole: Any,
    everybody: float,
    N: Any,
    g: Any,
    U: tuple[float, float, float],
    asked: tuple[bool, bool, bool],
    own: Any,
    room: Any,
    bits: Any,
    out: Any,
) -> int:  # pragma: no cover
    """Overwrite the normal forms by saddlepoints where `asked`: mean, variance, given the mean.

    Parameters are those of :func:`_one`; `g` are centred copies.
    """
    by_mean, by_variance, by_joint = asked
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
            table, people, centred, U[0], U[1], by_joint, room, bits
        )
        if found & 1 or out[3] == out[3]:
            flags |= _ADD_AT_BOUND
        if by_joint:
            out[2] = z_given
            if found:
                flags |= _AV_AT_BOUND
    return flags


@njit(nogil=True, cache=True, error_model="numpy")
def _one(
    j: int,
    whole: Any,
    everybody: float,
    moments: Any,
    N: Any,
    copies: Any,
    scores: Any,
    units: Any,
    standardised: bool,
    g: Any,
    own: Any,
    room: Any,
    bits: Any,
    out: Any,
) -> int:  # pragma: no cover
    """Fill z of the mean, of the variance, of the variance given the mean, and two log p.

    The latter are those of the mean at its bound, and at the bound of the other side.

    `whole` is the table of bins, of `everybody`, `own` room for one, and `g` for a number a class;
    `N` and `copies` are of all classes; `scores` are Σgs, Σgq and the variance's with the additive
    effect taken out, in `units`, and over √Σg² where they are `standardised`. Returns the flags.
    """
    size, n, centre = 0, 0.0, 0.0
    for c in range(N.shape[1]):
        if N[j, c] > 0.0:
            size += 1
        n += N[j, c]
        centre += N[j, c] * copies[j, c]
    for i in range(5):
        out[j, i] = math.nan
    if size < 2:
        return 0
    centre /= n
    G2 = G3 = G4 = 0.0
    for c in range(N.shape[1]):
        g[c] = copies[j, c] - centre
        square = g[c] * g[c]
        G2 += N[j, c] * square
        G3 += N[j, c] * square * g[c]
        G4 += N[j, c] * square * square
    if not G2 > 0.0:
        return 0
    root = math.sqrt(G2)
    each, unit = 1.0 / root, root if standardised else 1.0
    U = (
        scores[j, 0] * units[0] * unit,
        scores[j, 1] * units[1] * unit,
        scores[j, 2] * units[2] * unit,
    )
    skewness = G3 * each * each * each
    kurtosis = G4 * each * each * each * each - 3.0 / n
    exact = math.sqrt(1.0 - 1.0 / n) * each
    deviation = moments[2]
    # Normal forms to third order.
    plain_a = exact * U[0]
    square_a = plain_a * plain_a
    third_a = skewness * moments[0]
    out[j, 0] = plain_a - third_a * (square_a - 1.0) / 6.0
    change_a = abs(out[j, 0] - plain_a)
    fourth_a = abs(kurtosis * moments[1]) * square_a * square_a / 24.0
    tail = abs(plain_a) > _TAIL and (abs(plain_a) * change_a > _LITTLE or fourth_a > _LITTLE_FOURTH)
    short_a = _short(plain_a, third_a, _TAIL)
    by_mean = change_a > _MUCH or tail or short_a
    by_joint = by_variance = False
    flags = 0
    if math.isnan(moments[3]):
        flags = _VAR_UNKNOWN
    else:
        unit = exact / deviation
        plain_2 = unit * U[1]
        rho = moments[3]
        plain_p = (plain_2 - rho * plain_a) / math.sqrt(1.0 - rho * rho)
        square_p = plain_p * plain_p
        out[j, 2] = plain_p - skewness * (
            moments[6] * (square_a - 1.0) / 2.0
            + moments[7] * plain_a * plain_p / 2.0
            + moments[8] * (square_p - 1.0) / 6.0
        )
        change_p = abs(out[j, 2] - plain_p)
        fourth = fourth_a + abs(kurtosis * moments[5]) * square_p * square_p / 24.0
        tail = square_a + square_p > _TAIL_JOINT and (
            abs(plain_p) * change_p + abs(plain_a) * change_a > _LITTLE or fourth > _LITTLE_FOURTH
        )
        left = math.sqrt(max(_TAIL_JOINT - square_a, 0.0))
        short = short_a or _short(plain_p, skewness * moments[8], left)
        by_joint = change_p > _MUCH or tail or short
        plain_b = unit * U[2]
        square_b = plain_b * plain_b
        bias = -skewness / deviation
        third_b = skewness * moments[4]
        out[j, 1] = plain_b - bias - third_b * (square_b - 1.0) / 6.0
        change_b = abs(out[j, 1] - plain_b)
        fourth = abs(kurtosis * moments[5]) * square_b * square_b / 24.0
        tail = abs(plain_b) > _TAIL and (
            abs(plain_b) * change_b > _LITTLE or fourth > _LITTLE_FOURTH
        )
        # r² − 1 ends at −1, so the score of few carriers at −√G₂ over the deviation of r²: the
        # gamma variable that ends there has this third cumulant.
        end_b = max(abs(third_b), 2.0 * deviation * each)
        short = _short(plain_b, math.copysign(end_b, skewness), _TAIL)
        by_variance = change_b > _MUCH or tail or short
    if by_mean or by_variance or by_joint:
        asked = by_mean, by_variance, by_joint
        flags |= _saddlepoints(whole, everybody, N[j], g, U, asked, own, room, bits, out[j])
    return flags


@njit(nogil=True, cache=True, error_model="numpy")
def _all(
    table: Any,
    moments: Any,
    N: Any,
    copies: Any,
    scores: Any,
    units: Any,
    standardised: bool,
    out: Any,
    flags: Any,
) -> None:  # pragma: no cover
    everybody = table[0].sum()
    own, g = np.empty_like(table), np.empty(N.shape[1])
    room = np.empty((rows_of_room(N.shape[1]), table.shape[1]))
    bits = np.empty(table.shape[1], np.int64)
    for j in range(len(N)):
        flags[j] = _one(
            j, table, everybody, moments, N, copies, scores, units, standardised,
            g, own, room, bits, out,
        )  # fmt: skip


def score_tests(
    bins: ResidualBins,
    people: Float,
    copies: Float,
    scores: Float,
    units: tuple[float, float, float] | None = None,
) -> ScoreTests:
    """Test m variants.

    Parameters
    ----------
    bins : ResidualBins
        Of the null model.
    people, copies : ndarray, shape (m, c)
        People in the classes of each variant's genotype, and their copies of the effect allele.
    scores : ndarray, shape (m, 3)
        Σgs, Σgq and Σg(q with the additive effect taken out), g in copies less their mean, in
        units in which their variances are those of permutations: Σg² and Σg²·Σq²/n.
    units : tuple of float, optional
        Where scores are standardised: what they are √Σg² times this of.

    Returns
    -------
    ScoreTests
    """
    m = len(people)
    out, flags = np.empty((m, 5)), np.empty(m, np.int8)
    _all(
        bins.table, bins.moments,
        np.require(people, np.float64, ["C"]), np.require(copies, np.float64, ["C"]),
        np.require(scores, np.float64, ["C"]), np.array(units or (1.0, 1.0, 1.0)),
        units is not None, out, flags,
    )  # fmt: skip
    z_a, z_b, given, bound, opposite = out.T
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
