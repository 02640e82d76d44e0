"""Transforms of phenotypes: what each does, to whom, in which order."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata
from test_cohort_assembly import normal, refused, samples, table

from hlmm_scan.cohort.cohort import CohortBuilder, assemble
from hlmm_scan.cohort.options import read_options
from hlmm_scan.cohort.transform import Transform, normal_quantiles_of_ranks, within
from hlmm_scan.errors import InputError


def blom(y):
    return norm.ppf((rankdata(y) - 0.375) / (len(y) + 0.25))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=40), st.sampled_from([1e-9, 1.0, 1e12]))
def test_ranks_are_those_of_scipy_with_ties_averaged(values, scale):
    y = np.array(values, float) * scale
    np.testing.assert_allclose(normal_quantiles_of_ranks(y), blom(values), atol=1e-12)


def test_values_that_differ_by_rounding_are_ties():
    y = np.array([0.1 + 0.2, 0.3, 0.7, 0.1 * 3, -5.0])
    assert len(set(y)) == 4
    quantiles = normal_quantiles_of_ranks(y)
    np.testing.assert_allclose(quantiles, blom([2, 2, 3, 2, 1]), atol=1e-12)


def test_ranks_of_residuals_and_covariates_that_stay():
    x = normal(60, 2, 1)
    y = np.exp(x @ [[1.0], [-2.0]] + normal(60, 1, 2))
    cohort = assemble(
        samples(60),
        table(y, names=["t"]),
        "t",
        table(x),
        transform=Transform(rank_normal="residuals"),
    )
    X = np.column_stack([np.ones(60), x])
    rest = y[:, 0] - X @ np.linalg.lstsq(X, y[:, 0], rcond=None)[0]
    np.testing.assert_allclose(cohort.y, blom(rest), atol=1e-12)
    assert cohort.mean_design.names == ("intercept", "x0", "x1")
    cohort = assemble(
        samples(60),
        table(y, names=["t"]),
        "t",
        table(x),
        transform=Transform(rank_normal="phenotype"),
    )
    np.testing.assert_allclose(cohort.y, blom(y[:, 0]), atol=1e-12)


def test_ranks_are_among_the_people_analysed():
    """Whoever is not analysed, whatever his value, has no rank."""
    y, x = normal(40), normal(40, 1, 1)
    x[5] = np.nan
    left = np.delete(np.arange(40), 5)
    transform = Transform(rank_normal="phenotype")
    some = assemble(samples(), table(y, names=["t"]), "t", table(x), transform=transform)
    np.testing.assert_array_equal(some.samples, left)
    np.testing.assert_allclose(some.y, blom(y[left, 0]), atol=1e-12)


def test_logarithm():
    y = np.exp(normal())
    y[3] = -1
    x = normal(40, 1, 1)
    x[3] = np.nan  # who is not analysed need not have a logarithm
    cohort = assemble(
        samples(), table(y, names=["t"]), "t", table(x), transform=Transform(log=True)
    )
    np.testing.assert_array_equal(cohort.y, np.log(np.delete(y[:, 0], 3)))
    y[[4, 5]] = 0
    with pytest.raises(InputError) as error:
        assemble(samples(), table(y, names=["t"]), "t", transform=Transform(log=True))
    assert str(error.value) == (
        "phenotype 't' has no logarithm: 3 of the 40 people selected have a value that is not "
        "positive (-1); set these to missing, or shift the phenotype"
    )


def test_outliers_are_looked_for_once_after_the_logarithm(caplog):
    caplog.set_level(logging.INFO)
    values = np.concatenate([normal(38)[:, 0], [30.0, 8.0]])
    # Beside 30 an 8 is no outlier, though it is one among those who are left.
    assert within(values, 3).sum() == 39
    assert not within(np.delete(values, 38), 3)[-1]
    y = table(np.exp(values)[:, None], names=["t"])
    cohort = assemble(samples(), y, "t", transform=Transform(log=True, outlier_sd=3))
    np.testing.assert_array_equal(cohort.samples, np.delete(np.arange(40), 38))
    np.testing.assert_array_equal(cohort.y, np.log(np.exp(values))[cohort.samples])
    assert dict(cohort.dropped)["outlier"] == 1
    assert sum(count for _, count in cohort.dropped) + len(cohort) == 40
    assert caplog.messages[0].startswith("t: 39 of 40 people analysed (1 outlier);")


def test_the_order_is_logarithm_outliers_ranks():
    y = np.exp(normal(200))
    y[7] = 1e6
    transform = Transform(log=True, outlier_sd=5, rank_normal="phenotype")
    cohort = assemble(samples(200), table(y, names=["t"]), "t", transform=transform)
    np.testing.assert_allclose(cohort.y, blom(np.delete(y[:, 0], 7)), atol=1e-12)


@pytest.mark.parametrize(
    "transform",
    [
        Transform(rank_normal="residuals"),
        Transform(outlier_sd=1.5, rank_normal="phenotype"),
        Transform(outlier_sd=1.5),
    ],
)
def test_a_transform_does_not_depend_on_the_other_phenotypes(transform):
    y = normal(40, 3)
    y[:15, 1] = np.nan
    y[9, 0] = 1e3
    covariates = table(normal(40, 2, 1))
    alone = assemble(samples(), table(y[:, [2]], names="c"), "c", covariates, transform=transform)
    builder = CohortBuilder(samples(), table(y, names="abc"), covariates, transform=transform)
    for name in "abc":
        beside = builder.build(name)
    np.testing.assert_array_equal(alone.y, beside.y)
    np.testing.assert_array_equal(alone.samples, beside.samples)
    np.testing.assert_array_equal(alone.mean_design.matrix, beside.mean_design.matrix)


def test_phenotypes_are_judged_before_their_ranks(caplog):
    y = (np.arange(40) % 2)[:, None]
    transform = Transform(rank_normal="phenotype")
    assemble(samples(), table(y, names=["t"]), "t", transform=transform)
    first = next(record for record in caplog.records if record.levelname == "WARNING")
    assert first.getMessage().startswith("t takes only two values")
    x = normal()
    assert "linear combination" in refused(
        samples(), table(x, names=["t"]), "t", table(2 * x), transform=transform
    )


def test_units_say_what_was_done():
    assert Transform().unit == Transform(outlier_sd=4).unit == "phenotype units"
    assert Transform(log=True).unit == "log phenotype units"
    assert Transform(log=True, rank_normal="residuals").unit == "rank-normal units"
    scales = {Transform(log, None, of).scale for log in (False, True) for of in RANKED}
    assert len(scales) == 6


RANKED = (None, "residuals", "phenotype")


@pytest.mark.parametrize(
    "wrong", [{"outlier_sd": 0.0}, {"outlier_sd": -3}, {"rint_of": "residuals"}]
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        read_options(samples(), **wrong)
    assert read_options(samples(), rint=True).transform.rank_normal == "residuals"
    chosen = read_options(samples(), rint=True, rint_of="phenotype")
    assert chosen.transform.rank_normal == "phenotype"
    assert chosen.parameters["rint"] == "phenotype"
