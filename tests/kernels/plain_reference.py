"""The plain estimators on one variant at a time, held against the rows of a kernel."""

from __future__ import annotations

import numpy as np
from by_chromosome import fit_exact

from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.genotypes.packing import pack
from hlmm_scan.kernels.classes.fit import class_sums, fit_class_sums
from hlmm_scan.kernels.estimates import Estimates, Inference
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.joint.fit import fit_joint
from hlmm_scan.models import HLM, HLMM, Fit
from hlmm_scan.null.model import NullModel
from hlmm_scan.schema import Status


def contigs_of(m: int, contig: str = "1") -> np.ndarray:
    return np.array([contig] * m, dtype=object)


def run_classes(null: NullModel, calls: np.ndarray, observed: bool = False) -> Estimates:
    return fit_class_sums(
        class_sums(pack(calls), null.samples, null.y), inference=Inference(observed)
    )


def run_joint(null: NullModel, calls: np.ndarray, observed: bool = False) -> Estimates:
    genotypes = np.where(calls < 0, np.nan, calls.astype(float))[:, null.samples].T
    fit = null.fits[""]
    design = JointDesign(null.y, null.mean_design, null.variance_design, fit.alpha, fit.beta)
    return fit_joint(design, genotypes, Inference(observed))


def run_exact(null: NullModel, calls: np.ndarray, observed: bool = False) -> Estimates:
    return fit_exact(null, HardCalls.of(calls), contigs_of(len(calls)), Inference(observed))


def fit_plainly(null: NullModel, calls: np.ndarray, contig: str = "1", observed=False) -> Fit:
    """Fit one variant, given by the calls of all samples, from the estimator's own start."""
    calls = calls[null.samples]
    called = calls >= 0
    g = calls[called] - calls[called].mean()
    y = null.y[called]
    X = np.column_stack([null.mean_design[called], g])
    V = np.column_stack([null.variance_design[called], g])
    kind = "observed" if observed else "expected"
    if null.random_effects is None:
        return HLM(y, X, V).fit(information=kind)
    key = null.random_effect_set(contig)
    return HLMM(y, X, V, null.random_effects.design(key)[called]).fit(information=kind)


def degenerate(
    kind: str, y: np.ndarray, rng: np.random.Generator, sex: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A variant, and the phenotype changed to suit it, of which the fit has a name to give."""
    n = len(y)
    g = np.zeros(n, np.int8)
    carriers = rng.choice(n, 8, replace=False)
    y = y.copy()
    if kind == "one_carrier":
        g[carriers[0]] = 1
    elif kind == "tied_carriers":
        g[carriers] = 1
        y[carriers] = 1.7
    elif kind == "two_tied_carriers":
        g[carriers[:2]] = 1
        y[carriers[:2]] = 1.7
    elif kind == "tied_non_carriers":
        g[:] = 1
        g[carriers] = 0
        y[carriers] = -0.3
    elif kind == "tied_homozygotes":
        g = rng.binomial(2, 0.3, n).astype(np.int8)
        y[g == 2] = 0.4
    elif kind == "monomorphic":
        g[:] = 2
        g[carriers] = -1
    elif kind == "no_calls":
        g[:] = -1
    elif kind == "four_calls":
        g[:] = -1
        g[carriers[:4]] = [0, 1, 2, 1]
    elif kind == "collinear_with_sex":
        g = sex.astype(np.int8)
    elif kind == "collinear_where_called":
        g = sex.astype(np.int8)
        g[carriers] = -1
    else:
        raise ValueError(kind)
    return g, y


def assert_same(row: int, found: Estimates, plain: Fit, tolerance: float = 1e-8) -> None:
    """Hold one row against a plain fit; estimates to `tolerance` of a standard error."""
    assert Status(found.status[row]) is plain.status
    p = len(plain.alpha) - 1
    q = p + len(plain.beta)
    C = plain.covariance
    if plain.status in (Status.NOT_UNIQUE, Status.UNBOUNDED):
        assert np.isnan([found.add[row], found.var[row], found.add_variance[row]]).all()
        assert np.isnan([found.var_variance[row], found.log_likelihood[row]]).all()
        return
    add_se, var_se = np.nan_to_num(np.sqrt([C[p, p], C[q, q]]), nan=1.0)
    assert abs(found.add[row] - plain.alpha[-1]) <= tolerance * add_se
    assert abs(found.var[row] - plain.beta[-1]) <= tolerance * var_se
    np.testing.assert_allclose(found.add_variance[row], C[p, p], rtol=10 * tolerance)
    np.testing.assert_allclose(found.var_variance[row], C[q, q], rtol=10 * tolerance)
    np.testing.assert_allclose(
        found.add_var_covariance[row], C[p, q], rtol=0, atol=10 * tolerance * add_se * var_se
    )
    assert abs(found.log_likelihood[row] - plain.log_likelihood) <= 1e-8
    if len(C) > q + 1:
        unit = np.nan_to_num(plain.random_variance_se, nan=1.0)
        assert abs(found.random_variance[row] - plain.random_variance) <= tolerance * unit
        np.testing.assert_allclose(
            found.random_variance_variance[row], C[q + 1, q + 1], rtol=10 * tolerance
        )
