"""One scan of what a caller has in memory or in files, by the path that the command takes."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hlmm_scan import storage
from hlmm_scan.api.background import Background
from hlmm_scan.api.genotypes import convert, in_memory, places_of
from hlmm_scan.api.given import KINDS, Spill, Tables, beside, lines_of, option_value
from hlmm_scan.api.results import Results
from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.scan import run
from hlmm_scan.scan.clusters import GivenClient
from hlmm_scan.scan.progress import shown_progress
from hlmm_scan.scan.worker import let_go
from hlmm_scan.storage import ObjectPath, Place

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_NAMED = (
    *("genotypes", "phenotypes", "output", "mean_covariates", "variance_covariates"),
    *("random_effects", "offset", "workers"),
)


def scan(
    genotypes: Any,
    phenotypes: Any,
    output: Place | str,
    *,
    mean_covariates: Any = None,
    variance_covariates: Any = None,
    random_effects: Any = None,
    offset: Any = None,
    samples: ArrayLike | None = None,
    variants: pd.DataFrame | None = None,
    client: Any = None,
    workers: int | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    progress: bool = False,
    **options: Any,
) -> Results:
    """Scan variants for effects on mean and variance; the same call again resumes.

    Parameters
    ----------
    genotypes : GenotypeDataset, path or paths, xarray.Dataset, or array, shape (variants, people)
        A dataset of :func:`convert`, or a VCF-Zarr store; an sgkit or VCF-Zarr Dataset in memory;
        copies or dosages of the effect allele, NaN or −1 where missing. What is in memory is
        converted to a dataset in a temporary folder, which goes with the results that are
        returned; dosages are rounded to steps of 1/32767 there.
    phenotypes : pandas.DataFrame, xarray.Dataset or path
        A trait a column, in the user's units, NaN where missing. A frame has an index of IIDs, or
        columns IID or FID and IID; a Dataset has a dimension ``samples`` with IIDs along it. Files
        are text, .parquet, .zarr or .nc.
    output : Path or str
        Result store to write; also an address in an object store.
    mean_covariates, variance_covariates : as phenotypes, or a sequence of such, optional
        Columns of words become levels. ``mean_covariate`` and ``variance_covariate`` (options) name
        columns, as ``["age", "PC1-PC10"]``; without a table they are those of the table of
        phenotypes, which are then none.
    random_effects : sequence of variant ids, GenotypeDataset or path, optional
        With them the HLMM, else the HLM.
    offset : Background, pandas.DataFrame or path, optional
        Predictions of the phenotypes from the other chromosomes: of :func:`polygenic`, regenie's
        list, or a table.
    samples : array of str, shape (people,), optional
        With an array of genotypes: IIDs.
    variants : pandas.DataFrame, optional
        With an array of genotypes: contig, position, variant_id, effect_allele, other_allele.
    client : distributed.Client, optional
        Whose workers do the tasks; it is left open, and its workers' memory as it was. They must
        see the same files under the same paths.
    workers : int, optional
        Worker processes of this machine, started for this scan. Default: this process, if there is
        no client.
    overwrite : bool, default False
        Replace a result store that stands at `output`.
    retry_failed : bool, default False
        Do partitions again that failed before.
    progress : bool, default False
        Show progress on a terminal, and log it elsewhere.
    **options
        Every option of ``hlmm-scan scan`` under its own name with underscores, as ``min_maf=0.05``
        or ``sandwich=True``. ``keep``, ``remove``, ``extract``, ``exclude`` and ``condition_list``
        also take sequences of ids, ``keep``, ``remove`` and ``sex_table`` a DataFrame.

    Returns
    -------
    Results
        Complete.

    Raises
    ------
    TypeError
        If there is no such option; the nearest one is named.
    HlmmScanError
        As the command: InputError where an input is wrong, IncompleteError where partitions failed.

    Examples
    --------
    >>> results = hs.scan(
    ...     "genotypes.zarr",
    ...     phenotypes,
    ...     output="results.zarr",
    ...     mean_covariates=covariates,
    ...     variance_covariates=covariates,
    ...     phenotype="trait1",
    ... )
    >>> results.dataset["add"].attrs["units"]
    'phenotype units'
    """
    for name in options:
        if name not in KINDS or name in _NAMED:
            known = [*(n for n in KINDS if n not in _NAMED), *_NAMED, "client", "progress"]
            raise TypeError(f"scan() has no option '{name}'{nearest(name, known)}")
    if client is not None and (workers or options.get("scheduler") or options.get("cluster")):
        raise InputError("client excludes workers, scheduler and cluster: it says where tasks run")
    cluster = None if client is None else GivenClient(client)
    elsewhere = cluster or options.get("scheduler") or options.get("cluster")
    spill = Spill()
    kept: tempfile.TemporaryDirectory[str] | None = None
    given: dict[str, Any] = {
        k: option_value(k, v, spill) for k, v in options.items() if v is not None
    }
    tables = Tables()
    try:
        if in_memory(genotypes):
            kept = beside(storage.place(output))
            where = Path(kept.name) / "genotypes.zarr"
            convert(genotypes, where, samples=samples, variants=variants)
            genotypes = where
        elif samples is not None or variants is not None:
            raise InputError("samples and variants describe an array of genotypes")
        if random_effects is not None:
            given["random_effects"] = _random_effects(random_effects, spill)
        if isinstance(offset, Background):
            offset = offset.path
        if offset is not None:
            given["offset"] = option_value("offset", offset, spill)
        config = ScanConfig(
            genotypes=places_of(genotypes),
            phenotypes=tables.put("phenotypes", phenotypes),
            output=storage.place(output),
            mean_covariates=tables.put_all("mean covariates", mean_covariates),
            variance_covariates=tables.put_all("variance covariates", variance_covariates),
            workers=None if elsewhere else workers or 1,
            **given,
        )
        with shown_progress(progress):
            store = run.scan(
                config,
                overwrite=overwrite,
                retry_failed=retry_failed,
                tables=tables.at_hand,
                cluster=cluster,
            )
    except BaseException:
        if kept is not None:
            kept.cleanup()
        raise
    finally:
        spill.cleanup()
        let_go()
    results = Results(store)
    if kept is not None:
        weakref.finalize(results, kept.cleanup)
    return results


def _random_effects(given: Any, spill: Spill) -> Place:
    """Return where random effects are: a dataset, or a list of ids."""
    if isinstance(given, GenotypeDataset):
        return given.path
    if isinstance(given, str | Path | ObjectPath):
        return storage.place(given)
    return spill.lines(lines_of("random_effects", given))
