"""What scripts/tutorial judges."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def tutorial(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("tutorial")


def outcome(tutorial, seed: int = 1, **changes):
    rest = np.random.default_rng(seed).random(999)
    good = tutorial.Outcome(
        seed, False, 3.0, 1.2, 1.0, 0.4, 0.05, 0.4, 20.0, 21.0, tuple(rest), float("nan")
    )
    return replace(good, **changes)


def test_what_is_good_passes(tutorial):
    found = [outcome(tutorial, seed) for seed in range(1, 6)]
    found.append(outcome(tutorial, 1, random_effects=True, add_chi2=3.1, from_r=1e-6))
    assert tutorial.misses(found) == []
    assert "MISS" not in tutorial.report(found, 100, 1_000, 0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"planted_dispersion": 5.9}, "found at p < 1e-6 in 0 of 5"),
        ({"var_chi2": 0.9}, "not inflated above"),
        ({"rest": tuple(np.linspace(0, 1, 999) ** 1.2)}, "others below 0.05, not"),
        ({"rest": tuple(0.1 + 0.9 * np.linspace(0, 1, 999))}, "not uniform"),
        ({"from_r": 2e-4}, "2.0e-04 from R's"),
    ],
)
def test_what_is_out_is_told(tutorial, changes, words):
    found = [outcome(tutorial, seed, **changes) for seed in range(1, 6)]
    assert any(words in miss for miss in tutorial.misses(found))
    assert "MISS" in tutorial.report(found, 100, 1_000, 0.1)


def test_random_effects_have_to_help(tutorial):
    found = [outcome(tutorial), outcome(tutorial, random_effects=True)]
    assert "seed 1: random effects do not increase the additive signal" in tutorial.misses(found)


def test_rejections_lie_in_their_binomial_interval(tutorial):
    p = (np.arange(10_000) + 0.5) / 10_000
    count, low, high = tutorial.rejections(p, 0.05)
    assert (count, low < 500 < high) == (500, True)
    assert 440 < low < high < 560
