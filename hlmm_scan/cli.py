"""The command line: every command parses, calls one function, and reports.

Heavy imports stand inside the commands, so that ``--help`` is instant.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO, cast

import click

from hlmm_scan import __version__, logs, signals, storage, surroundings
from hlmm_scan.config import INFORMATION, ScanConfig, absolute, compose, load_config, to_yaml
from hlmm_scan.errors import HlmmScanError, InfrastructureError, InputError
from hlmm_scan.shown import one_line, printable

PROGRAM = "hlmm-scan"
EXIT_CODES = """\b
Exit codes:
  0        complete
  1        partitions missing or failed; all others are done
  2        bad input, a full or read-only disk: trying again without a change cannot help
  3        another run holds the store
  4        workers or storage lost: the same command again goes on
  130 143  interrupted, terminated: a scan or conversion goes on when it is given again
"""
_FILE = click.Path(path_type=Path)
_STORE = storage.place


class _Command(click.Command):
    """A command that takes an option once, unless it says that it takes several."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an option given again: all but the last would be dropped without a word."""
        given = self.make_parser(ctx).parse_args(args=list(args))[2]
        for option in {o.name: o for o in given if isinstance(o, click.Option)}.values():
            once = not (option.multiple or option.count or option.is_flag or option.is_eager)
            if once and sum(other is option for other in given) > 1:
                raise click.UsageError(f"{option.opts[0]} is given more than once", ctx)
        return super().parse_args(ctx, args)


class _Group(click.Group):
    command_class = _Command


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.option("--log-file", type=_FILE, help="Also log to this file.")
@click.option(
    "--log-json", type=_FILE, help="Also log to this file as JSON, a line for every partition too."
)
def cli(verbose: bool, log_file: Path | None, log_json: Path | None) -> None:
    """Genome scans for effects on the mean and the variance of a trait."""
    logs.configure(verbose, log_file, log_json)
    surroundings.prepare()


# convert and simulate ---------------------------------------------------------------------


@cli.command()
@click.argument("sources", metavar="IN...", nargs=-1, required=True, type=_FILE)
@click.option("-o", "--output", type=_STORE, required=True, help="Genotype dataset to write.")
@click.option("--chunk-variants", type=int, help="Variants per chunk. Default: 8 MiB of calls.")
@click.option("--overwrite", is_flag=True, help="Replace a genotype dataset of hlmm-scan.")
@click.option("--sample", type=_FILE, help="The .sample of BGEN files. Default: the one beside.")
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

    IN: PLINK .bed, .bgen, .pgen, .vcf, .vcf.gz, .bcf, or VCF-Zarr stores; one, or one per
    chromosome. A conversion that was killed goes on when the same command is given again.
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


@cli.command()
@click.option("-o", "--output", type=_FILE, required=True, help="Folder to write to.")
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


# scan -------------------------------------------------------------------------------------


def _scan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one flag for every field of ScanConfig, and ``--config``."""
    command = _options(command, [f.name for f in fields(ScanConfig)])
    return click.option(
        "--config", "config_file", type=_FILE, help="YAML file with any of these options."
    )(command)


def _options(command: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Give a command the flags of some fields of ScanConfig, in the order of ScanConfig."""
    for f in reversed(fields(ScanConfig)):
        if f.name not in names:
            continue
        dashed = f.name.replace("_", "-")
        kind, text = f.metadata["kind"], f.metadata["help"]
        settings: dict[str, Any] = {"help": text, "default": None}
        flags = [f"--{dashed}", *([f.metadata["short"]] if "short" in f.metadata else [])]
        if kind in ("path", "paths"):
            settings["type"] = _FILE
            settings["multiple"] = kind == "paths"
        elif kind in ("store", "stores"):
            settings["type"] = _STORE
            settings["multiple"] = kind == "stores"
        elif kind == "choice":
            settings["type"] = click.Choice(f.metadata["choices"])
        elif kind in ("whole", "number"):
            settings["type"] = int if kind == "whole" else float
            if f.default is not None:
                settings["help"] = f"{text} Default: {f.default}."
        elif kind == "yes_no":
            flags = [f"--{dashed}/--no-{dashed}"]
        elif kind == "names":
            settings["multiple"] = True
        command = click.option(*flags, f.name, **settings)(command)
    return command


