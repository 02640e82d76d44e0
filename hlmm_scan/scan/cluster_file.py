"""Clusters that a batch system starts for a scan, described in a YAML file (``--cluster FILE``).

Jobs and pods that die are replaced, and there are as many as there is work for, between a minimum
and a maximum.
"""

# distributed, dask-jobqueue and dask-kubernetes are typed in part only, or not at all.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import importlib.util
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from dask.utils import parse_bytes

from hlmm_scan.errors import HlmmScanError, InfrastructureError, InputError, nearest
from hlmm_scan.scan.clusters import WORKER_SETTINGS, Cluster
from hlmm_scan.scan.fork_server import THREAD_VARIABLES
from hlmm_scan.scan.plan import Plan
from hlmm_scan.shown import one_line, quoted
from hlmm_scan.yaml_files import read_mapping, read_yaml

logger = logging.getLogger(__name__)

LEAST_SLACK = 256 << 20
"""Memory a worker may take of its own beyond what the plan estimates, where that is less: bytes."""

TARGET_DURATION = "1s"
"""Work in flight for which Dask wants another worker: a few tasks per worker are all it ever sees,
so that any backlog has to ask for as many as there may be."""

LOST_AFTER = "5s"
"""How long Dask waits for a lost worker to come back before its job is replaced."""

LIFETIME_SHARE = 0.8
STAGGER_SHARE = 0.1
"""Workers leave by themselves after this share of their job's time, give or take the other, so that
they end between tasks and not all at once."""


def worker_bytes(plan: Plan) -> int:
    """Return the memory of its own that a worker may take: beyond it something is wrong.

    What workers of a host share counts, as one that cannot write the shared files keeps a copy.
    """
    return _own_bytes(plan) + plan.shared_bytes


def _own_bytes(plan: Plan) -> int:
    """Return the plan's estimate of a task and as much again."""
    return plan.task_bytes + max(plan.task_bytes, LEAST_SLACK)


@dataclass(frozen=True)
class SlurmFile:
    """Workers in SLURM jobs. The scheduler is in this process, on the machine that submits.

    Attributes
    ----------
    minimum, maximum : int
        Jobs.
    workers_per_job : int
        Processes of one thread; those of a host share the decoded random effects.
    walltime : str
        Of a job, as SLURM has it, hours:minutes:seconds.
    memory : str or None
        Of a job, as 4GiB. Default: by the plan, for twice what it estimates.
    partition, account, interface : str or None
        `interface` is the network that scheduler and workers talk on, as ib0.
    directives : tuple of str
        More of what stands after ``#SBATCH``, as ``--qos=low``.
    python : str or None
        On the nodes. Default: the one that runs this.
    log_directory : Path or None
        Default: none are kept.
    tls : bool
        Whether scheduler and workers trust none but each other, by certificates made for the run.
        Without it, anybody who reaches the scheduler's port can run code as the user.
    dashboard : bool
        Whether the scheduler shows the work on a page, which every account of its machine can
        look at.
    """

    kind: ClassVar[str] = "slurm"
    library: ClassVar[str] = "dask_jobqueue"

    maximum: int
    minimum: int = 1
    workers_per_job: int = 1
    walltime: str = "04:00:00"
    memory: str | None = None
    partition: str | None = None
    account: str | None = None
    interface: str | None = None
    directives: tuple[str, ...] = ()
    python: str | None = None
    log_directory: Path | None = None
    tls: bool = True
    dashboard: bool = False

    @property
    def most_workers(self) -> int:
        """Worker processes there may come to be."""
        return self.maximum * self.workers_per_job

    def check(self) -> None:
        """Raise ValueError where a value cannot be."""
        if self.workers_per_job < 1:
            raise ValueError(f"workers_per_job must be 1 or more, not {self.workers_per_job}")
        if not re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", self.walltime):
            raise ValueError(f"walltime must be hours:minutes:seconds, not '{self.walltime}'")
        for directive in self.directives:
            if not directive.startswith("-"):
                raise ValueError(f"directives must begin with a dash, unlike '{directive}'")
        _parse_memory(self.memory)

    def for_plan(self, plan: Plan) -> Cluster:
        """Return the cluster, with jobs that have the memory for that plan's tasks.

        Raises
        ------
        InputError
            If `memory` is less than tasks need.
        """
        return _SlurmCluster(self, self.job_bytes(plan))

    def job_bytes(self, plan: Plan) -> int:
        """Return the memory of a job: that of its workers and, once, what they share."""
        least = self.workers_per_job * plan.task_bytes + plan.shared_bytes
        if self.memory is None:
            return self.workers_per_job * _own_bytes(plan) + plan.shared_bytes
        given = _parse_memory(self.memory)
        if given < least:
            raise InputError(
                f"memory {self.memory} is less than the {least / 2**20:,.0f} MiB that "
                f"{self.workers_per_job} workers of this scan need; give jobs more, or leave it out"
            )
        return given


