"""The null model in both modes, its LOCO sets, and its way through the store."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from cohorts_by_hand import cohort_of, null_model_of, random_effects_of

from hlmm_scan.errors import InputError
from hlmm_scan.models import HLM, HLMM
from hlmm_scan.null.fit import fit_covariates, fit_null
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS
from hlmm_scan.null.store import read_null_model, write_null_model
from hlmm_scan.schema import Status

CONTIGS = ["1"] * 6 + ["2"] * 4 + ["X"] * 2


def make_data(n=250, seed=0, *, effects=None):
    """A phenotype on its own scale with two mean and two variance covariates."""
    rng = np.random.default_rng(seed)
    mean = np.column_stack([rng.normal(50, 8, n), rng.integers(0, 2, n)])
    variance = np.column_stack([rng.integers(0, 2, n), rng.gamma(2, 1, n)])
    noise = np.exp(0.5 * variance @ [0.6, -0.2]) * rng.standard_normal(n)
    y = 170 + mean @ [0.1, -3.0] + 5 * noise
    if effects is not None:
        y = y + 5 * effects.design("") @ rng.standard_normal(effects.columns.shape[1])
    return y, mean, variance


def with_intercept(columns):
    return np.column_stack([np.ones(len(columns)), columns])


def check_effects(covariates, fit):
    """Hold effects in the user's units against a fit on raw data."""
    estimates = np.concatenate([fit.alpha, fit.beta])
    errors = np.concatenate([fit.alpha_se, fit.beta_se])
    found = [e for e in covariates.effects if e.part != "random"]
    assert [e.name for e in found] == ["intercept", "x0", "x1", "intercept", "z0", "z1"]
    assert [e.part for e in found] == ["mean"] * 3 + ["log_variance"] * 3
    assert (np.abs([e.estimate for e in found] - estimates) <= 1e-7 * errors).all()
    np.testing.assert_allclose([e.standard_error for e in found], errors, rtol=1e-7)
    assert covariates.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-7)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_joint_null_model_is_the_hlm_of_the_standardised_phenotype(scale):
    y, mean, variance = make_data()
    y = scale * y
    null, covariates = fit_null(cohort_of(y, mean, variance), None, seed_mode=False, left_out=())
    assert null.y.mean() == pytest.approx(0, abs=1e-12)
    assert null.y.std() == pytest.approx(1, rel=1e-12)
    assert null.y_scale == pytest.approx(y.std(), rel=1e-12)
    assert not null.intercept_only
    assert list(null.fits) == [ALL_RANDOM_EFFECTS]
    plain = HLM(null.y, null.mean_design, null.variance_design).fit()
    np.testing.assert_array_equal(null.fits[""].beta, plain.beta)
    assert null.fits[""].random_variance == 0
    check_effects(covariates, HLM(y, with_intercept(mean), with_intercept(variance)).fit())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_seed_mode_replaces_the_phenotype_by_its_standardised_residual(scale):
    y, mean, variance = make_data()
    y = scale * y
    cohort = cohort_of(y, mean, variance)
    null, covariates = fit_null(cohort, None, seed_mode=True, left_out=())
    X, V = with_intercept(mean), with_intercept(variance)
    first = HLM(y, X, V).fit()
    wanted = (y - X @ first.alpha) / np.exp(0.5 * V @ first.beta)
    np.testing.assert_allclose(null.y, wanted, atol=1e-8)
    assert null.intercept_only
    assert (null.mean_design == 1).all()
    assert (null.variance_design == 1).all()
    assert null.y_scale == 1.0
    assert null.fits[""].beta == pytest.approx(np.log(np.var(null.y)), abs=1e-9)
    check_effects(covariates, first)


def test_seed_mode_fits_covariates_without_the_random_effects():
    effects = random_effects_of(250, CONTIGS, seed=1)
    y, mean, variance = make_data(effects=effects)
    cohort = cohort_of(y, mean, variance)
    null, covariates = fit_null(cohort, effects, seed_mode=True, left_out=["1"])
    alone, alone_covariates = fit_null(cohort, None, seed_mode=True, left_out=())
    np.testing.assert_array_equal(null.y, alone.y)
    assert covariates == alone_covariates
    assert list(null.fits) == ["", "1"]
    assert null.fits[""].random_variance > 0


