"""Covariances of finished variants in the fast joint HLM kernel.

With x̃ and ṽ the genotype projected on the covariates of the mean (weights W) and of the
log-variance, I_a = Σwx̃² and I_b = ½Σṽ² are the efficient information of the two effects, and

    model 1/I_a, 1/I_b, 0;  studentised 1/I_a, ½(m₄ − 1)/I_b, ½m₃·Σ√w·x̃ṽ/(I_a·I_b).

Only the covariates' part is dear, and for most genotypes it is small. It is taken

* from the null model where little can have changed (:func:`report`);
* from a pass that projects the genotype with the null model's coefficients p (:func:`project`): an
  error of p changes Σwx̃² in second order only, since that is what p minimises;
* exactly (:mod:`~hlmm_scan.kernels.joint.covariances`) where not even that is good enough.

The sandwich always takes a pass (:func:`sandwich`), of its own: its projection on the log-variance
design has the weights k = r²w.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.covariances import put_covariance
from hlmm_scan.kernels.estimates import Estimates, Inference
from hlmm_scan.kernels.joint.covariances import (
    Fitted,
    put_covariances,
    put_sandwich,
)
from hlmm_scan.kernels.scoring.fits import Fits
from hlmm_scan.kernels.scoring.steps import Mask, State
from hlmm_scan.kernels.scoring.sweep import Projected, Sweep
from hlmm_scan.schema import Status

_PRECISION = 4e-4
"""Estimated error, of an information relative to itself and of the correlation of the two effects,
above which a shortcut is not taken."""

_SCORES = 2e-3
"""The same for the squared scores of the sandwich, twice the error of a standard error."""


@dataclass(frozen=True)
class _Doubt:
    """How far the null model's projections of the genotypes can be trusted.

    Attributes
    ----------
    share : ndarray, shape (m, 2)
        R²/(1 − R²) of the genotype on the covariates of the mean and of the log-variance.
    moved : ndarray, shape (m, 2)
        Relative change of the weights in a projection.
    """

    share: Float
    moved: Float

    @classmethod
    def of(cls, fits: Fits, state: State) -> _Doubt:
        """Bound them at the points where variants stand.

        Notes
        -----
        Where weights moved by factors within e^±ρ, e^−ρ·A₀ ≤ A ≤ e^ρ·A₀ for A = X₀ᵀWX₀; people
        without a call add a factor 1/(1 − their leverage). ρ is estimated by the reach of b_g·g
        plus three standard deviations of the covariates' part.
        """
        index = state.index
        own, taken = fits.expected_D[index], fits.explained()[index]
        with np.errstate(divide="ignore", invalid="ignore"):
            # The intercept's part is no one's to move: sums of weights are taken anew.
            centred = own[:, 0] - fits.expected_C[index, 0] ** 2 / (
                fits.design.weight * fits.called[index]
            )
            left = own - taken
            share = np.column_stack([centred - left[:, 0], taken[:, 1]]) / left
        share = np.where((left > 0) & np.isfinite(share), np.maximum(share, 0.0), np.inf)
        change = state.theta - fits.design.null
        covariates = change.copy()
        covariates[:, -1] = 0.0
        rho = 3 * fits.jump(index, covariates) + np.abs(change[:, -1]) * fits.tile.reach[index]
        kept = np.maximum(1 - fits.lost[index], 1e-3)
        factors = np.column_stack([np.exp(np.minimum(rho, 100.0)) / kept, 1 / kept])
        return cls(share, factors - 1)

    @property
    def first_order(self) -> Float:
        """Error of an information with the covariates' share taken from the null."""
        return np.asarray((self.share * self.moved).max(axis=1))

    @property
    def second_order(self) -> Float:
        """Error of one with only the projection's coefficients taken from the null."""
        return np.asarray((self.share * self.moved**2).max(axis=1))

    def of_scores(self, noise: float) -> Float:
        """Error of a sum of squared scores with the same projections.

        Parameters
        ----------
        noise : float
            What R² is by chance in a projection weighted by k = r²w, which like w does not stay,
            for the people who make up the sum.

        Notes
        -----
        Nothing is stationary here: the error is of first order in the coefficients, of which as
        little as R² is seen again in the sum.
        """
        return np.asarray((self.share.max(axis=1) + noise) * self.moved[:, 0])


def report(
    fits: Fits,
    state: State,
    sweep: Sweep,
    inference: Inference,
) -> tuple[Estimates, Mask]:
    """Take the last step of finished variants and put covariances on them.

    Parameters
    ----------
    fits : Fits
    state : State
        Finished variants.
    sweep : Sweep
        At `state.theta`.
    inference : Inference

    Returns
    -------
    Estimates
        One row per variant of `state`.
    ndarray of bool, shape (m,)
        Which of them :func:`project` has to see to.

    Notes
    -----
    With the observed information that is all of them, sandwich included.
    """
    index = state.index
    out = Estimates.empty(len(index))
    final = state.theta + state.step
    out.status[:] = Status.OK
    out.add[:], out.var[:] = final[:, -2], final[:, -1]
    out.log_likelihood[:] = log_likelihood(fits, state)
    doubt = _Doubt.of(fits, state)
    w, wx, wxx, root_x, root_xx = sweep.moments
    with np.errstate(invalid="ignore", divide="ignore"):
        own = wxx - wx**2 / w
        left = fits.expected_D[index, 1] - fits.explained()[index, 1]
        both = 1 / (1 + doubt.share)
        cross = (root_xx - wx / w * root_x) * np.sqrt(both.prod(axis=1))
        correlation = _put_expected(out, slice(None), fits, own * both[:, 0], left, cross)
        unsure = ~(doubt.first_order <= _PRECISION)
        unsure |= ~(np.abs(correlation) * (1 - both).max(axis=1) <= _PRECISION)
    return out, unsure | inference.observed


