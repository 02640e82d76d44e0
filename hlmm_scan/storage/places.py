"""Where a store lies: a folder, or an address in an object store behind the few words of a path.

Credentials, endpoint and region come from the environment alone, as the tools of each cloud name
them (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``); an address holds none, so it may be stored and logged.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hlmm_scan.errors import InputError
from hlmm_scan.shown import one_line
from hlmm_scan.storage.attempts import again, transient

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "s3a", "gs", "az")
REQUEST_SECONDS = 60.0
"""Time a request may take, a chunk of some megabytes on a slow line included."""

MARK = "hlmm_scan"
"""Attribute of a Zarr group that says that it is ours, and what it holds."""

ROOT = "zarr.json"
UNFINISHED_ROOT = "zarr.json.partial"

_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
_LISTED = 1000


@dataclass(frozen=True)
class ObjectPath:
    """An address in an object store: of an object, or of all those that begin with it.

    It has the words of `pathlib.Path` that stores need, so most code need not tell them apart.
    Every request is made again after errors that pass; what remains is an OSError.

    Parameters
    ----------
    url : str
        ``scheme://bucket/key``, the scheme one of `SCHEMES`, without credentials or a query.

    Raises
    ------
    InputError
        If it is no such address.
    """

    url: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
        except ValueError as error:  # brackets that are no address
            raise InputError(f"{one_line(self.url, 80)}: no address ({error})") from None
        if not self.url.isprintable():
            raise InputError(f"{one_line(self.url, 80)}: an address without control characters")
        shown = one_line(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", 200)
        if parts.scheme not in SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise InputError(f"{shown}: stores lie in folders or at {known} addresses")
        if "@" in parts.netloc or parts.query or parts.fragment or ":" in parts.netloc:
            raise InputError(
                f"{shown}: an address is only scheme, bucket and key; credentials and endpoint "
                "belong into the environment"
            )
        key = parts.path.strip("/")
        if not parts.netloc or not key or not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise InputError(f"{shown}: expected {parts.scheme}://bucket/name")
        object.__setattr__(self, "url", f"{parts.scheme}://{parts.netloc}/{key}")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def key(self) -> str:
        """The address within its bucket."""
        return urlsplit(self.url).path.lstrip("/")

    # Asking -----------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether an object is here or anywhere below."""
        return self.is_file() or next(self.objects(), None) is not None

    def is_file(self) -> bool:
        """Return whether an object is here."""
        return self.modified() is not None

    def is_dir(self) -> bool:
        """Return whether there are objects below."""
        return next(self.objects(), None) is not None

    def modified(self) -> datetime | None:
        """Return when the object here was last written, by the store's clock; None without one."""
        obstore = _obstore()
        try:
            found = self._again(lambda: obstore.head(self._client, self.key))
        except FileNotFoundError:
            return None
        written: datetime = found["last_modified"]
        return written

    def objects(self) -> Iterator[str]:
        """Yield the names of all objects below, relative to here, in order of their keys."""
        obstore = _obstore()
        prefix, after = f"{self.key}/", None
        while True:
            # Page by page: a stream could not be taken up again where it broke.
            page = self._again(
                lambda start=after: obstore.list(  # type: ignore[misc]
                    self._client, prefix, offset=start, chunk_size=_LISTED
                ).__next__(),
                end=StopIteration,
            )
            if not page:
                return
            keys = sorted(str(found["path"]) for found in page)
            for key in keys:
                yield key.removeprefix(prefix)
            after = keys[-1]

    # Reading and writing ----------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Return the object.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        return self.read()[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the object as text."""
        return self.read_bytes().decode(encoding)

    def read(self) -> tuple[bytes, Version]:
        """Return the object and its version, for :meth:`replace`."""
        obstore = _obstore()

        def get() -> tuple[bytes, Version]:
            found = obstore.get(self._client, self.key)
            return bytes(found.bytes()), version_of(found.meta)

        found: tuple[bytes, Version] = self._again(get)
        return found

    def read_root(self, names: Sequence[str]) -> tuple[bytes, Version]:
        """Return the first of some objects below that is there, as :meth:`read` does.

        Raises
        ------
        FileNotFoundError
            If none is.
        """
        for name in names[:-1]:
            with suppress(FileNotFoundError):
                return (self / name).read()
        return (self / names[-1]).read()

    def write_bytes(self, data: bytes) -> Version:
        """Put an object, in place of whatever is there."""
        obstore = _obstore()
        return version_of(
            self._again(lambda: obstore.put(self._client, self.key, data, use_multipart=False))
        )

    def create(self, data: bytes) -> Version:
        """Put an object where there is none.

        Parameters
        ----------
        data : bytes
            Like no other writer's: by it we know our object if the answer to our request was lost.

        Raises
        ------
        FileExistsError
            If somebody else's is there.
        """
        return self._put_on_condition(data, "create")

    def replace(self, data: bytes, version: Version) -> Version:
        """Put an object in place of a certain version of it.

        Parameters
        ----------
        data : bytes
            As for :meth:`create`.
        version : mapping
            As :meth:`read`, :meth:`create` or this returned it.

        Raises
        ------
        FileExistsError
            If that is no longer what is there.
        """
        return self._put_on_condition(data, dict(version))

    def _put_on_condition(self, data: bytes, mode: Any) -> Version:
        obstore = _obstore()
        try:
            return version_of(
                self._again(
                    lambda: obstore.put(
                        self._client, self.key, data, mode=mode, use_multipart=False
                    )
                )
            )
        except (FileExistsError, FileNotFoundError):
            try:
                found, version = self.read()
            except FileNotFoundError:
                found, version = b"", {}
            if found != data:
                raise FileExistsError(
                    errno.EEXIST, "already there, or changed by somebody else", self.url
                ) from None
            return version

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object; one that is not there is deleted already."""
        obstore = _obstore()
        try:
            self._again(lambda: obstore.delete(self._client, self.key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_below(self, keep: Callable[[str], bool] = lambda name: False) -> None:
        """Delete all objects below, but those whose name `keep` says to keep."""
        obstore = _obstore()
        names = [name for name in self.objects() if not keep(name)]
        for start in range(0, len(names), _LISTED):
            keys = [f"{self.key}/{name}" for name in names[start : start + _LISTED]]
            self._again(lambda keys=keys: obstore.delete(self._client, keys))  # type: ignore[misc]

    # ------------------------------------------------------------------------------------------

    @property
    def _client(self) -> ObjectStore:
        parts = urlsplit(self.url)
        return client(f"{parts.scheme}://{parts.netloc}")

    def _again(self, call: Callable[[], Any], end: type[BaseException] | None = None) -> Any:
        def once() -> Any:
            try:
                return call()
            except StopIteration:
                if end is None:
                    raise
                return None

        return again(once, self.url)


@dataclass(frozen=True)
class UnfinishedPath(ObjectPath):
    """A store being made: its root's metadata stand under another name, so it is no store yet.

    Parameters
    ----------
    url : str
    check : callable
        Called before everything that is written; raises if this process may no longer write.
    """

    check: Callable[[], None]


@dataclass(frozen=True)
class OwnedPath(ObjectPath):
    """A store to which only those of one run may write.

    Parameters
    ----------
    url : str
    check : callable
        Called before an object of another content is written over; raises unless the store that
        stands there is of this run.
    """

    check: Callable[[], None]


Place = Path | ObjectPath
Version = Mapping[str, Any]


def place(text: str | Place) -> Place:
    """Return where something lies: an address where there is a scheme, else a path.

    Raises
    ------
    InputError
        If an address is malformed, of an unknown scheme, or holds credentials.
    """
    if isinstance(text, str) and "://" in text:
        return ObjectPath(text)
    return text if isinstance(text, ObjectPath) else Path(text)


def absolute(where: Place) -> Place:
    """Return a place that means the same from any folder."""
    # Not resolve(): a link the user chose stays the name of the place.
    return where if isinstance(where, ObjectPath) else Path(os.path.abspath(where))  # noqa: PTH100


def read_json(where: Place) -> Any:
    """Return the content of a JSON file or object; None where there is none or it is no JSON.

    Raises
    ------
    OSError
        If an object store does not answer, or refuses.
    """
    try:
        return json.loads(where.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError:
        if isinstance(where, ObjectPath):
            raise
        return None


@lru_cache(maxsize=32)
def client(url: str) -> ObjectStore:
    """Return obstore's client for a bucket, or for what is below an address in it.

    Raises
    ------
    InputError
        If the environment configures it in a way that cannot be.
    """
    _obstore()
    _check_endpoints()
    from obstore.store import from_url

    options: Any = {"timeout": timedelta(seconds=REQUEST_SECONDS)}
    # obstore reads this by itself only where it is given no options at all.
    if any(os.environ.get(name, "").lower() in ("true", "1") for name in _ALLOW_HTTP):
        options["allow_http"] = True
    try:
        # It takes %25 for %, which a key may hold, here but nowhere else.
        url = url.replace("%", "%25")
        # obstore would try again by itself, uncounted: see attempts.
        return from_url(url, client_options=options, retry_config={"max_retries": 0})
    except Exception as error:
        if transient(error):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"{url}: the object store cannot be used: {reason}") from None


def _check_endpoints() -> None:
    """See that endpoints are addresses of servers: obstore ends in a panic of Rust's on others."""
    for name, value in os.environ.items():
        if not name.startswith(("AWS_", "AZURE_", "GOOGLE_")) or "ENDPOINT" not in name:
            continue
        if name.endswith(("_ENABLED", "_MODE", "_DISCOVERY")) or not value:
            continue
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good or not value.isprintable() or " " in value:
            shown = one_line(value.rpartition("@")[2], 80)
            raise InputError(f"{name} is '{shown}', no address as https://host:9000")


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise InputError(
            "stores at s3://, gs:// or az:// need the package obstore: "
            "pip install 'hlmm-scan[object-stores]'"
        ) from None
    return obstore


def version_of(found: Mapping[str, Any]) -> Version:
    """Return what a request for an object says of its version."""
    return {name: found[name] for name in ("e_tag", "version") if found.get(name) is not None}
