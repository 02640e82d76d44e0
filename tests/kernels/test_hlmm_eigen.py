"""HLMM kernels on the shared eigenstructure, held against the plain estimator."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from by_chromosome import fit_exact, fit_grams, fit_second_order, second_order_bases
from cohorts_by_hand import null_model_of, random_effects_of
from plain_reference import assert_same, contigs_of, degenerate, fit_plainly

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.genotypes.packing import pack
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.estimates import Estimates, Inference
from hlmm_scan.kernels.exact.class_grams import Totals, class_grams
from hlmm_scan.kernels.exact.gram import GramObjective
from hlmm_scan.kernels.exact.gram_fit import GramBasis
from hlmm_scan.kernels.paths import CLASS_GRAMS, SECOND_ORDER, path_of
from hlmm_scan.kernels.second_order.fit import work_bytes
from hlmm_scan.kernels.second_order.likelihood import (
    ClassSums,
    Derivatives,
    Shared,
    evaluate,
)
from hlmm_scan.kernels.second_order.maximum import fit_second_order_sums
from hlmm_scan.kernels.second_order.products import refine_sums, second_order_sums
from hlmm_scan.kernels.sums.call_lattice import CallLattice
from hlmm_scan.null.eigen import SharedEigenstructure
from hlmm_scan.null.model import NullModel, RandomEffects
from hlmm_scan.schema import Status


def dense_model():
    """The class of tests/models/dense_oracle.py, a folder that other tests do not import from."""
    path = Path(__file__).parent.parent / "models" / "dense_oracle.py"
    spec = importlib.util.spec_from_file_location("dense_oracle_of_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DenseModel


def eigenstructures(null: NullModel) -> dict:
    effects = null.random_effects
    shared = SharedEigenstructure(effects.columns, effects.contigs)
    return {key: shared.without(key) for key in null.fits}


def run_plain(null, calls, contigs=None, observed=False) -> Estimates:
    contigs = contigs_of(len(calls)) if contigs is None else contigs
    return fit_exact(null, HardCalls.of(calls), contigs, Inference(observed))


def run_grams(null, calls, contigs=None, observed=False) -> Estimates:
    contigs = contigs_of(len(calls)) if contigs is None else contigs
    return fit_grams(null, HardCalls.of(calls), contigs, eigenstructures(null), Inference(observed))


def run_second_order(null, calls, contigs=None, observed=False) -> Estimates:
    contigs = contigs_of(len(calls)) if contigs is None else contigs
    return fit_second_order(
        null, HardCalls.of(calls), contigs, eigenstructures(null), Inference(observed)
    )


def lattice_of(null: NullModel) -> CallLattice | None:
    columns = null.random_effects.columns
    return CallLattice.of(columns) if columns.shape[1] <= columns.shape[0] else None


def run_counted_grams(null, calls, contigs=None, observed=False) -> Estimates:
    """With the random effects as bits, where they are hard calls."""
    contigs = contigs_of(len(calls)) if contigs is None else contigs
    eigen, lattice = eigenstructures(null), lattice_of(null)
    bases = {k: GramBasis.of(eigen[k], null.y, null.fits[k], lattice=lattice) for k in eigen}
    return fit_grams(null, HardCalls.of(calls), contigs, eigen, Inference(observed), bases=bases)


def run_counted_second_order(null, calls, contigs=None, observed=False) -> Estimates:
    contigs = contigs_of(len(calls)) if contigs is None else contigs
    eigen = eigenstructures(null)
    bases = second_order_bases(null, eigen, eigen, lattice_of(null))
    return fit_second_order(
        null, HardCalls.of(calls), contigs, eigen, Inference(observed), bases=bases
    )


RUN = {
    "plain": run_plain,
    "grams": run_grams,
    "counted grams": run_counted_grams,
    "second order": run_second_order,
    "counted second order": run_counted_second_order,
}
COLUMNS = [name for name in Estimates.__dataclass_fields__ if name != "status"]


def assert_agrees(run, row, found, plain) -> None:
    """To 1e-7 of a standard error, or to what is promised of the second-order kernel."""
    if "second order" not in run or plain.status in (Status.NOT_UNIQUE, Status.UNBOUNDED):
        assert_same(row, found, plain, 1e-7)
        return
    assert Status(found.status[row]) is plain.status
    assert abs(found.add[row] - plain.alpha[-1]) <= 0.01 * plain.alpha_se[-1]
    assert abs(found.var[row] - plain.beta[-1]) <= 0.01 * plain.beta_se[-1]
    assert abs(found.log_likelihood[row] - plain.log_likelihood) <= 0.05
    C = plain.covariance
    np.testing.assert_allclose(found.add_variance[row], C[1, 1], rtol=5e-3)
    np.testing.assert_allclose(found.var_variance[row], C[3, 3], rtol=5e-3)
    scale = np.sqrt(C[1, 1] * C[3, 3])
    np.testing.assert_allclose(found.add_var_covariance[row], C[1, 3], atol=5e-3 * scale)
    unit = np.nan_to_num(plain.random_variance_se, nan=1.0)
    assert abs(found.random_variance[row] - plain.random_variance) <= 0.1 * unit
    np.testing.assert_allclose(found.random_variance_variance[row], C[4, 4], rtol=5e-2)


def make_calls(rng, n) -> np.ndarray:
    """The variant with the effect, then rare, missing, and two-class ones."""
    rows = [rng.binomial(2, f, n) for f in (0.4, 0.05, 0.3)]
    rows[2][rng.random(n) < 0.03] = -1
    binary = rng.integers(0, 2, n)
    return np.array([*rows, binary, 2 * binary, 1 + binary], dtype=np.int8)


def make_effects(kind, n) -> RandomEffects:
    if kind == "one":
        return random_effects_of(n, ["2"], seed=2)
    if kind == "more_than_people":
        return random_effects_of(n, ["2"] * (n + 50), seed=2)
    effects = random_effects_of(n, ["1"] * 10 + ["2"] * 20, seed=2)
    if kind == "dependent":
        columns = effects.columns.copy()
        columns[:, 12:20] = columns[:, [11]]
        columns[:, 20:25] = columns[:, [1]]
        return RandomEffects(columns, effects.contigs, effects.variant_ids)
    if kind == "imputed":
        columns = effects.columns.copy()
        columns[:, ::2][np.random.default_rng(3).random((n, 15)) < 0.1] = np.nan
        columns = (columns - np.nanmean(columns, axis=0)) / np.nanstd(columns, axis=0)
        return RandomEffects(np.nan_to_num(columns), effects.contigs, effects.variant_ids)
    return effects


def make_null(effects, calls, rng, add=0.2, var=-0.3, share=1.0, unit=1.0) -> NullModel:
    g = np.maximum(calls[0], 0) - 0.8
    n = len(g)
    G = effects.design("")
    y = add * g + np.exp(0.5 * var * g) * rng.standard_normal(n)
    y += share * G @ rng.standard_normal(G.shape[1])
    left_out = sorted(set(effects.contigs)) if len(set(effects.contigs)) > 1 else []
    return null_model_of(unit * y, effects=effects, left_out=left_out)


@pytest.mark.parametrize("run", RUN)
@pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])
@pytest.mark.parametrize(
    ("kind", "add", "var"),
    [
        ("several", 0.1, -0.2),
        ("several", 0.5, 1.0),
        ("several", -0.3, -1.0),
        ("dependent", 0.1, 0.2),
        ("imputed", 0.1, 0.2),
        ("one", 0.3, 0.3),
        ("more_than_people", 0.1, 0.2),
    ],
)
def test_every_row_agrees_with_the_plain_estimator_from_its_own_start(
    run, kind, add, var, observed
):
    rng = np.random.default_rng(7)
    n = 203 if kind == "more_than_people" else 501
    calls = make_calls(rng, n)
    null = make_null(make_effects(kind, n), calls, rng, add, var)
    found = RUN[run](null, calls, observed=observed)
    assert (found.status == Status.OK).all()
    for row in range(len(calls)):
        assert_agrees(run, row, found, fit_plainly(null, calls[row], observed=observed))


@pytest.mark.parametrize("run", RUN)
@pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])
def test_a_random_variance_of_zero(run, observed):
    rng = np.random.default_rng(5)
    n = 401
    calls = make_calls(rng, n)
    effects = random_effects_of(n, ["2"] * 12, seed=2)
    G = effects.design("")
    noise = rng.standard_normal(n)
    # Residuals that are less alike than independent ones along the random effects.
    y = 0.02 * calls[0] + noise - G @ np.linalg.lstsq(G, noise)[0]
    null = null_model_of(y, effects=effects)
    found = RUN[run](null, calls, observed=observed)
    assert (found.status == Status.RANDOM_VARIANCE_AT_ZERO).all()
    for row in range(len(calls)):
        assert_agrees(run, row, found, fit_plainly(null, calls[row], observed=observed))


@pytest.mark.parametrize("run", RUN)
@pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])
@pytest.mark.parametrize(
    "kind",
    [
        "one_carrier",
        "tied_carriers",
        "two_tied_carriers",
        "monomorphic",
        "no_calls",
        "four_calls",
    ],
)
def test_what_cannot_be_estimated_has_the_status_of_the_plain_estimator(run, kind, observed):
    rng = np.random.default_rng(11)
    n = 299
    effects = random_effects_of(n, ["2"] * 5, seed=4)
    y = rng.standard_normal(n) + effects.design("") @ [1.0, -0.5, 0.7, -1.2, 0.3]
    g, y = degenerate(kind, y, rng)
    null = null_model_of(y, effects=effects)
    calls = np.array([g, rng.binomial(2, 0.4, n)], np.int8)
    found = RUN[run](null, calls, observed=observed)
    if kind in ("no_calls", "four_calls"):
        assert found.status[0] == Status.NOT_UNIQUE
        assert np.isnan(found.add[0])
    else:
        assert_agrees(run, 0, found, fit_plainly(null, calls[0], observed=observed))
    assert found.status[0] != Status.PENDING
    assert_agrees(run, 1, found, fit_plainly(null, calls[1], observed=observed))


def test_a_phenotype_that_the_genotype_explains_wholly_is_unbounded():
    rng = np.random.default_rng(0)
    n = 200
    calls = rng.binomial(2, 0.3, (1, n)).astype(np.int8)
    effects = random_effects_of(n, ["2"] * 5, seed=4)
    null = make_null(effects, calls, rng)
    perfect = NullModel(**{**vars(null), "y": calls[0] - calls[0].mean()})
    for run in RUN.values():
        assert run(perfect, calls).status[0] == Status.UNBOUNDED


@pytest.mark.parametrize("run", RUN)
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_the_phenotype_changes_no_test(run, unit):
    n = 301
    results = []
    for factor in (1.0, unit):
        rng = np.random.default_rng(8)
        calls = make_calls(rng, n)
        null = make_null(make_effects("several", n), calls, rng, 0.4, 0.5, unit=factor)
        results.append(RUN[run](null, calls))
    one, other = results
    assert (one.status == other.status).all()
    rtol = 1e-5 if run == "second order" else 1e-8
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("run", RUN)
def test_a_variant_has_the_same_numbers_in_any_block(run):
    rng = np.random.default_rng(4)
    n = 403
    calls = make_calls(rng, n)
    contigs = np.array(["1", "2", "3", "1", "2", "3"], dtype=object)
    null = make_null(make_effects("several", n), calls, rng)
    whole = RUN[run](null, calls, contigs)
    for rows in ([0], [5, 1], [4, 2, 3, 0]):
        part = RUN[run](null, calls[rows], contigs[rows])
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])


def large_null(n, l_random, rng, structured=False):
    """A cohort in which second order is worth while, with two kinds of variants to test."""
    m = 12
    frequencies = np.repeat(rng.uniform(0.1, 0.5, m)[:, None], n, axis=1)
    contigs, population = ["2"] * l_random, np.zeros(n)
    if structured:
        population = np.repeat([-1.0, 1.0], [n // 3, n - n // 3])
        frequencies = frequencies + 0.04 * population
    calls = rng.binomial(2, frequencies).astype(np.int8)
    calls[6:][rng.random((m - 6, n)) < 0.02] = -1
    drift = rng.uniform(-0.1, 0.1, l_random) * structured
    columns = rng.binomial(2, 0.4 + population[:, None] * drift).astype(float)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    effects = RandomEffects(columns, tuple(contigs), tuple(contigs))
    return make_null(effects, calls, rng, 0.05, 0.1, share=0.6), calls


@pytest.mark.parametrize("structured", [False, True], ids=["unstructured", "two_populations"])
def test_the_second_order_kernel_keeps_within_its_own_bound(structured):
    null, calls = large_null(4001, 80, np.random.default_rng(9), structured)
    eigen, packed = eigenstructures(null), HardCalls.of(calls)
    exact = fit_grams(null, packed, contigs_of(len(calls)), eigen)
    basis = second_order_bases(null, eigen, [""])[""]
    sums = second_order_sums(basis, packed.packed, null.samples)
    first = fit_second_order_sums(basis, sums)
    again = fit_second_order_sums(
        basis, refine_sums(basis, sums, first.shift, packed.packed, null.samples)
    )
    for fits in (first, again):
        deviations = np.abs(
            [
                (fits.add - exact.add) / np.sqrt(exact.add_variance),
                (fits.var - exact.var) / np.sqrt(exact.var_variance),
                (fits.random_variance - exact.random_variance)
                / np.sqrt(exact.random_variance_variance),
            ]
        )
        assert (deviations <= fits.bound.T).all()
    # The bound is of use: it lets most variants through, and missing calls once refined.
    assert (first.bound[1:6, :2] < 0.01).all()
    assert (again.bound[:, :2] < 0.01).all()
    assert (again.bound[6:, 1] < 0.5 * first.bound[6:, 1]).all()
    covariance = again.covariance / again.spread[:, None, None] ** 2
    np.testing.assert_allclose(covariance[:, 1, 1], exact.add_variance, rtol=1e-3)
    np.testing.assert_allclose(covariance[:, 3, 3], exact.var_variance, rtol=1e-3)


@pytest.mark.parametrize("theta", [(0.1, 0.2, 0.3), (-0.4, -0.5, 1e-4)])
def test_the_gradient_of_the_second_order_function(theta):
    null, calls = large_null(301, 20, np.random.default_rng(6))
    basis = second_order_bases(null, eigenstructures(null), [""])[""]
    sums = second_order_sums(basis, pack(calls), null.samples)
    j = 8  # one with missing calls
    counts = np.append(sums.counts[j], 301 - sums.counts[j].sum())
    # Far from β, so that no term is small by chance.
    known = ClassSums(
        counts, sums.residuals[j], sums.squares[j], sums.sums[j], sums.products[j],
        sums.series[j], sums.ratio[j], sums.beta[j] + 0.1, False,
    )  # fmt: skip
    shared = Shared(basis.eigen.values, basis.squares, *basis.log_range)
    room = (5,), (5, 5), (5,), basis.beta.shape, (3, 4)
    out = Derivatives(*(np.zeros(shape) for shape in room))
    v = np.array([-0.8, 0.4, 1.3])

    def value(at, profiled=0):
        alpha = at[:2].copy()
        return evaluate(at[2:].copy(), alpha, profiled, v, known, shared, out), alpha

    at = np.array([0.05, -0.1, *theta])
    value(at)
    gradient = out.gradient.copy()
    for k in range(5):
        step = np.zeros(5)
        step[k] = 1e-5
        difference = (value(at + step)[0] - value(at - step)[0]) / 2e-5
        np.testing.assert_allclose(gradient[k], difference, rtol=1e-6, atol=1e-5)
    best, alpha = value(at, profiled=2)
    np.testing.assert_allclose(out.gradient[:2], 0, atol=1e-9)
    assert best < value(np.array([*(alpha + 0.01), *theta]))[0]


@pytest.mark.parametrize("counted", [False, True])
def test_second_order_fits_are_the_same_bit_for_bit_in_any_block(counted):
    null, calls = large_null(1003, 37, np.random.default_rng(2))
    eigen = eigenstructures(null)
    bases = second_order_bases(null, eigen, [""], lattice_of(null) if counted else None)
    many = np.concatenate([np.roll(calls, shift, axis=1) for shift in range(12)])
    packed, asked = HardCalls.of(many), Inference(sandwich=True, likelihood_ratio=True)
    whole = fit_second_order(null, packed, contigs_of(len(many)), eigen, asked, bases=bases)
    for rows in (np.arange(143, -1, -1), np.arange(50, 60), np.array([70])):
        part = fit_second_order(
            null, packed.take(rows), contigs_of(len(rows)), eigen, asked, bases=bases
        )
        for name in [*COLUMNS, "status"]:
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])


def test_a_tolerance_of_zero_is_the_exact_kernel_from_a_nearer_start():
    null, calls = large_null(9001, 20, np.random.default_rng(2))
    eigen, contigs = eigenstructures(null), contigs_of(len(calls))
    asked = Inference(sandwich=True, likelihood_ratio=True)
    second_order = fit_second_order(null, HardCalls.of(calls), contigs, eigen, asked, tolerance=0.0)
    exact = fit_grams(null, HardCalls.of(calls), contigs, eigen, asked)
    assert (second_order.status == exact.status).all()
    units = {
        "add": exact.add_variance,
        "var": exact.var_variance,
        "random_variance": exact.random_variance_variance,
    }
    # Gram matrices in single precision; a tenth of what second order promises.
    for name, variance in units.items():
        deviation = np.abs(getattr(second_order, name) - getattr(exact, name)) / np.sqrt(variance)
        assert deviation.max() < 1e-4
    np.testing.assert_allclose(second_order.var_variance, exact.var_variance, rtol=1e-5)
    np.testing.assert_allclose(second_order.log_likelihood, exact.log_likelihood, atol=1e-3)
    np.testing.assert_allclose(second_order.av_lrt, exact.av_lrt, atol=2e-3)


def test_counts_of_people_are_what_indicators_multiply_to():
    """Over more than a strip of people, and with variants that lack calls."""
    null, calls = large_null(4_999, 37, np.random.default_rng(5))
    effects = null.random_effects
    columns = np.where(np.random.default_rng(6).random(effects.columns.shape) < 0.03, 0.0, 1.0)
    columns[:, 7:] = 1.0
    columns *= effects.columns
    columns -= columns.mean(axis=0) * (columns != 0) * (len(columns) / (columns != 0).sum(axis=0))
    eigen = {"": SharedEigenstructure(columns, effects.contigs).without("")}
    lattice = CallLattice.of(columns)
    assert lattice.lacking.tolist() == list(range(7))
    multiplied, counted = (
        second_order_sums(
            second_order_bases(null, eigen, [""], kind)[""], pack(calls), null.samples
        )
        for kind in (None, lattice)
    )
    np.testing.assert_array_equal(counted.products, multiplied.products)
    np.testing.assert_array_equal(counted.series, multiplied.series)
    np.testing.assert_array_equal(counted.ratio, multiplied.ratio)
    # In single precision the former, exact the latter.
    np.testing.assert_allclose(counted.sums, multiplied.sums, atol=2e-3)
    g = np.array([calls == c for c in range(3)]).transpose(1, 0, 2)
    exact = eigen[""].rotate(columns.T @ g.reshape(-1, len(columns)).T)
    np.testing.assert_allclose(counted.sums, exact.T.reshape(counted.sums.shape), atol=1e-9)


def test_of_some_thousand_people_the_interesting_variants_are_fitted_exactly():
    null, calls = large_null(5_003, 40, np.random.default_rng(8))
    assert path_of(ModelSize.of(null)) is SECOND_ORDER
    contigs = contigs_of(len(calls))
    found = fit_block(null, HardCalls.of(calls), contigs, FitOptions())
    exact = fit_grams(null, HardCalls.of(calls), contigs, eigenstructures(null))
    strongest = np.maximum(found["add_neg_log10_p"], found["var_neg_log10_p"])
    interesting = np.maximum(strongest, found["av_neg_log10_p"]) > 4
    assert 0 < interesting.sum() < len(calls)
    for name in ("add", "var"):
        scale = null.y_scale if name == "add" else 1.0
        error = np.sqrt(getattr(exact, f"{name}_variance")) * scale
        distance = np.abs(found[name] - getattr(exact, name) * scale) / error
        assert (distance[interesting] < 1e-7).all()
        assert (distance < 1e-2).all()
        assert distance[~interesting].max() > 1e-7


@pytest.mark.parametrize("h2", [0.0, 1e-5, 0.4])
def test_value_and_derivatives_are_those_of_the_dense_model(h2):
    rng = np.random.default_rng(3)
    n = 71
    calls = make_calls(rng, n)
    null = make_null(make_effects("several", n), calls, rng)
    structure = eigenstructures(null)["2"]
    genotype = np.where(calls[2] < 0, np.nan, calls[2])
    data, people = class_grams(structure, Totals.of(structure, null.y), null.y, genotype)
    v = data.copies - 0.7
    design = np.column_stack((np.ones_like(v), v))
    objective = GramObjective(data, design, design, people, null.y, structure, 1.0, 1.0)
    called = ~np.isnan(genotype)
    X = np.column_stack((np.ones(called.sum()), genotype[called] - 0.7))
    dense = dense_model()(null.y[called], X, X, null.random_effects.design("2")[called])
    for b in ([0.1, -0.2], [-0.5, 1.1]):
        b = np.array(b)
        at = objective.at(np.append(b, h2))
        alpha = dense.alpha(b, h2)
        np.testing.assert_allclose(at.alpha, alpha, rtol=1e-9)
        value = at.value + np.log(2 * np.pi)
        np.testing.assert_allclose(-0.5 * called.sum() * value, dense.profile(b, h2), rtol=1e-11)
        gradient = dense.gradient(alpha, b, h2) / called.sum()
        np.testing.assert_allclose(at.gradient, gradient[2:], rtol=1e-8, atol=1e-10)
        hessian = 0.5 * dense.hessian(alpha, b, h2)
        np.testing.assert_allclose(at.observed, hessian, rtol=1e-8, atol=1e-8)
        expected = dense.expected_information(b, h2)
        np.testing.assert_allclose(at.expected, expected, rtol=1e-8, atol=1e-8)
        for c, members in enumerate(people):
            e = dense.y - X @ alpha - h2 * structure_effects(dense, alpha, b, h2)
            chosen = np.isin(np.flatnonzero(called), members)
            np.testing.assert_allclose(at.residuals(c), e[chosen], atol=1e-10)


def structure_effects(dense, alpha, b, h2) -> np.ndarray:
    """GGᵀΣ⁻¹r: the prediction of the random effects over h2."""
    return dense.GG @ np.linalg.solve(dense.sigma(b, h2), dense.y - dense.X @ alpha)


def test_the_memory_estimate_grows_with_everything():
    least = work_bytes(100, 1000, 50)
    assert least < min(work_bytes(1000, 1000, 50), work_bytes(100, 2000, 50))
    assert least < work_bytes(100, 1000, 100)
    assert work_bytes(100, 1000, 10**6) == work_bytes(100, 1000, 1000)


def test_a_model_with_covariates_is_covered_by_neither():
    for size in (ModelSize(n, *c, 5) for n in (50, 50_000) for c in ((2, 1), (1, 2))):
        assert not CLASS_GRAMS.covers(size)
        assert not SECOND_ORDER.covers(size)
