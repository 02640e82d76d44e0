"""Fits: convergence, scale, boundary, unbounded and unidentified data, refusals, simulation."""

import numpy as np
import pytest

from hlmm_scan.models import HLM, HLMM, hlm, hlmm
from hlmm_scan.schema import Status


def cohort(n=400, n_random=20, h2=0.5, seed=1, effect=0.3):
    """y, designs with an intercept and a genotype, G."""
    rng = np.random.default_rng(seed)
    g = rng.binomial(2, 0.3, n) - 0.6
    X = np.column_stack((np.ones(n), g))
    G = rng.standard_normal((n, n_random)) / np.sqrt(n_random)
    y = 0.2 * g + np.exp(effect * g / 2) * rng.standard_normal(n)
    y += np.sqrt(h2) * (G @ rng.standard_normal(n_random))
    return y, X, G


def fits(y, X, V, G, **options):
    return HLM(y, X, V).fit(**options), HLMM(y, X, V, G).fit(**options)


def z_scores(fit):
    return np.concatenate((fit.alpha[1:] / fit.alpha_se[1:], fit.beta[1:] / fit.beta_se[1:]))


def assert_no_estimates(fit, status):
    assert fit.status is status
    assert not fit.success
    assert fit.reason
    numbers = [fit.alpha, fit.alpha_se, fit.beta, fit.beta_se, fit.covariance.ravel()]
    numbers.append([fit.random_variance, fit.random_variance_se, fit.log_likelihood])
    assert np.isnan(np.concatenate(numbers)).all()


@pytest.mark.parametrize("seed", range(5))
def test_gradient_vanishes_at_the_estimates(seed):
    y, X, G = cohort(seed=seed)
    for model, n_random in ((HLM(y, X, X), 0), (HLMM(y, X, X, G), 1)):
        fit = model.fit()
        at = (fit.beta, fit.random_variance)[: 1 + n_random]
        assert fit.status is Status.OK
        assert fit.gradient_norm <= 1e-9
        assert fit.iterations < 10
        value, gradient = model.likelihood_and_gradient(*at)
        assert np.abs(gradient).max() < 1e-12
        np.testing.assert_allclose(fit.alpha, model.alpha_mle(*at), rtol=1e-12, atol=1e-13)
        assert fit.log_likelihood == pytest.approx(model.likelihood(*at), rel=1e-13)
        assert value == pytest.approx(model.likelihood(*at, negative=True))


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e-60, 1e60])
@pytest.mark.parametrize("information", ["expected", "observed"])
def test_scale_of_the_phenotype_does_not_matter(scale, information):
    y, X, G = cohort()
    for model, base in zip(
        fits(scale * y, X, X, G, information=information),
        fits(y, X, X, G, information=information),
        strict=True,
    ):
        np.testing.assert_allclose(z_scores(model), z_scores(base), rtol=1e-9)
        np.testing.assert_allclose(model.alpha, scale * base.alpha, rtol=1e-9)
        np.testing.assert_allclose(model.random_variance, scale**2 * base.random_variance)
        np.testing.assert_allclose(model.beta[0], base.beta[0] + 2 * np.log(scale))
        shift = -len(y) * np.log(scale)
        assert model.log_likelihood == pytest.approx(base.log_likelihood + shift, rel=1e-12)


@pytest.mark.parametrize("constant", [1e4, -1e6])
def test_a_constant_in_the_phenotype_does_not_matter(constant):
    y, X, G = cohort()
    for model, base in zip(fits(y + constant, X, X, G), fits(y, X, X, G), strict=True):
        np.testing.assert_allclose(z_scores(model), z_scores(base), rtol=1e-8)
        assert model.log_likelihood == pytest.approx(base.log_likelihood, rel=1e-9)


