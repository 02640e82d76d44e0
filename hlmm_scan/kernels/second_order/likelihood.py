"""The HLMM of one hard-called variant to second order in how its variances differ.

Where a genotype class's Gram matrix K_c is wanted only through the shape that most genotypes give
it, products of F with class indicators suffice (math.md §5, *second-order*): O(n·l) for a variant
in place of O(n·l²), and O(l) for an evaluation. F is in the axes where FᵀF = diag(s²).

**The weights are centred.** With ω_c = 1/D_c, a missing call a class of its own of weight 0, N
people in all, ω̄ = Σn_cω_c/N and δ_c = ω_c/ω̄ − 1 (so Σn_cδ_c = 0; δ = −1 for missing calls),

    Λ = I + h2·FᵀD⁻¹F = Λ₀ + κΔ,   Λ₀ = diag(1 + κs²),   κ = h2·ω̄,   Δ = Σδ_cK_c.

**The quadratic form.** For any β,

    rᵀΣ⁻¹r = (r − Fβ)ᵀD⁻¹(r − Fβ) + βᵀβ/h2 − h2·γᵀΛ⁻¹γ,   γ = FᵀD⁻¹(r − Fβ) − β/h2,

since the first two terms are quadratic in β with Hessian 2Λ/h2 and gradient −2γ. β is fixed at
the null model's prediction of the random effects, where γ = 0: so γ is of first order in whatever
the variant changes, h2 included, and Λ₀ in place of Λ is an error of *third* order,
h2κ·(Λ₀⁻¹γ)ᵀΔ(Λ₀⁻¹γ). No expansion around the null h2 is made. With e the null residuals,
ρ_c = Σ_{i∈c}Fᵢ(eᵢ − x_cᵀα), ζ = Σω_cρ_c, φ = 1/(1 + κs²),

    rᵀΣ⁻¹r ≈ Σ_c ω_c·Σ_{i∈c}(eᵢ − x_cᵀα)² + Σⱼ φⱼ·(ω̄sⱼ²βⱼ² + 2ζⱼβⱼ − h2·ζⱼ²).

**The determinant.** With M = κΛ₀^-½ΔΛ₀^-½,

    log det Λ = Σⱼlog(1 + κsⱼ²) + tr M − ½tr M² + …
    tr M = κΣ_c(1 + δ_c)R̃_c(κ),    R̃_c = Σ_{i∈c}(R_i − mean R),    R_i(κ) = Σⱼ φⱼFᵢⱼ².

R_i over its mean R̄ = Σsⱼ²φⱼ/N is a Chebyshev series in log(κ + 1/s₁²) for every person, so that
class sums are had for all κ: nothing is differentiated at the null h2 and kept. R itself falls by
as much as κ grows, which a series as exact as its largest value would not follow.
tr M² = κ²Σ_ij δ_iδ_j(FΛ₀⁻¹Fᵀ)_ij² is taken as its mean over all orders of the genotypes,

    Σδ²·κ²Φ(κ),    Φ = (Σ_i R_i² − (Σⱼ(sⱼ²φⱼ)² − Σ_i R_i²)/(N − 1))/N,

times the ratio of Hutchinson's estimate of tr M² for the variant's own centred genotype, from one
fixed probe, to that mean: people who are alike in F may be so in the genotype.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from hlmm_scan.array_types import Float

_OUTLYING = 5.0  # times the mean eigenvalue of FᵀF, above which an axis is no random one


class ClassSums(NamedTuple):
    """What is known of a variant; of m variants with an axis of them before the others.

    Attributes
    ----------
    counts : ndarray, shape (4,)
        People by class; class 3 is a missing call.
    residuals, squares : ndarray, shape (3,)
        Σe and Σe².
    sums, products : ndarray, shape (3, r)
        ΣFᵢ and ΣFᵢeᵢ.
    series : ndarray, shape (4, terms)
        Chebyshev coefficients of R̃_c/R̄.
    ratio : float or ndarray
        tr M² over its mean.
    beta : ndarray, shape (r,)
        The β that e is left by.
    refined : bool
        Whether that is each variant's own.
    """

    counts: Float
    residuals: Float
    squares: Float
    sums: Float
    products: Float
    series: Float
    ratio: Any
    beta: Float
    refined: bool


class Shared(NamedTuple):
    """What all variants share: s², the series of Σ(R_i/R̄)², and the range of log(κ + 1/s₁²).

    Attributes
    ----------
    values : ndarray, shape (r,)
        Descending.
    mean_squares : ndarray, shape (terms,)
    low, high : float
    """

    values: Float
    mean_squares: Float
    low: float
    high: float


class Derivatives(NamedTuple):
    """What an evaluation fills; in the order α, b, h2.

    Attributes
    ----------
    gradient : ndarray, shape (5,)
    information : ndarray, shape (5, 5)
        Expected.
    bound : ndarray, shape (5,)
        Estimates of how far each element of the gradient is from that of the exact function.
    shift : ndarray, shape (r,)
        h2·Λ₀⁻¹γ.
    traces : ndarray, shape (3, 4)
        σ_c and N_cd of hlmm_gram.GramEvaluation.
    """

    gradient: Float
    information: Float
    bound: Float
    shift: Float
    traces: Float


@njit(nogil=True, cache=True)
def _chebyshev(x: float, values: Float, slopes: Float) -> None:  # pragma: no cover
    """T_k(x) and dT_k/dx for all k."""
    values[0], slopes[0] = 1.0, 0.0
    values[1], slopes[1] = x, 1.0
    for k in range(2, len(values)):
        values[k] = 2.0 * x * values[k - 1] - values[k - 2]
        slopes[k] = 2.0 * values[k - 1] + 2.0 * x * slopes[k - 1] - slopes[k - 2]


@njit(nogil=True, cache=True)
def _dot(a: Float, b: Float) -> float:  # pragma: no cover
    total = 0.0
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@njit(nogil=True, cache=True)
def evaluate(
    theta: Float,
    alpha: Float,
    profiled: int,
    v: Float,
    known: ClassSums,
    shared: Shared,
    out: Derivatives,
) -> float:  # pragma: no cover
    """−2·log L − n·log 2π of (b0, b1, h2) and its derivatives; infinite out of range.

    Fills `alpha` with the mean effects at their maximum where `profiled` is 2, the first of them
    with the second at 0 where it is 1; and `out`. `v`, shape (3,), has the standardised copies of
    the classes.

    Notes
    -----
    The value is that of the module's docstring. It is a function of ω_c, α, h2 and κ = h2·ω̄;
    G = ∂f/∂κ, w = φ(β − h2ζ):

        ∂f/∂ω_c = κR̃_c/ω̄ − π_c·tr M/ω̄ − ratio·κ²Φ(n_cω_c/ω̄² − (Σδ² + N)π_c/ω̄)
                  + Σ(e − x_cᵀα)² + 2wᵀρ_c + π_cΣs²β²φ + h2·π_c·G,       π_c = n_c/N
        ∂f/∂b   = Σ_c v_c(n_c − ω_c·∂f/∂ω_c)     ∂f/∂h2 = −Σζ²φ + ω̄G
        ∂f/∂α   = −2Σ_c ω_cx_c(Σ_{i∈c}(e − x_cᵀα) + wᵀt_c).

    The traces of the expected information (hlmm_gram.GramEvaluation) need tr(Λ⁻¹K_cΛ⁻¹K_d),
    whose part beyond the class sizes' is R' = dR/dκ = −Σⱼ s²φ²F², and at random the mean above:

        X_cd = π_cπ_dΣ(s²φ)² − π_cR̃'_d − π_dR̃'_c + ratio·Φ·N·(π_c·1[c=d] − π_cπ_d).

    The bound is of vᵀMw, with v = √h2·Λ₀^-½γ and w the derivatives of v. It takes |vᵀMw| ≤ μ‖v‖‖w‖
    with μ the norm of M: its Frobenius norm ‖M‖_F = √(tr M²), or where there are many random
    effects twice the norm 2‖M‖_F/√r of a random symmetric matrix. Where v was not made with M, by
    refinement, a random matrix does not know v and w, so that vᵀMw is about ‖v‖‖w‖‖M‖_F/r, √r times
    less: four times that is allowed where v and w lie across many axes (on outlying axes of F,
    which populations make and genotypes follow, the norm stands), and besides

    * M² is not of random sign: it is near (‖M‖_F²/r)·I;
    * a person's own residual stands in v and w: safe·Σδ²|∂δ/∂b|;
    * the genotype stands in v, w and M: with P = FΛ₀⁻¹Fᵀ·κ, vᵀMw has Σδᵢ(Pg)ᵢ², where Pg is ρg for
      ρ = gᵀPg/gᵀg, and where relatives raise ρ above the mean leverage, (Pg)ᵢ² depends on gᵢ too.
    """
    counts, residuals, squares, sums, products, series, ratio, beta, refined = known
    values, mean_squares, low, high = shared
    gradient, information, bound, shift, traces = out
    r, h2 = len(values), theta[2]
    n = counts.sum()
    weights = np.zeros(4)
    v4 = np.zeros(4)
    log_variance = 0.0
    mean_weight = 0.0
    for c in range(3):
        v4[c] = v[c]
        if counts[c] > 0.0:
            d = theta[0] + theta[1] * v[c]
            if abs(d) > 60.0:
                return np.inf
            weights[c] = math.exp(-d)
            log_variance += counts[c] * d
            mean_weight += counts[c] * weights[c] / n
    kappa = h2 * mean_weight
    origin = 1.0 / values[0]
    x = 2.0 * (math.log(kappa + origin) - low) / (high - low) - 1.0
    if x > 1.0:
        return np.inf
    phi = np.empty(r)
    log_det = trace = pairs = cubes = beta_term = 0.0
    for j in range(r):
        phi[j] = 1.0 / (1.0 + kappa * values[j])
        shrunk = values[j] * phi[j]
        log_det -= math.log(phi[j])
        trace += shrunk
        pairs += shrunk * shrunk
        cubes += shrunk * shrunk * shrunk
        beta_term += shrunk * beta[j] * beta[j]
    T = np.empty(len(mean_squares))
    dT = np.empty(len(mean_squares))
    _chebyshev(x, T, dT)
    dT *= 2.0 / ((high - low) * (kappa + origin))
    mean_R, slope_R = trace / n, -pairs / n
    R = np.zeros(4)
    dR = np.zeros(4)
    for c in range(4):
        beyond = _dot(series[c], T)
        R[c] = mean_R * beyond
        dR[c] = slope_R * beyond + mean_R * _dot(series[c], dT)

    # Mean effects.
    s0 = s1 = s2 = 0.0
    t = np.zeros((2, r))
    y = np.zeros(r)
    m0 = m1 = 0.0
    for c in range(3):
        w = weights[c]
        if w > 0.0:
            s0 += w * counts[c]
            s1 += w * counts[c] * v[c]
            s2 += w * counts[c] * v[c] * v[c]
            m0 += w * residuals[c]
            m1 += w * residuals[c] * v[c]
            for j in range(r):
                t[0, j] += w * sums[c, j]
                t[1, j] += w * v[c] * sums[c, j]
                y[j] += w * products[c, j]
    for j in range(r):
        s0 -= h2 * phi[j] * t[0, j] * t[0, j]
        s1 -= h2 * phi[j] * t[0, j] * t[1, j]
        s2 -= h2 * phi[j] * t[1, j] * t[1, j]
        blup = phi[j] * (beta[j] - h2 * y[j])
        m0 += blup * t[0, j]
        m1 += blup * t[1, j]
    determinant = s0 * s2 - s1 * s1
    if not determinant > 0.0:
        return np.inf
    if profiled == 1:
        alpha[0], alpha[1] = m0 / s0, 0.0
    elif profiled == 2:
        alpha[0] = (s2 * m0 - s1 * m1) / determinant
        alpha[1] = (s0 * m1 - s1 * m0) / determinant

    # Quadratic form.
    blups = np.empty(r)
    zeta_square = inner = inner_kappa = 0.0
    for j in range(r):
        zeta = y[j] - alpha[0] * t[0, j] - alpha[1] * t[1, j]
        blups[j] = phi[j] * (beta[j] - h2 * zeta)
        shift[j] = -blups[j]
        zeta_square += phi[j] * zeta * zeta
        a = mean_weight * values[j] * beta[j] ** 2 + 2.0 * zeta * beta[j] - h2 * zeta * zeta
        inner += phi[j] * a
        inner_kappa -= phi[j] * phi[j] * values[j] * a
    quadratic = inner
    E = np.zeros(3)
    blup_sums = np.zeros(3)
    blup_products = np.zeros(3)
    for c in range(3):
        if weights[c] > 0.0:
            mean = alpha[0] + alpha[1] * v[c]
            E[c] = squares[c] - 2.0 * mean * residuals[c] + counts[c] * mean * mean
            quadratic += weights[c] * E[c]
            blup_sums[c] = _dot(blups, sums[c])
            blup_products[c] = _dot(blups, products[c]) - mean * blup_sums[c]

    # Determinant.
    pi = counts / n
    relative = weights / mean_weight
    delta = relative - 1.0
    delta_square = 0.0
    tr_m = tr_m_kappa = 0.0
    for c in range(4):
        delta_square += counts[c] * delta[c] ** 2
        tr_m += kappa * relative[c] * R[c]
        tr_m_kappa += relative[c] * (R[c] + kappa * dR[c])
    own_relative = _dot(mean_squares, T)
    own = mean_R**2 * own_relative
    mean = (own - (pairs - own) / (n - 1.0)) / n
    d_own = 2.0 * mean_R * slope_R * own_relative + mean_R**2 * _dot(mean_squares, dT)
    mean_kappa = (d_own - (-2.0 * cubes - d_own) / (n - 1.0)) / n
    square = ratio * kappa * kappa * mean * delta_square
    by_kappa = (
        trace
        + tr_m_kappa
        - ratio * delta_square * (kappa * mean + 0.5 * kappa * kappa * mean_kappa)
        + inner_kappa
    )
    value = log_variance + log_det + tr_m - 0.5 * square + quadratic

    gradient[:] = 0.0
    for c in range(3):
        if weights[c] > 0.0:
            by_weight = (
                (kappa * R[c] - pi[c] * tr_m) / mean_weight
                - ratio * kappa * kappa * mean
                * (counts[c] * relative[c] - (delta_square + n) * pi[c]) / mean_weight
                + E[c] + 2.0 * blup_products[c] + pi[c] * beta_term + h2 * pi[c] * by_kappa
            )  # fmt: skip
            score = counts[c] - weights[c] * by_weight
            gradient[2] += score
            gradient[3] += score * v[c]
            left = residuals[c] - (alpha[0] + alpha[1] * v[c]) * counts[c] + blup_sums[c]
            gradient[0] -= 2.0 * weights[c] * left
            gradient[1] -= 2.0 * weights[c] * v[c] * left
    gradient[4] = -zeta_square + mean_weight * by_kappa

    # Expected information.
    information[:] = 0.0
    information[0, 0], information[1, 1] = s0, s2
    information[0, 1] = information[1, 0] = s1
    X = np.empty((4, 4))
    for c in range(4):
        for d in range(4):
            X[c, d] = pi[c] * pi[d] * (pairs - ratio * mean * n) - pi[c] * dR[d] - pi[d] * dR[c]
        X[c, c] += ratio * mean * n * pi[c]
    for c in range(3):
        leverage = R[c] + pi[c] * trace
        for d in range(4):
            leverage -= kappa * delta[d] * X[c, d]
        leverage *= weights[c]
        traces[c, 0] = leverage
        own_part = 0.5 * (counts[c] * (weights[c] > 0.0) - 2.0 * h2 * leverage)
        information[2, 2] += own_part
        information[2, 3] += own_part * v[c]
        information[3, 3] += own_part * v[c] * v[c]
        information[2, 4] += 0.5 * leverage
        information[3, 4] += 0.5 * leverage * v[c]
        for d in range(3):
            N = 0.5 * weights[c] * weights[d] * X[c, d]
            traces[c, 1 + d] = 2.0 * N
            information[2, 2] += h2 * h2 * N
            information[2, 3] += h2 * h2 * N * v[d]
            information[3, 3] += h2 * h2 * N * v[c] * v[d]
            information[2, 4] -= h2 * N
            information[3, 4] -= h2 * N * v[c]
            information[4, 4] += N
    information[3, 2] = information[2, 3]
    information[4, 2], information[4, 3] = information[2, 4], information[3, 4]

    # How far the gradient may be from the exact one.
    mean_v = s_v = 0.0
    for c in range(3):
        mean_v += pi[c] * relative[c] * v[c]
    for c in range(3):
        s_v += counts[c] * (relative[c] * (v[c] - mean_v)) ** 2
    cross = own_influence = largest = square_v = third = third_b = 0.0
    for c in range(4):
        if counts[c] > 0.0:
            by_b = relative[c] * (v4[c] - mean_v)
            square = weights[c] * v4[c] ** 2 if c < 3 else mean_weight
            cross += counts[c] * delta[c] * by_b
            own_influence += counts[c] * abs(delta[c] ** 2 * by_b)
            square_v += counts[c] * weights[c] * v4[c] ** 2
            third += counts[c] * abs(delta[c]) * square
            third_b += counts[c] * abs(by_b) * square
            largest = max(largest, abs(delta[c]))
    probe = 3.0 * math.sqrt(2.0 / r)  # three standard errors of one probe's estimate
    safe = (1.0 + probe) * max(ratio, 1.0) * kappa * kappa * max(mean, 0.0)
    frobenius, frobenius_b = math.sqrt(safe * delta_square), math.sqrt(safe * s_v)
    share = min(1.0, 4.0 / math.sqrt(r))
    mu = min(share * frobenius, largest * kappa * values[0] * phi[0])
    mu_b = share * frobenius_b
    if mu > 0.5:
        bound[:] = np.inf
        return float(value)
    outlying = _OUTLYING * values.mean()
    # Squared lengths of v, and of its derivatives by a, b and h2; then of their outlying parts.
    lengths = np.zeros((2, 4))
    for j in range(r):
        zeta = y[j] - alpha[0] * t[0, j] - alpha[1] * t[1, j]
        by_b = 0.0
        for c in range(3):
            if weights[c] > 0.0:
                mean_c = alpha[0] + alpha[1] * v[c]
                by_b += weights[c] * v[c] * (products[c, j] - mean_c * sums[c, j])
        if h2 > 0.0:
            lengths[0, 0] += phi[j] * (h2 * zeta - beta[j]) ** 2 / h2
            lengths[0, 3] += phi[j] * (0.5 * (zeta + beta[j] / h2)) ** 2 / h2
        elif beta[j] != 0.0:
            # The first two terms of the quadratic form have no limit: to be refined.
            lengths[0, 0] = 1e12
        lengths[0, 1] += h2 * phi[j] * t[1, j] ** 2
        lengths[0, 2] += h2 * phi[j] * by_b**2
        if values[j] > outlying:
            lengths[1] = lengths[0]  # eigenvalues descend
    leverage = kappa * trace / n
    smoothed = lengths[0, 1] / max(square_v, 1e-300)
    coherent = smoothed**2 + max(smoothed - (1.0 + probe) * leverage, 0.0)
    if refined:
        coherent = 0.0
    slope = abs(alpha[1])
    lengths = np.sqrt(lengths)
    g, g2 = lengths[0, 0], lengths[0, 0] ** 2
    mu_true, mu_b_true = mu / (1.0 - mu), mu_b / (1.0 - mu)
    across = (4.0 * frobenius + 2.0 * frobenius**2) / (r * (1.0 - mu))
    across_b = (4.0 * frobenius_b + 4.0 * frobenius * frobenius_b) / (r * (1.0 - mu))
    cubic = np.empty(4)
    for k in range(4):
        along = lengths[1, 0] * lengths[0, k] + lengths[0, 0] * lengths[1, k]
        cubic[k] = mu_true * g * lengths[0, k]
        if not refined:
            cubic[k] = min(cubic[k], across * g * lengths[0, k] + mu_true * along)
    # vᵀM(∂v/∂b) and vᵀ(∂M/∂b)v have random signs of their own.
    random = math.sqrt((2.0 * across * g * lengths[0, 2]) ** 2 + (across_b * g2) ** 2)
    along = lengths[1, 0] * lengths[0, 2] + lengths[0, 0] * lengths[1, 2]
    random += 2.0 * mu_true * along + 2.0 * mu_b_true * lengths[1, 0] * g
    cubic_b = 2.0 * mu_true * g * lengths[0, 2] + mu_b_true * g2
    if not refined:
        cubic_b = min(cubic_b, random)
    probe_error = min(1.0, probe + 0.1)
    # M² is near a multiple of I, and the trace of M is not left out.
    cubic_trace = frobenius * frobenius * (1.0 if lengths[1].any() else share)
    bound[0] = 0.0
    bound[1] = 2.0 * (cubic[1] + slope * coherent * third)
    bound[2] = 0.0
    bound[3] = (
        cubic_b
        + slope**2 * coherent * (2.0 * third + third_b)
        + 3.0 * safe * own_influence
        + probe_error * safe * abs(cross)
        + cubic_trace * mu_b
    )
    bound[4] = 2.0 * cubic[3]
    if h2 > 0.0:
        bound[4] += slope**2 * coherent * third / h2
        bound[4] += (cubic[0] + probe_error * safe * delta_square + cubic_trace * mu) / h2
    return float(value)
