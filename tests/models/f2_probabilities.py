"""Genotype probabilities of an F2 intercross at its markers, given all markers of a chromosome."""

from __future__ import annotations

import numpy as np

PRIOR = np.array([0.25, 0.5, 0.25])
"""Of AA, AB and BB."""


def recombination(centimorgans):
    """Recombination fraction by Haldane's map function."""
    return 0.5 * (1 - np.exp(-0.02 * np.asarray(centimorgans)))


def transition(r: float):
    """Probabilities of the genotype at one marker given that at another, shape (3, 3)."""
    s = 1 - r
    return np.array(
        [
            [s * s, 2 * r * s, r * r],
            [r * s, s * s + r * r, r * s],
            [r * r, 2 * r * s, s * s],
        ]
    )


def genotype_probabilities(calls, positions, error: float):
    """Probabilities of AA, AB and BB at the markers of one chromosome.

    Parameters
    ----------
    calls : ndarray of int, shape (n, m)
        0, 1 and 2 for AA, AB and BB; −1 where missing.
    positions : ndarray, shape (m,)
        In centimorgans, ascending.
    error : float
        Probability that a call is one of the two other genotypes.

    Returns
    -------
    ndarray, shape (n, m, 3)
    """
    n, m = calls.shape
    emission = np.where(calls[:, :, None] == np.arange(3), 1 - error, error / 2)
    emission[calls < 0] = 1.0
    steps = [transition(r) for r in recombination(np.diff(positions))]
    forward, backward = np.empty((n, m, 3)), np.ones((n, m, 3))
    forward[:, 0] = PRIOR * emission[:, 0]
    for k in range(1, m):
        forward[:, k] = (forward[:, k - 1] @ steps[k - 1]) * emission[:, k]
        forward[:, k] /= forward[:, k].sum(axis=1, keepdims=True)
    for k in range(m - 2, -1, -1):
        backward[:, k] = (emission[:, k + 1] * backward[:, k + 1]) @ steps[k].T
        backward[:, k] /= backward[:, k].sum(axis=1, keepdims=True)
    both = forward * backward
    return both / both.sum(axis=2, keepdims=True)
