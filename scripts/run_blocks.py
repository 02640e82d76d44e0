"""Run the fenced blocks of a Markdown file, in order, in the current folder.

Usage: run_blocks.py FILE

Blocks marked ``sh`` and ``python`` are run, each in a process of its own; a block right after a
line ``<!-- shown, not run: REASON -->`` is not, and the reason is printed.
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


def main(path: str) -> int:
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
            return 1
        run += 1
    print(f"{path}: {run} blocks run")
    return 0 if run else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
