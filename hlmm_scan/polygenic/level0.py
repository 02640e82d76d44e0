"""Level 0: ridge regression of a trait on the variants of one block, as predictors of level 1.

All sums over people are of whole numbers and thus exact (:mod:`~hlmm_scan.polygenic.whole`): they
are made for all traits together and are yet, bit for bit, those of a trait alone. What remains are
solutions of a block's size, and these are made for one trait at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from hlmm_scan.array_types import Float
from hlmm_scan.polygenic.people import Group, People
from hlmm_scan.polygenic.whole import (
    CODE_BITS,
    PREDICTOR_BITS,
    bits_left,
    combination,
    gram,
    product,
    whole,
)

TRAITS_AT_ONCE = 8
"""Traits whose predictors are in memory together."""

EXPLAINED = 1e-6
"""Of a variant's sum of squares: a smaller rest after the covariates is rounding."""


@dataclass
class BlockSums:
    """Sums over the people of every fold that a block of variants needs.

    Attributes
    ----------
    codes : ndarray of uint8, shape (m, n)
        Of people in the order of `people`.
    people : People
    """

    codes: NDArray[np.uint8]
    people: People
    _grams: dict[bytes, Float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        edges = self.people.edges
        self._all = np.stack([gram(self.codes[:, a:b]) for a, b in edges])
        columns = self.people.columns
        self.products = np.stack([product(self.codes[:, a:b], columns[a:b]) for a, b in edges])

    def grams(self, group: Group) -> Float:
        """Return XᵀX of each fold's people of a group, shape (K, m, m), to be changed by nobody.

        Whichever people it is made of, by adding or by taking away, the sums are the same.
        """
        if len(group.rows) == self.codes.shape[1]:
            return self._all
        key = group.rows.tobytes()
        if key not in self._grams:
            self._grams = {key: self._of_some(group.rows)}  # groups of the same people follow
        return self._grams[key]

    def _of_some(self, rows: NDArray[np.int64]) -> Float:
        there = np.zeros(self.codes.shape[1], np.bool_)
        there[rows] = True
        found = np.empty_like(self._all)
        for k, (a, b) in enumerate(self.people.edges):
            here = there[a:b]
            fold = self.codes[:, a:b]
            if 2 * np.count_nonzero(here) < len(here):
                found[k] = gram(fold[:, here])
            else:
                found[k] = self._all[k] - gram(fold[:, ~here])
        return found


@dataclass(frozen=True)
class BlockModels:
    """Ridge regressions of the traits of a group, fitted without each fold in turn.

    Attributes
    ----------
    weights : ndarray of float64, shape (K, traits, R, m)
        Of genotype codes.
    of_covariates : ndarray of float64, shape (K, traits, R, c)
        What goes off for the covariates, as genotypes are residuals on them.
    """

    weights: Float
    of_covariates: Float


def fit_block(sums: BlockSums, group: Group, penalties: Sequence[float]) -> BlockModels:
    """Fit a block's ridge regressions for the traits of a group, without each fold in turn.

    Genotypes and traits are residuals on the covariates in all people of the group; variants have
    variance one among them.

    Parameters
    ----------
    sums : BlockSums
    group : Group
    penalties : sequence of float
        λ of the R ridge regressions, in units of sums over people.
    """
    # Copies: how a library multiplies may depend on what lies between the rows of a matrix.
    xz = np.ascontiguousarray(sums.products[:, :, group.covariates])
    xy = np.ascontiguousarray(sums.products[:, :, group.responses].transpose(2, 0, 1))
    zz, zy = group.covariate_sums(sums.people)
    on_covariates = cho_solve(cho_factor(zz.sum(axis=0)), xz.sum(axis=0).T)  # (c, m)
    grams = sums.grams(group).copy()
    raw = np.einsum("kii->i", grams)
    for k, one in enumerate(grams):
        shared = xz[k] @ on_covariates
        one += on_covariates.T @ (zz[k] @ on_covariates) - shared - shared.T
    for t in range(len(xy)):  # one by one: products of many would round by how many they are
        xy[t] -= zy[t] @ on_covariates
    total = grams.sum(axis=0)
    rest = total.diagonal().copy()
    varies = rest > EXPLAINED * raw
    scale = np.zeros(len(rest))
    scale[varies] = np.sqrt(len(group.rows) / rest[varies])
    n_folds, n_traits, m = len(grams), len(xy), len(rest)
    weights = np.zeros((n_folds, n_traits, len(penalties), m))
    for k in range(n_folds):
        without = (total - grams[k]) * scale * scale[:, None]
        right = [(one.sum(axis=0) - one[k]) * scale for one in xy]
        diagonal = without.diagonal().copy()
        for r, penalty in enumerate(penalties):
            np.fill_diagonal(without, diagonal + penalty)
            factor = cho_factor(without.T, lower=True, check_finite=False)
            for t in range(n_traits):
                solved = cho_solve(factor, right[t], check_finite=False)
                weights[k, t, r] = solved * scale
    return BlockModels(weights, weights @ on_covariates.T)


def predictors(
    codes: NDArray[np.uint8], people: People, penalties: Sequence[float]
) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Predict every trait by a block of variants, each fold by what was fitted without it.

    Parameters
    ----------
    codes : ndarray of uint8, shape (m, n)
        Genotypes, of people in the order of `people`.
    people : People
    penalties : sequence of float

    Yields
    ------
    trait : int
        Number of the trait; each once.
    predictors : ndarray of int16, shape (R, n)
        In units of their own, as level 1 standardises them; 0 for people without the trait.
    """
    sums = BlockSums(codes, people)
    models = [(group, fit_block(sums, group, penalties)) for group in people.groups]
    del sums
    each = [
        (group, trait, model.weights[:, t], model.of_covariates[:, t])
        for group, model in models
        for t, trait in enumerate(group.traits)
    ]
    bits = bits_left(CODE_BITS, len(codes))
    for start in range(0, len(each), TRAITS_AT_ONCE):
        some = each[start : start + TRAITS_AT_ONCE]
        found = np.empty((codes.shape[1], len(some), len(penalties)))
        for k, (a, b) in enumerate(people.edges):
            # (m, traits, R); a weight's grid is its column's own, whatever stands beside it.
            columns = np.stack([weights[k] for _, _, weights, _ in some]).transpose(2, 0, 1)
            rounded, exponent = whole(np.ascontiguousarray(columns), bits)
            sums_of_codes = combination(codes[:, a:b], rounded.reshape(len(codes), -1))
            found[a:b] = np.ldexp(sums_of_codes.reshape(b - a, *exponent.shape), exponent)
        for at, (group, trait, _, of_covariates) in enumerate(some):
            z = group.covariate_columns(people)
            predicted = found[group.rows, at]
            for k, (a, b) in enumerate(group.edges(people)):
                predicted[a:b] -= z[a:b] @ of_covariates[k].T
            scattered = np.zeros((len(penalties), codes.shape[1]), np.int16)
            scattered[:, group.rows] = whole(predicted, PREDICTOR_BITS - 1)[0].T
            yield trait, scattered
