"""One scan as data: all its options, checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from hlmm_scan.config.chromosomes import Chromosomes
from hlmm_scan.config.covariates import Covariates
from hlmm_scan.config.declared import Group, check_value
from hlmm_scan.config.models import Models
from hlmm_scan.config.people import People
from hlmm_scan.config.running import Running
from hlmm_scan.config.study import Study
from hlmm_scan.config.traits import Traits
from hlmm_scan.config.variants import Variants
from hlmm_scan.errors import InputError
from hlmm_scan.storage import ObjectPath

GROUPS: tuple[type[Group], ...] = (
    *(Study, People, Traits, Covariates, Models, Variants, Chromosomes, Running),
)
"""In the order of the help."""

BACKGROUND_OPTIONS = frozenset(
    f.name
    for group in (Study, People, Traits, Covariates, Variants, Chromosomes)
    for f in fields(group)
) - {"hwe", "sex_on_x"} | {"workers", "scheduler"}
"""Options of a scan that say what a polygenic background is made of, or where."""


@dataclass(frozen=True)
class ScanConfig(
    Running, Chromosomes, Variants, Models, Covariates, Traits, People, Study
):  # dataclasses take fields from the last to the first
    """Everything a scan is asked for.

    Each field is a YAML key and, with dashes, a flag; its group says what it belongs to. A single
    genotype dataset, or table of covariates, may be given without a tuple.

    Raises
    ------
    InputError
        On a value out of range, a required one that is missing, or two that exclude each other.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata["kind"] in ("paths", "stores") and not isinstance(value, tuple):
                one = (value,) if isinstance(value, Path | ObjectPath) else tuple(value or ())
                object.__setattr__(self, f.name, one)
            check_value(f, value)
        for group in GROUPS:
            group.check(self)
        if self.covariate_mode == "seed" and (self.condition or self.condition_list):
            raise InputError(
                "condition needs covariate_mode joint or null: in seed mode covariates do not "
                "touch the genotype tested"
            )
