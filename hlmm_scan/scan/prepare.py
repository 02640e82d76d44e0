"""Everything before the first task: inputs aligned, null models fitted, the store made."""

from __future__ import annotations

import dataclasses
import logging
import platform
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
from dask.utils import parse_bytes
from numpy.typing import NDArray

from hlmm_scan import __version__
from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.cohort import Cohort, CohortBuilder
from hlmm_scan.cohort.derived import with_environment
from hlmm_scan.cohort.offsets import Offsets, OffsetSource, Units, Use, load_offsets
from hlmm_scan.cohort.options import CohortOptions, read_options
from hlmm_scan.cohort.sex import Sex, sex_of
from hlmm_scan.cohort.tables import Table, read_table
from hlmm_scan.config import ScanConfig, absolute
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.genotypes.joined import (
    Genotypes,
    JoinedGenotypes,
    chosen_variants,
    open_genotypes,
)
from hlmm_scan.genotypes.ploidy import HUMAN_AUTOSOMES, HaploidRegions, Ploidy, genome_build
from hlmm_scan.genotypes.selection import Selection, VariantChoice
from hlmm_scan.kernels.block import FitOptions
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.null.chromosomes import check_sex, variant_kinds, wanted_null_models
from hlmm_scan.null.fit import CovariateFit, fit_null
from hlmm_scan.null.model import NullModel, RandomEffects, contig_key
from hlmm_scan.null.random_effects import RandomEffectSource, load_random_effects
from hlmm_scan.null.serving import Kind, Serving
from hlmm_scan.null.store import (
    read_random_effects,
    write_null_model,
    write_random_effects,
    write_serving,
)
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.cluster_file import read_cluster_file
from hlmm_scan.scan.clusters import RunningScheduler
from hlmm_scan.scan.executors import available_cores
from hlmm_scan.scan.plan import Plan, partition_size
from hlmm_scan.scan.task import pin_threads
from hlmm_scan.schema import STORE_FORMAT, result_variables
from hlmm_scan.staging import staged_store

logger = logging.getLogger(__name__)

_COORDINATE_ROWS = 65_536
_COHORT_OPTIONS: tuple[str, ...] = (
    *("keep", "remove", "only_sex", "log_transform", "outlier_sd", "rint", "rint_of"),
    *("categorical", "reference", "min_level_count", "mean_terms", "variance_terms"),
    *("condition", "condition_list"),
)
_VERSIONED = ("dask", "distributed", "numba", "numpy", "scipy", "xarray", "zarr")


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
            "missing_value": sorted(config.missing_value),
            "haploid": self.haploid,
            "autosomes": self.regions.autosomes if self.haploid and self.regions else None,
            "genome_build": self.regions.build if self.haploid and self.regions else None,
            "sex": self.sex and self.sex.fingerprint,
            "sex_on_x": self.sex_on_x,
            "offset": self.offsets and self.offsets.fingerprint,
            "offset_as": self.offsets and self.offsets.use,
            "offset_units": self.offsets and self.offsets.units,
            "interaction": config.interaction,
            "interaction_variance": bool(config.interaction_variance),
        }


def read_inputs(config: ScanConfig) -> Inputs:
    """Read and check the user's files; nothing is written.

    Raises
    ------
    InputError
        In one line, what is wrong and where.
    """
    config = absolute(config)
    assert config.phenotypes is not None
    genotypes = open_genotypes(config.genotypes)
    choice = VariantChoice.read(config.extract, config.exclude, config.region)
    table = read_table(config.phenotypes, missing_values=config.missing_value)
    phenotypes = table.select(config.phenotype) if config.phenotype else table
    covariates = {
        path: read_table(path, missing_values=config.missing_value, categorical=config.categorical)
        for path in (config.mean_covariates, config.variance_covariates)
        if path is not None
    }
    selection = choice.rows_of(genotypes)
    scanned = chosen_variants(genotypes, selection.rows)
    environment = None
    if config.interaction is not None:
        environment, phenotypes = _environment(config, table, phenotypes, covariates)
    source = None
    if config.random_effects is not None:
        source = load_random_effects(config.random_effects, genotypes, genotypes.samples)
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
        _name_chromosomes_without_random_effects(scanned.contigs, source.contigs)
    mean = covariates[config.mean_covariates] if config.mean_covariates else None
    variance = covariates[config.variance_covariates] if config.variance_covariates else None
    autosomes = config.autosomes or HUMAN_AUTOSOMES
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
        cohort=read_options(
            people,
            (mean, variance),
            genotypes=genotypes,
            regions=regions,
            **{name: getattr(config, name) for name in _COHORT_OPTIONS},
        ),
        regions=regions,
        kinds=kinds,
        sex=sex if sexed or config.only_sex else None,
        offsets=offsets,
        environment=environment,
    )


