"""Lists of people to keep or to remove, and one sex only."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from hlmm_scan.array_types import Bool
from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.grammar import split_line
from hlmm_scan.cohort.table import FAMILY, INDIVIDUAL
from hlmm_scan.cohort.tables import read_text, separator_of
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.shown import one_line

logger = logging.getLogger(__name__)


SEXES = {"male": 1, "female": 2}
"""Codes of :attr:`SampleIds.sex`; 0 is unknown."""

_FIELDS = {1: "IID", 2: "FID IID"}


def read_people(path: Path) -> tuple[SampleIds, str]:
    """Read a list of people.

    Plain or gzipped text with one person a line, ``IID`` or ``FID IID``, separated as tables are
    (the first line decides), with or without a header of these names. Further columns are not
    read, so that a .fam file serves as well. A person may be named twice.

    Parameters
    ----------
    path : Path

    Returns
    -------
    SampleIds
        Everybody once, in the order of the file.
    str
        SHA-256 of the file's bytes, hexadecimal.

    Raises
    ------
    InputError
        If the file cannot be read or is no text, or a line has no second field where the first
        line has one.
    """
    text, sha256 = read_text(path)
    lines = [(k, line) for k, line in enumerate(text.decode().split("\n"), 1) if line.strip()]
    if not lines:
        return SampleIds(np.zeros(0, object)), sha256
    separator = separator_of(lines[0][1])
    first = [field.lower() for field in split_line(lines[0][1], separator)]
    if first[0] in INDIVIDUAL:
        n_ids, lines = 1, lines[1:]
    elif first[0] in FAMILY and first[1:2] and first[1] in INDIVIDUAL:
        n_ids, lines = 2, lines[1:]
    else:
        n_ids = min(len(first), 2)
    people: dict[tuple[str, ...], None] = {}
    for number, line in lines:
        fields = split_line(line, separator)[:n_ids]
        if len(fields) < n_ids or "" in fields:
            found = one_line(line, 80)
            raise InputError(f"{path}, line {number}: expected {_FIELDS[n_ids]}, found '{found}'")
        people[tuple(fields)] = None
    ids = np.array(list(people), object).reshape(len(people), n_ids)
    family_id = ids[:, 0].copy() if n_ids == 2 else None
    return SampleIds(ids[:, -1].copy(), family_id), sha256


def restrictions(
    samples: SampleIds,
    keep: tuple[Path, SampleIds] | None = None,
    remove: tuple[Path, SampleIds] | None = None,
    only_sex: str | None = None,
) -> dict[str, Bool]:
    """Say who passes each wish, by the reason that drops who does not.

    Parameters
    ----------
    samples : SampleIds
        The n people of the genotypes.
    keep, remove : (Path, SampleIds), optional
        Lists and where they come from. People are the same as in
        :func:`~hlmm_scan.cohort.align.match`; those who are not in the genotypes are counted in a
        warning.
    only_sex : {"male", "female"}, optional
        People of unknown sex do not pass either, and are counted apart.

    Returns
    -------
    dict of str to ndarray of bool, shape (n,)
        Keys are of :data:`~hlmm_scan.cohort.cohort.REASONS`.

    Raises
    ------
    InputError
        If nobody of a list is in the genotypes, a person of a list cannot be told from another, or
        the genotypes say nobody's sex.
    """
    passing: dict[str, Bool] = {}
    if keep is not None:
        path, people = keep
        if not len(people):
            raise InputError(f"{path}: nobody is in it to keep")
        passing["not_kept"] = match(samples, people, other_name=str(path)) >= 0
        _count(passing["not_kept"], path, people)
    if remove is not None:
        path, people = remove
        if not len(people):
            raise InputError(f"{path}: nobody is in it to remove")
        found = match(samples, people, other_name=str(path)) >= 0
        passing["removed"] = ~found
        _count(found, path, people)
    if only_sex is not None:
        if not samples.sex.any():
            raise InputError(f"only_sex {only_sex}: the genotypes say nobody's sex")
        passing["sex_unknown"] = samples.sex != 0
        passing["other_sex"] = samples.sex == SEXES[only_sex]
    return passing


def _count(found: Bool, path: Path, people: SampleIds) -> None:
    """Warn of people who are in a list only."""
    absent = len(people) - int(np.count_nonzero(found))
    if absent:
        logger.warning(
            "%s: %s of its %s people are not in the genotypes",
            path,
            f"{absent:,}",
            f"{len(people):,}",
        )
