"""The errors a user can meet, each with the exit code of the command that meets it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_NAME = 200
"""That is compared with others: the time it takes grows with the square."""


class HlmmScanError(Exception):
    """Base of all errors that are reported as one line and without a traceback.

    Attributes
    ----------
    exit_code : int
        Exit code of a command that ends with this error.
    """

    exit_code = 1


class IncompleteError(HlmmScanError):
    """Partitions are missing or failed; running the same command again continues."""

    exit_code = 1


class InputError(HlmmScanError):
    """The input is wrong; trying again without a change cannot help."""

    exit_code = 2


class DamagedError(InputError):
    """Part of the input is damaged or missing; what does not need that part can be done."""


class StoreHeldError(HlmmScanError):
    """Another run holds the store."""

    exit_code = 3


class InfrastructureError(HlmmScanError):
    """Workers, scheduler or storage were lost; the same command again may succeed."""

    exit_code = 4


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string.

    Parameters
    ----------
    name : str
        What the user wrote.
    known : iterable of str
        Names that would have been right.
    """
    if len(name) > _LONGEST_NAME:
        return ""
    known = list(known)
    alike = [one for one in known if one.casefold() == name.casefold()]
    matches = alike or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{matches[0]}'?" if matches else ""
