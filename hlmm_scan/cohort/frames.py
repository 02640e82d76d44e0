"""Tables that are no single text: data frames and labelled arrays in memory, Parquet, Zarr, netCDF.

They mean what a text table of the same cells means, and numbers pass through no text. The table of
a cross in R/qtl2's format has the columns of its phenotypes, then those of its covariates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.cohort.columns import named
from hlmm_scan.cohort.grammar import Missing
from hlmm_scan.cohort.table import FAMILY, INDIVIDUAL, Table
from hlmm_scan.cohort.words import number, shown
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.readers.cross_files import EXTENSIONS as CROSS_EXTENSIONS
from hlmm_scan.genotypes.readers.cross_files import CrossFiles

SAMPLES = "samples"
"""Dimension of people in labelled arrays, as sgkit names it."""

_IDS = ("sample_id", "IID", "iid")


def is_labelled(data: Any) -> bool:
    """Say whether something is an xarray Dataset or DataArray; does not load xarray."""
    return type(data).__module__.startswith("xarray.") and hasattr(data, "dims")


def read_frame(path: Path, **options: Any) -> Table:
    """Read a .parquet, .zarr or .nc file, or an R/qtl2 cross, as a table.

    Parameters
    ----------
    path : Path
    **options
        Of :func:`table_of`.

    Raises
    ------
    InputError
        As :func:`table_of`; or if it cannot be read.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.suffix in CROSS_EXTENSIONS:
        return table_of(_frame_of_cross(path, options.get("only")), str(path), **options)
    try:
        if path.suffix == ".parquet":
            return _table_of_parquet(path, **options)
        import xarray as xr

        engine: Any = {"engine": "zarr", "chunks": None} if path.suffix == ".zarr" else {}
        with xr.open_dataset(path, **engine) as data:
            return table_of(data, str(path), **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error


def _table_of_parquet(path: Path, *, only: Collection[str] | None = None, **options: Any) -> Table:
    """Read the columns that are asked for, and no others: panels are wide."""
    from pyarrow.parquet import read_schema

    every = read_schema(path).names
    ids = {name for name in every if name.lower() in FAMILY | INDIVIDUAL}
    read = set(named(only or (), [name for name in every if name not in ids]))
    if not read:
        return table_of(pd.read_parquet(path), str(path), only=only, **options)
    # What pandas has as its index comes along.
    frame = pd.read_parquet(path, columns=[name for name in every if name in read | ids])
    table = table_of(frame, str(path), **options)
    index = set(map(str, frame.index.names))
    others = (name for name in every if name not in ids | index | set(table.columns))
    return replace(table, unread=tuple(others))


def table_of(
    data: Any,
    name: str,
    *,
    missing_values: Sequence[str] = ("NA",),
    categorical: Collection[str] | None = None,
    only: Collection[str] | None = None,
    faults_by_column: bool = False,
) -> Table:
    """Make a table of a data frame or a labelled array.

    Parameters
    ----------
    data : pandas.DataFrame, xarray.Dataset or xarray.DataArray
        A frame has columns FID and IID, or IID, or an index of IID or of (FID, IID). Labelled
        arrays have a dimension ``samples`` with the IIDs along it, as its index or as ``sample_id``
        or ``IID``; a variable of a second dimension (traits, say) is a column for each label there.
    name : str
        For messages.
    missing_values, categorical, only, faults_by_column
        As for :func:`~hlmm_scan.cohort.tables.read_table`.

    Returns
    -------
    Table
        Its `sha256` is of ids, names and values.

    Raises
    ------
    InputError
        If there are no people or no columns; a person or a name stands twice or is empty; a cell
        is no finite number, or no level.
    """
    frame = _frame_of_arrays(data, name) if is_labelled(data) else data
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"{name}: a table is a DataFrame, an xarray Dataset or a path, not "
            f"{type(data).__name__}"
        )
    family, individual, frame = _people(frame, name)
    if not len(individual):
        raise InputError(f"{name} has no people")
    every = [str(column) for column in frame.columns]
    read = set(every if only is None else named(only, every))
    wanted = [k for k, column in enumerate(every) if column in read]
    names = tuple(every[k] for k in wanted)
    if not every:
        raise InputError(f"{name} has no data columns")
    for column in names:
        if not column:
            raise InputError(f"{name}: a data column has no name")
        if names.count(column) > 1:
            raise InputError(f"{name}: two columns are named '{shown(column)}'")
    missing = Missing.of(missing_values)
    values = np.empty((len(individual), len(names)))
    levels: dict[str, tuple[str, ...]] = {}
    faults: dict[str, str] = {}
    for k, (position, column) in enumerate(zip(wanted, names, strict=True)):
        cells = frame.iloc[:, position]
        try:
            if categorical is not None and (column in categorical or _words(cells)):
                values[:, k], levels[column] = _levels(cells, missing)
            else:
                values[:, k] = _numbers(cells, missing, individual)
        except InputError as error:
            faults[column] = f"{name}: column '{shown(column)}': {error}"
    if faults and not faults_by_column:
        raise InputError("; ".join(list(faults.values())[:5]))
    digest = hashlib.sha256(values.tobytes())
    for texts in ([] if family is None else family.tolist(), individual.tolist(), names):
        digest.update("\n".join(texts).encode() + b"\0")
    digest.update(repr(sorted(levels.items())).encode())
    for array in (values, individual, family):
        if array is not None:
            array.flags.writeable = False
    unread = tuple(column for k, column in enumerate(every) if k not in set(wanted))
    return Table(
        Path(name), family, individual, names, values, digest.hexdigest(), levels, unread, faults
    )


