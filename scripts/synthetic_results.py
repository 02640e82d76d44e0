"""Make a complete result store of any number of variants without a scan.

Usage: synthetic_results.py OUTPUT [--variants N] [--phenotypes P] [--people N] [--chunk B]
       [--random-effects] [--seed S]

For measuring and testing what comes after a scan: reports, exports, dispersion effects. Variants
lie on 22 chromosomes; every phenotype has small effects everywhere, the variance following the
mean, and three planted loci with neighbours in linkage: additive, variance, and both. Plan, null
models and ledger are those of a small real cohort, so that every command takes the store for one
of its own. Rows are drawn chunk by chunk, in the memory of one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import HlmmScanError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.models.inference import joint_chi2, neg_log10_p, wald_neg_log10_p
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import completion, run
from hlmm_scan.scan.plan import Plan
from hlmm_scan.schema import Status, result_variables
from hlmm_scan.simulate import TRAIT, simulate_cohort
from hlmm_scan.staging import staged_store

MEGABASES = (
    249, 242, 198, 190, 182, 171, 159, 145, 138, 134, 135,
    133, 114, 107, 102, 90, 83, 80, 59, 64, 47, 51,
)  # fmt: skip
"""Lengths of the human chromosomes 1 to 22."""

SLOPE = 0.3
"""Log-variance effect per unit of additive effect, dispersion effects apart."""

CORRELATION = 0.3
"""Of the errors of add and var: a skewed trait."""

HEAVY_TAILS = 1.3
"""Variance of var over what a normal trait has."""

REACH = 15
"""Variants after which a planted effect has fallen to 1/e."""

_BASES = np.array(list("ACGT"), dtype=object)


@dataclass(frozen=True)
class Locus:
    """A planted locus: its middle variant, and there the effects over their standard errors."""

    name: str
    variant: int
    add_z: float
    dispersion_z: float


def planted_loci(n_variants: int) -> tuple[Locus, ...]:
    """Return the planted loci, the same for all phenotypes; strongest where p underflows."""
    return tuple(
        Locus(name, int(share * n_variants), add, dispersion)
        for name, share, add, dispersion in (
            ("additive", 0.2, 60.0, 0.0),
            ("variance", 0.5, 0.0, 15.0),
            ("both", 0.8, -12.0, 9.0),
        )
    )


def make_results(
    output: Path,
    n_variants: int,
    *,
    phenotypes: int = 1,
    people: int = 100_000,
    chunk: int = 16_384,
    random_effects: bool = False,
    seed: int = 1,
) -> ResultStore:
    """Make the store; the same arguments give the same values.

    Parameters
    ----------
    output : Path
        Where nothing is yet.
    n_variants : int
    phenotypes : int, default 1
        Named trait1, trait2, ….
    people : int, default 100,000
        Of the imagined cohort: sets the standard errors.
    chunk : int, default 16,384
        Variants of a partition.
    random_effects : bool, default False
        Whether there are the variables of an HLMM.
    seed : int, default 1

    Returns
    -------
    ResultStore
        Complete.
    """
    names = tuple(f"trait{k + 1}" for k in range(phenotypes))
    with tempfile.TemporaryDirectory() as temporary, staged_store(output) as unfinished:
        small = _small_store(Path(temporary), names, random_effects)
        plan = replace(
            Plan.from_json(small.plan),
            phenotypes=names,
            people=(people,) * phenotypes,
            n_variants=n_variants,
            partition_variants=min(chunk, n_variants),
            genotypes=("/synthetic/genotypes.zarr",),
        )
        store = ResultStore.create(
            unfinished,
            phenotypes=names,
            n_variants=n_variants,
            chunk_variants=plan.partition_variants,
            variables=result_variables(random_effects=random_effects),
            attributes={
                **{k: v for k, v in small.attributes.items() if k not in ("hlmm_scan",)},
                "synthetic": True,
            },
            plan=plan.to_json(),
        )
        for name in ("null", "random_effects"):
            shutil.copytree(small.path / name, unfinished / name, dirs_exist_ok=True)
        for name in names:
            store.null_group(name).attrs.update(people=people, people_in_genotypes=people)
        _write_variants(store, n_variants, seed)
        store.seal()
    return _fill(ResultStore.open(output), plan, seed)


def _small_store(folder: Path, names: tuple[str, ...], random_effects: bool) -> ResultStore:
    """Prepare a scan of a small cohort, whose phenotypes are all the same."""
    cohort = simulate_cohort(
        folder / "cohort",
        n_samples=400,
        chromosomes=2,
        variants_per_chromosome=20,
        n_random_effects=20,
    )
    genotypes = convert(cohort.beds, folder / "genotypes.zarr")
    rows = [line.split("\t") for line in cohort.phenotypes.read_text().splitlines()]
    assert rows[0] == ["FID", "IID", TRAIT]
    table = folder / "phenotypes.tsv"
    lines = [[*row[:2], *row[2:] * len(names)] for row in rows[1:]]
    table.write_text("".join("\t".join(r) + "\n" for r in [["FID", "IID", *names], *lines]))
    return run.prepare(
        ScanConfig(
            genotypes=genotypes.path,
            phenotypes=table,
            mean_covariates=cohort.covariates,
            random_effects=cohort.random_effects if random_effects else None,
            output=folder / "results.zarr",
        )
    )


def _write_variants(store: ResultStore, n_variants: int, seed: int) -> None:
    shares = np.cumsum(MEGABASES) / sum(MEGABASES)
    ends = np.round(shares * n_variants).astype(int)
    starts = np.concatenate([[0], ends[:-1]])
    for start in range(0, n_variants, 65_536):
        rng = np.random.default_rng([seed, 1, start])
        rows = np.arange(start, min(start + 65_536, n_variants))
        contig = np.searchsorted(ends, rows, side="right")
        spacing = np.array(MEGABASES) * 10**6 / np.maximum(ends - starts, 1)
        jitter = rng.uniform(0.1, 0.9, len(rows))
        other = rng.integers(0, 4, len(rows))
        store.write_variants(
            start,
            {
                "variant_id": np.array([f"rs{row + 1}" for row in rows], dtype=object),
                "contig": (contig + 1).astype(str).astype(object),
                "position": np.int32(1 + (rows - starts[contig] + jitter) * spacing[contig]),
                "effect_allele": _BASES[(other + rng.integers(1, 4, len(rows))) % 4],
                "other_allele": _BASES[other],
            },
        )


def _fill(store: ResultStore, plan: Plan, seed: int) -> ResultStore:
    """Write all partitions as a scan does, and the completion mark."""
    random_effects = "random_variance" in {v.name for v in store.variables}
    with store.ledger.lock(), store.ledger.writer() as journal:
        for partition in plan.partitions():
            began = time.time()
            (phenotype,) = partition.phenotypes
            rows = np.arange(partition.start, partition.stop)
            values = draw_rows(
                rows,
                plan.n_variants,
                plan.people[phenotype],
                np.random.default_rng([seed, 2, phenotype, partition.start]),
                random_effects=random_effects,
            )
            digest = store.write_partition(phenotype, partition.start, partition.stop, values)
            statuses = Counter(Status(int(s)).label for s in values["status"])
            journal.append(
                PartitionRecord(
                    partition.index,
                    checksum=digest,
                    statuses=dict(statuses),
                    started=began,
                    finished=time.time(),
                    worker="synthetic:1",
                )
            )
    return completion.finalise(store)


def draw_rows(
    rows: NDArray[np.int64],
    n_variants: int,
    people: int,
    rng: np.random.Generator,
    *,
    random_effects: bool = False,
) -> dict[str, NDArray[np.generic]]:
    """Draw all result variables of some variants.

    Parameters
    ----------
    rows : ndarray of int, shape (m,)
        Positions of the variants among all.
    n_variants, people : int
    rng : numpy.random.Generator
    random_effects : bool, default False

    Returns
    -------
    dict of str to ndarray, shape (m,)

    Notes
    -----
    With p the frequency and n people, a unit-variance trait has Var(add) = 1/(2p(1 − p)n) and
    Var(var) = 2/(2p(1 − p)n), times a constant where it is not normal. Small effects are as large
    as their standard errors; var = SLOPE·add + dispersion, which only planted loci have.
    """
    m = len(rows)
    frequency = rng.uniform(0.005, 0.995, m)
    n = people - rng.integers(0, people // 100 + 1, m)
    precision = 2 * frequency * (1 - frequency) * n
    add_se, var_se = np.sqrt(1 / precision), np.sqrt(2 / precision)
    var_se_robust = np.sqrt(HEAVY_TAILS) * var_se
    first, second = rng.standard_normal((2, m))
    add_true, dispersion = add_se * rng.standard_normal(m), np.zeros(m)
    for locus in planted_loci(n_variants):
        # Only the middle variant's effects have a certain sign; neighbours are in linkage.
        linkage = np.exp(-np.abs(rows - locus.variant) / REACH)
        linkage = linkage * np.where(rows == locus.variant, 1.0, rng.uniform(-1, 1, m))
        add_true += locus.add_z * add_se * linkage
        dispersion += locus.dispersion_z * var_se * linkage
    add = add_true + add_se * first
    mixed = CORRELATION * first + np.sqrt(1 - CORRELATION**2) * second
    var = SLOPE * add_true + dispersion + var_se_robust * mixed
    covariance = CORRELATION * add_se * var_se_robust
    chi2 = joint_chi2(add, var, add_se**2, var_se_robust**2, covariance)
    columns: dict[str, NDArray[np.generic]] = {
        "add": add,
        "add_se": add_se,
        "add_neg_log10_p": wald_neg_log10_p(add, add_se),
        "var": var,
        "var_se": var_se,
        "var_neg_log10_p": wald_neg_log10_p(var, var_se_robust),
        "add_var_cov": np.zeros(m),
        "av_neg_log10_p": neg_log10_p(chi2, 2),
        "log_likelihood": -1.42 * n + 0.5 * chi2,
        "add_se_robust": add_se,
        "var_se_robust": var_se_robust,
        "add_var_cov_robust": covariance,
    }
    if random_effects:
        columns["random_variance"] = 0.3 + 0.01 * rng.standard_normal(m)
        columns["random_variance_se"] = np.full(m, 0.02)
        columns["random_variance_fraction"] = 0.3 + 0.007 * rng.standard_normal(m)
    status = np.full(m, Status.OK, np.int8)
    status[rng.random(m) < 0.001] = Status.NOT_CONVERGED
    status[np.minimum(frequency, 1 - frequency) < 0.01] = Status.LOW_MAF
    for values in columns.values():
        values[status >= Status.MONOMORPHIC] = np.nan
    return {
        "n": n.astype(np.int32),
        "effect_allele_frequency": frequency,
        **columns,
        "test_flags": np.zeros(m, np.int8),
        "status": status,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--variants", type=int, default=100_000)
    parser.add_argument("--phenotypes", type=int, default=1)
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--chunk", type=int, default=16_384, help="variants of a partition")
    parser.add_argument("--random-effects", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    began = time.perf_counter()
    try:
        store = make_results(
            given.output,
            given.variants,
            phenotypes=given.phenotypes,
            people=given.people,
            chunk=given.chunk,
            random_effects=given.random_effects,
            seed=given.seed,
        )
    except HlmmScanError as error:
        print(f"synthetic_results: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{store.path}: complete, {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
