"""Which variants a scan's results have: lists of ids, and regions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError, nearest
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.packed import unpacked
from hlmm_scan.shown import one_line

_TABLE_ROWS = 65_536
_LAST = int(np.iinfo(np.int32).max)
"""Position that no chromosome reaches; those beyond are the same."""

_REGION = re.compile(r"(?P<contig>.+?)(?::(?P<start>[\d,]+)(?:-(?P<stop>[\d,]+))?)?")


@dataclass(frozen=True)
class IdList:
    """Variant ids of a file, one a line.

    Attributes
    ----------
    path : Path
    ids : frozenset of str
    sha256 : str
        Of the file's content.
    """

    path: Path
    ids: frozenset[str]
    sha256: str

    @classmethod
    def read(cls, path: Path) -> IdList:
        """Read a file, gzipped where its name ends in ``.gz``; ids may stand there repeatedly.

        Raises
        ------
        InputError
            If it cannot be read, or a line holds more than an id.
        """
        try:
            content = path.read_bytes()
            lines = unpacked(content, path).decode().splitlines()
        except (OSError, ValueError) as error:
            if isinstance(error, UnicodeDecodeError):
                why = "not a text file of variant ids, one a line"
            else:
                why = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            raise InputError(f"{path}: {why}") from None
        ids = set()
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if len(words) > 1:
                raise InputError(
                    f"{path}, line {number}: expected one variant id, found {len(words)} words"
                )
            ids.update(words)
        return cls(path, frozenset(ids), hashlib.sha256(content).hexdigest())


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

    def rows_of(self, genotypes: Genotypes) -> Selection:
        """Choose variants of a dataset, or of several.

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
            inside = self._inside(genotypes)
            taken &= inside
            named = ", ".join(map(str, self.regions))
            lines.append(f"region             {inside.sum():,} of {n:,} variants in {named}")
        for name, given in (("extract", self.extract), ("exclude", self.exclude)):
            if given is None:
                continue
            listed, known = _listed(genotypes, given.ids)
            taken &= listed if name == "extract" else ~listed
            unknown = len(given.ids) - known
            lines.append(
                f"{name:<19}{listed.sum():,} of {n:,} variants are in {given.path}, {unknown:,} of "
                f"its {len(given.ids):,} ids unknown"
            )
        rows = np.flatnonzero(taken)
        if not len(rows):
            told = "; ".join(" ".join(line.split()) for line in lines)
            raise InputError(f"no variants are left to scan: {told}")
        lines.append(f"variants           {len(rows):,} of {n:,} are scanned")
        return Selection(rows, tuple(lines))

    def _inside(self, genotypes: Genotypes) -> NDArray[np.bool_]:
        """Return whether each variant lies in a region."""
        by_contig: dict[str, list[Region]] = {}
        for region in self.regions:
            by_contig.setdefault(_contig(region.contig, genotypes.contigs), []).append(region)
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


def _contig(name: str, contigs: Sequence[str]) -> str:
    """Return a chromosome as the dataset names it; ``chr`` before the name makes no difference."""
    if name in contigs:
        return name
    same = [contig for contig in contigs if _bare(contig) == _bare(name)]
    if len(same) == 1:
        return same[0]
    raise InputError(
        f"region '{name}': no such chromosome{nearest(name, contigs)} "
        f"(there are {', '.join(contigs[:30])})"
    )


def _bare(contig: str) -> str:
    return contig[3:] if contig[:3].lower() == "chr" else contig


def _listed(genotypes: Genotypes, ids: frozenset[str]) -> tuple[NDArray[np.bool_], int]:
    """Return whether each variant's id is listed, and how many of the ids are known."""
    found: set[str] = set()
    parts = []
    for block in genotypes.id_blocks():
        listed = np.fromiter((i in ids for i in block), dtype=bool, count=len(block))
        found.update(block[listed])
        parts.append(listed)
    return np.concatenate([np.zeros(0, bool), *parts]), len(found)
