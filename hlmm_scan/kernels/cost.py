"""What a task that fits variants takes, for the plan: the estimates of the table, and the rest."""

from __future__ import annotations

from dataclasses import replace

from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.paths import path_of, score_path

_ARRAYS_OF_BINS = 14  # numbers a person while residuals are put into bins


def task_seconds(size: ModelSize, m: int, phenotypes: int = 1) -> float:
    """Estimate (within a factor of three) the time of fitting m variants on one core.

    Parameters
    ----------
    size : ModelSize
    m : int
    phenotypes : int, default 1
        Fitted while the genotypes are in memory.
    """
    path = path_of(size)
    assert path.seconds is not None
    if path.together:
        return m * (size.people * 3e-10 + phenotypes * path.seconds(size, 1))
    return phenotypes * path.seconds(size, m)


def task_bytes(size: ModelSize, m: int, n_genotyped: int | None = None, phenotypes: int = 1) -> int:
    """Estimate the memory of fitting m variants, beside :attr:`ModelSize.shared_bytes`.

    Parameters
    ----------
    size : ModelSize
    m : int
    n_genotyped : int, optional
        People in the genotype dataset, if there are more than are analysed.
    phenotypes : int, default 1
        Fitted while the genotypes are in memory.

    Returns
    -------
    int
        Bytes: null model, packed block, results and the working arrays of the path. Screened
        variants may be fitted afterwards, so theirs is the larger of the two.
    """
    n_total = max(size.people, n_genotyped or 0)
    designs = 8 * size.people * (size.designs + 2)
    # Codes as stored, as decoded and as handed over, of which one goes on to those of the
    # variants that pass; counts, sums, estimates and results.
    bytes_each = 2 * n_total if size.dosages else n_total // 4 + 1
    block = m * 3 * bytes_each + m * 100 * 8 * phenotypes
    ways = [size, replace(size, screen=False)] if size.screen else [size]
    if size.dosages:
        ways += [replace(way, dosages=False) for way in ways]
    working = max(_working_bytes(way, m, n_total, phenotypes) for way in ways)
    # Residuals are sorted into bins when a phenotype's first block comes.
    bins = 8 * size.people * _ARRAYS_OF_BINS
    return 2 * designs * phenotypes + bins + block + working


def _working_bytes(size: ModelSize, *of: int) -> int:
    """Memory of a path or of that which fits once more, and of scores that come from another."""
    path, scores = path_of(size), score_path(size)
    once_more = path.then(size)
    fits = max(p.work_bytes(size, *of) for p in (path, once_more) if p)
    return fits + (scores.work_bytes(size, *of) if scores else 0)
