"""Stacked ridge as it is written down: dense, of one trait, with nothing but numpy.

What the tests hold the fast path against. See section 14 of the mathematics in the pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float


class Prediction(NamedTuple):
    """Predictions without each chromosome (chromosomes, n), R² in cross-validation, the choice."""

    prediction: Float
    cv_r2: float
    heritability: float


def stacked_ridge(
    x: Float,
    blocks: Sequence[NDArray[np.int64]],
    of_chromosome: Sequence[int],
    y: Float,
    z: Float,
    folds: NDArray[np.int8],
    shares: Sequence[float],
    n_chromosomes: int,
) -> Prediction:
    """Predict one trait in its own people.

    Parameters
    ----------
    x : ndarray of float64, shape (n, M)
        Copies of the effect allele, none missing.
    blocks : sequence of ndarray of int64
        Variants of each block.
    of_chromosome : sequence of int
        Which chromosome each block lies on.
    y : ndarray of float64, shape (n,)
    z : ndarray of float64, shape (n, c)
        Covariates with the intercept.
    folds : ndarray of int8, shape (n,)
    shares : sequence of float
        Choices of heritability at both levels.
    n_chromosomes : int
    """
    n, n_variants = len(y), sum(map(len, blocks))
    y = _rest(y[:, None], z)[:, 0]
    level0, chromosome = [], []
    for block, where in zip(blocks, of_chromosome, strict=True):
        g = _standardised(_rest(x[:, block], z))
        for share in shares:
            penalty = n_variants * (1 - share) / share
            level0.append(_out_of_fold(g, y, folds, penalty))
            chromosome.append(where)
    p, on = _standardised(np.column_stack(level0)), np.array(chromosome)
    n_predictors = p.shape[1]
    best, chosen = float(y @ y), 0.0
    for share in shares:
        rest = y - _out_of_fold(p, y, folds, n_predictors * (1 - share) / share)
        if rest @ rest < best:
            best, chosen = float(rest @ rest), share
    prediction = np.zeros((n_chromosomes, n))
    for c in range(n_chromosomes):
        if chosen and (on != c).any():
            penalty = n_predictors * (1 - chosen) / chosen
            prediction[c] = _out_of_fold(p[:, on != c], y, folds, penalty)
    return Prediction(prediction, 1 - best / float(y @ y), chosen)


def _out_of_fold(g: Float, y: Float, folds: NDArray[np.int8], penalty: float) -> Float:
    """Predict each fold by a ridge regression in the others."""
    found = np.zeros(len(y))
    for k in np.unique(folds):
        here = folds == k
        others = g[~here]
        matrix = others.T @ others + penalty * np.eye(g.shape[1])
        found[here] = g[here] @ np.linalg.solve(matrix, others.T @ y[~here])
    return found


def _rest(values: Float, z: Float) -> Float:
    return np.asarray(values - z @ np.linalg.lstsq(z, values, rcond=None)[0])


def _standardised(values: Float) -> Float:
    size = np.sqrt((values**2).mean(axis=0))
    return np.asarray(np.where(size > 1e-9, values / np.where(size > 0, size, 1.0), 0.0))
