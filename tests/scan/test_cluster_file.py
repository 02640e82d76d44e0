"""Descriptions of clusters in SLURM jobs and Kubernetes pods, and the manifests they lead to."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask
import dask_kubernetes
import jsonschema
import kubernetes_validate
import pytest
import yaml
from dask_jobqueue.slurm import SLURMCluster
from dask_kubernetes.operator import KubeCluster
from distributed.core import Status

from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InfrastructureError, InputError
from hlmm_scan.scan import run
from hlmm_scan.scan.cluster_file import (
    KubernetesFile,
    SlurmFile,
    read_cluster_file,
    worker_arguments,
    worker_bytes,
)
from hlmm_scan.scan.concurrency import choose_workers
from hlmm_scan.scan.executors import DaskExecutor, make_executor
from hlmm_scan.scan.plan import Plan

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SLURM = CONFIGS / "slurm" / "cluster.yaml"
KUBERNETES = CONFIGS / "kubernetes" / "cluster.yaml"
DASKCLUSTER = CONFIGS / "kubernetes" / "daskcluster.yaml"
RBAC = CONFIGS / "kubernetes" / "rbac.yaml"


@pytest.fixture(scope="module")
def plan(bench, tmp_path_factory) -> Plan:
    store = run.prepare(bench.config(tmp_path_factory.mktemp("plan") / "r"))
    return replace(Plan.from_json(store.plan), task_bytes=500 << 20, shared_bytes=200 << 20)


def written(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: [", "cluster.yaml, line 1: not valid YAML"),
        ("slurm", "expected 'key: value' lines, 'kind' among them"),
        ("maximum: 3", "kind is missing (one of slurm, kubernetes)"),
        ("kind: [a]\nmaximum: 3", "kind cannot be ['a'] (one of slurm, kubernetes)"),
        ("kind: slurm\nmaximum: 2\nmaximum: 3", "line 3: the key 'maximum' stands there twice"),
        ("kind: slurn\nmaximum: 3", "kind cannot be 'slurn'; did you mean 'slurm'?"),
        ("kind: slurm", "maximum is missing"),
        ("kind: slurm\nmaxinum: 3", "unknown key 'maxinum'; did you mean 'maximum'?"),
        ("kind: slurm\nmaximum: three", "maximum must be a whole number, not 'three'"),
        ("kind: slurm\nmaximum: true", "maximum must be a whole number, not True"),
        ("kind: slurm\nmaximum: 0\nminimum: 0", "must be in that order, not 0 and 0"),
        ("kind: slurm\nmaximum: 2\nminimum: 3", "must be in that order, not 3 and 2"),
        ("kind: slurm\nmaximum: 2\nworkers_per_job: 0", "workers_per_job must be 1 or more"),
        ("kind: slurm\nmaximum: 2\nwalltime: 4h", "walltime must be hours:minutes:seconds"),
        ("kind: slurm\nmaximum: 2\nwalltime: 04:00:00x", "must be hours:minutes:seconds"),
        ("kind: slurm\nmaximum: 2\nwalltime: 240", "walltime must be one line of text (in quotes"),
        ("kind: slurm\nmaximum: 2\nmemory: plenty", "memory must be a size as 4GiB, not 'plenty'"),
        ("kind: slurm\nmaximum: 2\ntls: maybe", "tls must be true or false"),
        ("kind: slurm\nmaximum: 2\ndirectives: [qos]", "must begin with a dash, unlike 'qos'"),
        ("kind: slurm\nmaximum: 2\ndirectives: [3]", "directives must be a list of words"),
        ('kind: slurm\nmaximum: 2\naccount: "a\\nrm -r /"', "account must be one line of text"),
        ("kind: kubernetes\nmaximum: 2", "manifest is missing"),
        ("kind: kubernetes\nmaximum: 2\nmanifest: no.yaml", "no.yaml: No such file or directory"),
        ("kind: kubernetes\nmaximum: 2\nmanifest: cluster.yaml", "the manifest of one DaskCluster"),
    ],
)
def test_a_wrong_description_is_one_clear_line(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        read_cluster_file(written(tmp_path, text))
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no\.yaml: No such file"):
        read_cluster_file(tmp_path / "no.yaml")


def test_a_manifest_that_lacks_something_is_told(tmp_path):
    (tmp_path / "m.yaml").write_text("kind: DaskCluster\nmetadata: {name: x}\nspec: {worker: {}}\n")
    with pytest.raises(InputError, match=r"m\.yaml: the DaskCluster has no 'spec'"):
        read_cluster_file(written(tmp_path, "kind: kubernetes\nmaximum: 2\nmanifest: m.yaml"))


@pytest.mark.parametrize(
    ("path", "extra"), [(SLURM, "dask-jobqueue"), (KUBERNETES, "dask-kubernetes")]
)
def test_a_library_that_is_not_installed_is_named_before_anything_is_done(monkeypatch, path, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"needs {extra}; pip install 'hlmm-scan\\[") as caught:
        read_cluster_file(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scheduler": "h:1", "cluster": SLURM}, "scheduler and cluster exclude each other"),
        ({"scheduler": "h:1", "workers": 2}, "workers is for workers of this machine"),
        ({"cluster": SLURM, "workers": 2}, "workers is for workers of this machine"),
        ({"cluster": SLURM, "memory_limit": "9GB"}, "memory_limit is for workers of this machine"),
    ],
)
def test_options_that_exclude_each_other_are_refused(bench, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        bench.config(tmp_path / "r", **{"workers": None, **options})


def test_the_cluster_of_a_configuration(bench, plan, tmp_path):
    config = bench.config(tmp_path / "r", workers=None, cluster=SLURM)
    assert choose_workers(config, plan.task_bytes) == 16
    executor = make_executor(config, plan, 16)
    assert isinstance(executor, DaskExecutor)
    assert executor.cluster.most_workers == 16
    assert executor.worker_bytes == worker_bytes(plan) == 1200 << 20
    config = bench.config(tmp_path / "r", workers=None, scheduler="h:8786")
    assert choose_workers(config, plan.task_bytes) == 0
    assert "as many as the scheduler has" in plan.summary(0)
    with pytest.raises(InputError, match="is not an address"):
        choose_workers(bench.config(tmp_path / "r", workers=None, scheduler="h"), 1)


def test_how_a_scan_runs_is_no_part_of_what_it_computes(bench, tmp_path):
    store = run.prepare(bench.config(tmp_path / "r"))
    config = bench.config(tmp_path / "r", workers=None, scheduler="h:8786")
    assert run.prepare(config).plan == store.plan
    assert {"scheduler", "cluster"} <= set(ScanConfig.__dataclass_fields__)


# SLURM --------------------------------------------------------------------------------------


def test_the_memory_of_a_job_follows_from_the_plan(plan):
    described = read_cluster_file(SLURM)
    assert isinstance(described, SlurmFile)
    assert described.job_bytes(plan) == (2 * 2 * 500 + 200) << 20
    assert replace(described, memory="2GiB").job_bytes(plan) == 2 << 30
    with pytest.raises(InputError, match=r"memory 1GiB is less than the 1,200 MiB that 2 workers"):
        replace(described, memory="1GiB").for_plan(plan)


@pytest.mark.parametrize(
    ("walltime", "lifetime", "stagger"),
    [
        ("04:00:00", "11520s", "1440s"),
        ("0:10:00", "480s", "60s"),
        ("1-00:00:00", "69120s", "8640s"),
    ],
)
def test_workers_leave_before_the_time_of_their_job_is_up(walltime, lifetime, stagger):
    assert worker_arguments(walltime) == [
        *("--memory-limit", "0", "--lifetime", lifetime, "--lifetime-stagger", stagger)
    ]


def test_the_script_of_a_job(plan, monkeypatch, tmp_path):
    """What dask-jobqueue makes of our description; the jobs themselves are scripts/try_slurm's."""
    scripts = []

    def stop(self: Any, *_: Any, **__: Any) -> None:
        scripts.append((self.job_script(), self.scheduler_spec["options"]))
        raise RuntimeError("no sbatch here")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SLURMCluster, "adapt", stop)
    described = replace(
        read_cluster_file(SLURM), partition="long", directives=("--qos=low",), interface="lo"
    )
    with pytest.raises(InfrastructureError, match="could not be started: no sbatch here"):
        described.for_plan(plan).client().__enter__()
    ((script, scheduler),) = scripts
    for line in ("--mem=3G", "-t 04:00:00", "-p long", "--qos=low", "--cpus-per-task=2"):
        assert f"#SBATCH {line}" in script
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        assert f"export {name}_NUM_THREADS=1" in script
    assert "--memory-limit 0 --lifetime 11520s" in script
    assert "--tls-key" in script
    assert "--nthreads 1 " in script
    assert "--nworkers 2 " in script
    assert scheduler["dashboard_address"] == "127.0.0.1:0"
    assert scheduler["protocol"] == "tls://"


