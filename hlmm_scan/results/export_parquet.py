"""Results as one Parquet file: typed columns, row groups, provenance in its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hlmm_scan.errors import InputError
from hlmm_scan.results.export_rows import Columns, FinishedRows
from hlmm_scan.results.publish import public_attributes
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import COORDINATES, Status

_TYPES = {"str": "string", "int8": "int8", "int32": "int32", "float64": "double"}


def write_parquet(rows: FinishedRows, scratch: Path, store: ResultStore) -> int:
    """Write a Parquet file, one row group a read; return the number of rows.

    Numbers that do not exist are null, so that no query takes NaN for the largest. Unit and
    description stand with each column, the store's attributes as JSON under ``hlmm_scan``
    (of input files the names, not where they lay).

    Raises
    ------
    InputError
        If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        raise InputError("Parquet files need pyarrow: pip install 'hlmm-scan[exports]'") from None
    schema = _schema(pa, rows, store)
    written = 0
    with ParquetWriter(scratch, schema, compression="zstd") as file:
        for block in rows.by_phenotype():
            table = pa.Table.from_arrays(_arrays(pa, schema, block), schema=schema)
            file.write_table(table, row_group_size=max(len(table), 1))
            written += len(table)
    return written


def _schema(pa: Any, rows: FinishedRows, store: ResultStore) -> Any:
    made = (test.variable for test in rows.made)
    variables = {v.name: v for v in (*COORDINATES, *store.readable, *made)}
    fields = []
    for name in rows.columns:
        variable = variables[name]
        kind = _TYPES[variable.dtype]
        # Text of few values: kept once a row group.
        few = name in ("phenotype", "contig", "status")
        of = pa.dictionary(pa.int32(), pa.string()) if few else pa.type_for_alias(kind)
        about = {"description": variable.description, "unit": variable.unit}
        fields.append(pa.field(name, of, metadata={k: v for k, v in about.items() if v}))
    attributes = json.dumps(public_attributes(store.attributes), default=str)
    return pa.schema(fields, metadata={"hlmm_scan": attributes})


def _arrays(pa: Any, schema: Any, block: Columns) -> list[Any]:
    arrays = []
    for field in schema:
        values = block[field.name]
        if field.name == "status":
            codes, at = np.unique(values, return_inverse=True)
            labels = [Status(int(code)).label for code in codes]
            arrays.append(pa.DictionaryArray.from_arrays(at.astype(np.int32), labels))
        elif pa.types.is_dictionary(field.type):
            arrays.append(pa.array(values, pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(values, field.type, from_pandas=True))
    return arrays
