"""Lines of plain, gzipped (BGZF too) and zstd text files, and places to come back to in them.

A file that is cut short or damaged is an error that names the byte: the checksums that gzip keeps
are compared, and the empty block that must end a BGZF file is looked for. What was made to fill a
machine's memory is refused as :mod:`hlmm_scan.packed` refuses it: a table that is kept whole, and
any single line. All of a VCF may unpack to as much as it likes, as of rare variants it does to a
thousand times its size: it is read line by line.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.readers.source import needs, unreadable
from hlmm_scan.packed import most_text, too_much
from hlmm_scan.textfiles import decoded

_READ = 1 << 16
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BGZF_HEADER = 12
_MOST_LINE = 1 << 31
_MOST_TEXT_LINE = 1 << 26
_BLANKS = re.compile("[ \t\r\n\f\v]+")


class ByteStream:
    """Bytes of a file, unpacked, from the top or from a place told before.

    A context manager.

    Parameters
    ----------
    path : Path
        Plain, gzip, BGZF or (by its extension .zst) zstd; told by the first bytes.
    at : int, default 0
        Where to begin: what :meth:`tell` said of this file. Seeking in gzip and zstd files is
        unpacking from the top.

    Raises
    ------
    InputError
        With file and byte, if it cannot be read, is cut short or damaged.
    """

    def __init__(self, path: Path, at: int = 0) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
            head = self._file.read(18)
            self._file.seek(0)
            self._most = most_text(path.stat().st_size)
        except OSError as error:
            raise unreadable(path, error) from error
        self._block, self._at, self._offset = b"", 0, 0
        self.seekable = True
        if head[:2] == _GZIP and len(head) == 18 and head[3] & 4 and head[12:14] == b"BC":
            self._blocks = self._bgzf(at >> 16)
            skip = at & 0xFFFF
        elif head[:2] == _GZIP:
            self._blocks, skip, self.seekable = self._gzip(), at, False
        elif head[:4] == _ZSTD:
            self._blocks, skip, self.seekable = self._zstd(), at, False
        else:
            self._blocks, skip = self._plain(at), 0
        self._bgzf_places = head[:2] == _GZIP and self.seekable
        self.skip(skip)

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def tell(self) -> int:
        """Return the place of the next byte, for `at`."""
        if self._at == len(self._block):
            self._next()
        return self._offset << 16 | self._at if self._bgzf_places else self._offset + self._at

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer at the end of the file."""
        pieces = []
        while size:
            if self._at == len(self._block) and not self._next():
                break
            piece = self._block[self._at : self._at + size]
            pieces.append(piece)
            self._at += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, size: int) -> None:
        """Pass over bytes."""
        while size:
            if self._at == len(self._block) and not self._next():
                raise InputError(f"{self.path}: changed while it was read")
            step = min(size, len(self._block) - self._at)
            self._at += step
            size -= step

    def readline(self) -> bytes:
        """Return the next line with its line feed; empty at the end of the file.

        Raises
        ------
        InputError
            If it is longer than the file can hold as text.
        """
        pieces, length = [], 0
        while self._at < len(self._block) or self._next():
            end = self._block.find(b"\n", self._at) + 1
            piece = self._block[self._at : end or None]
            self._at += len(piece)
            pieces.append(piece)
            length += len(piece)
            if length > self._most:
                raise too_much(self.path, self._most)
            if end or length > _MOST_LINE:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def lines(self) -> Iterator[bytes]:
        """Yield all further lines without their line feeds, faster than `readline` one by one.

        Raises
        ------
        InputError
            If one is longer than any text has, or all are more than the file can hold as text.
        """
        pending: list[bytes] = []
        total = 0
        while self._at < len(self._block) or self._next():
            total += len(self._block) - self._at
            if total > self._most:
                raise too_much(self.path, self._most)
            first, *rest = self._block[self._at :].split(b"\n")
            self._at = len(self._block)
            pending.append(first)
            if rest:
                yield b"".join(pending)
                *whole, last = rest
                yield from whole
                pending = [last]
            elif sum(map(len, pending)) > _MOST_TEXT_LINE:
                raise InputError(f"{self.path}: a line of more than {_MOST_TEXT_LINE:,} bytes")
        if any(pending):
            yield b"".join(pending)

    # Kinds --------------------------------------------------------------------------------

    def _next(self) -> bool:
        """Go on to the next block that is not empty."""
        try:
            found = next(self._blocks, None)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if found is None:
            self._offset, self._block, self._at = self._offset + len(self._block), b"", 0
            return False
        self._offset, self._block = found
        self._at = 0
        return True

    def _plain(self, at: int) -> Iterator[tuple[int, bytes]]:
        self._file.seek(at)
        while data := self._file.read(_READ):
            yield at, data
            at += len(data)

    def _bgzf(self, at: int) -> Iterator[tuple[int, bytes]]:
        self._file.seek(at)
        ended = False
        while head := self._file.read(_BGZF_HEADER):
            if len(head) < _BGZF_HEADER:
                raise self._short()
            if head[:2] != _GZIP or not head[3] & 4:
                raise self._damaged(at, "no BGZF block begins there")
            extra = self._file.read(int.from_bytes(head[10:12], "little"))
            size = _block_size(extra)
            if size is None:
                raise self._damaged(at, "no BGZF block begins there")
            rest = size - _BGZF_HEADER - len(extra)
            body = self._file.read(max(rest, 0))
            if rest < 8 or len(body) < rest:
                raise self._short()
            try:
                data = zlib.decompress(body[:-8], wbits=-15, bufsize=1 << 16)
            except zlib.error as error:
                raise self._damaged(at, str(error)) from error
            if struct.unpack("<II", body[-8:]) != (zlib.crc32(data), len(data)):
                raise self._damaged(at, "wrong checksum")
            ended = not data
            if data:
                yield at, data
            at += size
        if not ended:
            raise InputError(
                f"{self.path}: does not end with the empty block that a BGZF file must end with: "
                "cut short; make it again"
            )

    def _gzip(self) -> Iterator[tuple[int, bytes]]:
        return self._unpacked(lambda: zlib.decompressobj(wbits=31), zlib.error)

    def _zstd(self) -> Iterator[tuple[int, bytes]]:
        try:
            import zstandard
        except ImportError as error:
            raise needs("pgen", "the library zstandard", self.path) from error
        fresh = zstandard.ZstdDecompressor().decompressobj
        yield from self._unpacked(fresh, zstandard.ZstdError)

    def _unpacked(
        self, fresh: Callable[[], Any], wrong: type[Exception]
    ) -> Iterator[tuple[int, bytes]]:
        """Unpack the members of a file one after the other, each by a new unpacker."""
        at, unpacker = 0, fresh()
        pending = b""
        while raw := pending or self._file.read(_READ):
            pending = b""
            if unpacker.eof:
                unpacker = fresh()
            try:
                data = unpacker.decompress(raw)
            except wrong as error:
                raise self._damaged(self._file.tell(), str(error)) from error
            pending = unpacker.unused_data if unpacker.eof else b""
            if data:
                yield at, data
                at += len(data)
        if not unpacker.eof:
            raise self._short()

    def _short(self) -> InputError:
        return InputError(f"{self.path}: cut short at byte {self._file.tell()}; make it again")

    def _damaged(self, at: int, why: str) -> InputError:
        return InputError(f"{self.path}: damaged near byte {at} ({why}); make it again")


