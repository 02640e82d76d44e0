"""Every stored variable in one registry: name, dims, dtype, unit and meaning.

The registry makes the arrays, their attributes and the table in the documentation; nothing else
in the package spells a stored name's type or description.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np

STORE_FORMAT = 2
"""Version of the result store's layout: what a scan writes and resumes."""

WALD_FORMAT = 1
"""Version whose results are still read; its p-values are Wald tests, see :data:`SCORE_TESTS`."""


class Status(IntEnum):
    """What became of one variant × phenotype.

    From 5 to 9 the estimates are kept where they exist but are not to be trusted; from 10 on the
    row holds no estimates, and the first reason in this order is given.
    """

    PENDING = 0
    OK = 1
    SCREENED = 2
    REFINED = 3
    RANDOM_VARIANCE_AT_ZERO = 4
    NOT_CONVERGED = 5
    NOT_UNIQUE = 6
    UNBOUNDED = 7
    MONOMORPHIC = 10
    LOW_MAF = 11
    LOW_MAC = 12
    HIGH_MISSING = 13
    LOW_INFO = 14
    HWE = 15
    STRAND_UNKNOWN = 16
    FREQUENCIES_DIFFER = 17
    NO_COHORT = 18
    TASK_FAILED = 20

    @property
    def label(self) -> str:
        """The name as it stands in ``flag_meanings``."""
        return self.name.lower()


class ScoreFlag(IntFlag):
    """What to know of a row's score tests: bits of ``test_flags``."""

    ADD_AT_BOUND = 1
    VAR_AT_BOUND = 2
    AV_AT_BOUND = 4
    VAR_UNKNOWN = 8

    @property
    def label(self) -> str:
        """The name as it stands in ``flag_meanings``."""
        return str(self.name).lower()


