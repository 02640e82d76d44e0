"""Run the fenced blocks of Markdown files, in order, in the current folder.

Usage: run_blocks.py FILE...

Blocks marked ``sh`` and ``python`` are run, each in a process of its own; a block right after a
line ``<!-- shown, not run: REASON -->`` is not, and the reason is printed. Files are run in the
order given, so that a page may use what an earlier one made.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(
    r"(?:^<!-- shown, not run: (?P<reason>[^\n]+) -->\n)?"
    r"^```(?P<language>sh|python)\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


def run_file(path: str) -> int | None:
    """Run the blocks of one file; return how many, or None where one failed."""
    run = 0
    for match in BLOCK.finditer(Path(path).read_text()):
        code, first = match["code"], match["code"].splitlines()[0]
        if match["reason"]:
            print(f"{path}: not run ({match['reason']}): {first}")
            continue
        if match["language"] == "sh":
            command = ["bash", "-euo", "pipefail", "-c", code]
        else:
            command = [sys.executable, "-W", "error", "-c", code]
        print(f"{path}: {first}", flush=True)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            print(f"{path}: this block failed:\n{code}\n{result.stdout}\n{result.stderr}")
            return None
        run += 1
    print(f"{path}: {run} blocks run")
    return run


def main(paths: list[str]) -> int:
    total = 0
    for path in paths:
        run = run_file(path)
        if run is None:
            return 1
        total += run
    return 0 if total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
