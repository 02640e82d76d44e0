"""Reading experimental crosses and panels of inbred lines in R/qtl2's format.

A genotype is a number by the control file's table, and what the number is of depends on the kind of
cross. In an intercross 1, 2 and 3 are AA, AB and BB; of lines that are inbred or haploid 1 and 2
are the two homozygous ones; in a backcross AA and AB. "Not AA" and "not BB" (4, 5) are neither of
two genotypes, and missing.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.genotypes.calls import HARD_CALLS, Calls
from hlmm_scan.genotypes.chromosomes import X, chromosome
from hlmm_scan.genotypes.readers.cross_files import CrossFiles, Sheet
from hlmm_scan.genotypes.samples import FEMALE, MALE, UNKNOWN, SampleIds, sex_code
from hlmm_scan.genotypes.variants import VariantTable, text_column
from hlmm_scan.shown import one_line

logger = logging.getLogger(__name__)

_INBRED = {"riself", "risib", "dh", "haploid"}
_INBRED_BY_FOUNDERS = ("riself", "risib")  # riself4, risib8, …
_BACKCROSS = "bc"
_DIPLOID = {"f2", "do", "hs", "ail", "cc", "dof1", "hsf1", "genail"}
_UNKNOWN = -1
_PER_MEGABASE = 1e6
_LARGEST = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Cross:
    """A cross: a :class:`~hlmm_scan.genotypes.readers.source.Source`. Made by :meth:`open`.

    The second of the control file's alleles is the effect allele; markers stand as on the map.
    """

    path: Path
    files: tuple[Path, ...]
    samples: SampleIds
    table: VariantTable
    calls: HardCalls
    unit: float = 0.0
    guarded: bool = False

    @property
    def n_variants(self) -> int:
        """Markers that have genotypes and a place on the map."""
        return len(self.table)

    @classmethod
    def open(cls, path: Path) -> Cross:
        """Read a cross, all of it: crosses are small.

        Parameters
        ----------
        path : Path
            A zip, or the control file beside the others.

        Raises
        ------
        InputError
            With file and line, for what is missing or malformed.
        """
        files = CrossFiles(path)
        genotypes = _Genotypes.of(files)
        places = _places(files)
        known = [marker for marker in places if marker in genotypes.calls]
        unplaced = len(genotypes.calls) - len(known)
        if unplaced:
            logger.warning("%s: %d markers are on no map, and left out", path, unplaced)
        if not known:
            raise InputError(f"{path}: no marker has both genotypes and a place on the map")
        other, effect = _alleles(files)
        contigs = [places[marker][0] for marker in known]
        first = {contig: k for k, contig in reversed(list(enumerate(contigs)))}
        known.sort(key=lambda marker: (first[places[marker][0]], places[marker][1]))
        table = VariantTable(
            text_column([places[marker][0] for marker in known]),
            np.array([places[marker][1] for marker in known], np.int32),
            text_column(known),
            text_column([other] * len(known)),
            text_column([effect] * len(known)),
        )
        samples = SampleIds(text_column(genotypes.people), None, _sexes(files, genotypes.people))
        numbers = np.stack([genotypes.calls[marker] for marker in known])
        copies = _as_copies(numbers, files, samples.sex, table.contig)
        return cls(path, files.files, samples, table, HardCalls.of(copies))

    def variants(self, rows: int) -> Iterator[VariantTable]:
        """Yield the variant table."""
        for start in range(0, len(self.table), rows):
            yield self.table[start : start + rows]

    def reader(self) -> CrossReader:
        """Return what reads the calls."""
        return CrossReader(self.calls)


@dataclass(frozen=True, eq=False)
class CrossReader:
    """Reads a cross: a :class:`~hlmm_scan.genotypes.readers.source.Reader`."""

    calls: HardCalls

    def read_block(self, start: int, stop: int) -> Calls:
        """Read hard calls."""
        return Calls(self.calls.take(np.arange(start, stop)), fields={HARD_CALLS: stop - start})


@dataclass(frozen=True, eq=False)
class _Genotypes:
    """Numbers by marker, −1 where missing, of people in the order of the file."""

    people: list[str]
    calls: dict[str, NDArray[np.int8]] = field(default_factory=dict)

    @classmethod
    def of(cls, files: CrossFiles) -> _Genotypes:
        codes = _codes(files)
        found: _Genotypes | None = None
        unknown: Counter[str] = Counter()
        for sheet in files.sheets("geno"):
            people = [person for _, person, _ in sheet.rows]
            if found is None:
                found = cls(people)
                _refuse_twice(people, sheet, "person")
            elif people != found.people:
                raise InputError(f"{sheet.path}: other people than in the files before it")
            _refuse_twice([*found.calls, *sheet.columns], sheet, "marker")
            numbers = np.empty((len(people), len(sheet.columns)), np.int8)
            for k, (_, _, cells) in enumerate(sheet.rows):
                numbers[k] = [codes.get(cell, _UNKNOWN) for cell in cells]
                unknown.update(cell for cell in cells if cell not in codes)
            found.calls.update(zip(sheet.columns, numbers.T, strict=True))
        if found is None or not found.people:
            raise InputError(f"{files.path}: no genotypes in it")
        if unknown:
            logger.warning(
                "%s: %s genotypes are not among 'genotypes' of the control file, and taken as "
                "missing, as R/qtl2 does: %s",
                files.path,
                f"{unknown.total():,}",
                ", ".join(f"{one_line(cell, 20)} ({n:,})" for cell, n in unknown.most_common(5)),
            )
        return found


def _codes(files: CrossFiles) -> dict[str, int]:
    """Return the numbers of genotypes by how they are written, those missing as −1."""
    given = files.control.get("genotypes", {"A": 1, "H": 2, "B": 3, "D": 4, "C": 5})
    if not isinstance(given, dict) or not all(
        isinstance(code, int) and 1 <= code <= 5 for code in given.values()
    ):
        raise InputError(f"{files.path}: 'genotypes' of the control file gives no numbers 1 to 5")
    return {str(k): v for k, v in given.items()} | dict.fromkeys(files.missing, _UNKNOWN)


def _as_copies(
    numbers: NDArray[np.int8],
    files: CrossFiles,
    sex: NDArray[np.int8],
    contigs: NDArray[np.object_],
) -> NDArray[np.int8]:
    """Return copies of the second allele of numbered genotypes, −1 where missing.

    On X a male of a backcross has one chromosome: 2 is the other allele there, not both.
    """
    kind = (files.text("crosstype") or "").lower()
    two = int(numbers.max(initial=-1)) < 3
    if kind in _INBRED or (two and kind.startswith(_INBRED_BY_FOUNDERS)):
        second = 2
    elif kind == _BACKCROSS or kind in _DIPLOID or not two:
        second = 1
    else:
        raise InputError(
            f"{files.path}: what two genotypes of the cross '{one_line(kind)}' are is not known; "
            f"those of two founders are read: f2, ail, {', '.join(sorted({_BACKCROSS, *_INBRED}))}"
        )
    # By number; the last are 4, 5 and missing.
    copies = np.array([-1, 0, second, 2, -1, -1, -1], np.int8)[numbers]
    if kind == _BACKCROSS:
        x = files.text("x_chr") or X
        on_x = [contig == x or chromosome(contig) == X for contig in contigs]
        of_males = np.outer(on_x, sex == MALE) & (copies == 1)
        copies[of_males] = 2
    return copies


def _alleles(files: CrossFiles) -> tuple[str, str]:
    """Return the other and the effect allele."""
    given = files.control.get("alleles", ["A", "B"])
    if not isinstance(given, list) or len(given) < 2:
        raise InputError(f"{files.path}: 'alleles' of the control file names no two")
    return str(given[0]), str(given[1])


def _places(files: CrossFiles) -> dict[str, tuple[str, int]]:
    """Return chromosome and position of each marker, in the order of the maps.

    In base pairs by the physical map, whose unit is the megabase; without one, a centimorgan of the
    genetic map is taken for a megabase.
    """
    kind = "pmap" if "pmap" in files.control else "gmap"
    places: dict[str, tuple[str, int]] = {}
    for sheet in files.sheets(kind):
        lower = [name.lower() for name in sheet.columns]
        if lower[:2] != ["chr", "pos"]:
            raise InputError(f"{sheet.path}: columns are not marker, chr and pos")
        for line, marker, cells in sheet.rows:
            if cells[1] in files.missing:
                continue
            try:
                position = float(cells[1]) * _PER_MEGABASE
            except ValueError:
                position = math.nan
            if not 0 <= position <= _LARGEST:
                raise InputError(
                    f"{sheet.path}, line {line}: the position '{one_line(cells[1])}' of "
                    f"{one_line(marker)} is none in megabases"
                    + (" or centimorgans" if kind == "gmap" else "")
                )
            if marker in places:
                raise InputError(f"{sheet.path}, line {line}: {one_line(marker)} stands twice")
            places[marker] = cells[0], round(position)
    if not places:
        raise InputError(f"{files.path}: no map (pmap or gmap) in it")
    if kind == "gmap":
        logger.info("%s: no physical map; a centimorgan is taken for a megabase", files.path)
    return places


def _sexes(files: CrossFiles, people: list[str]) -> NDArray[np.int8]:
    """Return sexes as the control file's `sex` says where they stand."""
    asked = files.control.get("sex")
    if not isinstance(asked, dict):
        return np.full(len(people), UNKNOWN, np.int8)
    words = {
        str(k): {"female": FEMALE, "male": MALE}.get(str(v).lower(), UNKNOWN)
        for k, v in asked.items()
        if k not in ("covar", "file")
    }
    column = asked.get("covar")
    found: dict[str, int] = {}
    for sheet in files.sheets("covar") if column is not None else ():
        if str(column) in sheet.columns:
            at = sheet.columns.index(str(column))
            for _, person, cells in sheet.rows:
                word = cells[at]
                found[person] = words[word] if word in words else sex_code(word) or UNKNOWN
    if not found:
        logger.warning("%s: the sex that the control file names is not in it", files.path)
    return np.array([found.get(person, UNKNOWN) for person in people], np.int8)


def _refuse_twice(names: list[str], sheet: Sheet, what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen or not name:
            raise InputError(
                f"{sheet.path}: {what} '{one_line(name)}' stands twice"
                if name
                else f"{sheet.path}: a {what} without a name"
            )
        seen.add(name)
