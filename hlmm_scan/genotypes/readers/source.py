"""What every kind of genotype file is read through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.calls import Calls
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable

MARKED_EVERY = 64
"""Variants between two places that a reader can begin at, in files without an index."""


class Reader(Protocol):
    """Reads calls of one file, anywhere; small to pickle."""

    def read_block(self, start: int, stop: int) -> Calls:
        """Read the calls of variants ``start`` to ``stop`` (exclusive) of the file.

        Raises
        ------
        InputError
            With file and place, if they cannot be read.
        """
        ...


class Source(Protocol):
    """A genotype file with what belongs to it, opened and checked.

    Attributes
    ----------
    path : Path
        For messages.
    files : tuple of Path
        All files that are read: the source changed if one of them did.
    samples : SampleIds
        People in the order of the calls.
    n_variants : int
    unit : float
        Of the dosages it may give (:mod:`~hlmm_scan.genotypes.blocks`); 0 where there are only
        hard calls.
    guarded : bool
        Whether its reader is native code that a damaged file may crash, so that it has to run in a
        process of its own.
    """

    @property
    def path(self) -> Path: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def samples(self) -> SampleIds: ...
    @property
    def n_variants(self) -> int: ...
    @property
    def unit(self) -> float: ...
    @property
    def guarded(self) -> bool: ...

    def variants(self, rows: int) -> Iterator[VariantTable]:
        """Yield the variant table from the top, at most ``rows`` variants at a time.

        Raises
        ------
        InputError
            With file and place, for what is malformed or cut short; at the end, if records have
            more than two alleles.
        """
        ...

    def reader(self) -> Reader:
        """Return what reads the calls. The variant table must have been read to its end before."""
        ...


class FinerDosagesError(InputError):
    """Dosages that the unit of a source, told by its first variant, is too coarse for."""


def unreadable(path: Path, error: OSError) -> InputError:
    """Return the error for a file that cannot be read."""
    return InputError(f"{path}: cannot be read: {error.strerror or error}")


def changed(path: Path) -> InputError:
    """Return the error for a file that is no longer what it was a moment ago."""
    return InputError(f"{path}: changed while it was read")


def needs(extra: str, library: str, path: Path) -> InputError:
    """Return the error for an optional library that is not installed."""
    return InputError(f"{path}: {library} reads it; pip install 'hlmm-scan[{extra}]'")
