"""People of a BGEN file: the ids in it, and the .sample file beside it."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.readers.lines import split_cells
from hlmm_scan.genotypes.samples import SEX_COLUMNS, SampleIds, SexWords, repeated_id
from hlmm_scan.genotypes.variants import text_column
from hlmm_scan.textfiles import read_lines

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"(?:0_)?(\(?(?:anonymous[_ ])?(?:sample|person|individual)?_?)(\d+)\)?")
"""Ids that a program makes up where it is given none, as qctool's (anonymous_sample_1)."""


def read_sample_file(path: Path) -> SampleIds:
    """Read an Oxford .sample file, of one id column or two.

    Parameters
    ----------
    path : Path
        Two header lines (names, types), then one line a person. The first two columns are FID and
        IID; the first alone is the id where the second is none (QCTOOL's second version).

    Raises
    ------
    InputError
        With file and line, for what is malformed; if ids are not unique.
    """
    rows = [(number, _cells(line)) for number, line in read_lines(path)]
    if len(rows) < 3:
        raise InputError(f"{path}: no people in it (two header lines, then one line a person)")
    names, kinds = rows[0][1], rows[1][1]
    if len(kinds) != len(names) or kinds[0] != "0":
        raise InputError(
            f"{path}, line {rows[1][0]}: not the types of {len(names)} columns, as 0 0 0 D; is it "
            "a .sample file?"
        )
    two = len(names) > 1 and kinds[1] == "0" and names[1].lower() in ("id_2", "iid")
    sex_column = next((k for k, name in enumerate(names) if name.lower() in SEX_COLUMNS), None)
    family, individual, sex = [], [], []
    words = SexWords(path)
    for number, cells in rows[2:]:
        if len(cells) != len(names):
            raise InputError(
                f"{path}, line {number}: {len(cells)} columns where the header has {len(names)}"
            )
        family.append(cells[0])
        individual.append(cells[1] if two else cells[0])
        sex.append(0 if sex_column is None else words.code(cells[sex_column], number))
    words.tell()
    samples = SampleIds(
        text_column(individual), text_column(family) if two else None, np.array(sex, dtype=np.int8)
    )
    whole = [f"{f} {i}" for f, i in zip(family, individual, strict=True)]
    if again := repeated_id(text_column(whole)):
        raise InputError(f"{path}: sample {again} stands twice; sample ids must be unique")
    return samples


def _cells(line: str) -> list[str]:
    """Return the cells of a line; R writes words in quotes."""
    cells = split_cells(line, tabs=False)
    if '"' in line:
        return [c[1:-1] if len(c) > 1 and c[0] == c[-1] == '"' else c for c in cells]
    return cells


def made_up(ids: list[str]) -> bool:
    """Return whether ids are only numbers in order, as programs make them up."""
    if len(ids) < 2:
        return False
    found = [_NUMBERED.fullmatch(i) for i in ids]
    parts = [(match[1], int(match[2])) for match in found if match is not None]
    if len(parts) < len(ids) or parts[0][1] not in (0, 1):
        return False
    return all(part == (parts[0][0], parts[0][1] + k) for k, part in enumerate(parts))


def people_of(
    path: Path, n_samples: int, inside: list[str] | None, sample_file: Path | None
) -> SampleIds:
    """Bring together what a BGEN file and its .sample file say of its people.

    Parameters
    ----------
    path : Path
        The BGEN file, for messages.
    n_samples : int
        People it has.
    inside : list of str or None
        Ids in it.
    sample_file : Path or None

    Raises
    ------
    InputError
        If there are no ids at all, or the two disagree.
    """
    if sample_file is None:
        if inside is None:
            raise InputError(
                f"{path}: no sample ids in it; name its .sample file (--sample), or put it beside, "
                f"as {path.with_suffix('.sample').name}"
            )
        ids = text_column(inside)
        if not all(inside):
            raise InputError(
                f"{path}: the sample id of person {inside.index('') + 1} in it is empty; name its "
                ".sample file (--sample)"
            )
        if made_up(inside):
            logger.warning(
                "%s: its people have no names but %s, %s, …; name its .sample file (--sample), if "
                "there is one",
                path,
                *inside[:2],
            )
        if again := repeated_id(ids):
            raise InputError(f"{path}: sample id {again} stands twice; sample ids must be unique")
        return SampleIds(ids)
    samples = read_sample_file(sample_file)
    if len(samples) != n_samples:
        raise InputError(
            f"{sample_file}: {len(samples)} people where {path} has {n_samples}; is it the .sample "
            "of another cohort?"
        )
    if inside is not None and not made_up(inside):
        families = [""] * n_samples if samples.family_id is None else samples.family_id.tolist()
        people = zip(families, samples.individual_id.tolist(), inside, strict=True)
        for k, (family, individual, own) in enumerate(people, start=1):
            # Programs join the two ids of a person in several ways.
            if (
                own
                and own not in (individual, family)
                and not (own.startswith(family) and own.endswith(individual))
            ):
                raise InputError(
                    f"{sample_file}: person {k} is {family} {individual} where {path} has {own}; "
                    "is it the .sample of another cohort?"
                )
    return samples
