"""The object-store variant of the Kubernetes manifests: the others', but for where the data lie."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hlmm_scan.cli import cli
from hlmm_scan.storage import ObjectPath

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "configs" / "kubernetes"
VARIANT = FOLDER / "object-store"
STEPS = ("prepare.yaml", "shards.yaml", "finalise.yaml")
VERSIONS = ("1.29", "1.33", "1.37")


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (only,) = manifest["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [*STEPS, "tables.yaml"])
def test_every_manifest_is_valid(name, version):
    manifest = load(VARIANT / name)
    assert kubernetes_validate.validate(manifest, version, strict=True) == version
    manifest["spec"]["paralelism"] = 3
    with pytest.raises(kubernetes_validate.ValidationError, match="paralelism"):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_an_unknown_field_of_the_secret_is_refused():
    manifest = load(VARIANT / "shards.yaml")
    container(manifest)["envFrom"][0]["secretRef"]["key"] = "password"
    with pytest.raises(kubernetes_validate.ValidationError, match="key"):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("name", STEPS)
def test_only_the_place_of_the_data_differs(name):
    here, there = load(VARIANT / name), load(FOLDER / name)
    for manifest in (here, there):
        pod = manifest["spec"]["template"]["spec"]
        one = container(manifest)
        one.pop("envFrom", None)
        one["args"] = [a.replace("s3://bucket/", "/data/") for a in one["args"]]
        one["volumeMounts"] = [m for m in one["volumeMounts"] if m["name"] != "data"]
        pod["volumes"] = [v for v in pod["volumes"] if v["name"] != "data"]
    assert here == there


@pytest.mark.parametrize("name", STEPS)
def test_credentials_come_from_the_secret_and_nothing_else_does(name):
    text = (VARIANT / name).read_text()
    one = container(yaml.safe_load(text))
    assert one["envFrom"] == [{"secretRef": {"name": "hlmm-scan-object-store"}}]
    given = {entry["name"] for entry in one.get("env", [])}
    assert given <= {"HLMM_SCAN_SHARD_COUNT"}
    assert "create secret generic hlmm-scan-object-store" in (VARIANT / "prepare.yaml").read_text()


@pytest.mark.parametrize("name", STEPS)
def test_the_commands_are_ours_and_their_stores_are_addresses(name):
    command, *arguments = container(load(VARIANT / name))["args"]
    with cli.commands[command].make_context(command, arguments) as context:
        given = copy.copy(context.params)
    values = [v for value in given.values() for v in (value if type(value) is tuple else (value,))]
    stores = [value for value in values if isinstance(value, ObjectPath)]
    assert "s3://bucket/results.zarr" in map(str, stores)
    assert len(stores) == (2 if command == "scan" else 1)


def test_only_the_first_step_mounts_the_tables():
    claim = load(VARIANT / "tables.yaml")["metadata"]["name"]
    for name in STEPS:
        volumes = load(VARIANT / name)["spec"]["template"]["spec"]["volumes"]
        claims = [v["persistentVolumeClaim"] for v in volumes if "persistentVolumeClaim" in v]
        assert claims == ([{"claimName": claim}] if name == "prepare.yaml" else [])


def test_the_image_has_every_extra_each_version_and_hash_written_down():
    """What pods read and write: object stores, and every kind of genotype file and export."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: of for name, of in project["optional-dependencies"].items() if name != "test"}
    wanted = [
        Requirement(text) for of in (project["dependencies"], *extras.values()) for text in of
    ]
    lock = (FOLDER / "requirements.lock").read_text()
    locked = re.split(r"\n(?=[a-z0-9])", lock.strip().lower())
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in locked)
    versions = dict(entry.split()[0].split("==") for entry in locked)
    for one in [*wanted, Requirement("setuptools>=68")]:
        assert one.specifier.contains(versions[canonicalize_name(one.name)]), one
    dockerfile = (FOLDER / "Dockerfile").read_text()
    assert "--require-hashes" in dockerfile
    # No image is built on one that nobody named by its digest: there is no default.
    lines = dockerfile.splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert set(bases) == {"python:3.11-slim@${PYTHON_DIGEST}"}
    assert "ARG PYTHON_DIGEST" in lines
    assert all(f"--extra {name}" in dockerfile for name in extras)
    # Nor is a pod made of one: Kubernetes takes no image of this digest.
    named = [
        line.split()[1]
        for path in FOLDER.rglob("*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.lstrip().startswith("image:")
    ]
    assert len(named) >= 8
    assert all(name.endswith("@sha256:DIGEST") for name in named)
