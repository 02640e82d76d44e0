"""What is known of each variant besides its calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError

StrArray = NDArray[np.object_]

_NAMED_IN_ERRORS = 3


@dataclass(frozen=True)
class VariantTable:
    """Variants in the order of a file or array axis.

    Attributes
    ----------
    contig : ndarray of object (str), shape (m,)
        Chromosome as the source names it.
    position : ndarray of int32, shape (m,)
        1-based position in base pairs.
    variant_id : ndarray of object (str), shape (m,)
    other_allele : ndarray of object (str), shape (m,)
        PLINK A2, VCF REF.
    effect_allele : ndarray of object (str), shape (m,)
        The allele counted; PLINK A1, VCF ALT.
    """

    contig: StrArray
    position: NDArray[np.int32]
    variant_id: StrArray
    other_allele: StrArray
    effect_allele: StrArray

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, f.name)) for f in fields(self)}
        if len(lengths) != 1:
            raise ValueError(f"columns of a variant table differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.variant_id)

    def __getitem__(self, rows: slice) -> VariantTable:
        return self.take(rows)

    def take(self, rows: slice | NDArray[np.integer]) -> VariantTable:
        """Return some of the variants."""
        return VariantTable(*(getattr(self, f.name)[rows] for f in fields(self)))


def concatenate(tables: Iterable[VariantTable]) -> VariantTable:
    """Join tables end to end; at least one is needed."""
    parts = list(tables)
    if len(parts) == 1:
        return parts[0]
    return VariantTable(
        *(np.concatenate([getattr(t, f.name) for t in parts]) for f in fields(VariantTable))
    )


def reblock(tables: Iterable[VariantTable], size: int) -> Iterator[VariantTable]:
    """Yield the same variants in tables of exactly ``size`` rows, the last one perhaps shorter.

    Parameters
    ----------
    tables : iterable of VariantTable
        Of any length, empty ones included.
    size : int
        Rows a table, at least 1.
    """
    held: list[VariantTable] = []
    n_held = 0
    for table in tables:
        rest = table
        while n_held + len(rest) >= size:
            need = size - n_held
            held.append(rest[slice(0, need)])
            yield concatenate(held)
            rest, held, n_held = rest[slice(need, None)], [], 0
        if len(rest):
            held.append(rest)
            n_held += len(rest)
    if held:
        yield concatenate(held)


class MoreThanTwoAlleles:
    """Counts records of more than two alleles; which of them was meant is not for us to choose."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def add(self, where: str, alleles: Sequence[str]) -> None:
        """Take a record: where it stands, as "line 12", and its alleles."""
        self.first = self.first or f"{where}: {'/'.join(alleles)}"
        self.count += 1

    def refuse(self, path: object, n_records: int) -> None:
        """Raise InputError if there were any."""
        if self.count:
            raise InputError(
                f"{path}: {self.count:,} of {n_records:,} records have more than two alleles "
                f"(first: {self.first}); split or drop them first (bcftools norm -m-any, "
                "plink2 --max-alleles 2)"
            )


def text_column(values: Sequence[str]) -> StrArray:
    """Return strings as an object array (numpy would make a fixed-width one of a list)."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def find_ids(ids: Iterable[str], blocks: Iterable[StrArray], where: str) -> NDArray[np.int64]:
    """Return where variants of these ids stand.

    Parameters
    ----------
    ids : iterable of str
    blocks : iterable of ndarray of object (str)
        Ids of all variants, in their order.
    where : str
        Whose they are, for messages.

    Returns
    -------
    ndarray of int64
        Positions along the variant axis, in the order of ``ids``.

    Raises
    ------
    InputError
        If ids are unknown, or stand at more than one variant; the first few are named.
    """
    wanted = list(ids)
    asked = set(wanted)
    found: dict[str, int] = {}
    repeated: dict[str, None] = {}
    start = 0
    for block in blocks:
        for position, variant_id in enumerate(block, start=start):
            if variant_id in asked:
                if variant_id in found:
                    repeated[variant_id] = None
                else:
                    found[variant_id] = position
        start += len(block)
    unknown = list(dict.fromkeys(i for i in wanted if i not in found))
    if unknown:
        raise InputError(f"{where}: {_some(unknown)} not among its variant ids")
    if repeated:
        raise InputError(
            f"{where}: {_some(list(repeated))} carried by more than one variant, "
            "so the id does not say which is meant"
        )
    return np.array([found[i] for i in wanted], dtype=np.int64)


def _some(ids: list[str]) -> str:
    named = ", ".join(ids[:_NAMED_IN_ERRORS])
    if len(ids) == 1:
        return f"variant id {named} is"
    more = f" and {len(ids) - _NAMED_IN_ERRORS} more" if len(ids) > _NAMED_IN_ERRORS else ""
    return f"{len(ids)} variant ids ({named}{more}) are"
