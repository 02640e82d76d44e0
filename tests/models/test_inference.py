"""Tests, p-values and covariances shared by models and kernels."""

import numpy as np
import pytest
from scipy import stats

from hlmm_scan.models.inference import (
    covariance_from_information,
    joint_chi2,
    neg_log10_p,
    wald_neg_log10_p,
)


@pytest.mark.parametrize("df", [1, 2])
def test_p_values_agree_with_scipy_where_it_does_not_underflow(df):
    x = np.array([[0.0, 1e-3, 1.0], [3.84, 30.0, 1400.0]])
    np.testing.assert_allclose(
        neg_log10_p(x, df), -stats.chi2.logsf(x, df) / np.log(10), rtol=1e-12, atol=1e-15
    )


def test_p_values_do_not_underflow():
    assert neg_log10_p(1e6, 2) == pytest.approx(0.5e6 / np.log(10), rel=1e-14)
    # Mills' ratio: P(|Z| > z) = 2φ(z)/z·(1 − 1/z² + …).
    z = 1e3
    log_tail = np.log(2) - z**2 / 2 - 0.5 * np.log(2 * np.pi) - np.log(z) - 1 / z**2
    assert neg_log10_p(z**2, 1) == pytest.approx(-log_tail / np.log(10), rel=1e-14)
    assert wald_neg_log10_p(-2e3, 2.0) == pytest.approx(float(neg_log10_p(z**2, 1)), rel=1e-14)


def test_p_values_of_what_is_no_statistic():
    result = neg_log10_p([np.nan, -1.0, np.inf, 0.0], 1)
    assert np.isnan(result[:2]).all()
    assert result[2] == np.inf
    assert result[3] == 0
    assert not np.signbit(result[3])
    assert np.isnan(wald_neg_log10_p([1.0, 1.0, np.nan], [0.0, np.nan, 1.0])).all()
    with pytest.raises(ValueError, match="degrees of freedom"):
        neg_log10_p(1.0, 3)


def test_joint_statistic_is_the_quadratic_form_for_each_variant():
    rng = np.random.default_rng(1)
    theta = rng.standard_normal((7, 2))
    root = rng.standard_normal((7, 2, 2)) * np.array([1e3, 1e-4])[:, np.newaxis]
    C = root @ root.transpose(0, 2, 1)
    expected = [t @ np.linalg.solve(c, t) for t, c in zip(theta, C, strict=True)]
    result = joint_chi2(theta[:, 0], theta[:, 1], C[:, 0, 0], C[:, 1, 1], C[:, 0, 1])
    np.testing.assert_allclose(result, expected, rtol=1e-9)
    assert joint_chi2(3.0, 4.0, 1.0, 4.0) == 9.0 + 4.0
    assert np.isnan(joint_chi2(1.0, 1.0, [1.0, -1.0, np.nan], 1.0, [1.0, 0.0, 0.0])).all()


def test_covariance_is_the_inverse_or_nan():
    information = np.array([[4e12, 1e3], [1e3, 1e-3]])
    np.testing.assert_allclose(
        covariance_from_information(information) @ information, np.eye(2), atol=1e-9
    )
    for singular in ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]], [[np.nan, 0], [0, 1.0]]):
        assert np.isnan(covariance_from_information(np.array(singular))).all()
