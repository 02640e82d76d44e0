"""A block of genotypes, hard calls or dosages, with the same methods: what readers give kernels.

Whatever a container holds, dosages are kept as 16-bit codes: an 8-bit BGEN dosage is one of
0, 1/255, …, 510/255 and is held exactly, and so are PGEN's steps of 1/16384; what is finer is
rounded to steps of 1/32767, of which 0, 1 and 2 copies are whole multiples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Bool
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.dosage_coding import MISSING_CODE as MISSING_CODE
from hlmm_scan.genotypes.dosage_coding import count_codes
from hlmm_scan.genotypes.packing import (
    MISSING_BYTE,
    count_genotypes,
    lower_bits,
    pack,
    pack_coded,
    unpack,
    unpack_samples,
    whole_rows,
)

BGEN_8_BIT = 1.0 / 255.0
PGEN = 1.0 / 16_384.0
FINEST = 1.0 / 32_767.0
"""Copies of the effect allele per step of a code."""

DIGEST_BITS = 256

_HARD, _DOSAGE = b"\0", b"\1"

Rows = NDArray[np.integer] | slice


@dataclass(frozen=True, eq=False)
class HardCalls:
    """Hard calls of a block of variants for all people of a dataset.

    Attributes
    ----------
    packed : ndarray of uint8, shape (m, ⌈n_samples/4⌉)
        PLINK's codes, padding missing (:mod:`~hlmm_scan.genotypes.packing`).
    n_samples : int
    unit : float
        0, as that of a dataset without dosages.
    """

    packed: NDArray[np.uint8]
    n_samples: int
    unit: ClassVar[float] = 0.0

    @classmethod
    def of(cls, copies: NDArray[np.int8]) -> HardCalls:
        """Pack copies of the effect allele, shape (m, n_samples), −1 where missing."""
        return cls(pack(copies), copies.shape[1])

    def __len__(self) -> int:
        """Return the number of variants."""
        return len(self.packed)

    @property
    def width(self) -> int:
        """Bytes of a variant."""
        return int(self.packed.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory of the calls."""
        return int(self.packed.nbytes)

    def take(self, rows: Rows) -> HardCalls:
        """Return some of the variants."""
        return HardCalls(self.packed[rows], self.n_samples)

    def copies(self, samples: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
        """Return copies of the effect allele, shape (m, chosen people), NaN where missing."""
        return unpack_samples(
            self.packed, np.arange(self.n_samples) if samples is None else samples
        )

    def whole(self) -> Bool:
        """Return which variants have whole copies in everybody who has data, shape (m,): all."""
        return np.ones(len(self), np.bool_)

    def best_guess(self) -> HardCalls:
        """Return the nearest hard calls: these."""
        return self

    def in_unit(self, unit: float) -> Dosages:
        """Return the calls as dosages of a unit, exactly."""
        steps = round(2.0 / unit)
        table = np.array([0, steps // 2, steps, MISSING_CODE], dtype=np.uint16)
        return Dosages(table[unpack(self.packed, self.n_samples)], unit)  # −1 is the last one

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Count people by genotype; see :meth:`Dosages.counts`."""
        counts = count_genotypes(self.packed, self.n_samples)
        return counts, _frequency((counts[:, 1] + 2 * counts[:, 2]).astype(np.float64), counts)

    def without_errors(
        self, haploid: Bool, absent: Bool, among: Bool
    ) -> tuple[HardCalls, NDArray[np.int32]]:
        """Set missing what some people cannot have; see :meth:`Dosages.without_errors`."""
        packed, low = self.packed, lower_bits(haploid)
        # Bit by bit: heterozygous is 10, missing 01, so both bits of a person flip.
        het = (packed >> 1) & ~packed & low
        recoded = packed ^ (het | (het << 1))
        if absent.any():
            gone = lower_bits(absent)
            gone |= gone << 1
            recoded = (recoded & ~gone) | (np.uint8(MISSING_BYTE) & gone)
        count = np.bitwise_count(het & lower_bits(among)).sum(axis=1, dtype=np.int32)
        return HardCalls(np.asarray(recoded, np.uint8), self.n_samples), count

    def digest(self, start: int) -> int:
        """Return a checksum of the content; see :meth:`Dosages.digest`."""
        total = sum(_digest(v, _HARD, row) for v, row in enumerate(self.packed, start))
        return total % (1 << DIGEST_BITS)


@dataclass(frozen=True, eq=False)
class Dosages:
    """Dosages of a block of variants for all people of a dataset.

    Attributes
    ----------
    codes : ndarray of uint16, shape (m, n_samples)
        Whole steps of `unit`, at most ``round(2 / unit)``; :data:`MISSING_CODE` (or anything beyond
        two copies) where missing.
    unit : float
        Copies of the effect allele per step.
    """

    codes: NDArray[np.uint16]
    unit: float

    def __len__(self) -> int:
        """Return the number of variants."""
        return len(self.codes)

    @property
    def width(self) -> None:
        """None: nothing is packed."""
        return None

    @property
    def n_samples(self) -> int:
        """People."""
        return int(self.codes.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory of the codes."""
        return int(self.codes.nbytes)

    @property
    def steps(self) -> int:
        """Code of two copies."""
        return round(2.0 / self.unit)

    def take(self, rows: Rows) -> Dosages:
        """Return some of the variants."""
        return Dosages(self.codes[rows], self.unit)

    def copies(self, samples: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
        """Return copies of the effect allele, shape (m, chosen people), NaN where missing."""
        codes = self.codes if samples is None else self.codes[:, samples]
        # The quotient is rounded as 2·code/steps is, so that 0, 1 and 2 copies are exact.
        return np.where(codes > self.steps, np.nan, codes * 2.0 / self.steps)

    def whole(self) -> Bool:
        """Return which variants have whole copies in everybody who has data, shape (m,)."""
        return whole_rows(self.codes, self.steps)

    def best_guess(self) -> HardCalls:
        """Return the nearest hard calls; the calls themselves of variants of whole copies."""
        return HardCalls(pack_coded(self.codes, _nearest(self.steps)), self.n_samples)

    def in_unit(self, unit: float) -> Dosages:
        """Return the dosages in another unit, rounded to its steps; themselves in their own."""
        if self.unit == unit:
            return self
        codes = np.rint(self.codes * (round(2.0 / unit) / self.steps)).astype(np.uint16)
        codes[self.codes > self.steps] = MISSING_CODE
        return Dosages(codes, unit)

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Count people by genotype, and the frequency of the effect allele.

        Returns
        -------
        counts : ndarray of int64, shape (m, 4)
            People nearest to 0, 1 and 2 copies, and people without data.
        frequency : ndarray of float64, shape (m,)
            From the dosages themselves; NaN where nobody has data.
        """
        found = count_codes(self.codes, self.steps)
        return found[:, :4].copy(), _frequency(found[:, 4] * 2.0 / self.steps, found[:, :4])

    def without_errors(
        self, haploid: Bool, absent: Bool, among: Bool
    ) -> tuple[Dosages, NDArray[np.int32]]:
        """Set missing what some people cannot have.

        Parameters
        ----------
        haploid, absent, among : ndarray of bool, shape (n_samples,)
            Who has one copy, coded as 0 or 2; who has none; and who is counted.

        Returns
        -------
        block : the same type
            A new one, without data of those absent and without heterozygous calls of the haploid.
            A dosage between is one that is uncertain, and stays; but where all of a variant's are
            whole they are calls.
        heterozygous : ndarray of int32, shape (m,)
            Heterozygous calls that were set missing, of those counted.
        """
        codes = self.codes.copy()
        het = (codes == self.steps // 2) & haploid & self.whole()[:, None]
        codes[het] = MISSING_CODE
        codes[:, absent] = MISSING_CODE
        return Dosages(codes, self.unit), (het & among).sum(axis=1, dtype=np.int32)

    def digest(self, start: int) -> int:
        """Return a checksum of the content that can be added to those of other blocks.

        Each variant's calls are hashed together with its number, and the hashes added modulo 2 to
        the `DIGEST_BITS`; so the sum over all does not depend on how variants are cut into blocks.
        A variant of whole copies has the same hash packed or as dosages, whatever the unit.

        Parameters
        ----------
        start : int
            Number of the first variant.
        """
        whole = self.whole()
        packed = iter(self.take(np.flatnonzero(whole)).best_guess().packed)
        head = _DOSAGE + str(self.steps).encode() + b" "
        codes = self.codes.astype("<u2", copy=False)
        total = sum(
            _digest(v, _HARD, next(packed)) if hard else _digest(v, head, row)
            for v, (hard, row) in enumerate(zip(whole.tolist(), codes, strict=True), start)
        )
        return total % (1 << DIGEST_BITS)


GenotypeBlock = HardCalls | Dosages
"""A block of variants as tasks read it."""


def joined(blocks: Sequence[GenotypeBlock], unit: float = 0.0) -> GenotypeBlock:
    """Put blocks of the same people end to end; dosages where one of them has some.

    Parameters
    ----------
    blocks : sequence of HardCalls or Dosages
        At least one.
    unit : float, optional
        Of the dosages returned, if they are; by default their own, the finest where they differ.
    """
    one, units = blocks[0], {block.unit for block in blocks} - {0.0}
    unit = unit or (units.pop() if len(units) == 1 else FINEST)
    if len(blocks) == 1:
        return one.in_unit(unit) if one.unit else one
    if not any(block.unit for block in blocks):
        packed = np.concatenate([block.best_guess().packed for block in blocks])
        return HardCalls(packed, one.n_samples)
    return Dosages(np.concatenate([block.in_unit(unit).codes for block in blocks]), unit)


def packed_calls(block: GenotypeBlock, where: str) -> NDArray[np.uint8]:
    """Return packed hard calls.

    Raises
    ------
    InputError
        If they are dosages; named by `where` they are.
    """
    if not isinstance(block, HardCalls):
        raise InputError(f"{where} have dosages, not hard calls")
    return block.packed


@lru_cache(maxsize=8)
def _nearest(steps: int) -> NDArray[np.int8]:
    """Return the nearest number of copies for every code; −1 for a missing one."""
    codes = np.arange(1 << 16)
    copies = np.rint(np.minimum(codes, steps) * 2.0 / steps).astype(np.int8)
    copies[codes > steps] = -1
    return copies


def _frequency(copies: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the frequency of an allele of which there are so many copies, shape (m,)."""
    called = counts[:, :3].sum(axis=1)
    frequency = np.full(len(counts), np.nan)
    np.divide(copies, 2 * called, out=frequency, where=called > 0)
    return frequency


def _digest(number: int, head: bytes, row: NDArray[np.generic]) -> int:
    hashed = hashlib.blake2b(b"%d " % number + head, digest_size=DIGEST_BITS // 8)
    hashed.update(np.ascontiguousarray(row).data)
    return int.from_bytes(hashed.digest(), "little")
