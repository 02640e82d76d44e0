"""Robust covariances of second-order HLMM fits, from the same class sums and one more pass.

The formulas of :mod:`~hlmm_scan.kernels.exact.robust` with the traces of the second-order function,
so the covariances are as good as its information is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_scan.array_types import Float, Float32
from hlmm_scan.kernels.exact.robust import (
    ClassTraces,
    between,
    studentised,
    without_random_effects,
)
from hlmm_scan.kernels.second_order.basis import REFINED_WIDTH, SecondOrderBasis
from hlmm_scan.kernels.second_order.maximum import SecondOrderFits
from hlmm_scan.kernels.second_order.products import CODES, SecondOrderSums
from hlmm_scan.kernels.sums import products
from hlmm_scan.kernels.sums.call_counts import PEOPLE_PER_STRIP, plain


@dataclass(frozen=True)
class _Classes:
    """The classes of one variant that have anyone in them: which, people, designs, ω_c."""

    present: NDArray[np.intp]
    counts: Float
    design: Float
    weights: Float

    @classmethod
    def of(cls, sums: SecondOrderSums, fits: SecondOrderFits, j: int) -> _Classes:
        present = np.flatnonzero(sums.counts[j] > 0)
        counts = sums.counts[j, present]
        v = (present - (counts @ present) / counts.sum()) / fits.spread[j]
        design = np.column_stack((np.ones_like(v), v))
        log_variance = fits.log_variance[j] + fits.var[j] * fits.spread[j] * v
        return cls(present, counts, design, np.exp(-log_variance))


def studentised_covariances(
    basis: SecondOrderBasis, sums: SecondOrderSums, fits: SecondOrderFits
) -> Float:
    """Return the covariances from the pooled moments of the null noise.

    Returns
    -------
    ndarray, shape (m, 5, 5)
        In the order and units of `fits.covariance`.
    """
    result = np.full_like(fits.covariance, np.nan)
    for j in np.flatnonzero(np.isfinite(fits.add)).tolist():
        classes, h2 = _Classes.of(sums, fits, j), fits.random_variance[j]
        w, design, t = classes.weights, classes.design, sums.sums[j, classes.present]
        kappa = h2 * (classes.counts @ w) / len(basis.residual)
        smoothed = ((w[:, None] * design).T @ t) / (1 + kappa * basis.eigen.values)
        mean_sums = classes.counts[:, None] * design - h2 * (t @ smoothed.T)
        traces = ClassTraces(
            mean=design,
            variance=design,
            counts=classes.counts,
            weights=w,
            h2=h2,
            leverages=fits.traces[j, classes.present, 0],
            squared_traces=fits.traces[j][np.ix_(classes.present, 1 + classes.present)],
            mean_sums=np.sqrt(w)[:, None] * mean_sums,
        )
        result[j] = studentised(
            fits.information[j],
            traces,
            basis.leverages.moments,
            basis.null.moments,
            bool(fits.at_bound[j]),
        )
    return result


@njit(nogil=True, cache=True)
def _add_moments(
    packed: NDArray[np.uint8],
    samples: NDArray[np.int64],
    residual: Float,
    prediction: Float,
    change: Float32,
    mean: Float,
    moments: Float,
) -> None:  # pragma: no cover
    """Add the products of (1, e, e², e·f) to `moments`, (m, 4, 4, 4), by code; lower triangle.

    Of each person f = prediction + change is the random effects' part, and e = residual − change
    − mean of the code, `mean` (m, 4).
    """
    z = np.ones(4)
    for i in range(samples.shape[0]):
        byte, bit = samples[i] >> 2, 2 * (samples[i] & 3)
        for j in range(packed.shape[0]):
            code = (packed[j, byte] >> bit) & 3
            e = residual[i] - change[i, j] - mean[j, code]
            z[1] = e
            z[2] = e * e
            z[3] = e * (prediction[i] + change[i, j])
            for a in range(4):
                for b in range(a + 1):
                    moments[j, code, a, b] += z[a] * z[b]


def sandwich_covariances(
    basis: SecondOrderBasis,
    sums: SecondOrderSums,
    fits: SecondOrderFits,
    packed: NDArray[np.uint8],
    samples: NDArray[np.int64],
    y: Float,
) -> Float:
    """Return the covariances from every person's own score; one product, 2n·k operations.

    Parameters
    ----------
    basis, sums, fits
        Of the same m variants.
    packed : ndarray of uint8, shape (m, bytes)
    samples : ndarray of int64, shape (n,)
    y : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (m, 5, 5)
        In the order and units of `fits.covariance`.

    Notes
    -----
    Every score (:func:`exact/robust.class_scores`) is a linear function of (1, e, e², e·f), f the
    predicted random effects, which is the same for all people of a class but for the leverage p;
    there its class mean stands. It enters as h2·p beside e²/D, which is of order 1.
    """
    prediction = y - basis.intercept - basis.residual
    moments = np.zeros((len(packed), 4, 4, 4))
    shift = sums.beta + fits.shift - basis.beta
    mean = np.zeros((len(packed), 4))
    centre = (sums.counts @ np.arange(3.0)) / np.maximum(sums.counts.sum(axis=1), 1)
    for copies, code in enumerate(CODES):
        slope = fits.add * (copies - centre)
        mean[:, code] = np.nan_to_num(fits.mean + slope)
    for start in range(0, len(packed), REFINED_WIDTH):
        rows = slice(start, min(start + REFINED_WIDTH, len(packed)))
        spread = basis.spread(shift[rows])
        for first in range(0, len(samples), PEOPLE_PER_STRIP):
            strip = slice(first, min(first + PEOPLE_PER_STRIP, len(samples)))
            _add_moments(
                plain(packed[rows]),
                plain(samples[strip]),
                plain(basis.residual[strip]),
                plain(prediction[strip]),
                products.multiply(basis.columns[strip], spread),
                plain(mean[rows]),
                moments[rows],
            )
    moments = moments[:, CODES]
    moments += np.tril(moments, -1).transpose(0, 1, 3, 2)
    result = np.full_like(fits.covariance, np.nan)
    for j in np.flatnonzero(np.isfinite(fits.add)).tolist():
        result[j] = _sandwich(_Classes.of(sums, fits, j), fits, j, moments[j])
    return result


def _sandwich(classes: _Classes, fits: SecondOrderFits, j: int, moments: Float) -> Float:
    information, h2, held = fits.information[j], fits.random_variance[j], bool(fits.at_bound[j])
    B = np.zeros_like(information)
    for c, row, w, n in zip(
        classes.present, classes.design, classes.weights, classes.counts, strict=True
    ):
        p = fits.traces[j, c, 0] / n
        score = np.zeros((5, 4))  # of (1, e, e², e·f)
        score[:2, 1] = w * row
        score[2:4, 0], score[2:4, 2] = 0.5 * (h2 * p - 1) * row, 0.5 * w * row
        if not held:
            score[4, 0], score[4, 3] = -0.5 * p, 0.5 * w / h2
        B += score @ moments[c] @ score.T
    if held:
        squares = classes.weights * moments[classes.present, 1, 1]
        information = without_random_effects(information, classes.design, squares)
    return between(information, B, 5 - held)
