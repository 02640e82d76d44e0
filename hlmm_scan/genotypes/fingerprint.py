"""The fingerprint of a genotype dataset: checksums over its content, however it is chunked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.genotypes.blocks import DIGEST_BITS
from hlmm_scan.genotypes.dataset import DATASET_FORMAT, GenotypeDataset
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable

_ROWS = 65_536
_UNKNOWN_FAMILY = "0"


@dataclass
class Fingerprint:
    """Checksums over content only: each stream is fed in order, so chunking leaves no trace."""

    streams: dict[str, Any] = field(default_factory=dict)

    def add_variants(self, table: VariantTable) -> None:
        """Take the next variants into account."""
        alleles = np.column_stack([table.other_allele, table.effect_allele])
        self._add_text("contig", table.contig)
        self._add("position", table.position.astype("<i4"))
        self._add_text("id", table.variant_id)
        self._add_text("allele", alleles.ravel())

    def add_people(self, samples: SampleIds) -> None:
        """Take all people into account."""
        family = samples.family_id
        if family is None:
            family = np.full(len(samples), _UNKNOWN_FAMILY, dtype=object)
        self._add_text("sample_id", samples.individual_id)
        self._add_text("sample_family_id", family)
        self._add("sample_sex", samples.sex)

    def digest(self, n_samples: int, n_variants: int, calls: int) -> str:
        """Return the fingerprint.

        Parameters
        ----------
        n_samples, n_variants : int
        calls : int
            Sum of :meth:`~hlmm_scan.genotypes.blocks.Dosages.digest` over all variants.
        """
        parts: dict[str, Any] = {name: s.hexdigest() for name, s in self.streams.items()}
        parts |= {"calls": f"{calls % (1 << DIGEST_BITS):x}"}
        parts |= {"format": DATASET_FORMAT, "n_samples": n_samples, "n_variants": n_variants}
        return "sha256:" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _add(self, stream: str, data: bytes | NDArray[Any]) -> None:
        self.streams.setdefault(stream, hashlib.sha256()).update(data)

    def _add_text(self, stream: str, values: Strings) -> None:
        # Cells of genotype files hold no line feeds, so these part them without doubt.
        self._add(stream, "".join(f"{value}\n" for value in values.tolist()).encode())


def fingerprint_of(dataset: GenotypeDataset) -> str:
    """Return the fingerprint of what a dataset holds, read from beginning to end.

    Raises
    ------
    DamagedError
        If a chunk is missing, is another's, or cannot be decoded.
    """
    found, calls = Fingerprint(), 0
    for start in range(0, dataset.n_variants, _ROWS):
        found.add_variants(dataset.variants(start, min(start + _ROWS, dataset.n_variants)))
    found.add_people(dataset.samples)
    for start, stop in dataset.blocks(0, dataset.n_variants):
        calls += dataset.read_block(start, stop).digest(start)
    return found.digest(dataset.n_samples, dataset.n_variants, calls)
