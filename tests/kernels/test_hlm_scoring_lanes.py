"""The loops of vectors and the tiles of the fast joint kernel, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels.scoring.lanes import (
    PROJECTED_SUMS,
    SUMS,
    WIDTH,
    weigh,
    weigh_projected,
)
from hlmm_scan.kernels.scoring.tile import OfPeople, Tile, centred


def strip(people: int, whole: bool, seed: int = 1) -> dict[str, np.ndarray]:
    """One strip of people, as the passes have it before them."""
    rng = np.random.default_rng(seed)
    g = rng.integers(-1, 3, (people, WIDTH)).astype(np.int8)
    if not whole:
        g = np.where(g < 0, -1, g + 0.1 * rng.random(g.shape))
    return {
        "e": rng.standard_normal((people, WIDTH)).astype(np.float32),
        "r": rng.standard_normal((people, WIDTH)).astype(np.float32),
        "g": g if whole else g.astype(np.float32),
        "p": 0.3 * rng.standard_normal((people, WIDTH)).astype(np.float32),
        "q": 0.3 * rng.standard_normal((people, WIDTH)).astype(np.float32),
        "parameters": 0.5 * rng.standard_normal((3, WIDTH)).astype(np.float32),
    }


def plainly(data: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """x, who is called, w and r in float64."""
    centre, a_g, b_g = data["parameters"].astype(np.float64)
    called = data["g"] >= 0
    x = np.where(called, data["g"] - centre, 0.0)
    w = np.where(called, np.exp(data["e"] - b_g * x), 0.0)
    return x, called, w, data["r"] - a_g * x


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("people", [1, 31, 32, 100])
def test_weights(people: int, whole: bool) -> None:
    data = strip(people, whole)
    x, called, w, r = plainly(data)
    log_w = np.log(np.where(called, w, 1.0))
    k = w * r * r
    sums = np.ones((SUMS, WIDTH))
    e, wr = data["e"].copy(), data["r"].copy()
    weigh(e.ravel(), wr.ravel(), data["g"].ravel(), data["parameters"].ravel(), sums.ravel())
    np.testing.assert_allclose(wr, w * r, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(e, called - k, rtol=2e-6, atol=2e-5)
    terms = [w * r * x, (called - k) * x, called - k, log_w, w, w * x, w * x * x]
    terms += [np.sqrt(w) * x, np.sqrt(w) * x * x]
    for found, term in zip(sums, terms, strict=True):
        size = np.abs(term).sum(axis=0).max()
        np.testing.assert_allclose(found - 1, term.sum(axis=0), rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize("whole", [True, False])
def test_projected_scores(whole: bool) -> None:
    data = strip(70, whole)
    x, called, w, r = plainly(data)
    mean, variance = (x - data["p"]), np.where(called, x - data["q"], 0.0)
    k = w * r * r
    s, t = w * r * mean, 0.5 * variance * (k - called)
    flat = [data[name].ravel() for name in ("e", "r", "g", "p", "q", "parameters")]
    sums = np.zeros((PROJECTED_SUMS, WIDTH))
    weigh_projected(*flat, sums.ravel())
    terms = [w * mean**2, variance**2, np.sqrt(w) * mean * variance, k * variance**2]
    for found, term in zip(sums, [*terms, s * s, t * t, s * t], strict=True):
        size = np.abs(term).sum(axis=0).max()
        np.testing.assert_allclose(found, term.sum(axis=0), rtol=0, atol=2e-6 * size)


def test_lanes_do_not_know_their_place() -> None:
    data = strip(40, True)
    order = np.random.default_rng(2).permutation(WIDTH)
    results = []
    for columns in (np.arange(WIDTH), order):
        e, r, g, parameters = (
            np.ascontiguousarray(data[name][:, columns]) for name in ("e", "r", "g", "parameters")
        )
        sums = np.zeros((SUMS, WIDTH))
        weigh(e.ravel(), r.ravel(), g.ravel(), parameters.ravel(), sums.ravel())
        results.append((e, r, sums))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one[:, order], other)


def test_weights_of_runaway_fits_are_finite_and_nonsense_is_seen() -> None:
    data = strip(5, True)
    data["e"][0], data["e"][1], data["e"][2, 0] = 60.0, -200.0, np.nan
    data["g"][2, 0] = 1
    sums = np.zeros((SUMS, WIDTH))
    names = ("e", "r", "g", "parameters")
    weigh(*(data[name].ravel() for name in names), sums.ravel())
    assert np.isfinite(sums[:, 1:]).all()
    assert np.isnan(sums[0, 0])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, WIDTH), st.integers(0, 2**32 - 1))
def test_tiles_of_calls_and_of_dosages(people: int, m: int, seed: int) -> None:
    """Any number of people, in any order, some of those that are stored."""
    rng = np.random.default_rng(seed)
    calls = rng.integers(-1, 3, (m, people + 5)).astype(np.int8)
    samples = rng.permutation(people + 5)[:people]
    block = HardCalls.of(calls)
    hard = Tile.of(OfPeople(block, samples), slice(0, m))
    numbers = block.copies(samples).T
    soft = Tile.of(numbers, slice(0, m))
    expected = np.where(np.isnan(numbers), -1, numbers)
    np.testing.assert_array_equal(hard.g[:, :m], expected)
    some = np.flatnonzero(hard.people[:m] > 0)
    np.testing.assert_array_equal(hard.people, soft.people)
    np.testing.assert_allclose(hard.reach[some], soft.reach[some])
    x = np.zeros((2, 3, people, WIDTH), np.float32)
    absent = np.zeros((2, people, WIDTH), np.float32)
    for k, tile in enumerate((hard, soft)):
        centred(tile.g, tile.centre.astype(np.float32), *x[k], absent[k])
    np.testing.assert_allclose(x[0][:, :, :m], x[1][:, :, :m], atol=2e-6)
    np.testing.assert_array_equal(absent[0][:, :m], np.isnan(numbers))
    columns = rng.permutation(m)[: max(1, m // 2)]
    part = Tile.join([hard.take(columns[:1]), hard.take(columns[1:])])
    np.testing.assert_array_equal(part.g[:, : len(columns)], hard.g[:, columns])
