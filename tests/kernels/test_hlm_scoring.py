"""The fast joint kernel against the plain one, and against the estimator of one data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from by_chromosome import fit_scoring

from hlmm_scan.kernels.estimates import Estimates, Inference
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.joint.fit import fit_joint
from hlmm_scan.kernels.scoring import fit as hlm_scoring
from hlmm_scan.kernels.scoring.design import ScoringDesign
from hlmm_scan.kernels.scoring.fit import work_bytes
from hlmm_scan.kernels.scoring.sweep import STRIP
from hlmm_scan.kernels.scoring.tile import TILE
from hlmm_scan.models.hlm import HLM
from hlmm_scan.schema import Status

KERNELS = [fit_joint, fit_scoring]


def cohort(
    n: int = 2000,
    c: int = 5,
    v: int = 5,
    *,
    frequencies: Any = (0.05, 0.2, 0.35, 0.5),
    effects: Any = 0.0,
    missing: float = 0.0,
    dosages: bool = False,
    heavy: bool = False,
    confounded: float = 0.0,
    seed: int = 1,
) -> tuple[JointDesign, np.ndarray]:
    """Draw people, c and v covariates and one variant per frequency.

    Only variant 0 has variance effect `effects`; `confounded` is the correlation of every
    genotype's liability with the first covariates.
    """
    rng = np.random.default_rng(seed)
    covariates = rng.standard_normal((n, max(c, v, 1)))
    X = np.column_stack([np.ones(n), covariates[:, :c]])
    V = np.column_stack([np.ones(n), covariates[:, :v]])
    liability = rng.standard_normal((n, len(frequencies), 2))
    liability = confounded * covariates[:, :1, None] + np.sqrt(1 - confounded**2) * liability
    if confounded:
        copies = 1 + liability.mean(axis=2) * 0.4
        dosages = True
    else:
        quantiles = np.quantile(liability, np.asarray(frequencies))
        copies = (liability < quantiles[:, None]).sum(axis=2)
    genotypes = copies.astype(np.float64)
    if dosages and not confounded:
        genotypes = np.clip(genotypes + 0.1 * rng.standard_normal(genotypes.shape), 0, 2)
    noise = rng.standard_t(5, n) if heavy else rng.standard_normal(n)
    log_variance = 0.2 * V[:, 1:].sum(axis=1) / np.sqrt(max(v, 1)) + effects * genotypes[:, 0]
    y = 0.3 * X[:, 1:].sum(axis=1) / np.sqrt(max(c, 1)) + np.exp(0.5 * log_variance) * noise
    y = (y - y.mean()) / y.std()
    genotypes[rng.random(genotypes.shape) < missing] = np.nan
    null = HLM(y, X, V).fit()
    assert null.success
    return JointDesign(y, X, V, null.alpha, null.beta), genotypes


def gap(one: Estimates, other: Estimates) -> float:
    """Return the largest difference of effects, in standard errors of `other`."""
    return max(
        float(
            np.abs(
                (getattr(one, k) - getattr(other, k)) / getattr(other, f"{k}_variance") ** 0.5
            ).max()
        )
        for k in ("add", "var")
    )


def se_gap(one: Estimates, other: Estimates) -> float:
    """Return the largest relative difference of standard errors."""
    ratios = [getattr(one, k) / getattr(other, k) for k in ("add_variance", "var_variance")]
    return float(np.abs(np.sqrt(ratios) - 1).max())  # NaN where a variance is negative


CASES = {
    "no covariates": {"c": 0, "v": 0},
    "one, mean only": {"c": 1, "v": 0},
    "one, variance only": {"c": 0, "v": 1},
    "five and one": {"c": 5, "v": 1},
    "five": {},
    "twenty": {"c": 20, "v": 20},
    "missing": {"missing": 0.03},
    "twenty, missing": {"c": 20, "v": 20, "missing": 0.03},
    "dosages": {"dosages": True},
    "dosages, missing": {"dosages": True, "missing": 0.03},
    "fewer people than a strip": {"n": STRIP - 11, "c": 2, "v": 3},
    "exactly two strips": {"n": 2 * STRIP},
    "heavy tails": {"heavy": True},
    "genotype correlated 0.9 with a covariate": {"confounded": 0.9},
    "genotype correlated 0.98, missing": {"confounded": 0.98, "missing": 0.03},
    "strong": {"effects": 1.0},
    "stronger": {"effects": 1.5},
    "strong, negative": {"effects": -1.5},
    "strong, rare": {"effects": 1.5, "frequencies": (0.03, 0.3)},
    "strong, twenty covariates": {"effects": 1.5, "c": 20, "v": 20, "n": 5000},
    "strong, missing, dosages": {"effects": 1.5, "missing": 0.03, "dosages": True},
    "strong, correlated": {"effects": 1.2, "confounded": 0.7},
    "strong, heavy tails": {"effects": 1.5, "heavy": True},
}


@pytest.mark.parametrize("case", CASES)
def test_as_the_plain_kernel(case: str) -> None:
    """1e-3 of a standard error is promised; 5e-5 is kept at any n, 1e-5 as a rule."""
    design, genotypes = cohort(**CASES[case])
    plain = fit_joint(design, genotypes)
    assert (plain.status == Status.OK).all()
    # Without the exact kernel to fall back on: what is tested is the fast one.
    fast = hlm_scoring.fit_scoring(design, genotypes)
    assert (fast.status == Status.OK).all()
    assert gap(fast, plain) < 5e-5
    assert se_gap(fast, plain) < 3e-4
    np.testing.assert_allclose(fast.log_likelihood, plain.log_likelihood, rtol=0, atol=3e-4)
    np.testing.assert_array_equal(fast.add_var_covariance, 0.0)


@pytest.mark.parametrize("missing", [0.0, 0.03])
def test_distances_are_right_where_genotype_and_covariate_are_correlated(missing: float) -> None:
    """A metric that errs by a few per cent says nothing of the rest of 1 − R² = 0.1."""
    rng = np.random.default_rng(7)
    design, _ = cohort(3000, 5, 5)
    genotypes = rng.binomial(2, rng.uniform(0.05, 0.5, 32), (3000, 32)) + 1.5 * design.X[:, [1]]
    genotypes[rng.random(genotypes.shape) < missing] = np.nan
    fast, plain = fit_scoring(design, genotypes), fit_joint(design, genotypes)
    assert gap(fast, plain) < 5e-5
    assert se_gap(fast, plain) < 3e-4


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", ["twenty", "missing", "dosages", "stronger", "strong, correlated"])
def test_as_the_estimator(case: str, kernel: Any) -> None:
    design, genotypes = cohort(**CASES[case])
    estimates = kernel(design, genotypes)
    for j in (0, 1):
        g = genotypes[:, j]
        called = ~np.isnan(g)
        fit = HLM(
            design.y[called],
            np.column_stack([design.X, g])[called],
            np.column_stack([design.V, g])[called],
        ).fit()
        assert fit.success
        assert abs(estimates.add[j] - fit.alpha[-1]) < 5e-5 * fit.alpha_se[-1]
        assert abs(estimates.var[j] - fit.beta[-1]) < 5e-5 * fit.beta_se[-1]
        np.testing.assert_allclose(estimates.add_variance[j] ** 0.5, fit.alpha_se[-1], rtol=3e-4)
        np.testing.assert_allclose(estimates.var_variance[j] ** 0.5, fit.beta_se[-1], rtol=3e-4)


@pytest.mark.parametrize("case", ["five and one", "twenty", "missing", "stronger"])
def test_observed_information(case: str) -> None:
    design, genotypes = cohort(**CASES[case])
    plain = fit_joint(design, genotypes, Inference(observed=True))
    fast = fit_scoring(design, genotypes, Inference(observed=True))
    assert gap(fast, plain) < 5e-5
    assert se_gap(fast, plain) < 1e-5
    scale = np.sqrt(plain.add_variance * plain.var_variance)
    difference = (fast.add_var_covariance - plain.add_var_covariance) / scale
    assert np.abs(difference).max() < 1e-5


@pytest.mark.parametrize("missing", [0.0, 0.02])
def test_a_variant_does_not_know_its_block(missing: float) -> None:
    """1e-10 of a standard error is asked for; sums are the same bit for bit."""
    rng = np.random.default_rng(4)
    design, genotypes = cohort(
        2500, 6, 4, frequencies=rng.uniform(0.05, 0.5, 150), effects=1.0, missing=missing
    )
    prepared = ScoringDesign.of(design)
    inference = Inference(likelihood_ratio=True)
    whole = fit_scoring(prepared, genotypes, inference)
    assert (whole.status == Status.OK).all()
    for width in (1, 7, TILE, 100):
        columns = rng.permutation(150)[:60] if width == 1 else rng.permutation(150)
        for start in range(0, len(columns), width):
            chosen = columns[start : start + width]
            part = fit_scoring(prepared, genotypes[:, chosen], inference)
            for name in ("add", "var"):
                se = getattr(whole, f"{name}_variance")[chosen] ** 0.5
                moved = np.abs(getattr(part, name) - getattr(whole, name)[chosen]) / se
                assert moved.max() < 1e-10
            for name in ("add_variance", "var_variance", "add_var_covariance_robust"):
                expected = getattr(whole, name)[chosen]
                np.testing.assert_allclose(getattr(part, name), expected, rtol=1e-10, atol=1e-15)
            np.testing.assert_allclose(part.av_lrt, whole.av_lrt[chosen], rtol=0, atol=1e-9)


def test_layouts_and_unprepared_designs_make_no_difference() -> None:
    design, genotypes = cohort(missing=0.01)
    one = fit_scoring(design, np.ascontiguousarray(genotypes))
    other = fit_scoring(ScoringDesign.of(design), np.asfortranarray(genotypes))
    np.testing.assert_array_equal(one.add, other.add)
    np.testing.assert_array_equal(one.var, other.var)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_has_no_estimate(kernel: Any) -> None:
    """Each has its status, and the neighbours do not suffer."""
    design, good = cohort(2000, 5, 5)
    genotypes = np.zeros((2000, 8))
    genotypes[:, 0] = good[:, 1]
    genotypes[:, 1] = 0.3 * design.X[:, 3] + 1.0  # a covariate
    genotypes[5, 2] = 1.0  # one carrier
    # 3: monomorphic
    genotypes[:, 4:6] = np.nan  # nobody called
    genotypes[:8, 5] = good[:8, 0]  # fewer people called than coefficients
    genotypes[:, 6] = design.V @ np.arange(6.0)
    genotypes[:, 7] = good[:, 2]
    estimates = kernel(design, genotypes)
    expected = [Status.NOT_UNIQUE] * 8
    expected[0] = expected[7] = Status.OK
    expected[2] = Status.UNBOUNDED
    assert estimates.status.tolist() == [int(status) for status in expected]
    assert np.isnan(estimates.add[1:7]).all()
    alone = fit_joint(design, genotypes[:, [0, 7]])
    moved = (estimates.var[[0, 7]] - alone.var) / alone.var_variance**0.5
    assert np.abs(moved).max() < 5e-5


def test_tied_carriers_are_unbounded() -> None:
    """Without covariates in the mean, carriers with one phenotype leave no residual."""
    design, _ = cohort(1000, 0, 2)
    y = design.y.copy()
    carriers = [3, 500, 700]
    y[carriers] = 0.4
    null = HLM(y, design.X, design.V).fit()
    design = JointDesign(y, design.X, design.V, null.alpha, null.beta)
    g = np.zeros((1000, 1))
    g[carriers] = 1.0
    assert fit_joint(design, g).status[0] == Status.UNBOUNDED
    assert fit_scoring(design, g).status[0] == Status.UNBOUNDED


def test_what_does_not_converge_goes_to_the_plain_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    design, genotypes = cohort(effects=1.0)
    monkeypatch.setattr(hlm_scoring, "_MAX_SWEEPS", 1)
    fast, plain = fit_scoring(design, genotypes), fit_joint(design, genotypes)
    np.testing.assert_array_equal(fast.add, plain.add)
    np.testing.assert_array_equal(fast.status, plain.status)


def test_nothing_to_do() -> None:
    design, genotypes = cohort(600)
    assert len(fit_scoring(design, genotypes[:, :0]).add) == 0


def test_memory_formula_covers_what_is_kept() -> None:
    design, _ = cohort(4000, 20, 20)
    prepared = ScoringDesign.of(design)
    kept = sum(a.nbytes for a in vars(prepared.columns).values())
    assert kept + 7 * 4 * 4000 * TILE < work_bytes(4000, 21, 21, dosages=True)
    assert work_bytes(8000, 21, 21) < 2.1 * work_bytes(4000, 21, 21)
