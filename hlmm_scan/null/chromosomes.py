"""Which null models a phenotype needs.

For most scans that is one. Chromosomes may need others: sex is a covariate on X, Y has males only,
and predictions from the other chromosomes differ from chromosome to chromosome.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.cohort.cohort import Cohort
from hlmm_scan.cohort.derived import restricted, with_covariate_in_both
from hlmm_scan.cohort.offsets import EVERYWHERE, Offsets
from hlmm_scan.cohort.sex import Sex
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import autosomes_seen
from hlmm_scan.genotypes.joined import Genotypes, parts_of
from hlmm_scan.genotypes.ploidy import HaploidRegions, Ploidy
from hlmm_scan.genotypes.samples import MALE
from hlmm_scan.null.serving import DEFAULT, Kind

logger = logging.getLogger(__name__)

_POSITIONS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class Wanted:
    """One null model that a phenotype needs.

    Attributes
    ----------
    key : str
    cohort : Cohort
        Its people, phenotype and designs.
    kinds : tuple of Kind
        What it serves. The default serves everything else besides.
    """

    key: str
    cohort: Cohort
    kinds: tuple[Kind, ...]


def variant_kinds(dataset: Genotypes, regions: HaploidRegions | None) -> tuple[Kind, ...]:
    """Return the kinds of variants there are, in the order of the dataset's chromosomes.

    Parameters
    ----------
    dataset : GenotypeDataset or JoinedGenotypes
    regions : HaploidRegions or None
        None where every chromosome is taken as diploid.

    Raises
    ------
    InputError
        If there are more chromosomes than the species has, or variants of X or Y of which the
        build of the genome decides whether they are pseudo-autosomal.
    """
    index = dataset.variant_contig()
    contigs = [(k, dataset.contigs[k]) for k in np.unique(index).tolist()]
    if regions is None:
        return tuple(Kind(contig, Ploidy.DIPLOID) for _, contig in contigs)
    regions.check(contig for _, contig in contigs)
    kinds: dict[Kind, None] = {}
    for k, contig in contigs:
        if regions.of_contig(contig) is Ploidy.DIPLOID:
            kinds[Kind(contig, Ploidy.DIPLOID)] = None
            continue
        positions = _positions(dataset, np.flatnonzero(index == k))
        undecided = regions.undecided(contig, positions)
        where = ", ".join(map(str, dataset.paths))
        if undecided.any():
            raise InputError(
                f"{where}: {int(undecided.sum()):,} variants of chromosome {contig} (the "
                f"first at {positions[undecided][0]:,}) lie in or near the pseudo-autosomal "
                f"regions of humans, {_which_species(dataset)}"
            )
        for code in np.unique(regions.classify(contig, positions)).tolist():
            kinds[Kind(contig, Ploidy(code))] = None
    return tuple(kinds)


def _which_species(dataset: Genotypes) -> str:
    """Say which option tells where the pseudo-autosomal regions are."""
    every = [contig for part in parts_of(dataset) for contig in part.contigs]
    seen = autosomes_seen(every)
    if seen is not None:
        return (
            f"but with chromosomes 1 to {seen} this looks like another species: say --autosomes "
            f"{seen}, or, if they are some of a human's, --genome-build GRCh37 or GRCh38"
        )
    return (
        "where the build decides who is haploid: say --genome-build GRCh37 or GRCh38, or for "
        "another species its number of --autosomes"
    )


def _positions(dataset: Genotypes, rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the positions of some variants, which follow one another but for a few."""
    found = []
    at = 0
    while at < len(rows):
        start = int(rows[at])
        stop = min(start + _POSITIONS_AT_ONCE, dataset.n_variants)
        end = int(np.searchsorted(rows, stop))
        table = dataset.variants(start, min(stop, int(rows[end - 1]) + 1))
        found.append(table.position[rows[at:end] - start].astype(np.int64))
        at = end
    return np.concatenate(found)