@dataclass(frozen=True)
class KubernetesFile:
    """Workers in pods that Dask's operator starts, by a manifest of a DaskCluster.

    Attributes
    ----------
    manifest : Path
        Relative to the file.
    minimum, maximum : int
        Worker pods.
    namespace : str or None
        Default: the current one.
    """

    kind: ClassVar[str] = "kubernetes"
    library: ClassVar[str] = "dask_kubernetes"

    manifest: Path
    maximum: int
    minimum: int = 1
    namespace: str | None = None

    @property
    def most_workers(self) -> int:
        """Worker processes there may come to be."""
        return self.maximum

    def check(self) -> None:
        """Raise ValueError where the manifest is not that of a DaskCluster."""
        self.specification()

    def specification(self) -> dict[str, Any]:
        """Return the manifest, asking for the minimum of workers.

        Raises
        ------
        ValueError
            If it is not one of a DaskCluster.
        """
        try:
            documents = read_yaml(self.manifest)
        except InputError as error:
            raise ValueError(str(error)) from None
        found = [d for d in documents if isinstance(d, dict) and d.get("kind") == "DaskCluster"]
        if len(found) != 1:
            raise ValueError(f"{self.manifest}: expected the manifest of one DaskCluster")
        try:
            # Without what YAML shares by anchors, so that nothing is changed in two places.
            manifest: dict[str, Any] = json.loads(json.dumps(found[0]))
            manifest["spec"]["worker"]["replicas"] = self.minimum
            manifest["metadata"]["name"], _worker_container(manifest)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self.manifest}: the DaskCluster has no {error}") from None
        return manifest

    def for_plan(self, plan: Plan) -> Cluster:
        """Return the cluster.

        Raises
        ------
        InputError
            If the memory limit of a worker pod is less than a task needs.
        """
        manifest = self.specification()
        limit = _worker_container(manifest).get("resources", {}).get("limits", {}).get("memory")
        least = plan.task_bytes + plan.shared_bytes
        if limit is not None and parse_bytes(limit) < least:
            raise InputError(
                f"{self.manifest}: worker pods may take {limit}, less than the "
                f"{least / 2**20:,.0f} MiB that a task of this scan needs; raise their limit"
            )
        return _KubernetesCluster(self, manifest)


ClusterFile = SlurmFile | KubernetesFile
KINDS: dict[str, type[ClusterFile]] = {kind.kind: kind for kind in (SlurmFile, KubernetesFile)}


def read_cluster_file(path: Path) -> ClusterFile:
    """Read and check a description of a cluster; nothing is started.

    Raises
    ------
    InputError
        If the file is missing, not YAML, or holds an unknown key or a value that cannot be.
    """
    content = read_mapping(path, "'key: value' lines, 'kind' among them")
    kind = content.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        found = (
            "is missing" if kind is None else f"cannot be {quoted(kind)}{nearest(str(kind), KINDS)}"
        )
        raise InputError(f"{path}: kind {found} (one of {', '.join(KINDS)})")
    known = {f.name: f for f in fields(KINDS[kind])}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise InputError(
                f"{path}: unknown key '{one_line(str(key), 80)}'{nearest(str(key), known)}"
            )
        if value is not None:
            values[key] = _read(str(known[key].type), key, value, path)
    missing = [n for n, f in known.items() if f.default is MISSING and n not in values]
    if missing:
        raise InputError(f"{path}: {missing[0]} is missing")
    described = KINDS[kind](**values)
    try:
        if not 0 <= described.minimum <= described.maximum or described.maximum < 1:
            raise ValueError(
                f"minimum and maximum must be in that order, not {described.minimum} and "
                f"{described.maximum}"
            )
        described.check()
    except ValueError as error:
        raise InputError(f"{path}: {one_line(str(error), 400)}") from None
    if importlib.util.find_spec(described.library) is None:
        raise InputError(
            f"{path}: a cluster of kind {kind} needs {described.library.replace('_', '-')}; "
            f"pip install 'hlmm-scan[{kind}]'"
        )
    return described