def _compose(config_file: Path | None, flags: dict[str, Any]) -> ScanConfig:
    return compose(load_config(config_file) if config_file else {}, flags)


_RETRY_FAILED = click.option(
    "--retry-failed", is_flag=True, help="Do partitions again that failed before."
)


@cli.command(epilog=EXIT_CODES)
@_scan_options
@click.option("--overwrite", is_flag=True, help="Delete an existing result store first.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--prepare", "only_prepare", is_flag=True, help="Stop before the first task.")
@_RETRY_FAILED
def scan(
    config_file: Path | None,
    overwrite: bool,
    dry_run: bool,
    only_prepare: bool,
    retry_failed: bool,
    **flags: Any,
) -> None:
    """Scan variants for effects on mean and variance. The same command again resumes."""
    config = _compose(config_file, flags)
    if not (dry_run or only_prepare or config.workers == 1 or config.scheduler or config.cluster):
        from hlmm_scan.scan import fork_server

        fork_server.start()  # before anything heavy is imported here
    from hlmm_scan.scan import run

    if dry_run:
        click.echo(run.dry_run(config))
    elif only_prepare:
        store = run.prepare(config, overwrite=overwrite)
        click.echo(f"{store.path}: prepared")
        _warn(run.warnings_at_the_end(store))
    else:
        store = run.scan(config, overwrite=overwrite, retry_failed=retry_failed)
        counts = store.attributes["status_counts"]
        click.echo(f"{store.path}: complete")
        from hlmm_scan.schema import Status

        for label in (s.label for s in Status):  # filters in the order in which they apply
            if label in counts:
                click.echo(f"  {label:<26}{counts[label]:>12,}")
        _warn(run.warnings_at_the_end(store))


def _warn(lines: Sequence[str]) -> None:
    """Log what is not to be overlooked, below all else."""
    for line in lines:
        logging.getLogger("hlmm_scan").warning("WARNING: %s", line)


@cli.command(epilog=EXIT_CODES)
@click.argument("results", type=_STORE)
@click.option("--index", type=int, help="Which slice, from 0. Default: as the Job or array says.")
@click.option(
    "--count", type=int, help="Number of slices. Default: HLMM_SCAN_SHARD_COUNT or array."
)
@_RETRY_FAILED
def shard(results: storage.Place, index: int | None, count: int | None, retry_failed: bool) -> None:
    """Do one slice of a prepared scan, without a scheduler: Kubernetes Jobs, SLURM arrays.

    Index and count default to those of an indexed Job (JOB_COMPLETION_INDEX, and
    HLMM_SCAN_SHARD_COUNT for the count) or of a SLURM array. Shards run in any order, again and at
    once, on any machines; `finalise` then says whether all is there.
    """
    from hlmm_scan.results.store import ResultStore
    from hlmm_scan.scan.shard import run_shard, this_shard

    this = this_shard(index, count, os.environ)
    n_partitions = run_shard(ResultStore.open(results), this, retry_failed=retry_failed)
    click.echo(f"{results}: {this}: {n_partitions:,} partitions, all done")


@cli.command(epilog=EXIT_CODES)
@click.argument("results", type=_STORE)
def finalise(results: storage.Place) -> None:
    """Verify that nothing is missing and write the completion mark."""
    from hlmm_scan.results.store import ResultStore
    from hlmm_scan.scan import run

    store = run.finalise(ResultStore.open(results))
    click.echo(f"{store.path}: complete")
    _warn(run.warnings_at_the_end(store))


