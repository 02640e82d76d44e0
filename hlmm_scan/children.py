"""Processes of our own beside Dask's, and what they are started with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a Python process that finds this package where this one did.

    Parameters
    ----------
    more : mapping of str to str, optional
        Variables to set besides.
    """
    path = filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))
    return {**os.environ, **(more or {}), "PYTHONPATH": os.pathsep.join(path)}
