"""What is scanned: genotypes and tables in, a result store out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hlmm_scan.config.declared import Group, option
from hlmm_scan.errors import InputError
from hlmm_scan.storage import Place

DEFAULT_MISSING_VALUES = ("NA",)


@dataclass(frozen=True)
class Study(Group):
    """What is scanned: genotypes and tables in, a result store out."""

    title: ClassVar[str] = "Tables and their columns"

    genotypes: tuple[Place, ...] = option(
        (),
        "stores",
        "Genotype dataset made by convert (required); repeatable, as one per chromosome of the "
        "same people.",
        first=True,
    )
    phenotypes: Path | None = option(None, "path", "Phenotype table (required).", first=True)
    output: Place | None = option(
        None, "store", "Result store to write (required).", short="-o", first=True
    )
    phenotype: tuple[str, ...] = option(
        (),
        "names",
        "Column to scan, or several: 'prot_*', prot_1-prot_9; repeatable. Default: all but those "
        "named as covariates.",
        first=True,
    )
    mean_covariates: tuple[Path, ...] = option(
        (), "paths", "Table of covariates of the mean; repeatable, columns are joined.", first=True
    )
    variance_covariates: tuple[Path, ...] = option(
        (), "paths", "Table of covariates of the log-variance; repeatable.", first=True
    )
    mean_covariate: tuple[str, ...] = option(
        (),
        "names",
        "Column that is a covariate of the mean, or several: PC1-PC10, 'batch_*'; repeatable. Of "
        "--mean-covariates (default: all of its columns), or else of --phenotypes.",
    )
    variance_covariate: tuple[str, ...] = option(
        (),
        "names",
        "The same of the log-variance: of --variance-covariates, or else of the table that those "
        "of the mean are in.",
    )
    missing_value: tuple[str, ...] = option(
        DEFAULT_MISSING_VALUES,
        "names",
        "Text that means missing in tables, besides NA, NaN and empty; several with commas, as "
        "-9,-3, or repeated.",
    )
    strict: bool | None = option(
        None,
        "yes_no",
        "Refuse to scan where a phenotype cannot be analysed, or a covariate does not vary among "
        "its people. Default: these are left out, and told.",
    )

    def check(self) -> None:
        """Refuse a scan without genotypes, phenotypes or output, and names given twice."""
        for name in ("genotypes", "phenotypes", "output"):
            if not getattr(self, name):
                raise InputError(f"--{name} is required (or '{name}:' in the config file)")
        for name in ("phenotype", "mean_covariate", "variance_covariate"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"{name}: the same name is given twice")
        if len(set(self.genotypes)) < len(self.genotypes):
            raise InputError("genotypes: the same dataset is given twice")