@cli.command()
@click.argument("results", type=_STORE)
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
@click.option("--verify", "reread", is_flag=True, help="Read every finished partition again.")
def status(results: storage.Place, as_json: bool, reread: bool) -> None:
    """Say what of a scan is done, missing or failed."""
    from tqdm import tqdm

    from hlmm_scan.results.store import ResultStore
    from hlmm_scan.scan.preparation import preparing
    from hlmm_scan.scan.state import listed, scan_state, verify
    from hlmm_scan.staging import stands

    unfinished = None if stands(results) else preparing(results)
    if unfinished is not None:
        click.echo(json.dumps(unfinished.to_json(), indent=2) if as_json else str(unfinished))
        return
    store = ResultStore.open(results)
    state = scan_state(store)
    damaged = verify(store) if reread else None
    if as_json:
        extra = {} if damaged is None else {"damaged": damaged}
        click.echo(json.dumps({**state.to_json(), **extra}, indent=2))
        return
    click.echo(f"{state.path}: {'complete' if state.complete else 'incomplete'}")
    click.echo(
        f"partitions  {state.partitions_done:,} done, {len(state.missing):,} missing, "
        f"{len(state.failed):,} failed of {state.partitions:,}"
    )
    click.echo(
        f"tests       {state.tests_done:,} written of {state.tests:,}: "
        f"{state.tests_done - state.tests_filtered:,} fitted, {state.tests_filtered:,} filtered"
    )
    for label, count in state.statuses.items():
        click.echo(f"  {label:<26}{count:>12,}")
    if state.rate:
        click.echo(f"rate        {state.rate:,.0f} tests/s, {state.seconds:,.1f} s of task time")
    if state.missing and state.seconds_left:
        click.echo(f"time left   {tqdm.format_interval(state.seconds_left)} at that rate")
    if state.peak_bytes:
        click.echo(f"memory      up to {state.peak_bytes / 2**20:,.0f} MiB of a worker's own")
    if state.workers:
        busiest, most = max(state.workers.items(), key=lambda item: item[1])
        click.echo(f"workers     {len(state.workers):,}, most by {busiest}: {most:,} partitions")
    for software, count in state.software.items():
        click.echo(f"software    {count:,} partitions under {software}, not as the store says")
    if state.retries:
        click.echo(f"retries     {state.retries:,} transient errors")
    for number, cost in enumerate(state.slowest):
        click.echo(f"{'' if number else 'slowest':<12}{cost}")
    if state.mismatched:
        click.echo(
            f"MISMATCH    {len(state.mismatched)} partitions hold other numbers of variants than "
            f"planned ({listed(state.mismatched)}); start the scan anew with --overwrite"
        )
    for index, error in list(state.failed.items())[:10]:
        click.echo(f"failed      partition {index}: {error}")
    if state.failed:
        click.echo("            the same scan or shard with --retry-failed does these again")
    if damaged is not None:
        verdict = "every value is as written"
        if damaged:
            verdict = (
                f"DAMAGED: {len(damaged)} partitions do not hold what was written "
                f"({listed(damaged)}); restore the store from a copy, or start the scan anew "
                "with --overwrite"
            )
        click.echo(f"verified    {verdict}")


@cli.command(epilog=EXIT_CODES)
@click.argument("place", metavar="DATASET_OR_STORE", type=_STORE)
def verify(place: storage.Place) -> None:
    """Read a genotype dataset or a result store again and say what of it is damaged.

    Recomputes every checksum, and of a dataset its fingerprint. Exit code 0 where all is as it was
    written, 1 where something is not.
    """
    from hlmm_scan.scan.wholeness import verify_store

    verdict = verify_store(place)
    for line in verdict.damage:
        click.echo(line)
    for line in verdict.notes:
        click.echo(f"{verdict.path}: {line}")
    if verdict.damage:
        raise HlmmScanError(f"{verdict.path}: damaged, in {len(verdict.damage):,} places")
    click.echo(f"{verdict.path}: whole, {verdict.files:,} files are as they were written")