# Kubernetes ---------------------------------------------------------------------------------


@lru_cache
def schema() -> jsonschema.Draft7Validator:
    """The definition that ships in dask-kubernetes, with unknown fields refused."""
    (folder,) = Path(dask_kubernetes.__file__).parent.rglob("crds")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten thousand lines
    definition = yaml.load((folder / "daskcluster.yaml").read_text(), loader)
    (version,) = definition["spec"]["versions"]
    found = version["schema"]["openAPIV3Schema"]
    found["properties"].setdefault("metadata", {"type": "object"})
    found["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    return jsonschema.Draft7Validator(_closed(found) | {"additionalProperties": False})


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    open_ended = closed.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(closed.get("properties"), dict) and not open_ended:
        closed.setdefault("additionalProperties", False)
    if closed.pop("nullable", False) and isinstance(closed.get("type"), str):
        closed["type"] = [closed["type"], "null"]
    return closed


def valid(manifest: Any) -> bool:
    return bool(schema().is_valid(manifest))


def daskcluster(kind: str = "DaskCluster") -> dict[str, Any]:
    documents = yaml.safe_load_all(DASKCLUSTER.read_text())
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


def paths(node: Any, here: tuple = ()) -> list[tuple]:
    found = [here] if isinstance(node, dict) else []
    members = node.items() if isinstance(node, dict) else enumerate(node)
    for key, member in members if isinstance(node, dict | list) else ():
        if isinstance(member, dict | list):
            found += paths(member, (*here, key))
    return found


def test_the_daskcluster_is_valid_and_unknown_fields_are_refused():
    # Without the anchors of YAML, by which one change would be two.
    manifest = yaml.safe_load(yaml.dump(daskcluster(), Dumper=_Plain))
    assert valid(manifest)
    free = {"labels", "requests", "limits", "selector", "metadata", "securityContext"}
    places = [p for p in paths(manifest) if not p or (p[-1] not in free and p[0] == "spec")]
    refused = 0
    for place in places:
        spoilt = copy.deepcopy(manifest)
        node = spoilt
        for key in place:
            node = node[key]
        node["imagee"] = "x"
        assert not valid(spoilt), place
        refused += 1
    assert refused > 20
    wrong = copy.deepcopy(manifest)
    wrong["spec"]["worker"]["replicas"] = "8"
    assert not valid(wrong)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def test_the_pods_of_the_daskcluster_are_valid_as_pods():
    """The operator's definition lags behind Kubernetes; these are its pods as it makes them."""
    spec = daskcluster()["spec"]
    for part in ("scheduler", "worker"):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": part},
            "spec": spec[part]["spec"],
        }
        for version in ("1.29", "1.37"):
            kubernetes_validate.validate(pod, version, strict=True)
        pod["spec"]["containers"][0]["imagee"] = "x"
        with pytest.raises(kubernetes_validate.ValidationError, match="imagee"):
            kubernetes_validate.validate(pod, "1.37", strict=True)
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"]


