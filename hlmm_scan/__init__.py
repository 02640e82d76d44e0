"""Distributed scans for genetic effects on the mean and the variance of a trait.

For every variant and phenotype the heteroskedastic linear mixed model

    y ~ N(X a, D + h2·G Gᵀ),   D = diag(exp(V b))

is fitted with the genotype in both X (mean) and V (log-variance).

All public names are here and loaded as they are asked for, so that importing the package costs
nothing::

    import hlmm_scan as hs

    genotypes = hs.convert("cohort.bed", "genotypes.zarr")
    results = hs.scan(genotypes, phenotypes, output="results.zarr", mean_covariates=covariates)
    hs.hits(results)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlmm_scan.api.arrays import fit_null, fit_variants
    from hlmm_scan.api.background import polygenic
    from hlmm_scan.api.genotypes import convert, open_genotypes
    from hlmm_scan.api.pooling import meta
    from hlmm_scan.api.results import (
        calibration,
        dispersion,
        export,
        hits,
        open_results,
        report,
    )
    from hlmm_scan.api.scanning import scan
    from hlmm_scan.errors import HlmmScanError, InputError
    from hlmm_scan.models.hlm import HLM
    from hlmm_scan.models.hlmm import HLMM
    from hlmm_scan.schema import Status

__version__ = "0.1.0"

__all__ = [
    "HLM",
    "HLMM",
    "HlmmScanError",
    "InputError",
    "Status",
    "calibration",
    "convert",
    "dispersion",
    "export",
    "fit_null",
    "fit_variants",
    "hits",
    "meta",
    "open_genotypes",
    "open_results",
    "polygenic",
    "report",
    "scan",
]

_WHERE = {
    "HLM": "models.hlm",
    "HLMM": "models.hlmm",
    "HlmmScanError": "errors",
    "InputError": "errors",
    "Status": "schema",
    **dict.fromkeys(("fit_null", "fit_variants"), "api.arrays"),
    **dict.fromkeys(("convert", "open_genotypes"), "api.genotypes"),
    **dict.fromkeys(("calibration", "dispersion", "export", "hits"), "api.results"),
    **dict.fromkeys(("open_results", "report"), "api.results"),
    "meta": "api.pooling",
    "polygenic": "api.background",
    "scan": "api.scanning",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hlmm_scan' has no attribute '{name}'")
    return getattr(import_module(f"hlmm_scan.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
