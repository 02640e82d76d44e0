"""The command line: every command parses, calls one function, and reports.

Heavy imports stand inside the commands, so that ``--help`` is instant. Importing the modules of
commands puts these under ``cli``, in the order of the help.
"""

from hlmm_scan.cli import genotypes, scanning, state, fitting, after  # noqa: F401, I001
from hlmm_scan.cli.ending import main
from hlmm_scan.cli.root import cli

__all__ = ["cli", "main"]
