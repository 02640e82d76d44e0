"""Small result stores made by hand, without a scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import Status, result_variables

N_VARIANTS, CHUNK = 7, 3


def make_store(
    path: Path,
    phenotypes: Sequence[str] = ("height",),
    *,
    random_effects: bool = False,
    sealed: bool = True,
) -> ResultStore:
    """A store of 7 variants in chunks of 3 (the last holds one), with coordinates."""
    store = ResultStore.create(
        path,
        phenotypes=phenotypes,
        n_variants=N_VARIANTS,
        chunk_variants=CHUNK,
        variables=result_variables(random_effects=random_effects),
        attributes={"run_status": "incomplete"},
        plan={"answer": 42},
    )
    store.write_variants(
        0,
        {
            "variant_id": np.array([f"rs{k}" for k in range(N_VARIANTS)], dtype=object),
            "contig": np.array(["1"] * 4 + ["X"] * 3, dtype=object),
            "position": np.arange(10, 10 + N_VARIANTS, dtype=np.int32),
            "effect_allele": np.array(["A"] * N_VARIANTS, dtype=object),
            "other_allele": np.array(["GT"] * N_VARIANTS, dtype=object),
        },
    )
    if not sealed:
        return store
    store.seal()
    return ResultStore.open(path)


def chunk_values(size: int, seed: int, *, random_effects: bool = False) -> dict[str, np.ndarray]:
    """Values of one partition, each variable different, every status OK."""
    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for variable in result_variables(random_effects=random_effects):
        if variable.name == "status":
            values["status"] = np.full(size, Status.OK, np.int8)
        elif variable.name == "test_flags":
            values["test_flags"] = np.zeros(size, np.int8)
        elif variable.dtype == "int32":
            values[variable.name] = rng.integers(50, 100, size).astype(np.int32)
        else:
            values[variable.name] = rng.uniform(0.1, 0.9, size)
    return values


def fill_values(size: int) -> dict[str, np.ndarray]:
    """A partition of fill values only, as a chunk that was never written reads."""
    return {
        v.name: np.full(size, v.fill_value, v.dtype) for v in result_variables(random_effects=False)
    }
