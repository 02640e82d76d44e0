"""Logging as it was before each test."""

from __future__ import annotations

import logging

import pytest


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