def _read(kind: str, key: str, value: Any, path: Path) -> Any:
    """Check one value against the type of its key."""
    if kind.startswith("int"):
        right = isinstance(value, int) and not isinstance(value, bool)
    elif kind.startswith("bool"):
        right = isinstance(value, bool)
    elif kind.startswith("tuple"):
        value = tuple(value) if isinstance(value, list) else (value,)
        right = all(isinstance(item, str) for item in value)
    else:
        right = isinstance(value, str)
    # A line of a job's script must stay one.
    text = value if isinstance(value, tuple) else (value,)
    if not right or any(re.search(r"[\x00-\x1f]", item) for item in text if isinstance(item, str)):
        words = {"int": "a whole number", "boo": "true or false", "tup": "a list of words"}
        expected = words.get(kind[:3], "one line of text (in quotes, if it looks like a number)")
        raise InputError(f"{path}: {key} must be {expected}, not {quoted(value)}")
    return path.parent / Path(value).expanduser() if kind.startswith("Path") else value


def _parse_memory(text: str | None) -> int:
    try:
        return 0 if text is None else int(parse_bytes(text))
    except ValueError:
        raise ValueError(f"memory must be a size as 4GiB, not '{text}'") from None


def _worker_container(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    container: Mapping[str, Any] = manifest["spec"]["worker"]["spec"]["containers"][0]
    return container


@dataclass
class _SlurmCluster:
    described: SlurmFile
    job_bytes: int
    name: str = "the cluster of SLURM jobs"
    most_workers: int = field(init=False)

    def __post_init__(self) -> None:
        self.most_workers = self.described.most_workers

    @contextmanager
    def client(self) -> Iterator[Any]:
        import dask
        from dask_jobqueue.slurm import SLURMCluster
        from distributed import Client

        from hlmm_scan.scan.certificates import own_security

        wanted = self.described
        settings = {**WORKER_SETTINGS, "distributed.deploy.lost-worker-timeout": LOST_AFTER}
        if not wanted.dashboard:
            settings["distributed.scheduler.http.routes"] = []
        with dask.config.set(settings):
            with _starting(self.name):
                if wanted.log_directory is not None:
                    wanted.log_directory.mkdir(parents=True, exist_ok=True)
                cluster = SLURMCluster(
                    cores=wanted.workers_per_job,
                    processes=wanted.workers_per_job,
                    memory=f"{self.job_bytes}B",
                    walltime=wanted.walltime,
                    queue=wanted.partition,
                    account=wanted.account,
                    interface=wanted.interface,
                    python=wanted.python,
                    job_name="hlmm-scan",
                    log_directory=wanted.log_directory and str(wanted.log_directory.absolute()),
                    job_extra_directives=list(wanted.directives),
                    job_script_prologue=[f"export {name}=1" for name in THREAD_VARIABLES],
                    worker_extra_args=worker_arguments(wanted.walltime),
                    security=own_security() if wanted.tls else None,
                    shared_temp_directory=str(Path.cwd()),
                    scheduler_options={
                        "dashboard": wanted.dashboard,
                        "dashboard_address": "127.0.0.1:0",
                    },
                    silence_logs=logging.CRITICAL,
                )
            with cluster:
                with _starting(self.name):
                    cluster.adapt(
                        minimum_jobs=wanted.minimum,
                        maximum_jobs=wanted.maximum,
                        target_duration=TARGET_DURATION,
                    )
                with Client(cluster) as client:
                    yield client


def worker_arguments(walltime: str) -> list[str]:
    """Return what a worker of a job of that time is told beside dask-jobqueue's own arguments."""
    days, _, clock = walltime.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    whole = (24 * int(days or 0) + hours) * 3600 + 60 * minutes + seconds
    return [
        # Dask counts mapped files as memory; what a worker may take is watched otherwise, and the
        # job's own memory stands in its script.
        *("--memory-limit", "0"),
        *("--lifetime", f"{LIFETIME_SHARE * whole:.0f}s"),
        *("--lifetime-stagger", f"{STAGGER_SHARE * whole:.0f}s"),
    ]


@dataclass
class _KubernetesCluster:
    described: KubernetesFile
    manifest: dict[str, Any]
    most_workers: int = field(init=False)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.most_workers = self.described.most_workers
        self.name = f"the DaskCluster {self.manifest['metadata']['name']}"

    @contextmanager
    def client(self) -> Iterator[Any]:
        from dask_kubernetes.operator import KubeCluster
        from distributed import Client

        wanted = self.described
        with _starting(self.name):
            cluster = KubeCluster(
                custom_cluster_spec=self.manifest, namespace=wanted.namespace, quiet=True
            )
        with cluster:
            with _starting(self.name):
                # As many as there are at least, the operator keeps by itself.
                if wanted.minimum < wanted.maximum:
                    cluster.adapt(minimum=wanted.minimum, maximum=wanted.maximum)
                client = Client(cluster)
            with client:
                yield client


@contextmanager
def _starting(name: str) -> Iterator[None]:
    """Tell in one line why a cluster could not be started, whatever its library raised."""
    try:
        yield
    except HlmmScanError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise InfrastructureError(f"{name} could not be started: {why}") from error
