"""Blocks of dosages: every kernel against the plain estimators on the same dosages."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from cohorts_by_hand import null_model_of, random_effects_of
from simulated_dosages import UNITS, of_calls, simulated_dosages

from hlmm_scan.genotypes.blocks import BGEN_8_BIT, MISSING_CODE, PGEN, Dosages, HardCalls
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.cost import task_bytes
from hlmm_scan.kernels.covariances import degrees_of_freedom
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.kernels.exact.fit import sandwich, studentised
from hlmm_scan.kernels.limits import EXACT_DISTANCE
from hlmm_scan.kernels.paths import DOSAGE_SUMS, NEWTON_STEP, PLAIN, SOFT_CLASSES, WEIGHTED, path_of
from hlmm_scan.kernels.screen.plain import fit_hlmm_screen_plain, fit_screen_plain
from hlmm_scan.models import HLM, HLMM
from hlmm_scan.models.hlmm_objective import HLMMObjective
from hlmm_scan.models.inference import neg_log10_p
from hlmm_scan.schema import Status

ALL = Inference(sandwich=True, likelihood_ratio=True)
EVERYTHING = FitOptions(min_maf=0, min_mac=0, max_missing=1)
PEOPLE = 5000

MODELS = {
    "class sums": (SOFT_CLASSES, {}),
    "joint": (NEWTON_STEP, {"c": 3, "v": 2}),
    "plain": (PLAIN, {"c": 2, "v": 1, "random": 20}),
    "weighted": (WEIGHTED, {"random": 240, "n": 1002}),
}
TOLERANCE = {"class sums": 1e-5, "joint": 1e-3, "plain": 1e-5, "weighted": 1e-2}


def contigs(m):
    return np.array(["1"] * m, dtype=object)


def make_null(dosages: Dosages, n, *, c=0, v=0, random=0, effect=(0.3, 0.3), seed=0):
    """A model of people 3, 4, … whose phenotype the first variant moves; covariates go with it."""
    rng = np.random.default_rng(seed)
    samples = np.arange(3, n + 3)
    g = np.nan_to_num(dosages.copies(samples), nan=0.5)
    covariates = rng.standard_normal((n, max(c, v, 1))) + 0.5 * g[:1].T
    y = effect[0] * g[0] + np.exp(0.5 * effect[1] * g[0]) * rng.standard_normal(n)
    y += 0.2 * covariates[:, 0] * (c > 0)
    effects = None
    if random:
        effects = random_effects_of(n, ["1"] * (random // 4) + ["2"] * (random * 3 // 4), seed=1)
        y += 0.6 * effects.design("") @ rng.standard_normal(len(effects.contigs))
    return null_model_of(
        y, covariates[:, :c], covariates[:, :v], samples, effects, left_out=["1"] * (random > 0)
    )


def hlm_covariances(y, X, V, fit, moments):
    """Studentised and sandwich covariance, free of n×n matrices (math.md §2)."""
    c, root = X.shape[1], np.exp(-0.5 * V @ fit.beta)
    t, expected = (y - X @ fit.alpha) * root, np.zeros((c + V.shape[1],) * 2)
    expected[:c, :c], expected[c:, c:] = X.T @ (X * root[:, None] ** 2), 0.5 * V.T @ V
    B, A = expected.copy(), expected.copy()
    B[c:, c:] = 0.25 * (moments[1] - 1) * V.T @ V
    B[:c, c:] = 0.5 * moments[0] * (X * root[:, None]).T @ V
    B[c:, :c] = B[:c, c:].T
    A[c:, c:] = 0.5 * V.T @ (V * t[:, None] ** 2)
    scores = np.column_stack([X * (root * t)[:, None], 0.5 * V * (t**2 - 1)[:, None]])
    bread = np.linalg.inv(expected), np.linalg.inv(A)
    return bread[0] @ B @ bread[0], bread[1] @ scores.T @ scores @ bread[1]


def fit_plainly(null, g, inference):
    """Fit the models' way; by the names of the columns of `fit_block`."""
    called = ~np.isnan(g)
    y, x = null.y[called], g[called] - g[called].mean()
    X, V = (np.column_stack([D[called], x]) for D in (null.mean_design, null.variance_design))
    kind = "observed" if inference.observed else "expected"
    designs = [(X[:, :-1], V), (X, V[:, :-1]), (X[:, :-1], V[:, :-1])] * inference.likelihood_ratio
    p, q = X.shape[1] - 1, X.shape[1] + V.shape[1] - 1
    if null.random_effects is None:
        fit = HLM(y, X, V).fit(information=kind)
        restricted = [HLM(y, *pair).fit() for pair in designs]
        robust, wide = hlm_covariances(y, X, V, fit, null.fits[""].moments)
    else:
        G = null.random_effects.design("1")[called]
        fit = HLMM(y, X, V, G).fit(information=kind)
        start = fit.beta, fit.random_variance
        restricted = [
            HLMM(y, *pair, G).fit(start=(start[0][: pair[1].shape[1]], start[1]))
            for pair in designs
        ]
        at = HLMMObjective(y, X, V, G).at(np.append(fit.beta, fit.random_variance), fit.alpha)
        robust = studentised(at, null.fits["1"].moments, held=False)
        wide = sandwich(at, held=False)
    scale = null.y_scale
    found = {"add": fit.alpha[-1] * scale, "var": fit.beta[-1]}
    found["log_likelihood"] = fit.log_likelihood - len(y) * np.log(scale)
    covariances = {"": fit.covariance, "_robust": robust}
    if inference.sandwich:
        covariances["_sandwich"] = wide
    add_freedom, var_freedom = freedom_of(null)
    for suffix, C in covariances.items():
        found[f"add_se{suffix}"] = np.sqrt(C[p, p]) * scale * add_freedom
        found[f"var_se{suffix}"] = np.sqrt(C[q, q]) * var_freedom
        found[f"add_var_cov{suffix}"] = C[p, q] * scale * add_freedom * var_freedom
    for name, degrees, other in zip(("add", "var", "av"), (1, 1, 2), restricted, strict=False):
        statistic = np.array([2 * (fit.log_likelihood - other.log_likelihood)])
        found[f"{name}_lrt_neg_log10_p"] = float(neg_log10_p(statistic, degrees)[0])
    return found


