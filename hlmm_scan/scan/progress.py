"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import heapq
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from hlmm_scan.results.records import PartitionRecord

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0

_SLOWEST = 3  # partitions named in a line

_shown: ContextVar[bool] = ContextVar("shown", default=True)


@contextmanager
def shown_progress(shown: bool) -> Iterator[None]:
    """Show progress in this context, or neither a bar nor lines of it."""
    before = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(before)


class Progress:
    """Counts finished units and shows rate and time left.

    Parameters
    ----------
    total : int
        Units of the whole work.
    unit : str
        Plural name of a unit, as ``"tests"``.
    done : int, default 0
        Units an earlier run finished; they do not count towards the rate.

    Notes
    -----
    Calling it with (done, total) sets the count, so it also serves as a plain callback.
    """

    def __init__(self, total: int, unit: str, done: int = 0) -> None:
        self.total, self.unit, self.done = total, unit, done
        self._first, self._started = done, time.monotonic()
        self._last_line = self._started
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        if _shown.get() and sys.stderr.isatty():
            self._bar = tqdm(
                total=self.total, initial=self.done, unit=f" {self.unit}", unit_scale=True
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Set the count."""
        self.total = total
        self.advance(done - self.done)

    def advance(self, units: int) -> None:
        """Count `units` more as finished."""
        self.done += units
        if self._bar is not None:
            self._bar.update(units)
            return
        now = time.monotonic()
        if (
            _shown.get()
            and now - self._last_line >= SECONDS_BETWEEN_LINES
            and self.done < self.total
        ):
            self._last_line = now
            elapsed = now - self._started
            fields = {"done": self.done, "total": self.total, "elapsed": round(elapsed, 3)}
            logger.info("%s", self.line(elapsed), extra=fields)

    def line(self, elapsed: float) -> str:
        """Return one line: count, share, rate and time left after `elapsed` seconds."""
        rate = (self.done - self._first) / max(elapsed, 1e-9)
        share = 100 * self.done / max(self.total, 1)
        text = f"{self.done:,} of {self.total:,} {self.unit} ({share:.1f}%)"
        if rate > 0:
            left = tqdm.format_interval((self.total - self.done) / rate)
            text += f", {rate:,.0f} {self.unit}/s, {left} left"
        return text


class ScanProgress(Progress):
    """Counts the tests of finished partitions, and keeps the slowest of them in sight.

    Parameters
    ----------
    total : int
        Tests of the whole work.
    done : int, default 0
        Tests an earlier run finished.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        super().__init__(total, "tests", done)
        self._slowest: list[tuple[float, int]] = []

    def finished(self, record: PartitionRecord) -> None:
        """Count one partition, and log what it took for whoever logs more, or for a machine."""
        seconds, index = record.finished - record.started, record.partition
        costs = {
            "partition": index,
            "seconds": round(seconds, 3),
            "peak_bytes": record.peak_bytes,
            "retries": record.retries,
            "worker": record.worker,
        }
        if record.failed:
            logger.debug("partition %d failed: %s", index, record.error, extra=costs)
            return
        tests = sum(record.statuses.values())
        logger.debug("partition %d: %.1f s", index, seconds, extra={**costs, "tests": tests})
        heapq.heappush(self._slowest, (seconds, index))
        if len(self._slowest) > _SLOWEST:
            heapq.heappop(self._slowest)
        self.advance(tests)

    def line(self, elapsed: float) -> str:
        """Return one line: count, share, rate, time left, and the slowest partitions."""
        text = super().line(elapsed)
        if self._slowest:
            named = (f"{i} ({s:,.1f} s)" for s, i in sorted(self._slowest, reverse=True))
            text += f"; slowest partitions {', '.join(named)}"
        return text
