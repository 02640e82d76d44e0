"""Packed text files that are read whole: unpacked, but not without end."""

from __future__ import annotations

import zlib
from pathlib import Path

from hlmm_scan.errors import InputError

MOST_TIMES = 200
LEAST_BYTES = 64 << 20
"""Text may unpack to so many times its size, or to so many bytes if that is more. Tables shrink to
a tenth or, where nearly all cells are alike, a hundredth; what was made to fill a machine's memory
from a small file shrinks to a thousandth."""

_PIECE = 1 << 24
_GZIP = 31  # zlib's word for a gzip header and the largest window


def unpacked(content: bytes, path: Path) -> bytes:
    """Return what gzip packed, all its members; what is not packed as it is.

    Parameters
    ----------
    content : bytes
    path : Path
        For messages.

    Raises
    ------
    InputError
        If the data are damaged or end too early, or there is more in them than text can be.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    most = most_text(len(content))
    pieces, total, left = [], 0, content
    while left.startswith(b"\x1f\x8b"):  # else what follows the last member is no data
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            try:
                piece = member.decompress(left, _PIECE)
            except zlib.error:
                raise _damaged(path) from None
            left = member.unconsumed_tail
            total += len(piece)
            if total > most:
                raise too_much(path, most)
            if not piece and not left and not member.eof:
                raise _damaged(path)
            pieces.append(piece)
        left = member.unused_data
    return b"".join(pieces)


def most_text(size: int) -> int:
    """Return how many bytes of text a file of `size` bytes may unpack to."""
    return max(LEAST_BYTES, MOST_TIMES * size)


def too_much(path: Path, most: int) -> InputError:
    """Return the error for a file that unpacks to more than `most` bytes."""
    return InputError(
        f"{path}: unpacks to more than {most >> 20:,} MiB, over {MOST_TIMES} times its size: no "
        "text shrinks so much; unpack it yourself if it is what you mean"
    )


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: the gzip data are damaged or truncated")
