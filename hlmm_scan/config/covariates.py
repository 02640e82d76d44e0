"""What covariates become, and variants that are covariates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hlmm_scan.config.declared import Group, option

DEFAULT_MIN_LEVEL_COUNT = 10


@dataclass(frozen=True)
class Covariates(Group):
    """What covariates become, and variants that are covariates."""

    title: ClassVar[str] = "Covariates"

    categorical: tuple[str, ...] = option(
        (),
        "names",
        "Covariate whose cells are levels although they are numbers; repeatable. Columns of words "
        "are so by themselves.",
    )
    reference: tuple[str, ...] = option(
        (),
        "names",
        "Reference level of a covariate, as centre=Leeds; repeatable. Default: the most common.",
    )
    min_level_count: int = option(
        DEFAULT_MIN_LEVEL_COUNT, "whole", "People that a level of its own needs."
    )
    mean_terms: tuple[str, ...] = option(
        (), "names", "Product of covariates in the mean, as sex:age or age^2; repeatable."
    )
    variance_terms: tuple[str, ...] = option(
        (), "names", "The same in the log-variance; repeatable."
    )
    condition: tuple[str, ...] = option(
        (),
        "names",
        "Id of a variant whose genotype is a covariate of mean and log-variance; repeatable.",
    )
    condition_list: Path | None = option(None, "path", "File of such ids, one a line.")
