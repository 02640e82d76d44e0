"""Finding the people of one source in another by their ids."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.cohort.table import Table
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds

_GENOTYPES = "the genotypes"
_DELIMITERS = "_ :-|/."


def match(
    samples: SampleIds,
    other: Table | SampleIds,
    *,
    samples_name: str = _GENOTYPES,
    other_name: str | None = None,
) -> NDArray[np.int64]:
    """Return for each sample its row in another source.

    People are the same where FID and IID agree, or the IID alone where either side has no FID.
    Ids are compared as text: 01 and 1 are two people.

    Parameters
    ----------
    samples : SampleIds
        The n people asked for.
    other : Table or SampleIds
        A table, or the people of another dataset.
    samples_name : str, default "the genotypes"
        What error messages call `samples`.
    other_name : str, optional
        What error messages call `other`; by default a table's path, or "the other dataset".

    Returns
    -------
    ndarray of int64, shape (n,)
        Row of `other` for each sample; −1 where it is not there.

    Raises
    ------
    InputError
        If nobody is on both sides, or a person of one side is found more
        than once on a side (ids that occur twice, but on one side only, do no harm).
    """
    if other_name is None:
        other_name = str(other.path) if isinstance(other, Table) else "the other dataset"
    by_family = samples.family_id is not None and other.family_id is not None
    wanted, offered = _keys(samples, by_family), _keys(other, by_family)
    rows = offered.get_indexer_for(wanted) if offered.is_unique else None
    if rows is None or not wanted.is_unique:
        for side, across, name in (
            (wanted, offered, samples_name),
            (offered, wanted, other_name),
        ):
            twice = side.duplicated() & side.isin(across)
            if twice.any():
                person = str(side[int(np.argmax(twice))]).replace("\n", "' IID '")
                label = "FID" if by_family else "IID"
                hint = "" if by_family else "; people are aligned by IID, as one side has no FID"
                raise InputError(f"{label} '{person}' occurs more than once in {name}{hint}")
    if rows is None:
        # What remains twice is not wanted: any of its rows may stand for it.
        kept = np.flatnonzero(~offered.duplicated())
        found = offered[kept].get_indexer_for(wanted)
        rows = np.where(found >= 0, kept[found], -1)
    rows = np.asarray(rows, np.int64)
    if not (rows >= 0).any():
        raise _no_overlap(samples, other, samples_name, other_name, by_family)
    return rows


def _keys(people: SampleIds | Table, by_family: bool) -> pd.Index:
    keys = np.asarray(people.individual_id, object)
    if by_family:
        # No id holds a line end: no two pairs can run together alike.
        keys = np.asarray(people.family_id, object) + "\n" + keys
    index: pd.Index = pd.Index(keys, dtype=object)
    return index


def _example(people: SampleIds | Table) -> str:
    if not len(people.individual_id):
        return "nobody"
    family = "" if people.family_id is None else f"FID '{people.family_id[0]}' "
    return f"{family}IID '{people.individual_id[0]}'"


def _joined_ids(
    samples: SampleIds, other: Table | SampleIds, samples_name: str, other_name: str
) -> str:
    """Say whether one side has FID and IID as one id, as plink2's VCF export writes them."""
    for one, two, name in ((samples, other, samples_name), (other, samples, other_name)):
        joined = set(one.individual_id.tolist())
        iid = two.individual_id
        families = [two.family_id] if two.family_id is not None else []
        for delimiter in _DELIMITERS:
            for family in (*families, iid):  # mostly the FID is the IID
                found = sum(
                    f"{f}{delimiter}{i}" in joined for f, i in zip(family, iid, strict=True)
                )
                if found:
                    how = (
                        f"convert them again with --id-delim '{delimiter}'"
                        if one is samples and samples_name == _GENOTYPES
                        else "write FID and IID as two columns there"
                    )
                    return (
                        f"; {found:,} people of {name} are FID{delimiter}IID in one id, as plink2 "
                        f"exports them to VCF: {how}"
                    )
    return ""


def _no_overlap(
    samples: SampleIds,
    other: Table | SampleIds,
    samples_name: str,
    other_name: str,
    by_family: bool,
) -> InputError:
    message = (
        f"no person of {other_name} is in {samples_name}: "
        f"the first is {_example(other)} there and {_example(samples)} here"
    )
    message += _joined_ids(samples, other, samples_name, other_name)
    if by_family:
        # FID 0 or FID = IID on one side only is the usual cause.
        alone = int(_keys(samples, False).isin(_keys(other, False)).sum())
        if alone:
            message += f"; by IID alone {alone:,} would match (leave the FID column out for that)"
    return InputError(message)
