"""Result stores while they are read and written: none takes the place of another unseen.

Where the file system knows locks, readers and tasks share one, and who replaces a store, or what is
derived in it, wants it alone. It is the lock of a file that never changes. On object stores, and
where there are no locks, all look again at the end whether the store is the one they began with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hlmm_scan.errors import HlmmScanError, InputError, StoreHeldError
from hlmm_scan.results.mark import REMEDY
from hlmm_scan.staging import read_error
from hlmm_scan.storage import Place
from hlmm_scan.storage.locks import locked
from hlmm_scan.storage.places import ROOT, read_json

_UNCHANGING = f"status/{ROOT}"


@contextmanager
def being_read(store: Place, run_id: str) -> Iterator[None]:
    """Read a result store within this block, while nobody replaces it or what is derived in it.

    Parameters
    ----------
    store : Path or ObjectPath
    run_id : str
        Of the store as it was opened.

    Raises
    ------
    StoreHeldError
        If somebody does, or did.
    """
    with _shared(store):
        changed = StoreHeldError(
            f"{store}: another command changed this store while it was read; start again"
        )
        before = _state(store)
        if before[0] != run_id:
            raise changed
        try:
            yield
        except (HlmmScanError, OSError) as error:
            if _state(store) != before:  # another store looks damaged as well
                raise changed from error
            raise
        if _state(store) != before:
            raise changed


@contextmanager
def being_changed(store: Place) -> Iterator[None]:
    """Replace a result store within this block, or what is derived in it, while nobody reads it.

    Raises
    ------
    StoreHeldError
        If anybody does, on a file system that knows locks.
    """
    with ExitStack() as held:
        if isinstance(store, Path):
            try:
                with suppress(FileNotFoundError):
                    held.enter_context(locked(store / _UNCHANGING, alone=True))
            except BlockingIOError:
                raise StoreHeldError(
                    f"{store}: in use, another command reads or writes this store; wait for it or "
                    "stop it, then start again"
                ) from None
        yield


@contextmanager
def of_run(store: Place, run_id: str) -> Iterator[None]:
    """Write to the store of a run within this block, and to no other that took its place.

    Raises
    ------
    StoreHeldError
        If another one stands there, or came to stand there.
    OSError
        If none does.
    """
    with _shared(store):
        require_run(store, run_id)
        yield
        if not isinstance(store, Path):
            require_run(store, run_id)


def require_run(store: Place, run_id: str) -> None:
    """Raise StoreHeldError unless the store of a run stands at a place.

    Raises
    ------
    InputError, OSError
        As :func:`run_at`.
    """
    if run_at(store) != run_id:
        raise StoreHeldError(f"{store}: another run replaced this store just now; start again")


def run_at(store: Place) -> str:
    """Return the id of the run whose store stands at a place, which may be damaged elsewhere.

    Raises
    ------
    InputError
        If its metadata are damaged.
    OSError
        If none stands there, or it cannot be read.
    """
    try:
        return str(json.loads((store / ROOT).read_bytes())["attributes"].get("run_id", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{store}: {ROOT} is damaged; {REMEDY}") from None


@contextmanager
def _shared(store: Place) -> Iterator[None]:
    with ExitStack() as held:
        if isinstance(store, Path):
            try:
                with suppress(FileNotFoundError):  # stores of before, and what was made by hand
                    held.enter_context(locked(store / _UNCHANGING, alone=False))
            except BlockingIOError:
                raise StoreHeldError(
                    f"{store}: another command replaces this store, or what is derived in it, just "
                    "now; start again when it is done"
                ) from None
        yield


def _state(store: Place) -> list[Any]:
    """Return which run's store it is, and what is derived in it."""
    try:
        attributes = (read_json(store / ROOT) or {}).get("attributes", {})
    except OSError as error:
        raise read_error(store, error) from error
    return [attributes.get("run_id", ""), attributes.get("dispersion_fit")]
