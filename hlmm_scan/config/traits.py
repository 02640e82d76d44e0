"""What is done to the phenotypes before they are analysed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hlmm_scan.config.declared import Group, option

RANKS_OF = ("residuals", "phenotype")


@dataclass(frozen=True)
class Traits(Group):
    """What is done to the phenotypes before they are analysed."""

    title: ClassVar[str] = "Traits"

    log_transform: bool | None = option(
        None, "yes_no", "Take the natural logarithm of the phenotypes."
    )
    outlier_sd: float | None = option(
        None,
        "number",
        "Leave people out who are further than this many standard deviations from the mean of "
        "their phenotype; once, after the logarithm and before ranks.",
    )
    rint: bool | None = option(
        None, "yes_no", "Replace phenotypes by the normal quantiles of their ranks."
    )
    rint_of: str | None = option(
        None,
        "choice",
        "With --rint, ranks of residuals on the mean covariates, which stay in the scan (default), "
        "or of the phenotype itself.",
        choices=RANKS_OF,
    )
