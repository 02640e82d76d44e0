"""A builder of small PLINK filesets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from hlmm_scan.genotypes.readers.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable

MakeFileset = Callable[..., Path]


def objects(values: Sequence[str]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


@pytest.fixture
def make_fileset(tmp_path: Path) -> MakeFileset:
    """Return a function that writes a fileset and returns its .bed."""

    def make(
        copies: np.ndarray,
        name: str = "data",
        *,
        ids: Sequence[str] | None = None,
        contig: str | Sequence[str] = "1",
        people: Sequence[str] | None = None,
    ) -> Path:
        m, n = copies.shape
        people = [f"i{i}" for i in range(n)] if people is None else people
        samples = SampleIds(
            individual_id=objects(people),
            family_id=objects([f"f{p}" for p in people]),
            sex=(np.arange(n) % 3).astype(np.int8),
        )
        table = VariantTable(
            contig=objects([contig] * m if isinstance(contig, str) else contig),
            position=np.arange(1, m + 1, dtype=np.int32) * 10,
            variant_id=objects([f"{name}_{v}" for v in range(m)] if ids is None else ids),
            other_allele=objects(["G"] * m),
            effect_allele=objects(["AT"] * m),
        )
        with PlinkWriter(tmp_path / name, samples) as writer:
            writer.append(table, copies.astype(np.int8))
        return tmp_path / f"{name}.bed"

    return make


@pytest.fixture
def copies() -> np.ndarray:
    """Return calls of 23 people at 101 variants, a tenth of them missing."""
    rng = np.random.default_rng(7)
    calls = rng.binomial(2, 0.3, size=(101, 23)).astype(np.int8)
    calls[rng.random(calls.shape) < 0.1] = -1
    return calls
