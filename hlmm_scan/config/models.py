"""What is fitted at every variant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hlmm_scan.config.declared import Group, option
from hlmm_scan.errors import InputError
from hlmm_scan.storage import Place

DEFAULT_NULL_MODE_REFINE_THRESHOLD = 1e-3
COVARIATE_MODES = ("joint", "null", "seed")
METHODS = ("mle", "score")
INFORMATION = ("expected", "observed")


@dataclass(frozen=True)
class Models(Group):
    """What is fitted at every variant."""

    title: ClassVar[str] = "Models and tests"

    covariate_mode: str = option(
        "joint",
        "choice",
        "joint: refit all covariates at every variant. null: keep them at the fit without a "
        "variant, project the genotype on them, screen as --method score does, and refit what is "
        "below --refine-threshold (0.001 unless given). seed: the 2018 script's shortcut, in its "
        "units.",
        choices=COVARIATE_MODES,
    )
    method: str = option(
        "mle",
        "choice",
        "mle: maximum likelihood at every variant. score: one step from the null model, many times "
        "faster where there are covariates or random effects; status 'screened'.",
        choices=METHODS,
    )
    refine_threshold: float | None = option(
        None,
        "number",
        "Refit by maximum likelihood the screened variants of which any test has a smaller p; "
        "status 'refined'. Default: none with --method score.",
        low=0,
        high=1,
    )
    random_effects: Place | None = option(
        None,
        "store",
        "Variant ids, one a line, or another genotype dataset: random effects (HLMM). "
        "Default: none (HLM).",
    )
    loco: bool | None = option(
        None,
        "yes_no",
        "Leave the test variant's chromosome out of the random effects. Default: where they span "
        "two chromosomes or more.",
    )
    offset: Path | None = option(
        None,
        "path",
        "Predictions from the other chromosomes: a store that polygenic made, regenie's "
        "_pred.list, or a table with a column for every phenotype.",
    )
    offset_as: str = option(
        "subtract",
        "choice",
        "subtract: take predictions out of the phenotype. covariate: let the mean fit them.",
        choices=("subtract", "covariate"),
    )
    offset_units: str | None = option(
        None,
        "choice",
        "What a prediction of 1 is: residual-sd, one standard deviation of the phenotype about "
        "its mean covariates; phenotype, one of its units. Default: the first for regenie's "
        "files, the second for the others.",
        choices=("residual-sd", "phenotype"),
    )
    interaction: str | None = option(
        None,
        "name",
        "Environment whose product with the genotype is in the mean: a column of the mean or "
        "variance covariates, or of the phenotypes (which is then none of them).",
    )
    interaction_variance: bool | None = option(
        None, "yes_no", "The environment as covariate of the variance, too."
    )
    se: str | None = option(
        None,
        "choice",
        "Information the standard errors come from. Default: expected; in seed mode as in 2018.",
        choices=INFORMATION,
    )
    sandwich: bool | None = option(
        None, "yes_no", "Also standard errors and tests by the sandwich estimator."
    )
    likelihood_ratio: bool | None = option(
        None, "yes_no", "Also likelihood-ratio tests of either effect given the other, and of both."
    )

    def check(self) -> None:
        """Refuse what does not go together."""
        if self.loco is not None and self.random_effects is None:
            raise InputError(
                "loco needs random_effects: without them there is nothing to leave out"
            )
        if self.interaction is None and self.interaction_variance is not None:
            raise InputError("interaction_variance needs interaction")
        if self.interaction is not None:
            for name, wrong in (
                ("random_effects", self.random_effects is not None),
                ("covariate_mode null or seed", self.covariate_mode != "joint"),
                ("method score", self.method != "mle"),
                ("likelihood_ratio", bool(self.likelihood_ratio)),
            ):
                if wrong:
                    raise InputError(f"interaction and {name} do not go together")
        if self.refine_threshold is not None and not self.screens:
            raise InputError(
                "refine_threshold needs method score or covariate_mode null: otherwise every "
                "variant is fitted by maximum likelihood"
            )

    @property
    def screens(self) -> bool:
        """Whether variants get one step from the null model before anything else."""
        return self.method == "score" or self.covariate_mode == "null"

    @property
    def refine_below(self) -> float:
        """p below which a screened variant is refitted; 0 for none."""
        if self.refine_threshold is not None:
            return self.refine_threshold
        return DEFAULT_NULL_MODE_REFINE_THRESHOLD if self.covariate_mode == "null" else 0.0