@dataclass(frozen=True)
class Variable:
    """One stored array.

    Attributes
    ----------
    name : str
    dims : tuple of str
    dtype : str
        numpy dtype name, or ``"str"`` for variable-length text.
    unit : str
        Unit in words; empty where there is none.
    description : str
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    description: str

    @property
    def fill_value(self) -> Any:
        """What a chunk that was never written reads as."""
        if self.dtype == "str":
            return ""
        if self.name == "call_dosage":
            return np.iinfo(np.uint16).max
        return np.nan if np.dtype(self.dtype).kind == "f" else 0

    def attributes(self) -> dict[str, Any]:
        """Attributes stored with the array (xarray shows them)."""
        attributes: dict[str, Any] = {"description": self.description}
        if self.unit:
            attributes["units"] = self.unit
        if self.name == "status":
            attributes["flag_values"] = [int(s) for s in Status]
            attributes["flag_meanings"] = " ".join(s.label for s in Status)
        if self.name == "test_flags":
            attributes["flag_masks"] = [int(flag) for flag in ScoreFlag]
            attributes["flag_meanings"] = " ".join(flag.label for flag in ScoreFlag)
        return attributes


_TEST = ("phenotype", "variant")
TRAIT_UNIT = "phenotype units"
"""Unit of a phenotype that is analysed as its table has it."""
_LOG_VARIANCE = "log variance per allele"
_P = "-log10 p"

COORDINATES: tuple[Variable, ...] = (
    Variable("phenotype", ("phenotype",), "str", "", "Name of the phenotype"),
    Variable("variant_id", ("variant",), "str", "", "Variant identifier of the source"),
    Variable("contig", ("variant",), "str", "", "Chromosome as the source names it"),
    Variable("position", ("variant",), "int32", "base pairs", "1-based position"),
    Variable("effect_allele", ("variant",), "str", "", "Allele counted; PLINK A1, VCF ALT"),
    Variable("other_allele", ("variant",), "str", "", "The other allele; PLINK A2, VCF REF"),
)

RESULTS: tuple[Variable, ...] = (
    Variable("n", _TEST, "int32", "people", "People used for this variant and phenotype"),
    Variable(
        "effect_allele_frequency", _TEST, "float64", "", "Frequency of the effect allele in them"
    ),
    Variable("add", _TEST, "float64", TRAIT_UNIT, "Additive effect on the mean per effect allele"),
    Variable("add_se", _TEST, "float64", TRAIT_UNIT, "Standard error of add"),
    Variable(
        "add_neg_log10_p",
        _TEST,
        "float64",
        _P,
        "Score test of the additive effect on the mean (saddlepoint of the residuals' own "
        "distribution)",
    ),
    Variable("var", _TEST, "float64", _LOG_VARIANCE, "Log-linear effect on the variance"),
    Variable("var_se", _TEST, "float64", _LOG_VARIANCE, "Standard error of var"),
    Variable(
        "var_neg_log10_p",
        _TEST,
        "float64",
        _P,
        "Score test of the effect on the variance, whatever the additive effect (saddlepoint); "
        "NaN where the trait has two values",
    ),
    Variable("add_var_cov", _TEST, "float64", "", "Covariance of add and var"),
    Variable(
        "av_neg_log10_p",
        _TEST,
        "float64",
        _P,
        "2-df score test of both effects nought (double saddlepoint)",
    ),
    Variable(
        "test_flags",
        _TEST,
        "int8",
        "",
        "What to know of the score tests, a sum of flag_masks. at_bound: the score is beyond what "
        "the residuals can reach, and the bound of its p is given; var_unknown: the trait has two "
        "values, so that its variance is a function of its mean",
    ),
    Variable("log_likelihood", _TEST, "float64", "", "Maximum of the log-likelihood"),
    Variable("status", _TEST, "int8", "", "What became of this variant and phenotype"),
)

SCORE_TESTS = ("add_neg_log10_p", "var_neg_log10_p", "av_neg_log10_p", "interaction_neg_log10_p")
"""Score tests of a scan. In a store of :data:`WALD_FORMAT` these names hold the model's Wald
tests, which are made from estimates and errors where they are asked for, under their own name."""


def _companions(suffix: str, how: str) -> tuple[Variable, ...]:
    """Standard errors by another covariance of the same estimates."""
    return (
        Variable(f"add_se_{suffix}", _TEST, "float64", TRAIT_UNIT, f"Standard error of add, {how}"),
        Variable(f"var_se_{suffix}", _TEST, "float64", _LOG_VARIANCE, f"The same of var, {how}"),
        Variable(f"add_var_cov_{suffix}", _TEST, "float64", "", f"Their covariance, {how}"),
    )


ROBUST_RESULTS = _companions(
    "robust",
    "by the residuals' third and fourth moments: for intervals and meta-analysis where these are "
    "not normal and carriers are many; that of add is the model's",
)

SANDWICH_RESULTS = _companions(
    "sandwich",
    "by the sandwich estimator: where the variance is not log-linear in the genotype and carriers "
    "are many",
)

LIKELIHOOD_RATIO_RESULTS: tuple[Variable, ...] = (
    Variable(
        "add_lrt_neg_log10_p", _TEST, "float64", _P, "1-df likelihood-ratio test of add, var in"
    ),
    Variable(
        "var_lrt_neg_log10_p", _TEST, "float64", _P, "1-df likelihood-ratio test of var, add in"
    ),
    Variable(
        "av_lrt_neg_log10_p", _TEST, "float64", _P, "2-df likelihood-ratio test of add and var"
    ),
)

RANDOM_EFFECT_RESULTS: tuple[Variable, ...] = (
    Variable(
        "random_variance", _TEST, "float64", f"{TRAIT_UNIT} squared", "Variance of random effects"
    ),
    Variable(
        "random_variance_se",
        _TEST,
        "float64",
        f"{TRAIT_UNIT} squared",
        "Standard error of random_variance; NaN where it lies on its boundary 0",
    ),
    Variable(
        "random_variance_fraction",
        _TEST,
        "float64",
        "",
        "random_variance over itself plus the mean residual variance",
    ),
)

DISPERSION_RESULTS: tuple[Variable, ...] = (
    Variable(
        "dispersion",
        _TEST,
        "float64",
        _LOG_VARIANCE,
        "Part of var that the relation of variance to mean does not explain: var − slope·add",
    ),
    Variable("dispersion_se", _TEST, "float64", _LOG_VARIANCE, "Standard error of dispersion"),
    Variable("dispersion_neg_log10_p", _TEST, "float64", _P, "1-df Wald test of dispersion"),
)

DERIVED_RESULTS = DISPERSION_RESULTS
"""Variables over (phenotype, variant) that no scan writes: they are worked out from a complete
store, and are in it or not; partitions and their checksums know nothing of them."""

INFO_RESULTS: tuple[Variable, ...] = (
    Variable("info", _TEST, "float64", "", "Info score of the imputation; 1 for hard calls"),
)

HWE_RESULTS: tuple[Variable, ...] = (
    Variable("hwe_neg_log10_p", _TEST, "float64", _P, "Exact test of Hardy-Weinberg proportions"),
)

_PER_ENVIRONMENT = "phenotype units per allele and unit of the environment"


def _interaction_se(suffix: str, how: str) -> Variable:
    description = f"Standard error of interaction{how}"
    return Variable(f"interaction_se{suffix}", _TEST, "float64", _PER_ENVIRONMENT, description)


INTERACTION_RESULTS: tuple[Variable, ...] = (
    Variable(
        "interaction",
        _TEST,
        "float64",
        _PER_ENVIRONMENT,
        "Effect of genotype × environment on the mean; add is that at the mean environment",
    ),
    _interaction_se("", ""),
    Variable("interaction_neg_log10_p", _TEST, "float64", _P, "1-df test of interaction"),
    _interaction_se("_robust", ", by the residuals' third and fourth moments"),
)

INTERACTION_SANDWICH_RESULTS = (_interaction_se("_sandwich", ", sandwich"),)

HAPLOID_RESULTS: tuple[Variable, ...] = (
    Variable(
        "haploid_heterozygous",
        _TEST,
        "int32",
        "people",
        "Heterozygous calls of haploid people (males on X and Y, mitochondria), set missing",
    ),
)


def _heterogeneity(name: str, of: str) -> tuple[Variable, ...]:
    return (
        Variable(f"q_{name}", _TEST, "float64", "", f"Cochran's Q of {of} between cohorts"),
        Variable(f"i2_{name}", _TEST, "float64", "", "Share of that Q beyond chance (I²)"),
        Variable(f"q_{name}_neg_log10_p", _TEST, "float64", _P, "χ² test of that Q"),
    )


POOLED_RESULTS: tuple[Variable, ...] = (
    Variable("n_cohorts", _TEST, "int32", "cohorts", "Cohorts pooled"),
    Variable(
        "direction",
        _TEST,
        "str",
        "",
        "Signs of add in the cohorts, a slash, those of var; ? where a cohort knows none",
    ),
    *_heterogeneity("add", "add"),
    *_heterogeneity("var", "var"),
    *_heterogeneity("av", "both effects with their covariance"),
)
"""What a meta-analysis has beside the variables of a scan."""

GENOTYPES: tuple[Variable, ...] = (
    Variable("variant_contig", ("variants",), "int16", "", "Index into contig_id"),
    Variable("variant_position", ("variants",), "int32", "base pairs", "1-based position"),
    Variable("variant_id", ("variants",), "str", "", "Variant identifier of the source"),
    Variable(
        "variant_allele",
        ("variants", "alleles"),
        "str",
        "",
        "Other allele (PLINK A2, VCF REF), then effect allele (PLINK A1, VCF ALT)",
    ),
    Variable(
        "variant_genotype_counts",
        ("variants", "genotypes"),
        "int32",
        "people",
        "People with 0, 1 and 2 copies of the effect allele; nearest to it where there are dosages",
    ),
    Variable("variant_missing_count", ("variants",), "int32", "people", "People without a call"),
    Variable(
        "variant_effect_allele_frequency",
        ("variants",),
        "float64",
        "",
        "Frequency of the effect allele among called people; NaN where nobody is called",
    ),
    Variable("variant_missingness", ("variants",), "float64", "", "Fraction of people uncalled"),
    Variable("contig_id", ("contigs",), "str", "", "Chromosomes as the source names them"),
    Variable("sample_id", ("samples",), "str", "", "Individual id (IID)"),
    Variable("sample_family_id", ("samples",), "str", "", "Family id (FID)"),
    Variable("sample_sex", ("samples",), "int8", "", "1 male, 2 female, 0 unknown"),
    Variable(
        "call_genotype_packed",
        ("variants", "packed_samples"),
        "uint8",
        "",
        "Four 2-bit calls a byte, PLINK order: 00 two effect alleles, 01 missing, 10 one, 11 none",
    ),
    Variable(
        "call_dosage",
        ("variants", "samples"),
        "uint16",
        "",
        "Copies of the effect allele in steps of the attribute unit; 65535 missing",
    ),
    Variable(
        "variant_has_dosages",
        ("variants",),
        "bool",
        "",
        "Whether the variant's calls stand in call_dosage, else in call_genotype_packed",
    ),
    Variable(
        "variant_info",
        ("variants",),
        "float64",
        "",
        "Imputation information (IMPUTE's) over all people; NaN where it is not known",
    ),
)

BACKGROUND: tuple[Variable, ...] = (
    Variable("phenotype", ("phenotype",), "str", "", "Name of the phenotype"),
    Variable("contig", ("contig",), "str", "", "Chromosome left out; X stands for no autosome"),
    Variable("sample_id", ("samples",), "str", "", "Individual id (PLINK IID)"),
    Variable("sample_family_id", ("samples",), "str", "", "Family id (PLINK FID)"),
    Variable(
        "prediction",
        ("phenotype", "contig", "samples"),
        "float32",
        TRAIT_UNIT,
        "Polygenic prediction of the phenotype's residual on its mean covariates, without the "
        "chromosome; NaN for people who were not analysed",
    ),
    Variable(
        "whole_genome_prediction",
        ("phenotype", "samples"),
        "float32",
        TRAIT_UNIT,
        "The same with all chromosomes",
    ),
    Variable(
        "cv_r2",
        ("phenotype",),
        "float64",
        "",
        "Share of the residual's variance predicted in cross-validation, by all chromosomes",
    ),
    Variable(
        "heritability",
        ("phenotype",),
        "float64",
        "",
        "Share that the predictors are shrunken by, chosen by cross-validation; 0 where nothing is "
        "predicted",
    ),
    Variable(
        "residual_sd",
        ("phenotype",),
        "float64",
        TRAIT_UNIT,
        "Standard deviation of the phenotype about its mean covariates (divisor n - c)",
    ),
    Variable("n", ("phenotype",), "int32", "people", "People analysed"),
)
"""Of a store of polygenic predictions."""

BACKGROUND_OF_VARIANCE: tuple[Variable, ...] = (
    Variable(
        "log_variance_prediction",
        ("phenotype", "contig", "samples"),
        "float32",
        "log variance",
        "Polygenic prediction of the log-variance about its covariates, without the chromosome",
    ),
    Variable(
        "log_variance_cv_r2",
        ("phenotype",),
        "float64",
        "",
        "Share of the variance of the variance scores predicted in cross-validation",
    ),
    Variable(
        "log_variance_heritability",
        ("phenotype",),
        "float64",
        "",
        "Share that the predictors of the log-variance are shrunken by; 0 where nothing is "
        "predicted",
    ),
)
"""What a store has beside, where the log-variance is predicted too."""


def result_variables(
    *,
    random_effects: bool,
    sandwich: bool = False,
    likelihood_ratio: bool = False,
    info: bool = False,
    hwe: bool = False,
    trait_unit: str = TRAIT_UNIT,
    haploid: bool = False,
    interaction: bool = False,
) -> tuple[Variable, ...]:
    """Variables of a result store over (phenotype, variant).

    Parameters
    ----------
    random_effects : bool
        Whether the model has random effects (HLMM).
    sandwich, likelihood_ratio, info, hwe : bool, default False
        Whether these were asked for.
    trait_unit : str, default "phenotype units"
        Unit of the phenotypes as analysed.
    haploid : bool, default False
        Whether there are variants on X, Y or mitochondria.
    interaction : bool, default False
        Whether the interaction with an environment was asked for.
    """
    variables = (
        RESULTS
        + ROBUST_RESULTS
        + SANDWICH_RESULTS * sandwich
        + LIKELIHOOD_RATIO_RESULTS * likelihood_ratio
        + RANDOM_EFFECT_RESULTS * random_effects
        + INFO_RESULTS * info
        + HWE_RESULTS * hwe
        + HAPLOID_RESULTS * haploid
        + INTERACTION_RESULTS * interaction
        + INTERACTION_SANDWICH_RESULTS * (interaction and sandwich)
    )
    return tuple(replace(v, unit=v.unit.replace(TRAIT_UNIT, trait_unit)) for v in variables)


_POOLED = (
    *("n", "effect_allele_frequency", "add", "add_se", "add_neg_log10_p"),
    *("var", "var_se", "var_neg_log10_p", "add_var_cov", "av_neg_log10_p"),
    *("test_flags", "status"),
)


def pooled_variables(trait_unit: str = TRAIT_UNIT) -> tuple[Variable, ...]:
    """Variables of a meta-analysis over (phenotype, variant).

    Parameters
    ----------
    trait_unit : str, default "phenotype units"
        Unit of the phenotypes as analysed.
    """
    variables = (*(v for v in RESULTS if v.name in _POOLED), *POOLED_RESULTS)
    return tuple(replace(v, unit=v.unit.replace(TRAIT_UNIT, trait_unit)) for v in variables)


ALL_RESULTS = (
    *result_variables(
        random_effects=True,
        sandwich=True,
        likelihood_ratio=True,
        info=True,
        hwe=True,
        haploid=True,
        interaction=True,
    ),
    *POOLED_RESULTS,
)


def find(name: str, variables: Iterable[Variable]) -> Variable:
    """Return the variable of that name.

    Raises
    ------
    KeyError
        If the registry has no such name.
    """
    for variable in variables:
        if variable.name == name:
            return variable
    raise KeyError(name)


def documentation_rows() -> Iterator[tuple[str, str, str]]:
    """Yield (name, unit, description) of every result variable, in stored order."""
    for variable in (*COORDINATES, *ALL_RESULTS, *DERIVED_RESULTS):
        yield variable.name, variable.unit, variable.description
