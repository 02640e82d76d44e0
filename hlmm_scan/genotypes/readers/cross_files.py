"""The files of an experimental cross as R/qtl2 keeps them: a zip, or a folder with a control file.

https://kbroman.org/qtl2/assets/vignettes/input_files.html. A control file in YAML or JSON names CSV
files: genotypes, maps, phenotypes, covariates. Each has ids in its first column (or, transposed, in
its first row), may begin with lines of comment, and may be one of several of a kind.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hlmm_scan.errors import InputError
from hlmm_scan.packed import most_text, too_much
from hlmm_scan.shown import one_line
from hlmm_scan.textfiles import as_text, read_bytes
from hlmm_scan.yaml_files import MOST_BYTES, parse_yaml

CONTROLS = (".yaml", ".yml", ".json")
EXTENSIONS = (".zip", *CONTROLS)

_DAMAGED = (
    *(OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile),
    *(zlib.error, lzma.LZMAError, struct.error),
)
"""What the library says of a zip that is damaged, encrypted, or packed as it does not know."""


@dataclass(frozen=True)
class Sheet:
    """One CSV file, people in rows or markers in rows.

    Attributes
    ----------
    path : Path
        For messages: that of the zip or folder, then that of the file.
    columns : tuple of str
        Names in the header, that of the ids not among them.
    rows : tuple of (int, str, list of str)
        Line number, id and cells of each row.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, str, list[str]], ...]

    def transposed(self) -> Sheet:
        """Return rows as columns; line numbers are then those of the header's cells."""
        names = tuple(name for _, name, _ in self.rows)
        cells = zip(*(cells for _, _, cells in self.rows), strict=True)
        rows = zip(self.columns, cells, strict=True)
        return Sheet(self.path, names, tuple((1, name, list(row)) for name, row in rows))


class CrossFiles:
    """A control file and what it names.

    Parameters
    ----------
    path : Path
        A zip with one control file in it, or a control file.

    Raises
    ------
    InputError
        If it cannot be read, or is no control file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        self._zip: zipfile.ZipFile | None = None
        self._folder = PurePosixPath()
        if path.suffix.lower() == ".zip":
            content, name = self._open_zip()
        else:
            content, name = read_bytes(path), path.name
        self.control = _mapping(content, path if self._zip is None else path / name)
        missing = self._texts("na.strings", ("-", "NA"))
        self.missing = frozenset((*missing, ""))
        self._separator = str(self.control.get("sep", ","))
        self._comment = str(self.control.get("comment.char", "#"))

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read of the disk."""
        if self._zip is not None:
            return (self.path,)
        kinds = ("geno", "pmap", "gmap", "pheno", "covar")
        named = [self.path.parent / name for kind in kinds for name in self._texts(kind)]
        return (self.path, *(file for file in named if file.is_file()))

    def text(self, key: str) -> str | None:
        """Return what the control file says of something, None where nothing."""
        value = self.control.get(key)
        return None if value is None else str(value)

    def sheets(self, kind: str) -> Iterator[Sheet]:
        """Yield the files of a kind (``geno``, ``pmap``, ``pheno``, …), people in rows.

        Of maps, markers are.

        Raises
        ------
        InputError
            With file and line, for what is malformed.
        """
        for name in self._texts(kind):
            sheet = self._sheet(name)
            yield sheet.transposed() if self._is_transposed(kind) else sheet

    def _is_transposed(self, kind: str) -> bool:
        return bool(self.control.get(f"{kind}_transposed", False))

    def _texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        value = self.control.get(key, default)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            return tuple(value)
        raise InputError(f"{self.path}: '{key}' of the control file names no file")

    def _sheet(self, name: str) -> Sheet:
        path, content = self._member(name)
        text = as_text(content, path)
        lines = text.split("\n")
        first = next(
            (k for k, line in enumerate(lines) if line and not line.startswith(self._comment)), None
        )
        if first is None:
            raise InputError(f"{path} is empty")
        # Counted by the reader: a quoted cell may hold an end of line.
        reader = csv.reader(io.StringIO("\n".join(lines[first:])), delimiter=self._separator)
        rows = []
        try:
            header = next(reader)
            for cells in reader:
                number = first + reader.line_num
                if not cells or cells[0].startswith(self._comment):
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{path}, line {number}: {len(cells)} cells where the header has "
                        f"{len(header)}"
                    )
                rows.append((number, cells[0].strip(), [cell.strip() for cell in cells[1:]]))
        except csv.Error as error:
            raise InputError(f"{path}, line {first + reader.line_num}: {error}") from None
        return Sheet(path, tuple(cell.strip() for cell in header[1:]), tuple(rows))

    def _member(self, name: str) -> tuple[Path, bytes]:
        """Return a file that the control file names, and its path for messages."""
        inside = self._folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{self.path}: '{one_line(name)}' lies outside of it")
        if self._zip is None:
            path = self.path.parent / name
            if not path.is_file():
                raise InputError(f"{path}: no such file, but {self.path} names it")
            return path, read_bytes(path)
        return self.path / str(inside), self._unzipped(str(inside))

    def _open_zip(self) -> tuple[bytes, str]:
        """Open the zip; return its control file and the name of that."""
        try:
            self._zip = zipfile.ZipFile(self.path)
            names = self._zip.namelist()
        except _DAMAGED as error:
            raise InputError(f"{self.path}: no zip, or a damaged one ({error})") from None
        controls = [
            name
            for name in names
            if name.lower().endswith(CONTROLS) and not PurePosixPath(name).name.startswith(".")
        ]
        if len(controls) != 1:
            found = f"{len(controls)} of them" if controls else "none"
            raise InputError(
                f"{self.path}: a cross of R/qtl2 has one control file (.yaml or .json); in it are "
                f"{found}"
            )
        self._folder = PurePosixPath(controls[0]).parent
        return self._unzipped(controls[0]), controls[0]

    def _unzipped(self, name: str) -> bytes:
        assert self._zip is not None
        most = most_text(self.path.stat().st_size)
        try:
            with self._zip.open(name) as member:
                content = member.read(most + 1)
        except KeyError:
            raise InputError(f"{self.path}: '{one_line(name)}' is not in it") from None
        except _DAMAGED as error:
            raise InputError(f"{self.path}: '{one_line(name)}' cannot be read ({error})") from None
        if len(content) > most:
            raise too_much(self.path, most)
        return content


def _mapping(content: bytes, path: Path) -> Mapping[str, Any]:
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: too long for a control file")
    documents: list[Any]
    if path.suffix.lower() == ".json":
        try:
            documents = [json.loads(as_text(content, path))]
        except (ValueError, RecursionError):
            raise InputError(f"{path}: not valid JSON") from None
    else:
        documents = parse_yaml(content, path)
    if len(documents) != 1 or not isinstance(documents[0], dict) or "geno" not in documents[0]:
        raise InputError(f"{path}: no control file of R/qtl2: it names no 'geno'")
    return {str(key): value for key, value in documents[0].items()}
