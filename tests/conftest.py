"""Shared fixtures, and the rule that CI skips nothing it could have served."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("HLMM_SCAN_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real mouse data and reference values; skips where it is absent."""
    if not (DATA / "mouse" / "mouse_hs1940.bed").exists():
        pytest.skip(f"real data not at {DATA} (set HLMM_SCAN_DATA)")
    return DATA


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure where HLMM_SCAN_NO_SKIPS is set (CI sets it)."""
    report = yield
    if report.skipped and os.environ.get("HLMM_SCAN_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
    return report
