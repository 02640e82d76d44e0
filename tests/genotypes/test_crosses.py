"""Genotype probabilities of crosses against all sequences of genotypes, one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.crosses import (
    additive_dominance,
    genotype_probabilities,
    loci,
    recombination,
    x_calls,
)

# The two chromosomes of an intercross, or the mother's of a backcross: which grandparent's, at a
# locus. Genotypes are how many are B's.
STRANDS = {"f2": 2, "backcross": 1}


def of_all_sequences(calls, places, kind, error, map_function):
    """One animal's probabilities, by adding up every way its chromosomes may have come about."""
    strands, states = STRANDS[kind], STRANDS[kind] + 1
    fractions = np.maximum(recombination(np.diff(places.positions), map_function), 1e-14)
    k = len(places)
    one = list(itertools.product((0, 1), repeat=k))
    weights = [
        0.5 * np.prod(np.where(np.diff(strand) != 0, fractions, 1 - fractions)) for strand in one
    ]
    found = np.zeros((k, states))
    for chosen in itertools.product(range(len(one)), repeat=strands):
        genotypes = np.sum([one[c] for c in chosen], axis=0)
        weight = np.prod([weights[c] for c in chosen])
        for genotype, marker in zip(genotypes, places.markers, strict=True):
            if marker >= 0:
                weight *= chance_of_call(calls[marker], genotype, states, error)
        found[np.arange(k), genotypes] += weight
    return found / found.sum(axis=1, keepdims=True)


def chance_of_call(call, genotype, states, error):
    if call < 0 or (states == 2 and call == 3):
        return 1.0
    if states == 2:
        call = 1 if call == 4 else call
        return 1 - error if call == genotype else error
    if call < 3:
        return 1 - error if call == genotype else error / 2
    excluded = {3: 2, 4: 0}[call]
    return error if genotype == excluded else 1 - error / 2


@st.composite
def animals(draw):
    kind = draw(st.sampled_from(["f2", "backcross"]))
    gaps = draw(st.lists(st.floats(0, 60), min_size=0, max_size=3))
    positions = np.cumsum([draw(st.floats(-5, 50)), *gaps])
    codes = [-1, 0, 1, 2, 3, 4] if kind == "f2" else [-1, 0, 1, 3, 4]
    calls = draw(st.lists(st.sampled_from(codes), min_size=len(positions), max_size=len(positions)))
    return kind, positions, calls


@given(
    animals(),
    st.sampled_from([1e-4, 0.01, 0.2]),
    st.sampled_from(["haldane", "kosambi", "c-f", "morgan"]),
    st.sampled_from([(0, 0), (0, 2.5), (70, 0), (90, 10)]),
)
def test_probabilities_are_those_of_all_sequences(animal, error, map_function, grid):
    kind, positions, calls = animal
    places = loci(positions, *grid)
    found = genotype_probabilities([calls], places, kind, error=error, map_function=map_function)
    expected = of_all_sequences(calls, places, kind, error, map_function)
    np.testing.assert_allclose(found[0], expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found.sum(axis=2), 1, rtol=1e-12)


@given(animals())
def test_a_map_read_backwards_says_the_same(animal):
    kind, positions, calls = animal
    found = genotype_probabilities([calls], loci(positions), kind)
    turned = genotype_probabilities([calls[::-1]], loci(-positions[::-1]), kind)
    np.testing.assert_allclose(found, turned[:, ::-1], rtol=1e-9, atol=1e-12)


def test_long_chromosomes_of_many_animals_are_each_its_own():
    rng = np.random.default_rng(3)
    positions = np.sort(rng.uniform(0, 120, 300))
    calls = rng.integers(-1, 5, (40, 300))
    places = loci(positions, 1.0)
    together = genotype_probabilities(calls, places)
    assert together.shape == (40, len(places), 3)
    assert np.isfinite(together).all()
    for k in (0, 17, 39):
        alone = genotype_probabilities(calls[k : k + 1], places)
        np.testing.assert_allclose(together[k], alone[0], rtol=1e-12)


def test_what_nobody_called_has_mendels_proportions():
    places = loci([0, 10, 30], 5)
    found = genotype_probabilities(np.full((2, 3), -1), places)
    np.testing.assert_allclose(found, np.broadcast_to([0.25, 0.5, 0.25], found.shape), rtol=1e-12)
    found = genotype_probabilities(np.full((2, 3), -1), places, "backcross")
    np.testing.assert_allclose(found, 0.5, rtol=1e-12)


def test_errors_are_found_by_their_neighbours():
    calls = [[0, 0, 2, 0, 0]]
    places = loci([0, 1, 2, 3, 4])
    sure = genotype_probabilities(calls, places, error=1e-12)[0, 2]
    careful = genotype_probabilities(calls, places, error=0.01)[0, 2]
    assert sure[2] > 0.99
    assert careful[0] > 0.99
    # At one place only: recombination cannot explain it, whatever the error.
    assert genotype_probabilities([[0, 2, 0]], loci([5, 5, 5]), error=1e-6)[0, 1, 0] > 0.99


