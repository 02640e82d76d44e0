"""Signals that end a command: the first in good order, the second at once.

Python hears a signal only between two of its own instructions, so a kernel would keep one waiting,
and a library may swallow the exception that it becomes. So a thread listens as well: it ends the
process when a second signal comes, or when the first has not ended it within some seconds. Results
do not mind: they are safe from a kill at any moment.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE_SECONDS = 10.0
"""Time to end in good order; batch systems kill after 30 s or more."""

SAME_SECONDS = 0.2
"""A batch system may send its one signal twice, to the process and to its group."""

AGAIN_SECONDS = 0.05

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_RAISED_AGAIN = b"\xff"  # no signal's number


GOES_ON = "; the same command again goes on from here"

_keeping = False


@contextmanager
def work_kept() -> Iterator[None]:
    """Say that what is done within the block is kept, and need not be done again after a signal."""
    global _keeping
    _keeping = True
    yield
    _keeping = False  # not where the block is left by an error: it is what the error stopped


def work_is_kept() -> bool:
    """Return whether such a block is under way, or was ended by an error."""
    return _keeping


class Terminated(BaseException):
    """SIGTERM arrived."""


@contextmanager
def heard() -> Iterator[None]:
    """Within the block, Ctrl-C raises KeyboardInterrupt and SIGTERM `Terminated`, once.

    In the main thread only. Another signal, or `GRACE_SECONDS` in which the process does not end,
    ends it with exit code 128 + signal.
    """
    global _keeping
    raised, main_thread, _keeping = 0, threading.get_ident(), False
    unraisable_hook = sys.unraisablehook

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        if not raised:
            raised = number
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def raise_later(unraisable: sys.UnraisableHookArgs) -> None:
        """Raise again, in a moment, what arrived in a finaliser: Python would print and drop it."""
        nonlocal raised
        if not raised or not issubclass(unraisable.exc_type, KeyboardInterrupt | Terminated):
            unraisable_hook(unraisable)
            return
        number, raised = raised, 0
        os.write(woken, _RAISED_AGAIN)
        # A real signal: it also ends a system call that the main thread waits in.
        threading.Timer(AGAIN_SECONDS, signal.pthread_kill, [main_thread, number]).start()

    def ignore() -> None:
        """Be deaf from the last thing that Python does on exit but to put back the handlers."""
        if raised:
            for number in _NUMBERS:
                signal.signal(number, signal.SIG_IGN)

    listening, woken = os.pipe()
    os.set_blocking(woken, False)
    handlers = {number: signal.signal(number, end) for number in _NUMBERS}
    atexit.register(ignore)
    before = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    sys.unraisablehook = raise_later
    threading.Thread(target=_watch, args=(listening,), name="signals", daemon=True).start()
    try:
        yield
    finally:
        sys.unraisablehook = unraisable_hook
        if not raised:  # else the process is about to end, and is watched until it does
            atexit.unregister(ignore)
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(woken)


def _watch(listening: int) -> None:
    """Read the numbers of the signals that arrive until the block is over."""
    first, own, deadline = 0, 0, 0.0
    arriving = select.poll()  # select itself knows no descriptor beyond 1,023
    arriving.register(listening, select.POLLIN)
    while True:
        patience = max(0.0, deadline - time.monotonic()) * 1000 if first else None
        if not arriving.poll(patience):
            break
        numbers = os.read(listening, 64)
        if not numbers:  # the block is over
            os.close(listening)
            return
        ours = [number for number in numbers if number in _NUMBERS]
        own += numbers.count(_RAISED_AGAIN)
        while ours and own and first:  # the first once more
            ours.pop()
            own -= 1
        if ours and not first:
            first, deadline = ours.pop(0), time.monotonic() + GRACE_SECONDS
        if ours and time.monotonic() > deadline - GRACE_SECONDS + SAME_SECONDS:
            first = ours[-1]
            break
    with suppress(OSError):
        os.write(2, f"hlmm-scan: stopped at once{GOES_ON * _keeping}\n".encode())
    os._exit(128 + first)
