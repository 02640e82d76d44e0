"""Saddlepoints against the plain reference, against all allocations, and on awkward data."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from hlmm_scan.kernels.scores.p_values import score_tests
from hlmm_scan.kernels.scores.residual_bins import ResidualBins
from hlmm_scan.kernels.scores.saddlepoints import _corrected, mean_and_joint, rows_of_room, variance
from hlmm_scan.kernels.scores.saddlepoints_plain import Allocations, corrected
from hlmm_scan.schema import ScoreFlag

TRAITS = ("normal", "gamma", "t5", "log-normal", "counts", "ties")


def draw(trait: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if trait == "normal":
        y = rng.normal(size=n)
    elif trait == "gamma":
        y = rng.gamma(2, size=n)
    elif trait == "t5":
        y = rng.standard_t(5, size=n)
    elif trait == "log-normal":
        y = np.exp(rng.normal(size=n))
    elif trait == "counts":
        y = rng.poisson(0.7, size=n).astype(float)
    else:
        y = np.round(rng.normal(size=n), 1)
    return (y - y.mean()) / y.std()


def centred(people: np.ndarray, copies: np.ndarray) -> np.ndarray:
    return copies - people @ copies / people.sum()


def compiled(bins: ResidualBins, people, copies, U_a, U_2, U_b):
    """What the compiled functions find: z of the mean, of the variance, and given the mean."""
    room = np.empty((rows_of_room(len(people)), len(bins.s)))
    bits = np.empty(len(bins.s), np.int64)
    g = centred(people, copies)
    order = np.argsort(-people, kind="stable")
    people, g = people[order], g[order]
    z_a, z_given, bound, _, flags = mean_and_joint(
        bins.table, people, g, U_a, U_2, True, room, bits
    )
    z_b, more = variance(bins.table, people, g, U_b, room, bits)
    return z_a, z_b, z_given, flags | more, bound


@pytest.mark.parametrize("trait", TRAITS)
@pytest.mark.parametrize(
    ("people", "copies"),
    [
        ([130, 18, 2], [0, 1, 2]),
        ([60, 70, 20], [0, 1, 2]),
        ([140, 10], [0, 1]),
        ([20, 130], [1, 2]),
        ([80, 30, 25, 15], [0.02, 0.4, 1.1, 1.9]),
    ],
)
def test_what_is_compiled_is_the_plain_reference(trait, people, copies):
    people, copies = np.array(people, float), np.array(copies, float)
    rng = np.random.default_rng(5)
    s = draw(trait, int(people.sum()), rng)
    q = s * s - 1
    bins = ResidualBins(*_exact(s, q))
    plain = Allocations(s, q, people, copies)
    for U in some_scores(s, q, people, copies, rng):
        found = compiled(bins, people, copies, *U)
        if np.isfinite(found[4]):  # all carriers have the least that there is: no tilt gives that
            continue
        assert found[3] == 0
        # At the edge of a lattice, tilts run away, and are stopped somewhere.
        near = 1e-3 if trait == "counts" else 1e-6
        assert found[0] == pytest.approx(plain.mean(U[0])[0], abs=near)
        assert found[1] == pytest.approx(plain.variance(U[2]), abs=near)
        assert found[2] == pytest.approx(plain.given_mean(U[0], U[1]), abs=near)


def some_scores(s, q, people, copies, rng):
    """Scores of allocations: what no allocation has, no tilt need give."""
    g = np.repeat(centred(people, copies), people.astype(int))
    g2, g3 = g @ g, (g**3).sum()
    drawn = []
    for _ in range(400):
        g = rng.permutation(g)
        a = g @ s / g2
        drawn.append((g @ s, g @ q, g @ q - 2 * a * (g**2 @ s) + a * a * g3))
    scores = np.array(drawn)
    order = np.argsort(scores[:, 2])
    return scores[[order[40], order[200], order[-8], *np.argsort(scores[:, 0])[[40, -8]]]]


def _exact(s, q):
    """One bin for each different residual."""
    values, place = np.unique(np.round(s, 12), return_inverse=True)
    people = np.bincount(place).astype(float)
    return people, values, np.bincount(place, q) / people


def test_tail_probabilities_are_those_of_all_allocations():
    """Everything that 3 of 24 people with one copy can be is counted."""
    rng = np.random.default_rng(3)
    s = draw("gamma", 24, rng)
    q = s * s - 1
    chosen = np.array(list(combinations(range(24), 3)))
    sums = s[chosen].sum(axis=1)
    people, copies = np.array([21.0, 3.0]), np.array([0.0, 1.0])
    bins = ResidualBins.of(s, q)
    for share in (0.05, 0.01):
        U = np.sort(sums)[-int(share * len(sums))]
        exact = (sums >= U).mean()
        z = compiled(bins, people, copies, U, 0.3, 0.3)[0]
        assert norm.sf(z) == pytest.approx(exact, rel=0.25)


@pytest.mark.parametrize("trait", TRAITS)
@pytest.mark.parametrize("counts", [(1950, 48, 2), (1200, 700, 100)])
def test_bins_change_p_by_less_than_a_hundredth(trait, counts):
    people, copies = np.array(counts, float), np.arange(3.0)
    rng = np.random.default_rng(8)
    s = draw(trait, 2000, rng)
    q = s * s - 1
    bins, exact = ResidualBins.of(s, q), ResidualBins(*_exact(s, q))
    for U in some_scores(s, q, people, copies, rng):
        of_bins = np.array(compiled(bins, people, copies, *U)[:3])
        of_people = np.array(compiled(exact, people, copies, *U)[:3])
        change = -(norm.logsf(np.abs(of_bins)) - norm.logsf(np.abs(of_people))) / np.log(10)
        assert np.abs(change).max() < 0.01


def test_a_score_beyond_all_allocations_has_the_bound():
    rng = np.random.default_rng(2)
    s = draw("normal", 50, rng)
    bins = ResidualBins.of(s, s * s - 1)
    people, copies = np.array([[45.0, 5.0]]), np.array([[0.0, 1.0]])
    most = np.sort(s)[-5:].sum()
    tests = score_tests(bins, people, copies, np.array([[2 * most, 3.0, 3.0]]))
    # One of 2,118,760 allocations, on either side.
    assert tests.add[0] == pytest.approx(np.log10(2_118_760 / 2), abs=1e-6)
    assert tests.flags[0] & ScoreFlag.ADD_AT_BOUND
    assert np.isfinite(tests.av[0])


def test_two_values_have_a_test_of_the_mean_only():
    rng = np.random.default_rng(2)
    y = (rng.random(400) < 0.2).astype(float)
    s = (y - y.mean()) / y.std()
    bins = ResidualBins.of(s, s * s - 1)
    tests = score_tests(
        bins, np.array([[300.0, 90, 10]]), np.arange(3.0)[None], np.array([[20.0, 30.0, 25.0]])
    )
    assert np.isnan(tests.var[0])
    assert tests.av[0] == tests.add[0]
    assert tests.flags[0] == ScoreFlag.VAR_UNKNOWN


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    trait=st.sampled_from([*TRAITS, "one outlier", "alike"]),
    n=st.integers(12, 400),
    shares=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6),
    z=st.tuples(*[st.floats(-40, 40)] * 3),
)
def test_every_score_has_a_finite_p(seed, trait, n, shares, z):
    """Classes, ties, one carrier, people all alike but one, scores of any size."""
    rng = np.random.default_rng(seed)
    if trait == "one outlier":
        s = np.append(rng.normal(size=n - 1), 1e4)
    elif trait == "alike":
        s = np.append(np.zeros(n - 3), [1.0, 2.0, -1.0])
    else:
        s = rng.normal(size=n) if trait == "normal" else draw(trait, n, rng)
    s = (s - s.mean()) / s.std()
    bins = ResidualBins.of(s, s * s - 1)
    people = np.floor(np.array(shares) / max(sum(shares), 1e-9) * (n - 1))
    people[0] += n - people.sum()
    if (people > 0).sum() < 2:
        people[0], people[1] = n - 1, 1
    copies = np.linspace(0, 2, len(people))
    G2 = people @ centred(people, copies) ** 2
    unit = np.array([1.0, *[bins.moments[2]] * 2]) * np.sqrt(G2)
    tests = score_tests(bins, people[None], copies[None], np.array([z]) * unit)
    assert np.isfinite(tests.add[0])
    assert np.isfinite(tests.av[0])
    assert np.isfinite(tests.var[0]) or tests.flags[0] & ScoreFlag.VAR_UNKNOWN


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_units_of_the_residuals_do_not_matter(scale):
    rng = np.random.default_rng(4)
    s = draw("t5", 300, rng)
    q = s * s - 1
    one, other = ResidualBins.of(s, q), ResidualBins.of(scale * s, q)
    np.testing.assert_allclose(other.s, one.s, rtol=1e-12)
    np.testing.assert_allclose(other.people, one.people)


@pytest.mark.parametrize(
    ("r", "v", "z"),
    [
        (-2.5, -1.9, -2.5 + np.log(1.9 / 2.5) / -2.5),
        (0.4, 1.34, 0.4),  # seen where a few people hold most of the variance: not 3.4
        (0.52, 1.91, 0.52),
        (4.0, 1.55, 4.0 + np.log(1.55 / 4.0) / 4.0),
        (0.2, 0.21, 0.2),
        (1.0, -1.0, 1.0),
    ],
)
def test_a_correction_of_more_than_one_is_none(r, v, z):
    assert _corrected(r, v) == pytest.approx(z, abs=1e-12)
    assert corrected(r, v) == pytest.approx(z, abs=1e-12)


@pytest.mark.parametrize("trait", ["log-normal", "zero-inflated"])
def test_the_short_side_of_a_skew_score_is_a_tail(trait):
    """Where few people hold most variance, the least score in 200 is one deviation away."""
    rng = np.random.default_rng(6)
    y = np.exp(rng.normal(size=2000))
    if trait == "zero-inflated":
        y[rng.random(2000) < 0.7] = 0.0
    s = (y - y.mean()) / y.std()
    q = s * s - 1
    people, copies = np.array([1920.0, 80.0]), np.array([0.0, 1.0])
    g = centred(people, copies)
    carriers = np.array([rng.choice(2000, 80, replace=False) for _ in range(4000)])
    S1, S2 = s[carriers].sum(axis=1), q[carriers].sum(axis=1)
    S3 = (g[1] ** 2 - g[0] ** 2) * S1
    alpha = S1 / (people @ g**2)
    scores = np.column_stack([S1, S2, S2 - 2 * alpha * S3 + alpha**2 * (people @ g**3)])
    least = scores[np.argsort(scores[:, 2])[20]]
    tests = score_tests(ResidualBins.of(s, q), people[None], copies[None], least[None])
    assert 10 ** -tests.var[0] == pytest.approx(2 * 20 / 4000, rel=0.6)


@pytest.mark.parametrize("trait", ["normal", "t5"])
def test_a_variant_has_the_same_bits_whoever_stands_beside_it(trait):
    rng = np.random.default_rng(7)
    s = draw(trait, 500, rng)
    bins = ResidualBins.of(s, s * s - 1)
    ones, twos = rng.integers(20, 200, 37), rng.integers(0, 40, 37)
    people = np.column_stack([500 - ones - twos, ones, twos]).astype(float)
    copies = np.broadcast_to(np.arange(3.0), people.shape)
    z, units = 1.5 * rng.normal(size=(37, 3)), (1.0, *[float(bins.moments[2])] * 2)
    together = score_tests(bins, people, copies, z, units)
    g = copies - (people * copies).sum(axis=1, keepdims=True) / 500
    sums = z * units * np.sqrt((people * g**2).sum(axis=1, keepdims=True))
    for j in range(37):
        own = slice(j, j + 1)
        alone = score_tests(bins, people[own], copies[own], z[own], units)
        of_sums = score_tests(bins, people[own], copies[own], sums[own])
        for name in ("add", "var", "av", "flags"):
            assert getattr(alone, name)[0] == getattr(together, name)[j]
            assert getattr(of_sums, name)[0] == pytest.approx(getattr(alone, name)[0], abs=1e-9)
