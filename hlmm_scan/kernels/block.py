"""One signature for all per-variant fitting: packed genotypes of a block in, result columns out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.dosages import Dosages, GenotypeBlock
from hlmm_scan.genotypes.packing import count_genotypes
from hlmm_scan.kernels.choice import Kernel, ModelSize
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.hlm_classes import fit_class_sums, powers_needed
from hlmm_scan.kernels.hlm_scoring import fit_scoring
from hlmm_scan.kernels.hlm_scoring_tile import PackedCalls
from hlmm_scan.kernels.hlm_screen import fit_screen
from hlmm_scan.kernels.hlmm_eigen import fit_grams, fit_quasi
from hlmm_scan.kernels.hlmm_exact import fit_exact
from hlmm_scan.kernels.hlmm_screen import fit_random_screen
from hlmm_scan.kernels.hlmm_weighted import REFITTED_NEG_LOG10_P, fit_weighted
from hlmm_scan.kernels.prepared import (
    class_sums_plan,
    eigenstructure,
    gram_basis,
    quasi_basis,
    random_screen_design,
    scoring_design,
    screen_design,
    weighted_basis,
)
from hlmm_scan.models.inference import joint_chi2, neg_log10_p, wald_neg_log10_p
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel
from hlmm_scan.schema import Status, result_variables

Float = NDArray[np.float64]


@dataclass(frozen=True)
class FitOptions:
    """What a fit depends on besides the null model and the genotypes.

    Attributes
    ----------
    min_maf : float
        Smallest minor allele frequency of a kept variant.
    min_mac : float
        Smallest minor allele count of a kept variant.
    max_missing : float
        Largest fraction of missing calls of a kept variant.
    inference : Inference
        Which standard errors and tests.
    screen : bool, default False
        Take one step from the null model instead of maximising, where maximising is dear.
    refine_below : float, default 0
        Maximise after all where any of a screened variant's three model-based tests has a smaller
        p.

    Notes
    -----
    The first three are counted in the people of the phenotype.
    """

    min_maf: float = 0.01
    min_mac: float = 20
    max_missing: float = 0.05
    inference: Inference = DEFAULT_INFERENCE
    screen: bool = False
    refine_below: float = 0.0


def fit_block(
    null: NullModel,
    genotypes: GenotypeBlock,
    contigs: NDArray[np.object_],
    options: FitOptions,
) -> dict[str, NDArray[Any]]:
    """Fit every variant of a block that passes the filters.

    Parameters
    ----------
    null : NullModel
    genotypes : ndarray of uint8, shape (m, bytes)
        Codes of all samples of the genotype dataset, PLINK bit order.
    contigs : ndarray of object (str), shape (m,)
        Chromosome of each variant: it chooses the random effects left out.
    options : FitOptions

    Returns
    -------
    dict of str to ndarray, shape (m,)
        Every variable of :func:`hlmm_scan.schema.result_variables`, in reported units. A variant
        never raises: its status says what became of it.
    """
    if isinstance(genotypes, Dosages):
        raise NotImplementedError("kernels on dosages")
    packed = genotypes
    kernel = ModelSize.of(null, options.screen).kernel
    sums: Float | None = None
    if kernel is Kernel.CLASS_SUMS:
        # The pass over the calls that the fits need counts genotypes as well.
        powers = powers_needed(options.inference)
        (sums,) = class_sums_plan(null, packed.shape[1], powers).sums(packed)
        in_class = sums[:, :, 0].astype(np.int64)
        counts = np.column_stack([in_class, null.n - in_class.sum(axis=1)])
    else:
        counts = count_genotypes(packed, packed.shape[1] * 4, null.samples)
    called = counts[:, :3].sum(axis=1)
    copies = counts[:, 1] + 2 * counts[:, 2]
    with np.errstate(invalid="ignore"):
        frequency = copies / (2 * called)
    estimates = Estimates.empty(len(packed))
    estimates.status[:] = filter_status(counts, options)
    rows = np.flatnonzero(estimates.status == Status.PENDING)
    if len(rows) and sums is not None:
        moments = null.fits[ALL_RANDOM_EFFECTS].moments
        estimates.put(rows, fit_class_sums(sums[rows], moments, options.inference))
    elif len(rows):
        estimates.put(rows, _fit(kernel, null, packed[rows], contigs[rows], options.inference))
    screened = np.flatnonzero(estimates.status == Status.SCREENED)
    if len(screened) and options.refine_below:
        rows = screened[_interesting(estimates, -np.log10(options.refine_below))[screened]]
        if len(rows):
            kernel = ModelSize.of(null).kernel
            fitted = _fit(kernel, null, packed[rows], contigs[rows], options.inference)
            fitted.status[fitted.status == Status.OK] = Status.REFINED
            estimates.put(rows, fitted)
    return _columns(null, estimates, called, frequency, options.inference)


def filter_status(counts: NDArray[np.int64], options: FitOptions) -> NDArray[np.int8]:
    """Return why each variant is not fitted, or PENDING where it is.

    Parameters
    ----------
    counts : ndarray of int64, shape (m, 4)
        People with 0, 1 and 2 copies and without a call.
    options : FitOptions

    Notes
    -----
    The first reason in the order of the status codes is given. A variant nobody has a call for
    is not monomorphic but missing.
    """
    called = counts[:, :3].sum(axis=1)
    copies = counts[:, 1] + 2 * counts[:, 2]
    minor = np.minimum(copies, 2 * called - copies)
    missing = counts[:, 3] / np.maximum(counts.sum(axis=1), 1)
    status = np.full(len(counts), Status.PENDING, np.int8)
    # Last to first, so that the first reason stands.
    status[(missing > options.max_missing) | (called == 0)] = Status.HIGH_MISSING
    status[(minor < options.min_mac) & (called > 0)] = Status.LOW_MAC
    # A quotient is rounded as the user's decimal is: 7 of 100 alleles are not below 0.07.
    maf = minor / np.maximum(2 * called, 1)
    status[(maf < options.min_maf) & (called > 0)] = Status.LOW_MAF
    status[(minor == 0) & (called > 0)] = Status.MONOMORPHIC
    return status


def _fit(
    kernel: Kernel,
    null: NullModel,
    packed: NDArray[np.uint8],
    contigs: NDArray[np.object_],
    inference: Inference,
) -> Estimates:
    """Fit variants whose class sums do not decide: random effects or covariates."""
    if kernel is Kernel.JOINT:
        return fit_scoring(scoring_design(null), PackedCalls(packed, null.samples), inference)
    if kernel is Kernel.SCREEN:
        return fit_screen(screen_design(null, packed.shape[1]), packed, inference)
    if kernel is Kernel.PLAIN:
        return fit_exact(null, packed, contigs, inference)
    keys = sorted({null.random_effect_set(str(contig)) for contig in contigs})
    if kernel is Kernel.RANDOM_SCREEN:
        designs = {key: random_screen_design(null, key) for key in keys}
        return fit_random_screen(null, packed, contigs, designs, inference)
    if kernel is Kernel.WEIGHTED:
        weighted = {key: weighted_basis(null, key) for key in keys}
        if not ModelSize.of(null).refitted_plainly:
            return fit_weighted(null, packed, contigs, weighted, inference)
        # What is interesting need not be made exact twice.
        estimates = fit_weighted(null, packed, contigs, weighted, inference, exact_beyond=np.inf)
        rows = np.flatnonzero(_interesting(estimates, REFITTED_NEG_LOG10_P))
        if len(rows):
            estimates.put(rows, fit_exact(null, packed[rows], contigs[rows], inference))
        return estimates
    eigen = {key: eigenstructure(null, key) for key in keys}
    if kernel is Kernel.CLASS_GRAMS:
        grams = {key: gram_basis(null, key) for key in keys}
        return fit_grams(null, packed, contigs, eigen, inference, bases=grams)
    bases = {key: quasi_basis(null, key) for key in keys}
    exact = partial(gram_basis, null, second_order=True)
    return fit_quasi(null, packed, contigs, eigen, inference, bases=bases, exact_basis=exact)


def _interesting(estimates: Estimates, beyond: float) -> NDArray[np.bool_]:
    """Whether any of the three model-based tests of a variant has a larger −log10 p."""
    tests = _tests(estimates, "", 1.0)
    strongest = np.fmax(
        np.fmax(tests["add_neg_log10_p"], tests["var_neg_log10_p"]), tests["av_neg_log10_p"]
    )
    return np.asarray(strongest > beyond)


def _columns(
    null: NullModel,
    estimates: Estimates,
    called: NDArray[np.int64],
    frequency: Float,
    inference: Inference,
) -> dict[str, NDArray[Any]]:
    """Put units and tests on the estimates, under the names of the result store."""
    scale = null.y_scale
    with np.errstate(invalid="ignore"):
        fraction = estimates.random_variance / (
            estimates.random_variance + estimates.residual_variance
        )
        random_variance_se = np.sqrt(estimates.random_variance_variance)
    everything: dict[str, NDArray[Any]] = {
        "n": called.astype(np.int32),
        "effect_allele_frequency": frequency,
        "add": estimates.add * scale,
        "var": estimates.var,
        "log_likelihood": estimates.log_likelihood - called * np.log(scale),
        "add_lrt_neg_log10_p": neg_log10_p(estimates.add_lrt, 1),
        "var_lrt_neg_log10_p": neg_log10_p(estimates.var_lrt, 1),
        "av_lrt_neg_log10_p": neg_log10_p(estimates.av_lrt, 2),
        "random_variance": estimates.random_variance * scale**2,
        "random_variance_se": random_variance_se * scale**2,
        "random_variance_fraction": fraction,
        "status": estimates.status,
    }
    for suffix in ("", "_robust", "_sandwich"):
        everything.update(_tests(estimates, suffix, scale))
    variables = result_variables(
        random_effects=null.random_effects is not None,
        sandwich=inference.sandwich,
        likelihood_ratio=inference.likelihood_ratio,
    )
    return {v.name: everything[v.name] for v in variables}


def _tests(estimates: Estimates, suffix: str, scale: float) -> dict[str, Float]:
    """Standard errors and tests by one of the covariances."""
    add, var = estimates.add, estimates.var
    covariance = [
        getattr(estimates, name + suffix)
        for name in ("add_variance", "var_variance", "add_var_covariance")
    ]
    with np.errstate(invalid="ignore"):
        add_se, var_se = np.sqrt(covariance[0]), np.sqrt(covariance[1])
    chi2 = joint_chi2(add, var, *covariance)
    tests = {
        "add_se": add_se * scale,
        "add_neg_log10_p": wald_neg_log10_p(add, add_se),
        "var_se": var_se,
        "var_neg_log10_p": wald_neg_log10_p(var, var_se),
        "add_var_cov": covariance[2] * scale,
        "av_chi2": chi2,
        "av_neg_log10_p": neg_log10_p(chi2, 2),
    }
    return {name + suffix: values for name, values in tests.items()}
