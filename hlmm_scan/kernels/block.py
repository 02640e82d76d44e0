"""One signature for all per-variant fitting: packed genotypes of a block in, result columns out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.blocks import GenotypeBlock, packed_calls
from hlmm_scan.kernels import limits, paths
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.classes.fit import powers_needed
from hlmm_scan.kernels.covariances import degrees_of_freedom, reported_errors
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.filters import Filters, GenotypeCounts
from hlmm_scan.kernels.hardy_weinberg import hwe_neg_log10_p
from hlmm_scan.kernels.paths import Path
from hlmm_scan.kernels.prepared import call_lattice, class_sums_plan, score_design
from hlmm_scan.kernels.scores.design import genotype_shapes
from hlmm_scan.kernels.scores.interaction import interaction_neg_log10_p
from hlmm_scan.kernels.scores.p_values import ScoreTests
from hlmm_scan.kernels.sums.call_counts import CallCounts
from hlmm_scan.kernels.variants import Variants, by_left_out
from hlmm_scan.models.inference import joint_chi2, neg_log10_p, wald_neg_log10_p
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullModel
from hlmm_scan.schema import Status, result_variables


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
    genotypes : HardCalls or Dosages
    options : FitOptions

    Returns
    -------
    ndarray, shape (P, m, 3, 1 + powers), or None
        For :func:`fit_block`, bit for bit what it would sum itself for each. None where that takes
        another path.
    """
    sizes = [_size(null, genotypes, options) for null in nulls]
    if not all(paths.path_of(size).together for size in sizes):
        return None
    powers = powers_needed(options.inference)
    packed = packed_calls(genotypes, "variants summed over classes")
    return class_sums_plan(tuple(nulls), packed.shape[1], powers).sums(packed)


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
    genotypes : HardCalls or Dosages
        Of all samples of the genotype dataset. Dosages that are whole copies in everybody are
        fitted as hard calls, so that the container does not change a bit.
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
    whole = genotypes.whole()
    if whole.all():
        return _fit_alike(null, genotypes.best_guess(), contigs, options, given, haploid, sums)
    if not whole.any():
        return _fit_alike(null, genotypes, contigs, options, given, haploid)
    rows, others = np.flatnonzero(whole), np.flatnonzero(~whole)
    calls, rest = genotypes.take(rows).best_guess(), genotypes.take(others)
    columns = _fit_alike(null, calls, contigs[rows], options, given[rows], haploid)
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
    size = _size(null, genotypes, options)
    if sums is None:
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
    variants = Variants(null, size, genotypes, counts, contigs, options.inference, sums)
    if len(rows):
        path, scores = paths.path_of(size), paths.score_path(size)
        chosen = variants.take(rows)
        if scores is not None and path.counts and scores.counts:
            chosen = replace(chosen, counted=_room_for_counts(null, len(rows)))
        found = fit(path, chosen)
        if scores is not None:
            found.put_scores(np.arange(len(rows)), fit(scores, chosen).scores)
        estimates.put(rows, found)
    tests = _score_tests(null, genotypes, contigs, estimates, counts)
    screened = np.flatnonzero(estimates.status == Status.SCREENED)
    if len(screened) and options.refine_below:
        strongest = np.fmax(np.fmax(tests.add, tests.var), tests.av)[screened]
        rows = screened[strongest > -np.log10(options.refine_below)]
        whole = replace(size, screen=False)
        _fit_again(estimates, rows, paths.path_of(whole), replace(variants, size=whole))
    quality = {"info": info, "hwe_neg_log10_p": hwe}
    if options.inference.interaction:
        of_product = np.full(len(genotypes), np.nan)
        rows = np.flatnonzero(np.isfinite(estimates.interaction))
        design = score_design(null, ALL_RANDOM_EFFECTS)
        of_product[rows] = interaction_neg_log10_p(null, design, genotypes.take(rows))
        quality["interaction_neg_log10_p"] = of_product
    return _columns(null, estimates, tests, counts, quality, options.inference)


def _size(null: NullModel, genotypes: GenotypeBlock, options: FitOptions) -> ModelSize:
    return ModelSize.of(null, options.screen, dosages=genotypes.unit > 0)


def _room_for_counts(null: NullModel, m: int) -> CallCounts | None:
    """Return where a fit puts what it counts of m variants, for their scores to be made of it."""
    lattice = call_lattice(null)
    return None if lattice is None else CallCounts.room(lattice, m)


def fit(path: Path, variants: Variants) -> Estimates:
    """Fit variants by a path: cheap first, exact where it matters.

    Parameters
    ----------
    path : Path
        What it leaves undone is fitted by the path of its `rest`, what turns out interesting by
        that of `then`.
    variants : Variants
        Of any chromosomes.
    """
    groups = variants.groups()
    found = [path.fit(path.prepared(group), group) for _, group in groups]
    if len(groups) == 1:
        estimates = found[0]
    else:
        estimates = Estimates.empty(len(variants))
        for (rows, _), part in zip(groups, found, strict=True):
            estimates.put(rows, part)
    if path.rest is not None:
        left = np.flatnonzero(estimates.status == Status.PENDING)
        _fit_again(estimates, left, path.rest, variants)
    exact = path.then(variants.size)
    if exact is not None:
        interesting = np.flatnonzero(_interesting(estimates, limits.INTERESTING_NEG_LOG10_P))
        _fit_again(estimates, interesting, exact, variants)
    return estimates


def _fit_again(
    estimates: Estimates, rows: NDArray[np.intp], path: Path, variants: Variants
) -> None:
    """Fit some rows by another path; scores stay, and what was screened is refined."""
    if not len(rows):
        return
    found = fit(path, variants.take(rows))
    found.put_scores(np.arange(len(rows)), estimates.scores[rows], estimates.higher[rows])
    refined = (found.status == Status.OK) & (estimates.status[rows] == Status.SCREENED)
    found.status[refined] = Status.REFINED
    estimates.put(rows, found)


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
    for key, here in by_left_out(null, contigs[rows]):
        design, own = score_design(null, key), rows[here]
        shapes = genotype_shapes(
            genotypes, own, counts, null.samples, design.classes, estimates.higher[own]
        )
        tests.put(own, design.tests(scores[own], shapes))
    return tests


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
