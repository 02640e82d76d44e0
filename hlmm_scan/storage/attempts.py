"""Errors that pass: which they are, trying again, and how often that was done.

obstore could try again by itself, but does not say how often it did, and never repeats a write
whose answer was lost. All our writes may be repeated, so they are, here, and counted.
"""

from __future__ import annotations

import errno
import logging
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hlmm_scan.errors import HlmmScanError

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS, SECONDS = 8, 60.0
"""Times a request is made at most before its error counts, and seconds after which none is begun:
a server that is away for ten seconds is waited for."""

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds before the second attempt, doubled for each one after it, and at most."""

_PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
    errno.EPIPE,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    getattr(errno, "EREMOTEIO", errno.EIO),
}
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504, 509, 529}
_PASSING_CODES = ("RequestTimeout<", "SlowDown<", "Throttl")  # S3 says some of them with a 400
_METADATA_SERVICE = "169.254.169.254"  # asked for credentials where the environment has none


def transient(error: BaseException) -> bool:
    """Return whether the same read or write may succeed if it is tried again.

    Parameters
    ----------
    error : BaseException
        Of a file system or an object store, or an error of ours that has one as its cause.

    Returns
    -------
    bool
        True for time-outs, connections that were lost or refused, servers that are overloaded or
        fail (408, 429, 5xx) and the I/O errors of network file systems (EIO, ESTALE, ...). False
        for everything the user has to mend, such as a full disk or missing permission.
    """
    if isinstance(error, HlmmScanError):
        return error.__cause__ is not None and transient(error.__cause__)
    if isinstance(error, OSError):
        return error.errno in _PASSING or isinstance(error, TimeoutError | ConnectionError)
    if type(error).__module__.partition(".")[0] != "obstore":
        return False
    if type(error).__name__ != "GenericError":  # the others have one definite meaning each
        return False
    reason = str(error).partition("\n\nDebug source")[0]
    status = _status(reason)
    if status is not None:
        return status in _PASSING_STATUS or any(code in reason for code in _PASSING_CODES)
    never_sent = "builder error" in reason or _METADATA_SERVICE in reason
    return "HTTP error" in reason and not never_sent


def retries() -> int:
    """Return how often this process has tried a request again since it started."""
    return _retries


def again(call: Callable[[], T], what: str) -> T:
    """Make a request, and make it again after errors that pass.

    Parameters
    ----------
    call : callable
        Makes the request; safe to repeat.
    what : str
        Name of what is read or written.

    Raises
    ------
    OSError
        With the server's reason, once trying again no longer helps or cannot help. The classes
        are those of a file system: PermissionError, FileNotFoundError, FileExistsError.
    """
    last = time.monotonic() + SECONDS
    for wait in _waits():
        try:
            return call()
        except HlmmScanError:  # ours: it has its words, and no other attempt would fare better
            raise
        except Exception as error:
            _count_or_raise(error, what, wait, last)
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


async def again_async(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Do as :func:`again` for a coroutine function."""
    import asyncio  # not before it is needed: the command line starts without

    last = time.monotonic() + SECONDS
    for wait in _waits():
        try:
            return await call()
        except HlmmScanError:
            raise
        except Exception as error:
            _count_or_raise(error, what, wait, last)
        await asyncio.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


_retries = 0
_counting = threading.Lock()


def _waits() -> list[float]:
    """Return the seconds to wait after each attempt; 0 after the last."""
    longest = [min(FIRST_WAIT * 2**k, LONGEST_WAIT) for k in range(ATTEMPTS - 1)]
    # Spread out, or all workers that a server refused would come back at the same instant.
    return [random.uniform(0.5, 1.0) * wait for wait in longest] + [0.0]


def _count_or_raise(error: Exception, what: str, wait: float, last: float) -> None:
    global _retries
    if not transient(error) or not wait or time.monotonic() + wait > last:
        if isinstance(error, OSError) and error.errno is not None:
            raise error
        raise _as_os_error(error, what) from error
    with _counting:
        _retries += 1
    logger.debug("%s: %s; tried again in %.1f s", what, _reason(error), wait)


def _as_os_error(error: Exception, what: str) -> OSError:
    """Return the error a file system would have given."""
    kind, reason = type(error).__name__, _reason(error)
    if isinstance(error, FileNotFoundError) or _status(reason) == 404:
        return FileNotFoundError(errno.ENOENT, reason, what)
    if isinstance(error, FileExistsError) or kind in ("AlreadyExistsError", "PreconditionError"):
        return FileExistsError(errno.EEXIST, "already there, or changed by somebody else", what)
    if _METADATA_SERVICE in str(error):
        return PermissionError(errno.EACCES, "no credentials in the environment", what)
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return PermissionError(errno.EACCES, reason, what)
    return OSError(errno.EIO if transient(error) else errno.EINVAL, reason, what)


def _reason(error: Exception) -> str:
    """Return the reason in a few words, without addresses and what was sent."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).partition("\n\nDebug source")[0]
    status = re.search(r"status code: (\d{3}[^:<\n]*)", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    if status:
        return status[1].strip() + (f" ({code[1]})" if code else "")
    if "HTTP error" in text:
        kind = re.search(r"kind: (Connect|Timeout|Interrupted|Decode)\b", str(error))
        known = {"Connect": "no connection", "Timeout": "timed out", "Interrupted": "broken off"}
        return known.get(kind[1] if kind else "", "the connection was lost")
    return type(error).__name__


def _status(text: str) -> int | None:
    found = re.search(r"status code: (\d{3})|^(\d{3}) ", text)
    return int(found[1] or found[2]) if found else None
