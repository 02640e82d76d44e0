"""Dispersion effects: what of a variance effect the relation of variance to mean does not explain.

Two steps: a slope per phenotype (:mod:`hlmm_scan.analysis.slope`), then for every variant
var − slope·add with its standard error and test. Functions on the xarray Dataset of a scan, and one
that writes into its store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.analysis.regions import in_regions
from hlmm_scan.analysis.rows import trusted
from hlmm_scan.analysis.slope import (
    Effects,
    NoSlopeError,
    Slope,
    dispersion,
    invariant_slope,
    published_slope,
)
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.selection import Region
from hlmm_scan.models.inference import wald_neg_log10_p
from hlmm_scan.results.derived import write_derived
from hlmm_scan.results.export_chromosomes import autosomes_of
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import DISPERSION_RESULTS

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger(__name__)

Method = Literal["invariant", "published"]
METHODS: tuple[Method, ...] = ("invariant", "published")

ATTRIBUTE = "dispersion_fit"
"""Root attribute that says how the dispersion effects of a store were made."""

ROWS_PER_READ = 65_536

_COLUMNS = {
    "invariant": ("add", "var", "add_se_robust", "var_se_robust", "add_var_cov_robust"),
    "published": ("add", "var", "add_se", "var_se"),
}


@dataclass(frozen=True)
class PhenotypeSlope:
    """The slope of one phenotype, or why there is none.

    Attributes
    ----------
    phenotype : str
    method : {"invariant", "published"}
    fit : Slope or None
    error : str
        Why there is no slope; empty where there is one.
    """

    phenotype: str
    method: Method
    fit: Slope | None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types; what does not exist as None."""
        fit = self.fit
        return {
            "phenotype": self.phenotype,
            "method": self.method,
            "slope": None if fit is None else fit.slope,
            "slope_se": None if fit is None else fit.slope_se,
            "noise_inflation": None if fit is None else fit.noise_inflation,
            "n_variants": 0 if fit is None else fit.n_variants,
            "n_outliers": 0 if fit is None else fit.n_outliers,
            **({"error": self.error} if self.error else {}),
        }


def fit_slopes(
    dataset: xr.Dataset, method: Method = "invariant", exclude: Sequence[Region] = ()
) -> list[PhenotypeSlope]:
    """Fit the slope of var on add for every phenotype of a scan.

    Parameters
    ----------
    dataset : xarray.Dataset
        As ``xarray.open_zarr("results.zarr")`` gives it. Rows of status 5 and more, and those
        without estimates, are left out. It is read in pieces; with ``chunks=None`` faster than with
        Dask's arrays.
    method : {"invariant", "published"}, default "invariant"
        See :func:`~hlmm_scan.analysis.slope.invariant_slope` and
        :func:`~hlmm_scan.analysis.slope.published_slope`.
    exclude : sequence of Region, default none
        Regions whose variants have no say in the slope.

    Returns
    -------
    list of PhenotypeSlope
        One a phenotype, in stored order. A phenotype that gives no slope has its reason.

    Raises
    ------
    InputError
        If the method is unknown, or the dataset lacks a variable that it needs.
    """
    if method not in METHODS:
        raise InputError(f"unknown method '{method}': {' or '.join(METHODS)}")
    missing = [name for name in (*_COLUMNS[method], "status") if name not in dataset]
    if missing:
        raise InputError(f"the results have no {missing[0]}, which method {method} needs")
    excluded = _excluded(dataset, exclude)
    fit = invariant_slope if method == "invariant" else published_slope
    slopes = []
    for index, name in enumerate(map(str, dataset["phenotype"].values.tolist())):
        read = partial(_read_used, dataset, index, method, excluded)
        try:
            slope = fit(read)
        except NoSlopeError as error:
            logger.warning("%s: %s", name, error)
            slopes.append(PhenotypeSlope(name, method, None, str(error)))
            continue
        if slope.leading_block is not None:
            logger.warning(
                "%s: one region, %s, has most of what is uncertain of the slope %.4g, which is "
                "%.4g without it (--exclude-region leaves a region out)",
                name,
                _span(dataset, *slope.leading_block),
                slope.slope,
                slope.slope_without,
            )
        slopes.append(PhenotypeSlope(name, method, slope))
    return slopes


