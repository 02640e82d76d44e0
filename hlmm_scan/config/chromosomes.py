"""Where people are haploid, and by which sex."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hlmm_scan.config.declared import Group, option


@dataclass(frozen=True)
class Chromosomes(Group):
    """Where people are haploid, and by which sex."""

    title: ClassVar[str] = "Chromosomes X, Y and MT"

    haploid: bool | None = option(
        None,
        "yes_no",
        "Take males as haploid on X and Y, and everybody in mitochondria. --no-haploid: every "
        "chromosome is diploid.",
    )
    autosomes: int | None = option(
        None,
        "whole",
        "Autosomes of the species: chromosomes of the next four numbers are X, Y, XY "
        "(pseudo-autosomal) and MT. Default: 22.",
    )
    genome_build: str | None = option(
        None,
        "name",
        "GRCh37 (hg19) or GRCh38 (hg38): where X and Y are pseudo-autosomal. Needed only where "
        "variants lie there.",
    )
    sex_table: Path | None = option(
        None, "path", "Table of sex (1 male, 2 female), in place of the genotypes' own."
    )
    sex_on_x: bool | None = option(
        None, "yes_no", "Sex as covariate of mean and variance on X. Default: yes."
    )
