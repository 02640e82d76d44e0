"""One study for all tests of this folder."""

from __future__ import annotations

import pytest
from background_cohorts import Study


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def whole(study, tmp_path_factory):
    """The background of all traits, in this process."""
    return study.background(tmp_path_factory.mktemp("whole") / "background.zarr")
