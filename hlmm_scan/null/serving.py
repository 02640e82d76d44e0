"""How the variants of a phenotype are shared out among its null models.

Most scans have one null model a phenotype; :mod:`~hlmm_scan.null.chromosomes` says which need more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.ploidy import HaploidRegions, Ploidy

DEFAULT = ""
"""Key of the null model that serves what no other does."""


class Kind(NamedTuple):
    """Variants that one null model serves together: a chromosome, and how many copies people have.

    Attributes
    ----------
    contig : str
        As the genotypes name it.
    ploidy : Ploidy
    """

    contig: str
    ploidy: Ploidy


class Served(NamedTuple):
    """Some variants of a block and what serves them.

    Attributes
    ----------
    rows : ndarray of int, shape (k,)
        Ascending rows of the block.
    key : str
        Of the null model.
    ploidy : Ploidy
    """

    rows: NDArray[np.intp]
    key: str
    ploidy: Ploidy


@dataclass(frozen=True, eq=False)
class Serving:
    """How the variants of a phenotype are shared out among its null models.

    Attributes
    ----------
    keys : mapping of Kind to str
        Null models of what the default does not serve.
    regions : HaploidRegions, optional
        None where every chromosome is taken as diploid.
    sex : ndarray of int8, shape (n_samples,), optional
        Of all people of the genotypes; 0 where unknown or not analysed.
    """

    keys: Mapping[Kind, str] = field(default_factory=dict)
    regions: HaploidRegions | None = None
    sex: NDArray[np.int8] | None = None

    def ploidy(
        self, contigs: NDArray[np.object_], positions: NDArray[np.integer]
    ) -> NDArray[np.int8]:
        """Return the code of the ploidy of each variant, shape (m,)."""
        ploidy = np.zeros(len(contigs), np.int8)
        if self.regions is not None:
            for contig in set(contigs.tolist()):
                if self.regions.of_contig(contig) is not Ploidy.DIPLOID:
                    rows = contigs == contig
                    ploidy[rows] = self.regions.classify(contig, positions[rows])
        return ploidy

    def groups(
        self, contigs: NDArray[np.object_], positions: NDArray[np.integer]
    ) -> Iterator[Served]:
        """Share out the variants of a block.

        Parameters
        ----------
        contigs : ndarray of object (str), shape (m,)
        positions : ndarray of int, shape (m,)

        Yields
        ------
        Served
            Each variant is in one of them; one null model's follow one another.
        """
        ploidy = self.ploidy(contigs, positions)
        found: dict[tuple[str, Ploidy], NDArray[np.bool_]] = {}
        for contig in dict.fromkeys(contigs.tolist()):
            here = contigs == contig
            for code in np.unique(ploidy[here]):
                copies = Ploidy(int(code))
                key = self.keys.get(Kind(contig, copies), DEFAULT)
                rows = here & (ploidy == code)
                found[key, copies] = rows | found.get((key, copies), np.zeros_like(rows))
        for key, copies in sorted(found):
            yield Served(np.flatnonzero(found[key, copies]), key, copies)
