"""Regenie's .loco files: predictions of a phenotype, a line for each chromosome left out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, chromosome
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.packed import unpacked
from hlmm_scan.shown import one_line
from hlmm_scan.textfiles import decoded

_LOCO_HEADER = "FID_IID"


def read_loco(path: Path, samples: SampleIds, autosomes: int = HUMAN_AUTOSOMES) -> dict[str, Float]:
    """Read a .loco file.

    Parameters
    ----------
    path : Path
        Plain or gzipped. Its first line is ``FID_IID`` and the people, as FID_IID; each further
        one a chromosome and a prediction for each, NA where there is none.
    samples : SampleIds
        The n_samples people of the genotypes. Where their FIDs are not the file's, those whose
        FID there is their IID or 0 are found as well.
    autosomes : int, default 22
        Of the species.

    Returns
    -------
    dict of str to ndarray of float64, shape (n_samples,)
        By :func:`~hlmm_scan.genotypes.chromosomes.chromosome`; NaN for people who are not in the
        file or have no number.

    Raises
    ------
    InputError
        With line and column.
    """
    rows: dict[str, Float] = {}
    with _opened(path) as file:
        header = decoded(file.readline(), 1, path).split()
        if len(header) < 2 or header[0] != _LOCO_HEADER:
            raise InputError(
                f"{path}, line 1: expected '{_LOCO_HEADER}' and the people, as regenie's step 1 "
                "writes them"
            )
        people = header[1:]
        where = _columns(path, people, samples)
        for number, raw in enumerate(file, start=2):
            cells = raw.split()
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, line {number}: expected {len(header):,} fields, found {len(cells):,}"
                )
            contig = chromosome(decoded(cells[0], number, path), autosomes)
            if contig in rows:
                raise InputError(
                    f"{path}, line {number}: chromosome {one_line(contig, 80)} is there already"
                )
            values = np.append(_numbers(path, number, cells[1:], people), np.nan)
            rows[contig] = values[where]
    if not rows:
        raise InputError(f"{path}: people but no predictions")
    return rows


def _columns(path: Path, people: list[str], samples: SampleIds) -> NDArray[np.intp]:
    """Return where each sample stands among the people of a file; −1 where it does not."""
    index = pd.Index(people)
    if not index.is_unique:
        raise InputError(
            f"{path}, line 1: {one_line(index[index.duplicated()][0], 80)} is there twice"
        )
    iid = np.asarray(samples.individual_id, object)
    namings = [iid + "_" + iid, "0_" + iid, iid]
    if samples.family_id is not None:
        namings.insert(0, np.asarray(samples.family_id, object) + "_" + iid)
    found = [index.get_indexer_for(naming) for naming in namings]
    counts = [int((at >= 0).sum()) for at in found]
    best = int(np.argmax(counts))
    if not counts[best]:
        raise InputError(
            f"{path}: nobody is in the genotypes: the first is {one_line(people[0], 80)}, there "
            f"{namings[0][0]}"
        )
    there = found[best][found[best] >= 0]
    if len(np.unique(there)) < len(there):
        twice = pd.Index(there)
        name = people[int(twice[twice.duplicated()][0])]
        raise InputError(f"{path}: {name} may be more than one person of the genotypes")
    return np.asarray(found[best], np.intp)


def _numbers(path: Path, line: int, cells: list[bytes], people: list[str]) -> Float:
    try:
        values = np.array([b"nan" if cell == b"NA" else cell for cell in cells]).astype(float)
    except ValueError:
        values = np.array([_number(cell) for cell in cells])
    wrong = np.isinf(values)
    if wrong.any():
        column = int(np.argmax(wrong))
        text = one_line(decoded(cells[column], line, path), 80)
        raise InputError(
            f"{path}, line {line}: '{text}' of {one_line(people[column], 80)} (field {column + 2}) "
            "is no number"
        )
    return values


def _number(cell: bytes) -> float:
    """Return a number, NaN where missing, infinity where it is neither."""
    try:
        return float("nan" if cell == b"NA" else cell)
    except ValueError:
        return float("inf")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that may be gzipped."""
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            yield io.BytesIO(unpacked(raw.read(), path)) if packed else raw
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
