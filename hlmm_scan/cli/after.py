"""After the scan: tests judged, hits, dispersion effects, a report, tables for others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlmm_scan import storage
from hlmm_scan.cli.root import FILE, STORE, cli
from hlmm_scan.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_TEST_NAMES = "Tests: add, var, av, each also as add_wald, add_wald_robust, add_lrt…"


_PHENOTYPE = click.option(
    "--phenotype",
    multiple=True,
    help="Phenotype, or several: 'prot_*', prot_1-prot_9. Repeatable. Default: all.",
)


def _tests_option(use: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that chooses tests, the same in every command."""
    return click.option("--test", "tests", multiple=True, help=f"{_TEST_NAMES} {use} Repeatable.")


def _wrote(output: Path, what: str) -> None:
    """Say what a file holds now, where that does not end up in the file itself."""
    from hlmm_scan.outputs import goes_elsewhere

    click.echo(f"{output}: {what}", err=goes_elsewhere(output))


def _handed_over(table: pd.DataFrame, of: str, output: Path | None, as_json: bool) -> bool:
    """Write a table to a file, print it for a machine, or leave it to be printed for people."""
    from hlmm_scan.analysis.tables import to_records, write_table

    if output is not None:
        write_table(table, output)
    if as_json:
        click.echo(json.dumps(to_records(table)))
    elif output is not None:
        _wrote(output, f"{len(table):,} {of}")
    return as_json or output is not None


@cli.command(section="After the scan")
@click.argument("results", type=STORE)
@click.option(
    "-o",
    "--output",
    type=FILE,
    required=True,
    help="File to write (.gz compresses text); for gwas-ssf, and of a background, a folder.",
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
@_PHENOTYPE
@click.option(
    "--test",
    multiple=True,
    help=f"{_TEST_NAMES} gwas-ssf and regenie hold these, by default add, var, av and, if it was "
    "computed, dispersion; the others get columns of those that are not stored. Repeatable.",
)
@click.option(
    "--metadata", type=FILE, help="For gwas-ssf: YAML file with genome_assembly, ancestry, …"
)
def export(
    results: storage.Place,
    output: Path,
    kind: str | None,
    phenotype: Sequence[str],
    test: Sequence[str],
    metadata: Path | None,
) -> None:
    """Write results as files that other programs read.

    Of a polygenic background: regenie's .loco files and their list, in a folder.
    """
    from hlmm_scan.api.results import export as write_rows

    rows = write_rows(
        results, output, format=kind, phenotype=phenotype, test=test, metadata=metadata
    )
    _wrote(output, f"{rows:,} rows")


@cli.command(section="After the scan")
@click.argument("results", type=STORE)
@click.option("-o", "--output", type=STORE, required=True, help="Result store to write.")
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


@cli.command(section="After the scan")
@click.argument("results", type=STORE)
@_PHENOTYPE
@_tests_option("Default: the default tests and what is stored of likelihood-ratio tests.")
@click.option("--json", "as_json", is_flag=True, help="For a machine, quantiles included.")
def calibration(
    results: storage.Place, phenotype: Sequence[str], tests: Sequence[str], as_json: bool
) -> None:
    """Say which p-values of each trait can be trusted: its shape, lambda of every test."""
    from hlmm_scan.analysis.rejection import COLUMNS
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


@cli.command(section="After the scan")
@click.argument("results", type=STORE)
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


@cli.command(section="After the scan")
@click.argument("results", type=STORE)
@click.option("-o", "--output", type=FILE, required=True, help="HTML file to write.")
@_PHENOTYPE
@_tests_option("Shown in Manhattan plots and tables, one of add, of var and of av.")
@click.option("--threshold", type=float, default=5e-8, show_default=True, help="p-value of a hit.")
@click.option(
    "--genotypes", type=STORE, multiple=True, help="Those scanned, if they moved: for linkage."
)
@click.option("--checks/--no-checks", default=True, help="Check variance effects of hits.")
def report(results: storage.Place, output: Path, tests: Sequence[str], **options: Any) -> None:
    """Write pictures, hits and what was run as one HTML file that opens offline."""
    from hlmm_scan.api.results import report as write_report

    size = write_report(results, output, test=tests, **options)
    _wrote(output, f"{size / 2**20:.1f} MiB")


@cli.command(section="After the scan")
@click.argument("results", type=STORE)
@click.option("-o", "--output", type=FILE, help="Table to write.")
@_PHENOTYPE
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
    "--genotypes", type=STORE, multiple=True, help="Those scanned. Default: where they were."
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
    from hlmm_scan.api.results import hits as find_hits
    from hlmm_scan.results.store import ResultStore

    store = ResultStore.open(results)
    table = find_hits(store, test=tests, **options)
    if _handed_over(table, "hits", output, as_json):
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


@cli.command(section="After the scan")
@click.argument("results", type=STORE)
@click.option(
    "--variants", type=FILE, required=True, help="Ids, one a line, or a table that hits wrote."
)
@click.option("-o", "--output", type=FILE, help="Table to write.")
@_PHENOTYPE
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
    "--genotypes", type=STORE, multiple=True, help="Those scanned. Default: where they were."
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
    if _handed_over(table, "rows", output, as_json):
        return
    for row in table.to_dict("records"):
        tests = ", ".join(
            f"{t} {row[f'{t}_p_permutation']:.2g} "
            f"[{row[f'{t}_p_permutation_low']:.2g}, {row[f'{t}_p_permutation_high']:.2g}] "
            f"({10 ** -row[f'{t}_neg_log10_p']:.2g})"
            for t in ("add", "var", "av")
        )
        click.echo(f"{row['phenotype']}  {row['variant_id']}  p permuted [95%] (scan): {tests}")


@cli.command(section="After the scan")
@click.argument("cohorts", type=STORE, nargs=-1, required=True)
@click.option("-o", "--output", type=STORE, required=True, help="Result store to write.")
@click.option("--phenotype", default="", help="Which one, where cohorts have several.")
@click.option("--same-strand", is_flag=True, help="All alleles are named on one strand.")
@click.option(
    "--max-frequency-difference",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="Variants whose effect allele frequencies differ by more between cohorts are not pooled.",
)
@click.option("--same-unit", is_flag=True, help="Effects on the mean are in one unit all the same.")
@click.option("--leave-one-out", is_flag=True, help="Also pool all cohorts but one, each in turn.")
@click.option("--overwrite", is_flag=True, help="Replace the result store at --output.")
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
def meta(
    cohorts: Sequence[storage.Place], output: storage.Place, as_json: bool, **options: Any
) -> None:
    """Pool COHORTS: both effects with their covariance, and their tests.

    Cohorts are result stores (of scan, publish or meta), exports of them as text or Parquet, or
    GWAS-SSF files. report, hits, export and calibration read what is written.
    """
    from hlmm_scan.api.pooling import meta as pool

    store = pool(cohorts, output, **options).store
    attributes = store.attributes
    if as_json:
        told = {key: attributes[key] for key in ("cohorts", "status_counts")}
        click.echo(json.dumps({"output": str(output), **told}))
        return
    n_variants = store.array("status").shape[1]
    people = sum(cohort["people"] for cohort in attributes["cohorts"])
    click.echo(f"{output}: {n_variants:,} variants, {len(cohorts)} cohorts, {people:,} people")
