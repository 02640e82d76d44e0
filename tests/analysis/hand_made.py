"""Result stores whose every number a test chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import Status, result_variables
from hlmm_scan.storage.arrays import compressors


def store_of(
    path: Path,
    position: Any,
    columns: dict[str, Any],
    *,
    contig: Any = None,
    chunk: int = 4,
    moments: tuple[float, float] = (0.0, 3.0),
    people: int = 50,
    y: Any = None,
    covariates: int = 0,
    parameters: dict[str, Any] | None = None,
) -> ResultStore:
    """A store of one phenotype; what `columns` does not give is 1, the status ok."""
    m = len(position)
    variables = result_variables(random_effects=False, info="info" in columns)
    store = ResultStore.create(
        path,
        phenotypes=["height"],
        n_variants=m,
        chunk_variants=chunk,
        variables=variables,
        attributes={"run_status": "complete", "parameters": parameters or {}, "inputs": {}},
        plan={},
    )
    store.write_variants(
        0,
        {
            "variant_id": np.array([f"v{k}" for k in range(m)], dtype=object),
            "contig": np.array(["1"] * m if contig is None else list(contig), dtype=object),
            "position": np.asarray(position, np.int32),
            "effect_allele": np.array(["A"] * m, dtype=object),
            "other_allele": np.array(["G"] * m, dtype=object),
        },
    )
    filled = {v.name: np.ones(m, v.dtype) for v in variables}
    filled["effect_allele_frequency"][:] = 0.3
    filled["status"] = np.full(m, Status.OK, np.int8)
    for name, values in columns.items():
        filled[name] = np.asarray(values, filled[name].dtype)
    for start in range(0, m, chunk):
        stop = min(start + chunk, m)
        store.write_partition(0, start, stop, {k: v[start:stop] for k, v in filled.items()})
    group = store.null_group("height")
    null = {
        "y": np.random.default_rng(0).standard_normal(people) if y is None else y,
        "alpha": np.zeros((1, 1 + covariates)),
        "beta": np.zeros((1, 1)),
        "moments": np.array([moments]),
    }
    for name, values in null.items():
        group.create_array(name, data=values, compressors=compressors())
    store.seal()
    return ResultStore.open(path)
