"""configs/slurm/submit beside an sbatch that answers as SLURM does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SUBMIT = Path(__file__).resolve().parent.parent / "configs" / "slurm" / "submit"
SBATCH = """#!/bin/bash
# Numbers jobs from 7 on, and takes no dependency but on such a number.
echo "$*" >> "$CALLS"
for word in "$@"; do
    case "$word" in --dependency=*)
        [[ ${word##*:} =~ ^[0-9]+$ ]] || { echo "sbatch: error: dependency" >&2; exit 1; } ;;
    esac
done
echo "$((6 + $(wc -l < "$CALLS")))$CLUSTER"
"""


@pytest.mark.parametrize("cluster", ["", ";cluster1"])
def test_three_jobs_wait_for_one_another_whatever_clusters_are_called(tmp_path, cluster):
    sbatch, calls = tmp_path / "sbatch", tmp_path / "calls"
    sbatch.write_text(SBATCH)
    sbatch.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "CLUSTER": cluster,
    }
    done = subprocess.run(
        [SUBMIT, "r.zarr", "--genotypes", "g.zarr"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout == "prepare 7, shards 8, finalise 9\n"
    prepare, shards, finalise = calls.read_text().splitlines()
    assert "--output r.zarr --genotypes g.zarr" in prepare
    assert "--dependency=afterok:7" in shards
    assert "--dependency=afterany:8" in finalise
