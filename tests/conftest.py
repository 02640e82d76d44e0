"""Shared fixtures, and the rule that CI skips nothing it could have served."""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No test measures time: the first example of a kernel compiles it, and the machine may be busy.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

Report = pytest.TestReport | pytest.CollectReport

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("HLMM_SCAN_DATA", REPOSITORY.parent / "shared" / "data"))


def pytest_configure(config: pytest.Config) -> None:
    """Give this test process, and its children, caches of their own.

    By default the processes of a user share the folder of arrays: a test that looks whether a scan
    has tidied there would find what another process of the tests has there at the time.

    Those of an installation share the folder of machine code. Where pytest-xdist runs tests in
    several processes, they would compile for different types at once, and numba has no lock on
    the index that it extends. Compiling it all takes half a minute.
    """
    folder = tempfile.TemporaryDirectory(prefix="hlmm-scan-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ["HLMM_SCAN_CACHE"] = folder.name
    if hasattr(config, "workerinput"):
        os.environ["NUMBA_CACHE_DIR"] = f"{folder.name}/numba"


@pytest.fixture(autouse=True)
def _logging_as_before():
    """Take off the handlers that the command line puts on our logger."""
    logger = logging.getLogger("hlmm_scan")
    level = logger.level
    yield
    logger.setLevel(level)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real mouse data and reference values; skips where it is absent."""
    if not (DATA / "mouse" / "mouse_hs1940.bed").exists():
        pytest.skip(f"real data not at {DATA} (set HLMM_SCAN_DATA)")
    return DATA


@pytest.fixture(scope="session")
def object_store() -> Iterator[int]:
    """Port of an S3 server on loopback, for the whole session."""
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    from object_server import s3_server

    with s3_server() as port:
        yield port


@pytest.fixture
def bucket(object_store, monkeypatch) -> Iterator[str]:
    """Address below which a test has the object store for itself, from this process."""
    from object_server import BUCKET, environment

    from hlmm_scan.storage.places import client

    for name, value in environment(object_store).items():
        monkeypatch.setenv(name, value)
    client.cache_clear()
    yield f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"
    client.cache_clear()


def _failed_if_skipped(report: Report) -> Report:
    if report.skipped and os.environ.get("HLMM_SCAN_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure where HLMM_SCAN_NO_SKIPS is set (CI sets it)."""
    return _failed_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Do so with a whole file that is skipped as it is imported."""
    return _failed_if_skipped((yield))
