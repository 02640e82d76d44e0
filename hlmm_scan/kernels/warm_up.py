"""Compiling what a scan will run, before its tasks do.

numba compiles a function when it is first called with arguments of some types, and keeps the
machine code in a folder for the processes to come. So a few made-up variants are fitted by the
path that a scan's own will take.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numba
import numpy as np
from llvmlite.binding import get_host_cpu_name
from numba import njit
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from hlmm_scan.genotypes.blocks import BGEN_8_BIT, MISSING_CODE, Dosages, GenotypeBlock, HardCalls
from hlmm_scan.kernels import limits
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.paths import (
    GRAMS_AFTER_SECOND_ORDER,
    SECOND_ORDER,
    Path,
    path_of,
    score_path,
)
from hlmm_scan.kernels.scores.design import FINE
from hlmm_scan.kernels.sums.dosage_codes import count_dosages, dosage_classes
from hlmm_scan.kernels.variants import Variants
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullFit, NullModel, RandomEffects
from hlmm_scan.schema import Status

_SEED = 20261122
_VARIANTS = 12

_SMALL = (
    (2_000, 3),
    (400, 400),
    (limits.SECOND_ORDER_PEOPLE, 3),
    (limits.SECOND_ORDER_PEOPLE + 1, 3),
    (limits.SECOND_ORDER_ALONE_PEOPLE, 3),
)
"""People and random effects of models that are quickly fitted, by different paths."""


def smallest_alike(model: ModelSize) -> ModelSize:
    """Return the smallest model that the same paths fit, screened or not.

    Parameters
    ----------
    model : ModelSize
    """
    few = replace(model, mean=min(model.mean, 2), variance=min(model.variance, 2))
    smaller = [
        replace(few, people=people, random=random if model.random else 0)
        for people, random in _SMALL
    ]

    def ways(size: ModelSize) -> tuple[Path | bool | None, ...]:
        # Random effects of many people are taken in single precision.
        many = size.random > 0 and size.people >= limits.SINGLE_PRECISION_PEOPLE
        kinds = [size, replace(size, dosages=False)]
        fits = [path_of(replace(kind, screen=s)) for kind in kinds for s in (size.screen, False)]
        return *fits, score_path(size), many

    return next((small for small in smaller if ways(small) == ways(model)), smaller[0])


def warm_up(options: FitOptions, model: ModelSize) -> None:
    """Compile the kernels that fit models of some size, or load them where they are compiled.

    Parameters
    ----------
    options : FitOptions
        Which errors and tests, and whether variants are screened; all variants are kept.
    model : ModelSize
        As :func:`smallest_alike` gives it.
    """
    rng = np.random.default_rng(_SEED)
    null = _made_up(rng, model)
    calls = _variants(rng, null.y)
    packed = HardCalls.of(calls)
    blocks: list[GenotypeBlock] = [packed]
    dosages = _dosages(rng, calls)
    if model.dosages:
        blocks.append(dosages)
    contigs = np.full(len(calls), "1", dtype=object)
    # What is screened may be refitted.
    options = replace(
        options, min_maf=0.0, min_mac=0.0, max_missing=1.0, min_info=0.0, min_hwe_p=0.0,
        info=True, hwe=True, refine_below=1.0 * options.screen,
    )  # fmt: skip
    # With everything that may be asked for, too: single variants take those ways without asking.
    everything = replace(options.inference, sandwich=True, likelihood_ratio=True)
    packed.copies(null.samples)  # of a strong effect under covariates alone
    for inference in (options.inference, everything):
        for block in blocks:
            fit_block(null, block, contigs, replace(options, inference=inference))
        _exactly_after_second_order(null, packed, contigs, inference)
    if model.dosages:  # of a trait that one person has most of the variance of
        ranges = count_dosages(dosages, null.samples)[:, 6:]
        dosage_classes(dosages, np.arange(_VARIANTS), null.samples, ranges, FINE)


def _exactly_after_second_order(
    null: NullModel, calls: HardCalls, contigs: NDArray[np.object_], inference: Inference
) -> None:
    """Fit what a bound of second order may leave, though nothing here has so large a one."""
    size = ModelSize.of(null)
    if path_of(size) is SECOND_ORDER:
        counts = GenotypeCounts.of(calls, null.samples)
        variants = Variants(null, size, calls, counts, contigs, inference)
        exact = GRAMS_AFTER_SECOND_ORDER
        exact.fit(exact.prepared(variants), variants)


def machine_code() -> tuple[tuple[str, ...], str]:
    """Return the folders that keep the machine code, and for which numba and processor it is.

    numba has a folder for each folder of sources; that of this file is the first. Packing is not
    among them: it calls nothing in other files, so that numba itself sees when it has changed.
    """
    functions = [
        function
        for name, module in list(sys.modules.items())
        if name.startswith("hlmm_scan.kernels.")
        for function in vars(module).values()
        if isinstance(function, Dispatcher)
    ]
    folders = [str(f.stats.cache_path) for f in (_none, *functions) if f.stats.cache_path]
    return tuple(dict.fromkeys(folders)), f"numba {numba.__version__} {get_host_cpu_name()}"


@njit(cache=True)
def _none() -> None:  # pragma: no cover
    """Never called: its folder is that of marks."""


def _made_up(rng: np.random.Generator, model: ModelSize) -> NullModel:
    """Return a null model of that size."""
    n = model.people
    y = rng.standard_normal(n)
    y = (y - y.mean()) / y.std()
    mean, variance = (
        np.column_stack([np.ones(n), rng.standard_normal((n, columns - 1))])
        for columns in (model.mean, model.variance)
    )
    effects = None
    if model.random:
        columns = rng.binomial(2, 0.3, (n, model.random)).astype(np.float64)
        columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
        names = tuple(str(k) for k in range(model.random))
        effects = RandomEffects(columns, ("2",) * model.random, names)
    fit = NullFit(
        np.zeros(model.mean), np.zeros(model.variance), 0.1 * (model.random > 0), 0.0, Status.OK
    )
    return NullModel(
        "warm-up",
        np.arange(n),
        y,
        mean,
        variance,
        1.0,
        {ALL_RANDOM_EFFECTS: fit},
        effects,
        rng.standard_normal(n) if model.interaction else None,
    )


def _variants(rng: np.random.Generator, y: NDArray[np.float64]) -> NDArray[np.int8]:
    """Calls without an effect, with a strong one, and with many missing: every branch."""
    n = len(y)
    calls = rng.choice(np.array([0, 1, 2], np.int8), (_VARIANTS, n), p=(0.5, 0.4, 0.1))
    half = _VARIANTS // 2
    calls[half:] = np.abs(y) + rng.random((half, n)) > 1.5
    calls[::2][rng.random((half, n)) < 0.2] = -1
    return calls


def _dosages(rng: np.random.Generator, calls: NDArray[np.int8]) -> Dosages:
    """Make dosages of calls: of every second variant uncertain ones."""
    codes = np.where(calls < 0, MISSING_CODE, calls.astype(np.int64) * 255)
    uncertain = codes[::2] + rng.integers(0, 100, codes[::2].shape) * (1 - codes[::2] // 255)
    codes[::2] = np.where(calls[::2] < 0, MISSING_CODE, uncertain)
    return Dosages(codes.astype(np.uint16), BGEN_8_BIT)
