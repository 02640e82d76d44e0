"""One signature for all per-variant fitting: packed genotypes of a block in, result columns out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.dosages import Dosages, GenotypeBlock, take
from hlmm_scan.kernels.choice import Kernel, ModelSize
from hlmm_scan.kernels.classes.dosages import fit_dosages
from hlmm_scan.kernels.classes.fit import fit_class_sums, powers_needed
from hlmm_scan.kernels.covariances import degrees_of_freedom, reported_errors
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.exact.fit import fit_exact
from hlmm_scan.kernels.filters import Filters, GenotypeCounts
from hlmm_scan.kernels.hardy_weinberg import hwe_neg_log10_p
from hlmm_scan.kernels.joint.interaction import fit_interaction
from hlmm_scan.kernels.prepared import (
    call_lattice,
    class_score_design,
    class_sums_plan,
    dosage_screen_design,
    dosage_sums_plan,
    eigenstructure,
    gram_basis,
    interaction_design,
    quasi_basis,
    random_screen_design,
    score_design,
    scoring_design,
    screen_design,
    weighted_basis,
)
from hlmm_scan.kernels.scores.design import all_class_scores, genotype_classes
from hlmm_scan.kernels.scores.interaction import interaction_neg_log10_p
from hlmm_scan.kernels.scores.p_values import ScoreTests
from hlmm_scan.kernels.scores.random_effects import class_scores
from hlmm_scan.kernels.scoring.fit import fit_scoring
from hlmm_scan.kernels.scoring.tile import DosageCodes, PackedCalls
from hlmm_scan.kernels.screen.dosages import fit_screen_dosages
from hlmm_scan.kernels.screen.fit import fit_screen
from hlmm_scan.kernels.screen.random_effects import fit_random_screen
from hlmm_scan.kernels.second_order.fit import fit_grams, fit_quasi
from hlmm_scan.kernels.sums.call_counts import CallCounts
from hlmm_scan.kernels.sums.dosage_codes import packed_calls, whole_copies
from hlmm_scan.kernels.weighted.fit import REFITTED_NEG_LOG10_P, fit_weighted
from hlmm_scan.models.inference import joint_chi2, neg_log10_p, wald_neg_log10_p
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel
from hlmm_scan.schema import Status, result_variables

Float = NDArray[np.float64]


@dataclass(frozen=True)
class FitOptions(Filters):
    """What a fit depends on besides the null model and the genotypes: filters first.

    Attributes
    ----------
    inference : Inference
        Which standard errors and tests.
    screen : bool, default False
        Take one step from the null model instead of maximising, where maximising is dear.
    refine_below : float, default 0
        Maximise after all where any of a screened variant's three model-based tests has a smaller
        p.
    info, hwe : bool, default False
        Whether info scores and tests for Hardy–Weinberg proportions are reported; where they
        filter they must be.
    """

    inference: Inference = DEFAULT_INFERENCE
    screen: bool = False
    refine_below: float = 0.0
    info: bool = field(default=False, kw_only=True)
    hwe: bool = field(default=False, kw_only=True)


def class_sums_together(
    nulls: Sequence[NullModel], genotypes: GenotypeBlock, options: FitOptions
) -> Float | None:
    """Sum over the genotype classes for several phenotypes, in one pass over the calls.

    Parameters
    ----------
    nulls : sequence of NullModel, length P
    genotypes : ndarray of uint8, shape (m, bytes), or Dosages
    options : FitOptions

    Returns
    -------
    ndarray, shape (P, m, 3, 1 + powers), or None
        For :func:`fit_block`, bit for bit what it would sum itself for each. None where that takes
        another kernel.
    """
    if isinstance(genotypes, Dosages) or any(
        ModelSize.of(null, options.screen).kernel is not Kernel.CLASS_SUMS for null in nulls
    ):
        return None
    powers = powers_needed(options.inference)
    return class_sums_plan(tuple(nulls), genotypes.shape[1], powers).sums(genotypes)


def fit_block(
    null: NullModel,
    genotypes: GenotypeBlock,
    contigs: NDArray[np.object_],
    options: FitOptions,
    info: Float | None = None,
    haploid: NDArray[np.bool_] | None = None,
    sums: Float | None = None,
) -> dict[str, NDArray[Any]]:
    """Fit every variant of a block that passes the filters.

    Parameters
    ----------
    null : NullModel
    genotypes : ndarray of uint8, shape (m, bytes), or Dosages
        Codes of all samples of the genotype dataset, PLINK bit order; or their dosages. Dosages
        that are whole copies in everybody are fitted as hard calls, so that the container does not
        change a bit.
    contigs : ndarray of object (str), shape (m,)
        Chromosome of each variant: it chooses the random effects left out.
    options : FitOptions
    info : ndarray, shape (m,), optional
        Info scores that came with the genotypes; NaN where none did. Otherwise they are made of
        the dosages, where they are asked for.
    haploid : ndarray of bool, shape (n_samples,), optional
        People who have one copy of these chromosomes, coded as 0 or 2; by default nobody. They
        count once in frequencies and allele counts.
    sums : ndarray, shape (m, 3, 1 + powers), optional
        Of this phenotype, where :func:`class_sums_together` has them.

    Returns
    -------
    dict of str to ndarray, shape (m,)
        Every variable of :func:`hlmm_scan.schema.result_variables`, in reported units. A variant
        never raises: its status says what became of it.
    """
    given = np.full(len(genotypes), np.nan) if info is None else info
    if not isinstance(genotypes, Dosages):
        return _fit_alike(null, genotypes, contigs, options, given, haploid, sums)
    whole = whole_copies(genotypes)
    if not whole.any():
        return _fit_alike(null, genotypes, contigs, options, given, haploid)
    rows, others = np.flatnonzero(whole), np.flatnonzero(~whole)
    calls = packed_calls(genotypes, rows)
    columns = _fit_alike(null, calls, contigs[rows], options, given[rows], haploid)
    if not len(others):
        return columns
    rest = genotypes.take(others)
    found = _fit_alike(null, rest, contigs[others], options, given[others], haploid)
    back = np.argsort(np.concatenate([rows, others]))
    return {name: np.concatenate([columns[name], found[name]])[back] for name in columns}


def _fit_alike(
    null: NullModel,
    genotypes: GenotypeBlock,
    contigs: NDArray[np.object_],
    options: FitOptions,
    given: Float,
    haploid: NDArray[np.bool_] | None,
    sums: Float | None = None,
) -> dict[str, NDArray[Any]]:
    """Fit a block of hard calls, or one of dosages."""
    size = ModelSize.of(null, options.screen, dosages=isinstance(genotypes, Dosages))
    kernel = size.kernel
    if sums is None and kernel is Kernel.CLASS_SUMS:
        together = class_sums_together([null], genotypes, options)
        sums = None if together is None else together[0]
    if sums is not None:
        # The pass over the calls that the fits need counts genotypes as well.
        counts = GenotypeCounts.of_calls(sums[:, :, 0].astype(np.int64), null.n)
    else:
        counts = GenotypeCounts.of(genotypes, null.samples)
    if haploid is not None:
        once = GenotypeCounts.of(genotypes, null.samples[haploid[null.samples]])
        counts = replace(counts, haploid=once)
    info = np.where(np.isnan(given), counts.info, given) if options.info else None
    hwe = hwe_neg_log10_p(counts.diploid.genotypes) if options.hwe else None
    estimates = Estimates.empty(len(genotypes))
    estimates.status[:] = counts.status(options, info, hwe)
    rows = np.flatnonzero(estimates.status == Status.PENDING)
    if len(rows) and sums is not None:
        moments = null.fits[ALL_RANDOM_EFFECTS].moments
        estimates.put(rows, fit_class_sums(sums[rows], moments, options.inference))
        estimates.put_scores(rows, _class_scores(null, sums[rows]))
    elif len(rows):
        kept = take(genotypes, rows) if len(rows) < len(genotypes) else genotypes
        own = counts.take(rows)
        counted = _room_for_counts(size, null, len(rows))
        inference = options.inference
        estimates.put(rows, _fit(size, null, kept, own, contigs[rows], inference, counted))
        if size.scores_apart:
            estimates.put_scores(rows, _scores(size, null, kept, own, contigs[rows], counted))
    tests = _score_tests(null, genotypes, contigs, estimates, counts)
    screened = np.flatnonzero(estimates.status == Status.SCREENED)
    if len(screened) and options.refine_below:
        strongest = np.fmax(np.fmax(tests.add, tests.var), tests.av)[screened]
        rows = screened[strongest > -np.log10(options.refine_below)]
        if len(rows):
            again = replace(size, screen=False)
            kept, own = take(genotypes, rows), counts.take(rows)
            fitted = _fit(again, null, kept, own, contigs[rows], options.inference)
            fitted.put_scores(np.arange(len(rows)), estimates.scores[rows])
            fitted.status[fitted.status == Status.OK] = Status.REFINED
            estimates.put(rows, fitted)
    quality = {"info": info, "hwe_neg_log10_p": hwe}
    if options.inference.interaction:
        of_product = np.full(len(genotypes), np.nan)
        rows = np.flatnonzero(np.isfinite(estimates.interaction))
        bins = score_design(null, ALL_RANDOM_EFFECTS).bins
        of_product[rows] = interaction_neg_log10_p(null, bins, take(genotypes, rows))
        quality["interaction_neg_log10_p"] = of_product
    return _columns(null, estimates, tests, counts, quality, options.inference)


def _class_scores(null: NullModel, sums: Float) -> Float:
    """Return standardised scores from the class sums of a phenotype without covariates."""
    fit = null.fits[ALL_RANDOM_EFFECTS]
    scores = np.empty((len(sums), 3))
    all_class_scores(
        np.require(sums, np.float64, ["C", "W"]),
        float(fit.alpha[0]), float(np.exp(fit.beta[0])), float(fit.fourth_moment), scores,
    )  # fmt: skip
    return scores


def _room_for_counts(size: ModelSize, null: NullModel, m: int) -> CallCounts | None:
    """Return where a fit puts what it counts of m variants, if their scores are made of it."""
    if not (size.scores_by_class and size.kernel is Kernel.SECOND_ORDER):
        return None
    lattice = call_lattice(null)
    return None if lattice is None else CallCounts.room(lattice, m)


def _scores(
    size: ModelSize,
    null: NullModel,
    genotypes: GenotypeBlock,
    counts: GenotypeCounts,
    contigs: NDArray[np.object_],
    counted: CallCounts | None,
) -> Float:
    """Return the standardised scores of variants that are not fitted from them."""
    found = np.empty((len(genotypes), 3))
    if null.random_effects is None:
        screen = replace(size, screen=True, interaction=False)
        return _fit(screen, null, genotypes, counts, contigs, DEFAULT_INFERENCE).scores
    for key, rows in _by_set(null, contigs):
        kept = take(genotypes, rows)
        if size.scores_by_class:
            assert not isinstance(kept, Dosages)
            own = None if counted is None else counted.take(rows)
            found[rows] = class_scores(class_score_design(null, key, kept.shape[1]), kept, own)
        else:
            designs = {key: random_screen_design(null, key)}
            found[rows] = fit_random_screen(null, kept, contigs[rows], designs).scores
    return found


def _score_tests(
    null: NullModel,
    genotypes: GenotypeBlock,
    contigs: NDArray[np.object_],
    estimates: Estimates,
    counts: GenotypeCounts,
) -> ScoreTests:
    """Test every variant that has scores."""
    tests = ScoreTests.empty(len(genotypes))
    scores = estimates.scores
    rows = np.flatnonzero(np.isfinite(scores).all(axis=1))
    if not len(rows):
        return tests
    people, copies = genotype_classes(genotypes, rows, counts, null.samples)
    for key, here in _by_set(null, contigs[rows]):
        design = score_design(null, key)
        tests.put(rows[here], design.tests(scores[rows[here]], people[here], copies[here]))
    return tests


def _by_set(null: NullModel, contigs: NDArray[np.object_]) -> list[tuple[str, NDArray[np.intp]]]:
    """Return the sets of random effects that test variants on these chromosomes, and of which."""
    sets: dict[str, list[str]] = {}
    for contig in dict.fromkeys(contigs.tolist()):
        sets.setdefault(null.random_effect_set(str(contig)), []).append(contig)
    if len(sets) == 1:
        return [(key, np.arange(len(contigs))) for key in sets]
    return [(key, np.flatnonzero(np.isin(contigs, names))) for key, names in sets.items()]


def _fit(
    size: ModelSize,
    null: NullModel,
    genotypes: GenotypeBlock,
    counts: GenotypeCounts,
    contigs: NDArray[np.object_],
    inference: Inference,
    counted: CallCounts | None = None,
) -> Estimates:
    """Fit variants whose class sums are not at hand: random effects, covariates or dosages."""
    kernel = size.kernel
    if kernel is Kernel.INTERACTION:
        design = interaction_design(null)
        return fit_interaction(design, genotypes, null.samples, inference)
    if isinstance(genotypes, Dosages):
        if kernel is Kernel.CLASS_SUMS:
            plan = dosage_sums_plan(null, powers_needed(inference))
            fit = null.fits[ALL_RANDOM_EFFECTS]
            at = float(fit.alpha[0]), float(np.exp(fit.beta[0]))
            return fit_dosages(plan, genotypes, fit.moments, inference, at)
        if kernel is Kernel.JOINT:
            codes = DosageCodes(genotypes, null.samples, counts)
            return fit_scoring(scoring_design(null), codes, inference)
        if kernel is Kernel.SCREEN:
            return fit_screen_dosages(dosage_screen_design(null), genotypes, counts, inference)
    elif kernel is Kernel.JOINT:
        return fit_scoring(scoring_design(null), PackedCalls(genotypes, null.samples), inference)
    elif kernel is Kernel.SCREEN:
        return fit_screen(screen_design(null, genotypes.shape[1]), genotypes, inference)
    return _fit_random(size, null, genotypes, contigs, inference, counted)


def _fit_random(
    size: ModelSize,
    null: NullModel,
    genotypes: GenotypeBlock,
    contigs: NDArray[np.object_],
    inference: Inference,
    counted: CallCounts | None,
) -> Estimates:
    """Fit variants with random effects; `counted` takes what is counted on the way."""
    kernel = size.kernel
    if kernel is Kernel.PLAIN:
        return fit_exact(null, genotypes, contigs, inference)
    keys = sorted(key for key, _ in _by_set(null, contigs))
    if kernel is Kernel.RANDOM_SCREEN:
        designs = {key: random_screen_design(null, key) for key in keys}
        return fit_random_screen(null, genotypes, contigs, designs, inference)
    if kernel is Kernel.WEIGHTED:
        weighted = {key: weighted_basis(null, key) for key in keys}
        if not size.refitted_plainly:
            return fit_weighted(null, genotypes, contigs, weighted, inference)
        # What is interesting need not be made exact twice.
        estimates = fit_weighted(null, genotypes, contigs, weighted, inference, exact_beyond=np.inf)
        rows = np.flatnonzero(_interesting(estimates, REFITTED_NEG_LOG10_P))
        if len(rows):
            estimates.put(rows, fit_exact(null, take(genotypes, rows), contigs[rows], inference))
        return estimates
    assert not isinstance(genotypes, Dosages)
    eigen = {key: eigenstructure(null, key) for key in keys}
    if kernel is Kernel.CLASS_GRAMS:
        grams = {key: gram_basis(null, key) for key in keys}
        return fit_grams(null, genotypes, contigs, eigen, inference, bases=grams)
    bases = {key: quasi_basis(null, key) for key in keys}
    exact = partial(gram_basis, null, second_order=True)
    estimates = fit_quasi(
        null, genotypes, contigs, eigen, inference, bases=bases, exact_basis=exact, counted=counted
    )
    if size.refitted_exactly:
        rows = np.flatnonzero(_interesting(estimates, REFITTED_NEG_LOG10_P))
        if len(rows):
            grams = {key: exact(key) for key in keys}
            kept, where = take(genotypes, rows), contigs[rows]
            assert not isinstance(kept, Dosages)
            estimates.put(rows, fit_grams(null, kept, where, eigen, inference, bases=grams))
    return estimates


def _interesting(estimates: Estimates, beyond: float) -> NDArray[np.bool_]:
    """Whether any of the three model-based tests of a variant has a larger −log10 p."""
    e = estimates
    with np.errstate(invalid="ignore"):
        add = wald_neg_log10_p(e.add, np.sqrt(e.add_variance))
        var = wald_neg_log10_p(e.var, np.sqrt(e.var_variance))
    chi2 = joint_chi2(e.add, e.var, e.add_variance, e.var_variance, e.add_var_covariance)
    return np.asarray(np.fmax(np.fmax(add, var), neg_log10_p(chi2, 2)) > beyond)


def _columns(
    null: NullModel,
    estimates: Estimates,
    score: ScoreTests,
    counts: GenotypeCounts,
    quality: dict[str, Float | None],
    inference: Inference,
) -> dict[str, NDArray[Any]]:
    """Put units and tests on the estimates, under the names of the result store."""
    scale, called, freedom = (
        null.y_scale,
        counts.called,
        degrees_of_freedom(null.n, null.mean_design.shape[1], null.variance_design.shape[1]),
    )
    per_unit = scale / null.environment_scale
    with np.errstate(invalid="ignore", over="ignore"):
        fraction = estimates.random_variance / (
            estimates.random_variance + estimates.residual_variance
        )
        # Of units near 1e300 the squares are no numbers; everything else is.
        random_variance = estimates.random_variance * scale * scale
        random_variance_se = np.sqrt(estimates.random_variance_variance) * scale * scale
    everything: dict[str, Any] = {
        "n": called.astype(np.int32),
        "effect_allele_frequency": counts.frequency,
        "add": estimates.add * scale,
        "var": estimates.var,
        "interaction": estimates.interaction * per_unit,
        "log_likelihood": estimates.log_likelihood - called * np.log(scale),
        "add_lrt_neg_log10_p": neg_log10_p(estimates.add_lrt, 1),
        "var_lrt_neg_log10_p": neg_log10_p(estimates.var_lrt, 1),
        "av_lrt_neg_log10_p": neg_log10_p(estimates.av_lrt, 2),
        "random_variance": random_variance,
        "random_variance_se": random_variance_se,
        "random_variance_fraction": fraction,
        "status": estimates.status,
        **quality,
    }
    with np.errstate(invalid="ignore"):
        for suffix in ("", "_robust", "_sandwich"):
            everything.update(reported_errors(estimates, suffix, scale, freedom))
            se = freedom[0] * np.sqrt(getattr(estimates, "interaction_variance" + suffix))
            everything["interaction_se" + suffix] = se * per_unit
    everything["add_neg_log10_p"] = score.add
    everything["var_neg_log10_p"] = score.var
    everything["av_neg_log10_p"] = score.av
    everything["test_flags"] = score.flags
    variables = result_variables(
        random_effects=null.random_effects is not None,
        sandwich=inference.sandwich,
        likelihood_ratio=inference.likelihood_ratio,
        interaction=inference.interaction,
        info=quality["info"] is not None,
        hwe=quality["hwe_neg_log10_p"] is not None,
    )
    return {v.name: everything[v.name] for v in variables}
