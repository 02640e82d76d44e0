"""One model without a test variant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from hlmm_scan.cli.flags import fit_options
from hlmm_scan.cli.root import FILE, STORE, cli
from hlmm_scan.cli.sections import FIRST, Option
from hlmm_scan.config.models import INFORMATION, Models
from hlmm_scan.errors import InputError

_of_the_model = partial(click.option, cls=Option, section=Models.title)


@cli.command(section="Without a test variant")
@click.option(
    "--phenotype", cls=Option, section=FIRST, help="Column to fit. Default: the first of them."
)
@fit_options
@_of_the_model("--random-effects", type=STORE, help="Genotype dataset, or ids in --genotypes.")
@_of_the_model("--genotypes", type=STORE, help="Genotype dataset for a list of ids.")
@_of_the_model(
    "--se",
    "information",
    type=click.Choice(INFORMATION),
    default="expected",
    show_default=True,
    help="Information the standard errors come from.",
)
@click.option(
    "-o", "--output", type=FILE, cls=Option, section="Output", help="Table of effects to write."
)
@click.option("--json", "as_json", is_flag=True, help="Print the fit for a machine.")
def fit(
    phenotypes: Path | None,
    missing_value: Sequence[str],
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit one model without a test variant: covariate effects and random variance."""
    if phenotypes is None:
        raise InputError("--phenotypes is required")
    from hlmm_scan.null.standalone import fit_tables, write_effects

    given = {name: value for name, value in options.items() if value is not None}
    result = fit_tables(phenotypes, missing_values=missing_value, **given)
    if output is not None:
        write_effects(result, output)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
        return
    click.echo(f"log-likelihood {result.log_likelihood:.6f}, status {result.status}")
    for effect in result.effects:
        click.echo(
            f"{effect.part:<13}{effect.name:<20}{effect.estimate:>14.6g} "
            f"± {effect.standard_error:<12.6g} -log10 p {effect.neg_log10_p:.3f}"
        )
