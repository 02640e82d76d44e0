"""Flags made of the options of a scan, as the configuration declares them."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import fields
from typing import Any

import click

from hlmm_scan.cli.root import FILE, STORE
from hlmm_scan.cli.sections import FIRST, RUNNING, Option
from hlmm_scan.config import BACKGROUND_OPTIONS, GROUPS

_TYPES: dict[str, Any] = {"path": FILE, "store": STORE, "whole": int, "number": float}
_NOT_OF_ONE_FIT = {"genotypes", "output", "phenotype", "strict", "only_sex"}
_NOT_OF_ONE_FIT |= {"condition", "condition_list"}

Decorated = Callable[..., Any]


def scan_options(command: Decorated) -> Decorated:
    """Give a command one flag for every option of a scan, and ``--config``."""
    command = click.option(
        "--config",
        "config_file",
        type=FILE,
        cls=Option,
        section=RUNNING,
        help="YAML file with any of the options above.",
    )(command)
    return _flags(command, {f.name for group in GROUPS for f in fields(group)})


def fit_options(command: Decorated) -> Decorated:
    """Give a command the flags about tables, people, transforms and covariates."""
    wanted = {f.name for group in GROUPS[:4] for f in fields(group)}
    return _flags(command, wanted - _NOT_OF_ONE_FIT)


def background_options(command: Decorated) -> Decorated:
    """Give a command the flags of what a polygenic background is made of."""
    return _flags(command, BACKGROUND_OPTIONS - {"output"})


def _flags(command: Decorated, names: Container[str]) -> Decorated:
    """Give a command the flags of some options: first what everybody needs, then by group."""
    declared = [(group.title, f) for group in GROUPS for f in fields(group) if f.name in names]
    first = [(FIRST, f) for _, f in declared if f.metadata.get("first")]
    others = [(title, f) for title, f in declared if not f.metadata.get("first")]
    for title, f in reversed(first + others):
        dashed, kind = f.name.replace("_", "-"), f.metadata["kind"]
        flags = [f"--{dashed}", *([f.metadata["short"]] if "short" in f.metadata else [])]
        settings: dict[str, Any] = {"help": f.metadata["help"], "default": None}
        if kind == "choice":
            settings["type"] = click.Choice(f.metadata["choices"])
        elif kind == "yes_no":
            flags = [f"--{dashed}/--no-{dashed}"]
        else:
            settings["type"] = _TYPES.get(kind.removesuffix("s"), str)
            settings["multiple"] = kind.endswith("s")
        if kind in ("whole", "number") and f.default is not None:
            settings["help"] += f" Default: {f.default}."
        command = click.option(*flags, f.name, cls=Option, section=title, **settings)(command)
    return command
