"""Whole scans of genotypes and traits made in a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlmm_scan.config import ScanConfig
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.readers.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor


def scan_of(
    folder: Path,
    copies: np.ndarray,
    traits: Mapping[str, np.ndarray],
    *,
    position: np.ndarray | None = None,
    contig: np.ndarray | None = None,
    covariates: np.ndarray | None = None,
    random_effects: list[str] | None = None,
    chunk: int = 64,
    **options: Any,
) -> ResultStore:
    """Scan copies (m, n) of the effect allele (−1 missing), people p0, p1, …, variants v0, v1, …

    Columns of `covariates` (n, k) are of the mean and of the variance.
    """
    m, n = copies.shape
    people = np.array([f"p{i}" for i in range(n)], dtype=object)
    variants = VariantTable(
        contig=np.array(["1"] * m if contig is None else list(contig), dtype=object),
        position=np.arange(1, m + 1, dtype=np.int32) * 1000
        if position is None
        else np.asarray(position, np.int32),
        variant_id=np.array([f"v{j}" for j in range(m)], dtype=object),
        other_allele=np.array(["A"] * m, dtype=object),
        effect_allele=np.array(["C"] * m, dtype=object),
    )
    folder.mkdir(parents=True, exist_ok=True)
    samples = SampleIds(people, None, np.zeros(n, np.int8))
    with PlinkWriter(folder / "genotypes", samples) as writer:
        writer.append(variants, copies.astype(np.int8))
    convert([folder / "genotypes.bed"], folder / "genotypes.zarr", chunk_variants=chunk)
    table = pd.DataFrame({"IID": people, **traits})
    table.to_csv(folder / "traits.tsv", sep="\t", index=False, na_rep="NA", float_format="%.17g")
    if covariates is not None:
        columns = {f"x{k}": covariates[:, k] for k in range(covariates.shape[1])}
        frame = pd.DataFrame({"IID": people, **columns})
        frame.to_csv(folder / "covariates.tsv", sep="\t", index=False)
        options["mean_covariates"] = options["variance_covariates"] = folder / "covariates.tsv"
    if random_effects is not None:
        (folder / "random.txt").write_text("\n".join(random_effects) + "\n")
        options["random_effects"] = folder / "random.txt"
    config = ScanConfig(
        genotypes=folder / "genotypes.zarr",
        phenotypes=folder / "traits.tsv",
        output=folder / "results.zarr",
        workers=1,
        **options,
    )
    return run.scan(config, executor=SerialExecutor())
