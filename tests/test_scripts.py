"""The scripts a newcomer meets first: what they say where they cannot work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def fresh_clone(tmp_path: Path) -> Path:
    """The scripts and pyproject of a checkout without an environment."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "scripts", clone / "scripts")
    shutil.copy(ROOT / "pyproject.toml", clone)
    return clone


def fake_python(folder: Path, *, fails_on: str) -> Path:
    """A Python that fails on any ``-c`` program that contains the given text."""
    path = folder / "python-of-the-user"
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "Python 3.9.2"; exit 0; fi\n'
        f'case "$2" in *{fails_on}*) exit 1 ;; esac\n'
        "exit 0\n"
    )
    path.chmod(0o755)
    return path


def run(script: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    "script",
    [
        *("demo", "test", "test_blas", "calibrate", "accuracy", "relatedness", "storm", "damage"),
        "real_traits",
        "picture",
    ],
)
@pytest.mark.parametrize(
    ("fails_on", "words"),
    [
        ("version_info", "needs Python 3.11 or newer, found Python 3.9.2"),
        ("ensurepip", "has no venv module"),
    ],
)
def test_an_unfit_python_is_one_clear_line(fresh_clone, tmp_path, script, fails_on, words):
    python = fake_python(tmp_path, fails_on=fails_on)
    result = run(fresh_clone / "scripts" / script, PYTHON=str(python))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"{script}: ")
    assert words in result.stderr
    assert not (fresh_clone / ".venv").exists()


def test_no_python_at_all_is_one_clear_line(fresh_clone):
    result = run(fresh_clone / "scripts" / "demo", PYTHON="/no/such/python")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "needs Python 3.11 or newer" in result.stderr


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("```sh\ntrue\n```\n", 0, "1 blocks run"),
        ("```sh\nfalse\ntrue\n```\n", 1, "this block failed"),
        ("```python\nimport warnings\nwarnings.warn('x')\n```\n", 1, "UserWarning"),
        ("```sh\ntrue\n```\n<!-- shown, not run: slow -->\n```sh\nfalse\n```\n", 0, "(slow)"),
        ("no block\n", 1, "0 blocks run"),
        (
            "<!-- shown, not run: a -->\n```sh\nx\n```\n```sh\nfalse\n```\n"
            "<!-- shown, not run: b -->\n```sh\nx\n```\n",
            1,
            "this block failed",
        ),
    ],
)
def test_readme_blocks_are_really_run(tmp_path, text, code, words):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "run_blocks.py"), str(readme)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == code
    assert words in result.stdout
