"""Before the scan: genotypes converted or made up, and the polygenic background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hlmm_scan import signals, storage
from hlmm_scan.cli.flags import background_options
from hlmm_scan.cli.root import FILE, STORE, cli
from hlmm_scan.cli.sections import FIRST, Option
from hlmm_scan.errors import InputError


@cli.command(section="Before the scan")
@click.argument("sources", metavar="IN...", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", type=STORE, required=True, help="Genotype dataset to write.")
@click.option("--chunk-variants", type=int, help="Variants per chunk. Default: 8 MiB of calls.")
@click.option("--overwrite", is_flag=True, help="Replace a genotype dataset of hlmm-scan.")
@click.option("--sample", type=FILE, help="The .sample of BGEN files. Default: the one beside.")
@click.option(
    "--bgen-effect-allele",
    type=click.Choice(["second", "first"]),
    default="second",
    show_default=True,
    help="Of BGEN files: second where the reference allele is first (UK Biobank).",
)
@click.option(
    "--id-delim",
    help="What parts FID and IID where the file has them as one id: _ in what plink2 exports.",
)
@click.option("--workers", type=int, help="Processes. Default: all cores.")
@click.option("--scheduler", help="Address of a running Dask scheduler, instead of --workers.")
def convert(
    sources: Sequence[Path],
    output: storage.Place,
    chunk_variants: int | None,
    overwrite: bool,
    sample: Path | None,
    bgen_effect_allele: Any,
    id_delim: str | None,
    workers: int | None,
    scheduler: str | None,
) -> None:
    """Convert genotype files to a Zarr genotype dataset.

    IN: PLINK .bed, .bgen, .pgen, .vcf, .vcf.gz, .bcf, VCF-Zarr stores or crosses of R/qtl2 (.zip);
    one, or one per chromosome. A conversion that was killed goes on when the same command is given
    again.
    """
    from hlmm_scan.api.genotypes import convert as run_convert
    from hlmm_scan.genotypes.dataset import summary
    from hlmm_scan.scan.executors import available_cores

    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1, not {workers}")
    with signals.work_kept():
        dataset = run_convert(
            sources,
            output,
            chunk_variants=chunk_variants,
            overwrite=overwrite,
            sample=sample,
            bgen_effect_allele=bgen_effect_allele,
            id_delim=id_delim,
            workers=workers or available_cores(),
            scheduler=scheduler,
            progress=True,
        )
    click.echo(f"{output}: {summary(dataset)}")


@cli.command(section="Before the scan")
@click.option("-o", "--output", type=FILE, required=True, help="Folder to write to.")
@click.option("--model", type=click.Choice(["hlmm", "gamma"]), default="hlmm", show_default=True)
@click.option("--n-samples", type=int, default=2000, show_default=True, help="People.")
@click.option("--chromosomes", type=int, help="Default: 3; 1 in the gamma model.")
@click.option("--variants-per-chromosome", type=int, default=1000, show_default=True)
@click.option("--n-random-effects", type=int, default=300, show_default=True)
@click.option("--linkage", type=float, default=0.0, show_default=True, help="Between neighbours.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace files of an earlier simulation.")
def simulate(output: Path, **options: Any) -> None:
    """Simulate PLINK genotypes and a phenotype with known effects."""
    from hlmm_scan.simulate import simulate_cohort

    cohort = simulate_cohort(output, **options)
    for path in (*cohort.beds, cohort.phenotypes, cohort.covariates, cohort.truth):
        click.echo(path)
    if cohort.random_effects is not None:
        click.echo(cohort.random_effects)


@cli.command(section="Before the scan")
@background_options
@click.option(
    "-o",
    "--output",
    type=STORE,
    required=True,
    cls=Option,
    section=FIRST,
    help="Store of predictions to write.",
)
@click.option("--block-size", type=int, help="Variants of a block, about. Default: 1000.")
@click.option("--folds", type=int, help="Folds of people for cross-validation. Default: 5.")
@click.option("--variance/--no-variance", default=None, help="Predict the log-variance as well.")
@click.option("--overwrite", is_flag=True, help="Replace a background of hlmm-scan.")
def polygenic(
    genotypes: Sequence[storage.Place],
    phenotypes: Path | None,
    workers: int | None,
    scheduler: str | None,
    variance: bool | None,
    **options: Any,
) -> None:
    """Predict traits from the other chromosomes, for `scan --offset`.

    Stacked ridge regression: blocks of neighbouring variants, then all blocks but those of one
    chromosome. What was killed goes on when the same command is given again.
    """
    if not genotypes or phenotypes is None:
        raise InputError(f"--{'phenotypes' if genotypes else 'genotypes'} is required")
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1, not {workers}")
    given = {name: value for name, value in options.items() if value not in (None, ())}
    given["variance"] = bool(variance)
    if scheduler is not None:
        given["scheduler"] = scheduler
    from hlmm_scan.scan.executors import available_cores

    if scheduler is None or workers is not None:
        given["workers"] = workers or available_cores()
    if given.get("workers", 1) > 1:
        from hlmm_scan.scan import fork_server

        fork_server.start()  # before anything heavy is imported here
    from hlmm_scan.api.background import polygenic as make

    with signals.work_kept():
        found = make(list(genotypes), phenotypes, progress=True, **given)
    for name, row in found.to_frame().iterrows():
        told = f", of the variance scores {row['log_variance_cv_r2']:.4f}" if variance else ""
        click.echo(
            f"{name}: {int(row['n']):,} people, R² in cross-validation {row['cv_r2']:.4f}{told}"
        )
    click.echo(f"{found.path}: complete")