def _frame_of_cross(path: Path, only: Collection[str] | None) -> pd.DataFrame:
    """Return phenotypes and covariates of a cross; columns that nobody asked for are empty."""
    files = CrossFiles(path)
    parts = []
    for sheet in (*files.sheets("pheno"), *files.sheets("covar")):
        wanted = set(sheet.columns if only is None else named(only, sheet.columns))
        people = [person for _, person, _ in sheet.rows]
        again = pd.Index(people).duplicated()
        if again.any():
            line, who, _ = sheet.rows[int(again.argmax())]
            raise InputError(f"{sheet.path}, line {line}: '{shown(who)}' stands twice")
        columns = [
            _cells([cells[k] for _, _, cells in sheet.rows], files.missing)
            if name in wanted
            else np.full(len(people), np.nan)
            for k, name in enumerate(sheet.columns)
        ]
        part = pd.DataFrame(dict(enumerate(columns)), index=pd.Index(people, name="IID"))
        parts.append(part.set_axis(list(sheet.columns), axis=1))
    if not parts:
        raise InputError(f"{path}: the cross has neither phenotypes nor covariates")
    return pd.concat(parts, axis=1)


def _cells(texts: list[str], missing: Collection[str]) -> Any:
    """Return a column: of numbers if all cells are."""
    numbers = np.array([np.nan if text in missing else number(text) for text in texts])
    there = np.array([text not in missing for text in texts])
    if not np.isnan(numbers[there]).any():
        return numbers
    return np.array([text if text not in missing else None for text in texts], object)


def _people(frame: pd.DataFrame, name: str) -> tuple[Strings | None, Strings, pd.DataFrame]:
    """Return FIDs, IIDs and the other columns."""
    kinds = {str(column).lower(): column for column in frame.columns}
    iid = next((kinds[k] for k in sorted(INDIVIDUAL) if k in kinds), None)
    fid = next((kinds[k] for k in sorted(FAMILY) if k in kinds), None)
    if iid is None:
        index = frame.index
        if index.nlevels > 2 or (index.nlevels == 1 and isinstance(index, pd.RangeIndex)):
            raise InputError(
                f"{name}: who is who? give it an index of IIDs, or columns IID or FID, IID"
            )
        individual: Any = index.get_level_values(-1)
        family: Any = index.get_level_values(0) if index.nlevels == 2 else None
        if family is None and fid is not None:
            family = frame[fid]
    else:
        individual = frame[iid]
        family = None if fid is None else frame[fid]
    ids = _texts(individual, "IID", name)
    families = None if family is None else _texts(family, "FID", name)
    keys = ids if families is None else families + "\n" + ids
    again = np.flatnonzero(pd.Index(keys).duplicated())
    if len(again):
        who = shown(str(ids[again[0]]))
        raise InputError(f"{name}, row {again[0] + 1}: IID '{who}' occurs twice")
    return families, ids, frame.drop(columns=[c for c in (fid, iid) if c is not None])


