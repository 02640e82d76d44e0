"""The object-store variant of the Kubernetes manifests: the others', but for where the data lie."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

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


def test_the_image_has_what_object_stores_need():
    assert "'.[object-stores]'" in (FOLDER / "Dockerfile").read_text()
