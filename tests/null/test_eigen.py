"""The shared eigenstructure against the random-effect designs written out."""

from __future__ import annotations

import numpy as np
import pytest
from cohorts_by_hand import random_effects_of

from hlmm_scan.null.eigen import SharedEigenstructure
from hlmm_scan.null.model import RandomEffects

CONTIGS = {"few": ["1"] * 6 + ["2"] * 14 + ["X"] * 3, "more_than_people": ["1"] * 40 + ["2"] * 50}


def share(effects: RandomEffects) -> SharedEigenstructure:
    return SharedEigenstructure(effects.columns, effects.contigs)


def factor(structure) -> np.ndarray:
    return structure.combine(np.eye(len(structure.values)))


@pytest.mark.parametrize("kind", CONTIGS)
@pytest.mark.parametrize("left_out", ["", "1", "2", "none of them"])
def test_every_set_has_the_covariance_of_its_design(kind, left_out):
    effects = random_effects_of(61, CONTIGS[kind], seed=3)
    structure = share(effects).without(left_out)
    G, F = effects.design(left_out), factor(structure)
    np.testing.assert_allclose(F @ F.T, G @ G.T, atol=1e-13)
    np.testing.assert_allclose(F.T @ F, np.diag(structure.values), atol=1e-11)
    assert (np.diff(structure.values) <= 0).all()
    assert structure.columns.shape[1] <= 61


@pytest.mark.parametrize("kind", CONTIGS)
@pytest.mark.parametrize("left_out", ["", "1", "2"])
def test_relationships_by_subtraction_are_those_of_the_design(kind, left_out):
    effects = random_effects_of(61, CONTIGS[kind], seed=3)
    G, K = effects.design(left_out), effects.relationship(left_out)
    np.testing.assert_allclose(K, G @ G.T, atol=1e-13)
    np.testing.assert_array_equal(K, K.T)
    K[...] = 0.0  # its own array: the next is as good
    np.testing.assert_allclose(effects.relationship(left_out), G @ G.T, atol=1e-13)
    sets = {left_out: share(effects).without(left_out)}
    stored = RandomEffects(None, effects.contigs, effects.variant_ids, sets)
    if kind == "more_than_people":
        np.testing.assert_allclose(stored.relationship(left_out), G @ G.T, atol=1e-13)


@pytest.mark.parametrize("left_out", ["", "2"])
def test_gram_and_sums_of_any_people_are_those_of_the_design(left_out):
    effects = random_effects_of(61, CONTIGS["few"], seed=3)
    structure = share(effects).without(left_out)
    people = np.arange(0, 61, 3)
    G, Z = effects.design(left_out)[people], effects.columns[people]
    M = np.random.default_rng(0).standard_normal((len(people), 2))
    np.testing.assert_allclose(structure.of_gram(Z.T @ Z), G.T @ G, atol=1e-13)
    np.testing.assert_allclose(structure.of_sums(Z.T @ M), G.T @ M, atol=1e-13)
    F = factor(structure)[people]
    np.testing.assert_allclose(structure.rotate(Z.T @ M), F.T @ M, atol=1e-12)


@pytest.mark.parametrize("kind", CONTIGS)
def test_leverages_are_weighted_row_sums_of_squares(kind):
    effects = random_effects_of(61, CONTIGS[kind], seed=5)
    structure = share(effects).without("1")
    weights = np.random.default_rng(1).random((len(structure.values), 3))
    expected = factor(structure) ** 2 @ weights
    np.testing.assert_allclose(structure.leverage(weights), expected, rtol=1e-9)


def test_tiny_singular_values_cost_the_covariance_nothing():
    # Columns that differ by 1e-9 have a singular value of 1e-9, and one of 1e-18 squared, which
    # the Gram matrix cannot tell from none; columns that are equal have none.
    rng = np.random.default_rng(0)
    base = random_effects_of(200, ["1"] * 8, seed=1).columns
    near = base + rng.standard_normal(base.shape) * np.logspace(-9, -1, 8)
    columns = np.column_stack([base, near, base[:, :3]])
    structure = SharedEigenstructure(columns, ["1"] * 19).without("")
    G, F = columns / np.sqrt(19), factor(structure)
    assert len(structure.values) <= 16
    np.testing.assert_allclose(F @ F.T, G @ G.T, atol=1e-12)
    identity = np.eye(200)
    for h2 in (0.1, 1e4):
        np.testing.assert_allclose(
            np.linalg.slogdet(identity + h2 * F @ F.T)[1],
            np.linalg.slogdet(identity + h2 * G @ G.T)[1],
            rtol=1e-10,
        )


def test_leaving_everything_out_is_refused():
    with pytest.raises(ValueError, match="all random effects lie on chromosome 1"):
        share(random_effects_of(20, ["1"] * 3, seed=0)).without("1")


@pytest.mark.parametrize("kind", ["distinct", "twins", "few_left", "not_centred"])
def test_any_factor_has_the_covariance_and_says_that_it_is_one(kind):
    """Of people of whom two are alike no ordinary Cholesky decomposition is known to rounding."""
    effects = random_effects_of(61, CONTIGS["more_than_people"], seed=3)
    columns = effects.columns.copy()
    if kind == "twins":
        columns[7] = columns[3]
    if kind == "not_centred":
        columns += 0.5
    left_out = "2" if kind == "few_left" else ""
    effects = RandomEffects(columns, effects.contigs, effects.variant_ids)
    structure = share(effects).without(left_out, principal=False)
    G, F = effects.design(left_out), factor(structure)
    np.testing.assert_allclose(F @ F.T, G @ G.T, atol=1e-13)
    np.testing.assert_allclose((F**2).sum(axis=0), structure.values, rtol=1e-12)
    assert not structure.principal
    assert F.shape[1] <= {"twins": 60, "few_left": 40}.get(kind, 61)