def _put_expected(
    out: Estimates, rows: object, fits: Fits, mean: Float, variance: Float, cross: Float
) -> Float:
    """Put the model's and the studentised covariance; return the correlation of the latter."""
    third, fourth = fits.design.joint.moments
    add, var = 1 / mean, 1 / variance
    robust = 0.5 * (fourth - 1) * var
    both = 0.5 * third * cross * add * var
    put_covariance(out, rows, "", add, var, 0.0)
    put_covariance(out, rows, "_robust", add, robust, both)
    return np.asarray(both / np.sqrt(add * robust))


def log_likelihood(fits: Fits, state: State) -> Float:
    """Return the log-likelihood at the point finished variants aim at."""
    # The last step raises log L by half the square of its length.
    value = state.value - 0.5 * state.length**2
    return np.asarray(-value - 0.5 * fits.people[state.index] * np.log(2 * np.pi))


def project(fits: Fits, state: State, estimates: Estimates, inference: Inference) -> None:
    """Compute the covariances of finished variants from their efficient scores.

    Parameters
    ----------
    fits : Fits
    state : State
        Variants that :func:`report` left in doubt, where they aim from.
    estimates : Estimates
        Of the whole block: their covariances are overwritten.
    inference : Inference
    """
    passing = _Passing.of(fits, state)
    exact = ~(passing.doubt.second_order <= _PRECISION) | inference.observed
    if not exact.all():
        found = passing.scores(passing.on_V)
        with np.errstate(invalid="ignore", divide="ignore"):
            _put_expected(
                estimates, passing.rows, fits, found.mean, 0.5 * found.variance, found.cross
            )
    # What else was asked for is exact as well where that is all there is.
    asked = inference if inference.observed else replace(inference, sandwich=False)
    moments = fits.design.joint.moments
    for i in np.flatnonzero(exact):
        row = passing.rows[i]
        if not put_covariances(estimates, int(row), passing.fitted(i), moments, asked):
            estimates.put(np.array([row]), Estimates.empty(1))


def sandwich(fits: Fits, state: State, estimates: Estimates) -> None:
    """Compute the sandwich covariances of finished variants from their efficient scores.

    Parameters
    ----------
    fits : Fits
    state : State
        Finished variants, where they aim from.
    estimates : Estimates
        Of the whole block.
    """
    passing = _Passing.of(fits, state)
    # A person's leverage among v covariates weighted by k is some k·v/n.
    noise = fits.design.outliers * fits.v / fits.n
    exact = ~(passing.doubt.second_order <= _PRECISION)
    exact |= ~(passing.doubt.of_scores(noise) <= _SCORES)
    if not exact.all():
        c, design = fits.c, fits.design
        weighted = np.linalg.inv(design.observed[c:, c:])
        q = fits.C[state.index, c:, 1] @ weighted / fits.called[state.index, None]
        # At the maximum Σ(1 − k)v = 0: means weighted by k are plain means, 0 for the genotype.
        q[:, 0] = -q[:, 1:] @ design.joint.V[:, 1:].mean(axis=0)
        found = passing.scores(q)
        with np.errstate(invalid="ignore", divide="ignore"):
            add, var = 1 / found.mean, 2 / found.weighted
            one, other, both = found.scores * (add**2, var**2, add * var)
        put_covariance(estimates, passing.rows, "_sandwich", one, other, both)
    for i in np.flatnonzero(exact):
        put_sandwich(estimates, int(passing.rows[i]), passing.fitted(i))


@dataclass(frozen=True)
class _Passing:
    """Finished variants of a tile, of which a pass is to project the genotypes.

    Attributes
    ----------
    fits : Fits
    index : ndarray of int, shape (m,)
        Their columns of the tile.
    final : ndarray, shape (m, c + v + 2)
        Their estimates.
    doubt : _Doubt
    on_X, on_V : ndarray, shapes (m, c) and (m, v)
        Coefficients of the projections on the covariates by the null model.
    """

    fits: Fits
    index: NDArray[np.intp]
    final: Float
    doubt: _Doubt
    on_X: Float
    on_V: Float

    @classmethod
    def of(cls, fits: Fits, state: State) -> _Passing:
        """Prepare the pass."""
        c, index = fits.c, state.index
        inverse = fits.design.expected_inverse
        share = 1 / fits.called[index, None]
        p = fits.expected_C[index, :c] @ inverse[:c, :c] * share
        # Weighted means do change in first order.
        p[:, 0] += state.centre - fits.expected_C[index, 0] * share[:, 0] / fits.design.weight
        q = fits.expected_C[index, c:] @ inverse[c:, c:] * share
        final = state.theta + state.step
        return cls(fits, index, final, _Doubt.of(fits, state), p, q)

    @property
    def rows(self) -> NDArray[np.intp]:
        """Where the variants stand in the block."""
        return self.fits.rows[self.index]

    def fitted(self, i: np.intp) -> Fitted:
        """Return one of the variants at its estimates."""
        return self.fits.fitted(self.index[i], self.final[i])

    def scores(self, on_V: Float) -> Projected:
        """Go over the people, with these projections on the log-variance design."""

        def spread(values: Float) -> Float:
            whole = np.zeros((len(self.fits.rows), values.shape[1]))
            whole[self.index] = values
            return whole

        change = spread(self.final - self.fits.design.null)
        found = Projected.at(
            self.fits.design.columns, self.fits.tile, change, spread(self.on_X), spread(on_V)
        )
        return found.of(self.index)