def _environment(
    config: ScanConfig, table: Table, phenotypes: Table, covariates: Mapping[Path, Table]
) -> tuple[Table, Table]:
    """Return the table of the environment, and the phenotypes that are none."""
    name = config.interaction
    assert name is not None
    if name in config.phenotype:
        raise InputError(f"'{name}' cannot be phenotype and interaction at once")
    for where in (*covariates.values(), table):
        if name in where.columns:
            if name in where.levels:
                raise InputError(f"{where.path}: the environment '{name}' is no number")
            others = [column for column in phenotypes.columns if column != name]
            return where.select([name]), phenotypes.select(others)
    places = ", ".join(str(where.path) for where in (*covariates.values(), table))
    every = [column for where in (*covariates.values(), table) for column in where.columns]
    raise InputError(f"interaction: no column '{name}' in {places}{nearest(name, every)}")


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


def _name_chromosomes_without_random_effects(scanned: Sequence[str], random: Sequence[str]) -> None:
    """Say for which chromosomes there is nothing to leave out: the names may be to blame."""
    alone = [contig for contig in scanned if contig_key(contig) not in set(random)]
    if alone:
        logger.warning(
            "no random effects lie on chromosome %s, so nothing is left out there (the random "
            "effects lie on %s)",
            ", ".join(alone),
            ", ".join(dict.fromkeys(random)),
        )


def make_plan(inputs: Inputs) -> tuple[Plan, CohortBuilder]:
    """Assemble every phenotype's people and cut the scan into partitions; nothing is written.

    Returns
    -------
    Plan
    CohortBuilder
        Builds the same people again: designs of all phenotypes at once may not fit into memory.

    Raises
    ------
    InputError
        If a phenotype cannot be analysed, or a task does not fit into memory.
    """
    asked = inputs.cohort
    if inputs.random_effects is not None:
        asked = asked.restricted(not_in_random_effects=inputs.random_effects.available)
    builder = CohortBuilder(
        inputs.genotypes.samples,
        inputs.phenotypes,
        inputs.mean_covariates,
        inputs.variance_covariates,
        **asked.for_builder(),
    )
    people, mean, variance = [], 1, 1
    for name in inputs.phenotypes.columns:
        cohort, _ = _cohort(inputs, builder, name)
        people.append(len(cohort))
        if inputs.config.covariate_mode != "seed":
            mean = max(mean, len(cohort.mean_design.names))
            variance = max(variance, len(cohort.variance_design.names))
    fitted = inputs.offsets is not None and inputs.offsets.use == "covariate"
    genotypes = inputs.genotypes
    model = ModelSize(
        people=max(people),
        mean=mean + fitted,
        variance=variance,
        random=0 if inputs.random_effects is None else len(inputs.random_effects.genotypes),
        screen=inputs.config.screens,
        dosages=genotypes.unit > 0,
        interaction=inputs.environment is not None,
    )
    on_x = None
    if inputs.sex_on_x and inputs.config.covariate_mode != "seed":
        on_x = dataclasses.replace(model, mean=model.mean + 1, variance=model.variance + 1)
        if all(kind.ploidy is Ploidy.X for kind in inputs.kinds):
            model = on_x
    sizes: dict[str, Any] = {
        "model": model,
        "n_genotyped": genotypes.n_samples,
        "chunk_variants": genotypes.chunk_variants,
    }
    plan = Plan.of(
        phenotypes=inputs.phenotypes.columns,
        people=tuple(people),
        n_variants=genotypes.n_variants,
        partition_variants=partition_size(
            n_variants=genotypes.n_variants,
            n_phenotypes=len(people),
            wanted=inputs.config.partition_variants,
            **sizes,
        ),
        genotypes=tuple(map(str, genotypes.paths)),
        parameters=inputs.parameters(),
        held_bytes=genotypes.held_bytes if isinstance(genotypes, JoinedGenotypes) else 0,
        on_x=on_x,
        **sizes,
    )
    return plan, builder