def freedom_of(null):
    return degrees_of_freedom(null.n, null.mean_design.shape[1], null.variance_design.shape[1])


def assert_as_models(null, dosages, found, inference, tolerance):
    """Effects to a tolerance in standard errors, everything else relative to what it is."""
    assert (found["status"] == Status.OK).all()
    for j, g in enumerate(dosages.copies(null.samples)):
        wanted = fit_plainly(null, g, inference)
        add_se, var_se = wanted["add_se"], wanted["var_se"]
        unit = {"add": add_se, "var": var_se, "log_likelihood": max(1.0, 1e-3 / tolerance)}
        for name, value in wanted.items():
            size = max(add_se * var_se, abs(value)) if "cov" in name else 1 + abs(value)
            size = abs(value) if "_se" in name else size
            assert abs(found[name][j] - value) <= tolerance * unit.get(name, size), (name, j)


@pytest.mark.parametrize("missing", [0.0, 0.03], ids=["complete", "missing"])
@pytest.mark.parametrize("unit", UNITS)
def test_class_sums_of_dosages_are_the_plain_estimator(unit, missing):
    dosages = simulated_dosages(3, PEOPLE + 10, UNITS[unit], missing=missing)
    null = make_null(dosages, PEOPLE)
    path = path_of(ModelSize.of(null, dosages=True))
    assert (path, path.rest) == (SOFT_CLASSES, DOSAGE_SUMS)
    for inference in (ALL, Inference(observed=True), Inference()):
        options = replace(EVERYTHING, inference=inference, screen=inference.observed)
        found = fit_block(null, dosages, contigs(3), options)
        # What is asked beyond the default takes the classes themselves.
        tolerance = EXACT_DISTANCE if inference == Inference() else 1e-7
        assert_as_models(null, dosages, found, inference, tolerance)


@pytest.mark.parametrize(
    ("model", "unit", "missing"),
    [
        ("joint", "8 bit", 0.0),
        ("joint", "finest", 0.03),
        ("plain", "8 bit", 0.03),
        ("weighted", "pgen", 0.0),
        ("weighted", "8 bit", 0.03),
    ],
)
def test_every_kernel_is_the_plain_estimator_on_dosages(model, unit, missing):
    path, kind = MODELS[model]
    n, m = kind.get("n", PEOPLE), 3
    dosages = simulated_dosages(m, n + 10, UNITS[unit], missing=missing)
    null = make_null(dosages, **{"n": n, **kind})
    assert path_of(ModelSize.of(null, dosages=True)) is path
    found = fit_block(null, dosages, contigs(m), replace(EVERYTHING, inference=ALL))
    assert_as_models(null, dosages, found, ALL, TOLERANCE[model])


