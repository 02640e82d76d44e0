"""Text from files as it may be shown: on one line, without what a terminal would obey, not long."""

from __future__ import annotations

from collections.abc import Sequence

QUOTED_CHARACTERS = 80
"""Of a cell, an id or a value that a message quotes."""

LISTED_NAMES = 8
"""Of a list of names in a message or a plan."""

MESSAGE_CHARACTERS = 2000
"""Of an error: what is longer is a quotation that nobody cut."""


def printable(text: str) -> str:
    """Return text with control characters, line ends aside, as escapes such as ``\\x1b``.

    An id may hold ESC and more, by which a terminal is made to show, or to type, anything.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode()
        for one in text
    )


def one_line(text: str, most: int = MESSAGE_CHARACTERS) -> str:
    """Return text on one line, printable and cut where it is longer than `most` characters."""
    line = printable(" ".join(text.split("\n")).replace("\t", " "))
    return line if len(line) <= most else f"{line[:most]}…"


def quoted(value: object) -> str:
    """Return a value as a message quotes it: as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        text = f"a {type(value).__name__} too long to show"
    return one_line(text, QUOTED_CHARACTERS)


def listed_names(names: Sequence[str], most: int = LISTED_NAMES) -> str:
    """Return the first names and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