def dispersion_effects(
    dataset: xr.Dataset, method: Method = "invariant", exclude: Sequence[Region] = ()
) -> xr.Dataset:
    """Return dispersion effects of all variants and phenotypes of a scan.

    Parameters
    ----------
    dataset, method, exclude
        As for :func:`fit_slopes`.

    Returns
    -------
    xarray.Dataset
        ``dispersion``, ``dispersion_se``, ``dispersion_neg_log10_p`` over (phenotype, variant),
        not computed yet where `dataset` has Dask's arrays, as ``open_zarr`` gives them; ``slope``,
        ``slope_se``, ``noise_inflation``, ``n_variants`` over phenotype. NaN where there is no
        slope, or no estimate to be trusted.

    Raises
    ------
    InputError
        As for :func:`fit_slopes`.

    Notes
    -----
    d = var − slope·add, and the test is χ²₁ of d/se. By the method ``invariant``, with studentised
    standard errors, se² = var_se² + slope²·add_se² − 2·slope·cov + add²·slope_se²; by
    ``published``, with the model's, se² = var_se² + slope²·add_se². An error of the slope is
    shared by all variants: where few variants of large effects carry the slope, their dispersion
    effects are not independent.
    """
    import xarray as xr

    slopes = fit_slopes(dataset, method, exclude)
    nothing = Slope(np.nan, np.nan, np.nan, 0)
    fits = [s.fit or nothing for s in slopes]
    over = {"phenotype": dataset["phenotype"]}
    per_phenotype = {
        name: xr.DataArray([getattr(fit, name) for fit in fits], over, dims="phenotype")
        for name in ("slope", "slope_se", "noise_inflation", "n_variants")
    }
    columns = xr.apply_ufunc(
        partial(_rows, method),
        dataset["status"],
        per_phenotype["slope"],
        per_phenotype["slope_se"],
        *(dataset[name] for name in _COLUMNS[method]),
        output_core_dims=[[]] * len(DISPERSION_RESULTS),
        output_dtypes=[np.float64] * len(DISPERSION_RESULTS),
        dask="parallelized",
        keep_attrs=False,
    )
    named = zip(DISPERSION_RESULTS, columns, strict=True)
    return xr.Dataset(
        {v.name: column.assign_attrs(v.attributes()) for v, column in named} | per_phenotype
    )


def write_dispersion(
    store: ResultStore, method: Method = "invariant", exclude: Sequence[Region] = ()
) -> list[PhenotypeSlope]:
    """Write dispersion effects into a complete result store, in place of any that are there.

    Parameters
    ----------
    store : ResultStore
    method, exclude
        As for :func:`fit_slopes`.

    Returns
    -------
    list of PhenotypeSlope
        Also stored in the root's attribute ``dispersion_fit``. Phenotypes without a slope get NaN.

    Raises
    ------
    NoSlopeError
        If no phenotype gives a slope; nothing is written.
    IncompleteError
        If the scan is not complete.
    HlmmScanError
        As for :func:`~hlmm_scan.results.derived.write_derived` and :func:`fit_slopes`.

    Notes
    -----
    Streamed: memory is that of the variants of one read, and for the published method that of all
    variants of one phenotype. A write that is cut short leaves a store without dispersion effects.
    """
    store.require_complete()
    dataset = store.dataset(chunks=None)
    try:
        slopes = fit_slopes(dataset, method, exclude)
    except InputError as error:
        raise type(error)(f"{store.path}: {error}") from None
    if all(s.fit is None for s in slopes):
        raise NoSlopeError(f"{store.path}: {slopes[0].phenotype}: {slopes[0].error}")
    attributes = {
        ATTRIBUTE: {
            "method": method,
            "excluded_regions": [str(region) for region in exclude],
            "phenotypes": [s.to_json() for s in slopes],
        }
    }
    chunks = _chunks(store, dataset, slopes, method)
    write_derived(store, DISPERSION_RESULTS, chunks, attributes)
    return slopes


