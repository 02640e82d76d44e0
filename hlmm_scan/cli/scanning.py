"""The scan, whole or in steps, and its configuration."""

from __future__ import annotations

import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlmm_scan import storage
from hlmm_scan.cli.flags import scan_options
from hlmm_scan.cli.root import EXIT_CODES, FILE, STORE, cli
from hlmm_scan.cli.sections import Group
from hlmm_scan.config import ScanConfig, absolute, compose, load_config, to_yaml

if TYPE_CHECKING:
    from hlmm_scan.results.store import ResultStore


def _compose(config_file: Path | None, flags: dict[str, Any]) -> ScanConfig:
    return compose(load_config(config_file) if config_file else {}, flags)


_RETRY_FAILED = click.option(
    "--retry-failed", is_flag=True, help="Do partitions again that failed before."
)


@cli.command(epilog=EXIT_CODES, section="The scan")
@scan_options
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
    if dry_run or only_prepare:
        from hlmm_scan.scan import run

        if dry_run:
            click.echo(run.dry_run(config))
            return
        store = run.prepare(config, overwrite=overwrite)
        click.echo(f"{store.path}: prepared")
    else:
        store = _scanned(config, overwrite=overwrite, retry_failed=retry_failed)
        counts = store.attributes["status_counts"]
        click.echo(f"{store.path}: complete")
        from hlmm_scan.schema import Status

        for label in (s.label for s in Status):  # filters in the order in which they apply
            if label in counts:
                click.echo(f"  {label:<26}{counts[label]:>12,}")
    _warn(store)


def _scanned(config: ScanConfig, *, overwrite: bool, retry_failed: bool) -> ResultStore:
    """Scan as from Python, but with all cores where nothing is said."""
    from hlmm_scan.api.scanning import scan as run_scan
    from hlmm_scan.scan.executors import available_cores

    options: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(config)}
    if config.scheduler is None and config.cluster is None:
        options["workers"] = config.workers or available_cores()
    options |= {"overwrite": overwrite, "retry_failed": retry_failed, "progress": True}
    return run_scan(**options).store


def _warn(store: ResultStore) -> None:
    """Log what is not to be overlooked, below all else."""
    from hlmm_scan.scan.completion import warnings_at_the_end

    for line in warnings_at_the_end(store):
        logging.getLogger("hlmm_scan").warning("WARNING: %s", line)


@cli.command(epilog=EXIT_CODES, section="The scan")
@click.argument("results", type=STORE)
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


@cli.command(epilog=EXIT_CODES, section="The scan")
@click.argument("results", type=STORE)
def finalise(results: storage.Place) -> None:
    """Verify that nothing is missing and write the completion mark."""
    from hlmm_scan.results.store import ResultStore
    from hlmm_scan.scan import completion

    store = completion.finalise(ResultStore.open(results))
    click.echo(f"{store.path}: complete")
    _warn(store)


@cli.group(cls=Group, section="The scan")
def config() -> None:
    """Show or check a configuration."""


@config.command("show")
@scan_options
def config_show(config_file: Path | None, **flags: Any) -> None:
    """Print the whole configuration of a run, defaults included, as YAML with absolute paths."""
    click.echo(to_yaml(absolute(_compose(config_file, flags))), nl=False)


@config.command("check")
@click.argument("file", type=FILE)
def config_check(file: Path) -> None:
    """Check a configuration and the files it names; nothing is written."""
    from hlmm_scan.scan import run

    run.dry_run(compose(load_config(file), {}))
    click.echo(f"{file}: good")
