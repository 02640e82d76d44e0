"""The one signature: filters, names, units and tests of a block, and its independence of blocks."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from cohorts_by_hand import null_model_of, random_effects_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain_reference import fit_plainly

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.cost import task_bytes
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.results.wald import wald_test
from hlmm_scan.schema import Status, result_variables

EVERYTHING = FitOptions(min_maf=0, min_mac=0, max_missing=1)
KINDS = ("classes", "joint", "exact")


def contigs(m):
    return np.array([str(1 + j % 3) for j in range(m)], dtype=object)


def make_null(kind, n=307, scale=1.0, seed=0, *, loco=True, seed_mode=False):
    """A null model of each kind on people 3, 4, 5, … of n + 10, and the calls of 300 variants."""
    rng = np.random.default_rng(seed)
    calls = rng.binomial(2, rng.uniform(0.02, 0.6, (300, 1)), (300, n + 10)).astype(np.int8)
    calls[::3][rng.random((100, n + 10)) < 0.04] = -1
    samples = np.arange(3, n + 3)
    covariates = rng.standard_normal((n, 3)) + calls[:3, samples].T
    g = calls[3, samples]
    y = 0.4 * g + np.exp(0.15 * g) * rng.standard_normal(n)
    effects = None
    mean = variance = None
    if kind == "exact":
        effects = random_effects_of(n, ["1"] * 8 + ["2"] * 6, seed=1)
        y = y + effects.design("") @ rng.standard_normal(14)
    else:
        y = y + covariates @ [0.2, -0.1, 0.1]
    if kind == "joint" or seed_mode:
        mean, variance = covariates, covariates[:, 1:]
    left_out = ["1", "2"] if loco else ()
    null = null_model_of(
        scale * y, mean, variance, samples, effects, seed_mode=seed_mode, left_out=left_out
    )
    return null, calls


# Independence of blocks ---------------------------------------------------------------------


@pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_block_it_stands_in(kind, observed):
    options = FitOptions(0, 0, 1, Inference(observed))
    null, calls = make_null(kind, n=702 if kind == "joint" else 307)
    m = 24 if kind == "exact" else 256
    packed, names = HardCalls.of(calls[:m]), contigs(m)
    whole = fit_block(null, packed, names, options)
    assert (whole["status"] == Status.OK).all()
    # In blocks of 1 to 256, and in another order: every variant gets other neighbours.
    permuted = np.random.default_rng(1).permutation(m)
    for order in (np.arange(m), permuted):
        for size in (1, 7, 64, m):
            if size == 1 and order is permuted:
                continue
            rows = [order[k : k + size] for k in range(0, m, size)]
            parts = [fit_block(null, packed.take(r), names[r], options) for r in rows]
            place = np.concatenate(rows)
            for name, values in whole.items():
                again = np.concatenate([part[name] for part in parts])
                if kind == "joint" and values.dtype.kind == "f":
                    unit = {"add": whole["add_se"], "var": whole["var_se"]}.get(name, 1.0)
                    unit = np.broadcast_to(np.maximum(unit, 0), m)
                    limit = 1e-10 * np.where(name in ("add", "var"), unit, 1 + np.abs(values))
                    assert (np.abs(again - values[place]) <= limit[place]).all(), name
                else:
                    np.testing.assert_array_equal(again, values[place], err_msg=name)


def test_the_chromosome_of_a_variant_chooses_its_random_effects():
    null, calls = make_null("exact")
    assert list(null.fits) == ["", "1", "2"]
    packed = HardCalls.of(np.repeat(calls[:1], 6, axis=0))
    names = np.array(["1", "chr1", "2", "CHR2", "3", "chrUn"], dtype=object)
    rows = fit_block(null, packed, names, EVERYTHING)["log_likelihood"]
    assert rows[0] == rows[1]
    assert rows[2] == rows[3]
    assert rows[4] == rows[5]
    assert len(set(rows)) == 3


# Filters -----------------------------------------------------------------------------------


def test_frequencies_and_filters_count_the_people_of_the_phenotype_only():
    n = 100
    null = null_model_of(np.random.default_rng(0).standard_normal(n), samples=np.arange(n))
    calls = np.zeros((8, 150), np.int8)
    calls[:, n:] = np.random.default_rng(1).integers(-1, 3, (8, 50))  # not analysed
    calls[0, 30:50] = 1  # kept: 20 alleles
    calls[1, :n] = 2  # one allele only
    calls[2, :2] = 1  # MAF 0.01: neither MAF nor MAC nor, below, missingness
    calls[2, 50:60] = -1
    calls[3, :19] = 1  # MAC 19
    calls[3, 50:60] = -1
    calls[4, :40] = 1
    calls[4, 50:56] = -1  # 6%
    calls[5, :n] = -1
    calls[6, :95] = 2  # as much of the other allele
    calls[7, :95] = -1  # one allele among those called
    found = fit_block(null, HardCalls.of(calls), contigs(8), FitOptions(0.02, 20, 0.05))
    assert [Status(s).label for s in found["status"]] == [
        "ok",
        "monomorphic",
        "low_maf",
        "low_mac",
        "high_missing",
        "high_missing",
        "low_mac",
        "monomorphic",
    ]
    kept = calls[:, :n]
    called = (kept >= 0).sum(axis=1)
    np.testing.assert_array_equal(found["n"], called)
    copies = np.where(kept < 0, 0, kept).sum(axis=1)
    some = called > 0
    np.testing.assert_array_equal(
        found["effect_allele_frequency"][some], (copies / np.maximum(2 * called, 1))[some]
    )
    assert np.isnan(found["effect_allele_frequency"][~some]).all()
    for name, values in found.items():
        if name not in ("n", "effect_allele_frequency", "status", "test_flags"):
            assert np.isnan(values[found["status"] >= 10]).all(), name
            assert np.isfinite(values[found["status"] == Status.OK]).all(), name


@settings(deadline=None, max_examples=200)
@example(counts=(43, 7, 0, 0), percent=7, mac=0, missing_percent=0)  # 0.07·100 > 7 in floats
@example(counts=(93, 0, 50, 11), percent=35, mac=100, missing_percent=7)
@given(
    counts=st.tuples(*[st.integers(0, 300)] * 4),
    percent=st.integers(0, 50),
    mac=st.integers(0, 60),
    missing_percent=st.integers(0, 100),
)
def test_the_first_reason_stands_and_a_threshold_itself_is_kept(
    counts, percent, mac, missing_percent
):
    options = FitOptions(percent / 100, mac, missing_percent / 100)
    zero, one, two, missing = counts
    called = zero + one + two
    minor = min(one + 2 * two, one + 2 * zero)
    # In whole numbers, so that nothing is rounded.
    if called == 0:
        wanted = Status.HIGH_MISSING
    elif minor == 0:
        wanted = Status.MONOMORPHIC
    elif 100 * minor < percent * 2 * called:
        wanted = Status.LOW_MAF
    elif minor < mac:
        wanted = Status.LOW_MAC
    elif 100 * missing > missing_percent * (called + missing):
        wanted = Status.HIGH_MISSING
    else:
        wanted = Status.PENDING
    found = GenotypeCounts.of_calls(np.array([counts[:3]]), sum(counts))
    assert found.status(options) == [wanted]


# Columns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_variable_of_the_registry_is_there_and_fits_its_dtype(kind):
    null, calls = make_null(kind)
    calls[:2] = [[0], [-1]]
    for rows in (slice(0, 5), slice(0, 2), slice(0, 0)):
        found = fit_block(null, HardCalls.of(calls[rows]), contigs(300)[rows], FitOptions())
        variables = result_variables(random_effects=kind == "exact")
        assert list(found) == [v.name for v in variables]
        for variable in variables:
            values = found[variable.name]
            assert values.shape == (len(calls[rows]),)
            assert np.can_cast(values.dtype, variable.dtype, casting="same_kind")
            stored = values.astype(variable.dtype)
            np.testing.assert_array_equal(stored, values)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_effects_errors_and_likelihoods_follow_the_unit_of_the_phenotype(kind, scale):
    (null, calls), (other, _) = make_null(kind), make_null(kind, scale=scale)
    m = 6 if kind == "exact" else 40
    one, two = (
        fit_block(x, HardCalls.of(calls[:m]), contigs(m), EVERYTHING) for x in (null, other)
    )
    powers = {"add": 1, "add_se": 1, "add_var_cov": 1, "random_variance": 2}
    powers["random_variance_se"] = 2
    for name, values in one.items():
        expected = values * scale ** powers.get(name.removesuffix("_robust"), 0)
        if name == "log_likelihood":
            expected = values - one["n"] * np.log(scale)
        tolerance = {"rtol": 1e-9, "atol": 1e-10 * np.nanmax(np.abs(expected), initial=1e-300)}
        np.testing.assert_allclose(two[name], expected, **tolerance, err_msg=name)


@pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_joint_test_uses_the_covariance_that_is_reported(kind, observed):
    null, calls = make_null(kind, scale=20.0)
    m = 6 if kind == "exact" else 60
    options = FitOptions(0, 0, 1, Inference(observed))
    found = fit_block(null, HardCalls.of(calls[:m]), contigs(m), options)
    theta = np.column_stack([found["add"], found["var"]])
    C = np.empty((m, 2, 2))
    C[:, 0, 0], C[:, 1, 1] = found["add_se"] ** 2, found["var_se"] ** 2
    C[:, 0, 1] = C[:, 1, 0] = found["add_var_cov"]
    direct = np.einsum("mi,mi->m", theta, np.linalg.solve(C, theta[:, :, None])[:, :, 0])
    joint = wald_test("av", "", found) * 2 * np.log(10)
    np.testing.assert_allclose(joint, direct, rtol=1e-9)
    apart = (found["add"] / found["add_se"]) ** 2 + (found["var"] / found["var_se"]) ** 2
    assert np.allclose(joint, apart, rtol=1e-12) == (not observed)


def test_the_fraction_is_of_the_variance_of_the_average_person():
    null, calls = make_null("exact", scale=3.0)
    found = fit_block(null, HardCalls.of(calls[3:4]), contigs(1), EVERYTHING)
    plain = fit_plainly(null, calls[3])
    g = calls[3, null.samples]
    called = g >= 0
    log_variance = plain.beta[0] + plain.beta[1] * (g[called] - g[called].mean())
    residual = np.exp(log_variance).mean() * null.y_scale**2
    h2 = found["random_variance"][0]
    assert h2 == pytest.approx(plain.random_variance * null.y_scale**2)
    assert found["random_variance_fraction"][0] == pytest.approx(h2 / (h2 + residual))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_a_variant_holds_raises(kind):
    null, calls = make_null(kind, n=61)
    n = calls.shape[1]
    rng = np.random.default_rng(4)
    bad = np.zeros((12, n), np.int8)
    bad[0] = -1
    bad[1] = 2
    bad[2, 5] = 1
    bad[3, 5:7] = 2
    bad[4] = 1
    bad[4, 9] = 0
    bad[5, :] = -1
    bad[5, :20] = rng.integers(0, 3, 20)
    bad[6, :] = -1
    bad[6, 3:8] = [0, 1, 2, 1, 0]
    bad[7, ::2] = 2
    bad[8:] = np.where(rng.random((4, n)) < 0.9, -1, rng.integers(0, 3, (4, n)))
    found = fit_block(null, HardCalls.of(bad), contigs(12), EVERYTHING)
    status = found["status"]
    assert status[0] == Status.HIGH_MISSING
    assert (status[[1]] == Status.MONOMORPHIC).all()
    assert (status != Status.PENDING).all()
    trusted = status < Status.NOT_CONVERGED
    # A score needs no maximum.
    assert np.isfinite(found["av_neg_log10_p"][trusted]).all()
    assert np.isnan(found["av_neg_log10_p"][status >= Status.MONOMORPHIC]).all()
    for name in ("add", "add_se", "var", "var_se", "log_likelihood"):
        assert np.isfinite(found[name][trusted]).all(), name
        nothing = status > Status.NOT_CONVERGED
        assert np.isnan(found[name][nothing]).all(), name


def test_seed_mode_reports_in_units_of_the_prepared_phenotype():
    (null, calls), (other, _) = (
        make_null("classes", scale=scale, seed_mode=True) for scale in (1.0, 1e6)
    )
    assert null.intercept_only
    assert null.y_scale == other.y_scale == 1.0
    one, two = (
        fit_block(x, HardCalls.of(calls[:20]), contigs(20), EVERYTHING) for x in (null, other)
    )
    np.testing.assert_allclose(one["add"], two["add"], rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(one["log_likelihood"], two["log_likelihood"], rtol=1e-10)


# Memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.03])
@pytest.mark.parametrize(
    ("kind", "n", "m", "n_mean", "n_variance", "n_random"),
    [
        ("classes", 4000, 4000, 1, 1, 0),
        ("joint", 3000, 256, 1, 4, 0),
        ("joint", 5000, 300, 12, 3, 0),
        ("joint", 600, 256, 30, 30, 0),
        ("exact", 3000, 3, 1, 1, 200),
        ("exact", 2000, 3, 6, 4, 60),
    ],
)
def test_the_planners_estimate_of_memory_is_an_upper_bound_and_not_a_wild_one(
    kind, n, m, n_mean, n_variance, n_random, missing
):
    rng = np.random.default_rng(0)
    calls = rng.binomial(2, 0.3, (m, n)).astype(np.int8)
    calls[rng.random((m, n)) < missing] = -1
    y = rng.standard_normal(n) + 0.2 * calls[0]
    mean, variance = rng.standard_normal((n, n_mean - 1)), rng.standard_normal((n, n_variance - 1))
    effects = None
    if n_random:
        effects = random_effects_of(n, ["1", "2"] * (n_random // 2), seed=0)
        y += effects.design("") @ rng.standard_normal(n_random)
    null = null_model_of(y, mean, variance, effects=effects, left_out=["1", "2"])
    packed = HardCalls.of(calls)
    options = FitOptions(max_missing=0.1)
    # Compiled before it is measured, all that many variants ask for; of another model, as what is
    # prepared is kept. Random effects' own, which are shared memory, is to be at hand.
    some, model = (1, null) if n_random else (m, replace(null))
    fit_block(model, packed.take(slice(some)), contigs(some), options)
    held = sum(
        array.nbytes for array in (null.y, null.samples, null.mean_design, null.variance_design)
    )
    held += packed.nbytes + (null.random_effects.columns.nbytes if n_random else 0)
    tracemalloc.start()
    found = fit_block(null, packed, contigs(m), options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found["status"] == Status.OK).all()
    size = ModelSize(n, n_mean, n_variance, n_random)
    estimate = task_bytes(size, m) + size.shared_bytes
    # What the plain kernel, the sandwich and making the scores' columns need is planned for, and
    # is not needed at this time.
    assert held + peak <= estimate <= 12 * (held + peak)


def test_products_of_covariates_are_held_for_a_strip_of_people_only():
    rng = np.random.default_rng(0)
    n, pairs = 20_000, 30 * 31 // 2
    null = null_model_of(rng.standard_normal(n), rng.standard_normal((n, 29)))
    packed = HardCalls.of(rng.binomial(2, 0.3, (2, n)).astype(np.int8))
    tracemalloc.start()
    fit_block(null, packed, contigs(2), EVERYTHING)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n * pairs