def _texts(ids: Any, what: str, name: str) -> Strings:
    """Return ids as texts; whole numbers without a point."""
    given = pd.Series(ids)
    if given.dtype.kind == "f":
        raise InputError(f"{name}: {what} are fractions; give them as texts or whole numbers")
    gaps = given.isna()
    texts = np.array(
        ["" if gone else str(one) for one, gone in zip(given, gaps, strict=True)], object
    )
    empty = np.flatnonzero(texts == "")
    if len(empty):
        raise InputError(f"{name}, row {empty[0] + 1}: the {what} is empty")
    return texts


def _words(cells: pd.Series[Any]) -> bool:
    """Say whether a column is one of words, whose cells are levels."""
    return not (pd.api.types.is_numeric_dtype(cells) or pd.api.types.is_bool_dtype(cells))


def _levels(cells: pd.Series[Any], missing: Missing) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return where each cell stands among the levels, and these, sorted as text."""
    whole = cells.dtype.kind == "f" and bool((cells.dropna() % 1 == 0).all())
    texts = [
        "" if gone else (str(int(cell)) if whole else str(cell))
        for cell, gone in zip(cells, cells.isna(), strict=True)
    ]
    found = tuple(sorted({text for text in texts if text not in missing}))
    place = {level: float(k) for k, level in enumerate(found)}
    return np.array([place.get(text, np.nan) for text in texts]), found


def _numbers(cells: pd.Series[Any], missing: Missing, who: Strings) -> NDArray[np.float64]:
    """Return a column of numbers, NaN where missing."""
    if _words(cells):
        texts = ["" if gone else str(cell) for cell, gone in zip(cells, cells.isna(), strict=True)]
        values = np.array([np.nan if text in missing else number(text) for text in texts])
        wrong = [k for k, text in enumerate(texts) if np.isnan(values[k]) and text not in missing]
        if wrong:
            raise InputError(f"'{shown(texts[wrong[0]])}' of {who[wrong[0]]} is no number")
    else:
        values = cells.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise InputError(f"the value of {who[infinite[0]]} is not finite")
    if missing.numbers:
        values[np.isin(values, sorted(missing.numbers))] = np.nan
    return values


def _frame_of_arrays(data: Any, name: str) -> pd.DataFrame:
    """Return labelled arrays as a frame: a column for each variable, or for each label of one."""
    arrays = {str(data.name or "phenotype"): data} if hasattr(data, "name") else data.data_vars
    if SAMPLES not in data.dims:
        raise InputError(
            f"{name}: no dimension '{SAMPLES}'; it has {', '.join(map(str, data.dims))}"
        )
    ids = next((data[i].values for i in (*_IDS, SAMPLES) if i in data.coords or i in arrays), None)
    if ids is None:
        raise InputError(f"{name}: no IIDs along '{SAMPLES}': name them sample_id or {SAMPLES}")
    families = next((data[i].values for i in ("sample_family_id", "FID") if i in data.coords), None)
    columns: dict[str, Any] = {}
    for key, array in dict(arrays).items():
        if SAMPLES not in array.dims or key in _IDS:
            continue
        if array.ndim == 1:
            columns[str(key)] = array.values
        elif array.ndim == 2:
            (other,) = (dim for dim in array.dims if dim != SAMPLES)
            values = array.transpose(SAMPLES, other).values
            labels = array[other].values if other in array.coords else range(values.shape[1])
            own = other in array.coords
            for k, label in enumerate(labels):
                columns[str(label) if own else f"{key}_{k + 1}"] = values[:, k]
    frame = pd.DataFrame(columns)
    if families is not None:
        frame.insert(0, "FID", [str(one) for one in families])
    frame.insert(0, "IID", [str(one) for one in ids])
    return frame
