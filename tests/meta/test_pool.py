"""The pool of effects and tests: against matrices written out, and values by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_pool import plain_pool
from scipy.stats import chi2

from hlmm_scan.meta.pool import FIELDS, chi2_tail, pool

SMALL = st.floats(0.01, 2)
SIGNED = st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3)
RHO = st.floats(-0.9, 0.9)


@st.composite
def a_cohort(draw) -> dict[str, float]:
    add_se, var_se, robust = draw(SMALL), draw(SMALL), draw(st.floats(0.7, 2.5))
    p_add, p_var, beyond = (draw(st.floats(0.001, 12)) for _ in range(3))
    return {
        "n": float(draw(st.integers(20, 100_000))),
        "effect_allele_frequency": draw(st.floats(0.01, 0.99)),
        "info": np.nan,
        "add": draw(SIGNED),
        "add_se": add_se,
        "var": draw(SIGNED),
        "var_se": var_se,
        "add_var_cov": 0.2 * draw(RHO) * add_se * var_se,
        "add_se_robust": add_se,
        "var_se_robust": robust * var_se,
        "add_var_cov_robust": draw(RHO) * add_se * robust * var_se,
        "add_neg_log10_p": p_add,
        "var_neg_log10_p": p_var,
        "av_neg_log10_p": p_add + beyond,
        "test_flags": 0.0,
    }


def table(cohorts: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([[c[name]] for c in cohorts]) for name in FIELDS}


@settings(max_examples=200, deadline=None)
@given(st.lists(a_cohort(), min_size=2, max_size=6))
def test_the_fast_pool_is_that_of_matrices_written_out(cohorts) -> None:
    found, right = pool(table(cohorts), range(len(cohorts))), plain_pool(cohorts)
    for name, value in right.items():
        if np.isinf(value):  # scipy's tail underflows; see below
            continue
        # A heterogeneity of next to nothing is what rounding leaves.
        atol = 1e-6 if name.startswith(("q_", "i2_")) else 1e-9
        np.testing.assert_allclose(found[name][0], value, rtol=1e-6, atol=atol, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(st.lists(a_cohort(), min_size=2, max_size=5))
def test_an_allele_counted_the_other_way_turns_both_effects_and_nothing_else(cohorts) -> None:
    signed = ("add", "var")
    turned = [{**c, **{name: -c[name] for name in signed}} for c in cohorts]
    one, other = (pool(table(c), range(len(c))) for c in (cohorts, turned))
    for name in one:
        if name != "effect_allele_frequency":
            np.testing.assert_array_equal(
                one[name], -other[name] if name in signed else other[name]
            )


def test_leaving_one_out_is_pooling_the_others() -> None:
    rng = np.random.default_rng(1)
    cohorts = {name: rng.uniform(0.2, 0.8, (4, 7)) for name in FIELDS}
    cohorts["test_flags"][:] = 0
    left = pool(cohorts, [0, 1, 3])
    others = pool({name: values[[0, 1, 3]] for name, values in cohorts.items()}, range(3))
    for name in left:
        np.testing.assert_array_equal(left[name], others[name])


def by_hand(**columns) -> dict[str, np.ndarray]:
    k = len(next(iter(columns.values())))
    empty = {name: np.full((k, 1), np.nan) for name in FIELDS}
    given = {name: np.array(values, float)[:, None] for name, values in columns.items()}
    people = {"n": np.full((k, 1), 100.0), "effect_allele_frequency": np.full((k, 1), 0.5)}
    return {**empty, **people, **given}


def test_q_and_i2_by_hand() -> None:
    # Weights 1, 1, 4: mean (1 + 3 + 4·2)/6 = 2, Q = 1 + 1 + 0.
    found = pool(by_hand(add=[1, 3, 2], add_se=[1, 1, 0.5]), range(3))
    assert found["add"][0] == pytest.approx(2.0, rel=1e-14)
    assert found["add_se"][0] == pytest.approx(6**-0.5, rel=1e-14)
    assert found["q_add"][0] == pytest.approx(2.0, rel=1e-14)
    assert found["i2_add"][0] == 0.0
    assert found["q_add_neg_log10_p"][0] == pytest.approx(1 / np.log(10), rel=1e-12)  # exp(−1)
    # Twice as far apart: Q = 8, I² = 1 − 2/8.
    found = pool(by_hand(add=[0, 4, 2], add_se=[1, 1, 0.5]), range(3))
    assert found["q_add"][0] == pytest.approx(8.0, rel=1e-14)
    assert found["i2_add"][0] == pytest.approx(0.75, rel=1e-14)
    # With one effect alone the joint Q is that of it.
    assert found["q_av"][0] == pytest.approx(8.0, rel=1e-14)
    assert np.isnan(found["var"][0])
    assert np.isnan(found["q_var"][0])


def test_one_cohort_is_pooled_to_itself() -> None:
    found = pool(
        by_hand(
            add=[0.3], add_se=[0.1], var=[-0.2], var_se=[0.05], add_var_cov=[0.001],
            add_neg_log10_p=[2.5], var_neg_log10_p=[4.0], av_neg_log10_p=[5.0],
        ),
        [0],
    )  # fmt: skip
    for name, value in {"add": 0.3, "add_se": 0.1, "var": -0.2, "var_se": 0.05}.items():
        assert found[name][0] == pytest.approx(value, rel=1e-12)
    for name, value in {"add": 2.5, "var": 4.0, "av": 5.0}.items():
        assert found[f"{name}_neg_log10_p"][0] == pytest.approx(value, rel=1e-9)
    assert np.isnan(found["q_add"][0])


def test_a_cohort_without_a_covariance_counts_as_if_there_were_none() -> None:
    both = {"add": [1, 2], "add_se": [1, 1], "var": [1, 3], "var_se": [1, 2]}
    unknown = pool(by_hand(**both), range(2))
    nought = pool(by_hand(**both, add_var_cov=[0, 0]), range(2))
    for name in unknown:
        np.testing.assert_array_equal(unknown[name], nought[name])


def test_a_cohort_with_one_effect_says_of_the_other_what_their_covariance_does() -> None:
    found = pool(
        by_hand(
            add=[1.0, 3.0], add_se=[1.0, 1.0], var=[1.0, np.nan], var_se=[1.0, np.nan],
            add_var_cov=[0.5, np.nan],
        ),
        range(2),
    )  # fmt: skip
    c = np.array([[1, 0.5], [0.5, 1]])
    total = np.linalg.inv(c) + np.diag([1.0, 0.0])
    right = np.linalg.solve(total, np.linalg.inv(c) @ [1, 1] + [3.0, 0.0])
    np.testing.assert_allclose([found["add"][0], found["var"][0]], right, rtol=1e-12)
    covariance = np.linalg.inv(total)
    np.testing.assert_allclose(found["var_se"][0] ** 2, covariance[1, 1], rtol=1e-12)
    assert found["n_cohorts"][0] == 2


@pytest.mark.parametrize("df", [1, 2, 3, 18, 38])
def test_tails_of_chi2_do_not_underflow(df) -> None:
    x = np.array([0.0, 1.0, 30.0, 600.0, 1300.0, 1334.0, 1336.0, 1e5])
    found = chi2_tail(x, np.full(len(x), float(df)))
    np.testing.assert_allclose(
        found[:5], -chi2.logsf(x[:5], df) / np.log(10), rtol=1e-9, atol=1e-12
    )
    assert (np.diff(found[2:]) > 0).all()
    # From one form to the other without a step: the tail's own slope on both sides.
    x = np.linspace(1320.0, 1480.0, 161)
    slopes = np.diff(chi2_tail(x, np.full(len(x), float(df))))
    assert np.ptp(slopes) < 2e-3
    assert (np.diff(slopes) * np.sign(df - 2.0) >= -1e-9).all()
    assert np.isfinite(found[-1])
