"""Two hosts, each with an address, a name and a cache of its own, and hlmm-scan from a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import distributed
import numpy
import pytest
from cluster_helpers import ROOT, dask_processes
from scan_helpers import assert_identical

from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import completion, run
from hlmm_scan.scan.clusters import RunningScheduler
from hlmm_scan.scan.executors import DaskExecutor
from hlmm_scan.scan.state import scan_state

NETWORK = f"10.213.{os.getpid() % 250}"
"""Two checkouts may be tested at once."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The Python of an environment in which hlmm-scan is installed from its wheel."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "hlmm_scan", source / "hlmm_scan", ignore=shutil.ignore_patterns("__pycache__")
    )
    _pip("wheel", "--no-deps", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("hlmm_scan-*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/python*/site-packages")
    _pip("install", "--no-deps", "--target", site, wheel)
    # All else comes from here, except what is here by an editable install: a .pth names no others.
    libraries = {sysconfig.get_path("purelib"), str(Path(numpy.__file__).parents[1])}
    (site / "others.pth").write_text("\n".join(libraries) + "\n")
    return python


def _pip(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def hosts(names: tuple[str, ...]) -> Iterator[None]:
    """Network namespaces on one bridge, which has the first address; theirs come after it."""
    bridge = f"hs{os.getpid() % 100_000}"
    with ExitStack() as stack:

        def make(undo: str, *commands: str) -> None:
            for command in commands:
                done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
                if done.returncode:
                    pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
                if command is commands[0]:
                    stack.callback(subprocess.run, undo.split(), capture_output=True, check=False)

        make(
            f"ip link delete {bridge}",
            f"ip link add {bridge} type bridge",
            f"ip address add {NETWORK}.1/24 dev {bridge}",
            f"ip link set {bridge} up",
        )
        for number, name in enumerate(names):
            link = f"{bridge}v{number}"
            inside = f"ip -n {name}"
            make(
                f"ip netns delete {name}",
                f"ip netns add {name}",
                f"ip link add {link} type veth peer name eth0 netns {name}",
                f"ip link set {link} master {bridge} up",
                f"{inside} address add {NETWORK}.{number + 2}/24 dev eth0",
                f"{inside} link set eth0 up",
                f"{inside} link set lo up",
            )
        yield


def test_two_hosts_with_a_wheel_give_the_serial_result(bench, installed, tmp_path, monkeypatch):
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2, for network namespaces")
    names = tuple(f"{name}{os.getpid()}" for name in ("hostA", "hostB"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with hosts(names), dask_processes(tmp_path / "dask") as processes:
        processes.address = f"tcp://{NETWORK}.1:8786"
        processes.scheduler()
        for number, name in enumerate(names):
            cache = tmp_path / f"cache-{name}"
            in_host = f'hostname {name}; export HLMM_SCAN_CACHE={cache}; exec "$@"'
            processes.start(
                *("worker", processes.address, "--host", f"{NETWORK}.{number + 2}"),
                *("--nthreads", "1", "--memory-limit", "0", "--no-dashboard"),
                before=("ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", in_host, "sh"),
                python=installed,
            )
        with distributed.Client(processes.address) as client:
            client.wait_for_workers(2, timeout=300)
            # By a lambda, which takes its code along: these workers have not our sources.
            origins = client.run(lambda: __import__("hlmm_scan").__file__)
        environment = installed.parents[1]
        assert all(Path(origin).is_relative_to(environment) for origin in origins.values())
        store = run.prepare(bench.config(tmp_path / "r", "hlmm"))
        run.run(store, DaskExecutor(cluster=RunningScheduler(processes.address)))
        completion.finalise(store)
        assert_identical(tmp_path / "r", bench.reference("hlmm"))
        workers = scan_state(ResultStore.open(tmp_path / "r")).workers
        assert {worker.partition(":")[0] for worker in workers} == set(names)
        for name in names:  # each had decoded the random effects, and dropped them
            (folder,) = (tmp_path / f"cache-{name}").iterdir()
            assert not list(folder.iterdir())
