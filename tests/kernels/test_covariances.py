"""What is done to the numbers of every way to fit alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_scan.kernels.covariances import (
    EXACT_ERROR,
    SECOND_ORDER_ERROR,
    likelihood_ratio,
    likelihood_ratios,
    put_covariance,
    reported_errors,
)
from hlmm_scan.kernels.estimates import Estimates

numbers = st.floats(-1e6, 1e6) | st.just(np.nan)


@given(
    full=st.lists(numbers, min_size=1, max_size=5),
    below=numbers,
    error=st.sampled_from([EXACT_ERROR, SECOND_ORDER_ERROR]),
)
def test_the_rule_is_one_for_single_fits_and_for_many(full, below, error):
    together = likelihood_ratios(np.array(full), np.array(below), error)
    single = [likelihood_ratio(value - below, error) for value in full]
    np.testing.assert_array_equal(together, single)
    assert not (together < 0).any()


@pytest.mark.parametrize("error", [EXACT_ERROR, SECOND_ORDER_ERROR])
def test_a_restricted_fit_that_is_better_makes_the_test_unknown(error):
    """Unknown, not p = 1; what rounding may do is 0."""
    full = np.zeros(4)
    restricted = np.array([-2.0, 0.0, 0.4 * error, 0.6 * error])
    expected = [4.0, 0.0, 0.0, np.nan]
    np.testing.assert_array_equal(likelihood_ratios(full, restricted, error), expected)


def test_each_variant_may_have_its_own_error():
    found = likelihood_ratios(
        np.zeros(2), np.full(2, 5e-4), np.array([EXACT_ERROR, SECOND_ORDER_ERROR])
    )
    np.testing.assert_array_equal(found, [np.nan, 0.0])


def test_errors_are_reported_in_the_units_of_the_phenotype():
    estimates = Estimates.empty(3)
    put_covariance(estimates, np.array([0, 2]), "_robust", 4.0, 9.0, np.array([-1.0, 1.0]))
    found = reported_errors(estimates, "_robust", scale=10.0, freedom=(1.5, 2.0))
    np.testing.assert_array_equal(found["add_se_robust"], [30.0, np.nan, 30.0])
    np.testing.assert_array_equal(found["var_se_robust"], [6.0, np.nan, 6.0])
    np.testing.assert_array_equal(found["add_var_cov_robust"], [-30.0, np.nan, 30.0])
