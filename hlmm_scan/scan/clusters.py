"""Clusters that tasks can run on, each a context in which a Dask client is connected to it.

The embedded one stands here, and the one that is there already; those that a batch system starts
are in :mod:`~hlmm_scan.scan.cluster_file`.
"""

# distributed is typed in part only.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import copy
import logging
import multiprocessing.util
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from hlmm_scan.errors import InfrastructureError, InputError
from hlmm_scan.scan import fork_server
from hlmm_scan.shown import one_line

SECONDS_TO_CONNECT = 10.0

_LENGTH_BYTES = 8
_LONGEST_GREETING = 1 << 20
"""A Dask server's first words are their length and some hundred bytes."""

WORKER_SETTINGS = {
    "distributed.comm.timeouts.connect": "60s",
    # It wants Python's lock a hundred times a second, from fits that then wait for it: a tenth of
    # the time of two workers on the mice (scripts/engine --only cores).
    "distributed.worker.profile.enabled": False,
}


class Cluster(Protocol):
    """Somewhere that a Dask client can connect to.

    Attributes
    ----------
    name : str
        For messages, as "the embedded cluster".
    most_workers : int
        Worker processes it may come to have; 0 where that is not known.
    """

    name: str
    most_workers: int

    def client(self) -> AbstractContextManager[Any]:
        """Return a context that gives a connected ``distributed.Client``.

        What was started for it ends with the context.
        """
        ...


class EmbeddedCluster:
    """Worker processes of this machine, one thread each, that nobody else can reach.

    What a site's Dask configuration says is for the site's own clusters, and not for this one.

    Parameters
    ----------
    workers : int
    dashboard : bool, default False
        Whether to show the work on a page, which every account of this machine can look at.
    """

    name = "the embedded cluster"

    def __init__(self, workers: int, dashboard: bool = False) -> None:
        self.most_workers, self.dashboard = workers, dashboard

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Start scheduler and workers."""
        import dask
        from distributed import Client, LocalCluster

        from hlmm_scan.scan.certificates import own_security

        settings = {
            "distributed": _distributed_defaults(),
            **WORKER_SETTINGS,
            "distributed.worker.multiprocessing-method": fork_server.METHOD,
            "distributed.nanny.pre-spawn-environ": {},  # Dask would leave it in ours
            "distributed.scheduler.allowed-failures": 1,
            # Processes of Dask import modules from their scratch folders: nobody else may have
            # made the one that these lie in. This one is ours alone, and goes with this process.
            "temporary-directory": multiprocessing.util.get_temp_dir(),
            # The servers listen in any case; without pages they tell nothing.
            "distributed.worker.http.routes": [],
        }
        if not self.dashboard:
            settings["distributed.scheduler.http.routes"] = []
        fork_server.start()
        with dask.config.set(settings), ExitStack() as stack:
            security = own_security()
            with fork_server.held_back(signal.SIGINT):
                cluster = LocalCluster(
                    n_workers=self.most_workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    protocol="tls://",
                    security=security,
                    # Any free port: the default one is taken as soon as two scans run at once.
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": self.dashboard},
                    # Dask counts mapped pages as memory and would pause or kill healthy workers.
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,  # in the workers
                    env=fork_server.environment(),  # the server's may be of an earlier scan
                )
                client = stack.enter_context(Client(stack.enter_context(cluster)))
            yield client


def _distributed_defaults() -> dict[str, Any]:
    """Return the settings that Dask itself ships for clusters."""
    from dask import config

    shipped: dict[str, Any] = config.merge(*config.defaults)["distributed"]
    return copy.deepcopy(shipped)  # some of its lists are added to as clusters are made


class _NoScheduler(OSError):
    """Something answers at an address, but no Dask scheduler."""


class RunningScheduler:
    """A scheduler that somebody started, with the workers it has from time to time.

    Parameters
    ----------
    address : str
        As ``tcp://host:8786``, or ``tls://`` with the certificates that Dask's own configuration
        names (``distributed.comm.tls``).

    Raises
    ------
    InputError
        If that is no address.
    """

    most_workers = 0

    def __init__(self, address: str) -> None:
        self.address = address if "://" in address else f"tcp://{address}"
        self.name = f"the cluster at {self.address}"
        protocol, _, place = self.address.partition("://")
        host, _, port = place.rpartition(":")
        if protocol not in ("tcp", "tls", "ws", "wss") or not host or not port.isdecimal():
            raise InputError(
                f"--scheduler '{one_line(address, 80)}' is not an address as tcp://host:8786 or tls://host:8786"
            )

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Connect; the scheduler and its workers stay as they were when this ends.

        Raises
        ------
        InfrastructureError
            If no scheduler answers.
        """
        from distributed import Client

        try:
            self._see_that_it_is_one()
            with fork_server.held_back(signal.SIGINT):
                client = Client(self.address, timeout=SECONDS_TO_CONNECT)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            told = isinstance(error, _NoScheduler) or "tls" in str(error).lower()
            why = str(error) if told else "refused, or a time-out"
            raise InfrastructureError(
                f"no scheduler answers at {self.address} ({why}); is `dask scheduler` running?"
            ) from error
        with client:
            yield client

    def _see_that_it_is_one(self) -> None:
        """Read the first bytes: a Dask server speaks first, and Dask's client waits for ever."""
        from distributed.security import Security

        protocol, _, place = self.address.partition("://")
        host, _, port = place.rpartition(":")
        if protocol not in ("tcp", "tls"):
            return
        end = time.monotonic() + SECONDS_TO_CONNECT
        with socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT) as plain:
            context = None
            if protocol == "tls":
                context = Security().get_connection_args("client")["ssl_context"]
                if context is None:
                    return  # no certificates are configured, as the client will say
            with context.wrap_socket(plain) if context else plain as connection:
                said = b""
                while len(said) < _LENGTH_BYTES:
                    connection.settimeout(max(end - time.monotonic(), 0.001))
                    try:
                        more = connection.recv(_LENGTH_BYTES - len(said))
                    except TimeoutError:
                        raise _NoScheduler("what listens there says nothing") from None
                    if not more:
                        raise _NoScheduler("what listens there hangs up")
                    said += more
        if int.from_bytes(said, "little") > _LONGEST_GREETING:
            raise _NoScheduler("what listens there is something else")


class GivenClient:
    """The cluster that a caller's client is connected to; the client is used and left open.

    Parameters
    ----------
    client : distributed.Client

    Raises
    ------
    InputError
        If it is asynchronous or closed, or its workers are threads of this process.
    """

    most_workers = 0

    def __init__(self, client: Any) -> None:
        if getattr(client, "asynchronous", False):
            raise InputError("client: an asynchronous one cannot be used; Client(...) makes one")
        if getattr(client, "status", None) != "running":
            raise InputError("client: not connected to a scheduler (is it closed?)")
        self.address = str(client.scheduler.address)
        if self.address.startswith("inproc:"):
            # A worker pins its threads, and ends its process where memory runs out.
            raise InputError(
                "client: its workers are threads of this process; make its cluster with "
                "LocalCluster(processes=True), or leave client out"
            )
        self.name = f"the cluster at {self.address}"
        self._client = client

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Give the client, and leave it as it is."""
        yield self._client
