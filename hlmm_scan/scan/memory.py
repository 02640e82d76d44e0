"""How much memory there is, and how much of its own this process takes while it does something."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

SECONDS_BETWEEN_SAMPLES = 0.05

_STATM = Path("/proc/self/statm")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def available_bytes() -> int:
    """Return the memory that this process and its workers may still take, in bytes.

    That of the machine, or less where a job or a container is granted less: a control group, or
    one that it is in, has a limit of its own.
    """
    machine = int(psutil.virtual_memory().available)
    return max(0, min([machine, *_granted(_CGROUPS, _OWN_CGROUPS)]))


def _granted(root: Path, own: Path) -> Iterator[int]:
    """Yield what each control group that this process is in leaves of its limit, in bytes."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, _, kinds_and_path = line.partition(":")
        kinds, _, path = kinds_and_path.partition(":")
        if kinds == "":  # version 2, alone or beside version 1
            names = ("memory.max", "memory.current", "inactive_file")
            tops = [root, root / "unified"]
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            tops = [root / "memory", root / kinds]
        else:
            continue
        for top in tops:
            # A container sees the path of the host, and its own group as the root.
            for group in [Path(path.strip("/")), *Path(path.strip("/")).parents]:
                with suppress(OSError, ValueError):  # no limit, or no such group here
                    limit, used = (
                        int((top / group / name).read_text(encoding="ascii")) for name in names[:2]
                    )
                    yield limit - used + _reclaimable(top / group / "memory.stat", names[2])


def _reclaimable(statistics: Path, name: str) -> int:
    """Return the bytes of files that a group's usage counts and the kernel gives up at need."""
    for line in statistics.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    return 0


def own_bytes() -> int:
    """Return the memory that is this process's alone, in bytes; 0 where the system does not tell.

    Mapped files, the random effects above all, are shared with the other workers of the host and
    do not count.
    """
    try:
        _, resident, shared, *_ = _STATM.read_text(encoding="ascii").split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """Samples the memory of this process while its block runs.

    The kernel keeps a peak of all resident memory only, mapped files included. Between two samples
    something short may go unseen; kernels hold their arrays for longer, and let the sampler run.

    Attributes
    ----------
    peak_bytes : int
        Largest sample; 0 where the system does not tell.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="memory watch", daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_SAMPLES):
            self.peak_bytes = max(self.peak_bytes, own_bytes())

    def __enter__(self) -> Self:
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._sampler.join()
        self.peak_bytes = max(self.peak_bytes, own_bytes())
