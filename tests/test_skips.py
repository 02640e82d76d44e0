"""Where nothing may be skipped, a skip fails: in this process, and in those of pytest-xdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

SKIPPING = """
import pytest

@pytest.fixture
def absent():
    pytest.skip("no such thing here")

def test_of_it(absent):
    pass

@pytest.mark.skipif(True, reason="never")
def test_marked():
    pass

def test_that_runs():
    pass
"""


def run(folder: Path, processes: str) -> tuple[int, str]:
    """Run the tests of a folder, none of which may be skipped; return exit code and output."""
    shutil.copy(CONFTEST, folder)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", processes]
    done = subprocess.run(
        [*command, "--rootdir", str(folder), str(folder)],
        env={**os.environ, "HLMM_SCAN_NO_SKIPS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_skipped_test_fails_where_nothing_may_be_skipped(tmp_path, processes):
    (tmp_path / "test_it.py").write_text(SKIPPING)
    code, out = run(tmp_path, processes)
    assert code == 1, out
    assert "1 passed, 2 errors" in out
    assert "skipped where nothing may be skipped" in out
    assert "no such thing here" in out


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_skipped_file_fails_where_nothing_may_be_skipped(tmp_path, processes):
    (tmp_path / "test_it.py").write_text('import pytest\npytest.importorskip("no_such_library")\n')
    (tmp_path / "test_more.py").write_text("def test_that_runs():\n    pass\n")
    code, out = run(tmp_path, processes)
    assert code != 0, out
    assert "skipped where nothing may be skipped" in out
    assert "no_such_library" in out