def check_sex(
    cohort: Cohort, kinds: tuple[Kind, ...], sex: Sex, samples: NDArray[np.object_]
) -> None:
    """See that the sex of all people analysed is known, where it matters.

    Parameters
    ----------
    cohort : Cohort
    kinds : tuple of Kind
    sex : Sex
    samples : ndarray of object (str), shape (n_samples,)
        Individual ids of the people of the genotypes, for the message.

    Raises
    ------
    InputError
        If it is not, and there are variants on X or Y.
    """
    where = [kind.contig for kind in kinds if kind.ploidy in (Ploidy.X, Ploidy.Y)]
    unknown = cohort.samples[sex.codes[cohort.samples] == 0]
    if where and len(unknown):
        raise InputError(
            f"the sex of {len(unknown):,} of {len(cohort):,} people analysed for "
            f"{cohort.phenotype} is not known (the first: {samples[unknown[0]]}), but there are "
            f"variants on chromosome {where[0]}: give it with --sex-table, or --no-haploid to "
            "take every chromosome as diploid"
        )


def wanted_null_models(
    cohort: Cohort,
    kinds: tuple[Kind, ...],
    sex: NDArray[np.int8],
    sex_on_x: bool,
    offsets: Offsets | None = None,
) -> Iterator[Wanted]:
    """Say which null models a phenotype needs, and for what.

    Parameters
    ----------
    cohort : Cohort
        Of the autosomes.
    kinds : tuple of Kind
        Of the variants of the scan.
    sex : ndarray of int8, shape (n_samples,)
        Of the people of the genotypes.
    sex_on_x : bool
        Whether sex is a covariate of the mean and the variance on X.
    offsets : Offsets, optional
        Predictions of the phenotype.

    Yields
    ------
    Wanted
        The default first.

    Raises
    ------
    InputError
        If a chromosome has no prediction.

    Notes
    -----
    On X, effects of sex on the trait would be taken for the variant's, as males have no
    heterozygotes and other frequencies; and where one X is inactivated, heterozygous females vary
    more than males. Sex is left out where all are of one sex, or it is a combination of the
    covariates. On Y only males are analysed, or everybody has no call if they are too few.
    """
    cohorts = {Ploidy.DIPLOID: cohort}
    here = {kind.ploidy for kind in kinds}
    if Ploidy.X in here and sex_on_x:
        codes = sex[cohort.samples].astype(np.float64)
        cohorts[Ploidy.X] = with_covariate_in_both(cohort, "sex", codes)
        _tell_of_sex(cohort, cohorts[Ploidy.X])
    if Ploidy.Y in here:
        males = restricted(cohort, sex[cohort.samples] == MALE, "not_male_on_y")
        if males is None:
            logger.warning("%s: too few males to analyse chromosome Y", cohort.phenotype)
        cohorts[Ploidy.Y] = males or cohort
    served: dict[tuple[Ploidy, str], list[Kind]] = {}
    for kind in kinds:
        own = cohorts.get(kind.ploidy, cohort) is not cohort
        row = EVERYWHERE if offsets is None else offsets.row(kind.contig)
        served.setdefault((kind.ploidy if own else Ploidy.DIPLOID, row), []).append(kind)
    # The default is that of the first chromosome whose people and designs are the plain ones.
    row = next(
        (r for p, r in served if p is Ploidy.DIPLOID), next(iter(served), (0, EVERYWHERE))[1]
    )
    default = (Ploidy.DIPLOID, row)
    for ploidy, row in dict.fromkeys([default, *served]):
        those = tuple(served.get((ploidy, row), ()))
        key = DEFAULT if (ploidy, row) == default else _label(those[0], kinds)
        people = cohorts[ploidy]
        yield Wanted(key, people if offsets is None else offsets.applied(people, row), those)


def _label(kind: Kind, kinds: Iterable[Kind]) -> str:
    """Name a null model after the first kind of variants it serves."""
    partly = any(k.contig == kind.contig and k.ploidy is not Ploidy.DIPLOID for k in kinds)
    return f"{kind.contig} diploid" if partly and kind.ploidy is Ploidy.DIPLOID else kind.contig


def _tell_of_sex(cohort: Cohort, sexed: Cohort) -> None:
    new = [
        part
        for part, before, after in (
            ("mean", cohort.mean_design, sexed.mean_design),
            ("variance", cohort.variance_design, sexed.variance_design),
        )
        if after is not before
    ]
    if len(new) == 2:
        logger.info("%s: sex is a covariate of mean and variance on X", cohort.phenotype)
    else:
        logger.info(
            "%s: on X, sex is no further covariate of the %s: all are of one sex, or it is a "
            "combination of the covariates",
            cohort.phenotype,
            "mean and the variance" if not new else "variance" if new == ["mean"] else "mean",
        )
