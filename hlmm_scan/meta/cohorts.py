"""Cohorts to pool: opened by what they are, named, and held against one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES
from hlmm_scan.meta.rows import Source
from hlmm_scan.meta.stores import store_source
from hlmm_scan.meta.tables import table_source
from hlmm_scan.results.store import ResultStore
from hlmm_scan.storage import Place

_ENDINGS = (".gz", ".bgz", ".tsv", ".csv", ".txt", ".parquet", ".zarr")


def open_cohorts(places: Sequence[Place], phenotype: str = "") -> list[Source]:
    """Open what is to be pooled, in the order of the cohorts' names.

    Parameters
    ----------
    places : sequence of Path or ObjectPath
        Result stores, published ones too, or tables.
    phenotype : str, default ""
        The one to pool; not needed where each has only one.

    Raises
    ------
    InputError
        If there are fewer than two, one is given twice, or one cannot be read.
    IncompleteError
        If the scan of a store is not complete.
    """
    if len(places) < 2:
        raise InputError("a meta-analysis takes two cohorts or more")
    sources = [
        _open(one, name, phenotype) for one, name in zip(places, _names(places), strict=True)
    ]
    known: dict[str, Source] = {}
    for source in sources:
        other = known.setdefault(source.identity, source)
        if other is not source:
            raise InputError(f"{source.where}: the same results as {other.where}")
    return sorted(sources, key=lambda source: source.name)


def _open(one: Place, name: str, phenotype: str) -> Source:
    if isinstance(one, Path) and one.is_file():
        return table_source(name, one, phenotype)
    return store_source(name, ResultStore.open(one), phenotype)


def _names(places: Sequence[Place]) -> list[str]:
    """Return the files' names without their endings; whole paths where these are not different."""
    short = [_stem(one.name) for one in places]
    return short if len(set(short)) == len(short) else [str(one) for one in places]


def _stem(name: str) -> str:
    while name.endswith(_ENDINGS) and (shorter := name.rpartition(".")[0]):
        name = shorter
    return name


def common_scale(sources: Sequence[Source], *, same_unit: bool) -> str:
    """Return the unit that effects on the mean are in; empty where no cohort says it.

    Parameters
    ----------
    sources : sequence of Source
    same_unit : bool
        Whether it is the same whatever the cohorts say.

    Raises
    ------
    InputError
        If two cohorts say different ones.
    """
    said: dict[str, Source] = {}
    for source in sources:
        if source.scale:
            said.setdefault(source.scale, source)
    if len(said) > 1 and not same_unit:
        (one, first), (two, second) = list(said.items())[:2]
        raise InputError(
            f"effects on the mean are not in one unit: those of {first.where} are in {one}, those "
            f"of {second.where} in {two}; scan alike, or say --same-unit if it is one all the same"
        )
    return next(iter(said), "")


def common_autosomes(sources: Sequence[Source]) -> int:
    """Return how many autosomes the species has.

    Raises
    ------
    InputError
        If two cohorts say different numbers.
    """
    said = {source.autosomes: source for source in sources if source.autosomes is not None}
    if len(said) > 1:
        (one, first), (two, second) = list(said.items())[:2]
        raise InputError(
            f"{first.where} has {one} autosomes, {second.where} {two}: not one species"
        )
    return next(iter(said), HUMAN_AUTOSOMES)
