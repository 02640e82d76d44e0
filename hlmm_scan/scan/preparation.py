"""The work of preparing a store: null models fitted side by side, kept when done, counted."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from hlmm_scan.null.work import KeptFiles
from hlmm_scan.scan.progress import Progress
from hlmm_scan.staging import unfinished_folders
from hlmm_scan.storage import Place
from hlmm_scan.storage.places import ROOT, UNFINISHED_ROOT, read_json

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Made = TypeVar("Made")

_KEPT = "fitted"
_STATE = "state"
_SECONDS_BETWEEN_STATES = 1.0


class Preparation:
    """Does the parts of a preparation, in threads where there are several.

    Libraries are pinned to one thread of their own, and what takes long in them lets the others
    run. What is worked out does not depend on how many there are.

    Parameters
    ----------
    store : Path or ObjectPath
        The unfinished store. What is done is kept beside it where it is a folder.
    threads : int
    total : int
        Parts expected, for the progress.
    """

    def __init__(self, store: Place, threads: int, total: int) -> None:
        self._files = KeptFiles(store.parent / _KEPT) if isinstance(store, Path) else None
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._progress = _Progress(total)
        self._lock = threading.Lock()
        self._told = 0.0

    def __enter__(self) -> Self:
        self._progress.__enter__()
        self._tell("")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._progress.found:
            logger.info("%d of these were done by an earlier run", self._progress.found)
        self._progress.__exit__(kind, error, traceback)

    def each(self, function: Callable[[Item], Made], items: Iterable[Item]) -> Iterable[Made]:
        """Return the function of every item, in their order."""
        return map(function, items) if self._pool is None else self._pool.map(function, items)

    def kept(self, label: str, digest: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what an earlier run kept, or make it and keep it; either is told."""
        result = None if self._files is None else self._files.get(digest)
        found = result is not None
        if result is None:
            begun = time.monotonic()
            result = make()
            if self._files is not None:
                self._files.put(digest, result)
            logger.debug("%s: done in %.1f s", label, time.monotonic() - begun)
        with self._lock:
            self._progress.step(label, found=found)
            self._tell(label)
        return result

    def _tell(self, label: str) -> None:
        """Say in a file how far it is."""
        now, progress = time.time(), self._progress
        if self._files is None or now - self._told < _SECONDS_BETWEEN_STATES:
            return
        self._told = now
        self._files.put(_STATE, {"done": progress.done, "total": progress.total, "last": label})


class _Progress(Progress):
    """Steps of very unequal length: the last one is named in place of a rate."""

    def __init__(self, total: int) -> None:
        super().__init__(total, "steps of the null models")
        self._label = ""
        self.found = 0

    def step(self, label: str, *, found: bool) -> None:
        """Count one step, that was made or found made."""
        self._label = label
        self.found += found
        self.total = max(self.total, self.done + 1)
        self.advance(1)

    def line(self, elapsed: float) -> str:
        """Return one line: count, share, time left, and the step just done."""
        made = self.done - self.found
        left = (self.total - self.done) * elapsed / made if made else 0.0
        text = f"{self.done:,} of {self.total:,} {self.unit} ({self._label} done)"
        return f"{text}, about {left:,.0f} s left" if left else text


@dataclass(frozen=True)
class Preparing:
    """How far the preparation of a store is, from what lies beside its place.

    Attributes
    ----------
    path : str
    running : bool or None
        Whether a process is at it; None where that cannot be told.
    done, total : int
        Steps of the null models; 0 where not known.
    last : str
        The step done last.
    """

    path: str
    running: bool | None
    done: int
    total: int
    last: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"complete": False, "preparing": asdict(self)}

    def __str__(self) -> str:
        what = {True: "in preparation", False: "its preparation was cut off", None: "unfinished"}
        text = f"{self.path}: {what[self.running]}"
        if self.total:
            text += f", {self.done:,} of {self.total:,} steps of the null models done"
        if self.last:
            text += f", the last of them {self.last}"
        return text if self.running else f"{text}; run the same scan again to go on with it"


def preparing(output: Place) -> Preparing | None:
    """Return how far the preparation of a store is; None where there is none.

    Parameters
    ----------
    output : Path or ObjectPath
        Where the store will stand.
    """
    if not isinstance(output, Path):
        with contextlib.suppress(OSError):
            if (output / UNFINISHED_ROOT).is_file() and not (output / ROOT).is_file():
                return Preparing(str(output), None, 0, 0, "")
        return None
    for folder, running in unfinished_folders(output):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads((folder / _KEPT / f"{_STATE}.json").read_text(encoding="utf-8"))
            return Preparing(str(output), running, **state)
    return None


def clear(store: Place) -> None:
    """Remove of an unfinished store what a new run makes again: all but the random effects.

    Which of these are whole is kept beside it. Others may be anything after a power cut; what has
    no metadata is not even a group.
    """
    if not isinstance(store, Path):
        return
    # What a kill left of a file that was being written beside its place.
    for scratch in list((store / "random_effects").rglob("*.partial")):
        scratch.unlink(missing_ok=True)
    for metadata in list((store / "random_effects").rglob(ROOT)):
        if metadata.is_file() and read_json(metadata) is None:
            shutil.rmtree(metadata.parent, ignore_errors=True)
    for path in list(store.iterdir()):
        if path.name == "random_effects":
            (path / ROOT).unlink(missing_ok=True)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