# after the scan, and without one -----------------------------------------------------------

_TEST_NAMES = "Tests: add, var, av, each also as add_wald, add_wald_robust, add_lrt…"


def _tests_option(use: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that chooses tests, the same in every command."""
    return click.option("--test", "tests", multiple=True, help=f"{_TEST_NAMES} {use} Repeatable.")


def _wrote(output: Path, what: str) -> None:
    """Say what a file holds now, where that does not end up in the file itself."""
    from hlmm_scan.outputs import goes_elsewhere

    click.echo(f"{output}: {what}", err=goes_elsewhere(output))


@cli.command()
@click.argument("results", type=_STORE)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    required=True,
    help="File to write (.gz compresses text); for gwas-ssf a folder.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["tsv", "csv", "parquet", "tabix", "gwas-ssf", "regenie", "seed"]),
    help="tsv, csv, parquet, tabix: every variable under its own name, tabix sorted and indexed by "
    "position. gwas-ssf: for the GWAS catalog, a file for each phenotype and test. regenie: its "
    "columns, a row a test. seed: the 2018 script's columns. Default: parquet if the name ends in "
    ".parquet, csv if in .csv or .csv.gz, else tsv.",
)
@click.option("--phenotype", multiple=True, help="Repeatable. Default: all.")
@click.option(
    "--test",
    multiple=True,
    help=f"{_TEST_NAMES} gwas-ssf and regenie hold these, by default add, var, av and, if it was "
    "computed, dispersion; the others get columns of those that are not stored. Repeatable.",
)
@click.option(
    "--metadata", type=_FILE, help="For gwas-ssf: YAML file with genome_assembly, ancestry, …"
)
def export(
    results: storage.Place,
    output: Path,
    kind: str | None,
    phenotype: Sequence[str],
    test: Sequence[str],
    metadata: Path | None,
) -> None:
    """Write results as files that other programs read."""
    from hlmm_scan.api.results import export as write_rows

    rows = write_rows(
        results, output, format=kind, phenotype=phenotype, test=test, metadata=metadata
    )
    _wrote(output, f"{rows:,} rows")


@cli.command()
@click.argument("results", type=_STORE)
@click.option("-o", "--output", type=_STORE, required=True, help="Result store to write.")
def publish(results: storage.Place, output: storage.Place) -> None:
    """Copy a complete result store without the people in it.

    RESULTS holds each person's trait, covariates and sex, which tasks need. The copy holds results,
    what was run, and summaries of the null models; report, hits, export, calibration, dispersion
    and status read it, check does not.
    """
    from hlmm_scan.results.publish import publish as write_published
    from hlmm_scan.results.store import ResultStore

    store = write_published(ResultStore.open(results), output)
    n_phenotypes, n_variants = store.array("status").shape
    click.echo(f"{output}: {n_variants:,} variants × {n_phenotypes} phenotypes, nobody in it")


@cli.command()
@click.argument("results", type=_STORE)
@click.option("--phenotype", multiple=True, help="Default: all.")
@_tests_option("Default: the default tests and what is stored of likelihood-ratio tests.")
@click.option("--json", "as_json", is_flag=True, help="For a machine, quantiles included.")
def calibration(
    results: storage.Place, phenotype: Sequence[str], tests: Sequence[str], as_json: bool
) -> None:
    """Say which p-values of each trait can be trusted: its shape, lambda of every test."""
    from hlmm_scan.analysis.calibration import COLUMNS
    from hlmm_scan.api.results import calibration as calibrate

    found = calibrate(results, phenotype=phenotype, test=tests)
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found]))
        return
    for one in found:
        click.echo(f"{one.phenotype}, {one.people:,} people. {one.verdict.text}")
        lines = [COLUMNS, *(test.cells for test in one.tests)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            padded = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
            click.echo(f"  {'  '.join(padded).rstrip()}")


def _fit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags about people, transforms and covariates."""
    people = ("keep", "remove", "log_transform", "outlier_sd", "rint", "rint_of")
    covariates = (
        "mean_covariate",
        "variance_covariate",
        "categorical",
        "reference",
        "min_level_count",
        "mean_terms",
        "variance_terms",
    )
    return _options(command, [*people, *covariates])


@cli.command()
@click.argument("results", type=_STORE)
@click.option(
    "--method",
    type=click.Choice(["invariant", "published"]),
    default="invariant",
    show_default=True,
    help="invariant: to allele coding, robust covariance. published: Huber regression of 2018.",
)
@click.option(
    "--exclude-region",
    "regions",
    multiple=True,
    help="Not asked for the slope: CHR:FROM-TO, CHR, mhc-grch37 or mhc-grch38. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
def dispersion(results: storage.Place, method: Any, regions: Sequence[str], as_json: bool) -> None:
    """Write dispersion effects into a complete result store.

    They are the part of a variance effect that the relation of the trait's variance to its mean
    does not explain: var less slope times add.
    """
    from hlmm_scan.api.results import dispersion as write_dispersion

    slopes = write_dispersion(results, method=method, exclude_region=regions)
    if as_json:
        click.echo(json.dumps([s.to_json() for s in slopes], indent=2))
        return
    for slope in slopes:
        if slope.fit is None:
            click.echo(f"{slope.phenotype}: no slope: {slope.error}")
            continue
        click.echo(
            f"{slope.phenotype}: slope {slope.fit.slope:.6g} ± {slope.fit.slope_se:.3g}, noise "
            f"inflation {slope.fit.noise_inflation:.4f}, {slope.fit.n_variants:,} variants, "
            f"{slope.fit.n_outliers:,} of them set aside"
        )


@cli.command()
@click.argument("results", type=_STORE)
@click.option("-o", "--output", type=_FILE, required=True, help="HTML file to write.")
@click.option("--phenotype", multiple=True, help="Default: all.")
@_tests_option("Shown in Manhattan plots and tables, one of add, of var and of av.")
@click.option("--threshold", type=float, default=5e-8, show_default=True, help="p-value of a hit.")
@click.option(
    "--genotypes", type=_STORE, multiple=True, help="Those scanned, if they moved: for linkage."
)
@click.option("--checks/--no-checks", default=True, help="Check variance effects of hits.")
def report(results: storage.Place, output: Path, tests: Sequence[str], **options: Any) -> None:
    """Write pictures, hits and what was run as one HTML file that opens offline."""
    from hlmm_scan.api.results import report as write_report

    size = write_report(results, output, test=tests, **options)
    _wrote(output, f"{size / 2**20:.1f} MiB")


@cli.command()
@click.argument("results", type=_STORE)
@click.option("-o", "--output", type=_FILE, help="Table to write.")
@click.option("--phenotype", multiple=True, help="Default: all.")
@click.option("--threshold", type=float, default=5e-8, show_default=True, help="Largest p.")
@_tests_option("Which find hits. Default: add, var, av and, if it was computed, dispersion.")
@click.option(
    "--distance",
    type=int,
    default=250_000,
    show_default=True,
    help="Base pairs to either side within which weaker variants belong to a hit.",
)
@click.option(
    "--r2",
    type=float,
    default=0.1,
    show_default=True,
    help="They must also have this linkage with it, where the genotypes are at hand.",
)
@click.option(
    "--genotypes", type=_STORE, multiple=True, help="Those scanned. Default: where they were."
)
@click.option("--checks/--no-checks", default=True, help="Look for what fakes variance effects.")
@click.option(
    "--most-checked",
    type=int,
    default=100,
    show_default=True,
    help="Variants of a phenotype, the strongest first, that are checked.",
)
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
def hits(
    results: storage.Place,
    output: Path | None,
    tests: Sequence[str],
    as_json: bool,
    **options: Any,
) -> None:
    """List independent hits of each test, and what could fake their variance effects."""
    from hlmm_scan.analysis.rows import chosen_tests
    from hlmm_scan.analysis.tables import to_records, write_table
    from hlmm_scan.api.results import hits as find_hits
    from hlmm_scan.results.store import ResultStore

    store = ResultStore.open(results)
    table = find_hits(store, test=tests, **options)
    if output is not None:
        write_table(table, output)
    if as_json:
        click.echo(json.dumps(to_records(table)))
        return
    if output is not None:
        _wrote(output, f"{len(table):,} hits")
        return
    asked = chosen_tests(store, tests)
    for hit in table.to_dict("records"):
        p = ", ".join(f"{test.name} {hit[test.column]:.2f}" for test in asked)
        flags = ",".join(filter(None, (hit["flags"], hit["calibration_flags"])))
        flags = f"  ({flags})" if flags else ""
        click.echo(
            f"{hit['phenotype']}  {hit['test']:<4}{hit['variant_id']}  "
            f"{hit['contig']}:{hit['position']:,}  -log10 p: {p}{flags}"
        )


@cli.command()
@click.argument("results", type=_STORE)
@click.option(
    "--variants", type=_FILE, required=True, help="Ids, one a line, or a table that hits wrote."
)
@click.option("-o", "--output", type=_FILE, help="Table to write.")
@click.option("--phenotype", multiple=True, help="Default: all.")
@click.option("--permutations", type=int, default=10_000, show_default=True, help="At most.")
@click.option(
    "--half-width",
    type=float,
    default=0.3,
    show_default=True,
    help="Half the 95% interval of a permutation p, over p, at which to stop.",
)
@click.option("--bootstraps", type=int, default=0, help="Data sets drawn for standard errors.")
@click.option(
    "--noise",
    type=click.Choice(["residual", "normal"]),
    default="residual",
    show_default=True,
    help="Of those data sets: residuals drawn again, or normal.",
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--genotypes", type=_STORE, multiple=True, help="Those scanned. Default: where they were."
)
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
def check(
    results: storage.Place,
    variants: Path,
    output: Path | None,
    phenotype: Sequence[str],
    genotypes: Sequence[storage.Place],
    as_json: bool,
    **options: Any,
) -> None:
    """Give permutation p-values of the reported tests of chosen variants."""
    from hlmm_scan.analysis.check import check as run_check
    from hlmm_scan.analysis.check import read_variants
    from hlmm_scan.analysis.tables import to_records, write_table
    from hlmm_scan.results.inputs import scanned_genotypes
    from hlmm_scan.results.publish import require_people
    from hlmm_scan.results.store import ResultStore

    ids = read_variants(variants)
    store = ResultStore.open(results)
    require_people(store, "check")
    dataset = scanned_genotypes(store, genotypes)
    if dataset is None:
        raise InputError(f"{results}: the genotypes are not where they were; name --genotypes")
    table = run_check(store, ids, dataset, phenotype, **options)
    if output is not None:
        write_table(table, output)
    if as_json:
        click.echo(json.dumps(to_records(table)))
        return
    if output is not None:
        _wrote(output, f"{len(table):,} rows")
        return
    for row in table.to_dict("records"):
        tests = ", ".join(
            f"{t} {row[f'{t}_p_permutation']:.2g} "
            f"[{row[f'{t}_p_permutation_low']:.2g}, {row[f'{t}_p_permutation_high']:.2g}] "
            f"({10 ** -row[f'{t}_neg_log10_p']:.2g})"
            for t in ("add", "var", "av")
        )
        click.echo(f"{row['phenotype']}  {row['variant_id']}  p permuted [95%] (scan): {tests}")


@cli.command()
@click.option("--phenotypes", type=_FILE, required=True, help="Phenotype table.")
@click.option("--phenotype", help="Column. Default: the first.")
@click.option(
    "--mean-covariates", type=_FILE, multiple=True, help="Table of covariates of the mean."
)
@click.option(
    "--variance-covariates",
    type=_FILE,
    multiple=True,
    help="Table of covariates of the log-variance.",
)
@click.option("--random-effects", type=_STORE, help="Genotype dataset, or ids in --genotypes.")
@click.option("--genotypes", type=_STORE, help="Genotype dataset for a list of ids.")
@click.option(
    "--se", "information", type=click.Choice(INFORMATION), default="expected", show_default=True
)
@click.option("--missing-value", "missing_values", multiple=True, default=("NA",))
@_fit_options
@click.option("-o", "--output", type=_FILE, help="Table of effects to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the fit for a machine.")
def fit(phenotypes: Path, output: Path | None, as_json: bool, **options: Any) -> None:
    """Fit one model without a test variant: covariate effects and random variance."""
    from hlmm_scan.null.standalone import fit_tables, write_effects

    result = fit_tables(
        phenotypes, **{name: value for name, value in options.items() if value is not None}
    )
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


@cli.group(cls=_Group)
def config() -> None:
    """Show or check a configuration."""


@config.command("show")
@_scan_options
def config_show(config_file: Path | None, **flags: Any) -> None:
    """Print the whole configuration of a run, defaults included, as YAML with absolute paths."""
    click.echo(to_yaml(absolute(_compose(config_file, flags))), nl=False)


@config.command("check")
@click.argument("file", type=_FILE)
def config_check(file: Path) -> None:
    """Check a configuration and the files it names; nothing is written."""
    from hlmm_scan.scan import run

    run.dry_run(compose(load_config(file), {}))
    click.echo(f"{file}: good")


# errors and signals -------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors become one line on standard error.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal of another encoding lacks
    try:
        with signals.heard(), _printable_output():
            cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except HlmmScanError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # a group without a command: its help, laid out
            click.echo(message, err=True)
            return InputError.exit_code
        return _fail(" ".join(message.split()), InputError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _stopped("interrupted", 130)
    except signals.Terminated:
        return _stopped("terminated", 143)
    except SystemExit:  # click, where the reader of our output went away, as `head` does
        return 0
    except Exception as error:
        return _unexpected(error)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust
            raise
        return _unexpected(error)
    return 0


def _unexpected(error: BaseException) -> int:
    """Tell an error that nobody has words for in one line; its traceback goes to the logs."""
    logger = logging.getLogger("hlmm_scan")
    if logger.handlers:  # else Python prints it
        logger.error("where the error came from", exc_info=error, extra={"origin": True})
    if isinstance(error, OSError) and error.strerror is not None:
        # Of what is read; what is written has its own words.
        code = (InfrastructureError if storage.transient(error) else InputError).exit_code
        where = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{where}{error.strerror}", code)
    if isinstance(error, MemoryError):
        why = f" ({error})" if str(error) else ""
        return _fail(f"there is not enough memory{why}", InputError.exit_code)
    if "no locator available" in str(error):  # numba's words
        return _fail(
            "no folder to keep compiled kernels in can be written; set NUMBA_CACHE_DIR to one",
            InputError.exit_code,
        )
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _fail(
        f"unexpected error, {what}; -v or --log-file FILE shows where it came from: please report "
        "it",
        InputError.exit_code,
    )


@contextmanager
def _printable_output() -> Iterator[None]:
    """Let nothing reach the terminal that it would obey, nor fail at what it cannot show."""
    before = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # a stand-in of a caller's
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout = cast(TextIO, _Printable(before))
    try:
        yield
    finally:
        sys.stdout = before


class _Printable:
    """A stream that shows control characters as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text) if isinstance(text, str) else text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _fail(message: str, code: int) -> int:
    click.echo(f"{PROGRAM}: {one_line(message)}", err=True)
    return code


def _stopped(word: str, code: int) -> int:
    # Zarr's event loop would complain of the reads and writes that are left behind.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    kept = signals.GOES_ON * signals.work_is_kept()
    return _fail(f"{word}{kept}", code)
