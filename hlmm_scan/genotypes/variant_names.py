"""Variants as users name them: by id, by place and alleles, or by row; one a line, or in a table.

Many variants have no id but ".", and one id may stand at several. A line of a list may therefore
also be ``chromosome:position:other:effect``, or ``row:17``, and a table that ``hits`` or ``export``
wrote names its variants by all of its columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import chromosome
from hlmm_scan.genotypes.variants import VariantTable
from hlmm_scan.textfiles import read_lines

NO_ID = frozenset({"", ".", "NA"})
"""Ids that name no variant."""

_PLACE = re.compile(r"([^:]+):(\d{1,10}):([^:]+):([^:]+)")
_BLANKS = re.compile(r"[ \t\f\v\x1c-\x1f]+")  # others may be part of a name
_QUOTED = re.compile(r'"[^"]+"')
_ROW = re.compile(r"row:(\d{1,18})")
_IDS = ("variant_id", "snp", "id", "rsid", "markername", "variant")
_NAMED_IN_ERRORS = 3
_ROWS_AT_ONCE = 65_536


class Place(NamedTuple):
    """Where a variant lies, and its alleles."""

    contig: str
    position: int
    other: str
    effect: str

    def __str__(self) -> str:
        return f"{self.contig}:{self.position}:{self.other}:{self.effect}"


@dataclass(frozen=True)
class VariantName:
    """One variant as a user names it.

    Attributes
    ----------
    variant_id : str
        Empty where it has none.
    place : Place or None
    row : int or None
        Along the dimension ``variant``, from 0.
    sure : bool
        Whether `row` alone names it: else it counts where the other names agree with it.
    line : int
        Of its file, from 1; of no file, 0.
    phenotype : str or None
        Whose hit it is, where its table says so; no part of the name.
    """

    variant_id: str = ""
    place: Place | None = None
    row: int | None = None
    sure: bool = False
    line: int = field(default=0, compare=False)
    phenotype: str | None = field(default=None, compare=False)

    @classmethod
    def of(cls, text: str, line: int = 0) -> VariantName:
        """Read a line of a list: an id, which may look like a place, or a row."""
        row = _ROW.fullmatch(text)
        if row is not None:
            return cls(text, None, int(row[1]), sure=True, line=line)
        place = _PLACE.fullmatch(text)
        where = place and Place(place[1], int(place[2]), place[3], place[4])
        return cls(text, where, line=line)

    @classmethod
    def of_row(cls, row: Any) -> VariantName:
        """Name the variant of a row of results, a mapping or a row of a frame."""
        alleles = str(row["other_allele"]), str(row["effect_allele"])
        place = Place(str(row["contig"]), int(row["position"]), *alleles)
        return cls(str(row["variant_id"]), place)

    def __str__(self) -> str:
        return str(self.place) if self.place and self.variant_id in NO_ID else self.variant_id


def read_variant_names(path: Path) -> list[VariantName]:
    """Read a list of variants.

    Parameters
    ----------
    path : Path
        One name a line (an id, ``chromosome:position:other:effect`` or ``row:17``), plain or
        gzipped; or a table, parted by tabs or commas, whose header has ``variant_id``, and better
        also ``contig``, ``position``, ``other_allele`` and ``effect_allele``, or ``row``.

    Returns
    -------
    list of VariantName
        In the order of the file; a variant may stand there repeatedly.

    Raises
    ------
    InputError
        If it cannot be read, or a line holds more than a name.
    """
    lines = read_lines(path)
    first = lines[0][1] if lines else ""
    separator = "," if "," in first and "\t" not in first else "\t"
    header = [cell.strip(' "').lower().lstrip("#") for cell in first.split(separator)]
    id_column = next((header.index(name) for name in _IDS if name in header), None)
    if id_column is not None and (len(header) > 1 or header[0] == _IDS[0]):
        return list(_of_table(path, lines, separator, header, id_column))
    names = []
    for number, line in lines:
        words = _BLANKS.split(
            line.strip()
        )  # others, as that which does not break, may be in a name
        if len(words) > 1:
            raise InputError(
                f"{path}, line {number}: expected one variant id, found {len(words)} words (or a "
                "table, parted by tabs or commas, whose header has variant_id)"
            )
        name = words[0]
        names.append(VariantName.of(name[1:-1] if _QUOTED.fullmatch(name) else name, number))
    return names


def _of_table(
    path: Path,
    lines: Sequence[tuple[int, str]],
    separator: str,
    header: Sequence[str],
    id_column: int,
) -> Iterator[VariantName]:
    def column(name: str) -> int | None:
        return header.index(name) if name in header else None

    places = [column(n) for n in ("contig", "position", "other_allele", "effect_allele")]
    row_column, phenotype_column = column("row"), column("phenotype")
    for number, line in lines[1:]:
        cells = next(csv.reader([line], delimiter=separator))
        if len(cells) <= id_column:
            raise InputError(f"{path}, line {number}: has no {header[id_column]}")
        place = None
        if all(k is not None and k < len(cells) for k in places):
            contig, position, other, effect = (cells[k] for k in places if k is not None)
            if position.isascii() and position.isdecimal() and len(position) <= 10:
                place = Place(contig, int(position), other, effect)
        row = None
        if row_column is not None and row_column < len(cells):
            text = cells[row_column]
            row = int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None
        phenotype = None
        if phenotype_column is not None:
            phenotype = cells[phenotype_column] if phenotype_column < len(cells) else ""
        yield VariantName(cells[id_column], place, row, line=number, phenotype=phenotype)


def find_variants(
    names: Iterable[str | VariantName],
    n_variants: int,
    ids: Callable[[int, int], Strings],
    table: Callable[[int, int], VariantTable],
    where: str,
) -> NDArray[np.int64]:
    """Return where variants stand, each by the name that tells it: id, place, or row.

    Parameters
    ----------
    names : iterable of str or VariantName
    n_variants : int
    ids, table : callable
        Return the ids, and the tables, of variants from one row to another.
    where : str
        Whose they are, for messages.

    Returns
    -------
    ndarray of int64
        Positions along the variant axis, in the order of `names`.

    Raises
    ------
    InputError
        If names are unknown, or stand at more than one variant; the first few are named.
    """
    wanted = [VariantName.of(name) if isinstance(name, str) else name for name in names]
    found: dict[int, int] = {}
    for k, name in enumerate(wanted):
        if name.row is not None and name.row < n_variants and _agrees(name, table):
            found[k] = name.row
    by_id = _places_of(
        {name.variant_id for k, name in enumerate(wanted) if k not in found} - NO_ID,
        (ids(a, b).tolist() for a, b in _steps(n_variants)),
    )
    for k, name in enumerate(wanted):
        rows = by_id.get(name.variant_id, [])
        if k not in found and len(rows) == 1:
            found[k] = rows[0]
    left = {_key(name.place) for k, name in enumerate(wanted) if k not in found and name.place}
    by_place: dict[object, list[int]] = {}
    if left:
        keys = (_keys(table(a, b)) for a, b in _steps(n_variants))
        by_place = _places_of(left, keys)
    for k, name in enumerate(wanted):
        rows = by_place.get(_key(name.place), []) if name.place else []
        if k not in found and len(rows) == 1:
            found[k] = rows[0]
    missing = [name for k, name in enumerate(wanted) if k not in found]
    if missing:
        several = [name for name in missing if len(by_id.get(name.variant_id, ())) > 1]
        unknown = list(dict.fromkeys(str(name) for name in missing if name not in several))
        if unknown:
            raise InputError(f"{where}: {_some(unknown)} not among its variant ids")
        first = by_id[several[0].variant_id][0]
        at = table(first, first + 1)
        place = Place(at.contig[0], int(at.position[0]), at.other_allele[0], at.effect_allele[0])
        raise InputError(
            f"{where}: {_some(list(dict.fromkeys(map(str, several))))} carried by more than one "
            "variant, so the id does not say which is meant; name it by chromosome, position, "
            f"other and effect allele, as {place}, or as row:{first}"
        )
    return np.array([found[k] for k in range(len(wanted))], dtype=np.int64)


def listed(
    names: Sequence[VariantName],
    n_variants: int,
    ids: Callable[[int, int], Strings],
    table: Callable[[int, int], VariantTable],
) -> tuple[NDArray[np.bool_], int]:
    """Return which variants a list means, and how many of its names are known.

    An id that several variants carry stands for all of them, unless the list is a table that says
    where they lie.
    """
    mask = np.zeros(n_variants, dtype=bool)
    known: set[VariantName] = set()
    for name in names:
        if name.sure and name.row is not None and name.row < n_variants:
            mask[name.row] = True
            known.add(name)
    by_id: dict[str, list[VariantName]] = {}
    by_place: dict[object, list[VariantName]] = {}
    for name in names:
        if name.place is not None:
            by_place.setdefault(_key(name.place), []).append(name)
        if name.variant_id not in NO_ID and (name.place is None or _is_text(name)):
            by_id.setdefault(name.variant_id, []).append(name)
    for a, b in _steps(n_variants):
        for row, one in enumerate(ids(a, b).tolist() if by_id else (), start=a):
            if one in by_id:
                mask[row] = True
                known.update(by_id[one])
        for row, key in enumerate(_keys(table(a, b)) if by_place else (), start=a):
            if key in by_place:
                mask[row] = True
                known.update(by_place[key])
    return mask, len(known)


def _is_text(name: VariantName) -> bool:
    """Return whether a name is a line of a list, an id that looks like a place."""
    return name.variant_id == str(name.place)


def _steps(n: int) -> Iterator[tuple[int, int]]:
    yield from ((a, min(a + _ROWS_AT_ONCE, n)) for a in range(0, n, _ROWS_AT_ONCE))


def _places_of(
    wanted: Iterable[object], blocks: Iterable[Iterable[object]]
) -> dict[object, list[int]]:
    """Return the first two rows of each key wanted."""
    found: dict[object, list[int]] = {key: [] for key in wanted}
    if found:
        row = 0
        for block in blocks:
            for key in block:
                rows = found.get(key)
                if rows is not None and len(rows) < 2:
                    rows.append(row)
                row += 1
    return found


def _key(place: Place) -> object:
    return chromosome(place.contig), place.position, place.other, place.effect


def _keys(table: VariantTable) -> Iterator[object]:
    contigs = (chromosome(contig) for contig in table.contig.tolist())
    columns = (table.position, table.other_allele, table.effect_allele)
    return zip(contigs, *(column.tolist() for column in columns), strict=True)


def _agrees(name: VariantName, table: Callable[[int, int], VariantTable]) -> bool:
    """Return whether the row of a name holds what else the name says."""
    assert name.row is not None
    if name.sure:
        return True
    at = table(name.row, name.row + 1)
    if name.place is not None and next(_keys(at)) != _key(name.place):
        return False
    return at.variant_id[0] == name.variant_id and (
        name.place is not None or name.variant_id not in NO_ID
    )


def _some(ids: list[str]) -> str:
    named = ", ".join(name[:60] for name in ids[:_NAMED_IN_ERRORS])
    if len(ids) == 1:
        return f"variant id {named or '(none)'} is"
    more = f" and {len(ids) - _NAMED_IN_ERRORS} more" if len(ids) > _NAMED_IN_ERRORS else ""
    return f"{len(ids)} variant ids ({named}{more}) are"
