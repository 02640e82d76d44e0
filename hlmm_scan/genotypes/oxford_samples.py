"""People of a BGEN file: the ids in it, and the .sample file beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds, repeated_id
from hlmm_scan.genotypes.source import unreadable
from hlmm_scan.genotypes.variants import text_column

SEXES = {"1": 1, "2": 2, "M": 1, "F": 2, "m": 1, "f": 2, "male": 1, "female": 2}


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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8") from error
    rows = [(k, line.split()) for k, line in enumerate(lines, start=1) if line.strip()]
    if len(rows) < 3:
        raise InputError(f"{path}: no people in it (two header lines, then one line a person)")
    names, kinds = rows[0][1], rows[1][1]
    if len(kinds) != len(names) or kinds[0] != "0":
        raise InputError(
            f"{path}, line {rows[1][0]}: not the types of {len(names)} columns, as 0 0 0 D; is it "
            "a .sample file?"
        )
    two = len(names) > 1 and kinds[1] == "0" and names[1].lower() in ("id_2", "iid")
    sex_column = next((k for k, name in enumerate(names) if name.lower() == "sex"), None)
    family, individual, sex = [], [], []
    for number, cells in rows[2:]:
        if len(cells) != len(names):
            raise InputError(
                f"{path}, line {number}: {len(cells)} columns where the header has {len(names)}"
            )
        family.append(cells[0])
        individual.append(cells[1] if two else cells[0])
        sex.append(0 if sex_column is None else SEXES.get(cells[sex_column], 0))
    samples = SampleIds(
        text_column(individual), text_column(family) if two else None, np.array(sex, dtype=np.int8)
    )
    whole = [f"{f} {i}" for f, i in zip(family, individual, strict=True)]
    if again := repeated_id(text_column(whole)):
        raise InputError(f"{path}: sample {again} stands twice; sample ids must be unique")
    return samples


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
        if again := repeated_id(ids):
            raise InputError(f"{path}: sample id {again} stands twice; sample ids must be unique")
        return SampleIds(ids)
    samples = read_sample_file(sample_file)
    if len(samples) != n_samples:
        raise InputError(
            f"{sample_file}: {len(samples)} people where {path} has {n_samples}; is it the .sample "
            "of another cohort?"
        )
    if inside is not None:
        families = [""] * n_samples if samples.family_id is None else samples.family_id.tolist()
        people = zip(families, samples.individual_id.tolist(), inside, strict=True)
        for k, (family, individual, own) in enumerate(people, start=1):
            # Programs join the two ids of a person in several ways.
            if own not in (individual, family) and not (
                own.startswith(family) and own.endswith(individual)
            ):
                raise InputError(
                    f"{sample_file}: person {k} is {family} {individual} where {path} has {own}; "
                    "is it the .sample of another cohort?"
                )
    return samples
