"""Polygenic predictions of what a caller has in memory or in files, as the command makes them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hlmm_scan import storage
from hlmm_scan.api.genotypes import convert, in_memory, places_of
from hlmm_scan.api.given import Spill, Tables, beside, option_value
from hlmm_scan.cohort.backgrounds import StoredBackground
from hlmm_scan.config import BACKGROUND_OPTIONS, ScanConfig
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.polygenic.plan import DEFAULT_BLOCK_SIZE, DEFAULT_FOLDS
from hlmm_scan.polygenic.run import Stacking, make_background
from hlmm_scan.scan.clusters import Cluster, EmbeddedCluster, GivenClient, RunningScheduler
from hlmm_scan.scan.progress import shown_progress
from hlmm_scan.storage import Place

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike

_NAMED = (
    *("genotypes", "phenotypes", "output", "mean_covariates", "variance_covariates"),
    *("workers", "scheduler"),
)
_TRAITS_SHOWN = 8


class Background:
    """Polygenic predictions of traits, leaving chromosomes out.

    Made by :func:`polygenic`; a scan takes it, or its path, as `offset`.

    Parameters
    ----------
    stored : StoredBackground

    Attributes
    ----------
    path : Path
    """

    def __init__(self, stored: StoredBackground) -> None:
        self.stored = stored
        self.path: Place = stored.path

    @property
    def phenotypes(self) -> list[str]:
        """Names of the phenotypes."""
        return self.stored.phenotypes

    @property
    def chromosomes(self) -> list[str]:
        """Chromosomes left out; X stands for whatever is no autosome."""
        return self.stored.chromosomes

    @property
    def dataset(self) -> xr.Dataset:
        """Everything, lazily: ``prediction`` (phenotype, contig, samples), ``cv_r2``, ``n``, …"""
        import xarray as xr

        found: xr.Dataset = xr.open_zarr(str(self.path))
        return found

    def to_frame(self) -> pd.DataFrame:
        """Return people, R² in cross-validation and chosen shrinkage of each phenotype."""
        names = ["n", "cv_r2", "heritability"]
        if self.stored.of_variance:
            names += ["log_variance_cv_r2", "log_variance_heritability"]
        columns = {name: self.stored.array(name)[:] for name in names}
        return pd.DataFrame(columns, index=pd.Index(self.phenotypes, name="phenotype"))

    def _facts(self) -> dict[str, str]:
        attributes, table = self.stored.attributes, self.to_frame()
        told = [f"{name} {r2:.3f}" for name, r2 in table["cv_r2"].head(_TRAITS_SHOWN).items()]
        more = [", …"] * (len(table) > _TRAITS_SHOWN)
        return {
            "path": str(self.path),
            "variants": f"{attributes['variants']:,} in {attributes['blocks']:,} blocks",
            "left out": ", ".join(self.chromosomes),
            "phenotypes": f"{len(table):,}",
            "cv_r2": "".join([", ".join(told), *more]),
        }

    def __repr__(self) -> str:
        lines = [f"  {name:<11}{text}" for name, text in self._facts().items()]
        return "\n".join(["<Background>", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{escape(text)}</td></tr>"
            for name, text in self._facts().items()
        )
        return f"<table><caption>hlmm_scan.Background</caption>{rows}</table>"


def polygenic(
    genotypes: Any,
    phenotypes: Any,
    output: Place | str,
    *,
    mean_covariates: Any = None,
    variance_covariates: Any = None,
    block_size: int = DEFAULT_BLOCK_SIZE,
    folds: int = DEFAULT_FOLDS,
    variance: bool = False,
    samples: ArrayLike | None = None,
    variants: pd.DataFrame | None = None,
    client: Any = None,
    scheduler: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> Background:
    """Predict traits from the other chromosomes by stacked ridge regression.

    A trait's prediction is the same to the last bit whatever traits are predicted beside it, and
    however the work is divided. The same call again goes on with what was cut off.

    Parameters
    ----------
    genotypes, phenotypes, mean_covariates, variance_covariates, samples, variants
        As :func:`scan` takes them. Covariates of the mean are projected out; those of the variance
        out of the scores of the variance, and people without them are left out as in a scan.
    output : Path or str
        Store to write.
    block_size : int, default 1000
        Variants of a block of neighbours, about.
    folds : int, default 5
        Of people, by a hash of their ids, for cross-validation.
    variance : bool, default False
        Predict the log-variance as well, from the squares that the prediction of the mean leaves. A
        scan then takes it as a covariate of the variance.
    client : distributed.Client, optional
        Whose workers do the tasks; it is left open.
    scheduler : str, optional
        Address of a running Dask scheduler.
    workers : int, optional
        Worker processes of this machine. Default: this process.
    overwrite : bool, default False
        Replace a background that stands at `output`.
    progress : bool, default False
        Show progress on a terminal, and log it elsewhere.
    **options
        Options of ``hlmm-scan polygenic`` under their own names with underscores, as ``min_maf``.

    Returns
    -------
    Background

    Raises
    ------
    TypeError
        If there is no such option; the nearest one is named.
    InputError
        In one line, what of the input is wrong.

    Examples
    --------
    >>> background = hs.polygenic(
    ...     "genotypes.zarr", phenotypes, "background.zarr", mean_covariates=covariates
    ... )
    >>> background.phenotypes
    ['trait1']
    """
    known = {f.name for f in fields(ScanConfig) if f.name in BACKGROUND_OPTIONS} - {*_NAMED}
    for name in options:
        if name not in known:
            raise TypeError(
                f"polygenic() has no option '{name}'{nearest(name, [*known, *_NAMED, 'folds'])}"
            )
    stacking = Stacking(block_size, folds, variance)
    cluster = _cluster(client, scheduler, workers)
    tables, spill = Tables(), Spill()
    with ExitStack() as stack:
        stack.callback(spill.cleanup)
        if in_memory(genotypes):
            folder = stack.enter_context(beside(storage.place(output)))
            where = Path(folder) / "genotypes.zarr"
            convert(genotypes, where, samples=samples, variants=variants)
            genotypes = where
        elif samples is not None or variants is not None:
            raise InputError("samples and variants describe an array of genotypes")
        given = {k: option_value(k, v, spill) for k, v in options.items() if v is not None}
        config = ScanConfig(
            genotypes=places_of(genotypes),
            phenotypes=tables.put("phenotypes", phenotypes),
            output=storage.place(output),
            mean_covariates=tables.put_all("mean covariates", mean_covariates),
            variance_covariates=tables.put_all("variance covariates", variance_covariates),
            **given,
        )
        with shown_progress(progress):
            stored = make_background(
                config, stacking, overwrite=overwrite, tables=tables.at_hand, cluster=cluster
            )
    return Background(stored)


def _cluster(client: Any, scheduler: str | None, workers: int | None) -> Cluster | None:
    """Return where tasks are done; None for this process."""
    if sum(given is not None for given in (client, scheduler, workers)) > 1:
        raise InputError("client, scheduler and workers exclude each other")
    if client is not None:
        return GivenClient(client)
    if scheduler is not None:
        return RunningScheduler(scheduler)
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    return None if workers in (None, 1) else EmbeddedCluster(workers or 1)
