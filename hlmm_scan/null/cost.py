"""What fitting null models takes, for the plan."""

from __future__ import annotations

from hlmm_scan.models.relationship import by_relationship

_PRODUCT = 1 / 40e9
"""Seconds an operation of products of large matrices takes on one core."""

_EIGEN = 7 * _PRODUCT
"""Seconds for n³ of a decomposition into eigenvectors is n³ times this."""

_STORE_BYTE = 1e-8
"""Seconds to take digests of, compress and write a byte of random effects."""

_FIRST, _FROM_NEAR = 10.0, 3.5
"""Evaluations of a fit with all random effects, and of one that starts from it."""


def sets_seconds(n: int, n_random: int, sets: int, *, principal: bool) -> float:
    """Estimate the time in which random effects are made ready, all and without each chromosome.

    Parameters
    ----------
    n, n_random : int
        People and random effects.
    sets : int
    principal : bool
        Whether eigenvectors are needed.
    """
    rank = min(n, n_random)
    products = (1 + min(1, sets - 1)) * float(n) * n_random * rank * _PRODUCT
    if n_random <= n:
        return products + sets * rank**2 * (rank * _EIGEN + 8 * _STORE_BYTE)
    each = n * (_EIGEN if principal else 0.5 * _PRODUCT)
    return products + sets * n**2 * (each + 12 * _STORE_BYTE)


def fits_seconds(n: int, mean: int, variance: int, n_random: int, sets: int) -> float:
    """Estimate the time of the null fits of one phenotype on one core.

    Parameters
    ----------
    n, mean, variance, n_random : int
        People, columns of the mean and variance designs, random effects.
    sets : int
        Fits: with all random effects and without each chromosome.
    """
    designs = 2.0 * n * (mean + variance) ** 2 * _PRODUCT + 1e-3
    if not n_random:
        return _FIRST * designs
    rank = min(n, n_random)
    first = 0.0
    if by_relationship(n, n_random):
        # The moments at the end are sums over what the last evaluation has made.
        evaluation = float(n) ** 3 * _PRODUCT
        last = 0.1 * evaluation
        first = float(n) ** 2 * n_random / sets * _PRODUCT
    else:
        evaluation = (float(n) * rank**2 * (2 + variance) + 3 * float(rank) ** 3) * _PRODUCT
        last = evaluation / 3
    evaluations = _FIRST + (sets - 1) * _FROM_NEAR
    return evaluations * (evaluation + designs) + sets * (first + last)