def _chunks(
    store: ResultStore, dataset: xr.Dataset, slopes: Sequence[PhenotypeSlope], method: Method
) -> Iterator[tuple[int, int, dict[str, NDArray[Any]]]]:
    chunk = store.array("status").chunks[1]
    step = max(1, ROWS_PER_READ // chunk) * chunk
    names = [v.name for v in DISPERSION_RESULTS]
    for phenotype, slope in enumerate(slopes):
        fit = slope.fit or Slope(np.nan, np.nan, np.nan, 0)
        for start, columns in _reads(dataset, phenotype, ("status", *_COLUMNS[method]), step):
            status, *effects = columns
            values = _rows(method, status, fit.slope, fit.slope_se, *effects)
            yield phenotype, start, dict(zip(names, values, strict=True))


def _rows(
    method: Method,
    status: NDArray[np.int8],
    slope: Any,
    slope_se: Any,
    add: NDArray[np.float64],
    var: NDArray[np.float64],
    add_se: NDArray[np.float64],
    var_se: NDArray[np.float64],
    covariance: Any = 0.0,
) -> tuple[NDArray[np.float64], ...]:
    """Return dispersion, its standard error and −log10 p; all arguments broadcast."""
    effects = Effects(np.zeros(0, np.int64), add, var, add_se, var_se, covariance)
    d, se = dispersion(effects, slope, slope_se if method == "invariant" else 0.0 * slope_se)
    good = trusted(status) & np.isfinite(d) & (se > 0)
    d, se = np.where(good, d, np.nan), np.where(good, se, np.nan)
    return d, se, wald_neg_log10_p(d, se)


def _read_used(
    dataset: xr.Dataset, phenotype: int, method: Method, excluded: NDArray[np.bool_] | None
) -> Iterator[Effects]:
    """Yield the estimates that a slope is fitted to, a read at a time."""
    names = ("status", *_COLUMNS[method])
    for start, (status, *columns) in _reads(dataset, phenotype, names, ROWS_PER_READ):
        used = trusted(status)
        for column in columns:
            used &= np.isfinite(column)
        used &= columns[3] > 0
        if excluded is not None:
            used &= ~excluded[start : start + len(used)]
        if method == "published":
            columns.append(np.zeros(len(used)))
        yield Effects(start + np.flatnonzero(used), *(column[used] for column in columns))


def _reads(
    dataset: xr.Dataset, phenotype: int, names: Iterable[str], step: int
) -> Iterator[tuple[int, list[NDArray[Any]]]]:
    names = list(names)
    for start in range(0, dataset.sizes["variant"], step):
        part = {"phenotype": phenotype, "variant": slice(start, start + step)}
        yield start, [dataset[name].isel(part).values for name in names]


def _excluded(dataset: xr.Dataset, regions: Sequence[Region]) -> NDArray[np.bool_] | None:
    """Return which variants lie in the regions; None where there are no regions."""
    if not regions:
        return None
    n_variants, autosomes = dataset.sizes["variant"], autosomes_of(dataset.attrs)
    excluded = np.zeros(n_variants, dtype=bool)
    found = dict.fromkeys(regions, 0)
    for start in range(0, n_variants, ROWS_PER_READ):
        rows = slice(start, start + ROWS_PER_READ)
        contig, position = (
            dataset[name].isel(variant=rows).values for name in ("contig", "position")
        )
        for region in regions:
            inside = in_regions(contig, position, [region], autosomes)
            found[region] += int(inside.sum())
            excluded[rows] |= inside
    for region, count in found.items():
        if count:
            logger.info("%s: %d variants have no say in the slope", region, count)
        else:
            logger.warning("no variant lies in %s, so nothing is excluded there", region)
    return excluded


def _span(dataset: xr.Dataset, first: int, last: int) -> str:
    """Return the region from one row to another."""
    ends = dataset[["contig", "position"]].isel(variant=[first, last])
    contigs, positions = ends["contig"].values, ends["position"].values
    if contigs[0] == contigs[1]:
        return f"{contigs[0]}:{positions[0]}-{positions[1]}"
    return f"{contigs[0]}:{positions[0]} to {contigs[1]}:{positions[1]}"
