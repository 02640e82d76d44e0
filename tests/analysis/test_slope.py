"""Slopes of var on add: R's figures, what may move them and what may not, and their refusals."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.analysis.slope import (
    LEAST_VARIANTS,
    Effects,
    NoSlopeError,
    dispersion,
    huber_slope,
    invariant_slope,
    published_slope,
)

REFERENCE = Path(__file__).resolve().parent / "rlm_reference.tsv"
"""Made by scripts/dispersion_reference.R."""


def draw(
    m: int = 400,
    slope: float = 0.5,
    signal: float = 2.0,
    correlation: float = 0.4,
    dispersed: int = 0,
    seed: int = 0,
) -> Effects:
    """Effects with a true slope, additive effects `signal` times their noise, errors correlated."""
    rng = np.random.default_rng(seed)
    precision = 2e4 * rng.uniform(0.02, 0.5, m)
    add_se, var_se = precision**-0.5, (precision / 2.5) ** -0.5
    true = signal * add_se * rng.standard_normal(m)
    first, second = rng.standard_normal((2, m))
    own = np.zeros(m)
    own[rng.permutation(m)[:dispersed]] = 15.0
    second = correlation * first + np.sqrt(1 - correlation**2) * second
    return Effects(
        row=np.arange(m),
        add=true + add_se * first,
        var=slope * true + own * var_se + var_se * second,
        add_se=add_se,
        var_se=var_se,
        covariance=correlation * add_se * var_se,
    )


def pieces(effects: Effects, *cuts: int):
    """What reads the effects in several pieces."""
    bounds = [0, *cuts, len(effects.row)]

    def read():
        for start, stop in pairwise(bounds):
            yield Effects(*(column[start:stop] for column in vars(effects).values()))

    return read


def flipped(effects: Effects, flip: np.ndarray) -> Effects:
    sign = np.where(flip, -1.0, 1.0)
    return replace(effects, add=sign * effects.add, var=sign * effects.var)


# Against R -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["plain", "outliers", "noisy", "small scale"])
def test_the_published_form_is_that_of_rlm(case):
    table = pd.read_csv(REFERENCE, sep="\t")
    rows = {k: v.to_numpy(float) for k, v in table[table.case == case].drop(columns="case").items()}
    effects = Effects(
        np.arange(len(rows["add"])),
        *(rows[name] for name in ("add", "var", "add_se", "var_se")),
        np.zeros(len(rows["add"])),
    )
    fit = published_slope(pieces(effects, 50))
    d, se = dispersion(effects, fit.slope)
    assert np.abs((d - rows["dispersion"]) / rows["dispersion_se"]).max() < 1e-4
    np.testing.assert_allclose(se, rows["dispersion_se"], rtol=1e-4)
    assert fit.slope == pytest.approx(rows["slope"][0], rel=1e-5)


@pytest.mark.parametrize("m", [LEAST_VARIANTS, 401])
@pytest.mark.parametrize("dispersed", [0, 9])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_huber_is_that_of_statsmodels(m, dispersed, scale):
    from statsmodels.robust.robust_linear_model import RLM

    effects = draw(m, dispersed=dispersed)
    x, y = scale * effects.add, effects.var
    slope, slope_se = huber_slope(x, y)
    reference = RLM(y, x).fit(tol=1e-13, maxiter=500)
    assert slope == pytest.approx(reference.params[0], rel=1e-7)
    assert slope_se == pytest.approx(reference.bse[0], rel=1e-6)


def test_huber_where_points_lie_on_the_line():
    x = np.arange(1.0, 30.0)
    assert huber_slope(x, 2 * x) == (2.0, 0.0)
    mostly = 2 * x
    mostly[:9] += 1
    slope, slope_se = huber_slope(x, mostly)
    assert slope == pytest.approx(2, abs=1e-6)
    assert slope_se == pytest.approx(0, abs=1e-6)


# What may move them --------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(LEAST_VARIANTS, 700),
    scale=st.floats(1e-4, 1e4),
    correlation=st.floats(-0.8, 0.8),
    cut=st.integers(0, LEAST_VARIANTS),
)
def test_alleles_scale_and_pieces_do_not_move_the_invariant_one(seed, m, scale, correlation, cut):
    effects = draw(m, signal=3.0, correlation=correlation, dispersed=1, seed=seed)
    flip = np.random.default_rng(seed).random(m) < 0.5
    other = flipped(effects, flip)
    other = replace(
        other,
        add=scale * other.add,
        add_se=scale * other.add_se,
        covariance=scale * other.covariance,
    )
    fits = []
    for read in (pieces(effects), pieces(other, cut, m // 2 + 10)):
        try:
            fits.append(invariant_slope(read))
        except NoSlopeError:
            fits.append(None)
    if None in fits:
        assert fits == [None, None]
        return
    one, two = fits
    assert two.slope * scale == pytest.approx(one.slope, rel=1e-9, abs=1e-9 * one.slope_se)
    assert two.slope_se * scale == pytest.approx(one.slope_se, rel=1e-8)
    assert two.noise_inflation == pytest.approx(one.noise_inflation, rel=1e-9)
    d, se = dispersion(effects, one.slope, one.slope_se)
    d_other, se_other = dispersion(other, two.slope, two.slope_se)
    np.testing.assert_allclose(d_other / se, np.where(flip, -d, d) / se, atol=1e-7)
    np.testing.assert_allclose(se_other, se, rtol=1e-8)


def test_coding_moves_the_published_one():
    """Where effect alleles all raise the trait, the variance of add is not its mean square."""
    effects = draw(signal=1.0)
    rising = flipped(effects, effects.add < 0)
    one, two = published_slope(pieces(effects)), published_slope(pieces(rising))
    assert abs(two.slope - one.slope) > 2 * one.slope_se
    same = invariant_slope(pieces(rising))
    assert same.slope == pytest.approx(invariant_slope(pieces(effects)).slope, rel=1e-12)


@pytest.mark.parametrize("correlation", [-0.6, 0.0, 0.6])
def test_it_is_unbiased_and_its_standard_error_is_right(correlation):
    fits = [
        invariant_slope(pieces(draw(500, 0.7, 1.5, correlation, dispersed=2, seed=seed)))
        for seed in range(120)
    ]
    slopes = np.array([fit.slope for fit in fits])
    assert abs(slopes.mean() - 0.7) < 4 * slopes.std() / np.sqrt(len(fits))
    mean_error = np.sqrt(np.mean([fit.slope_se**2 for fit in fits]))
    assert slopes.std() == pytest.approx(mean_error, rel=0.2)
    assert np.mean([fit.n_outliers for fit in fits]) == pytest.approx(2, abs=0.2)


def test_errors_that_correlate_fool_the_published_one_only():
    effects = draw(5_000, 0.3, 1.0, 0.6)
    ours, theirs = invariant_slope(pieces(effects)), published_slope(pieces(effects))
    assert abs(ours.slope - 0.3) < 4 * ours.slope_se
    assert abs(theirs.slope - 0.3) > 10 * theirs.slope_se


def test_dispersion_of_the_rest_is_calibrated():
    effects = draw(20_000, 0.5, 1.0, 0.5)
    fit = invariant_slope(pieces(effects))
    d, se = dispersion(effects, fit.slope, fit.slope_se)
    assert np.mean((d / se) ** 2) == pytest.approx(1, abs=4 * np.sqrt(2 / 20_000))


def test_linkage_widens_the_interval():
    """Variants in groups of 50 that are one and the same: the jackknife sees the groups."""
    effects = draw(400)
    copied = Effects(
        np.arange(20_000), *(np.repeat(c, 50) for c in list(vars(effects).values())[1:])
    )
    one, many = invariant_slope(pieces(effects)), invariant_slope(pieces(copied))
    assert many.slope == pytest.approx(one.slope, rel=1e-9)
    assert many.slope_se == pytest.approx(one.slope_se, rel=0.3)


def test_a_region_that_carries_the_slope_is_named():
    effects = draw(1_000, signal=2.0)
    big = np.arange(300, 305)
    add, var = effects.add.copy(), effects.var.copy()
    add[big] = 30 * effects.add_se[big]
    var[big] = 0.0  # not what the slope says, and not so far off that they are set aside
    effects = replace(effects, add=add, var=var)
    fit = invariant_slope(pieces(effects))
    assert fit.leading_block == (300, 304)
    assert fit.slope_without == pytest.approx(0.5, abs=0.06)
    assert abs(fit.slope - 0.5) > abs(fit.slope_without - 0.5)
    assert invariant_slope(pieces(draw(1_000))).leading_block is None


# What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [invariant_slope, published_slope])
@pytest.mark.parametrize("m", [0, 1, LEAST_VARIANTS - 1])
def test_too_few_variants_are_refused(fit, m):
    with pytest.raises(NoSlopeError, match=f"{m} variants with estimates are too few"):
        fit(pieces(draw(m)))


def test_noise_without_signal_is_refused():
    effects = draw(2_000, signal=0.0)
    with pytest.raises(NoSlopeError, match=r"do not exceed their noise \(.* [01]\.\d+ times that"):
        invariant_slope(pieces(effects))
    small = replace(effects, add=0.5 * effects.add)
    with pytest.raises(NoSlopeError, match="exceeds their signal"):
        published_slope(pieces(small))
    with pytest.raises(NoSlopeError, match="square is 0 times"):
        invariant_slope(pieces(replace(effects, add=np.zeros(2_000))))


def test_one_strong_locus_is_signal_enough():
    effects = draw(2_000, signal=0.0)
    add, var = effects.add.copy(), effects.var.copy()
    add[700] += 60 * effects.add_se[700]
    var[700] += 0.5 * 60 * effects.add_se[700]
    fit = invariant_slope(pieces(replace(effects, add=add, var=var)))
    assert fit.slope == pytest.approx(0.5, abs=0.1)