def test_the_commands_of_the_daskcluster_are_dasks_own():
    """dask-kubernetes itself would still make commands that distributed removed."""
    from distributed.cli import dask_scheduler, dask_worker

    spec = daskcluster()["spec"]
    for part, command, expected in (
        ("scheduler", dask_scheduler.main, {"host": "0.0.0.0", "port": "8786"}),
        ("worker", dask_worker.main, {"nthreads": 1, "memory_limit": "0", "nanny": True}),
    ):
        (container,) = spec[part]["spec"]["containers"]
        assert container["command"] == ["dask"]
        name, *arguments = container["args"]
        assert name == part
        with command.make_context(name, list(arguments)) as context:
            given = context.params
        assert not given["preload_argv"]  # where what they do not know ends up
        assert given.items() >= expected.items()
    for setting in spec["scheduler"]["spec"]["containers"][0]["env"]:
        key = setting["name"].removeprefix("DASK_").lower().replace("__", ".").replace("_", "-")
        assert dask.config.get(key, None) is not None, key


def test_the_daskcluster_gets_the_workers_the_cluster_file_says(plan, tmp_path):
    described = read_cluster_file(KUBERNETES)
    assert isinstance(described, KubernetesFile)
    manifest = described.specification()
    assert manifest["spec"]["worker"]["replicas"] == described.minimum == 1
    assert valid(manifest)
    cluster = described.for_plan(plan)
    assert cluster.name == "the DaskCluster hlmm-scan"
    assert cluster.most_workers == 8
    with pytest.raises(InputError, match=r"worker pods may take 2Gi, less than the 3,200 MiB"):
        described.for_plan(replace(plan, task_bytes=3000 << 20))


def test_a_kubernetes_that_cannot_be_reached_is_one_line(plan, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(InfrastructureError, match="hlmm-scan could not be started: ") as caught:
        read_cluster_file(KUBERNETES).for_plan(plan).client().__enter__()
    assert "\n" not in str(caught.value)
    for cluster in KubeCluster._instances:  # it warns that it was not closed; it never was open
        cluster.status = Status.closed


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_the_rights_are_valid_and_no_wider_than_needed(version):
    documents = {d["kind"]: d for d in yaml.safe_load_all(RBAC.read_text())}
    for document in documents.values():
        assert kubernetes_validate.validate(document, version, strict=True) == version
        spoilt = {**document, "imagee": 1}
        with pytest.raises(kubernetes_validate.ValidationError, match="imagee"):
            kubernetes_validate.validate(spoilt, version, strict=True)
    assert set(documents) == {"ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"}
    for rule in documents["Role"]["rules"]:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        writes = set(rule["verbs"]) - {"get", "list"}
        assert not writes or rule["apiGroups"] == ["kubernetes.dask.org"]
    selector = documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert selector == {"dask.org/cluster-name": daskcluster()["metadata"]["name"]}


def test_the_cluster_and_what_keeps_others_off_are_in_one_file():
    (policy,) = (d for d in yaml.safe_load_all(RBAC.read_text()) if d["kind"] == "NetworkPolicy")
    assert daskcluster("NetworkPolicy") == policy  # for `scan --cluster`, which makes no policy
    (*_, operator) = policy["spec"]["ingress"][0]["from"]
    assert operator["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "dask-operator"
    }
