"""What is known of each variant besides its calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Loci:
    """Where variants are: all that a fit wants to know of them besides their genotypes.

    Attributes
    ----------
    contig : ndarray of object (str), shape (m,)
        Chromosome as the source names it.
    position : ndarray of int32, shape (m,)
        1-based position in base pairs.
    """

    contig: Strings
    position: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.contig)

    def take(self, rows: slice | NDArray[np.integer]) -> Loci:
        """Return those of some of the variants."""
        return Loci(self.contig[rows], self.position[rows])


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

    contig: Strings
    position: NDArray[np.int32]
    variant_id: Strings
    other_allele: Strings
    effect_allele: Strings

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


def text_column(values: Sequence[str]) -> Strings:
    """Return strings as an object array (numpy would make a fixed-width one of a list)."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
