"""How a command ends: an exit code, and one line where something went wrong."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

import click

from hlmm_scan import signals, storage
from hlmm_scan.cli.root import PROGRAM, cli
from hlmm_scan.errors import HlmmScanError, InfrastructureError, InputError
from hlmm_scan.shown import one_line, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors become one line on standard error.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal of another encoding lacks
    try:
        with signals.heard(), _printable_output():
            cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except HlmmScanError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # a group without a command: its help, laid out
            click.echo(message, err=True)
            return InputError.exit_code
        return _fail(" ".join(message.split()), InputError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _stopped("interrupted", 130)
    except signals.Terminated:
        return _stopped("terminated", 143)
    except SystemExit:  # click, where the reader of our output went away, as `head` does
        return 0
    except Exception as error:
        return _unexpected(error)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust
            raise
        return _unexpected(error)
    return 0


def _unexpected(error: BaseException) -> int:
    """Tell an error that nobody has words for in one line; its traceback goes to the logs."""
    logger = logging.getLogger("hlmm_scan")
    if logger.handlers:  # else Python prints it
        logger.error("where the error came from", exc_info=error, extra={"origin": True})
    if isinstance(error, OSError) and error.strerror is not None:
        # Of what is read; what is written has its own words.
        code = (InfrastructureError if storage.transient(error) else InputError).exit_code
        where = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{where}{error.strerror}", code)
    if isinstance(error, MemoryError):
        why = f" ({error})" if str(error) else ""
        return _fail(f"there is not enough memory{why}", InputError.exit_code)
    if "no locator available" in str(error):  # numba's words
        return _fail(
            "no folder to keep compiled kernels in can be written; set NUMBA_CACHE_DIR to one",
            InputError.exit_code,
        )
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _fail(
        f"unexpected error, {what}; -v or --log-file FILE shows where it came from: please report "
        "it",
        InputError.exit_code,
    )


@contextmanager
def _printable_output() -> Iterator[None]:
    """Let nothing reach the terminal that it would obey, nor fail at what it cannot show."""
    before = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # a stand-in of a caller's
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout = cast(TextIO, _Printable(before))
    try:
        yield
    finally:
        sys.stdout = before


class _Printable:
    """A stream that shows control characters as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text) if isinstance(text, str) else text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _fail(message: str, code: int) -> int:
    click.echo(f"{PROGRAM}: {one_line(message)}", err=True)
    return code


def _stopped(word: str, code: int) -> int:
    # Zarr's event loop would complain of the reads and writes that are left behind.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    kept = signals.GOES_ON * signals.work_is_kept()
    return _fail(f"{word}{kept}", code)