def test_units_and_offsets_of_columns_do_not_matter():
    y, X, G = cohort()
    year = np.random.default_rng(8).standard_normal(len(y))
    base = fits(y, np.column_stack((X, year)), np.column_stack((X, year)), G)
    Z = np.column_stack((1e-5 * X[:, 0], 1e6 * X[:, 1], 1e6 + 1e-1 * year))
    other = fits(y, Z, Z[:, ::-1], 1e4 * G)
    for a, b in zip(base, other, strict=True):
        tests = a.alpha / a.alpha_se, a.beta / a.beta_se
        np.testing.assert_allclose(b.alpha[1:] / b.alpha_se[1:], tests[0][1:], rtol=1e-6)
        np.testing.assert_allclose((b.beta / b.beta_se)[1::-1], tests[1][1:], rtol=1e-6)
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-9)
    assert other[1].random_variance == pytest.approx(1e-8 * base[1].random_variance, rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_variance_design_without_a_constant_stays_the_same_model(scale):
    y, X, G = cohort()
    V = X[:, 1] + 0.05  # The constant is not in its span, nor is a zero among its rows.
    for model, n_random in ((HLM(scale * y, X, V), 0), (HLMM(scale * y, X, V, G), 1)):
        fit = model.fit()
        at = (fit.beta, fit.random_variance)[: 1 + n_random]
        assert fit.success
        score = -0.5 * model.n * model.likelihood_and_gradient(*at)[1]
        # The score in units of its standard deviation is the distance in standard errors.
        deviations = np.sqrt(np.diag(model.expected_information(fit.alpha, *at))[2:])
        distance = np.abs(score / deviations)
        assert distance[0] < 1e-6
        if fit.status is Status.RANDOM_VARIANCE_AT_ZERO:
            assert score[1] < 0
        elif n_random:
            assert distance[1] < 1e-6


@pytest.mark.parametrize("start_b", [(0.0, 0.0), (3.0, -2.0), (-8.0, 4.0), (200.0, 0.0), (1e4, 0)])
@pytest.mark.parametrize("start_h2", [0.0, 1e-4, 50.0])
def test_starts_do_not_matter(start_b, start_h2):
    y, X, G = cohort(n=200)
    base_hlm, base = fits(y, X, X, G)
    first = HLM(y, X, X).fit(start=start_b)
    second = HLMM(y, X, X, G).fit(start=(start_b, start_h2))
    np.testing.assert_allclose(first.beta, base_hlm.beta, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(second.beta, base.beta, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(second.alpha, base.alpha, rtol=1e-10, atol=1e-11)
    assert second.random_variance == pytest.approx(base.random_variance, rel=1e-10)
    np.testing.assert_allclose(second.beta_se, base.beta_se, rtol=1e-7)


@pytest.mark.parametrize("information", ["expected", "observed"])
def test_random_variance_at_its_boundary(information):
    for seed in range(40):
        y, X, G = cohort(h2=0.0, seed=seed, n_random=10)
        model = HLMM(y, X, X, G)
        fit = model.fit(information=information, start=((0.0, 0.0), 0.3))
        by_h2 = model.likelihood_and_gradient(fit.beta, fit.random_variance)[1][-1]
        assert fit.success
        if fit.status is Status.OK:
            assert fit.random_variance > 0
            assert abs(by_h2) < 1e-10
            continue
        assert fit.status is Status.RANDOM_VARIANCE_AT_ZERO
        assert by_h2 >= 0
        assert fit.random_variance == 0
        assert np.isnan(fit.random_variance_se)
        plain = HLM(y, X, X).fit(information=information)
        np.testing.assert_allclose(fit.beta, plain.beta, atol=1e-10)
        np.testing.assert_allclose(fit.alpha_se, plain.alpha_se, rtol=1e-7)
        np.testing.assert_allclose(fit.beta_se, plain.beta_se, rtol=1e-7)
        np.testing.assert_allclose(fit.covariance[:4, :4], plain.covariance, rtol=1e-6, atol=1e-9)
        assert np.isnan(fit.covariance[4]).all()
        assert np.isnan(fit.covariance[:, 4]).all()
        break
    else:
        pytest.fail("no data set had its maximum at the boundary")


def test_boundary_is_left_where_the_derivative_says_so():
    y, X, G = cohort(h2=0.5)
    fit = HLMM(y, X, X, G).fit(start=((0.0, 0.0), 0.0))
    assert fit.status is Status.OK
    assert fit.random_variance > 0.1


def test_maximum_on_the_boundary_is_not_believed_where_there_is_a_higher_one_within():
    rng = np.random.default_rng(300)
    n, n_random = int(rng.integers(6, 25)), int(rng.integers(1, 4))
    G = rng.standard_normal((n, n_random))
    y = rng.standard_normal(n) + G @ rng.standard_normal(n_random) * rng.choice([0, 0.3, 1])
    model = HLMM(y, np.ones(n), np.ones(n), G)
    plain = HLM(y, np.ones(n), np.ones(n)).fit()
    assert model.likelihood_and_gradient(plain.beta, 0.0)[1][1] > 0
    fit = model.fit(start=(plain.beta, 0.0))
    assert fit.status is Status.OK
    assert fit.random_variance > 0.1
    assert fit.log_likelihood > plain.log_likelihood
    assert fit.random_variance == pytest.approx(model.fit().random_variance, rel=1e-9)


@pytest.mark.parametrize("case", ["one carrier", "tied carriers", "tied non-carriers"])
def test_variance_effect_without_a_bound(case):
    rng = np.random.default_rng(6)
    n = 200
    g = np.zeros(n)
    g[: 1 if case == "one carrier" else 12] = 1.0
    y = rng.standard_normal(n)
    if case == "tied carriers":
        y[g == 1] = 1.3
    if case == "tied non-carriers":
        y[g == 0] = -0.4
    G = rng.standard_normal((n, 5)) / np.sqrt(5)
    X = np.column_stack((np.ones(n), g - g.mean()))
    if case == "one carrier":
        # With true random effects the likelihood levels off while the effect runs away.
        y = y + G @ rng.standard_normal(5)
    for scale in (1.0, 1e-6, 1e6):
        assert_no_estimates(HLM(scale * y, X, X).fit(), Status.UNBOUNDED)
        assert_no_estimates(HLM(scale * y, X, X).fit(information="observed"), Status.UNBOUNDED)
        mixed = HLMM(scale * y, X, X, G).fit(information="observed")
        assert_no_estimates(mixed, Status.UNBOUNDED)


def test_perfect_fit_is_unbounded():
    n = 50
    X = np.column_stack((np.ones(n), np.arange(n)))
    G = np.random.default_rng(0).standard_normal((n, 3))
    for y in (np.zeros(n), np.full(n, 1e8), 3 + 0.1 * np.arange(n)):
        for fit in fits(y, X, X, G):
            assert_no_estimates(fit, Status.UNBOUNDED)


def test_collinear_designs_are_not_unique():
    y, X, G = cohort()
    collinear = np.column_stack((X, X[:, 1] * 1e5 - 3))
    for fit in (*fits(y, collinear, X, G), *fits(y, X, collinear, G)):
        assert_no_estimates(fit, Status.NOT_UNIQUE)
        assert "collinear" in fit.reason
    zero = np.column_stack((X, np.zeros(len(y))))
    assert_no_estimates(HLM(y, zero, X).fit(), Status.NOT_UNIQUE)
    for model in (HLM(y, collinear, X), HLMM(y, collinear, X, G)):
        with pytest.raises(ValueError, match="collinear"):
            model.alpha_ols()
    with pytest.raises(ValueError, match="collinear"):
        HLM(y, collinear, X).likelihood([0.0, 0.0])


def test_random_effects_that_are_residuals_are_not_unique():
    y, X, _ = cohort(n=60)
    for G in (np.eye(60), np.zeros((60, 3))):
        fit = HLMM(y, X, X[:, 0], G).fit()
        assert_no_estimates(fit, Status.NOT_UNIQUE)


def test_one_dimensional_designs_are_single_columns():
    y, X, G = cohort()
    one, g = X[:, 0], X[:, 1]
    flat = HLMM(y, one, g, G[:, 0])
    full = HLMM(y, one[:, None], g[:, None], G[:, :1])
    assert (flat.n, flat.n_mean, flat.n_variance, flat.n_random) == (400, 1, 1, 1)
    assert flat.fit().log_likelihood == full.fit().log_likelihood
    assert flat.likelihood(0.1, 0.2) == full.likelihood([0.1], 0.2)
    assert HLM(y, one, g).alpha_ols() == pytest.approx([y.mean()])
    assert HLMM(y, one, g, G).alpha_ols() == pytest.approx([y.mean()])


def test_wrong_inputs_are_refused():
    y, X, G = cohort(n=30)
    bad = y.copy()
    bad[3] = np.nan
    cases = [
        (lambda: HLM(y[:, None], X, X), "phenotype must be 1-d"),
        (lambda: HLM([], X, X), "phenotype is empty"),
        (lambda: HLM(bad, X, X), "phenotype has values that are not finite"),
        (lambda: HLM(y, X[:-1], X), "mean design has 29 rows, the phenotype 30"),
        (lambda: HLM(y, X, X[:, :, None]), "variance design must be 1-d or 2-d"),
        (lambda: HLM(y, X, X[:, :0]), "variance design has no columns"),
        (lambda: HLM(y, np.column_stack((X, bad)), X), "mean design has values"),
        (lambda: HLM(y[:3], X[:3], X[:3]), "3 people are fewer than 4 parameters"),
        (lambda: HLMM(y[:4], X[:4], X[:4], G[:4]), "4 people are fewer than 5 parameters"),
        (lambda: HLMM(y, X, X, G[:9]), "random-effect design has 9 rows"),
        (lambda: HLM(y, X, X).likelihood([0.0]), "b must have shape"),
        (lambda: HLM(y, X, X).likelihood([0.0, np.inf]), "b has values"),
        (lambda: HLM(y, X, X).likelihood([1e4, 0.0]), "outside ±600"),
        (lambda: HLM(y, X, X).fit(start=[0.0]), "start must have shape"),
        (lambda: HLM(y, X, X).fit(information="sandwich"), "information must be"),
        (lambda: HLMM(y, X, X, G).likelihood([0.0, 0.0], -1.0), "0 or more"),
        (lambda: HLMM(y, X, X, G).fit(start=([0.0, 0.0], np.nan)), "0 or more"),
        (lambda: HLMM(y, X, X, G).observed_information([0.0], [0.0, 0.0], 1.0), "a must have"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_inputs_stay_as_they_are():
    y, X, G = cohort()
    copies = [a.copy() for a in (y, X, G)]
    HLMM(y, X, X, G).fit()
    for before, after in zip(copies, (y, X, G), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("seed", range(3))
def test_hlm_recovers_what_was_simulated(seed):
    alpha, beta = np.array([0.3, -1.0]), np.array([0.4, 0.0, -0.2])
    fit = hlm.simulate(4000, alpha, beta, seed=seed).fit()
    assert fit.success
    # 15 z-scores in all: one beyond 4 in a thousand such test runs.
    assert np.abs((fit.alpha - alpha) / fit.alpha_se).max() < 4
    assert np.abs((fit.beta - beta) / fit.beta_se).max() < 4


@pytest.mark.parametrize("seed", range(3))
def test_hlmm_recovers_what_was_simulated(seed):
    alpha, beta, h2 = np.array([0.3]), np.array([0.4, -0.2]), 0.6
    fit = hlmm.simulate(3000, 60, alpha, beta, h2, seed=seed).fit(information="observed")
    assert fit.success
    assert np.abs((fit.alpha - alpha) / fit.alpha_se).max() < 4
    assert np.abs((fit.beta - beta) / fit.beta_se).max() < 4
    assert abs(fit.random_variance - h2) / fit.random_variance_se < 4


def test_simulation_is_seeded_and_has_the_asked_shapes():
    first = hlmm.simulate(50, 7, [1.0, 2.0], 0.5, 0.1, seed=3)
    again = hlmm.simulate(50, 7, [1.0, 2.0], 0.5, 0.1, seed=np.random.default_rng(3))
    np.testing.assert_array_equal(first.y, again.y)
    assert (first.n, first.n_mean, first.n_variance, first.n_random) == (50, 2, 1, 7)
    # A genotype of so few people may be constant: no division by zero.
    assert np.isfinite(hlmm.simulate(3, 40, 1.0, 0.5, 0.1, seed=1).G).all()
    plain = hlm.simulate(20, [1.0, 2.0], 0.5, seed=4)
    assert (plain.n, plain.n_mean, plain.n_variance) == (20, 2, 1)


def test_wald_tests_are_calibrated():
    rng = np.random.default_rng(11)
    z = np.array(
        [
            z_scores(HLM(rng.standard_normal(300), X, X).fit())
            for X in (
                np.column_stack((np.ones(300), rng.binomial(2, 0.3, 300))) for _ in range(400)
            )
        ]
    )
    # Standard error of a variance of 400 z-scores is 0.07.
    assert np.abs(z.var(axis=0) - 1).max() < 0.25
    assert np.abs(z.mean(axis=0)).max() < 0.2


def test_phenotypes_beyond_any_sense_raise_nothing():
    y, X, G = cohort(n=60)
    base = fits(y, X, X, G)
    for scale in (1e150, 1e-150, 1e300, 1e-300):
        for fit, plain in zip(fits(scale * y, X, X, G), base, strict=True):
            np.testing.assert_allclose(fit.beta[1], plain.beta[1], rtol=1e-8)
    # Without a constant among the variances no start may be within reach.
    for fit in fits(1e-300 * y, X, X[:, 1], G):
        assert not fit.success
        assert fit.status is Status.NOT_CONVERGED
