"""Third and fourth moments of the noise beside random effects."""

from __future__ import annotations

import numpy as np
import pytest
from cohorts_by_hand import cohort_of, null_model_of, random_effects_of

from hlmm_scan.models import HLMM
from hlmm_scan.null import moments
from hlmm_scan.null.fit import fit_null
from hlmm_scan.null.moments import noise_moments, pooled_moments


def draw(rng, n, G, h2, D):
    """Phenotype of mean 0 with Gamma(2) noise: m₃ = √2, m₄ = 6."""
    noise = (rng.gamma(2, 1, n) - 2) / np.sqrt(2)
    return np.sqrt(D) * noise + np.sqrt(h2) * G @ rng.standard_normal(G.shape[1])


@pytest.mark.parametrize("l_random", [5, 150], ids=["few", "full_rank"])
def test_moments_of_the_noise_are_found_beside_random_effects(l_random):
    n, h2, draws = 150, 0.5, 400
    rng = np.random.default_rng(1)
    G = random_effects_of(n, ["1"] * l_random, seed=2).design("")
    V = np.column_stack((np.ones(n), rng.standard_normal(n)))
    b = np.array([-0.3, 0.4])
    found = []
    for _ in range(draws):
        model = HLMM(draw(rng, n, G, h2, np.exp(V @ b)), np.ones(n), V, G)
        found.append(noise_moments(model.at(np.zeros(1), b, h2)))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(draws)
    # m₄ is cut off from below at 1 + m₃² where little of the noise is seen, which raises its mean.
    assert abs(mean[0] - np.sqrt(2)) < 4 * error[0]
    assert -4 * error[1] < mean[1] - 6 < 4 * error[1] + (0.5 if l_random == n else 0)


def test_sums_over_all_pairs_are_those_of_the_matrix():
    rng = np.random.default_rng(1)
    n, h2 = 700, 0.4
    G = random_effects_of(n, ["1"] * 200, seed=2).design("")
    y = draw(rng, n, G, h2, np.ones(n))
    at = HLMM(y, np.ones(n), np.ones(n), G).at(None, np.zeros(1), h2)
    M = np.linalg.inv(np.eye(n) + h2 * G @ G.T)
    cubes, fourths = moments._all_pairs(at.covariance.Q, h2)
    np.testing.assert_allclose(cubes, (M**3).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(fourths, (M**4).sum(axis=1), rtol=1e-9)
    # What is left out where l is small: far less than the moments' sampling error.
    own = 1 - h2 * at.covariance.leverage
    assert abs((own**3).sum() / cubes.sum() - 1) < 1e-2
    assert abs((own**4).sum() / fourths.sum() - 1) < 1e-4
    third = (at.residual_white**3).sum() / cubes.sum()
    assert noise_moments(at)[0] == pytest.approx(third, rel=1e-9)


def test_without_random_variance_they_are_the_moments_of_the_residuals():
    rng = np.random.default_rng(3)
    n = 400
    G = random_effects_of(n, ["1"] * 30, seed=2).design("")
    y = draw(rng, n, G, 0.0, np.full(n, 2.0))
    at = HLMM(y, np.ones(n), np.ones(n), G).at(np.zeros(1), [np.log(2)], 0.0)
    assert noise_moments(at) == pytest.approx(pooled_moments(y / np.sqrt(2)), rel=1e-9)


def test_a_fourth_moment_that_no_distribution_has_is_raised():
    n = 200
    y = np.random.default_rng(0).choice([-1.0, 1.0], n)
    y[0] = 1.1
    G = random_effects_of(n, ["1"] * 100, seed=2).design("")
    third, fourth = noise_moments(HLMM(y, np.ones(n), np.ones(n), G).at([0.0], [0.5], 0.3))
    assert fourth == pytest.approx(1 + third**2)


def test_every_left_out_set_has_the_moments_of_its_own_fit():
    rng = np.random.default_rng(4)
    n = 2000
    effects = random_effects_of(n, ["1"] * 6 + ["2"] * 4, seed=1)
    noise = (rng.gamma(2, 1, n) - 2) / np.sqrt(2)
    y = 50 + 3 * (noise + 0.5 * effects.design("") @ rng.standard_normal(10))
    covariate = rng.standard_normal(n)
    null = null_model_of(y, covariate, covariate, effects=effects, left_out=["1", "2"])
    assert list(null.fits) == ["", "1", "2"]
    for key, fit in null.fits.items():
        model = HLMM(null.y, null.mean_design, null.variance_design, effects.design(key))
        at = model.at(fit.alpha, fit.beta, fit.random_variance)
        assert fit.moments == pytest.approx(noise_moments(at), rel=1e-5)
    assert null.fits[""].moments == pytest.approx(pooled_moments(noise / noise.std()), abs=0.2)


def test_a_phenotype_as_the_2018_script_prepares_it_has_moments_too():
    rng = np.random.default_rng(4)
    n = 800
    effects = random_effects_of(n, ["1"] * 6 + ["2"] * 4, seed=1)
    cohort = cohort_of(rng.standard_normal(n), rng.standard_normal(n))
    null = fit_null(cohort, effects, seed_mode=True, left_out=["1"])[0]
    for fit in null.fits.values():
        assert fit.moments == pytest.approx(pooled_moments(null.y), abs=0.2)
        assert fit.moments != (0.0, 3.0)
