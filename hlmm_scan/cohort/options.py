"""What a user asks of people, phenotypes and covariates, checked against the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.cohort.condition import Conditioning, read_conditioning
from hlmm_scan.cohort.covariates import (
    DEFAULT_MIN_LEVEL_COUNT,
    CovariateRules,
    check_levels,
    parse_references,
)
from hlmm_scan.cohort.people import read_people, restrictions
from hlmm_scan.cohort.table import Table
from hlmm_scan.cohort.transform import RankOf, Transform
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.genotypes.ploidy import HaploidRegions
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variant_names import VariantName, read_variant_names


@dataclass(frozen=True, eq=False)
class CohortOptions:
    """Everything that :class:`~hlmm_scan.cohort.cohort.CohortBuilder` is asked beside the tables.

    Attributes
    ----------
    restrictions : mapping of str to ndarray of bool, shape (n_reference,)
        Who passes each wish about people, by the reason that drops the others.
    rules : CovariateRules
    transform : Transform
    condition : Conditioning or None
    parameters : mapping
        The same as JSON types: what a resumed scan must agree in, by the name of the option.
    """

    restrictions: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    rules: CovariateRules = field(default_factory=CovariateRules)
    transform: Transform = field(default_factory=Transform)
    condition: Conditioning | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def restricted(self, **passing: NDArray[np.bool_]) -> CohortOptions:
        """Return the same with further restrictions, by their reasons."""
        return replace(self, restrictions={**self.restrictions, **passing})

    def for_builder(self) -> dict[str, Any]:
        """Return the keyword arguments of the builder."""
        return {
            "restrictions": self.restrictions,
            "rules": self.rules,
            "transform": self.transform,
            "condition": self.condition,
        }


def read_options(
    samples: SampleIds,
    covariates: Sequence[Table | None] = (),
    *,
    keep: Path | None = None,
    remove: Path | None = None,
    only_sex: str | None = None,
    log_transform: bool | None = False,
    outlier_sd: float | None = None,
    rint: bool | None = False,
    rint_of: str | None = None,
    categorical: Sequence[str] = (),
    reference: Sequence[str] = (),
    min_level_count: int = DEFAULT_MIN_LEVEL_COUNT,
    mean_terms: Sequence[str] = (),
    variance_terms: Sequence[str] = (),
    condition: Sequence[str] = (),
    condition_list: Path | None = None,
    genotypes: Genotypes | None = None,
    regions: HaploidRegions | None = None,
) -> CohortOptions:
    """Read the files and check the names that the options of a scan give.

    Parameters
    ----------
    samples : SampleIds
        The n_reference people of the genotypes.
    covariates : sequence of Table or None, default ()
        Read with `categorical`.
    keep, remove, only_sex
        See :func:`~hlmm_scan.cohort.people.restrictions`.
    log_transform, outlier_sd, rint, rint_of
        See :class:`~hlmm_scan.cohort.transform.Transform`; ranks are of residuals by default.
    categorical, reference, min_level_count, mean_terms, variance_terms
        See :class:`~hlmm_scan.cohort.covariates.CovariateRules`; references as ``column=level``.
    condition, condition_list
        Variants, and a file of them, to be found in `genotypes`; see
        :mod:`~hlmm_scan.genotypes.variant_names`.
    genotypes : Genotypes or JoinedGenotypes, optional
    regions : HaploidRegions, optional
        Where people are haploid in them.

    Returns
    -------
    CohortOptions

    Raises
    ------
    InputError
        In one line, what is wrong and where.
    """
    if outlier_sd is not None and not outlier_sd > 0:
        raise InputError(f"outlier_sd must be more than 0, not {outlier_sd}")
    if rint_of is not None and not rint:
        raise InputError("rint_of needs rint: it says what the ranks are of")
    lists = {
        name: (path, *read_people(path))
        for name, path in (("keep", keep), ("remove", remove))
        if path is not None
    }
    references = parse_references(reference)
    check_levels(covariates, categorical, references)
    rank_of: RankOf = "phenotype" if rint_of == "phenotype" else "residuals"
    transform = Transform(bool(log_transform), outlier_sd, rank_of if rint else None)
    ids: list[str | VariantName] = [*condition]
    if condition_list is not None:
        ids += read_variant_names(condition_list)
        if not ids:
            raise InputError(f"{condition_list}: no variant ids in it")
    found = None
    if ids and genotypes is not None:
        found = read_conditioning(genotypes, ids, regions, samples.sex)
    return CohortOptions(
        restrictions=restrictions(
            samples,
            **{name: (path, who) for name, (path, who, _) in lists.items()},
            only_sex=only_sex,
        ),
        rules=CovariateRules(tuple(mean_terms), tuple(variance_terms), references, min_level_count),
        transform=transform,
        condition=found,
        parameters={
            "keep": lists["keep"][2] if keep else None,
            "remove": lists["remove"][2] if remove else None,
            "only_sex": only_sex,
            "log_transform": transform.log,
            "outlier_sd": outlier_sd,
            "rint": transform.rank_normal,
            "categorical": sorted(categorical),
            "reference": dict(sorted(references.items())),
            "min_level_count": min_level_count,
            "mean_terms": list(mean_terms),
            "variance_terms": list(variance_terms),
            "condition": list(map(str, ids)),
        },
    )
