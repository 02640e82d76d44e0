"""Covariances of the two effects of one variant among covariates, exact (math.md §2).

For the plain joint kernel, and for variants for which the fast one's shortcuts are not good enough.
Quadratic in the number of covariates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.covariances import put_covariance
from hlmm_scan.kernels.estimates import Estimates, Inference
from hlmm_scan.kernels.limits import SINGULAR

_PEOPLE = 2048  # per strip: sums are added up in a fixed order, and strips stay in cache


@dataclass(frozen=True)
class Fitted:
    """One variant at its estimates.

    Attributes
    ----------
    y, X, V : ndarray, shapes (n,), (n, c) and (n, v)
        Of everybody, without the genotype.
    g : ndarray, shape (n,)
        Centred genotype, NaN where missing.
    a, b : ndarray, shapes (c + 1,) and (v + 1,)
        Coefficients, the genotype's last.
    """

    y: Float
    X: Float
    V: Float
    g: Float
    a: Float
    b: Float

    def strips(self) -> Iterator[tuple[Float, Float, Float, Float]]:
        """Yield W^½, W^½r and the designs with the genotype, of people called, strip by strip."""
        for start in range(0, len(self.y), _PEOPLE):
            s = slice(start, start + _PEOPLE)
            s_called = np.flatnonzero(~np.isnan(self.g[s])) + start
            g = self.g[s_called]
            X, V = (np.column_stack([design[s_called], g]) for design in (self.X, self.V))
            root = np.exp(-0.5 * (V @ self.b))
            yield root, root * (self.y[s_called] - X @ self.a), X, V

    def information(self, *, observed: bool) -> Float:
        """Return the information of ([X g], [V g]), shape (c + v + 2, c + v + 2).

        Notes
        -----
        Observed: XᵀWX, XᵀW^½diag(e)V and ½Vᵀdiag(e²)V with e = W^½r; expected: diag(XᵀWX, ½VᵀV).
        """
        p, k = len(self.a), len(self.a) + len(self.b)
        total = np.zeros((k, k))
        for root, e, X, V in self.strips():
            weighted = X * root[:, None]
            total[:p, :p] += weighted.T @ weighted
            if observed:
                V *= e[:, None]
                total[:p, p:] += weighted.T @ V
            total[p:, p:] += 0.5 * (V.T @ V)
        total[p:, :p] = total[:p, p:].T
        return total

    def studentised(self, information: Float, moments: tuple[float, float]) -> Float:
        """Return A⁻¹BA⁻¹ with B_bb = ¼(m₄ − 1)VᵀV, B_ab = ½m₃XᵀW^½V; A the expected information."""
        third, fourth = moments
        p = len(self.a)
        B = information.copy()
        B[p:, p:] *= 0.5 * (fourth - 1)
        B[:p, p:] = 0.5 * third * sum(X.T @ (V * root[:, None]) for root, _, X, V in self.strips())
        B[p:, :p] = B[:p, p:].T
        return _between(information, B)

    def sandwich(self, information: Float) -> Float:
        """Return A⁻¹BA⁻¹ with B = Σsᵢsᵢᵀ, s = (xr/D, ½v(k − 1)), and A_bb = ½Vᵀdiag(k)V, k = r²/D.

        Notes
        -----
        A_ab is taken as 0, and A_aa from the expected information.
        """
        p = len(self.a)
        A, B = information.copy(), np.zeros_like(information)
        A[p:, p:] = 0.0
        for root, e, X, V in self.strips():
            k = e * e
            A[p:, p:] += 0.5 * (V.T @ (V * k[:, None]))
            scores = np.column_stack([X * (root * e)[:, None], 0.5 * V * (k - 1)[:, None]])
            B += scores.T @ scores
        return _between(A, B)


def put_covariances(
    estimates: Estimates,
    row: int,
    fitted: Fitted,
    moments: tuple[float, float],
    inference: Inference,
) -> bool:
    """Put all covariances that were asked for into one row of `estimates`.

    Returns
    -------
    bool
        Whether the information for the model's covariance was positive definite.
    """
    found, positive = covariances(fitted, moments, inference)
    a = len(fitted.a) - 1
    for suffix, covariance in found.items():
        both = covariance[a, -1]
        put_covariance(estimates, row, suffix, covariance[a, a], covariance[-1, -1], both)
    return positive


def covariances(
    fitted: Fitted, moments: tuple[float, float], inference: Inference
) -> tuple[dict[str, Float], bool]:
    """Return all covariances that were asked for, (c + v + 2, c + v + 2) each.

    Returns
    -------
    dict of str to ndarray
        By the suffix of their names; those that exist.
    bool
        Whether the information for the model's covariance was positive definite.
    """
    expected = fitted.information(observed=False)
    model = fitted.information(observed=True) if inference.observed else expected
    found: dict[str, Float] = {}
    positive = _positive(model)
    if positive:
        found[""] = np.asarray(np.linalg.inv(model), np.float64)
    if _positive(expected):
        found["_robust"] = fitted.studentised(expected, moments)
        if inference.sandwich:
            found["_sandwich"] = fitted.sandwich(expected)
    return found, positive


def put_sandwich(estimates: Estimates, row: int, fitted: Fitted) -> None:
    """Put the sandwich covariance into one row of `estimates`, where there is one."""
    expected = fitted.information(observed=False)
    if _positive(expected):
        covariance = fitted.sandwich(expected)
        a, b = len(fitted.a) - 1, len(expected) - 1
        both = covariance[a, b]
        put_covariance(estimates, row, "_sandwich", covariance[a, a], covariance[b, b], both)


def _positive(information: Float) -> bool:
    """Say whether an information is positive definite, scaled to a unit diagonal."""
    diagonal = np.diag(information)
    if not (np.isfinite(information).all() and (diagonal > 0).all()):
        return False
    scale = 1 / np.sqrt(diagonal)
    return bool(np.linalg.eigvalsh(information * scale * scale[:, None])[0] > SINGULAR)


def _between(A: Float, B: Float) -> Float:
    """A⁻¹BA⁻¹."""
    half = np.linalg.solve(A, B)
    return np.asarray(np.linalg.solve(A, half.T))