def test_loco_leaves_out_each_chromosome_in_turn_that_has_random_effects():
    effects = random_effects_of(250, CONTIGS, seed=1)
    y, mean, variance = make_data(effects=effects)
    cohort = cohort_of(y, mean, variance)
    left_out = ["chr2", "1", "17", "chrX"]
    null, covariates = fit_null(cohort, effects, seed_mode=False, left_out=left_out)
    assert list(null.fits) == ["", "1", "2", "X"]
    for key, fit in null.fits.items():
        columns = effects.columns[:, [contig != key for contig in effects.contigs]]
        G = columns / np.sqrt(columns.shape[1])
        np.testing.assert_array_equal(effects.design(key), G)
        plain = HLMM(null.y, null.mean_design, null.variance_design, G).fit()
        assert fit.status is Status.OK
        assert abs(fit.random_variance - plain.random_variance) < 1e-8 * plain.random_variance_se
        assert (np.abs(fit.beta - plain.beta) < 1e-8 * plain.beta_se).all()
    raw = HLMM(y, with_intercept(mean), with_intercept(variance), effects.design("")).fit()
    check_effects(covariates, raw)
    (random,) = (e for e in covariates.effects if e.part == "random")
    assert random.estimate == pytest.approx(raw.random_variance, rel=1e-7)
    assert random.standard_error == pytest.approx(raw.random_variance_se, rel=1e-7)
    assert np.isnan(random.neg_log10_p)


@pytest.mark.parametrize(
    ("contig", "key"),
    [
        *[("1", "1"), ("chr1", "1"), ("Chr1", "1"), ("CHR2", "2"), ("chrX", "X"), ("X", "X")],
        *[("17", ""), ("chr17", ""), ("chr", ""), ("", ""), ("scaffold_1", ""), ("10", "")],
    ],
)
def test_a_variant_finds_the_set_without_its_own_chromosome(contig, key):
    null = null_model_of(
        make_data(80)[0], effects=random_effects_of(80, CONTIGS, seed=1), left_out=["1", "2", "X"]
    )
    assert null.random_effect_set(contig) == key


def test_without_loco_every_variant_meets_all_random_effects():
    null = null_model_of(make_data(80)[0], effects=random_effects_of(80, CONTIGS, seed=1))
    assert list(null.fits) == [""]
    assert null.random_effect_set("1") == ""


def test_loco_with_all_random_effects_on_one_chromosome_is_refused_in_one_line():
    # The source may span two, of which one does not vary among this phenotype's people.
    effects = random_effects_of(80, ["2"] * 5, seed=1)
    with pytest.raises(InputError, match=r"^trait: .* chromosome 2.*--no-loco$"):
        fit_null(cohort_of(make_data(80)[0]), effects, seed_mode=False, left_out=["1", "2"])


@pytest.mark.parametrize("seed_mode", [False, True])
def test_a_null_model_without_a_maximum_is_an_input_error(seed_mode):
    y = np.random.default_rng(0).standard_normal(60)
    group = np.arange(60) % 2
    y[group == 1] = 0.5  # their variance runs to zero
    with pytest.raises(InputError, match=r"^trait: its null model .*unbounded"):
        fit_null(cohort_of(y, None, group), None, seed_mode=seed_mode, left_out=())


def test_covariate_fits_know_their_information_and_are_json():
    y, mean, variance = make_data()
    cohort = cohort_of(y, mean, variance)
    observed = fit_covariates(cohort, information="observed")
    raw = HLM(y, with_intercept(mean), with_intercept(variance)).fit(information="observed")
    check_effects(observed, raw)
    effects = random_effects_of(250, CONTIGS, seed=1)
    fit = fit_covariates(cohort, effects).to_json()
    assert fit["effects"][-1]["name"] == "variance"
    assert fit["effects"][-1]["neg_log10_p"] is None
    assert fit["status"] in ("ok", "random_variance_at_zero")


@pytest.mark.parametrize("with_effects", [False, True])
def test_a_null_model_comes_out_of_the_store_bit_for_bit(tmp_path, with_effects):
    effects = random_effects_of(250, CONTIGS, seed=1) if with_effects else None
    y, mean, variance = make_data(effects=effects)
    samples = np.arange(3, 253)
    null = null_model_of(0.1 * y, mean, variance, samples, effects, left_out=["1", "2"])
    group = zarr.create_group(tmp_path / "null")
    write_null_model(group, null, {"dropped": {"phenotype_missing": 3}})
    group = zarr.open_group(tmp_path / "null", mode="r")
    assert group.attrs["dropped"] == {"phenotype_missing": 3}
    back = read_null_model(group, effects)
    for name in ("samples", "y", "mean_design", "variance_design"):
        one, two = getattr(null, name), getattr(back, name)
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    assert (back.phenotype, back.y_scale) == (null.phenotype, null.y_scale)
    assert list(back.fits) == list(null.fits)
    for key, fit in null.fits.items():
        np.testing.assert_array_equal(back.fits[key].alpha, fit.alpha)
        np.testing.assert_array_equal(back.fits[key].beta, fit.beta)
        for name in ("random_variance", "log_likelihood", "status"):
            assert getattr(back.fits[key], name) == getattr(fit, name)
    assert back.random_effects is effects