@pytest.mark.parametrize("effect", [(1.0, 1.5), (-1.0, -1.5)])
@pytest.mark.parametrize("model", ["class sums", "joint"])
def test_strong_effects(model, effect):
    dosages = simulated_dosages(2, PEOPLE + 10, PGEN)
    null = make_null(dosages, PEOPLE, effect=effect, **MODELS[model][1])
    found = fit_block(null, dosages, contigs(2), replace(EVERYTHING, inference=ALL))
    assert max(found["add_neg_log10_p"][0], found["var_neg_log10_p"][0]) > 100
    assert_as_models(null, dosages, found, ALL, TOLERANCE[model])


@pytest.mark.parametrize("missing", [0.0, 0.03], ids=["complete", "missing"])
@pytest.mark.parametrize("random", [0, 30])
def test_screens_of_dosages_are_the_plain_formulas(random, missing):
    n, m = 403, 70
    dosages = simulated_dosages(m, n + 10, missing=missing)
    null = make_null(dosages, n, c=2, v=1, random=random)
    screen = replace(EVERYTHING, screen=True)
    found = fit_block(null, dosages, contigs(m), screen)
    assert (found["status"] == Status.SCREENED).all()
    g = dosages.copies(null.samples).T
    wanted = fit_hlmm_screen_plain(null, g, "1") if random else fit_screen_plain(null, g)
    add_se, var_se = np.sqrt(wanted.add_variance), np.sqrt(wanted.var_variance)
    # Products in single precision; Gram matrices of the people called by their share.
    limit = 1e-3 if random else (0.015 if missing else 2e-6)
    assert (np.abs(found["add"] / null.y_scale - wanted.add) < limit * add_se).all()
    # Terms of second order.
    assert (np.abs(found["var"] - wanted.var) < max(limit, 1e-3) * var_se).all()
    freedom = freedom_of(null)[1]
    robust = freedom * np.sqrt(wanted.var_variance_robust)
    np.testing.assert_allclose(found["var_se"], freedom * var_se, rtol=limit)
    np.testing.assert_allclose(found["var_se_robust"], robust, rtol=limit)
    refined = fit_block(null, dosages, contigs(m), replace(screen, refine_below=1e-2))
    rows = np.flatnonzero(refined["status"] == Status.REFINED)
    assert 0 < len(rows) < m
    fitted = fit_block(null, dosages.take(rows), contigs(len(rows)), EVERYTHING)
    for name in ("add", "var", "add_se", "log_likelihood"):
        np.testing.assert_allclose(refined[name][rows], fitted[name], rtol=1e-9, atol=1e-11)


# Independence ------------------------------------------------------------------------------

