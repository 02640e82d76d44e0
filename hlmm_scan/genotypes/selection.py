"""Which variants a scan's results have: lists of ids, and regions."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError, nearest
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES, chromosome
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.genotypes.variant_names import VariantName, listed, read_variant_names
from hlmm_scan.shown import one_line
from hlmm_scan.textfiles import read_bytes

logger = logging.getLogger(__name__)

_TABLE_ROWS = 65_536
_LAST = int(np.iinfo(np.int32).max)
"""Position that no chromosome reaches; those beyond are the same."""

_REGION = re.compile(r"(?P<contig>.+?)(?::(?P<start>[\d,]+)(?:-(?P<stop>[\d,]+))?)?")


@dataclass(frozen=True)
class IdList:
    """Variants that a file names.

    Attributes
    ----------
    path : Path
    names : tuple of VariantName
        Each once.
    sha256 : str
        Of the file's content.
    """

    path: Path
    names: tuple[VariantName, ...]
    sha256: str

    @classmethod
    def read(cls, path: Path) -> IdList:
        """Read a file; see :func:`~hlmm_scan.genotypes.variant_names.read_variant_names`."""
        names = tuple(dict.fromkeys(read_variant_names(path)))
        return cls(path, names, hashlib.sha256(read_bytes(path)).hexdigest())


@dataclass(frozen=True)
class Region:
    """A piece of a chromosome.

    Attributes
    ----------
    contig : str
    start, stop : int
        First and last position, 1-based, both within.
    """

    contig: str
    start: int
    stop: int

    @classmethod
    def parse(cls, text: str) -> Region:
        """Read ``6``, ``6:1000``, ``6:1000-2000`` or ``6:1,000-2,000``.

        Raises
        ------
        InputError
            If it is none of these, or ends before it starts.
        """
        match = _REGION.fullmatch(text.strip())
        if match is None or (":" in text and match["start"] is None):
            raise InputError(
                f"region '{one_line(text, 80)}' is not chromosome, or chromosome:from-to"
            )
        if match["start"] is None:
            return cls(match["contig"], 0, _LAST)
        start = _coordinate(match["start"])
        stop = _coordinate(match["stop"] or match["start"])
        if stop < start:
            raise InputError(f"region '{one_line(text, 80)}' ends before it starts")
        return cls(match["contig"], start, stop)

    def __str__(self) -> str:
        whole = self.start == 0 and self.stop == _LAST
        return self.contig if whole else f"{self.contig}:{self.start}-{self.stop}"


def _coordinate(text: str) -> int:
    """Return a position as it is written, with commas or without, however many digits it has."""
    digits = text.replace(",", "").lstrip("0")
    return min(int(digits or 0), _LAST) if len(digits) < 18 else _LAST


@dataclass(frozen=True)
class Selection:
    """Variants chosen of a dataset.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,), or None
        Ascending; None for all.
    lines : tuple of str
        What each option took, for a reader.
    """

    rows: NDArray[np.int64] | None
    lines: tuple[str, ...]


@dataclass(frozen=True)
class VariantChoice:
    """What a user asked for: a variant is taken if all options take it.

    Attributes
    ----------
    extract, exclude : IdList or None
        Ids to take, ids to leave. An id that several variants carry stands for all of them.
    regions : tuple of Region
        Any of which a variant may lie in; empty for all.
    """

    extract: IdList | None = None
    exclude: IdList | None = None
    regions: tuple[Region, ...] = ()

    @classmethod
    def read(
        cls, extract: Path | None, exclude: Path | None, regions: Sequence[str]
    ) -> VariantChoice:
        """Read the files and regions that were named.

        Raises
        ------
        InputError
            As :meth:`IdList.read` and :meth:`Region.parse`.
        """
        lists = [None if path is None else IdList.read(path) for path in (extract, exclude)]
        return cls(lists[0], lists[1], tuple(Region.parse(text) for text in regions))

    def parameters(self) -> dict[str, Any]:
        """Return what the results' rows depend on, as JSON types."""
        return {
            "extract": self.extract and self.extract.sha256,
            "exclude": self.exclude and self.exclude.sha256,
            "region": sorted(map(str, self.regions)) or None,
        }

    def rows_of(self, genotypes: Genotypes, autosomes: int = HUMAN_AUTOSOMES) -> Selection:
        """Choose variants of a dataset, or of several.

        Parameters
        ----------
        genotypes : GenotypeDataset or JoinedGenotypes
        autosomes : int, default 22
            Of the species.

        Raises
        ------
        InputError
            If a region's chromosome is unknown, or nothing is left.
        """
        if self == VariantChoice():
            return Selection(None, ())
        n = genotypes.n_variants
        taken = np.ones(n, dtype=bool)
        lines = []
        if self.regions:
            inside = self._inside(genotypes, autosomes)
            taken &= inside
            named = ", ".join(map(str, self.regions))
            lines.append(f"region             {inside.sum():,} of {n:,} variants in {named}")
        for name, given in (("extract", self.extract), ("exclude", self.exclude)):
            if given is None:
                continue
            here, known = listed(given.names, n, genotypes.variant_ids, genotypes.variants)
            taken &= here if name == "extract" else ~here
            unknown = len(given.names) - known
            if name == "exclude" and not here.any():
                # No error, as --remove of nobody is: one list may serve a scan of each chromosome.
                logger.warning(
                    "%s: none of its %s ids is among the variants, so it leaves none out",
                    given.path,
                    f"{len(given.names):,}",
                )
            lines.append(
                f"{name:<19}{here.sum():,} of {n:,} variants are in {given.path}, {unknown:,} of "
                f"its {len(given.names):,} ids unknown"
            )
        rows = np.flatnonzero(taken)
        if not len(rows):
            told = "; ".join(" ".join(line.split()) for line in lines)
            raise InputError(f"no variants are left to scan: {told}")
        lines.append(f"variants           {len(rows):,} of {n:,} are scanned")
        return Selection(rows, tuple(lines))

    def _inside(self, genotypes: Genotypes, autosomes: int) -> NDArray[np.bool_]:
        """Return whether each variant lies in a region."""
        by_contig: dict[str, list[Region]] = {}
        for region in self.regions:
            for contig in _named(region.contig, genotypes.contigs, autosomes):
                by_contig.setdefault(contig, []).append(region)
        inside = np.zeros(genotypes.n_variants, dtype=bool)
        contigs = np.array([contig in by_contig for contig in genotypes.contigs])
        candidate = contigs[genotypes.variant_contig()]
        for start in range(0, len(inside), _TABLE_ROWS):
            stop = min(start + _TABLE_ROWS, len(inside))
            if not candidate[start:stop].any():
                continue
            table = genotypes.variants(start, stop)
            for contig, regions in by_contig.items():
                here = table.contig == contig
                for region in regions:
                    within = (table.position >= region.start) & (table.position <= region.stop)
                    inside[start:stop] |= here & within
        return inside


def _named(name: str, contigs: Sequence[str], autosomes: int) -> list[str]:
    """Return all that a dataset has of a chromosome, whatever it is called there."""
    wanted = chromosome(name, autosomes)
    same = [contig for contig in contigs if chromosome(contig, autosomes) == wanted]
    if same:
        return same
    raise InputError(
        f"region '{name}': no such chromosome{nearest(name, contigs)} "
        f"(there are {', '.join(contigs[:30])})"
    )
