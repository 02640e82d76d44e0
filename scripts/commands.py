"""Whole commands, timed, for the scripts that measure."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def stop(message: str) -> NoReturn:
    """End the script with one line and exit status 2."""
    print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr)
    sys.exit(2)


def run(command: Sequence[str]) -> float:
    """Return the seconds of a whole command; stop with its last line where it fails."""
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
        stop(f"{' '.join(command)}: {last}")
    return time.perf_counter() - start