KINDS = {
    "class sums": ({}, EVERYTHING),
    "joint": ({"c": 2, "v": 2}, EVERYTHING),
    "screened": ({"c": 2, "v": 1}, replace(EVERYTHING, screen=True)),
    "plain": ({"random": 16}, EVERYTHING),
    "random, screened": ({"random": 16}, replace(EVERYTHING, screen=True)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_block_it_stands_in(kind):
    model, options = KINDS[kind]
    n, m = 402, 8 if model.get("random") else 70
    dosages = simulated_dosages(m, n + 10, missing=0.01)
    null = make_null(dosages, n, **model)
    options = replace(options, info=True, hwe=True)
    whole = fit_block(null, dosages, contigs(m), options)
    order = np.random.default_rng(1).permutation(m)
    for size in (1, 7):
        rows = [order[k : k + size] for k in range(0, m, size)]
        parts = [fit_block(null, dosages.take(r), contigs(len(r)), options) for r in rows]
        for name, values in whole.items():
            again = np.concatenate([part[name] for part in parts])
            unit = {"add": whole["add_se"], "var": whole["var_se"]}.get(name, 1 + np.abs(values))
            if kind in ("joint", "screened", "random, screened"):
                assert (np.abs(again - values[order]) <= 1e-10 * unit[order]).all(), name
            else:
                np.testing.assert_array_equal(again, values[order], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_copies_are_hard_calls_whatever_the_container_and_the_neighbours(kind):
    model, options = KINDS[kind]
    n, m = 402, 6 if model.get("random") else 40
    rng = np.random.default_rng(2)
    calls = rng.binomial(2, 0.3, (m, n + 10)).astype(np.int8)
    calls[::2][rng.random((m // 2, n + 10)) < 0.03] = -1
    null = make_null(of_calls(calls, PGEN), n, **model)
    options = replace(options, info=True, hwe=True, inference=ALL)
    wanted = fit_block(null, HardCalls.of(calls), contigs(m), options)
    for unit in UNITS.values():
        whole = of_calls(calls, unit)
        uncertain = simulated_dosages(m, n + 10, unit)
        codes = np.stack([whole.codes, uncertain.codes], axis=1).reshape(2 * m, -1)
        alone = fit_block(null, whole, contigs(m), options)
        mixed = fit_block(null, Dosages(codes, unit), contigs(2 * m), options)
        rest = fit_block(null, uncertain, contigs(m), options)
        for name, values in wanted.items():
            np.testing.assert_array_equal(alone[name], values, err_msg=name)
            np.testing.assert_array_equal(mixed[name][::2], values, err_msg=name)
            np.testing.assert_array_equal(mixed[name][1::2], rest[name], err_msg=name)


def test_a_phenotype_of_other_people_changes_no_bit():
    """Class sums are exact: people who are not analysed might as well not be in the dataset."""
    n = 501
    dosages = simulated_dosages(8, n, missing=0.02)
    rng = np.random.default_rng(3)
    samples = np.sort(rng.choice(n, 401, replace=False))
    y = rng.standard_normal(401)
    one = fit_block(null_model_of(y, samples=samples), dosages, contigs(8), EVERYTHING)
    alone = Dosages(np.ascontiguousarray(dosages.codes[:, samples]), dosages.unit)
    two = fit_block(null_model_of(y), alone, contigs(8), EVERYTHING)
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)


# What cannot be fitted, and what is not ----------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_a_variant_holds_raises(kind):
    model, options = KINDS[kind]
    n = 61
    dosages = simulated_dosages(12, n + 10)
    null = make_null(dosages, n, **{**model, "random": min(model.get("random", 0), 8)})
    codes = dosages.codes.copy()
    codes[0] = MISSING_CODE
    codes[1] = 510
    codes[2] = 130  # uncertain, and the same for all
    codes[3, :] = 0
    codes[3, 9] = 77  # one carrier of less than an allele
    codes[4, 30:] = MISSING_CODE
    codes[5, 8:] = MISSING_CODE
    codes[6] = np.arange(n + 10) % 2
    codes[7] = 509
    codes[7, 20] = 510
    codes[8, 5:7] = 511  # beyond two copies: missing
    found = fit_block(null, Dosages(codes, BGEN_8_BIT), contigs(12), replace(options, info=True))
    status = found["status"]
    assert status[0] == Status.HIGH_MISSING
    assert status[1] == Status.MONOMORPHIC
    assert status[2] == Status.NOT_UNIQUE
    assert found["n"][8] == n - 2
    assert (status != Status.PENDING).all()
    trusted = status < Status.NOT_CONVERGED
    # A score needs no maximum.
    assert np.isfinite(found["av_neg_log10_p"][trusted]).all()
    assert np.isnan(found["av_neg_log10_p"][status >= Status.MONOMORPHIC]).all()
    for name in ("add", "add_se", "var", "var_se", "log_likelihood"):
        assert np.isfinite(found[name][trusted]).all(), name
        assert np.isnan(found[name][status > Status.NOT_CONVERGED]).all(), name


def test_a_block_without_variants_has_all_columns():
    dosages = simulated_dosages(3, 60)
    null = make_null(dosages, 50)
    none = fit_block(null, dosages.take(slice(0, 0)), contigs(0), EVERYTHING)
    assert set(none) == set(fit_block(null, dosages, contigs(3), EVERYTHING))
    assert all(len(values) == 0 for values in none.values())


# Memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "covariates", "screen"),
    [(4000, 1000, 0, False), (3000, 256, 4, False), (3000, 256, 10, True)],
)
def test_the_planners_estimate_of_memory_is_an_upper_bound_and_not_a_wild_one(
    n, m, covariates, screen
):
    dosages = simulated_dosages(m, n + 10, PGEN)
    null = make_null(dosages, n, c=covariates, v=covariates)
    # The plan is for every screened variant to be fitted as well.
    options = FitOptions(screen=screen, refine_below=1.0 * screen)
    fit_block(null, dosages.take(slice(0, 1)), contigs(1), options)
    held = sum(a.nbytes for a in (null.y, null.samples, null.mean_design, null.variance_design))
    tracemalloc.start()
    found = fit_block(null, dosages, contigs(m), options)
    peak = tracemalloc.get_traced_memory()[1] + held + dosages.codes.nbytes
    tracemalloc.stop()
    assert (found["status"] < Status.NOT_CONVERGED).all()
    size = ModelSize(n, 1 + covariates, 1 + covariates, 0, screen, dosages=True)
    assert peak <= task_bytes(size, m, n + 10) <= 9 * peak
