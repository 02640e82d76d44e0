"""The sex of people, from the genotypes or from a table."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.grammar import split_line
from hlmm_scan.cohort.tables import read_text, separator_of
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SEX_COLUMNS, SampleIds, sex_code

_FAM_COLUMNS = 6
_FAM_SEX = 4


@dataclass(frozen=True, eq=False)
class Sex:
    """Sex of the people of the genotypes.

    Attributes
    ----------
    codes : ndarray of int8, shape (n_samples,)
        1 male, 2 female, 0 unknown.
    source : str
        For messages.
    """

    codes: NDArray[np.int8]
    source: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the codes, hexadecimal."""
        return hashlib.sha256(self.codes.tobytes()).hexdigest()


def sex_of(samples: SampleIds, table: Path | None) -> Sex:
    """Return the sex of people: that of the genotypes, in place of which a table's stands.

    Parameters
    ----------
    samples : SampleIds
        The n_samples people of the genotypes.
    table : Path or None
        See :func:`read_sex`. People who are not in it, or have no sex there, keep the genotypes'.

    Raises
    ------
    InputError
        As :func:`read_sex`, or if nobody of the table is in the genotypes.
    """
    if table is None:
        return Sex(samples.sex, "the genotypes")
    people = read_sex(table)
    rows = match(samples, people, other_name=str(table))
    told = np.where(rows >= 0, people.sex[rows], 0).astype(np.int8)
    return Sex(np.where(told > 0, told, samples.sex).astype(np.int8), str(table))


def read_sex(path: Path) -> SampleIds:
    """Read a table of sex.

    With a header ``FID IID …`` or ``IID …``, the column ``sex`` (any case) or the only one there
    is; without one, FID, IID and sex, or the six columns of a .fam. Sex is 1, M or male, 2, F or
    female; 0, NA, -9 or nothing where it is unknown.

    Parameters
    ----------
    path : Path
        Plain or gzipped text, separated by tabs, commas or blanks.

    Raises
    ------
    InputError
        If it cannot be read or holds nobody, or a cell is no sex; with file and line.
    """
    lines = read_text(path)[0].decode().split("\n")
    numbered = [(k, line) for k, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise InputError(f"{path} is empty")
    separator = separator_of(numbered[0][1])
    first = split_line(numbered[0][1], separator)
    names = [cell.lower().lstrip("#") for cell in first]
    family = 0 if names[0] == "fid" else None
    if family == 0 or names[0] == "iid":
        individual = 1 if family == 0 else 0
        if names[individual : individual + 1] != ["iid"]:
            raise InputError(f"{path}, line {numbered[0][0]}: in the header, IID must follow FID")
        values = [k for k in range(individual + 1, len(names)) if names[k] in SEX_COLUMNS]
        if not values and len(names) == individual + 2:
            values = [individual + 1]
        if len(values) != 1:
            raise InputError(f"{path}, line {numbered[0][0]}: there is no column 'sex'")
        column, body = values[0], numbered[1:]
    else:
        family, individual, body = 0, 1, numbered
        column = _FAM_SEX if len(first) == _FAM_COLUMNS else 2
    families: list[str] = []
    individuals: list[str] = []
    codes: list[int] = []
    for number, line in body:
        cells = split_line(line, separator)
        if len(cells) != len(first):
            raise InputError(
                f"{path}, line {number}: expected {len(first)} fields, found {len(cells)}"
            )
        code = sex_code(cells[column]) if column < len(cells) else None
        if code is None:
            found = cells[column] if column < len(cells) else line
            raise InputError(
                f"{path}, line {number}: '{found}' is no sex; write 1 or male, 2 or female, 0 or "
                "NA where it is unknown"
            )
        if family is not None:
            families.append(cells[family])
        individuals.append(cells[individual])
        codes.append(code)
    if not codes:
        raise InputError(f"{path} has a header but no people")
    return SampleIds(
        np.array(individuals, dtype=object),
        np.array(families, dtype=object) if family is not None else None,
        np.array(codes, dtype=np.int8),
    )