def _block_size(extra: bytes) -> int | None:
    """Return the size of a BGZF block from the extra field of its header."""
    at = 0
    while at + 4 <= len(extra):
        length = int.from_bytes(extra[at + 2 : at + 4], "little")
        if extra[at : at + 2] == b"BC" and length == 2:
            return int.from_bytes(extra[at + 4 : at + 6], "little") + 1
        at += 4 + length
    return None


def text_lines(path: Path, tabs_from: int = 1 << 30) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of each line that is not blank, of a plain or packed table.

    Parameters
    ----------
    path : Path
    tabs_from : int, optional
        A line that has so many tabs is parted by tabs alone, all others by white space.

    Raises
    ------
    InputError
        With file and place, if it cannot be read, is cut short, or is no text in UTF-8.
    """
    with ByteStream(path) as stream:
        for number, line in enumerate(stream.lines(), start=1):
            plain = number > 1 and line.isascii()
            text = line.decode("ascii") if plain else decoded(line, number, path)
            if "\0" in text:
                raise InputError(f"{path}, line {number}: holds a NUL: no text, or damaged")
            # Of a line parted by tabs a cell may hold a blank, or nothing.
            n_tabs = text.count("\t")
            cells = text.split() if plain else split_cells(text, tabs=False)
            if n_tabs >= tabs_from and (len(cells) != n_tabs + 1 or " " in text):
                cells = split_cells(text, tabs=True)
            if cells:
                yield number, cells


def split_cells(line: str, *, tabs: bool) -> list[str]:
    """Return the cells of a line, parted by tabs or by any white space; of a blank one none."""
    if not tabs:
        # Other white space, as that which does not break, may be part of a name.
        return line.split() if line.isascii() else _BLANKS.split(line.strip(" \t\r\n\f\v"))
    cells = [cell.strip() for cell in line.split("\t")]
    return cells if any(cells) else []
