"""The embedded cluster serves who started it, and no other account of the machine."""

from __future__ import annotations

import json
import multiprocessing.util
import os
import subprocess
import sys
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.scan.clusters import EmbeddedCluster

NOBODY = 65534

# Run as root until all is imported that it needs, so that nobody need not be able to read it.
STRANGER = f"""
import asyncio, http.client, json, os, pickle, sys, urllib.error, urllib.request
import distributed
from distributed import rpc
from distributed.comm import connect
from distributed.security import Security

ports = json.loads(sys.argv[1])
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
foreign = Security.temporary()
ways = {{"tcp": Security(require_encryption=False), "tls": foreign}}

async def reach(protocol, port):
    arguments = ways[protocol].get_connection_args("client")
    address = f"{{protocol}}://127.0.0.1:{{port}}"
    for operation in ("run_function", "run"):  # of schedulers; of workers and nannies
        try:
            # A connection that is refused is tried again by Dask until its time is over.
            comm = await connect(address, timeout=1, **arguments)
            wanted = dict(function=pickle.dumps(os.getuid), args=(), kwargs={{}}, reply=True)
            await comm.write({{"op": operation, **wanted}})
            answer = await asyncio.wait_for(comm.read(), 2)
            if answer.get("status") == "OK":
                return answer["result"]
        except Exception as error:
            why = type(error).__name__
    return why

def look(port):
    found = []
    for page in ("/status", "/health", "/metrics", "/info/main/workers.html"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{{port}}{{page}}", timeout=1) as answer:
                found.append(answer.status)
        except urllib.error.HTTPError as error:
            found.append(error.code)
        except (OSError, http.client.HTTPException):
            break  # no such server
    return found

async def main():
    tries = [asyncio.ensure_future(reach(way, port)) for port in ports for way in ways]
    await asyncio.wait(tries, timeout=5)
    answers = [one.result() if one.done() else "no answer" for one in tries]
    print(json.dumps({{"uid": os.getuid(), "ran": answers, "seen": seen}}), flush=True)
    os._exit(0)  # what does not answer cannot be cancelled

seen = [status for port in ports for status in look(port)]
asyncio.run(main())
"""


def as_nobody(ports: list[int]) -> dict[str, object]:
    """What another account gets from ports of this machine."""
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps(ports)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    assert told["uid"] == NOBODY
    return told


def listening() -> list[int]:
    """Ports that this process or one of its descendants listens on."""
    me = psutil.Process()
    return sorted(
        connection.laddr.port
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    )


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another account")


@pytest.mark.usefixtures("root")
def test_a_cluster_without_certificates_serves_every_account():
    """What the next test guards against, by the same means: code runs as who started it."""
    before = listening()
    with LocalCluster(1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        told = as_nobody([port for port in listening() if port not in before])
    assert told["ran"].count(os.getuid()) >= 3  # scheduler, nanny, worker
    assert 200 in told["seen"]


@pytest.mark.usefixtures("root")
def test_another_account_cannot_reach_the_embedded_cluster():
    before = listening()
    with EmbeddedCluster(1).client() as client:
        ports = [port for port in listening() if port not in before]
        assert len(ports) >= 3
        told = as_nobody(ports)
        # It is there, and serves who has the certificate.
        assert list(client.run(os.getuid).values()) == [os.getuid()]
        assert all(address.startswith("tls://127.0.0.1:") for address in client.nthreads())
        folders = client.run(lambda dask_worker: dask_worker.local_directory)
    assert len(told["ran"]) == 2 * len(ports)
    assert {type(ran) for ran in told["ran"]} == {str}, told["ran"]  # names of errors
    assert set(told["seen"]) == {404}
    # Modules are imported from here; nobody else may put any.
    private = Path(multiprocessing.util.get_temp_dir())
    assert private.stat().st_mode & 0o777 == 0o700
    assert private.stat().st_uid == os.getuid()
    assert all(Path(folder).is_relative_to(private) for folder in folders.values())


SITE = {
    "distributed.comm.require-encryption": True,
    "distributed.comm.default-scheme": "ucx",
    "distributed.comm.tls.ca-file": "/nowhere/ca.pem",
    "distributed.comm.tls.min-version": 9,
    "distributed.scheduler.preload": ["no_such_module"],
    "distributed.worker.preload": ["no_such_module"],
    "distributed.nanny.preload": ["no_such_module"],
    "distributed.worker.lifetime.duration": "1ms",
    "distributed.worker.resources": {"GPU": 1},
    "distributed.scheduler.blocked-handlers": ["register-worker"],
}


def test_a_sites_dask_configuration_does_not_reach_the_embedded_cluster():
    with dask.config.set(SITE):
        with EmbeddedCluster(1).client() as client:
            assert list(client.run(os.getuid).values()) == [os.getuid()]
        for setting, value in SITE.items():
            assert dask.config.get(setting) == value


def test_a_page_of_the_work_is_shown_where_it_is_asked_for():
    """Routes are there; what they show takes bokeh."""
    with EmbeddedCluster(1, dashboard=True).client() as client:
        assert (
            client.run_on_scheduler(
                lambda dask_scheduler: len(dask_scheduler.http_application.default_router.rules)
            )
            > 0
        )


def test_a_page_needs_its_library_and_workers_of_this_machine(bench, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="dashboard needs bokeh; pip install"):
        bench.config(tmp_path / "r", dashboard=True)
    with pytest.raises(InputError, match="dashboard is for workers of this machine"):
        bench.config(tmp_path / "r", workers=None, scheduler="h:1", dashboard=True)
    assert "dashboard" in ScanConfig.__dataclass_fields__
