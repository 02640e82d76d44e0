"""The Kubernetes manifests: valid, unknown fields refused, in step with the code; run here."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hlmm_scan import __version__
from hlmm_scan.cli import cli
from hlmm_scan.errors import IncompleteError, InfrastructureError, InputError, StoreHeldError
from hlmm_scan.scan.shard import COUNT_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "configs" / "kubernetes"
# tests/scan/test_cluster_file.py has what a scan with a scheduler takes.
SCHEDULED = {"cluster.yaml", "daskcluster.yaml", "rbac.yaml"}
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name not in SCHEDULED)
JOBS = [path for path in FILES if path.name != "volume.yaml"]
VERSIONS = ("1.29", "1.33", "1.37")  # the oldest the Jobs work on, and the newest there is


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def paths(node: Any, here: tuple = ()) -> list[tuple]:
    """Every place in a manifest that holds a mapping."""
    found = [here] if isinstance(node, dict) else []
    members = node.items() if isinstance(node, dict) else enumerate(node)
    for key, member in members if isinstance(node, dict | list) else ():
        if isinstance(member, dict | list):
            found += paths(member, (*here, key))
    return found


def at(node: Any, path: tuple) -> Any:
    for key in path:
        node = node[key]
    return node


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_manifest_is_valid(path, version):
    for document in yaml.safe_load_all(path.read_text()):
        assert kubernetes_validate.validate(document, version, strict=True) == version


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_unknown_field_is_refused_wherever_it_stands(path):
    manifest = load(path.name)
    free = {"labels", "requests", "limits"}  # names of the user's own
    places = [place for place in paths(manifest) if not place or place[-1] not in free]
    assert len(places) >= 3
    for place in places:
        spoilt = copy.deepcopy(manifest)
        at(spoilt, place)["paralelism"] = 3
        with pytest.raises(kubernetes_validate.ValidationError, match="paralelism"):
            kubernetes_validate.validate(spoilt, VERSIONS[-1], strict=True)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "completions"), "8"),
        (("spec", "backoffLimitPerIndex"), "two"),
        (("spec", "podFailurePolicy", "rules", 1, "onExitCodes", "values"), ["2"]),
        (("spec", "template", "spec", "containers", 0, "args"), "shard /data/results.zarr"),
        (("spec", "template", "spec", "containers", 0, "env", 0, "value"), 8),
        (("spec", "template", "spec", "securityContext", "runAsNonRoot"), "yes"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(place, value):
    manifest = load("shards.yaml")
    at(manifest, place[:-1])[place[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_as_many_shards_as_completions():
    spec = load("shards.yaml")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    (count,) = (v["value"] for v in container["env"] if v["name"] == COUNT_VARIABLE)
    assert int(count) == spec["completions"]
    assert spec["completionMode"] == "Indexed"
    assert "maxFailedIndexes" not in spec  # a slice that failed does not stop the others


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_preemption_is_told_from_error_and_bad_input_is_not_tried_again(path):
    spec = load(path.name)["spec"]
    preempted, *by_code = spec["podFailurePolicy"]["rules"]
    assert preempted["action"] == "Ignore"
    assert preempted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    actions = {code: rule["action"] for rule in by_code for code in rule["onExitCodes"]["values"]}
    assert actions[InputError.exit_code] == "FailJob"
    # Partitions that failed stand until asked for, so a second pod would only say the same.
    failed = {"shards.yaml": "FailIndex", "finalise.yaml": "FailJob"}
    assert actions.get(IncompleteError.exit_code) == failed.get(path.name)
    assert not {StoreHeldError.exit_code, InfrastructureError.exit_code} & set(actions)
    assert {rule["onExitCodes"]["operator"] for rule in by_code} == {"In"}
    # Rules of a failure policy hold for pods that Kubernetes itself never restarts.
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert {rule["onExitCodes"]["containerName"] for rule in by_code} == {container["name"]}
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["activeDeadlineSeconds"] > 3600  # a pod that hangs is not paid for for ever
    assert spec["ttlSecondsAfterFinished"] > 86400  # nor its log gone before it is looked at


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_pods_may_do_no_more_than_they_need(path):
    pod = load(path.name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod
    who = pod["securityContext"]
    assert who["runAsNonRoot"]
    assert who["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert f"--uid {who['runAsUser']} " in (FOLDER / "Dockerfile").read_text()
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    kinds = {volume["name"]: set(volume) - {"name"} for volume in pod["volumes"]}
    assert kinds == {"data": {"persistentVolumeClaim"}, "scratch": {"emptyDir"}}
    assert mounted == {"data": "/data", "scratch": "/tmp"}
    claim = load("volume.yaml")["metadata"]["name"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_the_commands_are_ours_and_parse(path):
    (container,) = load(path.name)["spec"]["template"]["spec"]["containers"]
    name, *arguments = container["args"]
    assert container["command"] == ["hlmm-scan"]
    # Of the user's own image; without its digest it is the name of none.
    assert container["image"].endswith(f"/hlmm-scan:{__version__}@sha256:DIGEST")
    with cli.commands[name].make_context(name, arguments) as context:
        given = {key: str(value) for key, value in context.params.items() if value is not None}
    assert "/data/results.zarr" in given.values()


# The script that runs them ------------------------------------------------------------------


def job(folder: Path, script: str, **spec: Any) -> Path:
    """A Job that runs a shell script."""
    pod = {
        "containers": [
            {
                "name": "it",
                "command": ["sh", "-euc", script],
                "args": ["sh", "/data", "--out=/data/x", "/database"],
                "env": [{"name": "KEPT", "value": "/data/kept"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}],
    }
    path = folder / "job.yaml"
    manifest = {
        "kind": "Job",
        "metadata": {"name": "j"},
        "spec": {**spec, "template": {"spec": pod}},
    }
    path.write_text(yaml.safe_dump(manifest))
    return path


def run_jobs(path: Path, *arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "run_jobs.py", path, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


INDEXED = {"completionMode": "Indexed", "completions": 3, "parallelism": 2}


def test_jobs_run_with_their_index_and_paths_of_this_machine(tmp_path):
    script = 'echo "$JOB_COMPLETION_INDEX $KEPT $*" > "$1/$JOB_COMPLETION_INDEX"'
    path = job(tmp_path, script, **INDEXED)
    code, lines = run_jobs(path, "--volume", f"data={tmp_path}")
    assert (code, lines[-1]) == (0, "j: complete")
    for index in range(3):
        assert (tmp_path / str(index)).read_text() == (
            f"{index} {tmp_path}/kept {tmp_path} --out={tmp_path}/x /database\n"
        )


@pytest.mark.parametrize(
    ("ending", "starts", "code"),
    [("kill -9 $$", 3, 1), ("exit 1", 3, 1), ("exit 2", 1, 1), ("exit 0", 1, 0)],
)
def test_jobs_are_tried_again_as_often_as_they_say(tmp_path, ending, starts, code):
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [2]}},
    ]
    spec = {**INDEXED, "backoffLimitPerIndex": 2, "podFailurePolicy": {"rules": rules}}
    path = job(tmp_path, f'[ "$JOB_COMPLETION_INDEX" != 1 ] || {ending}', **spec)
    found, lines = run_jobs(path, "--volume", f"data={tmp_path}")
    assert found == code
    assert len([line for line in lines if line.startswith("j 1: started")]) == starts
    assert lines[-1] == ("j: 1 failed" if code else "j: complete")


def test_a_job_that_no_other_try_would_help_ends_with_all_its_processes(tmp_path):
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}]
    spec = {**INDEXED, "backoffLimitPerIndex": 2, "podFailurePolicy": {"rules": rules}}
    path = job(tmp_path, '[ "$JOB_COMPLETION_INDEX" = 0 ] || exec sleep 60; exit 2', **spec)
    started = time.monotonic()
    code, lines = run_jobs(path, "--volume", f"data={tmp_path}")
    assert time.monotonic() - started < 30
    assert code == 1
    assert lines[-1] == "j: failed, no other try would help"
    assert len([line for line in lines if "started" in line]) == 2


def test_a_volume_that_is_not_given_is_asked_for(tmp_path):
    code, lines = run_jobs(job(tmp_path, "true"))
    assert (code, lines) == (1, ["run_jobs: j mounts data; give --volume data=FOLDER"])