@pytest.mark.parametrize(
    ("positions", "step", "off_end", "expected"),
    [
        # As create.map of R/qtl 1.7 lays them, by its definition.
        ([10, 17.5, 22], 0, 0, [10, 17.5, 22]),
        ([10, 17.5, 22], 5, 0, [10, 15, 17.5, 20, 22]),
        ([10, 15, 22], 5, 0, [10, 15, 20, 22]),
        ([10, 17.5, 22], 5, 2.5, [7, 10, 12, 17, 17.5, 22, 27]),
        ([10, 17.5, 22], 0, 2.5, [7, 10, 17.5, 22, 25]),
        ([4], 2, 3, [1, 3, 4, 5, 7]),
        ([4], 0, 0, [4]),
    ],
)
def test_the_grid_is_that_of_rqtl(positions, step, off_end, expected):
    places = loci(positions, step, off_end)
    np.testing.assert_allclose(places.positions, expected, rtol=0, atol=1e-12)
    at = places.markers >= 0
    np.testing.assert_array_equal(places.positions[at], positions)
    np.testing.assert_array_equal(places.markers[at], np.arange(len(positions)))


def test_map_functions_are_their_definitions():
    d = np.array([0.0, 0.5, 3, 20, 80, 250])
    np.testing.assert_allclose(recombination(d), (1 - np.exp(-d / 50)) / 2, rtol=1e-14)
    # Interference as the map functions have it: dr/dx = 1 − 2r, 1 − 4r², 1 − 16r⁴ (x in Morgans).
    for name, power in (("haldane", 1), ("kosambi", 2), ("c-f", 4)):
        for centimorgans in (0.5, 3, 20, 80):
            r = float(recombination(centimorgans, name))
            morgans, _ = quad(lambda t, p=power: 1 / (1 - (2 * t) ** p), 0, r)
            assert 100 * morgans == pytest.approx(centimorgans, rel=1e-8)
        found = recombination(d, name)
        assert found[0] == pytest.approx(0, abs=1e-15)
        assert (np.diff(found) > 0).all()
        assert found.max() <= 0.5
    np.testing.assert_allclose(recombination([1, 80], "morgan"), [0.01, 0.5])


def test_one_meiosis_on_x(caplog):
    calls = [[0, 1, 2, 3, 4, -1]] * 3
    found = x_calls(calls, males=[False, False, True], reverse=[False, True, False])
    np.testing.assert_array_equal(found[0], [0, 1, -1, -1, 1, -1])  # AA or AB
    np.testing.assert_array_equal(found[1], [-1, 1, 0, 1, -1, -1])  # BB or AB
    np.testing.assert_array_equal(found[2], [0, -1, 1, 0, 1, -1])  # AY or BY
    assert "3 calls on X are of impossible genotypes" in caplog.text
    found = x_calls(calls, males=[False, True, True], kind="backcross", reverse=True)
    np.testing.assert_array_equal(found[0], [0, 1, -1, -1, 1, -1])
    np.testing.assert_array_equal(found[1], [0, 1, 1, 0, 1, -1])


def test_scores_are_expectations():
    p = np.array([[0.2, 0.3, 0.5], [1, 0, 0]])
    np.testing.assert_allclose(additive_dominance(p), [[0.3, 0.3], [-1, 0]])
    np.testing.assert_allclose(additive_dominance(p[:, :2]), [[0.3], [0]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calls": [[0, 5]]}, "numbers from -1 to 4"),
        ({"calls": [0, 1]}, "a table of numbers"),
        ({"calls": [[0]]}, "calls of 1 markers for a map of 2"),
        ({"positions": [3, 1]}, "do not ascend"),
        ({"positions": [3, np.nan]}, "are one or more numbers"),
        ({"positions": []}, "are one or more numbers"),
        ({"step": -1}, "cannot be negative"),
        ({"off_end": np.inf}, "cannot be negative"),
        ({"error": 0}, "not from 1e-50 to 0.5"),
        ({"error": 0.5}, "not from 1e-50 to 0.5"),
        ({"kind": "f3"}, "unknown kind of cross 'f3': f2 or backcross"),
        ({"map_function": "kosambis"}, "unknown map function 'kosambis': haldane, kosambi"),
    ],
)
def test_what_is_none_is_refused(change, words):
    given = {"calls": [[0, 1]], "positions": [1, 3], "step": 0, "off_end": 0, **change}

    def probabilities(calls, positions, step, off_end, **options):
        return genotype_probabilities(calls, loci(positions, step, off_end), **options)

    with pytest.raises(InputError, match=words):
        probabilities(**given)
