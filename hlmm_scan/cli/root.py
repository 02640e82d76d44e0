"""The command that all others are under, and what they share."""

from __future__ import annotations

from pathlib import Path

import click

from hlmm_scan import __version__, logs, surroundings
from hlmm_scan.cli.sections import Group, PlaceType

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
FILE = click.Path(path_type=Path)
STORE = PlaceType()


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.option("--log-file", type=FILE, help="Also log to this file.")
@click.option(
    "--log-json", type=FILE, help="Also log to this file as JSON, a line for every partition too."
)
def cli(verbose: bool, log_file: Path | None, log_json: Path | None) -> None:
    """Genome scans for effects on the mean and the variance of a trait."""
    logs.configure(verbose, log_file, log_json)
    surroundings.prepare()