def choose_workers(config: ScanConfig, task_bytes: int, shared_bytes: int = 0) -> int:
    """Return how many tasks may run at once, on this machine if no other is named.

    Parameters
    ----------
    config : ScanConfig
    task_bytes : int
        Memory of one task.
    shared_bytes : int, default 0
        Memory that all tasks share.

    Returns
    -------
    int
        0 where a running scheduler knows.

    Raises
    ------
    InputError
        If the memory limit cannot be read or not even one task fits into it, or the description of
        a cluster is wrong.
    """
    if config.scheduler is not None:
        return RunningScheduler(config.scheduler).most_workers
    if config.cluster is not None:
        return read_cluster_file(config.cluster).most_workers
    wanted = config.workers or available_cores()
    if config.memory_limit is None:
        limit = psutil.virtual_memory().available
    else:
        try:
            limit = parse_bytes(config.memory_limit)
        except ValueError:
            raise InputError(
                f"memory_limit must be a size as 16GiB or 500MB, not '{config.memory_limit}'"
            ) from None
    fitting = int((limit - shared_bytes) // task_bytes)
    if fitting < 1:
        raise InputError(
            f"one task needs {(task_bytes + shared_bytes) / 2**20:,.0f} MiB, more than the "
            f"{limit / 2**20:,.0f} MiB there are; make the genotype dataset with smaller "
            "--chunk-variants, or use fewer random effects"
        )
    if fitting < wanted:
        logger.warning("%d instead of %d workers: memory holds no more tasks", fitting, wanted)
    return min(wanted, fitting)


def write_store(
    inputs: Inputs, plan: Plan, builder: CohortBuilder, *, replace: bool = False
) -> ResultStore:
    """Fit the null models and make the store, all of it or, whatever happens, nothing.

    Parameters
    ----------
    inputs : Inputs
    plan : Plan
    builder : CohortBuilder
    replace : bool, default False
        Whether a store that stands at the output is replaced, once the new one is whole.

    Raises
    ------
    InputError
        If a null model cannot be fitted or the store cannot be written.
    """
    assert inputs.config.output is not None
    pin_threads()
    output, options = inputs.config.output, fit_options(plan)
    with staged_store(output, replace=replace) as unfinished:
        store = ResultStore.create(
            unfinished,
            phenotypes=plan.phenotypes,
            n_variants=plan.n_variants,
            chunk_variants=plan.partition_variants,
            variables=result_variables(
                random_effects=inputs.random_effects is not None,
                sandwich=bool(inputs.config.sandwich),
                likelihood_ratio=bool(inputs.config.likelihood_ratio),
                trait_unit=inputs.cohort.transform.unit,
                haploid=inputs.haploid,
                info=options.info,
                hwe=options.hwe,
                interaction=inputs.environment is not None,
            ),
            attributes=_provenance(inputs, plan),
            plan=plan.to_json(),
        )
        if inputs.selection.rows is not None:
            store.put_genotype_rows(inputs.selection.rows)
        _write_coordinates(store, inputs.genotypes)
        contigs = sorted({contig_key(c) for c in inputs.genotypes.contigs})
        for name in plan.phenotypes:
            cohort, offsets = _cohort(inputs, builder, name, announce=False)
            _write_null_models(inputs, cohort, offsets, contigs, store)
        store.seal()
    return ResultStore.open(output)


def fit_options(plan: Plan) -> FitOptions:
    """Return the options of the per-variant fits, as the plan holds them."""
    p = plan.parameters
    return FitOptions(
        min_maf=p["min_maf"],
        min_mac=p["min_mac"],
        max_missing=p["max_missing"],
        inference=Inference(
            observed=p["se"] == "observed",
            sandwich=p["sandwich"],
            likelihood_ratio=p["likelihood_ratio"],
            interaction=p.get("interaction") is not None,
        ),
        screen=p["screen"],
        refine_below=p["refine_below"] or 0.0,
        # What a store of before does not know of was not asked for.
        min_info=p.get("min_info") or 0.0,
        min_hwe_p=p.get("hwe") or 0.0,
        info=plan.model.dosages or p.get("min_info") is not None,
        hwe=p.get("hwe") is not None,
    )


def _cohort(
    inputs: Inputs, builder: CohortBuilder, name: str, *, announce: bool = True
) -> tuple[Cohort, Offsets | None]:
    """Assemble the people of a phenotype, and see that all is known of them that is needed."""
    offsets = None if inputs.offsets is None else inputs.offsets.read(name)
    also = {} if offsets is None else {"not_predicted": offsets.available}
    exposure = inputs.exposure
    if exposure is not None:
        also["environment_missing"] = np.isfinite(exposure)
    cohort = builder.build(name, announce=announce, restrictions=also)
    if exposure is not None:
        cohort = with_environment(
            cohort,
            str(inputs.config.interaction),
            exposure[cohort.samples],
            in_variance=bool(inputs.config.interaction_variance),
        )
    if inputs.sex is not None:
        ids = inputs.genotypes.samples.individual_id
        check_sex(cohort, inputs.kinds, inputs.sex, ids)
    if offsets is not None:
        for kind in inputs.kinds:
            offsets.row(kind.contig)
    return cohort, offsets


def _write_null_models(
    inputs: Inputs,
    cohort: Cohort,
    offsets: Offsets | None,
    contigs: list[str],
    store: ResultStore,
) -> None:
    """Fit and store all null models of a phenotype, the default and those of some chromosomes."""
    sex = inputs.genotypes.samples.sex if inputs.sex is None else inputs.sex.codes
    keys: dict[Kind, str] = {}
    default: NullModel | None = None
    effects: RandomEffects | None = None
    shared = ""
    for wanted in wanted_null_models(cohort, inputs.kinds, sex, inputs.sex_on_x, offsets):
        people = wanted.cohort
        if default is not None or (offsets is not None and wanted.kinds):
            contigs = sorted({contig_key(kind.contig) for kind in wanted.kinds})
        if default is not None:
            keys.update(dict.fromkeys(wanted.kinds, wanted.key))
        if default is None or not np.array_equal(people.samples, default.samples):
            shared, effects = _random_effects(inputs, people, contigs, store)
        null, covariates = _null_model(inputs, people, contigs, effects, wanted.key)
        attributes = {
            **_who_and_what(people, covariates),
            "random_effects": shared,
            "serves": [[kind.contig, kind.ploidy.name] for kind in wanted.kinds],
        }
        group = store.null_group(cohort.phenotype, wanted.key)
        write_null_model(group, null, attributes, default)
        default = default or null
    assert default is not None
    regions, codes = (inputs.regions, sex) if inputs.haploid else (None, None)
    serving = Serving(keys, regions, codes)
    write_serving(store.null_group(cohort.phenotype), serving, default.samples)


def _random_effects(
    inputs: Inputs, cohort: Cohort, contigs: list[str], store: ResultStore
) -> tuple[str, RandomEffects | None]:
    """Return the random effects of a phenotype as the store has them, after their name there."""
    if inputs.random_effects is None:
        return "", None
    effects = inputs.random_effects.for_people(cohort.samples, cohort.phenotype)
    # Of a single chromosome, nothing is left when it is left out: the null fit says so.
    left_out = contigs if inputs.loco and len(set(effects.contigs)) > 1 else ()
    parent = store.group("random_effects")
    name = write_random_effects(parent, effects, effects.set_names(left_out))
    return name, read_random_effects(store.group(f"random_effects/{name}"))


def _null_model(
    inputs: Inputs,
    cohort: Cohort,
    contigs: list[str],
    effects: RandomEffects | None,
    where: str,
) -> tuple[NullModel, CovariateFit]:
    null, covariates = fit_null(
        cohort,
        effects,
        seed_mode=inputs.config.covariate_mode == "seed",
        left_out=contigs if inputs.loco else (),
    )
    logger.info(
        "%s%s: null model fitted, log-likelihood %.2f%s",
        cohort.phenotype,
        f" on {where}" if where else "",
        null.fits[""].log_likelihood,
        "" if effects is None else f", random variance {null.fits[''].random_variance:.4g}",
    )
    return null, covariates


def _write_coordinates(store: ResultStore, genotypes: Genotypes) -> None:
    for start in range(0, genotypes.n_variants, _COORDINATE_ROWS):
        table = genotypes.variants(start, min(start + _COORDINATE_ROWS, genotypes.n_variants))
        store.write_variants(
            start,
            {
                "variant_id": table.variant_id,
                "contig": table.contig,
                "position": table.position,
                "effect_allele": table.effect_allele,
                "other_allele": table.other_allele,
            },
        )


def _provenance(inputs: Inputs, plan: Plan) -> dict[str, Any]:
    """Return the attributes of the store: what was run, on what, with which software."""
    seed_mode = inputs.config.covariate_mode == "seed"
    return {
        "run_id": uuid.uuid4().hex,
        "run_status": "incomplete",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "parameters": dict(plan.parameters),
        "inputs": {
            "genotypes": plan.genotypes[0] if len(plan.genotypes) == 1 else list(plan.genotypes),
            **{
                name: str(getattr(inputs.config, name))
                for name in (
                    "phenotypes",
                    "mean_covariates",
                    "variance_covariates",
                    "random_effects",
                    "keep",
                    "remove",
                    "condition_list",
                    "extract",
                    "exclude",
                    "sex_table",
                    "offset",
                )
                if getattr(inputs.config, name) is not None
            },
        },
        "software": {
            "hlmm_scan": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _VERSIONED},
        },
        "effects_per": "copy of effect_allele",
        "effect_scale": (
            "null residual over its per-person null standard deviation (covariate mode seed): not "
            "comparable with effects of other modes"
            if seed_mode
            else inputs.cohort.transform.scale
        ),
        "log_likelihood_of": (
            "the null residual over its per-person null standard deviation"
            if seed_mode
            else f"the phenotype as analysed: {inputs.cohort.transform.scale}"
        ),
    }


def _who_and_what(cohort: Cohort, covariates: CovariateFit) -> Mapping[str, Any]:
    return {
        "people": len(cohort),
        "people_in_genotypes": cohort.n_reference,
        "dropped": dict(cohort.dropped),
        "phenotyped_but_not_in_genotypes": cohort.not_in_genotypes,
        "covariate_fit": covariates.to_json(),
    }


def _sha(table: Table | None) -> str | None:
    return None if table is None else table.sha256
