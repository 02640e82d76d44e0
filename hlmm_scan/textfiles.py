"""Text files of users, read alike wherever they come from.

Excel and Notepad begin files with a byte-order mark, some write UTF-16; other programs end lines as
Windows or old Macs do, or pack them. None of that is part of the first name in the file. What is
not UTF-8 is refused with its line, whatever the locale is: a name read in another encoding is
another name, and would match nobody without a word.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from hlmm_scan.errors import InputError
from hlmm_scan.packed import unpacked

MARK = codecs.BOM_UTF8
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Return a text file with ``\\n`` line ends.

    Parameters
    ----------
    path : Path
        UTF-8, or UTF-16 with its byte-order mark; plain or gzipped.

    Raises
    ------
    InputError
        If it cannot be read, or is no text: with the line that is not.
    """
    return as_text(read_bytes(path), path)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return (number from 1, line) of each line of a text file that is not blank.

    Raises
    ------
    InputError
        As :func:`read_text`.
    """
    lines = read_text(path).split("\n")
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_bytes(path: Path) -> bytes:
    """Return a file as it lies on disk.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # as of a NUL in the name
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def as_text(content: bytes, path: Path) -> str:
    """Return the content of a file as text with ``\\n`` line ends; see :func:`read_text`."""
    content = unpacked(content, path)
    if content.startswith(_UTF_16):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError:
            raise InputError(f"{path} is not a text file in UTF-16, as it begins") from None
    else:
        content = content.removeprefix(MARK)
        if b"\0" in content:
            raise InputError(f"{path} is not a text file")
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            line = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
            raise not_utf_8(path, line) from None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def not_utf_8(path: Path, line: int) -> InputError:
    """Return the error for a line in another encoding."""
    return InputError(
        f"{path}, line {line}: not text in UTF-8; if it is in latin-1, iconv -f latin1 -t utf8 "
        "makes it so"
    )


def decoded(line: bytes, number: int, path: Path) -> str:
    """Return a line of a file that is read as a stream; its first loses its byte-order mark.

    Raises
    ------
    InputError
        With the line, if it is not UTF-8, or the first holds others.
    """
    if number == 1:
        if line.startswith(_UTF_16):
            raise InputError(f"{path}: in UTF-16; save it as UTF-8 (iconv -f utf16 -t utf8)")
        if b"\r" in line.rstrip(b"\r\n"):
            raise InputError(
                f"{path}: its lines end in carriage returns alone; tr '\\r' '\\n' mends it"
            )
        line = line.removeprefix(MARK)
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise not_utf_8(path, number) from None
