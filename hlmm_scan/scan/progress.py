"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


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
        if sys.stderr.isatty():
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
        if now - self._last_line >= SECONDS_BETWEEN_LINES and self.done < self.total:
            self._last_line = now
            logger.info("%s", self.line(now - self._started))

    def line(self, elapsed: float) -> str:
        """Return one line: count, share, rate and time left after `elapsed` seconds."""
        rate = (self.done - self._first) / max(elapsed, 1e-9)
        share = 100 * self.done / max(self.total, 1)
        text = f"{self.done:,} of {self.total:,} {self.unit} ({share:.1f}%)"
        if rate > 0:
            left = tqdm.format_interval((self.total - self.done) / rate)
            text += f", {rate:,.0f} {self.unit}/s, {left} left"
        return text
