"""One table of people, whatever it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.cohort.columns import unknown
from hlmm_scan.errors import InputError

FAMILY = {"fid", "#fid"}
INDIVIDUAL = {"iid", "#iid"}


@dataclass(frozen=True, eq=False)
class Table:
    """Numbers and levels of people, as a file gives them. The arrays are read-only.

    Attributes
    ----------
    path : Path
        The file.
    family_id : ndarray of object (str), shape (rows,), or None
        Family ids; None where the file has none.
    individual_id : ndarray of object (str), shape (rows,)
        Individual ids.
    columns : tuple of str
        Names of the value columns; no two alike.
    values : ndarray of float64, shape (rows, columns), C-ordered
        Values in the user's units; NaN where missing, never infinite. Of a column of levels,
        positions among them.
    sha256 : str
        SHA-256 of the file's bytes (of the compressed ones where it is compressed), hexadecimal.
    levels : mapping of str to tuple of str
        By column, its levels, sorted as text; of columns of numbers nothing.
    unread : tuple of str, default ()
        Columns of the file that nobody asked for.
    faults : mapping of str to str
        By column, why it cannot be analysed; its values are not to be used.
    """

    path: Path
    family_id: Strings | None
    individual_id: Strings
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    sha256: str
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.individual_id)

    def index(self, name: str, kind: str = "phenotype") -> int:
        """Return the position of one column.

        Parameters
        ----------
        name : str
            Name of the column, upper and lower case as in the file.
        kind : str, default "phenotype"
            What an error message calls the column, for example "covariate".

        Raises
        ------
        InputError
            If the table has no such column; the nearest name is offered.
        """
        if name in self.columns:
            return self.columns.index(name)
        raise unknown(name, (*self.columns, *self.unread), kind, str(self.path))

    def select(self, names: Sequence[str], kind: str = "phenotype") -> Table:
        """Return the table with the named columns only, in the order named.

        Parameters
        ----------
        names : sequence of str
            Names of columns.
        kind : str, default "phenotype"
            What an error message calls a column, for example "covariate".

        Raises
        ------
        InputError
            If a name is unknown or named twice.
        """
        for position, name in enumerate(names):
            if name in names[:position]:
                raise InputError(f"{kind} '{name}' is named twice")
        values = np.ascontiguousarray(self.values[:, [self.index(name, kind) for name in names]])
        values.flags.writeable = False
        levels = {name: self.levels[name] for name in names if name in self.levels}
        return replace(self, columns=tuple(names), values=values, levels=levels)
