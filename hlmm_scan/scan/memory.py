"""How much memory of its own this process takes while it does something."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

SECONDS_BETWEEN_SAMPLES = 0.05

_STATM = Path("/proc/self/statm")


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
