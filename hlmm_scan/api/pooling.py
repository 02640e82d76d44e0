"""Cohorts pooled: a meta-analysis of both effects."""

from __future__ import annotations

from collections.abc import Sequence

from hlmm_scan import storage
from hlmm_scan.api.results import Results
from hlmm_scan.meta.merging import Matching
from hlmm_scan.meta.run import pool_cohorts
from hlmm_scan.meta.writing import Pooling
from hlmm_scan.results.store import ResultStore
from hlmm_scan.storage import Place

Cohort = Results | ResultStore | Place | str


def meta(
    cohorts: Sequence[Cohort],
    output: Place | str,
    *,
    phenotype: str = "",
    same_strand: bool = False,
    max_frequency_difference: float = 0.2,
    same_unit: bool = False,
    leave_one_out: bool = False,
    overwrite: bool = False,
) -> Results:
    """Pool cohorts: both effects with their covariance, and their tests.

    Parameters
    ----------
    cohorts : sequence of Results, path or str
        Result stores, published ones too, exports of them as text or Parquet, GWAS-SSF files.
    output : path or str
        Result store to write.
    phenotype : str, optional
        Which one. Not needed where each cohort has only one.
    same_strand : bool, default False
        All alleles are named on one strand. Without it A/G and T/C are the same variant, and A/T
        and C/G are refused where frequencies do not tell the alleles apart.
    max_frequency_difference : float, default 0.2
        Variants whose effect allele frequencies differ by more between two cohorts are not pooled.
    same_unit : bool, default False
        Effects on the mean are in one unit although the stores say different ones.
    leave_one_out : bool, default False
        Pool all cohorts but one as well: phenotypes ``NAME without COHORT``.
    overwrite : bool, default False
        Replace a result store that stands at `output`.

    Returns
    -------
    Results

    Raises
    ------
    InputError
        If a cohort cannot be read or pooled with the others, or the output cannot be written.

    Examples
    --------
    >>> hs.export("results.zarr", "other.tsv")  # for want of another cohort
    72
    >>> pooled = hs.meta(["results.zarr", "other.tsv"], "pooled.zarr", same_strand=True)
    >>> int(pooled.dataset["n_cohorts"].max())
    2
    """
    places = [
        one.path if isinstance(one, Results | ResultStore) else storage.place(one)
        for one in cohorts
    ]
    how = Pooling(
        phenotype,
        Matching(same_strand, max_frequency_difference),
        same_unit,
        leave_one_out,
    )
    return Results(pool_cohorts(places, storage.place(output), how, overwrite=overwrite))
