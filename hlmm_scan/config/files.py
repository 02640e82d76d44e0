"""Configurations from files and flags, and back to a file.

YAML is imported where it is read: help of the command line needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hlmm_scan import storage
from hlmm_scan.config.declared import read_value
from hlmm_scan.config.scan import ScanConfig
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.shown import one_line
from hlmm_scan.storage import ObjectPath


def load_config(path: Path) -> dict[str, Any]:
    """Read a YAML file into values for :class:`ScanConfig`.

    Parameters
    ----------
    path : Path
        Relative paths in it are relative to its folder.

    Raises
    ------
    InputError
        If the file is missing, not YAML, holds an unknown key, or a value of the wrong kind.
    """
    from hlmm_scan.yaml_files import read_mapping

    content = read_mapping(path)
    known = {f.name: f for f in fields(ScanConfig)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise InputError(
                f"{path}: unknown key '{one_line(str(key), 80)}'{nearest(str(key), known)}"
            )
        if value is not None:
            values[key] = read_value(known[key].metadata["kind"], key, value, path)
    return values


def compose(file_values: Mapping[str, Any], flags: Mapping[str, Any]) -> ScanConfig:
    """Return the configuration of a run: a flag that was given overrides the file.

    Parameters
    ----------
    file_values : mapping
        From :func:`load_config`.
    flags : mapping
        None or an empty tuple where a flag was not given.

    Raises
    ------
    InputError
        As :class:`ScanConfig`.
    """
    given = {key: value for key, value in flags.items() if value is not None and value != ()}
    return ScanConfig(**{**file_values, **given})


def to_yaml(config: ScanConfig) -> str:
    """Return the configuration as a YAML file that :func:`load_config` reads."""
    import yaml

    values: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if isinstance(value, Path | ObjectPath):
            value = str(value)
        elif f.metadata["kind"] in ("paths", "stores"):
            value = [str(one) for one in value]
        values[f.name] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(values, sort_keys=False)


def absolute(config: ScanConfig) -> ScanConfig:
    """Return the configuration with every path made absolute: workers may stand elsewhere."""
    paths: dict[str, Any] = {
        f.name: storage.absolute(getattr(config, f.name))
        for f in fields(config)
        if f.metadata["kind"] in ("path", "store") and getattr(config, f.name) is not None
    }
    for f in fields(config):
        if f.metadata["kind"] == "paths":
            paths[f.name] = tuple(storage.absolute(one) for one in getattr(config, f.name))
    paths["genotypes"] = tuple(storage.absolute(place) for place in config.genotypes)
    return replace(config, **paths)
