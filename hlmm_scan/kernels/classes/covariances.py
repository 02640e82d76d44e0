"""Covariances of the two effects of a variant, from its genotype classes (math.md §2).

Each function fills (variance of a_g, variance of b_g, their covariance). Classes have n_c people,
x = copies − mean copies, and D = exp(log common variance + b_g·x). What a design without covariates
leaves of a matrix formula is a sum over classes of *efficient* scores: the genotype less its
projection on the intercept, with weights 1/D for the mean.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.limits import SINGULAR


@njit(nogil=True, cache=True, error_model="numpy")
def expected_covariances(
    n_c: Float,
    x_c: Float,
    log_variance: float,
    bg: float,
    third_moment: float,
    fourth_moment: float,
    model: Float,
    robust: Float,
) -> None:  # pragma: no cover
    """Fill the covariance by the expected information, and the studentised one.

    With x̃ = x − x̄ (weights 1/D), I_a = Σ x̃²/D and I_b = ½Σ x², and with the moments m₃, m₄ of the
    null residuals in units of √D,

        model: 1/I_a, 2/Σ x², 0;   studentised: 1/I_a, ½(m₄ − 1)/I_b, ½m₃·Σ x̃·x/√D / (I_a·I_b),

    which are (A⁻¹BA⁻¹) of the two effects (Koenker 1981).
    """
    s0 = s1 = s2 = squares = r1 = r2 = 0.0
    for c in range(len(n_c)):
        if n_c[c] > 0.0:
            x = x_c[c]
            root = math.exp(-0.5 * (log_variance + bg * x))
            w = n_c[c] * root * root
            s0 += w
            s1 += w * x
            s2 += w * x * x
            squares += n_c[c] * x * x
            r1 += n_c[c] * root * x
            r2 += n_c[c] * root * x * x
    model[0] = s0 / (s0 * s2 - s1 * s1)
    model[1] = 2.0 / squares
    model[2] = 0.0
    robust[0] = model[0]
    robust[1] = (fourth_moment - 1.0) / squares
    robust[2] = third_moment * (r2 - s1 / s0 * r1) * model[0] / squares


@njit(nogil=True, cache=True)
def factor_four(S: Any, scale: Any, factor: Any) -> bool:  # pragma: no cover
    """Fill the Cholesky factor of S, (4, 4), scaled to a unit diagonal; False where it has none.

    The scales of mean and variance parameters differ by the phenotype's. `factor` may be S itself;
    above the diagonal it is left as it is.
    """
    for i in range(4):
        if not S[i, i] > 0.0:
            return False
        scale[i] = 1.0 / math.sqrt(S[i, i])
    for i in range(4):
        for j in range(i + 1):
            left = S[i, j] * scale[i] * scale[j]
            for k in range(j):
                left -= factor[i, k] * factor[j, k]
            if i > j:
                factor[i, j] = left / factor[j, j]
            elif left > SINGULAR:
                factor[i, i] = math.sqrt(left)
            else:
                return False
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def observed_covariance(
    n_c: Float,
    x_c: Float,
    mean_c: Float,
    a0: float,
    ag: float,
    log_variance: float,
    bg: float,
    q_c: Float,
    model: Float,
) -> bool:  # pragma: no cover
    """Fill the covariance by the observed information (math.md §1 at h2 = 0).

    Returns False, and leaves `model` as it is, where that is not positive definite.

    Parameters stand in the order (a0, b0, ag, bg), so that the last two rows of the Cholesky factor
    of their information are the factor of the effects' own, the intercepts projected out. It is
    written out, as linking LAPACK would take most of the time that this path takes to compile.
    """
    information = np.zeros((4, 4))
    common = math.exp(-log_variance)
    for c in range(len(n_c)):
        if n_c[c] > 0.0:
            x = x_c[c]
            w = n_c[c] * math.exp(-log_variance - bg * x)
            wr = w * (mean_c[c] - a0 - ag * x)
            k = 0.5 * common * q_c[c]
            power = 1.0
            for i in range(0, 4, 2):
                term = power
                for j in range(0, 4, 2):
                    information[i, j] += w * term
                    information[i, 1 + j] += wr * term
                    information[1 + i, j] += wr * term
                    information[1 + i, 1 + j] += k * term
                    term *= x
                power *= x
    d, factor = np.empty(4), np.zeros((4, 4))
    if not factor_four(information, d, factor):
        return False
    lower = factor[3, 2] / factor[2, 2]
    var_variance = 1.0 / (factor[3, 3] * factor[3, 3])
    model[0] = d[2] * d[2] * (1.0 / (factor[2, 2] * factor[2, 2]) + lower * lower * var_variance)
    model[1] = d[3] * d[3] * var_variance
    model[2] = -d[2] * d[3] * lower * var_variance
    return True


@njit(nogil=True, cache=True)
def higher_moments(sums: Float, class_c: Float) -> None:  # pragma: no cover
    """Fill Σ(y − ȳ)³ and Σ(y − ȳ)⁴ of each class, from sums of powers of y.

    Of a class that lies μ of its own standard deviations from 0 the latter keeps a relative
    accuracy of about 10⁻¹⁵·μ⁴; the second moment holds rounding within what is possible at all.
    """
    for c in range(class_c.shape[1]):
        n, mean, within = class_c[0, c], class_c[1, c], class_c[2, c]
        class_c[3, c] = class_c[4, c] = 0.0
        if n > 0.0:
            square = mean * mean
            third = sums[c, 3] - mean * (3.0 * sums[c, 2] - 2.0 * n * square)
            fourth = sums[c, 4] - mean * (4.0 * sums[c, 3] - 6.0 * mean * sums[c, 2])
            fourth -= 3.0 * n * square * square
            fourth = min(max(fourth, within * within / n), within * within)
            bound = math.sqrt(within * fourth)
            class_c[3, c] = min(max(third, -bound), bound)
            class_c[4, c] = fourth


@njit(nogil=True, cache=True, error_model="numpy")
def sandwich_covariance(
    class_c: Float,
    a0: float,
    ag: float,
    log_variance: float,
    bg: float,
    robust: Float,
) -> None:  # pragma: no cover
    """Fill the covariance from every person's own scores.

    `class_c` holds n, ȳ and Σ(y − ȳ)ᵏ, k = 2, 3, 4, of each class in its rows, then x. With x̃ as
    above and v = x less its mean under weights r²/D, I_a = Σ x̃²/D, I_b = ½Σ v²r²/D, and people's
    scores are x̃r/D and ½v(r²/D − 1), whose sums of squares and products need Σrᵏ of each class up
    to k = 4.
    """
    s0 = s1 = k0 = k1 = 0.0
    for c in range(class_c.shape[1]):
        n = class_c[0, c]
        if n > 0.0:
            x = class_c[5, c]
            w = math.exp(-log_variance - bg * x)
            shift = class_c[1, c] - a0 - ag * x
            k = w * (class_c[2, c] + n * shift * shift)
            s0 += n * w
            s1 += n * w * x
            k0 += k
            k1 += k * x
    mean_x, mean_v = s1 / s0, k1 / k0
    information_a = information_b = aa = bb = ab = 0.0
    for c in range(class_c.shape[1]):
        n = class_c[0, c]
        if n > 0.0:
            x, v = class_c[5, c] - mean_x, class_c[5, c] - mean_v
            w = math.exp(-log_variance - bg * class_c[5, c])
            # Σrᵏ, r = (y − ȳ) + shift, in units of √D.
            root = math.sqrt(w)
            shift = root * (class_c[1, c] - a0 - ag * class_c[5, c])
            m2, m3, m4 = w * class_c[2, c], w * root * class_c[3, c], w * w * class_c[4, c]
            square = shift * shift
            r2 = m2 + n * square
            r3 = m3 + shift * (3.0 * m2 + n * square)
            r4 = m4 + 4.0 * shift * m3 + square * (6.0 * m2 + n * square)
            information_a += n * w * x * x
            information_b += 0.5 * v * v * r2
            aa += w * x * x * r2
            ab += 0.5 * root * x * v * (r3 - n * shift)
            bb += 0.25 * v * v * max(r4 - 2.0 * r2 + n, 0.0)
    robust[0] = aa / (information_a * information_a)
    robust[1] = bb / (information_b * information_b)
    robust[2] = ab / (information_a * information_b)
