"""How and where the work is done; no number depends on it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hlmm_scan.config.declared import Group, option
from hlmm_scan.errors import InputError


@dataclass(frozen=True)
class Running(Group):
    """How and where the work is done; no number depends on it."""

    title: ClassVar[str] = "Running"

    workers: int | None = option(
        None, "whole", "Worker processes on this machine; 1 needs no cluster. Default: all cores."
    )
    memory_limit: str | None = option(
        None, "name", "Memory all workers may use together, as 16GiB. Default: what is available."
    )
    partition_variants: int | None = option(
        None, "whole", "Variants per task, a multiple of the genotype chunk. Default: chosen."
    )
    scheduler: str | None = option(
        None,
        "name",
        "Address of a running Dask scheduler whose workers do the work, as tcp://host:8786.",
    )
    cluster: Path | None = option(
        None, "path", "YAML file that describes workers in SLURM jobs or Kubernetes pods."
    )
    dashboard: bool | None = option(
        None,
        "yes_no",
        "Show the work of --workers on a page of Dask's, whose address is logged and which every "
        "account of this machine can look at. Default: no.",
    )

    def check(self) -> None:
        """Refuse two places to run in, and a page without what draws it."""
        elsewhere = [name for name in ("scheduler", "cluster") if getattr(self, name) is not None]
        if len(elsewhere) > 1:
            raise InputError("scheduler and cluster exclude each other: a scan has one of them")
        for name in ("workers", "memory_limit", "dashboard"):
            if elsewhere and getattr(self, name) is not None:
                raise InputError(
                    f"{name} is for workers of this machine; leave it out with {elsewhere[0]}, "
                    "whose workers are what they are"
                )
        if self.dashboard and importlib.util.find_spec("bokeh") is None:
            raise InputError("dashboard needs bokeh; pip install 'hlmm-scan[dashboard]'")
