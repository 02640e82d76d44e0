"""Where a scan stands, and whether files are as they were written."""

from __future__ import annotations

import json

import click

from hlmm_scan import storage
from hlmm_scan.cli.root import EXIT_CODES, STORE, cli
from hlmm_scan.errors import HlmmScanError


@cli.command(section="The scan")
@click.argument("results", type=STORE)
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
@click.option("--verify", "reread", is_flag=True, help="Read every finished partition again.")
def status(results: storage.Place, as_json: bool, reread: bool) -> None:
    """Say what of a scan, or of a polygenic background, is done, missing or failed."""
    from tqdm import tqdm

    from hlmm_scan.polygenic.state import background_state
    from hlmm_scan.results.mark import REMEDY
    from hlmm_scan.results.store import ResultStore
    from hlmm_scan.scan.preparation import preparing
    from hlmm_scan.scan.state import listed, scan_state, verify
    from hlmm_scan.staging import stands

    background = background_state(results)
    if background is not None:
        click.echo(json.dumps(background.to_json(), indent=2) if as_json else str(background))
        return
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
                f"({listed(damaged)}); {REMEDY}"
            )
        click.echo(f"verified    {verdict}")


@cli.command(epilog=EXIT_CODES, section="The scan")
@click.argument("place", metavar="DATASET_ORSTORE", type=STORE)
def verify(place: storage.Place) -> None:
    """Read a genotype dataset, a result store or a background again and say what of it is damaged.

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
