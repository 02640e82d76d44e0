"""One scan of what a caller has in memory or in files, by the path that the command takes."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hlmm_scan import storage
from hlmm_scan.api.genotypes import convert, in_memory, places_of
from hlmm_scan.api.results import Results
from hlmm_scan.cohort.frames import is_labelled
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

_KINDS = {f.name: f.metadata["kind"] for f in fields(ScanConfig)}
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
    offset : pandas.DataFrame or path, optional
        Predictions of the phenotypes from the other chromosomes.
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
        if name not in _KINDS or name in _NAMED:
            known = [*(n for n in _KINDS if n not in _NAMED), *_NAMED, "client", "progress"]
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


class Tables:
    """Tables in memory, and the paths by which a configuration knows them."""

    def __init__(self) -> None:
        self._by_id: dict[int, Path] = {}
        self.at_hand: dict[Path, Any] = {}

    def put(self, name: str, data: Any) -> Path:
        """Take a table, or leave a path."""
        if isinstance(data, str | Path):
            return Path(data)
        if id(data) not in self._by_id:
            number = f" {len(self.at_hand)}" if self.at_hand else ""
            where = storage.absolute(Path(f"<{name}{number}>"))
            assert isinstance(where, Path)
            self.at_hand[where] = data
            self._by_id[id(data)] = where
        return self._by_id[id(data)]

    def put_all(self, name: str, data: Any) -> tuple[Path, ...]:
        """Take a table or several."""
        if data is None:
            return ()
        several = list(data) if isinstance(data, list | tuple) else [data]
        return tuple(self.put(name, one) for one in several)


class Spill:
    """A temporary folder for short lists that are read from files."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def lines(self, lines: Sequence[str]) -> Path:
        """Write lines to a file of their own."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="hlmm-scan-")
        self._files += 1
        path = Path(self._folder.name) / f"{self._files}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def cleanup(self) -> None:
        """Remove what was written."""
        if self._folder is not None:
            self._folder.cleanup()


def option_value(name: str, value: Any, spill: Spill) -> Any:
    """Return the value of an option as the configuration holds it."""
    kind = _KINDS[name]
    if kind == "path" and not isinstance(value, str | Path):
        return spill.lines(_lines(name, value))
    if kind == "path":
        return Path(value)
    if kind == "store":
        return storage.place(value)
    if kind == "names":
        return (value,) if isinstance(value, str) else tuple(map(str, value))
    if kind in ("number", "whole"):
        return value.item() if isinstance(value, np.generic) else value
    return value


def _lines(name: str, value: Any) -> list[str]:
    """Return the lines of a list of ids, or of a table."""
    if isinstance(value, pd.DataFrame):
        frame = value
        if not isinstance(frame.index, pd.RangeIndex):
            frame = frame.reset_index(names=["FID", "IID"][-frame.index.nlevels :])
        cells = frame.astype(object).where(frame.notna(), "NA")
        rows = ["\t".join(map(str, row)) for row in cells.itertuples(index=False)]
        return rows if name in ("keep", "remove") else ["\t".join(map(str, frame.columns)), *rows]
    if is_labelled(value) or isinstance(value, Mapping):
        raise InputError(f"{name}: a path, a sequence of ids or a DataFrame is needed")
    return [str(one) for one in value]


def _random_effects(given: Any, spill: Spill) -> Place:
    """Return where random effects are: a dataset, or a list of ids."""
    if isinstance(given, GenotypeDataset):
        return given.path
    if isinstance(given, str | Path | ObjectPath):
        return storage.place(given)
    return spill.lines(_lines("random_effects", given))


def beside(output: Place) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder that workers who write to the output can read."""
    if isinstance(output, ObjectPath):
        raise InputError(
            "genotypes in memory go to a folder beside the output, which is in an object store; "
            "convert them there first"
        )
    folder = output.absolute().parent
    try:
        return tempfile.TemporaryDirectory(prefix=f".{output.name}-genotypes-", dir=folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror})") from error
