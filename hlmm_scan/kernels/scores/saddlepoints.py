"""Saddlepoints of the permutation distribution of a variant's scores, compiled.

Under the null hypothesis the classes of a genotype fall at random on fixed residuals, the class
counts N_c being what they are. A person with residuals (s, q) is in class c, of centred copies
g_c, with probability proportional to N_c·exp(η_c),

    η_c = ν_c + λ₁g_c·s + λ₂g_c·q + λ₃g_c²·s,      K(ν, λ) = Σ log Σ_c (N_c/n)·exp(η_c),

where the sums over people are over bins of residuals
(:mod:`~hlmm_scan.kernels.scores.residual_bins`) and the multipliers ν keep the class counts. With
r² = 2(ν·N + λ·S − K) at the tilt that gives the observed sums S, and v as each function says, z* =
r + log(v/r)/r is standard normal to third order (Barndorff-Nielsen 1986; Robinson 1982 for
permutations). What the functions work out is written out plainly in
:mod:`~hlmm_scan.kernels.scores.saddlepoints_plain`.

Everything is scalar work on one variant: a row is the same whatever block it stands in.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

_SHARED = 6  # rows of scratch room that are no class's
_EVALUATIONS = 120
_DONE = 1e-9  # residual of the equations, in standard deviations of each
_HALVINGS = 14
_STAGES = 12  # on the way to a score that is not reached at once
_CENTRE = 0.3  # |r| below which z* is not worked out: log(v/r)/r would be rounding
_MOST_CHANGE = 1.0  # |z* − r|: more is no correction; seen where a few people hold most variance
_FARTHEST = 3.0  # |log(v/r)|: more is a lattice's edge, where v is 0 or without bound; 1.6 is seen
_LARGEST = 690.0  # exponent

_FAST = {"reassoc", "contract", "nsz", "arcp"}


class _Classes(NamedTuple):
    """What the search takes of the classes; the first is what the k others are compared with.

    Attributes
    ----------
    log_n, d, h : ndarray, shape (k,)
        log(N_c/N₀), g_c − g₀ and g_c² − g₀².
    G : ndarray, shape (4,)
        Σg² and Σg³ at places 2 and 3.
    """

    log_n: Any
    d: Any
    h: Any
    G: Any


class _Tilt(NamedTuple):
    """A tilt and what it gives.

    Attributes
    ----------
    x : ndarray, shape (k + sums,)
        (ν, λ).
    mean : ndarray, shape (k + 3,)
        Of the counts of the classes but the first, and of the sums.
    C : ndarray, shape (k + 3, k + 3)
        K″, the covariance of these.
    """

    x: Any
    mean: Any
    C: Any


class _Aim(NamedTuple):
    """What a tilt is to give: the counts of the classes but the first, and the scores.

    Attributes
    ----------
    target, scale : ndarray, shape (k + scores,)
        `scale` has the standard deviations, in which a distance from the target is measured.
    """

    target: Any
    scale: Any


class _Room(NamedTuple):
    """Scratch room: shapes (:func:`rows_of_room`, b) and (b,), of b bins."""

    work: Any
    bits: Any


@njit(nogil=True, cache=True)
def rows_of_room(classes: int) -> int:  # pragma: no cover
    """Return how many rows of bins the saddlepoints of so many classes work on."""
    k = classes - 1
    return _SHARED + 3 * k + k * (k + 1) // 2


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _exponential(x: Any, bits: Any, out: Any) -> None:  # pragma: no cover
    """Put exp(x) into `out`, `bits` being room for as many integers.

    LLVM makes vector instructions of this, not of the library's function; relative error 1e-14.
    """
    power = bits.view(np.float64)
    for i in range(len(x)):
        y = min(max(x[i], -_LARGEST), _LARGEST)
        k = math.floor(y * 1.4426950408889634 + 0.5)
        t = y - k * 0.6931471805599453
        p = 1.0 / 39916800.0
        p = p * t + 1.0 / 3628800.0
        p = p * t + 1.0 / 362880.0
        p = p * t + 1.0 / 40320.0
        p = p * t + 1.0 / 5040.0
        p = p * t + 1.0 / 720.0
        p = p * t + 1.0 / 120.0
        p = p * t + 1.0 / 24.0
        p = p * t + 1.0 / 6.0
        p = p * t + 0.5
        p = p * t + 1.0
        out[i] = p * t + 1.0
        bits[i] = (np.int64(k) + 1023) << 52
    for i in range(len(x)):
        out[i] *= power[i]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _evaluate(
    bins: Any, classes: _Classes, sums: int, most: int, tilt: _Tilt, room: _Room
) -> None:  # pragma: no cover
    """Fill the means of class counts and of the first `most` sums at a tilt of `sums`, and K″.

    `bins` has rows f, s, q, fs, fq, fs², fsq, fq². Every sum is one of a row of `bins` times one of
    `work`, whose rows are, of each bin, E g and E g² less those of class 0, the variance of g, its
    covariance with g² and the variance of that, Σ_c exp(η_c − η₀), then of each class P_c,
    P_c(g_c − E g), P_c(g_c² − E g²), and P_cP_k of each two. All go through one loop, since
    machine code for each of their own would take half a minute to compile.
    """
    log_n, d, h, _ = classes
    x, mean, C = tilt
    work, bits = room
    k, size = len(d), bins.shape[1]
    first, second, total = work[0], work[1], work[5]
    work[:5] = 0.0
    total[:] = 1.0
    for c in range(k):
        start, on_s, on_q = log_n[c] + x[c], x[k] * d[c], 0.0
        if sums > 1:
            on_q = x[k + 1] * d[c]
        if sums > 2:
            on_s += x[k + 2] * h[c]
        # Of its own: vector instructions do not write where they read.
        P, eta = work[_SHARED + c], work[_SHARED + k + c]
        for i in range(size):
            eta[i] = start + on_s * bins[1, i] + on_q * bins[2, i]
        _exponential(eta, bits, P)
        for i in range(size):
            total[i] += P[i]
    for c in range(k):
        P = work[_SHARED + c]
        for i in range(size):
            P[i] /= total[i]
            first[i] += P[i] * d[c]
        if most > 2:
            for i in range(size):
                second[i] += P[i] * h[c]
    for c in range(k):
        P, one, two = work[_SHARED + c], work[_SHARED + k + c], work[_SHARED + 2 * k + c]
        for i in range(size):
            one[i] = P[i] * (d[c] - first[i])
            work[2, i] += d[c] * one[i]
        if most > 2:
            for i in range(size):
                two[i] = P[i] * (h[c] - second[i])
                work[3, i] += d[c] * two[i]
                work[4, i] += h[c] * two[i]
    rows = _SHARED + 3 * k
    for c in range(k):
        for other in range(c + 1):
            for i in range(size):
                work[rows, i] = work[_SHARED + c, i] * work[_SHARED + other, i]
            rows += 1
    # Which rows of `bins` go with which of `work`, as bits.
    linear, square, of_h, with_h, h_squared = 0b1000, 0b100000, 0, 0, 0
    if most > 1:
        linear, square = 0b11000, 0b11100000
    if most > 2:
        of_h, with_h, h_squared = 0b1000, 0b1100000, 0b100000
    made = np.zeros((8, rows))
    for j in range(rows):
        wanted = 0b1
        if j == 0 or (j >= _SHARED + k and j < _SHARED + 2 * k):
            wanted = linear
        elif j == 1 or (j >= _SHARED + 2 * k and j < _SHARED + 3 * k):
            wanted = of_h
        elif j == 2:
            wanted = square
        elif j == 3:
            wanted = with_h
        elif j == 4:
            wanted = h_squared
        elif j == 5:
            wanted = 0
        for r in range(8):
            if (wanted >> r) & 1:
                value = 0.0
                for i in range(size):
                    value += bins[r, i] * work[j, i]
                made[r, j] = value
    at = _SHARED + 3 * k
    for c in range(k):
        mean[c] = made[0, _SHARED + c]
        for other in range(c + 1):
            C[c, other] = C[other, c] = (mean[c] if c == other else 0.0) - made[0, at]
            at += 1
        C[c, k] = C[k, c] = made[3, _SHARED + k + c]
        C[c, k + 1] = C[k + 1, c] = made[4, _SHARED + k + c]
        C[c, k + 2] = C[k + 2, c] = made[3, _SHARED + 2 * k + c]
    mean[k], mean[k + 1], mean[k + 2] = made[3, 0], made[4, 0], made[3, 1]
    C[k, k], C[k + 1, k + 1], C[k + 2, k + 2] = made[5, 2], made[7, 2], made[5, 4]
    C[k, k + 1] = C[k + 1, k] = made[6, 2]
    C[k, k + 2] = C[k + 2, k] = made[5, 3]
    C[k + 1, k + 2] = C[k + 2, k + 1] = made[6, 3]


@njit(nogil=True, cache=True, error_model="numpy")
def _eliminate(A: Any, b: Any, size: int) -> float:  # pragma: no cover
    """Solve Ax = b in place by elimination with pivots; return det A, NaN where it is singular."""
    determinant = 1.0
    for i in range(size):
        pivot = i
        for j in range(i + 1, size):
            if abs(A[j, i]) > abs(A[pivot, i]):
                pivot = j
        if not abs(A[pivot, i]) > 0.0:
            return math.nan
        if pivot != i:
            determinant = -determinant
            for c in range(size):
                A[i, c], A[pivot, c] = A[pivot, c], A[i, c]
            b[i], b[pivot] = b[pivot], b[i]
        determinant *= A[i, i]
        for j in range(i + 1, size):
            factor = A[j, i] / A[i, i]
            for c in range(i, size):
                A[j, c] -= factor * A[i, c]
            b[j] -= factor * b[i]
    for i in range(size - 1, -1, -1):
        for c in range(i + 1, size):
            b[i] -= A[i, c] * b[c]
        b[i] /= A[i, i]
    return determinant


@njit(nogil=True, cache=True, error_model="numpy")
def _equations(
    kind: int, classes: _Classes, aim: _Aim, tilt: _Tilt, e: Any, J: Any
) -> float:  # pragma: no cover
    """Fill what is to be zero and its derivatives; return its largest element.

    Linear sums (`kind` 1 and 2): class counts, then as many sums, each over its `scale`. The
    variance's score (3): class counts, the score, and the relations λ₃ = −2αλ₂ and λ₁ = c₁λ₂ of
    the tilt in its direction.
    """
    k, G = len(classes.d), classes.G
    x, mean, C = tilt
    target, scale = aim
    n_linear = k + (kind if kind < 3 else 0)
    size = k + kind
    for i in range(n_linear):
        e[i] = (mean[i] - target[i]) / scale[i]
        for j in range(size):
            J[i, j] = C[i, j] / scale[i]
    if kind == 3:
        S1, S2, S3 = mean[k], mean[k + 1], mean[k + 2]
        G2, G3 = G[2], G[3]
        alpha = S1 / G2
        c1 = 2.0 * (alpha * G3 - S3) / G2
        score = S2 - 2.0 * alpha * S3 + alpha * alpha * G3
        e[k] = (score - target[k]) / scale[k]
        root = math.sqrt(G2)
        e[k + 1] = (x[k + 2] + 2.0 * alpha * x[k + 1]) * root
        e[k + 2] = (x[k] - c1 * x[k + 1]) * root
        for j in range(size):
            a, b, c = C[k, j], C[k + 1, j], C[k + 2, j]
            J[k, j] = (c1 * a + b - 2.0 * alpha * c) / scale[k]
            J[k + 1, j] = 2.0 * x[k + 1] / G2 * a * root
            J[k + 2, j] = -x[k + 1] * (2.0 * G3 / (G2 * G2) * a - 2.0 / G2 * c) * root
        J[k + 1, k + 2] += root
        J[k + 1, k + 1] += 2.0 * alpha * root
        J[k + 2, k] += root
        J[k + 2, k + 1] -= c1 * root
    worst = 0.0
    for i in range(size):
        if not abs(e[i]) <= worst:
            worst = abs(e[i])
    return worst


@njit(nogil=True, cache=True, error_model="numpy")
def _search(
    kind: int,
    most: int,
    made: bool,
    bins: Any,
    classes: _Classes,
    aim: _Aim,
    tilt: _Tilt,
    room: _Room,
) -> bool:  # pragma: no cover
    """Move `tilt` to the one that gives the target by damped Newton steps.

    Its mean and K″ are those of the first `most` sums, which they may be already (`made`) at the
    tilt to start from.
    """
    x, size = tilt.x, len(classes.d) + kind
    e, step, J = np.empty(size), np.zeros(size), np.empty((size, size))
    before, worst, length, halvings = x[:size].copy(), math.inf, 1.0, 0
    for evaluation in range(_EVALUATIONS):
        if evaluation > 0 or not made:
            _evaluate(bins, classes, kind, most, tilt, room)
        new = _equations(kind, classes, aim, tilt, e, J)
        if new < _DONE:
            return True
        if new < worst * (1.0 - 0.1 * length):
            worst, length, halvings = new, 1.0, 0
            before[:] = x[:size]
            step[:] = e
            _eliminate(J, step, size)
        else:
            length *= 0.5
            halvings += 1
            if halvings == _HALVINGS:
                return False
        for i in range(size):
            x[i] = before[i] - length * step[i]
    return False


@njit(nogil=True, cache=True, error_model="numpy")
def _determinant(C: Any, size: int) -> float:  # pragma: no cover
    """Return the determinant of the leading part of a matrix."""
    return _eliminate(C[:size, :size].copy(), np.zeros(size), size)


@njit(nogil=True, cache=True, error_model="numpy")
def _log_total(bins: Any, total: Any) -> float:  # pragma: no cover
    """Return Σ f·log Σ_c exp(η_c − η₀)."""
    value = 0.0
    for i in range(len(total)):
        value += bins[0, i] * math.log(total[i])
    return value


@njit(nogil=True, cache=True, error_model="numpy")
def _corrected(r: float, v: float) -> float:  # pragma: no cover
    """Return z* = r + log(v/r)/r; r where that is rounding, or the saddlepoint is none."""
    if abs(r) < _CENTRE or not v / r > 0.0:
        return r
    change = math.log(v / r)
    return r + change / r if abs(change) < min(_FARTHEST, _MOST_CHANGE * abs(r)) else r


@njit(nogil=True, cache=True, error_model="numpy")
def _variance_factor(
    classes: _Classes, tilt: _Tilt, null_counts: float
) -> float:  # pragma: no cover
    """Return v of the variance's score.

    v = λ√(det(I − λCH)·∇ᵀ(I − λCH)⁻¹C∇·det K″_νν/det K″_νν(0)), C the covariance of the sums given
    the class counts, ∇ and H the derivatives of the score by them: Laplace's approximation over
    what the score leaves free (Daniels 1983; Robinson, Ronchetti & Young 2003).
    """
    k, C = len(classes.d), tilt.C
    L, S = tilt.x[k + 1], tilt.mean[k:]
    counts = C[:k, :k].copy()
    given = C[k : k + 3, k : k + 3].copy()
    # Schur complement, column by column.
    for j in range(3):
        solution = C[:k, k + j].copy()
        ratio = _eliminate(C[:k, :k].copy(), solution, k)
        for i in range(3):
            for c in range(k):
                given[i, j] -= C[k + i, c] * solution[c]
    ratio = _eliminate(counts, np.zeros(k), k) / null_counts
    G2, G3 = classes.G[2], classes.G[3]
    alpha = S[0] / G2
    gradient = np.array([2.0 * (alpha * G3 - S[2]) / G2, 1.0, -2.0 * alpha])
    left = np.zeros((3, 3))
    h11, h13 = 2.0 * G3 / (G2 * G2), -2.0 / G2
    for i in range(3):
        left[i, 0] = -L * (given[i, 0] * h11 + given[i, 2] * h13)
        left[i, 2] = -L * given[i, 0] * h13
        left[i, i] += 1.0
    solution = np.zeros(3)
    for i in range(3):
        for j in range(3):
            solution[i] += given[i, j] * gradient[j]
    determinant = _eliminate(left, solution, 3)
    form = 0.0
    for i in range(3):
        form += gradient[i] * solution[i]
    square = determinant * form * ratio
    return L * math.sqrt(square) if square > 0.0 else math.nan


@njit(nogil=True, cache=True, error_model="numpy")
def _largest_mean(
    bins: Any, N: Any, g: Any, sign: float, probability: bool
) -> float:  # pragma: no cover
    """Return the largest Σgs·sign that an allocation can have; or the log of its probability.

    Bins are sorted by s. The classes of most copies take the people of largest s·sign.
    """
    k, size = len(N), bins.shape[1]
    order = np.argsort(g)
    value = log_p = n = 0.0
    if probability:
        for c in range(k):
            n += N[c]
            log_p += math.lgamma(N[c] + 1.0)
        log_p -= math.lgamma(n + 1.0)
    place = k - 1
    left = N[order[place]]
    for b in range(size):
        at = size - 1 - b if sign > 0 else b
        people = bins[0, at]
        if probability:
            log_p += math.lgamma(people + 1.0)
        while people > 1e-9:
            taken = min(people, left)
            value += taken * g[order[place]] * bins[1, at] * sign
            if probability:
                log_p -= math.lgamma(taken + 1.0)
            people -= taken
            left -= taken
            if left <= 1e-9:
                if place == 0:
                    break
                place -= 1
                left = N[order[place]]
    return log_p if probability else value


@njit(nogil=True, cache=True, error_model="numpy")
def _staged(
    kind: int,
    most: int,
    made: bool,
    bins: Any,
    classes: _Classes,
    aim: _Aim,
    start: Any,
    tilt: _Tilt,
    room: _Room,
) -> float:  # pragma: no cover
    """Find the tilt of a target; where that fails, of as much of its scores as can be had.

    `most` and `made`, of `start`, are as :func:`_search` takes them. Returns the share of the
    scores that was reached, 0 where none was.
    """
    k, x, target = len(classes.d), tilt.x, aim.target
    size = k + kind
    part, last = target.copy(), np.zeros(size)
    x[:size] = start[:size]
    reached, share, ahead = 0.0, 1.0, 1.0
    for stage in range(3 * _STAGES):
        part[k:] = target[k:] * share
        known = made and stage == 0
        if _search(kind, most, known, bins, classes, _Aim(part, aim.scale), tilt, room):
            reached = share
            last[:] = x[:size]
            if share == 1.0 or stage == 3 * _STAGES - 1:
                return reached
        elif stage == 0:
            ahead = 1.0 / _STAGES
        else:
            ahead *= 0.5
        # The last one is at what was reached, whose mean and K″ are to be left.
        share = min(1.0, reached + ahead) if stage < 3 * _STAGES - 2 else reached
        x[:size] = last
        if share == 0.0:
            return 0.0
    return reached


@njit(nogil=True, cache=True, error_model="numpy")
def _describe_classes(
    N: Any, g: Any, scores: int
) -> tuple[_Classes, _Aim, float, float]:  # pragma: no cover
    """Return what the search takes of the classes, all people and det K″_νν(0).

    Of what it aims at, the scores are still to be filled in.
    """
    k, n = len(N) - 1, 0.0
    classes = _Classes(np.empty(k), np.empty(k), np.empty(k), np.zeros(4))
    aim = _Aim(np.empty(k + scores), np.empty(k + scores))
    for c in range(k + 1):
        n += N[c]
    null_counts = N[0] / n
    for c in range(k + 1):
        for p in range(2, 4):
            classes.G[p] += N[c] * g[c] ** p
        if c:
            classes.log_n[c - 1] = math.log(N[c] / N[0])
            classes.d[c - 1] = g[c] - g[0]
            classes.h[c - 1] = g[c] * g[c] - g[0] * g[0]
            aim.target[c - 1] = N[c]
            aim.scale[c - 1] = math.sqrt(N[c])
            null_counts *= N[c]
    return classes, aim, n, null_counts


@njit(nogil=True, cache=True, error_model="numpy")
def _put_near(
    bins: Any, n: float, U_a: float, classes: _Classes, x: Any
) -> None:  # pragma: no cover
    """Put a tilt near that of the mean's score into `x`.

    To second order, U = λΣg² + ½λ²m₃Σg³, m₃ the skewness of s, and a class keeps its count where
    ν_c = −½λ²g_c², as s has mean square 1.
    """
    h, G, third = classes.h, classes.G, 0.0
    k = len(h)
    for i in range(bins.shape[1]):
        third += bins[5, i] * bins[1, i]
    plain = U_a / G[2]
    bend = 0.5 * third / n * plain * plain * G[3] / G[2]
    x[k] = plain - bend if abs(bend) < 0.2 * abs(plain) else plain
    for c in range(k):
        x[c] = -0.5 * plain * plain * h[c]


@njit(nogil=True, cache=True, error_model="numpy")
def mean_and_joint(
    bins: Any,
    N: Any,
    g: Any,
    U_a: float,
    U_2: float,
    joint: bool,
    room: Any,
    bits: Any,
) -> tuple[float, float, float, float, int]:  # pragma: no cover
    """Saddlepoints of the mean's score and, where `joint`, of the variance's given it.

    Parameters
    ----------
    bins : ndarray, shape (8, b)
        Rows f, s, q, fs, fq, fs², fsq, fq², sorted by s.
    N, g : ndarray, shape (classes,)
        People and centred copies; the largest class first, none empty.
    U_a, U_2 : float
        Σgs and Σgq.
    joint : bool
    room, bits : ndarray, shapes (:func:`rows_of_room`, b) and (b,)

    Returns
    -------
    z_a, z_b : float
        z* of the mean's score, and of the variance's score given it (Skovgaard 1987); the latter
        NaN where it was not asked for.
    bound : float
        Natural log of the one-sided p of the mean's score where that is the largest that there
        is; else NaN.
    opposite : float
        Natural log of the smallest one-sided p on the other side where scores do not go so far
        there; else −∞.
    flags : int
        1 where z_a is that of the farthest score that was reached, 2 where z_b is.

    Notes
    -----
    Mean: v = λ₁√(det K″(ν, λ₁)/det K″_νν(0)). The other given it: r² twice the gain in rate, and
    v = λ₂√(det K″(ν, λ₁, λ₂)/det K″(ν, λ₁)), the latter at the mean's tilt.
    """
    k = len(N) - 1
    classes, aim, n, null_counts = _describe_classes(N, g, 2)
    G, variance = classes.G, bins[7].sum() / n
    aim.target[k], aim.target[k + 1] = U_a, U_2
    aim.scale[k], aim.scale[k + 1] = math.sqrt(G[2]), math.sqrt(variance * G[2])
    tilt = _Tilt(np.zeros(k + 2), np.empty(k + 3), np.empty((k + 3, k + 3)))
    x, start, scratch = tilt.x, np.zeros(k + 2), _Room(room, bits)
    flags, bound, opposite = 0, math.nan, -math.inf
    sign = 1.0 if U_a > 0 else -1.0
    if abs(U_a) >= _largest_mean(bins, N, g, sign, False) * (1.0 - 1e-9):
        bound = _largest_mean(bins, N, g, sign, True)
    if abs(U_a) > _largest_mean(bins, N, g, -sign, False):
        opposite = _largest_mean(bins, N, g, -sign, True)
    _put_near(bins, n, U_a, classes, start)
    z_a = z_given = rate = determinant = math.nan
    for kind in range(1, 3 if joint else 2):
        size = k + kind
        part = _Aim(aim.target[:size], aim.scale)
        most = 2 if joint else 1
        share = _staged(kind, most, kind == 2, bins, classes, part, start, tilt, scratch)
        if share < 1.0:
            flags |= kind
        if share == 0.0:
            break
        gain = -(_log_total(bins, room[5]) + n * math.log(N[0] / n))
        for c in range(size):
            gain += x[c] * tilt.mean[c]
        own = _determinant(tilt.C, size)
        if kind == 1:
            rate, determinant = gain, own
            r = math.copysign(math.sqrt(max(2.0 * rate, 0.0)), x[k])
            z_a = _corrected(r, x[k] * math.sqrt(own / null_counts))
            start[:] = x
        else:
            r = math.copysign(math.sqrt(max(2.0 * (gain - rate), 0.0)), x[k + 1])
            z_given = _corrected(r, x[k + 1] * math.sqrt(own / determinant))
    return z_a, z_given, bound, opposite, flags


@njit(nogil=True, cache=True, error_model="numpy")
def variance(
    bins: Any, N: Any, g: Any, U_b: float, room: Any, bits: Any
) -> tuple[float, int]:  # pragma: no cover
    """Saddlepoint of the variance's score, the additive effect taken out.

    The score is U_b = S₂ − 2αS₃ + α²G₃ of the sums S₁ = Σgs, S₂ = Σgq, S₃ = Σg²s, where α = S₁/G₂
    and G_p = Σg^p; parameters otherwise as for :func:`mean_and_joint`.

    Returns
    -------
    z_b : float
    flags : int
        2 where z_b is that of the farthest score that was reached; z_b is NaN where none was.
    """
    k = len(N) - 1
    classes, aim, n, null_counts = _describe_classes(N, g, 1)
    G, spread = classes.G, bins[7].sum() / n
    aim.target[k], aim.scale[k] = U_b, math.sqrt(spread * G[2])
    tilt = _Tilt(np.zeros(k + 3), np.empty(k + 3), np.empty((k + 3, k + 3)))
    x, start = tilt.x, np.zeros(k + 3)
    start[k + 1] = U_b / (spread * G[2])
    share = _staged(3, 3, False, bins, classes, aim, start, tilt, _Room(room, bits))
    if share == 0.0:
        return math.nan, 2
    rate = -(_log_total(bins, room[5]) + n * math.log(N[0] / n))
    for c in range(k + 3):
        rate += x[c] * tilt.mean[c]
    r = math.copysign(math.sqrt(max(2.0 * rate, 0.0)), x[k + 1])
    v = _variance_factor(classes, tilt, null_counts)
    return _corrected(r, v), 0 if share == 1.0 else 2
