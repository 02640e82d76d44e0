"""Level 1: ridge regression of a trait on the predictors of all blocks, leaving chromosomes out.

Of one trait in its own people. The shrinkage is chosen by cross-validation; then, for each
chromosome, predictors of the other chromosomes are fitted anew, without each fold of people in
turn, so that nobody's prediction knows their own trait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from hlmm_scan.array_types import Float
from hlmm_scan.polygenic.whole import (
    PREDICTOR_BITS,
    bits_left,
    combination,
    gram_of_predictors,
    product,
    whole,
)


@dataclass(frozen=True)
class Stacked:
    """Predictions of a trait.

    Attributes
    ----------
    prediction : ndarray of float64, shape (chromosomes, n)
        Without each chromosome, in units of the response.
    whole : ndarray of float64, shape (n,)
        With all of them.
    cv_r2 : float
        Share of the response's variance that all predictors explain in people whom they were not
        fitted in; at least 0.
    heritability : float
        The choice among `shares`; 0 where nothing is explained, and predictions are 0.
    """

    prediction: Float
    whole: Float
    cv_r2: float
    heritability: float


def stack(
    predictors: NDArray[np.int16],
    of_chromosome: NDArray[np.int64],
    y: Float,
    edges: Sequence[tuple[int, int]],
    shares: Sequence[float],
    n_chromosomes: int,
) -> Stacked:
    """Fit level 1 of a trait.

    Parameters
    ----------
    predictors : ndarray of int16, shape (J, n)
        Of the trait's people, fold by fold.
    of_chromosome : ndarray of int64, shape (J,)
        Which chromosome each is of, below `n_chromosomes`.
    y : ndarray of float64, shape (n,)
        Whole numbers, residuals on the covariates.
    edges : sequence of (int, int)
        Where each fold begins and ends.
    shares : sequence of float
        Choices of the share h of the variance explained; the penalty is J (1 − h)/h for predictors
        of variance one.
    n_chromosomes : int
    """
    grams = np.stack([gram_of_predictors(predictors[:, a:b]) for a, b in edges])
    right = np.stack([product(predictors[:, a:b], y[a:b, None])[:, 0] for a, b in edges])
    squares = np.array([y[a:b] @ y[a:b] for a, b in edges])
    norm = grams.sum(axis=0).diagonal()
    scale = np.where(norm > 0, np.sqrt(len(y) / np.where(norm > 0, norm, 1.0)), 0.0)
    grams *= scale * scale[:, None]
    right *= scale
    total, right_total = grams.sum(axis=0), right.sum(axis=0)
    n_predictors = len(predictors)
    everything = np.arange(n_predictors)

    def without_fold(k: int, kept: NDArray[np.int64], share: float) -> Float:
        """Return coefficients of some predictors, fitted without a fold."""
        at = np.ix_(kept, kept)
        matrix = total[at] - grams[k][at]
        matrix[np.diag_indices_from(matrix)] += n_predictors * (1 - share) / share
        factor = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        return np.asarray(cho_solve(factor, (right_total - right[k])[kept], check_finite=False))

    best, chosen = float(squares.sum()), 0.0
    for share in shares:
        left = 0.0
        for k in range(len(edges)):
            found = without_fold(k, everything, share)
            left += squares[k] - 2 * found @ right[k] + found @ (grams[k] @ found)
        if left < best:
            best, chosen = left, share
    prediction = np.zeros((n_chromosomes + 1, len(y)))
    if chosen:
        others = [np.flatnonzero(of_chromosome != c) for c in range(n_chromosomes)]
        others.append(everything)
        bits = bits_left(PREDICTOR_BITS, n_predictors)
        for k, (a, b) in enumerate(edges):
            weights = np.zeros((n_predictors, len(others)))
            for c, kept in enumerate(others):
                if len(kept):
                    weights[kept, c] = without_fold(k, kept, chosen) * scale[kept]
            rounded, exponent = whole(weights, bits)
            prediction[:, a:b] = np.ldexp(combination(predictors[:, a:b], rounded), exponent).T
    r2 = 1 - best / float(squares.sum())
    return Stacked(prediction[:-1], prediction[-1], r2, chosen)
