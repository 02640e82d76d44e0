"""Numbers that may stand for missing: which are told, and which are a trait's own."""

import numpy as np
import pytest

from hlmm_scan.cohort.codes import suspected_codes, tell_codes

RNG = np.random.default_rng(7)
NORMAL = RNG.normal(size=2000)
AGE = RNG.integers(40, 70, 2000)
CIGARETTES = RNG.choice([0, 0, 0, 0, 0, 0, 5, 10, 15, 20, 20, 30, 40], 2000)


def with_codes(values, *codes):
    """The same with 30 people of each code."""
    values = np.array(values, float)
    for k, code in enumerate(codes):
        values[k : 30 * len(codes) : len(codes)] = code
    return values


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (25 + 2 * NORMAL, [-9]),
        (AGE, [-9]),
        (AGE, [-9, -3]),
        (AGE, [-3, -1]),
        (AGE, [999]),
        (CIGARETTES, [-3, -1]),
        (10 * NORMAL, [-9]),  # in their midst, where no two others are alike
        (25 + 2 * NORMAL, [12345]),
        (1e300 * NORMAL, [9e301]),
    ],
)
def test_what_is_told(values, codes):
    assert [code for code, _ in suspected_codes(with_codes(values, *codes))] == codes
    assert suspected_codes(np.array(values, float)) == []


@pytest.mark.parametrize(
    "values",
    [
        NORMAL,
        np.exp(2 * NORMAL).round(1),
        RNG.poisson(3, 2000),
        RNG.choice([0, 1], 2000),
        RNG.choice([-2, -1, 0, 1, 2], 2000),
        RNG.choice([0, 1], 2000, p=[0.99, 0.01]),
        np.where(RNG.random(2000) < 0.8, 0, np.exp(NORMAL)),
        NORMAL / RNG.normal(size=2000),
        np.where(np.arange(2000) == 5, 1e6, NORMAL),
        np.full(2000, 3.0),
        np.full(2000, np.nan),
    ],
)
def test_what_is_a_trait_of_its_own(values):
    assert suspected_codes(np.array(values, float)) == []


def test_the_line():
    assert tell_codes(with_codes(AGE, -9), "age", "c.tsv") == (
        "c.tsv: 'age' is -9 in 30 people, apart from the others; if that means missing, "
        "--missing-value=-9 says so"
    )
