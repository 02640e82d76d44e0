"""What is logged where: lines for people, one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from hlmm_scan.errors import InputError
from hlmm_scan.shown import printable

_OURS = "hlmm_scan"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class PlainFormatter(logging.Formatter):
    """Lines for people: what ids and cells hold of control characters stands there as escapes.

    Parameters
    ----------
    form : str
        As ``logging.Formatter`` takes it.
    tracebacks : bool, default True
        Whether to write where an error came from.
    """

    def __init__(self, form: str, *, tracebacks: bool = True) -> None:
        super().__init__(form)
        self._tracebacks = tracebacks

    def formatException(self, ei: Any) -> str:
        """Return the traceback, if there is to be any."""
        return super().formatException(ei) if self._tracebacks else ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return printable(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, then the record's own fields.

    Fields are what a logging call is given as ``extra``, as ``partition`` and ``seconds``; an
    exception becomes the field ``exception``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(verbose: bool, log_file: Path | None = None, log_json: Path | None = None) -> None:
    """Send our log to standard error, and to files where asked for.

    Parameters
    ----------
    verbose : bool
        Whether to log more, to standard error and `log_file`; tracebacks on standard error too.
    log_file : Path, optional
        Also log lines with time and level to this file.
    log_json : Path, optional
        Also log everything, a line for every partition included, as JSON to this file.

    Raises
    ------
    InputError
        If a file cannot be written.
    """
    level = logging.DEBUG if verbose else logging.INFO
    root = logging.getLogger(_OURS)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.DEBUG if log_json else level)
    terminal = logging.StreamHandler()
    if not verbose:
        terminal.addFilter(lambda record: not hasattr(record, "origin"))
    _add(root, terminal, PlainFormatter("%(message)s", tracebacks=verbose), level)
    if log_file:
        form = PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        _add(root, _to_file(log_file), form, level)
    if log_json:
        _add(root, _to_file(log_json), JsonFormatter(), logging.DEBUG)


def _to_file(path: Path) -> logging.Handler:
    try:
        return logging.FileHandler(path, encoding="utf-8")
    except (OSError, ValueError) as error:  # as of a NUL in the name
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _add(
    root: logging.Logger, handler: logging.Handler, form: logging.Formatter, level: int
) -> None:
    handler.setFormatter(form)
    handler.setLevel(level)
    root.addHandler(handler)
