"""Results of a scan: what is stored, and what is made of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hlmm_scan import storage
from hlmm_scan.analysis.dispersion import Method, PhenotypeSlope, write_dispersion
from hlmm_scan.analysis.frame import rows_below
from hlmm_scan.analysis.regions import parse_region
from hlmm_scan.api.background import Background
from hlmm_scan.api.genotypes import places_of
from hlmm_scan.cohort.backgrounds import StoredBackground, is_background
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.polygenic.export import export_loco
from hlmm_scan.results import export as exports
from hlmm_scan.results.inputs import scanned_genotypes
from hlmm_scan.results.publish import is_published
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.state import scan_state
from hlmm_scan.scan.worker import let_go
from hlmm_scan.storage import Place

if TYPE_CHECKING:
    import xarray as xr

    from hlmm_scan.analysis.calibration import Calibration

logger = logging.getLogger(__name__)

Names = str | Sequence[str]


class Results:
    """A result store: of a scan that is done, or not yet.

    Made by :func:`scan` and :func:`open_results`.

    Parameters
    ----------
    store : ResultStore

    Attributes
    ----------
    store : ResultStore
    path : Path or ObjectPath
    """

    def __init__(self, store: ResultStore) -> None:
        self.store = store
        self.path: Place = store.path

    @property
    def phenotypes(self) -> list[str]:
        """Names of the phenotypes."""
        return self.store.phenotypes

    @property
    def complete(self) -> bool:
        """Whether the completion mark is there."""
        return bool(scan_state(self.store).complete)

    @property
    def status(self) -> dict[str, int]:
        """Number of finished tests by status."""
        return dict(scan_state(self.store).statuses)

    @property
    def dataset(self) -> xr.Dataset:
        """Everything, lazily: dask arrays (phenotype, variant), attributes and units as stored."""
        return self.store.dataset()

    def to_frame(
        self, *, below: float | None = None, phenotype: Names = (), test: Names = ()
    ) -> pd.DataFrame:
        """Return finished rows as a table: one for each phenotype and variant.

        Parameters
        ----------
        below : float, optional
            Only rows to be trusted of which one of the tests has a p smaller than this. Default:
            all, which may be many.
        phenotype : str or sequence of str, optional
            Default: all.
        test : str or sequence of str, optional
            Those looked at for `below`, and given columns where they are not stored, as
            ``add_wald_robust``. Default: the default tests.

        Returns
        -------
        pandas.DataFrame
            Coordinates and variables under the names of the store.

        Raises
        ------
        InputError
            If a phenotype is unknown, there is no such test, or `below` is no p-value.

        Examples
        --------
        >>> table = hs.open_results("results.zarr").to_frame(below=1e-2, test="var")
        >>> bool((table["var_neg_log10_p"] > 2).all())
        True
        """
        return rows_below(self.store, below, _names(phenotype), _names(test))

    def _facts(self) -> dict[str, str]:
        n_phenotypes, n_variants = self.store.array("status").shape
        state = scan_state(self.store)
        done = (
            "complete"
            if state.complete
            else f"{state.partitions_done:,} of {state.partitions:,} partitions done"
        )
        model = self.store.attributes.get("parameters", {}).get("model", "")
        traits = ", ".join(self.phenotypes[:5]) + (", …" if n_phenotypes > 5 else "")
        counts = ", ".join(f"{count:,} {label}" for label, count in state.statuses.items())
        return {
            "path": str(self.path),
            "model": model,
            "variants": f"{n_variants:,}",
            "phenotypes": f"{n_phenotypes:,} ({traits})",
            "state": done,
            "tests": counts,
        }

    def __repr__(self) -> str:
        lines = [f"  {name:<11}{text}" for name, text in self._facts().items()]
        return "\n".join(["<Results>", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{escape(text)}</td></tr>"
            for name, text in self._facts().items()
        )
        return f"<table><caption>hlmm_scan.Results</caption>{rows}</table>"


def open_results(path: Place | str) -> Results:
    """Open a result store, also while its scan is running.

    Parameters
    ----------
    path : Path or str

    Raises
    ------
    InputError
        If there is none.

    Examples
    --------
    >>> hs.open_results("results.zarr").complete
    True
    """
    return Results(ResultStore.open(storage.place(path)))


def hits(
    results: Results | ResultStore | Place | str,
    *,
    phenotype: Names = (),
    test: Names = (),
    threshold: float = 5e-8,
    distance: int = 250_000,
    r2: float = 0.1,
    genotypes: Any = (),
    checks: bool = True,
    most_checked: int = 100,
) -> pd.DataFrame:
    """List independent hits of each test, and what could fake their variance effects.

    Parameters
    ----------
    results : Results or path
        Complete or not.
    phenotype : str or sequence of str, optional
        Default: all.
    test : str or sequence of str, optional
        Which find hits. Default: add, var, av and, if it was computed, dispersion.
    threshold : float, default 5e-8
        Largest p.
    distance : int, default 250,000
        Base pairs to either side within which weaker variants belong to a hit.
    r2 : float, default 0.1
        They must also have this linkage with it, where the genotypes are at hand.
    genotypes : GenotypeDataset, path or paths, optional
        Those scanned, if they moved. Without them hits are told apart by distance alone, and
        nothing is checked.
    checks : bool, default True
        Look for what fakes variance effects.
    most_checked : int, default 100
        Variants of a phenotype, the strongest first, that are checked.

    Returns
    -------
    pandas.DataFrame
        A row for each phenotype, test and lead variant; see :func:`hlmm_scan.analysis.hits.hits`.

    Raises
    ------
    InputError
        If a phenotype or test is unknown, or a number out of range.

    Examples
    --------
    >>> table = hs.hits("results.zarr", threshold=1e-3)
    >>> sorted(set(table["phenotype"]))
    ['trait1']
    """
    from hlmm_scan.analysis import hits as found  # SciPy's distributions: half a second

    store = _store(results)
    try:
        return found.hits(
            store,
            _names(phenotype),
            genotypes=scanned(store, genotypes, "and nothing is checked"),
            tests=_names(test),
            threshold=threshold,
            distance=distance,
            r2=r2,
            checks=checks,
            most_checked=most_checked,
        )
    finally:
        let_go()


def dispersion(
    results: Results | ResultStore | Place | str,
    *,
    method: Method = "invariant",
    exclude_region: Names = (),
) -> list[PhenotypeSlope]:
    """Write dispersion effects into a complete result store: var less slope times add.

    Parameters
    ----------
    results : Results or path
    method : {"invariant", "published"}, default "invariant"
    exclude_region : str or sequence of str, optional
        Not asked for the slope: CHR:FROM-TO, CHR, mhc-grch37 or mhc-grch38.

    Returns
    -------
    list of PhenotypeSlope

    Raises
    ------
    HlmmScanError
        If no phenotype gives a slope, or the scan is not complete.

    Examples
    --------
    >>> [slope.phenotype for slope in hs.dispersion("results.zarr")]
    ['trait1']
    """
    regions = [parse_region(text) for text in _names(exclude_region)]
    return write_dispersion(_store(results), method, regions)


def calibration(
    results: Results | ResultStore | Place | str, *, phenotype: Names = (), test: Names = ()
) -> list[Calibration]:
    """Say which p-values of each trait can be trusted: its shape, lambda of every test.

    Parameters
    ----------
    results : Results or path
    phenotype, test : str or sequence of str, optional
        Default: all phenotypes; the default tests and what is stored of likelihood-ratio tests.

    Returns
    -------
    list of Calibration
        One for each phenotype; ``.verdict.text`` says it in words.

    Raises
    ------
    InputError
        If a phenotype or test is unknown.

    Examples
    --------
    >>> [(one.phenotype, one.people) for one in hs.calibration("results.zarr")]
    [('trait1', 149)]
    """
    from hlmm_scan.analysis import calibration as of_tests  # as above

    return of_tests.calibration(_store(results), _names(phenotype), tests=_names(test))


def report(
    results: Results | ResultStore | Place | str,
    output: Path | str,
    *,
    phenotype: Names = (),
    test: Names = (),
    threshold: float = 5e-8,
    genotypes: Any = (),
    checks: bool = True,
) -> int:
    """Write pictures, hits and what was run as one HTML file that opens offline.

    Parameters
    ----------
    results : Results or path
    output : Path or str
    phenotype : str or sequence of str, optional
        Default: all.
    test : str or sequence of str, optional
        Shown in Manhattan plots and tables, one of add, of var and of av.
    threshold : float, default 5e-8
        p-value of a hit.
    genotypes : GenotypeDataset, path or paths, optional
        Those scanned, if they moved: for linkage.
    checks : bool, default True
        Check variance effects of hits.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    InputError
        If a phenotype or test is unknown, the file cannot be written, or libraries are missing.

    Examples
    --------
    >>> hs.report("results.zarr", "page.html") > 100_000
    True
    """
    from hlmm_scan.report.page import write_report

    store = _store(results)
    try:
        return write_report(
            store,
            Path(output),
            _names(phenotype),
            tests=_names(test),
            threshold=threshold,
            genotypes=scanned(store, genotypes, "", strict=False),
            checks=checks,
        )
    finally:
        let_go()


def export(
    results: Results | ResultStore | Background | Place | str,
    output: Path | str,
    *,
    format: str | None = None,
    phenotype: Names = (),
    test: Names = (),
    metadata: Path | str | None = None,
) -> int:
    """Write results, or a polygenic background, as files that other programs read.

    Parameters
    ----------
    results : Results, Background or path
        A background is written as regenie's .loco files and their list.
    output : Path or str
        A file; for gwas-ssf, and for a background, a folder.
    format : {"tsv", "csv", "parquet", "tabix", "gwas-ssf", "regenie", "seed"}, optional
        Default: parquet if the name ends in .parquet, csv if in .csv or .csv.gz, else tsv.
    phenotype, test : str or sequence of str, optional
    metadata : Path or str, optional
        For gwas-ssf: YAML file with genome_assembly, ancestry, …

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    InputError
        If a phenotype, test or format is unknown, or the file cannot be written.

    Examples
    --------
    >>> hs.export("results.zarr", "results.tsv")
    72
    """
    path = Path(output)
    if not isinstance(results, Results | ResultStore):
        stored = _background(results)
        if stored is not None:
            if format not in (None, "regenie") or test or metadata is not None:
                raise InputError("a background is written as .loco files, and has no tests")
            return export_loco(stored, path, _names(phenotype))
    kind = format or exports.format_by_name(path)
    wanted = exports.Export(
        kind, _names(phenotype), _names(test), None if metadata is None else Path(metadata)
    )
    return exports.export(_store(results), path, wanted)


def _background(given: Background | Place | str) -> StoredBackground | None:
    """Open a background; None where something else is given."""
    if isinstance(given, Background):
        return given.stored
    where = storage.place(given)
    return StoredBackground(where) if is_background(where) else None


def _store(results: Results | ResultStore | Background | Place | str) -> ResultStore:
    if isinstance(results, Background):
        raise InputError(f"{results.path}: a polygenic background, not results of a scan")
    if isinstance(results, Results):
        return results.store
    if isinstance(results, ResultStore):
        return results
    return ResultStore.open(storage.place(results))


def scanned(
    store: ResultStore, genotypes: Any, otherwise: str, *, strict: bool = True
) -> Genotypes | None:
    """Open the genotypes that were scanned, and say what is done without them.

    Parameters
    ----------
    store : ResultStore
    genotypes : GenotypeDataset, path or paths
        Empty where they are where they were.
    otherwise : str
        What else follows where there are none.
    strict : bool, default True
        Whether it is an error that they cannot be opened, where none are named.
    """
    paths = list(places_of(() if genotypes is None else genotypes))
    try:
        dataset = scanned_genotypes(store, paths)
    except InputError as error:
        if paths or strict:
            raise
        logger.warning("hits are told apart by distance alone: %s", error)
        return None
    if dataset is None and otherwise:
        why = "the genotypes are not where they were (--genotypes)"
        logger.warning(
            "%s: hits are told apart by distance alone, %s",
            "published without people" if is_published(store) else why,
            otherwise,
        )
    return dataset


def _names(given: Names) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
