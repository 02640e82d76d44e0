"""Leases: who holds a store on an object store, where there are no locks that die with a process.

A lease is one object. Its holder creates it if none is there, writes it anew every quarter of a
minute, each time only over its own last version, and stops when it could not do so in time. Whoever
else wants it takes it over, again only over the version found, once it has not been renewed for
longer than that, or if its process ran on the same machine and is gone. Clocks of machines and
store have to agree within a quarter of a minute (S3 by itself asks for a quarter of an hour).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hlmm_scan.errors import InfrastructureError, StoreHeldError
from hlmm_scan.storage.attempts import now
from hlmm_scan.storage.places import ObjectPath, Version

logger = logging.getLogger(__name__)

LEASE_SECONDS = 45.0
"""Time a holder may write after it last renewed its lease."""

RENEWAL_SECONDS = 15.0
CLOCK_SECONDS = 15.0
"""Disagreement of clocks that is allowed for before a lease is taken over."""

FOLDER = ".lease"
_held_here: set[str] = set()
"""Tokens of the leases this process has."""

_ALONE = "alone"
_SHARD = "shard-"


class Lease:
    """One lease object while it is held; see :func:`held_alone` and :func:`held_together`.

    Parameters
    ----------
    path : ObjectPath
    note : str
        Who holds it, for the message to others.
    """

    def __init__(self, path: ObjectPath, note: str) -> None:
        self.path = path
        self._content = {"holder": note, "token": uuid.uuid4().hex, **_this_process()}
        self._version: Version = {}
        self._renewals = 0
        self._renewed = 0.0  # by `now`
        self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def take(self) -> None:
        """Create the lease, or take it over from who no longer has it.

        Raises
        ------
        StoreHeldError
            If somebody has it.
        OSError
            If the object store fails or refuses.
        """
        # Before it can be seen: a lease of this process that is not among them counts as left over.
        _held_here.add(self._content["token"])
        try:
            self._take()
        except BaseException:
            _held_here.discard(self._content["token"])
            raise
        self._thread.start()

    def _take(self) -> None:
        begun = now()
        try:
            self._version = self.path.create(self._text())
        except FileExistsError:
            version = _abandoned(self.path)
            if version is None:
                raise _held(self.path) from None
            begun = now()
            try:
                self._version = self.path.replace(self._text(), version)
            except FileExistsError:  # somebody else took it over at the same instant
                raise _held(self.path) from None
        self._renewed = begun

    def check(self) -> None:
        """Raise unless the lease is held; to be asked before everything that is written.

        Raises
        ------
        InfrastructureError
            If it was lost, or could not be renewed in time.
        """
        late = now() - self._renewed > LEASE_SECONDS
        if self._lost or late:
            why = "another run took it over" if self._lost else "the object store did not answer"
            store = self.path.url.partition(f"/{FOLDER}/")[0]
            raise InfrastructureError(
                f"{store}: the lease on this store was lost ({why}), so this run stops; run the "
                "same command again"
            )

    def give_back(self) -> None:
        """Let go of the lease; without an answer it expires by itself."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        _held_here.discard(self._content["token"])
        with suppress(OSError):
            self.path.replace(self._text(released=True), self._version)

    def _keep(self) -> None:
        while not self._ended.wait(RENEWAL_SECONDS):
            begun = now()
            self._renewals += 1
            try:
                self._version = self.path.replace(self._text(), self._version)
            except FileExistsError:
                self._lost = True
                logger.error("%s: another run took the lease over", self.path)
                return
            except OSError as error:
                logger.warning("%s: the lease could not be renewed: %s", self.path, error.strerror)
            else:
                self._renewed = begun

    def _text(self, released: bool = False) -> bytes:
        content = {**self._content, "renewals": self._renewals, "released": released}
        return json.dumps(content, sort_keys=True).encode()


@contextmanager
def held_alone(store: ObjectPath) -> Iterator[Lease]:
    """Hold a store while nobody else does.

    Raises
    ------
    StoreHeldError
        If anybody does.
    """
    # The flag first, then the look at the others, who do the same: both may see each other and go,
    # but never do both miss each other.
    with _held_lease(store / FOLDER / _ALONE, "") as lease:
        for name in list((store / FOLDER).objects()):
            other = store / FOLDER / name
            if name.startswith(_SHARD):
                if _abandoned(other) is None:
                    raise _held(other)
                other.unlink(missing_ok=True)
        yield lease


@contextmanager
def held_together(store: ObjectPath, shard: str) -> Iterator[Lease]:
    """Hold a store as one of several shards.

    Raises
    ------
    StoreHeldError
        If somebody holds it alone.
    """
    path = store / FOLDER / f"{_SHARD}{uuid.uuid4().hex}"
    try:
        with _held_lease(path, shard) as lease:
            alone = store / FOLDER / _ALONE
            if alone.is_file() and _abandoned(alone) is None:
                raise _held(alone)
            yield lease
    finally:
        with suppress(OSError):  # nobody else writes this one
            path.unlink(missing_ok=True)


@contextmanager
def _held_lease(path: ObjectPath, shard: str) -> Iterator[Lease]:
    who = f"process {os.getpid()} on {socket.gethostname()}"
    lease = Lease(path, f"{shard}: {who}" if shard else who)
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()


def _abandoned(path: ObjectPath) -> Version | None:
    """Return the version of a lease that nobody holds; None where somebody may hold it."""
    try:
        data, version = path.read()
        written = path.modified()
    except FileNotFoundError:
        return None
    content = _content(data)
    if content.get("released") or written is None or _process_is_gone(content):
        return version
    age = time.time() - written.timestamp()
    return version if age > LEASE_SECONDS + CLOCK_SECONDS else None


def _held(path: ObjectPath) -> StoreHeldError:
    store = path.url.partition(f"/{FOLDER}/")[0]
    try:
        holder = str(_content(path.read_bytes()).get("holder", "unknown"))
    except OSError:
        holder = "unknown"
    return StoreHeldError(
        f"{store}: another run holds this store ({holder}); wait for it or stop it; one that was "
        f"killed lets go after {LEASE_SECONDS + CLOCK_SECONDS:.0f} s"
    )


def _content(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _this_process() -> dict[str, Any]:
    """Return what tells this process from every other, on this machine and elsewhere."""
    return {"machine": _machine(), "process": os.getpid(), "born": _born(os.getpid())}


def _machine() -> str:
    """Return the machine since it booted, and the container: a process id means nothing beyond."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(process: int) -> int | None:
    """Return when a process started, in ticks since the machine did; None where there is none."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        state, *numbers = stat.rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(numbers[18])


def _process_is_gone(content: dict[str, Any]) -> bool:
    machine, process = content.get("machine"), content.get("process")
    if not machine or machine != _machine() or not isinstance(process, int):
        return False
    if _born(process) != content.get("born"):
        return True
    # One that could not be given back, as the store did not answer.
    return process == os.getpid() and content.get("token") not in _held_here
