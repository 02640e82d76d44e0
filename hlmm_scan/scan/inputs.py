"""What a scan starts from: the user's files, read, checked against each other, fingerprinted."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hlmm_scan import __version__
from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.grammar import split_missing
from hlmm_scan.cohort.join import join
from hlmm_scan.cohort.offsets import OffsetSource, Units, Use, load_offsets
from hlmm_scan.cohort.options import CohortOptions, read_options
from hlmm_scan.cohort.sex import Sex, sex_of
from hlmm_scan.cohort.study import AtHand, StudyColumns, read_study
from hlmm_scan.cohort.table import Table
from hlmm_scan.config import ScanConfig, absolute
from hlmm_scan.config.covariates import Covariates
from hlmm_scan.config.people import People
from hlmm_scan.config.traits import Traits
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, linkage_group, unknown_names
from hlmm_scan.genotypes.joined import Genotypes, chosen_variants
from hlmm_scan.genotypes.open import open_genotypes
from hlmm_scan.genotypes.ploidy import HaploidRegions, Ploidy, genome_build
from hlmm_scan.genotypes.selection import Selection, VariantChoice
from hlmm_scan.null.chromosomes import variant_kinds
from hlmm_scan.null.random_effects import RandomEffectSource, load_random_effects
from hlmm_scan.null.serving import Kind
from hlmm_scan.schema import STORE_FORMAT

logger = logging.getLogger(__name__)

_COHORT_OPTIONS = tuple(
    option.name for group in (People, Traits, Covariates) for option in fields(group)
)


@dataclass(frozen=True)
class Inputs:
    """What the user's files hold, read and fingerprinted.

    Attributes
    ----------
    config : ScanConfig
        Paths absolute.
    genotypes : GenotypeDataset or JoinedGenotypes
        The variants to scan.
    choice : VariantChoice
        What of the datasets was asked for.
    selection : Selection
        What that is.
    phenotypes : Table
        Only the phenotypes to scan.
    mean_covariates, variance_covariates : Table or None
    random_effects : RandomEffectSource or None
    loco : bool
    observed : bool
    cohort : CohortOptions
        About people, transforms, levels, terms and conditioning.
    regions : HaploidRegions or None
        None where every chromosome is taken as diploid.
    kinds : tuple of Kind
        Of variants, if some need a null model of their own.
    sex : Sex or None
        None where nobody asks for it.
    offsets : OffsetSource or None
        Predictions of the phenotypes.
    environment : Table or None
        The column whose interaction is asked for, alone.
    """

    config: ScanConfig
    genotypes: Genotypes
    choice: VariantChoice
    selection: Selection
    phenotypes: Table
    mean_covariates: Table | None
    variance_covariates: Table | None
    random_effects: RandomEffectSource | None
    loco: bool
    observed: bool
    cohort: CohortOptions
    regions: HaploidRegions | None = None
    kinds: tuple[Kind, ...] = ()
    sex: Sex | None = None
    offsets: OffsetSource | None = None
    environment: Table | None = None

    @cached_property
    def exposure(self) -> NDArray[np.float64] | None:
        """The environment of the people of the genotypes, NaN where it is not known."""
        if self.environment is None:
            return None
        rows = match(self.genotypes.samples, self.environment)
        return np.where(rows >= 0, self.environment.values[rows, 0], np.nan)

    @property
    def haploid(self) -> bool:
        """Whether there are variants that are not diploid in everybody."""
        return any(kind.ploidy is not Ploidy.DIPLOID for kind in self.kinds)

    @property
    def sex_on_x(self) -> bool:
        """Whether sex is a covariate anywhere."""
        on_x = any(kind.ploidy is Ploidy.X for kind in self.kinds)
        return on_x and self.config.sex_on_x is not False

    def parameters(self) -> dict[str, Any]:
        """Return everything the numbers depend on, as JSON types."""
        config = self.config
        return {
            "hlmm_scan": __version__,
            "format": STORE_FORMAT,
            "model": "HLM" if self.random_effects is None else "HLMM",
            "genotypes": self.genotypes.fingerprint,
            **self.choice.parameters(),
            "phenotypes": self.phenotypes.sha256,
            "phenotype": list(self.phenotypes.columns),
            "mean_covariates": _sha(self.mean_covariates),
            "variance_covariates": _sha(self.variance_covariates),
            "mean_covariate": _columns(self.mean_covariates, config.mean_covariate),
            "variance_covariate": _columns(self.variance_covariates, config.variance_covariate),
            **self.cohort.parameters,
            "covariate_mode": config.covariate_mode,
            "random_effects": self.random_effects and self.random_effects.fingerprint,
            "loco": self.loco,
            "se": "observed" if self.observed else "expected",
            "screen": config.screens,
            "refine_below": config.refine_below if config.screens else None,
            "sandwich": bool(config.sandwich),
            "likelihood_ratio": bool(config.likelihood_ratio),
            "min_maf": config.min_maf,
            "min_mac": config.min_mac,
            "max_missing": config.max_missing,
            "min_info": config.min_info,
            "hwe": config.hwe,
            "missing_value": sorted(split_missing(config.missing_value)),
            "haploid": self.haploid,
            "autosomes": self.regions.autosomes
            if self.haploid and self.regions
            else config.autosomes,
            "genome_build": self.regions.build if self.haploid and self.regions else None,
            "sex": self.sex and self.sex.fingerprint,
            "sex_on_x": self.sex_on_x,
            "offset": self.offsets and self.offsets.fingerprint,
            "offset_as": self.offsets and self.offsets.use,
            "offset_units": self.offsets and self.offsets.units,
            "interaction": config.interaction,
            "interaction_variance": bool(config.interaction_variance),
        }


def read_inputs(config: ScanConfig, tables: AtHand | None = None) -> Inputs:
    """Read and check the user's files; nothing is written.

    Parameters
    ----------
    config : ScanConfig
    tables : mapping of Path to DataFrame, Dataset or DataArray, optional
        Tables in memory, by the absolute paths that stand for them in the configuration.

    Raises
    ------
    InputError
        In one line, what is wrong and where.
    """
    config = absolute(config)
    assert config.phenotypes is not None
    genotypes = open_genotypes(config.genotypes)
    choice = VariantChoice.read(config.extract, config.exclude, config.region)
    asked = StudyColumns(
        config.phenotypes,
        **{f.name: getattr(config, f.name) for f in fields(StudyColumns) if f.name != "phenotypes"},
    )
    study = read_study(
        asked,
        missing_values=config.missing_value,
        categorical=config.categorical,
        at_hand=tables,
    )
    phenotypes = study.phenotypes
    autosomes = config.autosomes or HUMAN_AUTOSOMES
    selection = choice.rows_of(genotypes, autosomes)
    scanned = chosen_variants(genotypes, selection.rows)
    source = None
    if config.random_effects is not None:
        source = load_random_effects(config.random_effects, genotypes, genotypes.samples, autosomes)
    loco = source is not None and source.spans_chromosomes() and config.loco is not False
    if config.loco and not loco:
        raise InputError(
            f"{config.random_effects}: all its variants lie on one chromosome, so that leaving it "
            "out leaves nothing; use --no-loco"
        )
    if source is not None and source.positions is not None and not loco:
        logger.warning(
            "%d variants of the scan are themselves random effects and stay in while they are "
            "tested: their effects are shared with the random effect",
            len(source.positions),
        )
    default_se = "observed" if config.covariate_mode == "seed" and source is not None else None
    if source is not None and loco:
        _name_chromosomes_without_random_effects(scanned.contigs, source)
    mean, variance = (join(genotypes.samples, of) for of in (study.mean, study.variance))
    _name_unknown_chromosomes(scanned.contigs, autosomes)
    regions = None
    if config.haploid is not False:
        build = None if config.genome_build is None else genome_build(config.genome_build)
        regions = HaploidRegions(autosomes, build)
    offsets = None
    if config.offset is not None:
        offsets = load_offsets(
            config.offset,
            phenotypes.columns,
            genotypes.samples,
            autosomes=autosomes,
            use=cast(Use, config.offset_as),
            units=cast(Units | None, config.offset_units),
            missing_values=config.missing_value,
        )
    kinds = _kinds(scanned, regions, offsets)
    sexed = any(kind.ploidy in (Ploidy.X, Ploidy.Y) for kind in kinds)
    sex = sex_of(genotypes.samples, config.sex_table)
    people = dataclasses.replace(genotypes.samples, sex=sex.codes)
    cohort = read_options(
        people,
        (mean, variance),
        genotypes=genotypes,
        regions=regions,
        **{name: getattr(config, name) for name in _COHORT_OPTIONS},
    )
    if offsets is not None and offsets.scale not in (None, cohort.transform.scale):
        raise InputError(
            f"{config.offset}: predictions of phenotypes in {offsets.scale}, but here they are in "
            f"{cohort.transform.scale}: transform them alike in both"
        )
    return Inputs(
        config=config,
        genotypes=scanned,
        choice=choice,
        selection=selection,
        phenotypes=phenotypes,
        mean_covariates=mean,
        variance_covariates=variance,
        random_effects=source,
        loco=loco,
        observed=(config.se or default_se) == "observed",
        cohort=cohort,
        regions=regions,
        kinds=kinds,
        sex=sex if sexed or config.only_sex else None,
        offsets=offsets,
        environment=study.environment,
    )


def _kinds(
    genotypes: Genotypes, regions: HaploidRegions | None, offsets: OffsetSource | None
) -> tuple[Kind, ...]:
    """Return the kinds of variants, unless all are served by one null model."""
    diploid = regions is None
    if regions is not None:
        regions.check(genotypes.contigs)
        diploid = all(regions.of_contig(c) is Ploidy.DIPLOID for c in genotypes.contigs)
    if diploid and not (offsets and offsets.by_chromosome):
        return ()
    return variant_kinds(genotypes, regions)


def _name_unknown_chromosomes(contigs: Sequence[str], autosomes: int) -> None:
    """Say once which names are no chromosome's that is known: they may be X by another name."""
    unknown = unknown_names(contigs, autosomes)
    if unknown:
        more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
        logger.warning(
            "chromosome %s%s: no known name (1 to %d, X, Y, XY, MT, in the ways they are written), "
            "taken for an autosome of its own, of which everybody has two copies",
            ", ".join(name or "''" for name in unknown[:5]),
            more,
            autosomes,
        )


def _name_chromosomes_without_random_effects(
    scanned: Sequence[str], random: RandomEffectSource
) -> None:
    """Say for which chromosomes there is nothing to leave out: the names may be to blame."""
    there = set(random.contigs)
    alone = [c for c in scanned if linkage_group(c, random.autosomes) not in there]
    if alone:
        logger.warning(
            "no random effects lie on chromosome %s, so nothing is left out there (the random "
            "effects lie on %s)",
            ", ".join(alone),
            ", ".join(dict.fromkeys(random.contigs)),
        )


def _sha(table: Table | None) -> str | None:
    return None if table is None else table.sha256


def _columns(table: Table | None, named: Sequence[str]) -> list[str] | None:
    """Return the covariates, where they were named: their files hold others, too."""
    return list(table.columns) if table is not None and named else None
